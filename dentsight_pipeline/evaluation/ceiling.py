"""The label ceiling: the AP that the labels themselves allow, from X-rays that two people labelled.

A reader who says exactly what one annotator said, all with one score, reaches some AP against the other annotator. It
is the label convergence of Tschirschwitz & Rodehorst (WACV 2025, arXiv 2409.09412): a floor above it asks a model to
agree with the labels better than the labels agree with each other. With one score for all boxes the precision is that
of all of them at every recall that is reached, so AP has a closed form: precision times the share of COCO's 101 recall
thresholds reached. Both directions count alike, sources are resampled.

A model that also knew which of its findings people dispute could rank those last, and exceed the ceiling up to the
recall; `docs/evaluation.md` says how to read that. Which pairs are second readings is decided in `data/agreement.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dentsight_pipeline.data.agreement import NO_BOXES, PairedBoxes, kappas, most_pairs, pairwise_iou, told_categories
from dentsight_pipeline.data.ontology import CONDITIONS, TEETH
from dentsight_pipeline.documents.evaluation import MACRO, LabelCeiling
from dentsight_pipeline.evaluation import bootstrap
from dentsight_pipeline.evaluation.bootstrap import Draws, Weights
from dentsight_pipeline.evaluation.engines import IOU_THRESHOLDS
from dentsight_pipeline.evaluation.figures import macro_of
from dentsight_pipeline.evaluation.tooth_join import join_teeth

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

FIGURES = ("f1", "f1_75", "kappa_by_tooth", "ap50", "ap")
_AT_75 = int(np.argmin(np.abs(IOU_THRESHOLDS - 0.75)))
_NEARLY = 1e-9
_NamedBox = tuple[str, np.ndarray]
_BOUNDS = {"kappa_by_tooth": (-1.0, 1.0)}


@dataclass(slots=True)
class PairCounts:
    """What each of P pairs says about one class; a pair that says nothing has zeros.

    Attributes:
        boxes: [P, 2] boxes of the first and the second annotator.
        matched: [P, T] boxes on which they agree at each of COCO's ten IoU thresholds.
        teeth: [P, 2, 2] teeth by presence for the first (axis 1) and the second annotator.
        told: Pairs that say something.
    """

    boxes: np.ndarray
    matched: np.ndarray
    teeth: np.ndarray
    told: int = 0

    @classmethod
    def zeros(cls, pairs: int) -> PairCounts:
        """Nothing counted yet."""
        return cls(np.zeros((pairs, 2)), np.zeros((pairs, len(IOU_THRESHOLDS))), np.zeros((pairs, 2, 2)))

    def add(self, pair: int, in_a: np.ndarray, in_b: np.ndarray) -> None:
        """Boxes [n, 4] and [m, 4] of the two annotators on one pair, in one frame."""
        self.told += 1
        self.boxes[pair] = len(in_a), len(in_b)
        if len(in_a) and len(in_b):
            iou = pairwise_iou(in_a, in_b)
            self.matched[pair] = [most_pairs(iou >= least) for least in IOU_THRESHOLDS]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """[5, B] `FIGURES` for pair weights [P, B]; NaN where neither marked the class."""
        in_a, in_b = self.boxes.T @ weights
        matched = self.matched.T @ weights  # [T, B]
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = 2 * matched / (in_a + in_b)
        ap = np.where(in_a + in_b > 0, _both_ways(matched, in_a, in_b), np.nan)
        teeth = np.moveaxis(np.tensordot(weights, self.teeth, axes=(0, 0)), 0, -1)  # [2, 2, B]
        kappa = np.where(teeth.sum(axis=(0, 1)) > 0, kappas(teeth), np.nan)
        return np.stack([f1[0], f1[_AT_75], kappa, ap[0], ap.mean(axis=0)])

    @property
    def marked(self) -> np.ndarray:
        """[P] boxes of both."""
        return self.boxes.sum(axis=1)


def one_score_ap(matched: np.ndarray, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """AP of detections that all have one score: precision × share of the recall thresholds 0, .01, … 1 reached."""
    precision = np.divide(matched, found, out=np.zeros(np.broadcast(matched, found).shape), where=found > 0)
    recall = np.divide(matched, true, out=np.full(np.broadcast(matched, true).shape, np.nan), where=true > 0)
    return np.where(matched > 0, precision * (np.floor(100 * recall + _NEARLY) + 1) / 101, recall * 0.0)


def _both_ways(matched: np.ndarray, in_a: np.ndarray, in_b: np.ndarray) -> np.ndarray:
    """[T, B] mean AP of either annotator against the other; one who marked nothing cannot be scored against."""
    ways = np.stack([one_score_ap(matched, in_a, in_b), one_score_ap(matched, in_b, in_a)])
    defined = np.isfinite(ways)
    return np.divide(
        np.where(defined, ways, 0.0).sum(axis=0), defined.sum(axis=0), out=ways[0] * np.nan, where=defined.any(axis=0)
    )


@dataclass(frozen=True)
class CountedPairs:
    """All pairs, class by class."""

    sources: tuple[str, ...]
    by_class: Mapping[str, PairCounts] = field(default_factory=dict)


def count_pairs(pairs: Sequence[PairedBoxes], classes: Sequence[str]) -> CountedPairs:
    """What pairs of readings say about each condition among `classes`, the names of the category ids."""
    counts = {name: PairCounts.zeros(len(pairs)) for name in classes if name in CONDITIONS}
    for place, pair in enumerate(pairs):
        told = [category for category in told_categories(pair, classes) if classes[category - 1] in counts]
        for category in told:
            in_a, in_b = (boxes.get(category, NO_BOXES) for boxes in (pair.in_a, pair.in_b))
            counts[classes[category - 1]].add(place, in_a, in_b)
        _count_teeth(counts, place, pair, classes, told)
    return CountedPairs(tuple(pair.source for pair in pairs), counts)


def _count_teeth(
    counts: Mapping[str, PairCounts], place: int, pair: PairedBoxes, classes: Sequence[str], told: Sequence[int]
) -> None:
    """Presence of each condition by tooth, on the teeth that both annotators numbered."""
    numbered = [
        {classes[category - 1] for category in boxes if classes[category - 1] in TEETH}
        for boxes in (pair.in_a, pair.in_b)
    ]
    found = [on_teeth(_named(boxes, classes)) for boxes in (pair.in_a, pair.in_b)]
    for name in (classes[category - 1] for category in told):
        for tooth in numbered[0] & numbered[1]:
            counts[name].teeth[place, int((name, tooth) in found[0]), int((name, tooth) in found[1])] += 1


def _named(boxes: Mapping[int, np.ndarray], classes: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    return [(classes[category - 1], box) for category, own in boxes.items() for box in own]


def on_teeth(rows: Sequence[tuple[str, np.ndarray]]) -> set[tuple[str, str]]:
    """Conditions with the teeth that have them, from the named boxes [x, y, w, h] of one image, teeth among them."""
    teeth, conditions = ([row for row in rows if (row[0] in TEETH) == wanted] for wanted in (True, False))
    (names, found), (fdi, places) = (_columns(own) for own in (conditions, teeth))
    joined = join_teeth(found, names, places, fdi)
    return {(names[finding.condition], tooth) for finding in joined for tooth in finding.fdi}


def _columns(rows: Sequence[tuple[str, np.ndarray]]) -> tuple[list[str], np.ndarray]:
    return [name for name, _ in rows], np.array([box for _, box in rows])


def label_ceilings(counted: CountedPairs, *, resamples: int = 1000, seed: int = 0) -> tuple[LabelCeiling, ...]:
    """The ceiling of each class that anybody marked twice-read X-rays with, and their mean.

    Args:
        counted: From `count_pairs`.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.
    """
    marked = {name: counts for name, counts in counted.by_class.items() if counts.marked.any()}
    if not marked:
        return ()
    weights = bootstrap.draw(np.array(counted.sources), resamples, seed)
    drawn = {name: bootstrap.draws(counts, weights) for name, counts in marked.items()}
    rows = [_row(name, drawn[name], weights, counts.marked, counts.told) for name, counts in marked.items()]
    together = np.sum([counts.marked for counts in marked.values()], axis=0)
    note = f"mean over {len(marked)} classes"
    return (*rows, _row(MACRO, macro_of([*drawn.values()]), weights, together, len(counted.sources), note))


def _row(name: str, drawn: Draws, weights: Weights, marked: np.ndarray, pairs: int, note: str = "") -> LabelCeiling:
    units = bootstrap.units_with(marked, weights)
    found = {
        figure: bootstrap.interval(drawn, units, at=(place,), bounds=_BOUNDS.get(figure, (0.0, 1.0)))
        for place, figure in enumerate(FIGURES)
    }
    return LabelCeiling(
        class_name=name,
        pairs=pairs,
        sources=units,
        boxes=int(marked.sum()),
        **{figure: own.bounds for figure, own in found.items()},
        note="; ".join(part for part in (note, found["ap"].note) if part),
    )


def stored_ceilings(store: Store, subset: Manifest, *, resamples: int, seed: int) -> tuple[LabelCeiling, ...]:
    """The ceilings of the dataset that a subset was taken from; empty where nothing says what was labelled twice."""
    from dentsight_pipeline.data.agreement import paired_boxes
    from dentsight_pipeline.data.splits import read_splits
    from dentsight_pipeline.documents.dataset import SECOND_READINGS, SecondReading
    from dentsight_pipeline.documents.names import Asset
    from dentsight_pipeline.store.content import read_document

    splits = store.get_manifest(subset.inputs[Asset.NORMALIZED_SPLITS])
    if SECOND_READINGS not in splits.entries:
        return ()
    told = read_document(store, splits, SECOND_READINGS, tuple[SecondReading, ...])
    tables = [*read_splits(store, splits).values()] if told else []
    counted = count_pairs([*paired_boxes(tables, told)], tables[0].classes if tables else ())
    return label_ceilings(counted, resamples=resamples, seed=seed)
