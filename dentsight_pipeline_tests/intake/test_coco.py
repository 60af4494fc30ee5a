"""Roboflow's COCO layouts, and every record of them that cannot be meant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.errors import AnnotationError, DataError
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, read, whole_export


def test_a_root_placeholder_may_share_its_name_with_a_real_class(tmp_path: Path) -> None:
    """Only id 0 without annotations is the placeholder; the class of the same name keeps its boxes."""
    builder = ExportBuilder(tmp_path, names=("caries", "crown"))
    builder.image("train", {"crown": [[1, 1, 5, 5]]})
    builder.splits["train"]["categories"].append({"id": 2, "name": "caries", "supercategory": "caries"})
    builder.splits["train"]["annotations"].append({"id": 1, "image_id": 0, "category_id": 2, "bbox": [2, 2, 3, 3]})

    (split,) = read(builder.write()).splits

    assert [(c.id, c.name, c.placeholder) for c in split.categories] == [
        (0, "caries", True),
        (1, "crown", False),
        (2, "caries", False),
    ]
    assert split.annotations["label"].to_pylist() == ["crown", "caries"]


def test_a_first_category_with_annotations_is_a_class(tmp_path: Path) -> None:
    """Other tools start their classes at 0 with supercategory none."""
    builder = ExportBuilder(tmp_path, names=("caries", "crown"))
    builder.image("train", {"caries": [[1, 1, 5, 5]]})

    (split,) = read(builder.write()).splits

    assert not any(category.placeholder for category in split.categories)


def test_the_mmdetection_variant_starts_at_one_without_supercategories(tmp_path: Path) -> None:
    """Roboflow's 'COCO for MMDetection'."""
    builder = ExportBuilder(tmp_path)
    builder.image("train", {"caries": [[1, 1, 5, 5]]})
    builder.splits["train"]["categories"] = [{"id": i, "name": n} for i, n in enumerate(builder.names) if i]

    (split,) = read(builder.write()).splits

    assert [category.placeholder for category in split.categories] == [False] * 6


# Bad records ---------------------------------------------------------------------------------------------------------


def _change(path: tuple[Any, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        target: Any = document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return apply


_A, _I, _C = ("annotations", 0), ("images", 1), ("categories", 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change((*_I, "file_name"), "\udcff.jpg"), r"image 1: the path '\\udcff.jpg' .* no plain relative path"),
        (
            _change((*_C, "name"), "\ud800"),
            r"category 3: it needs an integer id and a name, .*'\\ud800'",
        ),
        (_change((*_A, "image_id"), 99), r"annotation 0: its image_id 99 is not an image"),
        (_change((*_A, "image_id"), [0]), r"annotation 0: its image_id \[0\] is not an image"),
        (_change((*_A, "category_id"), 77), r"annotation 0 of image 0: its category_id 77 is not a category"),
        (_change((*_A, "bbox"), [1, 2, 3]), r"annotation 0 of image 0: bbox \[1, 2, 3\] is not four finite numbers"),
        (_change((*_A, "bbox"), [1, 2, float("nan"), 3]), r"annotation 0 of image 0: bbox .*nan.* not four finite"),
        (_change((*_A, "bbox"), [1, 2, "3", 4]), r"annotation 0 of image 0: bbox .* is not four finite numbers"),
        (_change((*_A, "bbox"), [1, 2, -3, 4]), r"annotation 0 of image 0: bbox .* negative width or height"),
        (_change((*_A, "bbox"), [1, 2, 10**400, 4]), r"annotation 0 of image 0: bbox .* is not four finite numbers"),
        (_change((*_A, "bbox"), None), r"annotation 0 of image 0: it has neither a bbox nor a polygon"),
        (_change((*_A, "iscrowd"), 1), r"annotation 0 of image 0: it is a crowd region"),
        (_change(("annotations", 0), "x"), r"annotation at position 0: it is no object"),
        (_change((*_I, "id"), 0), r"image 0: two images have this id"),
        (_change((*_I, "id"), "1"), r"image at position 1: it needs an integer id, given is id '1'"),
        (_change((*_I, "id"), 2**64), r"image at position 1: it needs an integer id, given is id 18446744073709551616"),
        (_change((*_I, "file_name"), None), r"image 1: it has no file_name"),
        (
            _change((*_I, "file_name"), "../../etc/passwd"),
            r"image 1: the path '\.\./\.\./etc/passwd' leaves its folder",
        ),
        (_change((*_I, "file_name"), "/etc/passwd"), r"image 1: the path '/etc/passwd' leaves its folder"),
        (_change((*_I, "width"), "wide"), r"image 1: width 'wide' and height 48 are no sizes"),
        (_change((*_C, "id"), 2), r"category 2: two categories have this id: 'caries' and 'crown'"),
        (_change((*_C, "name"), None), r"category 3: it needs an integer id and a name, given is id 3, name None"),
    ],
)
def test_a_record_that_cannot_be_meant_is_refused_by_file_and_id(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    """Whoever has to mend it must find it; a dropped label would be a false negative for ever."""
    builder = whole_export(tmp_path)
    change(builder.splits["train"])

    with pytest.raises(DataError, match=rf"train/_annotations\.coco\.json, {message}"):
        read(builder.write())


def test_only_image_files_that_nothing_lists_are_counted(tmp_path: Path) -> None:
    """A listed image may have any suffix; it must not hide one that was forgotten."""
    builder = whole_export(tmp_path)
    image = builder.splits["train"]["images"][0]
    (tmp_path / "train" / image["file_name"]).rename(tmp_path / "train" / "a.jfif")
    image["file_name"] = "a.jfif"
    for name in ("forgotten.jpg", "notes.txt"):
        (tmp_path / "train" / name).write_bytes(b"x")

    assert [split.unlisted_files for split in read(builder.write()).splits] == [1, 0, 0]


def test_an_export_without_a_single_image_is_refused(tmp_path: Path) -> None:
    """It would become a dataset of nothing, and training would be the first to notice."""
    builder = whole_export(tmp_path)
    for split in builder.splits.values():
        split["images"], split["annotations"] = [], []

    with pytest.raises(DataError, match="no split lists an image"):
        read(builder.write())


def test_a_number_too_long_to_read_is_refused_by_its_file(tmp_path: Path) -> None:
    """Python reads no integer of more than 4,300 digits, and says so in a way of its own."""
    root = whole_export(tmp_path).write()
    file = root / "train" / "_annotations.coco.json"
    file.write_text(re.sub(r'"bbox": ?\[', '"bbox": [1' + "0" * 5000 + ", ", file.read_text(), count=1))

    with pytest.raises(DataError, match=r"train/_annotations\.coco\.json: holds a number with more digits"):
        read(root)


def test_the_same_file_listed_twice_is_refused(tmp_path: Path) -> None:
    """Two records with one file would train on contradicting labels."""
    builder = whole_export(tmp_path)
    images = builder.splits["train"]["images"]
    images[1]["file_name"] = images[0]["file_name"]

    with pytest.raises(AnnotationError, match="image 1: the same file as image 0"):
        read(builder.write())


@pytest.mark.parametrize(
    "text", ['{"a"', '{"a" 1}', '{"a": 1 "b": 2}', '{"a": [1,\n  {"b": tru}]}', '{"a": "cut', "{} x"]
)
def test_a_fault_in_a_file_is_named_by_its_line_and_column(tmp_path: Path, text: str) -> None:
    """That is all a user has to find it in a hundred megabytes."""
    root = whole_export(tmp_path).write()
    (root / "valid" / "_annotations.coco.json").write_text(text)
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)

    with pytest.raises(DataError, match=f"at line {expected.value.lineno}, column {expected.value.colno}\\)"):
        read(root)


def test_numbers_that_are_none_are_passed_over_where_nothing_reads_them(tmp_path: Path) -> None:
    """Annotation tools write NaN, which is no JSON, as an area; their boxes are sound. The second reader knows it."""
    builder = whole_export(tmp_path)
    builder.splits["train"]["annotations"][0]["area"] = float("nan")

    (train, *_) = read(builder.write()).splits

    assert train.annotations["bbox"].to_pylist()[0] == [5, 5, 10, 12.5]


def test_both_ways_of_reading_a_record_give_the_same(tmp_path: Path) -> None:
    """Sound records are read many at once; one that is not sends its neighbours the other way."""
    builder = whole_export(tmp_path)
    builder.splits["train"]["annotations"][1] |= {"segmentation": [[1, 2, 3, 4, 5.5, -0.0]], "bbox": [10, 20, 5.5, 3.2]}
    (sound, *_) = read(builder.write()).splits
    builder.annotation("train", 0, "11", [1, 1, 2, 2], iscrowd=False)

    (mixed, *_) = read(builder.write()).splits

    assert mixed.annotations.to_pylist()[:-1] == sound.annotations.to_pylist()


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    root = whole_export(tmp_path).write()
    file = root / "train" / "_annotations.coco.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())

    assert len(read(root).splits[0].annotations) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', r"not whole JSON \(.* at line 1, column \d+\)\. Download the export again"),
        ("[]", "holds a list instead of an object"),
        ('{"images": [], "annotations": []}', "the list 'categories' is missing, so this is no COCO file"),
        ('{"images": {}, "annotations": [], "categories": []}', "the list 'images' is a dict"),
        ("[" * 200_000, "JSON nested deeper"),
        ("", "not whole JSON"),
    ],
)
def test_an_annotation_file_that_is_no_coco_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A cut download is the usual reason."""
    builder = whole_export(tmp_path)
    builder.write()
    (tmp_path / "valid" / "_annotations.coco.json").write_text(text)

    with pytest.raises(DataError, match=rf"valid/_annotations\.coco\.json: {message}"):
        read(tmp_path)


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """Guessing it would change label names."""
    whole_export(tmp_path).write()
    for mark, place in ((b"", 12), (b"\xef\xbb\xbf", 15)):
        (tmp_path / "test" / "_annotations.coco.json").write_bytes(mark + b'{"images": "\xff\xfe"}')

        with pytest.raises(DataError, match=rf"test/_annotations\.coco\.json: not UTF-8 text \(byte {place}\)"):
            read(tmp_path)


def test_a_split_folder_without_its_annotation_file_is_refused(tmp_path: Path) -> None:
    """Reading it as a missing split would silently drop its images."""
    whole_export(tmp_path).write()
    (tmp_path / "valid" / "_annotations.coco.json").unlink()

    with pytest.raises(DataError, match=r"valid/_annotations\.coco\.json is missing although valid/ is there"):
        read(tmp_path)


def test_an_unlabelled_split_is_refused_as_such(tmp_path: Path) -> None:
    """Images without annotations are what challenges publish as their test split: nothing can be measured on them."""
    builder = whole_export(tmp_path)
    del builder.split("test")["annotations"]
    builder.write()
    with pytest.raises(DataError, match=r"test/_annotations\.coco\.json: it has no list 'annotations': its images"):
        read(tmp_path)

    builder.split("test")["annotations"] = None
    builder.write()
    with pytest.raises(DataError, match=r"test/_annotations\.coco\.json: it has no list 'annotations': its images"):
        read(tmp_path)

    (tmp_path / "test" / "_annotations.coco.json").unlink()
    with pytest.raises(DataError, match=r"is missing although test/ is there: its \d+ images are unlabelled"):
        read(tmp_path)


def test_a_mask_becomes_polygons_and_is_counted(tmp_path: Path) -> None:
    """Its shape is as good as a polygon's; the box stays as it is given."""
    builder = whole_export(tmp_path)
    builder.splits["train"]["annotations"][0]["segmentation"] = {"counts": [484, 8, 40, 8, 2532], "size": [48, 64]}

    row = read(builder.write()).splits[0].annotations.to_pylist()[0]
    assert row["notes"] == ["mask_to_polygon"]
    assert row["polygons"] == [[10.5, 4.5, 10.5, 11.5, 11.5, 11.5, 11.5, 4.5]]


def test_repairable_records_are_mended_and_noted(tmp_path: Path) -> None:
    """Ids carry no meaning, and a broken polygon leaves a good box."""
    builder = whole_export(tmp_path)
    annotations = builder.splits["train"]["annotations"]
    annotations[0]["segmentation"] = {"counts": "abc", "size": [48, 64]}
    annotations[1]["id"] = annotations[0]["id"]
    annotations[2]["segmentation"] = [[1, 2, 3, 4], [1, 1, 5, 1, 5, 5]]
    annotations[3] |= {"bbox": None, "segmentation": [[2, 3, 9, 3, 9, 8]]}
    del annotations[4]["id"]

    train = read(builder.write()).splits[0]

    assert train.annotations["notes"].to_pylist() == [
        ["mask_dropped"],
        ["duplicate_annotation_id"],
        ["polygon_dropped"],
        ["box_from_polygon"],
        ["missing_annotation_id"],
    ]
    assert train.annotations["polygons"].to_pylist()[2] == [[1, 1, 5, 1, 5, 5]]
