"""What a finished home and a failed fetch leave on disk: no pickles, no secrets."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dentsight_pipeline_tests.local_server import QuietHandler, serving
from dentsight_pipeline_tests.orchestration.assets.conftest import FinishedCell

KEY = "rf-key-that-nobody-may-read"


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, or an archive with one inside, as torch writes them."""
    with path.open("rb") as file:
        start = file.read(2)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    if len(start) < 2 or start[0] != 0x80 or not 2 <= start[1] <= 5:
        return False
    try:
        for _ in pickletools.genops(path.read_bytes()):
            pass
    except Exception:
        return False
    return True


def test_a_planted_pickle_would_be_found(tmp_path: Path) -> None:
    """The test below is worth something only if it sees one."""
    import pickle

    import torch

    (tmp_path / "plain").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": 1}, tmp_path / "torch")

    assert is_pickle(tmp_path / "plain")
    assert is_pickle(tmp_path / "torch")


def test_no_file_of_a_finished_home_is_a_pickle(finished_cell: FinishedCell) -> None:
    """A pickle runs code when it is read; checkpoints and datasets travel between people."""
    files = [path for path in finished_cell.home.folder.rglob("*") if path.is_file() and not path.is_symlink()]

    assert len(files) > 50
    assert [str(path.relative_to(finished_cell.home.folder)) for path in files if is_pickle(path)] == []


@pytest.fixture
def refusing_roboflow() -> Iterator[str]:
    """A Roboflow that refuses the key and repeats it in its answer."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.answer(401, {"error": {"message": f"no such key: {self.path}"}})

    with serving(Handler) as address:
        yield address


def test_a_refused_fetch_leaves_its_key_nowhere(
    finished_cell: FinishedCell, refusing_roboflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terminal, Dagster's storage and logs, MLflow, notifications: all of them are shown to people and backed up."""
    home = finished_cell.home
    monkeypatch.setenv("ROBOFLOW_API_KEY", KEY)
    monkeypatch.setenv("ROBOFLOW_API_URL", refusing_roboflow)
    done = home.dentsight("run", "--dataset", "refused-v8", "--export", "roboflow:team/opg/8")
    secret = KEY.encode()
    leaks = [path for path in home.folder.rglob("*") if path.is_file() and secret in path.read_bytes()]

    assert done.returncode == 2
    assert "refuses the API key" in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert leaks == []
