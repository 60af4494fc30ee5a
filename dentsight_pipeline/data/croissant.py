"""Croissant metadata (docs.mlcommons.org/croissant) of an exported subset: the JSON-LD that dataset search reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlcroissant as mlc

from dentsight_pipeline.data.exchange import description
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.store.local import hash_file

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest

_COLUMNS = (
    ("image_id", mlc.DataType.INT64, "Image id, unique over all splits."),
    ("width", mlc.DataType.INT64, "Width in pixels."),
    ("height", mlc.DataType.INT64, "Height in pixels."),
    ("sha256", mlc.DataType.TEXT, "SHA-256 of the image's bytes."),
    ("source_group", mlc.DataType.TEXT, "Equal for images of one source."),
    ("clean", mlc.DataType.BOOL, "Whether the image shares no source with any other split."),
    ("partial_annotation", mlc.DataType.BOOL, "Whether conditions are annotated without teeth."),
)
_OBJECTS = (
    ("id", mlc.DataType.INT64, "Annotation id, unique over all splits."),
    ("bbox", mlc.DataType.FLOAT64, "x, y, width, height in pixels."),
    ("category", mlc.DataType.INT64, "Class label, see the record set `classes`."),
    ("area", mlc.DataType.FLOAT64, "Area in square pixels."),
    ("loose", mlc.DataType.BOOL, "Whether the source uses this label loosely."),
)


def write_croissant(subset: Manifest, parquet: Mapping[str, Path], out: Path) -> None:
    """Describe the Parquet files of `exchange.write_huggingface`: a record set a split, and one for the classes.

    Args:
        subset: The manifest that they were made from.
        parquet: The file of each split.
        out: The file to write; it names the others by their way from its folder.
    """
    facts = subset.facts_as(SubsetFacts)
    metadata = mlc.Metadata(
        name=f"dentsight-{subset.kind}",
        description=description(subset),
        license=list(dict.fromkeys(corpus.licence for corpus, _ in facts.by_export.values())),
        url=facts.source.url or None,
        distribution=[_file(split, path, out.parent) for split, path in parquet.items()],
        record_sets=[_classes(facts), *(_records(split, facts.splits[split].images) for split in parquet)],
    )
    out.write_text(json.dumps(metadata.to_json(), indent=1, default=str) + "\n", "utf-8")


def _file(split: str, path: Path, folder: Path) -> mlc.FileObject:
    return mlc.FileObject(
        id=f"{split}.parquet",
        name=f"{split}.parquet",
        content_url=Path(os.path.relpath(path, folder)).as_posix(),
        encoding_formats=["application/x-parquet"],
        sha256=hash_file(path)[0],
    )


def _classes(facts: SubsetFacts) -> mlc.RecordSet:
    return mlc.RecordSet(
        id="classes",
        name="classes",
        description="The class of each value of objects/category.",
        key=["classes/label"],
        fields=[
            mlc.Field(id="classes/label", name="label", description="The label.", data_types=[mlc.DataType.INT64]),
            mlc.Field(id="classes/name", name="name", description="The class.", data_types=[mlc.DataType.TEXT]),
        ],
        data=[{"classes/label": label, "classes/name": name} for label, name in enumerate(facts.classes)],
    )


def _records(split: str, rows: int) -> mlc.RecordSet:
    plain = [_field(split, name, kind, text) for name, kind, text in _COLUMNS]
    image = _field(split, "image", mlc.DataType.IMAGE_OBJECT, "The X-ray.", path="bytes")
    objects = mlc.Field(
        id=f"{split}/objects",
        name="objects",
        description="The annotated boxes of the image; all lists have one length.",
        sub_fields=[
            _field(split, "objects", kind, text, path=name, of=f"objects/{name}", repeated=True)
            for name, kind, text in _OBJECTS
        ],
    )
    covered = _field(split, "covered", mlc.DataType.INT64, "Classes that were looked for.", repeated=True)
    text = f"The {split} split, {rows} images."
    return mlc.RecordSet(id=split, name=split, description=text, fields=[*plain, image, covered, objects])


def _field(
    split: str, column: str, kind: Any, text: str, *, path: str = "", of: str = "", repeated: bool = False
) -> mlc.Field:
    """A field read from a column, or from what lies at a path inside it."""
    identity = of or column
    return mlc.Field(
        id=f"{split}/{identity}",
        name=identity.rpartition("/")[2],
        description=text,
        data_types=[kind],
        repeated=repeated or None,
        source=mlc.Source(
            file_object=f"{split}.parquet",
            extract=mlc.Extract(column=column),
            transforms=[mlc.Transform(json_path=path)] if path else [],
        ),
    )
