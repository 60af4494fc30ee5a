"""Small drawn subsets for the tests of training: gray noise with bright and dark shapes, one look for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dentsight_pipeline.data.splits import split_files
from dentsight_pipeline.store import content, objects
from dentsight_pipeline.store import manifest as manifests
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.documents.facts_for_tests import subset_facts

CLASSES = ("caries", "crown", "implant")


def draw_image(random: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, list[tuple[list[float], int]]]:
    """A noisy gray image of `size` (width, height), and its boxes [x, y, w, h] with label indices."""
    width, height = size
    image = random.normal(90, 12, (height, width)).clip(0, 255).astype(np.uint8)
    found = []
    for _ in range(int(random.integers(1, 5))):
        label = int(random.integers(len(CLASSES)))
        w, h = int(random.integers(24, 60)), int(random.integers(24, 60))
        x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
        if label == 0:
            cv2.ellipse(image, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, (15,), -1)
        elif label == 1:
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), (240,), -1)
        else:
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), (170,), 6)
        found.append(([float(x), float(y), float(w), float(h)], label))
    return image, found


def make_subset(
    store: Store,
    counts: dict[str, int],
    *,
    seed: int = 0,
    classes: tuple[str, ...] = CLASSES,
    kind: str = "condition-subset",
    change: Callable[[str, dict[str, Any]], None] | None = None,
) -> Manifest:
    """A published subset manifest of drawn images, `counts` by split; `change` may alter a split's COCO JSON."""
    random = np.random.default_rng(seed)
    files: dict[str, bytes | Path | manifests.Entry] = {}
    next_image = next_annotation = 1
    for split, count in counts.items():
        images, annotations = [], []
        for _ in range(count):
            size = (int(random.integers(300, 420)), int(random.integers(180, 240)))
            pixels, boxes = draw_image(random, size)
            encoded = cv2.imencode(".png", pixels)[1].tobytes()
            digest = hashlib.sha256(encoded).hexdigest()
            files[f"images/{digest}.png"] = encoded
            record = {"id": next_image, "file_name": f"images/{digest}.png", "width": size[0], "height": size[1]}
            record |= {"sha256": digest, "source_group": digest, "clean": next_image % 2 == 0, "flags": []}
            images.append({**record, "partial_annotation": False})
            for box, label in boxes:
                annotation = {"id": next_annotation, "image_id": next_image, "category_id": label + 1, "bbox": box}
                annotations.append({**annotation, "area": box[2] * box[3], "iscrowd": 0, "segmentation": []})
                next_annotation += 1
            next_image += 1
        categories = [{"id": i + 1, "name": name, "supercategory": "condition"} for i, name in enumerate(classes)]
        coco = {"images": images, "annotations": annotations, "categories": categories}
        if change is not None:
            change(split, coco)
        files |= split_files([from_coco(split, coco)])
    facts = subset_facts(classes)
    subset = content.build(store, kind, files, {}, facts)
    store.put_manifest(subset)
    return subset


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return objects.open_store(tmp_path / "store")


@pytest.fixture
def subset(store: Store) -> Manifest:
    """12 training and 5 validation images of three classes."""
    return make_subset(store, {"train": 12, "valid": 5})


@pytest.fixture
def smoke() -> Recipe:
    """The smoke recipe with few queries."""
    return recipes.named("smoke").override({"weights": "none", "num_queries": "20", "num_denoising": "10"})


@pytest.fixture
def tiny_recipe() -> Recipe:
    """A model from nothing on a canvas of 96×64 pixels for a handful of steps: a second or two of CPU."""
    return recipes.named("smoke").override(
        {
            "weights": None,
            "learning_rate": 1e-3,
            "criterion": "transformers",
            "class_loss": "varifocal",
            "focal_alpha": 0.75,
            "focal_gamma": 2.0,
            "memory_format": "contiguous",
            "nms_iou": None,
            "image_width": 96,
            "image_height": 64,
            "num_queries": 20,
            "num_denoising": 10,
            "max_steps": 8,
            "batch_size": 2,
            "evaluate_every_steps": 4,
            "warmup_steps": 2,
        }
    )
