"""Which kind of X-ray a gated class does worst on: a part of `report.json`."""

from __future__ import annotations

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.verdict import RowOutcome


class WorstGroup(Document, frozen=True, kw_only=True):
    """The group with the lowest figure among those with enough sources, for one gate."""

    gate: str
    """Its id, like the next three as in the policy."""
    condition: str
    """The class, or `macro`."""
    metric: str
    """`ap` or `ap50`."""
    floor: float
    """The bound."""
    axis: str | None
    """The respect in which the X-rays are alike; None where no group has enough sources, like the next four."""
    group: str | None
    """Which group."""
    value: float | None
    """Its figure."""
    low: float | None
    """Lower end of its own 90 % interval, as if no other group had been looked at."""
    high: float | None
    """Its upper end."""
    sources: int
    """Sources with a finding in it; of the largest group where none has enough."""
    outcome: RowOutcome
    """What its interval says of the floor; INCONCLUSIVE where no group has enough sources."""
    p_holm: float | None
    """Chance of so large a difference to the other groups of its axis if there were none, after Holm's correction for
    all differences of all gates; None where there is no other group."""
    groups: int
    """Groups with enough sources."""
    too_small: int
    """Groups with a finding and too few."""
    sentence: str
    """All of it in words."""
