"""Validation figures during training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import cache, validation
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.dataset import LabelledImages, Letterboxed, read_labelled
from dentsight_pipeline.training.detector import Detections
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline_tests.training.conftest import CLASSES, make_subset


@pytest.fixture
def valid(store: Store, subset: Manifest) -> LabelledImages:
    """The validation split."""
    return read_labelled(store, subset, "valid")


def truth(split: LabelledImages, shift: float = 0.0) -> list[tuple[int, Detections]]:
    """Detections that are the ground truth itself, moved right by `shift` pixels."""
    boxes = split.boxes_xywh_px + np.array([shift, 0, 0, 0])
    own = [slice(*split.offsets[image : image + 2]) for image in range(len(split))]
    found = [Detections(boxes[rows], np.full(len(boxes[rows]), 0.9), split.labels[rows]) for rows in own]
    return list(zip(split.split.image_ids.tolist(), found, strict=True))


def test_perfect_detections_score_one_and_shifted_ones_less(valid: LabelledImages):
    """The figure that chooses the published checkpoint."""
    perfect, shifted = validation.score(valid, truth(valid)), validation.score(valid, truth(valid, 8.0))

    assert perfect["valid/map_50"] == pytest.approx(1.0)
    assert perfect["valid/map"] == pytest.approx(1.0)
    assert shifted["valid/map"] < 0.9


def test_nothing_found_scores_zero_not_an_error(valid: LabelledImages):
    """So it is at the first evaluations of a random model."""
    assert validation.score(valid, [])["valid/map_50"] == 0.0


def test_clean_images_have_a_figure_of_their_own(valid: LabelledImages):
    """Images that share a source with the training split flatter the model; the curve shows both."""
    clean = set(valid.split.image_ids[valid.clean].tolist())

    values = validation.score(valid, [d for d in truth(valid) if d[0] in clean])

    assert values["valid/map_50_clean"] == pytest.approx(1.0)
    assert values["valid/map_50"] < 1.0


def test_every_class_with_ground_truth_has_a_curve(valid: LabelledImages):
    """Macro figures hide the class that matters."""
    present = {CLASSES[a["category_id"] - 1] for a in valid.split.to_coco()["annotations"]}

    values = validation.score(valid, [])

    assert {name.removeprefix("valid/ap_50/") for name in values if name.startswith("valid/ap_50/")} == present


def test_detections_come_in_original_pixels_and_at_most_300_an_image(
    store, valid: LabelledImages, tiny_recipe: Recipe, tmp_path
):
    """Boxes on the canvas would score zero on every image that was resized."""
    model = models.build(tiny_recipe.override({"num_queries": 110}), CLASSES).eval()
    images = cache.open_or_build(tmp_path, store, valid, tiny_recipe.image_size)

    found = validation.detect(model, Letterboxed(valid, images), [0, 3], tiny_recipe, torch.device("cpu"))

    assert [(image, len(one.scores)) for image, one in found] == [(valid.split.image_ids[i], 300) for i in (0, 3)]
    assert max((one.boxes_xywh_px[:, 0] + one.boxes_xywh_px[:, 2]).max() for _, one in found) > 200
    assert all(((one.scores > 0) & (one.scores < 1)).all() for _, one in found)


def test_health_is_read_on_annotated_images_only(store: Store, tiny_recipe: Recipe, tmp_path):
    """Matched scores need something to match."""

    def empty_first(_: str, coco: dict) -> None:
        first = coco["images"][0]["id"]
        coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] != first]

    split = read_labelled(store, make_subset(store, {"valid": 4}, change=empty_first), "valid")
    images = cache.open_or_build(tmp_path, store, split, tiny_recipe.image_size)

    batches = list(validation.health_batches(Letterboxed(split, images), tiny_recipe, torch.device("cpu")))

    assert sum(len(batch["labels"]) for batch in batches) == 3
    assert batches[0]["pixel_values"].shape[1:] == (3, 64, 96)
