"""Rows of the document and what gates see: intervals that fit each other, means over classes that are there."""

from __future__ import annotations

import numpy as np
import pytest

from dentsight_pipeline.evaluation import figures
from dentsight_pipeline.evaluation.bootstrap import Draws, Interval
from dentsight_pipeline.evaluation.figures import macro_of, measurement


def test_an_interval_of_ap50_holds_those_of_ap_and_ap75_from_above() -> None:
    """AP50 is never below the others, so neither are the ends; without an interval of AP50 nothing is known of it."""
    given = {"ap50": Interval(0.2, 0.1, 0.25), "ap": Interval(0.1, 0.15, 0.3), "ap75": Interval(0.05, 0.0, 0.35)}

    wider = figures._nested({**given, "ar100": Interval(0.9, 0.8, 0.95)})

    ends = {name: (own.value, own.low, own.high) for name, own in wider.items()}
    assert ends == {
        "ap50": (0.2, 0.1, 0.35),
        "ap": (0.1, 0.1, 0.3),
        "ap75": (0.05, 0.0, 0.35),
        "ar100": (0.9, 0.8, 0.95),
    }
    unknown = {**given, "ap": Interval(0.1)}
    assert figures._nested(unknown)["ap"] == Interval(0.1)
    assert figures._nested(unknown)["ap50"].high == 0.35
    assert figures._nested({**given, "ap50": Interval(0.2)}) == {**given, "ap50": Interval(0.2)}


def test_a_mean_is_over_the_classes_that_are_there_draw_by_draw() -> None:
    """A class that a resample lost counts in neither."""
    one = Draws(np.array([0.2]), np.array([0.2, np.nan]), np.array([0.1]))
    other = Draws(np.array([0.6]), np.array([0.4, 0.8]), np.array([np.nan]))

    mean = macro_of([one, other])

    assert (mean.point[0], mean.jackknife[0]) == (pytest.approx(0.4), pytest.approx(0.1))
    assert mean.resampled.tolist() == [pytest.approx(0.3), pytest.approx(0.8)]


def test_a_measurement_says_both_notes() -> None:
    """The class's and the interval's, where there are any."""
    row = measurement("ap", "caries", "all", Interval(0.5, 0.4, 0.6, "few"), 7, 3, "mean")

    assert (row.metric, row.class_name, row.population, row.value, row.low, row.high) == (
        "ap",
        "caries",
        "all",
        0.5,
        0.4,
        0.6,
    )
    assert (row.n, row.unit_count, row.note) == (7, 3, "mean; few")
    assert measurement("ap", "caries", "all", Interval(0.5), 7, 3).note == ""
