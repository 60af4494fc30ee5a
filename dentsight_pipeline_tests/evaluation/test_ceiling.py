"""The label ceiling: by hand, and in simulation against annotators whose noise is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import ArrayLike

from dentsight_pipeline.data.agreement import PairedBoxes
from dentsight_pipeline.documents.evaluation import LabelCeiling
from dentsight_pipeline.evaluation.ceiling import FIGURES, CountedPairs, count_pairs, label_ceilings, one_score_ap
from dentsight_pipeline.phantom.annotator import AnnotatorNoise, read_boxes

CLASSES = ("caries", "crown", "restoration")
SIZE = (1400.0, 700.0)
SIDES = {"caries": (24.0, 35.0), "crown": (90.0, 80.0), "restoration": (50.0, 40.0)}
MEAN = {"caries": 2.0, "crown": 0.8, "restoration": 1.2}
FIRST = AnnotatorNoise(missed={"caries": 0.2}, spread=0.02)
SECOND = AnnotatorNoise(
    missed={"caries": 0.35, "restoration": 0.12},
    missed_else=0.03,
    renamed={"crown": ("restoration", 0.06), "restoration": ("crown", 0.06)},
    added={"caries": 0.6},
    spread=0.05,
)


def pair(source: str, a: Mapping[str, ArrayLike], b: Mapping[str, ArrayLike], names=CLASSES) -> PairedBoxes:
    """A pair of readings, boxes by class name."""
    in_a, in_b = ({names.index(k) + 1: np.array(v, float) for k, v in of.items()} for of in (a, b))
    return PairedBoxes(source, in_a, in_b, np.ones(len(names), bool))


def ceilings(pairs: list[PairedBoxes], names=CLASSES) -> dict[str, LabelCeiling]:
    """The rows by class."""
    return {row.class_name: row for row in label_ceilings(count_pairs(pairs, names), resamples=50)}


def test_the_ceiling_of_two_annotators_is_that_computed_by_hand() -> None:
    """A has two boxes, B three, one is shared: as detections A reaches P 1/2 and R 1/3, B P 1/3 and R 1/2."""
    one = [[10, 10, 20, 20], [100, 10, 20, 20]]
    other = [[10, 10, 20, 20], [300, 10, 20, 20], [400, 10, 20, 20]]

    row = ceilings([pair("s", {"caries": one}, {"caries": other})])["caries"]

    assert row.ap50.value == pytest.approx((1 / 2 * 34 / 101 + 1 / 3 * 51 / 101) / 2)
    assert row.f1.value == pytest.approx(2 / 5)
    assert (row.pairs, row.sources, row.boxes) == (1, 1, 5)


def test_an_annotator_who_marked_nothing_agrees_with_nothing() -> None:
    """Whoever looked and left all to the other: AP against an empty truth is undefined, the other way it is 0."""
    boxes = {"caries": [[10, 10, 20, 20], [100, 10, 20, 20]]}

    for row in (ceilings([pair("s", *given)])["caries"] for given in ((boxes, {}), ({}, boxes))):
        assert (row.ap50.value, row.ap.value, row.f1.value, row.boxes) == (0, 0, 0, 2)


def test_a_class_that_nobody_looked_for_is_no_agreement() -> None:
    """An uncovered class says nothing: read as 'none there', its boxes would be additions of the other annotator."""
    seen = pair("s", {"caries": [[10, 10, 20, 20]]}, {"caries": [[10, 10, 20, 20]]})
    blind = PairedBoxes("t", seen.in_a, {}, np.array([False, True, True]))

    assert ceilings([seen, blind])["caries"].pairs == 1
    assert ceilings([seen, blind])["caries"].ap50.value == pytest.approx(1)


def test_one_score_gives_the_ap_that_an_engine_gives_with_ties() -> None:
    """All boxes of one score, hits first or last, bracket the closed form, which is the mean over the orders."""
    hits_first = one_score_ap(np.array([[3.0]]), np.array([4.0]), np.array([5.0]))[0, 0]

    assert hits_first == pytest.approx(3 / 4 * 61 / 101)
    assert one_score_ap(np.array([[0.0]]), np.array([4.0]), np.array([5.0]))[0, 0] == 0
    assert np.isnan(one_score_ap(np.array([[0.0]]), np.array([4.0]), np.array([0.0]))[0, 0])


def test_kappa_by_tooth_is_over_the_teeth_that_both_numbered() -> None:
    """Tooth 12 is numbered by one alone: what the other says of it is unknown, not a denial."""
    names = ("11", "12", "21", "22", "caries")
    both = {"11": [[0, 0, 50, 150]], "21": [[120, 0, 50, 150]]}
    a = {**both, "12": [[60, 0, 50, 150]], "caries": [[10, 100, 20, 20], [70, 100, 20, 20]]}
    b = {**both, "22": [[180, 0, 50, 150]], "caries": [[12, 100, 20, 20], [190, 100, 20, 20]]}

    counts = count_pairs([pair("s", a, b, names)], names).by_class["caries"]

    assert counts.teeth[0].tolist() == [[1, 0], [0, 1]]  # 21: neither; 11: both


def test_nothing_labelled_twice_has_no_ceiling() -> None:
    """An empty list is said as such by the report; a ceiling of 0 would condemn every floor."""
    assert label_ceilings(CountedPairs((), {})) == ()


def corpus(sources: int, rng: np.random.Generator) -> list[PairedBoxes]:
    """X-rays read by two annotators of known noise."""
    pairs = []
    for number in range(sources):
        truth = {
            name: np.hstack([rng.random((n, 2)) * (np.array(SIZE) - 100), np.tile(SIDES[name], (n, 1))])
            for name in CLASSES
            if (n := int(rng.poisson(MEAN[name] * rng.gamma(2, 0.5))))
        }
        a, b = (read_boxes(truth, noise, SIZE, rng) for noise in (FIRST, SECOND))
        pairs.append(pair(f"{number}", a, b))
    return pairs


@pytest.mark.slow
def test_the_interval_covers_the_true_ceiling() -> None:
    """In 200 corpora of 60 twice-read sources each 90 % interval holds the ceiling of 6,000 in at least 85 %."""
    rng = np.random.default_rng(0)
    truth = count_pairs(corpus(6000, rng), CLASSES).by_class
    exact = {name: counts(np.ones((6000, 1)))[:, 0] for name, counts in truth.items()}
    held = {(name, figure): 0 for name in CLASSES for figure in ("ap", "ap50", "f1")}

    for _ in range(200):
        for row in label_ceilings(count_pairs(corpus(60, rng), CLASSES), resamples=300):
            for figure in ("ap", "ap50", "f1") if row.class_name in exact else ():
                found, true = getattr(row, figure), exact[row.class_name][FIGURES.index(figure)]
                held[row.class_name, figure] += found.low is not None and found.low <= true <= found.high

    assert min(held.values()) >= 0.85 * 200, held
