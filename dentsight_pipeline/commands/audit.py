"""`dentsight audit`, `diff`, `promote` and `rollback`: references looked up, with all that Dagster and MLflow say."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.console import show, staged
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.commands import ChampionTold
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.errors import ConfigurationError, ReleaseError
from dentsight_pipeline.lineage import reference, verify
from dentsight_pipeline.lineage.events import Event
from dentsight_pipeline.orchestration.lineage_events import ASSETS, materialisations, public_key
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking import registry
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.orchestration.tracking.registry import registry_of
from dentsight_pipeline.progress import Progress

if TYPE_CHECKING:
    from dentsight_pipeline.documents.lineage import AuditResult
    from dentsight_pipeline.documents.release import ChampionChange

INTACT, NOT_INTACT = 0, 5
"""Exit statuses of an audit, and of what was made again."""
_HEAD = re.compile(r"(\d+:)?[0-9a-f]{64}")


def audit(ref: str, export: list[Path], key: Path | None, head: list[str], as_json: bool) -> int:
    """Audit what a reference means; gives the exit status."""
    exports = [place.absolute() for place in export]
    found, result = audit_reference(Workspace(), ref, exports=exports, key=key, noted_heads=head, progress=staged())
    facts = {"ref": ref, "found_by": found.how, **plain(result)}
    show(facts, as_json, lambda: text.audit(found.how, result))
    return INTACT if result.intact else NOT_INTACT


def diff(a: str, b: str, resamples: int, as_json: bool) -> None:
    """Tell what differs between two checkpoints."""
    from dentsight_pipeline.lineage import diff as comparison

    workspace = Workspace()
    mlflow = registry_of(workspace)
    first, second = (reference.resolve(workspace.store, ref, mlflow).digest for ref in (a, b))
    found = comparison.diff(workspace.store, first, second, resamples=resamples, progress=staged())
    show(found, as_json, lambda: text.difference(found))


def promote(ref: str, by: str, reason: str, key: Path | None, as_json: bool) -> None:
    """Make a release the champion, and say so."""
    told = promote_reference(Workspace(), ref, by, reason, key=key)
    show(told, as_json, lambda: text.champion(told))


def rollback(by: str, reason: str, as_json: bool) -> None:
    """Give the title back, and say so."""
    told = roll_back(Workspace(), by, reason)
    show(told, as_json, lambda: text.champion(told))


def audit_reference(
    workspace: Workspace,
    ref: str,
    *,
    exports: Sequence[str | Path] = (),
    key: Path | None = None,
    noted_heads: Sequence[str] = (),
    progress: Progress | None = None,
) -> "tuple[reference.Reference, AuditResult]":
    """Resolve a reference and audit what it means, with everything that Dagster and MLflow say about it.

    Args:
        workspace: Has the store, MLflow and the keys.
        ref: See `lineage/reference.py`.
        exports: The original files, of each export.
        key: Public key of releases; by default the workspace's own.
        noted_heads: Heads of log or releases that were noted earlier.
        progress: Called with stage, done, total.

    Raises:
        ConfigurationError: The reference means nothing, there is no such key, or a head is none.
    """
    from dentsight_pipeline.lineage.environment import code_state

    _refuse_slips(key, noted_heads)
    found = reference.resolve(workspace.store, ref, registry_of(workspace))
    evidence = verify.Evidence(
        exports=exports,
        public_key=key or public_key(workspace),
        events=events_of(),
        noted_heads=tuple(noted_heads),
        claims=found.findings,
        code=code_state(),
    )
    return found, verify.audit(workspace.store, found.digest, evidence, progress=progress)


def _refuse_slips(key: Path | None, noted_heads: Sequence[str] = ()) -> None:
    """Refuses a key that is not there and a head that is none: a slip of the hand is no finding about the store."""
    if key is not None and not key.is_file():
        raise ConfigurationError(f"There is no public key {key}. Give it with --key FILE.")
    for head in noted_heads:
        if not _HEAD.fullmatch(head):
            raise ConfigurationError(
                f"--head {head!r} is no head. Give one as an audit prints it, in full: NUMBER:sha256 of the log, or "
                "the sha256 of a release."
            )


def promote_reference(workspace: Workspace, ref: str, by: str, reason: str, *, key: Path | None = None) -> ChampionTold:
    """Make a release the champion, in the store and in MLflow's registry.

    Only a release that verifies can be promoted: its verdict allowed it, its signature holds, and its own bytes and
    everything that it says about its chain are as they were.

    Args:
        workspace: Has the store, MLflow and the keys.
        ref: See `lineage/reference.py`.
        by: Who decides.
        reason: Why.
        key: The public key that it was signed with; by default the workspace's own.

    Raises:
        ConfigurationError: The reference means nothing, or there is no such key.
        ReleaseError: No release, not intact, champion already, or nobody says who and why.
    """
    from dentsight_pipeline.release import champion

    _refuse_slips(key)
    found = reference.resolve(workspace.store, ref, registry_of(workspace))
    release = workspace.store.get_manifest(found.digest)
    if release.kind == Kind.RELEASE:
        _require_intact(workspace, found, key)
    return _changed(workspace, lambda: champion.promote(workspace.store, release, by, reason))


def _require_intact(workspace: Workspace, release: reference.Reference, key: Path | None) -> None:
    evidence = verify.Evidence(public_key=key or public_key(workspace), claims=release.findings)
    result = verify.audit(workspace.store, release.digest, evidence, bytes_of="top")
    if not result.intact:
        raise ReleaseError(f"Release {release.digest[:12]} cannot be promoted: {result.findings[0]}")


def roll_back(workspace: Workspace, by: str, reason: str) -> ChampionTold:
    """Give the title back to the champion before, in the store and in MLflow's registry.

    Raises:
        ReleaseError: There is no champion, or nobody says who and why.
    """
    from dentsight_pipeline.release import champion

    return _changed(workspace, lambda: champion.rollback(workspace.store, by, reason))


def _changed(workspace: Workspace, make: Callable[[], "ChampionChange"]) -> ChampionTold:
    """Promote or roll back, show it to MLflow as well, and tell what a person is told."""
    from dentsight_pipeline.release import champion

    before, change = champion.current(workspace.store), make()
    shown = registry.show(Tracking(workspace=workspace))
    return ChampionTold(
        champion=change.release,
        before=before.digest if before else None,
        by=change.by,
        reason=change.reason,
        registry_version=shown.versions.get(change.release or ""),
        registry_problem=shown.problem,
    )


def events_of() -> list[Event]:
    """All materialisations of this project's Dagster; none where it has no Dagster."""
    from dentsight_pipeline.orchestration.instance import open_instance

    try:
        with open_instance() as instance:
            return materialisations(instance, ASSETS)
    except ConfigurationError:  # a store alone, without the home that it was made in
        return []
