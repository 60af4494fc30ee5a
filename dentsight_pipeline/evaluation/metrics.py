"""COCO metrics of one class as functions of image weights.

With all weights 1 they are the ordinary metrics; with the weights of a resample they are the metrics of the set in
which image i occurs wᵢ times, exactly. That is what makes the bootstrap cheap: matching is done once. No drawing of
resamples and no intervals here.

Only detections that hit something can change a precision envelope upwards, so the rows of a table are those alone; all
others are summed up between them by one sparse product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from dentsight_pipeline.evaluation.engines import RECALL_THRESHOLDS
from dentsight_pipeline.evaluation.matching import ClassMatches

_EPSILON = np.spacing(1)
_NEARLY = 1e-9  # far above rounding, far below 1/(100·n_gt)
_CELLS_AT_ONCE = 1_000_000
_LEAST_COLUMNS = 128
_FEW_COLUMNS = 8
_MANY_ROWS = 5_000


@dataclass(frozen=True)
class CurveTable:
    """What AP and recall of one class need, for any image weights; P rows, I images, T thresholds.

    Attributes:
        images: [P] image of each row; a row is a detection that hits or skips something at some threshold.
        between: [P, I] sparse; plain false positives of each image since the row before.
        counted: [T, P] bool; the row counts as a detection (it is not ignored).
        hits: [T, P] bool; the row is a true positive.
        gt_counts: [I].
    """

    images: np.ndarray
    between: sparse.csr_array
    counted: np.ndarray
    hits: np.ndarray
    gt_counts: np.ndarray

    @classmethod
    def from_matches(cls, matches: ClassMatches) -> CurveTable:
        """Condense the matches of one class."""
        n_images = len(matches.gt_counts)
        special = matches.true_positive.any(axis=0) | (matches.ignored.any(axis=0) & ~matches.ignored.all(axis=0))
        plain = np.flatnonzero(~special & ~matches.ignored.any(axis=0))
        rows = np.flatnonzero(special)
        place = np.searchsorted(rows, plain)  # the row that a plain false positive comes before
        plain = plain[place < len(rows)]
        place = place[place < len(rows)]
        between = sparse.csr_array(
            (np.ones(len(plain)), (place, matches.image_index[plain])), shape=(len(rows), n_images)
        )
        between.sum_duplicates()
        return cls(
            matches.image_index[rows],
            between,
            ~matches.ignored[:, rows],
            matches.true_positive[:, rows],
            matches.gt_counts.astype(np.float64),
        )

    def average_precision(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AP and recall for each column of image weights.

        Args:
            weights: [I, B] non-negative whole numbers as float64.

        Returns:
            AP [T, B] (mean of 101 interpolated precisions) and recall [T, B]; NaN where no ground truth has weight.
        """
        n_rows, n_columns = len(self.images), weights.shape[1]
        if n_rows > _MANY_ROWS or n_columns < _FEW_COLUMNS:
            parts = [self._column(column.astype(np.float64)) for column in weights.T]
        else:
            at_once = max(_LEAST_COLUMNS, _CELLS_AT_ONCE // max(1, n_rows))
            starts = range(0, n_columns, at_once)
            parts = [self._block(np.array(weights[:, start : start + at_once], np.float64)) for start in starts]
        precision, recall = (np.concatenate(blocks, axis=1) for blocks in zip(*parts, strict=True))
        return precision, recall

    def _column(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AP [T, 1] and recall [T, 1] for weights [I], as COCOeval.accumulate has it; fast for many rows."""
        n_gt = self.gt_counts @ weights
        cells = np.zeros((2, len(self.hits), 1)) if n_gt > 0 else np.full((2, len(self.hits), 1), np.nan)
        own, plain = weights[self.images], np.cumsum(self.between @ weights)
        for t in np.flatnonzero(self.hits.any(axis=1)) if n_gt > 0 else ():
            rows = np.flatnonzero(self.hits[t])
            true, seen = np.cumsum(own[rows]), (plain + np.cumsum(own * self.counted[t]))[rows]
            envelope = np.maximum.accumulate((true / (seen + _EPSILON))[::-1])[::-1]
            reached = np.searchsorted(true / n_gt, RECALL_THRESHOLDS, side="left")
            cells[0, t] = envelope[reached[reached < len(rows)]].sum() / len(RECALL_THRESHOLDS)
            cells[1, t] = true[-1] / n_gt
        return cells[0], cells[1]

    def _block(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_gt = self.gt_counts @ weights  # [B]
        n_gt = np.where(n_gt > 0, n_gt, np.nan)
        own = weights[self.images]  # [P, B]
        plain = running_sum(self.between @ weights + own if self._all_count else self.between @ weights)
        precision, recall = np.zeros((2, len(self.hits), weights.shape[1]))
        for t, hits in enumerate(self.hits):
            rows = np.flatnonzero(hits)
            if len(rows):
                seen = plain[rows]
                if not self._all_count:
                    seen += running_sum(own * self.counted[t][:, None])[rows]
                precision[t], recall[t] = _interpolated(running_sum(own[rows]), seen, n_gt)
        return np.where(np.isnan(n_gt), np.nan, precision), np.where(np.isnan(n_gt), np.nan, recall)

    @cached_property
    def _all_count(self) -> bool:
        return bool(self.counted.all())


def _interpolated(true: np.ndarray, seen: np.ndarray, n_gt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP [B] and final recall [B] from cumulative hits and detections [P, B] at the hits."""
    seen += _EPSILON  # as COCOeval.accumulate; it also makes 0 of 0 a precision of 0
    envelope = np.divide(true, seen, out=seen)
    for row in range(len(envelope) - 2, -1, -1):
        np.maximum(envelope[row], envelope[row + 1], out=envelope[row])
    recalls = np.divide(true, n_gt, out=true)
    last = recalls[-1].copy()
    # reached[p, b]: how many of the 101 recall thresholds are at or below the recall of the row
    with np.errstate(invalid="ignore"):
        place = (recalls * 100 + _NEARLY).astype(np.intp)
    np.clip(place, 0, 100, out=place)
    reached = place + 1 - (recalls < RECALL_THRESHOLDS.take(place))
    area = envelope[0] * reached[0]
    reached[1:] -= reached[:-1].copy()
    area += np.einsum("pb,pb->b", envelope[1:], reached[1:])
    return area / len(RECALL_THRESHOLDS), last


def running_sum(rows: np.ndarray) -> np.ndarray:
    """Cumulative sum over axis 0, in place; row by row, which is several times faster than `np.cumsum` here."""
    for row in range(1, len(rows)):
        np.add(rows[row - 1], rows[row], out=rows[row])
    return rows


def average_precision(matches: ClassMatches) -> tuple[np.ndarray, np.ndarray]:
    """AP [T] and recall [T] of one class with every image counted once; NaN without ground truth."""
    precision, recall = CurveTable.from_matches(matches).average_precision(np.ones((len(matches.gt_counts), 1)))
    return precision[:, 0], recall[:, 0]


def macro(per_class: np.ndarray) -> np.ndarray:
    """Mean over the class axis 0 of those that are present (not NaN); NaN where none is."""
    present = ~np.isnan(per_class)
    count = present.sum(axis=0)
    total = np.where(present, per_class, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
