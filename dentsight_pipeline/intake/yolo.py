"""Reads YOLO: a YAML with the class names, usually `data.yaml`, `images/` and `labels/` in each split or around all.

Boxes and polygons may stand in one file. A line that cannot be meant is refused with its file, its number and the
remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dentsight_pipeline.documents.annotations import RawCategory
from dentsight_pipeline.errors import AnnotationError, DataError
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.paths import is_text, whole_text
from dentsight_pipeline.intake.places import Places, with_label_files
from dentsight_pipeline.intake.records import (
    EXPORT_AGAIN,
    AnnotationRows,
    Export,
    ExportImage,
    ExportSplit,
    Refusals,
    in_order,
    is_id,
    is_image,
    text_of,
)

YOLO_FILE = "data.yaml"
_YAML = (".yaml", ".yml")
_SPLIT_KEYS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}


@dataclass(frozen=True)
class YoloSettings:
    """The YAML that names the classes.

    Attributes:
        file: Its path.
        values: What stands in it.
    """

    file: str
    values: Mapping[object, object]

    def folders(self, paths: Iterable[str]) -> dict[str, str]:
        """Folder of images → the split that the settings say it is: its name need not tell."""
        holding = sorted({path.rpartition("/")[0] for path in paths if is_image(path)})
        found: dict[str, str] = {}
        for key, split in _SPLIT_KEYS.items():
            wanted = [part for part in str(self.values.get(key) or "").split("/") if part not in ("", ".", "..")]
            for folder in holding:
                if wanted and folder.split("/")[-len(wanted) :] == wanted:
                    found.setdefault(folder, split)
        return found


def find_settings(files: ExportFiles) -> YoloSettings | None:
    """The YAML with the class names, `data.yaml` or another, at whatever depth; None when there is none.

    Raises:
        DataError: `data.yaml` cannot be read, or several others name classes.
    """
    paths = [path for path in files.paths() if path.lower().endswith(_YAML)]
    own = sorted((path for path in paths if path.rpartition("/")[2].lower() == YOLO_FILE), key=lambda p: p.count("/"))
    if own:
        return YoloSettings(own[0], _yolo_settings(files, own[0]))
    found = [(path, settings) for path in paths[:_MOST_YAML] if "names" in (settings := _some_settings(files, path))]
    if len(found) > 1:
        several = ", ".join(path for path, _ in found)
        raise DataError(f"{files.name}: several files name classes: {several}. Keep the one that is meant.")
    return YoloSettings(*found[0]) if found else None


def _some_settings(files: ExportFiles, path: str) -> Mapping[object, object]:
    try:
        return _yolo_settings(files, path)
    except DataError:  # it is somebody's other file
        return {}


_MOST_YAML = 20
"""Files that are looked into; an export has one."""


def read_yolo(files: ExportFiles, settings: YoloSettings, places: Places, refusals: Refusals) -> Export:
    """Reads the label files of the splits; no README.

    Raises:
        DataError: The settings name no classes; other errors go to `refusals`.
    """
    if settings.values.get("kpt_shape") is not None:
        problem = "kpt_shape says that its labels are keypoints (YOLO pose), which are no boxes of findings"
        raise DataError(f"{settings.file}: {problem}. Export again as YOLO detection or segmentation.")
    names = _yolo_names(settings)
    categories = tuple(RawCategory(number, name, False) for number, name in names.items())
    splits = [_yolo_split(files, places, split, categories, refusals) for split in places.paths]
    roboflow = settings.values.get("roboflow")
    info = (
        {whole_text(k): whole_text(v) for k, v in roboflow.items() if _is_scalar(v)}
        if isinstance(roboflow, dict)
        else {}
    )
    license_names = (info["license"],) if info.get("license") else ()
    return Export("yolo", in_order(splits), license_names=license_names, info=info)


def _yolo_settings(files: ExportFiles, file: str) -> Mapping[object, object]:
    import yaml

    try:
        settings = yaml.safe_load(text_of(files, file))
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{file}: not whole YAML ({problem}). Download the export again.") from error
    if not isinstance(settings, dict):
        raise DataError(f"{file}: holds no settings. Download the export again.")
    return settings


def _yolo_names(settings: YoloSettings) -> dict[int, str]:
    names = settings.values.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, dict):
        names = {_number(key): name for key, name in names.items()}
    if (
        not isinstance(names, dict)
        or not names
        or not all(map(is_id, names))
        or not all(map(_is_scalar, names.values()))
    ):
        given = f" ({names!r})" if _is_scalar(names) else ""
        raise DataError(f"{settings.file}: 'names'{given} is no list of class names. Export again as YOLO.")
    for number, name in names.items():
        if not is_text(str(name)):
            problem = f"class {number} is called {name!r}, half a character, which no file can hold"
            raise DataError(f"{settings.file}: {problem}. {EXPORT_AGAIN}")
    nc = _number(settings.values.get("nc"))
    if not _is_scalar(nc) or nc not in (None, len(names)):
        given = repr(nc) if _is_scalar(nc) else f"a {type(nc).__name__}"
        raise DataError(f"{settings.file}: nc is {given} but 'names' has {len(names)} names. Export again.")
    return {number: str(name) for number, name in names.items()}


def _number(value: Any) -> Any:
    """The number that a text of digits is: some tools quote all that they write."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value


def _is_scalar(value: object) -> bool:
    """No list and no mapping: YAML's aliases can nest those so that printing them takes for ever."""
    return isinstance(value, str | int | float | None)


def _yolo_split(
    files: ExportFiles, places: Places, split: str, categories: tuple[RawCategory, ...], refusals: Refusals
) -> ExportSplit:
    names = {category.id: category.name for category in categories}
    images: list[ExportImage] = []
    unlabelled: list[ExportImage] = []
    rows = AnnotationRows()
    for image, label_file in with_label_files(places, split, ".txt", refusals):
        (images if label_file else unlabelled).append(image)
        if label_file is not None:
            for box, polygons, label in _yolo_annotations(files, label_file, names, refusals):
                rows.add(len(rows), image.id, label, box, polygons, ["box_from_polygon"] * (box is None))
    folder = places.label_folder(split)
    return ExportSplit(split, folder, categories, images, rows.table(), relative=True, unlabelled=unlabelled)


_YoloLine = tuple[tuple[float, float, float, float] | None, tuple[tuple[float, ...], ...], str]
"""Box, polygons and label."""


def _yolo_annotations(
    files: ExportFiles, file: str, names: Mapping[int, str], refusals: Refusals
) -> Iterator[_YoloLine]:
    """The boxes (class, centre x, centre y, width, height) and polygons (class, x, y, x, y …) of one label file.

    All coordinates are fractions of the image's width and height.
    """
    for position, line in enumerate(text_of(files, file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _yolo_line(line, names)
        except ValueError as error:
            refusals.add(AnnotationError(files.findable(file), f"line {position}", str(error), EXPORT_AGAIN))


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
