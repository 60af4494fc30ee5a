"""The greedy rule in the cases that random boxes seldom reach; the engine of record is the second witness."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask

from dentsight_pipeline.evaluation import engines, matching, metrics
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import coco, found


def matched(truth: dict, results: list, area: str = "all") -> ClassMatches:
    """Matches of the first class, after checking that pycocotools gives the same AP."""
    columns = read_ground_truth(truth)
    detections = read_detections(results, columns)
    record = engines.score(columns, detections, "pycocotools")
    matches = matching.match(columns, detections)[0][area]
    a = list(engines.AREA_RANGES_PX).index(area)
    assert metrics.average_precision(matches)[0] == pytest.approx(record.precision[:, :, 0, a, 2].mean(1), abs=1e-12)
    return matches


def test_a_detection_takes_the_box_it_overlaps_most() -> None:
    """Not the first that is good enough: the second detection would then be left without its own."""
    truth = coco([(1, 1, [0, 0, 100, 100]), (1, 1, [20, 0, 100, 100])])
    results = found((1, 1, [18, 0, 100, 100], 0.9), (1, 1, [2, 0, 100, 100], 0.8))

    assert matched(truth, results).gt_index.tolist() == [1, 0]


def test_a_counted_box_comes_before_an_ignored_one_that_fits_better() -> None:
    """Otherwise a true positive would vanish into a crowd region."""
    truth = coco([(1, 1, [0, 0, 100, 100]), (1, 1, [10, 0, 100, 100])])
    truth["annotations"][1]["iscrowd"] = 1

    matches = matched(truth, found((1, 1, [10, 0, 100, 100], 0.9)))

    assert matches.true_positive[0].tolist() == [True]
    assert matches.ignored[9].tolist() == [True]  # at IoU .95 only the crowd region fits


def test_the_last_of_equally_good_boxes_is_taken() -> None:
    """evaluateImg keeps the later one; the id in the table of matches depends on it."""
    truth = coco([(1, 1, [0, 0, 100, 100]), (1, 1, [0, 0, 100, 100])])

    assert matched(truth, found((1, 1, [0, 0, 100, 100], 0.9))).gt_index.tolist() == [1]


def test_a_box_taken_at_a_low_threshold_is_still_free_at_a_high_one() -> None:
    """The ten thresholds are ten separate assignments: the better second detection has it from .85 on."""
    truth = coco([(1, 1, [0, 0, 100, 100])])
    results = found((1, 1, [10, 0, 100, 100], 0.9), (1, 1, [1, 0, 100, 100], 0.8))

    hits = matched(truth, results).true_positive

    assert hits[:, 0].tolist() == [True] * 7 + [False] * 3
    assert hits[:, 1].tolist() == [False] * 7 + [True] * 3


def test_pairs_come_in_blocks_of_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowded set would fill the memory with pairs at once; a row that is cut would lose its best partner."""
    monkeypatch.setattr(matching, "_PAIRS_AT_ONCE", 4)
    a, b = np.array([0, 0, 1, 2, 3]), np.array([0, 0, 0, 1, 3, 3])

    blocks = [list(zip(*map(np.ndarray.tolist, block), strict=True)) for block in matching.blocks_of_pairs(a, b, 5)]

    assert blocks == [[(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1), (1, 2), (2, 3)], [(4, 4), (4, 5)]]


def test_at_most_one_hundred_detections_of_an_image_and_class_are_kept() -> None:
    """maxDets, as in the engines; the 101st would be a hit."""
    noise = [(1, 1, [300.0 + n, 200, 9, 9], 0.9 - n / 1000) for n in range(100)]

    matches = matched(coco([(1, 1, [0, 0, 40, 40])]), found(*noise, (1, 1, [0, 0, 40, 40], 0.1)))

    assert len(matches.scores) == 100
    assert not matches.true_positive.any()


def test_boxes_outside_the_area_range_are_ignored_on_both_sides() -> None:
    """A large box is no miss among the small ones, and a large stray detection no false positive."""
    truth = coco([(1, 1, [0, 0, 20, 20]), (1, 1, [200, 0, 100, 100])])
    results = found((1, 1, [0, 0, 20, 20], 0.5), (1, 1, [200, 0, 100, 100], 0.9), (1, 1, [500, 0, 100, 100], 0.8))

    matches = matched(truth, results, "small")

    assert matches.n_gt == 1
    assert matches.ignored[0].tolist() == [True, True, False]


def test_overlaps_of_less_than_a_pixel_count_as_in_pycocotools() -> None:
    """Pairs of boxes whose overlap is half a pixel wide or high, or only an edge, or nothing, or within a crowd."""
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0.5, 0.5]], float)
    b = np.array([[9.5, 0, 10, 10], [0, 9.5, 10, 10], [10, 0, 10, 10], [30, 30, 1, 1], [0, 0, 0.5, 1]], float)

    for crowd in (False, True):
        theirs = [np.asarray(mask.iou(one[None], other[None], [crowd])).item() for one, other in zip(a, b, strict=True)]

        assert matching.iou_of_pairs(a, b, np.full(5, crowd)).tolist() == pytest.approx(theirs, abs=1e-12)
