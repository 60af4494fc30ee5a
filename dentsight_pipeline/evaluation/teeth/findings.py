"""From teeth and conditions found separately to findings by tooth, and how often those are right.

Add here what turns detections of the two stages into one answer for each tooth, or measures that answer. Which tooth
has a condition is decided in `join.py`; reading and publishing products is `product.py`'s.

Boxes are `[x, y, width, height]` in pixels of the original image; teeth are named in FDI notation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dentsight_pipeline.evaluation import bootstrap, matching, operating_points
from dentsight_pipeline.evaluation.matching import iou_of_pairs
from dentsight_pipeline.evaluation.operating_points import ThresholdCounts
from dentsight_pipeline.evaluation.teeth.gaps import ABSENT, infer_absent
from dentsight_pipeline.evaluation.teeth.join import ToothFinding, join_teeth
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth

SAME_TOOTH_IOU = 0.5
"""From this IoU on two boxes are of one tooth (neighbouring teeth overlap far less)."""
MISNAMED = ("wrong_side", "wrong_jaw", "wrong_position")
"""Kinds of wrong tooth numbers; a wrong side is what dentists complain about most."""
_SIDE = {"1": "right", "2": "left", "3": "left", "4": "right"}
_UPPER = frozenset("12")

Row = dict[str, Any]


@dataclass(frozen=True)
class Marked:
    """One box with its name: a tooth in FDI notation or a condition; `score` is None for ground truth."""

    name: str
    bbox_xywh_px: tuple[float, float, float, float]
    score: float | None = None


@dataclass(frozen=True)
class Mouth:
    """One image: what was found in it, and what is there.

    Attributes:
        group: Its source group, the unit of resampling.
        clean: Whether it shares no source with another split.
        teeth: Teeth found.
        conditions: Conditions found, at or above their thresholds.
        true_teeth: Teeth annotated.
        true_conditions: Conditions annotated.
    """

    group: str
    clean: bool
    teeth: Sequence[Marked]
    conditions: Sequence[Marked]
    true_teeth: Sequence[Marked]
    true_conditions: Sequence[Marked]


def by_image(records: Iterable[Mapping[str, Any]], names: Mapping[int, str]) -> dict[int, list[Marked]]:
    """Annotations or detections of each image, in the order given.

    Args:
        records: COCO annotations or results.
        names: Name of each category id.
    """
    marked: dict[int, list[Marked]] = {}
    for record in records:
        x, y, w, h = record["bbox"]
        box = Marked(names[record["category_id"]], (x, y, w, h), record.get("score"))
        marked.setdefault(record["image_id"], []).append(box)
    return marked


def one_mouth(found: Iterable[Marked]) -> list[Marked]:
    """The teeth of one image, no number twice and no tooth under two numbers; the higher score wins.

    A detector scores every box for every number, but a mouth has each tooth once. Whether a tooth stays depends on
    higher scores only, so that a threshold may be applied before or after.

    Args:
        found: Tooth detections of one image, with scores.

    Returns:
        The teeth that stay, best first.
    """
    kept: list[Marked] = []
    boxes = np.zeros((0, 4))
    for tooth in sorted(found, key=lambda t: -(t.score or 0.0)):
        if any(tooth.name == other.name for other in kept):
            continue
        own = np.array([tooth.bbox_xywh_px])
        if len(kept) and iou_of_pairs(np.repeat(own, len(kept), axis=0), boxes).max() >= SAME_TOOTH_IOU:
            continue
        kept.append(tooth)
        boxes = np.concatenate([boxes, own])
        if len(kept) == 32:
            break
    return kept


def choose_tooth_threshold(truth: Mapping[str, Any], teeth: Mapping[int, Sequence[Marked]]) -> float:
    """The score from which on a tooth counts as found: the best F1 over all teeth together at IoU .50.

    Args:
        truth: COCO ground truth of the split to choose on, 32 teeth as categories.
        teeth: By image id, from `one_mouth`; images that are not in `truth` are left out.

    Returns:
        The threshold; +∞ when no tooth is hit, or none is there to be hit.
    """
    if not truth["annotations"]:
        return float("inf")
    listed = {image["id"] for image in truth["images"]}
    ids = {category["name"]: category["id"] for category in truth["categories"]}
    records = [
        {"image_id": image, "category_id": ids[t.name], "bbox": list(t.bbox_xywh_px), "score": t.score}
        for image, found in teeth.items()
        if image in listed
        for t in found
    ]
    known = read_ground_truth(truth, source="tooth ground truth")
    matches = matching.match(known, read_detections(records, known, source="tooth detections"))
    curve = operating_points.score_curve(operating_points.pooled([by_area["all"] for by_area in matches]))
    return float("inf") if curve is None else curve.best_f1().threshold


def findings_by_tooth(teeth: Sequence[Marked], conditions: Sequence[Marked]) -> dict[str, list[Row]]:
    """One image's findings, each with the teeth it belongs to, and its teeth, each with the findings it has.

    Args:
        teeth: The teeth of the image.
        conditions: Its conditions.

    Returns:
        `findings`, best first: `id` (from 1), `class`, `score`, `bbox_xywh_px`, `teeth` (FDI; several for a bridge),
        `assigned`, and how it was assigned: `rule` and `fit` (see `ToothFinding.score`). What fits no tooth stays,
        with `assigned` false; `inferred_tooth` is then the number that a missing tooth or an implant must have by its
        neighbours (see `gaps.py`), else None. `teeth`, in FDI order: `fdi`, `score`, `bbox_xywh_px` and
        `findings` (`id` and `class`).
    """
    ordered = sorted(conditions, key=lambda c: -(c.score or 0.0))
    findings: list[Row] = []
    having: dict[int, list[Row]] = {}
    for number, joined in enumerate(_joined(teeth, ordered), start=1):
        condition = ordered[joined.condition]
        findings.append(
            {
                "id": number,
                "class": condition.name,
                "score": condition.score,
                "bbox_xywh_px": list(condition.bbox_xywh_px),
                "teeth": sorted(joined.fdi),
                "assigned": joined.assigned,
                "rule": joined.rule,
                "fit": joined.score if joined.assigned else None,
                "inferred_tooth": None,
            }
        )
        for tooth in joined.teeth:
            having.setdefault(tooth, []).append({"id": number, "class": condition.name})
    absent = [finding for finding in findings if finding["class"] in ABSENT and not finding["assigned"]]
    for finding, number in zip(absent, _inferred(teeth, absent), strict=True):
        finding["inferred_tooth"] = number
    rows = [
        {"fdi": t.name, "score": t.score, "bbox_xywh_px": list(t.bbox_xywh_px), "findings": having.get(i, [])}
        for i, t in enumerate(teeth)
    ]
    return {"teeth": sorted(rows, key=lambda row: row["fdi"]), "findings": findings}


def measure(mouths: Sequence[Mouth], classes: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """How well teeth are found and numbered, and how often the right tooth gets the right condition.

    A finding by tooth is a pair of tooth number and condition; two lesions of one kind on one tooth are one pair.
    The ground truth's pairs come from the same join of annotated conditions and annotated teeth. Inferred numbers of
    absent teeth are no pairs: no annotation says what they are.

    Args:
        mouths: Images whose teeth are annotated; others cannot be judged.
        classes: The conditions, in the order of the rows.
        resamples: Bootstrap resamples over source groups; 0 = no intervals.
        seed: Of the bootstrap.

    Returns:
        By population (`all`, `clean`), None where it has no image: `images`, `groups`;
        `teeth`: recall, precision and F1 of numbered teeth at IoU .50, `misnamed` (found teeth that lie on a tooth of
        another number, by kind), `stray` (on no tooth), and one row for each tooth in `per_tooth`;
        `per_class`: a row for each condition and `all`: `n_gt` and `n_found` pairs, precision, recall and F1 with 90 %
        intervals, `f1_with_true_teeth` (the same conditions joined to the annotated teeth: what is lost beyond it is
        stage 1's), and how many conditions have no tooth (`unassigned_gt`, `unassigned_found`).
    """
    populations = {"all": list(mouths), "clean": [mouth for mouth in mouths if mouth.clean]}
    return {
        name: _measure(chosen, classes, resamples, seed) if chosen else None for name, chosen in populations.items()
    }


def _measure(mouths: Sequence[Mouth], classes: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    weights = bootstrap.draw(np.array([mouth.group for mouth in mouths]), resamples, seed)
    true = [_Pairs.of(mouth.true_teeth, mouth.true_conditions) for mouth in mouths]
    found = [_Pairs.of(mouth.teeth, mouth.conditions) for mouth in mouths]
    with_true_teeth = [_Pairs.of(mouth.true_teeth, mouth.conditions) for mouth in mouths]
    rows = []
    for name in (*classes, "all"):
        wanted = set(classes) if name == "all" else {name}
        counts = _counts(true, found, wanted)
        rows.append(
            {
                "class": name,
                "n_gt": int(counts.gt_counts.sum()),
                "n_found": int(counts.seen.sum()),
                **_figures(counts, weights),
                "f1_with_true_teeth": _value(_counts(true, with_true_teeth, wanted).f1(np.ones((len(mouths), 1)))),
                "unassigned_gt": sum(pairs.unassigned.count(n) for pairs in true for n in wanted),
                "unassigned_found": sum(pairs.unassigned.count(n) for pairs in found for n in wanted),
            }
        )
    return {
        "images": len(mouths),
        "groups": weights.n_groups,
        "teeth": _measure_teeth(mouths, weights),
        "per_class": rows,
    }


def _measure_teeth(mouths: Sequence[Mouth], weights: bootstrap.Weights) -> dict[str, Any]:
    verdicts = [[_verdict(tooth, mouth.true_teeth) for tooth in mouth.teeth] for mouth in mouths]
    counts = ThresholdCounts(
        np.array([float(kinds.count("right")) for kinds in verdicts]),
        np.array([float(len(mouth.teeth)) for mouth in mouths]),
        np.array([float(len(mouth.true_teeth)) for mouth in mouths]),
    )
    flat = [kind for kinds in verdicts for kind in kinds]
    numbered = list(zip((tooth.name for mouth in mouths for tooth in mouth.teeth), flat, strict=True))
    truth = [tooth.name for mouth in mouths for tooth in mouth.true_teeth]
    rows = []
    for fdi in sorted({*truth, *(name for name, _ in numbered)}):
        n_gt, right = truth.count(fdi), numbered.count((fdi, "right"))
        n_found = sum(name == fdi for name, _ in numbered)
        rows.append(
            {
                "tooth": fdi,
                "n_gt": n_gt,
                "n_found": n_found,
                "recall": right / n_gt if n_gt else None,
                "precision": right / n_found if n_found else None,
            }
        )
    return {
        "n_gt": len(truth),
        "n_found": len(flat),
        **_figures(counts, weights),
        "misnamed": {kind: flat.count(kind) for kind in MISNAMED},
        "stray": flat.count("stray"),
        "per_tooth": rows,
    }


def _verdict(tooth: Marked, truth: Sequence[Marked]) -> str:
    """What a found tooth is: `right`, a kind of `MISNAMED`, or `stray` when it lies on no annotated tooth."""
    if not truth:
        return "stray"
    boxes = np.array([t.bbox_xywh_px for t in truth])
    iou = iou_of_pairs(np.repeat([tooth.bbox_xywh_px], len(truth), axis=0), boxes)
    if any(overlap >= SAME_TOOTH_IOU and t.name == tooth.name for overlap, t in zip(iou, truth, strict=True)):
        return "right"
    nearest = int(np.argmax(iou))
    if iou[nearest] < SAME_TOOTH_IOU:
        return "stray"
    given, actual = tooth.name[0], truth[nearest].name[0]
    if (given in _UPPER) != (actual in _UPPER):
        return "wrong_jaw"
    return "wrong_side" if _SIDE[given] != _SIDE[actual] else "wrong_position"


@dataclass(frozen=True)
class _Pairs:
    """One image's (condition, tooth) pairs, and the conditions that no tooth has."""

    assigned: frozenset[tuple[str, str]]
    unassigned: tuple[str, ...]

    @classmethod
    def of(cls, teeth: Sequence[Marked], conditions: Sequence[Marked]) -> _Pairs:
        joined = _joined(teeth, conditions)
        return cls(
            frozenset((conditions[j.condition].name, fdi) for j in joined for fdi in j.fdi),
            tuple(conditions[j.condition].name for j in joined if not j.assigned),
        )

    def of_classes(self, wanted: set[str]) -> set[tuple[str, str]]:
        return {pair for pair in self.assigned if pair[0] in wanted}


def _inferred(teeth: Sequence[Marked], absent: Sequence[Row]) -> list[str | None]:
    return infer_absent(
        np.array([finding["bbox_xywh_px"] for finding in absent]),
        np.array([t.bbox_xywh_px for t in teeth]),
        [t.name for t in teeth],
    )


def _joined(teeth: Sequence[Marked], conditions: Sequence[Marked]) -> list[ToothFinding]:
    return join_teeth(
        np.array([c.bbox_xywh_px for c in conditions]).reshape(-1, 4),
        [c.name for c in conditions],
        np.array([t.bbox_xywh_px for t in teeth]).reshape(-1, 4),
        [t.name for t in teeth],
    )


def _counts(true: Sequence[_Pairs], found: Sequence[_Pairs], wanted: set[str]) -> ThresholdCounts:
    """Per image: pairs that are right, found and true."""
    sets = [(t.of_classes(wanted), f.of_classes(wanted)) for t, f in zip(true, found, strict=True)]
    return ThresholdCounts(
        np.array([float(len(t & f)) for t, f in sets]),
        np.array([float(len(f)) for _, f in sets]),
        np.array([float(len(t)) for t, _ in sets]),
    )


def _figures(counts: ThresholdCounts, weights: bootstrap.Weights) -> dict[str, float | None]:
    """Precision, recall and F1, each with its interval; None where it cannot be measured."""
    figures: dict[str, float | None] = {}
    statistics = {
        "precision": (counts.precision, counts.seen),
        "recall": (counts.recall, counts.gt_counts),
        "f1": (counts.f1, counts.gt_counts),
    }
    for name, (statistic, informative) in statistics.items():
        measured = bootstrap.interval(bootstrap.draws(statistic, weights), bootstrap.units_with(informative, weights))
        figures |= {name: measured.value, f"{name}_low": measured.low, f"{name}_high": measured.high}
    return figures


def _value(value: np.ndarray) -> float | None:
    return float(value[0]) if np.isfinite(value[0]) else None
