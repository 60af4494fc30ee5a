"""Work that MLflow follows: jobs in processes of their own, and evaluations, with links both ways."""

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.documents.codec import plain, read, write
from dentsight_pipeline.documents.events import Event, HealthRead, Metrics
from dentsight_pipeline.documents.job import FitJob, Job, PredictJob
from dentsight_pipeline.documents.lineage import Began
from dentsight_pipeline.documents.names import MLFLOW_DAGSTER_RUN_TAG, MLFLOW_INPUT_TAG, Asset, Kind
from dentsight_pipeline.errors import ConfigurationError, DocumentError
from dentsight_pipeline.orchestration import metadata
from dentsight_pipeline.orchestration.product import Made, Step
from dentsight_pipeline.orchestration.tracking.outbox import TrackedRun
from dentsight_pipeline.store import log
from dentsight_pipeline.store.files import write_whole

if TYPE_CHECKING:
    from dentsight_pipeline.orchestration.backends.base import Scheduler
    from dentsight_pipeline.orchestration.backends.choice import ChosenBackend
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store
    from dentsight_pipeline.training.recipe import Recipe

PRICE_VARIABLE = "DENTSIGHT_PRICE_PER_HOUR"
SPLITS_PREDICTED = ("valid", "test")


def fit(step: Step[Any], subset: "Manifest", recipe: "Recipe", allow_head_collapse: str) -> Made:
    """Train a recipe on a subset; `allow_head_collapse` is the reason to go on with a collapsed head, or empty."""
    job = FitJob(
        store_uri=step.store.uri,
        workdir=_workdir(step, "fit", subset.digest, *recipe.identity.values()),
        subset=subset.digest,
        recipe=recipe.model_dump(mode="json"),
        allow_head_collapse=allow_head_collapse or None,
        price_per_hour=price_per_hour(step.backend),
        cache_dir=str(step.workspace.folder / "cache"),
    )
    return _run_job(step, "fit", job, step.inputs)


def began(store: "Store", folder: Path) -> Began:
    """What was in the log when the first attempt at a training began; a later attempt finds it noted in its folder.

    Where a power cut broke the note nothing is known, and no plan counts as signed before.
    """
    file = folder / "began.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, write(Began(log=str(log.head(store) or "0:"), time=time.time())))
    try:
        return read(file.read_bytes(), Began, file)
    except DocumentError:
        return Began()


def price_per_hour(backend: "ChosenBackend | Scheduler | None") -> float | None:
    """What an hour of a job costs: as the environment says, else as its scheduler does, where there is one.

    Raises:
        ConfigurationError: The environment says what is no price.
    """
    told = os.environ.get(PRICE_VARIABLE, "").strip()
    if not told:
        return None if backend is None else backend.price_per_hour
    try:
        price = float(told)
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price >= 0):
        raise ConfigurationError(f"{PRICE_VARIABLE} is {told!r}. It takes a price from 0 on, e.g. 1.5.")
    return price


def predict(
    step: Step[Any],
    subset: "Manifest",
    checkpoint: "Manifest",
    *,
    images_only: bool = False,
    splits: Sequence[str] = SPLITS_PREDICTED,
) -> Made:
    """Predict every split that is evaluated, and the mirrored test images.

    Args:
        step: The step.
        subset: Whose images are looked at.
        checkpoint: The model.
        images_only: The model finds other classes than the subset has; nothing is predicted mirrored.
        splits: What is looked at; with less than every split that is evaluated, nothing is predicted mirrored.
    """
    from dentsight_pipeline.data.splits import split_names

    whole = splits == SPLITS_PREDICTED and not images_only
    splits = tuple(split for split in splits if split in split_names(subset))
    job = PredictJob(
        store_uri=step.store.uri,
        workdir=_workdir(step, "predict", subset.digest, checkpoint.digest),
        checkpoint=checkpoint.digest,
        subset=subset.digest,
        splits=splits,
        mirrored=tuple(split for split in splits if split == "test" and whole),
        images_only=images_only,
    )
    teeth = images_only or subset.kind == Kind.TOOTH_SUBSET
    model = Asset.TOOTH_CHECKPOINT if teeth else Asset.TRAINED_CHECKPOINT
    return _run_job(step, "predict", job, {Kind(subset.kind).asset: subset, model: checkpoint})


def evaluate(step: Step[Any], subset: "Manifest", predictions: "Manifest") -> Made:
    """Evaluate predictions, in a run of their own."""
    from dentsight_pipeline.evaluation.product import evaluate_predictions

    settings = step.config.model_dump()
    title, tags = f"evaluate {step.dataset} × {step.recipe}", _tags(step, "evaluate", step.inputs)
    with step.tracking.run(title, params=settings, tags=tags) as run:
        made = evaluate_predictions(step.store, subset, predictions, **settings, progress=step.progress)
        run.dataset(step.dataset, subset.digest)
        run.metrics(metadata.flat_metrics(step.store, made))
        run.artifacts(made.digest, "evaluation")
        run.made("evaluation", made.digest)
        return Made(made.digest, step.tracking.links(run))


def _run_job(step: Step[Any], verb: str, job: Job, inputs: Mapping[str, "Manifest"]) -> Made:
    """Run one job through the backend, with its curves in MLflow while it runs.

    A second attempt at the same work goes on in the same MLflow run.

    Returns:
        What the job published, and how: its own record (cost card, hardware, package versions) and the MLflow run.
    """
    stage = {"fit": "train", "predict": "predict"}[verb]
    if not {Asset.TOOTH_SUBSET, Asset.TOOTH_CHECKPOINT}.isdisjoint(inputs):
        stage += " teeth"
    params = job.recipe if isinstance(job, FitJob) else {name: getattr(job, name) for name in ("splits", "mirrored")}
    title, tags = f"{stage} {step.partition}", _tags(step, stage, inputs)
    with step.tracking.run(title, params=params, tags=tags, resume=job.folder / "mlflow_run.json") as run:
        _tell_where(step, run)
        first = {"began": plain(began(step.store, job.folder))} if verb == "fit" else {}
        run.dataset(step.dataset, getattr(job, "subset", ""))
        result = step.backend.run(step.context, verb, job, step.workspace.gpu_locks, lambda event: _listen(run, event))
        product, record = step.store.get_manifest(result.digest), plain(result.record)
        run.made(product.kind, product.digest)
        run.metrics({f"cost/{key}": value for key, value in _numbers(record["cost"]).items()})
        if verb == "fit":
            run.artifacts(product.digest, "checkpoint")
            shutil.rmtree(job.folder / "model", ignore_errors=True)  # its bytes are in the store
        told = {"job": result.job} if result.job else {}
        return Made(product.digest, {**record, **step.tracking.links(run), **first, **told})


def _workdir(step: Step[Any], verb: str, *digests: str) -> str:
    """Of this very work: what code of another version left there, half done or whole, is not gone on with."""
    return str(step.workspace.scratch(verb, "-".join([*(one[:16] for one in digests), step.version])))


def _tell_where(step: Step[Any], run: TrackedRun) -> None:
    links = step.tracking.links(run)
    step.context.log.info(
        f"MLflow run: {links['mlflow_url']}"
        if links
        else f"MLflow does not answer ({step.tracking.address}); work goes on, and it is told afterwards."
    )


def _tags(step: Step[Any], stage: str, inputs: Mapping[str, "Manifest"]) -> dict[str, str]:
    """The links from an MLflow run back to Dagster and to the data."""
    return {
        "dentsight.stage": stage,
        "dentsight.partition": step.partition,
        MLFLOW_DAGSTER_RUN_TAG: step.context.run_id,
        "dentsight.dagster_asset": step.asset,
        **{f"{MLFLOW_INPUT_TAG}{name}": manifest.digest for name, manifest in inputs.items()},
    }


def _listen(run: TrackedRun, event: Event) -> None:
    stamp = int(event.time * 1000)
    match event:
        case Metrics(values=values, step=at):
            run.metrics(values, at, timestamp_ms=stamp)
        case HealthRead(reading=reading, step=at):
            numbers = {f"head/{key}": value for key, value in _numbers(plain(reading)).items()}
            run.metrics(numbers, at, timestamp_ms=stamp)


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
