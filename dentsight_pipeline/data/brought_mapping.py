"""The mapping that a raw export brings; asked in every run, so nothing here loads what reads tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.mapping import OwnMapping

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store

MAPPING = "mapping.json"
"""The file of a raw export that says how it is to be read, where it brings a mapping of its own."""


def mapping_of_raw(store: Store, digest: str) -> OwnMapping | None:
    """The mapping that a raw export brings; None where it brings none, or is not in the store."""
    from dentsight_pipeline.store.content import read_bytes

    raw = store.get_manifest(digest) if store.has_manifest(digest) else None
    if raw is None or MAPPING not in raw.entries:
        return None
    return codec.read(read_bytes(store, raw, MAPPING), OwnMapping, MAPPING)
