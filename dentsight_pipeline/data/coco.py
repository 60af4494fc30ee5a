"""The COCO records of normalised datasets and subsets, and the few box operations that they need.

Boxes are `[x, y, width, height]` floats in pixels of the stored image,
x to the right and y down from its top left corner. Label names and class orders belong in `ontology.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    import numpy as np

SPLITS: tuple[str, ...] = ("train", "valid", "test")
"""The published splits, in the order in which ids are given."""


class CocoCategory(TypedDict):
    """One class; ids are dense from 1."""

    id: int
    name: str
    supercategory: str


class CocoImage(TypedDict):
    """One image of a normalised split or subset; the name is its content digest."""

    id: int
    file_name: str
    width: int
    height: int
    sha256: str
    source_group: str
    clean: bool
    partial_annotation: bool
    flags: list[str]


class CocoAnnotation(TypedDict):
    """One box; ids start at 1 and are unique over all splits, because pycocotools reads id 0 as 'unmatched'."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: list[list[float]]
    raw_name: str
    loose: bool


class CocoSplit(TypedDict):
    """One split file of a normalised dataset or subset."""

    info: NotRequired[dict[str, str]]
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def clip_xywh(box: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    """The part of a box (x, y, w, h in pixels) inside the image; its width or height is 0 when there is none."""
    x, y, w, h = box
    x0, y0 = min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))
    x1, y1 = min(max(x + w, 0.0), float(width)), min(max(y + h, 0.0), float(height))
    if (x0, y0) == (x, y) and x + w <= width and y + h <= height:
        return x, y, w, h  # untouched: x0 + w - x0 is not always w in floats
    return x0, y0, max(x1 - x0, 0.0), max(y1 - y0, 0.0)


def pairwise_iou_xywh(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair.

    Args:
        boxes: `[n, 4]` x, y, w, h in pixels.
        others: `[m, 4]` in the same frame.

    Returns:
        `[n, m]` float64 in [0, 1]; 0 where both boxes are empty.
    """
    import numpy as np  # the code location, which needs the names of splits alone, loads without

    a, b = np.asarray(boxes, float).reshape(-1, 4), np.asarray(others, float).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])  # [n, m, 2]
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])  # [n, m, 2]
    overlap = np.clip(high - low, 0.0, None).prod(axis=2)  # [n, m]
    union = a[:, 2:].prod(axis=1)[:, None] + b[:, 2:].prod(axis=1)[None, :] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
