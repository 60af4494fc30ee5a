"""A model with its preprocessing: from images to findings, one way for validation, whole splits and single X-rays.

Boxes leave the model relative to the padded canvas; they are scaled by the canvas and then taken through the letterbox
backwards. Nothing is clipped, thresholded or rounded here: whoever scores detections decides that.

Frames as in `letterbox.py`: `_px` are pixels of the original image, relative boxes are shares of the padded canvas.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from dentsight_pipeline.documents.detections import DETECTIONS, CocoResult
from dentsight_pipeline.errors import ConfigurationError, TrainingError
from dentsight_pipeline.training import letterbox
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.augment import mirrored_labels
from dentsight_pipeline.training.letterbox import Letterbox
from dentsight_pipeline.training.recipe import Recipe

DETECTIONS_PER_IMAGE = 300
"""The best (query, class) pairs kept of an image; COCO's metrics look at 100 a class, Roboflow's and HF's at 300."""
NO_FINDING_LOGIT = models.SILENT_LOGIT + 5.0
"""What answers below it says nothing: a class that no training image covers, and what the decoder adds to it."""
PROCESSOR = "preprocessor_config.json"

Channels = tuple[float, float, float]
ForeignJson = dict[str, Any]
"""A configuration file of transformers."""


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images: what `preprocessor_config.json` says, in our terms.

    Attributes:
        canvas: (width, height) of the canvas in pixels.
        pixel_mean: Subtracted from pixels in [0, 1], one value a channel.
        pixel_std: Divides after the mean, one value a channel.
        keeps_aspect: Letterboxed (ours); False stretches the image over the canvas, as stock RT-DETR processors do.
    """

    canvas: tuple[int, int]
    pixel_mean: Channels = (0.0, 0.0, 0.0)
    pixel_std: Channels = (1.0, 1.0, 1.0)
    keeps_aspect: bool = True

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Preprocessing:
        """The preprocessing that a recipe trains with."""
        mean, std = float(recipe.pixel_mean), recipe.pixel_std
        return cls(recipe.image_size, (mean, mean, mean), (std, std, std))

    @classmethod
    def of_folder(cls, folder: Path) -> Preprocessing:
        """The preprocessing that a model folder's `preprocessor_config.json` asks for.

        Raises:
            ConfigurationError: The file is missing, or asks for a geometry that no single canvas has.
        """
        path = folder / PROCESSOR
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{path} cannot be read ({error}), so the model's image size is not known. "
                "Export the model again with save_pretrained of its image processor."
            ) from error
        canvas, keeps_aspect = _canvas_of(config, path)
        if not config.get("do_normalize"):
            return cls(canvas, keeps_aspect=keeps_aspect)
        return cls(canvas, _three(config["image_mean"]), _three(config["image_std"]), keeps_aspect)

    def to_config(self) -> ForeignJson:
        """`preprocessor_config.json` for transformers' RT-DETR image processor, which D-FINE uses.

        That processor pads after normalising, with 0: the same as ours only while `pixel_mean` is 0.
        """
        width, height = self.canvas
        size = {"max_height": height, "max_width": width} if self.keeps_aspect else {"height": height, "width": width}
        return {
            "image_processor_type": "RTDetrImageProcessor",
            "format": "coco_detection",
            "do_resize": True,
            "size": size,
            "resample": 2,  # bilinear with antialiasing: the closest to area averaging that both its backends have
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": any(self.pixel_mean) or self.pixel_std != (1.0, 1.0, 1.0),
            "image_mean": list(self.pixel_mean),
            "image_std": list(self.pixel_std),
            "do_pad": self.keeps_aspect,
            "pad_size": {"height": height, "width": width} if self.keeps_aspect else None,
            "do_convert_annotations": True,
        }

    def letterbox(self, image_size: tuple[int, int]) -> Letterbox:
        """The geometry for an image of (width, height)."""
        if self.keeps_aspect:
            return letterbox.fit(image_size, self.canvas)
        return Letterbox(*image_size, *self.canvas, *self.canvas)

    def pixels(self, canvases: Tensor) -> Tensor:
        """Gray bytes to what the model reads, on the device where they lie.

        Args:
            canvases: [batch, height, width] uint8.

        Returns:
            [batch, 3, height, width] float32; where the channels are equal, a view of one.
        """
        gray = canvases.to(torch.float32).div_(255.0)[:, None]
        if len(set(self.pixel_mean)) == len(set(self.pixel_std)) == 1:
            return gray.sub_(self.pixel_mean[0]).div_(self.pixel_std[0]).expand(-1, 3, -1, -1)
        mean, std = (gray.new_tensor(v)[:, None, None] for v in (self.pixel_mean, self.pixel_std))
        return (gray - mean) / std


def _canvas_of(config: ForeignJson, path: Path) -> tuple[tuple[int, int], bool]:
    """The canvas that a processor's configuration gives every image, and whether it keeps their aspect."""
    size, pad = config.get("size") or {}, config.get("pad_size") or {}
    if {"height", "width"} <= size.keys():
        return (size["width"], size["height"]), False
    if not {"max_height", "max_width"} <= size.keys():
        raise ConfigurationError(
            f"{path} has size {size}, which gives every image another canvas. This pipeline reads "
            "{max_height, max_width} with padding, or {height, width}."
        )
    canvas = size["max_width"], size["max_height"]
    if not config.get("do_pad") or (pad and (pad.get("width"), pad.get("height")) != canvas):
        raise ConfigurationError(
            f"{path} fits images into {canvas[0]}×{canvas[1]} but pads them to {pad or 'nothing'}. "
            "Set do_pad and a pad_size equal to the size."
        )
    return canvas, True


def _three(values: float | Sequence[float]) -> Channels:
    red, green, blue = [values] * 3 if isinstance(values, int | float) else values
    return float(red), float(green), float(blue)


@dataclass(frozen=True)
class Detections:
    """What a model found in one image, best first, in original image pixels.

    Attributes:
        boxes_xywh_px: [n, 4] float64, COCO form (left, top, width, height); may reach outside the image.
        scores: [n] float64 in (0, 1).
        labels: [n] int64 class indices.
    """

    boxes_xywh_px: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]

    def to_coco(self, image_id: int) -> list[CocoResult]:
        """COCO's results, category ids from 1."""
        rows = zip(self.boxes_xywh_px.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [{"image_id": image_id, "category_id": k + 1, "bbox": box, "score": score} for box, score, k in rows]

    def unmirrored(self, image_width: int, classes: Sequence[str]) -> Detections:
        """Detections of a horizontally mirrored image, in the frame and with the names of the unmirrored one."""
        boxes = self.boxes_xywh_px.copy()
        boxes[:, 0] = image_width - boxes[:, 0] - boxes[:, 2]
        return Detections(boxes, self.scores, mirrored_labels(classes)[self.labels])

    def without_doubles(self, iou: float) -> Detections:
        """Of findings of one class that overlap by more than `iou` the surest."""
        kept = surest(self.boxes_xywh_px, self.scores, self.labels, iou)
        return Detections(self.boxes_xywh_px[kept], self.scores[kept], self.labels[kept])


def surest(
    boxes_xywh_px: NDArray[np.float64], scores: NDArray[np.float64], labels: NDArray[np.int64], iou: float
) -> NDArray[np.int64]:
    """Rows, best first, that none of their class with a better score overlaps by more than `iou`.

    `torchvision.ops.batched_nms`' rule, by OpenCV, for the findings of one image: [n, 4], [n] and [n].
    """
    import cv2

    boxes = boxes_xywh_px.copy()
    boxes[:, :2] -= boxes[:, :2].min(axis=0, initial=np.inf)  # OpenCV moves each class down and to the right
    kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), labels.tolist(), 0.0, iou)
    return np.asarray(kept, dtype=np.int64)


def as_table(found: Sequence[tuple[int, Detections]]) -> pa.Table:
    """What was found in images, each given with its id, as a table of schema `DETECTIONS`."""
    counts = [len(one.scores) for _, one in found]
    boxes, scores, labels = (
        np.concatenate([np.empty(0, dtype), *(getattr(one, name).ravel() for _, one in found)])
        for name, dtype in (("boxes_xywh_px", float), ("scores", float), ("labels", np.int64))
    )
    columns = {
        "image_id": np.repeat(np.array([image for image, _ in found], dtype=np.int64), counts),
        "category_id": (labels + 1).astype(np.int16),
        "bbox": pa.FixedSizeListArray.from_arrays(pa.array(boxes), 4),
        "score": scores,
    }
    return pa.table(columns, schema=DETECTIONS)


@dataclass(frozen=True)
class Detector:
    """A model with its preprocessing and class names, ready to look at images."""

    model: torch.nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    device: torch.device

    @property
    def nms_iou(self) -> float | None:
        """How much findings of one class may overlap, as its training was told; None: as they like."""
        return getattr(self.model.config, "nms_iou", None)

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Findings of grayscale images [height, width] of any sizes, as one batch."""
        geometry = [self.preprocessing.letterbox((image.shape[1], image.shape[0])) for image in images]
        return self.detect_canvases(
            np.stack([g.apply(image) for g, image in zip(geometry, images, strict=True)]), geometry
        )

    @torch.no_grad()
    def detect_canvases(self, canvases: NDArray[np.uint8], geometry: Sequence[Letterbox]) -> list[Detections]:
        """Findings of images that are on the canvas already.

        Args:
            canvases: [batch, canvas_height, canvas_width].
            geometry: How each image came onto its canvas.

        Raises:
            TrainingError: The model answers with numbers that are none.
        """
        outputs = self.model(pixel_values=self.preprocessing.pixels(torch.from_numpy(canvases).to(self.device)))
        logits, boxes = outputs.logits.double().cpu().numpy(), outputs.pred_boxes.double().cpu().numpy()
        if not (np.isfinite(logits).all() and np.isfinite(boxes).all()):
            raise TrainingError(
                "The model's logits or boxes are not finite numbers, so nothing can be predicted. Its weights are "
                "damaged or its training diverged; use an earlier checkpoint."
            )
        found = [best_detections(*image) for image in zip(logits, boxes, geometry, strict=True)]
        return found if self.nms_iou is None else [one.without_doubles(self.nms_iou) for one in found]


def best_detections(
    logits: NDArray[np.float64],
    boxes_cxcywh: NDArray[np.float64],
    geometry: Letterbox,
    limit: int = DETECTIONS_PER_IMAGE,
) -> Detections:
    """The best (query, class) pairs of one image, ties in the order of queries.

    The rule is that of transformers' `post_process_object_detection` (a query may answer with several classes), in
    float64: it sigmoids in float32, where confident scores tie. Classes that nobody looked for in training are none.

    Args:
        logits: [num_queries, num_classes].
        boxes_cxcywh: [num_queries, 4], relative to the padded canvas.
        geometry: The image's letterbox.
        limit: Most detections returned.
    """
    flat = logits.ravel()
    best = np.argsort(-flat, kind="stable")[:limit]
    best = best[flat[best] > NO_FINDING_LOGIT]
    queries, labels = np.divmod(best, logits.shape[1])
    scores = 1.0 / (1.0 + np.exp(-flat[best]))
    return Detections(geometry.denormalise(boxes_cxcywh[queries]), scores, labels.astype(np.int64))


def load_detector(checkpoint: Path, device: str | None = None, kinds: Collection[str] = ("d_fine",)) -> Detector:
    """A detector from a model folder, or from a checkpoint folder that holds one as `model/`; of `kinds` of model.

    Raises:
        ConfigurationError: There is no D-FINE, no image processor's configuration, or an impossible `nms_iou`.
    """
    folder = model_folder(checkpoint)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    preprocessing = Preprocessing.of_folder(folder)
    with no_progress_bars():
        model: Any = models.load(folder, kinds)
    detector = Detector(model.to(chosen), preprocessing, class_names(model.config), chosen)
    if not _is_iou(detector.nms_iou):
        raise ConfigurationError(
            f"{folder / 'config.json'} has nms_iou = {detector.nms_iou!r}. It is a number between 0 and 1, or left out."
        )
    return detector


def _is_iou(value: object) -> bool:
    return value is None or (isinstance(value, float) and 0 < value < 1)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keeps transformers' bars for reading and writing weights out of logs; what was set before is set again."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def class_names(config: Any) -> tuple[str, ...]:
    """The names in a model's configuration, in label order."""
    return tuple(config.id2label[i] for i in range(config.num_labels))


def model_folder(checkpoint: Path) -> Path:
    """The folder with `config.json`: the checkpoint folder itself or its `model/`.

    Raises:
        ConfigurationError: There is neither.
    """
    for folder in (checkpoint, checkpoint / "model"):
        if (folder / "config.json").is_file():
            return folder
    raise ConfigurationError(
        f"{checkpoint} holds no model: neither config.json nor model/config.json is there. "
        "Give a folder written by save_pretrained, or a checkpoint folder of this pipeline."
    )
