"""Thin adapters: what MLflow and Dagster say about products, copied out as plain data for `lineage/`.

Nothing is judged here.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.lineage import log as logs
from dentsight_pipeline.lineage import reference, verify
from dentsight_pipeline.lineage.events import POINTER_TAG, Event
from dentsight_pipeline.lineage.fit import KIND_OF_ASSET
from dentsight_pipeline.lineage.walk import walk
from dentsight_pipeline.resources import Tracking, Workspace
from dentsight_pipeline.runtime import registry
from dentsight_pipeline.runtime.registry import MODEL

if TYPE_CHECKING:
    from dentsight_pipeline.release.champion import ChampionChange
    from dentsight_pipeline.store.manifest import Manifest

KEYS_FOLDER = "keys"
_EVENTS_OF_AN_ASSET = 10_000
_ASSETS = (*KIND_OF_ASSET, "released_model", "champion_metrics", "tooth_findings")


class MlflowRegistry:
    """`lineage.reference.Registry` on this project's MLflow; nothing is opened before it is asked."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def run_tags(self, run_id: str) -> Mapping[str, str] | None:
        """The tags of a run, or None when there is no such run."""
        with self._asked():
            return dict(self._tracking.client.get_run(run_id).data.tags)
        return None

    def version_tags(self, name: str | None, *, version: str = "", alias: str = "") -> Mapping[str, str] | None:
        """The tags of a registered model's version, by number or alias; None when there is none."""
        model = name or MODEL
        with self._asked():
            client = self._tracking.client
            found = (
                client.get_model_version_by_alias(model, alias) if alias else client.get_model_version(model, version)
            )
            return dict(found.tags)
        return None

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Leave the block when MLflow has no such thing.

        Raises:
            ConfigurationError: MLflow does not answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return
            raise ConfigurationError(
                f"MLflow ({self._tracking.address}) does not answer: {str(error)[:150]} … Start it, or give a digest, "
                "`champion` or `release`, which need no MLflow."
            ) from error


def materialisations(
    instance: dg.DagsterInstance, assets: Iterable[str], partitions: Iterable[str] | None = None
) -> list[Event]:
    """The materialisations of these assets that Dagster still has.

    Args:
        instance: Dagster.
        assets: Names of assets.
        partitions: Only these, and the single events that their tags point at; None for all.
    """
    wanted = None if partitions is None else sorted(set(partitions))
    events = [event for asset in sorted(set(assets)) for event in _events(instance, asset, asset_partitions=wanted)]
    if wanted is not None:
        known = {event.storage_id for event in events}
        pointed: dict[str, set[int]] = {}
        for event in events:
            for key, value in event.tags.items():
                if key.startswith(POINTER_TAG) and value.isdigit() and int(value) not in known:
                    pointed.setdefault(key.removeprefix(POINTER_TAG), set()).add(int(value))
        for asset, ids in pointed.items():
            events += _events(instance, asset, storage_ids=sorted(ids))
    return events


def _events(instance: dg.DagsterInstance, asset: str, **only: Any) -> list[Event]:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), **only), limit=_EVENTS_OF_AN_ASSET
    ).records
    events = []
    for record in records:
        materialization = record.asset_materialization
        if materialization is None:
            continue
        tags = dict(materialization.tags or {})
        events.append(
            Event(
                asset=asset,
                partition=materialization.partition,
                run_id=record.run_id,
                storage_id=record.storage_id,
                data_version=tags.get("dagster/data_version"),
                tags=tags,
                metadata={name: value.value for name, value in materialization.metadata.items()},
            )
        )
    return events


def public_key(workspace: Workspace) -> Path | None:
    """The public part of this workspace's signing key, or None when nothing was released here yet."""
    from dentsight_pipeline.release.statement import PUBLIC_KEY

    path = workspace.folder / KEYS_FOLDER / PUBLIC_KEY
    return path if path.is_file() else None


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
    from dentsight_pipeline.assets.step import code_state

    store = workspace.store
    found = reference.resolve(store, ref, MlflowRegistry(Tracking(workspace=workspace)))
    result = verify.audit(
        store,
        found.digest,
        export=export,
        public_key=key or public_key(workspace),
        events=events_of(),
        noted_heads=noted_heads,
        claims=found.findings,
        code=code_state(),
        progress=progress,
    )
    return found, result


def check_lineage(
    workspace: Workspace, instance: dg.DagsterInstance, digest: str, partition: str
) -> verify.AuditResult:
    """The audit that follows every training and release: everything but the bytes of the data below.

    Args:
        workspace: Has the store and the key.
        instance: Dagster; asked for the partitions alone that the chain was made for.
        digest: The product.
        partition: The partition that it was materialised for just now.
    """
    partitions = {partition}
    products = walk(workspace.store, digest).products
    for entry in logs.read(workspace.store).entries:
        if entry.product in products and entry.record.get("partition"):
            partitions.add(str(entry.record["partition"]))
    partitions |= {key.split("|")[0] for key in partitions}
    return verify.audit(
        workspace.store,
        digest,
        bytes_of="top",
        public_key=public_key(workspace),
        events=materialisations(instance, _ASSETS, partitions),
    )


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
    if release.kind == "release":
        result = verify.audit(
            store, found.digest, bytes_of="top", public_key=key or public_key(workspace), claims=found.findings
        )
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
    from dentsight_pipeline.runtime.cell import open_instance

    try:
        with open_instance() as instance:
            return materialisations(instance, _ASSETS)
    except ConfigurationError:  # a store alone, without the home that it was made in
        return []
