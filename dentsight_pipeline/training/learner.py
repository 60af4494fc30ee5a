"""What changes from step to step: the model, its moving average and the optimiser, and one optimiser step of them.

The loss of each micro-batch is weighted by its share of the step's boxes. transformers divides by the boxes of the
micro-batch it sees; the weights turn that into a division by all boxes of the step, so that accumulating or
distributing a batch gives its gradient (up to batch-norm statistics, the denoising noise, and the terms of
`dense_weight`, which a micro-batch divides by its own qualities).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn

from dentsight_pipeline.errors import TrainingError
from dentsight_pipeline.training import channels_last, checkpointing, dense, optim
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.dataset import Batch
from dentsight_pipeline.training.detector import Preprocessing
from dentsight_pipeline.training.processes import Processes
from dentsight_pipeline.training.recipe import Recipe

LOSS_TERMS = ("vfl", "bbox", "giou", "fgl", "ddf")
"""Terms of the loss, each summed over layers, those of denoising queries and of the encoder's places included."""

Tensors = Mapping[str, torch.Tensor]


@dataclass
class StepFigures:
    """What one optimiser step showed; of all processes together, but for the terms.

    Attributes:
        rates: Learning rates by parameter group.
        loss: Of the whole batch.
        gradient_norm: Before clipping.
        terms: Terms of the loss, each summed over layers; empty unless asked for.
    """

    rates: dict[str, float]
    loss: float = 0.0
    gradient_norm: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)


class NotFiniteError(TrainingError):
    """A loss or gradient norm that is no number; the loop knows at which step, and says it."""

    def __init__(self, what: str, value: float, rates: str) -> None:
        self.what, self.value, self.rates = what, value, rates
        super().__init__(f"The {what} is {value}.")


class Learner:
    """The model that trains, as it is at step 0.

    Args:
        recipe: What is trained.
        classes: Names in label order.
        processes: Where.
        weights: Folder that replaces the recipe's `weights`: a `checkpoint:` that was fetched from the store.
        untaught: Labels that no training image covers.
    """

    def __init__(
        self,
        recipe: Recipe,
        classes: Sequence[str],
        processes: Processes,
        weights: Path | None = None,
        untaught: Sequence[int] = (),
    ) -> None:
        self.recipe, self.processes = recipe, processes
        self._preprocessing = Preprocessing.of_recipe(recipe)
        set_seed(recipe.seed)
        model = models.build(recipe, classes, weights=weights)
        models.silence(model, untaught)
        self.initial_weights_sha256 = _digest_of(model)
        nn.Module.to(model, processes.device)
        if recipe.memory_format == "channels-last":
            channels_last.lay_out(model)
        self.raw_model: nn.Module = model
        self.average = None if recipe.ema_decay is None else optim.MovingAverage(model, recipe)
        self.optimizer = optim.build_optimizer(model, recipe)
        models.train_mode(model, recipe)
        self.model: nn.Module = processes.accelerator.prepare(model)
        set_seed(recipe.seed + 1 + processes.index)  # the denoising noise differs between processes

    def to_evaluate(self) -> nn.Module:
        """The model that is evaluated and published, in evaluation mode: the average where there is one."""
        return self.average.model if self.average is not None else self.raw_model.eval()

    def train_mode(self) -> None:
        """Back from an evaluation."""
        models.train_mode(self.raw_model, self.recipe)

    def learn(self, batches: Sequence[Batch], step: int, total_steps: int, *, with_terms: bool) -> StepFigures:
        """One optimiser step.

        Args:
            batches: This process's micro-batches of the step.
            step: Steps done before.
            total_steps: Steps of the whole training.
            with_terms: Whether the terms of the loss are wanted.

        Raises:
            NotFiniteError: Loss or gradient norm is no number; the weights were not touched.
        """
        figures = StepFigures(optim.set_rates(self.optimizer, optim.rate_factor(self.recipe, step, total_steps)))
        self._backward(batches, figures, with_terms)
        _require_finite("loss", figures.loss, figures)
        figures.gradient_norm = self._clip()
        _require_finite("gradient norm", figures.gradient_norm, figures)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step + 1)
        return figures

    def _backward(self, batches: Sequence[Batch], figures: StepFigures, with_terms: bool) -> None:
        """Gradients, loss and terms of all micro-batches, each by its share of the step's boxes."""
        boxes = self.processes.sum(sum(sum(batch.counts) for batch in batches))
        for number, batch in enumerate(batches, start=1):
            share = max(1, sum(batch.counts)) / max(1.0, boxes)
            with self.processes.exchange(self.model, now=number == len(batches)):
                outputs = self.forward(batch.to(self.processes.device))
                self.processes.accelerator.backward(outputs.loss * (share * self.processes.count))
            figures.loss += float(outputs.loss.detach()) * share
            if with_terms:
                _add_terms(figures.terms, outputs.loss_dict, share)
        figures.loss = self.processes.sum(figures.loss)

    def forward(self, batch: Batch) -> Any:
        """transformers' outputs for a batch, the loss that is learnt from and its terms among them."""
        pixels = self._preprocessing.pixels(batch.images)
        if self.recipe.memory_format == "channels-last":
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        targets = batch.targets()
        with self.processes.accelerator.autocast():
            outputs = self.model(pixel_values=pixels, labels=targets)
        if self.recipe.dense_weight:
            found = dense.terms(outputs, targets, self.recipe.image_size, self.raw_model.config)
            terms = {name: self.recipe.dense_weight * value for name, value in found.items()}
            outputs.loss, outputs.loss_dict = sum(terms.values(), outputs.loss), {**outputs.loss_dict, **terms}
        return outputs

    def _clip(self) -> float:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.recipe.max_grad_norm is None:
            gradients = [p.grad for p in parameters if p.grad is not None]
            return float(torch.nn.utils.get_total_norm(gradients))
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm))

    def tensors(self) -> dict[str, Tensors]:
        """All that a resumed training goes on from, by file."""
        found: dict[str, Tensors] = {
            "model": checkpointing.model_tensors(self.raw_model),
            "optimizer": checkpointing.optimizer_tensors(self.optimizer),
        }
        if self.average is not None:
            found["average"] = checkpointing.model_tensors(self.average.model)
        return found

    def load(self, found: checkpointing.Checkpoint) -> None:
        """Goes on from what `tensors` gave."""
        checkpointing.load_model_tensors(self.raw_model, found.tensors("model"))
        if self.average is not None:
            checkpointing.load_model_tensors(self.average.model, found.tensors("average"))
        checkpointing.load_optimizer_tensors(self.optimizer, found.tensors("optimizer"))


def _require_finite(what: str, value: float, figures: StepFigures) -> None:
    if not math.isfinite(value):
        shown = ", ".join(f"{name} {rate:.3g}" for name, rate in figures.rates.items())
        raise NotFiniteError(what, value, shown)


def _add_terms(terms: dict[str, float], loss_dict: Tensors, share: float) -> None:
    """Adds a micro-batch's loss terms, each summed over layers, to those of the step."""
    for name in LOSS_TERMS:
        parts = [value.detach().sum() for key, value in loss_dict.items() if key.startswith(f"loss_{name}")]
        if parts:
            terms[name] = terms.get(name, 0.0) + float(torch.stack(parts).sum().cpu() * share)


def _digest_of(model: nn.Module) -> str:
    """sha256 (hex) over names and bytes of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(checkpointing.model_tensors(model).items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
