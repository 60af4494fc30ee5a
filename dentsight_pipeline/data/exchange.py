"""Datasets in the forms that others read: Hugging Face Parquet with the images inside, and Croissant metadata.

Writing only: nothing of the pipeline reads these files back. A COCO split goes in, `datasets.load_dataset("parquet",
data_files="train.parquet")` comes out, with `Image` and `ClassLabel` features. The bytes are a function of the content
and of the pyarrow version; nothing volatile is written. The COCO records themselves belong in `coco.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dentsight_pipeline.errors import DataError

ROW_GROUP_BYTES = 32 * 2**20
"""Image bytes after which a row group is closed: what the writer holds in memory."""
ROW_GROUP_ROWS = 512

_OBJECTS = pa.struct(
    [
        ("id", pa.list_(pa.field("element", pa.int64()))),
        ("bbox", pa.list_(pa.field("element", pa.list_(pa.field("element", pa.float64()), 4)))),
        ("category", pa.list_(pa.field("element", pa.int64()))),
        ("area", pa.list_(pa.field("element", pa.float64()))),
        ("loose", pa.list_(pa.field("element", pa.bool_()))),
    ]
)
_COLUMNS = {
    "image_id": pa.int64(),
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "width": pa.int64(),
    "height": pa.int64(),
    "sha256": pa.string(),
    "source_group": pa.string(),
    "clean": pa.bool_(),
    "partial_annotation": pa.bool_(),
    "objects": _OBJECTS,
}


def write_parquet(coco: Mapping[str, Any], image_bytes_of: Callable[[dict[str, Any]], bytes], out: Path) -> None:
    """Write one COCO split as a Parquet file that `datasets` loads with its features.

    One row an image, in the order of the split: `image_id`, `image` (the encoded bytes, decoded on access), `width`,
    `height`, `sha256`, `source_group`, `clean`, `partial_annotation` and `objects`, which holds lists of equal length:
    `id`, `bbox` ([x, y, width, height], pixels), `category` (a `ClassLabel`: category id - 1), `area` (px²) and
    `loose`. An image without annotations has empty lists.

    Row groups are written one by one, so that memory does not grow with the split; the file appears whole or not at
    all.

    Args:
        coco: `images`, `annotations`, `categories` of one split of a normalised dataset or subset.
        image_bytes_of: Gives the encoded bytes of an image record.
        out: The file to write.

    Raises:
        DataError: The category ids are not 1 to n, or an annotation names an image that is not there.
    """
    schema = _schema(_class_names(coco["categories"]))
    partial = out.with_name(out.name + ".part")
    try:
        with pq.ParquetWriter(partial, schema, **_writer_options()) as writer:
            for rows in _row_groups(coco, image_bytes_of):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=ROW_GROUP_ROWS)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def croissant(
    name: str,
    licence: str,
    description: str,
    splits: Mapping[str, tuple[str, str, int]],
    classes: Sequence[str],
    *,
    url: str | None = None,
) -> dict[str, Any]:
    """Describe a dataset in Croissant 1.0 (docs.mlcommons.org/croissant), the JSON-LD that dataset search reads.

    Args:
        name: The dataset's name.
        licence: The licence's name or address, as the source states it.
        description: A few sentences for people.
        splits: For each split the path of its Parquet file relative to `croissant.json`, its sha256 and its rows.
        classes: Class names in the order of the labels 0, 1, ….
        url: Where the dataset is found; left out when it is not published.

    Returns:
        A document that `mlcroissant` validates, with one record set a split and one for the classes.
    """
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": description,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": licence,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": f"{split}.parquet",
                "name": f"{split}.parquet",
                "description": f"{rows} images with their objects.",
                "contentUrl": path,
                "encodingFormat": "application/x-parquet",
                "sha256": sha256,
            }
            for split, (path, sha256, rows) in splits.items()
        ],
        "recordSet": [_class_records(classes), *(_split_records(split, rows[2]) for split, rows in splits.items())],
    }
    return document if url is None else {**document, "url": url}


def _row_groups(
    coco: Mapping[str, Any], image_bytes_of: Callable[[dict[str, Any]], bytes]
) -> Iterator[list[dict[str, Any]]]:
    """Rows in groups of bounded size."""
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in coco["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    if orphans := of_image.keys() - {image["id"] for image in coco["images"]}:
        raise DataError(
            f"Annotation {of_image[min(orphans)][0]['id']} names image {min(orphans)}, which the split does not hold. "
            "Normalise the export again."
        )
    rows: list[dict[str, Any]] = []
    size = 0
    for image in coco["images"]:
        rows.append(_row(image, image_bytes_of(image), of_image.get(image["id"], [])))
        size += len(rows[-1]["image"]["bytes"])
        if size >= ROW_GROUP_BYTES or len(rows) >= ROW_GROUP_ROWS:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _row(image: dict[str, Any], data: bytes, annotations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One image as a row of the table."""
    return {
        "image_id": image["id"],
        "image": {"bytes": data, "path": Path(image["file_name"]).name},
        "width": image["width"],
        "height": image["height"],
        "sha256": image["sha256"],
        "source_group": image["source_group"],
        "clean": image["clean"],
        "partial_annotation": image.get("partial_annotation", False),
        "objects": {
            "id": [a["id"] for a in annotations],
            "bbox": [[float(value) for value in a["bbox"]] for a in annotations],
            "category": [a["category_id"] - 1 for a in annotations],
            "area": [float(a["area"]) for a in annotations],
            "loose": [bool(a.get("loose", False)) for a in annotations],
        },
    }


def _class_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names in the order of their ids, which must be dense from 1."""
    by_id = sorted(categories, key=lambda category: category["id"])
    if [category["id"] for category in by_id] != list(range(1, len(by_id) + 1)):
        raise DataError(
            f"Category ids are {[category['id'] for category in by_id]}; class labels need 1 to {len(by_id)}. "
            "Export a normalised dataset or a subset of one."
        )
    return [category["name"] for category in by_id]


def _schema(classes: Sequence[str]) -> pa.Schema:
    """The Arrow schema with the metadata from which `datasets` restores its features."""

    def value(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "_type": "Value"}

    def listed(feature: dict[str, Any], **more: int) -> dict[str, Any]:
        return {"feature": feature, **more, "_type": "List"}

    features = {
        "image_id": value("int64"),
        "image": {"_type": "Image"},
        "width": value("int64"),
        "height": value("int64"),
        "sha256": value("string"),
        "source_group": value("string"),
        "clean": value("bool"),
        "partial_annotation": value("bool"),
        "objects": {
            "id": listed(value("int64")),
            "bbox": listed(listed(value("float64"), length=4)),
            "category": listed({"names": list(classes), "_type": "ClassLabel"}),
            "area": listed(value("float64")),
            "loose": listed(value("bool")),
        },
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(_COLUMNS.items()), metadata=metadata)


def _writer_options() -> dict[str, Any]:
    """Images are compressed already; the other columns are small. Page indexes let viewers seek."""
    return {
        "compression": "none",
        "use_dictionary": False,
        "write_statistics": ["image_id", "width", "height", "sha256", "source_group", "clean", "partial_annotation"],
        "write_page_index": True,
    }


def _class_records(classes: Sequence[str]) -> dict[str, Any]:
    """The record set that names the labels."""
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "description": "The class of each value of objects/category.",
        "key": {"@id": "classes/label"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": "classes/label",
                "name": "label",
                "description": "The label.",
                "dataType": "cr:Int64",
            },
            {
                "@type": "cr:Field",
                "@id": "classes/name",
                "name": "name",
                "description": "The class.",
                "dataType": "sc:Text",
            },
        ],
        "data": [{"classes/label": label, "classes/name": name} for label, name in enumerate(classes)],
    }


def _split_records(split: str, rows: int) -> dict[str, Any]:
    """The record set of one split's Parquet file."""

    def field(
        column: str, data_type: str, description: str, path: str | None = None, repeated: bool = False
    ) -> dict[str, Any]:
        identity = f"{split}/{column}" if path is None or column == "image" else f"{split}/{column}/{path}"
        source: dict[str, Any] = {"fileObject": {"@id": f"{split}.parquet"}, "extract": {"column": column}}
        if path is not None:
            source["transform"] = {"jsonPath": path}
        record = {"@type": "cr:Field", "@id": identity, "name": identity.rpartition("/")[2]}
        record |= {"description": description, "dataType": data_type, "source": source}
        return {**record, "repeated": True} if repeated else record

    objects = {
        "@type": "cr:Field",
        "@id": f"{split}/objects",
        "name": "objects",
        "description": "The annotated boxes of the image; all lists have one length.",
        "subField": [
            field("objects", "cr:Int64", "Annotation id, unique over all splits.", "id", True),
            field("objects", "cr:Float64", "x, y, width, height in pixels.", "bbox", True),
            field("objects", "cr:Int64", "Class label, see the record set `classes`.", "category", True),
            field("objects", "cr:Float64", "Area in square pixels.", "area", True),
            field("objects", "sc:Boolean", "Whether the source uses this label loosely.", "loose", True),
        ],
    }
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"The {split} split, {rows} images.",
        "field": [
            field("image_id", "cr:Int64", "Image id, unique over all splits."),
            field("image", "sc:ImageObject", "The X-ray.", "bytes"),
            field("width", "cr:Int64", "Width in pixels."),
            field("height", "cr:Int64", "Height in pixels."),
            field("sha256", "sc:Text", "SHA-256 of the image's bytes."),
            field("source_group", "sc:Text", "Equal for images of one source."),
            field("clean", "sc:Boolean", "Whether the image shares no source with any other split."),
            field("partial_annotation", "sc:Boolean", "Whether conditions are annotated without teeth."),
            objects,
        ],
    }


_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The JSON-LD context of Croissant 1.0, as its specification requires it to be embedded."""
