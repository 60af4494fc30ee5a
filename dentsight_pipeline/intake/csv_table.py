"""Reads Roboflow's CSV for object detection: `_annotations.csv` beside the images of each split, one row for a box.

An image without a box has no row, so that nothing tells it from one that nobody has looked at: it counts as unlabelled.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from dentsight_pipeline.errors import AnnotationError, DataError
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.paths import is_text, refuse_unsafe_path
from dentsight_pipeline.intake.places import one_for_each_split
from dentsight_pipeline.intake.records import (
    EXPORT_AGAIN,
    AnnotationRows,
    Export,
    ExportImage,
    ExportSplit,
    Refusals,
    corners_box,
    is_image,
    stem_of,
    text_of,
    whole_size,
    with_names_in_use,
)

CSV_FILE = "_annotations.csv"
COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def find_csv(files: ExportFiles) -> dict[str, str]:
    """Split → its table.

    Raises:
        DataError: Two tables are of one split.
    """
    return one_for_each_split(files.name, (path for path in files.paths() if path.rpartition("/")[2] == CSV_FILE))


def read_csv(files: ExportFiles, tables: Mapping[str, str], refusals: Refusals) -> Export:
    """Reads every table; no README. Class names are those that occur, in alphabetical order.

    Raises:
        DataError: One is no such table; rows that cannot be meant go to `refusals`.
    """
    return Export("csv", with_names_in_use(_split(files, split, path, refusals) for split, path in tables.items()))


def _split(files: ExportFiles, split: str, file: str, refusals: Refusals) -> ExportSplit:
    folder = file.removesuffix(CSV_FILE)
    images: dict[str, ExportImage] = {}
    rows = AnnotationRows()
    for number, row in _rows(files, file):
        try:
            name, label = row["filename"] or "", (row["class"] or "").strip()
            if not label or not is_text(label):
                raise ValueError("it has no class")
            box = corners_box([row[side] for side in COLUMNS[4:]])
            refuse_unsafe_path(name, f"{file}, line {number}")
        except ValueError as error:
            refusals.add(AnnotationError(file, f"line {number}", str(error), EXPORT_AGAIN))
            continue
        except DataError as error:
            refusals.add(error)
            continue
        path = folder + name
        size = whole_size(row["width"], row["height"])
        image = ExportImage(len(images), path, stem_of(path), *size, exists=path in files.paths())
        rows.add(len(rows), images.setdefault(path, image).id, label, box)
    left = [path for path in files.paths() if path.startswith(folder) and is_image(path) and path not in images]
    unlabelled = [ExportImage(len(images) + n, path, stem_of(path), 0, 0) for n, path in enumerate(left)]
    return ExportSplit(split, file, (), list(images.values()), rows.table(), unlabelled=unlabelled)


def _rows(files: ExportFiles, file: str) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """Line number and row of each line.

    Raises:
        DataError: It has other columns, or cannot be read as a table.
    """
    reader = csv.DictReader(io.StringIO(text_of(files, file), newline=""))
    try:
        _refuse_other_columns(file, reader.fieldnames or ())
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: no CSV ({error}). Download the export again.") from error


def _refuse_other_columns(file: str, given: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in given]
    if missing:
        some = ", ".join(str(name)[:30] for name in given[:8]) or "nothing"
        problem = f"the column {missing[0]!r} is missing (its first line is: {some}), so this is no table of boxes"
        raise DataError(f"{file}: {problem}. Export again from Roboflow as COCO, or as Tensorflow CSV.")
