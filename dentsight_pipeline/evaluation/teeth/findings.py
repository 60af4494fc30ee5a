"""From teeth and conditions found separately to findings by tooth, and how often those are right.

Add here what turns detections of the two stages into one answer for each tooth, or measures that answer. Which tooth
has a condition is decided in `tooth_join.py`; reading and publishing products is `product.py`'s.

Boxes are `[x, y, width, height]` in pixels of the original image; teeth are named in FDI notation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dentsight_pipeline.documents.codec import finite
from dentsight_pipeline.documents.evaluation import ALL_CLASSES, PopulationName
from dentsight_pipeline.documents.teeth import (
    Box,
    ConditionByTooth,
    Finding,
    FindingOnTooth,
    FoundTooth,
    MouthFindings,
    PerTooth,
    ToothNumbering,
    ToothPopulation,
)
from dentsight_pipeline.evaluation import bootstrap, matching, operating_points
from dentsight_pipeline.evaluation.bootstrap import Weights
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.matching import iou_of_pairs
from dentsight_pipeline.evaluation.operating_points import ThresholdCounts
from dentsight_pipeline.evaluation.teeth.gaps import ABSENT, infer_absent
from dentsight_pipeline.evaluation.tooth_join import ToothFinding, join_teeth

SAME_TOOTH_IOU = 0.5
"""From this IoU on two boxes are of one tooth (neighbouring teeth overlap far less)."""
MISNAMED = ("wrong_side", "wrong_jaw", "wrong_position")
"""Kinds of wrong tooth numbers; a wrong side is what dentists complain about most."""
_SIDE = {"1": "right", "2": "left", "3": "left", "4": "right"}
_UPPER = frozenset("12")


@dataclass(frozen=True)
class Marked:
    """One box with its name: a tooth in FDI notation or a condition; `score` is None for ground truth."""

    name: str
    bbox_xywh_px: Box
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
        looked_for: Conditions that somebody looked for; None = all.
    """

    group: str
    clean: bool
    teeth: Sequence[Marked]
    conditions: Sequence[Marked]
    true_teeth: Sequence[Marked]
    true_conditions: Sequence[Marked]
    looked_for: frozenset[str] | None = None


def by_image(columns: GroundTruth | Detections, truth: GroundTruth) -> dict[int, list[Marked]]:
    """Annotations or detections by image id, in the order given; `truth` names images and classes."""
    marked: dict[int, list[Marked]] = {}
    scores = columns.scores.tolist() if isinstance(columns, Detections) else [None] * len(columns.class_index)
    images, boxes = truth.image_ids[columns.image_index].tolist(), columns.boxes_xywh_px.tolist()
    for image, k, (x, y, w, h), score in zip(images, columns.class_index.tolist(), boxes, scores, strict=True):
        marked.setdefault(image, []).append(Marked(truth.class_names[k], (x, y, w, h), score))
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
    for tooth in sorted(found, key=lambda t: -(t.score or 0.0)):
        taken = any(tooth.name == other.name for other in kept)
        if not taken and _overlaps(tooth, kept).max(initial=0.0) < SAME_TOOTH_IOU:
            kept.append(tooth)
    return kept


def at_least(found: Iterable[Marked], threshold: float) -> list[Marked]:
    """Those with a score that reaches the threshold."""
    return [marked for marked in found if marked.score is not None and marked.score >= threshold]


def choose_tooth_threshold(truth: GroundTruth | None, teeth: Mapping[int, Sequence[Marked]]) -> float:
    """The score from which on a tooth counts as found: the best F1 over all teeth together at IoU .50.

    Args:
        truth: The split to choose on, teeth as classes; None when there is none.
        teeth: By image id, from `one_mouth`; images that are not in `truth` are left out.

    Returns:
        The threshold; +∞ when no tooth is hit, or none is there to be hit.
    """
    if truth is None or not len(truth.annotation_ids):
        return float("inf")
    row = {image: i for i, image in enumerate(truth.image_ids.tolist())}
    listed = [(row[image], tooth) for image, found in teeth.items() if image in row for tooth in found]
    place = {name: k for k, name in enumerate(truth.class_names)}
    found = Detections(
        np.array([image for image, _ in listed], np.int64),
        np.array([place[tooth.name] for _, tooth in listed], np.int64),
        _boxes([tooth for _, tooth in listed]),
        np.array([tooth.score for _, tooth in listed], np.float64),
    )
    curve = operating_points.score_curve(operating_points.pooled(matching.match_all_sizes(truth, found)))
    return float("inf") if curve is None else curve.best_f1().threshold


def findings_by_tooth(teeth: Sequence[Marked], conditions: Sequence[Marked]) -> MouthFindings:
    """One image's findings, each with the teeth it belongs to, and its teeth, each with the findings it has.

    Args:
        teeth: The teeth of the image.
        conditions: Its conditions. What fits no tooth stays, marked so.
    """
    ordered = sorted(conditions, key=lambda c: -(c.score or 0.0))
    joined = _joined(teeth, ordered)
    inferred = _inferred(teeth, [c for c, own in zip(ordered, joined, strict=True) if _is_absent(c, own)])
    findings = tuple(
        Finding(
            id=number,
            class_name=condition.name,
            score=condition.score,
            bbox_xywh_px=condition.bbox_xywh_px,
            teeth=tuple(sorted(own.fdi)),
            assigned=own.assigned,
            rule=own.rule,
            fit=own.score if own.assigned else None,
            inferred_tooth=next(inferred) if _is_absent(condition, own) else None,
        )
        for number, (condition, own) in enumerate(zip(ordered, joined, strict=True), start=1)
    )
    rows = [
        FoundTooth(
            fdi=tooth.name,
            score=tooth.score,
            bbox_xywh_px=tooth.bbox_xywh_px,
            findings=tuple(
                FindingOnTooth(id=finding.id, class_name=finding.class_name)
                for finding, own in zip(findings, joined, strict=True)
                if place in own.teeth
            ),
        )
        for place, tooth in enumerate(teeth)
    ]
    return MouthFindings(teeth=tuple(sorted(rows, key=lambda row: row.fdi)), findings=findings)


def measure(
    mouths: Sequence[Mouth], classes: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> dict[PopulationName, ToothPopulation | None]:
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
        By population; None where it has no image.
    """
    clean = [mouth for mouth in mouths if mouth.clean]
    return {
        "all": _measure(mouths, classes, resamples, seed) if mouths else None,
        "clean": _measure(clean, classes, resamples, seed) if clean else None,
    }


def numbering(mouths: Sequence[Mouth], resamples: int, seed: int) -> ToothNumbering:
    """How well the teeth of images whose teeth are annotated are found and numbered."""
    return _numbering(mouths, bootstrap.draw(np.array([mouth.group for mouth in mouths]), resamples, seed))


def _measure(mouths: Sequence[Mouth], classes: Sequence[str], resamples: int, seed: int) -> ToothPopulation:
    weights = bootstrap.draw(np.array([mouth.group for mouth in mouths]), resamples, seed)
    pairs = _PairsOf(
        [_Pairs.of(mouth.true_teeth, mouth.true_conditions) for mouth in mouths],
        [_Pairs.of(mouth.teeth, mouth.conditions) for mouth in mouths],
        [_Pairs.of(mouth.true_teeth, mouth.conditions) for mouth in mouths],
    )
    wanted = {**{name: frozenset({name}) for name in classes}, ALL_CLASSES: frozenset(classes)}
    return ToothPopulation(
        images=len(mouths),
        groups=weights.n_groups,
        teeth=_numbering(mouths, weights),
        per_class=tuple(
            _condition_row(name, chosen, pairs, weights, _negatives(mouths, pairs, chosen))
            for name, chosen in wanted.items()
        ),
    )


def _negatives(mouths: Sequence[Mouth], pairs: _PairsOf, wanted: frozenset[str]) -> ThresholdCounts:
    """Per image: annotated teeth without a condition on which it was not found, and all those without it.

    A found pair counts on the tooth of that number alone; one whose number is not annotated has no negative.
    """
    rows = []
    for mouth, true, found in zip(mouths, pairs.true, pairs.found, strict=True):
        asked = wanted if mouth.looked_for is None else wanted & mouth.looked_for
        every = {(name, tooth.name) for name in asked for tooth in mouth.true_teeth}
        without = every - true.assigned
        rows.append((len(without - found.assigned), len(without)))
    clear, all_without = np.array(rows, np.float64).reshape(-1, 2).T
    return ThresholdCounts(clear, all_without, all_without)


def _condition_row(
    name: str, wanted: frozenset[str], pairs: _PairsOf, weights: Weights, negatives: ThresholdCounts
) -> ConditionByTooth:
    counts = _counts(pairs.true, pairs.found, wanted)
    with_true_teeth = _counts(pairs.true, pairs.with_true_teeth, wanted).f1(np.ones((len(pairs.true), 1)))
    return ConditionByTooth(
        class_name=name,
        n_gt=int(counts.gt_counts.sum()),
        n_found=int(counts.seen.sum()),
        **_figures(counts, weights),
        f1_with_true_teeth=finite(with_true_teeth[0]),
        unassigned_gt=_unassigned(pairs.true, wanted),
        unassigned_found=_unassigned(pairs.found, wanted),
        n_without=int(negatives.seen.sum()),
        **_interval("specificity", negatives.precision, negatives.seen, weights),
    )


def _numbering(mouths: Sequence[Mouth], weights: Weights) -> ToothNumbering:
    verdicts = [[_verdict(tooth, mouth.true_teeth) for tooth in mouth.teeth] for mouth in mouths]
    counts = ThresholdCounts(
        np.array([float(kinds.count("right")) for kinds in verdicts]),
        np.array([float(len(mouth.teeth)) for mouth in mouths]),
        np.array([float(len(mouth.true_teeth)) for mouth in mouths]),
    )
    kinds = [kind for own in verdicts for kind in own]
    names = [tooth.name for mouth in mouths for tooth in mouth.teeth]
    truth = Counter(tooth.name for mouth in mouths for tooth in mouth.true_teeth)
    found, right = Counter(names), Counter(n for n, kind in zip(names, kinds, strict=True) if kind == "right")
    return ToothNumbering(
        n_gt=int(counts.gt_counts.sum()),
        n_found=int(counts.seen.sum()),
        **_figures(counts, weights),
        misnamed={kind: kinds.count(kind) for kind in MISNAMED},
        stray=kinds.count("stray"),
        per_tooth=tuple(
            PerTooth(
                tooth=fdi,
                n_gt=truth[fdi],
                n_found=found[fdi],
                recall=right[fdi] / truth[fdi] if truth[fdi] else None,
                precision=right[fdi] / found[fdi] if found[fdi] else None,
            )
            for fdi in sorted({*truth, *found})
        ),
    )


def _verdict(tooth: Marked, truth: Sequence[Marked]) -> str:
    """What a found tooth is: `right`, a kind of `MISNAMED`, or `stray` when it lies on no annotated tooth."""
    iou = _overlaps(tooth, truth)
    if any(overlap >= SAME_TOOTH_IOU and t.name == tooth.name for overlap, t in zip(iou, truth, strict=True)):
        return "right"
    if iou.max(initial=0.0) < SAME_TOOTH_IOU:
        return "stray"
    given, actual = tooth.name[0], truth[int(np.argmax(iou))].name[0]
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

    def of_classes(self, wanted: frozenset[str]) -> set[tuple[str, str]]:
        return {pair for pair in self.assigned if pair[0] in wanted}


@dataclass(frozen=True)
class _PairsOf:
    """Of every image: annotated, found, and found with the annotated teeth in place of the found ones."""

    true: Sequence[_Pairs]
    found: Sequence[_Pairs]
    with_true_teeth: Sequence[_Pairs]


def _unassigned(pairs: Sequence[_Pairs], wanted: frozenset[str]) -> int:
    return sum(name in wanted for own in pairs for name in own.unassigned)


def _is_absent(condition: Marked, joined: ToothFinding) -> bool:
    return condition.name in ABSENT and not joined.assigned


def _inferred(teeth: Sequence[Marked], absent: Sequence[Marked]) -> Iterator[str | None]:
    return iter(infer_absent(_boxes(absent), _boxes(teeth), [t.name for t in teeth]))


def _joined(teeth: Sequence[Marked], conditions: Sequence[Marked]) -> list[ToothFinding]:
    return join_teeth(_boxes(conditions), [c.name for c in conditions], _boxes(teeth), [t.name for t in teeth])


def _boxes(marked: Sequence[Marked]) -> np.ndarray:
    """[N, 4]"""
    return np.array([own.bbox_xywh_px for own in marked], np.float64).reshape(-1, 4)


def _overlaps(one: Marked, others: Sequence[Marked]) -> np.ndarray:
    """[N] IoU of one box with others."""
    return iou_of_pairs(np.repeat(_boxes([one]), len(others), axis=0), _boxes(others))


def _counts(true: Sequence[_Pairs], found: Sequence[_Pairs], wanted: frozenset[str]) -> ThresholdCounts:
    """Per image: pairs that are right, found and true."""
    sets = [(t.of_classes(wanted), f.of_classes(wanted)) for t, f in zip(true, found, strict=True)]
    return ThresholdCounts(
        np.array([float(len(t & f)) for t, f in sets]),
        np.array([float(len(f)) for _, f in sets]),
        np.array([float(len(t)) for t, _ in sets]),
    )


def _figures(counts: ThresholdCounts, weights: Weights) -> dict[str, float | None]:
    """Precision, recall and F1 of `CountedFigures` with their intervals."""
    figures: dict[str, float | None] = {}
    statistics = {
        "precision": (counts.precision, counts.seen),
        "recall": (counts.recall, counts.gt_counts),
        "f1": (counts.f1, counts.gt_counts),
    }
    for name, (statistic, informative) in statistics.items():
        figures |= _interval(name, statistic, informative, weights)
    return figures


def _interval(
    name: str, statistic: Callable[[np.ndarray], np.ndarray], informative: np.ndarray, weights: Weights
) -> dict[str, float | None]:
    """Fields of one figure with its interval."""
    units = bootstrap.units_with(informative, weights)
    return bootstrap.interval(bootstrap.draws(statistic, weights), units).named(name)
