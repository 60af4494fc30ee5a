"""Reads COCO: Roboflow's `_annotations.coco.json` in each split's folder, or any such file wherever CVAT, Label Studio
or a public set puts it.

A record that cannot be meant is refused with its file, its id and the remedy; one that can be mended without a decision
is mended and noted. Records whose form is sound are read by msgspec, many at once; `json` reads all others one by one,
so that a refusal can name what stands there.
"""

from __future__ import annotations

import json
import math
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from dentsight_pipeline.data.json_blocks import ROWS_AT_ONCE
from dentsight_pipeline.documents.annotations import RawCategory
from dentsight_pipeline.documents.names import SPLITS, with_article
from dentsight_pipeline.errors import AnnotationError, DataError
from dentsight_pipeline.intake.dentex import LICENCE, flattened
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.masks import mask_polygons
from dentsight_pipeline.intake.paths import folded, is_text, refuse_unsafe_path, whole_text
from dentsight_pipeline.intake.places import Places, one_for_each_split, split_in, split_of
from dentsight_pipeline.intake.records import (
    EXPORT_AGAIN,
    AnnotationRows,
    Export,
    ExportImage,
    ExportSplit,
    Refusals,
    is_id,
    is_image,
    stem_of,
)

COCO_FILE = "_annotations.coco.json"
"""Roboflow's name."""
_MOST_FILES = 32
"""JSON files that are looked into; CVAT writes one or two for each split."""
_SHOWN = 60
"""Characters of a wrong value that an error quotes."""
_AGAIN = "Download the export again."
_UNLABELLED = "unlabelled. Nothing can be learnt from or measured on them: label them, or leave the folder out."


class _File(msgspec.Struct):
    """What is read of an annotation file; its long lists as unread records."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[Any]
    info: Any = None
    licenses: Any = None


class _Sound(msgspec.Struct, gc=False):
    """An annotation in whose form there is nothing to mend."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: list[list[float]] = []
    iscrowd: int | None = 0


_sound = msgspec.json.Decoder(list[_Sound])


@dataclass(frozen=True, slots=True)
class _Part:
    """What one annotation file says: its split, its info block, licences, names that may be Roboflow's root."""

    split: ExportSplit
    info: Mapping[str, str]
    licenses: Sequence[str]
    roots: Set[str]
    root_is_used: bool
    hierarchical: bool


def find_coco(files: ExportFiles, places: Callable[[], Places]) -> list[CocoFile]:
    """The annotation files of an export, in the order of their splits; none when it has none."""
    own = [path for path in files.paths() if path.rpartition("/")[2] == COCO_FILE]
    found = own or [path for path in _json_files(files) if _is_coco(files.read(path))]
    by_split = one_for_each_split(files.name, found)
    if own:  # Roboflow writes one beside the images of each split
        _refuse_unlabelled(files, places(), by_split)
    return [CocoFile(split, by_split[split]) for split in SPLITS if split in by_split]


@dataclass(frozen=True, slots=True)
class CocoFile:
    """One annotation file and the split that it annotates."""

    split: str
    path: str


def _json_files(files: ExportFiles) -> list[str]:
    """Those that may be annotation files: a tool that writes a file for each image writes no COCO."""
    found = [path for path in files.paths() if path.lower().endswith(".json")]
    return found if len(found) <= _MOST_FILES else []


def _is_coco(data: bytes) -> bool:
    return all(f'"{key}'.encode() in data for key in ("images", "annotations", "categories"))


def _refuse_unlabelled(files: ExportFiles, places: Places, by_split: Mapping[str, str]) -> None:
    for split, folder in places.folders.items():
        if split not in by_split:
            images = sum(map(is_image, places.paths[split]))
            what = f": its {images} images are {_UNLABELLED}" if images else ". Restore it or export again."
            raise DataError(f"{files.name}: {folder}/{COCO_FILE} is missing although {folder}/ is there{what}")


def read_coco(files: ExportFiles, found: Sequence[CocoFile], refusals: Refusals) -> Export:
    """Reads annotation files; READMEs are left out.

    Raises:
        DataError: One cannot be read at all; other errors go to `refusals`.
    """
    parts = [_read_part(files, file, refusals) for file in found]
    if not any(part.split.images for part in parts):
        refusals.add(DataError(f"{files.name}: no split lists an image. Export the version again with its images."))
    roots = set() if any(part.root_is_used for part in parts) else {name for part in parts for name in part.roots}
    hierarchical = any(part.hierarchical for part in parts)
    named = tuple(dict.fromkeys(name for part in parts for name in part.licenses))
    return Export(
        layout="dentex" if hierarchical else "coco",
        splits=[_with_placeholder(part.split, roots) for part in parts],
        license_names=named or (LICENCE,) * hierarchical,
        info=parts[0].info,
    )


def _with_placeholder(split: ExportSplit, roots: Set[str]) -> ExportSplit:
    """Marks Roboflow's root: id 0, supercategory `none`, and no annotation in any split (it may share a class's name).

    "COCO for MMDetection" starts at 1 and has none.
    """
    marked = (RawCategory(c.id, c.name, c.id == 0 and c.name in roots) for c in split.categories)
    return replace(split, categories=tuple(marked))


def _read_part(files: ExportFiles, found: CocoFile, refusals: Refusals) -> _Part:
    document, hierarchical = _document(files, found.path)
    reader = _Reader(found, refusals, files.paths())
    categories = reader.categories(document.categories)
    images = reader.images(document.images)
    annotations = reader.annotations(document.annotations)
    return _Part(
        ExportSplit(
            found.split, found.path, categories, images, annotations, unlisted_files=reader.places.unlisted(images)
        ),
        {whole_text(k): whole_text(v) for k, v in document.info.items()} if isinstance(document.info, dict) else {},
        [whole_text(item["name"]) for item in _objects(document.licenses) if item.get("name")],
        {item["name"] for item in _objects(document.categories) if _may_be_root(item)},
        reader.root_is_used,
        hierarchical,
    )


def _may_be_root(category: Mapping[str, object]) -> bool:
    is_top = category.get("id") == 0 and category.get("supercategory") in ("none", None)
    return is_top and isinstance(category.get("name"), str)


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """The objects of a list, of whatever else it holds."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _document(files: ExportFiles, file: str) -> tuple[_File, bool]:
    """What a file holds, and whether it was hierarchical."""
    data = files.read(file)
    if b'"categories_1"' in data:
        document = _loads(data, file)
        return _whole(flattened(document) if isinstance(document, dict) else document, file), True
    return _plain(data, file), False


def _plain(data: bytes, file: str) -> _File:
    try:
        if not data.isascii():
            data.decode()  # msgspec passes over bytes that are no text
        return msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _whole(_loads(data, file), file)


def _whole(document: Any, file: str) -> _File:
    """What `json` read of a file that msgspec does not read: it knows `NaN`, and says where a fault is."""
    if not isinstance(document, dict):
        raise DataError(f"{file}: holds a {type(document).__name__} instead of an object. {_AGAIN}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            if key == "annotations" and document.get(key) is None:
                raise DataError(f"{file}: it has no list 'annotations': its images are {_UNLABELLED}")
            found = "is missing" if key not in document else f"is {with_article(type(document[key]).__name__)}"
            raise DataError(f"{file}: the list {key!r} {found}, so this is no COCO file. Export again as COCO.")
    images, annotations = (
        [msgspec.Raw(json.dumps(record).encode()) for record in document[key]] for key in ("images", "annotations")
    )
    return _File(images, annotations, document["categories"], document.get("info"), document.get("licenses"))


def _loads(data: bytes, file: str) -> Any:
    """A JSON value as `json` reads it."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        start = error.start + len(data) - len(error.object)  # a byte order mark is not counted
        raise DataError(f"{file}: not UTF-8 text (byte {start}). {_AGAIN}") from error
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise DataError(f"{file}: not whole JSON ({where}). {_AGAIN}") from error
    except ValueError as error:  # Python reads no integer of more than 4,300 digits
        raise DataError(f"{file}: holds a number with more digits than can be read. {_AGAIN}") from error
    except RecursionError as error:
        raise DataError(f"{file}: JSON nested deeper than any annotation file. {_AGAIN}") from error


def _shown(item: object, *keys: str) -> str:
    """What a record that cannot be used gives instead, in a few words."""
    if not isinstance(item, dict):
        return f"given is {with_article(type(item).__name__)}"
    given = (f"{key} {repr(item[key])[:_SHOWN] if key in item else 'missing'}" for key in keys)
    return f"given is {', '.join(given)}"


class _Reader:
    """Turns the records of one annotation file into images and annotations, refusing what cannot be meant.

    Attributes:
        root_is_used: Some annotation names category 0; known when the annotations are read.
    """

    def __init__(self, found: CocoFile, refusals: Refusals, known: Set[str]) -> None:
        self.file, self.refusals, self.places = found.path, refusals, _ImageFiles(found, known)
        self.names: dict[int, str] = {}
        self.paths_by_id: dict[int, str] = {}
        self.sizes_by_id: dict[int, tuple[int, int]] = {}
        self.root_is_used = False

    def refuse(self, record: str, problem: str, remedy: str = EXPORT_AGAIN) -> None:
        self.refusals.add(AnnotationError(self.file, record, problem, remedy))

    def categories(self, items: Sequence[Any]) -> tuple[RawCategory, ...]:
        for position, item in enumerate(items):
            if not isinstance(item, dict) or not is_id(item.get("id")) or not is_text(item.get("name")):
                self.refuse(f"category {position}", f"it needs an integer id and a name, {_shown(item, 'id', 'name')}")
            elif item["id"] in self.names:
                both = f"{self.names[item['id']]!r} and {item['name']!r}"
                self.refuse(f"category {item['id']}", f"two categories have this id: {both}")
            else:
                self.names[item["id"]] = item["name"]
        return tuple(RawCategory(number, name, False) for number, name in self.names.items())

    def images(self, records: Sequence[msgspec.Raw]) -> list[ExportImage]:
        found: list[ExportImage] = []
        listed: dict[str, int] = {}
        for position, record in enumerate(records):
            image = self.image(position, _loads(bytes(record), self.file))
            if image is None:
                continue
            if image.id in self.paths_by_id:
                self.refuse(f"image {image.id}", "two images have this id, so their annotations cannot be told apart")
            elif image.path in listed:
                self.refuse(f"image {image.id}", f"the same file as image {listed[image.path]}: {image.path}")
            else:
                found.append(image)
                self.paths_by_id[image.id], listed[image.path] = image.path, image.id
                self.sizes_by_id[image.id] = image.width, image.height
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
        path, there, spelling = self.places.find(name)
        return ExportImage(item["id"], path, stem_of(path), size[0] or 0, size[1] or 0, there, spelling)

    def annotations(self, records: Sequence[msgspec.Raw]) -> pa.Table:
        rows = AnnotationRows()
        for start in range(0, len(records), ROWS_AT_ONCE):
            some = records[start : start + ROWS_AT_ONCE]
            for position, (record, row) in enumerate(zip(some, _sound_rows(some), strict=True), start=start):
                if row is not None and self.is_sound(row):
                    self.root_is_used |= row.category_id == 0
                    name = self.names[row.category_id]
                    rows.add(row.id, row.image_id, name, row.bbox, row.segmentation)
                else:
                    self.annotation(position, _loads(bytes(record), self.file), rows)
        return _with_duplicates_noted(rows.table())

    def is_sound(self, row: _Sound) -> bool:
        """Whether the record can be taken as it stands."""
        return (
            abs(row.id) < 2**63
            and row.image_id in self.paths_by_id
            and row.category_id in self.names
            and not row.iscrowd
            and row.bbox[2] >= 0 <= row.bbox[3]
            and all(len(ring) >= 6 and len(ring) % 2 == 0 for ring in row.segmentation)
        )

    def annotation(self, position: int, item: Any, rows: AnnotationRows) -> None:
        """Adds one annotation, mended where it has to be, unless it is refused."""
        if not isinstance(item, dict):
            self.refuse(f"annotation at position {position}", "it is no object")
            return
        self.root_is_used |= item.get("category_id") == 0
        has_id = is_id(item.get("id"))
        record = f"annotation {item['id']}" if has_id else f"annotation at position {position}"
        if not is_id(item.get("image_id")) or item["image_id"] not in self.paths_by_id:
            self.refuse(record, f"its image_id {item.get('image_id')!r} is not an image of this file")
            return
        record += f" of image {item['image_id']}"
        if not is_id(item.get("category_id")) or item["category_id"] not in self.names:
            self.refuse(record, f"its category_id {item.get('category_id')!r} is not a category of this file")
            return
        if item.get("iscrowd") not in (0, None, False):
            self.refuse(record, "it is a crowd region, which has no single box", "Annotate single findings.")
            return
        polygons, notes = _polygons(item.get("segmentation"), self.sizes_by_id[item["image_id"]])
        box = self.box(item.get("bbox"), record, bool(polygons))
        if box is None and not polygons:
            return
        notes = [*["missing_annotation_id"] * (not has_id), *notes, *["box_from_polygon"] * (box is None)]
        number = item["id"] if has_id else position
        rows.add(number, item["image_id"], self.names[item["category_id"]], box, polygons, notes)

    def box(self, value: object, record: str, has_polygons: bool) -> Sequence[float] | None:
        if value in (None, []):
            if not has_polygons:
                self.refuse(record, "it has neither a bbox nor a polygon")
            return None
        numbers = _numbers(value)
        if numbers is None or len(numbers) != 4:
            self.refuse(record, f"bbox {value!r} is not four finite numbers x, y, width, height")
            return None
        if min(numbers[2:]) < 0:
            self.refuse(record, f"bbox {value!r} has a negative width or height")
            return None
        return numbers


class _ImageFiles:
    """Where the images lie that an annotation file names: beside it, or wherever one file's path ends so."""

    def __init__(self, found: CocoFile, known: Set[str]) -> None:
        self._folder, self._split, self._known = found.path.rpartition("/")[0], found.split, known

    def find(self, name: str) -> tuple[str, bool, str]:
        """The path, whether it is there, and in what its spelling differs from the listed one."""
        listed = posixpath.join(self._folder, PurePosixPath(name).as_posix())
        path = listed if listed in self._known else self._folded.get(folded(listed), listed)
        if path in self._known:
            by_case = path.casefold() == listed.casefold()
            return path, True, "" if path == listed else "capital letters" if by_case else "accents"
        elsewhere = [path for path in self._by_name.get(posixpath.basename(name), ()) if self._fits(path, name)]
        own = [path for path in elsewhere if split_in(posixpath.dirname(path)) == self._split] or elsewhere
        return (own[0], True, "") if len(own) == 1 else (listed, False, "")

    def _fits(self, path: str, name: str) -> bool:
        """Whether a file can be meant: it ends like the name, and lies in no other split's folder."""
        folder = {split_of(part) for part in posixpath.dirname(path).split("/")} - {None}
        return f"/{path}".endswith(f"/{PurePosixPath(name).as_posix()}") and folder <= {self._split}

    @cached_property
    def _folded(self) -> Mapping[str, str]:
        """Each path as Windows and macOS see it, where only one is that to them."""
        counts = Counter(map(folded, self._known))
        return {folded(path): path for path in self._known if counts[folded(path)] == 1}

    @cached_property
    def _by_name(self) -> Mapping[str, list[str]]:
        found = defaultdict[str, list[str]](list)
        for path in filter(is_image, self._known):
            found[posixpath.basename(path)].append(path)
        return found

    def unlisted(self, images: Sequence[ExportImage]) -> int:
        """Images that lie where the listed ones do, or beside the file, and are not listed."""
        listed = {image.path for image in images if image.exists}
        folders = {self._folder, *map(posixpath.dirname, listed)}
        starts = tuple(f"{folder}/" if folder else "" for folder in folders)
        return sum(is_image(path) and path.startswith(starts) for path in self._known) - sum(map(is_image, listed))


def _sound_rows(records: Sequence[msgspec.Raw]) -> Sequence[_Sound | None]:
    """The records, or None for each when one of them has another form."""
    try:
        return _sound.decode(b"[" + b",".join(records) + b"]")
    except (msgspec.DecodeError, RecursionError):
        return [None] * len(records)


def _polygons(value: object, size: tuple[int, int]) -> tuple[list[list[float]], list[str]]:
    """The polygons that are some, and what is noted about the others."""
    if not value:
        return [], []
    if not isinstance(value, list):  # run lengths (RLE)
        outlines = mask_polygons(value, size)
        return outlines, ["mask_to_polygon" if outlines else "mask_dropped"]
    rings = [_numbers(ring) for ring in (value if isinstance(value[0], list) else [value])]
    kept = [ring for ring in rings if ring is not None and len(ring) >= 6 and len(ring) % 2 == 0]
    return kept, ["polygon_dropped"] * (len(kept) < len(rings))


def _numbers(value: object) -> list[float] | None:
    """A list's finite numbers, or None when it is no list of such."""
    if not isinstance(value, list) or any(not isinstance(v, int | float) or isinstance(v, bool) for v in value):
        return None
    try:
        numbers = [float(v) for v in value]
    except OverflowError:  # JSON integers have no largest one
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _with_duplicates_noted(table: pa.Table) -> pa.Table:
    """Notes each annotation whose id an earlier one has."""
    ids = table["id"].to_numpy()
    again = np.ones(len(ids), bool)
    again[np.unique(ids, return_index=True)[1]] = False
    if not again.any():
        return table
    noted = zip(table["notes"].to_pylist(), again.tolist(), strict=True)
    notes = [[*notes, "duplicate_annotation_id"] if is_again else notes for notes, is_again in noted]
    place = table.schema.get_field_index("notes")
    return table.set_column(place, table.schema.field(place), pa.array(notes, pa.list_(pa.string())))
