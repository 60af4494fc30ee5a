"""Would a second look around each tooth find more? Crops of 250 % of the tooth: of the true ones, and of stage 1's.

`benchmarks/learning.py second-look` runs it on phantoms. The first look is `phantom-tiny` on whole images, the second
the same weights on crops; with `--steps` each after as many steps on what it looks at. The second's detections are
merged, fused with the first's, and scored on whole test images, against the first look alone on the same resamples.
Doubles are suppressed in all of them alike, as `smoke` does it.

With `--steps` also: stage 1 trained as `dentsight run --stage teeth` does, its teeth kept as the pipeline keeps them;
and a control, the first look fused with another seed of itself, so that the crops are told from merely two models. Both
on valid, where a fusion may be chosen, and on test.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from msgspec import structs
from PIL import Image

from benchmarks import arena
from dentsight_pipeline.data.agreement import pairwise_iou
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.data.splits import read_split, read_stored, split_files
from dentsight_pipeline.data.subset import select_conditions, select_teeth
from dentsight_pipeline.documents.annotations import IMAGES, Split, covered_column
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth, ground_truth_of
from dentsight_pipeline.evaluation.teeth.findings import (
    Marked,
    at_least,
    by_image,
    choose_tooth_threshold,
    one_mouth,
)
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline.store.content import build
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.recipe import Scalar
from dentsight_pipeline_tests.data.coco import from_coco

AS_IT_IS: dict[str, Scalar] = {
    "max_steps": 1,
    "warmup_steps": 0,
    "learning_rate": 1e-8,
    "freeze_batch_norm": "all",
    "evaluate_every_steps": 1,
}
ZOOM, LEAST_SCORE, TRAINING_CROPS = 2.5, 0.01, 6
SPLITS = ("train", "valid", "test")
Teeth = Mapping[int, np.ndarray]
"""Tooth boxes [n, 4] by image id."""


def run(given: argparse.Namespace, store: Store) -> None:
    """Both looks, and each way of fusing them; one line of JSON each."""
    with tempfile.TemporaryDirectory() as folder:
        write_phantom_export(Path(folder) / "export", given.images, 22)
        normalised = normalise_export(store, ingest_export(Path(folder) / "export", store))
    whole, teeth = select_conditions(store, normalised), select_teeth(store, normalised)
    truth = ground_truth_of(read_split(store, whole, "test"))
    steps = given.steps or 0
    length: dict[str, Scalar] = {"max_steps": steps, "evaluate_every_steps": max(1, steps // 2)}
    recipe = recipes.named("smoke").override({"seed": given.seed, **(length if steps else AS_IT_IS)})
    model, spent = arena.trained(given.out, store, whole, recipe)
    began = time.process_time()
    first = sure(arena.found_by(given.out, store, whole, model, truth))
    prediction = time.process_time() - began
    tell("first look", cpu_s=spent, prediction_cpu_s=prediction, **arena.scores(truth, first))
    crops, corners = cropped(store, whole, {name: boxes_of(read_split(store, teeth, name)) for name in SPLITS})
    looking = model
    if given.steps:
        looking, spent = arena.trained(given.out, store, crops, recipe.override({"image_width": 256}))
        tell("trained on crops", steps=given.steps, cpu_s=spent)
    began = time.process_time()
    second = merged(looked(given.out, store, crops, looking, "test"), corners, truth)
    prediction = time.process_time() - began
    for fusion in FUSIONS:
        fused = fuse(first, second, fusion)
        figures = {**arena.scores(truth, fused), "against_first": arena.difference(truth, fused, first)}
        tell(fusion.__name__, prediction_cpu_s=prediction, **figures)
    if given.steps:
        found = found_teeth(given, store, whole, teeth)
        other, spent = arena.trained(given.out, store, whole, recipe.override({"seed": given.seed ^ 1}))
        tell("another seed", seed=given.seed ^ 1, cpu_s=spent)
        best_case = fuse(first, second, mean)
        for name in ("valid", "test"):
            in_earnest(given.out, store, whole, found, name, (model, other, looking), best_case)


def in_earnest(
    out: Path,
    store: Store,
    whole: Manifest,
    teeth: Mapping[str, Teeth],
    split: str,
    models: tuple[str, str, str],
    best_case: Detections,
) -> None:
    """Crops at stage 1's teeth, and the control, each fused with the first look; models: first, another, of crops."""
    truth = ground_truth_of(read_split(store, whole, split))
    first, control = (sure(arena.found_by(out, store, whole, model, truth, split)) for model in models[:2])
    if split != "test":
        tell("first look", split=split, **arena.scores(truth, first))
    began = time.process_time()
    crops, corners = cropped(store, whole, {split: teeth[split]}, every=(split,))
    second = merged(looked(out, store, crops, models[2], split), corners, truth)
    shares = {name: share_inside(truth, corners, name) for name in ("caries", "calculus", "restoration", "missing")}
    tell("crops at stage 1's teeth", split=split, crops=len(corners), images=len(truth.image_ids), inside=shares)
    tell("their prediction", split=split, cpu_s=time.process_time() - began)
    for fusion in FUSIONS:
        looks = {"stage 1's teeth": fuse(first, second, fusion), "another seed": fuse(first, control, fusion)}
        for name, fused in looks.items():
            figures = {**arena.scores(truth, fused), "against_first": arena.difference(truth, fused, first)}
            tell(f"{name}, {fusion.__name__}", split=split, **figures)
    control = fuse(first, control, mean)
    looks = {"stage 1's teeth": fuse(first, second, mean)} | ({"true teeth": best_case} if split == "test" else {})
    for name, fused in looks.items():
        tell(f"{name} against another seed, mean", split=split, against=arena.difference(truth, fused, control))


def tell(name: str, **values: object) -> None:
    """One line of JSON."""
    print(json.dumps({"run": name, **values}), flush=True)


# ---- teeth -----------------------------------------------------------------------------------------------------------


def boxes_of(split: Split) -> Teeth:
    """True teeth of the images in which they are known."""
    return dict(zip(split.image_ids.tolist(), np.split(split.boxes_xywh_px, split.offsets[1:-1]), strict=True))


def found_teeth(given: argparse.Namespace, store: Store, whole: Manifest, teeth: Manifest) -> Mapping[str, Teeth]:
    """Stage 1's of valid and test: each number once a mouth, from the score on that is best on valid."""
    model, spent = arena.trained(
        given.out, store, teeth, recipes.named("smoke").override({"stage": 1, "seed": given.seed})
    )
    mouths = {name: mouths_of(given.out, store, whole, model, name) for name in ("valid", "test")}
    least = choose_tooth_threshold(ground_truth_of(read_split(store, teeth, "valid")), mouths["valid"])
    kept = {name: {image: at_least(own, least) for image, own in found.items()} for name, found in mouths.items()}
    boxes = {
        name: {image: np.array([tooth.bbox_xywh_px for tooth in own]).reshape(-1, 4) for image, own in found.items()}
        for name, found in kept.items()
    }
    true = boxes_of(read_split(store, teeth, "test"))
    hit = np.concatenate([(pairwise_iou(own, boxes["test"][at]) >= 0.5).any(axis=1) for at, own in true.items()])
    tell(
        "stage 1",
        cpu_s=spent,
        threshold=least,
        teeth=len(hit),
        found=hit.mean(),
        kept=sum(map(len, boxes["test"].values())),
    )
    return boxes


def mouths_of(out: Path, store: Store, whole: Manifest, model: str, split: str) -> dict[int, list[Marked]]:
    """Its teeth in every image of a split."""
    truth = ground_truth_of(read_split(store, whole, split))
    every, ids = np.ones((len(truth.image_ids), len(TEETH)), bool), np.arange(1, len(TEETH) + 1)
    asked = replace(truth, covered=every, class_names=TEETH, category_ids=ids)
    found = by_image(arena.found_by(out, store, whole, model, asked, split), asked)
    return {image: one_mouth(found.get(image, ())) for image in truth.image_ids.tolist()}


# ---- crops -----------------------------------------------------------------------------------------------------------


def cropped(
    store: Store, whole: Manifest, teeth: Mapping[str, Teeth], every: tuple[str, ...] = ("test",)
) -> tuple[Manifest, dict[int, np.ndarray]]:
    """A subset of crops around teeth; and for each crop its image, left, top, right, bottom, and the image's size. Of
    other splits than `every` six of an image, half of them with a finding."""
    files, corners, splits = {}, {}, []
    for name, boxes in teeth.items():
        split = read_split(store, whole, name)
        images, annotations, covered = [], [], []
        for row, places in crops_of(split, boxes, name in every):
            record = split.images.slice(row, 1).to_pylist()[0]
            picture = Image.open(io.BytesIO(store.local_path(record["sha256"]).read_bytes()))
            for place in places:
                number, buffer = len(files) + 1, io.BytesIO()
                picture.crop(tuple(place.tolist())).save(buffer, "png", compress_level=1)
                digest = store.put_bytes(buffer.getvalue())
                files[f"images/{digest}-{number}.png"] = buffer.getvalue()
                corners[number] = np.array([row, *place, record["width"], record["height"]])
                width, height = (place[2:] - place[:2]).tolist()
                sizes = {"width": width, "height": height, "file_name": f"images/{digest}-{number}.png"}
                images.append({**record, **sizes, "sha256": digest, "id": number})
                known, own = seen(split, row, place)
                covered.append(known)
                annotations += [{"image_id": number, "category_id": label, "bbox": box} for label, box in own]
        numbered = [{**one, "id": 1_000_000 * len(splits) + at} for at, one in enumerate(annotations, start=1)]
        categories = [{"id": at, "name": one} for at, one in enumerate(split.classes, start=1)]
        made = from_coco(name, {"images": images, "annotations": numbered, "categories": categories})
        place = IMAGES.get_field_index("covered")
        column = covered_column(np.array(covered))
        splits.append(replace(made, images=made.images.set_column(place, IMAGES.field(place), column)))
    facts = structs.replace(whole.facts_as(SubsetFacts), splits={})  # counts are of whole images
    subset = build(store, Kind.CONDITION_SUBSET, files | split_files(splits), whole.inputs, facts)
    store.put_manifest(subset)
    return subset, corners


def crops_of(split: Split, teeth: Teeth, every: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Row of each image whose teeth are known, and the corners of its crops."""
    random = np.random.default_rng(1)
    for row, image in enumerate(split.image_ids.tolist()):
        if image not in teeth:
            continue
        boxes = teeth[image]
        size = np.array([split.images[side][row].as_py() for side in ("width", "height")])
        middle, reach = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:] * (ZOOM / 2)
        places = np.hstack([np.maximum(middle - reach, 0), np.minimum(middle + reach, size)]).round().astype(int)
        places = places[(places[:, 2:] > places[:, :2]).all(axis=1)]  # stage 1 may place a tooth outside
        if not every:
            shows = np.array([bool(seen(split, row, place)[1]) for place in places])
            order = random.permutation(len(places))
            shown = [at for at in order if shows[at]][: TRAINING_CROPS // 2]
            places = places[[*shown, *[at for at in order if at not in shown]][:TRAINING_CROPS]]
        yield row, places


def seen(split: Split, row: int, place: np.ndarray) -> tuple[np.ndarray, list[tuple[int, list[float]]]]:
    """What a crop shows: boxes of which half is inside. A class of which less was seen is not covered there."""
    own = slice(split.offsets[row], split.offsets[row + 1])
    boxes, labels = split.boxes_xywh_px[own], split.category_ids[own]
    low, high = np.maximum(boxes[:, :2], place[:2]), np.minimum(boxes[:, :2] + boxes[:, 2:], place[2:])
    share = np.clip(high - low, 0, None).prod(axis=1) / boxes[:, 2:].prod(axis=1)
    kept = share >= 0.5
    unsure = set(labels[(share > 0) & ~kept].tolist())
    covered = np.array([label not in unsure for label in range(1, len(split.classes) + 1)])
    rows = [at for at in np.flatnonzero(kept) if labels[at] not in unsure]
    return covered, [(int(labels[at]), [*(low[at] - place[:2]), *(high[at] - low[at])]) for at in rows]


def share_inside(truth: GroundTruth, corners: Mapping[int, np.ndarray], name: str) -> float:
    """Share of a class's boxes that lie wholly in a crop."""
    of = np.array(list(corners.values()))
    rows = np.flatnonzero(truth.class_index == truth.class_names.index(name))
    boxes, images = truth.boxes_xywh_px[rows][:, None], truth.image_index[rows][:, None]
    low, high = boxes[..., :2] >= of[:, 1:3], boxes[..., :2] + boxes[..., 2:] <= of[:, 3:5]
    return float(((images == of[:, 0]) & low.all(axis=2) & high.all(axis=2)).any(axis=1).mean())


# ---- fusing ----------------------------------------------------------------------------------------------------------


def looked(out: Path, store: Store, crops: Manifest, model: str, split: str) -> pa.Table:
    """Detections on crops."""
    return read_stored(store, arena.predicted(out, store, crops, model, split), f"{split}.arrow", DETECTIONS)


def merged(found: pa.Table, corners: dict[int, np.ndarray], truth: GroundTruth) -> Detections:
    """Detections of crops on their images: none that reaches a crop's inner edge, one where several crops saw it."""
    ids, scores = found["image_id"].to_numpy(), found["score"].to_numpy()
    boxes = np.array(found["bbox"].to_pylist())
    kept = scores >= LEAST_SCORE
    of = np.array([corners[one] for one in ids[kept].tolist()])
    boxes, scores, labels = boxes[kept], scores[kept], found["category_id"].to_numpy()[kept] - 1
    boxes[:, :2] += of[:, 1:3]
    margin = 0.02 * (of[:, 3:5] - of[:, 1:3])
    cut_low = (boxes[:, :2] < of[:, 1:3] + margin) & (of[:, 1:3] > 0)
    cut_high = (boxes[:, :2] + boxes[:, 2:] > of[:, 3:5] - margin) & (of[:, 3:5] < of[:, 5:7])
    whole = ~(cut_low | cut_high).any(axis=1)
    own = Detections(of[whole, 0].astype(int), labels[whole].astype(int), boxes[whole], scores[whole])
    return arena.without_doubles(own)


def sure(found: Detections) -> Detections:
    """What reaches the least score."""
    return arena.taken(found, np.flatnonzero(found.scores >= LEAST_SCORE))


def groups(found: Detections) -> Iterator[np.ndarray]:
    """Rows of one image and class, surest first."""
    order = np.lexsort((-found.scores, found.class_index, found.image_index))
    keys = found.image_index[order] * 100 + found.class_index[order]
    yield from (rows for rows in np.split(order, np.flatnonzero(np.diff(keys)) + 1) if len(rows))


Fusion = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Scores of first and second look (NaN: not found there), and whether the second alone found it, to fused scores."""


def alone(first: np.ndarray, second: np.ndarray, only: np.ndarray) -> np.ndarray:
    """The second look's."""
    return np.nan_to_num(second)


def surer(first: np.ndarray, second: np.ndarray, only: np.ndarray) -> np.ndarray:
    """The higher one."""
    return np.fmax(first, second)


def mean(first: np.ndarray, second: np.ndarray, only: np.ndarray) -> np.ndarray:
    """The mean; not found counts 0."""
    return (np.nan_to_num(first) + np.nan_to_num(second)) / 2


def rescored(first: np.ndarray, second: np.ndarray, only: np.ndarray) -> np.ndarray:
    """The mean, for what the first look found."""
    return np.where(only, 0.0, mean(first, second, only))


FUSIONS: tuple[Fusion, ...] = (alone, surer, mean, rescored)


def fuse(first: Detections, second: Detections, fusion: Fusion) -> Detections:
    """Each first detection with the second's of its class that overlaps it most, by half at least; the surer box."""
    partner, free = np.full(len(first.scores), -1), np.ones(len(second.scores), bool)
    own = {(second.image_index[rows[0]], second.class_index[rows[0]]): rows for rows in groups(second)}
    for rows in groups(first):
        others = own.get((first.image_index[rows[0]], first.class_index[rows[0]]), np.empty(0, int))
        if not len(others):
            continue
        overlap = pairwise_iou(first.boxes_xywh_px[rows], second.boxes_xywh_px[others])
        for at, row in enumerate(rows):
            best = int(np.argmax(np.where(free[others], overlap[at], -1)))
            if free[others[best]] and overlap[at, best] >= 0.5:
                partner[row], free[others[best]] = others[best], False
    rest = np.flatnonzero(free)
    theirs = np.full(len(first.scores), np.nan)
    theirs[partner >= 0] = second.scores[partner[partner >= 0]]
    a = np.concatenate([first.scores, np.full(len(rest), np.nan)])
    b = np.concatenate([theirs, second.scores[rest]])
    boxes, surer_now = first.boxes_xywh_px.copy(), theirs > first.scores
    boxes[surer_now] = second.boxes_xywh_px[partner[surer_now]]
    fused = Detections(
        np.concatenate([first.image_index, second.image_index[rest]]),
        np.concatenate([first.class_index, second.class_index[rest]]),
        np.concatenate([boxes, second.boxes_xywh_px[rest]]),
        fusion(a, b, np.isnan(a)),
    )
    return arena.taken(fused, np.flatnonzero(fused.scores > 0))
