"""`history.json` of a checkpoint: the losses of training and the figures of validation, step by step."""

from __future__ import annotations

from dentsight_pipeline.documents.codec import Document


class TrainingPoint(Document, frozen=True, omit_defaults=True):
    """One optimiser step."""

    step: int
    """From 1."""
    loss: float
    """Of the whole batch, over all processes."""
    gradient_norm: float | None = None
    """Before clipping; on steps that are on the curve."""
    rates: dict[str, float] | None = None
    """Learning rates by parameter group; on steps that are on the curve."""


class ValidationPoint(Document, frozen=True, kw_only=True):
    """One evaluation on the validation split."""

    step: int
    """Optimiser steps taken."""
    values: dict[str, float]
    """By the curve's name, e.g. `valid/map_50`; empty without validation images."""


class Best(Document, frozen=True, kw_only=True):
    """The evaluation whose weights are published."""

    step: int | None = None
    """None before the first evaluation."""
    value: float | None = None
    """Its mAP@0.5; None without validation images."""
    evaluations_since: int = 0
    """Evaluations after it, none of which was better."""


class History(Document, frozen=True, kw_only=True):
    """The whole training."""

    training: tuple[TrainingPoint, ...] = ()
    """One for each step."""
    validation: tuple[ValidationPoint, ...] = ()
    """One for each evaluation."""
