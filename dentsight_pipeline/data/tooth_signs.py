"""Does what a split says of its teeth fit what can be true of any panoramic X-rays? Signs of a whole split.

Where `fdi.py` flags single images for a person, these signs tell that a file means something else than what was read:
boxes of another scale or corner, names in another order. Each counts tooth boxes, so that its limit is a share; the
limits and the words are in `intake/limits.py`. Without tooth boxes nothing can be said: a cavity may lie anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dentsight_pipeline.data.fdi import out_of_order, tooth_flags
from dentsight_pipeline.documents.annotations import RawSplit, flat_values

FEWEST_TEETH = 8
"""Tooth boxes that an image needs to be judged."""
NUMBERED_IMAGES = 64
"""Images of a split whose tooth numbers are looked at."""
LOOKED_AT = 16
"""Images of a split whose pixels are looked at."""
GRAY_PX = 256
"""Shorter side to which pixels may be reduced for it; a tooth is then still some ten pixels wide."""
_OFF_CENTRE = np.array([0.15, 0.3])
"""Of width and height: how far the mean of an image's tooth centres can lie from the image's middle. The machine
centres the arch; the teeth that one side has and the other lacks move the mean by less."""
_ROWS = (0.1, 0.9)
"""The part of a box's height that is compared."""

Counted = tuple[int, int]
"""Tooth boxes that show a sign, of those that were judged."""


@dataclass(frozen=True)
class _Teeth:
    """The tooth boxes of the images that have enough of them.

    Attributes:
        image: Row of the image, shape [n], ascending.
        names: FDI numbers, shape [n].
        xywh_px: Shape [n, 4].
        sizes_px: Width and height of the image, shape [n, 2].
    """

    image: NDArray[np.int64]
    names: NDArray[np.str_]
    xywh_px: NDArray[np.float64]
    sizes_px: NDArray[np.float64]

    def of_images(self, most: int) -> Iterator[tuple[int, _Teeth]]:
        """Some images, evenly spread over the split, with their row."""
        rows = np.unique(self.image)
        for row in _spread(rows, most):
            own = slice(*np.searchsorted(self.image, (row, row + 1)))
            yield int(row), _Teeth(self.image[own], self.names[own], self.xywh_px[own], self.sizes_px[own])


def images_to_look_at(labels: pa.ChunkedArray, images: NDArray[np.int64], teeth: Mapping[str, str]) -> list[int]:
    """Rows of the images of a split whose pixels `tooth_signs` wants to see.

    Args:
        labels: Raw name of each annotation, shape [n].
        images: Row of its image, shape [n].
        teeth: Raw name → FDI number.
    """
    rows, counts = np.unique(images[_numbers(labels, teeth) != ""], return_counts=True)
    return [int(row) for row in _spread(rows[counts >= FEWEST_TEETH], LOOKED_AT)]


def tooth_signs(
    split: RawSplit, teeth: Mapping[str, str], grays: Mapping[str, NDArray[np.uint8]]
) -> dict[str, Counted]:
    """How many tooth boxes of a split show each sign.

    Args:
        split: As it was read.
        teeth: Raw name → FDI number.
        grays: Stored sha256 → the image in gray, maybe reduced, uint8 `[height, width]`; others are not looked at.
    """
    found = _teeth(split, teeth)
    digests = split.images["sha256"].to_pylist()
    seen = [(grays[digests[row]], own) for row, own in found.of_images(LOOKED_AT) if digests[row] in grays]
    return {"arch_off_centre": _off_centre(found), **_order(found), **_on_pixels(seen)}


def _teeth(split: RawSplit, teeth: Mapping[str, str]) -> _Teeth:
    numbers = _numbers(split.annotations["label"], teeth)
    image = split.image_rows
    enough = np.bincount(image[numbers != ""], minlength=len(split.images)) >= FEWEST_TEETH
    rows = np.flatnonzero((numbers != "") & enough[image])
    rows = rows[np.argsort(image[rows], kind="stable")]
    sizes = np.stack([split.images[side].to_numpy() for side in ("width", "height")], axis=1).astype(float)
    boxes = flat_values(split.annotations["bbox"]).reshape(-1, 4)
    return _Teeth(image[rows], numbers[rows], boxes[rows], sizes[image[rows]])


def _numbers(labels: pa.ChunkedArray, teeth: Mapping[str, str]) -> NDArray[np.str_]:
    """The FDI number of each annotation, empty for all else, shape [n]."""
    column = labels.combine_chunks()
    names = np.array([*(teeth.get(name, "") for name in column.dictionary.to_pylist()), ""])
    return names[column.indices.to_numpy()]


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


# Where the teeth lie -------------------------------------------------------------------------------------------------


def _off_centre(teeth: _Teeth) -> Counted:
    """Boxes of images whose teeth are far from the middle: of another scale, or with x and y exchanged."""
    if not len(teeth.image):
        return 0, 0
    centres = (teeth.xywh_px[:, :2] + teeth.xywh_px[:, 2:] / 2) / teeth.sizes_px
    starts, counts = np.unique(teeth.image, return_index=True, return_counts=True)[1:]
    means = np.add.reduceat(centres, starts) / counts[:, None]
    left = np.add.reduceat(np.isin(teeth.names.astype("U1"), ("1", "4")), starts)
    both_sides = np.minimum(left, counts - left) >= FEWEST_TEETH // 4
    far = (np.abs(means - 0.5) > _OFF_CENTRE).any(axis=1)
    return int(counts[far & both_sides].sum()), int(counts[both_sides].sum())


def _order(teeth: _Teeth) -> dict[str, Counted]:
    """Boxes of mirrored images; on the wrong side or in the wrong jaw; far from their place; of numbers mostly so."""
    mirrored = unordered = 0
    wrong, all_of = Counter[str](), Counter[str]()
    for _, own in teeth.of_images(NUMBERED_IMAGES):
        width, height = own.sizes_px[0].astype(int)
        numbered = list(zip(own.names.tolist(), own.xywh_px.tolist(), strict=True))
        flags = tooth_flags(width, height, numbered)
        unordered += out_of_order(width, numbered)
        mirrored += len(own.names) * ("mirrored" in flags or "upside_down" in flags)
        all_of.update(own.names.tolist())
        wrong.update({flag.partition(":")[2] for flag in flags if flag.startswith("wrong_")})
    total = all_of.total()
    whole = sum(count for name, count in wrong.items() if count >= 3 and 2 * count > all_of[name])
    return {
        "teeth_mirrored": (mirrored, total),
        "teeth_misplaced": (wrong.total(), total),
        "teeth_out_of_order": (unordered, total),
        "tooth_number_misplaced": (whole, total),
    }


# What the boxes hold -------------------------------------------------------------------------------------------------


def _on_pixels(seen: list[tuple[NDArray[np.uint8], _Teeth]]) -> dict[str, Counted]:
    """Boxes that hold less tooth than the same boxes half a box further, and such that hold no tooth at all.

    A tooth is brighter than the gaps at its sides: enamel and dentine against bone and air.
    """
    beside = np.zeros(2, int)
    off = total = 0
    for gray, teeth in seen:
        boxes = teeth.xywh_px * (gray.shape[1] / teeth.sizes_px[:, :1])
        sums = cv2.integral(gray).astype(float)
        own = _contrasts(sums, boxes)
        half = np.hstack([boxes[:, 2:] / 2, np.zeros_like(boxes[:, 2:])])
        beside += [int((_contrasts(sums, boxes + sign * half) > own).sum()) for sign in (-1, 1)]
        off += int((own <= 0).sum())
        total += len(own)
    return {"boxes_beside_teeth": (int(beside.max()), total), "boxes_off_teeth": (off, total)}


def _contrasts(sums: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much brighter the middle of each box is than its two sides, in gray values; NaN off the image, shape [n]."""
    left, middle, right = (_means(sums, boxes, *part) for part in ((-0.15, 0.1), (0.3, 0.7), (0.9, 1.15)))
    return middle - (left + right) / 2


def _means(sums: NDArray[np.float64], boxes: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """Mean gray of a part of each box's width, from its summed-area table (Crow, SIGGRAPH 1984), shape [n]."""
    x, y, w, h = boxes.T
    limits = np.array(sums.shape)[::-1, None] - 1  # width and height
    low = np.clip(np.round([x + start * w, y + _ROWS[0] * h]), 0, limits).astype(int)
    high = np.clip(np.round([x + end * w, y + _ROWS[1] * h]), 0, limits).astype(int)
    high = np.maximum(high, np.minimum(low + 1, limits))
    area = (high - low).prod(axis=0).astype(float)
    area[area <= 0] = np.nan
    return (sums[high[1], high[0]] - sums[low[1], high[0]] - sums[high[1], low[0]] + sums[low[1], low[0]]) / area
