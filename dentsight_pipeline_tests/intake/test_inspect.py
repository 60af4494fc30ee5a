"""`dentsight inspect`: what would be done, all refusals at once, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.privacy import redact
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.intake.inspect import inspect_export, summary_lines
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import jpeg, picture, whole_export
from dentsight_pipeline_tests.intake.test_yolo import yolo_export


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
    loose, strict = rows["caries"].f1.value, rows["caries"].f1_75.value
    assert loose is not None and strict is not None
    assert 0 < strict < loose < 1
    assert any(line.startswith("Labels allow an AP of: ") and "caries" in line for line in summary_lines(report))


def test_the_text_says_what_the_json_has(tmp_path: Path) -> None:
    """What only `--json` told was not read by anybody: flags, copies, polygons, names, unlabelled images, pictures."""
    builder = whole_export(tmp_path / "export")
    for number, split in enumerate(["train", "train", "valid"]):
        picture_of_its_own = jpeg(picture(number + 90, 64, 64))
        builder.image(split, {"crown": [[1, 1, 9, 9]]}, stem="7_jpg", data=picture_of_its_own, size=(64, 64))
    builder.annotation("train", 0, "11", [5, 5, 10, 12.5])
    builder.annotation("train", 0, "11", [40, 5, 10, 12.5])
    builder.annotation("train", 1, "crown", [], segmentation=[[30, 30, 40, 30, 40, 40]])
    builder.write()
    (builder.root / "train" / "left-over.jpg").write_bytes(jpeg(picture(77)))

    lines = summary_lines(inspect_export(builder.root))

    for line in (
        "Teeth to look at: repeated_tooth 1",
        "Duplicate boxes: exact 1",
        "Repairs: box_from_polygon 1, exact_duplicate 1",
        "Negatives: test 0, train 1, valid 0 images without annotations",
        "Image files that no annotation names, left out: train 1",
        "Sources: 8 of 8 images are of different patients, as far as can be told",
        "Warning: 1 numbers are the name of several files; only their pixels are compared",
    ):
        assert line in lines
    assert any(line.startswith("Warning: the pictures look like bitewings or periapical X-rays") for line in lines)


@pytest.mark.parametrize(("declared", "sources"), [(True, 6), (False, 8)])
def test_numbers_are_names_where_the_export_says_that_it_holds_versions(
    tmp_path: Path, declared: bool, sources: int
) -> None:
    """`12_jpg.rf.…` three times is one patient, cropped and turned; in another export it is three."""
    builder = whole_export(tmp_path / "export")
    for number in range(3):
        boxes = {"crown": [[1 + 5 * number, 1, 9, 9]]}
        builder.image("train", boxes, stem="12_jpg", data=jpeg(picture(number + 50)))
    builder.write()
    if declared:
        augmented = "The following augmentation was applied to create 3 versions of each source image:\n* Crop\n"
        (builder.root / "README.roboflow.txt").write_text(augmented)

    report = inspect_export(builder.root)

    assert (report.distinct_sources, report.shared_names, report.identity.versions) == (
        sources, *((0, 3) if declared else (1, 0)),
    )  # fmt: skip


@pytest.mark.parametrize(("declared", "pairs"), [(True, 0), (False, 3)])
def test_augmented_copies_are_no_second_reading(tmp_path: Path, declared: bool, pairs: int) -> None:
    """Cropped by some pixels, with boxes cut off: two dentists do not differ like that, and nobody read either."""
    builder = whole_export(tmp_path / "export")
    for number in range(3):
        data = jpeg(np.roll(picture(50, 320, 240), number, axis=1))
        builder.image("train", {"crown": [[20 + 9 * number, 20, 40, 40]]}, stem="12_jpg", data=data, size=(320, 240))
    builder.write()
    if declared:
        augmented = "The following augmentation was applied to create 3 versions of each source image:\n* Crop\n"
        (builder.root / "README.roboflow.txt").write_text(augmented)

    (crown,) = [row for row in inspect_export(builder.root).agreement if row.name == "crown"]

    assert crown.n_pairs == pairs


@pytest.mark.parametrize(("readme", "stem", "kind"), [("", "a.rf.0a", "roboflow"), ("", "a", "export")])
def test_an_export_is_called_roboflows_only_where_something_says_so(
    tmp_path: Path, readme: str, stem: str, kind: str
) -> None:
    """`Kind roboflow` stood above sets that had never seen it."""
    yolo_export(tmp_path, {f"train/{stem}": ["0 0.5 0.5 0.25 0.5"]})
    (tmp_path / "data.yaml").write_text("names: [caries, crown]\n")

    assert inspect_export(tmp_path).corpus.kind == kind


def test_rounding_is_no_clipping(tmp_path: Path) -> None:
    """5.7e-14 px past the edge were a repair of every box that ends at it."""
    builder = whole_export(tmp_path / "export")
    triangle = [44, 30, 64 + 1e-11, 30, 50, 39]
    builder.annotation("train", 1, "crown", [44, 30, 20 + 1e-12, 9], segmentation=[triangle])
    builder.write()

    assert inspect_export(builder.root).repairs == {}


@pytest.mark.parametrize("kind", ["images/{}.jpg", "labels/{}.txt"])
def test_a_fault_is_findable_where_names_are_masked(tmp_path: Path, kind: str) -> None:
    """`run` keeps no name; `train/images/*.jpg` alone left the owner with 1,000 files to open."""
    stems = ["1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3"]
    yolo_export(tmp_path, {f"train/{stem}": ["0 0.5 0.5 0.25 0.5"] for stem in stems})
    (tmp_path / "train" / kind.format(stems[1])).write_bytes(b"\xff\xd8\xff")

    with pytest.raises(DataError) as caught:
        ingest_export(tmp_path, open_store(tmp_path / "store"))

    told = redact(str(caught.value))
    assert stems[1] not in told
    assert f"(file 2 of 3 in train/{kind.partition('/')[0]}, by name)" in told
