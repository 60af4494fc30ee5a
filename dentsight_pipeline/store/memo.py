"""Unchanged work is not redone: which manifest a piece of work gave, by everything that went into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dentsight_pipeline.errors import DataError, IntegrityError
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.canonical import JSON
from dentsight_pipeline.store.names import is_digest, memo_key

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


def key(asset: str, code_version: str, inputs: Mapping[str, str], config: JSON) -> str:
    """The name of a piece of work: the sha256 (hex) of all that decides its result.

    Args:
        asset: The asset's name.
        code_version: The asset's code version.
        inputs: Asset name to the digest of the manifest that is read.
        config: Everything else that matters: settings, recipe digest.

    Raises:
        DataError: The configuration is not JSON.
    """
    work = {"asset": asset, "code_version": code_version, "inputs": dict(inputs), "config": config}
    return canonical.digest(work, f"The memo key of {asset}")


def recall(store: Store, key: str) -> str | None:
    """The digest of the manifest that this work gave, or None when it has to be done.

    None also when the memo itself, the manifest, or an object that it names is damaged or gone: the work is then
    simply done again. The manifest is verified, its objects are looked up and not hashed.
    """
    data = store.blobs.read(memo_key(key))
    if data is None:
        return None
    try:
        digest = canonical.unseal(data, f"Memo {key}", "Do the work again.")["manifest"]
        if not is_digest(digest) or store.missing(store.get_manifest(digest)):
            return None
    except (IntegrityError, DataError, KeyError, TypeError):
        return None
    return digest


def remember(store: Store, key: str, digest: str) -> None:
    """Note that this work gave the manifest with this digest.

    Raises:
        IntegrityError: There is no such manifest; publish it first.
    """
    if not store.has_manifest(digest):
        raise IntegrityError(f"Manifest to remember for {key}", digest, None, "Publish it with `put_manifest` first.")
    store.blobs.write(memo_key(key), canonical.seal({"manifest": digest}, f"Memo {key}"))


def once(store: Store, key: str, make: Callable[[], Manifest]) -> Manifest:
    """What a piece of work gives: recalled where it was done before, else made, published and noted."""
    known = recall(store, key)
    if known is not None:
        return store.get_manifest(known)
    made = make()
    remember(store, key, store.put_manifest(made))
    return made
