"""What a split says of its teeth, against what can be true of any panoramic X-rays."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.data.tooth_signs import images_to_look_at, tooth_signs
from dentsight_pipeline.documents.annotations import RAW_ANNOTATIONS, RAW_IMAGES, RawSplit, table_of
from dentsight_pipeline.documents.inspection import Inspection
from dentsight_pipeline.intake.inspect import inspect_export
from dentsight_pipeline.intake.limits import LIMITS
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline_tests.data.test_fdi import flipped, mouth, renamed
from dentsight_pipeline_tests.intake import fuzz


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound phantom export."""
    root = tmp_path_factory.mktemp("drawn") / "export"
    write_phantom_export(root, 12, 2, 640)
    return root


def _kinds_of(report: Inspection) -> set[str]:
    """The limits that refused something."""
    said = " ".join(refusal.message for refusal in report.refusals)
    return {kind for kind in LIMITS if f"--accept-repairs {kind}." in said}


def test_a_sound_export_shows_no_sign(drawn: Path) -> None:
    """A sign that a sound split can show would be switched off by everybody, and then protect nobody."""
    report = inspect_export(drawn, workers=1)

    assert (report.refusals, report.flags) == ((), {})


def test_gray_values_in_the_lower_bits_of_16_show_no_sign(tmp_path: Path, drawn: Path) -> None:
    """What is looked at is what is stored: cut to the upper eight bits every picture was black, and had no teeth."""
    shutil.copytree(drawn, tmp_path / "export")
    for path in (tmp_path / "export").rglob("*.jpg"):
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16)).save(path, "PNG")

    report = inspect_export(tmp_path / "export", workers=1)

    assert (report.refusals, report.flags) == ((), {})
    assert report.repairs["gray_values_scaled"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sound_exports_of_other_seeds_and_sizes_show_none(tmp_path: Path, width: int, seed: int) -> None:
    """Teeth are 10 px wide in the one, 40 px in the other; a tooth that is marked twice is drawn now and then."""
    write_phantom_export(tmp_path / "export", 24, seed, width)
    report = inspect_export(tmp_path / "export", workers=1)

    assert report.refusals == ()
    assert set(report.flags) <= {"repeated_tooth"}


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (fuzz.coco_centres, "boxes_beside_teeth"),
        (fuzz.coco_fractions, "box_within_a_pixel"),
        (fuzz.coco_swapped_axes, "arch_off_centre"),
        (fuzz.coco_mirrored, "teeth_mirrored"),
        (fuzz.coco_upside_down, "teeth_mirrored"),
        (fuzz.coco_permuted, "teeth_misplaced"),
        (fuzz.coco_shifted_categories, "tooth_number_misplaced"),
    ],
)
def test_a_split_that_means_something_else_is_stopped_with_the_likely_cause(
    tmp_path: Path, drawn: Path, spoil: Callable[[Path, random.Random], None], kind: str
) -> None:
    """Each record is well-formed; trained on, the model would learn the fault, and its figures would not show it."""
    shutil.copytree(drawn, tmp_path / "export")
    spoil(tmp_path / "export", random.Random(1))

    report = inspect_export(tmp_path / "export", workers=1)
    assert kind in _kinds_of(report)
    assert any(LIMITS[kind].cause in refusal.message for refusal in report.refusals)


@pytest.mark.parametrize("factor", [0.25, 0.5])
def test_boxes_of_a_smaller_picture_are_stopped(tmp_path: Path, drawn: Path, factor: float) -> None:
    """They lie inside their images, so that nothing is clipped: only where the arch lies tells it."""
    shutil.copytree(drawn, tmp_path / "export")
    fuzz.change_boxes(tmp_path / "export", lambda box, _: [value * factor for value in box])

    assert "arch_off_centre" in _kinds_of(inspect_export(tmp_path / "export", workers=1))


def test_boxes_of_other_images_are_stopped(tmp_path: Path, drawn: Path) -> None:
    """Arches resemble each other: only the pixels tell that these boxes hold gaps as often as teeth."""
    shutil.copytree(drawn, tmp_path / "export")

    def exchange(document: Any) -> None:
        ids = [image["id"] for image in document["images"]]
        following = dict(zip(ids, ids[1:] + ids[:1], strict=True))
        for annotation in document["annotations"]:
            annotation["image_id"] = following[annotation["image_id"]]

    fuzz.change_documents(tmp_path / "export", exchange)
    assert "boxes_off_teeth" in _kinds_of(inspect_export(tmp_path / "export", workers=1))


def test_an_accepted_sign_lets_the_export_through(tmp_path: Path, drawn: Path) -> None:
    """A corpus that is mirrored on purpose is its owner's business, and its report says so."""
    shutil.copytree(drawn, tmp_path / "export")
    fuzz.coco_mirrored(tmp_path / "export", random.Random(1))
    report = inspect_export(tmp_path / "export", accept=["teeth_mirrored", "boxes_off_teeth"], workers=1)

    assert report.refusals == ()
    assert "teeth_mirrored" in report.accepted_repairs
    assert report.flags == {"mirrored": 12}


def test_conditions_alone_cannot_be_judged_by_their_places(tmp_path: Path, drawn: Path) -> None:
    """A cavity may lie anywhere: boxes of a smaller picture are read as they stand. Fractions are known even so."""
    shutil.copytree(drawn, tmp_path / "export")

    def without_teeth(document: Any) -> None:
        names = {category["id"]: category["name"] for category in document["categories"]}
        document["annotations"] = [a for a in document["annotations"] if not names[a["category_id"]].isdigit()]

    fuzz.change_documents(tmp_path / "export", without_teeth)
    fuzz.change_boxes(tmp_path / "export", lambda box, _: [value / 2 for value in box])
    assert inspect_export(tmp_path / "export", workers=1).refusals == ()
    fuzz.coco_fractions(tmp_path / "export", random.Random(1))
    assert _kinds_of(inspect_export(tmp_path / "export", workers=1)) == {"box_within_a_pixel"}


ALPHABETICAL = re.findall("..", "1323334321413111162636461434442422324212172737471525354518283848")
"""As OralVis lists its classes by name."""
UNIVERSAL = re.findall("..", "1817161514131211212223242526272838373635343332314142434445464748")
"""As the universal numbers 1 to 32 run."""


@pytest.mark.parametrize("meant", [ALPHABETICAL, UNIVERSAL], ids=["alphabetical", "universal"])
@pytest.mark.parametrize("reverse", [False, True], ids=["read as FDI", "FDI read as it"])
def test_a_wrong_order_of_the_class_names_stops(
    tmp_path: Path, drawn: Path, meant: tuple[str, ...], reverse: bool
) -> None:
    """Every number is a tooth, every box lies on one: 4,292 teeth in the wrong jaw were `flagged` and trained on."""
    shutil.copytree(drawn, tmp_path / "export")
    written, read = (TEETH, meant) if reverse else (meant, TEETH)
    exchanged = dict(zip(written, read, strict=True))

    def exchange(document: Any) -> None:
        for category in document["categories"]:
            category["name"] = exchanged.get(category["name"], category["name"])

    fuzz.change_documents(tmp_path / "export", exchange)
    kinds = _kinds_of(inspect_export(tmp_path / "export", workers=1))
    assert kinds & {"teeth_misplaced", "teeth_out_of_order", "teeth_mirrored"}


# By hand -------------------------------------------------------------------------------------------------------------

SIZE = (1600, 1000)
EIGHT = ("11", "12", "13", "14", "21", "22", "23", "24")


def raw(*images: Sequence[tuple[str, Sequence[float]]]) -> RawSplit:
    """Images of 1600×1000 px with named boxes."""
    pictures = [
        {"id": n, "file_name": f"{n}.png", "sha256": f"{n}", "original_sha256": f"{n}", "width": SIZE[0]}
        | {"height": SIZE[1], "stem_group": "", "stem_kind": "other"}
        for n in range(len(images))
    ]
    boxes = [
        {"image_id": n, "label": name, "bbox": list(box), "polygons": []}
        for n, own in enumerate(images)
        for name, box in own
    ]
    numbered = [{"id": k, **box} for k, box in enumerate(boxes, start=1)]
    return RawSplit("train", "a.json", (), table_of(pictures, RAW_IMAGES), table_of(numbered, RAW_ANNOTATIONS))


def signs(*images: Sequence[tuple[str, Sequence[float]]], grays: Mapping[str, np.ndarray] | None = None) -> Any:
    """The signs of such images; names that are no tooth stay raw names."""
    return tooth_signs(raw(*images), {name: name for name in TEETH}, grays or {})


@pytest.mark.parametrize(
    ("names", "centre", "judged"),
    [
        (EIGHT, (1039, 799), (0, 8)),
        (EIGHT, (1041, 500), (8, 8)),  # .15 of the width is 240 px
        (EIGHT, (559, 500), (8, 8)),
        (EIGHT, (800, 801), (8, 8)),  # .3 of the height is 300 px
        (EIGHT, (800, 199), (8, 8)),
        (("41", "42", "43", "44", "45", "46", "31", "32"), (0, 500), (8, 8)),
        (("41", "42", "43", "44", "45", "46", "47", "31"), (0, 500), (0, 0)),  # one side alone may lie anywhere
        ((*EIGHT[:7], "caries"), (0, 500), (0, 0)),  # seven teeth
    ],
)
def test_an_arch_is_off_centre_from_15_percent_of_the_width_or_30_of_the_height(
    names: Sequence[str], centre: tuple[int, int], judged: tuple[int, int]
) -> None:
    """Boxes of another scale or corner move the whole arch; a few teeth more on one side move it by less."""
    x, y = centre

    assert signs([(name, [x - 10, y - 20, 20, 40]) for name in names])["arch_off_centre"] == judged


def test_signs_count_boxes_and_a_number_is_wrong_throughout_from_three_and_more_than_half_on() -> None:
    """A single slip is a matter of its image; a number that mostly lies elsewhere is an exchanged name."""
    sound, slip = mouth(), renamed(mouth(without=["46"]), {"36": "46"})
    mirrored, upside_down = (flipped(mouth(), x=side, y=not side) for side in (True, False))

    told = signs(sound, slip, sound, slip, slip)

    assert told == {
        "arch_off_centre": (0, 157),
        "teeth_mirrored": (0, 157),
        "teeth_misplaced": (3, 157),
        "teeth_out_of_order": (3, 157),
        "tooth_number_misplaced": (3, 157),
        "boxes_beside_teeth": (0, 0),
        "boxes_off_teeth": (0, 0),
    }
    assert signs(sound, sound, slip, sound, slip, slip)["tooth_number_misplaced"] == (0, 189)
    assert signs(slip, slip)["tooth_number_misplaced"] == (0, 62)
    assert signs(sound, mirrored, upside_down)["teeth_mirrored"] == (64, 96)
    assert signs([], [("caries", [1, 1, 5, 5])])["teeth_misplaced"] == (0, 0)


@pytest.mark.parametrize("around", [0, 200])
@pytest.mark.parametrize(("shift", "beside", "off"), [(0, 0, 0), (60, 8, 8), (-60, 8, 8)])
def test_a_box_holds_a_tooth_where_its_middle_is_brighter_than_its_sides(
    around: int, shift: int, beside: int, off: int
) -> None:
    """Of each box 30 to 70 % of the width against 15 % outside to 10 % inside of either edge, without a tenth of the
    height above and below; in a picture of half the size as in the whole."""
    gray = np.full((500, 800), around, np.uint8)
    boxes = []
    for k, name in enumerate(EIGHT):
        x, y = 50 + 90 * k, 200
        gray[y + 10 : y + 90, x - 9 : x + 69] = 50 if around else 20
        gray[y + 10 : y + 90, x - 9 : x + 6] = gray[y + 10 : y + 90, x + 54 : x + 69] = 50
        gray[y + 10 : y + 90, x + 18 : x + 42] = 100
        boxes.append((name, [2 * (x + shift / 2), 2 * y, 120, 200]))

    told = signs([], boxes, grays={"1": gray})

    assert (told["boxes_beside_teeth"], told["boxes_off_teeth"]) == ((beside, 8), (off, 8))


def test_sixteen_images_spread_over_a_split_are_looked_at() -> None:
    """Those with eight teeth: the first and the last of them too, and none twice."""
    split = raw(*([(name, [0, 0, 9, 9]) for name in EIGHT[: 7 if n == 3 else 8]] for n in range(18)))

    looked_at = images_to_look_at(split.annotations["label"], split.image_rows, {name: name for name in TEETH})

    assert looked_at == [0, 1, 2, *range(4, 16), 17]
