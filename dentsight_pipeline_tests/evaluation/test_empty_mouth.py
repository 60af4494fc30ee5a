"""Exact intervals for small counts, checked against published and hand-derived values."""

from __future__ import annotations

import pytest

from dentsight_pipeline.evaluation.empty_mouth import clopper_pearson, garwood, images_needed


def test_fifty_nine_empty_images_show_less_than_five_percent() -> None:
    """1 − .05^(1/n) < .05 from n = 59 on: the number that EVALUATION.md states."""
    assert images_needed() == 59
    assert (clopper_pearson(0, 59).high or 1) < 0.05
    assert (clopper_pearson(0, 58).high or 0) > 0.05


def test_clopper_pearson_is_that_of_scipy() -> None:
    """A second witness, at several counts."""
    from scipy.stats import binomtest

    for events, trials in ((0, 10), (3, 20), (20, 20), (7, 150)):
        theirs = binomtest(events, trials).proportion_ci(0.9, method="exact")
        measured = clopper_pearson(events, trials)
        assert (measured.low, measured.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_garwood_matches_the_published_table() -> None:
    """Two-sided 95 % for 10 events: 4.795 to 18.39 (Garwood 1936); 90 % for none: 0 to 2.996."""
    ten, none = garwood(10, 1, alpha=0.05), garwood(0, 1)

    assert (ten.low, ten.high) == (pytest.approx(4.795, abs=1e-3), pytest.approx(18.39, abs=1e-2))
    assert (none.low, none.high) == (0.0, pytest.approx(2.9957, abs=1e-4))


def test_a_rate_is_per_image() -> None:
    """Ten events on four images are as many on one, divided by four; a proportion is of its trials."""
    ten, four = garwood(10, 1), garwood(10, 4)

    assert (four.value, four.low, four.high) == pytest.approx((2.5, (ten.low or 0) / 4, (ten.high or 0) / 4))
    assert (clopper_pearson(7, 20).value, clopper_pearson(20, 20).high, clopper_pearson(0, 20).low) == (0.35, 1.0, 0.0)


def test_a_looser_bound_needs_fewer_images_and_one_that_is_nearly_met_too_many() -> None:
    """1 − .05^(1/29) is .098 and .05^(1/28) leaves .101; a rate a ten-thousandth below would take millions."""
    assert images_needed(below=0.1) == 29
    assert images_needed(below=0.96) == 1
    assert images_needed(rate=0.0499) is None


def test_without_an_empty_image_nothing_is_measured() -> None:
    """0 of 0 is no rate of 0."""
    assert clopper_pearson(0, 0).value is None
    assert garwood(0, 0).value is None


def test_more_images_are_needed_when_false_positives_occur() -> None:
    """At a true rate of 2 % about 250 images; at 5 % no number would do."""
    needed = images_needed(rate=0.02)

    assert needed is not None and 150 < needed < 500
    assert (clopper_pearson(round(0.02 * needed + 0.499), needed).high or 1) < 0.05
    assert images_needed(rate=0.05) is None
