"""D-FINE-L at 1280×704 on an NVIDIA GPU: images a second against `Trainer`, waiting for data, runs of v1, v3 and v4.

Claims, to be measured where there is a GPU:
1. the loop waits for data less than 2 % of its time (mapped cache, prefetching workers, gray bytes to the device);
2. it trains at least twice as many images a second as `Trainer` with the stock image processor and loss (`--trainer`);
3. `--long`: v3 and v4 reach a higher validation mAP@0.5 than v1 in the same number of images, all on the fixed loss.

Without the published weights (`--weights`, a folder or a hub name) both start from random ones: speed is the same, the
figures of `--long` are then a comparison of recipes, not of published models. Every line printed is JSON.

    python benchmarks/gpu_training.py --trainer                        # phantoms, some steps of each and of Trainer
    python benchmarks/gpu_training.py --long --epochs 2 --images 300   # a short training of each on phantoms
    python benchmarks/gpu_training.py --export DIR --long --epochs 12  # a whole run of both on a Roboflow export
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests are not installed

from benchmarks.training_step import trainer_steps
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.codec import plain, read
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.job import FitJob, Result
from dentsight_pipeline.errors import TrainingError
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline.store import content, objects
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import loop, processes
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.machine import hardware, peak_gpu_memory_mib
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline.training.reporting import Reporter
from dentsight_pipeline.training.sampling import MicroBatches
from dentsight_pipeline.training.setup import Setup

WARM_UP_STEPS = 10
"""Steps before the clock starts: cuDNN tries its algorithms in them."""


def prepare(store: Store, export: Path | None, images: int, folder: Path) -> Manifest:
    """The condition subset of an export, or of a phantom corpus that is drawn first."""
    if export is None:
        export = folder / "export"
        write_phantom_export(export, images, 1)
    return select_conditions(store, normalise_export(store, ingest_export(export, store)))


def adapted(name: str, given: argparse.Namespace, **values: Any) -> Recipe:
    """A named recipe with the weights that are at hand."""
    weights = {"weights": given.weights} if given.weights else {"weights": "none", "freeze_batch_norm": "none"}
    return recipes.named(name).override({**(weights if name != "smoke" else {}), **values})


def job_of(given: argparse.Namespace, store: Store, subset: Manifest, recipe: Recipe, folder: Path) -> FitJob:
    """A job in a folder of its own; the image cache is shared."""
    return FitJob(
        store_uri=store.uri,
        subset=subset.digest,
        recipe=recipe.model_dump(),
        workdir=str(folder / f"{recipe.name}-{recipe.digest[:8]}"),
        device=given.device,
        workers=given.workers,
        cache_dir=str(folder / "cache"),
        checkpoint_interval_s=600,
    )


def throughput(job: FitJob, recipe: Recipe, steps: int) -> dict[str, Any]:
    """Images a second and the share of time waiting for data, over `steps` optimiser steps after the warm-up."""
    training = loop.Training(Setup.of(job).with_weights(), processes.start(job, recipe), Reporter(None))
    batches = MicroBatches(training.sampler, recipe)
    training._loop_started, training._first_step = time.perf_counter(), 0
    on_gpu = training.device.type == "cuda"
    with training.monitor.watch(training.learner.model):
        loader = iter(training._loader(batches))
        for _ in range(WARM_UP_STEPS):
            training._train_step(loader, batches.per_step)
        waited, images = training.meters.cost.data_wait_s, training.meters.cost.images
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            training._train_step(loader, batches.per_step)
        if on_gpu:
            torch.cuda.synchronize()
        spent = time.perf_counter() - start
    return {
        "recipe": recipe.name,
        "precision": recipe.precision,
        "batch_size": recipe.batch_size,
        "micro_batch_size": batches.size,
        "canvas": list(recipe.image_size),
        "images_per_s": (training.meters.cost.images - images) / spent,
        "data_wait_share": (training.meters.cost.data_wait_s - waited) / spent,
        "peak_gpu_memory_mib": peak_gpu_memory_mib(),
        **plain(hardware()),
    }


def trainer_throughput(given: argparse.Namespace, store: Store, subset: Manifest, recipe: Recipe) -> dict[str, Any]:
    """Images a second of transformers' Trainer on the same images, canvas and batch."""
    workers, on_gpu = 4 if given.workers is None else given.workers, given.device == "cuda"
    with tempfile.TemporaryDirectory() as name:
        steps = given.steps + WARM_UP_STEPS
        spent, _ = trainer_steps(store, subset, recipe, steps, Path(name), on_gpu=on_gpu, workers=workers)
    return {"trainer": recipe.name, "images_per_s": recipe.batch_size / statistics.median(spent[-given.steps :])}


def long_run(job: FitJob, store: Store, recipe: Recipe) -> dict[str, Any]:
    """A whole training, with its best validation figures, head health and cost card."""
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with Reporter(job.folder) as reporter:
            found = store.get_manifest(loop.run_fit(job, reporter))
    except TrainingError as error:
        return {"recipe": recipe.name, "failed": str(error)}
    health = read(content.read_bytes(store, found, "health.json"), HeadHealth, "health.json")
    result = read((job.folder / "result.json").read_bytes(), Result, "result.json")
    return {
        "recipe": recipe.name,
        "overrides": recipe.overrides,
        "best_step": found.facts["best_step"],
        "validation": found.facts["validation"],
        "healthy": health.healthy,
        "ratio_last_to_first": health.ratio_last_to_first,
        "cost": plain(result.record.cost),
    }


def main() -> None:
    """Measures the step of each recipe, or trains each to its end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["v1", "v3", "v4"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--images", type=int, default=300, help="phantom images that are drawn without --export")
    parser.add_argument("--export", type=Path, help="a Roboflow export in place of the phantom corpus")
    parser.add_argument("--weights", help="folder or hub name of D-FINE-L weights; random without")
    parser.add_argument("--long", action="store_true", help="train to the end instead of measuring steps")
    parser.add_argument("--trainer", action="store_true", help="measure transformers' Trainer beside each recipe")
    parser.add_argument("--epochs", type=int, help="length of --long; the recipe's own without")
    parser.add_argument("--batch-size", type=int, help="another batch than the recipe's, for throughput")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "No NVIDIA GPU is visible to torch; nothing was measured. --device cpu tries the script out.\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = objects.open_store(folder / "store")
        subset = prepare(store, given.export, given.images, folder)
        for named in given.recipes:
            values: dict[str, Any] = {"batch_size": given.batch_size} if given.batch_size else {}
            if given.long:
                values |= {"epochs": given.epochs, "max_steps": "none"} if given.epochs else {}
                recipe = adapted(named, given, **values)
                found = long_run(job_of(given, store, subset, recipe, folder), store, recipe)
            else:
                values |= {"epochs": "none", "max_steps": given.steps + WARM_UP_STEPS + 10}
                recipe = adapted(named, given, **values)
                found = throughput(job_of(given, store, subset, recipe, folder), recipe, given.steps)
            print(json.dumps(found), flush=True)
            if given.trainer:
                print(json.dumps(trainer_throughput(given, store, subset, recipe)), flush=True)


if __name__ == "__main__":
    main()
