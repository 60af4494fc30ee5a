"""Reads Pascal VOC: one XML file for each image, beside it or in `Annotations/`.

Splits are folders, or the lists in `ImageSets/Main/`. Corners are taken as they are written: tools disagree on whether
the first pixel is 0 or 1, and half of them do not know.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from xml.etree import ElementTree

from dentsight_pipeline.errors import AnnotationError, DataError
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.paths import is_text
from dentsight_pipeline.intake.places import Places, split_in, with_label_files
from dentsight_pipeline.intake.records import (
    EXPORT_AGAIN,
    AnnotationRows,
    Export,
    ExportImage,
    ExportSplit,
    Refusals,
    corners_box,
    text_of,
    whole_size,
    with_names_in_use,
)

_LIST = re.compile(r"(^|/)ImageSets/Main/[^/]+\.txt$", re.IGNORECASE)
_ROOT = re.compile(rb"<annotation[\s>]")
_FORBIDDEN = re.compile(rb"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
"""Neither occurs in an annotation file, and both can be made to take for ever or to read other files."""


def has_voc(files: ExportFiles) -> bool:
    """Whether the export's XML files, going by the first, hold an annotation each."""
    first = next((path for path in files.paths() if path.lower().endswith(".xml")), None)
    return first is not None and _ROOT.search(files.read(first)) is not None


def read_voc(files: ExportFiles, places: Places, refusals: Refusals) -> Export:
    """Reads every XML file; no README. Class names are those that occur, in alphabetical order."""
    places = _by_lists(files, places)
    return Export("voc", with_names_in_use(_voc_split(files, places, split, refusals) for split in places.paths))


def _by_lists(files: ExportFiles, places: Places) -> Places:
    """The places where `ImageSets/Main/train.txt` and its like name the images of the splits."""
    lists = {split: path for path in files.paths() if _LIST.search(path) and (split := split_in(path[-12:]))}
    if places.folders or not lists:
        return places
    bare = defaultdict[str, list[str]](list)
    for path in places.paths["train"]:
        bare[path.rpartition("/")[2].rpartition(".")[0]].append(path)
    stems = {
        split: [line.split()[0] for line in text_of(files, path).splitlines() if line.strip()]
        for split, path in lists.items()
    }
    paths = {
        split: [p for stem in names for p in bare.get(stem.rpartition("/")[2], ())] for split, names in stems.items()
    }
    return Places({split: lists[split] for split in paths}, paths)


def _voc_split(files: ExportFiles, places: Places, split: str, refusals: Refusals) -> ExportSplit:
    images: list[ExportImage] = []
    unlabelled: list[ExportImage] = []
    rows = AnnotationRows()
    for image, file in with_label_files(places, split, ".xml", refusals):
        if file is None:
            unlabelled.append(image)
            continue
        root = _tree(files, file, refusals)
        if root is None:
            continue
        images.append(_of_size(image, root))
        for label, box in _objects(root, files, file, refusals):
            rows.add(len(rows), image.id, label, box)
    return ExportSplit(split, places.label_folder(split), (), images, rows.table(), unlabelled=unlabelled)


def _tree(files: ExportFiles, file: str, refusals: Refusals) -> ElementTree.Element | None:
    data = files.read(file)
    try:
        if _FORBIDDEN.search(data):
            raise DataError(f"{files.findable(file)}: declares entities, which no annotation needs. It is not read.")
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        refusals.add(DataError(f"{files.findable(file)}: not whole XML ({error}). Download the export again."))
    except (LookupError, ValueError, RecursionError) as error:
        refusals.add(DataError(f"{files.findable(file)}: cannot be read as XML ({error}). Download the export again."))
    except DataError as error:
        refusals.add(error)
    return None


def _of_size(image: ExportImage, root: ElementTree.Element) -> ExportImage:
    width, height = whole_size(root.findtext("size/width"), root.findtext("size/height"))
    return replace(image, width=width, height=height)


def _objects(
    root: ElementTree.Element, files: ExportFiles, file: str, refusals: Refusals
) -> Iterator[tuple[str, Sequence[float]]]:
    """Label and box of each object."""
    for number, item in enumerate(root.iter("object"), start=1):
        name = (item.findtext("name") or "").strip()
        corners = [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            if not name or not is_text(name):
                raise ValueError("it has no name")
            yield name, corners_box(corners)
        except ValueError as error:
            refusals.add(AnnotationError(files.findable(file), f"object {number}", str(error), EXPORT_AGAIN))
