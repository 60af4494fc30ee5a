"""Ground truth and detections as columns, checked before anything scores them.

Each record that an engine would crash on or, worse, score wrongly in silence is refused with its place, the reason and
the remedy (`ScoringRecordError`). Metrics do not belong here; COCO JSON is read in `validation.py`.

What is refused, and what an engine would have made of it (measured with pycocotools 2.0.11):

- an annotation id below 1: id 0 turns a perfect detection into a miss; a duplicate id drops one of the two;
- a non-finite box or score: a NaN box counts as a match, NaN scores halve AP;
- a width or height of 0 or less, an unknown image or category, an id that occurs twice.

Detections may reach outside the image. Boxes and scores stay unrounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from dentsight_pipeline.documents.annotations import Split, flat_values
from dentsight_pipeline.errors import ScoringRecordError

if TYPE_CHECKING:
    import pyarrow as pa

BOX_REMEDY = "A bbox is [x, y, width, height] in pixels, four finite numbers, width and height above 0."
SCORE_REMEDY = "Give every detection its unrounded score."
RENUMBER = "Number ids from 1, each once."


@dataclass(frozen=True)
class GroundTruth:
    """Validated ground truth as columns; I images, N annotations, K classes, in ascending order of image id.

    Attributes:
        image_ids: [I] the file's ids, ascending.
        image_sizes_px: [I, 2] width and height; NaN where the file gives none.
        groups: [I] index of the source group (patient or source) that an image belongs to: the resampling unit.
        clean: [I] true where the image shares no source with another split; None where the file does not say.
        partial: [I] true where the file says that the teeth are not annotated (`partial_annotation`).
        covered: [I, K] true where the image's annotators looked for the class. Elsewhere nothing is known: there is no
            ground truth, and a detection is neither right nor wrong.
        category_ids: [K] ascending.
        class_names: [K] in the order of `category_ids`.
        annotation_ids: [N] in file order.
        image_index: [N] row into `image_ids`.
        class_index: [N] row into `category_ids`.
        boxes_xywh_px: [N, 4].
        areas_px: [N].
        crowd: [N] true for crowd regions, which are ignored rather than missed.
        notes: What the reader had to assume, in words.
        sha256: Digest of what it was read from.
    """

    image_ids: np.ndarray
    image_sizes_px: np.ndarray
    groups: np.ndarray
    clean: np.ndarray | None
    partial: np.ndarray
    covered: np.ndarray
    category_ids: np.ndarray
    class_names: tuple[str, ...]
    annotation_ids: np.ndarray
    image_index: np.ndarray
    class_index: np.ndarray
    boxes_xywh_px: np.ndarray
    areas_px: np.ndarray
    crowd: np.ndarray
    notes: tuple[str, ...] = ()
    sha256: str = ""

    def subset(self, images: np.ndarray) -> GroundTruth:
        """The part on the images where the mask `images` [I] is true; group indices are kept."""
        kept = images[self.image_index]
        return replace(
            self,
            **{name: getattr(self, name)[images] for name in _OF_IMAGES},
            **{name: getattr(self, name)[kept] for name in _OF_ANNOTATIONS},
            clean=None if self.clean is None else self.clean[images],
            image_index=_new_rows(self.image_index, images),
        )

    def of_classes(self, wanted: slice) -> GroundTruth:
        """The part of some neighbouring classes, which are numbered from 0 again; every image stays."""
        kept = _in_slice(self.class_index, wanted)
        own = {name: getattr(self, name)[kept] for name in (*_OF_ANNOTATIONS, "image_index")}
        own["class_index"] = own["class_index"] - wanted.start
        names = self.class_names[wanted]
        return replace(
            self, **own, covered=self.covered[:, wanted], category_ids=self.category_ids[wanted], class_names=names
        )

    @property
    def fully_covered(self) -> np.ndarray:
        """[I] true where every class was looked for."""
        return np.asarray(self.covered.all(axis=1))


@dataclass(frozen=True)
class Detections:
    """Validated detections as columns in the order given; N detections.

    Attributes:
        image_index: [N] row into `GroundTruth.image_ids`.
        class_index: [N] row into `GroundTruth.category_ids`.
        boxes_xywh_px: [N, 4] float64, as given.
        scores: [N] float64, as given.
        sha256: Digest of what they were read from.
    """

    image_index: np.ndarray
    class_index: np.ndarray
    boxes_xywh_px: np.ndarray
    scores: np.ndarray
    sha256: str = ""

    def subset(self, images: np.ndarray) -> Detections:
        """The detections on the images where the mask `images` [I] is true."""
        kept = images[self.image_index]
        rows = _new_rows(self.image_index, images)
        return replace(self._taken(kept), image_index=rows)

    def looked_for(self, truth: GroundTruth) -> Detections:
        """Those of classes that the annotators of their image looked for."""
        if truth.covered.all():
            return self
        return self._taken(truth.covered[self.image_index, self.class_index])

    def of_classes(self, wanted: slice) -> Detections:
        """The detections of some neighbouring classes, which are numbered from 0 again."""
        kept = self._taken(_in_slice(self.class_index, wanted))
        return replace(kept, class_index=kept.class_index - wanted.start)

    def _taken(self, kept: np.ndarray) -> Detections:
        return Detections(
            self.image_index[kept], self.class_index[kept], self.boxes_xywh_px[kept], self.scores[kept], self.sha256
        )


_OF_IMAGES = ("image_ids", "image_sizes_px", "groups", "partial", "covered")
_OF_ANNOTATIONS = ("annotation_ids", "class_index", "boxes_xywh_px", "areas_px", "crowd")


@dataclass(frozen=True)
class Place:
    """Where records come from, so that a refusal can name one.

    Attributes:
        source: The file or product.
        table: The list in it.
        id_of: What a record says its id is, in words (` (id 7)`), or nothing.
    """

    source: str
    table: str
    id_of: Callable[[int], str] = lambda row: ""

    def refuse(self, row: int | np.integer, problem: str, remedy: str) -> NoReturn:
        """Refuse one record.

        Raises:
            ScoringRecordError: Always.
        """
        raise ScoringRecordError(self.source, f"{self.table}[{int(row)}]{self.id_of(int(row))}", problem, remedy)


def ground_truth_of(split: Split, source: str = "ground truth") -> GroundTruth:
    """A stored split as ground truth.

    Raises:
        ScoringRecordError: A row that would be mis-scored.
    """
    place = Place(source, "annotations", lambda row: f" (id {split.annotations['id'][row]})")
    truth = GroundTruth(
        image_ids=split.image_ids,
        image_sizes_px=np.column_stack([split.images[side].to_numpy() for side in ("width", "height")]).astype(float),
        groups=group_index(split.images["source_group"].to_pylist()),
        clean=split.images["clean"].to_numpy(),
        partial=split.images["partial_annotation"].to_numpy(),
        covered=split.covered,
        category_ids=np.arange(1, len(split.classes) + 1),
        class_names=split.classes,
        annotation_ids=checked_ids(split.annotations["id"].to_numpy(), place),
        image_index=rows_of(split.annotation_image_ids, split.image_ids, "image_id", "images", place),
        class_index=rows_of(
            split.category_ids, np.arange(1, len(split.classes) + 1), "category_id", "categories", place
        ),
        boxes_xywh_px=checked_boxes(split.boxes_xywh_px, place),
        areas_px=checked_numbers(
            split.annotations["area"].to_numpy(), "area", "Give the area in square pixels.", place
        ),
        crowd=np.zeros(len(split.annotations), bool),
    )
    require_covered(truth, place)
    return replace(truth, notes=absent_classes(truth), sha256=digest_of_columns(truth))


def detections_of(table: pa.Table, truth: GroundTruth, source: str = "detections") -> Detections:
    """A stored table of detections (`documents.detections.DETECTIONS`) on the images of `truth`.

    Raises:
        ScoringRecordError: A row that would be mis-scored.
    """
    place = Place(source, "detections")
    found = Detections(
        image_index=rows_of(table["image_id"].to_numpy(), truth.image_ids, "image_id", "images", place),
        class_index=rows_of(table["category_id"].to_numpy(), truth.category_ids, "category_id", "categories", place),
        boxes_xywh_px=checked_boxes(flat_values(table["bbox"]).reshape(-1, 4), place),
        scores=checked_numbers(table["score"].to_numpy(), "score", SCORE_REMEDY, place),
    )
    return replace(found, sha256=digest_of_columns(found))


def digest_of_columns(columns: GroundTruth | Detections) -> str:
    """The sha256 of what is scored: names and little-endian values of every column, in the order of the fields.

    `covered` counts where it is not true throughout.
    """
    hasher = hashlib.sha256()
    for column in fields(columns):
        value = getattr(columns, column.name)
        told = column.name not in ("notes", "sha256") and value is not None
        if told and not (column.name == "covered" and np.all(value)):
            hasher.update(f"{column.name}\0".encode())
            plain = isinstance(value, tuple)
            hasher.update("\0".join(value).encode() if plain else np.ascontiguousarray(value).view(np.uint8).data)
    return hasher.hexdigest()


def checked_ids(ids: np.ndarray, place: Place) -> np.ndarray:
    """Ids from 1, each once."""
    for row in np.flatnonzero(ids < 1)[:1]:
        problem = f"{place.table} id {ids[row]} is below 1"
        if place.table == "annotations":
            problem += "; engines read a match with annotation id 0 as no match, so a perfect detection becomes a miss"
        place.refuse(row, problem, RENUMBER)
    order = np.argsort(ids, kind="stable")
    for at in np.flatnonzero(np.diff(ids[order]) == 0)[:1]:
        first, second = order[at], order[at + 1]
        problem = f"id {ids[second]} is used twice (first by {place.table}[{first}]), and engines keep one of the two"
        place.refuse(int(second), problem, RENUMBER)
    return ids


def rows_of(values: np.ndarray, known: np.ndarray, field: str, where: str, place: Place) -> np.ndarray:
    """[N] rows into the ascending ids `known`."""
    rows = np.minimum(np.searchsorted(known, values), len(known) - 1)
    for row in np.flatnonzero(known[rows] != values)[:1]:
        sample = ", ".join(map(str, known[:5])) + ("…" if len(known) > 5 else "")
        place.refuse(
            row,
            f"{field} {values[row]} is not among the ground truth's {where} ({len(known)}: {sample})",
            "Score detections against the ground truth they were made for.",
        )
    return rows


def checked_numbers(numbers: np.ndarray, field: str, remedy: str, place: Place) -> np.ndarray:
    """[N] finite; areas are also 0 or more."""
    for row in np.flatnonzero(~np.isfinite(numbers))[:1]:
        problem = f"{field} is {numbers[row]}; engines do not stop at it, they return a wrong AP"
        place.refuse(row, problem, remedy)
    if field == "area":
        for row in np.flatnonzero(numbers < 0)[:1]:
            place.refuse(row, f"area is {numbers[row]}", "Give the area in square pixels.")
    return numbers


def checked_boxes(boxes: np.ndarray, place: Place) -> np.ndarray:
    """[N, 4] x, y, w, h in pixels; finite, with w, h > 0."""
    for row in np.flatnonzero(~np.isfinite(boxes).all(axis=1))[:1]:
        problem = f"bbox {boxes[row].tolist()} is not finite; engines count a NaN box as a match"
        place.refuse(row, problem, BOX_REMEDY)
    for row in np.flatnonzero((boxes[:, 2:] <= 0).any(axis=1))[:1]:
        place.refuse(row, f"bbox {boxes[row].tolist()} has no area", BOX_REMEDY)
    return boxes


def require_covered(truth: GroundTruth, place: Place) -> None:
    """Refuse a box of a class that its image's annotators did not look for: one of the two is wrong."""
    for row in np.flatnonzero(~truth.covered[truth.image_index, truth.class_index])[:1]:
        name, image = truth.class_names[truth.class_index[row]], truth.image_ids[truth.image_index[row]]
        place.refuse(
            row,
            f"is {name}, which image {image} says nobody looked for (`covered`)",
            "Add the category to the image's `covered`, or leave the box out.",
        )


def absent_classes(truth: GroundTruth) -> tuple[str, ...]:
    """A note on classes without ground truth, and one on those that nobody looked for."""
    present, looked_for = set(truth.class_index[~truth.crowd].tolist()), truth.covered.sum(axis=0)
    absent = [name for k, name in enumerate(truth.class_names) if k not in present and looked_for[k]]
    unknown = [name for k, name in enumerate(truth.class_names) if not looked_for[k]]
    notes = (
        (absent, "No ground truth for {}: not scored, and false positives there cost nothing in AP."),
        (unknown, "In no image did anybody look for {}: not measured."),
    )
    return tuple(note.format(", ".join(names)) for names, note in notes if names)


def group_index(names: Iterable[str]) -> np.ndarray:
    """[I] a number for each name, in the order in which they first occur."""
    index: dict[str, int] = {}
    return np.array([index.setdefault(name, len(index)) for name in names], dtype=np.int64)


def _new_rows(image_index: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Rows into the images kept, of those records whose image is kept."""
    return (np.cumsum(images) - 1)[image_index[images[image_index]]]


def _in_slice(classes: np.ndarray, wanted: slice) -> np.ndarray:
    return (classes >= wanted.start) & (classes < wanted.stop)
