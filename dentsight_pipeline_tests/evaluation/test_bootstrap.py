"""The bootstrap by weights is recomputation on duplicated data, only faster; its intervals do not claim too much."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dentsight_pipeline.evaluation import bootstrap, matching, metrics, operating_points
from dentsight_pipeline.evaluation.bootstrap import Draws, draw, interval
from dentsight_pipeline.evaluation.engines import coco_statistics
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import random_set


def duplicated(truth: dict, results: list, weights: np.ndarray) -> tuple[dict, list]:
    """The data set in which image i really occurs weights[i] times, copies beside each other."""
    images, annotations, detections = [], [], []
    for image, times in zip(truth["images"], weights.astype(int).tolist(), strict=True):
        for copy in range(times):
            new = image["id"] * 1000 + copy
            images.append({**image, "id": new})
            for record in truth["annotations"]:
                if record["image_id"] == image["id"]:
                    annotations.append({**record, "image_id": new, "id": len(annotations) + 1})
            detections += [{**r, "image_id": new} for r in results if r["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": annotations}, detections


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), crowds=st.booleans())
def test_a_weighted_metric_equals_recomputation_on_duplicated_data(seed, crowds) -> None:
    """The whole bootstrap rests on this: weights are not an approximation, in any area range and at any IoU."""
    truth, results = random_set(seed, crowds=crowds)
    columns = read_ground_truth(truth)
    matched = matching.match(columns, read_detections(results, columns))
    weights = draw(columns.groups, resamples=3, seed=seed).resampled

    weighted = [
        {area: metrics.CurveTable.from_matches(m).average_precision(weights) for area, m in by_area.items()}
        for by_area in matched
    ]

    for b in range(3):
        again = coco_statistics(*duplicated(truth, results, weights[:, b]))
        for k in range(len(columns.class_names)):
            for a, (precision, recall) in enumerate(weighted[k].values()):
                expected = again.precision[:, :, k, a, 2].mean(axis=1)
                assert np.nan_to_num(precision[:, b], nan=-1) == pytest.approx(expected, abs=3e-15)
                assert np.nan_to_num(recall[:, b], nan=-1) == pytest.approx(again.recall[:, k, a, 2], abs=3e-15)


def test_many_resamples_at_once_give_what_one_at_a_time_gives() -> None:
    """Few rows are walked for all columns together, many rows column by column; neither may differ."""
    truth, results = random_set(3, images=40, crowds=True)
    columns = read_ground_truth(truth)
    weights = draw(columns.groups, resamples=20, seed=1).resampled

    for by_area in matching.match(columns, read_detections(results, columns)):
        table = metrics.CurveTable.from_matches(by_area["all"])
        together = table.average_precision(weights)
        one_by_one = [table.average_precision(weights[:, b : b + 1]) for b in range(20)]
        for own, parts in zip(together, zip(*one_by_one, strict=True), strict=True):
            assert own == pytest.approx(np.concatenate(parts, axis=1), abs=3e-15, nan_ok=True)


def test_work_in_pieces_gives_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by pieces of columns; neither the weights drawn nor any figure may depend on their size."""
    truth, results = random_set(3, images=40, crowds=True)
    columns = read_ground_truth(truth)
    matches = matching.match(columns, read_detections(results, columns))[0]["all"]

    def everything() -> list[np.ndarray]:
        weights = draw(columns.groups, resamples=150, seed=1)
        points = operating_points.PointTable.from_matches(matches)
        curves = metrics.CurveTable.from_matches(matches)
        precision = bootstrap.draws(lambda block: curves.average_precision(block)[0], weights)
        froc = bootstrap.draws(lambda block: points.sensitivity_at(block, (0.5, 2.0)), weights)
        best = bootstrap.draws(points.best_f1, weights)
        return [weights.columns, *(part for own in (precision, froc, best) for part in (own.point, own.resampled))]

    whole = everything()
    for module, cells in ((bootstrap, 1200), (operating_points, 60), (metrics, 500)):
        monkeypatch.setattr(module, "_CELLS_AT_ONCE", cells)
    pieces = everything()

    assert whole[0].shape == (40, 1 + 150 + 40)
    assert [own.shape for own in whole[1:]] == [(10, 1), (10, 150), (2, 1), (2, 150), (1,), (150,)]
    for before, after in zip(whole, pieces, strict=True):
        assert after == pytest.approx(before, abs=3e-15, nan_ok=True)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_weighted_operating_points_equal_recomputation(seed, ties) -> None:
    """R@P≥.95, best F1 and FROC too, with ties as well: a tie is kept or dropped as one."""
    truth, results = random_set(seed, ties=ties)
    columns = read_ground_truth(truth)
    matched = matching.match(columns, read_detections(results, columns))
    weights = draw(columns.groups, resamples=2, seed=seed).resampled

    for b in range(2):
        again_truth, again_results = duplicated(truth, results, weights[:, b])
        again_columns = read_ground_truth(again_truth)
        again = matching.match(again_columns, read_detections(again_results, again_columns))
        for by_area, duplicate in zip(matched, again, strict=True):
            table = operating_points.PointTable.from_matches(by_area["all"])
            curve = operating_points.score_curve(duplicate["all"])
            column = weights[:, b : b + 1]
            if curve is None:
                assert np.isnan(table.best_f1(column)[0])
                continue
            assert table.best_f1(column)[0] == pytest.approx(curve.best_f1().f1, abs=3e-15)
            assert table.recall_at_precision(column)[0] == pytest.approx(curve.recall_at_precision().recall, abs=3e-15)
            false = (1 - curve.precision) * np.round(curve.recall * duplicate["all"].n_gt / curve.precision.clip(1e-9))
            ok = false / len(again_columns.image_ids) <= 1.0 + 1e-9
            expected = curve.recall[ok & (curve.recall > 0)].max(initial=0.0)
            assert table.sensitivity_at(column, (1.0,))[0, 0] == pytest.approx(expected, abs=1e-9)


def test_images_of_one_source_are_drawn_together() -> None:
    """Two X-rays of one patient are not two pieces of evidence."""
    weights = draw(np.array(["a", "b", "a", "c"]), resamples=200, seed=1)

    assert (weights.resampled[0] == weights.resampled[2]).all()
    assert (weights.resampled[:, :] >= 0).all()
    assert (weights.resampled[[0, 1, 3]].sum(axis=0) == 3).all()
    assert weights.n_groups == 3
    assert sorted(weights.jackknife.sum(axis=0).tolist()) == [2, 3, 3]


def test_the_same_seed_draws_the_same_weights() -> None:
    """An evaluation is a manifest: the same inputs must give the same bytes."""
    a, b = (draw(np.arange(50), 20, seed=7) for _ in range(2))

    assert (a.resampled == b.resampled).all()
    assert (a.resampled != draw(np.arange(50), 20, seed=8).resampled).any()


def test_the_interval_of_a_mean_is_the_known_one() -> None:
    """For the mean of many values BCa must come close to mean ± 1.645 s/√n."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    weights = draw(np.arange(400), 4000, seed=0)

    measured = interval(bootstrap.draws(lambda w: values @ w / w.sum(axis=0), weights), 400, bounds=None)

    half = 1.645 * values.std() / 20
    assert measured.value == pytest.approx(values.mean())
    assert (measured.low, measured.high) == (
        pytest.approx(values.mean() - half, abs=half / 10),
        pytest.approx(values.mean() + half, abs=half / 10),
    )


def test_bca_is_that_of_scipy() -> None:
    """A second witness on few, skewed values, where bias and acceleration matter; with units → ∞ no t-expansion."""
    from scipy.stats import bootstrap as scipy_bootstrap

    values = np.random.default_rng(3).lognormal(0.0, 0.8, 25)
    weights = draw(np.arange(25), 20_000, seed=0)

    measured = interval(bootstrap.draws(lambda w: values @ w / w.sum(axis=0), weights), 10**9, bounds=None)

    theirs = scipy_bootstrap((values,), np.mean, n_resamples=20_000, confidence_level=0.9, method="BCa", rng=1)
    plain = scipy_bootstrap((values,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=1)
    assert measured.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert measured.high == pytest.approx(theirs.confidence_interval.high, abs=0.1)
    assert theirs.confidence_interval.high - plain.confidence_interval.high > 0.5


def test_a_biased_statistic_is_corrected() -> None:
    """Resamples that lie above the point on average pull the interval down: AP of a finite sample is such a one."""
    resampled = np.random.default_rng(0).normal(0.52, 0.05, 20_000)

    measured = interval(Draws(np.array([0.5]), resampled, np.full(50, 0.5)), 10**9, bounds=None)

    assert measured.low == pytest.approx(0.52 - 2 * 0.02 - 1.645 * 0.05, abs=0.005)
    assert measured.high == pytest.approx(0.52 - 2 * 0.02 + 1.645 * 0.05, abs=0.005)


def test_few_units_get_a_wider_interval() -> None:
    """Twenty sources say less than their resamples pretend: t quantiles and √(n/(n−1)) widen it."""
    sample = Draws(np.array([0.5]), np.random.default_rng(0).normal(0.5, 0.1, 200_000), np.full(20, 0.5))

    few, many = interval(sample, 20, bounds=None), interval(sample, 5000, bounds=None)

    assert few.low is not None and few.high is not None and many.low is not None and many.high is not None
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(1.729 * math.sqrt(20 / 19) / 1.645, rel=0.01)


def test_too_few_sources_give_no_interval() -> None:
    """A gate reads the lack of an interval as INCONCLUSIVE; a bound from two sources would be a pretence."""
    sample = Draws(np.array([0.5]), np.linspace(0, 1, 100), np.full(4, 0.5))

    measured = interval(sample, 4)

    assert (measured.value, measured.low, measured.high) == (0.5, None, None)
    assert "4 source groups" in measured.note


def test_a_statistic_undefined_in_many_resamples_gives_no_interval() -> None:
    """A class that vanishes from every fifth resample has too little ground truth."""
    resampled = np.where(np.arange(100) % 5 == 0, np.nan, 0.5 + np.arange(100) / 1000)

    measured = interval(Draws(np.array([0.5]), resampled, np.full(30, 0.5)), 30)

    assert measured.low is None
    assert "defined in only 80 resamples" in measured.note


def test_a_perfect_score_on_few_sources_does_not_look_certain() -> None:
    """[1, 1] from ten sources would pass every gate; the exact binomial bound of 10 of 10 is .741."""
    nearly_one = 1 - 3e-16  # what 101 interpolated precisions of 1 add up to
    measured = interval(Draws(np.array([nearly_one]), np.ones(100), np.ones(10)), 10)

    assert measured.low == pytest.approx(0.05 ** (1 / 10))
    assert measured.high == 1.0


@pytest.mark.parametrize(("point", "low", "high"), [(1.0, 0.05 ** (1 / 10), 1.0), (0.0, 0.0, 1 - 0.05 ** (1 / 10))])
def test_a_few_resamples_that_differ_do_not_make_the_end_of_the_range_certain(point, low, high) -> None:
    """With 4 of 100 resamples elsewhere BCa alone says [1, 1], less than when none is: a hard gate would pass on it."""
    resampled = np.where(np.arange(100) < 4, 0.9 * point + 0.05, point)

    measured = interval(Draws(np.array([point]), resampled, np.full(10, point)), 10)

    assert (measured.low, measured.high) == (pytest.approx(low), pytest.approx(high))


def test_a_zero_on_many_sources_still_fails_a_floor() -> None:
    """A model that never finds the class must be able to FAIL, not only to be inconclusive."""
    measured = interval(Draws(np.array([0.0]), np.zeros(100), np.zeros(60)), 60)

    assert (measured.low, measured.high) == (0.0, pytest.approx(1 - 0.05 ** (1 / 60)))


def test_an_undefined_figure_has_no_value() -> None:
    """NaN becomes None with a reason, never 0."""
    measured = interval(Draws(np.array([np.nan]), np.ones(10), np.ones(10)), 50)

    assert measured.value is None
    assert "not measurable" in measured.note


def test_needed_images_grow_with_the_square_of_the_width() -> None:
    """Half the width takes four times the images."""
    measured = bootstrap.Interval(0.5, 0.4, 0.6)

    assert bootstrap.needed_images(measured, 100) == 400
    assert bootstrap.needed_images(bootstrap.Interval(0.5), 100) is None
    assert bootstrap.needed_images(bootstrap.Interval(0.0, 0.0, 0.0), 100) is None
