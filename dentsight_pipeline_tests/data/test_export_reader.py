"""Reading annotations: Roboflow's COCO and YOLO layouts, and every record that cannot be meant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data.coco import Export
from dentsight_pipeline.data.export_files import open_export
from dentsight_pipeline.data.export_reader import Refusals, read_export, stem_of
from dentsight_pipeline.errors import AnnotationError, DataError
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, jpeg, picture, whole_export


def _read(root: Path, refusals: Refusals | None = None) -> Export:
    with open_export(root) as files:
        return read_export(files, refusals)[0]


def test_the_real_export_reads_as_it_is_known(real_export: Path) -> None:
    """1085/154/30 images and 9,280 boxes, category 0 without annotations."""
    export = _read(real_export)

    assert [(s.name, len(s.images), len(s.annotations)) for s in export.splits] == [
        ("train", 1085, 7845),
        ("valid", 154, 1216),
        ("test", 30, 219),
    ]
    assert [c.name for c in export.splits[0].categories if c.placeholder] == ["dental-xray-cv"]
    assert export.license_names == ("CC BY 4.0",)


def test_a_root_placeholder_may_share_its_name_with_a_real_class(tmp_path: Path) -> None:
    """Only id 0 without annotations is the placeholder; the class of the same name keeps its boxes."""
    builder = ExportBuilder(tmp_path, names=("caries", "crown"))
    builder.image("train", {"crown": [[1, 1, 5, 5]]})
    builder.splits["train"]["categories"].append({"id": 2, "name": "caries", "supercategory": "caries"})
    builder.splits["train"]["annotations"].append({"id": 1, "image_id": 0, "category_id": 2, "bbox": [2, 2, 3, 3]})

    (split,) = _read(builder.write()).splits

    assert [(c.id, c.name, c.placeholder) for c in split.categories] == [
        (0, "caries", True),
        (1, "crown", False),
        (2, "caries", False),
    ]
    assert [a.label for a in split.annotations] == ["crown", "caries"]


def test_a_first_category_with_annotations_is_a_class(tmp_path: Path) -> None:
    """Other tools start their classes at 0 with supercategory none."""
    builder = ExportBuilder(tmp_path, names=("caries", "crown"))
    builder.image("train", {"caries": [[1, 1, 5, 5]]})

    (split,) = _read(builder.write()).splits

    assert not any(category.placeholder for category in split.categories)


def test_the_mmdetection_variant_starts_at_one_without_supercategories(tmp_path: Path) -> None:
    """Roboflow's 'COCO for MMDetection'."""
    builder = ExportBuilder(tmp_path)
    builder.image("train", {"caries": [[1, 1, 5, 5]]})
    builder.splits["train"]["categories"] = [{"id": i, "name": n} for i, n in enumerate(builder.names) if i]

    (split,) = _read(builder.write()).splits

    assert [category.placeholder for category in split.categories] == [False] * 6


def test_the_stem_is_what_stands_before_rf() -> None:
    """It decides which images share a source, so the extension inside it counts too."""
    assert stem_of("train/18_png.rf.95b01a2cb53ac23817a03c3b4fd88fd4.jpg") == "18_png"
    assert stem_of("a.rf.b.rf.0123.jpg") == "a.rf.b"
    assert stem_of("plain.name.jpg") == "plain.name"


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
        _read(builder.write())


def test_an_export_without_a_single_image_is_refused(tmp_path: Path) -> None:
    """It would become a dataset of nothing, and training would be the first to notice."""
    builder = whole_export(tmp_path)
    for split in builder.splits.values():
        split["images"], split["annotations"] = [], []

    with pytest.raises(DataError, match="no split lists an image"):
        _read(builder.write())


def test_a_number_too_long_to_read_is_refused_by_its_file(tmp_path: Path) -> None:
    """Python reads no integer of more than 4,300 digits, and says so in a way of its own."""
    root = whole_export(tmp_path).write()
    file = root / "train" / "_annotations.coco.json"
    file.write_text(re.sub(r'"bbox": ?\[', '"bbox": [1' + "0" * 5000 + ", ", file.read_text(), count=1))

    with pytest.raises(DataError, match=r"train/_annotations\.coco\.json: holds a number with more digits"):
        _read(root)


def test_the_same_file_listed_twice_is_refused(tmp_path: Path) -> None:
    """Two records with one file would train on contradicting labels."""
    builder = whole_export(tmp_path)
    images = builder.splits["train"]["images"]
    images[1]["file_name"] = images[0]["file_name"]

    with pytest.raises(AnnotationError, match="image 1: the same file as image 0"):
        _read(builder.write())


def test_all_refusals_are_collected_when_asked_for(tmp_path: Path) -> None:
    """`dentsight inspect` shows everything that has to be mended, not one thing at a time."""
    builder = whole_export(tmp_path)
    builder.splits["train"]["annotations"][0]["image_id"] = 99
    builder.splits["valid"]["annotations"][0]["bbox"] = [1]
    refusals = Refusals(collect=True)

    export = _read(builder.write(), refusals)

    assert [str(error).split(",")[0] for error in refusals.errors] == [
        "train/_annotations.coco.json",
        "valid/_annotations.coco.json",
    ]
    assert sum(len(split.annotations) for split in export.splits) == 7


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
        _read(tmp_path)


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """Guessing it would change label names."""
    whole_export(tmp_path).write()
    (tmp_path / "test" / "_annotations.coco.json").write_bytes(b'{"images": "\xff\xfe"}')

    with pytest.raises(DataError, match=r"test/_annotations\.coco\.json: not UTF-8 text \(byte 12\)"):
        _read(tmp_path)


def test_a_split_folder_without_its_annotation_file_is_refused(tmp_path: Path) -> None:
    """Reading it as a missing split would silently drop its images."""
    whole_export(tmp_path).write()
    (tmp_path / "valid" / "_annotations.coco.json").unlink()

    with pytest.raises(DataError, match=r"valid/_annotations\.coco\.json is missing although valid/ is there"):
        _read(tmp_path)


def test_a_folder_that_is_no_export_is_refused_with_what_was_found(tmp_path: Path) -> None:
    """The usual mistake is to give the folder above or below."""
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg(picture(1)))

    with pytest.raises(DataError, match=r"no Roboflow export\. Looked for train, valid or test with .*; found"):
        _read(tmp_path)


def test_a_missing_split_is_read_as_missing(tmp_path: Path) -> None:
    """Roboflow exports without a test split exist; whether one is needed is decided by who needs it."""
    builder = whole_export(tmp_path)
    del builder.splits["test"]
    builder.write()
    for file in (tmp_path / "test").iterdir():
        file.unlink()
    (tmp_path / "test").rmdir()

    assert [split.name for split in _read(tmp_path).splits] == ["train", "valid"]


def test_repairable_records_are_mended_and_noted(tmp_path: Path) -> None:
    """Ids carry no meaning, and a broken polygon leaves a good box."""
    builder = whole_export(tmp_path)
    annotations = builder.splits["train"]["annotations"]
    annotations[0]["segmentation"] = {"counts": "abc", "size": [48, 64]}
    annotations[1]["id"] = annotations[0]["id"]
    annotations[2]["segmentation"] = [[1, 2, 3, 4], [1, 1, 5, 1, 5, 5]]
    annotations[3] |= {"bbox": None, "segmentation": [[2, 3, 9, 3, 9, 8]]}
    del annotations[4]["id"]

    train = _read(builder.write()).splits[0]

    assert [a.notes for a in train.annotations] == [
        ("mask_dropped",),
        ("duplicate_annotation_id",),
        ("polygon_dropped",),
        ("box_from_polygon",),
        ("missing_annotation_id",),
    ]
    assert train.annotations[2].polygons == ((1, 1, 5, 1, 5, 5),)


# YOLO ----------------------------------------------------------------------------------------------------------------


def yolo_export(root: Path, lines: dict[str, list[str]], names: str = "['caries', 'crown']") -> Path:
    """An export in Roboflow's YOLO layout: image name → label lines."""
    (root / "data.yaml").parent.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\nnc: 2\nnames: {names}\n"
        "roboflow:\n  workspace: clinic\n  project: opg\n  version: 3\n  license: CC BY 4.0\n"
    )
    for number, (name, rows) in enumerate(lines.items()):
        split, _, file = name.partition("/")
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        (root / split / "images" / f"{file}.jpg").write_bytes(jpeg(picture(number)))
        (root / split / "labels" / f"{file}.txt").write_text("\n".join(rows))
    return root


def test_yolo_boxes_and_polygons_mix_in_one_file(tmp_path: Path) -> None:
    """Roboflow writes a polygon line for whatever was drawn as one."""
    root = yolo_export(
        tmp_path,
        {
            "train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5", "", "1 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6"],
            "train/b_png.rf.0b": [],
            "valid/c_png.rf.0c": ["1 0.5 0.5 0.1 0.1"],
        },
    )

    export = _read(root)

    train = export.splits[0]
    assert export.layout == "yolo"
    assert [(i.stem, i.exists) for i in train.images] == [("a_png", True), ("b_png", True)]
    assert [(a.label, a.bbox, a.polygons, a.relative) for a in train.annotations] == [
        ("caries", (0.375, 0.25, 0.25, 0.5), (), True),
        ("crown", None, ((0.1, 0.2, 0.3, 0.2, 0.3, 0.6, 0.1, 0.6),), True),
    ]
    assert export.info["workspace"] == "clinic"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7 0.5 0.5 0.1 0.1", "its class '7' is not one of the 2 in data.yaml"),
        ("x 0.5 0.5 0.1 0.1", "its class 'x' is not one of"),
        ("0 0.5 0.5 0.1", r"its 3 coordinates are neither a box \(4\) nor a polygon"),
        ("0 0.5 0.5 0.1 0.1 0.2", "its 5 coordinates are neither"),
        ("0 320 240 50 50", "its coordinates are not fractions of the image"),
        ("0 0.5 nan 0.1 0.1", "its coordinates are not fractions"),
        ("0 0.5 0.5 -0.1 0.1", "its width or height is negative"),
        ("0 0.5 a 0.1 0.1", "it holds something that is no number"),
    ],
)
def test_a_yolo_line_that_cannot_be_meant_is_refused(tmp_path: Path, line: str, message: str) -> None:
    """By label file and line."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5", line]})

    with pytest.raises(AnnotationError, match=rf"train/labels/a_png\.rf\.0a\.txt, line 2: {message}"):
        _read(root)


BILLION_LAUGHS = "[&a [x, x], " + ", ".join(
    f"&{after} [{', '.join([f'*{before}'] * 10)}]" for before, after in pairwise("abcdefghijkl")
)
BILLION_LAUGHS += "]"
"""Aliases that nest: read in no time, but printing them takes for ever."""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[a", "not whole YAML"),
        ("['a']", "nc is 2 but 'names' has 1 names"),
        ("7", "is no list of class names"),
        ('["a", "\\ud800"]', "is no list of class names"),
        (BILLION_LAUGHS, "'names' is no list of class names"),
    ],
)
def test_a_broken_data_yaml_is_refused(tmp_path: Path, names: str, message: str) -> None:
    """Without the names no label means anything."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": []}, names)

    with pytest.raises(DataError, match=f"data.yaml.*{message}"):
        _read(root)


def test_yolo_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows write one; COCO files may have it too."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5"]})
    for path in (root / "data.yaml", root / "train" / "labels" / "a_png.rf.0a.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    (train,) = _read(root).splits

    assert [annotation.label for annotation in train.annotations] == ["caries"]


def test_a_label_file_without_its_image_is_an_image_without_a_file(tmp_path: Path) -> None:
    """As in COCO, where the listing remains when the file is lost."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5"], "train/b_png.rf.0b": []})
    (root / "train" / "images" / "a_png.rf.0a.jpg").unlink()

    (train,) = _read(root).splits

    assert [(image.stem, image.exists) for image in train.images] == [("b_png", True), ("a_png", False)]


def test_yolo_images_that_share_a_label_file_are_refused(tmp_path: Path) -> None:
    """`a.jpg` and `a.png` have one `a.txt`: nobody knows whose boxes they are."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5"]})
    (root / "train" / "images" / "a_png.rf.0a.png").write_bytes(b"x")

    with pytest.raises(DataError, match=r"train/images/a_png\.rf\.0a\.\*: two images share one label file"):
        _read(root)


def test_nothing_of_the_original_names_reaches_a_collected_record_by_accident(tmp_path: Path) -> None:
    """Only `ExportImage` carries the path and stem; annotations must not."""
    export = _read(whole_export(tmp_path).write())

    text = json.dumps([repr(annotation) for split in export.splits for annotation in split.annotations])

    assert "1-2-826" not in text
