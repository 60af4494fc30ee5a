"""Do the tooth numbers of one image fit each other? Flags for people, never repairs.

Numbers are judged by where the teeth lie relative to each other, not by where they lie in the image: a tilted, cropped
or partly toothless mouth is fine. Seen on a panoramic X-ray, the patient's right is on the image's left, so that along
x the arches read 18…11, 21…28 and 48…41, 31…38, upper teeth above lower ones (ISO 3950). What a class name means
belongs in `ontology.py`; how predictions are joined to teeth, in the evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OTHER_SIDE = {"1": "2", "2": "1", "3": "4", "4": "3"}
"""Quadrant → its counterpart across the midline: the first digit of a tooth's number in a mirror."""
OTHER_JAW = {"1": "4", "4": "1", "2": "3", "3": "2"}
"""Quadrant → its counterpart in the other jaw."""
_LEFT_OF_PATIENT = frozenset("23")
_UPPER = frozenset("12")

# Distance of each tooth's centre from the midline in units of 8 mm, positions 1 to 8, from the mean mesiodistal crown
# widths (Ash & Nelson, "Wheeler's Dental Anatomy", table 1-1, rounded to 0.5 mm).
_UPPER_PLACES = np.array([4.25, 11.75, 18.75, 26.0, 33.0, 41.5, 51.25, 60.5]) / 8
_LOWER_PLACES = np.array([2.5, 7.75, 14.0, 21.0, 28.0, 37.0, 47.75, 58.25]) / 8

_FEWEST_TEETH = 5
"""Below this many teeth, no place is judged."""
_FEWEST_OF_A_JAW = 3
"""Below this many teeth of one jaw, the other alone gives the row."""
_FAR = 2.5
"""Places, 8 mm units, by which a tooth must be off to be out of order: gaps close and teeth drift by one."""
_FITTING_SHARE = 0.6
"""Share of the teeth that must fit one order along x before anything is said from it."""


@dataclass(frozen=True, slots=True)
class _Teeth:
    """The numbered teeth of one image.

    Attributes:
        names: FDI numbers.
        place: Signed place along the arch, 8 mm units, negative on the patient's right; shape [n].
        upper: Whether the number is of the upper jaw; shape [n].
        x: Horizontal centre of the box, pixels; shape [n].
        y: Vertical centre, pixels; shape [n].
        tall: Height of the box, pixels; shape [n].
    """

    names: list[str]
    place: NDArray[np.float64]
    upper: NDArray[np.bool_]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    tall: NDArray[np.float64]

    @property
    def jaw(self) -> NDArray[np.float64]:
        """-1 for upper and 1 for lower teeth: y points down."""
        return np.where(self.upper, -1.0, 1.0)


def tooth_flags(width: int, height: int, teeth: Sequence[tuple[str, Sequence[float]]]) -> list[str]:
    """Say what does not fit in the tooth numbers of one image.

    Args:
        width: Image width, pixels.
        height: Image height, pixels.
        teeth: FDI number and box [x, y, width, height] in pixels for each numbered tooth; other names are ignored.

    Returns:
        Sorted flags, empty when all fits:
        `repeated_tooth:36` when a number occurs more than once;
        `mirrored` when left and right are exchanged throughout, and `upside_down` when upper and lower are (both: the
        image is turned by 180°), whether the picture was flipped or the numbers were given so;
        `wrong_side:36` when a tooth lies where its counterpart of the other side belongs (46 for 36), and
        `wrong_jaw:36` when it lies in the row of the other jaw, each judged in the orientation of the other teeth.
        Places are judged only where at least five teeth, and 60 % of all, agree on an order.
    """
    found = _numbered(teeth)
    flags = {f"repeated_tooth:{name}" for name, count in Counter(found.names).items() if count > 1}
    if len(set(found.names)) >= _FEWEST_TEETH:
        flags |= _side_flags(found, width)
        flags |= _jaw_flags(found, height)
    return sorted(flags)


def out_of_order(width: int, teeth: Sequence[tuple[str, Sequence[float]]]) -> int:
    """How many of an image's teeth lie far from where their numbers stand in the row; all, where no order is seen.

    Args:
        width: Image width, pixels.
        teeth: As for `tooth_flags`.
    """
    found = _numbered(teeth)
    if len(set(found.names)) < _FEWEST_TEETH:
        return 0
    line = _order_along_x(found, width)
    if line is None:
        return len(found.names)
    middle, pitch, tilt = line
    return int((np.abs((found.x - middle - tilt * found.jaw) / pitch - found.place) > _FAR).sum())


def _numbered(teeth: Sequence[tuple[str, Sequence[float]]]) -> _Teeth:
    known = [(name, box) for name, box in teeth if len(name) == 2 and name[0] in "1234" and name[1] in "12345678"]
    names = [name for name, _ in known]
    boxes = np.array([list(box) for _, box in known], dtype=np.float64).reshape(-1, 4)
    upper = np.array([name[0] in _UPPER for name in names], dtype=bool)
    place = np.array([_place(name) for name in names], dtype=np.float64)
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    return _Teeth(names, place, upper, centres[:, 0], centres[:, 1], boxes[:, 3])


def _place(name: str) -> float:
    """Signed place along the arch, 8 mm units; positive on the patient's left, which is the image's right."""
    distance = (_UPPER_PLACES if name[0] in _UPPER else _LOWER_PLACES)[int(name[1]) - 1]
    return float(distance if name[0] in _LEFT_OF_PATIENT else -distance)


def _side_flags(teeth: _Teeth, width: int) -> set[str]:
    """`mirrored`, and teeth on the other side."""
    line = _order_along_x(teeth, width)
    if line is None:
        return set()
    middle, pitch, tilt = line  # px, px per 8 mm, px from the middle to the lower row
    flags = {"mirrored"} if pitch < 0 else set()
    away = (teeth.x - middle - tilt * teeth.jaw) / pitch  # place where the tooth lies, 8 mm units
    own, mirrored = np.abs(away - teeth.place), np.abs(away + teeth.place)
    wrong = (own > 0.6) & (mirrored < 0.5 * own)
    return flags | {f"wrong_side:{teeth.names[i]}" for i in np.flatnonzero(wrong)}


def _order_along_x(teeth: _Teeth, width: int) -> tuple[float, float, float] | None:
    """Fit x = middle + pitch × place + tilt × jaw, robust against up to 40 % of wrong teeth; None when none fits.

    Every pair of teeth proposes a middle and a pitch; the pair with the least sum of truncated deviations wins (a small
    exhaustive RANSAC), and the teeth that fit it are fitted again by least squares with the tilt.
    """
    first, second = np.triu_indices(len(teeth.place), 1)
    apart = teeth.place[second] - teeth.place[first]
    far = np.abs(apart) > 1.0
    first, second, apart = first[far], second[far], apart[far]
    if not len(apart):
        return None
    pitches = (teeth.x[second] - teeth.x[first]) / apart
    middles = teeth.x[first] - pitches * teeth.place[first]
    plausible = np.abs(pitches) > 0.005 * width
    pitches, middles = pitches[plausible], middles[plausible]
    if not len(pitches):
        return None
    off = np.abs(teeth.x - middles[:, None] - pitches[:, None] * teeth.place) / np.abs(pitches)[:, None]
    best = int(np.minimum(off, 1.5).sum(axis=1).argmin())
    fits = off[best] < 1.5
    if fits.sum() < max(_FEWEST_TEETH - 1, _FITTING_SHARE * len(fits)) or np.ptp(teeth.place[fits]) < 2:
        return None
    columns = [np.ones(fits.sum()), teeth.place[fits]]
    both_jaws = min(teeth.upper[fits].sum(), (~teeth.upper[fits]).sum()) >= _FEWEST_OF_A_JAW
    if both_jaws:
        columns.append(teeth.jaw[fits])
    solution = np.linalg.lstsq(np.stack(columns, axis=1), teeth.x[fits], rcond=None)[0]
    return float(solution[0]), float(solution[1]), float(solution[2]) if both_jaws else 0.0


def _jaw_flags(teeth: _Teeth, height: int) -> set[str]:
    """`upside_down`, and teeth in the row of the other jaw."""
    upper, lower = int(teeth.upper.sum()), int((~teeth.upper).sum())
    if min(upper, lower) == 0:
        return set()
    if min(upper, lower) < _FEWEST_OF_A_JAW:
        return _strays(teeth)
    columns = np.stack([np.ones_like(teeth.x), teeth.jaw, teeth.x - teeth.x.mean()], axis=1)
    if len(teeth.names) >= 10:
        columns = np.column_stack([columns, teeth.place**2])  # the rows bend upwards or downwards to the sides
    solution = _least_absolute(columns, teeth.y)
    half = float(solution[1])  # from the middle to the lower row, px
    if abs(half) < 0.01 * height:
        return set()
    from_middle = (teeth.y - columns @ solution) / half + teeth.jaw  # -1 in the upper row, 1 in the lower
    flags = {"upside_down"} if half < 0 else set()
    wrong = from_middle * teeth.jaw < -0.4
    return flags | {f"wrong_jaw:{teeth.names[i]}" for i in np.flatnonzero(wrong)}


def _strays(teeth: _Teeth) -> set[str]:
    """One jaw has a row, the other one or two teeth: those that lie in that row are in the wrong jaw."""
    majority = teeth.upper == (teeth.upper.sum() > (~teeth.upper).sum())
    if majority.sum() < _FEWEST_TEETH - 1:
        return set()
    columns = np.stack([np.ones_like(teeth.x), teeth.x - teeth.x.mean()], axis=1)
    row = columns @ _least_absolute(columns[majority], teeth.y[majority])
    stray = ~majority & (np.abs(teeth.y - row) < 0.35 * np.median(teeth.tall))
    return {f"wrong_jaw:{teeth.names[i]}" for i in np.flatnonzero(stray)}


def _least_absolute(columns: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least absolute deviations by iteratively reweighted least squares (Schlossmacher, JASA 1973)."""
    weights = np.ones_like(target)
    solution = np.zeros(columns.shape[1])
    floor = 1e-3 * max(float(np.ptp(target)), 1.0)
    for _ in range(30):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(columns * root[:, None], target * root, rcond=None)[0]
        weights = 1 / np.maximum(np.abs(target - columns @ solution), floor)
    return np.asarray(solution, dtype=np.float64)
