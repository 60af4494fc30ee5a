"""`dentsight drift` as it is typed: what a person may call a dataset, and what a name that means nothing is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dentsight_pipeline.cli import app
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.intake.datasets import RegisteredExport, register_dataset
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline.store import log


@pytest.fixture
def subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The digest of a subset whose dataset key is `opg-v1`."""
    monkeypatch.chdir(tmp_path)
    write_phantom_export(tmp_path / "export", 6, 4, 320)
    store = Workspace().store
    splits = normalise_export(store, ingest_export(tmp_path / "export", store))
    made, raw = select_conditions(store, splits), splits.inputs[Asset.RAW_EXPORT]
    log.append(store, made.digest, {"asset": Asset.CONDITION_SUBSET})
    register_dataset(store, "opg-v1", raw, [RegisteredExport(raw_export=raw, location="/somewhere")])
    return made.digest


def drift(given: str, against: str) -> Result:
    return CliRunner().invoke(app, ["drift", given, "--against", against, "--json"])


def test_a_dataset_goes_by_its_key_or_the_start_of_its_digest(subset: str) -> None:
    """Nobody types 64 digits; the weekly question names a key."""
    told = [json.loads(drift(given, "opg-v1").stdout) for given in ("opg-v1", subset[:12], subset)]

    assert told[0] == told[1] == told[2]
    assert told[0]["sources"] == 0  # nothing is new in the very same dataset


def test_a_name_that_means_nothing_is_told_which_keys_there_are(subset: str) -> None:
    """A misspelt key was called a manifest of too few digits, and a folder an ill-formed reference."""
    Path("nothing").mkdir()

    misspelt, folder = drift("opg-v2", "opg-v1"), CliRunner().invoke(app, ["review", "nothing", "--list"])

    assert "'opg-v2' is no digest" in str(misspelt.exception)
    assert str(misspelt.exception).endswith("Dataset keys: opg-v1.")
    assert "has the files in nothing" in str(folder.exception)
