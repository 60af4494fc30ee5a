"""Validation during training: detections of a split, shared between processes, and their mAP.

The figures steer training (best checkpoint, early stopping) and are curves; verdicts come from `evaluation/`, on the
published checkpoint's predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from dentsight_pipeline.training.dataset import LabelledImages, Letterboxed
from dentsight_pipeline.training.detector import Detections, Detector, Preprocessing, as_table
from dentsight_pipeline.training.health import LabelledBatch
from dentsight_pipeline.training.recipe import Recipe

HEALTH_IMAGES = 32
"""Most images of one head-health reading."""


def detect(
    model: nn.Module, data: Letterboxed, images: Sequence[int], recipe: Recipe, device: torch.device
) -> list[tuple[int, Detections]]:
    """What a model finds in some images of a split, each with its image's id, as `predict.py` has it.

    Args:
        model: In eval mode, on `device`.
        data: The split.
        images: Which of its images.
        recipe: Canvas and batch size.
        device: Where the model is.

    Raises:
        TrainingError: The model answers with numbers that are none.
    """
    detector = Detector(model, Preprocessing.of_recipe(recipe), data.labelled.classes, device)
    ids, results = data.labelled.split.image_ids.tolist(), []
    for chosen in _batches(images, recipe):
        found = detector.detect_canvases(data.images[chosen], [data.geometry(image) for image in chosen])
        for image, one in zip(chosen, found, strict=True):
            results.append((ids[image], one))
    return results


def score(images: LabelledImages, found: Sequence[tuple[int, Detections]]) -> dict[str, float]:
    """Curve values of validation: macro mAP@0.5 and mAP on all images and on the clean ones, and AP@0.5 by class.

    Classes without ground truth are left out, as is a population in which nothing can be measured.
    """
    from dentsight_pipeline.evaluation import engines
    from dentsight_pipeline.evaluation.columns import detections_of, ground_truth_of

    truth = ground_truth_of(images.split)
    populations = {"": np.ones(len(images), dtype=bool)}
    if images.clean.any() and not images.clean.all():
        populations["_clean"] = images.clean
    results = engines.score_populations(truth, detections_of(as_table(found), truth), "hotcoco", populations)
    values = {f"valid/ap_50/{name}": row["ap50"] for name, row in results[""].per_class.items()}
    for suffix, result in results.items():
        values |= {f"valid/map_50{suffix}": result.ap50, f"valid/map{suffix}": result.ap}
    return {name: value for name, value in values.items() if value is not None}


def health_batches(data: Letterboxed, recipe: Recipe, device: torch.device) -> Iterator[LabelledBatch]:
    """Batches for a head-health reading: up to 32 annotated images, evenly spread over the split."""
    annotated = np.flatnonzero(data.labelled.counts)
    chosen = annotated[np.unique(np.linspace(0, len(annotated) - 1, HEALTH_IMAGES).round().astype(int))]
    preprocessing = Preprocessing.of_recipe(recipe)
    for images in _batches(chosen.tolist(), recipe):
        batch = data.batch(images).to(device)
        yield {"pixel_values": preprocessing.pixels(batch.images), "labels": batch.targets()}


def _batches(images: Sequence[int], recipe: Recipe) -> Iterator[list[int]]:
    size = recipe.eval_batch_size
    return (list(images[first : first + size]) for first in range(0, len(images), size))
