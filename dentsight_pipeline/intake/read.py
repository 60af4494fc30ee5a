"""Reads what an export says into records, in whichever layout it has; no image is opened.

Add a layout beside `coco.py`, `yolo.py`, `voc.py` and `csv_table.py`; where splits lie is found in `places.py`, what is
not read is named in `foreign.py`. What labels mean (`ontology.py`), which boxes are repaired (`normalise.py`) and what
images hold (`image_bytes.py`) is decided elsewhere.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.coco import find_coco, read_coco
from dentsight_pipeline.intake.csv_table import find_csv, read_csv
from dentsight_pipeline.intake.files import ExportFiles, linked_folder, without_top_folder
from dentsight_pipeline.intake.foreign import unknown_export
from dentsight_pipeline.intake.places import LABEL_FOLDER, find_places, refuse_unnamed, split_in, split_of
from dentsight_pipeline.intake.records import Export, Refusals, is_image, text_of
from dentsight_pipeline.intake.voc import has_voc, read_voc
from dentsight_pipeline.intake.yolo import YOLO_FILE, find_settings, read_yolo

README_FILES = ("README.roboflow.txt", "README.dataset.txt")
_MARKS = frozenset({YOLO_FILE, *map(str.lower, README_FILES), *LABEL_FOLDER, "labels", "annotations"})
"""What the root of an export holds, in small letters."""
_ANNOTATIONS = (".json", ".yaml", ".yml", ".xml", ".csv")


def read_export(files: ExportFiles, refusals: Refusals | None = None) -> tuple[Export, ExportFiles]:
    """Reads an export's annotations, READMEs and file list; no image is opened.

    Args:
        files: The export, at whatever depth below its top folders.
        refusals: Where records that cannot be used go; by default the first is raised.

    Returns:
        The export, and its files relative to the folder that holds the splits.

    Raises:
        DataError: It is no export, or an annotation file cannot be read at all.
    """
    refusals = refusals or Refusals()
    files = without_top_folder(files, _is_mark)
    paths = files.paths()
    for link in sorted(files.linked):
        if split_in(link) or link.rpartition("/")[2].lower() in _MARKS:
            raise linked_folder(files.name, link)
    readmes = {name: text_of(files, name) for name in README_FILES if name in paths}
    return replace(_in_its_layout(files, refusals), readmes=readmes), files


def _is_mark(top: str) -> bool:
    return split_of(top) is not None or top.lower() in _MARKS or top.lower().endswith(_ANNOTATIONS)


def _in_its_layout(files: ExportFiles, refusals: Refusals) -> Export:
    places = cache(lambda: find_places(files.name, files.paths()))
    if found := find_coco(files, places):
        return read_coco(files, found, refusals)
    if has_voc(files):
        refuse_unnamed(files.name, places())
        return read_voc(files, places(), refusals)
    if tables := find_csv(files):
        return read_csv(files, tables, refusals)
    settings = find_settings(files)
    if settings and any(map(is_image, files.paths())):
        by_name = places()
        lying = by_name if by_name.folders else find_places(files.name, files.paths(), settings.folders(files.paths()))
        refuse_unnamed(files.name, lying)
        return read_yolo(files, settings, lying, refusals)
    raise unknown_export(files, places())


def missing_split(name: str, split: str, present: Sequence[str], unread: Iterable[str] = ()) -> DataError:
    """The refusal of an export that lacks a split which is needed, though images of it may be among the `unread`."""
    folders = Counter(posixpath.dirname(path) for path in unread if is_image(path))
    lying = (f"{images} images in {folder}" for folder, images in folders.items() if split_in(folder) == split)
    images = next(lying, "")
    return DataError(
        f"{name}: the split {split!r} is missing; found {', '.join(present)}. "
        + (f"{images} are unlabelled: no file annotates them. Label them, and export" if images else "Export")
        + " the version again with train, valid and test images."
    )
