"""Ground truth and detections, checked record by record and held as columns.

Everything that scores goes through here first: each record that an engine would crash on or, worse, score wrongly in
silence is refused with its place, the reason and the remedy (`ScoringRecordError`). Metrics do not belong here.

What is refused, and what an engine would have made of it (measured with pycocotools 2.0.11):

- an annotation id below 1: id 0 turns a perfect detection into a miss; a duplicate id drops one of the two;
- a non-finite box or score: a NaN box counts as a match, NaN scores halve AP;
- a width or height of 0 or less, an unknown image or category, an id that occurs twice;
- ground truth without `area` or `iscrowd`: size strata and crowd handling would be guesses. `fill_missing=True` fills
  them (area = w·h, not a crowd) for files of other tools, and the evaluation says so in its notes.

Detections need no id, area or iscrowd, and their boxes may reach outside the image. Boxes and scores stay unrounded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from dentsight_pipeline.errors import EvaluationError, ScoringRecordError

_RENUMBER = "Number ids from 1, each once."
_DIGEST_CHUNK = 10_000


@dataclass(frozen=True)
class GroundTruth:
    """Validated ground truth as columns; I images, N annotations, K classes, in ascending order of image id.

    Attributes:
        image_ids: [I] the file's ids, ascending.
        image_sizes_px: [I, 2] width and height; NaN where the file gives none.
        file_names: [I] names, empty where the file gives none.
        groups: [I] index of the source group (patient or source) that an image belongs to: the resampling unit.
        clean: [I] true where the image shares no source with another split; None where the file does not say.
        partial: [I] true where the file says that the teeth are not annotated (`partial_annotation`).
        category_ids: [K] ascending.
        class_names: [K] in the order of `category_ids`.
        annotation_ids: [N] in file order.
        image_index: [N] row into `image_ids`.
        class_index: [N] row into `category_ids`.
        boxes_xywh_px: [N, 4].
        areas_px: [N].
        crowd: [N] true for crowd regions, which are ignored rather than missed.
        notes: What the reader had to assume, in words.
    """

    image_ids: np.ndarray
    image_sizes_px: np.ndarray
    file_names: tuple[str, ...]
    groups: np.ndarray
    clean: np.ndarray | None
    partial: np.ndarray
    category_ids: np.ndarray
    class_names: tuple[str, ...]
    annotation_ids: np.ndarray
    image_index: np.ndarray
    class_index: np.ndarray
    boxes_xywh_px: np.ndarray
    areas_px: np.ndarray
    crowd: np.ndarray
    notes: tuple[str, ...] = ()

    def subset(self, images: np.ndarray) -> GroundTruth:
        """The part on the images where the mask `images` [I] is true; group indices are kept."""
        row = np.cumsum(images) - 1
        kept = images[self.image_index]
        return replace(
            self,
            image_ids=self.image_ids[images],
            image_sizes_px=self.image_sizes_px[images],
            file_names=tuple(name for name, keep in zip(self.file_names, images, strict=True) if keep),
            groups=self.groups[images],
            clean=None if self.clean is None else self.clean[images],
            partial=self.partial[images],
            annotation_ids=self.annotation_ids[kept],
            image_index=row[self.image_index[kept]],
            class_index=self.class_index[kept],
            boxes_xywh_px=self.boxes_xywh_px[kept],
            areas_px=self.areas_px[kept],
            crowd=self.crowd[kept],
        )


@dataclass(frozen=True)
class Detections:
    """Validated detections as columns in the order given; N detections.

    Attributes:
        image_index: [N] row into `GroundTruth.image_ids`.
        class_index: [N] row into `GroundTruth.category_ids`.
        boxes_xywh_px: [N, 4] float64, as given.
        scores: [N] float64, as given.
    """

    image_index: np.ndarray
    class_index: np.ndarray
    boxes_xywh_px: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def subset(self, images: np.ndarray) -> Detections:
        """The detections on the images where the mask `images` [I] is true."""
        row = np.cumsum(images) - 1
        kept = images[self.image_index]
        return Detections(
            row[self.image_index[kept]], self.class_index[kept], self.boxes_xywh_px[kept], self.scores[kept]
        )


def read_ground_truth(
    ground_truth: Mapping[str, Any], *, source: str = "ground truth", fill_missing: bool = False
) -> GroundTruth:
    """Validate a COCO ground truth and turn it into columns.

    Args:
        ground_truth: Parsed COCO JSON with `images`, `annotations` and `categories`. `clean` and `source_group` of
            an image are optional: without a source group every image is its own.
        source: How error messages call it, e.g. a file name.
        fill_missing: Compute a missing `area` as w·h and take a missing `iscrowd` as 0, and note it.

    Returns:
        The columns; images without annotations stay, since false positives on them count.

    Raises:
        ScoringRecordError: A record that would be mis-scored.
        EvaluationError: No images, no categories, or not a COCO file.
    """
    if not isinstance(ground_truth, Mapping):
        raise EvaluationError(
            f"{source}: expected a COCO object with images, annotations and categories, "
            f"got {type(ground_truth).__name__}. Give the ground-truth file, not a results list."
        )
    images, annotations, categories = (
        _records(ground_truth, key, source) for key in ("images", "annotations", "categories")
    )
    if not images or not categories:
        empty = "images" if not images else "categories"
        raise EvaluationError(
            f"{source}: {empty} is empty, so nothing can be scored. Give a COCO file that lists them."
        )
    notes: list[str] = []

    image_ids = _ids(images, "images", source)
    order = np.argsort(image_ids)
    images = [images[i] for i in order]
    image_ids = image_ids[order]
    category_ids = _ids(categories, "categories", source)
    order = np.argsort(category_ids)
    categories = [categories[i] for i in order]
    category_ids = category_ids[order]
    names = _column(categories, "name", "categories", source)
    for row, name in enumerate(names):
        if not isinstance(name, str) or not name:
            _refuse(source, "categories", row, f"name is {name!r}", "Give every category a name.", categories)
        if name in names[:row]:
            _refuse(source, "categories", row, f"the name {name!r} occurs twice", "Merge or rename them.", categories)

    annotation_ids = _ids(annotations, "annotations", source)
    image_index = _lookup(annotations, "image_id", image_ids, "annotations", source, "images")
    class_index = _lookup(annotations, "category_id", category_ids, "annotations", source, "categories")
    boxes = _boxes(annotations, "annotations", source)
    if fill_missing:
        without_area = sum("area" not in record for record in annotations)
        without_crowd = sum("iscrowd" not in record for record in annotations)
        annotations = [{"area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0, **r} for r in annotations]
        if without_area:
            notes.append(f"{without_area} annotations without area: computed as width × height.")
        if without_crowd:
            notes.append(f"{without_crowd} annotations without iscrowd: taken as 0.")
    remedy = (
        "Add area = width × height and iscrowd = 0 where that is true, or have them filled in (--fill-missing, "
        "fill_missing=True)."
    )
    areas = _numbers(annotations, "area", "annotations", source, remedy)
    for row in np.flatnonzero(areas < 0)[:1]:
        _refuse(source, "annotations", row, f"area is {areas[row]}", "Give the area in square pixels.", annotations)
    crowd = _column(annotations, "iscrowd", "annotations", source, remedy)
    for row, value in enumerate(crowd):
        if value not in (0, 1):
            _refuse(source, "annotations", row, f"iscrowd is {value!r}", "It is 0 or 1.", annotations)

    absent = sorted(set(range(len(names))) - set(class_index[~np.asarray(crowd, bool)].tolist()))
    if absent:
        notes.append(
            "No ground truth for "
            + ", ".join(names[k] for k in absent)
            + ": not scored, and false positives there cost nothing in AP."
        )
    return GroundTruth(
        image_ids=image_ids,
        image_sizes_px=_sizes(images, source),
        file_names=tuple(str(image.get("file_name", "")) for image in images),
        groups=_groups(images, source, notes),
        clean=_clean(images, source),
        partial=np.array([image.get("partial_annotation") is True for image in images], dtype=bool),
        category_ids=category_ids,
        class_names=tuple(names),
        annotation_ids=annotation_ids,
        image_index=image_index,
        class_index=class_index,
        boxes_xywh_px=boxes,
        areas_px=areas,
        crowd=np.asarray(crowd, dtype=bool),
        notes=tuple(notes),
    )


def read_detections(
    detections: Sequence[Mapping[str, Any]], ground_truth: GroundTruth, *, source: str = "detections"
) -> Detections:
    """Validate a COCO results list and turn it into columns.

    Args:
        detections: Records with `image_id`, `category_id`, `bbox` [x, y, w, h] in pixels and `score`. The list may
            be empty, and boxes may reach outside the image.
        ground_truth: Names the images and categories that exist.
        source: How error messages call it.

    Raises:
        ScoringRecordError: A record that would be mis-scored.
        EvaluationError: Not a results list.
    """
    if not isinstance(detections, list | tuple):
        raise EvaluationError(
            f"{source}: expected a COCO results list [{{image_id, category_id, bbox, score}}, …], "
            f"got {type(detections).__name__}. Give the list itself (the `annotations` of a COCO file will do)."
        )
    return Detections(
        image_index=_lookup(detections, "image_id", ground_truth.image_ids, "detections", source, "images"),
        class_index=_lookup(detections, "category_id", ground_truth.category_ids, "detections", source, "categories"),
        boxes_xywh_px=_boxes(detections, "detections", source),
        scores=_numbers(detections, "score", "detections", source, "Give every detection its unrounded score."),
    )


def digest_of(document: Mapping[str, Any] | Sequence[Any]) -> str:
    """The sha256 of a parsed JSON document: sorted keys, no spaces, shortest round-trip floats, UTF-8.

    It equals `sha256(json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False))`, written in
    pieces so that millions of detections need no second copy in memory. numpy numbers count as plain ones.
    """
    hasher = hashlib.sha256()
    encode = json.JSONEncoder(
        sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=lambda number: number.item()
    ).encode
    if isinstance(document, Mapping):
        hasher.update(encode(document).encode())
        return hasher.hexdigest()
    hasher.update(b"[")
    for start in range(0, len(document), _DIGEST_CHUNK):
        piece = encode(list(document[start : start + _DIGEST_CHUNK]))[1:-1]
        hasher.update((("," if start else "") + piece).encode())
    hasher.update(b"]")
    return hasher.hexdigest()


def _refuse(source: str, table: str, row: Any, problem: str, remedy: str, records: Sequence[Any]) -> NoReturn:
    record = records[int(row)]
    named = f" (id {record['id']!r})" if isinstance(record, Mapping) and "id" in record else ""
    raise ScoringRecordError(source, f"{table}[{int(row)}]{named}", problem, remedy)


def _records(document: Mapping[str, Any], key: str, source: str) -> list[Mapping[str, Any]]:
    records = document.get(key)
    if not isinstance(records, list):
        raise EvaluationError(
            f"{source}: {key!r} is {'missing' if records is None else type(records).__name__}; a COCO ground truth "
            "has the lists images, annotations and categories. Give such a file."
        )
    for row, record in enumerate(records):
        if not isinstance(record, Mapping):
            _refuse(source, key, row, f"is {type(record).__name__}, not an object", "Write it as an object.", records)
    return records


def _column(
    records: Sequence[Mapping[str, Any]], field: str, table: str, source: str, remedy: str | None = None
) -> list[Any]:
    try:
        return [record[field] for record in records]
    except (KeyError, TypeError):
        row = next(i for i, record in enumerate(records) if not isinstance(record, Mapping) or field not in record)
        _refuse(source, table, row, f"{field} is missing", remedy or f"Add {field}.", records)


def _integers(records: Sequence[Mapping[str, Any]], field: str, table: str, source: str) -> np.ndarray:
    values = _column(records, field, table, source)
    if not set(map(type, values)) <= {int}:
        for row, value in enumerate(values):
            whole = isinstance(value, np.integer) or (isinstance(value, float) and value.is_integer())
            if type(value) is not int and not whole:
                _refuse(source, table, row, f"{field} is {value!r}, not an integer", "Give an integer.", records)
    try:
        return np.fromiter((int(value) for value in values), np.int64, len(values))
    except OverflowError:
        row = next(i for i, value in enumerate(values) if abs(int(value)) >= 2**63)
        _refuse(source, table, row, f"{field} {values[row]} does not fit into 64 bits", _RENUMBER, records)


def _ids(records: Sequence[Mapping[str, Any]], table: str, source: str) -> np.ndarray:
    ids = _integers(records, "id", table, source)
    for row in np.flatnonzero(ids < 1)[:1]:
        problem = f"{table} id {ids[row]} is below 1"
        if table == "annotations":
            problem += "; engines read a match with annotation id 0 as no match, so a perfect detection becomes a miss"
        _refuse(source, table, row, problem, _RENUMBER, records)
    order = np.argsort(ids, kind="stable")
    for place in np.flatnonzero(np.diff(ids[order]) == 0)[:1]:
        first, second = order[place], order[place + 1]
        _refuse(
            source,
            table,
            second,
            f"id {ids[second]} is used twice (first by {table}[{first}]), and engines keep one of the two",
            _RENUMBER,
            records,
        )
    return ids


def _lookup(
    records: Sequence[Mapping[str, Any]], field: str, known: np.ndarray, table: str, source: str, where: str
) -> np.ndarray:
    """[N] rows into the ascending ids `known`."""
    values = _integers(records, field, table, source)
    rows = np.minimum(np.searchsorted(known, values), len(known) - 1)
    for row in np.flatnonzero(known[rows] != values)[:1]:
        sample = ", ".join(map(str, known[:5])) + ("…" if len(known) > 5 else "")
        _refuse(
            source,
            table,
            row,
            f"{field} {values[row]} is not among the ground truth's {where} ({len(known)}: {sample})",
            "Score detections against the ground truth they were made for.",
            records,
        )
    return rows


def _numbers(records: Sequence[Mapping[str, Any]], field: str, table: str, source: str, remedy: str) -> np.ndarray:
    values = _column(records, field, table, source, remedy)
    if not set(map(type, values)) <= {int, float}:
        for row, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
                _refuse(source, table, row, f"{field} is {value!r}, not a number", remedy, records)
    numbers = np.array(values, dtype=np.float64).reshape(-1)
    for row in np.flatnonzero(~np.isfinite(numbers))[:1]:
        problem = f"{field} is {values[row]}; engines do not stop at it, they return a wrong AP"
        _refuse(source, table, row, problem, remedy, records)
    return numbers


def _boxes(records: Sequence[Mapping[str, Any]], table: str, source: str) -> np.ndarray:
    """[N, 4] x, y, w, h in pixels; finite, with w, h > 0."""
    remedy = "A bbox is [x, y, width, height] in pixels, four finite numbers, width and height above 0."
    values = _column(records, "bbox", table, source, remedy)
    try:
        sound = set(map(len, values)) <= {4} and set(map(type, chain.from_iterable(values))) <= {int, float}
    except TypeError:
        sound = False
    if not sound:
        for row, value in enumerate(values):
            if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str) or len(value) != 4:
                _refuse(source, table, row, f"bbox is {value!r}", remedy, records)
            if any(isinstance(v, bool) or not isinstance(v, int | float | np.integer | np.floating) for v in value):
                _refuse(source, table, row, f"bbox is {value!r}", remedy, records)
    boxes = np.fromiter(chain.from_iterable(values), np.float64, 4 * len(values)).reshape(-1, 4)
    for row in np.flatnonzero(~np.isfinite(boxes).all(axis=1))[:1]:
        problem = f"bbox {boxes[row].tolist()} is not finite; engines count a NaN box as a match"
        _refuse(source, table, row, problem, remedy, records)
    for row in np.flatnonzero((boxes[:, 2:] <= 0).any(axis=1))[:1]:
        _refuse(source, table, row, f"bbox {boxes[row].tolist()} has no area", remedy, records)
    return boxes


def _sizes(images: Sequence[Mapping[str, Any]], source: str) -> np.ndarray:
    sizes = np.full((len(images), 2), np.nan)
    for row, image in enumerate(images):
        for column, side in enumerate(("width", "height")):
            value = image.get(side)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
                _refuse(source, "images", row, f"{side} is {value!r}", "Give it in pixels, above 0.", images)
            sizes[row, column] = value
    return sizes


def _groups(images: Sequence[Mapping[str, Any]], source: str, notes: list[str]) -> np.ndarray:
    named = [image.get("source_group") for image in images]
    without = sum(name is None for name in named)
    if without == len(images):
        notes.append("No image names its source_group: every image is resampled by itself.")
        return np.arange(len(images))
    if without:
        row = named.index(None)
        remedy = "Give every image its source_group, or none."
        _refuse(
            source, "images", row, f"source_group is missing, though {len(images) - without} have one", remedy, images
        )
    return _first_seen(str(name) for name in named)


def _first_seen(names: Iterable[str]) -> np.ndarray:
    index: dict[str, int] = {}
    return np.array([index.setdefault(name, len(index)) for name in names], dtype=np.int64)


def _clean(images: Sequence[Mapping[str, Any]], source: str) -> np.ndarray | None:
    flags = [image.get("clean") for image in images]
    if all(flag is None for flag in flags):
        return None
    for row, flag in enumerate(flags):
        if not isinstance(flag, bool):
            remedy = "Give every image `clean` as true or false, or none."
            _refuse(source, "images", row, f"clean is {flag!r}, though other images have it", remedy, images)
    return np.array(flags, dtype=bool)
