"""Thin adapters: what MLflow and Dagster say about products, copied out as plain data for `lineage/`.

Nothing is judged here.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.lineage import reference, verify
from dentsight_pipeline.lineage.events import Event
from dentsight_pipeline.orchestration.lineage_events import ASSETS, materialisations, public_key
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking import registry
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.orchestration.tracking.registry import MlflowRegistry

if TYPE_CHECKING:
    from dentsight_pipeline.documents.release import ChampionChange
    from dentsight_pipeline.store.manifest import Manifest


def audit_reference(
    workspace: Workspace,
    ref: str,
    *,
    export: str | Path | None = None,
    key: Path | None = None,
    noted_heads: Iterable[str] = (),
    progress: verify.Progress | None = None,
) -> tuple[reference.Reference, verify.AuditResult]:
    """Resolve a reference and audit what it means, with everything that Dagster and MLflow say about it.

    Args:
        workspace: Has the store, MLflow and the keys.
        ref: See `lineage/reference.py`.
        export: The original files.
        key: Public key of releases; by default the workspace's own.
        noted_heads: Heads of log or releases that were noted earlier.
        progress: Called with stage, done, total.

    Raises:
        ConfigurationError: The reference means nothing.
    """
    from dentsight_pipeline.lineage.environment import code_state

    store = workspace.store
    found = reference.resolve(store, ref, MlflowRegistry(Tracking(workspace=workspace)))
    evidence = verify.Evidence(
        export=export,
        public_key=key or public_key(workspace),
        events=events_of(),
        noted_heads=tuple(noted_heads),
        claims=found.findings,
        code=code_state(),
    )
    return found, verify.audit(store, found.digest, evidence, progress=progress)


def promote_reference(
    workspace: Workspace, ref: str, by: str, reason: str, *, key: Path | None = None
) -> dict[str, Any]:
    """Make a release the champion, in the store and in MLflow's registry.

    Only a release that verifies can be promoted: its verdict allowed it, its signature holds, and its own bytes and
    everything that it says about its chain are as they were.

    Args:
        workspace: Has the store, MLflow and the keys.
        ref: See `lineage/reference.py`.
        by: Who decides.
        reason: Why.
        key: The public key that it was signed with; by default the workspace's own.

    Returns:
        `champion`, `before` (digests), `by`, `reason`, `registry_version`, and `registry_problem` (None, or why MLflow
        is told later).

    Raises:
        ReleaseError: No release, not intact, champion already, or nobody says who and why.
    """
    from dentsight_pipeline.errors import ReleaseError
    from dentsight_pipeline.release import champion

    store, tracking = workspace.store, Tracking(workspace=workspace)
    found = reference.resolve(store, ref, MlflowRegistry(tracking))
    release = store.get_manifest(found.digest)
    if release.kind == Kind.RELEASE:
        evidence = verify.Evidence(public_key=key or public_key(workspace), claims=found.findings)
        result = verify.audit(store, found.digest, evidence, bytes_of="top")
        if not result.intact:
            raise ReleaseError(f"Release {found.digest[:12]} cannot be promoted: {result.findings[0]}")
    before = champion.current(store)
    change = champion.promote(store, release, by, reason)
    return _changed(tracking, change, before)


def roll_back(workspace: Workspace, by: str, reason: str) -> dict[str, Any]:
    """Give the title back to the champion before, in the store and in MLflow's registry.

    Returns:
        As `promote_reference`; `champion` may be None.

    Raises:
        ReleaseError: There is no champion, or nobody says who and why.
    """
    from dentsight_pipeline.release import champion

    store = workspace.store
    before = champion.current(store)
    change = champion.rollback(store, by, reason)
    return _changed(Tracking(workspace=workspace), change, before)


def _changed(tracking: Tracking, change: "ChampionChange", before: "Manifest | None") -> dict[str, Any]:
    """What a person is told of a promotion or rollback, which MLflow is shown here as well."""
    shown = registry.show(tracking)
    return {
        "champion": change.release,
        "before": before.digest if before else None,
        "by": change.by,
        "reason": change.reason,
        "registry_version": shown.versions.get(change.release or ""),
        "registry_problem": shown.problem,
    }


def events_of() -> list[Event]:
    """All materialisations of this project's Dagster; none where it has no Dagster."""
    from dentsight_pipeline.orchestration.instance import open_instance

    try:
        with open_instance() as instance:
            return materialisations(instance, ASSETS)
    except ConfigurationError:  # a store alone, without the home that it was made in
        return []
