"""AFROC and wAFROC: a published worked example, the definition by brute force, and the evaluation's own figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dentsight_pipeline.evaluation import matching
from dentsight_pipeline.evaluation.afroc import FiguresOfMerit, Ratings
from dentsight_pipeline.evaluation.evaluate import coco_inputs
from dentsight_pipeline_tests.evaluation.conftest import coco, evaluated, found, random_set

PUBLISHED = Ratings(
    normal=np.arange(4),
    highest=np.array([-np.inf, 0.5, 0.7, -0.3]),
    diseased=np.array([4, 5, 6, 6, 7, 7]),
    rated=np.array([0.9, -0.2, 1.6, -np.inf, 3.0, 2.0]),
    share=np.array([1, 1, 0.1, 0.9, 0.9, 0.1]),
    n_images=8,
)
"""Four normal and four diseased cases of Chakraborty's online FROC book (dpc10ster/RJafrocFrocBook, "Meanings of FROC
figures of merit"), which prints RJafroc's `UtilFigureOfMerit`: AFROC 0.7708333, wAFROC 0.678125."""


def _figures(ratings: Ratings, weights: np.ndarray | None = None) -> np.ndarray:
    return FiguresOfMerit(ratings)(np.ones((ratings.n_images, 1)) if weights is None else weights)


def test_the_published_example_gives_the_published_figures() -> None:
    """RJafroc's numbers to every printed digit; a tie of what nobody marked counts half."""
    afroc, wafroc = _figures(PUBLISHED)[:, 0]

    assert afroc == pytest.approx(0.7708333, abs=5e-8)
    assert wafroc == pytest.approx(0.678125, abs=1e-12)


def test_other_published_weights_give_their_figure() -> None:
    """An earlier edition of the same page has the third case's weights as .6 and .4, and prints 0.7875."""
    again = replace(PUBLISHED, share=np.array([1, 1, 0.6, 0.4, 0.4, 0.6]))

    assert _figures(again)[1, 0] == pytest.approx(0.7875, abs=1e-12)


def test_the_area_under_the_curve_is_the_figure() -> None:
    """Chakraborty's first theorem; the straight end belongs to the area."""
    fractions, sensitivities = PUBLISHED.curve()

    assert np.trapezoid(sensitivities, fractions) == pytest.approx(0.678125, abs=1e-12)


def test_weights_of_images_are_copies_of_images() -> None:
    """The bootstrap rests on it: an image drawn twice is two images."""
    truth, results = random_set(5, images=30, ties=True)
    given = coco_inputs(truth, results)
    ratings = Ratings.of(matching.match_all_sizes(given.truth, given.found)[0])
    drawn = np.random.default_rng(0).integers(0, 3, ratings.n_images)

    by_hand = np.zeros(2)
    per_case: dict[int, list[float]] = {}
    pairs = below = 0.0
    for image, rated, share in zip(ratings.diseased, ratings.rated, ratings.share, strict=True):
        worth = [float(x < rated) + 0.5 * float(x == rated) for x in ratings.highest]
        beaten = float(np.dot(worth, drawn[ratings.normal]))
        pairs += drawn[image] * drawn[ratings.normal].sum()
        below += drawn[image] * beaten
        per_case.setdefault(int(image), []).append(share * beaten)
    by_hand[0] = below / pairs
    cases = sum(drawn[image] for image in per_case)
    by_hand[1] = sum(drawn[image] * sum(own) for image, own in per_case.items()) / (cases * drawn[ratings.normal].sum())

    assert _figures(ratings, drawn[:, None].astype(float))[:, 0] == pytest.approx(by_hand, abs=1e-12)


def test_a_missed_finding_and_a_silent_x_ray_are_a_tie() -> None:
    """One found above all, one missed; two normal X-rays, one with a false positive: (2 + 0 + .5) of 4 pairs."""
    truth = coco([(1, 1, [0, 0, 10, 10]), (2, 1, [0, 0, 10, 10])], images=4)
    results = found((1, 1, [0, 0, 10, 10], 0.9), (3, 1, [50, 50, 10, 10], 0.4))

    document = evaluated(truth, results, resamples=0).document

    own = document.afroc["caries"]
    assert (own.afroc.value, own.wafroc.value) == (0.625, 0.625)
    assert (own.normal_images, own.diseased_images, own.findings) == (2, 2, 2)


def test_without_a_normal_x_ray_there_is_no_figure() -> None:
    """Unknown is never read as good."""
    document = evaluated(coco([(1, 1, [0, 0, 10, 10])]), found((1, 1, [0, 0, 10, 10], 0.9))).document

    assert document.afroc["caries"].wafroc.value is None


def test_normal_images_are_those_in_which_somebody_looked() -> None:
    """A false positive where nobody looked is no false positive."""
    truth = coco([(1, 1, [0, 0, 10, 10])], images=3)
    truth["images"][2]["covered"] = []
    truth["categories"].append({"id": 2, "name": "crown"})
    truth["images"][2]["covered"] = [2]
    results = found((1, 1, [0, 0, 10, 10], 0.5), (3, 1, [50, 50, 10, 10], 0.9))

    own = evaluated(truth, results, resamples=0).document.afroc["caries"]

    assert (own.normal_images, own.wafroc.value) == (1, 1.0)
