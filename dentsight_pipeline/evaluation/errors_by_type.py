"""What kind of mistake each detection is, and which class was taken for which.

Types, at IoU .50, in this order (after TIDE, Bolya et al. 2020, without its "both"):
`tp`; `duplicate`: its own class's box was taken by a higher score; `class`: on a box of another class;
`localisation`: on a box of its own class, but with an IoU of .10 to .50; `background`: on nothing. `missed` is ground
truth that no detection at or above the operating threshold takes. A type never depends on detections of lower score,
so the table made at a low floor is right at every threshold above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from dentsight_pipeline.documents.evaluation import Confusion, ErrorCounts, FoundOfSize
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.engines import AREA_RANGES_PX, SIZES
from dentsight_pipeline.evaluation.matching import ClassMatches, blocks_of_pairs, iou_of_pairs

KINDS = ("tp", "class", "localisation", "duplicate", "background", "missed")
_FIELDS = {"class": "class_confusion"}
_LOOSELY_ON = 0.1
_ON = 0.5
_ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class TypedDetections:
    """Detections at or above the floor, sorted by image then falling score; N rows.

    Attributes:
        floor: The least score.
        rows: [N] into `Detections`.
        kinds: [N] index into `KINDS`.
        gt_index: [N] annotation row taken, or −1.
        iou: [N] the IoU that decided the kind.
        confused: [P, 2] (position in `rows`, annotation row) with IoU ≥ .50 across classes, falling by IoU.
    """

    floor: float
    rows: np.ndarray
    kinds: np.ndarray
    gt_index: np.ndarray
    iou: np.ndarray
    confused: np.ndarray


def classify(
    truth: GroundTruth, detections: Detections, matches: Sequence[ClassMatches], floor: float
) -> TypedDetections:
    """Give every counted detection at or above `floor` its kind; those on crowd regions are left out.

    Args:
        truth: The ground truth.
        detections: All detections.
        matches: [K] the matches of each class for all areas.
        floor: Least score of a row.
    """
    kept = [(m.scores >= floor) & ~m.ignored[0] for m in matches]
    rows, gt_index, own = (
        np.concatenate([getattr(m, field)[k] for m, k in zip(matches, kept, strict=True)])
        for field in ("detection_index", "gt_index", "gt_iou")
    )
    order = np.lexsort((-detections.scores[rows], detections.image_index[rows]))
    rows, gt_index, own = rows[order], gt_index[order], own[order]

    counted = np.flatnonzero(~truth.crowd)
    counted = counted[np.argsort(truth.image_index[counted], kind="stable")]
    best_same, best_other, confused = _best_overlaps(truth, detections, rows, counted)
    hit = gt_index >= 0
    kinds = np.select(
        [hit, best_same >= _ON, best_other >= _ON, best_same >= _LOOSELY_ON],
        [KINDS.index("tp"), KINDS.index("duplicate"), KINDS.index("class"), KINDS.index("localisation")],
        KINDS.index("background"),
    )
    iou = np.where(hit, own, np.where(kinds == KINDS.index("class"), best_other, best_same))
    return TypedDetections(floor, rows, kinds, gt_index, iou, confused)


def found_at(
    matches: Sequence[ClassMatches], thresholds: Sequence[float] | np.ndarray, n_annotations: int
) -> np.ndarray:
    """[n_annotations] bool: taken by a detection at or above its class's threshold, at IoU .50."""
    found = np.zeros(n_annotations, bool)
    for m, threshold in zip(matches, thresholds, strict=True):
        taken = m.gt_index[(m.scores >= threshold) & (m.gt_index >= 0)]
        found[taken] = True
    return found


def found_by_size(truth: GroundTruth, found: np.ndarray, images: np.ndarray) -> dict[str, dict[str, FoundOfSize]]:
    """By class and size, on the images where the mask `images` [I] is true; `found` as `found_at` gives it."""
    bounds = [AREA_RANGES_PX[size][1] for size in SIZES[:-1]]
    size, own = np.searchsorted(bounds, truth.areas_px), images[truth.image_index] & ~truth.crowd
    cells = len(SIZES) * truth.class_index + size
    n_gt, hit = (np.bincount(cells[some], minlength=len(SIZES) * len(truth.class_names)) for some in (own, own & found))
    counts = [FoundOfSize(n_gt=int(n), found=int(f)) for n, f in zip(n_gt, hit, strict=True)]
    return {name: dict(zip(SIZES, counts[len(SIZES) * k :], strict=False)) for k, name in enumerate(truth.class_names)}


@dataclass(frozen=True)
class Shown:
    """What is shown at the operating thresholds, and what is missed then.

    Attributes:
        truth: The ground truth.
        detections: All detections.
        typed: Their kinds.
        thresholds: [K] operating threshold of each class.
    """

    truth: GroundTruth
    detections: Detections
    typed: TypedDetections
    thresholds: np.ndarray

    @cached_property
    def above(self) -> np.ndarray:
        """[N] whether a typed detection reaches its class's threshold."""
        return self.detections.scores[self.typed.rows] >= self.thresholds[self._said]

    @cached_property
    def _said(self) -> np.ndarray:
        return self.detections.class_index[self.typed.rows]

    @cached_property
    def missed(self) -> np.ndarray:
        """[n_annotations] ground truth that no such detection takes, even if one below the threshold does."""
        found = np.zeros(len(self.truth.class_index), bool)
        found[self.typed.gt_index[self.above & (self.typed.gt_index >= 0)]] = True
        return ~found & ~self.truth.crowd

    def _on(self, images: np.ndarray) -> np.ndarray:
        """[N] those shown on the images where the mask `images` [I] is true."""
        return self.above & images[self.detections.image_index[self.typed.rows]]

    def count_by_type(self, images: np.ndarray) -> dict[str, ErrorCounts]:
        """Errors of each class on the images where the mask `images` [I] is true."""
        n = len(self.truth.class_names)
        kept = self._on(images)
        table = np.zeros((n, len(KINDS)), int)
        np.add.at(table, (self._said[kept], self.typed.kinds[kept]), 1)
        missed = self.truth.class_index[self.missed & images[self.truth.image_index]]
        table[:, KINDS.index("missed")] = np.bincount(missed, minlength=n)
        return {
            name: ErrorCounts(**{_FIELDS.get(kind, kind): int(row[i]) for i, kind in enumerate(KINDS) if kind != "tp"})
            for name, row in zip(self.truth.class_names, table, strict=True)
        }

    def confusion_matrix(self, images: np.ndarray) -> Confusion:
        """Rows: what is there; columns: what was said; the last of each is background.

        A detection that takes a box of its class is on the diagonal; of the rest, pairs across classes are taken by
        falling IoU, each detection and box once; then what is left is background.
        """
        n = len(self.truth.class_names)
        matrix = np.zeros((n + 1, n + 1), np.int64)
        kept, hit = self._on(images), self.typed.gt_index >= 0
        np.add.at(matrix, (self._said[kept & hit], self._said[kept & hit]), 1)
        free_dt, free_gt = kept & ~hit, ~self.truth.crowd & images[self.truth.image_index]
        free_gt[self.typed.gt_index[kept & hit]] = False
        for d, g in self.typed.confused.tolist():
            if free_dt[d] and free_gt[g]:
                matrix[self.truth.class_index[g], self._said[d]] += 1
                free_dt[d] = free_gt[g] = False
        np.add.at(matrix[n], self._said[free_dt], 1)
        np.add.at(matrix[:, n], self.truth.class_index[free_gt], 1)
        return Confusion(
            labels=(*self.truth.class_names, "background"), matrix=tuple(tuple(row) for row in matrix.tolist())
        )

    def blocks(self, at_once: int = _ROWS_AT_ONCE) -> Iterator[pa.Table]:
        """The content of `matches.parquet`: one row a detection, then one for each missed ground truth (null score).

        In tables of at most `at_once` rows, at least one: a million rows whole are hundreds of megabytes.
        """
        n, missed = len(self.typed.rows), np.flatnonzero(self.missed)
        for start in range(0, max(1, n + len(missed)), at_once):
            end = start + at_once
            yield self._table(slice(start, end), missed[max(0, start - n) : max(0, end - n)])

    def _table(self, shown: slice, missed: np.ndarray) -> pa.Table:
        truth, rows, taken_rows = self.truth, self.typed.rows[shown], self.typed.gt_index[shown]
        taken = np.where(taken_rows >= 0, truth.annotation_ids[taken_rows] if len(truth.annotation_ids) else 0, -1)
        boxes = np.concatenate([self.detections.boxes_xywh_px[rows], truth.boxes_xywh_px[missed]])
        gap = np.repeat([False, True], [len(rows), len(missed)])

        def joined(of_detections: np.ndarray, of_missed: np.ndarray | float) -> np.ndarray:
            return np.concatenate([of_detections, np.broadcast_to(of_missed, len(missed))])

        images = joined(self.detections.image_index[rows], truth.image_index[missed])
        matched = joined(taken, truth.annotation_ids[missed])
        return pa.table(
            {
                "image_id": truth.image_ids[images],
                "class": _words(joined(self._said[shown], truth.class_index[missed]), truth.class_names),
                "score": pa.array(joined(self.detections.scores[rows], 0.0), mask=gap),
                **{side: boxes[:, i] for i, side in enumerate("xywh")},
                "matched_at_50": pa.array(matched, mask=matched < 0),
                "iou": pa.array(joined(self.typed.iou[shown], 0.0), mask=gap),
                "kind": _words(joined(self.typed.kinds[shown], KINDS.index("missed")), KINDS),
                "above_threshold": pa.array(joined(self.above[shown], False), pa.bool_(), mask=gap),
            }
        )


def _words(codes: np.ndarray, words: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), list(words)).cast(pa.string())


def _best_overlaps(
    truth: GroundTruth, detections: Detections, rows: np.ndarray, gt: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row: best IoU with its own class and with another, and the pairs across classes at .50 or more."""
    best_same, best_other = np.zeros(len(rows)), np.zeros(len(rows))
    pairs = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    images = detections.image_index[rows]
    for d, place in blocks_of_pairs(images, truth.image_index[gt], len(truth.image_ids)):
        g = gt[place]
        iou = iou_of_pairs(detections.boxes_xywh_px[rows[d]], truth.boxes_xywh_px[g])
        same = detections.class_index[rows[d]] == truth.class_index[g]
        part, starts = np.unique(d, return_index=True)
        best_same[part] = np.maximum.reduceat(np.where(same, iou, 0.0), starts)
        best_other[part] = np.maximum.reduceat(np.where(same, 0.0, iou), starts)
        across = ~same & (iou >= _ON)
        pairs.append((d[across], g[across], iou[across]))
    d, g, iou = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
    order = np.argsort(-iou, kind="stable")
    return best_same, best_other, np.column_stack([d, g])[order]
