"""Roboflow's YOLO layout, and every line of it that cannot be meant."""

from __future__ import annotations

import os
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest

from dentsight_pipeline.errors import AnnotationError, DataError
from dentsight_pipeline.intake.records import Refusals
from dentsight_pipeline_tests.data.export_builder import jpeg, picture, read


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

    export = read(root)

    train = export.splits[0]
    assert export.layout == "yolo"
    assert [(i.stem, i.exists) for i in train.images] == [("a_png", True), ("b_png", True)]
    assert train.relative
    assert [(a["label"], a["bbox"], a["polygons"]) for a in train.annotations.to_pylist()] == [
        ("caries", [0.375, 0.25, 0.25, 0.5], []),
        ("crown", None, [[0.1, 0.2, 0.3, 0.2, 0.3, 0.6, 0.1, 0.6]]),
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
        ("0 0.5 0.5 0.2 0.2 0.5 0.5 2 0.4 0.4 1", r"it holds keypoints with visibility \(YOLO pose\)"),
        ("0 0.5 0.5 0.2 0.2 0.5 0.5 2", r"it holds keypoints with visibility \(YOLO pose\)"),
    ],
)
def test_a_yolo_line_that_cannot_be_meant_is_refused(tmp_path: Path, line: str, message: str) -> None:
    """By label file and line."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5", line]})

    with pytest.raises(AnnotationError, match=rf"train/labels/a_png\.rf\.0a\.txt, line 2: {message}"):
        read(root)


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
        ('["a", "b\\ud800"]', r"class 1 is called 'b\\ud800', half a character"),
        (BILLION_LAUGHS, "'names' is no list of class names"),
    ],
)
def test_a_broken_data_yaml_is_refused(tmp_path: Path, names: str, message: str) -> None:
    """Without the names no label means anything."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": []}, names)

    with pytest.raises(DataError, match=f"data.yaml.*{message}"):
        read(root)


@pytest.mark.parametrize("names", ["{'0': caries, '1': crown}", "{0: caries, 1: crown}", "[caries, crown]"])
@pytest.mark.parametrize("count", ["2", "'2'"])
def test_numbers_in_data_yaml_may_be_quoted(tmp_path: Path, names: str, count: str) -> None:
    """Some tools quote all that they write; `nc is '13' but 'names' has 13 names` helped nobody."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["1 0.5 0.5 0.25 0.5"]}, names)
    file = root / "data.yaml"
    file.write_text(file.read_text().replace("nc: 2", f"nc: {count}"))

    (train,) = read(root).splits

    assert train.annotations["label"].to_pylist() == ["crown"]


def test_keypoints_are_refused_by_their_name(tmp_path: Path) -> None:
    """Read as polygons they gave boxes that nobody drew, all of them clipped."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5"]})
    with (root / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 3]\n")

    with pytest.raises(DataError, match=r"data\.yaml: kpt_shape says that its labels are keypoints \(YOLO pose\)"):
        read(root)


def test_yolo_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows write one; COCO files may have it too."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5"]})
    for path in (root / "data.yaml", root / "train" / "labels" / "a_png.rf.0a.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    (train,) = read(root).splits

    assert train.annotations["label"].to_pylist() == ["caries"]


def test_a_label_file_and_its_image_may_write_an_accent_in_two_ways(tmp_path: Path) -> None:
    """macOS unpacks names in another form of Unicode than most tools write; such boxes were lost."""
    root = yolo_export(tmp_path, {"train/Ren\u00e9e_png.rf.0a": ["0 0.5 0.5 0.25 0.5"]})
    (image,) = (root / "train" / "images").iterdir()
    image.rename(image.with_name(unicodedata.normalize("NFD", image.name)))

    (train,) = read(root).splits

    assert train.annotations["label"].to_pylist() == ["caries"]


def test_a_label_file_without_its_image_is_an_image_without_a_file(tmp_path: Path) -> None:
    """As in COCO, where the listing remains when the file is lost."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5"], "train/b_png.rf.0b": []})
    (root / "train" / "images" / "a_png.rf.0a.jpg").unlink()

    (train,) = read(root).splits

    assert [(image.stem, image.exists) for image in train.images] == [("b_png", True), ("a_png", False)]


def test_yolo_images_that_share_a_label_file_are_refused(tmp_path: Path) -> None:
    """`a.jpg` and `a.png` have one `a.txt`: nobody knows whose boxes they are."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5"]})
    (root / "train" / "images" / "a_png.rf.0a.png").write_bytes(b"x")
    refusals = Refusals(collect=True)

    (train,) = read(root, refusals).splits

    assert [str(error) for error in refusals.errors] == [
        "train/images/a_png.rf.0a.*: two images share one label file. Rename one of them."
    ]
    assert (len(train.images), len(train.annotations)) == (1, 1)


@pytest.mark.parametrize("kind", ["images/{}.jpg", "labels/{}.txt"])
@pytest.mark.parametrize("name", [b"\xff", b"a\\b"])
def test_a_yolo_file_whose_name_is_no_plain_path_is_refused_and_the_rest_is_read(
    tmp_path: Path, kind: str, name: bytes
) -> None:
    """Linux allows any bytes in a name; `inspect` shows them all."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5"]})
    before, after = kind.encode().split(b"{}")
    Path(os.fsdecode(os.fsencode(root / "train") + b"/" + before + name + after)).write_bytes(b"")
    refusals = Refusals(collect=True)

    (train,) = read(root, refusals).splits

    (error,) = refusals.errors
    assert "is no plain relative path" in str(error)
    assert (len(train.images), len(train.annotations)) == (1, 1)


def test_what_macos_adds_to_each_label_file_is_no_label_file(tmp_path: Path) -> None:
    """`._a.txt` is binary, and was refused line by line; so was the image `._a.jpg`."""
    root = yolo_export(tmp_path, {"train/a_png.rf.0a": ["0 0.5 0.5 0.25 0.5"]})
    for kind, suffix in (("labels", "txt"), ("images", "jpg")):
        (root / "train" / kind / f"._a_png.rf.0a.{suffix}").write_bytes(b"\x00\x05\x16\x07 Mac OS X")

    (train,) = read(root).splits

    assert (len(train.images), len(train.annotations)) == (1, 1)
