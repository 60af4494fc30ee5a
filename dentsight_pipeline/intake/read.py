"""Reads what an export says into records, in whichever layout it has; no image is opened.

Add a layout beside `coco.py` and `yolo.py`. What labels mean (`ontology.py`), which boxes are repaired
(`normalise.py`) and what images hold (`image_bytes.py`) is decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dentsight_pipeline.documents.names import SPLITS
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.coco import COCO_FILE, read_coco
from dentsight_pipeline.intake.files import ExportFiles, linked_folder, without_top_folder
from dentsight_pipeline.intake.records import Export, Refusals, text_of
from dentsight_pipeline.intake.yolo import YOLO_FILE, read_yolo

README_FILES = ("README.roboflow.txt", "README.dataset.txt")
SPLIT_FOLDERS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folder name, in small letters → split."""
_SPLIT_PART = re.compile(rf"({'|'.join(SPLIT_FOLDERS)})(/images|/labels)?", re.IGNORECASE)
"""A folder without which a split is not whole."""


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
    files = without_top_folder(files, lambda top: top.lower() in SPLIT_FOLDERS or top in (YOLO_FILE, *README_FILES))
    paths = files.paths()
    readmes = {name: text_of(files, name) for name in README_FILES if name in paths}
    for link in sorted(files.linked):
        if _SPLIT_PART.fullmatch(link):
            raise linked_folder(files.name, link)
    folders = _split_folders(files.name, paths)
    if any(f"{folder}/{COCO_FILE}" in paths for folder in folders.values()):
        return replace(read_coco(files, folders, refusals), readmes=readmes), files
    if YOLO_FILE in paths and any(path.startswith(f"{f}/images/") for f in folders.values() for path in paths):
        return replace(read_yolo(files, folders, refusals), readmes=readmes), files
    if folders:
        split, folder = next(iter(folders.items()))
        raise DataError(
            f"{files.name}: {folder}/{COCO_FILE} is missing, so the {split} images have no annotations. "
            "Export again from Roboflow as COCO, COCO segmentation or YOLO."
        )
    if zips := [path for path in paths if path.lower().endswith(".zip")]:
        raise DataError(f"{files.name}: holds another zip, {zips[0]}. Unpack it once, and give that zip.")
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
    found: dict[str, str] = {}
    for top in sorted({path.partition("/")[0] for path in paths if "/" in path}):
        split = SPLIT_FOLDERS.get(top.lower())
        if split in found:
            raise DataError(f"{name}: has both {found[split]!r} and {top!r}. Keep one of the two folders.")
        if split is not None:
            found[split] = top
    return {split: found[split] for split in SPLITS if split in found}
