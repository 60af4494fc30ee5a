"""`dentsight inspect`: what would be done, all refusals at once, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.intake.inspect import inspect_export, summary_lines
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import whole_export


def told_of(export: Path) -> Any:
    """What `--json` prints, parsed."""
    return json.loads(json.dumps(plain(inspect_export(export))))


def test_the_real_export_is_told_as_it_is_known(real_export: Path) -> None:
    """Leakage, loose labels and repairs of a corpus that was counted by hand."""
    report = told_of(real_export)

    assert report["source"]["source"] == "dental-radiography"
    assert report["splits"]["test"]["images"] == 30
    assert report["leakage"]["test"]["shared_with_train"] == 24
    assert report["leakage"]["valid"] == {"images": 154, "shared_with_train": 131, "shared_with_any": 135, "clean": 19}
    assert report["classes"]["caries"] == {"train": 533, "valid": 103, "test": 5, "total": 641, "loose": False}
    assert report["classes"]["implant"]["loose"]
    assert report["dropped"] == {"dental-xray-cv": 0}
    assert report["refusals"] == []


def test_everything_that_would_stop_ingestion_is_told_at_once(tmp_path: Path) -> None:
    """One run, one list to mend; the rest of the figures are those of the records that can be used."""
    builder = whole_export(tmp_path / "export")
    for document in builder.splits.values():
        document["categories"][2]["name"] = "carries"
    builder.splits["train"]["annotations"][0]["bbox"] = [1, 2]
    builder.annotation("valid", 0, "crown", [90, 1, 5, 5])
    file = builder.file_of("train", 2)
    file.write_bytes(file.read_bytes()[:400])
    builder.write()

    report = told_of(builder.root)

    assert [(r["kind"], r["message"].split(":")[0]) for r in report["refusals"]] == [
        ("AnnotationError", "train/_annotations.coco.json, annotation 0 of image 0"),
        ("UnknownLabelError", "train/_annotations.coco.json, category 2 (2 annotations)"),
        ("DataError", f"train/{file.name}"),
        (
            "AnnotationError",
            f"valid/_annotations.coco.json, annotation 2 of image 0 (valid/{builder.file_of('valid', 0).name})",
        ),
    ]
    assert report["refusals"][1]["suggestions"][0] == "caries"
    assert report["splits"]["train"]["images"] == 2
    assert "carries" not in report["dropped"]


def test_a_missing_split_is_a_refusal_and_not_a_crash(tmp_path: Path) -> None:
    """Exit 0, and the remedy in the list."""
    builder = whole_export(tmp_path / "export")
    del builder.splits["test"]
    builder.write()
    for path in sorted((builder.root / "test").iterdir()):
        path.unlink()
    (builder.root / "test").rmdir()

    report = told_of(builder.root)

    assert list(report["splits"]) == ["train", "valid"]
    assert [r["message"].split("; ")[1] for r in report["refusals"]] == [
        "found train, valid. Export the version again with train, valid and test images."
    ]


def test_what_is_told_is_what_is_done(tmp_path: Path) -> None:
    """Otherwise the command would be worse than none."""
    builder = whole_export(tmp_path / "export")
    builder.annotation("train", 0, "caries", [60, 40, 4.4, 5])
    builder.write()
    store = open_store(tmp_path / "store")

    report = told_of(builder.root)
    facts = normalise_export(store, ingest_export(builder.root, store)).facts

    assert report["repairs"] == facts["repairs"] == {"clipped_box": 1}
    assert report["leakage"] == facts["leakage"]
    assert report["dropped"] == facts["dropped"]
    assert report["mapping_digest"] == facts["mapping"]["digest"]
    for split in facts["splits"]:
        for name, row in report["classes"].items():
            assert row[split] == facts["splits"][split]["class_counts"][name]


def test_what_cannot_be_read_at_all_is_an_error(tmp_path: Path) -> None:
    """The command exits 2 then."""
    whole_export(tmp_path / "export").write()
    (tmp_path / "export" / "train" / "_annotations.coco.json").write_text('{"images": [')

    with pytest.raises(DataError, match=r"train/_annotations\.coco\.json: not whole JSON"):
        inspect_export(tmp_path / "export")


def test_inspection_writes_nothing_into_the_export(tmp_path: Path) -> None:
    """It runs on folders that are mounted read-only."""
    root = whole_export(tmp_path / "export").write()
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))

    inspect_export(root)

    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_the_text_for_people_names_corpus_leakage_and_refusals(tmp_path: Path) -> None:
    """The figures that a person decides by."""
    root = whole_export(tmp_path / "export").write()

    lines = summary_lines(inspect_export(root))

    assert lines[0] == "Corpus: unnamed export (roboflow, licence CC BY 4.0)"
    assert "test: 1 images, 2 annotations, 0 share a source with train" in lines
    assert lines[-1] == "Refusals: none; it can be ingested"


def test_what_the_labels_allow_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    """Phantoms have a second annotator: the ceilings of a small corpus."""
    from dentsight_pipeline.commands import data
    from dentsight_pipeline.phantom.export import write_phantom_export

    write_phantom_export(tmp_path / "phantom", 60, 3, 320)

    report = inspect_export(tmp_path / "phantom", ceilings=data._ceilings)

    rows = {row.class_name: row for row in report.label_ceilings}
    assert rows["caries"].pairs >= 5
    assert 0 < rows["caries"].f1_75.value < rows["caries"].f1.value < 1  # pyright: ignore[reportOptionalOperand]
    assert any(line.startswith("Labels allow an AP of: ") and "caries" in line for line in summary_lines(report))
