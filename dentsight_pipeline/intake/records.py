"""What the readers of all layouts share: how an unusable record is refused, and where usable ones wait.

What a layout looks like belongs in its own reader (`coco_reader.py`, `yolo_reader.py`).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from dentsight_pipeline.data.coco import ExportAnnotation, ExportImage
from dentsight_pipeline.data.records import Records, from_text, to_text
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.files import ExportFiles

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".dcm")
EXPORT_AGAIN = "Correct it in the annotation tool and export again."


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


def image_records() -> Records[ExportImage]:
    """No images yet, to be found by their id."""

    def encode(image: ExportImage) -> str:
        return to_text([image.id, image.path, image.stem, image.width, image.height, image.exists])

    return Records(key=lambda image: image.id, encode=encode, decode=lambda text: ExportImage(*from_text(text)))


def annotation_records() -> Records[ExportAnnotation]:
    """No annotations yet, to be found by the id of their image."""

    def encode(a: ExportAnnotation) -> str:
        return to_text([a.id, a.image_id, a.label, a.bbox, a.polygons, a.notes, a.relative])

    def decode(text: str) -> ExportAnnotation:
        number, image, label, box, polygons, notes, relative = from_text(text)
        rings = tuple(map(tuple, polygons))
        return ExportAnnotation(number, image, label, box and tuple(box), rings, tuple(notes), relative)

    return Records(key=lambda annotation: annotation.image_id, encode=encode, decode=decode)


def is_id(value: Any) -> bool:
    """An integer that an id can be: JSON's have no largest one, but records do."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_image(path: str) -> bool:
    """Whether a file's name says that it is an image."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def stem_of(path: str) -> str:
    """The part of an image's file name that stands for its source: before `.rf.`, or without the suffix."""
    name = PurePosixPath(path).name
    stem, mark, _ = name.rpartition(".rf.")
    return stem if mark else PurePosixPath(name).stem


def text_of(files: ExportFiles, path: str) -> str:
    """A file's text; bytes that are no UTF-8 become replacement characters."""
    return files.read(path).decode("utf-8-sig", errors="replace")
