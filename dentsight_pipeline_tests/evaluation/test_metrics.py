"""Weighted AP in the corners: no ground truth, nothing found, ignored boxes."""

from __future__ import annotations

import numpy as np
import pytest

from dentsight_pipeline.evaluation import matching, metrics
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import coco, found


def test_the_macro_mean_is_over_present_classes_alone() -> None:
    """A class that a resample lost is absent there, as recomputation would have it; none present is NaN."""
    per_class = np.array([[0.2, np.nan], [0.4, np.nan], [np.nan, np.nan]])

    means = metrics.macro(per_class)

    assert means[0] == pytest.approx(0.3)
    assert np.isnan(means[1])


def test_an_image_of_weight_zero_is_as_if_absent() -> None:
    """Without its only image a class has no ground truth; with the other one alone its AP is that one's."""
    truth = read_ground_truth(coco([(1, 1, [0, 0, 40, 40]), (2, 1, [0, 0, 40, 40])], images=3))
    results = found((1, 1, [0, 0, 40, 40], 0.9), (3, 1, [0, 0, 40, 40], 0.95))
    table = metrics.CurveTable.from_matches(matching.match(truth, read_detections(results, truth))[0]["all"])

    precision, recall = table.average_precision(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]).T)

    assert precision[0, :2] == pytest.approx([1.0, 0.0], abs=1e-12)
    assert recall[0, :2].tolist() == [1.0, 0.0]
    assert np.isnan(precision[0, 2])


def test_a_detection_on_a_crowd_region_is_neither_hit_nor_false_positive() -> None:
    """COCO ignores it; counting it would punish a model for what annotators did not separate."""
    truth = coco([(1, 1, [0, 0, 40, 40]), (1, 1, [200, 0, 200, 200])])
    truth["annotations"][1]["iscrowd"] = 1
    columns = read_ground_truth(truth)
    results = found((1, 1, [210, 10, 20, 20], 0.9), (1, 1, [250, 10, 20, 20], 0.8), (1, 1, [0, 0, 40, 40], 0.7))

    matches = matching.match(columns, read_detections(results, columns))[0]["all"]

    assert matches.n_gt == 1
    assert matches.ignored[0].tolist() == [True, True, False]
    assert metrics.average_precision(matches)[0][0] == pytest.approx(1.0)
