"""Images and boxes of a subset as tensors: reading the manifest, one training sample, one batch on its device.

Images stay one gray byte a pixel until they are on the device that trains. Which images are drawn is `sampling.py`'s to
say, how they are altered `augment.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dentsight_pipeline.data import splits
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.documents.names import SUBSETS
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import augment, letterbox
from dentsight_pipeline.training.recipe import Recipe

"""The manifest kind that each stage trains on."""


@dataclass(frozen=True)
class ImageRecord:
    """One image of a split.

    Args:
        id: Image id, unique over the whole dataset.
        sha256: Digest of its bytes in the store.
        width: In pixels.
        height: In pixels.
        clean: Whether it shares no source with another split.
        boxes_xywh_px: [n, 4] float64 COCO boxes in image pixels, clipped to the image, none empty.
        labels: [n] int64 label indices, category id − 1.
    """

    id: int
    sha256: str
    width: int
    height: int
    clean: bool
    boxes_xywh_px: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One split of a subset.

    Args:
        name: `train`, `valid` or `test`.
        classes: Names in label order.
        images: In the order of the file.
        coco: The split's COCO JSON, as the evaluation reads it.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    coco: dict[str, Any]

    @cached_property
    def labels(self) -> list[NDArray[np.int64]]:
        """Label indices by image."""
        return [image.labels for image in self.images]

    def spread(self, count: int | None) -> Split:
        """At most `count` images, evenly spread over the split (deterministic); all when `count` is None."""
        if count is None or count >= len(self.images):
            return self
        chosen = np.linspace(0, len(self.images) - 1, count).round().astype(int)
        return self.select([self.images[i] for i in np.unique(chosen)])

    def select(self, images: Sequence[ImageRecord]) -> Split:
        """The split narrowed to some of its images, annotations included."""
        ids = {image.id for image in images}
        coco = {
            **self.coco,
            "images": [image for image in self.coco["images"] if image["id"] in ids],
            "annotations": [a for a in self.coco["annotations"] if a["image_id"] in ids],
        }
        return Split(self.name, self.classes, tuple(images), coco)


def read_classes(manifest: Manifest, stage: int) -> tuple[str, ...]:
    """The class names of a subset in label order.

    Raises:
        DataError: The manifest is no subset for this stage.
    """
    wanted = SUBSETS[stage]
    if manifest.kind != wanted:
        raise DataError(
            f"Stage {stage} trains on a {wanted} manifest, {manifest.digest[:12]} is a {manifest.kind}. "
            f"Give the digest of the dataset's {wanted}, or set stage accordingly."
        )
    return manifest.facts_as(SubsetFacts).classes


def read_split(store: Store, manifest: Manifest, name: str, stage: int = 2) -> Split:
    """One split of a subset manifest, verified.

    Boxes are clipped to their image; one of which nothing is left is dropped, as it cannot be found. Every image
    stays, also one without annotations: it is a true negative. The exception is stage 1, where an image that is marked
    as partially annotated and has no tooth says nothing about teeth; it is left out of the *training* split.

    Raises:
        DataError: The split is missing, or a category or image reference makes no sense.
    """
    classes = read_classes(manifest, stage)
    coco = splits.read_split(store, manifest, name).to_coco()
    boxes_of: dict[int, list[tuple[list[float], int]]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        if annotation["image_id"] not in boxes_of or not 1 <= annotation["category_id"] <= len(classes):
            raise DataError(
                f"{name}, annotation {annotation['id']}: image {annotation['image_id']} or category "
                f"{annotation['category_id']} does not exist. Make the subset again."
            )
        if not annotation.get("iscrowd"):
            boxes_of[annotation["image_id"]].append((annotation["bbox"], annotation["category_id"] - 1))
    images = [_record(image, boxes_of[image["id"]]) for image in coco["images"]]
    if stage == 1 and name == "train":
        partial = {image["id"] for image in coco["images"] if image.get("partial_annotation")}
        images = [image for image in images if len(image.labels) or image.id not in partial]
    return Split(name, classes, tuple(images), coco)


class Draw(NamedTuple):
    """One image of one epoch: what the sampler hands to the dataset."""

    image: int
    """Index into the split's images."""
    epoch: int
    """From 0."""
    position: int
    """Place in the epoch's draws: the same image drawn twice is altered twice."""
    plain: bool
    """Whether to leave the image as it is (the end phase)."""


class Sample(NamedTuple):
    """One image as the model sees it."""

    image: torch.Tensor
    """[height, width] uint8."""
    boxes_cxcywh: torch.Tensor
    """[n, 4] float32, shares of the canvas."""
    labels: torch.Tensor
    """[n] int64."""


class TrainingSamples(Dataset[Sample]):
    """Cached images with their boxes, altered as the recipe says; indexed by `Draw`.

    Args:
        split: The training split.
        images: [n, height, width] uint8, its letterboxed images.
        recipe: Seed, canvas and augmentation.
    """

    def __init__(self, split: Split, images: NDArray[np.uint8], recipe: Recipe) -> None:
        self._images, self._recipe = images, recipe
        self._boxes = [_geometry(image, recipe).normalise(image.boxes_xywh_px) for image in split.images]
        self._labels = [image.labels for image in split.images]
        self._content = [
            (geometry.new_width, geometry.new_height) for geometry in (_geometry(i, recipe) for i in split.images)
        ]
        self._mirrored = augment.mirrored_labels(split.classes)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, draw: Draw) -> Sample:  # type: ignore[override] # indexed by draws, not by numbers
        image, boxes, labels = self._images[draw.image], self._boxes[draw.image], self._labels[draw.image]
        if not draw.plain:
            altered = augment.apply(
                augment.View(np.asarray(image), boxes, labels, self._content[draw.image]),
                self._recipe,
                (draw.epoch, draw.position),
                self._mirrored,
            )
            image, boxes, labels = altered.image, altered.boxes_cxcywh, altered.labels
        return Sample(
            torch.from_numpy(np.array(image)),
            torch.from_numpy(boxes.astype(np.float32)),
            torch.from_numpy(labels.copy()),
        )


@dataclass
class Batch:
    """A micro-batch: images one byte a pixel, boxes and labels of all images one after the other.

    Args:
        images: [batch, height, width] uint8.
        boxes_cxcywh: [boxes, 4] float32.
        labels: [boxes] int64.
        counts: Boxes of each image.
    """

    images: torch.Tensor
    boxes_cxcywh: torch.Tensor
    labels: torch.Tensor
    counts: list[int]

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the loader calls it when a GPU trains."""
        return Batch(self.images.pin_memory(), self.boxes_cxcywh.pin_memory(), self.labels.pin_memory(), self.counts)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device, copied while the device computes."""
        images, boxes, labels = (
            part.to(device, non_blocking=True) for part in (self.images, self.boxes_cxcywh, self.labels)
        )
        return Batch(images, boxes, labels, self.counts)

    def targets(self) -> list[dict[str, torch.Tensor]]:
        """`labels` of transformers' detectors: by image `class_labels` [n] and `boxes` [n, 4]."""
        boxes, labels = self.boxes_cxcywh.split(self.counts), self.labels.split(self.counts)
        return [{"class_labels": c, "boxes": b} for c, b in zip(labels, boxes, strict=True)]


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one micro-batch put together."""
    return Batch(
        torch.stack([sample.image for sample in samples]),
        torch.cat([sample.boxes_cxcywh for sample in samples]),
        torch.cat([sample.labels for sample in samples]),
        [len(sample.labels) for sample in samples],
    )


def plain_batch(split: Split, images: NDArray[np.uint8], indices: Sequence[int], recipe: Recipe) -> Batch:
    """Images of a split without any augmentation, for validation."""
    chosen = [split.images[i] for i in indices]
    return collate(
        [
            Sample(
                torch.from_numpy(np.array(images[i])),
                torch.from_numpy(_geometry(record, recipe).normalise(record.boxes_xywh_px).astype(np.float32)),
                torch.from_numpy(record.labels.copy()),
            )
            for i, record in zip(indices, chosen, strict=True)
        ]
    )


def _geometry(image: ImageRecord, recipe: Recipe) -> letterbox.Letterbox:
    return letterbox.fit((image.width, image.height), recipe.image_size)


def _record(image: dict[str, Any], annotations: list[tuple[list[float], int]]) -> ImageRecord:
    boxes = np.array([box for box, _ in annotations], dtype=np.float64).reshape(-1, 4)
    labels = np.array([label for _, label in annotations], dtype=np.int64)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    corners = corners.clip(0, [image["width"], image["height"]] * 2)
    kept = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)[kept]
    return ImageRecord(
        id=image["id"],
        sha256=image["sha256"],
        width=image["width"],
        height=image["height"],
        clean=bool(image.get("clean", True)),
        boxes_xywh_px=boxes,
        labels=labels[kept],
    )
