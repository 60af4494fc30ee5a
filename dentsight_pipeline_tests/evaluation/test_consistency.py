"""The model on the mirrored X-ray: same findings, teeth renamed across the midline, sides seen from the patient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dentsight_pipeline.evaluation.consistency import (
    are_teeth,
    mirror_counts,
    mirrored_class,
    side_counts,
    with_teeth_renamed,
)
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import coco, found

ONE = np.ones((1, 1))


def test_a_mirror_swaps_quadrants_and_nothing_else() -> None:
    """11 ↔ 21 and 38 ↔ 48; a caries stays a caries."""
    names = ("11", "21", "38", "48", "caries")

    assert mirrored_class(names).tolist() == [1, 0, 3, 2, 4]


def test_a_tooth_class_without_its_twin_stays_itself() -> None:
    """Foreign files may lack a quadrant."""
    assert mirrored_class(("11", "47")).tolist() == [0, 1]
    assert are_teeth(("11", "47")) and not are_teeth(("11", "caries")) and not are_teeth(("51",))


def test_agreement_counts_each_box_once_at_the_threshold() -> None:
    """A: 3 boxes of which one is below the threshold; B: 2; one pair: 2·1/(2+2)."""
    truth = read_ground_truth(coco([]))
    a = found((1, 1, [0, 0, 40, 40], 0.9), (1, 1, [2, 0, 40, 40], 0.8), (1, 1, [200, 0, 40, 40], 0.2))
    b = found((1, 1, [1, 0, 40, 40], 0.7), (1, 1, [300, 0, 40, 40], 0.7))

    counts = mirror_counts(truth, read_detections(a, truth), read_detections(b, truth), 0, 0.5)

    assert (counts.a.sum(), counts.b.sum(), counts.matched.sum()) == (2, 2, 1)
    assert counts.agreement(ONE)[0] == pytest.approx(2 * 1 / 4)


def test_pairs_are_of_one_image_from_half_an_overlap_on_where_the_class_was_looked_for() -> None:
    """By falling overlap, each box once: the best pair leaves the second boxes to each other."""
    truth = read_ground_truth(coco([], images=4))
    truth = replace(truth, covered=np.array([[True], [True], [True], [False]]))
    a = [(1, [0, 0, 100, 100]), (1, [20, 0, 100, 100]), (2, [0, 0, 100, 50]), (3, [0, 0, 100, 49]), (4, [0, 0, 9, 9])]
    b = [(1, [5, 0, 100, 100]), (1, [30, 0, 100, 100]), (2, [0, 0, 100, 100]), (3, [0, 0, 100, 100]), (4, [0, 0, 9, 9])]
    on, mirrored = (read_detections(found(*((i, 1, box, 0.5) for i, box in own)), truth) for own in (a, b))

    counts = mirror_counts(truth, on, mirrored, 0, 0.5)

    assert counts.a.tolist() == counts.b.tolist() == [2, 1, 1, 0]
    assert counts.matched.tolist() == [2, 1, 0, 0]
    assert counts.subset(np.array([False, True, True, False])).matched.tolist() == [1, 0]
    assert (counts + counts).agreement(np.ones((4, 1)))[0] == pytest.approx(2 * 6 / 16)


def test_a_tooth_is_compared_with_its_twin_of_the_mirrored_image() -> None:
    """On the mirrored X-ray tooth 11 looks like a 21; without the swap perfect models would score 0."""
    truth = read_ground_truth(coco([], classes=("11", "21")))
    a, b = found((1, 1, [0, 0, 40, 40], 0.9)), found((1, 2, [0, 0, 40, 40], 0.9))

    mirrored = with_teeth_renamed(read_detections(b, truth), truth.class_names)

    counts = mirror_counts(truth, read_detections(a, truth), mirrored, 0, 0.5)

    assert counts.agreement(ONE)[0] == 1


def test_finding_nothing_on_either_side_is_undefined() -> None:
    """An empty model is not a consistent one."""
    truth = read_ground_truth(coco([]))
    none = read_detections([], truth)

    assert np.isnan(mirror_counts(truth, none, none, 0, 0.5).agreement(ONE)[0])


def test_left_is_the_patients_left() -> None:
    """The patient's right is on the image's left: the box at x = 100 of 1000 is on the right."""
    truth = read_ground_truth(coco([(1, 1, [100, 0, 40, 40]), (1, 1, [800, 0, 40, 40]), (1, 1, [900, 0, 40, 40])]))

    counts = side_counts(truth, 0, np.array([True, True, False]))

    assert (counts.right_gt.sum(), counts.left_gt.sum()) == (1, 2)
    assert counts.left_minus_right(ONE)[0] == pytest.approx(1 / 2 - 1)


def test_a_box_in_the_middle_or_of_an_image_without_width_is_on_no_side() -> None:
    """Nor is a crowd region; one pixel off the middle is a side."""
    boxes = [(1, [480, 0, 40, 40]), (1, [481, 0, 40, 40]), (1, [479, 0, 40, 40]), (2, [0, 0, 9, 9]), (1, [0, 0, 9, 9])]
    given = coco([(image, 1, box) for image, box in boxes], images=2)
    given["images"][1]["width"] = None
    given["annotations"][4]["iscrowd"] = 1

    counts = side_counts(read_ground_truth(given), 0, np.ones(5, bool))

    assert (counts.left_gt.tolist(), counts.right_gt.tolist()) == ([1, 0], [1, 0])
    assert (counts.left_hits.tolist(), counts.right_hits.tolist()) == ([1, 0], [1, 0])
    both = counts + counts
    assert [both.left_gt[0], both.left_hits[0], both.right_gt[0], both.right_hits[0]] == [2, 2, 2, 2]
