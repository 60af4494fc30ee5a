"""Which number has a tooth that is not there?

A missing tooth and an implant have no tooth box that the join could find, but their neighbours in the arch do: between
26 and 28 stands 27. A number is inferred only where that leaves no choice, and is never counted as one that was found:
who shows it says that it was inferred. Findings on teeth that are there are the business of `tooth_join.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ABSENT = frozenset({"missing", "implant"})
"""Conditions that stand in a gap of the arch."""
UPPER = ("18", "17", "16", "15", "14", "13", "12", "11", "21", "22", "23", "24", "25", "26", "27", "28")
LOWER = ("48", "47", "46", "45", "44", "43", "42", "41", "31", "32", "33", "34", "35", "36", "37", "38")
"""The jaws' teeth from the image's left, which is the patient's right, to its right."""
ROW_REACH = 0.5
"""Largest distance of a finding's centre from the row of teeth, in heights of a tooth."""


class _Gap(NamedTuple):
    """An interval of a jaw, between the neighbours at these places of `UPPER` or `LOWER` (−1 and 16 are its ends)."""

    jaw: tuple[str, ...]
    left: int
    right: int

    @property
    def numbers(self) -> tuple[str, ...]:
        """The teeth that belong between the neighbours."""
        return self.jaw[self.left + 1 : self.right]


def infer_absent(
    boxes_xywh_px: np.ndarray, tooth_boxes_xywh_px: np.ndarray, teeth_fdi: Sequence[str]
) -> list[str | None]:
    """The number that each absent tooth would have, by the numbers of its neighbours.

    The findings between two neighbours have numbers when there are as many of them as numbers between the neighbours;
    two findings one above the other (a missing tooth replaced by an implant) are one place.

    Args:
        boxes_xywh_px: [A, 4] boxes of the findings in `ABSENT` that no tooth has.
        tooth_boxes_xywh_px: [T, 4] teeth in the same frame.
        teeth_fdi: [T] their FDI names, no name twice.

    Returns:
        A FDI names; None where the neighbours do not decide: too many or too few findings in the gap, a gap for which
        no number is left, neighbours in the wrong order, or a finding that lies in neither row.
    """
    boxes = np.asarray(boxes_xywh_px, np.float64).reshape(-1, 4)
    teeth = np.asarray(tooth_boxes_xywh_px, np.float64).reshape(-1, 4)
    gaps: dict[_Gap, list[int]] = {}
    for row in np.argsort(boxes[:, 0] + boxes[:, 2] / 2, kind="stable"):
        gap = _gap_of(boxes[row], teeth, teeth_fdi)
        if gap is not None:
            gaps.setdefault(gap, []).append(int(row))
    inferred: list[str | None] = [None] * len(boxes)
    for gap, rows in gaps.items():
        places = _places(boxes, rows)
        if len(places) == len(gap.numbers) and not set(gap.numbers) & set(teeth_fdi):
            for number, place in zip(gap.numbers, places, strict=True):
                for row in place:
                    inferred[row] = number
    return inferred


def _gap_of(box: np.ndarray, teeth: np.ndarray, fdi: Sequence[str]) -> _Gap | None:
    """The gap that a finding stands in, or None when it lies in neither row."""
    x, y = box[:2] + box[2:] / 2
    nearest: tuple[float, _Gap] | None = None
    for jaw in (UPPER, LOWER):
        of_jaw = [t for t, name in enumerate(fdi) if name in jaw]
        if not of_jaw:
            continue
        centres = teeth[of_jaw, :2] + teeth[of_jaw, 2:] / 2  # [teeth of the jaw, 2]
        order = np.argsort(centres[:, 0])
        xs, ys = centres[order].T
        distance = abs(y - np.interp(x, xs, ys)) / np.median(teeth[of_jaw, 3])
        after = int(np.searchsorted(xs, x))
        left = jaw.index(fdi[of_jaw[order[after - 1]]]) if after > 0 else -1
        right = jaw.index(fdi[of_jaw[order[after]]]) if after < len(xs) else len(jaw)
        if distance <= ROW_REACH and (nearest is None or distance < nearest[0]):
            nearest = float(distance), _Gap(jaw, left, right)
    return None if nearest is None else nearest[1]


def _places(boxes: np.ndarray, rows: Sequence[int]) -> list[list[int]]:
    """The rows, ordered from the left, together where one's centre lies over or under the first of its place."""
    places: list[list[int]] = []
    for row in rows:
        first = boxes[places[-1][0]] if places else None
        if first is not None and boxes[row, 0] + boxes[row, 2] / 2 < first[0] + first[2]:
            places[-1].append(row)
        else:
            places.append([row])
    return places
