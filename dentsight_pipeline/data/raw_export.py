"""A raw export's content as tables: written to its JSON documents at ingestion, and read back for normalisation.

The documents' bytes are what a raw export's digest names. What is in an export is found out in `intake/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pyarrow as pa

from dentsight_pipeline.data import leakage
from dentsight_pipeline.data.brought_mapping import MAPPING, mapping_of_raw
from dentsight_pipeline.data.json_blocks import ROWS_AT_ONCE, Content
from dentsight_pipeline.data.stored_images import Originals, fingerprints_of
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.annotations import RAW_ANNOTATIONS, RAW_IMAGES, REPAIRS, RawCategory, RawSplit
from dentsight_pipeline.documents.facts import RawExportFacts
from dentsight_pipeline.documents.mapping import OwnMapping
from dentsight_pipeline.progress import Progress

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


SCHEMA = "dentsight-raw-export/1"

_Record = TypeVar("_Record", bound=msgspec.Struct)


@dataclass(frozen=True)
class RawExport:
    """Everything that normalisation needs of an export, before or after it was stored.

    Attributes:
        layout: `coco`, `dentex`, `yolo`, `voc` or `csv`.
        splits: Those that exist, in published order.
        repairs: What ingestion mended, a table of schema `REPAIRS`.
        fingerprints: Stored sha256 → fingerprint, as text.
        facts: The facts of its manifest.
        mapping: The mapping that it brings, its images named by their digests; None where it is read by a packaged one.
    """

    layout: str
    splits: tuple[RawSplit, ...]
    repairs: pa.Table
    fingerprints: Mapping[str, str]
    facts: RawExportFacts
    mapping: OwnMapping | None = None

    def sources(self) -> Iterator[leakage.SourceItem]:
        """The images as the grouping by source sees them, in the order of splits and images."""
        for split in self.splits:
            columns = (split.images[name].to_pylist() for name in ("sha256", "stem_group", "stem_kind"))
            for digest, group, kind in zip(*columns, strict=True):
                code = leakage.Fingerprint.from_json(self.fingerprints[digest])
                yield leakage.SourceItem(digest, split.name, group, kind, code)


class _Image(codec.Document, frozen=True, gc=False):
    id: int
    file_name: str
    sha256: str
    original_sha256: str
    width: int
    height: int
    stem_group: str
    stem_kind: str


class _Annotation(codec.Document, frozen=True, gc=False):
    id: int
    image_id: int
    label: str
    bbox: list[float]
    polygons: list[list[float]]


class _Repair(codec.Document, frozen=True, gc=False):
    kind: str
    split: str
    export_image_id: int
    detail: str
    export_annotation_id: int | None = None
    image: str | None = None


class _Split(codec.Document, frozen=True):
    name: str
    file: str
    categories: tuple[RawCategory, ...]
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]


class _Annotations(codec.Document, frozen=True):
    """`annotations.json`; its long lists are read some records at a time."""

    schema: str
    layout: str
    splits: tuple[_Split, ...]


def read_raw(store: Store, raw: Manifest, progress: Progress | None = None) -> RawExport:
    """The content of a stored raw export.

    Args:
        store: Where it is.
        raw: A manifest of kind `raw-export`.
        progress: Called as images are decoded, where their fingerprints were lost.

    Raises:
        DocumentError: One of its documents is not what ingestion writes.
        IntegrityError: One is missing or was changed.
    """
    from dentsight_pipeline.store.content import read_bytes

    path = "annotations.json"
    document = codec.read(read_bytes(store, raw, path), _Annotations, path)
    splits = tuple(
        RawSplit(
            split.name,
            split.file,
            split.categories,
            _table(split.images, _Image, RAW_IMAGES, f"{path}, images of {split.name}"),
            _table(split.annotations, _Annotation, RAW_ANNOTATIONS, f"{path}, annotations of {split.name}"),
        )
        for split in document.splits
    )
    repairs = codec.read(read_bytes(store, raw, "repairs.json"), list[msgspec.Raw], "repairs.json")
    return RawExport(
        document.layout,
        splits,
        _table(repairs, _Repair, REPAIRS, "repairs.json"),
        fingerprints_of(store, raw, progress),
        raw.facts_as(RawExportFacts),
        mapping_of_raw(store, raw.digest),
    )


def _table(records: Sequence[msgspec.Raw], kind: type[_Record], schema: pa.Schema, where: str) -> pa.Table:
    """A table of JSON records whose fields are its columns."""
    tables = [schema.empty_table()]
    for start in range(0, len(records), ROWS_AT_ONCE):
        rows = codec.read(b"[" + b",".join(records[start : start + ROWS_AT_ONCE]) + b"]", list[kind], where)
        columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
        tables.append(pa.Table.from_pydict(columns, schema))
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def raw_documents(raw: RawExport, originals: Originals) -> dict[str, Content]:
    """The JSON documents of a raw export by path, long lists as tables."""
    splits = [
        {
            "name": split.name,
            "file": split.file,
            "categories": codec.plain(split.categories),
            "images": split.images,
            "annotations": split.annotations,
        }
        for split in raw.splits
    ]
    return {
        "annotations.json": {"schema": SCHEMA, "layout": raw.layout, "splits": splits},
        "repairs.json": raw.repairs,
        "originals.json": originals,
        **({} if raw.mapping is None else {MAPPING: raw.mapping}),
    }
