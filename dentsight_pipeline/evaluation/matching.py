"""Detections matched to ground truth, once; everything else (AP, operating points, bootstrap, errors) reads the result.

The rule is COCOeval's greedy one: detections of an image and class in order of score, each taking the free ground
truth with the largest IoU at or above the threshold, a counted one before an ignored one. It is applied to all ten
thresholds at once: a ground truth that is taken at some thresholds is still free at the others. `evaluate` verifies
the figures that come of it against both engines on every run. A detection of a class that nobody looked for in its
image takes no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.engines import AREA_RANGES_PX, IOU_THRESHOLDS, MAX_DETECTIONS

_EVERY_THRESHOLD = (1 << len(IOU_THRESHOLDS)) - 1
_PAIRS_AT_ONCE = 500_000


@dataclass(frozen=True)
class ClassMatches:
    """One class within one range of areas; N detections in order of falling score, I images, T thresholds.

    Ties stand in the order of image ids, then of the file, as in pycocotools. At most 100 detections an image.

    Attributes:
        name: The class.
        image_index: [N] row of the image.
        detection_index: [N] row into the `Detections` given.
        scores: [N] falling.
        true_positive: [T, N] bool.
        ignored: [T, N] bool; neither hit nor false positive (matched to a crowd or out-of-range box, or itself out of
            the range and unmatched).
        gt_index: [N] annotation row taken at IoU .50, or −1.
        gt_iou: [N] IoU with that annotation, 0 where there is none.
        gt_counts: [I] counted ground-truth boxes of each image.
    """

    name: str
    image_index: np.ndarray
    detection_index: np.ndarray
    scores: np.ndarray
    true_positive: np.ndarray
    ignored: np.ndarray
    gt_index: np.ndarray
    gt_iou: np.ndarray
    gt_counts: np.ndarray

    @property
    def n_gt(self) -> int:
        """Counted ground-truth boxes."""
        return int(self.gt_counts.sum())

    def subset(self, images: np.ndarray) -> ClassMatches:
        """The part on the images where the mask `images` [I] is true: a match never depends on other images."""
        if images.all():
            return self
        kept = images[self.image_index]
        return replace(
            self,
            image_index=(np.cumsum(images) - 1)[self.image_index[kept]],
            gt_counts=self.gt_counts[images],
            true_positive=self.true_positive[:, kept],
            ignored=self.ignored[:, kept],
            **{name: getattr(self, name)[kept] for name in ("detection_index", "scores", "gt_index", "gt_iou")},
        )


def match(
    truth: GroundTruth, detections: Detections, areas: Sequence[str] = tuple(AREA_RANGES_PX)
) -> list[dict[str, ClassMatches]]:
    """For each class, its matches for each range of areas (`all`, `small`, `medium`, `large`).

    Source of the rule: `COCOeval.evaluateImg` in pycocotools 2.0.11.
    """
    return [match_class(truth, detections, k, areas) for k in range(len(truth.class_names))]


def match_all_sizes(truth: GroundTruth, detections: Detections) -> list[ClassMatches]:
    """For each class, its matches whatever the size of the boxes."""
    return [by_area["all"] for by_area in match(truth, detections, areas=("all",))]


def iou_of_pairs(a_xywh: np.ndarray, b_xywh: np.ndarray, b_crowd: np.ndarray | None = None) -> np.ndarray:
    """[P] IoU of the P pairs of boxes; with a crowd box, the intersection over the area of `a` (pycocotools, bbIou)."""
    width = np.minimum(a_xywh[:, 0] + a_xywh[:, 2], b_xywh[:, 0] + b_xywh[:, 2]) - np.maximum(
        a_xywh[:, 0], b_xywh[:, 0]
    )
    height = np.minimum(a_xywh[:, 1] + a_xywh[:, 3], b_xywh[:, 1] + b_xywh[:, 3]) - np.maximum(
        a_xywh[:, 1], b_xywh[:, 1]
    )
    intersection = np.where((width > 0) & (height > 0), width * height, 0.0)
    area_a = a_xywh[:, 2] * a_xywh[:, 3]
    union = area_a + b_xywh[:, 2] * b_xywh[:, 3] - intersection
    if b_crowd is not None:
        union = np.where(b_crowd, area_a, union)
    return intersection / union


def pairs_in_same_cell(a_cell: np.ndarray, b_cell: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (a, b) of every pair that shares a cell, e.g. an image; both inputs must be sorted by cell."""
    start = np.searchsorted(b_cell, np.arange(n_cells + 1))
    partners = (start[1:] - start[:-1])[a_cell]
    a = np.repeat(np.arange(len(a_cell)), partners)
    within = np.arange(len(a)) - np.repeat(np.cumsum(partners) - partners, partners)
    return a, start[a_cell[a]] + within


@dataclass(frozen=True)
class _Candidates:
    """One class before the assignment: D detections by image and falling score, G ground-truth boxes by image.

    Attributes:
        dt: [D] rows into `Detections`.
        gt: [G] rows into `GroundTruth`.
        pair_dt: [P] place in `dt` of each pair with an IoU of .50 or more.
        pair_gt: [P] place in `gt`.
        pair_iou: [P].
    """

    dt: np.ndarray
    gt: np.ndarray
    pair_dt: np.ndarray
    pair_gt: np.ndarray
    pair_iou: np.ndarray


def match_class(truth: GroundTruth, detections: Detections, k: int, areas: Sequence[str]) -> dict[str, ClassMatches]:
    """As `match`, for one class."""
    close = _candidates(truth, detections, k)
    by_score = np.argsort(-detections.scores[close.dt], kind="stable")  # ties stay in the order of images
    rows = close.dt[by_score]
    shared = {
        "image_index": detections.image_index[rows],
        "detection_index": rows,
        "scores": detections.scores[rows],
    }
    return {
        area: ClassMatches(
            truth.class_names[k], **shared, **_within(AREA_RANGES_PX[area], truth, detections, close, by_score)
        )
        for area in areas
    }


def _within(
    bounds: tuple[float, float], truth: GroundTruth, detections: Detections, close: _Candidates, by_score: np.ndarray
) -> dict[str, np.ndarray]:
    """The fields of `ClassMatches` that depend on the range of areas."""
    low, high = bounds
    areas, boxes = truth.areas_px[close.gt], detections.boxes_xywh_px[close.dt]
    crowd = truth.crowd[close.gt]
    ignored = crowd | (areas < low) | (areas > high)
    hit, skipped, taken, iou = _assign(close, ignored, crowd)
    dt_areas = boxes[:, 2] * boxes[:, 3]
    skipped |= np.where((dt_areas < low) | (dt_areas > high), ~(hit | skipped) & _EVERY_THRESHOLD, 0)
    bit = 1 << np.arange(len(IOU_THRESHOLDS))[:, None]
    return {
        "true_positive": (hit[by_score] & bit) > 0,
        "ignored": (skipped[by_score] & bit) > 0,
        "gt_index": np.where(taken >= 0, close.gt[taken] if len(close.gt) else -1, -1)[by_score],
        "gt_iou": iou[by_score],
        "gt_counts": np.bincount(truth.image_index[close.gt[~ignored]], minlength=len(truth.image_ids)),
    }


def _candidates(truth: GroundTruth, detections: Detections, k: int) -> _Candidates:
    gt = np.flatnonzero(truth.class_index == k)
    gt = gt[np.argsort(truth.image_index[gt], kind="stable")]
    dt = np.flatnonzero(detections.class_index == k)
    dt = dt[truth.covered[detections.image_index[dt], k]]
    dt = dt[np.lexsort((-detections.scores[dt], detections.image_index[dt]))]  # by image, then falling score
    images = detections.image_index[dt]
    rank = np.arange(len(dt)) - np.searchsorted(images, images)
    dt = dt[rank < MAX_DETECTIONS[-1]]
    return _Candidates(dt, gt, *_close_pairs(truth, detections, dt, gt))


def _close_pairs(
    truth: GroundTruth, detections: Detections, dt: np.ndarray, gt: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in `dt` and `gt`, and IoU, of all pairs of one image with an IoU of .50 or more."""
    found = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0))]
    for a, b in blocks_of_pairs(detections.image_index[dt], truth.image_index[gt], len(truth.image_ids)):
        iou = iou_of_pairs(detections.boxes_xywh_px[dt[a]], truth.boxes_xywh_px[gt[b]], truth.crowd[gt[b]])
        close = iou >= IOU_THRESHOLDS[0]
        found.append((a[close], b[close], iou[close]))
    a, b, iou = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return a, b, iou


def blocks_of_pairs(a_cell: np.ndarray, b_cell: np.ndarray, n_cells: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`pairs_in_same_cell` in blocks of some 500,000 pairs, all pairs of one row of `a` in one of them."""
    partners = np.bincount(b_cell, minlength=n_cells)[a_cell]
    block = np.cumsum(partners) // _PAIRS_AT_ONCE
    for number in np.unique(block):
        rows = np.flatnonzero(block == number)
        a, b = pairs_in_same_cell(a_cell[rows], b_cell, n_cells)
        yield rows[a], b


def _assign(
    close: _Candidates, ignored: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The greedy assignment, with one bit for each IoU threshold.

    Args:
        close: The pairs.
        ignored: [G] ground truth that does not count.
        crowd: [G] ground truth that any number of detections may take.

    Returns:
        hit [D]: thresholds at which the detection takes counted ground truth; skipped [D]: at which it takes
        ignored ground truth; taken [D]: the counted one taken at .50 or −1; iou [D]: IoU with it or 0.
    """
    n_dt = len(close.dt)
    hit, skipped = np.zeros(n_dt, np.int64), np.zeros(n_dt, np.int64)
    taken, iou_taken = np.full(n_dt, -1), np.zeros(n_dt)
    free = [_EVERY_THRESHOLD] * len(close.gt)
    current, left = -1, 0
    for d, g, reached, iou, skip, is_crowd in _in_order_of_choice(close, ignored, crowd):
        if d != current:
            current, left = d, _EVERY_THRESHOLD
        bits = reached & left & (_EVERY_THRESHOLD if is_crowd else free[g])
        left &= ~bits
        free[g] &= ~bits
        (skipped if skip else hit)[d] |= bits
        if bits & 1 and not skip:
            taken[d], iou_taken[d] = g, iou
    return hit, skipped, taken, iou_taken


def _in_order_of_choice(
    close: _Candidates, ignored: np.ndarray, crowd: np.ndarray
) -> Iterator[tuple[int, int, int, float, bool, bool]]:
    """Pairs as detection, ground truth, bits of the thresholds reached, IoU, ignored and crowd.

    A detection prefers counted ground truth, then the larger IoU, then the later box of the file (as evaluateImg).
    """
    order = np.lexsort((-close.pair_gt, -close.pair_iou, ignored[close.pair_gt], close.pair_dt))
    dt, gt, iou = close.pair_dt[order], close.pair_gt[order], close.pair_iou[order]
    levels = np.searchsorted(IOU_THRESHOLDS, iou, side="right")
    columns = (dt, gt, (1 << levels) - 1, iou, ignored[gt], crowd[gt])
    return zip(*(column.tolist() for column in columns), strict=True)
