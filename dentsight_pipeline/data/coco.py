"""The COCO records that pass between the rooms, and the few box operations that they need.

Two families: `Export*` is what a reader found in someone's export, before anything is decided; `Coco*` are the JSON
records of normalised datasets and subsets. Boxes are `[x, y, width, height]` floats in pixels of the stored image,
x to the right and y down from its top left corner. Label names and class orders belong in `ontology.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NotRequired, TypedDict

from dentsight_pipeline.data.records import Records

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


@dataclass(frozen=True, slots=True)
class ExportCategory:
    """A category as its export lists it.

    Attributes:
        id: The id in its split's file; ids mean nothing across files.
        name: The raw label name.
        placeholder: It is Roboflow's root: id 0, supercategory `none`, no annotations in any split.
    """

    id: int
    name: str
    placeholder: bool = False


@dataclass(frozen=True, slots=True)
class ExportImage:
    """An image as its export lists it. Holds the original name: never to be stored.

    Attributes:
        id: The id in its split's file.
        path: Path inside the export, `/`-separated.
        stem: The part of the file name before `.rf.`.
        width: Listed width in pixels, 0 when not listed.
        height: Listed height in pixels, 0 when not listed.
        exists: The file is there.
    """

    id: int
    path: str
    stem: str
    width: int
    height: int
    exists: bool = True


@dataclass(frozen=True, slots=True)
class ExportAnnotation:
    """An annotation as its export lists it.

    Attributes:
        id: The id in its split's file, or its number among the split's label lines.
        image_id: An `ExportImage.id` of the same split.
        label: The raw label name.
        bbox: x, y, width, height, or None when only polygons were given.
        polygons: Flat x, y, x, y … lists; empty for a plain box.
        notes: What was wrong with the record and could be mended while reading.
        relative: Coordinates are fractions of the image's width and height (YOLO) instead of pixels.
    """

    id: int
    image_id: int
    label: str
    bbox: tuple[float, float, float, float] | None
    polygons: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()
    relative: bool = False


@dataclass(frozen=True, slots=True)
class ExportSplit:
    """One split of an export.

    Attributes:
        name: `train`, `valid` or `test`.
        file: The annotation file (COCO) or label folder (YOLO), relative to the export, for messages.
        images: On disk, in the order of the export; found by their id.
        annotations: Likewise; found by the id of their image.
        label_counts: Annotations of each raw label name that has any.
        unlisted_files: Images that lie there but are not listed.
    """

    name: str
    file: str
    categories: list[ExportCategory]
    images: Records[ExportImage]
    annotations: Records[ExportAnnotation]
    label_counts: Mapping[str, int]
    unlisted_files: int = 0


@dataclass(frozen=True, slots=True)
class Export:
    """Everything that an export says, read but not judged.

    Attributes:
        layout: `coco` or `yolo`.
        splits: Those that exist, in the order of `SPLITS`.
        readmes: File name → text.
        license_names: Licences as the annotation files name them.
        info: The first annotation file's `info` block.
    """

    layout: str
    splits: list[ExportSplit]
    readmes: Mapping[str, str] = field(default_factory=dict)
    license_names: tuple[str, ...] = ()
    info: Mapping[str, str] = field(default_factory=dict)

    def category_names(self) -> list[str]:
        """All category names, in the order of first appearance."""
        return list(dict.fromkeys(category.name for split in self.splits for category in split.categories))


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
