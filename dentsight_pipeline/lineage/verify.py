"""The audit: from a product down to the raw export, every byte hashed again, and everything held against everything.

    manifests    each hashes to its name, and names what it was made from               (walk.py)
    bytes        every object that a manifest names is hashed, once each
    fit          what can be derived again cheaply is: the verdict above all            (fit.py)
    records      each product says how it came about; no record and no log entry is gone  (log.py)
    releases     signature, statement, and the chain that the releases form             (release/statement.py)
    events       what Dagster and MLflow say does not contradict the store              (events.py)
    originals    the files that somebody still has are those that the export was made of  (intake/originals.py)

Nothing is changed. A finding is one sentence; the first one is the first broken link, seen from the top.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.errors import DataError, IntegrityError, SignatureError
from dentsight_pipeline.lineage.events import Event, cross_check
from dentsight_pipeline.lineage.fit import misfits, name_of
from dentsight_pipeline.lineage.provenance import provenance_of
from dentsight_pipeline.lineage.walk import ChainItem, Walk, address, chain_items, walk
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store import log as logs
from dentsight_pipeline.store.content import damaged, materialise
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.names import record_key

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store

Records = dict[str, list[dict[str, Any]]]

_SHOWN_PER_PRODUCT = 20
_BATCH_BYTES = 256 << 20
_RELEASED_MODEL = "released_model"


@dataclass(frozen=True)
class AuditResult:
    """What an audit saw and found.

    Attributes:
        digest: Digest of the product that was audited.
        kind: Its kind; `unknown` when its manifest could not be read.
        chain: Every manifest, object and record that was hashed.
        findings: What is wrong, one sentence each, the first broken link first; empty when intact.
        notes: What a reader should know but is not wrong.
        provenance: From `provenance_of`.
        log_head: Newest entry of the store's log, `sequence:sha256`; worth noting elsewhere.
        release_head: Digest of the newest release; worth noting elsewhere.
        hashed_bytes: How many bytes of objects were hashed.
    """

    digest: str
    kind: str
    chain: tuple[ChainItem, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, Any]
    log_head: str | None
    release_head: str | None
    hashed_bytes: int

    @property
    def intact(self) -> bool:
        """Whether nothing was changed, is missing or does not fit."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "digest": self.digest,
            "kind": self.kind,
            "intact": self.intact,
            "findings": list(self.findings),
            "notes": list(self.notes),
            "log_head": self.log_head,
            "release_head": self.release_head,
            "hashed_bytes": self.hashed_bytes,
            "provenance": dict(self.provenance),
            "chain": [item.to_json() for item in self.chain],
        }


def audit(
    store: Store,
    digest: str,
    *,
    bytes_of: Literal["all", "top"] = "all",
    export: str | Path | None = None,
    public_key: Path | None = None,
    events: Sequence[Event] = (),
    noted_heads: Iterable[str] = (),
    claims: Iterable[str] = (),
    code: Mapping[str, Any] | None = None,
    workers: int = 2,
    progress: Progress | None = None,
) -> AuditResult:
    """Walk a product's chain and verify all of it.

    Args:
        store: Where everything is.
        digest: Digest of the product's manifest.
        bytes_of: `all` hashes every object of the chain; `top` those of the product itself only (its chain of
            manifests, records and verdicts is verified all the same).
        export: The original files, a folder or zip, to hold against the raw export.
        public_key: The key that releases are signed with, from a place that is trusted.
        events: Dagster's materialisations of the assets of the chain.
        noted_heads: Heads noted earlier: digests of releases, or `sequence:sha256` of the log.
        claims: Contradictions that were found on the way to `digest` (see `reference.py`); they come first.
        code: The code that runs now, for the provenance.
        workers: Threads that hash.
        progress: Called with a stage, what is done, and how much there is.

    Raises:
        StorageError: The store cannot be read at all.
    """
    say = progress or (lambda stage, done, total: None)
    walked = walk(store, digest)
    settled = logs.settled(store)
    kept = _kept_records(store, walked)
    log = logs.read(store)  # after the records: whoever writes one meanwhile has written its entry before
    records, record_faults = _records(walked, kept, log, settled)
    byte_faults, hashed = _bytes(store, walked, bytes_of, workers, say)

    findings = list(claims)
    for product in walked.named:
        if product in walked.broken:
            findings.append(_broken(walked, product))
            continue
        manifest = walked.products[product]
        findings += _limited(byte_faults.get(product, []), name_of(manifest))
        findings += _limited(misfits(store, walked, manifest), name_of(manifest))
        findings += record_faults.get(product, [])
    if not walked.broken and walked.find(Kind.RAW_EXPORT) is None:
        findings.append("The chain does not reach a raw export.")
    findings += log.faults
    findings += _releases(store, walked, log, public_key)
    findings += _noted(store, log, noted_heads)
    crossed = cross_check(events, walked.products, records, log)
    findings += crossed.findings
    if export is not None:
        findings += _originals(store, walked, export, say)

    top = walked.products.get(digest)
    return AuditResult(
        digest=digest,
        kind=top.kind if top else "unknown",
        chain=(*chain_items(store, walked), *_record_items(store, walked, log)),
        findings=tuple(dict.fromkeys(findings)),
        notes=(*_notes(walked, bytes_of, log), *crossed.notes),
        provenance=provenance_of(store, walked, records, code),
        log_head=str(log.head) if log.head else None,
        release_head=_release_head(store),
        hashed_bytes=hashed,
    )


# Bytes ---------------------------------------------------------------------------------------------------------------


def _bytes(store: Store, walked: Walk, bytes_of: str, workers: int, say: Progress) -> tuple[dict[str, list[str]], int]:
    """Faults by product, and the bytes that were hashed; every distinct object once, in batches of their order."""
    wanted = [item for item in walked.objects() if bytes_of == "all" or item[0].digest == walked.top]
    total = sum(entry.size for _, _, entry in wanted)
    faults: dict[str, list[str]] = {}
    done = 0
    batch: list[tuple[Manifest, str, Entry]] = []
    for number, item in enumerate(wanted, start=1):
        batch.append(item)
        if sum(entry.size for _, _, entry in batch) < _BATCH_BYTES and number < len(wanted) and len(batch) < 4096:
            continue
        numbered = {str(index): entry for index, (_, _, entry) in enumerate(batch)}
        for index, error in damaged(store, Manifest("audit", numbered), workers=workers):
            manifest, path, entry = batch[int(index)]
            faults.setdefault(manifest.digest, []).append(_byte_fault(walked, manifest, path, entry, error))
        done += sum(entry.size for _, _, entry in batch)
        say("bytes", done, total)
        batch = []
    sizes: dict[str, int] = {}
    for manifest in walked.products.values():
        for path, entry in manifest.entries.items():
            if sizes.setdefault(entry.sha256, entry.size) != entry.size:
                faults.setdefault(manifest.digest, []).append(
                    f"{path} of the {name_of(manifest)} has another size than the same bytes elsewhere in the chain."
                )
    return faults, total


def _byte_fault(walked: Walk, manifest: Manifest, path: str, entry: Entry, error: IntegrityError) -> str:
    others = [
        f"the {name_of(other)}"
        for other in walked.products.values()
        if other is not manifest and any(named.sha256 == entry.sha256 for named in other.entries.values())
    ]
    also = f" (also part of {', '.join(others)})" if others else ""
    if error.found is None:
        return f"{path} of the {name_of(manifest)}{also} is missing: no object {entry.sha256} in the store."
    if error.found == entry.sha256:
        return f"{path} of the {name_of(manifest)}{also} has another size than its manifest says."
    return (
        f"{path} of the {name_of(manifest)}{also} was changed: its bytes hash to {error.found}, not to {entry.sha256}."
    )


def _broken(walked: Walk, digest: str) -> str:
    """A manifest that could not be read, in one sentence."""
    error = walked.broken[digest]
    namings = walked.named[digest]
    who = f"the {namings[0].asset} {digest[:12]}" if namings else digest[:12]
    by = walked.products.get(namings[0].by) if namings else None
    below = f" that the {name_of(by)} was made from" if by else ""
    if isinstance(error, IntegrityError) and error.found is None:
        return f"The manifest of {who}{below} is missing, so nothing below it can be followed."
    if isinstance(error, IntegrityError):
        return f"The manifest of {who}{below} was changed: its bytes hash to {error.found}."
    return f"The manifest of {who}{below} cannot be read: {_said(error)}."


def _said(error: Exception) -> str:
    """An error inside a sentence, without its remedy."""
    if isinstance(error, SignatureError):
        return error.problem
    if isinstance(error, IntegrityError):
        state = "is missing" if error.found is None else "was changed"
        return f"{error.what} ({error.expected[:12]}) {state}"
    return str(error).rstrip(".")


def _limited(faults: Sequence[str], name: str) -> list[str]:
    if len(faults) <= _SHOWN_PER_PRODUCT:
        return list(faults)
    rest = len(faults) - _SHOWN_PER_PRODUCT
    return [*faults[:_SHOWN_PER_PRODUCT], f"{rest} more findings of the same kind concern the {name}."]


# Records and the log -------------------------------------------------------------------------------------------------


def _kept_records(store: Store, walked: Walk) -> dict[str, list[tuple[str, dict[str, Any]]] | DataError]:
    """The records that lie beside each product, by digest; the error where one was changed."""
    kept: dict[str, list[tuple[str, dict[str, Any]]] | DataError] = {}
    for digest in walked.products:
        try:
            kept[digest] = store.named_records(digest)
        except DataError as error:
            kept[digest] = error
    return kept


def _records(
    walked: Walk,
    kept: Mapping[str, list[tuple[str, dict[str, Any]]] | DataError],
    log: logs.LogReading,
    settled: int,
) -> tuple[Records, dict[str, list[str]]]:
    """The records of every product, and what of them does not hold."""
    records: Records = {}
    faults: dict[str, list[str]] = {}
    for digest, manifest in walked.products.items():
        found: list[str] = []
        here = kept[digest]
        logged = {entry.record_digest: entry for entry in log.of(digest)}
        if isinstance(here, DataError):
            found.append(f"A record of how the {name_of(manifest)} came about was changed.")
            records[digest] = [dict(entry.record) for entry in logged.values()]
        else:
            records[digest] = [record for _, record in here]
            names = {name for name, _ in here}
            for name, entry in logged.items():
                if name not in names and entry.sequence <= settled:
                    found.append(
                        f"A record of how the {name_of(manifest)} came about was removed; entry {entry.sequence} of "
                        "the log still has it."
                    )
            for name in sorted(names - logged.keys()):
                found.append(
                    f"A record of the {name_of(manifest)} ({name[:12]}) is not in the log: its entry was removed, or "
                    "the record was slipped in."
                )
            told = any("asset" in record for record in records[digest])
            if not told and not found and not _made_within(walked, digest, kept):
                found.append(f"Nothing records how the {name_of(manifest)} came about.")
        if contradiction := _contradiction(manifest, records[digest]):
            found.append(contradiction)
        if found:
            faults[digest] = found
    return records, faults


def _made_within(walked: Walk, digest: str, kept: Mapping[str, list[tuple[str, dict[str, Any]]] | DataError]) -> bool:
    """Whether a product was made inside the step of one above it, whose record then stands for both.

    That step did not read it: the product above names it, the inputs of that product's records do not.
    """
    for naming in walked.named[digest]:
        above = kept.get(naming.by)
        if isinstance(above, list) and above:
            read = {value for _, record in above for value in (record.get("inputs") or {}).values()}
            if digest not in read:
                return True
    return False


def _contradiction(manifest: Manifest, records: Sequence[Mapping[str, Any]]) -> str | None:
    """A record whose inputs are not those that the manifest names."""
    for record in records:
        inputs = record.get("inputs") or {}
        for asset, digest in inputs.items():
            if asset in manifest.inputs and manifest.inputs[asset] != digest:
                return (
                    f"A record of the {name_of(manifest)} says that it was made from {asset} {str(digest)[:12]}, but "
                    f"the manifest names {manifest.inputs[asset][:12]}."
                )
    return None


def _record_items(store: Store, walked: Walk, log: logs.LogReading) -> list[ChainItem]:
    items = []
    for digest in walked.products:
        for entry in log.of(digest):
            name = entry.record_digest
            place = address(store, record_key(digest, name))
            items.append(ChainItem("record", name, place, f"log entry {entry.sequence}", digest))
    return items


# Releases ------------------------------------------------------------------------------------------------------------


def _releases(store: Store, walked: Walk, log: logs.LogReading, public_key: Path | None) -> list[str]:
    """The release that is audited, the chain of all releases, and what the log knows of them."""
    from dentsight_pipeline.release import statement

    findings: list[str] = []
    in_chain: set[str] = set()
    whole = False
    try:
        in_chain = {item.digest for item in statement.verify_chain(store)}
        whole = True
    except DataError as error:
        findings.append(f"The chain of releases is broken: {_said(error)}.")
    except (KeyError, TypeError, ValueError) as error:
        findings.append(f"The chain of releases is broken: a statement in it is not of this form ({error!r}).")
    if whole:
        released = [entry for entry in log.entries if entry.record.get("asset") == _RELEASED_MODEL]
        for entry in released:
            if entry.product not in in_chain:
                findings.append(
                    f"Release {entry.product[:12]} was removed from the chain of releases; entry {entry.sequence} of "
                    "the log still names it."
                )
    findings += _champions(store, log)
    for manifest in walked.products.values():
        if manifest.kind == Kind.RELEASE:
            if whole and manifest.digest not in in_chain:
                findings.append(f"The {name_of(manifest)} is not in the chain of releases.")
            findings += _signature(store, manifest, log, public_key)
    return findings


def _champions(store: Store, log: logs.LogReading) -> list[str]:
    """Who was champion, by whose decision: as the reference says and as the log says."""
    from dentsight_pipeline.release import champion

    try:
        kept = champion.history(store)
    except (DataError, KeyError, TypeError) as error:
        return [f"The history of champions cannot be read: {_said(error)}."]
    logged = champion.logged_history(log)
    # The reference is written first: a killed process may leave its last change out of the log.
    if logged in (kept, kept[:-1]):
        return []
    return [
        f"The history of champions was edited: it tells of {len(kept)} changes otherwise than the log's {len(logged)}."
    ]


def _signature(store: Store, release: Manifest, log: logs.LogReading, public_key: Path | None) -> list[str]:
    from dentsight_pipeline.release import statement

    if public_key is None:
        return [f"The signature of the {name_of(release)} cannot be verified: no public key was found (--key FILE)."]
    with tempfile.TemporaryDirectory() as folder:
        try:
            predicate = statement.verify_release(materialise(store, release, Path(folder) / "release"), public_key)[
                "predicate"
            ]
        except IntegrityError:
            return []  # a file is damaged or missing, which is a finding already; the signature covers it
        except DataError as error:
            return [f"The {name_of(release)} is not what was signed: {_said(error)}."]
    noted = predicate.get("log")
    if noted and not log.holds(logs.Head(noted["sequence"], noted["digest"])):
        return [
            f"The log was cut off or written anew: the {name_of(release)} was signed when entry {noted['sequence']} of "
            f"it was {noted['digest'][:12]}, which is not there any more."
        ]
    return []


def _release_head(store: Store) -> str | None:
    from dentsight_pipeline.release import statement

    try:
        newest = statement.head(store)
    except (DataError, KeyError):
        return None
    return newest.digest if newest else None


def _noted(store: Store, log: logs.LogReading, noted_heads: Iterable[str]) -> list[str]:
    """Heads that somebody wrote down earlier: what they stand for must still be there."""
    from dentsight_pipeline.release import statement

    findings = []
    for noted in noted_heads:
        sequence, colon, digest = noted.partition(":")
        if colon:
            if not (sequence.isdigit() and log.holds(logs.Head(int(sequence), digest))):
                findings.append(f"The log was cut off or written anew: the noted entry {noted} is not in it.")
            continue
        try:
            statement.verify_chain(store, expected_head=noted)
        except (DataError, KeyError, TypeError, ValueError) as error:
            findings.append(f"The chain of releases was cut off: {_said(error)}.")
    return findings


# Originals and notes -------------------------------------------------------------------------------------------------


def _originals(store: Store, walked: Walk, export: str | Path, say: Progress) -> list[str]:
    from dentsight_pipeline.intake.originals import verify_originals

    raw = walked.find(Kind.RAW_EXPORT)
    if raw is None:
        return [f"The originals in {export} cannot be compared: no raw export was reached."]
    try:
        found = verify_originals(store, raw, export, say).findings()
    except IntegrityError as error:
        return [f"The originals in {export} cannot be compared: {_said(error)}."]
    return _limited([f"In {export}: {line}." for line in found], name_of(raw))


def _notes(walked: Walk, bytes_of: str, log: logs.LogReading) -> list[str]:
    notes = []
    if bytes_of == "top":
        below = len(walked.products) - 1
        notes.append(
            f"The bytes of the {below} products below were not hashed again; `dentsight audit {walked.top[:12]}` does."
        )
    assets = Counter(entry.product for entry in log.entries if "asset" in entry.record)
    again = [digest for digest in walked.products if assets[digest] > 1]
    notes += [
        f"The {name_of(walked.products[digest])} was made {assets[digest]} times, always the same." for digest in again
    ]
    return notes
