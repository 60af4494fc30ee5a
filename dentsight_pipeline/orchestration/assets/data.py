"""Data assets: from an export to the 13 conditions or the 32 teeth, partitioned by dataset."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.data.reading import Reading, config_of
from dentsight_pipeline.intake.datasets import corrections_for, recall_dataset, register_dataset
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

    export: list[str] = []
    """A folder, a zip, `s3://…`, `roboflow:workspace/project/version` or `phantom:IMAGES:SEED`; several are one dataset
    together. Empty: what the key already means; for `phantom-v1` the demo's corpus."""
    source: str = ""
    """Packaged label mapping; empty: chosen by the export's fingerprint."""
    mapping: list[str] = []
    """Of each export a file that says what labels mean and what was looked for, or `auto`. Empty, without source and
    drop: the export's `dentsight.yaml`, else as the key remembers."""
    drop: list[str] = []
    """Label names to drop on purpose; counted as dropped."""
    accept_repairs: list[str] = []
    """Kinds of repairs that may be beyond their limits; recorded. Empty: those that the key remembers."""
    replace: str = ""
    """Why other bytes may take over a key that already means something; recorded. Empty: refused."""


@product(datasets, reads=[], settings=ExportConfig, version="2", group_name="data", kinds={"coco", "file"})
def raw_export(step: Step[ExportConfig]) -> dg.MaterializeResult:
    """Each export as it came, without EXIF or original names, and with the sha256 of every original file."""
    from dentsight_pipeline.intake import acquire

    given, key = step.config, checked_dataset_key(step.dataset)
    asked = (given.source, tuple(given.drop), tuple(given.accept_repairs), given.mapping)
    plan = acquire.plan(step.store, key, given.export, *asked)
    for told in filter(None, (one.told for one in plan)):
        step.context.log.warning(told)
    made = [_acquired(step, number, one) for number, one in enumerate(plan)]
    return step.told(_together(step, made), partial(_register_and_show, key, plan, made, given.replace))


def _acquired(step: Step[ExportConfig], number: int, one: "Acquisition") -> Made:
    """One export, ingested or recalled; one of several is no event of its own, so its record names no partition."""
    record = {} if one.alone else {"partition": None}
    return step.work(partial(_ingest, step, number, one), one.memo, one.registered, **record)


def _ingest(step: Step[ExportConfig], number: int, one: "Acquisition") -> Made:
    from dentsight_pipeline.intake import acquire

    scratch = step.workspace.scratch("raw_export", f"{step.dataset}-{number}" if number else step.dataset)
    digest = acquire.ingest(step.store, one, scratch, step.progress)
    known = digest == one.registered or (not one.alone and any(step.store.records(digest)))
    return Made(digest, {"location": one.location}, reused=known)


def _together(step: Step[ExportConfig], made: Sequence[Made]) -> Made:
    """The raw export of a key, or of several the set of them."""
    from dentsight_pipeline.intake import acquire

    if len(made) == 1:
        return made[0]
    whole = acquire.together(step.store, [one.digest for one in made])
    step.reads({name: step.store.get_manifest(digest) for name, digest in whole.inputs.items()})
    return step.work(lambda: whole)


def _register_and_show(
    key: str, plan: "Sequence[Acquisition]", made: Sequence[Made], replace: str, store: "Store", whole: "Manifest"
) -> metadata.Metadata:
    exports = [one.registered_as(raw.digest) for one, raw in zip(plan, made, strict=True)]
    known = register_dataset(
        store, key, whole.digest, exports, drop=plan[0].drop, accept=plan[0].accept, replace=replace
    )
    told = metadata.of_raw_exports(store, whole, {export.raw_export: export.location for export in exports})
    return {**told, "read with": known.asked}


@product(
    datasets,
    reads=[raw_export],
    version="3",
    group_name="data",
    kinds={"coco"},
    automation_condition=on_new_content(),
)
def normalized_splits(step: Step[None]) -> dg.MaterializeResult:
    """The exports mapped to 32 teeth and 13 conditions, repaired, and grouped by the source of each image."""
    raws = step.read_exports(raw_export)
    known = recall_dataset(step.store, step.dataset)
    readings = [known.reading(raw.digest) if known else Reading() for raw in raws]
    decided = step.reads(corrections_for(step.store, step.dataset))
    return step.once(partial(_normalised, step, raws, readings, decided), metadata.of_splits, config_of(readings))


def _normalised(
    step: Step[None], raws: "Sequence[Manifest]", readings: Sequence[Reading], decided: "Mapping[str, Manifest]"
) -> "Manifest":
    from dentsight_pipeline.data.combine import normalise_exports  # scipy: a second that recalled work does not need
    from dentsight_pipeline.data.corrections import apply_stored

    splits = normalise_exports(step.store, raws, readings, step.progress)
    return apply_stored(step.store, splits, *decided.values()) if decided else splits


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
