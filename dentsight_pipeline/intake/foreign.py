"""Says what an export is that no reader takes: the refusal names the format, and the way to one that is read.

Add a format here when somebody brings one; write a reader when they keep coming.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.places import Places
from dentsight_pipeline.intake.records import is_image

_AS_COCO = "Export again as COCO, or as YOLO or Pascal VOC with boxes."
_LOOKED_INTO = 64 * 2**10
"""Bytes of a file that are looked at."""


@dataclass(frozen=True, slots=True)
class _Format:
    """How a format is known.

    Attributes:
        path: A pattern in the path of some file.
        inside: A pattern in that file's beginning; empty for any.
        what: What it is.
    """

    path: str
    inside: str
    what: str


_FORMATS = (
    _Format(r"_annotations\.createml\.json$", "", "CreateML's JSON"),
    _Format(r"\.tfrecord$", "", "TFRecord"),
    _Format(r"(^|/)_classes\.csv$", "", "labels of whole images (classification or masks), without boxes"),
    _Format(r"\.xml$", r"<annotations[\s>]", "CVAT's own XML"),
    _Format(r"\.json$", r'"shapes"\s*:', "LabelMe's JSON, one file for each image"),
    _Format(r"\.json$", r'"_via_|"regions"\s*:', "VGG Image Annotator's JSON"),
    _Format(r"\.json$", r'"(data|completed_by|result)"\s*:', "Label Studio's own JSON"),
    _Format(r"(^|/)ann/[^/]+\.json$", "", "Supervisely's JSON"),
    _Format(r"\.json$", r'"keypoints"\s*:', "COCO keypoints"),
    _Format(r"\.(parquet|arrow)$", "", "a table of a Hugging Face data set"),
    _Format(r"\.csv$", "", "a CSV that is not Roboflow's `_annotations.csv`"),
    _Format(r"(^|/)labels/.*\.txt$", "", "YOLO without the YAML file that names its classes"),
    _Format(r"\.dcm$", "", "DICOM files without annotations that are read"),
)


def unknown_export(files: ExportFiles, places: Places) -> DataError:
    """The refusal, by what it is where that can be told."""
    paths = list(files.paths())
    if zips := [path for path in paths if path.lower().endswith(".zip")]:
        return DataError(f"{files.name}: holds another zip, {zips[0]}. Unpack it once, and give that zip.")
    for known in _FORMATS:
        if (path := _first(files, paths, known)) is not None:
            return DataError(f"{files.name}: this is {known.what} ({path}), which is not read. {_AS_COCO}")
    images = sum(map(is_image, paths))
    if images:
        of = f" (in {', '.join(places.folders.values())})" if places.folders else ""
        problem = f"its {images} images{of} are unlabelled: no file says what is in them"
        return DataError(f"{files.name}: {problem}. Export again from Roboflow as COCO, COCO segmentation or YOLO.")
    some = sorted({path.split("/", 1)[0] for path in paths})
    return DataError(
        f"{files.name}: no export that is known. Looked for COCO (a JSON file with images, annotations and "
        "categories), YOLO (a YAML file with names), Pascal VOC (XML files) and Roboflow's CSV; "
        f"found {', '.join(some[:6])}{', …' if len(some) > 6 else ''}. Give the folder that holds the splits."
    )


def _first(files: ExportFiles, paths: Sequence[str], known: _Format) -> str | None:
    """The first file that has the format's name, if its beginning tells the format too."""
    matches: Callable[[str], object] = re.compile(known.path, re.IGNORECASE).search
    path = next(filter(matches, paths), None)
    if path is None or not known.inside:
        return path
    text = files.read(path)[:_LOOKED_INTO].decode("utf-8", "replace")
    return path if re.search(known.inside, text) else None
