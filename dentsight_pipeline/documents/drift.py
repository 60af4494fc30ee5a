"""How far new X-rays are from those that a model was trained on: what `dentsight drift --json` tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dentsight_pipeline.documents.codec import Document


class Shift(Document, frozen=True, kw_only=True):
    """One property of the new X-rays against the known ones."""

    kind: Literal["image", "class", "score"]
    """Of the picture, of the labels, or of a model's predictions."""
    name: str
    """`width`, `brightness`, … or a class."""
    before: float
    """Median among the known sources; of a class the share of sources that show it."""
    after: float
    """The same among the new ones."""
    distance: float
    """Kolmogorov-Smirnov distance; of a class the difference of the shares."""
    p: float
    """Chance of so large a difference between two draws of the same sources."""
    p_holm: float
    """The same after Holm's correction for all properties together."""
    alarm: bool
    """Whether it counts: `p_holm` at most .05, and a difference that is worth looking at."""


class Drift(Document, frozen=True, kw_only=True):
    """New X-rays against known ones, source by source."""

    given: str
    """What was asked about."""
    against: str
    """What it was held against."""
    sources: int
    """New sources; images that the known data have too are left out."""
    known_sources: int
    """Known sources."""
    images_known: int
    """Images left out because the known data have them."""
    drifted: bool
    """Whether any property alarms."""
    shifts: tuple[Shift, ...]
    """Every property that could be compared, the least likely first."""
    not_measured: Mapping[str, str]
    """Why others could not be compared."""
