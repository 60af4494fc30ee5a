"""Tier 3: does the model agree with dentists as well as dentists agree with each other?

A finding is yes or no for one tooth × condition (an item). Δ = mean κ(model, dentist) − mean κ(dentist, dentist), with
an interval by resampling images; the model is non-inferior if the lower bound lies above −δ. κ depends on how common a
finding is, so Gwet's AC1 and Krippendorff's α stand beside it.

A dentist is never compared with a majority that includes himself: that lifts κ from .40 to .66. `majority_of_others`
is the only majority here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.bootstrap import Interval, draw, draws, interval


@dataclass(frozen=True)
class Agreement:
    """Tier 3 on one set of items.

    Attributes:
        delta: Δ with its interval.
        margin: δ.
        non_inferior: Lower bound above −δ; None without an interval, which never counts as passed.
        model_kappa: Mean κ of the model with each dentist.
        dentist_kappa: Mean κ over pairs of dentists.
        model_ac1: Mean AC1 of the model with each dentist.
        dentist_ac1: Mean AC1 over pairs of dentists.
        dentist_alpha: Krippendorff's α of the dentists.
        alpha_with_model: Krippendorff's α when the model is one more reader.
        items: Items that at least two readers rated.
        images: Images they lie on.
    """

    delta: Interval
    margin: float
    non_inferior: bool | None
    model_kappa: float | None
    dentist_kappa: float | None
    model_ac1: float | None
    dentist_ac1: float | None
    dentist_alpha: float | None
    alpha_with_model: float | None
    items: int
    images: int


def dentist_agreement(
    model: np.ndarray,
    dentists: np.ndarray,
    images: np.ndarray,
    *,
    margin: float = 0.05,
    resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Compare the model's agreement with dentists to that among dentists.

    Args:
        model: [N] findings of the model per item, 0 or 1; NaN = not rated.
        dentists: [R, N] findings of R ≥ 2 dentists on the same items.
        images: [N] image (or source group) of each item: the resampling unit.
        margin: δ of non-inferiority, in κ.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Raises:
        EvaluationError: Fewer than two dentists, other values than 0, 1 and NaN, or shapes that differ.
    """
    model, dentists = np.asarray(model, np.float64), np.asarray(dentists, np.float64)
    if dentists.ndim != 2 or dentists.shape[0] < 2 or dentists.shape[1:] != model.shape or len(images) != len(model):
        raise EvaluationError(
            f"Agreement needs findings [items] of the model and [dentists ≥ 2, items] of the dentists, got "
            f"{model.shape} and {dentists.shape} on {len(images)} items. Give every reader the same list of items."
        )
    for who, ratings in (("model", model), ("dentists", dentists)):
        wrong = ratings[~np.isnan(ratings) & ~np.isin(ratings, (0.0, 1.0))]
        if len(wrong):
            raise EvaluationError(f"Ratings of the {who} hold {wrong[0]:g}. A finding is 1, 0 or NaN (not rated).")
    _, item_image = np.unique(np.asarray(images), return_inverse=True)
    n_images = int(item_image.max()) + 1
    weights = draw(np.arange(n_images), resamples, seed)
    with_model = [_joint(model, dentist, item_image, n_images) for dentist in dentists]
    among = [_joint(a, b, item_image, n_images) for a, b in combinations(dentists, 2)]

    def difference(w: np.ndarray) -> np.ndarray:
        return _mean_over(with_model, cohens_kappa, w) - _mean_over(among, cohens_kappa, w)

    delta = interval(draws(difference, weights), n_images, bounds=None)
    one = np.ones((n_images, 1))
    return Agreement(
        delta=delta,
        margin=margin,
        non_inferior=None if delta.low is None else delta.low > -margin,
        model_kappa=_number(_mean_over(with_model, cohens_kappa, one)[0]),
        dentist_kappa=_number(_mean_over(among, cohens_kappa, one)[0]),
        model_ac1=_number(_mean_over(with_model, gwets_ac1, one)[0]),
        dentist_ac1=_number(_mean_over(among, gwets_ac1, one)[0]),
        dentist_alpha=_number(krippendorffs_alpha(dentists)),
        alpha_with_model=_number(krippendorffs_alpha(np.vstack([dentists, model]))),
        items=int((np.sum(~np.isnan(np.vstack([dentists, model])), axis=0) >= 2).sum()),
        images=n_images,
    )


def majority_of_others(dentists: np.ndarray, reader: int) -> np.ndarray:
    """[N] what most of the other dentists say; NaN where they tie or none rated. Never includes `reader` himself."""
    others = np.delete(np.asarray(dentists, np.float64), reader, axis=0)
    rated = (~np.isnan(others)).sum(axis=0)
    share = np.divide(np.nansum(others, axis=0), rated, out=np.full(others.shape[1], np.nan), where=rated > 0)
    return np.where(np.isnan(share) | (share == 0.5), np.nan, (share > 0.5).astype(float))


def cohens_kappa(cells: np.ndarray) -> np.ndarray:
    """Cohen's κ (1960) from counts [2, 2, …]; NaN where chance alone explains everything (both readers constant)."""
    total = cells.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (cells[0, 0] + cells[1, 1]) / total
        a_yes, b_yes = cells[1].sum(axis=0) / total, cells[:, 1].sum(axis=0) / total
        chance = a_yes * b_yes + (1 - a_yes) * (1 - b_yes)
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def gwets_ac1(cells: np.ndarray) -> np.ndarray:
    """Gwet's AC1 (2008) from counts [2, 2, …]: chance = 2π(1−π) with π the mean share of yes."""
    total = cells.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (cells[0, 0] + cells[1, 1]) / total
        share = (cells[1].sum(axis=0) + cells[:, 1].sum(axis=0)) / (2 * total)
        chance = 2 * share * (1 - share)
        return (observed - chance) / (1 - chance)


def krippendorffs_alpha(ratings: np.ndarray) -> float:
    """Krippendorff's α for nominal data (2011), any number of readers, NaN = not rated.

    Args:
        ratings: [R, N] of 0, 1 or NaN.

    Returns:
        1 − observed / expected disagreement; NaN when no two ratings differ anywhere or nothing is paired.
    """
    yes, no = np.nansum(ratings, axis=0), np.nansum(1 - ratings, axis=0)
    rated = yes + no
    paired = rated >= 2
    yes, no, rated = yes[paired], no[paired], rated[paired]
    total, all_yes, all_no = rated.sum(), yes.sum(), no.sum()
    expected = 2 * all_yes * all_no / (total - 1) if total > 1 else 0.0
    if expected == 0:
        return float("nan")
    return float(1 - (2 * yes * no / (rated - 1)).sum() / expected)


def _joint(a: np.ndarray, b: np.ndarray, item_image: np.ndarray, n_images: int) -> np.ndarray:
    """[2, 2, I] counts per image of what readers a (axis 0) and b (axis 1) say where both rated."""
    both = ~np.isnan(a) & ~np.isnan(b)
    cells = np.zeros((2, 2, n_images))
    np.add.at(cells, (a[both].astype(int), b[both].astype(int), item_image[both]), 1.0)
    return cells


def _mean_over(
    joints: list[np.ndarray], coefficient: Callable[[np.ndarray], np.ndarray], weights: np.ndarray
) -> np.ndarray:
    """[B] mean of a coefficient over pairs of readers; NaN as soon as one pair is undefined."""
    return np.mean([coefficient(joint @ weights) for joint in joints], axis=0)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
