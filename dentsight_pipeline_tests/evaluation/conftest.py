"""Small COCO sets whose answers are known, and random ones that look like panoramic X-rays."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dentsight_pipeline.evaluation.compare import Comparison, compare
from dentsight_pipeline.evaluation.evaluate import coco_inputs, evaluate
from dentsight_pipeline.evaluation.folder import Evaluation
from dentsight_pipeline.evaluation.validation import digest_of, read_detections, read_ground_truth
from dentsight_pipeline.progress import Progress

Truth = dict[str, Any]
Found = list[dict[str, Any]]


def coco(
    annotations: Sequence[tuple[int, int, Sequence[float]]], images: int = 1, classes: tuple[str, ...] = ("caries",)
) -> Truth:
    """Ground truth from (image id, category id, bbox); images are 1000 × 500, ids count from 1."""
    return {
        "images": [{"id": i, "width": 1000, "height": 500, "file_name": f"{i}.png"} for i in range(1, images + 1)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (image, k, box) in enumerate(annotations, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, start=1)],
    }


def found(*records: tuple[int, int, Sequence[float], float]) -> Found:
    """A results list from (image id, category id, bbox, score)."""
    return [{"image_id": i, "category_id": k, "bbox": box, "score": score} for i, k, box, score in records]


def evaluated(truth: Truth, results: Found, *, progress: Progress | None = None, **options: Any) -> Evaluation:
    """The evaluation of COCO records."""
    return evaluate(coco_inputs(truth, results, **options), progress)


def compared(truth: Truth, challenger: Found, champion: Found, **settings: Any) -> Comparison:
    """The comparison of COCO records."""
    known = replace(read_ground_truth(truth), sha256=digest_of(truth))
    found = (read_detections(results, known) for results in (challenger, champion))
    return compare(known, *found, **settings)


def random_set(
    seed: int,
    images: int = 12,
    classes: int = 3,
    per_image: int = 4,
    crowds: bool = False,
    groups: bool = False,
    ties: bool = False,
) -> tuple[Truth, Found]:
    """Random boxes with jittered, misnamed and stray detections; some images are empty."""
    rng = np.random.default_rng(seed)
    names = tuple(f"class {k}" for k in range(1, classes + 1))
    annotations: list[tuple[int, int, list[float]]] = []
    results: Found = []
    for image in range(1, images + 1):
        n = 0 if rng.random() < 0.15 else int(rng.integers(1, per_image + 1))
        for _ in range(n):
            k = int(rng.integers(1, classes + 1))
            box = [*rng.uniform(0, 400, 2).tolist(), *rng.lognormal(3.6, 0.9, 2).tolist()]
            annotations.append((image, k, box))
            for _ in range(int(rng.integers(0, 4))):
                size = np.array(box[2:]) * np.exp(rng.normal(0, 0.12, 2))
                moved = [*(np.array(box[:2]) + rng.normal(0, 0.08, 2) * size).tolist(), *size.tolist()]
                named = k if rng.random() < 0.8 else int(rng.integers(1, classes + 1))
                results.append({"image_id": image, "category_id": named, "bbox": moved, "score": float(rng.beta(3, 2))})
        for _ in range(int(rng.integers(0, 6))):
            stray = [*rng.uniform(0, 450, 2).tolist(), *rng.lognormal(3.6, 0.8, 2).tolist()]
            named = int(rng.integers(1, classes + 1))
            results.append({"image_id": image, "category_id": named, "bbox": stray, "score": float(rng.beta(2, 3))})
    truth = coco(annotations, images, names)
    if crowds:
        for record in truth["annotations"][::5]:
            record["iscrowd"] = 1
    if groups:
        for record in truth["images"]:
            record["source_group"] = f"source {record['id'] - (record['id'] % 3 == 0)}"
    if ties:
        for record in results:
            record["score"] = round(record["score"], 1) or 0.1
    return truth, results


@pytest.fixture
def make_set() -> Callable[..., tuple[Truth, Found]]:
    """`random_set` as a fixture."""
    return random_set


@pytest.fixture(scope="session")
def published(shared_folder: Path) -> tuple[Truth, Found]:
    """734 published detections on 100 COCO images."""
    folder = shared_folder / "reference" / "coco_ref"
    return (
        json.loads((folder / "instances_val2014_100.json").read_text()),
        json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text()),
    )
