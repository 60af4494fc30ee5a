"""Floors that the labels themselves do not allow: a warning, before anything is trained and on the report."""

from __future__ import annotations

from collections.abc import Sequence

from dentsight_pipeline.documents.evaluation import LabelCeiling
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.release.wording import interval_text, number_text


def floors_above(policy: Policy, ceilings: Sequence[LabelCeiling]) -> list[str]:
    """A sentence for each gate whose floor lies above the upper end of its label ceiling, in the policy's order."""
    by_class = {row.class_name: row for row in ceilings}
    told = []
    for gate in policy.gates:
        row = by_class.get(gate.condition)
        ceiling = row.of_metric(gate.metric) if row else None
        if row and ceiling and ceiling.high is not None and gate.operator == ">=" and gate.floor > ceiling.high:
            told.append(
                f"{gate.title}: the floor is {number_text(gate.floor)}, but two annotators of the same X-rays agree "
                f"only so far that the labels allow {interval_text(ceiling.value, ceiling.low, ceiling.high)} "
                f"({row.sources} sources). Have the labels reviewed, or state another floor."
            )
    return told
