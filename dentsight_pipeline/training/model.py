"""D-FINE models from a recipe: sizes, starting weights, heads for our classes, and the criterion in fp32.

The sizes in `sizes.json` are the published ones (the configuration of `ustc-community/dfine-*-coco`); `tiny` is ours.
Optimisation belongs in `optim.py`, judging the class heads in `health.py`, writing model folders in `export.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from dentsight_pipeline.errors import ConfigurationError, IntegrityError
from dentsight_pipeline.training.criterion import Criterion, Targets, only_covered
from dentsight_pipeline.training.recipe import PACKAGED, Recipe

if TYPE_CHECKING:
    from transformers import DFineConfig, DFineForObjectDetection

KIN = ("d_fine", "rt_detr", "rt_detr_v2", "deimv2")
"""Model types with a class head in every decoder layer, which an audit can read; only the first is trained here."""
CLASS_OUTPUTS = 5
"""Place of all layers' logits among the criterion's arguments: after logits, labels, device, boxes, configuration."""
SILENT_LOGIT = -20.0
"""Of a class that nothing teaches; low enough that what the decoder adds for the quality of boxes changes nothing."""
OLDEST_TRANSFORMERS = (5, 18)
"""Older ones compute D-FINE's main loss over denoising queries too, which collapses the class head."""


@cache
def sizes() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Configuration fields of `backbone` and `detector` by size; the rest is transformers' default (`sizes.json`)."""
    return json.loads((resources.files("dentsight_pipeline.training") / "sizes.json").read_text("utf-8"))


def check_transformers() -> None:
    """Refuses a transformers that trains D-FINE wrongly.

    Raises:
        ConfigurationError: transformers is older than 5.18; says why that matters.
    """
    installed = metadata.version("transformers")
    if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST_TRANSFORMERS:
        raise ConfigurationError(
            f"transformers {installed} is installed, D-FINE needs at least "
            f"{'.'.join(map(str, OLDEST_TRANSFORMERS))}: before it, the main loss also matched denoising queries, so "
            "the last decoder layer learns negatives only and its scores collapse "
            "(huggingface/transformers pull request 48528). Install a newer one: pip install -U 'transformers>=5.18'."
        )


def config(recipe: Recipe, classes: Sequence[str]) -> DFineConfig:
    """The complete D-FINE configuration of a recipe, for random initialisation.

    Args:
        recipe: Its architecture, classes' prior, queries and loss fields are used.
        classes: Names in label order.
    """
    from transformers import DFineConfig, HGNetV2Config

    size = sizes()[recipe.architecture]
    backbone = HGNetV2Config(**size["backbone"])
    return DFineConfig(backbone_config=backbone, **size["detector"], **_fields(recipe, classes))


def build(recipe: Recipe, classes: Sequence[str], *, weights: str | Path | None = None) -> DFineForObjectDetection:
    """A D-FINE for `classes`, in fp32 on the CPU, in training mode, with its criterion computed in fp32.

    Random initialisation draws from torch's global generator: seed it first. Loaded weights keep everything whose
    shape fits, bit for bit; with another number of classes exactly the class heads, `enc_score_head` and
    `denoising_class_embed` are new. With the same number but other names they are new as well: a head for other
    findings is no head start.

    Args:
        recipe: Architecture, loss and freezing.
        classes: Names in label order; label index i is category id i + 1.
        weights: A folder or hub name that replaces `recipe.weights`, e.g. a `checkpoint:` that was already resolved.

    Raises:
        ConfigurationError: transformers is too old, or the weights are missing, cut off, no D-FINE, or of another size.
    """
    check_transformers()
    from transformers import DFineForObjectDetection
    from transformers.utils import logging

    source = packaged(str(weights) if weights is not None else recipe.weights)
    if source is None:
        model = DFineForObjectDetection(config(recipe, classes))
    else:
        loaded = _config_of(source, recipe)
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # its table of newly initialised heads is expected here
        try:
            with _loading(source):
                model = DFineForObjectDetection.from_pretrained(
                    source, ignore_mismatched_sizes=True, dtype=torch.float32, **_fields(recipe, classes)
                )
        finally:
            logging.set_verbosity(verbosity)
        names = [name for _, name in sorted((loaded.id2label or {}).items())]
        if len(names) == len(classes) and names != list(classes):
            _reset_heads(model)
    model.train()
    _write_down(recipe, model.config)
    if recipe.criterion == "published":
        model.loss_function = Criterion(model.config, recipe.class_loss)
    return use_fp32_criterion(model)


def silence(model: DFineForObjectDetection, labels: Sequence[int]) -> None:
    """Gives classes that no training image covers a score of nearly 0, which training leaves there.

    Nothing teaches their rows of the heads, but what the rows read changes: without this their scores wander, win
    queries from the classes that are taught, and fill the detections. A class that was silent in the starting weights
    and is taught now begins anew.
    """
    for head in _class_heads(model):
        _wake(head, sorted(set(silent_labels(head)) - set(labels)), _prior_logit(model))
        with torch.no_grad():
            head.weight[list(labels)] = 0.0
            head.bias[list(labels)] = SILENT_LOGIT


def silent_labels(head: nn.Linear) -> list[int]:
    """Labels that `silence` took out of a head."""
    return torch.nonzero((head.bias == SILENT_LOGIT) & (head.weight == 0).all(dim=1)).flatten().tolist()


@torch.no_grad()
def _wake(head: nn.Linear, labels: Sequence[int], prior_logit: float) -> None:
    if labels:  # else no random number is drawn
        head.weight[labels] = nn.init.xavier_uniform_(torch.empty_like(head.weight))[labels]
        head.bias[labels] = prior_logit


def check_weights(recipe: Recipe, weights: str | Path | None = None) -> None:
    """Refuses weights that `build` could not start from, by their configuration alone: a matter of a second.

    Raises:
        ConfigurationError: The weights are missing, no D-FINE, or of another size than the recipe says.
    """
    source = packaged(str(weights) if weights is not None else recipe.weights)
    if source is not None:
        _config_of(source, recipe)


def packaged(source: str | None) -> str | None:
    """The folder of weights that come with the package (`PACKAGED`); any other source as it is.

    Raises:
        IntegrityError: The installed file is not the one that this version names.
    """
    if source is None or source not in PACKAGED:
        return source
    folder = Path(str(resources.files("dentsight_pipeline.training") / "weights" / source))
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != PACKAGED[source]:
        raise IntegrityError(f"weights {source!r}", PACKAGED[source], found, "Install dentsight_pipeline again.")
    return str(folder)


def load(folder: str | Path, kinds: Collection[str] = ("d_fine",)) -> DFineForObjectDetection:
    """A detector from a model folder (`config.json`, `model.safetensors`), in eval mode, fp32, on the CPU.

    Args:
        folder: Of a D-FINE, or of another of `kinds`.
        kinds: Model types that are taken, of `KIN`.

    Raises:
        ConfigurationError: The folder holds none of them, or weights that are missing or cut off.
    """
    check_transformers()
    from transformers import AutoModelForObjectDetection

    _config_of(str(folder), None, kinds)
    with _loading(str(folder)):
        return AutoModelForObjectDetection.from_pretrained(str(folder), dtype=torch.float32).eval()


def use_fp32_criterion(model: DFineForObjectDetection) -> DFineForObjectDetection:
    """Makes the model compute its loss outside autocast, on fp32 copies of its outputs; returns the model.

    Matching costs and box losses of small lesions lose their differences in bf16. The wrapped function is looked up
    at each call in `model.loss_function.inner`, so that a monitor may wrap that.
    """
    model.loss_function = Fp32Criterion(model.loss_function)
    return model


class Fp32Criterion:
    """Calls a criterion with autocast off, every floating-point tensor in fp32, and uncovered classes out of it.

    Args:
        inner: The criterion, with the signature of transformers' `DFineForObjectDetectionLoss`.
    """

    def __init__(self, inner: Callable[..., Any]) -> None:
        self.inner = inner

    def __call__(self, logits: torch.Tensor, labels: Targets, *args: Any, **kwargs: Any) -> Any:
        """The criterion's own return value: (loss, loss_dict, auxiliary_outputs)."""
        with torch.autocast(device_type=logits.device.type, enabled=False):
            given = [_to_fp32(value) for value in (logits, labels, *args)]
            named = {name: _to_fp32(value) for name, value in kwargs.items()}
            for place in (0, CLASS_OUTPUTS):
                given[place] = only_covered(labels, given[place])
            named["enc_topk_logits"] = only_covered(labels, named["enc_topk_logits"])
            return self.inner(*given, **named)


def train_mode(model: nn.Module, recipe: Recipe) -> None:
    """Training mode, except for the batch norms that the recipe freezes."""
    model.train()
    if recipe.freeze_batch_norm == "all":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def count_parameters(model: nn.Module) -> int:
    """Distinct parameters of a model; tied ones once."""
    return sum(p.numel() for p in model.parameters())


def _fields(recipe: Recipe, classes: Sequence[str]) -> dict[str, Any]:
    """Configuration fields that a recipe decides, whatever the weights."""
    return {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
        "num_queries": recipe.num_queries,
        "num_denoising": recipe.num_denoising,
        "initializer_bias_prior_prob": recipe.class_prior,
        "focal_loss_alpha": recipe.focal_alpha,
        "focal_loss_gamma": recipe.focal_gamma,
        "freeze_backbone_batch_norms": recipe.freeze_batch_norm != "none",
    }


def _write_down(recipe: Recipe, config: Any) -> None:
    """What transformers does not know of a model, in its configuration; what the weights' own training wrote goes."""
    for name, without in (("criterion", "transformers"), ("nms_iou", None)):
        if (value := getattr(recipe, name)) != without:
            setattr(config, name, value)
        elif hasattr(config, name):
            delattr(config, name)


@contextmanager
def _loading(source: str, *kinds: type[Exception]) -> Iterator[None]:
    """Refuses weights whose files are missing or cut off, in the words of whoever reads them."""
    try:
        yield
    except (OSError, SafetensorError, *kinds) as error:
        raise ConfigurationError(
            f"Weights {source!r} cannot be loaded: {str(error).splitlines()[0]} Give a folder that holds config.json "
            "and model.safetensors, a hub name such as ustc-community/dfine-large-coco (needs the internet), or "
            "weights=none with freeze_batch_norm=none for random initialisation."
        ) from error


def _config_of(source: str, recipe: Recipe | None, kinds: Collection[str] = ("d_fine",)) -> DFineConfig:
    """The configuration of weights that are to be loaded, checked to be a D-FINE of the recipe's size."""
    from transformers import AutoConfig

    with _loading(source, ValueError):
        loaded: Any = AutoConfig.from_pretrained(source)
    if loaded.model_type not in kinds:
        needed = "this trainer needs" if recipe is not None else "needed is"
        raise ConfigurationError(
            f"Weights {source!r} are of type {loaded.model_type!r}, {needed} {' or '.join(map(repr, kinds))}. "
            "The published ones are ustc-community/dfine-{nano,small,medium,large,xlarge}-coco."
        )
    if recipe is not None and (given := _size_of(loaded)) != recipe.architecture:
        raise ConfigurationError(
            f"Weights {source!r} are a D-FINE of size {given or 'unknown'}, the recipe says {recipe.architecture!r}. "
            f"Set architecture={given or 'that of the weights'} or choose other weights."
        )
    return loaded


def _size_of(loaded: DFineConfig) -> str | None:
    """The architecture's name of a configuration, by its widths and depths."""

    def shape(detector: DFineConfig, backbone: Any) -> tuple[Any, ...]:
        widths = (backbone.stage_mid_channels, backbone.stage_num_blocks, backbone.stage_numb_of_layers)
        return detector.d_model, detector.decoder_layers, detector.encoder_hidden_dim, *map(tuple, widths)

    for name in sizes():
        recipe = Recipe.model_construct(name="sizes", image_width=32, image_height=32, architecture=name)
        known = config(recipe, ["finding"])
        same_levels = len(known.feat_strides) == len(loaded.feat_strides)
        if same_levels and shape(known, known.backbone_config) == shape(loaded, loaded.backbone_config):
            return name
    return None


def _reset_heads(model: DFineForObjectDetection) -> None:
    """Initialises the class heads, the encoder's score head and the denoising embedding as for another class count."""
    with torch.no_grad():
        for head in _class_heads(model):
            nn.init.xavier_uniform_(head.weight)
            nn.init.constant_(head.bias, _prior_logit(model))
        if model.config.num_denoising:
            nn.init.xavier_uniform_(model.model.denoising_class_embed.weight)


def _class_heads(model: DFineForObjectDetection) -> list[nn.Linear]:
    """Of each decoder layer and of the encoder."""
    return [*(model.model.decoder.class_embed or []), model.model.enc_score_head]


def _prior_logit(model: DFineForObjectDetection) -> float:
    prior = model.config.initializer_bias_prior_prob or 1 / (model.model.enc_score_head.out_features + 1)
    return float(torch.logit(torch.tensor(prior)))


def _to_fp32(value: Any) -> Any:
    """Floating-point tensors in fp32, also inside lists and dictionaries; everything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, list):
        return [_to_fp32(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_fp32(item) for key, item in value.items()}
    return value
