"""The log of a store: one entry for every record of how a product came about, each naming the one before it.

A record by itself could be removed without a trace. Here every record is first written into a numbered entry that
carries the sha256 of the entry before it, so an entry that is removed, changed or slipped in breaks the chain, and one
cut off at the end no longer reaches the head that was noted: in the store (`refs/lineage/head`), in every release's
signed statement and in every materialisation's metadata.

    log/000000000042.json   {"schema", "sequence": 42, "previous": <sha256 of entry 41>, "product", "record"}

Any number of writers, on one disk or on S3: an entry is created only where there is none, so two writers never share a
number. A writer that dies between entry and record is finished by the next one. What is *in* a record is decided by
whoever writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.errors import IntegrityError, RefConflictError
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.names import check_digest, record_key

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store

SCHEMA = "dentsight-log/1"
HEAD_REF = "lineage/head"
_FOLDER = "log/"
_REMEDY = "Restore the store's log from a backup; until then nothing that it covers can be believed."


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """The newest entry, as it is noted elsewhere."""

    sequence: int
    """1 for the first entry, one more for each."""
    digest: str
    """sha256 of the entry's bytes, which name the entry before it."""

    def __str__(self) -> str:
        return f"{self.sequence}:{self.digest}"


@dataclass(frozen=True)
class LogEntry:
    """One entry of the log."""

    sequence: int
    digest: str
    previous: str | None
    """sha256 of the entry before; None for the first."""
    product: str
    """Digest of the product's manifest."""
    record: Mapping[str, Any]

    @property
    def head(self) -> Head:
        """This entry as a head."""
        return Head(self.sequence, self.digest)

    @property
    def record_digest(self) -> str:
        """The name under which the store keeps the record."""
        return canonical.digest(dict(self.record), f"A record of {self.product}")


@dataclass(frozen=True)
class LogReading:
    """The whole log, verified.

    Attributes:
        entries: All entries that hang together, oldest first.
        faults: What is wrong, one sentence each; empty when intact.
    """

    entries: tuple[LogEntry, ...]
    faults: tuple[str, ...]

    @property
    def head(self) -> Head | None:
        """The newest entry that hangs together with the first."""
        return self.entries[-1].head if self.entries else None

    def of(self, product: str) -> list[LogEntry]:
        """The entries about one product, oldest first."""
        return [entry for entry in self.entries if entry.product == product]

    def holds(self, head: Head) -> bool:
        """Whether a head noted earlier is still part of the log."""
        return 0 < head.sequence <= len(self.entries) and self.entries[head.sequence - 1].digest == head.digest


def append(store: Store, product: str, record: Mapping[str, Any]) -> LogEntry:
    """Record how a product came about, in the log and beside the product.

    Args:
        store: The store.
        product: Digest of the product's manifest.
        record: JSON; times, hosts and run ids belong here.

    Returns:
        The entry; note its `head`.

    Raises:
        IntegrityError: An entry that this one would follow was changed or removed.
        StorageError: The store refused.
    """
    check_digest(product, "a product")
    while True:
        newest = _settle(store)
        sequence = newest.sequence + 1 if newest else 1
        document = {
            "schema": SCHEMA,
            "sequence": sequence,
            "previous": newest.digest if newest else None,
            "product": product,
            "record": dict(record),
        }
        data = canonical.dumps(document, f"A log entry of {product}")
        if store.blobs.swap(_key(sequence), data, None):
            entry = _parse(sequence, data)
            store.append_record(product, entry.record)
            _advance(store, entry.head)
            return entry


def head(store: Store) -> Head | None:
    """The newest entry, found without reading the whole log; None when nothing was logged yet.

    Raises:
        IntegrityError: The noted head, or an entry after it, was changed or removed.
    """
    newest = None
    for entry in _after(store, _noted(store)):
        newest = entry.head
    return newest or _noted(store)


def settled(store: Store) -> int:
    """Up to this sequence number every record lies beside its product too; 0 when that cannot be told."""
    try:
        noted = _noted(store)
    except IntegrityError:  # damaged: `read` says so
        return 0
    return noted.sequence if noted else 0


def read(store: Store, *, workers: int = 16) -> LogReading:
    """The whole log, every entry hashed and held against its neighbours.

    Args:
        store: The store.
        workers: Threads; reading small documents from a bucket is all waiting.
    """
    faults: list[str] = []
    try:
        noted = _noted(store)
    except IntegrityError as error:
        noted = None
        faults.append(f"The noted head of the log cannot be read: {error}")
    names = sorted(key for key, _ in store.blobs.scan(_FOLDER))
    with ThreadPoolExecutor(workers) as pool:
        contents = dict(zip(names, pool.map(store.blobs.read, names), strict=True))
    entries: list[LogEntry] = []
    while (data := contents.pop(_key(len(entries) + 1), None)) is not None:
        sequence = len(entries) + 1
        try:
            entry = _parse(sequence, data)
        except IntegrityError as error:
            faults.append(str(error))
            break
        previous = entries[-1].digest if entries else None
        if entry.previous != previous:
            faults.append(f"Entry {sequence - 1} of the log was changed: entry {sequence} names another one before it.")
            break
        entries.append(entry)
    missing = len(entries) + 1
    if contents and not faults:
        beyond = max(int(name.removeprefix(_FOLDER).removesuffix(".json")) for name in contents if _is_entry(name))
        faults.append(f"Entry {missing} of the log was removed: there are entries up to {beyond}.")
    if noted is not None and not faults:
        if noted.sequence > len(entries):
            cut = f"The log was cut off: its noted head is entry {noted.sequence}, but it ends at {len(entries)}."
            faults.append(cut)
        elif entries[noted.sequence - 1].digest != noted.digest:
            faults.append(f"The log was written anew: entry {noted.sequence} is not the one that was noted as head.")
    # Whoever appends first notes the newest entry, so that never more than one is not noted yet.
    if not faults and len(entries) - (noted.sequence if noted else 0) > 1:
        faults.append("The note of the log's head was removed or set back, so its end cannot be proved.")
    return LogReading(tuple(entries), tuple(faults))


def _settle(store: Store) -> Head | None:
    """The newest entry, after writing what a killed writer left undone beside the products."""
    noted = _noted(store)
    newest = noted
    for entry in _after(store, noted):
        if store.blobs.stat(record_key(entry.product, entry.record_digest)) is None:
            store.append_record(entry.product, entry.record)
        newest = entry.head
    if newest is not None and newest != noted:
        _advance(store, newest)
    return newest


def _after(store: Store, noted: Head | None) -> list[LogEntry]:
    """The entries after the noted head, each checked against the one before it."""
    previous = noted
    if noted is not None:
        data = store.blobs.read(_key(noted.sequence))
        found = None if data is None else sha256(data).hexdigest()
        if found != noted.digest:
            raise IntegrityError(f"Entry {noted.sequence} of the log of {store.uri}", noted.digest, found, _REMEDY)
    entries = []
    while True:
        sequence = previous.sequence + 1 if previous else 1
        data = store.blobs.read(_key(sequence))
        if data is None:
            return entries
        entry = _parse(sequence, data)
        if entry.previous != (previous.digest if previous else None):
            what = f"Entry {sequence - 1} of the log of {store.uri}"
            raise IntegrityError(what, str(entry.previous), previous.digest if previous else None, _REMEDY)
        entries.append(entry)
        previous = entry.head


def _noted(store: Store) -> Head | None:
    value = store.read_ref(HEAD_REF)
    return Head(value["sequence"], value["digest"]) if value else None


def _advance(store: Store, newest: Head) -> None:
    """Note a head, unless a later one is noted already."""
    while True:
        value = store.read_ref(HEAD_REF)
        if value is not None and value["sequence"] >= newest.sequence:
            return
        try:
            store.write_ref(HEAD_REF, {"sequence": newest.sequence, "digest": newest.digest}, expected=value)
        except RefConflictError:
            continue
        return


def _key(sequence: int) -> str:
    return f"{_FOLDER}{sequence:012d}.json"


def _is_entry(key: str) -> bool:
    return key.removeprefix(_FOLDER).removesuffix(".json").isdigit()


def _parse(sequence: int, data: bytes) -> LogEntry:
    digest = sha256(data).hexdigest()
    try:
        document = canonical.loads(data)
        if (document["schema"], document["sequence"]) != (SCHEMA, sequence):
            raise ValueError(f"it says {document['schema']!r}, entry {document['sequence']!r}")
        if canonical.dumps(document, "A log entry") != data:
            raise ValueError("not canonical")
        return LogEntry(sequence, digest, document["previous"], document["product"], document["record"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"Entry {sequence} of the log", "of the entry that was written", digest, _REMEDY
        ) from error
