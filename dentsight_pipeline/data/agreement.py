"""How far two annotators of the same X-ray agree, per class: the ceiling for what a model can be measured to do.

Where one source occurs twice in an export with different labels, it was annotated twice. Those pairs are a free sample
of annotator agreement. Reading the published labels only; which images share a source is decided in `leakage.py`, and
agreement between a model and dentists belongs in the evaluation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dentsight_pipeline.data.leakage import Fingerprint, Transform, compare
from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.documents.annotations import Split
from dentsight_pipeline.documents.codec import finite
from dentsight_pipeline.documents.dataset import AgreementRow, SecondReading

MATCH_IOU = 0.5
"""Two boxes of one class are one finding from this overlap on."""
COPY_PX = 3.0
"""When every box has its like with all sides this near, the second image is a copy with its labels, not a reading.

A flipped box is not exact: Roboflow floors x and y, once before and once after the flip (all 792 real flips: ≤ 2.5 px).
"""
MOST_MEMBERS = 10
"""Images of one source that are paired; a source that was augmented a hundred times is still one patient."""

_Boxes = Mapping[int, NDArray[np.float64]]  # category id → [n, 4] x, y, w, h in pixels of the first image
NO_BOXES = np.empty((0, 4))
"""What a reading without a class has of it."""


@dataclass(slots=True)
class _Counts:
    """What the pairs say about one class."""

    pairs: int = 0
    boxes: list[int] = field(default_factory=lambda: [0, 0])
    matched: int = 0
    present: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 2), dtype=np.int64))
    """Pairs by presence of the class in A (row) and B (column)."""

    def add(self, in_a: NDArray[np.float64], in_b: NDArray[np.float64]) -> None:
        """One pair more; shape [n, 4] and [m, 4]."""
        self.pairs += 1
        self.present[int(len(in_a) > 0), int(len(in_b) > 0)] += 1
        self.boxes[0] += len(in_a)
        self.boxes[1] += len(in_b)
        if len(in_a) and len(in_b):
            self.matched += most_pairs(pairwise_iou(in_a, in_b) >= MATCH_IOU)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One image with labels, as somebody read it.

    Attributes:
        sha256: Of the image.
        id: The image's.
        size: Its width and height, pixels.
        source: Its source group.
        export: The export that it came from.
        split: Where its boxes are.
        row: Its row among the split's images.
    """

    sha256: str
    id: int
    size: tuple[int, int]
    source: str
    export: str
    split: Split
    row: int

    @property
    def covered(self) -> NDArray[np.bool_]:
        """`[n_classes]`: what was looked for."""
        return self.split.covered[self.row]

    def boxes(self, covered: NDArray[np.bool_]) -> _Boxes:
        """Its boxes by category id, of the classes that `covered` `[n_classes]` marks."""
        own = slice(*self.split.offsets[self.row : self.row + 2])
        categories, boxes = self.split.category_ids[own], self.split.boxes_xywh_px[own]
        kept = np.unique(categories[covered[categories - 1]])
        return {int(category): boxes[categories == category] for category in kept}

    def paired_with(self, other: _Reading, transform: Transform) -> PairedBoxes:
        """The boxes of both, of the classes that both looked for, as the first of the two; `transform` aligns them."""
        covered = self.covered & other.covered
        in_b = other.boxes(covered).items()
        mapped = {category: map_boxes(boxes, other.size, self.size, transform) for category, boxes in in_b}
        return PairedBoxes(self.source, self.boxes(covered), mapped, covered)


@dataclass(slots=True)
class SecondReadings:
    """Pairs of images that two people labelled, and how many pairs say nothing.

    Attributes:
        pairs: One for each pair that counts.
        copies: Pairs whose labels are the same box for box, or whose bytes are the same within one export.
        unaligned: Pairs that share a name but no picture.
    """

    pairs: list[SecondReading] = field(default_factory=list)
    copies: int = 0
    unaligned: int = 0


@dataclass(frozen=True, slots=True)
class PairedBoxes:
    """One pair: what both looked for, and the boxes of that by category id, in the frame of the first."""

    source: str
    in_a: _Boxes
    in_b: _Boxes
    covered: NDArray[np.bool_]

    @property
    def says_something(self) -> bool:
        """Whether one of the two found anything that both looked for; else it may be a copy as well as a reading."""
        return bool(self.in_a or self.in_b)


def second_readings(
    splits: Sequence[Split], fingerprints: Mapping[str, str], augmented: Collection[str] = ()
) -> SecondReadings:
    """The pairs of images of one source that were labelled independently.

    A pair counts when both images carry labels. The boxes of the second image can be brought into the frame of the
    first through the flip that the pixels show; a pair that the pixels do not align (same name, other picture, or a
    crop) is left out. So is a pair whose labels of what both looked for are the same box for box, within 3 px:
    Roboflow's own flips carry their labels along, and no two people draw that exactly; and one without any such label.
    Byte copies within one export are no second reading either, even
    with other labels (`label_review` lists those); the same bytes in two exports are: two teams labelled them. A is
    the image with the smaller digest; nothing else distinguishes the two.

    Args:
        splits: All splits.
        fingerprints: Text of the images' fingerprints by sha256.
        augmented: Exports that say that they hold several versions of each image: nobody has read those.
    """
    made = SecondReadings()
    for first, second in _pairs(splits):
        if first.export == second.export and first.export in augmented:
            made.copies += 1
            continue
        transform = _alignment(first, second, fingerprints)
        if transform is None:
            made.unaligned += 1
            continue
        boxes = first.paired_with(second, transform)
        if _is_byte_copy(first, second) or (boxes.says_something and _is_copy(boxes.in_a, boxes.in_b)):
            made.copies += 1
        elif boxes.says_something:
            made.pairs.append(SecondReading(source=first.source, first=first.id, second=second.id, transform=transform))
    return made


def paired_boxes(splits: Sequence[Split], pairs: Sequence[SecondReading]) -> Iterator[PairedBoxes]:
    """The boxes of pairs; `splits` are those, or a subset of those, that the pairs were found in."""
    members = {reading.id: reading for reading in _readings(splits)}
    for pair in pairs:
        if pair.first in members and pair.second in members:
            yield members[pair.first].paired_with(members[pair.second], pair.transform)


def agreement_table(splits: Sequence[Split], classes: Sequence[str], found: SecondReadings) -> list[AgreementRow]:
    """Compare the labels of images that two people labelled, class by class.

    A class counts in a pair when both annotators looked for it, and a tooth class when both images carry tooth numbers
    (a partial annotation says nothing about teeth).

    Args:
        splits: All splits.
        classes: Their class names.
        found: From `second_readings`.

    Returns:
        A row for each class.
    """
    counts = [_Counts() for _ in classes]
    for pair in paired_boxes(splits, found.pairs):
        for category in told_categories(pair, classes):
            counts[category - 1].add(pair.in_a.get(category, NO_BOXES), pair.in_b.get(category, NO_BOXES))
    return [_row(name, count, found) for name, count in zip(classes, counts, strict=True)]


def told_categories(pair: PairedBoxes, classes: Sequence[str]) -> list[int]:
    """The category ids that a pair says something about."""
    teeth = {number for number, name in enumerate(classes, start=1) if name in TEETH}
    both_number_teeth = all(boxes.keys() & teeth for boxes in (pair.in_a, pair.in_b))
    return [
        category
        for category in (np.flatnonzero(pair.covered) + 1).tolist()
        if both_number_teeth or category not in teeth
    ]


def _pairs(splits: Sequence[Split]) -> Iterator[tuple[_Reading, _Reading]]:
    """Pairs of labelled images of one source, in an order that depends on nothing but their content."""
    members: dict[str, list[_Reading]] = defaultdict(list)
    for reading in _readings(splits):
        members[reading.source].append(reading)
    for _, group in sorted(members.items()):
        ordered = sorted(group, key=lambda reading: (reading.sha256, reading.id))
        yield from combinations(ordered[:MOST_MEMBERS], 2)


def _readings(splits: Sequence[Split]) -> Iterator[_Reading]:
    """Every labelled image."""
    names = ("sha256", "id", "width", "height", "source_group", "export")
    for split in splits:
        columns = list(zip(*(split.images[name].to_pylist() for name in names), strict=True))
        for row in np.flatnonzero(np.diff(split.offsets)).tolist():
            sha256, number, width, height, source, export = columns[row]
            yield _Reading(sha256, number, (width, height), source, export, split, row)


def _is_byte_copy(first: _Reading, second: _Reading) -> bool:
    """Whether one export holds the same file twice."""
    return first.sha256 == second.sha256 and first.export == second.export


def _alignment(first: _Reading, second: _Reading, fingerprints: Mapping[str, str]) -> Transform | None:
    """The flip that turns one image into the other, or None when they show two pictures."""
    match = compare(*(Fingerprint.from_json(fingerprints[reading.sha256]) for reading in (first, second)))
    return match.transform if match.is_same_source or first.sha256 == second.sha256 else None


def map_boxes(
    boxes_xywh_px: NDArray[np.float64], size: tuple[int, int], to_size: tuple[int, int], transform: Transform
) -> NDArray[np.float64]:
    """Bring boxes from one image into the frame of another that shows the same picture, flipped and resized.

    Args:
        boxes_xywh_px: Boxes [n, 4] in pixels of the image that they were drawn on.
        size: Its width and height, pixels.
        to_size: Width and height of the other image.
        transform: The flip between the two; each is its own inverse.

    Returns:
        Boxes [n, 4], x, y, w, h, in pixels of the other image.
    """
    x, y, w, h = np.asarray(boxes_xywh_px, dtype=np.float64).reshape(-1, 4).T
    if transform in ("hflip", "rot180"):
        x = size[0] - x - w
    if transform in ("vflip", "rot180"):
        y = size[1] - y - h
    across, down = to_size[0] / size[0], to_size[1] / size[1]
    return np.stack([x * across, y * down, w * across, h * down], axis=1)


def cohens_kappa(table: NDArray[np.int64]) -> float | None:
    """Cohen's kappa of a square table of counts, or None when chance alone explains everything (or it is empty)."""
    return finite(float(kappas(table)))


def kappas(cells: NDArray[np.generic]) -> NDArray[np.float64]:
    """[…] Cohen's kappa of tables of counts [C, C, …]; NaN where `cohens_kappa` is None."""
    total = cells.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.trace(cells) / total
        expected = (cells.sum(axis=0) * cells.sum(axis=1)).sum(axis=0) / total**2
        return np.where(expected == 1.0, np.nan, (observed - expected) / (1 - expected))


def _is_copy(in_a: _Boxes, in_b: _Boxes) -> bool:
    """Whether both hold the same classes with the same boxes."""
    return in_a.keys() == in_b.keys() and all(
        len(in_a[category])
        == len(in_b[category])
        == most_pairs(_sides_apart(in_a[category], in_b[category]) <= COPY_PX)
        for category in in_a
    )


def _sides_apart(in_a: NDArray[np.float64], in_b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The greatest distance between like sides of every pair of boxes, pixels, shape [n, m]."""
    sides_a, sides_b = (np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]) for boxes in (in_a, in_b))
    return np.abs(sides_a[:, None] - sides_b[None]).max(axis=2)


def most_pairs(allowed: NDArray[np.bool_]) -> int:
    """How many pairs can be made of what is allowed, each row and column used once."""
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    return int(allowed[rows, columns].sum())


def pairwise_iou(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of every pair.

    Args:
        boxes: `[n, 4]` x, y, w, h in pixels.
        others: `[m, 4]` in the same frame.

    Returns:
        `[n, m]` float64 in [0, 1]; 0 where both boxes are empty.
    """
    a, b = boxes[:, None], others[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    overlap = np.clip(high - low, 0.0, None).prod(axis=2)  # [n, m]
    union = a[..., 2:].prod(axis=2) + b[..., 2:].prod(axis=2) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def _row(name: str, count: _Counts, found: SecondReadings) -> AgreementRow:
    boxes = sum(count.boxes)
    return AgreementRow(
        name=name,
        n_pairs=count.pairs,
        boxes_a=count.boxes[0],
        boxes_b=count.boxes[1],
        matched=count.matched,
        f1=2 * count.matched / boxes if boxes else None,
        present_in_both=int(count.present[1, 1]),
        present_in_a=int(count.present[1, 0]),
        present_in_b=int(count.present[0, 1]),
        absent_in_both=int(count.present[0, 0]),
        kappa=cohens_kappa(count.present),
        pairs_left_out_as_copies=found.copies,
        pairs_left_out_as_unaligned=found.unaligned,
    )
