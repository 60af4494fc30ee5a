"""People who approve a report before it becomes a release: a signature of each, with a key that policy or plan name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.documents.codec import convert, plain, read, write
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.plan import Approvals, Approved, approvals_ref
from dentsight_pipeline.documents.report import REPORT, Report
from dentsight_pipeline.errors import DocumentError, ReleaseError
from dentsight_pipeline.release.envelope import signed, unsealed
from dentsight_pipeline.release.keys import public_part, same_public_key
from dentsight_pipeline.release.plan import plan_in
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import read_document

if TYPE_CHECKING:
    from dentsight_pipeline.documents.policy import ApprovalRule
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

FOLDER = "approvals/"


def rules_of(store: Store, report: Manifest) -> tuple[ApprovalRule, ...]:
    """What the policy of a report and its plan ask for; each must be met by itself."""
    asked = read_document(store, report, REPORT, Report).policy.approvals
    planned = plan_in(store, store.get_manifest(report.inputs[Asset.PLAN])) if Asset.PLAN in report.inputs else None
    return tuple(rule for rule in (asked, planned.approvals if planned else None) if rule)


def approve(store: Store, report: Manifest, by: str, private_key: Path, started: float) -> tuple[str, ...]:
    """Sign a report as one of the named people.

    Args:
        store: Where it is.
        report: The report.
        by: Who approves.
        private_key: Their key.
        started: Now.

    Returns:
        Everybody who approved it so far.

    Raises:
        ReleaseError: Nobody asks for approvals, the name or key is not one of those named, or they approved already.
    """
    _require_key(_keys_of(store, report, by), by, private_key)
    before, kept = store.read_ref(approvals_ref(report.digest)), _kept(store, report)
    if by in kept:
        raise ReleaseError(f"{by} approved report {report.digest[:12]} already. Another person has to.")
    envelope = store.put_bytes(signed(write(Approved(report=report.digest, by=by)), private_key))
    now = Approvals(envelopes={**kept, by: envelope})
    store.write_ref(approvals_ref(report.digest), plain(now), expected=before)
    log.append(store, report.digest, {"action": "approve", "by": by, "envelope": envelope, "started": started})
    return tuple(now.envelopes)


def _keys_of(store: Store, report: Manifest, by: str) -> list[str]:
    """A person's key as each rule has it."""
    rules = rules_of(store, report)
    if not rules:
        raise ReleaseError(f"Neither policy nor plan of report {report.digest[:12]} asks for approvals.")
    people = dict.fromkeys(name for rule in rules for name in rule.people)
    if by not in people:
        raise ReleaseError(f"{by!r} is none of those whose approval is asked for: {', '.join(people)}.")
    return [rule.people[by] for rule in rules if by in rule.people]


def _require_key(keys: list[str], by: str, private_key: Path) -> None:
    own = public_part(private_key.read_bytes()).decode() if private_key.is_file() else None
    if own is None or not all(same_public_key(own, key) for key in keys):
        raise ReleaseError(f"{private_key} is not the key of {by} that policy or plan name. Nobody signs for another.")


def _kept(store: Store, report: Manifest) -> dict[str, str]:
    name = approvals_ref(report.digest)
    return dict(convert(store.read_ref(name) or {}, Approvals, f"reference {name}").envelopes)


def lacking(store: Store, report: Manifest) -> str | None:
    """Why a report may not be released yet, in a sentence; None when every rule is met."""
    envelopes = {by: store.get_bytes(digest) for by, digest in _kept(store, report).items()}
    return next(unmet(rules_of(store, report), report.digest, envelopes), None)


def unmet(rules: tuple[ApprovalRule, ...], report: str, envelopes: dict[str, bytes]) -> Iterator[str]:
    """The rules that signatures do not meet, one sentence each; a signature counts for its own key alone."""
    for rule in rules:
        waiting = [by for by, key in rule.people.items() if not _holds(envelopes.get(by), key, report, by)]
        there = len(rule.people) - len(waiting)
        if there < rule.needed:
            has = f"needs {rule.needed} approvals and has {there}. Waiting for {', '.join(waiting)}"
            yield f"Report {report[:12]} {has}: `dentsight approve {report[:12]} --by NAME --key KEY`, then run again."


def _holds(envelope: bytes | None, key: str, report: str, by: str) -> bool:
    document = unsealed(envelope, key.encode()) if envelope else None
    try:
        return document is not None and read(document, Approved, "approval") == Approved(report=report, by=by)
    except DocumentError:
        return False


def write_approvals(store: Store, report: Manifest, folder: Path) -> tuple[str, ...]:
    """Put the signed envelopes into a release folder; gives who signed, nobody where nobody had to."""
    if not rules_of(store, report):
        return ()
    kept = _kept(store, report)
    (folder / FOLDER).mkdir()
    for by, digest in kept.items():
        (folder / FOLDER / file_name(by)).write_bytes(store.get_bytes(digest))
    return tuple(kept)


def file_name(by: str) -> str:
    """Of a person's envelope: letters and digits, and the start of the name's digest, so that no two are alike."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', by).strip('-')[:40]}-{sha256(by.encode()).hexdigest()[:8]}.dsse.json"
