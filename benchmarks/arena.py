"""Two arenas in which ways of training are compared at equal means; `benchmarks/learning.py arena` runs them.

*Phantom*: 1,000 drawn images (seed 22), scored on the clean test images. *Real*: a Roboflow export split by source,
20 % test, 10 % valid, the rest train; all versions of a source in train, one in valid and test. Every variant starts
from the same weights and gets the CPU seconds of `--steps` steps of `smoke` on the arena's canvas: its own steps follow
from what a step of either costs, measured turn by turn, so that other work on the machine slows both alike. Weights are
chosen on valid; a variant's test figures are read once, and its difference to the first variant is the paired
bootstrap's over the same resamples of sources.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.splits import read_split, read_stored
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.documents.job import FitJob, PredictJob
from dentsight_pipeline.evaluation.columns import Detections, detections_of, ground_truth_of
from dentsight_pipeline.evaluation.compare import compare
from dentsight_pipeline.evaluation.evaluate import Inputs, evaluate
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import loop, processes
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.detector import surest
from dentsight_pipeline.training.predict import run_predict
from dentsight_pipeline.training.recipe import Recipe, Scalar
from dentsight_pipeline.training.reporting import Reporter
from dentsight_pipeline.training.sampling import MicroBatches
from dentsight_pipeline.training.setup import Setup

CANVAS: dict[str, Scalar] = {"image_width": 448, "image_height": 256}
FROM_NOTHING: dict[str, Scalar] = {"weights": None, "learning_rate": 1e-3, "warmup_steps": 50}
"""What `smoke` needs when it starts from random weights."""
MEASURED_STEPS, WARM_UP_STEPS = 8, 2
ANNOTATIONS = "_annotations.coco.json"


def run(given: argparse.Namespace, store: Store) -> None:
    """Each variant trained, scored on test and compared with the first; one line of JSON each, and a file."""
    subset = phantoms(store, given.images) if given.export is None else real(store, given.export, given.sources)
    truth = ground_truth_of(read_split(store, subset, "test"))
    first = None
    for variant in given.variant or ["base"]:
        name, _, fields = variant.partition(":")
        recipe = recipe_of(fields, given.seed)
        if "max_steps" not in fields:
            share = relative_cost(given.out, store, subset, recipe) if fields else 1.0
            recipe = recipe.override({"max_steps": round((given.steps or 268) / share)})
        recipe = recipe.override({"evaluate_every_steps": max(1, recipe.total_steps(0) // 4)})
        checkpoint, spent = trained(given.out, store, subset, recipe)
        found = found_by(given.out, store, subset, checkpoint, truth)
        figures: dict[str, Any] = {"variant": variant, "seed": given.seed, "steps": recipe.max_steps, "cpu_s": spent}
        figures |= {"checkpoint": checkpoint, **scores(truth, found)}
        if first is None:
            first = found
        else:
            figures["against_first"] = difference(truth, found, first)
        print(json.dumps(figures), flush=True)
        (given.out / f"arena-{name}-{given.seed}.json").write_text(json.dumps(figures, indent=1))


def recipe_of(fields: str, seed: int) -> Recipe:
    """`smoke` on the arena's canvas with `field=value,…`."""
    values = dict(pair.split("=", 1) for pair in fields.split(",") if pair)
    return recipes.named("smoke").override({**CANVAS, **FROM_NOTHING, "seed": seed, **values})


def phantoms(store: Store, images: int, seed: int = 22) -> Manifest:
    """The phantom arena's subset, or that of other phantoms."""
    with tempfile.TemporaryDirectory() as folder:
        write_phantom_export(Path(folder) / "export", images, seed)
        return select_conditions(store, normalise_export(store, ingest_export(Path(folder) / "export", store)))


def real(store: Store, export: Path, sources: int | None) -> Manifest:
    """The real arena's subset, trained on all or on the first `sources` training sources."""
    with tempfile.TemporaryDirectory() as folder:
        split_by_source(export, Path(folder) / "export", sources)
        return select_conditions(store, normalise_export(store, ingest_export(Path(folder) / "export", store)))


def split_by_source(export: Path, out: Path, sources: int | None = None) -> dict[str, int]:
    """A COCO export of Roboflow written anew, split by source; images in each split."""
    documents = {file.parent: json.loads(file.read_text("utf-8")) for file in sorted(export.glob(f"*/{ANNOTATIONS}"))}
    by_source: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for folder, document in documents.items():
        for image in document["images"]:
            by_source.setdefault(image["file_name"].split(".rf.")[0], []).append((folder, image))
    stems = sorted(by_source)
    random.Random(1).shuffle(stems)
    test, valid = round(len(stems) * 0.2), round(len(stems) * 0.1)
    parts = {"test": stems[:test], "valid": stems[test : test + valid], "train": stems[test + valid :][:sources]}
    counts = {}
    for split, own in parts.items():
        chosen = [version for stem in own for version in sorted(by_source[stem], key=lambda v: v[1]["file_name"])]
        if split != "train":
            chosen = [min(by_source[stem], key=lambda v: v[1]["file_name"]) for stem in own]
        counts[split] = len(chosen)
        _write_split(out / split, chosen, documents)
    for text in export.glob("*.txt"):
        shutil.copy(text, out / text.name)
    return counts


def _write_split(out: Path, chosen: list[tuple[Path, dict[str, Any]]], documents: dict[Path, dict[str, Any]]) -> None:
    """One split's images and annotations, numbered anew."""
    out.mkdir(parents=True)
    images, annotations = [], []
    for number, (folder, image) in enumerate(chosen):
        shutil.copy(folder / image["file_name"], out / image["file_name"])
        images.append({**image, "id": number})
        own = (one for one in documents[folder]["annotations"] if one["image_id"] == image["id"])
        annotations.extend({**one, "id": len(annotations) + at, "image_id": number} for at, one in enumerate(own))
    document = {**next(iter(documents.values())), "images": images, "annotations": annotations}
    (out / ANNOTATIONS).write_text(json.dumps(document))


def job_of(out: Path, store: Store, subset: Manifest, recipe: Recipe) -> FitJob:
    """A job in a folder of its own, and one image cache for all."""
    folder = out / "-".join([*(one[:12] for one in recipe.identity.values()), subset.digest[:8]])
    folder.mkdir(parents=True, exist_ok=True)
    return FitJob(
        store_uri=store.uri,
        subset=subset.digest,
        recipe=recipe.model_dump(),
        workdir=str(folder),
        cache_dir=str(out / "cache"),
        threads=1,  # as the peers: two take half as much CPU again for a step of the tiny model
    )


def relative_cost(out: Path, store: Store, subset: Manifest, recipe: Recipe) -> float:
    """CPU seconds of a step over those of a step without the variant's fields; medians of steps in turn."""
    with tempfile.TemporaryDirectory() as folder:
        two = [
            steps_of(out, Path(folder) / str(number), store, subset, one)
            for number, one in enumerate((recipe, recipe_of("", recipe.seed)))
        ]
        spent = np.array([[next(own) for own in two] for _ in range(MEASURED_STEPS)])
    own, reference = np.median(spent[WARM_UP_STEPS:], axis=0)
    return float(own / reference)


def steps_of(out: Path, folder: Path, store: Store, subset: Manifest, recipe: Recipe) -> Iterator[float]:
    """The CPU seconds of one step after the other."""
    recipe = recipe.override({"max_steps": 1000})
    job = replace(job_of(out, store, subset, recipe), workdir=str(folder))
    with Reporter(None) as reporter:
        training = loop.Training(Setup.of(job).with_weights(), processes.start(job, recipe), reporter)
        batches = MicroBatches(training.sampler, recipe)
        training._loop_started, training._first_step = time.perf_counter(), 0
        with training.monitor.watch(training.learner.model):
            loader = iter(training._loader(batches))
            while True:
                began = time.process_time()
                training._train_step(loader, batches.per_step)
                yield time.process_time() - began


def trained(out: Path, store: Store, subset: Manifest, recipe: Recipe) -> tuple[str, float]:
    """Digest of the checkpoint, and the CPU seconds that it took with validation and publishing."""
    job, began = job_of(out, store, subset, recipe), time.process_time()
    with Reporter(job.folder) as reporter:
        return loop.run_fit(job, reporter), time.process_time() - began


def predicted(out: Path, store: Store, subset: Manifest, checkpoint: str, split: str = "test") -> Manifest:
    """Detections on a split, of the classes that the checkpoint has."""
    workdir = out / "predictions" / f"{checkpoint[:12]}-{subset.digest[:8]}-{split}"
    job = PredictJob(
        store_uri=store.uri,
        workdir=str(workdir),
        checkpoint=checkpoint,
        subset=subset.digest,
        splits=(split,),
        images_only=True,
    )
    with Reporter(workdir) as reporter:
        return store.get_manifest(run_predict(job, reporter))


def found_by(out: Path, store: Store, subset: Manifest, checkpoint: str, truth: Any, split: str = "test") -> Any:
    """A checkpoint's detections on a split, as they are evaluated."""
    stored = read_stored(store, predicted(out, store, subset, checkpoint, split), f"{split}.arrow", DETECTIONS)
    return detections_of(stored, truth)


def without_doubles(found: Detections, iou: float = 0.5) -> Detections:
    """Detections of several images, of any detector, suppressed as `nms_iou` does it."""
    order = np.lexsort((-found.scores, found.image_index))
    by_image = np.split(order, np.flatnonzero(np.diff(found.image_index[order])) + 1)
    columns = found.boxes_xywh_px, found.scores, found.class_index
    return taken(found, np.concatenate([rows[surest(*(own[rows] for own in columns), iou=iou)] for rows in by_image]))


def taken(found: Detections, rows: np.ndarray) -> Detections:
    """Some of them."""
    return Detections(found.image_index[rows], found.class_index[rows], found.boxes_xywh_px[rows], found.scores[rows])


def scores(truth: Any, found: Any) -> dict[str, Any]:
    """Macro AP50 and AP with their intervals, and AP50 of each class, on the images that gates read."""
    document = evaluate(Inputs(truth, found, resamples=1000)).document
    own = document.populations[document.gated_population or "all"]
    return {"macro": _macro(document), "classes": {row.class_name: _three(row.ap50) for row in own.per_class}}


def _macro(document: Any) -> dict[str, Any]:
    rows = [m for m in document.measurements if m.class_name == "macro" and m.metric in {"ap50", "ap"}]
    wanted = [m for m in rows if m.population == document.gated_population]
    return {m.metric: [_three(m.value), _three(m.low), _three(m.high)] for m in wanted}


def difference(truth: Any, found: Any, first: Any) -> dict[str, Any]:
    """Paired differences of AP50 to the first variant, [value, low, high]."""
    rows = compare(truth, found, first).measurements
    return {m.class_name: [_three(m.value), _three(m.low), _three(m.high)] for m in rows if m.metric.endswith("ap50")}


def _three(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
