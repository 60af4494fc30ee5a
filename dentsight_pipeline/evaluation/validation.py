"""COCO JSON that users bring, read into columns: typed, and refused record by record in words.

What is refused and why is in `columns.py`. Of JSON, records without a field and values of another type are refused as
well: ground truth without `area` or `iscrowd` would leave size strata and crowd handling to guesses.
`fill_missing=True` fills them (area = w·h, not a crowd) for files of other tools, and the evaluation says so in its
notes. Detections need no id, area or iscrowd.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.columns import (
    BOX_REMEDY,
    RENUMBER,
    SCORE_REMEDY,
    Detections,
    GroundTruth,
    Place,
    absent_classes,
    checked_boxes,
    checked_ids,
    checked_numbers,
    group_index,
    require_covered,
    rows_of,
)

_DIGEST_CHUNK = 10_000
_FILL_REMEDY = (
    "Add area = width × height and iscrowd = 0 where that is true, or have them filled in (--fill-missing, "
    "fill_missing=True)."
)
_Box = tuple[float, float, float, float]


class _Image(msgspec.Struct):
    id: int | float
    width: float | None = None
    height: float | None = None
    source_group: Any = None
    clean: bool | None = None
    partial_annotation: Any = None
    covered: list[int] | None = None


class _Category(msgspec.Struct):
    id: int | float
    name: Any


class _Annotation(msgspec.Struct):
    id: int | float
    image_id: int | float
    category_id: int | float
    bbox: _Box
    area: float | UnsetType = UNSET
    iscrowd: Any = UNSET


class _Detection(msgspec.Struct):
    image_id: int | float
    category_id: int | float
    bbox: _Box
    score: float


_WRONG: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("id", "image_id", "category_id"), (", not an integer", "Give an integer.")),
    "bbox": ("", BOX_REMEDY),
    "area": (", not a number", _FILL_REMEDY),
    "score": (", not a number", SCORE_REMEDY),
    **dict.fromkeys(("width", "height"), ("", "Give it in pixels, above 0.")),
    "covered": (", not a list of category ids", "List the categories looked for there, or leave it out for all."),
    "clean": (", though other images have it", "Give every image `clean` as true or false, or none."),
}
"""What to say of a value of another type, and the remedy."""
_PATH = re.compile(r"\$\[(\d+)\](?:\.(\w+))?")
_MISSING = re.compile(r"required field `(\w+)`")

Record = TypeVar("Record", _Image, _Category, _Annotation, _Detection)


def read_ground_truth(ground_truth: object, *, source: str = "ground truth", fill_missing: bool = False) -> GroundTruth:
    """Validate a COCO ground truth and turn it into columns.

    Args:
        ground_truth: Parsed COCO JSON with `images`, `annotations` and `categories`. `clean` and `source_group` of
            an image are optional: without a source group every image is its own. So is its `covered`, the category
            ids that its annotators looked for: without it, all.
        source: How error messages call it, e.g. a file name.
        fill_missing: Compute a missing `area` as w·h and take a missing `iscrowd` as 0, and note it.

    Returns:
        The columns; images without annotations stay, since false positives on them count.

    Raises:
        ScoringRecordError: A record that would be mis-scored.
        EvaluationError: No images, no categories, or not a COCO file.
    """
    images, image_place = _records(ground_truth, "images", _Image, source)
    annotations, place = _records(ground_truth, "annotations", _Annotation, source)
    categories, category_place = _records(ground_truth, "categories", _Category, source)
    for name, records in (("images", images), ("categories", categories)):
        if not records:
            raise EvaluationError(
                f"{source}: {name} is empty, so nothing can be scored. Give a COCO file that lists them."
            )
    image_ids, images, image_place = _by_id(images, image_place)
    category_ids, categories, category_place = _by_id(categories, category_place)
    groups, group_notes = _groups(images, image_place)
    boxes = checked_boxes(np.array([a.bbox for a in annotations], np.float64).reshape(-1, 4), place)
    areas, crowd, fill_notes = _areas_and_crowd(annotations, boxes, place, fill_missing)
    truth = GroundTruth(
        image_ids=image_ids,
        image_sizes_px=_sizes(images, image_place),
        groups=groups,
        clean=_clean(images, image_place),
        partial=np.array([image.partial_annotation is True for image in images], bool),
        covered=_covered(images, category_ids, image_place),
        category_ids=category_ids,
        class_names=_names(categories, category_place),
        annotation_ids=checked_ids(_whole([a.id for a in annotations], "id", place), place),
        image_index=_rows([a.image_id for a in annotations], image_ids, "image_id", "images", place),
        class_index=_rows([a.category_id for a in annotations], category_ids, "category_id", "categories", place),
        boxes_xywh_px=boxes,
        areas_px=areas,
        crowd=crowd,
    )
    require_covered(truth, place)
    return replace(truth, notes=(*fill_notes, *group_notes, *absent_classes(truth)))


def read_detections(detections: object, ground_truth: GroundTruth, *, source: str = "detections") -> Detections:
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
    place = _place(source, "detections", detections)
    found = _typed(detections, _Detection, place)
    known = ground_truth
    return Detections(
        image_index=_rows([d.image_id for d in found], known.image_ids, "image_id", "images", place),
        class_index=_rows([d.category_id for d in found], known.category_ids, "category_id", "categories", place),
        boxes_xywh_px=checked_boxes(np.array([d.bbox for d in found], np.float64).reshape(-1, 4), place),
        scores=checked_numbers(np.array([d.score for d in found], np.float64), "score", SCORE_REMEDY, place),
    )


def digest_of(document: object) -> str:
    """The sha256 of a parsed JSON document: sorted keys, no spaces, shortest round-trip floats, UTF-8.

    It equals `sha256(json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False))`, written in
    pieces so that millions of detections need no second copy in memory. numpy numbers count as plain ones.
    """
    hasher = hashlib.sha256()
    for piece in _pieces(document):
        hasher.update(piece.encode())
    return hasher.hexdigest()


def _pieces(document: object) -> Iterator[str]:
    encode = json.JSONEncoder(
        sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=lambda number: number.item()
    ).encode
    if not isinstance(document, Sequence):
        yield encode(document)
        return
    yield "["
    for start in range(0, len(document), _DIGEST_CHUNK):
        yield ("," if start else "") + encode(list(document[start : start + _DIGEST_CHUNK]))[1:-1]
    yield "]"


def _records(document: object, key: str, kind: type[Record], source: str) -> tuple[list[Record], Place]:
    """One list of a COCO file, typed, with the place that names its records."""
    if not isinstance(document, Mapping):
        raise EvaluationError(
            f"{source}: expected a COCO object with images, annotations and categories, "
            f"got {type(document).__name__}. Give the ground-truth file, not a results list."
        )
    records = document.get(key)
    if not isinstance(records, list):
        raise EvaluationError(
            f"{source}: {key!r} is {'missing' if records is None else type(records).__name__}; a COCO ground truth "
            "has the lists images, annotations and categories. Give such a file."
        )
    place = _place(source, key, records)
    return _typed(records, kind, place), place


def _place(source: str, table: str, records: Sequence[Any]) -> Place:
    def id_of(row: int) -> str:
        record = records[row]
        return f" (id {record['id']!r})" if isinstance(record, Mapping) and "id" in record else ""

    return Place(source, table, id_of)


def _typed(records: Sequence[Any], kind: type[Record], place: Place) -> list[Record]:
    """The records with their types checked; numpy's numbers count as plain ones."""
    try:
        return msgspec.convert(records, list[kind], strict=True)
    except msgspec.ValidationError:
        plain = [_without_numpy(record) for record in records]
    try:
        return msgspec.convert(plain, list[kind], strict=True)
    except msgspec.ValidationError as error:
        _explain(plain, str(error), place)


def _without_numpy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_numpy(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_without_numpy(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _explain(records: Sequence[Any], problem: str, place: Place) -> NoReturn:
    """What msgspec says of a record, in the words of the table above."""
    path, missing = _PATH.search(problem), _MISSING.search(problem)
    row = int(path[1]) if path else 0
    if missing:
        place.refuse(row, f"{missing[1]} is missing", _WRONG.get(missing[1], ("", f"Add {missing[1]}."))[1])
    field = path[2] if path else None
    if field is None:
        place.refuse(row, f"is {type(records[row]).__name__}, not an object", "Write it as an object.")
    words, remedy = _WRONG[field]
    place.refuse(row, f"{field} is {records[row][field]!r}{words}", remedy)


def _whole(values: list[int | float], field: str, place: Place) -> np.ndarray:
    """[N] int64; `3.0` is a whole number too."""
    numbers = np.array(values or np.zeros(0, np.int64))
    if numbers.dtype.kind in "uO":
        row = next(i for i, value in enumerate(values) if abs(value) >= 2**63)
        place.refuse(row, f"{field} {values[row]} does not fit into 64 bits", RENUMBER)
    for row in np.flatnonzero(numbers != np.trunc(numbers))[:1] if numbers.dtype.kind == "f" else ():
        place.refuse(row, f"{field} is {values[row]!r}, not an integer", "Give an integer.")
    return numbers.astype(np.int64)


def _rows(values: list[int | float], known: np.ndarray, field: str, where: str, place: Place) -> np.ndarray:
    return rows_of(_whole(values, field, place), known, field, where, place)


def _by_id(records: list[Any], place: Place) -> tuple[np.ndarray, list[Any], Place]:
    """Ids in ascending order, the records in that order, and the place that names them in it."""
    ids = checked_ids(_whole([record.id for record in records], "id", place), place)
    order = np.argsort(ids)
    sorted_place = replace(place, id_of=lambda row: f" (id {ids[order][row]})")
    return ids[order], [records[row] for row in order], sorted_place


def _names(categories: list[_Category], place: Place) -> tuple[str, ...]:
    names = [category.name for category in categories]
    for row, name in enumerate(names):
        if not isinstance(name, str) or not name:
            place.refuse(row, f"name is {name!r}", "Give every category a name.")
        if name in names[:row]:
            place.refuse(row, f"the name {name!r} occurs twice", "Merge or rename them.")
    return tuple(names)


def _areas_and_crowd(
    annotations: list[_Annotation], boxes: np.ndarray, place: Place, fill_missing: bool
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """[N] areas and crowd flags, and what was filled in."""
    areas, without_area = _filled([a.area for a in annotations], boxes[:, 2] * boxes[:, 3], "area", place, fill_missing)
    crowd, without_crowd = _filled(
        [a.iscrowd for a in annotations], np.zeros(len(boxes), int), "iscrowd", place, fill_missing
    )
    for row, value in enumerate(crowd):
        if value not in (0, 1):
            place.refuse(row, f"iscrowd is {value!r}", "It is 0 or 1.")
    notes = []
    if without_area:
        notes.append(f"{without_area} annotations without area: computed as width × height.")
    if without_crowd:
        notes.append(f"{without_crowd} annotations without iscrowd: taken as 0.")
    numbers = checked_numbers(np.array(areas, np.float64), "area", _FILL_REMEDY, place)
    return numbers, np.array(crowd, bool), tuple(notes)


def _filled(values: list[Any], otherwise: np.ndarray, field: str, place: Place, fill: bool) -> tuple[list[Any], int]:
    """The values with what is missing filled in, and how many were."""
    gaps = [row for row, value in enumerate(values) if value is UNSET]
    if gaps and not fill:
        place.refuse(gaps[0], f"{field} is missing", _FILL_REMEDY)
    for row in gaps:
        values[row] = otherwise[row]
    return values, len(gaps)


def _sizes(images: list[_Image], place: Place) -> np.ndarray:
    """[I, 2] width and height in pixels, NaN where there is none."""
    sizes = np.array([(image.width, image.height) for image in images], np.float64)  # None becomes NaN
    for row, column in np.argwhere((sizes <= 0) | np.isinf(sizes))[:1]:
        side = ("width", "height")[column]
        place.refuse(row, f"{side} is {sizes[row, column]:g}", _WRONG[side][1])
    return sizes


def _groups(images: list[_Image], place: Place) -> tuple[np.ndarray, tuple[str, ...]]:
    """[I] source groups, and a note where no image names one."""
    named = [image.source_group for image in images]
    without = sum(name is None for name in named)
    if without == len(images):
        return np.arange(len(images)), ("No image names its source_group: every image is resampled by itself.",)
    if without:
        problem = f"source_group is missing, though {len(images) - without} have one"
        place.refuse(named.index(None), problem, "Give every image its source_group, or none.")
    return group_index(map(str, named)), ()


def _covered(images: list[_Image], category_ids: np.ndarray, place: Place) -> np.ndarray:
    """[I, K] whether an image's annotators looked for a class."""
    covered = np.ones((len(images), len(category_ids)), bool)
    for row, image in enumerate(images):
        if image.covered is not None:
            covered[row] = np.isin(category_ids, image.covered)
            if unknown := set(image.covered).difference(category_ids.tolist()):
                words, remedy = f"covered names category {min(unknown)}, which is not there", _WRONG["covered"][1]
                place.refuse(row, words, remedy)
    return covered


def _clean(images: list[_Image], place: Place) -> np.ndarray | None:
    flags = [image.clean for image in images]
    if all(flag is None for flag in flags):
        return None
    if None in flags:
        words, remedy = _WRONG["clean"]
        place.refuse(flags.index(None), f"clean is None{words}", remedy)
    return np.array(flags, bool)
