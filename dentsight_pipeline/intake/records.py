"""What the readers of all layouts share: the records of an export, read but not judged, and how one is refused.

Boxes are `[x, y, width, height]`, x to the right and y down from the image's top left corner. What a layout looks like
belongs in its own reader (`coco.py`, `yolo.py`, `voc.py`, `csv_table.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from dentsight_pipeline.data.json_blocks import ROWS_AT_ONCE
from dentsight_pipeline.documents.annotations import RawCategory
from dentsight_pipeline.documents.names import SPLITS
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.files import ExportFiles

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".dcm", ".jp2", ".j2k", ".jpx", ".jls",
)  # fmt: skip
EXPORT_AGAIN = "Correct it in the annotation tool and export again."

EXPORT_ANNOTATIONS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),  # as listed, or counted where none is listed
        pa.field("image_id", pa.int64(), nullable=False),  # an `ExportImage.id` of the same split
        pa.field("label", pa.dictionary(pa.int32(), pa.string()), nullable=False),  # the raw name
        pa.field("bbox", pa.list_(pa.float64(), 4)),  # null when only polygons were given
        pa.field("polygons", pa.list_(pa.list_(pa.float64())), nullable=False),  # flat x, y, …; none for a plain box
        pa.field("notes", pa.list_(pa.string()), nullable=False),  # what was mended while reading
    ]
)
"""One row for each annotation, in the order of the export."""


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


@dataclass(frozen=True, slots=True)
class ExportImage:
    """An image as its export lists it. Holds the original name: never to be stored.

    Attributes:
        id: The id in its split's file.
        path: Path inside the export, `/`-separated.
        stem: The part of the file name before `.rf.`.
        width: Listed width in pixels, 0 when not listed.
        height: Listed height in pixels, 0 when not listed.
        exists: The file is there.
        spelling: In what its name differs from the listed one: `capital letters`, or `accents` written otherwise; empty
            when in nothing.
    """

    id: int
    path: str
    stem: str
    width: int
    height: int
    exists: bool = True
    spelling: str = ""


@dataclass(frozen=True, slots=True)
class ExportSplit:
    """One split of an export.

    Attributes:
        name: `train`, `valid` or `test`.
        file: The annotation file, or the folder of label files, relative to the export, for messages.
        images: In the order of the export.
        annotations: A table of schema `EXPORT_ANNOTATIONS`.
        relative: Coordinates are fractions of the image's width and height (YOLO) instead of pixels.
        unlisted_files: Images that lie there but are not listed.
        unlabelled: Images without a label file of their own: nobody may have looked at them.
    """

    name: str
    file: str
    categories: tuple[RawCategory, ...]
    images: Sequence[ExportImage]
    annotations: pa.Table
    relative: bool = False
    unlisted_files: int = 0
    unlabelled: Sequence[ExportImage] = ()

    def with_negatives(self) -> ExportSplit:
        """The same with the unlabelled among the images, for whoever knows that they were looked at."""
        return replace(self, images=[*self.images, *self.unlabelled])

    @property
    def label_counts(self) -> Counter[str]:
        """Annotations of each raw label name that has any."""
        return Counter({row["values"]: row["counts"] for row in self.annotations["label"].value_counts().to_pylist()})


@dataclass(frozen=True, slots=True)
class Export:
    """Everything that an export says, read but not judged.

    Attributes:
        layout: `coco`, `dentex`, `yolo`, `voc` or `csv`.
        splits: Those that exist, in published order.
        readmes: File name → text.
        license_names: Licences as the annotation files name them.
        info: The first annotation file's `info` block.
    """

    layout: str
    splits: Sequence[ExportSplit]
    readmes: Mapping[str, str] = field(default_factory=dict)
    license_names: tuple[str, ...] = ()
    info: Mapping[str, str] = field(default_factory=dict)

    def category_names(self) -> list[str]:
        """All category names, in the order of first appearance."""
        return list(dict.fromkeys(category.name for split in self.splits for category in split.categories))


class AnnotationRows:
    """Annotations on their way into a table, so that few of them are Python objects at a time."""

    def __init__(self) -> None:
        self._tables = [EXPORT_ANNOTATIONS.empty_table()]
        self._rows: list[tuple[Any, ...]] = []
        self._before = 0

    def __len__(self) -> int:
        return self._before + len(self._rows)

    def add(
        self,
        number: int,
        image: int,
        label: str,
        box: Sequence[float] | None,
        polygons: Sequence[Sequence[float]] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """Adds one annotation, its values in the order of the schema."""
        self._rows.append((number, image, label, box, polygons, notes))
        if len(self._rows) == ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        columns = dict(zip(EXPORT_ANNOTATIONS.names, zip(*self._rows, strict=True), strict=True))
        self._tables.append(pa.Table.from_pydict(columns, EXPORT_ANNOTATIONS))
        self._before += len(self._rows)
        self._rows.clear()

    def table(self) -> pa.Table:
        """All of them, of schema `EXPORT_ANNOTATIONS`."""
        if self._rows:
            self._flush()
        return pa.concat_tables(self._tables).unify_dictionaries().combine_chunks()


def in_order(splits: Iterable[ExportSplit]) -> list[ExportSplit]:
    """The splits in published order."""
    return sorted(splits, key=lambda split: SPLITS.index(split.name))


def with_names_in_use(splits: Iterable[ExportSplit]) -> list[ExportSplit]:
    """The splits in published order, with the class names that occur in any, in alphabetical order: none are listed."""
    found = in_order(splits)
    names = sorted({name for split in found for name in split.label_counts})
    categories = tuple(RawCategory(number, name, False) for number, name in enumerate(names))
    return [replace(split, categories=categories) for split in found]


def is_id(value: object) -> bool:
    """An integer that an id can be: JSON's have no largest one, but records do."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def corners_box(corners: Sequence[str | None]) -> list[float]:
    """The box `[x, y, width, height]` of xmin, ymin, xmax, ymax as texts.

    Raises:
        ValueError: They are not four finite numbers in that order; the message says what was given.
    """
    given = ", ".join(str(corner)[:20] for corner in corners)
    try:
        x, y, right, bottom = (float(corner or "") for corner in corners)
    except ValueError:
        raise ValueError(f"its corners ({given}) are not four numbers xmin, ymin, xmax, ymax") from None
    if not all(map(math.isfinite, (x, y, right, bottom))):
        raise ValueError(f"its corners ({given}) are not four finite numbers")
    if right < x or bottom < y:
        raise ValueError(f"its corners ({given}) are not in the order xmin, ymin, xmax, ymax")
    return [x, y, right - x, bottom - y]


def whole_size(width: str | None, height: str | None) -> tuple[int, int]:
    """Width and height from texts; 0 and 0 when either says nothing that a size can be."""
    sizes = [
        int(text) if text.strip().isascii() and text.strip().isdecimal() else 0 for text in (width or "", height or "")
    ]
    return (sizes[0], sizes[1]) if min(sizes) > 0 and max(sizes) < 2**31 else (0, 0)


def is_image(path: str) -> bool:
    """Whether a file's name says that it is an image."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def stem_of(path: str) -> str:
    """The part of an image's file name that stands for its source: before `.rf.`, or without the suffix."""
    name = path.rpartition("/")[2]
    stem, mark, _ = name.rpartition(".rf.")
    return stem if mark else PurePosixPath(name).stem


def text_of(files: ExportFiles, path: str) -> str:
    """A file's text; bytes that are no UTF-8 become replacement characters."""
    return files.read(path).decode("utf-8-sig", errors="replace")
