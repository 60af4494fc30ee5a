"""How far two annotators of the same X-ray agree, per class: the ceiling for what a model can be measured to do.

Where one source occurs twice in an export with different labels, it was annotated twice. Those pairs are a free sample
of annotator agreement. Reading the published labels only; which images share a source is decided in `leakage.py`, and
agreement between a model and dentists belongs in the evaluation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dentsight_pipeline.data.coco import pairwise_iou_xywh
from dentsight_pipeline.data.leakage import Fingerprint, Transform, compare
from dentsight_pipeline.data.ontology import TEETH

MATCH_IOU = 0.5
"""Two boxes of one class are one finding from this overlap on."""
COPY_PX = 3.0
"""When every box has its like with all sides this near, the second image is a copy with its labels, not a reading.

A flipped box is not exact: Roboflow floors x and y, once before and once after the flip (all 792 real flips: ≤ 2.5 px).
"""
MOST_MEMBERS = 10
"""Images of one source that are paired; a source that was augmented a hundred times is still one patient."""

_Boxes = Mapping[int, NDArray[np.float64]]  # category id → [n, 4] x, y, w, h in pixels of the first image


@dataclass(slots=True)
class _Counts:
    """What the pairs say about one class."""

    pairs: int = 0
    boxes: list[int] = field(default_factory=lambda: [0, 0])
    matched: int = 0
    present: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 2), dtype=np.int64))
    """Pairs by presence of the class in A (row) and B (column)."""


def agreement_table(
    images: Sequence[Mapping[str, Any]],
    annotations_by_image: Mapping[int, Sequence[Mapping[str, Any]]],
    classes: Sequence[str],
    fingerprints: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Compare the labels of images that share a source.

    A pair counts when both images carry labels, and for a tooth class when both carry tooth numbers (a partial
    annotation says nothing about teeth). The boxes of the second image are brought into the frame of the first through
    the flip that the pixels show; a pair that the pixels do not align (same name, other picture) is left out. So is a
    pair whose labels are the same box for box, within 3 px: Roboflow's own flips carry their labels along, and no two
    people draw that exactly. A is the image with the smaller digest; nothing else distinguishes the two.

    Args:
        images: Images of all splits, with `id`, `sha256`, `source_group`, `width` and `height` (pixels).
        annotations_by_image: Their annotations (`category_id`, `bbox` as x, y, w, h in pixels) by image id.
        classes: Class names in the order of the category ids from 1.
        fingerprints: Text of the images' fingerprints by sha256.

    Returns:
        A row for each class: `class`, `n_pairs`, `boxes_a`, `boxes_b`, `matched` (pairs of boxes at IoU ≥ 0.5, each
        box once, by optimal assignment), `f1` = 2 × matched / (boxes_a + boxes_b), which for two annotators is the
        positive specific agreement (Hripcsak & Rothschild, JAMIA 2005); the pairs of images by presence of the class,
        `present_in_both`, `present_in_a`, `present_in_b` (one of the two alone), `absent_in_both`, and Cohen's `kappa`
        of it (Educational and Psychological Measurement 1960). `f1` and `kappa` are None where nothing can be
        computed. Every row repeats `pairs_left_out_as_copies` and `pairs_left_out_as_unaligned`.
    """
    counts = [_Counts() for _ in classes]
    teeth = [name in TEETH for name in classes]
    copies = unaligned = 0
    for first, second in _pairs(images, annotations_by_image):
        match = compare(
            Fingerprint.from_json(fingerprints[first["sha256"]]), Fingerprint.from_json(fingerprints[second["sha256"]])
        )
        if first["sha256"] != second["sha256"] and not match.is_same_source:
            unaligned += 1
            continue
        in_a = _boxes(annotations_by_image[first["id"]])
        in_b = _aligned(_boxes(annotations_by_image[second["id"]]), second, first, match.transform)
        if _is_copy(in_a, in_b):
            copies += 1
            continue
        both_number_teeth = all(any(teeth[category - 1] for category in boxes) for boxes in (in_a, in_b))
        for category, count in enumerate(counts, start=1):
            if both_number_teeth or not teeth[category - 1]:
                _count(count, in_a.get(category), in_b.get(category))
    left_out = {"pairs_left_out_as_copies": copies, "pairs_left_out_as_unaligned": unaligned}
    return [{"class": name, **_row(count), **left_out} for name, count in zip(classes, counts, strict=True)]


def map_boxes(
    boxes_xywh_px: NDArray[np.float64], size: tuple[int, int], to_size: tuple[int, int], transform: Transform
) -> NDArray[np.float64]:
    """Bring boxes from one image into the frame of another that shows the same picture, flipped and resized.

    Args:
        boxes_xywh_px: Boxes [n, 4] in pixels of the image that they were drawn on.
        size: Its width and height, pixels.
        to_size: Width and height of the other image.
        transform: The flip between the two; each is its own inverse.

    Returns:
        Boxes [n, 4], x, y, w, h, in pixels of the other image.
    """
    x, y, w, h = np.asarray(boxes_xywh_px, dtype=np.float64).reshape(-1, 4).T
    if transform in ("hflip", "rot180"):
        x = size[0] - x - w
    if transform in ("vflip", "rot180"):
        y = size[1] - y - h
    across, down = to_size[0] / size[0], to_size[1] / size[1]
    return np.stack([x * across, y * down, w * across, h * down], axis=1)


def cohens_kappa(table: NDArray[np.int64]) -> float | None:
    """Cohen's kappa of a square table of counts, or None when chance alone explains everything (or it is empty)."""
    total = int(table.sum())
    if total == 0:
        return None
    observed = np.trace(table) / total
    expected = float(table.sum(axis=0) @ table.sum(axis=1)) / total**2
    return None if expected == 1.0 else float((observed - expected) / (1 - expected))


def _pairs(
    images: Sequence[Mapping[str, Any]], annotations_by_image: Mapping[int, Sequence[Mapping[str, Any]]]
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Pairs of labelled images of one source, in an order that depends on nothing but their content."""
    members: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for image in images:
        if annotations_by_image.get(image["id"]):
            members[image["source_group"]].append(image)
    for _, group in sorted(members.items()):
        ordered = sorted(group, key=lambda image: (image["sha256"], image["id"]))
        yield from combinations(ordered[:MOST_MEMBERS], 2)


def _boxes(annotations: Sequence[Mapping[str, Any]]) -> dict[int, NDArray[np.float64]]:
    """Boxes by category id."""
    grouped: dict[int, list[Sequence[float]]] = defaultdict(list)
    for annotation in annotations:
        grouped[annotation["category_id"]].append(annotation["bbox"])
    return {category: np.array(boxes, dtype=np.float64) for category, boxes in grouped.items()}


def _aligned(boxes: _Boxes, image: Mapping[str, Any], to: Mapping[str, Any], transform: Transform) -> _Boxes:
    size, to_size = (image["width"], image["height"]), (to["width"], to["height"])
    return {category: map_boxes(found, size, to_size, transform) for category, found in boxes.items()}


def _is_copy(in_a: _Boxes, in_b: _Boxes) -> bool:
    """Whether both hold the same classes with the same boxes."""
    return in_a.keys() == in_b.keys() and all(
        len(in_a[category])
        == len(in_b[category])
        == _most_pairs(_sides_apart(in_a[category], in_b[category]) <= COPY_PX)
        for category in in_a
    )


def _sides_apart(in_a: NDArray[np.float64], in_b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The greatest distance between like sides of every pair of boxes, pixels, shape [n, m]."""
    sides_a, sides_b = (np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]) for boxes in (in_a, in_b))
    return np.abs(sides_a[:, None] - sides_b[None]).max(axis=2)


def _most_pairs(allowed: NDArray[np.bool_]) -> int:
    """How many pairs can be made of what is allowed, each row and column used once."""
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    return int(allowed[rows, columns].sum())


def _count(count: _Counts, in_a: NDArray[np.float64] | None, in_b: NDArray[np.float64] | None) -> None:
    """Add one pair of images to the counts of one class."""
    count.pairs += 1
    count.present[int(in_a is not None), int(in_b is not None)] += 1
    count.boxes[0] += 0 if in_a is None else len(in_a)
    count.boxes[1] += 0 if in_b is None else len(in_b)
    if in_a is not None and in_b is not None:
        count.matched += _most_pairs(pairwise_iou_xywh(in_a, in_b) >= MATCH_IOU)


def _row(count: _Counts) -> dict[str, Any]:
    boxes = sum(count.boxes)
    return {
        "n_pairs": count.pairs,
        "boxes_a": count.boxes[0],
        "boxes_b": count.boxes[1],
        "matched": count.matched,
        "f1": 2 * count.matched / boxes if boxes else None,
        "present_in_both": int(count.present[1, 1]),
        "present_in_a": int(count.present[1, 0]),
        "present_in_b": int(count.present[0, 1]),
        "absent_in_both": int(count.present[0, 0]),
        "kappa": cohens_kappa(count.present),
    }
