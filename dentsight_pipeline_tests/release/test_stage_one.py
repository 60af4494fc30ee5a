"""The report of stage 1 alone, from stored products of two exports: what is in it, and that it fits its chain."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.data.combine import normalise_exports
from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.data.reading import Reading
from dentsight_pipeline.data.subset import select_teeth
from dentsight_pipeline.documents.teeth import ToothReport
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.lineage.fit import misfits
from dentsight_pipeline.lineage.walk import walk
from dentsight_pipeline.release.stage_one import publish_tooth_report
from dentsight_pipeline.store.content import build, read_bytes, read_document
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder
from dentsight_pipeline_tests.lineage.chain_builder import checkpoint_of, predictions_of

MOUTH = {"11": [[5.0, 5, 8, 12]], "21": [[20.0, 5, 8, 12]], "31": [[5.0, 25, 8, 12]]}


def _export(root: Path, name: str, seed: int, **more: list[list[float]]) -> Path:
    builder = ExportBuilder(root, names=("OPG-data", "11", "21", "31", "caries"), seed=seed)
    for split in ("train", "valid", "test", "test"):
        builder.image(split, {**MOUTH, **more})
    builder.write()
    (root / "README.dataset.txt").write_text(f"# {name}\n\nLicense: CC0\n")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Manifest:
    """Of a detector that finds every tooth of two exports, one of teeth alone."""
    folder = tmp_path_factory.mktemp("exports")
    places = [_export(folder / "a", "Teeth", 0), _export(folder / "b", "Both", 50, caries=[[6.0, 6, 4, 4]])]
    raws = [ingest_export(place, store, Request(alone=False)) for place in places]
    subset = select_teeth(store, normalise_exports(store, raws, [Reading(), Reading()]))
    teeth = checkpoint_of(store, subset, stage="1")
    checkpoint = build(store, "checkpoint", dict(teeth.entries), {"tooth_subset": subset.digest}, teeth.facts)
    found = predictions_of(store, subset, checkpoint)
    inputs = {"tooth_subset": subset.digest, "tooth_checkpoint": checkpoint.digest}
    predictions = build(store, "predictions", dict(found.entries), inputs, found.facts)
    for manifest in (checkpoint, predictions):
        store.put_manifest(manifest)
    return publish_tooth_report(store, checkpoint, predictions, title="both-v1 × smoke", resamples=20)


def test_it_tells_teeth_by_jaw_side_number_count_and_export(store: Store, report: Manifest) -> None:
    """All that stage 1 is asked, and nothing of conditions."""
    told = read_document(store, report, "report.json", ToothReport)
    measured = told.populations["clean"]

    assert measured is not None and measured.teeth is not None and measured.count is not None
    assert {row.group: (row.teeth, row.ap50) for row in measured.ap} == {
        "all": (3, pytest.approx(1.0)),
        "upper": (2, pytest.approx(1.0)),
        "lower": (1, pytest.approx(1.0)),
        "right": (1, pytest.approx(1.0)),
        "left": (2, pytest.approx(1.0)),
        "upper right": (1, pytest.approx(1.0)),
        "upper left": (1, pytest.approx(1.0)),
        "lower left": (1, pytest.approx(1.0)),
        "lower right": (0, None),
    }
    assert (told.thresholds_from, told.evaluation.classes) == ("valid", TEETH)
    assert [part.export for part in told.evaluation.by_export] == ["Both", "Teeth"]
    assert [link.kind for link in told.chain] == [
        *("predictions", "checkpoint", "tooth-subset", "normalized-splits", "raw-export", "raw-export")
    ]


def test_its_page_says_that_no_gate_judged_it(store: Store, report: Manifest) -> None:
    """Whoever reads it must not take it for a release report."""
    page = read_bytes(store, report, "report.html").decode()

    for words in ("No gate judges stage 1", "Misnumbered: wrong side", "By export", "Export Teeth (licence CC0)"):
        assert words in page
    assert "http" not in page.replace("http-equiv", "")


def test_it_fits_what_it_was_made_from(store: Store, report: Manifest) -> None:
    """An audit follows it to both exports."""
    walked = walk(store, report.digest)

    assert sum(manifest.kind == "raw-export" for manifest in walked.products.values()) == 2
    assert [sentence for manifest in walked.products.values() for sentence in misfits(store, walked, manifest)] == []
