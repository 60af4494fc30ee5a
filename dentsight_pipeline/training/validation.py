"""Validation during training: detections of a split, shared between processes, and their mAP.

The figures steer training (best checkpoint, early stopping) and are curves; verdicts come from `evaluation/`, on the
published checkpoint's predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dentsight_pipeline.training import letterbox
from dentsight_pipeline.training.dataset import Batch, Split, plain_batch
from dentsight_pipeline.training.model import normalise_pixels
from dentsight_pipeline.training.predict import Detector, Preprocessing
from dentsight_pipeline.training.recipe import Recipe

HEALTH_IMAGES = 32
"""Most images of one head-health reading."""


def detect(
    model: nn.Module,
    split: Split,
    images: NDArray[np.uint8],
    indices: Sequence[int],
    recipe: Recipe,
    device: torch.device,
) -> list[dict[str, Any]]:
    """A COCO results list of some images of a split, in original image pixels, as `predict.py` makes it.

    Args:
        model: In eval mode, on `device`.
        split: Records of the images.
        images: [n, height, width] uint8, the split's letterboxed images.
        indices: Which of them.
        recipe: Canvas and batch size.
        device: Where the model is.

    Raises:
        TrainingError: The model answers with numbers that are none.
    """
    detector = Detector(model, Preprocessing.of_recipe(recipe), split.classes, device)
    results: list[dict[str, Any]] = []
    for first in range(0, len(indices), recipe.eval_batch_size):
        chosen = list(indices[first : first + recipe.eval_batch_size])
        records = [split.images[i] for i in chosen]
        geometry = [letterbox.fit((record.width, record.height), recipe.image_size) for record in records]
        for record, found in zip(records, detector.detect_canvases(images[chosen], geometry), strict=True):
            rows = zip(found.labels.tolist(), found.boxes_xywh_px.tolist(), found.scores.tolist(), strict=True)
            results += [
                {"image_id": record.id, "category_id": label + 1, "bbox": box, "score": value}
                for label, box, value in rows
            ]
    return results


def score(split: Split, detections: list[dict[str, Any]]) -> dict[str, float]:
    """Curve values of validation: macro mAP@0.5 and mAP on all images and on the clean ones, and AP@0.5 by class.

    Classes without ground truth are left out, as is a population in which nothing can be measured.
    """
    from dentsight_pipeline.evaluation import engines

    values: dict[str, float] = {}
    clean = [image for image in split.images if image.clean]
    for suffix, part in (("", split), ("_clean", split.select(clean))):
        if suffix and (not clean or len(clean) == len(split.images)):
            continue
        ids = {image.id for image in part.images}
        result = engines.coco_statistics(part.coco, [d for d in detections if d["image_id"] in ids], engine="hotcoco")
        for name, value in (("map_50", result.ap50), ("map", result.ap)):
            if value is not None:
                values[f"valid/{name}{suffix}"] = value
        if not suffix:
            for name, row in result.per_class.items():
                if row["ap50"] is not None:
                    values[f"valid/ap_50/{name}"] = row["ap50"]
    return values


def health_batches(
    split: Split, images: NDArray[np.uint8], recipe: Recipe, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Batches for a head-health reading: up to 32 annotated images, evenly spread over the split."""
    annotated = [i for i, image in enumerate(split.images) if len(image.labels)]
    chosen = [annotated[i] for i in np.unique(np.linspace(0, len(annotated) - 1, HEALTH_IMAGES).round().astype(int))]
    for first in range(0, len(chosen), recipe.eval_batch_size):
        batch: Batch = plain_batch(split, images, chosen[first : first + recipe.eval_batch_size], recipe).to(device)
        yield {"pixel_values": normalise_pixels(batch.images, recipe), "labels": batch.targets()}
