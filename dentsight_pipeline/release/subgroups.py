"""The worst group of X-rays of each gated class, and how much of that is chance.

The worst of many groups is low by chance alone, so each group is held against the others of its axis and the chances
are corrected for all of them together (Holm 1979). What the groups are is decided in `evaluation/subgroups.py`. No gate
reads this: it is a question that a reviewer asks, and where n is small the answer is INCONCLUSIVE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from scipy.special import ndtr, ndtri

from dentsight_pipeline.data.drift import holm
from dentsight_pipeline.documents.evaluation import EvaluationDocument, Figure, PartRow
from dentsight_pipeline.documents.policy import Gate, Policy
from dentsight_pipeline.documents.subgroups import WorstGroup
from dentsight_pipeline.documents.verdict import RowOutcome
from dentsight_pipeline.release.wording import bound_text, interval_text

MINIMUM_SOURCES = 30
"""Sources with a finding from which on an interval keeps its promise (docs/evaluation.md)."""
_SPAN = 2 * float(ndtri(0.95))  # of a 90 % interval, in standard errors


class _Group(NamedTuple):
    """One gated class on one group."""

    axis: str
    name: str
    n_gt: int
    sources: int
    figure: Figure

    @classmethod
    def of(cls, axis: str, name: str, row: PartRow, metric: str) -> _Group:
        return cls(axis, name, row.n_gt, row.sources or 0, _figure(row, metric))

    @property
    def error(self) -> float:
        """The standard error, from the interval's width."""
        return ((self.figure.high or 0.0) - (self.figure.low or 0.0)) / _SPAN


def worst_groups(policy: Policy, evaluation: EvaluationDocument) -> tuple[WorstGroup, ...]:
    """One for each gate on AP or AP50, in the policy's order; none where no X-rays were told apart."""
    gates = [gate for gate in policy.gates if gate.metric in ("ap", "ap50") and gate.operator == ">="]
    found = {gate.id: _groups(evaluation, gate) for gate in gates}
    if not any(found.values()):
        return ()
    enough = {name: [own for own in groups if _is_enough(own)] for name, groups in found.items()}
    places = [(gate, place) for gate, groups in enough.items() for place in range(len(groups))]
    chances = [_chance(enough[gate], place) for gate, place in places]
    corrected = dict(zip(places, holm(chances), strict=True))
    return tuple(
        _worst(gate, found[gate.id], enough[gate.id], [corrected[gate.id, i] for i in range(len(enough[gate.id]))])
        for gate in gates
    )


def _groups(evaluation: EvaluationDocument, gate: Gate) -> list[_Group]:
    """The groups that say anything of a gate's class, exports among them."""
    parts = [(part.axis, part.group, part.rows) for part in evaluation.subgroups]
    parts += [("export", part.export, part.rows) for part in evaluation.by_export]
    rows = [(axis, name, _row(rows, gate.condition)) for axis, name, rows in parts]
    return [_Group.of(axis, name, row, gate.metric) for axis, name, row in rows if row]


def _row(rows: Sequence[PartRow], condition: str) -> PartRow | None:
    return next((row for row in rows if row.class_name == condition and row.n_gt), None)


def _figure(row: PartRow, metric: str) -> Figure:
    return Figure(*(getattr(row, f"{metric}{end}") for end in ("", "_low", "_high")))


def _is_enough(group: _Group) -> bool:
    return group.sources >= MINIMUM_SOURCES and None not in group.figure


def _chance(groups: Sequence[_Group], place: int) -> float | None:
    """Two-sided chance of a group's difference to the others of its axis, weighted by their boxes."""
    own = groups[place]
    others = [group for at, group in enumerate(groups) if at != place and group.axis == own.axis]
    if not others:
        return None
    weights = np.array([group.n_gt for group in others]) / sum(group.n_gt for group in others)
    mean = float(weights @ [group.figure.value or 0.0 for group in others])
    error = float(np.hypot(own.error, np.sqrt((weights**2) @ [group.error**2 for group in others])))
    apart = abs((own.figure.value or 0.0) - mean)
    return 2 * float(ndtr(-apart / error)) if error else 1.0


def _worst(
    gate: Gate, groups: Sequence[_Group], enough: Sequence[_Group], chances: Sequence[float | None]
) -> WorstGroup:
    at = min(range(len(enough)), key=lambda place: enough[place].figure.value or 0.0, default=None)
    worst = None if at is None else enough[at]
    value, low, high = worst.figure if worst else Figure(None, None, None)
    told = WorstGroup(
        gate=gate.id,
        condition=gate.condition,
        metric=gate.metric,
        floor=gate.floor,
        axis=worst.axis if worst else None,
        group=worst.name if worst else None,
        value=value,
        low=low,
        high=high,
        sources=worst.sources if worst else max((group.sources for group in groups), default=0),
        outcome=_outcome(gate.floor, low, high),
        p_holm=None if at is None else chances[at],
        groups=len(enough),
        too_small=len(groups) - len(enough),
        sentence="",
    )
    return _with_sentence(told)


def _outcome(floor: float, low: float | None, high: float | None) -> RowOutcome:
    if low is None or high is None:
        return "INCONCLUSIVE"
    return "PASS" if low >= floor else "FAIL" if high < floor else "INCONCLUSIVE"


def _with_sentence(own: WorstGroup) -> WorstGroup:
    name = f"{own.condition} {own.metric.upper()}"
    if own.group is None:
        told = f"no group has {MINIMUM_SOURCES} sources with a finding (the largest {own.sources}): INCONCLUSIVE."
        return replace(own, sentence=f"{name}: {told}")
    figure = interval_text(own.value, own.low, own.high, own.floor)
    told = f"worst on {own.axis} “{own.group}”: {figure}, {bound_text('>=', own.floor)}: {own.outcome}."
    return replace(own, sentence=f"{name}: {told} {_against_others(own.p_holm)}")


def _against_others(chance: float | None) -> str:
    if chance is None:
        return "Its axis has no other group with enough sources to hold it against."
    if chance <= 0.05:
        return f"It differs from the other groups of its axis (p = {chance:.2g} after Holm)."
    return f"Chance alone may make it the worst (p = {chance:.2g} after Holm)."
