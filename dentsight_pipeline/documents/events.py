"""What a training or prediction process tells while it runs: one JSON line for each event, in `events.jsonl`."""

from __future__ import annotations

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.health import Reading


class Told(Document, frozen=True, tag_field="event", omit_defaults=True):
    """What every event has."""

    time: float
    """Seconds since 1970."""


class Progress(Told, frozen=True, tag="progress"):
    """How far a stage is."""

    stage: str
    """What is being done: `cache train`, `cache valid`, `train` or `predict`."""
    step: int
    """Units done, from 0."""
    steps: int
    """Units in all."""
    epoch: int | None = None
    """From 1."""
    loss: float | None = None
    """Mean of the last 20 steps."""
    images_per_s: float | None = None
    """Speed."""
    seconds_left: float | None = None
    """At that speed."""


class Metrics(Told, frozen=True, tag="metrics"):
    """Points of curves."""

    step: int
    """Optimiser steps taken."""
    values: dict[str, float]
    """By the curve's name, e.g. `train/loss` or `valid/map_50`."""


class HealthRead(Told, frozen=True, tag="health"):
    """A reading of the class heads."""

    step: int
    """Optimiser steps taken."""
    reading: Reading
    """The figures, and what the rules say."""


class Message(Told, frozen=True, tag="message"):
    """A sentence for a person."""

    text: str
    """The sentence."""


Event = Progress | Metrics | HealthRead | Message
