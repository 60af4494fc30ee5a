"""The audit: from a product down to the raw export, every byte hashed again, and everything held against everything.

    manifests    each hashes to its name, and names what it was made from               (walk.py)
    bytes        every object that a manifest names is hashed, once each                (hashing.py)
    fit          what can be derived again cheaply is: the verdict above all            (fit.py, rejudge.py)
    records      each product says how it came about; no record and no log entry is gone  (records.py, store/log.py)
    releases     signature, statement, and the chain that the releases form             (releases.py)
    events       what Dagster and MLflow say does not contradict the store              (events.py)
    originals    the files that somebody still has are those that the export was made of  (intake/originals.py)

Nothing is changed. A finding is one sentence; the first one is the first broken link, seen from the top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dentsight_pipeline.documents.facts import LabelCorrectionsFacts, SplitsFacts
from dentsight_pipeline.documents.lineage import AuditResult, Code
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.documents.review import OUTCOMES_FILE
from dentsight_pipeline.errors import IntegrityError
from dentsight_pipeline.lineage.events import CrossCheck, Event, cross_check
from dentsight_pipeline.lineage.fit import misfits
from dentsight_pipeline.lineage.hashing import Hashed, hash_again
from dentsight_pipeline.lineage.provenance import provenance_of
from dentsight_pipeline.lineage.records import Records, misrecorded, read_records, record_items
from dentsight_pipeline.lineage.releases import cut_off, newest_release, said, unreleased
from dentsight_pipeline.lineage.walk import Walk, chain_items, name_of, walk
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.objects import Store

_SHOWN_PER_PRODUCT = 20


@dataclass(frozen=True)
class Evidence:
    """What is held against a chain from outside of its store."""

    exports: Sequence[str | Path] = ()
    """The original files, folders or zips, to hold against the raw exports; one for each, in any order."""
    public_key: Path | None = None
    """The key that releases are signed with, from a place that is trusted."""
    events: Sequence[Event] = ()
    """Dagster's materialisations of the assets of the chain."""
    noted_heads: Sequence[str] = ()
    """Heads noted earlier: digests of releases, or `sequence:sha256` of the log."""
    claims: Sequence[str] = ()
    """Contradictions that were found on the way to the product (see `reference.py`); they come first."""
    code: Code | None = None
    """The code that runs now, for the provenance."""


@dataclass(frozen=True)
class _Seen:
    """All that an audit has read when it begins to judge."""

    store: Store
    evidence: Evidence
    walked: Walk
    kept: Records
    hashed: Hashed
    crossed: CrossCheck
    say: Progress


def audit(
    store: Store,
    digest: str,
    evidence: Evidence | None = None,
    *,
    bytes_of: Literal["all", "top"] = "all",
    workers: int = 2,
    progress: Progress | None = None,
) -> AuditResult:
    """Walk a product's chain and verify all of it.

    Args:
        store: Where everything is.
        digest: Digest of the product's manifest.
        evidence: What is held against it from outside of the store.
        bytes_of: `all` hashes every object of the chain; `top` those of the product itself only (its chain of
            manifests, records and verdicts is verified all the same).
        workers: Threads that hash.
        progress: Called with a stage, what is done, and how much there is.

    Raises:
        StorageError: The store cannot be read at all.
    """
    say, evidence = progress or (lambda stage, done, total: None), evidence or Evidence()
    walked = walk(store, digest)
    kept = read_records(store, walked)
    hashed = hash_again(store, walked, top_only=bytes_of == "top", workers=workers, say=say)
    crossed = cross_check(evidence.events, walked.products, kept.records, kept.log)
    seen = _Seen(store, evidence, walked, kept, hashed, crossed, say)
    findings = tuple(dict.fromkeys(_findings(seen)))
    return AuditResult(
        digest=digest,
        kind=walked.products[digest].kind if digest in walked.products else "unknown",
        intact=not findings,
        findings=findings,
        notes=(*_notes(walked, bytes_of, kept), *crossed.notes),
        log_head=str(kept.log.head) if kept.log.head else None,
        release_head=newest_release(store),
        hashed_bytes=hashed.size,
        provenance=provenance_of(store, walked, kept.records, evidence.code),
        chain=(*chain_items(store, walked), *record_items(store, kept)),
    )


def _findings(seen: _Seen) -> Iterator[str]:
    """Everything that is wrong, from the top of the chain down, and then what concerns the whole store."""
    store, walked, log = seen.store, seen.walked, seen.kept.log
    yield from seen.evidence.claims
    for digest in walked.named:
        yield from _of_product(seen, digest)
    if not walked.broken and walked.find(Kind.RAW_EXPORT) is None:
        yield "The chain does not reach a raw export."
    yield from log.faults
    yield from unreleased(store, walked, log, seen.evidence.public_key)
    yield from cut_off(store, log, seen.evidence.noted_heads)
    yield from seen.crossed.findings
    if seen.evidence.exports:
        yield from _originals(store, walked, seen.evidence.exports, seen.say)


def _of_product(seen: _Seen, digest: str) -> Iterator[str]:
    if digest in seen.walked.broken:
        yield _broken(seen.walked, digest)
        return
    manifest = seen.walked.products[digest]
    yield from _limited(seen.hashed.faults.get(digest, []), name_of(manifest))
    yield from _limited(misfits(seen.store, seen.walked, manifest), name_of(manifest))
    yield from misrecorded(seen.walked, seen.kept, manifest)


def _broken(walked: Walk, digest: str) -> str:
    """A manifest that could not be read, in one sentence."""
    error, naming = walked.broken[digest], next(iter(walked.named[digest]), None)
    by = walked.products.get(naming.by) if naming else None
    who = f"the {naming.asset} {digest[:12]}" if naming else digest[:12]
    below = f" that the {name_of(by)} was made from" if by else ""
    if not isinstance(error, IntegrityError):
        return f"The manifest of {who}{below} cannot be read: {said(error)}."
    if error.found is None:
        return f"The manifest of {who}{below} is missing, so nothing below it can be followed."
    return f"The manifest of {who}{below} was changed: its bytes hash to {error.found}."


def _limited(faults: Sequence[str], name: str) -> Iterator[str]:
    yield from faults[:_SHOWN_PER_PRODUCT]
    if (rest := len(faults) - _SHOWN_PER_PRODUCT) > 0:
        yield f"{rest} more findings of the same kind concern the {name}."


def _originals(store: Store, walked: Walk, exports: Sequence[str | Path], say: Progress) -> Iterator[str]:
    from dentsight_pipeline.intake.originals import verify_originals

    places = " and ".join(map(str, exports))
    raws = [manifest for manifest in walked.products.values() if manifest.kind == Kind.RAW_EXPORT]
    if not raws:
        yield f"The originals in {places} cannot be compared: no raw export was reached."
        return
    try:
        reports = verify_originals(store, raws, exports, say)
    except IntegrityError as error:
        yield f"The originals in {places} cannot be compared: {said(error)}."
        return
    for raw, report in zip(raws, reports, strict=True):
        yield from _limited([f"In {places}: {line}." for line in report.findings()], name_of(raw))


def _notes(walked: Walk, bytes_of: str, kept: Records) -> Iterator[str]:
    if bytes_of == "top":
        below = len(walked.products) - 1
        command = f"`dentsight audit {walked.top[:12]}`"
        yield f"The bytes of the {below} products below were not hashed again; {command} does."
    yield from _corrected(walked)
    yield from _made_again(walked, kept)


def _corrected(walked: Walk) -> Iterator[str]:
    """Whose corrections the labels of the chain hold, and what became of them."""
    for splits in walked.products.values():
        decided = walked.input_of(splits, Asset.LABEL_CORRECTIONS) if splits.kind == Kind.NORMALIZED_SPLITS else None
        if decided is not None:
            people = ", ".join(decided.facts_as(LabelCorrectionsFacts).people)
            told = ", ".join(f"{n} {outcome}" for outcome, n in splits.facts_as(SplitsFacts).corrections.items())
            yield f"Labels of the {name_of(splits)} were corrected by {people}: {told} ({OUTCOMES_FILE} lists them)."


def _made_again(walked: Walk, kept: Records) -> Iterator[str]:
    """Products that more than one step made."""
    times = Counter(entry.product for entry in kept.log.entries if "asset" in entry.record)
    for digest, manifest in walked.products.items():
        if times[digest] > 1:
            yield f"The {name_of(manifest)} was made {times[digest]} times, always the same."
