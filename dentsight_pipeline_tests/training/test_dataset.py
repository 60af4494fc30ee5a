"""Splits read from a manifest, training samples, batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import cache
from dentsight_pipeline.training.dataset import Draw, Letterboxed, TrainingSamples, read_labelled
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline_tests.training.conftest import CLASSES, make_subset


def test_every_image_is_read_with_labels_one_below_category_ids(store: Store, subset: Manifest):
    """The model's label index is the category id minus one; off by one, every class is another."""
    split = read_labelled(store, subset, "train")

    categories = [a["category_id"] - 1 for a in split.split.to_coco()["annotations"]]
    assert len(split) == 12
    assert split.labels.tolist() == categories
    assert split.classes == CLASSES


def test_an_image_without_annotations_stays_as_a_negative(store: Store):
    """Dropping it would overstate precision and train on sick mouths only."""

    def empty_first(_: str, coco: dict[str, Any]) -> None:
        first = coco["images"][0]["id"]
        coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] != first]

    split = read_labelled(store, make_subset(store, {"train": 3}, change=empty_first), "train")

    assert len(split.labels_of(0)) == 0
    assert len(split) == 3


def test_boxes_are_clipped_to_their_image_and_empty_ones_dropped(store: Store):
    """A target outside the canvas cannot be predicted: D-FINE's boxes are clamped."""

    def shift(_: str, coco: dict[str, Any]) -> None:
        image = coco["images"][0]
        first = {"id": 90, "image_id": image["id"], "category_id": 1, "bbox": [-10.0, 5.0, 30.0, 20.0], "area": 600}
        outside = {
            "id": 91,
            "image_id": image["id"],
            "category_id": 1,
            "bbox": [image["width"] + 1.0, 0, 5, 5],
            "area": 25,
        }
        coco["annotations"] = [first, outside]

    split = read_labelled(store, make_subset(store, {"train": 1}, change=shift), "train")

    np.testing.assert_allclose(split.boxes_of(0), [[0, 5, 20, 20]])


def test_a_missing_split_names_those_that_exist(store: Store, subset: Manifest):
    """`validation` for `valid` is an easy slip."""
    with pytest.raises(DataError, match=r"has no split 'validation'. It has train, valid"):
        read_labelled(store, subset, "validation")


def test_a_subset_of_the_other_stage_is_refused(store: Store, subset: Manifest):
    """Training stage 1 on conditions would name findings after teeth."""
    with pytest.raises(DataError, match="Stage 1 trains on a tooth-subset manifest"):
        read_labelled(store, subset, "train", stage=1)


def test_a_category_that_does_not_exist_is_refused_by_record(store: Store):
    """Label −1 would be the last class, silently."""

    def break_one(_: str, coco: dict[str, Any]) -> None:
        coco["annotations"][0]["category_id"] = 0

    with pytest.raises(DataError, match=r"train, annotation 1: .*category 0 does not exist"):
        read_labelled(store, make_subset(store, {"train": 2}, change=break_one), "train")


def test_training_images_in_which_nothing_was_looked_for_are_left_out(store: Store):
    """Some images carry conditions but no tooth boxes: as tooth negatives they would teach that no tooth is there."""

    def uncovered(_: str, coco: dict[str, Any]) -> None:
        coco["images"][0]["covered"], first = [], coco["images"][0]["id"]
        coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] != first]

    teeth = make_subset(
        store, {"train": 3, "valid": 3}, classes=("11", "12", "21"), kind="tooth-subset", change=uncovered
    )

    assert len(read_labelled(store, teeth, "train", stage=1)) == 2
    assert len(read_labelled(store, teeth, "valid", stage=1)) == 3


def test_a_batch_says_which_classes_its_images_cover(store: Store, tiny_recipe: Recipe, tmp_path: Path):
    """The loss asks the batch; where everything is covered it gets nothing to ask, and not a bit changes."""

    def half(_: str, coco: dict[str, Any]) -> None:
        coco["images"][1]["covered"], second = [1, 3], coco["images"][1]["id"]
        kept = [a for a in coco["annotations"] if a["image_id"] != second or a["category_id"] != 2]
        coco["annotations"] = kept

    split = read_labelled(store, make_subset(store, {"train": 3}, change=half), "train")
    data = Letterboxed(split, cache.open_or_build(tmp_path, store, split, tiny_recipe.image_size))

    targets = data.batch([0, 1]).targets()

    assert [one["covered"].tolist() for one in targets] == [[True] * 3, [True, False, True]]
    assert "covered" not in data.batch([0, 2]).targets()[0]


def test_a_sample_is_the_cached_image_with_its_boxes_on_the_canvas(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path
):
    """What the model sees must be what the letterbox says, one byte a pixel."""
    split = read_labelled(store, subset, "train")
    images = cache.open_or_build(tmp_path, store, split, tiny_recipe.image_size)
    samples = TrainingSamples(Letterboxed(split, images), tiny_recipe)

    sample = samples[Draw(2, 0, 5, plain=True)]

    assert sample.image.dtype == np.uint8
    assert sample.image.shape == (64, 96)
    np.testing.assert_array_equal(sample.image, images[2])
    assert ((sample.boxes_cxcywh >= 0) & (sample.boxes_cxcywh <= 1)).all()
    assert sample.labels.tolist() == split.labels_of(2).tolist()


def test_a_batch_gives_every_image_its_own_targets(store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path):
    """Boxes travel in one piece and are cut apart on the device; a wrong cut mixes patients."""
    split = read_labelled(store, subset, "valid")
    images = cache.open_or_build(tmp_path, store, split, tiny_recipe.image_size)

    batch = Letterboxed(split, images).batch([1, 0])

    assert [t["class_labels"].tolist() for t in batch.targets()] == [
        split.labels_of(1).tolist(),
        split.labels_of(0).tolist(),
    ]
    assert [len(t["boxes"]) for t in batch.targets()] == batch.counts
    assert batch.targets()[0]["boxes"].dtype == torch.float32


def test_a_spread_selection_is_even_and_keeps_its_annotations(store: Store, subset: Manifest):
    """Validation on some images only must not be the first ones, which often come from one source."""
    split = read_labelled(store, subset, "train").spread(4)

    assert split.split.image_ids.tolist() == [1, 5, 8, 12]
    assert set(split.split.annotation_image_ids.tolist()) <= {1, 5, 8, 12}
    assert len(split.split.annotations) == len(split.labels)
