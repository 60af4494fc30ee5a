"""Stage 1 by itself: figures by jaw and side, wrong numbers and counts, as counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.teeth.alone import measure_alone
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth

PLACES = {"16": 100.0, "26": 800.0, "36": 100.0, "46": 800.0}


def _box(tooth: str) -> list[float]:
    return [PLACES[tooth], 100.0 if tooth[0] in "12" else 400.0, 60.0, 150.0]


def _truth(images: list[list[str]]) -> GroundTruth:
    ids = range(1, len(images) + 1)
    boxes = [(image, tooth) for image, teeth in zip(ids, images, strict=True) for tooth in teeth]
    coco: dict[str, Any] = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 1000, "height": 600, "source_group": str(i), "clean": i > 1}
            for i in ids
        ],
        "categories": [{"id": k, "name": tooth} for k, tooth in enumerate(TEETH, start=1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": TEETH.index(t) + 1, "bbox": _box(t), "area": 9000, "iscrowd": 0}
            for n, (i, t) in enumerate(boxes, start=1)
        ],
    }
    return read_ground_truth(coco)


def _found(truth: GroundTruth, teeth: list[tuple[int, str, str, float]]) -> Detections:
    """Image, number given, place where it lies, score."""
    rows = [
        {"image_id": i, "category_id": TEETH.index(name) + 1, "bbox": _box(place), "score": score}
        for i, name, place, score in teeth
    ]
    return read_detections(rows, truth)


@pytest.fixture
def truth() -> GroundTruth:
    """Two mouths with four and three teeth."""
    return _truth([["16", "26", "36", "46"], ["16", "26", "36"]])


def test_each_jaw_and_side_has_the_mean_of_its_teeth(truth: GroundTruth) -> None:
    """A detector that swaps sides in the upper jaw must be told from one that is bad everywhere."""
    right_below = [(1, "36", "36", 0.9), (1, "46", "46", 0.9), (2, "36", "36", 0.9)]
    swapped_above = [(i, a, b, 0.95) for i in (1, 2) for a, b in (("16", "26"), ("26", "16"))]

    _, measured = measure_alone(truth, _found(truth, right_below + swapped_above), None, resamples=0)

    assert measured["all"] is not None
    rows = {row.group: (row.n_gt, row.teeth, row.ap50) for row in measured["all"].ap}
    assert rows["upper"] == (4, 2, 0.0)
    assert rows["lower"] == (3, 2, pytest.approx(1.0))
    assert rows["right"] == (3, 2, pytest.approx(0.5))
    assert rows["all"] == (7, 4, pytest.approx(0.5))
    assert measured["all"].teeth is not None
    assert measured["all"].teeth.misnamed == {"wrong_side": 4, "wrong_jaw": 0, "wrong_position": 0}


def test_teeth_are_counted_by_mouth(truth: GroundTruth) -> None:
    """One mouth as many as there are, one a tooth short: half exact, half a tooth off, half a tooth too few."""
    found = [(1, t, t, 0.9) for t in PLACES] + [(2, "16", "16", 0.9), (2, "26", "26", 0.9), (2, "36", "36", 0.1)]

    threshold, measured = measure_alone(
        truth, _found(truth, found), (truth, _found(truth, found[:4])), resamples=200, seed=1
    )

    assert threshold == pytest.approx(0.9)
    assert measured["all"] is not None and measured["all"].count is not None
    count = measured["all"].count
    assert (count.n_gt, count.n_found, count.exact, count.off_by, count.bias) == (7, 6, 0.5, 0.5, -0.5)
    assert measured["clean"] is not None and measured["clean"].images == 1


def test_an_image_in_which_not_every_tooth_was_looked_for_has_no_count(truth: GroundTruth) -> None:
    """Who looked for molars alone cannot say how many teeth there are; AP of the molars stands."""
    from dataclasses import replace

    covered = np.ones((2, 32), bool)
    covered[:, 0] = False
    partly = replace(truth, covered=covered)

    _, measured = measure_alone(partly, _found(partly, [(1, "16", "16", 0.9)]), None, resamples=0)

    assert measured["all"] is not None
    assert (measured["all"].images_counted, measured["all"].teeth, measured["all"].count) == (0, None, None)
    assert {row.group: row.n_gt for row in measured["all"].ap}["all"] == 7
