"""One split of an export mapped to classes, mended and re-keyed, column by column.

What is mended in a box or polygon is decided in `repairs.py`, what a label means in `labels.py`; facts about all splits
and their sources belong in `normalise.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dentsight_pipeline.data import fdi
from dentsight_pipeline.data.coverage import LookedFor
from dentsight_pipeline.data.ontology import CLASSES, TEETH, LabelRule
from dentsight_pipeline.data.repairs import Note, mended_boxes, mended_polygons, repair_table, twins
from dentsight_pipeline.documents.annotations import (
    ANNOTATIONS,
    IMAGES,
    REPAIRS,
    RawSplit,
    Split,
    covered_column,
    flat_values,
)
from dentsight_pipeline.errors import AnnotationError

if TYPE_CHECKING:
    from numpy.typing import NDArray


_IMAGES_AT_ONCE = 4096
"""Images whose boxes are worked on at a time: what is held beside the columns that come and go."""


@dataclass(frozen=True)
class ImageKeys:
    """What the images of one split are known by, in their order.

    Attributes:
        first_image: Id of the first image; the others follow.
        first_box: Id of the first box.
        groups: Name of each image's source.
        clean: Whether no other split shares it, shape [images].
        export: Name of the export that they came from.
        coverage: What was looked for in it.
    """

    first_image: int
    first_box: int
    groups: Sequence[str]
    clean: NDArray[np.bool_]
    export: str
    coverage: LookedFor


@dataclass(frozen=True)
class _Boxes:
    """Boxes in the order of their images, and within one as they were drawn.

    Attributes:
        rows: Row of the raw annotations, shape [n].
        image: Row of the image, shape [n].
        label: Code of the raw name, shape [n].
        xywh_px: Shape [n, 4].
    """

    rows: NDArray[np.int64]
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    xywh_px: NDArray[np.float64]

    def __getitem__(self, chosen: NDArray[Any] | slice) -> _Boxes:
        return _Boxes(self.rows[chosen], self.image[chosen], self.label[chosen], self.xywh_px[chosen])


def normalised_split(raw: RawSplit, rules: Mapping[str, LabelRule], keys: ImageKeys) -> tuple[Split, pa.Table]:
    """One split with the 45 classes, and what was mended in it, a table of schema `REPAIRS`.

    Args:
        raw: The split as its export has it.
        rules: What each raw name becomes.
        keys: Ids and sources of its images.

    Raises:
        AnnotationError: A box that lies wholly outside its image.
    """
    codes = _Codes.of(raw, rules)
    found = _in_image_order(raw)
    annotations, repairs = [ANNOTATIONS.empty_table()], [REPAIRS.empty_table()]
    next_id = keys.first_box
    blocks = np.searchsorted(found.image, np.arange(0, len(raw.images) + _IMAGES_AT_ONCE, _IMAGES_AT_ONCE))
    for a, b in pairwise(blocks):
        kept, mended = _normalised(raw, codes, found[a:b], (keys.first_image, next_id))
        annotations.append(kept)
        repairs.append(mended)
        next_id += len(kept)
    together = pa.concat_tables(annotations).unify_dictionaries().combine_chunks()
    return Split(raw.name, CLASSES, _images(raw, keys, together), together), pa.concat_tables(repairs)


@dataclass(frozen=True)
class _Codes:
    """What the codes of a split's raw names mean.

    Attributes:
        names: The raw names.
        classes: How many classes each becomes, shape [names].
        category_ids: Their ids, the rest 0, shape [names, most classes of one].
        loose: Whether the source uses it loosely, shape [names].
    """

    names: list[str]
    classes: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    loose: NDArray[np.bool_]

    @classmethod
    def of(cls, raw: RawSplit, rules: Mapping[str, LabelRule]) -> _Codes:
        names = raw.annotations["label"].combine_chunks().dictionary.to_pylist()
        classes = np.array([len(rules[name].classes) for name in names], dtype=np.int64)
        ids = np.zeros((len(names), classes.max(initial=0)), dtype=np.int64)
        for row, name in zip(ids, names, strict=True):
            row[: len(rules[name].classes)] = [CLASSES.index(known) + 1 for known in rules[name].classes]
        return cls(names, classes, ids, np.array([rules[name].loose for name in names], dtype=bool))


def _normalised(raw: RawSplit, codes: _Codes, found: _Boxes, ids: tuple[int, int]) -> tuple[pa.Table, pa.Table]:
    """The annotations of some images, and what was mended in them; `ids` are those of the split's first image and of
    the first box."""
    mapped = found[codes.classes[found.label] > 0]
    sizes = _sizes(raw, mapped.image)
    mended = mended_boxes(mapped.xywh_px, sizes)
    _refuse_outside(raw, mapped, mended.outside)

    whole = np.flatnonzero(mended.kept)
    polygons, polygon_notes = mended_polygons(_polygons(raw, mapped.rows[whole]), sizes[whole])
    drawn = np.repeat(np.arange(len(whole)), codes.classes[mapped.label[whole]])  # a composite label is several boxes
    boxes = replace(mapped, xywh_px=mended.boxes)[whole[drawn]]
    category = codes.category_ids[boxes.label, np.arange(len(drawn)) - np.searchsorted(drawn, drawn)]
    twin = twins(boxes.image * (len(CLASSES) + 1) + category, boxes.xywh_px)
    duplicates = _duplicates(boxes.xywh_px, category, twin)
    notes = (
        mended.notes,
        [note.at(whole) for note in polygon_notes],
        [note.at(whole[drawn]) for note in duplicates],
    )
    left = np.flatnonzero(twin < 0)
    annotations = _annotations(codes, ids, boxes[left], category[left], polygons.take(pa.array(drawn[left])))
    return annotations, repair_table(notes, raw, mapped.rows, mapped.image)


def _sizes(raw: RawSplit, image: NDArray[np.int64]) -> NDArray[np.float64]:
    """Width and height of each box's image in px, shape [n, 2]."""
    return np.stack([raw.images[side].to_numpy()[image] for side in ("width", "height")], axis=1).astype(float)


def _in_image_order(raw: RawSplit) -> _Boxes:
    """Its annotations; those of images that are not there are left out."""
    image = raw.image_rows
    rows = np.argsort(image, kind="stable")
    rows = rows[image[rows] >= 0]
    label = raw.annotations["label"].combine_chunks().indices.to_numpy().astype(np.int64)
    boxes = flat_values(raw.annotations["bbox"]).reshape(-1, 4)
    return _Boxes(rows, image[rows], label[rows], boxes[rows])


def _refuse_outside(raw: RawSplit, boxes: _Boxes, outside: NDArray[np.bool_]) -> None:
    if not outside.any():
        return
    first = int(outside.argmax())
    (annotation,) = raw.annotations.slice(boxes.rows[first], 1).to_pylist()
    (image,) = raw.images.slice(boxes.image[first], 1).to_pylist()
    x, y, w, h = annotation["bbox"]
    raise AnnotationError(
        raw.file,
        f"annotation {annotation['id']} of image {image['id']}",
        f"its box [{x:g}, {y:g}, {w:g}, {h:g}] lies wholly outside the {image['width']}×{image['height']} image",
        "Correct it in the annotation tool and export again.",
    )


def _polygons(raw: RawSplit, rows: NDArray[np.int64]) -> pa.ListArray:
    return raw.annotations["polygons"].combine_chunks().take(pa.array(rows))


def _duplicates(boxes: NDArray[np.float64], category: NDArray[np.int64], twin: NDArray[np.int64]) -> list[Note]:
    """Notes of the boxes that mark what another of their class marks already."""
    again = np.flatnonzero(twin >= 0)
    exact = (boxes[again] == boxes[twin[again]]).all(axis=1)
    told = [f"a second {CLASSES[number - 1]} box in the same place was left out" for number in category[again]]
    return [
        Note(kind, again[chosen], [told[i] for i in np.flatnonzero(chosen)], again[chosen])
        for kind, chosen in (("exact_duplicate", exact), ("near_duplicate", ~exact))
    ]


def _images(raw: RawSplit, keys: ImageKeys, annotations: pa.Table) -> pa.Table:
    count, image = len(raw.images), annotations["image_id"].to_numpy() - keys.first_image
    is_tooth = annotations["category_id"].to_numpy() <= len(TEETH)
    annotated, with_teeth = (np.bincount(some, minlength=count) > 0 for some in (image, image[is_tooth]))
    columns = {
        **{name: raw.images[name] for name in ("file_name", "width", "height", "sha256")},
        "id": keys.first_image + np.arange(count),
        "source_group": keys.groups,
        "clean": keys.clean,
        "partial_annotation": annotated & ~with_teeth,
        "flags": _flags(raw, image[is_tooth], annotations.filter(pa.array(is_tooth))),
        "covered": covered_column(_covered(raw, keys.coverage, annotated & ~with_teeth)),
        "export": [keys.export] * count,
    }
    return pa.table([columns[name] for name in IMAGES.names], schema=IMAGES)


def _covered(raw: RawSplit, coverage: LookedFor, without_teeth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What was looked for in each image, shape [images, classes]: no teeth where other things alone were marked, unless
    the image is declared by itself."""
    covered = coverage.matrix(raw)
    silent = without_teeth & ~np.isin(raw.images["sha256"].to_pylist(), list(coverage.images))
    covered[np.ix_(silent, np.arange(len(TEETH)))] = False
    return covered


def _flags(raw: RawSplit, image: NDArray[np.int64], teeth: pa.Table) -> list[list[str]]:
    """What does not fit in the tooth numbers of each image."""
    names = [TEETH[number - 1] for number in teeth["category_id"].to_numpy()]
    boxes = flat_values(teeth["bbox"]).reshape(-1, 4)
    ends = np.searchsorted(image, np.arange(len(raw.images) + 1))
    sizes = zip(raw.images["width"].to_pylist(), raw.images["height"].to_pylist(), strict=True)
    return [
        fdi.tooth_flags(*size, list(zip(names[a:b], boxes[a:b], strict=True))) if a < b else []
        for size, (a, b) in zip(sizes, pairwise(ends), strict=True)
    ]


def _annotations(
    codes: _Codes, ids: tuple[int, int], boxes: _Boxes, category: NDArray[np.int64], polygons: pa.ListArray
) -> pa.Table:
    first_image, first_box = ids
    columns = {
        "id": first_box + np.arange(len(category)),
        "image_id": first_image + boxes.image,
        "category_id": category.astype(np.int16),
        "bbox": pa.FixedSizeListArray.from_arrays(pa.array(boxes.xywh_px.ravel()), 4),
        "area": boxes.xywh_px[:, 2] * boxes.xywh_px[:, 3],
        "segmentation": polygons,
        "raw_name": pa.DictionaryArray.from_arrays(pa.array(boxes.label).cast(pa.int16()), codes.names),
        "loose": codes.loose[boxes.label] & (category > len(TEETH)),  # of a composite name only the condition can be
    }
    return pa.table([columns[name] for name in ANNOTATIONS.names], schema=ANNOTATIONS)
