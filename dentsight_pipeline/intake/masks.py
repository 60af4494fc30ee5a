"""Masks in run lengths, as polygons: what COCO writes for a brush, where everything after this works on outlines.

A mask is `{"size": [height, width], "counts": …}`: run lengths down the columns, zeros first, as a list or compressed
into text (pycocotools, `maskApi.c`). They are checked here before a pixel is drawn: the lengths are foreign numbers.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import cv2
import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.data.image_bytes import MAX_PIXELS

_BITS, _SIGN, _MORE = 0x1F, 0x10, 0x20
_LONGEST = 13
"""Characters of one compressed number; a longer one does not fit 64 bits."""


def mask_polygons(mask: Any, size: tuple[int, int]) -> list[list[float]]:
    """The outer outlines of a mask, flat x, y … through the middles of its outermost pixels; none when it is malformed.

    Args:
        mask: What an annotation has as its `segmentation`.
        size: Listed width and height of its image; 0 when not listed.
    """
    lengths = _run_lengths(mask, size)
    if lengths is None:
        return []
    drawn, first_column = _drawn(lengths, mask["size"][0])
    outlines, _ = cv2.findContours(drawn, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    offset = np.array([first_column + 0.5, 0.5])
    return [(line.reshape(-1, 2) + offset).ravel().tolist() for line in outlines if len(line) >= 3]


def _run_lengths(mask: Any, size: tuple[int, int]) -> NDArray[np.int64] | None:
    """The lengths, when they fill exactly the image and mark something."""
    if not isinstance(mask, dict) or not _are_lengths(mask.get("size")) or len(mask["size"]) != 2:
        return None
    height, width = mask["size"]
    if not 0 < height * width <= MAX_PIXELS or (0 not in size and (width, height) != size):
        return None
    counts = mask.get("counts")
    counts = _uncompressed(counts) if isinstance(counts, str) else counts
    if not _are_lengths(counts) or sum(counts) != height * width or not any(counts[1::2]):
        return None
    return np.array(counts, np.int64)


def _are_lengths(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number <= MAX_PIXELS for number in value)


def _uncompressed(text: str) -> list[int] | None:
    """Numbers of five bits a character, each from the fourth on as the difference from the last but one."""
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift >= 5 * _LONGEST:
            return None
        value |= (bits & _BITS) << shift
        shift += 5
        if not bits & _MORE:
            value -= (1 << shift) if bits & _SIGN else 0
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers if shift == 0 else None


def _drawn(lengths: NDArray[np.int64], height: int) -> tuple[NDArray[np.uint8], int]:
    """The columns from the first to the last that hold anything, uint8 `[height, columns]`, and which is the first."""
    ends = np.cumsum(lengths)
    starts, ends = (ends - lengths)[1::2], ends[1::2]
    marked = ends > starts
    first, last = int(starts[marked][0]) // height, (int(ends[marked][-1]) - 1) // height
    flat = np.zeros((last - first + 1) * height + 1, np.int8)
    np.add.at(flat, starts[marked] - first * height, 1)
    np.add.at(flat, ends[marked] - first * height, -1)
    columns = np.cumsum(flat[:-1], dtype=np.int8).astype(np.uint8).reshape(-1, height)
    return np.ascontiguousarray(columns.T), first
