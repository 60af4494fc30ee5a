"""What the command line itself decides: where an export may lie, and which options are refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner, Result

from dentsight_pipeline.cli import app, main
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.store.names import object_key
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import whole_export


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of moto's HTTP server with an empty bucket `exports`, found through the usual AWS settings."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"ENDPOINT_URL": f"http://{host}:{port}", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**settings, "ACCESS_KEY_ID": "testing", "SECRET_ACCESS_KEY": "testing"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="exports")
    yield client
    server.stop()


def test_an_export_is_inspected_wherever_it_can_be_run_from(tmp_path: Path, bucket: Any) -> None:
    """Whoever is told to inspect before a run must be able to: a path type would turn `s3://` into `s3:/`."""
    zipped = whole_export(tmp_path / "export").zipped(tmp_path / "export.zip")
    bucket.upload_file(str(zipped), "exports", "opg/v8.zip")

    here = CliRunner().invoke(app, ["inspect", str(zipped), "--json"])
    there = CliRunner().invoke(app, ["inspect", "s3://exports/opg/v8.zip", "--json"])

    assert there.exit_code == here.exit_code == 0, there.output
    assert json.loads(there.stdout) == json.loads(here.stdout)
    assert json.loads(there.stdout)["splits"]["train"]["images"] == 3


def test_inspecting_a_roboflow_version_asks_for_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is understood as an address, not looked for as a folder."""
    monkeypatch.delenv("ROBOFLOW_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    result = CliRunner().invoke(app, ["inspect", "roboflow:clinic/opg/8"])

    assert isinstance(result.exception, ConfigurationError)
    assert "ROBOFLOW_API_KEY" in str(result.exception)


def test_a_field_that_is_set_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last one would win in silence, and the recipe's identity with it."""
    monkeypatch.chdir(tmp_path)  # no workspace: nothing starts if it is not refused

    result = CliRunner().invoke(app, ["run", "--set", "seed=1", "--set", "seed = 2"])

    assert isinstance(result.exception, ConfigurationError)
    assert "--set seed=… is given 2 times" in str(result.exception)


@pytest.mark.parametrize("option", [("--head", "1"), ("--ground-truth", "GT.json")])
def test_what_is_of_a_rescue_is_refused_without_one(option: tuple[str, str]) -> None:
    """It was left aside without a word, and the figures shown were those of another head."""
    result = CliRunner().invoke(app, ["heads", "model", *option])

    assert str(result.exception) == "--head and --ground-truth are of a rescue. Add --rescue OUT, or leave them out."


def test_two_ways_to_read_labels_are_refused_by_inspect_as_by_run(tmp_path: Path) -> None:
    """One of them was left aside without a word, so that `inspect` showed another reading than `run` would take."""
    export = whole_export(tmp_path / "export").write()

    result = CliRunner().invoke(app, ["inspect", str(export), "--source", "canonical", "--mapping", "auto"])

    assert str(result.exception) == "--source and --mapping both say what labels mean. Give one of them."


def test_a_path_that_the_disk_refuses_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A missing folder or a file in the place of one is a slip of the hand, and ended with a traceback."""
    export, file = whole_export(tmp_path / "export").write(), tmp_path / "nowhere" / "mine.yaml"
    monkeypatch.setattr("sys.argv", ["dentsight", "inspect", str(export), "--write-mapping", str(file)])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    signal.signal(signal.SIGTERM, before)

    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told == f"Error: {file}: No such file or directory. Check its name and rights, or give another.\n"


def test_corrections_are_not_applied_without_being_written() -> None:
    """`--apply` alone opened the page, or asked for a name."""
    result = CliRunner().invoke(app, ["review", "opg-v8", "--apply", "opg-v8"])

    assert str(result.exception) == "--apply opg-v8 goes with --corrections, which it applies. Give both."


def test_evaluate_prints_the_figures_that_gates_read_and_on_which_images(tmp_path: Path) -> None:
    """Images that share a source with training flatter; what is quoted from a terminal must not rest on them."""
    box = {"category_id": 1, "bbox": [10, 10, 20, 20]}
    truth = {
        "images": [{"id": i, "width": 99, "height": 99, "clean": i == 1, "source_group": str(i)} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "caries"}],
        "annotations": [{"id": i, "image_id": i, "area": 400, "iscrowd": 0, **box} for i in (1, 2, 3)],
    }
    (tmp_path / "gt.json").write_text(json.dumps(truth), "utf-8")
    (tmp_path / "dt.json").write_text(json.dumps([{"image_id": i, "score": 0.9, **box} for i in (2, 3)]), "utf-8")
    files = ["--ground-truth", str(tmp_path / "gt.json"), "--detections", str(tmp_path / "dt.json")]

    result = CliRunner().invoke(app, ["evaluate", *files, "--out", str(tmp_path / "out"), "--resamples", "0"])

    assert result.exit_code == 0, result.output
    assert "macro AP50 0.0000, macro AP 0.0000 on the 1 clean of 3 images; 1 of 1 classes present" in result.stdout
    assert "thresholds chosen on these images themselves, which flatters" in result.stdout


def test_what_a_refusal_of_damaged_bytes_advises_mends_the_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A disk lost a bit of an X-ray: find it, remove it, ingest its source again."""
    monkeypatch.setenv("DENTSIGHT_HOME", str(tmp_path))
    monkeypatch.setenv("DENTSIGHT_STORE", str(tmp_path / "store"))
    store = open_store(tmp_path / "store")
    export = whole_export(tmp_path / "export").write()
    raw = ingest_export(export, store)
    image = max((entry.sha256 for entry in raw.entries.values()), key=store.size)
    stored = tmp_path / "store" / object_key(image)
    stored.chmod(0o644)
    stored.write_bytes(b"x" * stored.stat().st_size)

    told = [json.loads(gc(*options).stdout) for options in ([], ["--apply"], [])]

    assert [item["damaged"] for item in told] == [[image], [image], []]
    assert ingest_export(export, store).digest == raw.digest
    assert store.verify(image)


def gc(*options: str) -> Result:
    """`dentsight gc --damaged`."""
    return CliRunner().invoke(app, ["gc", "--damaged", "--json", *options], catch_exceptions=False)
