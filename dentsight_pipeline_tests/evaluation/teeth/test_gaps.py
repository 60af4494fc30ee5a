"""The number of a tooth that is not there: given where the neighbours leave no choice, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dentsight_pipeline.evaluation.teeth.gaps import LOWER, UPPER, infer_absent
from dentsight_pipeline.phantom.export import write_phantom_export

Box = tuple[float, float, float, float]


def place(fdi: str) -> Box:
    """The box of a tooth in two straight rows of 60 px teeth."""
    row = UPPER if fdi in UPPER else LOWER
    return (60.0 * row.index(fdi), 100.0 if row is UPPER else 300.0, 50.0, 150.0)


def inferred(
    gaps: Sequence[str], *, without: Iterable[str] = (), found: Sequence[Box] | None = None
) -> list[str | None]:
    """Inferences for findings at the places of `gaps` (or at `found`), in a mouth without these and `without` teeth."""
    teeth = [fdi for fdi in (*UPPER, *LOWER) if fdi not in {*gaps, *without}]
    boxes = [place(fdi) for fdi in gaps] if found is None else found
    return infer_absent(np.array(boxes), np.array([place(fdi) for fdi in teeth]), teeth)


@pytest.mark.parametrize("fdi", ["27", "36", "11", "41", "18", "38"])
def test_one_gap_has_the_number_between_its_neighbours(fdi: str) -> None:
    """In every quadrant, over the middle line, and at the end of the jaw, where only an eight can be."""
    assert inferred([fdi]) == [fdi]


def test_as_many_findings_as_numbers_are_numbered_along_the_arch() -> None:
    """Three teeth lost in a row, in whatever order they were detected."""
    assert inferred(["25", "27", "26"]) == ["25", "27", "26"]


def test_a_gap_of_two_with_one_finding_stays_without_number() -> None:
    """A bridge may hang over the other place, or stage 1 overlooked a tooth: either number would be a guess."""
    assert inferred(["26"], without=["27"]) == [None]


def test_more_findings_than_numbers_stay_without_number() -> None:
    """One of them is false, and nothing says which."""
    x, y, w, h = place("26")

    assert inferred(["26"], found=[(x, y, w / 3, h), (x + 30, y, w / 3, h)]) == [None, None]


def test_an_implant_in_the_place_of_a_missing_tooth_is_one_place() -> None:
    """Both findings are of the same tooth, and the gap has one number."""
    x, y, w, h = place("46")

    assert inferred(["46"], found=[(x, y, w, h / 2), (x + 5, y + 60, w - 10, h / 2)]) == ["46", "46"]


def test_a_finding_belongs_to_the_row_that_it_lies_in() -> None:
    """The same gap in both jaws, whose teeth bite so deep that both rows are within reach: the nearer one has it."""
    teeth = [fdi for fdi in (*UPPER, *LOWER) if fdi not in {"24", "34"}]

    def deep(fdi: str) -> Box:
        x, y, w, h = place(fdi)
        return (x, y if fdi in UPPER else y - 140, w, h)

    boxes = np.array([deep("24"), deep("34")])
    assert infer_absent(boxes, np.array([deep(fdi) for fdi in teeth]), teeth) == ["24", "34"]


@pytest.mark.parametrize(("down", "number"), [(75, "26"), (76, None), (-75, "26"), (-76, None)])
def test_a_row_reaches_half_a_tooth_up_and_down(down: float, number: str | None) -> None:
    """Teeth of 150 px: an implant's box ends in the bone, and another jaw's is further."""
    x, y, w, h = place("26")

    assert inferred(["26"], found=[(x, y + down, w, h)]) == [number]


@pytest.mark.parametrize(("apart", "numbers"), [(49, [None, None]), (50, ["26", "27"])])
def test_two_findings_are_two_places_where_one_lies_beside_the_other(apart: float, numbers: list[str | None]) -> None:
    """The centre of the second decides; the first ends 50 px further."""
    x, y, _, h = place("26")

    assert inferred(["26", "27"], found=[(x, y, 50.0, h), (x + apart - 12.5, y, 25.0, h)]) == numbers


def test_a_finding_far_from_both_rows_stays_without_number() -> None:
    """A box in the jaw bone or in the sinus is in no gap of the arch."""
    x, _, w, h = place("26")

    assert inferred(["26"], found=[(x, -200.0, w, h)]) == [None]


def test_neighbours_in_the_wrong_order_decide_nothing() -> None:
    """In a mirrored or misnumbered image the numbers between the neighbours are none."""
    teeth = [fdi for fdi in UPPER if fdi != "26"]
    mirrored = np.array([(900.0 - place(fdi)[0], *place(fdi)[1:]) for fdi in teeth])

    assert infer_absent(np.array([(900.0 - place("26")[0], 100.0, 50.0, 150.0)]), mirrored, teeth) == [None]


def test_a_number_that_another_tooth_has_is_not_given() -> None:
    """Stage 1 saw 26 somewhere else: one of the two is wrong, so nothing is inferred."""
    teeth = [fdi for fdi in UPPER if fdi != "26"]
    boxes = [place(fdi) for fdi in teeth]
    boxes[teeth.index("28")] = place("18")  # 28 stands at the other end, so that the gap after 27 looks open

    assert infer_absent(np.array([place("28")]), np.array(boxes), teeth) == [None]


def test_without_teeth_or_without_findings_nothing_is_inferred() -> None:
    """An image that stage 1 found nothing in has no neighbours to ask."""
    assert infer_absent(np.array([place("26")]), np.zeros((0, 4)), []) == [None]
    assert infer_absent(np.zeros((0, 4)), np.array([place("26")]), ["26"]) == []


def test_on_phantoms_no_inferred_number_is_wrong(tmp_path: Path) -> None:
    """Drawn mouths know which tooth is absent; the annotator's boxes and bridges, buds and stumps make it hard."""
    write_phantom_export(tmp_path / "phantom", 40, 3, 640)
    truth = json.loads((tmp_path / "phantom" / "phantom_truth.json").read_text())
    true_fdi = {
        (entry["split"], label["annotation_id"]): str(label["fdi"])
        for entry in truth["files"]
        if entry["transform"]["kind"] in ("original", "re-encoded", "brightness")
        for label in entry["labels"]
    }
    right = wrong = open_ = 0
    for split in ("train", "valid", "test"):
        document = json.loads((tmp_path / "phantom" / split / "_annotations.coco.json").read_text())
        names = {category["id"]: category["name"] for category in document["categories"]}
        for image in document["images"]:
            here = [
                a | {"name": names[a["category_id"]]} for a in document["annotations"] if a["image_id"] == image["id"]
            ]
            teeth = list({a["name"]: a for a in here if a["name"].isdigit()}.values())
            absent = [a for a in here if a["name"] in ("missing", "implant") and (split, a["id"]) in true_fdi]
            boxes, tooth_boxes = ([a["bbox"] for a in some] for some in (absent, teeth))
            found = infer_absent(np.array(boxes), np.array(tooth_boxes), [a["name"] for a in teeth])
            for annotation, number in zip(absent, found, strict=True):
                right += number == true_fdi[split, annotation["id"]]
                open_ += number is None
                wrong += number not in (None, true_fdi[split, annotation["id"]])

    assert wrong == 0
    assert right > 3 * open_ > 0
