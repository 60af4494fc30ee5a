"""Splits as they lie in the store: `<split>/images.arrow` and `<split>/annotations.arrow` of a dataset or subset.

Every reader of a normalised dataset or subset goes through here; what the columns mean is said in
`documents/annotations.py`. What a raw export says is read in `raw_export.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dentsight_pipeline.documents.annotations import ANNOTATIONS, IMAGES, Split, read_table, write_table
from dentsight_pipeline.documents.facts import DatasetFacts
from dentsight_pipeline.documents.names import SPLITS
from dentsight_pipeline.errors import DataError

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Entry, Manifest
    from dentsight_pipeline.store.objects import Store


def images_file(split: str) -> str:
    """The path of a split's images in its manifest."""
    return f"{split}/images.arrow"


def annotations_file(split: str) -> str:
    """The path of a split's annotations in its manifest."""
    return f"{split}/annotations.arrow"


def split_names(manifest: Manifest) -> list[str]:
    """The splits that a dataset or subset has, in published order."""
    return [name for name in SPLITS if images_file(name) in manifest.entries]


def read_split(store: Store, manifest: Manifest, name: str) -> Split:
    """One split, verified and mapped into memory from the store's local file.

    Raises:
        DataError: There is no such split, or its tables have other columns.
        IntegrityError: A table is missing or was changed.
    """
    if images_file(name) not in manifest.entries:
        has = ", ".join(split_names(manifest)) or "none"
        raise DataError(f"The {manifest.kind} {manifest.digest[:12]} has no split {name!r}. It has {has}.")
    return Split(
        name,
        manifest.facts_as(DatasetFacts).classes,
        read_stored(store, manifest, images_file(name), IMAGES),
        read_stored(store, manifest, annotations_file(name), ANNOTATIONS),
    )


def read_splits(store: Store, manifest: Manifest) -> dict[str, Split]:
    """All splits by name, in published order; raises as `read_split` does."""
    return {name: read_split(store, manifest, name) for name in split_names(manifest)}


def of_export(split: Split, export: str) -> Split:
    """The part of a split that came from one export."""
    images = split.images.filter(pc.equal(split.images["export"], export))  # pyright: ignore[reportAttributeAccessIssue]
    kept = np.isin(split.annotation_image_ids, images["id"].to_numpy())
    return replace(split, images=images, annotations=split.annotations.filter(pa.array(kept)))


def read_stored(store: Store, manifest: Manifest, path: str, schema: pa.Schema) -> pa.Table:
    """One Arrow file of a manifest, verified and mapped into memory; raises as `read_split` does."""
    entry = manifest.entry(path)
    file = store.local_path(entry.sha256)
    if (size := file.stat().st_size) != entry.size:
        raise DataError(f"{path!r} has {size} bytes, but {manifest.kind} {manifest.digest} says {entry.size}.")
    return read_table(file, schema, f"{path} of {manifest.kind} {manifest.digest[:12]}")


def split_tables(splits: Iterable[Split]) -> dict[str, pa.Table]:
    """The tables of splits, by their path in a manifest."""
    tables: dict[str, pa.Table] = {}
    for split in splits:
        tables |= {images_file(split.name): split.images, annotations_file(split.name): split.annotations}
    return tables


def split_files(splits: Iterable[Split]) -> dict[str, bytes]:
    """The files of splits, by their path in a manifest."""
    return {path: write_table(table) for path, table in split_tables(splits).items()}


def store_tables(store: Store, tables: Mapping[str, pa.Table]) -> dict[str, Entry]:
    """Store tables one after the other; gives their entries by path."""
    return {path: _stored(store, write_table(table)) for path, table in tables.items()}


def _stored(store: Store, data: bytes) -> Entry:
    from dentsight_pipeline.store.manifest import Entry

    return Entry(store.put_bytes(data), len(data))
