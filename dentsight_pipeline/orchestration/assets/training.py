"""Training assets: the checkpoint and its predictions. Both need a GPU slot; the work itself is in `training/`."""

import dagster as dg

from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.backends.local import LocalBackend
from dentsight_pipeline.orchestration.conditions import on_new_content
from dentsight_pipeline.orchestration.partitions import cell_of, cells
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.step import Made, materialize_step
from dentsight_pipeline.orchestration.tracked import fit_job, predict_job, run_tracked
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

GPU = {"dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}}
"""On Kubernetes the step asks for one NVIDIA GPU; elsewhere the pool `gpu` and the guard's lock decide."""


class RecipeConfig(dg.Config):
    """What a launch may change about a recipe. Every change is part of the checkpoint's identity."""

    overrides: dict[str, str] = {}
    """Recipe fields to override, e.g. {"learning_rate": "1e-4"}; makes a variant with a digest of its own."""
    allow_head_collapse: str = ""
    """A reason to go on training although the head has collapsed; recorded. Empty: training aborts."""


@dg.asset(
    group_name="training",
    kinds={"pytorch", "huggingface"},
    code_version="2",
    owners=["team:dentsight"],
    partitions_def=cells,
    deps=["condition_subset"],
    pool="gpu",
    op_tags=GPU,
)
def trained_checkpoint(
    context: dg.AssetExecutionContext,
    config: RecipeConfig,
    workspace: Workspace,
    tracking: Tracking,
    backend: LocalBackend,
) -> dg.MaterializeResult:
    """A D-FINE fine-tuned by the cell's recipe on the cell's data, with EMA weights and a record of head health."""
    from dentsight_pipeline.data import checks
    from dentsight_pipeline.training import recipe as recipes

    dataset, name = cell_of(context)
    recipe = recipes.named(name).override(config.overrides)
    subset = workspace.latest(context, "condition_subset", dataset)
    checks.require(workspace.store, subset)

    inputs = {"condition_subset": subset}

    def fit() -> Made:
        job = fit_job(workspace, subset, recipe, config.allow_head_collapse)
        return Made(*run_tracked(context, workspace, tracking, backend, "fit", job, inputs))

    return materialize_step(
        context,
        workspace,
        inputs=inputs,
        config={"recipe": recipe.digest, "allow_head_collapse": config.allow_head_collapse},
        make=fit,
        describe=lambda made: metadata.of_checkpoint(workspace, made, workspace.report_folder(dataset, name)),
    )


@dg.asset(
    group_name="training",
    kinds={"pytorch"},
    code_version="1",
    owners=["team:dentsight"],
    automation_condition=on_new_content(),
    partitions_def=cells,
    deps=["condition_subset", trained_checkpoint],
    pool="gpu",
    op_tags=GPU,
)
def test_predictions(
    context: dg.AssetExecutionContext, workspace: Workspace, tracking: Tracking, backend: LocalBackend
) -> dg.MaterializeResult:
    """Every detection of the checkpoint on valid and test, and on the mirrored test images, unrounded."""
    checkpoint = workspace.latest(context, "trained_checkpoint", str(context.partition_key))
    # The checkpoint names the data it was trained on; newer data would be another experiment.
    subset = workspace.store.get_manifest(checkpoint.inputs["condition_subset"])

    inputs = {"condition_subset": subset, "trained_checkpoint": checkpoint}

    def predict() -> Made:
        job = predict_job(workspace, subset, checkpoint)
        return Made(*run_tracked(context, workspace, tracking, backend, "predict", job, inputs))

    return materialize_step(
        context,
        workspace,
        inputs=inputs,
        config={},
        make=predict,
        describe=metadata.of_predictions,
    )
