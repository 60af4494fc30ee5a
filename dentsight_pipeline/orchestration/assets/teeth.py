"""Stage 1 and the findings by tooth: opt-in assets beside the chain (`dentsight run --with-teeth`, jobs `teeth_*`)."""

from typing import TYPE_CHECKING

import dagster as dg

from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.assets.data import normalized_splits
from dentsight_pipeline.orchestration.assets.evaluation import EvaluationConfig, class_metrics
from dentsight_pipeline.orchestration.assets.training import GPU, RecipeConfig, test_predictions
from dentsight_pipeline.orchestration.backends.local import LocalBackend
from dentsight_pipeline.orchestration.partitions import cell_of, cells, datasets
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.step import Made, materialize_step
from dentsight_pipeline.orchestration.tracked import fit_job, predict_job, run_tracked
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest

STAGE = {"stage": "1"}


@dg.asset(
    group_name="teeth",
    kinds={"coco", "huggingface", "parquet"},
    code_version="1",
    owners=["team:dentsight"],
    partitions_def=datasets,
    deps=[normalized_splits],
)
def tooth_subset(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult:
    """The splits narrowed to the 32 teeth that stage 1 is to find; images without marked teeth are left out."""
    from dentsight_pipeline.data import checks
    from dentsight_pipeline.data.subset import select_teeth

    splits = workspace.latest(context, "normalized_splits", context.partition_key)
    checks.require(workspace.store, splits)
    return materialize_step(
        context,
        workspace,
        inputs={"normalized_splits": splits},
        config={},
        make=lambda: Made(select_teeth(workspace.store, splits).digest),
        describe=lambda made: metadata.of_splits(workspace, made),
    )


@dg.asset(
    group_name="teeth",
    kinds={"pytorch", "huggingface"},
    code_version="2",
    owners=["team:dentsight"],
    partitions_def=cells,
    deps=[tooth_subset],
    pool="gpu",
    op_tags=GPU,
)
def tooth_checkpoint(
    context: dg.AssetExecutionContext,
    config: RecipeConfig,
    workspace: Workspace,
    tracking: Tracking,
    backend: LocalBackend,
) -> dg.MaterializeResult:
    """A D-FINE that finds and numbers the 32 teeth, trained by the cell's recipe."""
    from dentsight_pipeline.data import checks
    from dentsight_pipeline.training import recipe as recipes

    dataset, name = cell_of(context)
    recipe = recipes.named(name).override({**config.overrides, **STAGE})
    subset = workspace.latest(context, "tooth_subset", dataset)
    checks.require(workspace.store, subset)

    inputs = {"tooth_subset": subset}

    def fit() -> Made:
        job = fit_job(workspace, subset, recipe, config.allow_head_collapse)
        return Made(*run_tracked(context, workspace, tracking, backend, "fit", job, inputs))

    return materialize_step(
        context,
        workspace,
        inputs=inputs,
        config={"recipe": recipe.digest, "allow_head_collapse": config.allow_head_collapse},
        make=fit,
        describe=lambda made: metadata.of_checkpoint(workspace, made),
    )


@dg.asset(
    group_name="teeth",
    kinds={"pytorch", "json"},
    code_version="2",
    owners=["team:dentsight"],
    partitions_def=cells,
    deps=["condition_subset", test_predictions, class_metrics, tooth_subset, tooth_checkpoint],
    pool="gpu",
    op_tags=GPU,
)
def tooth_findings(
    context: dg.AssetExecutionContext,
    config: EvaluationConfig,
    workspace: Workspace,
    tracking: Tracking,
    backend: LocalBackend,
) -> dg.MaterializeResult:
    """Each test image's teeth with the conditions found on them; what fits no tooth stays, marked so."""
    from dentsight_pipeline.evaluation.teeth.product import publish_tooth_findings, tooth_chain

    store, cell = workspace.store, str(context.partition_key)
    chain = tooth_chain(
        store, workspace.latest(context, "class_metrics", cell), workspace.latest(context, "tooth_checkpoint", cell)
    )
    subset, checkpoint = chain["condition_subset"], chain["tooth_checkpoint"]

    def predict_and_join() -> Made:
        job = predict_job(workspace, subset, checkpoint, images_only=True)
        inputs: dict[str, Manifest] = {"condition_subset": subset, "tooth_checkpoint": checkpoint}
        digest, record = run_tracked(context, workspace, tracking, backend, "predict", job, inputs)
        made = publish_tooth_findings(
            store, chain, store.get_manifest(digest), resamples=config.resamples, seed=config.seed
        )
        return Made(made.digest, record)

    return materialize_step(
        context,
        workspace,
        inputs=chain,
        config={"resamples": config.resamples, "seed": config.seed},
        make=predict_and_join,
        describe=lambda made: metadata.of_tooth_findings(workspace, made),
    )
