"""Detections matched to ground truth, once; everything else (AP, operating points, bootstrap, errors) reads the result.

The rule is COCOeval's greedy one: detections of an image and class in order of score, each taking the free ground
truth with the largest IoU at or above the threshold, a counted one before an ignored one. It is applied to all ten
thresholds at once: a ground truth that is taken at some thresholds is still free at the others. `evaluate` verifies
the figures that come of it against both engines on every run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dentsight_pipeline.evaluation.engines import AREA_RANGES_PX, IOU_THRESHOLDS, MAX_DETECTIONS
from dentsight_pipeline.evaluation.validation import Detections, GroundTruth

_EVERY_THRESHOLD = (1 << len(IOU_THRESHOLDS)) - 1
_PAIRS_AT_ONCE = 4_000_000


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
        row = np.cumsum(images) - 1
        kept = images[self.image_index]
        return ClassMatches(
            self.name,
            row[self.image_index[kept]],
            self.detection_index[kept],
            self.scores[kept],
            self.true_positive[:, kept],
            self.ignored[:, kept],
            self.gt_index[kept],
            self.gt_iou[kept],
            self.gt_counts[images],
        )


def match(truth: GroundTruth, detections: Detections) -> list[dict[str, ClassMatches]]:
    """For each class, its matches for each range of areas (`all`, `small`, `medium`, `large`).

    Source of the rule: `COCOeval.evaluateImg` in pycocotools 2.0.11.
    """
    return [_match_class(truth, detections, k) for k in range(len(truth.class_names))]


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


def _match_class(truth: GroundTruth, detections: Detections, k: int) -> dict[str, ClassMatches]:
    n_images = len(truth.image_ids)
    gt = np.flatnonzero(truth.class_index == k)
    gt = gt[np.argsort(truth.image_index[gt], kind="stable")]
    dt = np.flatnonzero(detections.class_index == k)
    dt = dt[np.lexsort((-detections.scores[dt], detections.image_index[dt]))]  # by image, then falling score
    images = detections.image_index[dt]
    rank = np.arange(len(dt)) - np.searchsorted(images, images)
    dt = dt[rank < MAX_DETECTIONS[-1]]
    images = detections.image_index[dt]

    pair_dt, pair_gt, pair_iou = _close_pairs(truth, detections, dt, gt, n_images)
    boxes = detections.boxes_xywh_px[dt]
    dt_areas = boxes[:, 2] * boxes[:, 3]
    by_score = np.argsort(-detections.scores[dt], kind="stable")  # ties stay in the order of images
    matches = {}
    for name, (low, high) in AREA_RANGES_PX.items():
        outside = (truth.areas_px[gt] < low) | (truth.areas_px[gt] > high)
        ignored_gt = truth.crowd[gt] | outside
        hit, skipped, taken, iou = _assign(pair_dt, pair_gt, pair_iou, ignored_gt, truth.crowd[gt], len(dt), len(gt))
        off_range = (dt_areas < low) | (dt_areas > high)
        skipped |= np.where(off_range, ~(hit | skipped) & _EVERY_THRESHOLD, 0)
        bit = 1 << np.arange(len(IOU_THRESHOLDS))[:, None]
        matches[name] = ClassMatches(
            name=truth.class_names[k],
            image_index=images[by_score],
            detection_index=dt[by_score],
            scores=detections.scores[dt][by_score],
            true_positive=(hit[by_score] & bit) > 0,
            ignored=(skipped[by_score] & bit) > 0,
            gt_index=np.where(taken >= 0, gt[taken] if len(gt) else -1, -1)[by_score],
            gt_iou=iou[by_score],
            gt_counts=np.bincount(truth.image_index[gt[~ignored_gt]], minlength=n_images),
        )
    return matches


def _close_pairs(
    truth: GroundTruth, detections: Detections, dt: np.ndarray, gt: np.ndarray, n_images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in `dt` and `gt`, and IoU, of all pairs of one image with an IoU of .50 or more."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    images, gt_images = detections.image_index[dt], truth.image_index[gt]
    per_image = np.bincount(gt_images, minlength=n_images)
    blocks = np.cumsum(per_image[images]) // _PAIRS_AT_ONCE if len(dt) else np.zeros(0, int)
    for block in np.unique(blocks):
        rows = np.flatnonzero(blocks == block)
        a, b = pairs_in_same_cell(images[rows], gt_images, n_images)
        a = rows[a]
        iou = iou_of_pairs(detections.boxes_xywh_px[dt[a]], truth.boxes_xywh_px[gt[b]], truth.crowd[gt[b]])
        close = iou >= IOU_THRESHOLDS[0]
        found.append((a[close], b[close], iou[close]))
    if not found:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    a, b, iou = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return a, b, iou


def _assign(
    pair_dt: np.ndarray,
    pair_gt: np.ndarray,
    pair_iou: np.ndarray,
    ignored_gt: np.ndarray,
    crowd: np.ndarray,
    n_dt: int,
    n_gt: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The greedy assignment, with one bit for each IoU threshold.

    Returns:
        hit [n_dt]: thresholds at which the detection takes counted ground truth; skipped [n_dt]: at which it takes
        ignored ground truth; taken [n_dt]: the counted one taken at .50 or −1; iou [n_dt]: IoU with it or 0.
    """
    hit, skipped = np.zeros(n_dt, np.int64), np.zeros(n_dt, np.int64)
    taken, iou_taken = np.full(n_dt, -1), np.zeros(n_dt)
    # A detection prefers counted ground truth, then the larger IoU, then the later box of the file (as evaluateImg).
    order = np.lexsort((-pair_gt, -pair_iou, ignored_gt[pair_gt], pair_dt))
    levels = np.searchsorted(np.minimum(IOU_THRESHOLDS, 1 - 1e-10), pair_iou[order], side="right")
    free = [_EVERY_THRESHOLD] * n_gt
    current, left = -1, 0
    for d, g, reached, iou, ignored, is_crowd in zip(
        pair_dt[order].tolist(),
        pair_gt[order].tolist(),
        ((1 << levels) - 1).tolist(),
        pair_iou[order].tolist(),
        ignored_gt[pair_gt[order]].tolist(),
        crowd[pair_gt[order]].tolist(),
        strict=True,
    ):
        if d != current:
            current, left = d, _EVERY_THRESHOLD
        bits = reached & left & (_EVERY_THRESHOLD if is_crowd else free[g])
        if not bits:
            continue
        left &= ~bits
        free[g] &= ~bits
        if ignored:
            skipped[d] |= bits
            continue
        hit[d] |= bits
        if bits & 1:
            taken[d], iou_taken[d] = g, iou
    return hit, skipped, taken, iou_taken
