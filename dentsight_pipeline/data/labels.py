"""What the raw label names of one export become, and how often each was met. The tables of names: `ontology.py`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from dentsight_pipeline.data.ontology import LabelMapping, LabelRule
from dentsight_pipeline.documents.annotations import RawCategory, RawSplit
from dentsight_pipeline.documents.dataset import LabelRow
from dentsight_pipeline.documents.names import SPLITS
from dentsight_pipeline.errors import ConfigurationError


class Labels:
    """One mapping applied to an export's categories.

    Args:
        mapping: The source's.
        drop: Raw names to leave out.
        splits: The export's.

    Raises:
        UnknownLabelError: A category that the mapping does not know.
        ConfigurationError: A name to drop that no category has.
    """

    def __init__(self, mapping: LabelMapping, drop: Collection[str], splits: Sequence[RawSplit]) -> None:
        listed = [(category, f"{s.file}, category {category.id}") for s in splits for category in s.categories]
        _require_names(drop, (category for category, _ in listed))
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._rules: dict[str, LabelRule] = {}
        for category, where in listed:
            if not category.placeholder and category.name not in self._rules:
                dropped = LabelRule(category.name, (), reason="--drop")
                self._rules[category.name] = dropped if category.name in drop else mapping.resolve(category.name, where)
        for category, _ in listed:
            self._rules.setdefault(category.name, LabelRule(category.name, (), reason="Roboflow's root placeholder"))

    def rules(self, names: Iterable[str]) -> list[LabelRule]:
        """The rule of each raw name."""
        return [self._rules[name] for name in names]

    def count(self, split: str, names: Sequence[str], times: Iterable[int]) -> None:
        """Notes how often each name was met in a split."""
        for name, count in zip(names, times, strict=True):
            self._counts[name][split] += int(count)

    def table(self) -> list[LabelRow]:
        """One row for each raw name, in alphabetical order."""
        return [
            LabelRow(
                raw_name=name,
                classes=rule.classes,
                loose=rule.loose,
                reason=rule.reason,
                annotations={split: n for split in SPLITS if (n := self._counts[name][split])},
            )
            for name, rule in sorted(self._rules.items())
        ]


def _require_names(drop: Collection[str], categories: Iterable[RawCategory]) -> None:
    names = {category.name for category in categories}
    for name in drop:
        if name not in names:
            raise ConfigurationError(f"--drop {name!r}: no such label here. There are {sorted(names)}.")
