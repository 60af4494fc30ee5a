"""Reads what an export says into records: Roboflow's COCO and COCO-segmentation layouts, and its YOLO layout.

Add a layout here. A record that cannot be meant is refused with its file, its id and the remedy; one that can be mended
without a decision is mended and noted. What labels mean (`ontology.py`), which boxes are repaired (`normalise.py`) and
what images hold (`image_bytes.py`) is decided elsewhere.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from dentsight_pipeline.data.coco import (
    SPLITS,
    Export,
    ExportAnnotation,
    ExportCategory,
    ExportImage,
    ExportSplit,
)
from dentsight_pipeline.data.export_files import ExportFiles, is_text, refuse_unsafe_path, without_top_folder
from dentsight_pipeline.data.json_stream import JsonStream
from dentsight_pipeline.data.records import IdSet, RecordMap, Records, from_text, to_text
from dentsight_pipeline.errors import AnnotationError, DataError

COCO_FILE = "_annotations.coco.json"
YOLO_FILE = "data.yaml"
README_FILES = ("README.roboflow.txt", "README.dataset.txt")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".dcm")
SPLIT_FOLDERS: Mapping[str, str] = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
"""Folder name → split."""

_EXPORT_AGAIN = "Correct it in the annotation tool and export again."
_SHOWN = 60
"""Characters of a wrong value that an error quotes."""


class Refusals:
    """What makes an export unusable: raised at once, or collected so that `inspect` can show all of it.

    Args:
        collect: Keep the errors instead of raising the first.
    """

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.errors: list[DataError] = []

    def add(self, error: DataError) -> None:
        """Raises the error, or keeps it."""
        if not self.collect:
            raise error
        self.errors.append(error)


def read_export(files: ExportFiles, refusals: Refusals | None = None) -> tuple[Export, ExportFiles]:
    """Reads an export's annotations, READMEs and file list; no image is opened.

    Args:
        files: The export, with or without one top folder.
        refusals: Where records that cannot be used go; by default the first is raised.

    Returns:
        The export, and its files relative to the folder that holds the splits.

    Raises:
        DataError: It is no export, or an annotation file cannot be read at all.
    """
    refusals = refusals or Refusals()
    files = without_top_folder(files, (*SPLIT_FOLDERS, YOLO_FILE, *README_FILES))
    paths = files.paths()
    readmes = {name: _text(files, name) for name in README_FILES if name in paths}
    folders = _split_folders(files.name, paths)
    if any(f"{folder}/{COCO_FILE}" in paths for folder in folders.values()):
        return _read_coco(files, paths, folders, readmes, refusals), files
    if YOLO_FILE in paths and any(path.startswith(f"{f}/images/") for f in folders.values() for path in paths):
        return _read_yolo(files, paths, folders, readmes, refusals), files
    if folders:
        split, folder = next(iter(folders.items()))
        raise DataError(
            f"{files.name}: {folder}/{COCO_FILE} is missing, so the {split} images have no annotations. "
            "Export again from Roboflow as COCO, COCO segmentation or YOLO."
        )
    some = sorted({path.split("/", 1)[0] for path in paths})
    raise DataError(
        f"{files.name}: no Roboflow export. Looked for train, valid or test with {COCO_FILE}, or for {YOLO_FILE}; "
        f"found {', '.join(some[:6])}{', …' if len(some) > 6 else ''}. Give the folder that holds the splits."
    )


def missing_split(name: str, split: str, present: Sequence[str]) -> DataError:
    """The refusal of an export that lacks a split which is needed."""
    return DataError(
        f"{name}: the split {split!r} is missing; found {', '.join(present)}. "
        "Export the version again with train, valid and test images."
    )


def _split_folders(name: str, paths: Iterable[str]) -> dict[str, str]:
    """Split → its folder, in published order."""
    tops = {path.split("/", 1)[0] for path in paths if "/" in path}
    if {"val", "valid"} <= tops:
        raise DataError(f"{name}: has both 'val' and 'valid'. Keep one of the two folders.")
    found = {SPLIT_FOLDERS[top]: top for top in tops & set(SPLIT_FOLDERS)}
    return {split: found[split] for split in SPLITS if split in found}


def _text(files: ExportFiles, path: str) -> str:
    return files.read(path).decode("utf-8-sig", errors="replace")


# COCO ----------------------------------------------------------------------------------------------------------------


def _read_coco(
    files: ExportFiles,
    paths: Collection[str],
    folders: Mapping[str, str],
    readmes: Mapping[str, str],
    refusals: Refusals,
) -> Export:
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
        readmes=readmes,
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


def _image_records() -> Records[ExportImage]:
    """No images yet."""

    def encode(image: ExportImage) -> str:
        return to_text([image.id, image.path, image.stem, image.width, image.height, image.exists])

    return Records(key=lambda image: image.id, encode=encode, decode=lambda text: ExportImage(*from_text(text)))


def _annotation_records() -> Records[ExportAnnotation]:
    """No annotations yet."""

    def encode(a: ExportAnnotation) -> str:
        return to_text([a.id, a.image_id, a.label, a.bbox, a.polygons, a.notes, a.relative])

    def decode(text: str) -> ExportAnnotation:
        number, image, label, box, polygons, notes, relative = from_text(text)
        rings = tuple(map(tuple, polygons))
        return ExportAnnotation(number, image, label, box and tuple(box), rings, tuple(notes), relative)

    return Records(key=lambda annotation: annotation.image_id, encode=encode, decode=decode)


def _is_id(value: Any) -> bool:
    """An integer that an id can be: JSON's have no largest one, but records do."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


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

    def refuse(self, record: str, problem: str, remedy: str = _EXPORT_AGAIN) -> None:
        self.refusals.add(AnnotationError(self.file, record, problem, remedy))

    def read(self) -> ExportSplit:
        categories = self.categories()
        images = self.images()
        names = {category.id: category.name for category in categories}
        annotations, counts = self.annotations(names)
        there = sum(
            path.startswith(f"{self.folder}/") and PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES
            for path in self.known
        )
        unlisted = there - sum(path in self.known for path in self.listed)
        return ExportSplit(self.split, self.file, categories, images, annotations, counts, unlisted)

    def categories(self) -> list[ExportCategory]:
        found: dict[int, ExportCategory] = {}
        for position, item in enumerate(self.document["categories"]):
            record = f"category {position}"
            if not isinstance(item, dict) or not _is_id(item.get("id")) or not is_text(item.get("name")):
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
        found = _image_records()
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
        if not isinstance(item, dict) or not _is_id(item.get("id")):
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
        if any(value is not None and (not _is_id(value) or value < 0) for value in size):
            self.refuse(record, f"width {size[0]!r} and height {size[1]!r} are no sizes in pixels")
            return None
        path = f"{self.folder}/{PurePosixPath(name).as_posix()}"
        return ExportImage(item["id"], path, stem_of(path), size[0] or 0, size[1] or 0, exists=path in self.known)

    def annotations(self, names: Mapping[int, str]) -> tuple[Records[ExportAnnotation], Counter[str]]:
        found, counts, ids = _annotation_records(), Counter[str](), IdSet()
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
        has_id = _is_id(item.get("id"))
        record = f"annotation {item['id']}" if has_id else f"annotation at position {position}"
        if not _is_id(item.get("image_id")) or item["image_id"] not in self.image_ids:
            self.refuse(record, f"its image_id {item.get('image_id')!r} is not an image of this file")
            return None
        record += f" of image {item['image_id']}"
        if not _is_id(item.get("category_id")) or item["category_id"] not in names:
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


def stem_of(path: str) -> str:
    """The part of an image's file name that stands for its source: before `.rf.`, or without the suffix."""
    name = PurePosixPath(path).name
    stem, mark, _ = name.rpartition(".rf.")
    return stem if mark else PurePosixPath(name).stem


# YOLO ----------------------------------------------------------------------------------------------------------------


def _read_yolo(
    files: ExportFiles,
    paths: Collection[str],
    folders: Mapping[str, str],
    readmes: Mapping[str, str],
    refusals: Refusals,
) -> Export:
    settings = _yolo_settings(files)
    names = _yolo_names(settings)
    categories = [ExportCategory(number, name) for number, name in names.items()]
    splits = [_yolo_split(files, paths, split, folder, categories, refusals) for split, folder in folders.items()]
    roboflow = settings.get("roboflow")
    info = {str(k): str(v) for k, v in roboflow.items() if _is_scalar(v)} if isinstance(roboflow, dict) else {}
    license_names = (info["license"],) if info.get("license") else ()
    return Export("yolo", splits, readmes, license_names, info)


def _yolo_settings(files: ExportFiles) -> Mapping[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(_text(files, YOLO_FILE))
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{YOLO_FILE}: not whole YAML ({problem}). Download the export again.") from error
    if not isinstance(settings, dict):
        raise DataError(f"{YOLO_FILE}: holds no settings. Download the export again.")
    return settings


def _yolo_names(settings: Mapping[str, Any]) -> dict[int, str]:
    names = settings.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if (
        not isinstance(names, dict)
        or not names
        or not all(map(_is_id, names))
        or not all(_is_scalar(name) and is_text(str(name)) for name in names.values())
    ):
        given = f" ({names!r})" if _is_scalar(names) else ""
        raise DataError(f"{YOLO_FILE}: 'names'{given} is no list of class names. Export again as YOLO.")
    nc = settings.get("nc")
    if not _is_scalar(nc) or nc not in (None, len(names)):
        given = repr(nc) if _is_scalar(nc) else f"a {type(nc).__name__}"
        raise DataError(f"{YOLO_FILE}: nc is {given} but 'names' has {len(names)} names. Export again.")
    return {number: str(name) for number, name in names.items()}


def _is_scalar(value: Any) -> bool:
    """No list and no mapping: YAML's aliases can nest those so that printing them takes for ever."""
    return isinstance(value, str | int | float | None)


def _yolo_split(
    files: ExportFiles,
    paths: Collection[str],
    split: str,
    folder: str,
    categories: list[ExportCategory],
    refusals: Refusals,
) -> ExportSplit:
    images_folder, labels_folder = f"{folder}/images/", f"{folder}/labels/"
    names = {category.id: category.name for category in categories}
    images, annotations = _image_records(), _annotation_records()

    def add_annotations(label_file: str, image: int) -> None:
        for box, polygons, label in _yolo_annotations(label_file, _text(files, label_file), names, refusals):
            annotations.append(ExportAnnotation(len(annotations), image, label, box, polygons, relative=True))
            counts[label] += 1

    def add_image(path: str, label_file: str, *, exists: bool) -> None:
        refuse_unsafe_path(path, files.name)
        images.append(ExportImage(len(images), path, stem_of(path), 0, 0, exists))
        if label_file in paths:
            add_annotations(label_file, len(images) - 1)

    counts: Counter[str] = Counter()
    labelled: RecordMap[bool] = RecordMap()  # label files that belong to an image
    for path in paths:
        if path.startswith(images_folder) and PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
            label_file = f"{labels_folder}{_without_suffix(path).removeprefix(images_folder)}.txt"
            if label_file in labelled:
                problem = "two images share one label file. Rename one of them."
                refusals.add(DataError(f"{_without_suffix(path)}.*: {problem}"))
            add_image(path, label_file, exists=True)
            labelled[label_file] = True
    alone = (path for path in paths if path.startswith(labels_folder) and path.endswith(".txt"))
    for path in sorted((path for path in alone if path not in labelled), key=_without_suffix):
        add_image(path, path, exists=False)
    return ExportSplit(split, f"{folder}/labels", categories, images, annotations, counts)


def _without_suffix(path: str) -> str:
    return path.rpartition(".")[0]


_YoloLine = tuple[tuple[float, float, float, float] | None, tuple[tuple[float, ...], ...], str]
"""Box, polygons and label."""


def _yolo_annotations(file: str, text: str, names: Mapping[int, str], refusals: Refusals) -> Iterator[_YoloLine]:
    """The boxes (class, centre x, centre y, width, height) and polygons (class, x, y, x, y …) of one label file.

    All coordinates are fractions of the image's width and height.
    """
    for position, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _yolo_line(line, names)
        except ValueError as error:
            refusals.add(AnnotationError(file, f"line {position}", str(error), _EXPORT_AGAIN))


def _yolo_line(line: str, names: Mapping[int, str]) -> _YoloLine:
    words = line.split()
    if not re.fullmatch(r"\d+", words[0]) or int(words[0]) not in names:
        raise ValueError(f"its class {words[0]!r} is not one of the {len(names)} in {YOLO_FILE}")
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        raise ValueError("it holds something that is no number") from None
    if not all(math.isfinite(number) and -1 <= number <= 2 for number in numbers):
        raise ValueError("its coordinates are not fractions of the image")
    label = names[int(words[0])]
    if len(numbers) == 4:
        cx, cy, w, h = numbers
        if w < 0 or h < 0:
            raise ValueError("its width or height is negative")
        return (cx - w / 2, cy - h / 2, w, h), (), label
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"its {len(numbers)} coordinates are neither a box (4) nor a polygon (6 or more, even)")
    return None, (tuple(numbers),), label
