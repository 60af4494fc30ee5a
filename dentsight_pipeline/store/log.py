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

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dentsight_pipeline.documents.codec import Document, convert, plain
from dentsight_pipeline.errors import DataError, IntegrityError, RefConflictError
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.names import check_digest, record_key

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store

SCHEMA = "dentsight-log/1"
HEAD_REF = "lineage/head"
_FOLDER = "log/"
_REMEDY = "Restore the store's log from a backup; until then nothing that it covers can be believed."


class Head(msgspec.Struct, frozen=True, order=True):
    """The newest entry, as it is noted elsewhere."""

    sequence: int
    """1 for the first entry, one more for each."""
    digest: str
    """sha256 of the entry's bytes, which name the entry before it."""

    def __str__(self) -> str:
        return f"{self.sequence}:{self.digest}"


class _Written(Document, frozen=True):
    """An entry as its file says it."""

    schema: Literal["dentsight-log/1"]
    sequence: int
    """The number in its name, too."""
    previous: str | None
    """sha256 of the entry before; None for the first."""
    product: str
    """Digest of the product's manifest."""
    record: Mapping[str, Any]
    """How the product came about: JSON of whoever wrote it."""


def head_of(text: str) -> Head | None:
    """A head as it was noted, `sequence:sha256`; None where the text is none."""
    sequence, _, digest = text.partition(":")
    return Head(int(sequence), digest) if sequence.isdecimal() else None


@dataclass(frozen=True)
class LogEntry:
    """One entry of the log."""

    sequence: int
    digest: str
    previous: str | None
    """sha256 of the entry before; None for the first."""
    product: str
    """Digest of the product's manifest."""
    record: Mapping[str, canonical.JSON]

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
        return 0 < head.sequence <= len(self.entries) and self.entries[head.sequence - 1].head == head


def append(store: Store, product: str, record: Mapping[str, canonical.JSON]) -> LogEntry:
    """Record how a product came about, in the log and beside the product.

    Args:
        store: The store.
        product: Digest of the product's manifest.
        record: JSON; times, hosts and run ids belong here. Of one `job` the product has one record: whoever waited
            for the same job and comes later finds the first one's.

    Returns:
        The entry; note its `head`.

    Raises:
        IntegrityError: An entry that this one would follow was changed or removed.
        StorageError: The store refused.
    """
    check_digest(product, "a product")
    while True:
        newest = _settle(store)
        if (told := _of_job(store, product, record.get("job"))) is not None:
            return told
        sequence, previous = (newest.sequence + 1, newest.digest) if newest else (1, None)
        entry = _Written(schema=SCHEMA, sequence=sequence, previous=previous, product=product, record=record)
        data = canonical.dumps(plain(entry), f"A log entry of {product}")
        if store.blobs.swap(_key(sequence), data, None):
            written = _parse(sequence, data)
            store.append_record(product, written.record)
            _advance(store, written.head)
            return written


def _of_job(store: Store, product: str, job: object) -> LogEntry | None:
    """The entry of a job's record; the records beside the product are looked at first, they are few."""
    if job is None or all(record.get("job") != job for record in store.records(product)):
        return None
    return next((entry for entry in read(store).of(product) if entry.record.get("job") == job), None)


def head(store: Store) -> Head | None:
    """The newest entry, found without reading the whole log; None when nothing was logged yet.

    Raises:
        IntegrityError: The noted head, or an entry after it, was changed or removed.
    """
    noted = _noted(store)
    after = _after(store, noted)
    return after[-1].head if after else noted


def settled(store: Store) -> int:
    """Up to this sequence number every record lies beside its product too; 0 when that cannot be told."""
    try:
        noted = _noted(store)
    except DataError:  # damaged: `read` says so
        return 0
    return noted.sequence if noted else 0


def read(store: Store, *, workers: int = 16) -> LogReading:
    """The whole log, every entry hashed and held against its neighbours.

    Args:
        store: The store.
        workers: Threads; reading small documents from a bucket is all waiting.
    """
    noted, faults = None, []
    try:
        noted = _noted(store)
    except DataError as error:
        faults.append(f"The noted head of the log cannot be read: {error}")
    names = sorted(key for key, _ in store.blobs.scan(_FOLDER) if _number(key).isdigit())
    with ThreadPoolExecutor(workers) as pool:
        contents = dict(zip(names, pool.map(store.blobs.read, names), strict=True))
    entries, broken = _chained(contents)
    faults += broken or ([] if faults else _faults_of_the_end(entries, contents, noted))
    return LogReading(tuple(entries), tuple(faults))


def _chained(contents: dict[str, bytes | None]) -> tuple[list[LogEntry], list[str]]:
    """The entries that hang together, taken out of `contents`, and why no more of them do."""
    entries: list[LogEntry] = []
    while (data := contents.pop(_key(len(entries) + 1), None)) is not None:
        sequence = len(entries) + 1
        try:
            entry = _parse(sequence, data)
        except IntegrityError as error:
            return entries, [str(error)]
        if entry.previous != (entries[-1].digest if entries else None):
            names = f"entry {sequence} names another one before it"
            return entries, [f"Entry {sequence - 1} of the log was changed: {names}."]
        entries.append(entry)
    return entries, []


def _faults_of_the_end(entries: list[LogEntry], beyond: Collection[str], noted: Head | None) -> list[str]:
    """What is wrong behind the last entry that hangs together with the first."""
    if beyond:
        last = max(int(_number(key)) for key in beyond)
        return [f"Entry {len(entries) + 1} of the log was removed: there are entries up to {last}."]
    known = noted.sequence if noted else 0
    if known > len(entries):
        return [f"The log was cut off: its noted head is entry {known}, but it ends at {len(entries)}."]
    if noted is not None and entries[known - 1].head != noted:
        return [f"The log was written anew: entry {known} is not the one that was noted as head."]
    # Whoever appends first notes the newest entry, so that never more than one is not noted yet.
    if len(entries) - known > 1:
        return ["The note of the log's head was removed or set back, so its end cannot be proved."]
    return []


def _settle(store: Store) -> Head | None:
    """The newest entry, after writing what a killed writer left undone beside the products."""
    newest = noted = _noted(store)
    for entry in _after(store, noted):
        if store.blobs.stat(record_key(entry.product, entry.record_digest)) is None:
            store.append_record(entry.product, entry.record)
        newest = entry.head
    if newest is not None and newest != noted:
        _advance(store, newest)
    return newest


def _after(store: Store, noted: Head | None) -> list[LogEntry]:
    """The entries after the noted head, each checked against the one before it."""
    if noted is not None:
        data = store.blobs.read(_key(noted.sequence))
        found = None if data is None else sha256(data).hexdigest()
        if found != noted.digest:
            raise IntegrityError(f"Entry {noted.sequence} of the log of {store.uri}", noted.digest, found, _REMEDY)
    entries: list[LogEntry] = []
    sequence, previous = (noted.sequence, noted.digest) if noted else (0, None)
    while (data := store.blobs.read(_key(sequence := sequence + 1))) is not None:
        entry = _parse(sequence, data)
        if entry.previous != previous:
            what = f"Entry {sequence - 1} of the log of {store.uri}"
            raise IntegrityError(what, str(entry.previous), previous, _REMEDY)
        entries.append(entry)
        previous = entry.digest
    return entries


def _noted(store: Store) -> Head | None:
    value = store.read_ref(HEAD_REF)
    return convert(value, Head, f"reference {HEAD_REF}") if value else None


def _advance(store: Store, newest: Head) -> None:
    """Note a head, unless a later one is noted already."""
    while True:
        noted = _noted(store)
        if noted is not None and noted.sequence >= newest.sequence:
            return
        try:
            store.write_ref(HEAD_REF, plain(newest), expected=plain(noted) if noted else None)
        except RefConflictError:
            continue
        return


def _key(sequence: int) -> str:
    return f"{_FOLDER}{sequence:012d}.json"


def _number(key: str) -> str:
    return key.removeprefix(_FOLDER).removesuffix(".json")


def _parse(sequence: int, data: bytes) -> LogEntry:
    digest = sha256(data).hexdigest()
    try:
        document = canonical.loads(data)
        entry = msgspec.convert(document, _Written, strict=True)
        if entry.sequence != sequence:
            raise ValueError(f"it says that it is entry {entry.sequence}")
        if canonical.dumps(document, "A log entry") != data:
            raise ValueError("not canonical")
    except ValueError as error:  # of JSON and of msgspec too
        what = f"Entry {sequence} of the log"
        raise IntegrityError(what, "of the entry that was written", digest, _REMEDY) from error
    return LogEntry(sequence, digest, entry.previous, entry.product, entry.record)
