"""What an orchestrator says about products, held against what the store says. Plain data in, sentences out.

Two kinds of tags are told apart. Those that the assets write themselves (`dentsight/input.<asset>`, the data version,
the log's head) must agree with the store: a contradiction is a finding. Those that Dagster adds
(`dagster/input_event_pointer/<asset>`) name the newest event of the upstream asset when the step started, of whatever
partition, which in ordinary work is often not what was read. Where Dagster's own events show that what was read had
been materialised before, the difference is explained, and only noted; where they do not, it is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.documents.names import INPUT_METADATA, INPUT_TAG, LOG_METADATA, TAG_DIGITS

if TYPE_CHECKING:
    from dentsight_pipeline.store.log import LogReading
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


@dataclass(frozen=True)
class CrossCheck:
    """What the events say: contradictions, and differences that their own order explains."""

    findings: list[str]
    notes: list[str]


def cross_check(
    events: Iterable[Event],
    manifests: Mapping[str, Manifest],
    records: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    log: LogReading | None = None,
) -> CrossCheck:
    """Hold events against the products that they claim to have made.

    Args:
        events: All materialisations of the assets of the chain, of every partition and run.
        manifests: Digest → manifest of the products of the chain.
        records: Digest → records of each product.
        log: The store's log.
    """
    events = sorted(events, key=lambda event: event.storage_id)
    by_id = {event.storage_id: event for event in events}
    findings: list[str] = []
    notes: list[str] = []
    for event in events:
        manifest = manifests.get(event.data_version or "")
        if manifest is None:
            continue
        read = _read_by(event, manifest, (records or {}).get(manifest.digest, ()))
        findings += _own_tags(event, manifest, read, log)
        findings += _unrecorded(event, manifest, (records or {}).get(manifest.digest))
        for asset, digest in read.items():
            _pointer(event, asset, digest, by_id, findings, notes)
    findings += _claims_of_records(events, manifests, records or {})
    return CrossCheck(findings, notes)


def _read_by(event: Event, manifest: Manifest, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the event's step read, by asset: as the manifest says, and beyond it as the step's own record says."""
    own = next((record for record in records if record.get("dagster_run") == event.run_id), {})
    recorded = own.get("inputs", {}) if own.get("asset") == event.asset else {}
    tagged = {key.removeprefix(INPUT_TAG) for key in event.tags if key.startswith(INPUT_TAG)}
    named = {asset: digest for asset, digest in manifest.inputs.items() if asset in tagged or not recorded}
    return {**recorded, **named}


def _own_tags(event: Event, manifest: Manifest, read: Mapping[str, str], log: LogReading | None) -> list[str]:
    findings = []
    for asset, digest in read.items():
        tag, entry = event.tags.get(f"{INPUT_TAG}{asset}"), event.metadata.get(f"{INPUT_METADATA}{asset}")
        if tag is None and entry is None:
            findings.append(f"{event.name} does not say which {asset} it read; its tag was removed.")
        if tag is not None and tag != digest[:TAG_DIGITS]:
            findings.append(
                f"A tag was forged: {event.name} says that it read {asset} {tag[:12]}, but the {manifest.kind} that it "
                f"made names {digest[:12]}."
            )
        if entry is not None and entry != digest:
            findings.append(
                f"A metadata entry was forged: {event.name} says that it read {asset} {str(entry)[:12]}, but the "
                f"{manifest.kind} that it made names {digest[:12]}."
            )
    told = event.metadata.get("digest")
    if told is not None and told != manifest.digest:
        findings.append(f"{event.name} shows digest {str(told)[:12]}, but its data version is {manifest.digest[:12]}.")
    noted = event.metadata.get(LOG_METADATA)
    if noted is not None and log is not None and not _in_log(str(noted), log):
        findings.append(
            f"{event.name} noted entry {str(noted).partition(':')[0]} of the log, which is not there any more."
        )
    return findings


def _unrecorded(event: Event, manifest: Manifest, records: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """An event that claims new work which no record tells of."""
    if records is None or event.metadata.get("reused") is not False:
        return []
    if any(record.get("dagster_run") == event.run_id for record in records):
        return []
    return [f"{event.name} says that it made the {manifest.kind} {manifest.digest[:12]}, but no record names that run."]


def _in_log(noted: str, log: LogReading) -> bool:
    from dentsight_pipeline.store.log import Head

    sequence, _, digest = noted.partition(":")
    return sequence.isdigit() and log.holds(Head(int(sequence), digest))


def _pointer(
    event: Event, asset: str, digest: str, by_id: Mapping[int, Event], findings: list[str], notes: list[str]
) -> None:
    """Dagster's own pointer to the event of an upstream asset."""
    pointer = event.tags.get(f"{POINTER_TAG}{asset}", "NULL")
    pointed = by_id.get(int(pointer)) if pointer.isdigit() else None
    if pointed is None or pointed.data_version == digest:
        return
    difference = (
        f"{event.name} read {asset} {digest[:12]}, while Dagster's own pointer names event {pointer}, which made "
        f"{(pointed.data_version or 'nothing')[:12]} for partition {pointed.partition}"
    )
    earlier = [
        other
        for other in by_id.values()
        if other.asset == asset and other.data_version == digest and other.storage_id < event.storage_id
    ]
    if pointed.asset == asset and earlier:
        source = earlier[-1]
        notes.append(
            f"{difference}; it had been made before by event {source.storage_id} for partition {source.partition}. "
            "Dagster notes the newest event, not the one that was read."
        )
    else:
        findings.append(f"{difference}, and no earlier event made what was read.")


def _claims_of_records(
    events: Sequence[Event], manifests: Mapping[str, Manifest], records: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    """Records name the run that made a product; that run's event must say the same."""
    findings = []
    for digest, manifest in manifests.items():
        for record in records.get(digest, ()):
            key = tuple(record.get(name) for name in ("dagster_run", "asset", "partition"))
            same = [event for event in events if (event.run_id, event.asset, event.partition) == key]
            if same and all(event.data_version != digest for event in same):
                findings.append(
                    f"{same[-1].name} says that it made {(same[-1].data_version or 'nothing')[:12]}, but the record of "
                    f"the {manifest.kind} {digest[:12]} names the same run."
                )
    return findings
