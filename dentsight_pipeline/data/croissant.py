"""Croissant metadata (docs.mlcommons.org/croissant) of an exported subset: the JSON-LD that dataset search reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlcroissant as mlc

from dentsight_pipeline.data.exchange import description
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.store.local import hash_file
from dentsight_pipeline.store.names import object_key

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest

_FORMATS = {
    "arrow": "application/vnd.apache.arrow.file",
    "json": "application/json",
    "parquet": "application/x-parquet",
}
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
    distribution = [_file(split, path, out.parent) for split, path in parquet.items()]
    record_sets = [_classes(facts), *(_records(split, facts.splits[split].images) for split in parquet)]
    out.write_bytes(_described(subset, distribution, record_sets))


def croissant_of(subset: Manifest) -> bytes:
    """Describe a subset as it lies in the store: its documents and tables, by their digests."""
    documents = {path: entry for path, entry in subset.entries.items() if not path.startswith("images/")}
    distribution = [
        mlc.FileObject(
            id=path,
            name=path,
            content_url=object_key(entry.sha256),
            encoding_formats=[_FORMATS.get(path.rpartition(".")[2], "application/octet-stream")],
            sha256=entry.sha256,
        )
        for path, entry in documents.items()
    ]
    return _described(subset, distribution, [_classes(subset.facts_as(SubsetFacts))])


def _described(subset: Manifest, distribution: Sequence[mlc.FileObject], record_sets: list[mlc.RecordSet]) -> bytes:
    facts = subset.facts_as(SubsetFacts)
    responsible: dict[str, Any] = dict(_responsible(facts))  # fields of several types
    metadata = mlc.Metadata(
        name=f"dentsight-{subset.kind}",
        description=description(subset),
        license=list(dict.fromkeys(corpus.licence for corpus, _ in facts.by_export.values())),
        url=facts.source.url or None,
        distribution=[*distribution],
        record_sets=record_sets,
        **responsible,
    )
    return f"{json.dumps(metadata.to_json(), indent=1, default=str)}\n".encode()


def _responsible(facts: SubsetFacts) -> dict[str, str | list[str]]:
    """Croissant's RAI fields, as far as the subset's facts say something; what a person has to say is left out."""
    privacy, exports = facts.privacy, [corpus.name for corpus, _ in facts.by_export.values()]
    return {
        "data_collection": f"Exports: {', '.join(exports)}.",
        "data_preprocessing_protocol": [f"Mended by rule: {kind}, {count}." for kind, count in facts.repairs.items()]
        + [f"Left out by name: {name}, {count} annotations." for name, count in facts.dropped.items() if count],
        "data_limitations": [*_looked_for(facts), *_shared(facts), *_loose(facts)],
        "personal_sensitive_information": [
            f"Panoramic X-rays are health data. {privacy.names_replaced} file names were replaced, and metadata was "
            f"taken from {privacy.images_with_metadata} images."
        ],
    }


def _looked_for(facts: SubsetFacts) -> Iterator[str]:
    for name, (_, mapping) in facts.by_export.items():
        if mapping.coverage:
            yield f"In {name}, looked for: {', '.join(mapping.coverage.classes)}."


def _shared(facts: SubsetFacts) -> Iterator[str]:
    for name, split in (("valid", facts.leakage.valid), ("test", facts.leakage.test)):
        if split and split.shared_with_any:
            yield f"{split.shared_with_any} of {split.images} {name} images share their source with another split."


def _loose(facts: SubsetFacts) -> Iterator[str]:
    if facts.loose_classes:
        yield f"Labelled loosely by its source: {', '.join(facts.loose_classes)}."


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
