"""The model in use, measured again on newer data: what the nightly schedule keeps fresh."""

from datetime import timedelta

import dagster as dg

from dentsight_pipeline.documents.facts import ReleaseFacts
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.assets.training import GPU
from dentsight_pipeline.orchestration.backends.local import LocalBackend
from dentsight_pipeline.orchestration.partitions import datasets
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.step import Made, materialize_step
from dentsight_pipeline.orchestration.tracked import predict_job, run_tracked
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.progress import throttled

STALE_AFTER = timedelta(hours=48)
"""A nightly evaluation that failed once is not yet stale; twice is."""


@dg.asset(
    group_name="champion",
    kinds={"python", "parquet"},
    code_version="1",
    owners=["team:dentsight"],
    partitions_def=datasets,
    deps=["condition_subset"],
    pool="gpu",
    op_tags=GPU,
    output_required=False,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=STALE_AFTER),
)
def champion_metrics(
    context: dg.AssetExecutionContext, workspace: Workspace, tracking: Tracking, backend: LocalBackend
):
    """The champion's metrics on this dataset's test images, so that a challenger can be compared on the same ones."""
    from dentsight_pipeline.evaluation.product import evaluate_predictions
    from dentsight_pipeline.release import champion

    store = workspace.store
    release = champion.current(store)
    if release is None:
        context.log.info("There is no champion yet: nothing to evaluate. Promote a release with `dentsight promote`.")
        return
    subset = workspace.latest(context, "condition_subset", context.partition_key)
    checkpoint = store.get_manifest(release.facts_as(ReleaseFacts).chain[Asset.TRAINED_CHECKPOINT])

    def predict_and_evaluate() -> Made:
        predictions = champion.champion_predictions(store, release, subset)
        record = {}
        if predictions is None:
            job = predict_job(workspace, subset, checkpoint)
            inputs = {"condition_subset": subset, "trained_checkpoint": checkpoint}
            digest, record = run_tracked(context, workspace, tracking, backend, "predict", job, inputs)
            predictions = store.get_manifest(digest)
            champion.remember_predictions(store, release, subset, predictions)
        made = evaluate_predictions(store, subset, predictions, progress=throttled(context.log.info))
        return Made(made.digest, record)

    yield materialize_step(
        context,
        workspace,
        inputs={"condition_subset": subset, "release": release},
        config={},
        make=predict_and_evaluate,
        describe=lambda made: metadata.of_evaluation(workspace, made),
    )
