"""What is mended in boxes and polygons, on columns; every repair is noted with the row that it was made in.

The arithmetic is that of one box at a time, step by step: a box that fits its image must not change in one bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dentsight_pipeline.documents.annotations import REPAIRS, RawSplit

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAR_DUPLICATE_IOU = 0.9
"""Two boxes of one class on one image that overlap at least this much mark one finding twice."""
ZERO_PX = 1e-6
"""Width or height (px), or area of a polygon (px²), up to which there is nothing to see."""
ROUNDING_PX = 1e-6
"""Pixels past the edge that are rounding of fractions (5.7e-14 was seen): put right, and nothing to tell of."""
OUTSIDE_PX = 1.0
"""Pixels outside the image beyond which a box cannot be meant for it."""


@dataclass(frozen=True)
class Note:
    """Repairs of one kind.

    Attributes:
        kind: As the table of repairs names it.
        rows: Which annotation each was made in, of those that were looked at; shape [n].
        details: What was done, in words, n of them.
        order: Where one annotation has several repairs, which comes first, shape [n].
    """

    kind: str
    rows: NDArray[np.int64]
    details: Sequence[str]
    order: NDArray[np.int64]

    def at(self, places: NDArray[np.int64]) -> Note:
        """The same, counted among other annotations: `places[k]` is what was the k-th."""
        return replace(self, rows=places[self.rows])


@dataclass(frozen=True)
class MendedBoxes:
    """Boxes inside their images.

    Attributes:
        boxes: Shape [n, 4], x, y, width, height in px; one that is not kept means nothing.
        kept: Whether anything of a box is left, shape [n].
        outside: Whether it lies wholly outside the image, which nobody can have meant, shape [n].
        notes: What was mended.
    """

    boxes: NDArray[np.float64]
    kept: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    notes: list[Note]


def mended_boxes(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> MendedBoxes:
    """Boxes [n, 4] clipped to images of width and height `sizes` [n, 2]; those without area are left out."""
    with_area = boxes[:, 2:].min(axis=1) > ZERO_PX
    ends = boxes[:, :2] + boxes[:, 2:]
    over = np.maximum(-boxes[:, :2], ends - sizes).max(axis=1)
    beyond = np.flatnonzero(with_area & (over > 0))
    clipped = boxes.copy()
    clipped[beyond] = _clipped(boxes[beyond, :2], ends[beyond], sizes[beyond])
    left = clipped[:, 2:].min(axis=1) > ZERO_PX
    told = over > ROUNDING_PX
    cut, gone, flat = beyond[left[beyond] & told[beyond]], beyond[~left[beyond]], np.flatnonzero(~with_area)
    notes = [
        Note("zero_area_box", flat, [f"{w:g}×{h:g} px, left out" for w, h in boxes[flat, 2:].tolist()], flat),
        Note("clipped_box", cut, [f"reached {reach:.3g} px past the edge" for reach in over[cut].tolist()], cut),
        Note("zero_area_box", gone, ["nothing of it is inside the image, left out"] * len(gone), gone),
    ]
    outside = np.zeros(len(boxes), dtype=bool)
    outside[gone] = lie_outside(boxes[gone], sizes[gone])
    return MendedBoxes(clipped, with_area & left, outside, notes)


def lie_outside(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the boxes [n, 4] lie wholly outside their image, by more than rounding can explain, shape [n]."""
    far = (boxes[:, :2] >= sizes + OUTSIDE_PX) | (boxes[:, :2] + boxes[:, 2:] <= -OUTSIDE_PX)
    return far[:, 0] | far[:, 1]


def _clipped(starts: NDArray[np.float64], ends: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of each box inside its image, [n, 4]; its width or height is 0 when there is none."""
    starts, ends = _inside(starts, sizes), _inside(ends, sizes)
    return np.concatenate([starts, _at_least_zero(ends - starts)], axis=1)


def _inside(values: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.float64]:
    low = _at_least_zero(values)
    return np.where(limits < low, limits, low)


def _at_least_zero(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Like Python's `max(value, 0.0)`, which leaves -0.0 as it is; numpy's maximum need not."""
    return np.where(values < 0.0, 0.0, values)


def mended_polygons(polygons: pa.ListArray, sizes: NDArray[np.float64]) -> tuple[pa.ListArray, list[Note]]:
    """Polygons with their points moved into the image; those without area are left out.

    Args:
        polygons: For each of n annotations its polygons, flat x, y, x, y … in px.
        sizes: Width and height of each annotation's image, shape [n, 2].

    Returns:
        The same for what is left, and what was mended.
    """
    per_annotation = polygons.value_lengths().to_numpy()
    rings = polygons.flatten()
    lengths, values = rings.value_lengths().to_numpy(), rings.flatten().to_numpy()
    annotation = np.repeat(np.arange(len(polygons)), per_annotation)  # [polygons]
    ring = np.repeat(np.arange(len(rings)), lengths)  # [values]
    inside = _inside(values, sizes[annotation[ring], np.arange(len(values)) % 2])
    moved = np.bincount(ring, np.abs(inside - values) > ROUNDING_PX, minlength=len(rings)) > 0
    kept = _areas(inside, lengths) > ZERO_PX
    notes = [
        Note(kind, annotation[chosen], [told] * len(chosen), chosen)
        for kind, chosen, told in (
            ("polygon_dropped", np.flatnonzero(~kept), "a polygon without area; the box stays"),
            ("clipped_polygon", np.flatnonzero(kept & moved), "points past the edge were moved onto it"),
        )
    ]
    left = _list_array(lengths[kept], pa.array(inside[kept[ring]]))
    return _list_array(np.bincount(annotation[kept], minlength=len(polygons)), left), notes


def _areas(values: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """The area of each polygon in px², by the shoelace formula; summed point by point, in their order."""
    xs, ys = values[::2], values[1::2]
    points = lengths // 2
    polygon = np.repeat(np.arange(len(points)), points)
    ends = np.cumsum(points)
    before = np.arange(len(xs)) - 1
    drawn = points > 0
    before[(ends - points)[drawn]] = ends[drawn] - 1
    return np.abs(np.bincount(polygon, xs[before] * ys - xs * ys[before], minlength=len(points))) / 2


def _list_array(lengths: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), values)


def twins(groups: NDArray[np.int64], boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each box the earlier one of its group that marks the same finding and stays, or -1.

    Args:
        groups: Equal for boxes of one class on one image, shape [n].
        boxes: In the order in which they were drawn, shape [n, 4].
    """
    twin = np.full(len(groups), -1)
    rest = np.argsort(groups, kind="stable")
    while len(rest):  # the first of each group stays; what marks the same goes; then the first of what is left …
        first = np.ones(len(rest), dtype=bool)
        first[1:] = groups[rest[1:]] != groups[rest[:-1]]
        heads = rest[first][np.cumsum(first) - 1]
        same = ~first & _mark_the_same(boxes[rest], boxes[heads])
        twin[rest[same]] = heads[same]
        rest = rest[~first & ~same]
    return twin


def _mark_the_same(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether paired boxes with an area overlap so far that both mark one finding, shape [n]."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    across, down = (np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]) - low).T
    overlap = across * down
    union = boxes[:, 2] * boxes[:, 3] + others[:, 2] * others[:, 3] - overlap
    return (across > 0) & (overlap >= NEAR_DUPLICATE_IOU * union)  # apart both ways, the product is positive too


def repair_table(
    stages: Sequence[Sequence[Note]], raw: RawSplit, rows: NDArray[np.int64], images: NDArray[np.int64]
) -> pa.Table:
    """Notes as a table of schema `REPAIRS`: annotation by annotation, and of one by stage.

    Args:
        stages: The notes, in the order in which the work was done.
        raw: The split that they are of.
        rows: For each annotation that was looked at its row in the split, shape [n].
        images: The same for its image.
    """
    notes = [(stage, note) for stage, several in enumerate(stages) for note in several]
    stage = np.repeat([stage for stage, _ in notes], [len(note.rows) for _, note in notes])
    where, order = (np.concatenate([getattr(note, name) for _, note in notes]) for name in ("rows", "order"))
    chosen = np.lexsort((order, stage, where))
    kinds = [note.kind for _, note in notes for _ in note.rows]
    details = [detail for _, note in notes for detail in note.details]
    image = raw.images.take(pa.array(images[where[chosen]]))
    columns = {
        "kind": pa.array([kinds[i] for i in chosen], REPAIRS.field("kind").type),
        "split": pa.array([raw.name] * len(chosen), REPAIRS.field("split").type),
        "export_image_id": image["id"],
        "export_annotation_id": raw.annotations["id"].take(pa.array(rows[where[chosen]])),
        "image": image["sha256"],
        "detail": [details[i] for i in chosen],
    }
    return pa.table([columns[name] for name in REPAIRS.names], schema=REPAIRS)
