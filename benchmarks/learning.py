"""Does it learn? Six experiments on two CPU cores; their figures are in docs/log.md.

    python benchmarks/learning.py overfit --out DIR            # 16 phantom images, learnt by heart
    python benchmarks/learning.py recipes --out DIR            # v1's and v3's ways, and v1's on the pre-5.18 loss
    python benchmarks/learning.py recipes --out DIR --variant backbone_lr_multiplier=1   # and v3's with another field
    python benchmarks/learning.py real --out DIR --export DIR  # a real export against the untrained model
    python benchmarks/learning.py arena --out DIR [--export DIR] --variant base mal:class_loss=mal   # see arena.py
    python benchmarks/learning.py coverage --out DIR           # labels hidden in training: declared, and not
    python benchmarks/learning.py second-look --out DIR        # crops around teeth, see second_look.py

`recipes` starts all its runs from one checkpoint that was trained to find teeth on other phantoms, as the card starts
from COCO, and gives each as many steps of as many images. Both ways are scaled down alike: the tiny model, 448×256
pixels, batches of 4, and 16 times the rate that the recipe has at that batch (v3's goes with the square root of the
batch). The planted loss lives with the tests, outside the package. A killed experiment resumes with the same --out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests are not installed

from benchmarks import arena, second_look
from dentsight_pipeline.data.agreement import pairwise_iou
from dentsight_pipeline.data.normalise import normalise_export, split_counts
from dentsight_pipeline.data.splits import read_split, read_stored, split_tables, store_tables
from dentsight_pipeline.data.subset import select_conditions, select_teeth
from dentsight_pipeline.documents.annotations import IMAGES, Split, covered_column
from dentsight_pipeline.documents.codec import plain, read
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.job import FitJob, PredictJob
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.errors import HeadCollapseError
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth, ground_truth_of
from dentsight_pipeline.evaluation.evaluate import coco_inputs, evaluate
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline.store.content import build, read_bytes
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline.training import loop, processes
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.predict import run_predict
from dentsight_pipeline.training.recipe import Recipe, Scalar
from dentsight_pipeline.training.reporting import Reporter
from dentsight_pipeline.training.setup import Setup
from dentsight_pipeline_tests.training.planted_collapse import plant

SCALE = 16.0
"""Both learning rates are multiplied by this: 450 steps then add up to what v1's 6,970 steps on v8 do, about 0.18."""
BATCH = 4
CANVAS: dict[str, Scalar] = {"image_width": 448, "image_height": 256}
TINY: dict[str, Scalar] = {
    **CANVAS,
    "architecture": "tiny",
    "pixel_std": 0.2,
    "num_queries": 100,
    "num_denoising": 50,
    "precision": "fp32",
    "epochs": None,
    "batch_size": BATCH,
    "micro_batch_size": None,
    "eval_batch_size": 8,
    "validation_images": 64,
    "early_stopping_evaluations": None,
}


def main() -> None:
    """Runs one of the experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["overfit", "recipes", "real", "arena", "coverage", "second-look"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the store and of everything that is trained")
    parser.add_argument("--export", type=Path, help="the real Roboflow export")
    parser.add_argument("--steps", type=int, help="optimiser steps of each run")
    parser.add_argument("--pretraining-steps", type=int, default=600)
    parser.add_argument("--images", type=int, default=1000, help="phantom images of each corpus of `recipes`")
    parser.add_argument("--variant", nargs="*", action="extend", default=[], help="field=value,…: v3's way with these")
    parser.add_argument("--keep-start", action="store_true", help="`coverage` from smoke's start, not from nothing")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--sources", type=int, help="training sources of the real arena; all by default")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    store = open_store(given.out / "store")
    experiments = {"overfit": overfit, "recipes": compare_recipes, "real": learn_real, "arena": arena.run}
    {**experiments, "coverage": hide_labels, "second-look": second_look.run}[given.experiment](given, store)


# ---- the experiments -------------------------------------------------------------------------------------------------


def overfit(given: argparse.Namespace, store: Store) -> None:
    """16 images by heart: the highest score and the mAP on the very images that were trained on."""
    subset = select_conditions(store, phantom(store, images=23, seed=3))  # 16 of them are for training
    steps = given.steps or 900
    values = {
        **CANVAS,
        **arena.FROM_NOTHING,
        "seed": given.seed,
        "max_steps": steps,
        "augment_flip": 0.0,
        "evaluate_every_steps": steps,
    }
    trained = train("overfit", given, store, subset, recipes.named("smoke").override(values))
    measure("overfit", given, store, subset, trained, on="train", resamples=0)


def compare_recipes(given: argparse.Namespace, store: Store) -> None:
    """v1's way and v3's way on the fixed loss, then v1's on the loss of transformers before 5.18."""
    steps = given.steps or 450
    teeth = select_teeth(store, phantom(store, given.images, seed=21))
    every = max(1, steps // 4)
    start = recipes.named("smoke").override(
        {
            **TINY,
            **arena.FROM_NOTHING,
            "stage": 1,
            "seed": given.seed,
            "max_steps": given.pretraining_steps,
            "evaluate_every_steps": 300,
        }
    )
    weights = {"weights": f"checkpoint:{train('pretraining', given, store, teeth, start)}"}
    subset = select_conditions(store, phantom(store, given.images, seed=22))
    length: dict[str, Scalar] = {"max_steps": steps, "evaluate_every_steps": every, "seed": given.seed}
    v1 = scaled("v1", {**length, **weights})
    v3 = scaled("v3", {**length, **weights, "warmup_steps": 50, "ema_warmup_steps": 100.0})
    runs = [("v1", v1, False), ("v3", v3, False), ("v1 on the pre-5.18 loss", v1, True)]
    for variant in given.variant:
        fields: dict[str, Scalar] = dict(pair.split("=", 1) for pair in variant.split(","))
        runs.append((f"v3 with {variant}", v3.override(fields), False))
    for name, recipe, planted in runs:
        if planted:
            show_abort(name, given, store, subset, recipe)
        trained = train(name, given, store, subset, recipe, planted=planted)
        measure(name, given, store, subset, trained, on="test", resamples=1000)


def learn_real(given: argparse.Namespace, store: Store) -> None:
    """A short run on real X-rays against the same model untrained, both on the clean validation images."""
    if given.export is None:
        raise SystemExit("`real` needs --export: the folder of a Roboflow export.")
    subset = select_conditions(store, normalise_export(store, ingest_export(given.export, store)))
    steps = given.steps or 700
    short: dict[str, Scalar] = {**CANVAS, **arena.FROM_NOTHING, "seed": given.seed, "validation_images": None}
    for name, values in (
        ("untrained", {**short, "max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-8}),
        ("trained", {**short, "max_steps": steps, "evaluate_every_steps": max(1, steps // 4)}),
    ):
        trained = train(name, given, store, subset, recipes.named("smoke").override(values))
        measure(name, given, store, subset, trained, on="valid", resamples=1000)


def hide_labels(given: argparse.Namespace, store: Store) -> None:
    """All labels; then half of the classes hidden in half of the training images, said so, and taken for negatives."""
    whole = arena.phantoms(store, given.images)
    steps = given.steps or 500
    length: dict[str, Scalar] = {"max_steps": steps, "evaluate_every_steps": max(1, steps // 4), "seed": given.seed}
    recipe = recipes.named("smoke").override({**({} if given.keep_start else arena.FROM_NOTHING), **length})
    truth = ground_truth_of(read_split(store, whole, "test"))
    subsets = {"full": whole, "declared": hidden(store, whole, True), "undeclared": hidden(store, whole, False)}
    first = first_best = None
    for name in given.variant or subsets:
        checkpoint, spent = arena.trained(given.out, store, subsets[name], recipe)
        found = arena.found_by(given.out, store, whole, checkpoint, truth)
        against, best = arena.difference(truth, found, first or found), best_scores(truth, found)
        told = {f"recall at {at}": found_at(truth, best, first_best, at) for at in (0.3, 0.5)}
        show(name, checkpoint=checkpoint, cpu_s=spent, **arena.scores(truth, found), against_full=against, **told)
        first, first_best = first or found, best if first_best is None else first_best


# ---- their parts -----------------------------------------------------------------------------------------------------


def phantom(store: Store, images: int, seed: int) -> Manifest:
    """The normalised splits of a phantom corpus."""
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder) / "export"
        write_phantom_export(export, images, seed)
        return normalise_export(store, ingest_export(export, store))


def hidden(store: Store, subset: Manifest, declared: bool) -> Manifest:
    """The subset without the boxes of every second class in half of the training images."""
    train = read_split(store, subset, "train")
    covered = train.covered.copy()
    covered[np.ix_(np.random.default_rng(1).random(len(covered)) < 0.5, np.arange(1, len(train.classes), 2))] = False
    rows = np.searchsorted(train.image_ids, train.annotation_image_ids)
    boxes = train.annotations.filter(pa.array(covered[rows, train.category_ids - 1]))
    place = IMAGES.get_field_index("covered")
    images = train.images.set_column(place, IMAGES.field(place), covered_column(covered)) if declared else train.images
    left = Split("train", train.classes, images, boxes)
    facts = subset.facts_as(SubsetFacts)
    facts = replace(facts, splits={**facts.splits, "train": split_counts(left)})
    files = dict(subset.entries) | store_tables(store, split_tables([left]))
    made = build(store, Kind.CONDITION_SUBSET, files, subset.inputs, facts)
    store.put_manifest(made)
    return made


def best_scores(truth: GroundTruth, found: Detections) -> np.ndarray:
    """The best score of the right class on each object, overlap .5 or more; 0 without one."""
    best = np.zeros(len(truth.class_index))
    for image, label in sorted({*zip(truth.image_index.tolist(), truth.class_index.tolist(), strict=True)}):
        own, others = (np.flatnonzero((of.image_index == image) & (of.class_index == label)) for of in (truth, found))
        near = pairwise_iou(truth.boxes_xywh_px[own], found.boxes_xywh_px[others]) >= 0.5
        best[own] = np.where(near, found.scores[others], 0.0).max(axis=1, initial=0.0)
    return best


def found_at(truth: GroundTruth, best: np.ndarray, first: np.ndarray | None, at: float) -> dict[str, list[float]]:
    """Shares found at a score, of classes that are hidden in training and of the others: share, and the difference to
    the first training with its 90 % interval over images."""
    figures, random = {}, np.random.default_rng(0)
    for name, own in (("hidden", truth.class_index % 2 == 1), ("others", truth.class_index % 2 == 0)):
        hit, before = (values[own] >= at for values in (best, best if first is None else first))
        objects = np.bincount(truth.image_index[own], minlength=len(truth.image_ids))
        gained = np.bincount(truth.image_index[own], hit.astype(float) - before, minlength=len(truth.image_ids))
        drawn = random.integers(len(objects), size=(1000, len(objects)))
        ends = np.quantile(gained[drawn].sum(axis=1) / objects[drawn].sum(axis=1), (0.05, 0.95))
        figures[name] = [round(float(x), 3) for x in (hit.mean(), hit.mean() - before.mean(), *ends)]
    return figures


def scaled(name: str, values: dict[str, Scalar]) -> Recipe:
    """A named recipe on the tiny model, at the rate it has at BATCH, times SCALE."""
    recipe = recipes.named(name)
    rate = recipe.learning_rate * (BATCH / recipe.batch_size) ** 0.5 * SCALE
    return recipe.override({**TINY, "learning_rate": rate, **values})


def job_of(name: str, given: argparse.Namespace, store: Store, subset: Manifest, recipe: Recipe) -> FitJob:
    """A job in a folder of its own, and one image cache for all."""
    planted = "pre-5.18" in name
    return FitJob(
        store_uri=store.uri,
        subset=subset.digest,
        recipe=recipe.model_dump(),
        workdir=str(given.out / f"{file_name(name)}-{recipe.digest[:8]}"),
        cache_dir=str(given.out / "cache"),
        allow_head_collapse="to see what the planted loss does" if planted else None,
    )


def show_abort(name: str, given: argparse.Namespace, store: Store, subset: Manifest, recipe: Recipe) -> None:
    """The planted loss without the override: training must stop by itself."""
    job = job_of(name, given, store, subset, recipe)
    job = replace(job, allow_head_collapse=None, workdir=str(job.folder.with_name("aborted")))
    try:
        fit_planted(job, recipe)
    except HeadCollapseError as error:
        show(name, aborted=str(error))
    else:
        raise SystemExit("The planted loss was not noticed.")


def fit_planted(job: FitJob, recipe: Recipe) -> str:
    """As `loop.run_fit`, with the loss of transformers before 5.18."""
    with Reporter(job.folder, echo=sys.stderr) as reporter:
        training = loop.Training(Setup.of(job).with_weights(), processes.start(job, recipe), reporter)
        plant(training.learner.raw_model)
        return training.run()


def train(
    name: str, given: argparse.Namespace, store: Store, subset: Manifest, recipe: Recipe, *, planted: bool = False
) -> str:
    """Digest of the trained checkpoint; prints its head health and cost."""
    job = job_of(name, given, store, subset, recipe)
    job.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if planted:
        digest = fit_planted(job, recipe)
    else:
        with Reporter(job.folder, echo=sys.stderr) as reporter:
            digest = loop.run_fit(job, reporter)
    health = read(read_bytes(store, store.get_manifest(digest), "health.json"), HeadHealth, "health.json")
    show(
        name,
        checkpoint=digest,
        seconds=time.perf_counter() - began,
        threads=torch.get_num_threads(),
        healthy=health.healthy,
        ratio_last_to_first=health.ratio_last_to_first,
        rules_tripped=[rule.rule for rule in health.rules if rule.tripped],
        overrides=recipe.overrides,
    )
    return digest


def measure(
    name: str,
    given: argparse.Namespace,
    store: Store,
    subset: Manifest,
    checkpoint: str,
    *,
    on: str,
    resamples: int,
) -> None:
    """Predicts and evaluates one split; prints macro figures, scores and a row for each class."""
    splits = tuple(dict.fromkeys(["valid", on]))
    workdir = given.out / "predictions" / checkpoint[:12]
    job = PredictJob(
        store_uri=store.uri,
        workdir=str(workdir),
        checkpoint=checkpoint,
        subset=subset.digest,
        splits=splits,
        batch_size=8,
    )
    with Reporter(workdir) as reporter:
        predictions = store.get_manifest(run_predict(job, reporter))
    truth, found = read_split(store, subset, on).to_coco(), found_in(store, predictions, on)
    valid = None
    if on == "test":
        valid = (read_split(store, subset, "valid").to_coco(), found_in(store, predictions, "valid"))
    evaluation = evaluate(coco_inputs(truth, found, thresholds_from=valid, resamples=resamples))
    document = plain(evaluation.document)
    highest: dict[int, float] = {}
    for record in found:
        highest[record["image_id"]] = max(record["score"], highest.get(record["image_id"], 0.0))
    show(name, split=on, **highest_scores(list(highest.values())), ece=calibration_errors(document["calibration"]))
    for population, table in document["populations"].items():
        show(name, population=population, images=table["images"], groups=table["groups"], macro=table["macro"])
        if population == document["gated_population"]:
            for row in table["per_class"]:
                print(f"    {row['class']:<28}{row['n_gt']:>6}  AP50 {_three(row['ap50'])}  AP {_three(row['ap'])}")
    (given.out / f"{file_name(name)}.json").write_text(json.dumps(document, indent=1))


def found_in(store: Store, predictions: Manifest, split: str) -> list[dict[str, Any]]:
    """Detections as COCO results."""
    return read_stored(store, predictions, f"{split}.arrow", DETECTIONS).to_pylist()


def file_name(name: str) -> str:
    """A run's name as a file's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)


def highest_scores(scores: Sequence[float]) -> dict[str, float]:
    """The highest score of each image, summed up."""
    return {"max_score": float(np.max(scores)), "median_of_image_maxima": float(np.median(scores))}


def calibration_errors(calibration: dict[str, Any]) -> dict[str, Any] | None:
    """Detection ECE over all classes with its interval, as it is and after Platt scaling."""
    measured = calibration.get("classes", {}).get("all")
    if measured is None:
        return None
    after = measured.get("after_platt") or {}
    return {**{key: measured[key] for key in ("n", "ece", "low", "high")}, "after_platt": after.get("ece")}


def show(name: str, **values: Any) -> None:
    """One line of JSON."""
    print(json.dumps({"run": name, **values}), flush=True)


def _three(value: float | None) -> str:
    return "   – " if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
