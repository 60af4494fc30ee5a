"""Corrections on splits: applied, recognised in a later version, or listed as a conflict."""

from __future__ import annotations

from typing import Any

import pytest

from dentsight_pipeline.data.corrections import corrected
from dentsight_pipeline.documents.annotations import Split, coco_categories
from dentsight_pipeline.documents.review import Correction
from dentsight_pipeline_tests.data.coco import from_coco

CLASSES = ("caries", "crown")
HERE, NEAR, THERE = (10.0, 10.0, 40.0, 40.0), (10.0, 10.0, 40.4, 40.4), (100.0, 10.0, 40.0, 40.0)


def split(*labels: tuple[str, tuple[float, ...]]) -> Split:
    """One image with labels."""
    boxes = [
        {"id": k, "image_id": 1, "category_id": CLASSES.index(name) + 1, "bbox": list(box)}
        for k, (name, box) in enumerate(labels, start=1)
    ]
    image = {"id": 1, "file_name": "a.jpg", "sha256": "a", "width": 300, "height": 100}
    return from_coco("train", {"images": [image], "annotations": boxes, "categories": coco_categories(CLASSES)})


def change(before: tuple | None, after: tuple | None, image: str = "a") -> Correction:
    """From name and box to name and box."""
    (b, bb), (c, cb) = before or (None, None), after or (None, None)
    fields: dict[str, Any] = {"before_class": b, "before_bbox": bb, "after_class": c, "after_bbox": cb}
    return Correction(image=image, annotation=None, who="A. Bell", at=0.0, why="seen", **fields)


def labels(of: Split) -> list[tuple[str, tuple[float, ...]]]:
    """What a split's one image has."""
    return [(of.classes[row["category_id"] - 1], tuple(row["bbox"])) for row in of.annotations.to_pylist()]


@pytest.mark.parametrize(
    ("given", "correction", "outcome", "left"),
    [
        ([], change(None, ("caries", HERE)), "applied", [("caries", HERE)]),
        ([("caries", HERE)], change(("caries", HERE), None), "applied", []),
        ([("caries", HERE)], change(("caries", HERE), ("crown", HERE)), "applied", [("crown", HERE)]),
        ([("caries", HERE)], change(("caries", HERE), ("caries", THERE)), "applied", [("caries", THERE)]),
        ([("caries", NEAR)], change(None, ("caries", HERE)), "contained", [("caries", NEAR)]),
        ([], change(("caries", HERE), None), "contained", []),
        ([("crown", HERE)], change(("caries", HERE), ("caries", THERE)), "conflict", [("crown", HERE)]),
        ([("crown", HERE)], change(None, ("caries", HERE), image="b"), "no such image", [("crown", HERE)]),
    ],
)  # fmt: skip
def test_a_correction_is_applied_recognised_or_listed(
    given: list, correction: Correction, outcome: str, left: list
) -> None:
    """Roboflow's next version may hold it already, or something third: nothing is done twice, nothing is guessed."""
    made = corrected({"train": split(*given)}, [correction])

    assert made.outcomes == (outcome,)
    assert labels(made.splits["train"]) == left


def test_applying_twice_changes_nothing_more() -> None:
    """A run that was repeated must not double a box."""
    once = corrected({"train": split()}, [change(None, ("caries", HERE))]).splits

    again = corrected(once, [change(None, ("caries", HERE))])

    assert again.outcomes == ("contained",)
    assert again.splits["train"].annotations.equals(once["train"].annotations)
