"""What each decoder layer's class head says, and which heads the loss teaches: what head health stands on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dentsight_pipeline.documents.health import LayerScore

if TYPE_CHECKING:
    from transformers import DFineConfig


@dataclass(frozen=True)
class LayerReadings:
    """What every decoder layer's class head says about one batch, in eval mode.

    Attributes:
        layer_logits: One `[batch_size, num_queries, num_classes]` tensor a layer: `class_embed[i](hidden_states[i])`,
            before the localisation-quality estimate is added.
        logits: The model's own output `[batch_size, num_queries, num_classes]`.
        boxes_cxcywh: The model's own boxes `[batch_size, num_queries, 4]`, relative to the padded canvas.
    """

    layer_logits: list[Tensor]
    logits: Tensor
    boxes_cxcywh: Tensor


def unwrap(model: nn.Module) -> Any:
    """The detector itself, without the shells of DistributedDataParallel, accelerate, `AveragedModel` or compile."""
    while isinstance(inner := getattr(model, "_orig_mod", None) or getattr(model, "module", None), nn.Module):
        model = inner
    return model


def scoring_layer(config: DFineConfig) -> int:
    """Index of the decoder layer whose class head scores at inference (`eval_idx`, negative from the end)."""
    index = getattr(config, "eval_idx", -1)
    return index if index >= 0 else config.decoder_layers + index


def scoring_head(model: nn.Module) -> nn.Linear:
    """The class head that scores at inference."""
    detector = unwrap(model)
    return detector.model.decoder.class_embed[scoring_layer(detector.config)]


def supervised_layers(config: DFineConfig) -> tuple[int, ...]:
    """The decoder layers whose class heads normal queries supervise in transformers' loss.

    RT-DETR's teaches all. That of D-FINE and DEIMv2 zips L+1 class outputs (layer 0 counts twice) with L−1 corner
    distributions, so that the head of layer L−2 gets no target from a normal query; denoising queries alone teach it.
    The last head has the main loss, or, under the bug of transformers before 5.18, only its negatives.

    Returns:
        Ascending indices; the last is the last layer's.
    """
    last = config.decoder_layers - 1
    if getattr(config, "criterion", None) == "published" or config.model_type.startswith("rt_detr"):
        return tuple(range(last + 1))
    return tuple(sorted({0, *range(max(0, last - 1)), last}))


def prior_probability(config: DFineConfig) -> float:
    """The score that a class head gives to everything before it has learned anything."""
    return config.initializer_bias_prior_prob or 1.0 / ((config.num_labels or 0) + 1)


@torch.no_grad()
def read_layers(model: nn.Module, pixel_values: Tensor) -> LayerReadings:
    """Apply every layer's class head to its own hidden states.

    In eval mode transformers computes the logits of the scoring layer only, and `intermediate_logits` holds that one
    layer: a ratio of its last to its first entry would be 1 whatever the model does.

    Args:
        model: A D-FINE detector, possibly wrapped; its training mode is restored afterwards.
        pixel_values: `[batch_size, 3, height, width]`, on the model's device.
    """
    detector = unwrap(model)
    was_training = detector.training
    detector.eval()
    try:
        outputs = detector(pixel_values=pixel_values)
    finally:
        detector.train(was_training)
    hidden_states = outputs.intermediate_hidden_states  # [decoder_layers, batch_size, num_queries, d_model]
    if detector.config.model_type.startswith("rt_detr"):
        hidden_states = hidden_states.transpose(0, 1)  # its batch stands first
    heads = detector.model.decoder.class_embed
    return LayerReadings(
        layer_logits=[
            head(hidden.to(head.weight.dtype)).float() for head, hidden in zip(heads, hidden_states, strict=False)
        ],
        logits=outputs.logits.float(),
        boxes_cxcywh=outputs.pred_boxes.float(),
    )


def image_maxima(readings: LayerReadings) -> Tensor:
    """`[batch_size, decoder_layers]`: the highest score that each layer's head gives to each image."""
    return torch.stack([logits.sigmoid().amax((1, 2)).cpu() for logits in readings.layer_logits], dim=1)


def layer_scores(config: DFineConfig, mean_max_scores: Sequence[float]) -> tuple[LayerScore, ...]:
    """Every decoder layer's mean per-image maximum score, and its part in training and inference."""
    supervised, scoring = supervised_layers(config), scoring_layer(config)
    return tuple(
        LayerScore(
            layer=i,
            mean_max_score=finite(score),
            supervised_by_normal_queries=i in supervised,
            scores_at_inference=i == scoring,
        )
        for i, score in enumerate(mean_max_scores)
    )


def ratio_last_to_first(layers: Sequence[LayerScore]) -> float | None:
    """R: the scoring layer's mean per-image maximum score over the first layer's; None when either is missing.

    "Last" is the layer that scores at inference; in all published D-FINE configurations that is the last one.
    """
    first = layers[0].mean_max_score if layers else None
    last = next((layer.mean_max_score for layer in layers if layer.scores_at_inference), None)
    return last / first if first and last is not None else None


def finite(value: float) -> float | None:
    """A Python float, or None for what JSON has no number for."""
    number = float(value)
    return number if math.isfinite(number) else None
