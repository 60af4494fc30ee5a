"""Are wrong labels found by models of folds, and does repairing them help? On phantoms; or the queue of an export.

    python -m benchmarks.label_errors plant --out DIR --images 300     # clean phantoms, and 5 % of each mistake in them
    python -m benchmarks.label_errors ingest --out DIR --export EXPORT # or a real export as it is
    python -m benchmarks.label_errors fold --out DIR                   # three trainings
    python -m benchmarks.label_errors queue --out DIR                  # precision and recall of what was planted
    python -m benchmarks.label_errors train --out DIR --labels wrong   # and repaired
    python -m benchmarks.label_errors compare --out DIR                # both on clean labels of other phantoms, paired

Planted, each in 5 % (`--share`) of the labels of conditions: omissions, additions (a label of another image in its
place there), shifts of half a box, swaps of the class. Repaired is what somebody who knows the truth puts right among
the first suspects, twice as many as were planted. Everything is remembered in DIR: each step can be started alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import arena
from dentsight_pipeline.data.agreement import pairwise_iou
from dentsight_pipeline.data.corrections import apply_stored, publish_corrections
from dentsight_pipeline.data.folds import publish_fold
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.ontology import CONDITIONS
from dentsight_pipeline.data.splits import read_split, read_splits, read_stored
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.documents.job import PredictJob
from dentsight_pipeline.documents.review import QUEUE_FILE, Correction, Corrections, ReviewQueue, Suspect
from dentsight_pipeline.evaluation.columns import detections_of, ground_truth_of
from dentsight_pipeline.evaluation.compare import compare
from dentsight_pipeline.evaluation.label_review import publish_review
from dentsight_pipeline.evaluation.suspects import as_box, labelled_images
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.phantom import export as phantoms
from dentsight_pipeline.store.content import read_document
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.predict import run_predict
from dentsight_pipeline.training.reporting import Reporter

OF = 3
PLANTED = "planted.json"


def drawn(store: Store, images: int, seed: int) -> Manifest:
    """Normalised splits of phantoms whose annotators make no mistake but an unsteady hand."""
    phantoms.SECOND_ANNOTATOR = phantoms.FIRST_ANNOTATOR
    with tempfile.TemporaryDirectory() as folder:
        phantoms.write_phantom_export(Path(folder) / "export", images, seed)
        return normalise_export(store, ingest_export(Path(folder) / "export", store))


def plant(given: argparse.Namespace, store: Store, known: dict[str, Any]) -> None:
    """Clean splits, splits with mistakes, and clean splits of other phantoms to measure on."""
    clean = drawn(store, given.images, given.seed)
    made = mistakes(store, clean, given.share, np.random.default_rng(given.seed))
    wrong = changed(store, clean, made, "planted")
    known |= {"clean": clean.digest, "wrong": wrong.digest, "measured": drawn(store, 300, given.seed + 1).digest}
    (given.out / PLANTED).write_bytes(codec.write(made))
    print(json.dumps(Counter(kind_of(one) for one in made)))


def ingest(given: argparse.Namespace, store: Store, known: dict[str, Any]) -> None:
    """A real export."""
    known["wrong"] = normalise_export(store, ingest_export(given.export, store)).digest


def mistakes(store: Store, clean: Manifest, share: float, rng: np.random.Generator) -> list[Correction]:
    """Changes that make labels wrong."""
    images = [image for image in labelled_images(read_splits(store, clean).values()) if image.covered & {*CONDITIONS}]
    everywhere = [
        (name, box)
        for image in images
        for name, box in zip(image.names, image.boxes, strict=True)
        if name in CONDITIONS
    ]
    made = []
    for image in images:
        for name, box in zip(image.names, image.boxes, strict=True):
            kind = rng.choice(["", "omit", "move", "swap"], p=[1 - 3 * share, share, share, share])
            if name in CONDITIONS and kind:
                made.append(change(image.image, (name, box), altered(kind, name, box, image.size, everywhere, rng)))
            if name in CONDITIONS and rng.random() < share:
                other, there = everywhere[rng.integers(len(everywhere))]
                own = image.boxes[image.named(other)]
                if not (pairwise_iou(there[None], own) > 0.1).any():
                    made.append(change(image.image, None, (other, there)))
    return made


def altered(kind: str, name: str, box: np.ndarray, size: tuple[int, int], everywhere: list, rng: Any) -> tuple | None:
    """A label as it is written down wrongly."""
    if kind == "swap":
        others = (everywhere[place][0] for place in rng.permutation(len(everywhere)))
        return next(other for other in others if other != name), box
    axis, sign = int(rng.integers(2)), rng.choice([-1, 1])
    moved = box.copy()
    moved[axis] = np.clip(box[axis] + sign * box[2 + axis] / 2, 0, size[axis] - box[2 + axis])
    return (name, moved) if kind == "move" else None


def change(image: str, before: tuple | None, after: tuple | None) -> Correction:
    """From name and box to name and box."""
    (b, bb), (a, ab) = ((own[0], as_box(own[1])) if own else (None, None) for own in (before, after))
    return Correction(
        image=image, annotation=None, before_class=b, before_bbox=bb, after_class=a, after_bbox=ab, who="benchmark",
        at=0.0, why="planted",
    )  # fmt: skip


def kind_of(one: Correction) -> str:
    """Of a planted mistake, as a suspect would be called."""
    if one.after_class is None:
        return "missed"
    return "spurious" if one.before_class is None else "place" if one.before_class == one.after_class else "class"


def changed(store: Store, splits: Manifest, made: list[Correction], key: str) -> Manifest:
    """Splits with changed labels, as a product."""
    said = Corrections(splits=splits.digest, queue="0" * 64, corrections=tuple(made))
    publish_corrections(store, said, key)
    noted = store.read_ref(f"label-corrections/{key}") or {}
    return apply_stored(store, splits, store.get_manifest(noted["corrections"]))


def fold(given: argparse.Namespace, store: Store, known: dict[str, Any]) -> None:
    """Train without each fold, and look at it."""
    subset = select_conditions(store, store.get_manifest(known["wrong"]))
    for number in range(1, OF + 1):
        part = publish_fold(store, subset, number, OF)
        checkpoint, spent = arena.trained(given.out, store, part, recipe_of(given))
        known[f"fold {number}"] = arena.predicted(given.out, store, part, checkpoint).digest
        print(json.dumps({"fold": number, "checkpoint": checkpoint, "cpu_s": round(spent)}), flush=True)


def recipe_of(given: argparse.Namespace) -> Any:
    """`smoke`, with as many steps as were asked for."""
    return recipes.named("smoke").override({"max_steps": given.steps, "evaluate_every_steps": given.steps})


def queue(given: argparse.Namespace, store: Store, known: dict[str, Any]) -> None:
    """The suspects; where mistakes were planted, how many of them are there."""
    subset = select_conditions(store, store.get_manifest(known["wrong"]))
    asked = [store.get_manifest(known[f"fold {number}"]) for number in range(1, OF + 1)]
    made = publish_review(store, subset, asked)
    known["queue"] = made.digest
    found = read_document(store, made, QUEUE_FILE, ReviewQueue).suspects
    print(json.dumps(Counter(one.kind for one in found)))
    if (given.out / PLANTED).is_file():
        measured(given, store, known, found)


def measured(given: argparse.Namespace, store: Store, known: dict[str, Any], found: tuple[Suspect, ...]) -> None:
    """Precision of the first hundred, recall at twice the number of mistakes; labels with what was found put right."""
    made = codec.read((given.out / PLANTED).read_bytes(), list[Correction], given.out / PLANTED)
    right = [planted(one, made) for one in found]
    first = found[: 2 * len(made)]
    caught = {number for number in right[: len(first)] if number is not None}
    by: dict[str, dict[str, list[bool]]] = {"kind": defaultdict(list), "class": defaultdict(list)}
    for number, one in enumerate(made):
        by["kind"][kind_of(one)].append(number in caught)
        by["class"][one.before_class or one.after_class or ""].append(number in caught)
    hits = defaultdict(list)
    for suspect, number in zip(found[:100], right, strict=False):
        hits[suspect.kind].append(number is not None)
    shares = {**by, "first 100": hits}
    told = {name: {k: f"{sum(v)}/{len(v)}" for k, v in sorted(own.items())} for name, own in shares.items()}
    print(json.dumps({
        "planted": len(made),
        "precision_100": sum(n is not None for n in right[:100]) / 100,
        "recall_2n": len(caught) / len(made),
        "by": told,
    }, indent=1))  # fmt: skip
    back = [
        change(one.image, (one.after_class, np.array(one.after_bbox)) if one.after_class else None,
               (one.before_class, np.array(one.before_bbox)) if one.before_class else None)
        for one in (made[number] for number in sorted(caught))
    ]  # fmt: skip
    known["repaired"] = changed(store, store.get_manifest(known["wrong"]), back, "repaired").digest


def planted(suspect: Suspect, made: list[Correction]) -> int | None:
    """The mistake that a suspect is, where it is one."""
    for number, one in enumerate(made):
        if one.image != suspect.image:
            continue
        lacking = one.after_bbox is None
        name, box = (one.before_class, one.before_bbox) if lacking else (one.after_class, one.after_bbox)
        same = float(pairwise_iou(np.array([suspect.bbox]), np.array([box]))[0, 0])
        if (
            name == suspect.class_name
            and lacking == (suspect.annotation is None)
            and same >= (0.5 if lacking else 0.95)
        ):
            return number
    return None


def train(given: argparse.Namespace, store: Store, known: dict[str, Any]) -> None:
    """A model of wrong, repaired or clean labels, and what it sees on other phantoms."""
    subset = select_conditions(store, store.get_manifest(known[given.labels]))
    checkpoint, spent = arena.trained(given.out, store, subset, recipe_of(given))
    other = select_conditions(store, store.get_manifest(known["measured"]))
    job = PredictJob(
        store_uri=store.uri, workdir=str(given.out / "seen" / given.labels), checkpoint=checkpoint,
        subset=other.digest, splits=("train",),
    )  # fmt: skip
    with Reporter(job.folder) as reporter:
        known[f"seen by {given.labels}"] = run_predict(job, reporter)
    print(json.dumps({"labels": given.labels, "checkpoint": checkpoint, "cpu_s": round(spent)}))


def compared(given: argparse.Namespace, store: Store, known: dict[str, Any]) -> None:
    """AP of both on clean labels, and the paired difference."""
    truth = ground_truth_of(read_split(store, select_conditions(store, store.get_manifest(known["measured"])), "train"))
    repaired, wrong = (
        detections_of(
            read_stored(store, store.get_manifest(known[f"seen by {labels}"]), "train.arrow", DETECTIONS), truth
        )
        for labels in ("repaired", "wrong")
    )
    for labels, seen in (("wrong", wrong), ("repaired", repaired)):
        print(labels, json.dumps(arena.scores(truth, seen)["macro"]))
    for row in compare(truth, repaired, wrong).measurements:
        print(row.class_name, row.metric, arena._three(row.value), arena._three(row.low), arena._three(row.high))


def main() -> None:
    """One step of the experiment."""
    steps = {"plant": plant, "ingest": ingest, "fold": fold, "queue": queue, "train": train, "compare": compared}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=steps)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--labels", choices=["wrong", "repaired", "clean"], default="wrong")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    memory = given.out / "known.json"
    known = json.loads(memory.read_text()) if memory.is_file() else {}
    steps[given.step](given, open_store(given.out / "store"), known)
    memory.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()
