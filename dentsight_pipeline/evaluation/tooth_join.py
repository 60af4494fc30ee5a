"""Which tooth does a condition belong to?

Not by plain IoU: a caries-sized box inside its tooth has a median IoU of .055 with it. What counts is the share of the
condition's own area that lies on the tooth (median .957). Two kinds need their own rule: a periapical lesion sits
beyond the root, so the nearest root tip has it; a bridge spans several teeth, so every tooth it covers has it.
Whatever fits no tooth stays, marked so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dentsight_pipeline.documents.teeth import Rule
from dentsight_pipeline.errors import EvaluationError

LEAST_SHARE = 0.5
"""Share of the condition's area on one tooth (97 % of true pairs have more)."""
BRIDGE_TOOTH_SHARE = 0.25
"""Share of a tooth's width under a bridge from which the bridge counts for that tooth."""
ROOT_TIP_REACH = 0.5
"""Largest distance from the root tips to the lesion's centre, in heights of the tooth."""
PERIAPICAL = frozenset({"periapical-radiolucency"})
SPANNING = frozenset({"bridge"})
_UPPER = ("1", "2")


@dataclass(frozen=True)
class ToothFinding:
    """One condition with the teeth it belongs to.

    Attributes:
        condition: Row of the condition box.
        teeth: Rows of the teeth: one, several for a bridge, none when unassigned.
        fdi: Their names in the same order.
        rule: What assigned it; `none` = unassigned.
        score: Share of the condition's area (`overlap`, `span`), distance in tooth heights (`root-tip`), 0 for `none`.
    """

    condition: int
    teeth: tuple[int, ...]
    fdi: tuple[str, ...]
    rule: Rule
    score: float

    @property
    def assigned(self) -> bool:
        """Whether any tooth has it."""
        return bool(self.teeth)


def join_teeth(
    condition_boxes_xywh_px: np.ndarray,
    conditions: Sequence[str],
    tooth_boxes_xywh_px: np.ndarray,
    teeth_fdi: Sequence[str],
) -> list[ToothFinding]:
    """Assign the conditions of one image to its teeth.

    Args:
        condition_boxes_xywh_px: [C, 4] in the image's frame.
        conditions: [C] class names as in the ontology.
        tooth_boxes_xywh_px: [T, 4] in the same frame; may be empty.
        teeth_fdi: [T] FDI names, `11` … `48`.

    Returns:
        C findings in the order given; unassigned ones have no teeth.

    Raises:
        EvaluationError: Lengths that differ, or a tooth name that is not FDI.
    """
    boxes = np.asarray(condition_boxes_xywh_px, np.float64).reshape(-1, 4)
    teeth = np.asarray(tooth_boxes_xywh_px, np.float64).reshape(-1, 4)
    if len(boxes) != len(conditions) or len(teeth) != len(teeth_fdi):
        raise EvaluationError(
            f"The join got {len(boxes)} condition boxes for {len(conditions)} names and {len(teeth)} tooth boxes for "
            f"{len(teeth_fdi)} names. Give one name for each box."
        )
    for name in teeth_fdi:
        if len(name) != 2 or name[0] not in "1234" or name[1] not in "12345678":
            raise EvaluationError(f"Tooth {name!r} is not a permanent tooth in FDI notation (11 … 48).")
    shares = _intersections(boxes, teeth) / np.maximum(boxes[:, 2] * boxes[:, 3], 1e-12)[:, None]  # [C, T]
    return [_assign(row, name, boxes, teeth, teeth_fdi, shares) for row, name in enumerate(conditions)]


def _assign(
    row: int, name: str, boxes: np.ndarray, teeth: np.ndarray, fdi: Sequence[str], shares: np.ndarray
) -> ToothFinding:
    def finding(found: Sequence[int], rule: Rule, score: float) -> ToothFinding:
        return ToothFinding(row, tuple(found), tuple(fdi[t] for t in found), rule, score)

    if not len(teeth):
        return finding((), "none", 0.0)
    if name in SPANNING:
        under = [t for t in range(len(teeth)) if _is_under(boxes[row], teeth[t], fdi[t])]
        if under:
            return finding(under, "span", float(shares[row, under].sum()))
    if name in PERIAPICAL:
        distances = np.array([_tip_distance(boxes[row], teeth[t], fdi[t]) for t in range(len(teeth))])
        nearest = int(np.argmin(distances))
        if distances[nearest] <= ROOT_TIP_REACH:
            return finding((nearest,), "root-tip", float(distances[nearest]))
    best = int(np.argmax(shares[row]))
    if shares[row, best] >= LEAST_SHARE:
        return finding((best,), "overlap", float(shares[row, best]))
    return finding((), "none", 0.0)


def _intersections(a_xywh: np.ndarray, b_xywh: np.ndarray) -> np.ndarray:
    """[A, B] areas of intersection."""
    low = np.maximum(a_xywh[:, None, :2], b_xywh[None, :, :2])
    high = np.minimum(a_xywh[:, None, :2] + a_xywh[:, None, 2:], b_xywh[None, :, :2] + b_xywh[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)


def _is_under(bridge: np.ndarray, tooth: np.ndarray, fdi: str) -> bool:
    """Whether the bridge reaches the tooth's crown half and lies over enough of its width."""
    x, y, w, h = tooth
    crown_top, crown_bottom = (y + h / 2, y + h) if fdi[0] in _UPPER else (y, y + h / 2)
    covered = min(bridge[0] + bridge[2], x + w) - max(bridge[0], x)
    reaches_crown = min(bridge[1] + bridge[3], crown_bottom) > max(bridge[1], crown_top)
    return bool(reaches_crown and covered / w >= BRIDGE_TOOTH_SHARE)


def _tip_distance(lesion: np.ndarray, tooth: np.ndarray, fdi: str) -> float:
    """Distance from the root tips to the lesion's centre, in tooth heights.

    The tips lie on the tooth box's edge away from the bite (its top in the upper jaw, its bottom in the lower), within
    its middle half: a molar's roots stand apart.
    """
    x, y, w, h = tooth
    across = max(abs(lesion[0] + lesion[2] / 2 - (x + w / 2)) - w / 4, 0.0)
    along = lesion[1] + lesion[3] / 2 - (y if fdi[0] in _UPPER else y + h)
    return float(np.hypot(across, along) / h)
