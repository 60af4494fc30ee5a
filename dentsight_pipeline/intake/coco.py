"""Reads Roboflow's COCO and COCO-segmentation layouts: one `_annotations.coco.json` in each split's folder.

A record that cannot be meant is refused with its file, its id and the remedy; one that can be mended without a decision
is mended and noted.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from dentsight_pipeline.data.coco import Export, ExportAnnotation, ExportCategory, ExportImage, ExportSplit
from dentsight_pipeline.data.json_stream import JsonStream
from dentsight_pipeline.data.records import IdSet, RecordMap, Records
from dentsight_pipeline.errors import AnnotationError, DataError
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.paths import is_text, refuse_unsafe_path
from dentsight_pipeline.intake.records import (
    EXPORT_AGAIN,
    Refusals,
    annotation_records,
    image_records,
    is_id,
    is_image,
    stem_of,
)

COCO_FILE = "_annotations.coco.json"
_SHOWN = 60
"""Characters of a wrong value that an error quotes."""


def read_coco(files: ExportFiles, folders: Mapping[str, str], refusals: Refusals) -> Export:
    """Reads the annotation files of the splits, which lie in `folders` (split → folder); READMEs are left out.

    Raises:
        DataError: A split has no annotation file, or one cannot be read at all; other errors go to `refusals`.
    """
    paths = files.paths()
    for folder in folders.values():
        file = f"{folder}/{COCO_FILE}"
        if file not in paths:
            raise DataError(f"{files.name}: {file} is missing although {folder}/ is there. Restore it or export again.")
    splits: list[ExportSplit] = []
    licenses: list[str] = []
    infos: list[dict[str, str]] = []
    roots: set[str] = set()
    root_is_used = False
    for split, folder in folders.items():
        file = f"{folder}/{COCO_FILE}"
        document = _document(files, file)
        reader = _CocoSplitReader(file, split, folder, document, paths, refusals)
        splits.append(reader.read())
        root_is_used |= reader.root_is_used
        info = document.get("info")
        infos.append({str(k): str(v) for k, v in info.items()} if isinstance(info, dict) else {})
        named = (item.get("name") for item in _objects(document.get("licenses")))
        licenses += [str(name) for name in named if name]
        roots |= {
            item["name"]
            for item in _objects(document["categories"])
            if item.get("id") == 0 and item.get("supercategory") in ("none", None) and isinstance(item.get("name"), str)
        }
    if not any(split.images for split in splits):
        refusals.add(DataError(f"{files.name}: no split lists an image. Export the version again with its images."))
    if not root_is_used:
        splits = [_with_placeholder(split, roots) for split in splits]
    return Export(
        layout="coco",
        splits=splits,
        license_names=tuple(dict.fromkeys(licenses)),
        info=infos[0],
    )


def _with_placeholder(split: ExportSplit, roots: set[str]) -> ExportSplit:
    """Marks Roboflow's root: id 0, supercategory `none`, and no annotation in any split (it may share a class's name).

    "COCO for MMDetection" starts at 1 and has none.
    """
    marked = [ExportCategory(c.id, c.name, c.id == 0 and c.name in roots) for c in split.categories]
    return replace(split, categories=marked)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list, of whatever else it holds."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _document(files: ExportFiles, file: str) -> Mapping[str, Any]:
    """One annotation file; `images` and `annotations`, which are long, as unread records in the file's order."""
    remedy = "Download the export again."
    stream = JsonStream(files.blocks(file))
    try:
        document = dict(_members(stream)) if stream.peek() == "{" else stream.value()
        stream.end()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text (byte {error.start}). {remedy}") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}: not whole JSON ({error.msg} at line {error.lineno}, column {error.colno}). {remedy}"
        ) from error
    except ValueError as error:  # Python reads no integer of more than 4,300 digits
        raise DataError(f"{file}: holds a number with more digits than can be read. {remedy}") from error
    except RecursionError as error:
        raise DataError(f"{file}: JSON nested deeper than any annotation file. {remedy}") from error
    if not isinstance(document, dict):
        raise DataError(f"{file}: holds a {type(document).__name__} instead of an object. {remedy}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), (list, Records)):
            found = "is missing" if key not in document else f"is a {type(document[key]).__name__}"
            raise DataError(f"{file}: the list {key!r} {found}, so this is no COCO file. Export again as COCO.")
    return document


def _members(stream: JsonStream) -> Iterator[tuple[str, Any]]:
    for key in stream.members():
        if key in ("images", "annotations") and stream.peek() == "[":
            records: Records[Any] = Records()
            for item, text in stream.items():
                records.append(item, text)
            yield key, records
        else:
            yield key, stream.value()


def _shown(item: Any, *keys: str) -> str:
    """What a record that cannot be used gives instead, in a few words."""
    if not isinstance(item, dict):
        return f"given is a {type(item).__name__}"
    given = (f"{key} {repr(item[key])[:_SHOWN] if key in item else 'missing'}" for key in keys)
    return f"given is {', '.join(given)}"


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON integers have no largest one
        return None
    return number if math.isfinite(number) else None


class _CocoSplitReader:
    """Turns one `_annotations.coco.json` into records, refusing what cannot be meant.

    Attributes:
        root_is_used: Some annotation names category 0; known when the annotations are read.
    """

    def __init__(
        self,
        file: str,
        split: str,
        folder: str,
        document: Mapping[str, Any],
        known: Collection[str],
        refusals: Refusals,
    ) -> None:
        self.file, self.split, self.folder, self.document = file, split, folder, document
        self.known, self.refusals = known, refusals
        self.image_ids = IdSet()
        self.listed: RecordMap[int] = RecordMap()  # path → id
        self.root_is_used = False

    def refuse(self, record: str, problem: str, remedy: str = EXPORT_AGAIN) -> None:
        self.refusals.add(AnnotationError(self.file, record, problem, remedy))

    def read(self) -> ExportSplit:
        categories = self.categories()
        images = self.images()
        names = {category.id: category.name for category in categories}
        annotations, counts = self.annotations(names)
        there = sum(path.startswith(f"{self.folder}/") and is_image(path) for path in self.known)
        unlisted = there - sum(image.exists and is_image(image.path) for image in images)
        return ExportSplit(self.split, self.file, categories, images, annotations, counts, unlisted)

    def categories(self) -> list[ExportCategory]:
        found: dict[int, ExportCategory] = {}
        for position, item in enumerate(self.document["categories"]):
            record = f"category {position}"
            if not isinstance(item, dict) or not is_id(item.get("id")) or not is_text(item.get("name")):
                given = _shown(item, "id", "name")
                self.refuse(record, f"it needs an integer id and a name, {given}")
            elif item["id"] in found:
                self.refuse(
                    f"category {item['id']}",
                    f"two categories have this id: {found[item['id']].name!r} and {item['name']!r}",
                )
            else:
                found[item["id"]] = ExportCategory(item["id"], item["name"])
        return list(found.values())

    def images(self) -> Records[ExportImage]:
        found = image_records()
        for position, item in enumerate(self.document["images"]):
            image = self.image(position, item)
            if image is None:
                continue
            if image.id in self.image_ids:
                self.refuse(f"image {image.id}", "two images have this id, so their annotations cannot be told apart")
            elif image.path in self.listed:
                self.refuse(f"image {image.id}", f"the same file as image {self.listed[image.path]}: {image.path}")
            else:
                found.append(image)
                self.image_ids.add(image.id)
                self.listed[image.path] = image.id
        return found

    def image(self, position: int, item: Any) -> ExportImage | None:
        if not isinstance(item, dict) or not is_id(item.get("id")):
            self.refuse(f"image at position {position}", f"it needs an integer id, {_shown(item, 'id')}")
            return None
        record, name = f"image {item['id']}", item.get("file_name")
        if not isinstance(name, str) or not name:
            self.refuse(record, "it has no file_name")
            return None
        try:
            refuse_unsafe_path(name, f"{self.file}, {record}")
        except DataError as error:
            self.refusals.add(error)
            return None
        size = [item.get("width"), item.get("height")]
        if any(value is not None and (not is_id(value) or value < 0) for value in size):
            self.refuse(record, f"width {size[0]!r} and height {size[1]!r} are no sizes in pixels")
            return None
        path = f"{self.folder}/{PurePosixPath(name).as_posix()}"
        return ExportImage(item["id"], path, stem_of(path), size[0] or 0, size[1] or 0, exists=path in self.known)

    def annotations(self, names: Mapping[int, str]) -> tuple[Records[ExportAnnotation], Counter[str]]:
        found, counts, ids = annotation_records(), Counter[str](), IdSet()
        for position, item in enumerate(self.document["annotations"]):
            self.root_is_used |= isinstance(item, dict) and item.get("category_id") == 0
            annotation = self.annotation(position, item, names)
            if annotation is None:
                continue
            if not ids.add(annotation.id):
                annotation = _noted(annotation, "duplicate_annotation_id")
            counts[annotation.label] += 1
            found.append(annotation)
        return found, counts

    def annotation(self, position: int, item: Any, names: Mapping[int, str]) -> ExportAnnotation | None:
        if not isinstance(item, dict):
            self.refuse(f"annotation at position {position}", "it is no object")
            return None
        has_id = is_id(item.get("id"))
        record = f"annotation {item['id']}" if has_id else f"annotation at position {position}"
        if not is_id(item.get("image_id")) or item["image_id"] not in self.image_ids:
            self.refuse(record, f"its image_id {item.get('image_id')!r} is not an image of this file")
            return None
        record += f" of image {item['image_id']}"
        if not is_id(item.get("category_id")) or item["category_id"] not in names:
            self.refuse(record, f"its category_id {item.get('category_id')!r} is not a category of this file")
            return None
        if item.get("iscrowd") not in (0, None, False):
            self.refuse(record, "it is a crowd region, which has no single box", "Annotate single findings.")
            return None
        notes = [] if has_id else ["missing_annotation_id"]
        polygons = self.polygons(item.get("segmentation"), notes)
        box = self.box(item.get("bbox"), record, bool(polygons))
        if box is None and not polygons:
            return None
        if box is None:
            notes.append("box_from_polygon")
        label = names[item["category_id"]]
        number = item["id"] if has_id else position
        return ExportAnnotation(number, item["image_id"], label, box, polygons, tuple(notes))

    def box(self, value: Any, record: str, has_polygons: bool) -> tuple[float, float, float, float] | None:
        if value in (None, []):
            if not has_polygons:
                self.refuse(record, "it has neither a bbox nor a polygon")
            return None
        numbers = [_number(v) for v in value] if isinstance(value, (list, tuple)) else []
        if len(numbers) != 4 or any(number is None for number in numbers):
            self.refuse(record, f"bbox {value!r} is not four finite numbers x, y, width, height")
            return None
        x, y, w, h = (number or 0.0 for number in numbers)
        if w < 0 or h < 0:
            self.refuse(record, f"bbox {value!r} has a negative width or height")
            return None
        return x, y, w, h

    @staticmethod
    def polygons(value: Any, notes: list[str]) -> tuple[tuple[float, ...], ...]:
        if not value:
            return ()
        if not isinstance(value, list):  # run lengths (RLE): the box stays, the mask cannot be a polygon
            notes.append("mask_dropped")
            return ()
        rings = value if isinstance(value[0], (list, tuple)) else [value]
        kept = [ring for ring in map(_ring, rings) if ring]
        if len(kept) < len(rings):
            notes.append("polygon_dropped")
        return tuple(kept)


def _ring(value: Any) -> tuple[float, ...]:
    """A polygon's x, y, x, y …, or () when it is none: odd, not finite, or fewer than three points."""
    if not isinstance(value, (list, tuple)):
        return ()
    numbers = [_number(v) for v in value]
    if len(numbers) < 6 or len(numbers) % 2 or any(number is None for number in numbers):
        return ()
    return tuple(number for number in numbers if number is not None)


def _noted(annotation: ExportAnnotation, note: str) -> ExportAnnotation:
    return replace(annotation, notes=(*annotation.notes, note))
