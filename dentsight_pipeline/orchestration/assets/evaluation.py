"""The evaluation asset: every metric of docs/evaluation.md, on all test images and on the clean ones."""

import dagster as dg

from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.assets.training import test_predictions
from dentsight_pipeline.orchestration.conditions import on_new_content
from dentsight_pipeline.orchestration.partitions import cell_of, cells
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.step import Made, materialize_step
from dentsight_pipeline.orchestration.tracked import run_tags
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.progress import throttled


class EvaluationConfig(dg.Config):
    """How much work the intervals are worth."""

    resamples: int = 1000
    """Bootstrap resamples behind every interval."""
    seed: int = 0
    """Seed of the bootstrap."""


@dg.asset(
    group_name="evaluation",
    kinds={"python", "parquet"},
    code_version="2",
    owners=["team:dentsight"],
    automation_condition=on_new_content(),
    partitions_def=cells,
    deps=["condition_subset", test_predictions],
)
def class_metrics(
    context: dg.AssetExecutionContext, config: EvaluationConfig, workspace: Workspace, tracking: Tracking
) -> dg.MaterializeResult:
    """Each condition's AP, operating points and intervals, with thresholds chosen on valid and reported on test."""
    dataset, recipe = cell_of(context)
    predictions = workspace.latest(context, "test_predictions", str(context.partition_key))
    subset = workspace.store.get_manifest(predictions.inputs["condition_subset"])

    def evaluate() -> Made:
        from dentsight_pipeline.evaluation.product import evaluate_predictions

        with tracking.run(
            f"evaluate {dataset} × {recipe}",
            params={"resamples": config.resamples, "seed": config.seed},
            tags=run_tags(context, "evaluate", {"test_predictions": predictions, "condition_subset": subset}),
        ) as run:
            made = evaluate_predictions(
                workspace.store,
                subset,
                predictions,
                resamples=config.resamples,
                seed=config.seed,
                progress=throttled(context.log.info),
            )
            run.dataset(dataset, subset.digest)
            run.metrics(metadata.flat_metrics(workspace.store, made))
            run.artifacts(made.digest, "evaluation")
            run.made("evaluation", made.digest)
            return Made(made.digest, tracking.links(run))

    return materialize_step(
        context,
        workspace,
        inputs={"condition_subset": subset, "test_predictions": predictions},
        config={"resamples": config.resamples, "seed": config.seed},
        make=evaluate,
        describe=lambda made: metadata.of_evaluation(workspace, made),
    )
