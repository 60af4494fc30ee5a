"""Which file names of several exports are the same, without keeping any name.

A stem that proves a source (`leakage.STEM_KINDS_THAT_PROVE`) is kept beside its raw export, never in it, as a hash with
a key that stays in this store: products that leave it tell nothing of a name. Within one export its stems are groups
already (`stem_group`); which images share a source is decided in `leakage.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from dentsight_pipeline.data.json_blocks import json_blocks
from dentsight_pipeline.documents import codec
from dentsight_pipeline.errors import DataError, RefConflictError

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store

STEMS, KEY = "ingest/stems", "ingest/stem-key"


def remember_stems(store: Store, raw_digest: str, group_of: Mapping[str, str]) -> None:
    """Keep the stems of a raw export beside it.

    Args:
        store: Where it is.
        raw_digest: Its digest.
        group_of: Stem → its stem group, of stems that prove a source.
    """
    key = _key(store)
    hashed = {blake2b(stem.encode(), key=key, digest_size=16).hexdigest(): group for stem, group in group_of.items()}
    value = {"stems": store.put_blocks(partial(json_blocks, hashed)).sha256}
    if store.read_ref(f"{STEMS}/{raw_digest}") != value:
        store.write_ref(f"{STEMS}/{raw_digest}", value)


def recall_stems(store: Store, raw_digest: str) -> Mapping[str, str]:
    """Hash of a stem → stem group, of a raw export.

    Raises:
        DataError: Nothing is kept of them: the export was read before it was to be combined with others.
    """
    ref = store.read_ref(f"{STEMS}/{raw_digest}")
    if ref is None:
        raise DataError(
            f"Nothing is known of the file names of export {raw_digest[:12]}, so its sources cannot be told from those "
            "of other exports. Read it again: name its place with --export."
        )
    return codec.read(store.get_bytes(ref["stems"]), dict[str, str], f"the stems of {raw_digest[:12]}")


def carry_stems(store: Store, other: Store, raw_digest: str) -> None:
    """Keep in another store, beside the same raw export, what this one keeps."""
    ref, key = store.read_ref(f"{STEMS}/{raw_digest}"), store.read_ref(KEY)
    if ref is not None and key is not None:
        other.put_bytes(store.get_bytes(ref["stems"]))
        other.write_ref(f"{STEMS}/{raw_digest}", ref)
        other.write_ref(KEY, key)


def one_group(exports: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Stem group → the smallest of the groups that any chain of common stems joins it to.

    Args:
        exports: Of each export stem (or its hash) → stem group.
    """
    first: dict[str, str] = {}
    smaller: dict[str, str] = {}

    def smallest(group: str) -> str:
        while group in smaller:
            group = smaller[group]
        return group

    for group_of in exports:
        for stem, group in group_of.items():
            low, high = sorted((smallest(first.setdefault(stem, group)), smallest(group)))
            if low != high:
                smaller[high] = low
    return {group: smallest(group) for group in smaller}


def _key(store: Store) -> bytes:
    """This store's key, made when it is first needed."""
    known = store.read_ref(KEY)
    if known is None:
        with suppress(RefConflictError):  # another process was first
            store.write_ref(KEY, {"key": secrets.token_hex(32)}, expected=None)
        known = store.read_ref(KEY) or {}
    return bytes.fromhex(known["key"])
