"""Release assets: the report that a reviewer reads, one asset check for each gate, and the released model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.assets.evaluation import class_metrics
from dentsight_pipeline.orchestration.conditions import on_new_content
from dentsight_pipeline.orchestration.partitions import cell_of, cells
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.step import Made, chained_assets, digest_of, materialize_step
from dentsight_pipeline.orchestration.tracking import registry
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.release.policy import load_policy, policy_names

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest


def _gate_specs() -> list[dg.AssetCheckSpec]:
    """One check for each gate of the packaged policies; a policy file of one's own reuses their ids or adds rows that
    appear in the report only."""
    gates = {gate.id: gate for name in policy_names() for gate in load_policy(name).gates}
    return [
        dg.AssetCheckSpec(name=gate.id, asset="release_report", description=f"{gate.title}. {gate.reason}")
        for gate in gates.values()
    ]


class ReportConfig(dg.Config):
    """By which policy the model is judged, and who overrides what."""

    policy: str = "card"
    """`card`, `phantom`, or the path of a policy file."""
    overrides: dict[str, str] = {}
    """Hard gates that a named person overrides: gate id → "Name: reason". Printed on the report."""


@dg.asset(
    group_name="release",
    kinds={"html", "json"},
    code_version="2",
    owners=["team:dentsight"],
    automation_condition=on_new_content(),
    partitions_def=cells,
    deps=["condition_subset", "trained_checkpoint", "test_predictions", class_metrics],
    check_specs=_gate_specs(),
)
def release_report(
    context: dg.AssetExecutionContext, config: ReportConfig, workspace: Workspace
) -> dg.MaterializeResult:
    """Verdict, gates, per-class table and evidence in one HTML file, with the same facts as JSON and a model card."""
    from dentsight_pipeline.release import champion, product
    from dentsight_pipeline.release.report.overview import write_overview

    store = workspace.store
    evaluation = workspace.latest(context, "class_metrics", str(context.partition_key))
    chain = product.chain_of(store, evaluation)
    policy = load_policy(config.policy)
    overrides = product.overrides_of(config.overrides)
    dataset, recipe = cell_of(context)

    def report() -> Made:
        comparison = champion.comparison_with(store, chain)
        return Made(
            product.publish_report(store, chain, policy, overrides, comparison, title=f"{dataset} × {recipe}").digest
        )

    def show(manifest: "Manifest") -> dict[str, Any]:
        path = product.show(store, manifest, workspace.report_folder(dataset, recipe))
        write_overview(workspace.reports)
        return metadata.of_report(product.verdict_of(store, manifest), path)

    result = materialize_step(
        context,
        workspace,
        inputs=chain,
        config={
            "policy": policy.digest,
            "overrides": config.overrides,
            "champion": champion.state(store, chain["condition_subset"]),
        },
        make=report,
        describe=show,
    )
    verdict = product.verdict_of(store, store.get_manifest(digest_of(result)))
    return result._replace(check_results=metadata.gate_results(verdict, [spec.name for spec in _gate_specs()]))


@dg.asset(
    group_name="release",
    kinds={"mlflow", "safetensors"},
    code_version="1",
    owners=["team:dentsight"],
    partitions_def=cells,
    deps=[release_report],
    output_required=False,
)
def released_model(
    context: dg.AssetExecutionContext, workspace: Workspace, tracking: Tracking
) -> Iterator[dg.MaterializeResult]:
    """The signed model folder, made only when every hard gate passed on exactly the digests that it holds."""
    from dentsight_pipeline.errors import ReleaseError
    from dentsight_pipeline.release import product

    report = workspace.latest(context, "release_report", str(context.partition_key))
    verdict = product.verdict_of(workspace.store, report)
    if not verdict.releasable:
        reason = product.refusal(report, verdict)
        if "release_report" in chained_assets(context):
            context.log.info(f"Nothing is released. {reason}")
            return
        raise ReleaseError(reason)

    def release() -> Made:
        manifest = product.publish_release(workspace.store, report, workspace.folder / "keys")
        shown = registry.show(tracking)
        if shown.problem:
            context.log.warning(
                f"MLflow's registry is told of this release later, since it does not answer: {shown.problem}"
            )
        return Made(
            manifest.digest, {"registry": {"name": registry.MODEL, "version": shown.versions.get(manifest.digest)}}
        )

    yield materialize_step(
        context,
        workspace,
        inputs={"release_report": report},
        config={},
        make=release,
        describe=metadata.of_release,
    )
