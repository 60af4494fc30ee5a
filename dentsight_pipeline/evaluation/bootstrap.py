"""Intervals by resampling sources, not images: BCa, from one set of weights that every statistic shares.

A resample draws source groups with replacement; image i then has weight wᵢ = how often its group was drawn, and every
statistic of `metrics`, `operating_points`, … is a function of those weights, equal to what recomputation on the
duplicated data would give. Two models are compared with the same weights (paired), which is about three times tighter.

All intervals are two-sided 90 %: their ends are the one-sided 95 % bounds that gates use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from dentsight_pipeline.documents.evaluation import Bounds

ALPHA = 0.10
"""Two-sided error; each end is a one-sided 95 % bound."""
MINIMUM_GROUPS = 5
"""Source groups with the class below which no interval is given at all. The coverage is as stated from about 30 groups
on (benchmarks/bootstrap_coverage.py: false PASS at the floor at most .10; .09 to .12 with 20 to 30); below that an
interval is wide and still a little optimistic, so a gate policy states its own, higher minimum."""
MINIMUM_USABLE = 0.9
"""Share of resamples in which a statistic must be defined."""
_JACKKNIFE_BLOCKS = 400
_ROUNDING = 1e-12  # a perfect AP comes out as 1 − 3e-16
_CELLS_AT_ONCE = 2_000_000
_LEAST_COLUMNS = 16
_EXACT = "at the end of its range: at least the exact binomial bound for {} source groups"


@dataclass(frozen=True)
class Weights:
    """Image weights of one population; I images, B resamples, J jackknife replicates.

    Attributes:
        columns: [I, 1 + B + J] uint8: the population itself (ones), how often each image's group was drawn, and 0 for
            the images of the groups left out, else 1.
        resamples: B.
        groups: [I] group of each image, 0 … n_groups − 1.
        n_groups: How many source groups there are.
    """

    columns: np.ndarray
    resamples: int
    groups: np.ndarray
    n_groups: int

    def subset(self, images: np.ndarray) -> Weights:
        """Those of the images where the mask `images` [I] is true."""
        return self if images.all() else replace(self, columns=self.columns[images], groups=self.groups[images])

    @property
    def resampled(self) -> np.ndarray:
        """[I, B] how often each image occurs in each resample."""
        return self.columns[:, 1 : 1 + self.resamples]

    @property
    def jackknife(self) -> np.ndarray:
        """[I, J] 0 for the images left out, else 1."""
        return self.columns[:, 1 + self.resamples :]


@dataclass(frozen=True)
class Interval:
    """A value with its bounds; None where it cannot be measured, with the reason in `note`."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def bounds(self) -> Bounds:
        """As documents have it; they keep the note elsewhere."""
        return Bounds(value=self.value, low=self.low, high=self.high)

    def named(self, name: str) -> dict[str, float | None]:
        """As fields of a document: `name`, `name_low` and `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Draws:
    """One statistic on the population [·, 1], the resamples [·, B] and the jackknife replicates [·, J]."""

    point: np.ndarray
    resampled: np.ndarray
    jackknife: np.ndarray

    def __sub__(self, other: Draws) -> Draws:
        return Draws(self.point - other.point, self.resampled - other.resampled, self.jackknife - other.jackknife)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Draws:
        """Apply a function of arrays [·, B] to all three."""
        return Draws(function(self.point), function(self.resampled), function(self.jackknife))


def draw(groups: np.ndarray, resamples: int = 1000, seed: int = 0) -> Weights:
    """Draw the weights of one population.

    Args:
        groups: [I] any labels of source groups.
        resamples: B; with 0 there are no intervals, hence no jackknife replicates either.
        seed: Of numpy's PCG64; the same seed and groups give the same weights.

    Returns:
        The weights. With more than 400 groups the jackknife leaves out blocks of groups: third and second cumulants
        of independent groups both add up over a block, so the acceleration it estimates is the same.
    """
    _, index = np.unique(groups, return_inverse=True)
    n_groups = int(index.max()) + 1 if len(index) else 0
    if not n_groups:
        return Weights(np.ones((0, resamples + 2), np.uint8), resamples, index, 0)
    rng = np.random.default_rng(seed)
    drawn = _multinomial(rng, n_groups, resamples)
    n_blocks = min(n_groups, _JACKKNIFE_BLOCKS) if resamples else 0
    columns = np.ones((len(index), 1 + resamples + n_blocks), np.uint8)
    columns[:, 1 : 1 + resamples] = drawn[index]
    block = rng.permutation(n_groups) % max(n_blocks, 1)
    columns[:, 1 + resamples :] = block[index][:, None] != np.arange(n_blocks)[None, :]
    return Weights(columns, resamples, index, n_groups)


def _multinomial(rng: np.random.Generator, n_groups: int, resamples: int) -> np.ndarray:
    """[G, B] uint8: how often each group is drawn. That one of many is drawn 256 times has a chance below 1e-500."""
    drawn = np.empty((n_groups, resamples), np.uint8)
    share = np.full(n_groups, 1 / n_groups)
    at_once = max(1, _CELLS_AT_ONCE // n_groups)
    for start in range(0, resamples, at_once):
        piece = drawn[:, start : start + at_once]
        piece[:] = rng.multinomial(n_groups, share, size=piece.shape[1]).T
    return drawn


def draws(statistic: Callable[[np.ndarray], np.ndarray], weights: Weights) -> Draws:
    """Evaluate a statistic of image weights [I, B] → [·, B] on everything that an interval needs.

    As many columns are evaluated together as fit into some 16 MB, so that a table built for the statistic is walked
    few times.
    """
    n_images, n_columns = weights.columns.shape
    at_once = max(_LEAST_COLUMNS, _CELLS_AT_ONCE // max(1, n_images))
    blocks = (weights.columns[:, start : start + at_once] for start in range(0, n_columns, at_once))
    values = np.concatenate([statistic(block.astype(np.float64)) for block in blocks], axis=-1)
    last = 1 + weights.resamples
    return Draws(values[..., :1], values[..., 1:last], values[..., last:])


def interval(
    sample: Draws,
    units: int,
    *,
    at: tuple[int, ...] = (),
    bounds: tuple[float, float] | None = (0.0, 1.0),
    alpha: float = ALPHA,
) -> Interval:
    """The BCa interval of one statistic (Efron 1987; DiCiccio and Efron 1996, eq. 2.3), expanded for few units.

    Resampling n units understates their spread by √((n−1)/n) and ignores that it is itself estimated, so the normal
    quantile is replaced by t₍ₙ₋₁₎·√(n/(n−1)) (Hesterberg 2015, "expanded" intervals). With hundreds of units that is
    nothing; with twenty it takes the simulated false-PASS rate of a class from .12 to .09.

    Args:
        sample: Its draws.
        units: Source groups that carry information about it, e.g. those with ground truth of the class.
        at: Index of the statistic within the draws' leading axes.
        bounds: The statistic's range. When the point is one of these bounds, the other end is at least as far away
            as the exact binomial bound for `units` of `units` (1 − α/2 one-sided): a perfect score on few sources
            must not look certain.
        alpha: Two-sided error.

    Returns:
        The value, with bounds unless there are too few units or the statistic is undefined too often.
    """
    point = float(sample.point[at][0])
    resampled = sample.resampled[at]
    values = resampled[np.isfinite(resampled)]
    if not np.isfinite(point):
        return Interval(None, note="not measurable: undefined on this population")
    if units < MINIMUM_GROUPS:
        return Interval(point, note=f"no interval: {units} source groups, {MINIMUM_GROUPS} are needed")
    if len(values) < MINIMUM_USABLE * len(resampled) or not len(values):
        return Interval(point, note=f"no interval: defined in only {len(values)} resamples")
    exact = _at_a_bound(point, units, bounds, alpha)
    apart = values - point
    if (np.abs(apart) <= _ROUNDING).all():
        return _never_differs(point, exact, bounds, units)
    low, high = (float(end) for end in np.quantile(values, _bca_levels(apart, sample.jackknife[at], units, alpha)))
    if exact is None:
        return Interval(point, low, high)
    return Interval(point, min(low, exact[0]), max(high, exact[1]), _EXACT.format(units))


def _never_differs(
    point: float, exact: tuple[float, float] | None, bounds: tuple[float, float] | None, units: int
) -> Interval:
    """What is known where every resample gives the same value."""
    if exact is not None:
        return Interval(point, *exact, _EXACT.format(units))
    if bounds is None:  # a difference that is always 0
        return Interval(point, point, point, "every resample gives the same value")
    return Interval(point, note="no interval: every resample gives the same value")


def _bca_levels(apart: np.ndarray, jackknife: np.ndarray, units: int, alpha: float) -> np.ndarray:
    """[2] the quantiles of the resamples that bound the interval, from their differences to the point."""
    same = np.abs(apart) <= _ROUNDING
    # Ties between resamples and the point count half, or a discrete statistic would look biased.
    share = (np.count_nonzero((apart < 0) & ~same) + 0.5 * np.count_nonzero(same)) / len(apart)
    bias = ndtri(np.clip(share, 0.5 / len(apart), 1 - 0.5 / len(apart)))
    quantiles = stdtrit(units - 1, np.array([alpha / 2, 1 - alpha / 2])) * np.sqrt(units / (units - 1))
    shift = bias + quantiles
    return ndtr(bias + shift / np.maximum(1 - _acceleration(jackknife) * shift, 1e-6))


def units_with(counts: np.ndarray, weights: Weights) -> int:
    """Source groups that have at least one of what `counts` [I] counts."""
    return len(np.unique(weights.groups[counts > 0]))


def needed_images(measured: Interval, n_images: int, half_width: float = 0.05) -> int | None:
    """About how many images a half-width of `half_width` would take, if the width falls with √n; None if unknown."""
    if measured.low is None or measured.high is None or measured.low == measured.high:
        return None
    return int(np.ceil(n_images * ((measured.high - measured.low) / 2 / half_width) ** 2))


def _acceleration(jackknife: np.ndarray) -> float:
    """Σ(θ̄ − θᵢ)³ / 6(Σ(θ̄ − θᵢ)²)^1.5 over leave-out replicates (Efron and Tibshirani 1993, eq. 14.15)."""
    values = jackknife[np.isfinite(jackknife)]
    if not len(values):
        return 0.0
    apart = values.mean() - values
    spread = float((apart**2).sum())
    return float((apart**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0


def _at_a_bound(
    point: float, units: int, bounds: tuple[float, float] | None, alpha: float
) -> tuple[float, float] | None:
    """The exact binomial interval when the point is one of its bounds, where hardly any resample differs; else None."""
    if bounds is None:
        return None
    low, high = bounds
    reach = (1 - (alpha / 2) ** (1 / units)) * (high - low)
    if abs(point - high) <= _ROUNDING:
        return high - reach, high
    return (low, low + reach) if abs(point - low) <= _ROUNDING else None
