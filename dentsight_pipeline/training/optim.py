"""AdamW's parameter groups, the learning-rate schedules and the moving average of the weights.

Every function here is a pure function of the recipe and the step, except for the moving average, which has a state.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from dentsight_pipeline.training.recipe import Recipe

HEAD_PARTS = ("class_embed", "enc_score_head", "denoising_class_embed")
"""Name parts of the parameters that exactly a change of classes re-initialises: the group `head`."""


def group_of(name: str, parameter: nn.Parameter) -> tuple[str, bool]:
    """The group of one named parameter: (`backbone`, `head` or `detector`; whether weight decay applies).

    Decay applies to matrices and kernels; never to one-dimensional parameters, that is norms, biases and scales.
    """
    parts = name.split(".")
    if "backbone" in parts:
        group = "backbone"
    elif any(part in HEAD_PARTS for part in parts):
        group = "head"
    else:
        group = "detector"
    return group, parameter.ndim > 1


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`, each with its `name` and its peak rate `peak_lr`.

    Every trainable parameter is in exactly one group, tied ones once; empty groups are left out. A backbone or head
    whose multiplier is 0 is frozen here.

    Args:
        model: The detector.
        recipe: Rates, multipliers and decay.
    """
    rates = {
        "backbone": recipe.learning_rate * recipe.backbone_lr_multiplier,
        "detector": recipe.learning_rate,
        "head": recipe.learning_rate * recipe.head_lr_multiplier,
    }
    groups = {
        (name, decays): {
            "name": name if decays else f"{name} (norms, biases)",
            "params": [],
            "lr": rate,
            "peak_lr": rate,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for name, rate in rates.items()
        for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        group = group_of(name, parameter)
        if rates[group[0]] == 0.0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups[group]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def describe_groups(groups: list[dict[str, Any]]) -> str:
    """One line for the log: each group's name, number of parameters, peak rate and decay."""
    return "; ".join(
        f"{group['name']}: {sum(p.numel() for p in group['params']):,} parameters, rate {group['peak_lr']:.3g}, "
        f"decay {group['weight_decay']:.3g}"
        for group in groups
    )


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Fused AdamW over `parameter_groups`."""
    return torch.optim.AdamW(
        parameter_groups(model, recipe),
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.epsilon,
        fused=True,
    )


def rate_factor(recipe: Recipe, step: int, total_steps: int) -> float:
    """The learning rate of step `step` (from 0) over the peak rate.

    The warm-up is linear from 0, and `cosine` is transformers' `get_cosine_schedule_with_warmup` when
    `final_lr_fraction` is 0.
    """
    warmup = recipe.warmup(total_steps)
    if step < warmup:
        return step / max(1, warmup)
    if recipe.schedule == "constant":
        return 1.0
    start = warmup if recipe.schedule == "cosine" else max(warmup, math.floor(recipe.flat_fraction * total_steps))
    if step < start:
        return 1.0
    progress = (step - start) / max(1, total_steps - start)
    return recipe.final_lr_fraction + (1.0 - recipe.final_lr_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Sets every group's rate to its peak rate times `factor`; returns the rates by group name."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
        rates[group["name"]] = group["lr"]
    return rates


def ema_decay(recipe: Recipe, updates: int) -> float:
    """The average's decay after `updates` updates: it follows quickly at first, as in D-FINE's `ModelEMA`."""
    return (recipe.ema_decay or 0.0) * (1.0 - math.exp(-updates / recipe.ema_warmup_steps))


class MovingAverage:
    """Exponential moving average of a model's weights and floating-point buffers; its model is evaluated and exported.

    Args:
        model: Copied as it is now, and followed; must not be wrapped yet, and its tensors stay where they are.
        recipe: Decay and warm-up.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._recipe = recipe
        # found once: to walk over all modules costs as much as to average their weights
        self._own, self._others = _tensors(self.model), _tensors(model)

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Moves the average towards the model.

        Args:
            updates: Optimiser steps that have been taken, this one included.
        """
        weight = 1.0 - ema_decay(self._recipe, updates)
        torch._foreach_lerp_(self._own[0], self._others[0], weight)  # pyright: ignore[reportPrivateImportUsage] # as torch's own swa_utils
        torch._foreach_copy_(self._own[1], self._others[1])  # pyright: ignore[reportPrivateImportUsage]


def _tensors(model: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A model's parameters and floating-point buffers, and its other buffers."""
    buffers = list(model.buffers())
    floating = [buffer for buffer in buffers if buffer.is_floating_point()]
    return [*model.parameters(), *floating], [buffer for buffer in buffers if not buffer.is_floating_point()]
