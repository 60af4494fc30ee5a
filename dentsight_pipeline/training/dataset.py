"""Images and boxes of a subset as columns and tensors: reading a split, one training sample, one batch on its device.

Images stay one gray byte a pixel until they are on the device that trains. Which images are drawn is `sampling.py`'s to
say, how they are altered `augment.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dentsight_pipeline.data import splits
from dentsight_pipeline.documents.annotations import Split
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.documents.names import SUBSETS, with_article
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import augment, letterbox
from dentsight_pipeline.training.letterbox import Letterbox
from dentsight_pipeline.training.recipe import Recipe


@dataclass(frozen=True)
class LabelledImages:
    """One split as training sees it, column by column.

    Attributes:
        split: The split as it is stored, for whoever scores detections.
        boxes_xywh_px: [m, 4] float64 COCO boxes in image pixels, clipped to their image, none empty.
        labels: [m] int64 label indices, category id − 1.
        offsets: [n + 1]: boxes and labels of image k are rows `offsets[k]` to `offsets[k + 1]`.
    """

    split: Split
    boxes_xywh_px: NDArray[np.float64]
    labels: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, split: Split) -> LabelledImages:
        """Boxes clipped to their image; one of which nothing is left is dropped, as it cannot be found."""
        limits = np.repeat(_sizes_px(split), np.diff(split.offsets), axis=0)  # [m, 2] width, height of its image
        boxes = split.boxes_xywh_px
        left_top = boxes[:, :2].clip(0, limits)
        extent = (boxes[:, :2] + boxes[:, 2:]).clip(0, limits) - left_top
        kept = (extent > 0).all(axis=1)
        boxes = np.concatenate([left_top, extent], axis=1)[kept]
        labels = split.category_ids[kept].astype(np.int64) - 1
        return cls(split, boxes, labels, np.concatenate([[0], np.cumsum(kept)])[split.offsets])

    def __len__(self) -> int:
        return len(self.split.images)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in label order."""
        return self.split.classes

    @cached_property
    def sizes_px(self) -> NDArray[np.int64]:
        """[n, 2] width, height."""
        return _sizes_px(self.split)

    @cached_property
    def digests(self) -> list[str]:
        """The sha256 of each image's bytes."""
        return self.split.images["sha256"].to_pylist()

    @cached_property
    def clean(self) -> NDArray[np.bool_]:
        """[n] whether the image shares no source with another split."""
        return self.split.images["clean"].to_numpy()

    @cached_property
    def covered(self) -> NDArray[np.bool_]:
        """[n, classes] whether an image's annotators looked for a class."""
        return self.split.covered

    @property
    def counts(self) -> NDArray[np.int64]:
        """[n] boxes of each image."""
        return np.diff(self.offsets)

    def boxes_of(self, image: int) -> NDArray[np.float64]:
        """[k, 4] boxes of one image."""
        return self.boxes_xywh_px[self.offsets[image] : self.offsets[image + 1]]

    def labels_of(self, image: int) -> NDArray[np.int64]:
        """[k] labels of one image."""
        return self.labels[self.offsets[image] : self.offsets[image + 1]]

    @property
    def labels_by_image(self) -> list[NDArray[np.int64]]:
        """Views of `labels`, one an image."""
        return [self.labels_of(image) for image in range(len(self))]

    def spread(self, count: int | None) -> LabelledImages:
        """At most `count` images, evenly spread over the split (deterministic); all when `count` is None."""
        if count is None or count >= len(self):
            return self
        chosen = np.zeros(len(self), dtype=bool)
        chosen[np.linspace(0, len(self) - 1, count).round().astype(int)] = True
        return self.select(chosen)

    def select(self, chosen: NDArray[np.bool_]) -> LabelledImages:
        """The split narrowed to the images of a mask [n], annotations included."""
        annotations = np.repeat(chosen, np.diff(self.split.offsets))
        images, boxes = self.split.images, self.split.annotations
        narrowed = images.filter(pa.array(chosen)), boxes.filter(pa.array(annotations))
        return LabelledImages.of(Split(self.split.name, self.classes, *narrowed))


def read_labelled(store: Store, manifest: Manifest, name: str, stage: int = 2) -> LabelledImages:
    """One split of a subset manifest, verified.

    Every image stays, also one without annotations: it is a true negative of the classes that it covers. One that
    covers none says nothing and is left out of the *training* split.

    Raises:
        DataError: The manifest is no subset for this stage, the split is missing, or a category or image reference
            makes no sense.
    """
    read_classes(manifest, stage)
    split = splits.read_split(store, manifest, name)
    _require_references(split)
    found = LabelledImages.of(split)
    return found.select(np.asarray(found.covered.any(axis=1))) if name == "train" else found


def read_classes(manifest: Manifest, stage: int) -> tuple[str, ...]:
    """The class names of a subset in label order.

    Raises:
        DataError: The manifest is no subset for this stage.
    """
    wanted = SUBSETS[stage]
    if manifest.kind != wanted:
        raise DataError(
            f"Stage {stage} trains on a {wanted} manifest, {manifest.digest[:12]} is {with_article(manifest.kind)}. "
            f"Give the digest of the dataset's {wanted}, or set stage accordingly."
        )
    return manifest.facts_as(SubsetFacts).classes


def _require_references(split: Split) -> None:
    """Label −1 would be the last class, silently; boxes of no image would be another one's."""
    images, categories = split.annotation_image_ids, split.category_ids
    wrong = ~np.isin(images, split.image_ids) | (categories < 1) | (categories > len(split.classes))
    wrong[1:] |= np.diff(images) < 0
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{split.name}, annotation {split.annotations['id'][row]}: image {images[row]} or category "
            f"{categories[row]} does not exist, or it stands out of order. Make the subset again."
        )


def _sizes_px(split: Split) -> NDArray[np.int64]:
    """[n, 2] width, height."""
    return np.stack([split.images[side].to_numpy().astype(np.int64) for side in ("width", "height")], axis=1)


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


@dataclass(frozen=True)
class Letterboxed:
    """A split with its images on the canvas.

    Attributes:
        labelled: The split.
        images: [n, canvas_height, canvas_width] uint8, from the cache.
    """

    labelled: LabelledImages
    images: NDArray[np.uint8]

    def geometry(self, image: int) -> Letterbox:
        """How one image came onto the canvas."""
        width, height = self.labelled.sizes_px[image].tolist()
        return letterbox.fit((width, height), (self.images.shape[2], self.images.shape[1]))

    def view(self, image: int) -> augment.View:
        """One image with its boxes on the canvas."""
        geometry = self.geometry(image)
        boxes = geometry.normalise(self.labelled.boxes_of(image))
        labels, covered = self.labelled.labels_of(image), self.labelled.covered[image]
        return augment.View(np.asarray(self.images[image]), boxes, labels, geometry.content, covered)

    def batch(self, images: Sequence[int]) -> Batch:
        """Some images without any augmentation, for validation."""
        return collate([self.view(image) for image in images])


class TrainingSamples(Dataset[augment.View]):
    """Cached images with their boxes, altered as the recipe says; indexed by `Draw`.

    Args:
        data: The training split.
        recipe: Seed and augmentation.
    """

    def __init__(self, data: Letterboxed, recipe: Recipe) -> None:
        self._data, self._recipe = data, recipe
        self._mirrored = augment.mirrored_labels(data.labelled.classes)

    def __len__(self) -> int:
        return len(self._data.images)

    def __getitem__(self, draw: Draw) -> augment.View:  # type: ignore[override] # indexed by draws, not by numbers
        view = self._data.view(draw.image)
        if draw.plain:
            return view
        return augment.apply(view, self._recipe, (draw.epoch, draw.position), self._mirrored)


@dataclass
class Batch:
    """A micro-batch: images one byte a pixel, boxes and labels of all images one after the other.

    Args:
        images: [batch, height, width] uint8.
        boxes_cxcywh: [boxes, 4] float32.
        labels: [boxes] int64.
        counts: Boxes of each image.
        covered: [batch, classes] bool; None where every image covers every class.
    """

    images: torch.Tensor
    boxes_cxcywh: torch.Tensor
    labels: torch.Tensor
    counts: list[int]
    covered: torch.Tensor | None = None

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the loader calls it when a GPU trains."""
        return self._with(torch.Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device, copied while the device computes."""
        return self._with(lambda part: part.to(device, non_blocking=True))

    def _with(self, moved: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        covered = None if self.covered is None else moved(self.covered)
        return Batch(moved(self.images), moved(self.boxes_cxcywh), moved(self.labels), self.counts, covered)

    def targets(self) -> list[dict[str, torch.Tensor]]:
        """`labels` of transformers' detectors: by image `class_labels` [n], `boxes` [n, 4], and `covered` [classes]."""
        boxes, labels = self.boxes_cxcywh.split(self.counts), self.labels.split(self.counts)
        found = [{"class_labels": c, "boxes": b} for c, b in zip(labels, boxes, strict=True)]
        if self.covered is None:
            return found
        return [{**one, "covered": own} for one, own in zip(found, self.covered, strict=True)]


def collate(views: Sequence[augment.View]) -> Batch:
    """Samples of one micro-batch put together."""
    covered = np.stack([view.covered for view in views])
    return Batch(
        torch.from_numpy(np.stack([view.image for view in views])),
        torch.from_numpy(np.concatenate([view.boxes_cxcywh for view in views]).astype(np.float32)),
        torch.from_numpy(np.concatenate([view.labels for view in views])),
        [len(view.labels) for view in views],
        None if covered.all() else torch.from_numpy(covered),
    )
