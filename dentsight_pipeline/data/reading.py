"""How each export of a dataset is read: what a launch may say of it. Light, so that recalled work loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reading:
    """How one export is read."""

    source: str | None = None
    """The label mapping; None takes the one that READMEs and category names call for."""
    drop: tuple[str, ...] = ()
    """Raw label names to leave out; of several exports, those that one lacks are another's."""


def config_of(readings: Sequence[Reading]) -> dict[str, Any]:
    """Readings as memo and record have them."""
    plain = [{"source": reading.source, "drop": list(reading.drop)} for reading in readings]
    return plain[0] if len(plain) == 1 else {"exports": plain}


def readings_in(config: Mapping[str, Any], exports: int) -> list[Reading]:
    """Readings from a record, as many as there are exports."""
    each = config.get("exports") or [config] * exports
    return [Reading(own.get("source"), tuple(own.get("drop") or ())) for own in each]
