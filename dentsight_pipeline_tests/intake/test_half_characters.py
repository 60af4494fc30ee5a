"""Names that hold half a character: JSON may write `\\ud83d` alone, and then no file, terminal or database takes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dentsight_pipeline.commands.workspace import initialise
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.intake.acquire import plan
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.intake.inspect import inspect_export
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import whole_export

HALF = "\ud83d"


@pytest.fixture(params=["category", "file name", "both"])
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An export with half a character in the name of a category, of an image, or of both."""
    builder = whole_export(tmp_path / "export")
    train = builder.splits["train"]
    if request.param != "file name":
        train["categories"][1]["name"] = f"caries {HALF}"
    if request.param != "category":
        train["images"][0]["file_name"] = f"a{HALF}.jpg"
    return builder.write()


@pytest.mark.parametrize("command", ["text", "json", "run"])
def test_every_output_about_half_a_character_can_be_written(planted: Path, tmp_path: Path, command: str) -> None:
    """The traceback came at the end, when all was read, and named neither file nor record."""
    inspect = ["inspect", str(planted), *["--json"] * (command == "json")]
    run = ["run", "--export", str(planted), "--dataset", "half"]
    initialise(tmp_path / "home")
    words = run if command == "run" else inspect

    done = subprocess.run(
        [sys.executable, "-m", "dentsight_pipeline.cli", *words],
        env={**os.environ, "DENTSIGHT_HOME": str(tmp_path / "home")},
        capture_output=True,
        check=False,
        timeout=120,
    )
    said = (done.stdout + done.stderr if command == "run" else done.stdout).decode()  # strict: nothing but UTF-8
    assert done.returncode == (2 if command == "run" else 0)
    assert "train/_annotations.coco.json" in said
    assert r"\ud83d" in said or command == "run"  # which tells no file name
    assert "Traceback" not in said
    if command == "json":
        json.loads(said[said.index("{") :])


def test_a_place_whose_name_is_no_text_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """It could be inspected, but no dataset key, log or event can name it: that came out after all was ingested."""
    place = os.fsdecode(bytes(tmp_path) + b"/exp\xff")

    with pytest.raises(ConfigurationError, match="its name holds bytes that are no UTF-8"):
        plan(open_store(tmp_path / "store"), "half", [place])


def test_what_is_shown_alone_goes_through_to_the_splits(tmp_path: Path) -> None:
    """A README, a licence and an info block are told, in the manifest, the UI, MLflow and the report: never refused."""
    builder = whole_export(tmp_path / "export")
    builder.splits["train"]["info"] = {"description": HALF, "url": f"https://a/{HALF}"}
    builder.splits["train"]["licenses"] = [{"id": 1, "name": f"CC {HALF}"}]
    root, store = builder.write(), open_store(tmp_path / "store")

    raw = ingest_export(root, store, Request(require=("train",)))
    splits = normalise_export(store, raw)
    report = inspect_export(root)
    for told in (raw.facts, splits.facts, plain(report)):
        json.dumps(told, default=dict, ensure_ascii=False).encode()
    assert "CC ?" in report.corpus.licence
