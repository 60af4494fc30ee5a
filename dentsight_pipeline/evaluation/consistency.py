"""Left and right: does the model find the same on the mirrored image, and as much on both sides?

A wrong side or quadrant is the most frequent complaint about the predecessor. Detections of the mirrored image come in
the unmirrored frame: boxes mapped back, and teeth renamed (quadrant 1 with 2, 3 with 4), as `training/predict` stores
them; `with_teeth_renamed` does the latter for detections that still carry the names seen in the mirror. Left means the
patient's left, which is the right half of the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from dentsight_pipeline.data.fdi import OTHER_SIDE
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.matching import iou_of_pairs, pairs_in_same_cell
from dentsight_pipeline.evaluation.operating_points import ratio

_FDI = re.compile(r"[1-4][1-8]")


@dataclass(frozen=True)
class MirrorCounts:
    """Per image [I] for one class: detections on the image (a), on its mirror image (b), and matched pairs."""

    a: np.ndarray
    b: np.ndarray
    matched: np.ndarray

    def __add__(self, other: MirrorCounts) -> MirrorCounts:
        return MirrorCounts(self.a + other.a, self.b + other.b, self.matched + other.matched)

    def subset(self, images: np.ndarray) -> MirrorCounts:
        """The part on the images where the mask is true."""
        return MirrorCounts(self.a[images], self.b[images], self.matched[images])

    def agreement(self, weights: np.ndarray) -> np.ndarray:
        """[B] 2·matched / (|A| + |B|); NaN when neither finds anything."""
        return ratio(2 * (self.matched @ weights), self.a @ weights + self.b @ weights)


@dataclass(frozen=True)
class SideCounts:
    """Per image [I] for one class: ground truth and hits on the patient's left and right."""

    left_gt: np.ndarray
    left_hits: np.ndarray
    right_gt: np.ndarray
    right_hits: np.ndarray

    def __add__(self, other: SideCounts) -> SideCounts:
        return SideCounts(
            self.left_gt + other.left_gt,
            self.left_hits + other.left_hits,
            self.right_gt + other.right_gt,
            self.right_hits + other.right_hits,
        )

    def subset(self, images: np.ndarray) -> SideCounts:
        """The part on the images where the mask is true."""
        return SideCounts(self.left_gt[images], self.left_hits[images], self.right_gt[images], self.right_hits[images])

    def left_minus_right(self, weights: np.ndarray) -> np.ndarray:
        """[B] recall on the left minus recall on the right; NaN when a side has no ground truth."""
        left = ratio(self.left_hits @ weights, self.left_gt @ weights)
        return left - ratio(self.right_hits @ weights, self.right_gt @ weights)


Counts = TypeVar("Counts", MirrorCounts, SideCounts)


def are_teeth(class_names: Sequence[str]) -> bool:
    """Whether all classes are FDI tooth names."""
    return all(_FDI.fullmatch(name) for name in class_names)


def total(counts: Iterable[Counts]) -> Counts:
    """All classes together."""
    first, *rest = counts
    for more in rest:
        first = first + more
    return first


def mirrored_class(class_names: Sequence[str]) -> np.ndarray:
    """[K] index of the class that each class becomes in a mirror: 11 ↔ 21, 38 ↔ 48; conditions stay themselves."""
    place = {name: k for k, name in enumerate(class_names)}

    def across(name: str) -> str:
        return OTHER_SIDE[name[0]] + name[1] if _FDI.fullmatch(name) else name

    return np.array([place.get(across(name), place[name]) for name in class_names], dtype=np.intp)


def with_teeth_renamed(mirrored: Detections, class_names: Sequence[str]) -> Detections:
    """Detections of a mirrored image with each tooth's class replaced by the one across the midline."""
    return replace(mirrored, class_index=mirrored_class(class_names)[mirrored.class_index])


def mirror_counts(
    truth: GroundTruth, detections: Detections, mirrored: Detections, k: int, threshold: float, iou: float = 0.5
) -> MirrorCounts:
    """Compare one class at its operating threshold.

    Args:
        truth: Gives images and classes.
        detections: On the images.
        mirrored: On the mirrored images, in the unmirrored frame.
        k: The class.
        threshold: Both sides keep scores at or above it.
        iou: Least IoU of a pair. Pairs are taken greedily by IoU, each box once.
    """
    n_images = len(truth.image_ids)
    a, b = (_rows(truth, found, k, threshold) for found in (detections, mirrored))
    image_a, image_b = detections.image_index[a], mirrored.image_index[b]
    left, right = pairs_in_same_cell(image_a, image_b, n_images)
    overlap = iou_of_pairs(detections.boxes_xywh_px[a[left]], mirrored.boxes_xywh_px[b[right]])
    order = np.flatnonzero(overlap >= iou)
    order = order[np.argsort(-overlap[order], kind="stable")]
    used_a, used_b = np.zeros(len(a), bool), np.zeros(len(b), bool)
    for i, j in zip(left[order].tolist(), right[order].tolist(), strict=True):
        if not used_a[i] and not used_b[j]:
            used_a[i] = used_b[j] = True
    return MirrorCounts(
        np.bincount(image_a, minlength=n_images).astype(float),
        np.bincount(image_b, minlength=n_images).astype(float),
        np.bincount(image_a[used_a], minlength=n_images).astype(float),
    )


def side_counts(truth: GroundTruth, k: int, found: np.ndarray) -> SideCounts:
    """Split one class's ground truth by the side of its box's centre.

    Args:
        truth: With image widths; boxes of images without a width belong to no side.
        k: The class.
        found: [N] annotation rows that are hit at the operating threshold, bool.
    """
    rows = np.flatnonzero((truth.class_index == k) & ~truth.crowd)
    images = truth.image_index[rows]
    centre = truth.boxes_xywh_px[rows, 0] + truth.boxes_xywh_px[rows, 2] / 2
    middle = truth.image_sizes_px[images, 0] / 2
    sides = {"left": centre > middle, "right": centre < middle}  # NaN widths are in neither
    counts = {}
    for side, inside in sides.items():
        counts[f"{side}_gt"] = np.bincount(images[inside], minlength=len(truth.image_ids)).astype(float)
        hit = inside & found[rows]
        counts[f"{side}_hits"] = np.bincount(images[hit], minlength=len(truth.image_ids)).astype(float)
    return SideCounts(**counts)


def _rows(truth: GroundTruth, detections: Detections, k: int, threshold: float) -> np.ndarray:
    """Rows of one class at or above the threshold, where it was looked for, sorted by image."""
    rows = np.flatnonzero((detections.class_index == k) & (detections.scores >= threshold))
    rows = rows[truth.covered[detections.image_index[rows], k]]
    return rows[np.argsort(detections.image_index[rows], kind="stable")]
