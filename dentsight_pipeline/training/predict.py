"""From images to findings: one preprocessing, one post-processing, whole splits with resumption, and single X-rays.

Boxes leave the model relative to the padded canvas; they are scaled by the canvas and then taken through the letterbox
backwards. Nothing is clipped, thresholded or rounded here: whoever scores detections decides that.

Frames as in `letterbox.py`: `_px` are pixels of the original image, relative boxes are shares of the padded canvas.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dentsight_pipeline.data import splits
from dentsight_pipeline.documents.facts import PredictedCounts, PredictionsFacts, SubsetFacts
from dentsight_pipeline.documents.names import SUBSETS, Asset, Kind
from dentsight_pipeline.errors import ConfigurationError, DataError, TrainingError
from dentsight_pipeline.store import content, manifest, objects
from dentsight_pipeline.store.canonical import digest as canonical_digest
from dentsight_pipeline.store.files import write_whole
from dentsight_pipeline.training import letterbox
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.augment import mirrored_labels
from dentsight_pipeline.training.cost import hardware, package_versions
from dentsight_pipeline.training.job import PredictJob, write_result
from dentsight_pipeline.training.letterbox import Letterbox
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline.training.reporting import Reporter

DETECTIONS_PER_IMAGE = 300
"""The best (query, class) pairs kept of an image; COCO's metrics look at 100 a class, Roboflow's and HF's at 300."""
BATCHES_AHEAD = 2
"""Batches that are read and letterboxed while the model works on one."""


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
    pixel_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    keeps_aspect: bool = True

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Preprocessing:
        """The preprocessing that a recipe trains with."""
        return cls(recipe.image_size, _three(recipe.pixel_mean), _three(recipe.pixel_std))

    @classmethod
    def of_folder(cls, folder: Path) -> Preprocessing:
        """The preprocessing that a model folder's `preprocessor_config.json` asks for.

        Raises:
            ConfigurationError: The file is missing, or asks for a geometry that no single canvas has.
        """
        path = folder / "preprocessor_config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{path} cannot be read ({error}), so the model's image size is not known. "
                "Export the model again with save_pretrained of its image processor."
            ) from error
        size = config.get("size") or {}
        pad = config.get("pad_size") or {}
        if {"max_height", "max_width"} <= size.keys():
            canvas, keeps_aspect = (size["max_width"], size["max_height"]), True
            if not config.get("do_pad") or (pad and (pad.get("width"), pad.get("height")) != canvas):
                raise ConfigurationError(
                    f"{path} fits images into {canvas[0]}×{canvas[1]} but pads them to {pad or 'nothing'}. "
                    "Set do_pad and a pad_size equal to the size."
                )
        elif {"height", "width"} <= size.keys():
            canvas, keeps_aspect = (size["width"], size["height"]), False
        else:
            raise ConfigurationError(
                f"{path} has size {size}, which gives every image another canvas. This pipeline reads "
                "{max_height, max_width} with padding, or {height, width}."
            )
        normalises = bool(config.get("do_normalize"))
        return cls(
            canvas,
            _three(config["image_mean"]) if normalises else (0.0, 0.0, 0.0),
            _three(config["image_std"]) if normalises else (1.0, 1.0, 1.0),
            keeps_aspect,
        )

    def to_config(self) -> dict[str, Any]:
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
            [batch, 3, height, width] float32.
        """
        gray = canvases.to(torch.float32).div_(255.0)[:, None]
        if len(set(self.pixel_mean)) == len(set(self.pixel_std)) == 1:
            return gray.sub_(self.pixel_mean[0]).div_(self.pixel_std[0]).expand(-1, 3, -1, -1)
        mean, std = (gray.new_tensor(v)[:, None, None] for v in (self.pixel_mean, self.pixel_std))
        return (gray - mean) / std


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


@dataclass(frozen=True)
class Detector:
    """A model with its preprocessing and class names, ready to look at images."""

    model: torch.nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    device: torch.device

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
        pixel_values = self.preprocessing.pixels(torch.from_numpy(canvases).to(self.device))
        outputs: Any = self.model(pixel_values=pixel_values)
        logits, boxes = outputs.logits.double().cpu().numpy(), outputs.pred_boxes.double().cpu().numpy()
        if not (np.isfinite(logits).all() and np.isfinite(boxes).all()):
            raise TrainingError(
                "The model's logits or boxes are not finite numbers, so nothing can be predicted. Its weights are "
                "damaged or its training diverged; use an earlier checkpoint."
            )
        return [best_detections(*image) for image in zip(logits, boxes, geometry, strict=True)]


def best_detections(
    logits: NDArray[np.float64],
    boxes_cxcywh: NDArray[np.float64],
    geometry: Letterbox,
    limit: int = DETECTIONS_PER_IMAGE,
) -> Detections:
    """The best (query, class) pairs of one image, ties in the order of queries.

    The rule is that of transformers' `post_process_object_detection` (a query may answer with several classes), in
    float64: it sigmoids in float32, where confident scores tie.

    Args:
        logits: [num_queries, num_classes].
        boxes_cxcywh: [num_queries, 4], relative to the padded canvas.
        geometry: The image's letterbox.
        limit: Most detections returned.
    """
    flat = logits.ravel()
    best = np.argsort(-flat, kind="stable")[:limit]
    queries, labels = np.divmod(best, logits.shape[1])
    scores = 1.0 / (1.0 + np.exp(-flat[best]))
    return Detections(geometry.denormalise(boxes_cxcywh[queries]), scores, labels.astype(np.int64))


def load_detector(checkpoint: Path, device: str | None = None) -> Detector:
    """A detector from a model folder, or from a checkpoint folder that holds one as `model/`.

    Raises:
        ConfigurationError: There is no D-FINE, or no image processor's configuration.
    """
    folder = model_folder(checkpoint)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    preprocessing = Preprocessing.of_folder(folder)
    with no_progress_bars():
        model: Any = models.load(folder)
    return Detector(model.to(chosen), preprocessing, class_names(model.config), chosen)


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


def unmirror(found: Detections, image_width: int, classes: Sequence[str]) -> Detections:
    """Detections of a horizontally mirrored image, in the frame and with the names of the unmirrored one."""
    boxes = found.boxes_xywh_px.copy()
    boxes[:, 0] = image_width - boxes[:, 0] - boxes[:, 2]
    return Detections(boxes, found.scores, mirrored_labels(classes)[found.labels])


# ── Whole splits ────────────────────────────────────────────────────────────────────────────────────────────────────


def run_predict(job: PredictJob, reporter: Reporter) -> str:
    """Predict the job's splits and publish them as a `predictions` manifest.

    Every batch becomes one small file under the job's folder, whole or not at all; a second start after a kill does
    only what is missing. Batches are cut the same way each time, so that the manifest does not depend on the kill.

    Returns:
        Digest of the manifest: `<split>.json` and `<split>.mirrored.json`, plain COCO result lists.

    Raises:
        ConfigurationError: Manifests of the wrong kinds, splits that do not exist, or a model of other classes.
        DataError: An image that cannot be read, or has another size than its record.
        TrainingError: The model answers with numbers that are none.
    """
    began = time.time()
    if job.threads:
        torch.set_num_threads(job.threads)
    store = objects.open_store(job.store_uri)
    checkpoint, subset = store.get_manifest(job.checkpoint), store.get_manifest(job.subset)
    _check_inputs(job, checkpoint, subset)
    started = job.workdir / canonical_digest(
        {"checkpoint": job.checkpoint, "subset": job.subset, "batch_size": job.batch_size}, "A prediction's key"
    )
    content.materialise(store, checkpoint, started / "checkpoint", prefix="model/", link=True)
    detector = load_detector(started / "checkpoint", job.device)
    classes = subset.facts_as(SubsetFacts).classes
    if not job.images_only and tuple(detector.classes) != classes:
        raise ConfigurationError(
            f"The checkpoint {job.checkpoint[:12]} finds {', '.join(detector.classes)}; the subset {job.subset[:12]} "
            f"has {', '.join(classes)}. Choose a checkpoint that was trained on these classes."
        )

    passes = [(split, False) for split in job.splits] + [(split, True) for split in job.mirrored]
    images = {split: splits.read_split(store, subset, split).images.to_pylist() for split, _ in passes}
    progress = _Progress(reporter, sum(len(images[split]) for split, _ in passes))
    files: dict[str, bytes] = {}
    counts: dict[str, PredictedCounts] = {}
    for split, mirrored in passes:
        name = f"{split}.mirrored" if mirrored else split
        results = _predict_pass(detector, store, subset, images[split], mirrored, started / name, job, progress)
        files[f"{name}.json"] = json.dumps(results, separators=(",", ":"), allow_nan=False).encode()
        counts[name] = PredictedCounts(images=len(images[split]), detections=len(results))

    published = content.build(
        store,
        Kind.PREDICTIONS,
        files,
        {_checkpoint_asset(checkpoint): job.checkpoint, Kind(subset.kind).asset: job.subset},
        PredictionsFacts(splits=counts, classes=tuple(detector.classes), detections_per_image=DETECTIONS_PER_IMAGE),
    )
    digest = store.put_manifest(published)
    record = {
        "images_per_s": progress.images_per_s,
        "hardware": hardware(),
        "packages": package_versions(),
        "started": began,
        "finished": time.time(),
    }
    write_result(job.workdir, digest, record)
    shutil.rmtree(started, ignore_errors=True)  # everything in it is in the store now
    return digest


class _Progress:
    """Images done of all, for the reporter; images of an earlier attempt count as done but not as speed."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._total = reporter, total
        self._done = self._predicted = 0
        self._began = time.monotonic()
        reporter.progress("predict", 0, total)

    def add(self, images: int, *, predicted: bool) -> None:
        self._done += images
        self._predicted += images if predicted else 0
        rate = self.images_per_s
        left = None if rate is None else (self._total - self._done) / rate
        self._reporter.progress("predict", self._done, self._total, images_per_s=rate, seconds_left=left)

    @property
    def images_per_s(self) -> float | None:
        """Speed of this attempt; None before the first batch."""
        return self._predicted / max(time.monotonic() - self._began, 1e-9) if self._predicted else None


def _predict_pass(
    detector: Detector,
    store: objects.Store,
    subset: manifest.Manifest,
    images: Sequence[Mapping[str, Any]],
    mirrored: bool,
    folder: Path,
    job: PredictJob,
    progress: _Progress,
) -> list[dict[str, Any]]:
    """COCO results of one split, plain or mirrored, in the order of its images."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = [images[i : i + job.batch_size] for i in range(0, len(images), job.batch_size)]
    paths = [folder / f"{index:06d}.json" for index in range(len(batches))]
    shards = [_read_shard(path, batch) for path, batch in zip(paths, batches, strict=True)]
    for batch, shard in zip(batches, shards, strict=True):
        if shard is not None:
            progress.add(len(batch), predicted=False)
    missing = [index for index, shard in enumerate(shards) if shard is None]

    def read(index: int) -> tuple[int, NDArray[np.uint8], list[Letterbox]]:
        canvases, geometry = [], []
        for record in batches[index]:
            entry = subset.entry(record["file_name"])
            size = record["width"], record["height"]
            image = letterbox.read_grayscale(str(store.local_path(entry.sha256)), size)
            geometry.append(detector.preprocessing.letterbox(size))
            canvases.append(geometry[-1].apply(np.ascontiguousarray(image[:, ::-1]) if mirrored else image))
        return index, np.stack(canvases), geometry

    for index, canvases, geometry in _ahead(read, missing):
        shard = []
        for record, found in zip(batches[index], detector.detect_canvases(canvases, geometry), strict=True):
            if mirrored:
                found = unmirror(found, record["width"], detector.classes)
            shard.extend(_coco_results(record["id"], found))
        write_whole(paths[index], json.dumps(shard, separators=(",", ":"), allow_nan=False).encode())
        shards[index] = shard
        progress.add(len(batches[index]), predicted=True)
    return [result for shard in shards for result in shard or ()]


def _ahead(read: Callable[[int], Any], indices: Sequence[int]) -> Iterator[Any]:
    """`read` of every index in order, a few of them in the background while the caller works."""
    with ThreadPoolExecutor(max_workers=BATCHES_AHEAD, thread_name_prefix="read-images") as pool:
        remaining = iter(indices)
        waiting: deque[Future[Any]] = deque(pool.submit(read, i) for i in islice(remaining, BATCHES_AHEAD))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(read, i) for i in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def _coco_results(image_id: int, found: Detections) -> list[dict[str, Any]]:
    rows = zip(found.boxes_xywh_px.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [{"image_id": image_id, "category_id": k + 1, "bbox": box, "score": score} for box, score, k in rows]


def _read_shard(path: Path, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """One finished batch of an earlier attempt, or None when it is not there or damaged."""
    try:
        shard = json.loads(path.read_bytes())
        return shard if {row["image_id"] for row in shard} == {image["id"] for image in batch} else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_inputs(job: PredictJob, checkpoint: manifest.Manifest, subset: manifest.Manifest) -> None:
    for given, kinds in ((checkpoint, (Kind.CHECKPOINT,)), (subset, tuple(SUBSETS.values()))):
        if given.kind not in kinds:
            raise ConfigurationError(f"{given.digest} is a {given.kind}, a {' or '.join(kinds)} is needed.")
    existing = splits.split_names(subset)
    wanted = [*job.splits, *job.mirrored]
    unknown = sorted(set(wanted) - set(existing))
    if unknown or not wanted:
        raise ConfigurationError(
            f"The subset {job.subset[:12]} has no split {', '.join(unknown) or '(none was given)'}; "
            f"it has {', '.join(existing)}."
        )


def _checkpoint_asset(checkpoint: manifest.Manifest) -> str:
    """The asset that a checkpoint is: stage 1 is trained on teeth."""
    return Asset.TOOTH_CHECKPOINT if Asset.TOOTH_SUBSET in checkpoint.inputs else Asset.TRAINED_CHECKPOINT


def _three(values: float | Sequence[float]) -> tuple[float, float, float]:
    if isinstance(values, int | float):
        values = [values] * 3
    red, green, blue = values
    return float(red), float(green), float(blue)


# ── Single X-rays ───────────────────────────────────────────────────────────────────────────────────────────────────

_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's palette, which people with any colour vision can tell apart; names are written beside the boxes."""
_NOTICE = "Research only. Not for clinical use."


def predict_images(
    paths: Sequence[Path],
    checkpoint_folder: Path,
    threshold: float | Mapping[str, float],
    *,
    pictures: Path | None = None,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Findings on one's own X-rays.

    Args:
        paths: JPEG or PNG files.
        checkpoint_folder: A model or checkpoint folder.
        threshold: Least score that is shown, for all classes or by class (an evaluation's operating points; a class
            without one is not shown, because nothing says which of its scores to believe).
        pictures: Folder for one annotated PNG an image; None draws nothing.
        device: `cpu` or `cuda`; None = a GPU when there is one.

    Returns:
        JSON-able, one entry an image: `image`, `width`, `height`, `picture` (path or None), and `findings`, best
        first: `class`, `score`, `bbox_xywh_px` (clipped to the image, because a person will look at it).

    Raises:
        DataError: A file that cannot be read as an image.
        ConfigurationError: The folder holds no model.
    """
    detector = load_detector(checkpoint_folder, device)
    if isinstance(threshold, Mapping) and (unknown := sorted(set(threshold) - set(detector.classes))):
        raise ConfigurationError(
            f"Thresholds are given for {', '.join(unknown)}, which the model does not know. "
            f"It finds {', '.join(detector.classes)}."
        )
    answers = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"There is no image {path}. Give the path of a JPEG or PNG file.")
        image = letterbox.read_grayscale(str(path))
        findings = _findings(detector.detect([image])[0], detector.classes, threshold, image.shape)
        picture = None if pictures is None else draw_findings(image, findings, pictures / f"{path.stem}.findings.png")
        answers.append(
            {
                "image": str(path),
                "width": image.shape[1],
                "height": image.shape[0],
                "picture": None if picture is None else str(picture),
                "findings": findings,
            }
        )
    return answers


def _findings(
    found: Detections, classes: tuple[str, ...], threshold: float | Mapping[str, float], shape: tuple[int, ...]
) -> list[dict[str, Any]]:
    findings = []
    for box, score, label in zip(found.boxes_xywh_px, found.scores.tolist(), found.labels.tolist(), strict=True):
        name = classes[label]
        least = threshold.get(name, float("inf")) if isinstance(threshold, Mapping) else threshold
        left, top = np.clip(box[:2], 0, (shape[1], shape[0]))
        right, bottom = np.clip(box[:2] + box[2:], 0, (shape[1], shape[0]))
        if score >= least and right > left and bottom > top:
            corners = [float(left), float(top), float(right - left), float(bottom - top)]
            findings.append({"class": name, "score": score, "bbox_xywh_px": corners})
    return findings


def draw_findings(image: NDArray[np.uint8], findings: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Write an X-ray with its findings drawn on it, and a line that it is no medical device, as PNG.

    Args:
        image: [height, width] grayscale.
        findings: As `predict_images` returns them.
        out: The file; its folder is made.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(image).convert("RGB")
    draw = ImageDraw.Draw(picture)
    size = max(11, round(image.shape[1] / 90))
    font, line = ImageFont.load_default(size), max(2, round(image.shape[1] / 600))
    names = sorted({finding["class"] for finding in findings})
    for finding in reversed(findings):  # the best ones on top
        colour = _COLOURS[names.index(finding["class"]) % len(_COLOURS)]
        left, top, width, height = finding["bbox_xywh_px"]
        draw.rectangle((left, top, left + width, top + height), outline=colour, width=line)
        text = f"{finding['class']} {finding['score']:.2f}"
        text_width, text_height = draw.textlength(text, font=font), size * 1.25
        x = min(left, max(0.0, image.shape[1] - text_width))
        y = top - text_height if top >= text_height else min(top + height, image.shape[0] - text_height)
        draw.rectangle((x, y, x + text_width, y + text_height), fill=colour)
        draw.text((x, y), text, fill="black", font=font)
    draw.text(
        (size / 2, image.shape[0] - size * 1.5), _NOTICE, fill="white", font=font, stroke_width=1, stroke_fill="black"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}")
    picture.save(temporary, format="PNG")
    temporary.replace(out)
    return out
