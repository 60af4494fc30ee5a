"""Asset checks: the outcomes of `data/checks.py` and of head health, with tables, in the Dagster UI.

A check judges exactly the bytes that its run materialised. Blocking here stops a run early; what really guards is that
every consumer asks for the same outcomes again (`data.checks.require`, `assets/release.py`).
"""

import dagster as dg

from dentsight_pipeline.assets import metadata
from dentsight_pipeline.assets.data import condition_subset, normalized_splits, raw_export
from dentsight_pipeline.assets.partitions import cells, datasets
from dentsight_pipeline.assets.training import trained_checkpoint
from dentsight_pipeline.data import checks
from dentsight_pipeline.resources import Workspace


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


@dg.asset_check(asset=condition_subset, partitions_def=datasets)
def class_counts_as_expected(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> dg.AssetCheckResult:
    """No class is new, vanished or strongly shifted against the version before."""
    key = context.partition_key
    current = workspace.latest(context, "condition_subset", key)
    before = checks.previous_key(key, list(context.instance.get_dynamic_partitions("dataset")))
    previous = workspace.latest_or_none(context, "condition_subset", before) if before else None
    return metadata.check_result(checks.class_counts_as_expected(current, previous, before or ""))


@dg.asset_check(asset=trained_checkpoint, partitions_def=cells)
def head_is_healthy(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> dg.AssetCheckResult:
    """The classification head learned scores; when it did not, AP is ranking-only and nothing may be released."""
    checkpoint = workspace.latest(context, "trained_checkpoint", str(context.partition_key))
    return metadata.health_result(workspace.store, checkpoint)


asset_checks = [
    _data_check(raw_export, checks.no_identifiers_left),
    _data_check(normalized_splits, checks.test_split_is_clean),
    _data_check(normalized_splits, checks.labels_are_known),
    _data_check(normalized_splits, checks.boxes_are_valid),
    _data_check(normalized_splits, checks.teeth_are_plausible),
    class_counts_as_expected,
    head_is_healthy,
]
