"""Collecting what nobody names: a dry run that makes a plan, and then the removal of what the plan still allows.

An object goes only when no manifest, reference or record names it *and* it is older than the grace period, which
protects the objects of a dataset that is being written right now and has no manifest yet. Manifests, references,
records and memos are never removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.store.names import is_digest, object_key

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store

GRACE = timedelta(days=1)
"""How long an object that nobody names is left alone: longer than any ingestion takes."""

_BATCH = 500
_HEX_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Plan:
    """The result of a dry run."""

    uri: str
    """The store that was looked at."""
    grace: timedelta
    """The grace period in force."""
    unnamed: tuple[tuple[str, int], ...]
    """Digest and size of every object to remove."""
    leftovers: tuple[str, ...]
    """Temporary files and unfinished uploads to remove, by the store's own names."""
    young: int
    """Objects that nobody names but that are within the grace period; they stay."""
    named: int
    """Objects that are named; they stay."""
    manifests: frozenset[str] = field(repr=False)
    """The manifests that were read for this plan."""

    @property
    def size(self) -> int:
        """Bytes of the objects to remove."""
        return sum(size for _, size in self.unnamed)

    @property
    def whole(self) -> Removed:
        """What goes when nothing is spared."""
        return Removed(len(self.unnamed), self.size, len(self.leftovers), spared=0)


@dataclass(frozen=True)
class Removed:
    """What a collection removed."""

    objects: int
    size: int
    """Bytes of the objects removed."""
    leftovers: int
    spared: int
    """Objects of the plan that somebody has named or put again since the dry run."""


def plan(store: Store, *, grace: timedelta = GRACE) -> Plan:
    """The dry run: what `apply` would remove. Nothing is changed.

    Args:
        store: The store.
        grace: Leave alone what is younger. On S3 an object that is put again is made young only once an hour, so
            less than two hours protects less than it says.

    Raises:
        IntegrityError: A manifest, reference or record is damaged; what it names cannot be known, so nothing may go.
        DataError: A manifest of an unknown schema; the same.
    """
    if grace < timedelta(0):
        raise ConfigurationError(f"A grace period cannot be negative: {grace}.")
    limit = store.blobs.now() - grace.total_seconds()
    manifests = frozenset(store.manifest_digests())
    names = _named(store, manifests)
    unnamed, young, named = [], 0, 0
    for key, stat in store.blobs.scan("objects/"):
        digest = key.rpartition("/")[2]
        if not is_digest(digest) or key != object_key(digest):
            continue  # not one of ours: never touched
        if digest in names:
            named += 1
        elif stat.modified > limit:
            young += 1
        else:
            unnamed.append((digest, stat.size))
    leftovers = tuple(name for name, stat in store.blobs.leftovers() if stat.modified <= limit)
    return Plan(store.uri, grace, tuple(unnamed), leftovers, young, named, manifests)


def apply(store: Store, plan: Plan) -> Removed:
    """Remove what the plan names and what is *still* unnamed and old.

    While objects are removed no manifest can be published, so that none ever names a removed object.

    Raises:
        ConfigurationError: The plan was made for another store.
        IntegrityError: A new manifest or record is damaged; nothing was removed.
        StorageError: The store refused, or another collection is running.
    """
    if plan.uri != store.uri:
        raise ConfigurationError(f"The plan was made for {plan.uri}, not for {store.uri}. Make a new one.")
    objects = size = spared = 0
    with store.blobs.collecting() as still_mine:
        limit = store.blobs.now() - plan.grace.total_seconds()
        names = _named(store, set(store.manifest_digests()) - plan.manifests)
        remaining = iter(plan.unnamed)
        while batch := list(islice(remaining, _BATCH)):
            doomed = []
            for digest, object_size in batch:
                stat = store.stat(digest)
                if digest in names or (stat is not None and stat.modified > limit):
                    spared += 1
                elif stat is not None:
                    doomed.append((digest, object_size))
            still_mine()
            store.blobs.remove(object_key(digest) for digest, _ in doomed)
            objects += len(doomed)
            size += sum(object_size for _, object_size in doomed)
        store.blobs.remove_leftovers(plan.leftovers)
    return Removed(objects, size, len(plan.leftovers), spared)


def _named(store: Store, manifests: Iterable[str]) -> set[str]:
    """Every digest that one of these manifests, or any reference or record, names."""
    names: set[str] = set()
    for digest in manifests:
        names.update(entry.sha256 for entry in store.get_manifest(digest).entries.values())
    for text in _documents(store):
        names.update(_HEX_DIGEST.findall(text))
    return names


def _documents(store: Store) -> Iterator[str]:
    """References and records as text. They name manifests; should one name an object, the object stays too."""
    for name in store.refs():
        yield json.dumps(store.read_ref(name))
    products = {key.split("/")[1] for key, _ in store.blobs.scan("records/")}
    for product in sorted(filter(is_digest, products)):
        yield json.dumps(store.records(product))
