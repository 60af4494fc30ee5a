"""Which labels are likely wrong? A ranked queue for people, from the labels alone and from out-of-fold predictions.

Without a model: tooth numbers that cannot be where they are, boxes that lie on each other, copies of one picture whose
labels contradict each other, images without any label. With predictions of models that never saw an image's source:
confident boxes without a label (missed), labels that nothing confirms (spurious), labels on which another class is seen
(class), and labels beside which the same class is seen (place).

A detector's score means something else in every class: `calibrated` turns it into the share of hits that detections of
that score have in that class, by isotonic regression on these very predictions. A label that nothing confirms counts
as far as labels of its class are confirmed at all, and one beside which its class is seen as far as detections of the
class lie on labels at all. So a faint rare class neither floods the queue nor drowns in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from dentsight_pipeline.data.agreement import pairwise_iou
from dentsight_pipeline.data.fdi import OTHER_JAW, OTHER_SIDE, tooth_flags
from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.documents.annotations import Split
from dentsight_pipeline.documents.review import Suspect
from dentsight_pipeline.documents.teeth import Box

SAME_IOU = 0.5
"""From this overlap on two boxes are one finding."""
BESIDE_IOU = 0.1
"""From this overlap on a box of the same class is the same finding in another place."""
TWIN_IOU = 0.8
"""From this overlap on two labels of one class are one label too many."""
_SURE, _LIKELY, _POSSIBLE = 0.95, 0.8, 0.1
_LEAST_SCORE = 0.02
_PSEUDO = 2.0  # detections at the class's mean precision that every score is shrunk by


@dataclass(frozen=True)
class Labelled:
    """One image with its labels.

    Attributes:
        image: Stored digest.
        split: Where it is.
        size: Width and height, px.
        names: [n] class of each label.
        boxes: [n, 4] px.
        ids: [n] of the labels.
        covered: Classes that were looked for.
        source: Source group.
    """

    image: str
    split: str
    size: tuple[int, int]
    names: Sequence[str]
    boxes: np.ndarray
    ids: Sequence[int]
    covered: frozenset[str]
    source: str

    def suspect(self, row: int, kind: str, score: float, why: str, **more: object) -> Suspect:
        """One of its labels as a suspect."""
        where = {"image": self.image, "split": self.split, "annotation": int(self.ids[row])}
        found = {"kind": kind, "class_name": self.names[row], "bbox": as_box(self.boxes[row])}
        return Suspect(**where, **found, score=float(score), why=why, **more)  # pyright: ignore[reportArgumentType]

    def lacking(self, name: str, bbox: Box, score: float, why: str) -> Suspect:
        """A label that it may lack."""
        where = {"image": self.image, "split": self.split, "kind": "missed"}
        return Suspect(**where, class_name=name, bbox=bbox, score=float(score), why=why)  # pyright: ignore

    def named(self, name: str) -> np.ndarray:
        """[n] whether each label has the name."""
        return np.array([own == name for own in self.names], bool)


@dataclass(frozen=True)
class Seen:
    """What an out-of-fold model sees on one image: names [d], boxes [d, 4] px, scores [d]."""

    names: Sequence[str] = ()
    boxes: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))


def labelled_images(splits: Iterable[Split]) -> Iterator[Labelled]:
    """Every image of splits with its labels."""
    for split in splits:
        names = np.array(split.classes)
        columns = (split.images[name].to_pylist() for name in ("sha256", "width", "height", "source_group"))
        for row, told in enumerate(zip(*columns, strict=True)):
            yield _labelled(split, row, names, *told)


def _labelled(split: Split, row: int, names: np.ndarray, image: str, width: int, height: int, source: str) -> Labelled:
    own = slice(*split.offsets[row : row + 2])
    said, ids = names[split.category_ids[own] - 1].tolist(), split.annotations["id"][own].to_pylist()
    covered, boxes = frozenset(names[split.covered[row]].tolist()), split.boxes_xywh_px[own]
    return Labelled(image, split.name, (width, height), said, boxes, ids, covered, source)


def as_box(xywh: np.ndarray) -> Box:
    """A box as documents have it, to a hundredth of a pixel."""
    x, y, w, h = (round(float(value), 2) for value in xywh)
    return x, y, w, h


def ranked(suspects: Iterable[Suspect]) -> tuple[Suspect, ...]:
    """Best first, each label once and each place once; ties in the order of images and boxes."""
    best: dict[object, Suspect] = {}
    for suspect in sorted(suspects, key=lambda own: (-own.score, own.image, own.bbox, own.kind)):
        place = suspect.annotation if suspect.annotation is not None else (suspect.image, suspect.bbox)
        best.setdefault((suspect.image, place), suspect)
    return tuple(best.values())


# Without a model -----------------------------------------------------------------------------------------------------


def label_suspects(images: Sequence[Labelled]) -> Iterator[Suspect]:
    """What the labels alone tell."""
    for image in images:
        yield from _misplaced_teeth(image)
        yield from _twins(image)
        if image.covered and not len(image.names):
            why = "no label at all, although it counts as looked at: a healthy mouth, or nobody labelled it"
            yield image.lacking("", (0.0, 0.0, float(image.size[0]), float(image.size[1])), _POSSIBLE, why)


def _misplaced_teeth(image: Labelled) -> Iterator[Suspect]:
    """Teeth on the wrong side or in the wrong jaw, and numbers given twice."""
    words = {"wrong_side": "lies on the other side", "wrong_jaw": "lies in the other jaw", "repeated_tooth": "is twice"}
    for flag in tooth_flags(*image.size, list(zip(image.names, image.boxes.tolist(), strict=True))):
        kind, _, name = flag.partition(":")
        for row in np.flatnonzero(image.named(name)).tolist():
            score = _SURE if kind == "wrong_jaw" else _LIKELY
            proposed = {"wrong_side": OTHER_SIDE, "wrong_jaw": OTHER_JAW}.get(kind, {}).get(name[0])
            better = None if proposed is None else proposed + name[1]
            yield image.suspect(row, "class", score, f"tooth {name} {words[kind]}", proposed_class=better)


def _twins(image: Labelled) -> Iterator[Suspect]:
    """The smaller of two labels of one class that lie on each other."""
    iou = pairwise_iou(image.boxes, image.boxes)
    for first, second in zip(*np.nonzero(np.triu(iou >= TWIN_IOU, 1)), strict=True):
        if image.names[first] == image.names[second]:
            small = int(min((first, second), key=lambda row: image.boxes[row, 2:].prod()))
            yield image.suspect(small, "spurious", _LIKELY, f"a second {image.names[small]} in the same place")


def contradictions(first: Labelled, second: Labelled) -> Iterator[Suspect]:
    """What one of two copies of a picture has and the other lacks; both in one frame."""
    for has, lacks in ((first, second), (second, first)):
        iou = pairwise_iou(has.boxes, lacks.boxes)
        for row, name in enumerate(has.names):
            if name in lacks.covered and not (iou[row] >= SAME_IOU)[lacks.named(name)].any():
                yield lacks.lacking(name, as_box(has.boxes[row]), _LIKELY, f"a copy of this picture has {name} here")


# With out-of-fold predictions ----------------------------------------------------------------------------------------


def predicted_suspects(images: Sequence[Labelled], seen: Mapping[str, Seen]) -> Iterator[Suspect]:
    """What out-of-fold predictions tell.

    Args:
        images: All of them; those without predictions are passed over.
        seen: By digest of the image. A model that was trained on the image, or on another of its source, repeats its
            labels and finds nothing wrong: whoever calls this leaves such images out.
    """
    looked_at = [(image, seen[image.image]) for image in images if image.image in seen]
    trusted = calibrated(looked_at)
    rated = [(image, found, _chances(found, trusted)) for image, found in looked_at]
    trust = _trust(rated)
    for image, found, chances in rated:
        yield from _of_image(image, found, chances, trust)


def _chances(found: Seen, trusted: Mapping[str, Chances]) -> np.ndarray:
    return np.array([trusted[name](score) for name, score in zip(found.names, found.scores, strict=True)])


class Chances:
    """Share of hits by score, of one class: isotonic, shrunk towards the class's mean."""

    def __init__(self, scores: np.ndarray, hits: np.ndarray) -> None:
        order = np.argsort(scores)
        mean = float(hits.mean()) if len(hits) else 0.0
        self.scores = scores[order]
        fitted = isotonic_regression(hits[order].astype(float)).x if len(hits) else np.empty(0)
        share = len(hits) / (len(hits) + _PSEUDO)
        self.values = share * fitted + (1 - share) * mean

    def __call__(self, score: float) -> float:
        """The chance that a detection of this score is a finding."""
        return float(np.interp(score, self.scores, self.values)) if len(self.scores) else 0.0


def calibrated(looked_at: Sequence[tuple[Labelled, Seen]]) -> dict[str, Chances]:
    """What scores mean, class by class."""
    told: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for image, found in looked_at:
        iou = pairwise_iou(found.boxes, image.boxes)
        for row, name in enumerate(found.names):
            told[name].append((float(found.scores[row]), bool((iou[row][image.named(name)] >= SAME_IOU).any())))
    return {name: Chances(*map(np.array, zip(*own, strict=True))) for name, own in told.items()}


class _Trust(NamedTuple):
    """What is to be thought of a class before a single label is looked at."""

    confirmed: float
    """Mean of the best chance on its labels."""
    exact: float
    """The same over the best chance on or beside them: 1 where detections never lie aside."""


def _trust(rated: Sequence[tuple[Labelled, Seen, np.ndarray]]) -> dict[str, _Trust]:
    best: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for image, found, chances in rated:
        iou, predicted = pairwise_iou(image.boxes, found.boxes), np.array(found.names, object)
        for row, name in enumerate(image.names):
            same = np.where(predicted == name, iou[row], 0.0)
            on, near = (float(chances[same >= least].max(initial=0.0)) for least in (SAME_IOU, BESIDE_IOU))
            best[name].append((on, near))
    sums = {name: np.sum(values, axis=0) for name, values in best.items()}
    return {name: _Trust(on / len(best[name]), on / near if near else 0.0) for name, (on, near) in sums.items()}


def _of_image(image: Labelled, found: Seen, chances: np.ndarray, trust: Mapping[str, _Trust]) -> Iterator[Suspect]:
    """Labels that predictions contradict, and predictions that no label explains."""
    iou = pairwise_iou(image.boxes, found.boxes)  # [labels, detections]
    predicted = np.array(found.names, object)
    explained = np.zeros(len(found.names), bool)
    closest = _closest(iou, np.array(image.names, object), predicted)
    for row, name in enumerate(image.names):
        if name in TEETH or name not in trust:
            continue
        same = predicted == name
        on, beside = iou[row] >= SAME_IOU, (iou[row] >= BESIDE_IOU) & same
        explained |= on | beside
        yield from _of_label(image, row, found, chances, (on, beside & (closest == row), same), trust[name])
    yield from _unlabelled(image, found, chances, explained)


def _closest(iou: np.ndarray, names: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """[detections] the label of the same name that each lies on most: of two implants side by side, one is not the
    other in a wrong place."""
    same = np.where(names[:, None] == predicted, iou, -1.0)
    return same.argmax(axis=0) if len(names) else np.empty(0, int)


def _of_label(
    image: Labelled,
    row: int,
    found: Seen,
    chances: np.ndarray,
    masks: tuple[np.ndarray, np.ndarray, np.ndarray],
    trust: _Trust,
) -> Iterator[Suspect]:
    """The strongest of three doubts about one label."""
    on, beside, same = masks
    name, own = image.names[row], float(chances[on & same].max(initial=0.0))
    there, other = beside & ~on, on & ~same
    if other.any():
        best = int(np.flatnonzero(other)[chances[other].argmax()])
        why = f"{found.names[best]} is seen here, rather than {name}"
        yield image.suspect(row, "class", chances[best] * (1 - own), why, proposed_class=found.names[best])
    if there.any():
        best = int(np.flatnonzero(there)[chances[there].argmax()])
        why, better = f"{name} is seen a little further", as_box(found.boxes[best])
        yield image.suspect(row, "place", chances[best] * (1 - own) * trust.exact, why, proposed_bbox=better)
    near = float(chances[beside].max(initial=own))
    yield image.suspect(row, "spurious", trust.confirmed * (1 - near), f"nothing confirms {name} here")


def _unlabelled(image: Labelled, found: Seen, chances: np.ndarray, explained: np.ndarray) -> Iterator[Suspect]:
    """Detections that no label explains, the best of each place."""
    left = [d for d in map(int, np.argsort(-chances)) if not explained[d] and chances[d] >= _LEAST_SCORE]
    kept: list[int] = []
    for d in left:
        if found.names[d] in image.covered and not _overlaps(found.boxes[d], found.boxes[kept]):
            kept.append(d)
            why = f"{found.names[d]} is seen here, and nothing is labelled"
            yield image.lacking(found.names[d], as_box(found.boxes[d]), chances[d], why)


def _overlaps(box: np.ndarray, others: np.ndarray) -> bool:
    return bool(len(others)) and bool((pairwise_iou(box[None], others) >= BESIDE_IOU).any())
