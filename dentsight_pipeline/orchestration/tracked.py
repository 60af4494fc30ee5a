"""Training and prediction jobs inside an MLflow run: job file out, events in, artifacts and links at the end."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.documents.names import MLFLOW_DAGSTER_RUN_TAG, MLFLOW_INPUT_TAG, Kind
from dentsight_pipeline.orchestration.backends.local import LocalBackend
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.orchestration.tracking.outbox import TrackedRun

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.training.recipe import Recipe

PRICE_VARIABLE = "DENTSIGHT_PRICE_PER_HOUR"
SPLITS_PREDICTED = ("valid", "test")


def fit_job(workspace: Workspace, subset: "Manifest", recipe: "Recipe", allow_head_collapse: str) -> dict[str, Any]:
    """The job file's content for training a recipe on a subset."""
    price = os.environ.get(PRICE_VARIABLE)
    return {
        "store_uri": workspace.store.uri,
        "workdir": str(workspace.scratch("fit", f"{subset.digest[:16]}-{recipe.digest[:16]}")),
        "subset": subset.digest,
        "recipe": recipe.model_dump(mode="json"),
        "allow_head_collapse": allow_head_collapse or None,
        "price_per_hour": float(price) if price else None,
        "cache_dir": str(workspace.folder / "cache"),
    }


def predict_job(
    workspace: Workspace, subset: "Manifest", checkpoint: "Manifest", *, images_only: bool = False
) -> dict[str, Any]:
    """The job file's content for predicting every split that is evaluated, and the mirrored test images.

    Args:
        workspace: Where scratch folders and the store are.
        subset: Whose images are looked at.
        checkpoint: The model.
        images_only: The model finds other classes than the subset has; nothing is predicted mirrored.
    """
    from dentsight_pipeline.data.splits import split_names

    splits = [split for split in SPLITS_PREDICTED if split in split_names(subset)]
    return {
        "store_uri": workspace.store.uri,
        "workdir": str(workspace.scratch("predict", f"{subset.digest[:16]}-{checkpoint.digest[:16]}")),
        "checkpoint": checkpoint.digest,
        "subset": subset.digest,
        "splits": splits,
        "mirrored": [split for split in splits if split == "test" and not images_only],
        "images_only": images_only,
    }


def run_tracked(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    tracking: Tracking,
    backend: LocalBackend,
    verb: str,
    job: Mapping[str, Any],
    inputs: Mapping[str, "Manifest"],
) -> tuple[str, dict[str, Any]]:
    """Run one job through the backend, with its curves in MLflow while it runs.

    A second attempt at the same work goes on in the same MLflow run.

    Args:
        context: The step.
        workspace: Where scratch folders and the store are.
        tracking: MLflow.
        backend: Starts the process.
        verb: `fit` or `predict`.
        job: The job file's content.
        inputs: What the job reads, by asset name.

    Returns:
        The digest of the manifest that the job published, and the record of how: the job's own (cost card, hardware,
        package versions) and the MLflow run.
    """
    workdir = Path(job["workdir"])
    recipe = job.get("recipe", {})
    title = {"fit": "train", "predict": "predict"}[verb] + (" teeth" if _is_stage_one(inputs) else "")
    with tracking.run(
        f"{title} {context.partition_key}",
        params=recipe or {"splits": job.get("splits"), "mirrored": job.get("mirrored")},
        tags=run_tags(context, title, inputs),
        resume=workdir / "mlflow_run.json",
    ) as run:
        links = tracking.links(run)
        context.log.info(
            f"MLflow run: {links['mlflow_url']}"
            if links
            else f"MLflow does not answer ({tracking.address}); work goes on, and it is told afterwards."
        )
        subset = inputs["condition_subset"] if "condition_subset" in inputs else inputs["tooth_subset"]
        run.dataset(_dataset_name(context), subset.digest)
        result = backend.run(context, verb, job, workdir, workspace.gpu_locks, lambda event: _listen(run, event))
        product = workspace.store.get_manifest(result["digest"])
        run.made(product.kind, product.digest)
        run.metrics({f"cost/{key}": value for key, value in _numbers(result["record"].get("cost", {})).items()})
        if verb == "fit":
            run.artifacts(product.digest, Kind.CHECKPOINT.value)
            shutil.rmtree(workdir / "model", ignore_errors=True)  # its bytes are in the store
        return product.digest, {**result["record"], **tracking.links(run)}


def run_tags(context: dg.AssetExecutionContext, stage: str, inputs: Mapping[str, "Manifest"]) -> dict[str, str]:
    """The links from an MLflow run back to Dagster and to the data."""
    return {
        "dentsight.stage": stage,
        "dentsight.partition": str(context.partition_key),
        MLFLOW_DAGSTER_RUN_TAG: context.run_id,
        "dentsight.dagster_asset": context.asset_key.to_user_string(),
        **{f"{MLFLOW_INPUT_TAG}{name}": manifest.digest for name, manifest in inputs.items()},
    }


def _is_stage_one(inputs: Mapping[str, "Manifest"]) -> bool:
    return not {"tooth_subset", "tooth_checkpoint"}.isdisjoint(inputs)


def _dataset_name(context: dg.AssetExecutionContext) -> str:
    key = context.partition_key
    return key.keys_by_dimension["dataset"] if isinstance(key, dg.MultiPartitionKey) else str(key)


def _listen(run: TrackedRun, event: dict[str, Any]) -> None:
    stamp = int(event["time"] * 1000) if "time" in event else None
    if event["event"] == "metrics":
        run.metrics(event["values"], event["step"], timestamp_ms=stamp)
    elif event["event"] == "health":
        values = {f"head/{key}": value for key, value in _numbers(event["reading"]).items()}
        run.metrics(values, event["step"], timestamp_ms=stamp)


def _numbers(tree: Any, prefix: str = "") -> dict[str, float]:
    """The numbers in nested dicts and lists, by path."""
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list):
        items = ((str(index), value) for index, value in enumerate(tree))
    else:
        return {prefix: float(tree)} if isinstance(tree, int | float) and not isinstance(tree, bool) else {}
    return {
        path: number
        for key, value in items
        for path, number in _numbers(value, f"{prefix}/{key}" if prefix else str(key)).items()
    }
