"""Model against dentists, dentists against dentists; coefficients against hand values and a library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dentsight_pipeline.data.agreement import kappas
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.agreement import (
    agreement_of_readings,
    dentist_agreement,
    gwets_ac1,
    krippendorffs_alpha,
)

CELLS = np.array([[40.0, 9.0], [6.0, 45.0]])


def readers(n: int, error: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A hidden truth and readers who each err independently."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    return truth.astype(float), np.array([np.where(rng.random(n) < error, ~truth, truth) for _ in range(count)], float)


def test_kappa_and_ac1_by_hand() -> None:
    """Observed .85; κ: chance .51·.54 + .49·.46 = .5008; AC1: π = .525, chance 2·.525·.475."""
    assert kappas(CELLS) == pytest.approx((0.85 - 0.5008) / (1 - 0.5008))
    assert gwets_ac1(CELLS) == pytest.approx((0.85 - 0.49875) / (1 - 0.49875))


def test_kappa_is_undefined_when_both_readers_never_vary() -> None:
    """Chance explains everything; 0 or 1 would both be inventions."""
    assert np.isnan(kappas(np.array([[10.0, 0], [0, 0]])))


def test_krippendorffs_alpha_is_that_of_the_library_with_gaps() -> None:
    """A second witness, with ratings missing at random."""
    library = pytest.importorskip("krippendorff")
    ratings = readers(300, 0.15, 4, 0)[1]
    ratings[np.random.default_rng(1).random(ratings.shape) < 0.3] = np.nan

    theirs = library.alpha(reliability_data=ratings, level_of_measurement="nominal", value_domain=[0, 1])

    assert krippendorffs_alpha(ratings) == pytest.approx(theirs, abs=1e-12)


def test_every_figure_of_four_items_is_that_computed_by_hand() -> None:
    """The model says what the first dentist says, the second differs once; the last item has one rating and no pair.

    κ of 2/3 observed and 4/9 by chance is .4; α of the dentists: 2 of 2·3·3/5, with the model 2 of 2·5·4/8.
    """
    first, second, nan = [1, 1, 0, np.nan], [1, 0, 0, 1], np.nan

    result = dentist_agreement(
        np.array([1, 1, 0, nan]),
        np.array([first, second]),
        np.array(["x", "x", "y", "y"]),
        condition="caries",
        resamples=0,
    )

    figures = (result.model_kappa, result.dentist_kappa, result.delta.value, result.model_ac1, result.dentist_ac1)
    assert figures == pytest.approx((0.7, 0.4, 0.3, (1 + 1 / 3) / 2, 1 / 3))
    assert (result.dentist_alpha, result.alpha_with_model) == pytest.approx((1 - 2 / 3.6, 1 - 2 / 5))
    assert (result.items, result.images, result.non_inferior, result.condition) == (3, 2, None, "caries")
    assert np.isnan(krippendorffs_alpha(np.array([[1, nan], [1, nan]])))
    assert np.isnan(krippendorffs_alpha(np.array([[1, nan], [nan, 0]])))


def test_a_model_as_good_as_a_dentist_is_non_inferior() -> None:
    """Readers and model err alike: Δ is about 0 and its lower bound above −δ."""
    _, ratings = readers(4000, 0.1, 4, 2)

    result = dentist_agreement(ratings[0], ratings[1:], np.arange(4000) // 20, margin=0.05)

    assert result.delta.value == pytest.approx(0.0, abs=0.03)
    assert result.non_inferior is True
    assert (result.items, result.images) == (4000, 200)


def test_a_worse_model_is_not() -> None:
    """Three times the errors of a dentist."""
    truth, ratings = readers(4000, 0.1, 3, 3)
    model = np.where(np.random.default_rng(4).random(4000) < 0.3, 1 - truth, truth)

    result = dentist_agreement(model, ratings, np.arange(4000) // 20)

    assert result.non_inferior is False
    assert result.delta.high is not None and result.delta.high < 0


def test_a_point_within_the_margin_is_not_enough() -> None:
    """Non-inferior is decided by the lower bound: with ten images a Δ of about 0 proves nothing."""
    _, ratings = readers(200, 0.15, 3, 8)

    result = dentist_agreement(ratings[0], ratings[1:], np.arange(200) // 20, margin=0.05)

    assert result.delta.value is not None and result.delta.value > -0.05
    assert result.delta.low is not None and result.delta.low < -0.05
    assert result.non_inferior is False


def test_without_an_interval_non_inferiority_is_unknown() -> None:
    """Three images decide nothing; None is never taken as passed."""
    _, ratings = readers(60, 0.1, 3, 5)

    assert dentist_agreement(ratings[0], ratings[1:], np.arange(60) // 20).non_inferior is None


def csv_of(path: Path, ratings: dict[str, list[float]]) -> Path:
    """Readings of caries on one tooth of as many images as there are ratings; NaN = left empty."""
    lines = [
        f"{reader},{image},16,caries,{'' if np.isnan(value) else int(value)}"
        for reader, values in ratings.items()
        for image, value in enumerate(values)
    ]
    path.write_text("\n".join(["reader,image,tooth,condition,present", *lines]) + "\n")
    return path


def test_a_file_of_readings_is_compared_by_condition(tmp_path: Path) -> None:
    """What a reader study is delivered as; a dentist who left an item out has no say in it."""
    _, ratings = readers(60, 0.1, 3, 6)
    ratings[1, 0] = np.nan
    path = csv_of(tmp_path / "readings.csv", dict(zip(("us", "ann", "bob"), ratings.tolist(), strict=True)))

    caries, everything = agreement_of_readings(path, model="us", resamples=50)

    expected = dentist_agreement(ratings[0], ratings[1:], np.arange(60), resamples=50)
    assert (caries.condition, everything.condition) == ("caries", "all")
    assert caries.delta.value == pytest.approx(expected.delta.value)
    assert (caries.items, caries.images, caries.dentist_kappa) == (60, 60, pytest.approx(expected.dentist_kappa))


def test_readings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Two answers of one reader on one tooth: nobody knows which one was meant."""
    path = csv_of(tmp_path / "readings.csv", {"model": [1, 0], "ann": [1, 1], "bob": [0, 0]})
    path.write_text(path.read_text() + "ann,1,16,caries,0\n")

    with pytest.raises(EvaluationError, match="ann rates caries of tooth 16 on 1 2 times"):
        agreement_of_readings(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reader,image,tooth,present\nmodel,1,16,1\n", "no file of readings"),
        ("reader,image,tooth,condition,present\nmodel,1,16,caries,perhaps\n", "no file of readings"),
        ("reader,image,tooth,condition,present\nann,1,16,caries,1\n", "no reader 'model'; it has ann"),
        ("reader,image,tooth,condition,present\n", "no reader 'model'; it has no reading at all"),
    ],
)
def test_what_is_no_reader_study_is_refused(tmp_path: Path, text, message) -> None:
    """A missing column or a word for a finding is a mistake of the file, not a disagreement of readers."""
    (tmp_path / "readings.csv").write_text(text)

    with pytest.raises(EvaluationError, match=message):
        agreement_of_readings(tmp_path / "readings.csv")


@pytest.mark.parametrize(
    ("model", "dentists", "message"),
    [
        (np.zeros(3), np.zeros((1, 3)), "dentists ≥ 2"),
        (np.zeros(3), np.zeros((2, 4)), "the same list of items"),
        (np.full(3, 0.5), np.zeros((2, 3)), "Ratings of the model hold 0.5"),
    ],
)
def test_ratings_that_cannot_be_compared_are_refused(model, dentists, message) -> None:
    """A probability is no finding, and one dentist has no one to agree with."""
    with pytest.raises(EvaluationError, match=message):
        dentist_agreement(model, dentists, np.arange(len(model)))
