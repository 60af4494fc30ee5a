"""What the raw label names of one export become. The tables of names: `ontology.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dentsight_pipeline.data.ontology import LabelMapping, LabelRule
from dentsight_pipeline.documents.annotations import RawSplit
from dentsight_pipeline.documents.dataset import LabelRow
from dentsight_pipeline.errors import ConfigurationError


def label_rules(mapping: LabelMapping, drop: Collection[str], splits: Sequence[RawSplit]) -> dict[str, LabelRule]:
    """The rule of each raw name that an export's categories list.

    Args:
        mapping: The source's.
        drop: Raw names to leave out.
        splits: The export's.

    Raises:
        UnknownLabelError: A category that the mapping does not know.
        ConfigurationError: A name to drop that no category has.
    """
    listed = [(category, f"{split.file}, category {category.id}") for split in splits for category in split.categories]
    names = {category.name for category, _ in listed}
    for name in drop:
        if name not in names:
            raise ConfigurationError(f"--drop {name!r}: no such label here. There are {sorted(names)}.")
    rules: dict[str, LabelRule] = {}
    for category, where in listed:
        if not category.placeholder and category.name not in rules:
            dropped = LabelRule(category.name, (), reason="--drop")
            rules[category.name] = dropped if category.name in drop else mapping.resolve(category.name, where)
    return {name: LabelRule(name, (), reason="Roboflow's root placeholder") for name in names} | rules


def label_table(rules: Mapping[str, LabelRule], splits: Sequence[RawSplit]) -> list[LabelRow]:
    """One row for each raw name, in alphabetical order."""
    counts = {
        split.name: {row["values"]: row["counts"] for row in split.annotations["label"].value_counts().to_pylist()}
        for split in splits
    }
    return [
        LabelRow(
            raw_name=name,
            classes=rule.classes,
            loose=rule.loose,
            reason=rule.reason,
            annotations={split: of[name] for split, of in counts.items() if name in of},
        )
        for name, rule in sorted(rules.items())
    ]
