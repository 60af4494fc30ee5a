"""What Dagster says about products, copied out as plain data for `lineage/`; nothing is judged here."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.documents.names import KIND_OF_ASSET
from dentsight_pipeline.lineage import verify
from dentsight_pipeline.lineage.events import POINTER_TAG, Event
from dentsight_pipeline.lineage.walk import walk
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.store import log as logs

if TYPE_CHECKING:
    pass


KEYS_FOLDER = "keys"
_EVENTS_OF_AN_ASSET = 10_000
ASSETS = tuple(KIND_OF_ASSET)


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
    from dentsight_pipeline.release.keys import PUBLIC_KEY

    path = workspace.folder / KEYS_FOLDER / PUBLIC_KEY
    return path if path.is_file() else None


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
    evidence = verify.Evidence(public_key=public_key(workspace), events=materialisations(instance, ASSETS, partitions))
    return verify.audit(workspace.store, digest, evidence, bytes_of="top")
