"""Challenger against champion: the same resamples for both, and only on the same ground truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from dentsight_pipeline.documents.evaluation import Measurement
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation import bootstrap, engines
from dentsight_pipeline.evaluation.validation import digest_of
from dentsight_pipeline_tests.evaluation.conftest import compared, evaluated, random_set


def worsened(results: list, seed: int = 0, spread: float = 0.05) -> list:
    """The same detections with noisier scores."""
    rng = np.random.default_rng(seed)
    return [{**r, "score": float(np.clip(r["score"] + rng.normal(0, spread), 0.001, 1))} for r in results]


def row_of(measurements: Sequence[Measurement], metric: str, name: str) -> Measurement:
    """The one measurement of that name."""
    (row,) = [row for row in measurements if (row.metric, row.class_name) == (metric, name)]
    return row


def test_the_difference_is_that_of_the_two_evaluations() -> None:
    """Point values by pycocotools, for each class and macro."""
    truth, champion = random_set(1, images=40)
    challenger = worsened(champion)

    comparison = compared(truth, challenger, champion, resamples=50)

    ours, theirs = (engines.coco_statistics(truth, r, "pycocotools") for r in (challenger, champion))
    assert ours.ap50 is not None and theirs.ap50 is not None
    assert row_of(comparison.measurements, "paired_delta_ap50", "macro").value == pytest.approx(ours.ap50 - theirs.ap50)
    for name in ours.classes:
        expected = (ours.per_class[name]["ap"] or 0) - (theirs.per_class[name]["ap"] or 0)
        assert row_of(comparison.measurements, "paired_delta_ap", name).value == pytest.approx(expected, abs=1e-12)


def test_pairing_makes_the_interval_much_tighter() -> None:
    """Two separate intervals would hide every difference that a small test split can show."""
    truth, champion = random_set(2, images=80)
    challenger = worsened(champion)

    paired = row_of(compared(truth, challenger, champion, resamples=400).measurements, "paired_delta_ap50", "macro")

    macro = [evaluated(truth, r, resamples=400).document.populations["all"].macro for r in (challenger, champion)]
    apart = math.hypot(*((m.ap50_high or 0) - (m.ap50_low or 0) for m in macro))
    assert (paired.high or 0) - (paired.low or 0) < apart / 1.8


def test_a_model_against_itself_differs_by_exactly_nothing() -> None:
    """[0, 0] is right for a difference, unlike for a score."""
    truth, results = random_set(3, images=30)

    row = row_of(compared(truth, results, results, resamples=30).measurements, "paired_delta_ap", "macro")

    assert (row.value, row.low, row.high) == (0.0, 0.0, 0.0)


def test_the_clean_images_decide_where_they_are_known() -> None:
    """As for every gate."""
    truth, results = random_set(4, images=40)
    for n, image in enumerate(truth["images"]):
        image["clean"] = n < 25

    comparison = compared(truth, worsened(results), results, resamples=20)

    assert comparison.population == "clean"
    clean = {image["id"] for image in truth["images"] if image["clean"]}
    boxes = sum(a["image_id"] in clean for a in truth["annotations"])
    assert row_of(comparison.measurements, "paired_delta_ap", "macro").n == boxes


def test_a_champion_of_other_ground_truth_is_refused() -> None:
    """Figures on different images cannot be compared, however alike the files look."""
    truth, results = random_set(5)

    with pytest.raises(EvaluationError, match="predict with the champion on this test split first"):
        compared(truth, results, results, champion_ground_truth_sha256=digest_of(random_set(6)[0]))


def test_draws_can_be_subtracted() -> None:
    """The paired difference is taken resample by resample."""
    a = bootstrap.Draws(np.array([1.0]), np.array([1.0, 2.0]), np.array([3.0]))

    assert (a - a).resampled.tolist() == [0.0, 0.0]
