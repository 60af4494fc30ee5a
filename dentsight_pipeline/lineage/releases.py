"""The release in a chain: its signature, its place among all releases, and what the log knows of champions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from dentsight_pipeline.documents.names import Asset, Kind, with_article
from dentsight_pipeline.errors import ConfigurationError, DataError, IntegrityError, SignatureError
from dentsight_pipeline.lineage.events import holds
from dentsight_pipeline.lineage.walk import Walk, name_of
from dentsight_pipeline.release import champion, statement
from dentsight_pipeline.store import log as logs
from dentsight_pipeline.store.content import materialise
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store

_UNREADABLE = (DataError, KeyError, TypeError, ValueError)


def unreleased(store: Store, walked: Walk, log: logs.LogReading, public_key: Path | None) -> Iterator[str]:
    """What does not hold of the chain of releases, of the champions, and of the release that is audited."""
    chained, broken = _chained(store)
    if broken is not None:
        yield f"The chain of releases is broken: {broken}."
    else:
        yield from _removed(log, chained)
    yield from _champions(store, log)
    for manifest in [manifest for manifest in walked.products.values() if manifest.kind == Kind.RELEASE]:
        if broken is None and manifest.digest not in chained:
            yield f"The {name_of(manifest)} is not in the chain of releases."
        yield from _signature(store, manifest, log, public_key)


def _chained(store: Store) -> tuple[set[str], str | None]:
    """The releases of the chain, or why it is broken."""
    try:
        return {item.digest for item in statement.verify_chain(store)}, None
    except DataError as error:
        return set(), said(error)
    except (KeyError, TypeError, ValueError) as error:
        return set(), f"a statement in it is not of this form ({error!r})"


def _removed(log: logs.LogReading, chained: set[str]) -> Iterator[str]:
    released = [entry for entry in log.entries if entry.record.get("asset") == Asset.RELEASED_MODEL]
    for entry in [entry for entry in released if entry.product not in chained]:
        still = f"entry {entry.sequence} of the log still names it"
        yield f"Release {entry.product[:12]} was removed from the chain of releases; {still}."


def _champions(store: Store, log: logs.LogReading) -> Iterator[str]:
    """Who was champion, by whose decision: as the reference says and as the log says."""
    try:
        kept = champion.history(store)
    except _UNREADABLE as error:
        yield f"The history of champions cannot be read: {said(error)}."
        return
    logged = champion.logged_history(log)
    # The reference is written first: a killed process may leave its last change out of the log.
    if logged not in (kept, kept[:-1]):
        counts = f"{len(kept)} changes otherwise than the log's {len(logged)}"
        yield f"The history of champions was edited: it tells of {counts}."


def _signature(store: Store, release: Manifest, log: logs.LogReading, public_key: Path | None) -> Iterator[str]:
    if public_key is None:
        yield f"The signature of the {name_of(release)} cannot be verified: no public key was found (--key FILE)."
        return
    with tempfile.TemporaryDirectory() as temporary:
        try:
            folder = materialise(store, release, Path(temporary) / "release")
            noted = statement.verify_release(folder, public_key).predicate.log
        except IntegrityError:
            return  # a file is damaged or missing, which is a finding already; the signature covers it
        except DataError as error:
            yield f"The {name_of(release)} is not what was signed: {said(error)}."
            return
    if noted and not log.holds(logs.Head(noted.sequence, noted.digest)):
        yield (
            f"The log was cut off or written anew: the {name_of(release)} was signed when entry {noted.sequence} of "
            f"it was {noted.digest[:12]}, which is not there any more."
        )


def newest_release(store: Store) -> str | None:
    """The head of the chain of releases; None where there is none or it cannot be read."""
    try:
        newest = statement.head(store)
    except (DataError, KeyError):
        return None
    return newest.digest if newest else None


def require_release(store: Store, digest: str) -> None:
    """Refuses another product where a release is asked for.

    Raises:
        ConfigurationError: It is none.
    """
    kind = store.get_manifest(digest).kind
    if kind != Kind.RELEASE:
        raise ConfigurationError(
            f"{digest[:12]} is {with_article(kind)}. Give a release: its digest, folder, or `release`."
        )


def cut_off(store: Store, log: logs.LogReading, noted_heads: Iterable[str]) -> Iterator[str]:
    """Heads that somebody wrote down earlier and that what they stand for does not reach any more."""
    for noted in noted_heads:
        if ":" in noted:
            if not holds(log, noted):
                yield f"The log was cut off or written anew: the noted entry {noted} is not in it."
            continue
        try:
            statement.verify_chain(store, expected_head=noted)
        except _UNREADABLE as error:
            yield f"The chain of releases was cut off: {said(error)}."


def said(error: Exception) -> str:
    """An error inside a sentence, without its remedy."""
    if isinstance(error, SignatureError):
        return error.problem
    if isinstance(error, IntegrityError):
        state = "is missing" if error.found is None else "was changed"
        return f"{error.what} ({error.expected[:12]}) {state}"
    return str(error).rstrip(".")
