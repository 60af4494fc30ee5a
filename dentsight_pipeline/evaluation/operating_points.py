"""Thresholds, and what precision and recall are at them, from raw matches at IoU .50.

Not from the engines' `precision` array, which is a monotone envelope on a 1 % grid. Detections of equal score can only
be kept or dropped together, so a curve has one point for each distinct score. Thresholds are chosen on the validation
split and reported on the test split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.metrics import running_sum

PRECISION_TARGET = 0.95
_CELLS_AT_ONCE = 2_000_000
_LEAST_COLUMNS = 2


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the score (keep scores at or above it) and the result there; +∞ keeps nothing."""

    threshold: float
    precision: float | None
    recall: float
    f1: float


@dataclass(frozen=True)
class ScoreCurve:
    """Precision, recall and F1 of one class at every distinct score; E points, scores falling."""

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    def recall_at_precision(self, target: float = PRECISION_TARGET) -> OperatingPoint:
        """R@P: max{TP/n_gt : TP/(TP+FP) ≥ target}; unreachable = recall 0 at threshold +∞.

        Of several thresholds with that recall, the highest, which has the best precision.
        """
        reached = np.flatnonzero((self.precision >= target) & (self.recall > 0))
        if not len(reached):
            return OperatingPoint(math.inf, None, 0.0, 0.0)
        return self._point(reached[np.argmax(self.recall[reached])])

    def best_f1(self) -> OperatingPoint:
        """The highest threshold with the largest F1; +∞ when nothing is ever hit."""
        if not len(self.f1) or self.f1.max() <= 0:
            return OperatingPoint(math.inf, None, 0.0, 0.0)
        return self._point(int(np.argmax(self.f1)))

    def points(self, most: int) -> np.ndarray:
        """Places of at most `most` points, evenly spread, and of the best F1."""
        if not len(self.scores):
            return np.zeros(0, np.intp)
        spread = np.linspace(0, len(self.scores) - 1, min(most, len(self.scores))).round().astype(int)
        return np.unique([*spread, int(np.argmax(self.f1))])

    def _point(self, at: int | np.integer) -> OperatingPoint:
        return OperatingPoint(
            float(self.scores[at]), float(self.precision[at]), float(self.recall[at]), float(self.f1[at])
        )


def score_curve(matches: ClassMatches) -> ScoreCurve | None:
    """The curve of one class, or None without ground truth (nothing could be recalled)."""
    if not matches.n_gt:
        return None
    counted = ~matches.ignored[0]
    scores = matches.scores[counted]
    hits = np.cumsum(matches.true_positive[0][counted])
    ends = _ends_of_ties(scores)
    true, seen = hits[ends], ends + 1
    return ScoreCurve(scores[ends], true / seen, true / matches.n_gt, 2 * true / (matches.n_gt + seen))


@dataclass(frozen=True)
class PointTable:
    """What the operating points of one class need, for any image weights; E points at which a hit is added.

    Points that add false positives alone can neither raise recall nor F1, so they are left out.

    Attributes:
        hits: [E, I] sparse; true positives of each image that a point adds.
        seen: [E, I] sparse; detections of each image that a point adds.
        gt_counts: [I].
    """

    hits: sparse.csr_array
    seen: sparse.csr_array
    gt_counts: np.ndarray

    @classmethod
    def from_matches(cls, matches: ClassMatches) -> PointTable:
        """Condense the matches of one class at IoU .50."""
        counted = ~matches.ignored[0]
        scores, images = matches.scores[counted], matches.image_index[counted]
        true = matches.true_positive[0][counted]
        ends = _ends_of_ties(scores)
        block = np.searchsorted(ends, np.arange(len(scores)))
        useful = np.unique(block[true])
        rows = np.searchsorted(useful, block)  # a block without a hit is added with the next useful one
        kept = rows < len(useful)
        shape = (len(useful), len(matches.gt_counts))

        def table(mask: np.ndarray) -> sparse.csr_array:
            cells = sparse.csr_array((np.ones(int(mask.sum())), (rows[mask], images[mask])), shape=shape)
            cells.sum_duplicates()
            return cells

        return cls(table(true & kept), table(kept), matches.gt_counts.astype(np.float64))

    def recall_at_precision(self, weights: np.ndarray, target: float = PRECISION_TARGET) -> np.ndarray:
        """[B] R@P for each column of `weights` [I, B]; NaN where no ground truth has weight."""

        def best(true: np.ndarray, seen: np.ndarray, n_gt: np.ndarray, _: np.ndarray) -> np.ndarray:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.where(true / seen >= target, true, 0.0).max(axis=0, initial=0.0) / n_gt

        return self._over_blocks(weights, best)

    def best_f1(self, weights: np.ndarray) -> np.ndarray:
        """[B] largest F1 for each column of `weights` [I, B]; NaN where no ground truth has weight."""

        def best(true: np.ndarray, seen: np.ndarray, n_gt: np.ndarray, _: np.ndarray) -> np.ndarray:
            return (2 * true / (n_gt + seen)).max(axis=0, initial=0.0)

        return self._over_blocks(weights, best)

    def sensitivity_at(self, weights: np.ndarray, false_positives_per_image: tuple[float, ...]) -> np.ndarray:
        """[F, B] largest recall with at most so many false positives an image (FROC)."""

        def best(true: np.ndarray, seen: np.ndarray, n_gt: np.ndarray, n_images: np.ndarray) -> np.ndarray:
            per_image = (seen - true) / np.where(n_images > 0, n_images, np.nan)
            limits = (np.where(per_image <= limit, true, 0.0) for limit in false_positives_per_image)
            return np.stack([kept.max(axis=0, initial=0.0) / n_gt for kept in limits])

        return self._over_blocks(weights, best)

    def _over_blocks(self, weights: np.ndarray, best) -> np.ndarray:
        parts = []
        at_once = max(_LEAST_COLUMNS, _CELLS_AT_ONCE // max(1, len(self.hits.indptr) - 1))
        for start in range(0, weights.shape[1], at_once):
            block = np.array(weights[:, start : start + at_once], np.float64)
            n_gt = self.gt_counts @ block
            n_gt = np.where(n_gt > 0, n_gt, np.nan)
            true, seen = running_sum(self.hits @ block), running_sum(self.seen @ block)
            found = best(true, seen, n_gt, block.sum(axis=0))
            parts.append(np.where(np.isnan(n_gt), np.nan, found))
        return np.concatenate(parts, axis=-1)


@dataclass(frozen=True)
class ThresholdCounts:
    """Per image [I]: true positives, detections and ground truth of one class at a fixed threshold, IoU .50."""

    hits: np.ndarray
    seen: np.ndarray
    gt_counts: np.ndarray

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """[B]; NaN where nothing is kept."""
        return ratio(self.hits @ weights, self.seen @ weights)

    def recall(self, weights: np.ndarray) -> np.ndarray:
        """[B]; NaN without ground truth."""
        return ratio(self.hits @ weights, self.gt_counts @ weights)

    def f1(self, weights: np.ndarray) -> np.ndarray:
        """[B]; NaN without ground truth."""
        gt = self.gt_counts @ weights
        return np.where(gt > 0, ratio(2 * (self.hits @ weights), gt + self.seen @ weights), np.nan)


def counts_at(matches: ClassMatches, threshold: float) -> ThresholdCounts:
    """Count each image's hits and detections with a score at or above `threshold`."""
    kept = (matches.scores >= threshold) & ~matches.ignored[0]
    n_images = len(matches.gt_counts)
    return ThresholdCounts(
        np.bincount(matches.image_index[kept & matches.true_positive[0]], minlength=n_images).astype(np.float64),
        np.bincount(matches.image_index[kept], minlength=n_images).astype(np.float64),
        matches.gt_counts.astype(np.float64),
    )


def pooled(matches: list[ClassMatches]) -> ClassMatches:
    """All classes as one, in order of score, at IoU .50 alone; each detection keeps its own class's match."""
    order = np.argsort(-np.concatenate([m.scores for m in matches]), kind="stable")
    columns = ("image_index", "detection_index", "scores", "gt_index", "gt_iou")
    return ClassMatches(
        name="all",
        **{column: np.concatenate([getattr(m, column) for m in matches])[order] for column in columns},
        true_positive=np.concatenate([m.true_positive[0] for m in matches])[order][None],
        ignored=np.concatenate([m.ignored[0] for m in matches])[order][None],
        gt_counts=np.sum([m.gt_counts for m in matches], axis=0),
    )


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient, NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)


def _ends_of_ties(scores: np.ndarray) -> np.ndarray:
    """Positions of the last detection of each group of equal scores; `scores` must be falling."""
    if not len(scores):
        return np.zeros(0, np.intp)
    return np.append(np.flatnonzero(np.diff(scores) != 0), len(scores) - 1)
