"""What a training knows about itself at a step, beside its tensors: kept in a resumable checkpoint, as one document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from msgspec.structs import replace
from torch import nn

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.health import MonitorState
from dentsight_pipeline.documents.history import Best, History, TrainingPoint, ValidationPoint
from dentsight_pipeline.training.checkpointing import model_tensors
from dentsight_pipeline.training.cost import Cost

BEST_METRIC = "valid/map_50"
"""What the best checkpoint is chosen by."""


class Identity(Document, frozen=True, kw_only=True):
    """Which training a working folder belongs to."""

    recipe: str
    """Digest of the recipe."""
    subset: str
    """Digest of the data."""


class TrainingState(Document, frozen=True, kw_only=True):
    """`state.json` of a resumable checkpoint."""

    identity: Identity
    """Which training."""
    processes: int
    """That trained together."""
    history: History
    """Up to this step."""
    best: Best
    """So far."""
    health: MonitorState
    """Of the class heads."""
    cost: Cost
    """Of all attempts up to this step."""


@dataclass
class Record:
    """The losses, the figures and the best weights so far."""

    training: list[TrainingPoint] = field(default_factory=list)
    validation: list[ValidationPoint] = field(default_factory=list)
    best: Best = field(default_factory=Best)
    best_weights: Mapping[str, torch.Tensor] | None = None

    @classmethod
    def of(cls, state: TrainingState, best_weights: Mapping[str, torch.Tensor] | None) -> Record:
        """What an earlier attempt had."""
        return cls(list(state.history.training), list(state.history.validation), state.best, best_weights)

    @property
    def history(self) -> History:
        """`history.json`."""
        return History(training=tuple(self.training), validation=tuple(self.validation))

    @property
    def recent_loss(self) -> float:
        """Mean of the last 20 steps."""
        recent = [point.loss for point in self.training[-20:]]
        return sum(recent) / len(recent)

    @property
    def best_values(self) -> dict[str, float]:
        """The figures of the best evaluation; {} without any."""
        return next((point.values for point in self.validation if point.step == self.best.step), {})

    def evaluated(self, step: int, values: dict[str, float], model: nn.Module) -> None:
        """Adds an evaluation, and keeps the model's weights when it is the best so far, or nothing tells."""
        self.validation.append(ValidationPoint(step=step, values=values))
        value = values.get(BEST_METRIC)
        if value is None or self.best.value is None or value > self.best.value:
            self.best = Best(step=step, value=value)
            tensors = model_tensors(model)
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        else:
            self.best = replace(self.best, evaluations_since=self.best.evaluations_since + 1)
