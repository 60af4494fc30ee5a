"""Does a score mean what it says? Detection calibration error, reliability bins, Platt scaling.

Only detections at or above the class's operating threshold (or a stated floor) count: over all 300 detections of an
image the error is dominated by the near-zero ones, and a collapsed head looks *better* calibrated (.027) than a healthy
one (.047). Nothing left above the threshold is a failure (error 1), never a perfect 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from dentsight_pipeline.documents.evaluation import ReliabilityBin
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.operating_points import ratio

BINS = 15
_MINIMUM_FIT = 20
_CLOSEST = 1e-12


@dataclass(frozen=True)
class BinCounts:
    """Per image and bin of the score; I images, 15 equal bins on [0, 1].

    Attributes:
        seen: [15, I] sparse; detections.
        score_sums: [15, I] sparse; their scores added up.
        hits: [15, I] sparse; true positives at IoU .50.
    """

    seen: sparse.csr_array
    score_sums: sparse.csr_array
    hits: sparse.csr_array

    def __add__(self, other: BinCounts) -> BinCounts:
        return BinCounts(self.seen + other.seen, self.score_sums + other.score_sums, self.hits + other.hits)

    def error(self, weights: np.ndarray) -> np.ndarray:
        """[B] detection ECE = Σ_b n_b/N · |mean score − precision_b| for weights [I, B]; NaN when nothing is left."""
        seen = self.seen @ weights
        gap = np.abs(self.score_sums @ weights - self.hits @ weights).sum(axis=0)
        return ratio(gap, seen.sum(axis=0))

    def bins(self) -> tuple[ReliabilityBin, ...]:
        """The reliability diagram: one row a bin with its edges, n, mean score and precision (None when empty)."""
        sums = (table.sum(axis=1) for table in (self.seen, self.score_sums, self.hits))
        return tuple(
            ReliabilityBin(
                low=b / BINS,
                high=(b + 1) / BINS,
                n=int(seen),
                mean_score=float(scores / seen) if seen else None,
                precision=float(hits / seen) if seen else None,
            )
            for b, (seen, scores, hits) in enumerate(zip(*sums, strict=True))
        )


@dataclass(frozen=True)
class Platt:
    """calibrated = σ(slope · logit(score) + intercept); slope > 0, so the ranking, and with it AP, is kept."""

    slope: float
    intercept: float
    n: int

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return _sigmoid(self.slope * _logit(scores) + self.intercept)


def scores_are_probabilities(matches: Sequence[ClassMatches]) -> bool:
    """Whether all scores lie in [0, 1]; otherwise calibration has no meaning and is not measured."""
    return all(len(m.scores) == 0 or (m.scores[-1] >= 0 and m.scores[0] <= 1) for m in matches)


def bin_counts(matches: ClassMatches, threshold: float, platt: Platt | None = None) -> BinCounts:
    """Count the detections of one class at or above `threshold`, by bin of the (rescaled) score."""
    kept = (matches.scores >= threshold) & ~matches.ignored[0]
    scores = matches.scores[kept] if platt is None else platt(matches.scores[kept])
    cells = np.minimum((scores * BINS).astype(int), BINS - 1), matches.image_index[kept]

    def table(values: np.ndarray) -> sparse.csr_array:
        return sparse.csr_array((values, cells), shape=(BINS, len(matches.gt_counts)))

    return BinCounts(table(np.ones(len(scores))), table(scores), table(matches.true_positive[0][kept].astype(float)))


def fit_platt(matches: ClassMatches, threshold: float) -> Platt | None:
    """Fit the scaling of one class on the validation split, on what would be shown: scores at or above the threshold.

    Targets are smoothed, (n₊+1)/(n₊+2) and 1/(n₋+2), as in Platt (1999); Newton steps on the log likelihood.

    Returns:
        None when there are fewer than 20 detections, only hits or only misses, or when the fit would turn the
        ranking round: the scores then stay as they are.
    """
    kept = (matches.scores >= threshold) & ~matches.ignored[0]
    hits = matches.true_positive[0][kept]
    positive, n = int(hits.sum()), int(kept.sum())
    if n < _MINIMUM_FIT or positive in (0, n):
        return None
    target = np.where(hits, (positive + 1) / (positive + 2), 1 / (n - positive + 2))
    design = np.column_stack([_logit(matches.scores[kept]), np.ones(n)])  # [n, 2]
    if np.ptp(design[:, 0]) == 0:
        return None

    slope, intercept = _newton(design, target)
    return Platt(slope, intercept, n) if np.isfinite([slope, intercept]).all() and slope > 0 else None


def _newton(design: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the least loss: Newton's method, each step halved until it does not climb."""

    def loss(beta: np.ndarray) -> float:
        z = design @ beta
        return float(np.logaddexp(0, z).sum() - target @ z)

    beta = np.array([1.0, 0.0])
    for _ in range(100):
        p = _sigmoid(design @ beta)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step, length = np.linalg.solve(hessian, design.T @ (p - target)), 1.0
        while loss(beta - length * step) > loss(beta) and length > 1e-8:
            length /= 2
        beta = beta - length * step
        if np.abs(length * step).max() < 1e-10:
            break
    return float(beta[0]), float(beta[1])


def total(counts: Mapping[str, BinCounts]) -> BinCounts:
    """All classes together."""
    first, *rest = counts.values()
    for more in rest:
        first = first + more
    return first


def _logit(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores, _CLOSEST, 1 - _CLOSEST)
    return np.log(clipped) - np.log1p(-clipped)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))
