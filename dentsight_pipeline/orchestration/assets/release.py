"""Release assets: the report that a reviewer reads, one asset check for each gate, and the released model."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.verdict import PLAN_ROW
from dentsight_pipeline.errors import ReleaseError
from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.assets.data import condition_subset
from dentsight_pipeline.orchestration.assets.evaluation import class_metrics
from dentsight_pipeline.orchestration.assets.training import test_predictions, trained_checkpoint
from dentsight_pipeline.orchestration.conditions import on_new_content
from dentsight_pipeline.orchestration.partitions import cells
from dentsight_pipeline.orchestration.product import Made, Metadata, Step, product
from dentsight_pipeline.orchestration.tracking import registry
from dentsight_pipeline.release.policy import load_policy, policy_names

if TYPE_CHECKING:
    from dentsight_pipeline.documents.verdict import Override
    from dentsight_pipeline.release.policy import Policy
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


def _gate_specs() -> list[dg.AssetCheckSpec]:
    """One check for each gate of the packaged policies, and one for the plan; a policy file of one's own reuses their
    ids or adds rows that appear in the report only."""
    gates = {gate.id: gate for name in policy_names() for gate in load_policy(name).gates}
    asked = {gate.id: f"{gate.title}. {gate.reason}" for gate in gates.values()}
    asked[PLAN_ROW] = "The report stands under a plan that was signed before the training, and fulfils it."
    return [dg.AssetCheckSpec(name, asset="release_report", description=text) for name, text in asked.items()]


GATES = _gate_specs()


class ReportConfig(dg.Config):
    """By which policy the model is judged, and who overrides what."""

    policy: str = "card"
    """`card`, `partial-labels`, `phantom`, or the path of a policy file."""
    overrides: dict[str, str] = {}
    """Hard gates that a named person overrides: gate id → "Name: reason". Printed on the report."""
    plan: str = ""
    """Digest of the plan that was signed before the training; empty: none is asked for."""


@product(
    cells,
    reads=[condition_subset, trained_checkpoint, test_predictions, class_metrics],
    settings=ReportConfig,
    version="4",
    group_name="release",
    kinds={"html", "json"},
    automation_condition=on_new_content(),
    check_specs=GATES,
)
def release_report(step: Step[ReportConfig]) -> dg.MaterializeResult:
    """Verdict, gates, per-class table and evidence in one HTML file, with the same facts as JSON and a model card."""
    from dentsight_pipeline.release import champion, product

    chain = step.reads(product.chain_of(step.store, step.read(class_metrics)))
    policy, overrides = load_policy(step.config.policy), step.config.overrides
    state = champion.state(step.store, chain[Asset.CONDITION_SUBSET])
    chain = {**chain, **step.reads(product.beside(step.store, chain[Asset.CLASS_METRICS], step.config.plan))}
    title = f"{step.dataset} × {step.recipe}"
    config = {"policy": policy.digest, "overrides": overrides, "champion": state, "title": title}
    make = partial(_judge, step, chain, policy, product.overrides_of(overrides), title)
    return _with_gates(step, step.once(make, partial(_write_and_show, step), config))


def _judge(
    step: Step[ReportConfig],
    chain: "Mapping[str, Manifest]",
    policy: "Policy",
    overrides: "tuple[Override, ...]",
    title: str,
) -> "Manifest":
    from dentsight_pipeline.release import champion, product

    comparison = champion.comparison_with(step.store, chain)
    return product.publish_report(step.store, chain, policy, overrides, comparison, title=title)


def _write_and_show(step: Step[ReportConfig], store: "Store", report: "Manifest") -> Metadata:
    """Write the report and the page over all reports where people find them."""
    from dentsight_pipeline.release import product
    from dentsight_pipeline.release.report.overview import write_overview

    path = product.show(store, report, step.reports)
    write_overview(step.workspace.reports)
    return metadata.of_report(product.verdict_of(store, report), path)


def _with_gates(step: Step[ReportConfig], made: dg.MaterializeResult) -> dg.MaterializeResult:
    """The report's materialisation with one check result for each gate."""
    from dentsight_pipeline.release import product

    report = step.store.get_manifest(made.data_version.value if made.data_version else "")
    names = [spec.name for spec in GATES]
    return made._replace(check_results=metadata.gate_results(product.verdict_of(step.store, report), names))


@product(
    cells,
    reads=[release_report],
    tracked=True,
    group_name="release",
    kinds={"mlflow", "safetensors"},
    output_required=False,
)
def released_model(step: Step[None]) -> dg.MaterializeResult | None:
    """The signed model folder, made only when every hard gate passed on exactly the digests that it holds."""
    from dentsight_pipeline.release import approval, product

    report = step.read(release_report)
    verdict = product.verdict_of(step.store, report)
    if verdict.releasable and (waiting := approval.lacking(step.store, report)):
        return _nothing(step, waiting)
    if verdict.releasable:
        return step.once(partial(_release, step, report), metadata.of_release)
    return _nothing(step, product.refusal(report, verdict))


def _nothing(step: Step[None], reason: str) -> None:
    """A missed gate is a result within the run that made the report; whoever launches the release alone is refused."""
    if Asset.RELEASE_REPORT not in step.chained:
        raise ReleaseError(reason)
    step.context.log.info(f"Nothing is released. {reason}")


def _release(step: Step[None], report: "Manifest") -> Made:
    from dentsight_pipeline.release import product

    made = product.publish_release(step.store, report, step.workspace.folder / "keys")
    shown = registry.show(step.tracking)
    if shown.problem:
        step.context.log.warning(
            f"MLflow's registry is told of this release later, since it does not answer: {shown.problem}"
        )
    version = {"name": registry.MODEL, "version": shown.versions.get(made.digest)}
    return Made(made.digest, {"registry": version})
