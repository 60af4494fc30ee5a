"""What kind of mistake each detection is, and which class was taken for which.

Types, at IoU .50, in this order (after TIDE, Bolya et al. 2020, without its "both"):
`tp`; `duplicate`: its own class's box was taken by a higher score; `class`: on a box of another class;
`localisation`: on a box of its own class, but with an IoU of .10 to .50; `background`: on nothing. `missed` is ground
truth that no detection at or above the operating threshold takes. A type never depends on detections of lower score,
so the table made at a low floor is right at every threshold above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dentsight_pipeline.evaluation.matching import ClassMatches, iou_of_pairs, pairs_in_same_cell
from dentsight_pipeline.evaluation.validation import Detections, GroundTruth

KINDS = ("tp", "class", "localisation", "duplicate", "background", "missed")
_LOOSELY_ON = 0.1
_ON = 0.5
_PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class TypedDetections:
    """Detections at or above the floor, sorted by image then falling score; N rows.

    Attributes:
        floor: The least score.
        rows: [N] into `Detections`.
        kinds: [N] index into `KINDS`.
        gt_index: [N] annotation row taken, or −1.
        iou: [N] the IoU that decided the kind.
        confused: [P, 2] (position in `rows`, annotation row) with IoU ≥ .50 across classes, falling by IoU.
    """

    floor: float
    rows: np.ndarray
    kinds: np.ndarray
    gt_index: np.ndarray
    iou: np.ndarray
    confused: np.ndarray


def classify(
    truth: GroundTruth, detections: Detections, matches: Sequence[ClassMatches], floor: float
) -> TypedDetections:
    """Give every counted detection at or above `floor` its kind; those on crowd regions are left out.

    Args:
        truth: The ground truth.
        detections: All detections.
        matches: [K] the matches of each class for all areas.
        floor: Least score of a row.
    """
    kept = [(m.scores >= floor) & ~m.ignored[0] for m in matches]
    rows = np.concatenate([m.detection_index[k] for m, k in zip(matches, kept, strict=True)])
    gt_index = np.concatenate([m.gt_index[k] for m, k in zip(matches, kept, strict=True)])
    own = np.concatenate([m.gt_iou[k] for m, k in zip(matches, kept, strict=True)])
    order = np.lexsort((-detections.scores[rows], detections.image_index[rows]))
    rows, gt_index, own = rows[order], gt_index[order], own[order]

    counted = np.flatnonzero(~truth.crowd)
    counted = counted[np.argsort(truth.image_index[counted], kind="stable")]
    best_same, best_other, confused = _best_overlaps(truth, detections, rows, counted)
    hit = gt_index >= 0
    kinds = np.select(
        [hit, best_same >= _ON, best_other >= _ON, best_same >= _LOOSELY_ON],
        [KINDS.index("tp"), KINDS.index("duplicate"), KINDS.index("class"), KINDS.index("localisation")],
        KINDS.index("background"),
    )
    iou = np.where(hit, own, np.where(kinds == KINDS.index("class"), best_other, best_same))
    return TypedDetections(floor, rows, kinds, gt_index, iou, confused)


def found_at(
    matches: Sequence[ClassMatches], thresholds: Sequence[float] | np.ndarray, n_annotations: int
) -> np.ndarray:
    """[n_annotations] bool: taken by a detection at or above its class's threshold, at IoU .50."""
    found = np.zeros(n_annotations, bool)
    for m, threshold in zip(matches, thresholds, strict=True):
        taken = m.gt_index[(m.scores >= threshold) & (m.gt_index >= 0)]
        found[taken] = True
    return found


def count_by_type(
    truth: GroundTruth,
    detections: Detections,
    typed: TypedDetections,
    thresholds: Sequence[float] | np.ndarray,
    images: np.ndarray,
) -> dict[str, dict[str, int]]:
    """Errors of each class at its operating threshold, on the images where the mask `images` [I] is true."""
    kept = _at_or_above(detections, typed, thresholds) & images[detections.image_index[typed.rows]]
    found = np.zeros(len(truth.class_index), bool)
    found[typed.gt_index[kept & (typed.gt_index >= 0)]] = True
    missed = ~found & ~truth.crowd & images[truth.image_index]
    table = {}
    for k, name in enumerate(truth.class_names):
        mine = typed.kinds[kept & (detections.class_index[typed.rows] == k)]
        counts = {kind: int(np.count_nonzero(mine == n)) for n, kind in enumerate(KINDS)}
        table[name] = {
            "class_confusion": counts["class"],
            "localisation": counts["localisation"],
            "duplicate": counts["duplicate"],
            "background": counts["background"],
            "missed": int(np.count_nonzero(missed & (truth.class_index == k))),
        }
    return table


def confusion_matrix(
    truth: GroundTruth,
    detections: Detections,
    typed: TypedDetections,
    thresholds: Sequence[float] | np.ndarray,
    images: np.ndarray,
) -> Mapping[str, list]:
    """Rows: what is there; columns: what was said; the last of each is background.

    At the operating thresholds and IoU .50. A detection that takes a box of its class is on the diagonal; of the rest,
    pairs across classes are taken by falling IoU, each detection and box once; then what is left is background.
    """
    kept = _at_or_above(detections, typed, thresholds) & images[detections.image_index[typed.rows]]
    said = detections.class_index[typed.rows]
    n = len(truth.class_names)
    matrix = np.zeros((n + 1, n + 1), np.int64)
    free_gt = ~truth.crowd & images[truth.image_index]
    hits = kept & (typed.gt_index >= 0)
    np.add.at(matrix, (said[hits], said[hits]), 1)
    free_gt[typed.gt_index[hits]] = False
    free_dt = kept & ~hits
    for d, g in typed.confused.tolist():
        if free_dt[d] and free_gt[g]:
            matrix[truth.class_index[g], said[d]] += 1
            free_dt[d] = free_gt[g] = False
    np.add.at(matrix[n], said[free_dt], 1)
    np.add.at(matrix[:, n], truth.class_index[free_gt], 1)
    return {"labels": [*truth.class_names, "background"], "matrix": matrix.tolist()}


def table_of_matches(
    truth: GroundTruth, detections: Detections, typed: TypedDetections, thresholds: Sequence[float] | np.ndarray
) -> dict[str, np.ndarray]:
    """Columns of `matches.parquet`: one row a detection, then one for each missed ground truth (NaN score).

    `above_threshold` says whether a detection reaches its class's operating threshold. Ground truth is missed when no
    such detection takes it, even if one below the threshold does.
    """
    above = _at_or_above(detections, typed, thresholds)
    found = np.zeros(len(truth.class_index), bool)
    found[typed.gt_index[above & (typed.gt_index >= 0)]] = True
    missed = np.flatnonzero(~found & ~truth.crowd)
    names = np.array(truth.class_names, dtype=object)
    kinds = np.array(KINDS, dtype=object)
    rows, hit = typed.rows, typed.gt_index >= 0
    taken = np.where(hit, truth.annotation_ids[typed.gt_index] if len(truth.annotation_ids) else 0, -1)
    boxes = np.concatenate([detections.boxes_xywh_px[rows], truth.boxes_xywh_px[missed]])
    gap = np.full(len(missed), np.nan)
    return {
        "image_id": truth.image_ids[np.concatenate([detections.image_index[rows], truth.image_index[missed]])],
        "class": names[np.concatenate([detections.class_index[rows], truth.class_index[missed]])],
        "score": np.concatenate([detections.scores[rows], gap]),
        "x": boxes[:, 0],
        "y": boxes[:, 1],
        "w": boxes[:, 2],
        "h": boxes[:, 3],
        "matched_at_50": np.concatenate([taken, truth.annotation_ids[missed]]),
        "iou": np.concatenate([typed.iou, gap]),
        "kind": np.concatenate([kinds[typed.kinds], np.full(len(missed), "missed", dtype=object)]),
        "above_threshold": np.concatenate([above, np.zeros(len(missed), bool)]),
    }


def _at_or_above(
    detections: Detections, typed: TypedDetections, thresholds: Sequence[float] | np.ndarray
) -> np.ndarray:
    return detections.scores[typed.rows] >= np.asarray(thresholds)[detections.class_index[typed.rows]]


def _best_overlaps(
    truth: GroundTruth, detections: Detections, rows: np.ndarray, gt: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row: best IoU with its own class and with another, and the pairs across classes at .50 or more."""
    n_images = len(truth.image_ids)
    images, gt_images = detections.image_index[rows], truth.image_index[gt]
    best_same, best_other = np.zeros(len(rows)), np.zeros(len(rows))
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    per_row = np.bincount(gt_images, minlength=n_images)[images]
    block = np.cumsum(per_row) // _PAIRS_AT_ONCE
    for b in np.unique(block):
        part = np.flatnonzero((block == b) & (per_row > 0))
        if not len(part):
            continue
        d, g = pairs_in_same_cell(images[part], gt_images, n_images)
        starts = np.cumsum(per_row[part]) - per_row[part]
        d, g = part[d], gt[g]
        iou = iou_of_pairs(detections.boxes_xywh_px[rows[d]], truth.boxes_xywh_px[g])
        same = detections.class_index[rows[d]] == truth.class_index[g]
        best_same[part] = np.maximum.reduceat(np.where(same, iou, 0.0), starts)
        best_other[part] = np.maximum.reduceat(np.where(same, 0.0, iou), starts)
        across = ~same & (iou >= _ON)
        pairs.append((d[across], g[across], iou[across]))
    if not pairs:
        return best_same, best_other, np.zeros((0, 2), np.int64)
    d, g, iou = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
    order = np.argsort(-iou, kind="stable")
    return best_same, best_other, np.column_stack([d, g])[order]
