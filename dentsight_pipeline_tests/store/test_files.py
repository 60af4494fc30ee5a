"""Small files that are replaced while others read them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.store.files import refuse_full, write_whole


def test_a_file_is_replaced_and_nothing_else_is_left_behind(tmp_path: Path) -> None:
    """A reader lists the folder at any time."""
    write_whole(tmp_path / "report.json", b"old")
    write_whole(tmp_path / "report.json", b"new")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"report.json": b"new"}


def test_several_threads_may_write_one_file(tmp_path: Path) -> None:
    """The page over all reports is written after every cell, and cells run side by side."""
    contents = [str(number).encode() * 10_000 for number in range(200)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda data: write_whole(tmp_path / "index.html", data), contents))

    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    assert (tmp_path / "index.html").read_bytes() in contents


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk, where half of the bytes fit."""
    write_whole(tmp_path / "report.json", b"old and whole")

    def half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "report.json", b"new and whole")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"report.json": b"old and whole"}


def test_a_place_for_a_folder_is_new_or_empty(tmp_path: Path) -> None:
    """A file of that name is taken as a full folder is; neither is touched."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    for taken in (tmp_path / "full" / "kept", tmp_path / "file"):
        taken.write_bytes(b"kept")

    refuse_full(tmp_path / "new")
    refuse_full(tmp_path / "empty")
    for name in ("full", "file"):
        with pytest.raises(ConfigurationError, match=rf"{name} is not empty\. Take another\."):
            refuse_full(tmp_path / name, "Take another.")

    assert not (tmp_path / "new").exists()
