"""The one form that a split's images and boxes have, from normalisation to the evaluation: two Arrow tables.

Boxes are `[x, y, width, height]` float64 in pixels of the stored image, x to the right and y down from its top left
corner. Rows of `annotations` stand in the order of their images, so that the boxes of one image are one slice.
COCO JSON is written only where pycocotools or a person reads it (`Split.to_coco`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dentsight_pipeline.errors import DocumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),  # dense from 1 over all splits
        pa.field("file_name", pa.string(), nullable=False),  # `images/<sha256>.<ext>`
        pa.field("width", pa.int32(), nullable=False),  # px
        pa.field("height", pa.int32(), nullable=False),  # px
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("source_group", pa.string(), nullable=False),  # the smallest digest among the images of one source
        pa.field("clean", pa.bool_(), nullable=False),  # shares no source with any other split
        pa.field("partial_annotation", pa.bool_(), nullable=False),  # conditions, but no tooth boxes
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # implausible teeth, for a person
        pa.field("covered", pa.list_(pa.int16()), nullable=False),  # category ids that were looked for, ascending
        pa.field("export", pa.string(), nullable=False),  # the export that it came from, as `Corpus.name` says it
    ]
)
"""One row for each image."""

ANNOTATIONS = pa.schema(
    [
        pa.field(
            "id", pa.int64(), nullable=False
        ),  # from 1, unique over all splits: pycocotools reads 0 as 'unmatched'
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("category_id", pa.int16(), nullable=False),  # from 1, in the order of `Split.classes`
        pa.field("bbox", pa.list_(pa.float64(), 4), nullable=False),  # x, y, width, height in px
        pa.field("area", pa.float64(), nullable=False),  # px²
        pa.field("segmentation", pa.list_(pa.list_(pa.float64())), nullable=False),  # flat x, y, … px; [] for a box
        pa.field("raw_name", pa.dictionary(pa.int16(), pa.string()), nullable=False),
        pa.field("loose", pa.bool_(), nullable=False),  # the source uses this label loosely
    ]
)
"""One row for each box, in the order of the images."""

RAW_IMAGES = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),  # as in the export's file of this split
        pa.field("file_name", pa.string(), nullable=False),  # `images/<sha256>.<ext>`
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("original_sha256", pa.string(), nullable=False),  # of the export's own file
        pa.field("width", pa.int32(), nullable=False),  # px, of the stored image
        pa.field("height", pa.int32(), nullable=False),  # px
        pa.field("stem_group", pa.string(), nullable=False),  # the smallest digest among the images of one stem
        pa.field("stem_kind", pa.string(), nullable=False),
    ]
)
"""One row for each image of a raw export's split."""

RAW_ANNOTATIONS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),  # as in the export's file of this split
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("label", pa.dictionary(pa.int32(), pa.string()), nullable=False),  # the raw name
        pa.field("bbox", pa.list_(pa.float64(), 4), nullable=False),  # x, y, width, height in px of the stored image
        pa.field("polygons", pa.list_(pa.list_(pa.float64())), nullable=False),  # flat x, y, … px
    ]
)
"""One row for each annotation of a raw export's split, in the order of its file."""

REPAIRS = pa.schema(
    [
        pa.field("kind", pa.dictionary(pa.int16(), pa.string()), nullable=False),
        pa.field("split", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("export_image_id", pa.int64(), nullable=False),
        pa.field("export_annotation_id", pa.int64()),  # null where the repair is of an image
        pa.field("image", pa.string()),  # stored digest, where it is known
        pa.field("detail", pa.string(), nullable=False),
    ]
)
"""One row for each thing that was mended."""


@dataclass(frozen=True)
class RawCategory:
    """A category as its export lists it: id in its split's file, raw name, and whether it is Roboflow's root."""

    id: int
    name: str
    placeholder: bool


@dataclass(frozen=True)
class RawSplit:
    """One split of a raw export.

    Attributes:
        name: `train`, `valid` or `test`.
        file: The annotation file (COCO) or label folder (YOLO) that it came from, for messages.
        categories: As the export lists them.
        images: A table of schema `RAW_IMAGES`.
        annotations: A table of schema `RAW_ANNOTATIONS`.
    """

    name: str
    file: str
    categories: tuple[RawCategory, ...]
    images: pa.Table
    annotations: pa.Table

    @cached_property
    def image_rows(self) -> NDArray[np.int64]:
        """`[n_annotations]`: the row of each annotation's image, -1 for an image that is not there."""
        ids, wanted = self.images["id"].to_numpy(), self.annotations["image_id"].to_numpy()
        if not len(ids):
            return np.full(len(wanted), -1)
        by_id = np.argsort(ids, kind="stable")
        found = by_id[np.minimum(np.searchsorted(ids, wanted, sorter=by_id), len(ids) - 1)]
        return np.where(ids[found] == wanted, found, -1)


@dataclass(frozen=True)
class Split:
    """One split of a normalised dataset or subset.

    Attributes:
        name: `train`, `valid` or `test`.
        classes: Class names; category id k is `classes[k - 1]`.
        images: A table of schema `IMAGES`.
        annotations: A table of schema `ANNOTATIONS`, its rows in the order of `images`.
    """

    name: str
    classes: tuple[str, ...]
    images: pa.Table
    annotations: pa.Table

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """`[n_images]`, ascending."""
        return self.images["id"].to_numpy()

    @cached_property
    def boxes_xywh_px(self) -> NDArray[np.float64]:
        """`[n_annotations, 4]`."""
        return flat_values(self.annotations["bbox"]).reshape(-1, 4)

    @cached_property
    def category_ids(self) -> NDArray[np.int16]:
        """`[n_annotations]`, from 1."""
        return self.annotations["category_id"].to_numpy()

    @cached_property
    def annotation_image_ids(self) -> NDArray[np.int64]:
        """`[n_annotations]`, ascending."""
        return self.annotations["image_id"].to_numpy()

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """`[n_images + 1]`: the boxes of image k are rows `offsets[k]` to `offsets[k + 1]` of the annotations."""
        ends = np.searchsorted(self.annotation_image_ids, self.image_ids, side="right")
        return np.concatenate([[0], ends])

    @cached_property
    def covered(self) -> NDArray[np.bool_]:
        """`[n_images, n_classes]`: whether the image's annotators looked for the class.

        Only where this is true does an image without a box of a class say that there is none.
        """
        looked_for = np.zeros((len(self.images), len(self.classes)), dtype=np.bool_)
        listed = self.images["covered"].combine_chunks()
        ids = listed.flatten().to_numpy(zero_copy_only=False)
        looked_for[np.repeat(np.arange(len(listed)), listed.value_lengths().to_numpy()), ids - 1] = True
        return looked_for

    def to_coco(self) -> dict[str, Any]:
        """The split as COCO JSON's dictionary, for pycocotools and for people."""
        images, annotations, categories = self.coco_tables()
        return {"images": images.to_pylist(), "annotations": annotations.to_pylist(), "categories": categories}

    def coco_tables(self) -> tuple[pa.Table, pa.Table, list[dict[str, int | str]]]:
        """COCO's images, annotations and categories, the long lists as tables."""
        crowd = pa.array(np.zeros(len(self.annotations), dtype=np.int8))
        return self.images, self.annotations.append_column("iscrowd", crowd), coco_categories(self.classes)


def coco_categories(classes: Iterable[str]) -> list[dict[str, int | str]]:
    """COCO's categories, ids from 1 in the order given: FDI numbers are teeth, everything else is a condition."""
    return [
        {"id": number, "name": name, "supercategory": "tooth" if name.isdigit() else "condition"}
        for number, name in enumerate(classes, start=1)
    ]


def covered_column(covered: NDArray[np.bool_]) -> pa.ListArray:
    """The column `covered` of `IMAGES` from a matrix `[n_images, n_classes]`."""
    offsets = np.concatenate([[0], covered.sum(axis=1).cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array((covered.nonzero()[1] + 1).astype(np.int16)))


def flat_values(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """The numbers of a column of lists, one behind the other, without a copy where the column is one chunk."""
    chunks = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.empty(0), *chunks])


def write_table(table: pa.Table) -> bytes:
    """A table as an uncompressed Arrow IPC file: the same bytes for the same rows, whatever chunks they came in."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks().unify_dictionaries())
    return sink.getvalue().to_pybytes()


def read_table(source: Path | bytes, schema: pa.Schema, where: str) -> pa.Table:
    """A table from an Arrow IPC file, memory-mapped when it is given by its path.

    Raises:
        DocumentError: No Arrow file, or of other columns; the message names `where` and the first that differs.
    """
    try:
        opened = pa.memory_map(str(source)) if isinstance(source, Path) else pa.py_buffer(source)
        table = pa.ipc.open_file(opened).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DocumentError(where, "Arrow table", str(error)) from error
    if not table.schema.equals(schema):
        raise DocumentError(where, "Arrow table", _difference(table.schema, schema))
    return table


def _difference(found: pa.Schema, wanted: pa.Schema) -> str:
    """The first column in which two schemas differ, in words."""
    for field in wanted:
        if field.name not in found.names or not found.field(field.name).equals(field):
            has = found.field(field.name) if field.name in found.names else "absent"
            return f"column {field.name!r} is {has}, not {field}"
    extra = [name for name in found.names if name not in wanted.names]
    return f"column {extra[0]!r} is not known" if extra else "the columns stand in another order"


def table_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table from a handful of records, for tests and small corpora."""
    return pa.Table.from_pylist(list(rows), schema=schema)
