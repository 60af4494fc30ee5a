"""Data assets: from an export to the 13 conditions, partitioned by dataset."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.intake.datasets import recall_dataset, register_dataset
from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.conditions import on_new_content
from dentsight_pipeline.orchestration.partitions import checked_dataset_key, datasets
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.step import Made, materialize_step, refusing_without_identifiers
from dentsight_pipeline.progress import throttled

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest


class ExportConfig(dg.Config):
    """Where an export is, and how to read it."""

    export: str = ""
    """A folder, a zip, `s3://…`, `roboflow:workspace/project/version` or `phantom:IMAGES:SEED`. Empty: what the key
    already means; for `phantom-v1` the demo's corpus."""
    source: str = ""
    """Label mapping; empty: chosen by the export's fingerprint."""
    drop: list[str] = []
    """Label names to drop on purpose; counted as dropped."""
    replace: str = ""
    """Why other bytes may take over a key that already means something; recorded. Empty: refused."""


@dg.asset(
    group_name="data",
    kinds={"coco", "file"},
    code_version="1",
    owners=["team:dentsight"],
    partitions_def=datasets,
)
def raw_export(context: dg.AssetExecutionContext, config: ExportConfig, workspace: Workspace) -> dg.MaterializeResult:
    """The export as it came, without EXIF or original names, and with the sha256 of every original file."""
    from dentsight_pipeline.intake import acquire

    key = checked_dataset_key(context.partition_key)
    plan = acquire.plan(workspace.store, key, config.export, config.source, tuple(config.drop))

    def ingest() -> Made:
        scratch = workspace.scratch("raw_export", key)
        with refusing_without_identifiers():
            digest = acquire.ingest(workspace.store, plan, scratch, throttled(context.log.info))
        return Made(digest, {"location": plan.location}, reused=digest == plan.registered)

    def register_and_describe(manifest: "Manifest") -> dict[str, Any]:
        register_dataset(
            workspace.store,
            key,
            manifest.digest,
            plan.location,
            source=plan.source,
            drop=plan.drop,
            replace=config.replace,
        )
        return metadata.of_raw_export(manifest, plan.location)

    return materialize_step(
        context, workspace, inputs={}, config=plan.memo, make=ingest, describe=register_and_describe
    )


@dg.asset(
    group_name="data",
    kinds={"coco"},
    code_version="1",
    owners=["team:dentsight"],
    automation_condition=on_new_content(),
    partitions_def=datasets,
    deps=[raw_export],
)
def normalized_splits(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
    """The export mapped to 32 teeth and 13 conditions, repaired, and grouped by the source of each image."""
    raw = workspace.latest(context, "raw_export", context.partition_key)
    choice = recall_dataset(workspace.store, context.partition_key)
    source, drop = (choice.source, choice.drop) if choice else (None, ())

    def normalise() -> Made:
        from dentsight_pipeline.data.normalise import normalise_export

        progress = throttled(context.log.info)
        return Made(normalise_export(workspace.store, raw, source=source, drop=drop, progress=progress).digest)

    return materialize_step(
        context,
        workspace,
        inputs={"raw_export": raw},
        config={"source": source, "drop": list(drop)},
        make=normalise,
        describe=lambda made: metadata.of_splits(workspace, made),
    )


@dg.asset(
    group_name="data",
    kinds={"coco", "huggingface", "parquet"},
    code_version="1",
    owners=["team:dentsight"],
    automation_condition=on_new_content(),
    partitions_def=datasets,
    deps=[normalized_splits],
)
def condition_subset(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
    """The splits narrowed to the 13 conditions that stage 2 is to find; every image stays."""
    from dentsight_pipeline.data import checks

    splits = workspace.latest(context, "normalized_splits", context.partition_key)
    checks.require(workspace.store, splits)

    def select() -> Made:
        from dentsight_pipeline.data.subset import select_conditions

        return Made(select_conditions(workspace.store, splits).digest)

    return materialize_step(
        context,
        workspace,
        inputs={"normalized_splits": splits},
        config={},
        make=select,
        describe=lambda made: metadata.of_splits(workspace, made),
    )
