"""Each product says how it came about; no record or entry of the log is gone, slipped in or contradicts the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dentsight_pipeline.documents.lineage import ChainItem, Record, record_of
from dentsight_pipeline.errors import DataError, DocumentError
from dentsight_pipeline.lineage.walk import Walk, address, name_of
from dentsight_pipeline.store import log as logs
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.names import record_key
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.store.records import Content


@dataclass(frozen=True)
class Told:
    """The records of one product.

    Attributes:
        beside: Those that lie beside it, by digest; None when one was changed.
        logged: Those of the log, by digest of the record.
    """

    beside: Mapping[str, Content] | None
    logged: Mapping[str, logs.LogEntry]

    def contents(self) -> list[Content]:
        """Them, the oldest first; those of the log where one was changed."""
        if self.beside is None:
            return [entry.record for entry in self.logged.values()]
        return list(self.beside.values())


@dataclass(frozen=True)
class Records:
    """The records of a chain.

    Attributes:
        log: The log, read after the records: whoever writes one meanwhile has written its entry before.
        settled: Up to this entry every record lies beside its product too.
        told: By product.
        records: By product, the oldest first.
    """

    log: logs.LogReading
    settled: int
    told: dict[str, Told]
    records: dict[str, list[Record]]


def read_records(store: Store, walked: Walk) -> Records:
    """The records beside the products of a chain, and the log."""
    settled, beside = logs.settled(store), {digest: _beside(store, digest) for digest in walked.products}
    log = logs.read(store)
    told = {item: Told(kept, {entry.record_digest: entry for entry in log.of(item)}) for item, kept in beside.items()}
    return Records(log, settled, told, {digest: list(_whole(item, digest)) for digest, item in told.items()})


def _whole(told: Told, product: str) -> Iterator[Record]:
    """The records that have the form of one."""
    for content in told.contents():
        with suppress(DocumentError):
            yield record_of(content, product)


def _beside(store: Store, digest: str) -> Mapping[str, Content] | None:
    try:
        return dict(store.named_records(digest))
    except DataError:
        return None


def misrecorded(walked: Walk, kept: Records, manifest: Manifest) -> list[str]:
    """What of a product's records does not hold, one sentence each."""
    told, records = kept.told[manifest.digest], kept.records[manifest.digest]
    if told.beside is None:
        found = [f"A record of how the {name_of(manifest)} came about was changed."]
    else:
        found = [*_unlike_the_log(kept, told, manifest)]
        if not (found or any(record.asset for record in records) or _made_within(walked, kept, manifest)):
            found.append(f"Nothing records how the {name_of(manifest)} came about.")
    if len(records) < len(told.contents()):
        found.append(f"A record of how the {name_of(manifest)} came about does not have the form of a record.")
    return [*found, *_contradictions(manifest, records)]


def _unlike_the_log(kept: Records, told: Told, manifest: Manifest) -> Iterator[str]:
    beside = set(told.beside or {})
    for name, entry in told.logged.items():
        if name not in beside and entry.sequence <= kept.settled:
            yield (
                f"A record of how the {name_of(manifest)} came about was removed; entry {entry.sequence} of the log "
                "still has it."
            )
    for name in sorted(beside - told.logged.keys()):
        yield (
            f"A record of the {name_of(manifest)} ({name[:12]}) is not in the log: its entry was removed, or the "
            "record was slipped in."
        )


def _made_within(walked: Walk, kept: Records, manifest: Manifest) -> bool:
    """Whether a product was made inside the step of one above it, whose record then stands for both.

    That step did not read it: the product above names it, the inputs of that product's records do not.
    """
    above = [kept.records.get(naming.by) for naming in walked.named[manifest.digest]]
    return any(all(manifest.digest not in record.inputs.values() for record in records) for records in above if records)


def _contradictions(manifest: Manifest, records: Sequence[Record]) -> Iterator[str]:
    """A record whose inputs are not those that the manifest names; the first of them."""
    told = [(asset, digest) for record in records for asset, digest in record.inputs.items()]
    for asset, digest in [(asset, digest) for asset, digest in told if manifest.inputs.get(asset, digest) != digest][
        :1
    ]:
        named = f"the manifest names {manifest.inputs[asset][:12]}"
        yield f"A record of the {name_of(manifest)} says that it was made from {asset} {digest[:12]}, but {named}."


def record_items(store: Store, kept: Records) -> Iterator[ChainItem]:
    """Every record of the chain that the log has."""
    for digest, told in kept.told.items():
        for name, entry in told.logged.items():
            place = address(store, record_key(digest, name))
            yield ChainItem(kind="record", digest=name, path=place, name=f"log entry {entry.sequence}", of=digest)
