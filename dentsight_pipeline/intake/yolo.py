"""Reads Roboflow's YOLO layout: `data.yaml`, and in each split's folder `images/` and `labels/`.

Boxes and polygons may stand in one file. A line that cannot be meant is refused with its file, its number and the
remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dentsight_pipeline.documents.annotations import RawCategory
from dentsight_pipeline.errors import AnnotationError, DataError
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.paths import is_text, refuse_unsafe_path, whole_text
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
    text_of,
)

YOLO_FILE = "data.yaml"


def read_yolo(files: ExportFiles, folders: Mapping[str, str], refusals: Refusals) -> Export:
    """Reads `data.yaml` and the label files of the splits, which lie in `folders` (split → folder); no README.

    Raises:
        DataError: `data.yaml` cannot be read; other errors go to `refusals`.
    """
    settings = _yolo_settings(files)
    if settings.get("kpt_shape") is not None:
        problem = "kpt_shape says that its labels are keypoints (YOLO pose), which are no boxes of findings"
        raise DataError(f"{YOLO_FILE}: {problem}. Export again as YOLO detection or segmentation.")
    names = _yolo_names(settings)
    categories = tuple(RawCategory(number, name, False) for number, name in names.items())
    splits = [_yolo_split(files, split, folder, categories, refusals) for split, folder in folders.items()]
    roboflow = settings.get("roboflow")
    info = (
        {whole_text(k): whole_text(v) for k, v in roboflow.items() if _is_scalar(v)}
        if isinstance(roboflow, dict)
        else {}
    )
    license_names = (info["license"],) if info.get("license") else ()
    return Export("yolo", splits, license_names=license_names, info=info)


def _yolo_settings(files: ExportFiles) -> Mapping[object, object]:
    import yaml

    try:
        settings = yaml.safe_load(text_of(files, YOLO_FILE))
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{YOLO_FILE}: not whole YAML ({problem}). Download the export again.") from error
    if not isinstance(settings, dict):
        raise DataError(f"{YOLO_FILE}: holds no settings. Download the export again.")
    return settings


def _yolo_names(settings: Mapping[object, object]) -> dict[int, str]:
    names = settings.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, dict):
        names = {_number(key): name for key, name in names.items()}
    if (
        not isinstance(names, dict)
        or not names
        or not all(map(is_id, names))
        or not all(_is_scalar(name) and is_text(str(name)) for name in names.values())
    ):
        given = f" ({names!r})" if _is_scalar(names) else ""
        raise DataError(f"{YOLO_FILE}: 'names'{given} is no list of class names. Export again as YOLO.")
    nc = _number(settings.get("nc"))
    if not _is_scalar(nc) or nc not in (None, len(names)):
        given = repr(nc) if _is_scalar(nc) else f"a {type(nc).__name__}"
        raise DataError(f"{YOLO_FILE}: nc is {given} but 'names' has {len(names)} names. Export again.")
    return {number: str(name) for number, name in names.items()}


def _number(value: Any) -> Any:
    """The number that a text of digits is: some tools quote all that they write."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value


def _is_scalar(value: object) -> bool:
    """No list and no mapping: YAML's aliases can nest those so that printing them takes for ever."""
    return isinstance(value, str | int | float | None)


def _yolo_split(
    files: ExportFiles, split: str, folder: str, categories: tuple[RawCategory, ...], refusals: Refusals
) -> ExportSplit:
    names = {category.id: category.name for category in categories}
    images: list[ExportImage] = []
    rows = AnnotationRows()
    for path, label_file in _images_and_labels(files, folder, refusals):
        if label_file in files.paths():
            for box, polygons, label in _yolo_annotations(label_file, text_of(files, label_file), names, refusals):
                rows.add(len(rows), len(images), label, box, polygons)
        images.append(ExportImage(len(images), path, stem_of(path), 0, 0, exists=path != label_file))
    return ExportSplit(split, f"{folder}/labels", categories, images, rows.table(), relative=True)


def _images_and_labels(files: ExportFiles, folder: str, refusals: Refusals) -> Iterator[tuple[str, str]]:
    """Each image's path and that of its label file, which may not be there; of a label file without an image twice."""
    images_folder, labels_folder = f"{folder}/images/", f"{folder}/labels/"
    labelled: set[str] = set()
    for path in filter(is_image, _plain(files, images_folder, refusals)):
        label_file = f"{labels_folder}{_without_suffix(path).removeprefix(images_folder)}.txt"
        if label_file in labelled:
            problem = "two images share one label file. Rename one of them."
            refusals.add(DataError(f"{_without_suffix(path)}.*: {problem}"))
            continue
        yield path, label_file
        labelled.add(label_file)
    plain = _plain(files, labels_folder, refusals)
    for path in sorted((p for p in plain if p.endswith(".txt") and p not in labelled), key=_without_suffix):
        yield path, path


def _plain(files: ExportFiles, start: str, refusals: Refusals) -> Iterator[str]:
    """The files below a folder whose names are plain paths."""
    for path in files.paths():
        if path.startswith(start):
            try:
                refuse_unsafe_path(path, files.name)
            except DataError as error:
                refusals.add(error)
            else:
                yield path


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
            refusals.add(AnnotationError(file, f"line {position}", str(error), EXPORT_AGAIN))


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
    if _are_keypoints(numbers):
        raise ValueError("it holds keypoints with visibility (YOLO pose), which are neither a box nor a polygon")
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"its {len(numbers)} coordinates are neither a box (4) nor a polygon (6 or more, even)")
    return None, (tuple(numbers),), label


def _are_keypoints(numbers: Sequence[float]) -> bool:
    """Whether a box and triples of x, y and visibility (0, 1 or 2, one of them 2) are meant: no polygon has a 2."""
    visibility = numbers[6::3]
    return len(numbers) % 3 == 1 and 2.0 in visibility and all(value in (0.0, 1.0, 2.0) for value in visibility)
