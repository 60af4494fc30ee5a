"""Calibration is measured on what would be shown, fails closed when nothing is, and Platt scaling keeps the ranking."""

from __future__ import annotations

import numpy as np
import pytest

from dentsight_pipeline.evaluation import calibration
from dentsight_pipeline.evaluation.matching import ClassMatches


def matches_with(scores: np.ndarray, hits: np.ndarray, images: int = 10) -> ClassMatches:
    """One class with given scores and hits, spread over images."""
    order = np.argsort(-scores, kind="stable")
    true = np.tile(hits[order].astype(bool), (10, 1))
    n = len(scores)
    where = np.arange(n)[order] % images
    gap = np.full(n, -1)
    return ClassMatches("a", where, gap, scores[order], true, np.zeros_like(true), gap, np.zeros(n), np.full(images, 5))


def error_of(matches: ClassMatches, threshold: float, platt: calibration.Platt | None = None) -> float:
    """Detection ECE with every image counted once."""
    return calibration.bin_counts(matches, threshold, platt).error(np.ones((10, 1)))[0]


def test_the_calibration_error_by_hand() -> None:
    """Bin [14/15, 1]: mean score .95, precision ½, n 4; bin [.2, .267]: .25 against 0, n 1. (4·.45 + 1·.25)/5."""
    matches = matches_with(np.array([0.94, 0.96, 0.94, 0.96, 0.25]), np.array([1, 0, 1, 0, 0]))

    assert error_of(matches, 0.0) == pytest.approx((4 * 0.45 + 0.25) / 5)


def test_only_detections_at_or_above_the_threshold_count() -> None:
    """Hundreds of near-zero scores are 'calibrated' by nature and would drown the ones that a user sees."""
    shown = matches_with(np.array([0.94, 0.96, 0.94, 0.96]), np.array([1, 0, 1, 0]))
    buried = matches_with(
        np.concatenate([[0.94, 0.96, 0.94, 0.96], np.full(400, 0.001)]), np.concatenate([[1, 0, 1, 0], np.zeros(400)])
    )

    assert error_of(buried, 0.5) == pytest.approx(error_of(shown, 0.5))
    assert error_of(buried, 0.0) < 0.01


def test_nothing_above_the_threshold_is_undefined_and_never_a_perfect_zero() -> None:
    """A model that asserts nothing must not pass as well calibrated; gates fail it on n = 0."""
    counts = calibration.bin_counts(matches_with(np.array([0.3]), np.array([1])), np.inf)

    assert np.isnan(counts.error(np.ones((10, 1)))[0])
    assert counts.seen.sum() == 0


def test_a_score_of_one_falls_into_the_last_bin() -> None:
    """An index of 15 would raise or wrap round."""
    counts = calibration.bin_counts(matches_with(np.array([1.0, 0.0]), np.array([1, 0])), 0.0)

    assert counts.seen.sum(axis=1)[[0, 14]].tolist() == [1, 1]


def test_platt_scaling_mends_overconfidence_and_keeps_the_ranking() -> None:
    """Fitted on one half, it must help on the other and must not move AP: the order of scores stays."""
    rng = np.random.default_rng(0)
    true_probability = rng.beta(2, 3, 4000)
    hits = rng.random(4000) < true_probability
    overconfident = 1 / (1 + np.exp(-(3 * np.log(true_probability / (1 - true_probability)) + 1)))
    fit = calibration.fit_platt(matches_with(overconfident[:2000], hits[:2000]), 0.0)
    held_out = matches_with(overconfident[2000:], hits[2000:])

    assert fit is not None
    assert error_of(held_out, 0.0) > 0.1
    assert error_of(held_out, 0.0, fit) < 0.05
    assert fit.slope == pytest.approx(1 / 3, rel=0.15)
    assert (np.diff(fit(held_out.scores)) <= 0).all()


def test_platt_scaling_is_that_of_logistic_regression() -> None:
    """A second witness: scikit-learn's unpenalised regression on the logit, up to Platt's smoothing of the targets."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.01, 0.99, 5000)
    hits = rng.random(5000) < scores**2
    fit = calibration.fit_platt(matches_with(scores, hits), 0.0)
    theirs = linear_model.LogisticRegression(C=np.inf).fit(np.log(scores / (1 - scores))[:, None], hits)

    assert fit is not None
    assert fit.slope == pytest.approx(theirs.coef_[0, 0], rel=0.01)
    assert fit.intercept == pytest.approx(theirs.intercept_[0], abs=0.01)


@pytest.mark.parametrize(
    ("scores", "hits"),
    [
        (np.linspace(0.1, 0.9, 10), np.arange(10) % 2),
        (np.linspace(0.1, 0.9, 50), np.ones(50)),
        (np.linspace(0.1, 0.9, 50), np.arange(50) < 25),
        (np.full(50, 0.5), np.arange(50) % 2),
    ],
    ids=["too few", "only hits", "ranking would turn round", "one score"],
)
def test_a_fit_that_cannot_be_trusted_is_not_made(scores, hits) -> None:
    """Then the scores stay as they are; a fit that turned the ranking round would destroy AP."""
    assert calibration.fit_platt(matches_with(scores, hits), 0.0) is None


def test_scores_beyond_one_are_no_probabilities() -> None:
    """Logits of a foreign detector rank, but have no calibration."""
    assert not calibration.scores_are_probabilities([matches_with(np.array([3.0]), np.array([1]))])
    assert calibration.scores_are_probabilities([matches_with(np.array([1.0, 0.0]), np.array([1, 0]))])
