"""Auditing the class heads of a finished D-FINE checkpoint, whoever trained it, and rescuing a collapsed one.

A checkpoint tells nothing about its training, so the audit has one signal: does the head that scores at inference score
like the first layer's head (R, see `health.py`)? Watching a training run, with all four signals, is `health.py`'s.

Works on any folder that transformers can load as D-FINE: any number of classes, written by any version (4.x wrote the
heads under other names, which transformers maps).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.training import letterbox
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.export import write_model_folder
from dentsight_pipeline.training.health import (
    RATIO_FLOOR,
    layer_rows,
    prior_probability,
    ratio_last_to_first,
    read_layers,
    scoring_layer,
    supervised_layers,
)
from dentsight_pipeline.training.predict import (
    Detector,
    Preprocessing,
    class_names,
    load_detector,
    model_folder,
    no_progress_bars,
)

SYNTHETIC_IMAGES = 8
SYNTHETIC_SEED = 0
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
FALLBACK_CANVAS = (640, 640)
"""What D-FINE's published weights take, for folders without an image processor's configuration."""
LEAST_ABOVE_PRIOR = 1.5
"""The first layer's mean maximum score must exceed the prior this much, or the images show the model nothing."""
UNTRAINED_RATIO = 2.5
"""R above this was seen in untrained models only (8.4); no trained one, healthy or not, came near it."""


def audit_heads(checkpoint: Path, images: Sequence[NDArray[np.uint8]] | None = None) -> dict[str, Any]:
    """Compare what every decoder layer's class head says about the same images.

    Args:
        checkpoint: A model folder, or a checkpoint folder that holds one as `model/`.
        images: Grayscale [height, width] or colour [height, width, 3] uint8, of any size; X-rays like those that the
            model was trained on. None draws phantom X-rays from a fixed seed: enough for a model that finds dental
            things in them, and the verdict says when it does not.

    Returns:
        JSON-able: `layers` (one row a layer, see `health.layer_rows`), `ratio_last_to_first`, `healthy` (None = the
        images do not show it), `verdict` in words, `rules`, `images` (how many, and which), `prior`, `classes`,
        `rescue_heads` (the layers that `rescue` accepts), `notes`.

    Raises:
        ConfigurationError: The folder holds no D-FINE, or no image was given.
    """
    detector, notes = _load(checkpoint)
    kind = "given"
    if images is None:
        images, kind = phantom_xrays(SYNTHETIC_IMAGES, SYNTHETIC_SEED), "phantom"
        notes.append(
            f"No images were given, so {len(images)} synthetic phantom X-rays (seed {SYNTHETIC_SEED}) were used. "
            "Repeat with real X-rays (--images) before you act on the verdict."
        )
    if not len(images):
        raise ConfigurationError("No image was given to audit the heads on. Give at least one X-ray, or none at all.")

    maxima = torch.cat([_layer_maxima(detector, image) for image in images])  # [images, decoder_layers]
    config: Any = detector.model.config
    layers, prior = layer_rows(config, maxima.mean(0).tolist()), prior_probability(config)
    ratio = ratio_last_to_first(layers)
    model: Any = detector.model
    bias = model.model.decoder.class_embed[scoring_layer(config)].bias
    if len(bias) > 1 and bool((bias == bias[0]).all()):
        healthy, verdict = None, "Not judged: the head that scores was never trained, its biases are all equal."
    else:
        healthy, verdict = _verdict(layers, ratio, prior, len(images), kind)
    measured = "R could not be measured" if ratio is None else f"R = {ratio:.3f}"
    return {
        "layers": layers,
        "ratio_last_to_first": ratio,
        "healthy": healthy,
        "verdict": verdict,
        "rules": [
            {
                "rule": "last layer scores like the first",
                "tripped": None if healthy is None else not healthy,
                "applicable": True,
                "evidence": f"{measured} on {len(images)} {kind} image(s); floor {RATIO_FLOOR}",
            }
        ],
        "images": {"count": len(images), "kind": kind},
        "prior": prior,
        "classes": list(detector.classes),
        "rescue_heads": list(rescue_heads(config)),
        "notes": notes,
    }


def rescue_heads(config: Any) -> tuple[int, ...]:
    """The layers whose class heads normal queries supervised whatever the transformers version, except the scoring one.

    The scoring head is what needs rescue; the one before the last was only ever taught by denoising queries.
    """
    return tuple(i for i in supervised_layers(config) if i < scoring_layer(config))


def rescue(
    checkpoint: Path,
    head: int,
    out: Path,
    *,
    ground_truth: Mapping[str, Any] | None = None,
    images: Path | None = None,
) -> dict[str, Any]:
    """Write a copy of a checkpoint that scores with an earlier layer's class head. A stopgap until it is retrained.

    A head reads its own layer's queries: copied over the last one, it reads queries that it never saw in training, and
    AP fell in our measurement where scoring on its own layer raised it (docs/training.md, "Head health"). So the copy
    ends at layer `head`: it is the same model with fewer decoder layers, scores and boxes both from layer `head`, bit
    for bit what that layer said before, and a little faster. transformers cannot build D-FINE with one decoder layer,
    so that head 0 alone is copied over the last, with its localisation-quality estimate.

    Args:
        checkpoint: A model folder, or a checkpoint folder that holds one as `model/`.
        head: The layer whose head is to score; one of `rescue_heads`. The highest keeps the most refined boxes.
        out: The new model folder; must not exist.
        ground_truth: COCO JSON whose `file_name`s lie under `images`; then AP before and after is measured.
        images: Folder of the ground truth's images.

    Returns:
        JSON-able: `head`, `replaced` (the layer that scored), `method` and `note` in words, `out`, and with a
        ground truth `before` and `after` (`ap`, `ap50`, `max_score` each), else both None.

    Raises:
        ConfigurationError: An unsupervised head, a folder that exists, or a ground truth without images.
    """
    folder = model_folder(checkpoint)
    with no_progress_bars():
        model: Any = models.load(folder)
    allowed, last = rescue_heads(model.config), scoring_layer(model.config)
    if head not in allowed:
        raise ConfigurationError(
            f"Head {head} cannot rescue this checkpoint of {model.config.decoder_layers} decoder layers. "
            f"{_why_not(model.config, head)} Choose one of {', '.join(map(str, allowed)) or '(none: retrain)'}."
        )
    if out.exists():
        raise ConfigurationError(f"{out} exists already. Name a folder that does not; nothing is overwritten.")
    if (ground_truth is None) != (images is None):
        raise ConfigurationError("AP before and after needs both a ground truth and the folder of its images.")

    if head:
        rescued, method, note = _first_layers(model, head + 1), f"decoder ends after layer {head}", None
    else:
        rescued, method = _head_copied(model, head, last), f"class head of layer {head} copied over layer {last}"
        note = "A copied head raises the scores, but AP fell where it was measured: compare before and after."
    write_model_folder(out, rescued, folder / "preprocessor_config.json")

    before = after = None
    if ground_truth is not None and images is not None:
        before = average_precision(folder, ground_truth, images)
        after = average_precision(out, ground_truth, images)
    facts = {"head": head, "replaced": last, "method": method, "note": note, "out": str(out)}
    return {**facts, "before": before, "after": after}


def _first_layers(model: Any, layers: int) -> Any:
    """The same model with its first `layers` decoder layers only."""
    config = copy.deepcopy(model.config)
    config.decoder_layers, config.eval_idx = layers, -1
    shorter = type(model)(config)
    missing, _ = shorter.load_state_dict(model.state_dict(), strict=False)
    if missing:
        raise ConfigurationError(
            f"The checkpoint lacks {', '.join(missing[:3])}, so it cannot be shortened to {layers} decoder layers. "
            "Choose head 0 or retrain."
        )
    return shorter.eval()


def _head_copied(model: Any, head: int, last: int) -> Any:
    """The model with one layer's class head and quality estimate in place of another's; changes it."""
    decoder = model.model.decoder
    for modules in (decoder.class_embed, decoder.lqe_layers):
        modules[last].load_state_dict(modules[head].state_dict())
    return model


def average_precision(checkpoint: Path, ground_truth: Mapping[str, Any], images: Path) -> dict[str, float | None]:
    """Macro AP of a checkpoint on a COCO ground truth: `ap`, `ap50`, and the mean per-image `max_score`.

    A category is matched to the model's class by name.

    Raises:
        ConfigurationError: A category that the model does not know.
        DataError: An image that cannot be read.
    """
    from dentsight_pipeline.evaluation.engines import coco_statistics

    detector, _ = _load(checkpoint)
    category_ids = {category["name"]: category["id"] for category in ground_truth["categories"]}
    if unknown := sorted(set(category_ids) - set(detector.classes)):
        raise ConfigurationError(
            f"The ground truth has the classes {', '.join(unknown)}, which the model does not know. "
            f"It finds {', '.join(detector.classes)}."
        )
    results, maxima = [], []
    for record in ground_truth["images"]:
        size = record["width"], record["height"]
        found = detector.detect([letterbox.read_grayscale(str(images / record["file_name"]), size)])[0]
        maxima.append(found.scores.max())
        rows = zip(found.boxes_xywh_px.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        results += [
            {"image_id": record["id"], "category_id": category_ids[name], "bbox": box, "score": score}
            for box, score, label in rows
            if (name := detector.classes[label]) in category_ids
        ]
    scored = coco_statistics(ground_truth, results)
    return {"ap": scored.ap, "ap50": scored.ap50, "max_score": float(np.mean(maxima)) if maxima else None}


def read_images(folder: Path) -> list[NDArray[np.uint8]]:
    """All JPEG and PNG images directly in a folder, by name, as [height, width] gray values.

    Raises:
        DataError: There is no folder, no image in it, or one that cannot be decoded.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(
            f"There is no image ({', '.join(IMAGE_SUFFIXES)}) in {folder}. Give the folder that the X-rays lie in."
        )
    return [letterbox.read_grayscale(str(path)) for path in paths]


def phantom_xrays(count: int, seed: int, width: int = 1280) -> list[NDArray[np.uint8]]:
    """Synthetic panoramic X-rays, the same for the same arguments: `count` images [height, width], grayscale."""
    from dentsight_pipeline.phantom.drawing import draw
    from dentsight_pipeline.phantom.mouth import sample_mouth

    images = []
    for index in range(count):
        random = np.random.default_rng([seed, index])
        images.append(draw(sample_mouth(random), width, random).gray)
    return images


def _load(checkpoint: Path) -> tuple[Detector, list[str]]:
    """The detector, and what had to be assumed about its preprocessing."""
    try:
        return load_detector(checkpoint), []
    except ConfigurationError as error:
        folder = model_folder(checkpoint)
        with no_progress_bars():
            model = models.load(folder)  # its own error when it is the model that is wrong
        processor = Preprocessing(_canvas_of(folder), keeps_aspect=False)
        note = f"{error} The audit stretched the images to {processor.canvas[0]}×{processor.canvas[1]} pixels."
        return Detector(model, processor, class_names(model.config), torch.device("cpu")), [note]


def _canvas_of(folder: Path) -> tuple[int, int]:
    """(width, height) from the configuration's own hints, else D-FINE's published 640 × 640."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config.get("anchor_image_size") or config.get("eval_size")
    return (int(size[1]), int(size[0])) if isinstance(size, list) and len(size) == 2 else FALLBACK_CANVAS


def _layer_maxima(detector: Detector, image: NDArray[np.uint8]) -> torch.Tensor:
    """[1, decoder_layers] maximum score of each layer's head on one image."""
    gray = image if image.ndim == 2 else np.round(image[..., :3] @ [0.299, 0.587, 0.114]).astype(np.uint8)
    canvas = detector.preprocessing.letterbox((gray.shape[1], gray.shape[0])).apply(np.ascontiguousarray(gray))
    pixels = detector.preprocessing.pixels(torch.from_numpy(canvas)[None].to(detector.device))
    readings = read_layers(detector.model, pixels)
    return torch.stack([logits.sigmoid().amax((1, 2)).cpu() for logits in readings.layer_logits], dim=1)


def _verdict(
    layers: Sequence[Mapping[str, Any]], ratio: float | None, prior: float, count: int, kind: str
) -> tuple[bool | None, str]:
    last = next((row for row in layers if row["scores_at_inference"]), layers[-1])
    first, scoring = layers[0]["mean_max_score"], f"layer {last['layer']}, which scores at inference,"
    if ratio is None or first is None:
        return None, "The scores are not finite numbers: the weights are damaged."
    numbers = (
        f"its mean maximum score over {count} {kind} image(s) is {last['mean_max_score']:.4f}, "
        f"the first layer's {first:.4f} (R = {ratio:.2f}, floor {RATIO_FLOOR}; prior {prior:.4f})"
    )
    if ratio > UNTRAINED_RATIO:
        return None, f"Not judged: the head of {scoring} looks untrained; {numbers}."
    if first < LEAST_ABOVE_PRIOR * prior:
        return None, (
            f"Not judged: even the first layer's head finds nothing in these images; {numbers}. "
            "Give X-rays like those that the model was trained on."
        )
    if ratio < RATIO_FLOOR:
        under = " and lies under the prior" if last["mean_max_score"] < prior else ""
        return False, (
            f"Collapsed: the head of {scoring} is suppressed{under}; {numbers}. "
            "Its ranking may be usable, its scores are not. This is what the Hungarian loss of transformers before "
            "5.18 does; retrain with a newer one."
        )
    return (
        True,
        f"Healthy: the head of layer {last['layer']}, which scores at inference, scores like the first; {numbers}.",
    )


def _why_not(config: Any, head: int) -> str:
    if not 0 <= head < config.decoder_layers:
        return f"It has the layers 0 to {config.decoder_layers - 1}."
    if head == scoring_layer(config):
        return "It is the one that scores now."
    return "No normal query ever supervised it, only denoising queries did."
