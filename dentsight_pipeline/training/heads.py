"""Auditing the class heads of a finished checkpoint, whoever trained it, and rescuing a collapsed one.

A checkpoint tells nothing about its training, so the audit has one signal: does the head that scores at inference score
like the first layer's head (R, see `layers.py`)? Watching a training run, with all four signals, is `health.py`'s.

Works on any folder that transformers can load as D-FINE, RT-DETR, RT-DETRv2 or DEIMv2: any number of classes, written
by any version (4.x wrote the heads under other names, which transformers maps). RT-DETR's loss had the same fault.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dentsight_pipeline.documents.detections import CocoResult
from dentsight_pipeline.documents.health import AuditedImages, HeadAudit, LayerScore, Precision, Rescue, RuleOutcome
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.training import letterbox
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.detector import (
    PROCESSOR,
    Detector,
    Preprocessing,
    class_names,
    load_detector,
    model_folder,
    no_progress_bars,
)
from dentsight_pipeline.training.export import write_model_folder
from dentsight_pipeline.training.layers import (
    image_maxima,
    layer_scores,
    prior_probability,
    ratio_last_to_first,
    read_layers,
    scoring_head,
    scoring_layer,
    supervised_layers,
)
from dentsight_pipeline.training.rules import LAST_LIKE_FIRST, RATIO_FLOOR

SYNTHETIC_IMAGES = 8
SYNTHETIC_SEED = 0
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
FALLBACK_CANVAS = (640, 640)
"""What D-FINE's published weights take, for folders without an image processor's configuration."""
LEAST_ABOVE_PRIOR = 1.5
"""The first layer's mean maximum score must exceed the prior this much, or the images show the model nothing."""
UNTRAINED_RATIO = 2.5
"""R above this was seen in untrained models only (8.4); no trained one, healthy or not, came near it."""

Image = NDArray[np.uint8]
"""Grayscale [height, width] or colour [height, width, 3]."""
Verdict = tuple[bool | None, str]
"""Healthy, collapsed or not judged; in words."""


def audit_heads(checkpoint: Path, images: Sequence[Image] | None = None) -> HeadAudit:
    """Compare what every decoder layer's class head says about the same images.

    Args:
        checkpoint: A model folder, or a checkpoint folder that holds one as `model/`.
        images: X-rays of any size, like those that the model was trained on. None draws phantom X-rays from a fixed
            seed: enough for a model that finds dental things in them, and the verdict says when it does not.

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
    signs = _Signs.of(detector, images, kind)
    healthy, verdict = _verdict(signs)
    return HeadAudit(
        layers=signs.layers,
        ratio_last_to_first=signs.ratio,
        healthy=healthy,
        verdict=verdict,
        rules=(signs.as_rule(healthy),),
        images=AuditedImages(count=signs.images, kind=kind),
        prior=signs.prior,
        classes=detector.classes,
        rescue_heads=rescue_heads(detector.model.config),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Signs:
    """What the images made the heads say.

    Attributes:
        layers: Every layer's mean maximum score.
        ratio: R.
        prior: What an untrained head scores.
        untouched: Whether the scoring head's biases are all equal, as before any training.
        images: How many.
        kind: `given` or `phantom`.
    """

    layers: tuple[LayerScore, ...]
    ratio: float | None
    prior: float
    untouched: bool
    images: int
    kind: str

    @classmethod
    def of(cls, detector: Detector, images: Sequence[Image], kind: str) -> _Signs:
        config: Any = detector.model.config
        maxima = torch.cat([_layer_maxima(detector, image) for image in images])  # [images, decoder_layers]
        layers, bias = layer_scores(config, maxima.mean(0).tolist()), scoring_head(detector.model).bias
        untouched = len(bias) > 1 and bool((bias == bias[0]).all())
        return cls(layers, ratio_last_to_first(layers), prior_probability(config), untouched, len(images), kind)

    @property
    def scoring(self) -> LayerScore:
        """The layer that scores at inference."""
        return next((layer for layer in self.layers if layer.scores_at_inference), self.layers[-1])

    def as_rule(self, healthy: bool | None) -> RuleOutcome:
        """R as the rule that watches a training has it."""
        measured = "R could not be measured" if self.ratio is None else f"R = {self.ratio:.3f}"
        evidence = f"{measured} on {self.images} {self.kind} image(s); floor {RATIO_FLOOR}"
        return RuleOutcome(rule=LAST_LIKE_FIRST, tripped=None if healthy is None else not healthy, evidence=evidence)


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
) -> Rescue:
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

    Raises:
        ConfigurationError: An unsupervised head, a folder that exists, or a ground truth without images.
    """
    folder = model_folder(checkpoint)
    with no_progress_bars():
        model: Any = models.load(folder, models.KIN)
    _check_rescue(model.config, head, out)
    if (ground_truth is None) != (images is None):
        raise ConfigurationError("AP before and after needs both a ground truth and the folder of its images.")
    last = scoring_layer(model.config)
    if head:
        rescued, method, note = _first_layers(model, head + 1), f"decoder ends after layer {head}", None
    else:
        rescued, method = _head_copied(model, head, last), f"class head of layer {head} copied over layer {last}"
        note = "A copied head raises the scores, but AP fell where it was measured: compare before and after."
    before = after = None
    if ground_truth is not None and images is not None:
        before = average_precision(folder, ground_truth, images)  # first: what it refuses leaves no folder behind
    write_model_folder(out, rescued, folder / PROCESSOR)
    if ground_truth is not None and images is not None:
        after = average_precision(out, ground_truth, images)
    return Rescue(head=head, replaced=last, method=method, note=note, out=str(out), before=before, after=after)


def _check_rescue(config: Any, head: int, out: Path) -> None:
    allowed = rescue_heads(config)
    if head not in allowed:
        raise ConfigurationError(
            f"Head {head} cannot rescue this checkpoint of {config.decoder_layers} decoder layers. "
            f"{_why_not(config, head)} Choose one of {', '.join(map(str, allowed)) or '(none: retrain)'}."
        )
    if out.exists():
        raise ConfigurationError(f"{out} exists already. Name a folder that does not; nothing is overwritten.")


def _why_not(config: Any, head: int) -> str:
    if not 0 <= head < config.decoder_layers:
        return f"It has the layers 0 to {config.decoder_layers - 1}."
    if head == scoring_layer(config):
        return "It is the one that scores now."
    return "No normal query ever supervised it, only denoising queries did."


def _first_layers(model: Any, layers: int) -> Any:
    """The same model with its first `layers` decoder layers only."""
    config = copy.deepcopy(model.config)
    config.decoder_layers = layers
    if hasattr(config, "eval_idx"):
        config.eval_idx = -1
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
    for modules in filter(None, (decoder.class_embed, getattr(decoder, "lqe_layers", None))):
        modules[last].load_state_dict(modules[head].state_dict())
    return model


def average_precision(checkpoint: Path, ground_truth: Mapping[str, Any], images: Path) -> Precision:
    """Macro AP of a checkpoint on a COCO ground truth; a category is matched to the model's class by name.

    Raises:
        ConfigurationError: A ground truth that is no COCO, or a category that the model does not know.
        DataError: An image that cannot be read.
    """
    from dentsight_pipeline.evaluation.engines import coco_statistics

    if lacking := [name for name in ("images", "annotations", "categories") if name not in ground_truth]:
        raise ConfigurationError(f"The ground truth has no {lacking[0]}. Give a COCO file, which has all three lists.")
    detector, _ = _load(checkpoint)
    category_ids = {category["name"]: category["id"] for category in ground_truth["categories"]}
    if unknown := sorted(set(category_ids) - set(detector.classes)):
        raise ConfigurationError(
            f"The ground truth has the classes {', '.join(unknown)}, which the model does not know. "
            f"It finds {', '.join(detector.classes)}."
        )
    results: list[CocoResult] = []
    maxima = []
    for record in ground_truth["images"]:
        size = record["width"], record["height"]
        found = detector.detect([letterbox.read_grayscale(str(images / record["file_name"]), size)])[0]
        maxima.append(found.scores.max())
        for result in found.to_coco(record["id"]):
            name = detector.classes[result["category_id"] - 1]
            if name in category_ids:
                results.append({**result, "category_id": category_ids[name]})
    scored = coco_statistics(ground_truth, results)
    return Precision(ap=scored.ap, ap50=scored.ap50, max_score=float(np.mean(maxima)) if maxima else None)


def read_images(folder: Path) -> list[Image]:
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


def phantom_xrays(count: int, seed: int, width: int = 1280) -> list[Image]:
    """Synthetic panoramic X-rays, the same for the same arguments: `count` images [height, width], grayscale."""
    from dentsight_pipeline.phantom.drawing import draw
    from dentsight_pipeline.phantom.mouth import sample_mouth

    streams = (np.random.default_rng([seed, index]) for index in range(count))
    return [draw(sample_mouth(random), width, random).gray for random in streams]


def _load(checkpoint: Path) -> tuple[Detector, list[str]]:
    """The detector, and what had to be assumed about its preprocessing."""
    try:
        return load_detector(checkpoint, kinds=models.KIN), []
    except ConfigurationError as error:
        folder = model_folder(checkpoint)
        with no_progress_bars():
            model = models.load(folder, models.KIN)  # its own error when it is the model that is wrong
        processor = Preprocessing(_canvas_of(folder), keeps_aspect=False)
        note = f"{error} The audit stretched the images to {processor.canvas[0]}×{processor.canvas[1]} pixels."
        return Detector(model, processor, class_names(model.config), torch.device("cpu")), [note]


def _canvas_of(folder: Path) -> tuple[int, int]:
    """(width, height) from the configuration's own hints, else D-FINE's published 640 × 640."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config.get("anchor_image_size") or config.get("eval_size")
    return (int(size[1]), int(size[0])) if isinstance(size, list) and len(size) == 2 else FALLBACK_CANVAS


def _layer_maxima(detector: Detector, image: Image) -> torch.Tensor:
    """[1, decoder_layers] maximum score of each layer's head on one image."""
    gray = image if image.ndim == 2 else np.round(image[..., :3] @ [0.299, 0.587, 0.114]).astype(np.uint8)
    canvas = detector.preprocessing.letterbox((gray.shape[1], gray.shape[0])).apply(np.ascontiguousarray(gray))
    pixels = detector.preprocessing.pixels(torch.from_numpy(canvas)[None].to(detector.device))
    return image_maxima(read_layers(detector.model, pixels))


def _verdict(signs: _Signs) -> Verdict:
    """What R says, where the images show the heads anything at all."""
    if signs.untouched:
        return None, "Not judged: the head that scores was never trained, its biases are all equal."
    first, last, ratio, prior = signs.layers[0].mean_max_score, signs.scoring, signs.ratio, signs.prior
    if ratio is None or first is None or last.mean_max_score is None:
        return None, "The scores are not finite numbers: the weights are damaged."
    head = f"the head of layer {last.layer}, which scores at inference,"
    numbers = (
        f"its mean maximum score over {signs.images} {signs.kind} image(s) is {last.mean_max_score:.4f}, "
        f"the first layer's {first:.4f} (R = {ratio:.2f}, floor {RATIO_FLOOR}; prior {prior:.4f})"
    )
    if ratio > UNTRAINED_RATIO:
        return None, f"Not judged: {head} looks untrained; {numbers}."
    if first < LEAST_ABOVE_PRIOR * prior:
        return None, (
            f"Not judged: even the first layer's head finds nothing in these images; {numbers}. "
            "Give X-rays like those that the model was trained on."
        )
    if ratio >= RATIO_FLOOR:
        return True, f"Healthy: {head} scores like the first; {numbers}."
    under = " and lies under the prior" if last.mean_max_score < prior else ""
    return False, (
        f"Collapsed: {head} is suppressed{under}; {numbers}. Its ranking may be usable, its scores are not. "
        "This is what the Hungarian loss of transformers before 5.18 does; retrain with a newer one."
    )
