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
from dentsight_pipeline.data.ontology import CLASSES, TEETH, LabelRule
from dentsight_pipeline.data.repairs import Note, mended_boxes, mended_polygons, repair_table, twins
from dentsight_pipeline.documents.annotations import ANNOTATIONS, IMAGES, RawSplit, Split, flat_values
from dentsight_pipeline.errors import AnnotationError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageKeys:
    """What the images of one split are known by, in their order.

    Attributes:
        first_image: Id of the first image; the others follow.
        first_box: Id of the first box.
        groups: Name of each image's source.
        clean: Whether no other split shares it, shape [images].
    """

    first_image: int
    first_box: int
    groups: Sequence[str]
    clean: NDArray[np.bool_]


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

    def __getitem__(self, chosen: NDArray[Any]) -> _Boxes:
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
    names = raw.annotations["label"].combine_chunks().dictionary.to_pylist()
    found = _in_image_order(raw)
    of_code = [rules[name] for name in names]
    classes = np.array([len(rule.classes) for rule in of_code], dtype=np.int64)
    mapped = found[classes[found.label] > 0]
    sizes = np.stack([raw.images[side].to_numpy() for side in ("width", "height")], axis=1).astype(float)
    mended = mended_boxes(mapped.xywh_px, sizes[mapped.image])
    _refuse_outside(raw, mapped, mended.outside)

    whole = np.flatnonzero(mended.kept)
    polygons, polygon_notes = mended_polygons(_polygons(raw, mapped.rows[whole]), sizes[mapped.image[whole]])
    drawn = np.repeat(np.arange(len(whole)), classes[mapped.label[whole]])  # a composite label is several boxes
    boxes = replace(mapped, xywh_px=mended.boxes)[whole[drawn]]
    category = _category_ids(of_code)[boxes.label, np.arange(len(drawn)) - np.searchsorted(drawn, drawn)]
    twin = twins(boxes.image * (len(CLASSES) + 1) + category, boxes.xywh_px)
    duplicates = _duplicates(boxes.xywh_px, category, twin)
    notes = (
        mended.notes,
        [note.at(whole) for note in polygon_notes],
        [note.at(whole[drawn]) for note in duplicates],
    )
    repairs = repair_table(notes, raw, mapped.rows, mapped.image)

    left = np.flatnonzero(twin < 0)
    boxes, category = boxes[left], category[left]
    images = _images(raw, keys, boxes, category)
    annotations = _annotations(keys, boxes, category, names, of_code, polygons.take(pa.array(drawn[left])))
    return Split(raw.name, CLASSES, images, annotations), repairs


def _in_image_order(raw: RawSplit) -> _Boxes:
    """Its annotations; those of images that are not there are left out."""
    ids, wanted = raw.images["id"].to_numpy(), raw.annotations["image_id"].to_numpy()
    by_id = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids, wanted, sorter=by_id), len(ids) - 1) if len(ids) else wanted[:0]
    image = by_id[place]
    rows = np.argsort(image, kind="stable")
    rows = rows[ids[image[rows]] == wanted[rows]]
    label = raw.annotations["label"].combine_chunks().indices.to_numpy().astype(np.int64)
    boxes = flat_values(raw.annotations["bbox"]).reshape(-1, 4)
    return _Boxes(rows, image[rows], label[rows], boxes[rows])


def _refuse_outside(raw: RawSplit, boxes: _Boxes, outside: NDArray[np.bool_]) -> None:
    if not outside.any():
        return
    first = int(outside.argmax())
    annotation = raw.annotations.slice(boxes.rows[first], 1).to_pylist()[0]
    image = raw.images.slice(boxes.image[first], 1).to_pylist()[0]
    x, y, w, h = annotation["bbox"]
    raise AnnotationError(
        raw.file,
        f"annotation {annotation['id']} of image {image['id']}",
        f"its box [{x:g}, {y:g}, {w:g}, {h:g}] lies wholly outside the {image['width']}×{image['height']} image",
        "Correct it in the annotation tool and export again.",
    )


def _polygons(raw: RawSplit, rows: NDArray[np.int64]) -> pa.ListArray:
    return raw.annotations["polygons"].combine_chunks().take(pa.array(rows))


def _category_ids(rules: Sequence[LabelRule]) -> NDArray[np.int64]:
    """For each label the ids of its classes, shape [labels, most classes of one]; the rest is 0."""
    ids = np.zeros((len(rules), max((len(rule.classes) for rule in rules), default=0)), dtype=np.int64)
    for row, rule in zip(ids, rules, strict=True):
        row[: len(rule.classes)] = [CLASSES.index(name) + 1 for name in rule.classes]
    return ids


def _duplicates(boxes: NDArray[np.float64], category: NDArray[np.int64], twin: NDArray[np.int64]) -> list[Note]:
    """Notes of the boxes that mark what another of their class marks already."""
    again = np.flatnonzero(twin >= 0)
    exact = (boxes[again] == boxes[twin[again]]).all(axis=1)
    told = [f"a second {CLASSES[number - 1]} box in the same place was left out" for number in category[again]]
    return [
        Note(kind, again[chosen], [told[i] for i in np.flatnonzero(chosen)], again[chosen])
        for kind, chosen in (("exact_duplicate", exact), ("near_duplicate", ~exact))
    ]


def _images(raw: RawSplit, keys: ImageKeys, boxes: _Boxes, category: NDArray[np.int64]) -> pa.Table:
    count = len(raw.images)
    is_tooth = category <= len(TEETH)
    annotated, with_teeth = (np.bincount(image, minlength=count) > 0 for image in (boxes.image, boxes.image[is_tooth]))
    columns = {
        **{name: raw.images[name] for name in ("file_name", "width", "height", "sha256")},
        "id": keys.first_image + np.arange(count),
        "source_group": keys.groups,
        "clean": keys.clean,
        "partial_annotation": annotated & ~with_teeth,
        "flags": _flags(raw, boxes[is_tooth], category[is_tooth]),
    }
    return pa.table([columns[name] for name in IMAGES.names], schema=IMAGES)


def _flags(raw: RawSplit, teeth: _Boxes, category: NDArray[np.int64]) -> list[list[str]]:
    """What does not fit in the tooth numbers of each image."""
    names = [TEETH[number - 1] for number in category]
    ends = np.searchsorted(teeth.image, np.arange(len(raw.images) + 1))
    sizes = zip(raw.images["width"].to_pylist(), raw.images["height"].to_pylist(), strict=True)
    return [
        fdi.tooth_flags(*size, list(zip(names[a:b], teeth.xywh_px[a:b], strict=True))) if a < b else []
        for size, (a, b) in zip(sizes, pairwise(ends), strict=True)
    ]


def _annotations(
    keys: ImageKeys,
    boxes: _Boxes,
    category: NDArray[np.int64],
    names: Sequence[str],
    rules: Sequence[LabelRule],
    polygons: pa.ListArray,
) -> pa.Table:
    loose = np.array([rule.loose for rule in rules], dtype=bool)
    columns = {
        "id": keys.first_box + np.arange(len(category)),
        "image_id": keys.first_image + boxes.image,
        "category_id": category.astype(np.int16),
        "bbox": pa.FixedSizeListArray.from_arrays(pa.array(boxes.xywh_px.ravel()), 4),
        "area": boxes.xywh_px[:, 2] * boxes.xywh_px[:, 3],
        "segmentation": polygons,
        "raw_name": pa.DictionaryArray.from_arrays(pa.array(boxes.label).cast(pa.int16()), names),
        "loose": loose[boxes.label],
    }
    return pa.table([columns[name] for name in ANNOTATIONS.names], schema=ANNOTATIONS)
