"""Asset checks: the outcomes of `data/checks.py` and of head health, with tables, in the Dagster UI.

A check judges exactly the bytes that its run materialised. Blocking here stops a run early; what really guards is that
every consumer asks for the same outcomes again (`data.checks.require`, `orchestration/assets/release.py`).
"""

from typing import TYPE_CHECKING

import dagster as dg

from dentsight_pipeline.data import checks
from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.assets.data import condition_subset, normalized_splits, raw_export, tooth_subset
from dentsight_pipeline.orchestration.assets.release import released_model
from dentsight_pipeline.orchestration.assets.training import tooth_checkpoint, trained_checkpoint
from dentsight_pipeline.orchestration.partitions import cells, datasets
from dentsight_pipeline.orchestration.resources import Workspace

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest


def _data_check(asset: dg.AssetsDefinition, check: checks.Check) -> dg.AssetChecksDefinition:
    """The asset check for one function of `data/checks.py`."""
    name = check.__name__
    description = (check.__doc__ or "").strip().split("\n")[0]

    @dg.asset_check(
        asset=asset, name=name, blocking=name in checks.BLOCKING, description=description, partitions_def=datasets
    )
    def evaluate(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> dg.AssetCheckResult:
        manifest = workspace.latest(context, asset.key.to_user_string(), context.partition_key)
        return metadata.check_result(checks.outcome_of(workspace.store, check, manifest))

    return evaluate


def _class_counts_check(subset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The asset check that compares a subset with the version before."""
    name = subset.key.to_user_string()

    @dg.asset_check(asset=subset, partitions_def=datasets)
    def class_counts_as_expected(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> dg.AssetCheckResult:
        """No class is new, vanished or strongly shifted against the version before."""
        return metadata.check_result(checks.class_counts_as_expected(*_with_previous(context, workspace, name)))

    return class_counts_as_expected


def _with_previous(
    context: dg.AssetCheckExecutionContext, workspace: Workspace, name: str
) -> "tuple[Manifest, Manifest | None, str]":
    """A dataset's subset, that of the version before, None where it is the first, and that version's key."""
    key = context.partition_key
    before = checks.previous_key(key, list(context.instance.get_dynamic_partitions("dataset")))
    previous = workspace.latest_or_none(context, name, before) if before else None
    return workspace.latest(context, name, key), previous, before or ""


def _drift_check(subset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The asset check that compares a subset's new images with the training data of the version before."""
    name = subset.key.to_user_string()

    @dg.asset_check(asset=subset, partitions_def=datasets)
    def images_as_expected(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> dg.AssetCheckResult:
        """No property of the new images, or of their labels, has drifted from the version before."""
        found = checks.images_as_expected(workspace.store, *_with_previous(context, workspace, name))
        return metadata.check_result(found)

    return images_as_expected


def _head_check(checkpoint: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The asset check of a checkpoint's head."""

    @dg.asset_check(asset=checkpoint, partitions_def=cells)
    def head_is_healthy(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> dg.AssetCheckResult:
        """The classification head learned scores; when it did not, AP is ranking-only and nothing may be released."""
        made = workspace.latest(context, checkpoint.key.to_user_string(), str(context.partition_key))
        return metadata.health_result(workspace.store, made)

    return head_is_healthy


def _lineage_check(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The asset check of a product's lineage."""

    @dg.asset_check(asset=asset, partitions_def=cells)
    def lineage_is_intact(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> dg.AssetCheckResult:
        """Manifests, records, log, verdicts and tags fit down to the raw export, and the product's own bytes hash.

        The bytes of the data below are not hashed again here: the training that has just run read every one of them
        verified. `dentsight audit` hashes everything.
        """
        from dentsight_pipeline.orchestration.lineage_events import check_lineage

        name, partition = asset.key.to_user_string(), str(context.partition_key)
        made = workspace.latest(context, name, partition)
        return metadata.lineage_result(check_lineage(workspace, context.instance, made.digest, partition))

    return lineage_is_intact


asset_checks = [
    _data_check(raw_export, checks.no_identifiers_left),
    _data_check(normalized_splits, checks.test_split_is_clean),
    _data_check(normalized_splits, checks.labels_are_known),
    _data_check(normalized_splits, checks.boxes_are_valid),
    _data_check(normalized_splits, checks.teeth_are_plausible),
    _data_check(tooth_subset, checks.boxes_are_valid),
    _class_counts_check(condition_subset),
    _class_counts_check(tooth_subset),
    _drift_check(condition_subset),
    _head_check(trained_checkpoint),
    _head_check(tooth_checkpoint),
    _lineage_check(trained_checkpoint),
    _lineage_check(released_model),
]
