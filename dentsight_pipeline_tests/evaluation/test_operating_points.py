"""Thresholds come from raw matches, ties are kept or dropped as one, and unreachable means recall 0 at +∞."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dentsight_pipeline.evaluation import matching
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.operating_points import PointTable, ScoreCurve, counts_at, pooled, score_curve
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import coco, found

BOXES = [[100.0 * n, 0, 40, 40] for n in range(25)]


def matches_of(scores_hit: list[float], scores_missed: list[float], n_gt: int) -> ClassMatches:
    """One image with hits and false positives of the given scores."""
    truth = read_ground_truth(coco([(1, 1, box) for box in BOXES[:n_gt]]))
    hits = [(1, 1, BOXES[n], score) for n, score in enumerate(scores_hit)]
    misses = [(1, 1, [50.0 * n, 300, 20, 20], score) for n, score in enumerate(scores_missed)]
    return matching.match(truth, read_detections(found(*hits, *misses), truth))[0]["all"]


def curve_of(scores_hit: list[float], scores_missed: list[float], n_gt: int) -> ScoreCurve:
    """The curve of `matches_of`; there is one as soon as there is ground truth."""
    curve = score_curve(matches_of(scores_hit, scores_missed, n_gt))
    assert curve is not None
    return curve


def test_recall_at_precision_is_the_largest_recall_that_keeps_the_precision() -> None:
    """19 hits, a false positive (19/20 = .95 exactly), then a hit: 20 of 21 is .952, so all 20 boxes."""
    scores = [0.9 - n / 1000 for n in range(19)]

    point = curve_of([*scores, 0.1], [0.5], 20).recall_at_precision()

    assert (point.recall, point.threshold) == (1.0, 0.1)
    assert point.precision == pytest.approx(20 / 21)


def test_a_precision_of_exactly_the_target_counts() -> None:
    """19 of 20 is .95 in floating point too."""
    point = curve_of([0.9] * 18 + [0.4], [0.5], 20).recall_at_precision()

    assert (point.recall, point.precision) == (19 / 20, 0.95)


def test_an_unreachable_precision_is_recall_zero_at_an_infinite_threshold() -> None:
    """The false positive comes first: no threshold has a precision of .95, and none must be invented."""
    point = curve_of([0.5, 0.4], [0.9], 2).recall_at_precision()

    assert (point.recall, point.threshold, point.precision) == (0.0, math.inf, None)


def test_a_table_of_points_gives_what_the_curve_gives() -> None:
    """For weights of one: an unreachable precision is a recall of 0, and F1 and FROC are those counted by hand."""
    unreachable, reached = (
        PointTable.from_matches(matches_of(*given)) for given in (([0.5, 0.4], [0.9], 2), ([0.9], [0.5], 2))
    )
    never = PointTable.from_matches(matches_of([], [0.9], 2))
    one = np.ones((1, 1))

    assert [table.recall_at_precision(one)[0] for table in (unreachable, reached, never)] == [0, 0.5, 0]
    assert [table.best_f1(one)[0] for table in (unreachable, reached, never)] == [
        pytest.approx(4 / 5),
        pytest.approx(2 / 3),
        0,
    ]
    assert unreachable.sensitivity_at(one, (0.5, 1.0)).tolist() == [[0], [1]]
    assert reached.sensitivity_at(one, (0.5, 1.0)).tolist() == [[0.5], [0.5]]
    assert np.isnan(reached.recall_at_precision(0 * one)[0])


def test_points_of_a_curve_are_spread_and_hold_the_best() -> None:
    """Of 200 places some 20,000 scores have; the threshold that is used must be one of them."""
    curve = curve_of([0.9 - n / 100 for n in range(7)], [0.1 - n / 1000 for n in range(5)], 7)

    assert len(curve.scores) == 12
    assert curve.points(3).tolist() == [0, 6, 11]
    assert curve.points(2).tolist() == [0, 6, 11]
    assert curve.points(50).tolist() == list(range(12))


def test_detections_of_one_score_are_kept_or_dropped_together() -> None:
    """Between the hit and the false positive at .8 no threshold can be put; a curve with both points would lie."""
    curve = curve_of([0.8], [0.8], 1)

    assert curve.scores.tolist() == [0.8]
    assert curve.precision.tolist() == [0.5]
    assert curve.recall_at_precision().recall == 0


def test_best_f1_by_hand() -> None:
    """Hit .9, miss .8, hit .7, miss .6 on 3 boxes: F1 = .5, .4, .667, .571."""
    curve = curve_of([0.9, 0.7], [0.8, 0.6], 3)

    assert curve.f1.tolist() == pytest.approx([1 / 2, 2 / 5, 2 / 3, 4 / 7])
    assert curve.best_f1().threshold == 0.7


def test_a_model_that_never_hits_has_no_best_threshold() -> None:
    """F1 is 0 everywhere; the threshold is +∞, so nothing is shown."""
    assert curve_of([], [0.9], 1).best_f1().threshold == math.inf


def test_without_ground_truth_there_is_no_curve() -> None:
    """Recall of nothing is undefined, not 0 and not 1."""
    assert score_curve(matches_of([], [0.9], 0)) is None


def test_the_raw_curve_is_not_the_monotone_envelope() -> None:
    """The engine's envelope says precision ⅔ at the false positive; what a user gets there is ½."""
    curve = curve_of([0.9, 0.7], [0.8], 2)

    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])


def test_counts_at_a_threshold_include_the_threshold_itself() -> None:
    """Keep scores at or above it, as chosen."""
    counts = counts_at(matches_of([0.9, 0.5], [0.5], 3), 0.5)

    one = np.ones((1, 1))
    assert counts.precision(one)[0] == pytest.approx(2 / 3)
    assert counts.recall(one)[0] == pytest.approx(2 / 3)
    assert counts.f1(one)[0] == pytest.approx(2 / 3)
    assert np.isnan(counts_at(matches_of([0.9], [], 1), math.inf).precision(one)[0])


def test_pooling_keeps_each_class_its_own_match() -> None:
    """FROC over all classes counts a detection as a hit only for the class it names."""
    truth = read_ground_truth(coco([(1, 1, BOXES[0]), (1, 2, BOXES[1])], classes=("caries", "crown")))
    results = found((1, 1, BOXES[0], 0.5), (1, 1, BOXES[1], 0.9), (1, 2, BOXES[1], 0.7))

    both = pooled([by_area["all"] for by_area in matching.match(truth, read_detections(results, truth))])

    assert (both.name, both.scores.tolist()) == ("all", [0.9, 0.7, 0.5])
    assert both.true_positive[0].tolist() == [False, True, True]
    assert both.n_gt == 2


def test_pooling_counts_a_hit_of_iou_50_and_leaves_out_what_is_ignored_there() -> None:
    """Boxes that overlap by .52 are hits, though not at .55, and one ignored at .50 alone is no false positive."""
    truth = read_ground_truth(coco([(1, 1, (0, 0, 100, 100))], classes=("caries", "crown")))
    results = found((1, 1, (0, 0, 100, 52), 0.5), (1, 2, (0, 0, 10, 10), 0.4))
    caries, crown = (by_area["all"] for by_area in matching.match(truth, read_detections(results, truth)))
    crown.ignored[0] = True

    both = pooled([caries, crown])

    assert both.true_positive.tolist() == [[True, False]]
    assert both.ignored.tolist() == [[False, True]]
