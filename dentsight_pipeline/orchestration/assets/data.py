"""Data assets: from an export to the 13 conditions or the 32 teeth, partitioned by dataset."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.intake.datasets import recall_dataset, register_dataset
from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.conditions import on_new_content
from dentsight_pipeline.orchestration.partitions import checked_dataset_key, datasets
from dentsight_pipeline.orchestration.product import Made, Step, product

if TYPE_CHECKING:
    from dentsight_pipeline.intake.acquire import Acquisition
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


class ExportConfig(dg.Config):
    """Where an export is, and how to read it."""

    export: str = ""
    """A folder, a zip, `s3://…`, `roboflow:workspace/project/version` or `phantom:IMAGES:SEED`. Empty: what the key
    already means; for `phantom-v1` the demo's corpus."""
    source: str = ""
    """Packaged label mapping; empty: chosen by the export's fingerprint."""
    mapping: str = ""
    """A file that says what labels mean and what was looked for, or `auto`. Empty, without source and drop: the
    export's `dentsight.yaml`, else as the key remembers."""
    drop: list[str] = []
    """Label names to drop on purpose; counted as dropped."""
    accept_repairs: list[str] = []
    """Kinds of repairs that may be beyond their limits; recorded. Empty: those that the key remembers."""
    replace: str = ""
    """Why other bytes may take over a key that already means something; recorded. Empty: refused."""


@product(datasets, reads=[], settings=ExportConfig, group_name="data", kinds={"coco", "file"})
def raw_export(step: Step[ExportConfig]) -> dg.MaterializeResult:
    """The export as it came, without EXIF or original names, and with the sha256 of every original file."""
    from dentsight_pipeline.intake import acquire

    given, key = step.config, checked_dataset_key(step.dataset)
    asked = (tuple(given.drop), tuple(given.accept_repairs), given.mapping)
    plan = acquire.plan(step.store, key, given.export, given.source, *asked)
    if plan.told:
        step.context.log.warning(plan.told)
    show = partial(_register_and_show, key, plan, given.replace)
    return step.once(partial(_ingest, step, key, plan), show, plan.memo)


def _ingest(step: Step[ExportConfig], key: str, plan: "Acquisition") -> Made:
    from dentsight_pipeline.intake import acquire

    digest = acquire.ingest(step.store, plan, step.workspace.scratch("raw_export", key), step.progress)
    return Made(digest, {"location": plan.location}, reused=digest == plan.registered)


def _register_and_show(
    key: str, plan: "Acquisition", replace: str, store: "Store", made: "Manifest"
) -> metadata.Metadata:
    asked = {"source": plan.source, "drop": plan.drop, "accept": plan.accept}
    register_dataset(store, key, made.digest, plan.location, replace=replace, **asked)
    return metadata.of_raw_export(made, plan.location)


@product(
    datasets,
    reads=[raw_export],
    version="2",
    group_name="data",
    kinds={"coco"},
    automation_condition=on_new_content(),
)
def normalized_splits(step: Step[None]) -> dg.MaterializeResult:
    """The export mapped to 32 teeth and 13 conditions, repaired, and grouped by the source of each image."""
    raw, choice = step.read(raw_export), recall_dataset(step.store, step.dataset)
    source, drop = (choice.source, choice.drop) if choice else (None, ())
    config = {"source": source, "drop": list(drop)}
    return step.once(lambda: _normalised(step, raw, source, drop), metadata.of_splits, config)


def _normalised(step: Step[None], raw: "Manifest", source: str | None, drop: tuple[str, ...]) -> "Manifest":
    from dentsight_pipeline.data.normalise import normalise_export  # scipy: a second that recalled work does not need

    return normalise_export(step.store, raw, source=source, drop=drop, progress=step.progress)


def _conditions(store: "Store", splits: "Manifest") -> "Manifest":
    from dentsight_pipeline.data.subset import select_conditions

    return select_conditions(store, splits)


def _teeth(store: "Store", splits: "Manifest") -> "Manifest":
    from dentsight_pipeline.data.subset import select_teeth

    return select_teeth(store, splits)


def _subset(select: Callable[["Store", "Manifest"], "Manifest"], **more: Any) -> dg.AssetsDefinition:
    """The splits narrowed to what one stage is to find."""

    @product(datasets, reads=[normalized_splits], kinds={"coco", "arrow"}, **more)
    def subset(step: Step[None]) -> dg.MaterializeResult:
        from dentsight_pipeline.data import checks

        splits = step.read(normalized_splits)
        checks.require(step.store, splits)
        return step.once(lambda: select(step.store, splits), metadata.of_splits)

    return subset


condition_subset = _subset(
    _conditions,
    name="condition_subset",
    group_name="data",
    description="The splits narrowed to the 13 conditions that stage 2 is to find; every image stays.",
    automation_condition=on_new_content(),
)

tooth_subset = _subset(
    _teeth,
    name="tooth_subset",
    group_name="teeth",
    description="The splits narrowed to the 32 teeth that stage 1 is to find; images without marked teeth are left "
    "out.",
)
