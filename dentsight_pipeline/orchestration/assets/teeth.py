"""Stage 1 alone: its report, for exports of teeth alone (`dentsight run --stage teeth`)."""

from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.orchestration import metadata, tracked
from dentsight_pipeline.orchestration.assets.data import tooth_subset
from dentsight_pipeline.orchestration.assets.evaluation import EvaluationConfig
from dentsight_pipeline.orchestration.assets.training import tooth_checkpoint
from dentsight_pipeline.orchestration.partitions import cells
from dentsight_pipeline.orchestration.product import Made, Step, product

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


@product(
    cells,
    reads=[tooth_subset, tooth_checkpoint],
    settings=EvaluationConfig,
    gpu=True,
    group_name="teeth",
    kinds={"html", "json"},
)
def tooth_report(step: Step[EvaluationConfig]) -> dg.MaterializeResult:
    """Stage 1 alone: AP by tooth, jaw and side, wrong numbers by kind, count of teeth; no gates."""
    checkpoint, title = step.read(tooth_checkpoint), f"{step.dataset} × {step.recipe}"
    step.follow(checkpoint, Asset.TOOTH_SUBSET)
    config = {**step.config.model_dump(), "title": title}
    return step.once(partial(_measure, step, checkpoint, title), partial(_write_and_show, step), config)


def _measure(step: Step[EvaluationConfig], checkpoint: "Manifest", title: str) -> Made:
    from dentsight_pipeline.release.stage_one import publish_tooth_report

    seen = tracked.predict(step, step.inputs[Asset.TOOTH_SUBSET], checkpoint)
    found, settings = step.store.get_manifest(seen.digest), step.config.model_dump()
    made = publish_tooth_report(step.store, checkpoint, found, title=title, **settings, progress=step.progress)
    return Made(made.digest, seen.record)


def _write_and_show(step: Step[EvaluationConfig], store: "Store", report: "Manifest") -> metadata.Metadata:
    """Write the report where people find it, beside that of the conditions."""
    from dentsight_pipeline.release import product as reports

    return metadata.of_tooth_report(store, report, reports.show(store, report, step.reports / "teeth"))
