"""What an orchestrator says about products, held against what the store says. Plain data in, sentences out.

Two kinds of tags are told apart. Those that the assets write themselves (`dentsight/input.<asset>`, the data version,
the log's head) must agree with the store: a contradiction is a finding. Those that Dagster adds
(`dagster/input_event_pointer/<asset>`) name the newest event of the upstream asset when the step started, of whatever
partition, which in ordinary work is often not what was read. Where Dagster's own events show that what was read had
been materialised before, the difference is explained, and only noted; where they do not, it is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dentsight_pipeline.documents.lineage import Record
from dentsight_pipeline.documents.names import INPUT_METADATA, INPUT_TAG, LOG_METADATA, TAG_DIGITS
from dentsight_pipeline.store.log import Head, LogReading
from dentsight_pipeline.store.manifest import Manifest

POINTER_TAG = "dagster/input_event_pointer/"


@dataclass(frozen=True)
class Event:
    """One materialisation event, as an adapter copies it out of Dagster."""

    asset: str
    partition: str | None
    run_id: str
    storage_id: int
    """Dagster's running number; a larger one is later."""
    data_version: str | None
    tags: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The event in a sentence."""
        return f"Dagster's event {self.storage_id} of {self.asset} (run {self.run_id[:8]})"

    @property
    def made(self) -> str:
        """What it says that it made, in a sentence."""
        return (self.data_version or "nothing")[:12]


@dataclass(frozen=True)
class CrossCheck:
    """What the events say: contradictions, and differences that their own order explains."""

    findings: list[str]
    notes: list[str]


def cross_check(
    events: Iterable[Event],
    manifests: Mapping[str, Manifest],
    records: Mapping[str, Sequence[Record]],
    log: LogReading,
) -> CrossCheck:
    """Hold events against the products that they claim to have made.

    Args:
        events: All materialisations of the assets of the chain, of every partition and run.
        manifests: Digest → manifest of the products of the chain.
        records: Digest → records of each product.
        log: The store's log.
    """
    events = sorted(events, key=lambda event: event.storage_id)
    by_id = {str(event.storage_id): event for event in events}
    checked = CrossCheck([], [])
    for event in events:
        manifest = manifests.get(event.data_version or "")
        if manifest is None:
            continue
        every = records.get(manifest.digest, ())
        own = [record for record in every if record.dagster_run == event.run_id]
        read = _read_by(event, manifest, own, every)
        checked.findings.extend(_forged_inputs(event, manifest, read))
        checked.findings.extend(_own_claims(event, manifest, own, log))
        for explained, difference in _pointers(event, read, by_id):
            (checked.notes if explained else checked.findings).append(difference)
    checked.findings.extend(_claims_of_records(events, manifests, records))
    return checked


def _read_by(event: Event, manifest: Manifest, own: Sequence[Record], every: Sequence[Record]) -> dict[str, str]:
    """What the event's step read, by asset: as the manifest says, and beyond it as the step's own record says.

    A manifest also names what the step made for itself, such as the predictions inside `tooth_findings`. Of a product
    that was reused, the records of its making tell those inputs apart; without any record, all are taken as read.
    """
    recorded = own[0].inputs if own and own[0].asset == event.asset else {}
    owed = {key.removeprefix(INPUT_TAG) for key in event.tags if key.startswith(INPUT_TAG)}
    if not recorded:
        owed.update(next((record.inputs for record in every if record.asset == event.asset), manifest.inputs))
    return {**recorded, **{asset: digest for asset, digest in manifest.inputs.items() if asset in owed}}


def _forged_inputs(event: Event, manifest: Manifest, read: Mapping[str, str]) -> Iterator[str]:
    """Tags and metadata entries that do not say what was read."""
    for asset, digest in read.items():
        tag, entry = event.tags.get(f"{INPUT_TAG}{asset}"), event.metadata.get(f"{INPUT_METADATA}{asset}")
        if tag is None and entry is None:
            yield f"{event.name} does not say which {asset} it read; its tag was removed."
        for what, said, wanted in (("tag", tag, digest[:TAG_DIGITS]), ("metadata entry", entry, digest)):
            if said is not None and said != wanted:
                yield (
                    f"A {what} was forged: {event.name} says that it read {asset} {str(said)[:12]}, but the "
                    f"{manifest.kind} that it made names {digest[:12]}."
                )


def _own_claims(event: Event, manifest: Manifest, own: Sequence[Record], log: LogReading) -> Iterator[str]:
    """A digest, a place in the log or new work that the store does not know of."""
    told, noted = event.metadata.get("digest"), event.metadata.get(LOG_METADATA)
    if told is not None and told != manifest.digest:
        yield f"{event.name} shows digest {str(told)[:12]}, but its data version is {manifest.digest[:12]}."
    if noted is not None and not holds(log, str(noted)):
        yield f"{event.name} noted entry {str(noted).partition(':')[0]} of the log, which is not there any more."
    if event.metadata.get("reused") is False and not own:
        yield (
            f"{event.name} says that it made the {manifest.kind} {manifest.digest[:12]}, but no record names that run."
        )


def holds(log: LogReading, noted: str) -> bool:
    """Whether a head that was noted as `sequence:sha256` is still part of the log."""
    sequence, _, digest = noted.partition(":")
    return sequence.isdigit() and log.holds(Head(int(sequence), digest))


def _pointers(event: Event, read: Mapping[str, str], by_id: Mapping[str, Event]) -> Iterator[tuple[bool, str]]:
    """Where Dagster's own pointers name another event than that of what was read; whether their order explains it."""
    for asset, digest in read.items():
        pointer = event.tags.get(f"{POINTER_TAG}{asset}", "")
        pointed = by_id.get(pointer)
        if pointed is None or pointed.data_version == digest:
            continue
        difference = (
            f"{event.name} read {asset} {digest[:12]}, while Dagster's own pointer names event {pointer}, which made "
            f"{pointed.made} for partition {pointed.partition}"
        )
        made = [other for other in by_id.values() if (other.asset, other.data_version) == (asset, digest)]
        earlier = [other for other in made if other.storage_id < event.storage_id]
        if pointed.asset == asset and earlier:
            yield (
                True,
                (
                    f"{difference}; it had been made before by event {earlier[-1].storage_id} for partition "
                    f"{earlier[-1].partition}. Dagster notes the newest event, not the one that was read."
                ),
            )
        else:
            yield False, f"{difference}, and no earlier event made what was read."


def _claims_of_records(
    events: Sequence[Event], manifests: Mapping[str, Manifest], records: Mapping[str, Sequence[Record]]
) -> Iterator[str]:
    """Records name the run that made a product; that run's event must say the same."""
    for digest, manifest in manifests.items():
        for record in records.get(digest, ()):
            key = (record.dagster_run, record.asset, record.partition)
            same = [event for event in events if (event.run_id, event.asset, event.partition) == key]
            if same and all(event.data_version != digest for event in same):
                yield (
                    f"{same[-1].name} says that it made {same[-1].made}, but the record of the {manifest.kind} "
                    f"{digest[:12]} names the same run."
                )
