"""What a split says of its teeth, against what can be true of any panoramic X-rays."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.documents.inspection import Inspection
from dentsight_pipeline.intake.inspect import inspect_export
from dentsight_pipeline.intake.limits import LIMITS
from dentsight_pipeline.phantom.export import write_phantom_export
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
