"""Turns one split of an export into tables: stored images for listed ones, boxes in pixels of the stored image.

What has to be mended is noted, what cannot be meant is refused. Which boxes are repaired is decided in `normalise.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dentsight_pipeline.data.image_bytes import turn_point
from dentsight_pipeline.data.privacy import stem_kind
from dentsight_pipeline.data.repairs import OUTSIDE_PX, ZERO_PX, lie_outside
from dentsight_pipeline.data.stored_images import StoredImage
from dentsight_pipeline.documents.annotations import (
    RAW_ANNOTATIONS,
    RAW_IMAGES,
    REPAIRS,
    RawSplit,
    flat_values,
    table_of,
)
from dentsight_pipeline.documents.facts import Cell
from dentsight_pipeline.errors import AnnotationError
from dentsight_pipeline.intake.limits import LIMITS, UNLABELLED, Limits
from dentsight_pipeline.intake.records import EXPORT_AGAIN, ExportImage, ExportSplit, Refusals

_NOTES = {
    "duplicate_annotation_id": "another annotation of the file has this id; ids are given anew",
    "missing_annotation_id": "it had no id; ids are given anew",
    "mask_dropped": "its mask's run lengths do not fit the image; the box stays",
    "mask_to_polygon": "its mask was in run lengths; its outlines are taken",
    "polygon_dropped": "a polygon with fewer than three points, an odd count or a number that is not finite",
    "box_from_polygon": "it had no box; the polygon's extent is taken",
}

_FITTING = 0.8
"""Of the boxes, that must fit another format before it is named as the likely cause."""

_Frame = tuple[tuple[int, int], int]
"""Width and height before turning, and the EXIF orientation."""


def stem_groups(splits: Iterable[ExportSplit], stored: Mapping[str, StoredImage]) -> Mapping[str, str]:
    """Stem → the smallest stored digest among the images that carry it."""
    groups: dict[str, str] = {}
    for split in splits:
        for image in split.images:
            found = stored.get(image.path)
            if found is not None:
                groups[image.stem] = min(groups.get(image.stem, found.sha256), found.sha256)
    return groups


class RawSplits:
    """Makes the splits of a raw export, one after the other.

    Args:
        stored: What became of the images, by path.
        group_of: From `stem_groups`.
        refusals: Where records go that cannot be meant.
        limits: How much may be mended.
        versioned: The export says that images of one name are versions of one source, which a mere number proves then.
    """

    def __init__(
        self,
        stored: Mapping[str, StoredImage],
        group_of: Mapping[str, str],
        refusals: Refusals,
        limits: Limits,
        *,
        versioned: bool = False,
    ) -> None:
        self._versioned = versioned
        self._stored, self._group_of, self._refusals, self._limits = stored, group_of, refusals, limits
        self._repairs: list[dict[str, Cell]] = []

    def repairs(self) -> pa.Table:
        """What was mended so far, of schema `REPAIRS`."""
        return table_of(self._repairs, REPAIRS)

    def _repair(self, kind: str, split: ExportSplit, image: int, detail: str, annotation: int | None = None) -> None:
        ids = {"export_image_id": image, "export_annotation_id": annotation}
        self._repairs.append({"kind": kind, "split": split.name, **ids, "detail": detail})

    def make(self, split: ExportSplit) -> RawSplit:
        """One split, without the images that were refused or are not there."""
        images_of = rows_of_images(split)
        found = [self._stored.get(image.path) for image in split.images]
        lost = np.bincount(images_of, minlength=len(found))
        frames: dict[_Frame, list[int]] = defaultdict(list)
        rows: list[dict[str, Cell]] = []
        for row, (image, kept) in enumerate(zip(split.images, found, strict=True)):
            if kept is not None:
                frame = self._compare(split, image, kept)
                if frame is not None:
                    frames[frame].append(row)
                rows.append(self._image(image, kept))
                for kind, detail in kept.mended.items():
                    self._repair(kind, split, image.id, detail)
                if image.spelling:
                    self._repair("file_name_case", split, image.id, f"the file's name has other {image.spelling}")
            elif not image.exists:  # else it was refused while it was read
                problem = f"listed, but its file is missing; {lost[row]} annotations dropped"
                self._repair("image_without_file", split, image.id, problem)
        self._note_unlabelled(split)
        missing = sum(not image.exists for image in split.images)
        self._limits.judge(split.file, "image_without_file", missing, len(found))
        there = np.array([kept is not None for kept in found], bool)[images_of]
        sizes = np.array([(kept.width, kept.height) if kept else (0, 0) for kept in found], float).reshape(-1, 2)
        table = split.annotations.filter(pa.array(there)).combine_chunks()
        table = _in_pixels(table, images_of[there], sizes if split.relative else None, frames)
        boxes = flat_values(table["bbox"]).reshape(-1, 4)
        past = _reach_past(boxes, sizes[images_of[there]])
        cause = _likely_cause(boxes, sizes[images_of[there]], relative=split.relative)
        self._limits.judge(split.file, "clipped_box", int(past.sum()), len(boxes), cause)
        flat = boxes[:, 2:].min(axis=1) <= ZERO_PX
        self._limits.judge(split.file, "zero_area_box", int(flat.sum()), len(boxes))
        within = (boxes[:, :2] + boxes[:, 2:]).max(axis=1) <= 1
        self._limits.judge(split.file, "box_within_a_pixel", int((within & ~flat).sum()), len(boxes))
        table = self._inside(split, table, images_of[there], sizes)
        self._note(split, table)
        return RawSplit(
            split.name, split.file, split.categories, table_of(rows, RAW_IMAGES), table.select(RAW_ANNOTATIONS.names)
        )

    def _note_unlabelled(self, split: ExportSplit) -> None:
        """Lists the images without a label file."""
        taken = self._limits.accepts(UNLABELLED, bool(split.unlabelled))
        detail = f"no label file; {'taken as a negative, as was asked for' if taken else 'kept out'}"
        for image in split.unlabelled:
            self._repair(UNLABELLED, split, image.id, detail)
        images = len(split.images) + len(split.unlabelled) * (not taken)
        self._limits.judge(split.file, UNLABELLED, len(split.unlabelled), images)

    def _compare(self, split: ExportSplit, image: ExportImage, found: StoredImage) -> _Frame | None:
        """Notes or refuses an image whose file does not have the size that is listed, or was turned.

        Returns:
            The frame of its boxes, where that is not the stored image's.
        """
        listed, shown = (image.width, image.height), (found.width, found.height)
        if 0 in listed:
            if split.file.endswith(".json"):
                size = f"taken from the file: {shown[0]}×{shown[1]} px"
                self._repair("listed_size_missing", split, image.id, size)
        elif listed != shown and not (found.orientation != 1 and listed == found.coded_size):
            self._refusals.add(
                AnnotationError(
                    split.file,
                    f"image {image.id} ({image.path})",
                    f"listed as {listed[0]}×{listed[1]} px, but the file has {shown[0]}×{shown[1]}",
                    "Its boxes would be in the wrong place: export the version again.",
                )
            )
        if found.orientation == 1:
            return None
        turned = 0 not in listed and listed != shown
        frame = "before turning, and were turned too" if turned else "as displayed"
        detail = f"orientation {found.orientation} applied; boxes were {frame}"
        self._repair("exif_rotation", split, image.id, detail)
        return (found.coded_size, found.orientation) if turned else None

    def _image(self, image: ExportImage, found: StoredImage) -> dict[str, Cell]:
        kind = stem_kind(image.stem)
        return {
            "id": image.id,
            "file_name": found.path,
            "sha256": found.sha256,
            "original_sha256": found.original_sha256,
            "width": found.width,
            "height": found.height,
            "stem_group": self._group_of[image.stem],
            "stem_kind": "versioned" if self._versioned and kind == "numeric" else kind,
        }

    def _inside(
        self, split: ExportSplit, table: pa.Table, images: NDArray[np.int64], sizes: NDArray[np.float64]
    ) -> pa.Table:
        """The annotations whose boxes are not wholly outside their image; the others are refused."""
        boxes = flat_values(table["bbox"]).reshape(-1, 4)
        outside = lie_outside(boxes, sizes[images])
        for row in np.flatnonzero(outside):
            image, (x, y, w, h) = split.images[images[row]], boxes[row]
            width, height = sizes[images[row]].astype(int)
            self._refusals.add(
                AnnotationError(
                    split.file,
                    f"annotation {table['id'][row]} of image {image.id} ({image.path})",
                    f"its box [{x:g}, {y:g}, {w:g}, {h:g}] lies wholly outside the {width}×{height} image",
                    EXPORT_AGAIN,
                )
            )
        return table.filter(pa.array(~outside)) if outside.any() else table

    def _note(self, split: ExportSplit, table: pa.Table) -> None:
        """Lists what was mended while reading."""
        noted = table.filter(pa.array(table["notes"].combine_chunks().value_lengths().to_numpy() > 0))
        for row in noted.select(["id", "image_id", "notes"]).to_pylist():
            for note in row["notes"]:
                self._repair(note, split, row["image_id"], _NOTES[note], row["id"])
        counts = Counter(kind for notes in noted["notes"].to_pylist() for kind in notes)
        for kind in counts.keys() & LIMITS:
            self._limits.judge(split.file, kind, counts[kind], len(table))


def _reach_past(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes reach past their images by more than rounding, `[n]`."""
    past = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - sizes)
    return past.max(axis=1) > OUTSIDE_PX


def _likely_cause(boxes: NDArray[np.float64], sizes: NDArray[np.float64], *, relative: bool) -> str:
    """Why so many boxes reach past their images, in words; empty when no other format fits them."""
    first = boxes[:, :2] + boxes[:, 2:] / 2 if relative else boxes[:, :2]  # what a corner would have been read as
    second = boxes[:, 2:]
    corners = ((first <= second) & (second <= sizes + OUTSIDE_PX)).all(axis=1)
    if len(boxes) and corners.mean() > _FITTING:
        return "they reach past their images; as two corners (x1, y1, x2, y2) they would lie inside them"
    return ""


def rows_of_images(split: ExportSplit) -> NDArray[np.int64]:
    """The row in `split.images` of each annotation's image, `[n_annotations]`."""
    ids = np.array([image.id for image in split.images], np.int64)
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], split.annotations["image_id"].to_numpy())]


def _in_pixels(
    table: pa.Table,
    images: NDArray[np.int64],
    sizes: NDArray[np.float64] | None,
    frames: Mapping[_Frame, list[int]],
) -> pa.Table:
    """The annotations with boxes and polygons in pixels of the stored images, every box there.

    Args:
        table: Of schema `EXPORT_ANNOTATIONS`.
        images: The row of each annotation's image, `[n]`.
        sizes: Width and height of each image, where coordinates are fractions of them, `[n_images, 2]`.
        frames: Rows of images whose coordinates are those before turning.
    """
    listed = table["bbox"].combine_chunks()
    boxes = np.zeros((len(table), 4))
    boxes[listed.is_valid().to_numpy(zero_copy_only=False)] = listed.flatten().to_numpy().reshape(-1, 4)
    points, owners = _points(table["polygons"].combine_chunks())
    if sizes is not None:
        boxes *= np.tile(sizes[images], 2)
        points = points * sizes[images[owners]]
    lacking = listed.is_null().to_numpy(zero_copy_only=False)
    boxes[lacking] = _extents(points, owners)[np.searchsorted(np.unique(owners), np.flatnonzero(lacking))]
    for (size, orientation), turned in frames.items():
        rows = np.isin(images, turned)
        boxes[rows] = _turned_boxes(boxes[rows], size, orientation)
        turned_points = np.stack(turn_point(points[:, 0], points[:, 1], size, orientation), axis=1)
        points = np.where(rows[owners, None], turned_points, points)
    boxes += 0.0  # no -0.0, which JSON tells apart
    column = pa.FixedSizeListArray.from_arrays(boxes.ravel(), type=RAW_ANNOTATIONS.field("bbox").type)
    table = table.set_column(table.schema.get_field_index("bbox"), RAW_ANNOTATIONS.field("bbox"), column)
    polygons = _with_points(table["polygons"].combine_chunks(), points)
    return table.set_column(table.schema.get_field_index("polygons"), RAW_ANNOTATIONS.field("polygons"), polygons)


def _points(polygons: pa.ListArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """All points `[n_points, 2]`, and the row that each belongs to, `[n_points]`, ascending."""
    rings = polygons.flatten()
    points = rings.flatten().to_numpy().reshape(-1, 2)
    owners = np.repeat(np.arange(len(polygons)), polygons.value_lengths().to_numpy())
    return points, np.repeat(owners, rings.value_lengths().to_numpy() // 2)


def _with_points(polygons: pa.ListArray, points: NDArray[np.float64]) -> pa.ListArray:
    """The same polygons with other points."""
    rings = polygons.flatten()
    inner = pa.ListArray.from_arrays(_offsets(rings), pa.array(points.ravel()))
    return pa.ListArray.from_arrays(_offsets(polygons), inner)


def _offsets(lists: pa.ListArray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]), pa.int32())


def _extents(points: NDArray[np.float64], owners: NDArray[np.int64]) -> NDArray[np.float64]:
    """The box around the points of each owner that has any, `[n_owners, 4]`."""
    if not len(points):
        return np.empty((0, 4))
    starts = np.unique(owners, return_index=True)[1]
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    return np.hstack([low, high - low])


def _turned_boxes(boxes: NDArray[np.float64], size: tuple[int, int], orientation: int) -> NDArray[np.float64]:
    x, y, w, h = boxes.T
    corners = np.stack([turn_point(x, y, size, orientation), turn_point(x + w, y + h, size, orientation)])  # [2, 2, n]
    low, high = corners.min(axis=0), corners.max(axis=0)
    return np.vstack([low, high - low]).T
