"""Reading a whole export: its layout is found, and what it lacks is said."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.records import Refusals
from dentsight_pipeline_tests.data.export_builder import read, whole_export
from dentsight_pipeline_tests.intake.test_yolo import yolo_export


def test_the_real_export_reads_as_it_is_known(real_export: Path) -> None:
    """1085/154/30 images and 9,280 boxes, category 0 without annotations."""
    export = read(real_export)

    assert [(s.name, len(s.images), len(s.annotations)) for s in export.splits] == [
        ("train", 1085, 7845),
        ("valid", 154, 1216),
        ("test", 30, 219),
    ]
    assert [c.name for c in export.splits[0].categories if c.placeholder] == ["dental-xray-cv"]
    assert export.license_names == ("CC BY 4.0",)


def test_all_refusals_are_collected_when_asked_for(tmp_path: Path) -> None:
    """`dentsight inspect` shows everything that has to be mended, not one thing at a time."""
    builder = whole_export(tmp_path)
    builder.splits["train"]["annotations"][0]["image_id"] = 99
    builder.splits["valid"]["annotations"][0]["bbox"] = [1]
    refusals = Refusals(collect=True)

    export = read(builder.write(), refusals)

    assert [str(error).split(",")[0] for error in refusals.errors] == [
        "train/_annotations.coco.json",
        "valid/_annotations.coco.json",
    ]
    assert sum(len(split.annotations) for split in export.splits) == 7


def test_a_folder_that_is_no_export_is_refused_with_what_was_found(tmp_path: Path) -> None:
    """The usual mistake is to give the folder above or below."""
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.doc").write_bytes(b"x")

    with pytest.raises(DataError, match=r"no export that is known\. Looked for COCO .*; found a\.doc"):
        read(tmp_path)


@pytest.mark.parametrize(
    "names", [("Train", "Valid", "Test"), ("training", "validation", "testing"), ("TRAIN", "val", "test")]
)
def test_split_folders_are_known_by_their_usual_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    """Also below a top folder; what a split is called in figures does not change."""
    root = whole_export(tmp_path / "export" / "top").write()
    for split, name in zip(("train", "valid", "test"), names, strict=True):
        (root / split).rename(root / name)

    export = read(tmp_path / "export")

    assert [split.name for split in export.splits] == ["train", "valid", "test"]
    assert export.splits[1].file == f"{names[1]}/_annotations.coco.json"


@pytest.mark.parametrize("other", ["val", "Valid", "validation"])
def test_two_folders_of_one_split_are_refused(tmp_path: Path, other: str) -> None:
    """Which of them is meant would be a guess."""
    root = whole_export(tmp_path).write()
    (root / other).mkdir()
    (root / other / "a.jpg").write_bytes(b"x")

    first, second = sorted(("valid", other))
    with pytest.raises(DataError, match=f"has both '{first}' and '{second}'. Keep one of the two folders"):
        read(root)


@pytest.mark.parametrize("linked", [("train",), ("valid", "test"), ("train", "valid", "test")])
@pytest.mark.parametrize("top", ["", "top"])
def test_a_split_that_is_a_link_is_named(tmp_path: Path, linked: tuple[str, ...], top: str) -> None:
    """It used to be `empty`, or one split fewer."""
    whole_export(tmp_path / "real").write()
    root = whole_export(tmp_path / "export" / top).write()
    for split in linked:
        shutil.rmtree(root / split)
        (root / split).symlink_to(tmp_path / "real" / split)

    with pytest.raises(DataError, match=rf"export: (top/)?({'|'.join(linked)}) is a symbolic link to a folder"):
        read(tmp_path / "export")


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_images_or_labels_that_are_a_link_are_named(tmp_path: Path, kind: str) -> None:
    """Labels that are not followed would make every image a negative."""
    root = yolo_export(tmp_path / "export", {"train/a": ["0 0.5 0.5 0.25 0.5"], "valid/b": []})
    (root / "train" / kind).rename(tmp_path / kind)
    (root / "train" / kind).symlink_to(tmp_path / kind)

    with pytest.raises(DataError, match=rf"export: train/{kind} is a symbolic link to a folder, which is not followed"):
        read(root)


def test_a_zip_in_a_zip_is_named(tmp_path: Path) -> None:
    """macOS and mail programs wrap one; `found mac.zip` told nobody what to do."""
    whole_export(tmp_path / "export").zipped(tmp_path / "mac.zip")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(tmp_path / "mac.zip", "top/mac.zip")

    with pytest.raises(DataError, match=r"outer\.zip: holds another zip, mac\.zip\. Unpack it once, and give that zip"):
        read(tmp_path / "outer.zip")


def test_a_missing_split_is_read_as_missing(tmp_path: Path) -> None:
    """Roboflow exports without a test split exist; whether one is needed is decided by who needs it."""
    builder = whole_export(tmp_path)
    del builder.splits["test"]
    builder.write()
    for file in (tmp_path / "test").iterdir():
        file.unlink()
    (tmp_path / "test").rmdir()

    assert [split.name for split in read(tmp_path).splits] == ["train", "valid"]


def test_nothing_of_the_original_names_reaches_a_collected_record_by_accident(tmp_path: Path) -> None:
    """Only `ExportImage` carries the path and stem; annotations must not."""
    export = read(whole_export(tmp_path).write())

    text = json.dumps([repr(annotation) for split in export.splits for annotation in split.annotations.to_pylist()])

    assert "1-2-826" not in text
