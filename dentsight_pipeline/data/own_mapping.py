"""What a mapping of one's own means: a label mapping over the strict table, and what was looked for.

Its fields are in `documents/mapping.py`, its files are read in `intake/mapping_file.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches

from dentsight_pipeline.data.coverage import classes_named
from dentsight_pipeline.data.ontology import (
    CLASSES,
    CONDITIONS,
    DECIDUOUS,
    MAPPINGS,
    TEETH,
    LabelMapping,
    LabelRule,
    fold,
)
from dentsight_pipeline.documents.mapping import DROP, OwnMapping
from dentsight_pipeline.errors import ConfigurationError


def label_mapping(own: OwnMapping) -> LabelMapping:
    """The strict table with the rules of a mapping of one's own in place of those of the same names.

    Raises:
        ConfigurationError: A class that there is not, a name without one, a finding dropped without a reason …
    """
    _refuse_packaged(own.source)
    strict = MAPPINGS["canonical"]
    known = {fold(rule.raw_name): rule for rule in strict.rules}
    _refuse_stray(own, known)
    named = {name: _rule(own, name, known.get(fold(name))) for name in dict.fromkeys([*own.labels, *own.loose])}
    rules = known | {fold(name): rule for name, rule in named.items()}
    covers = None if own.covers is None else classes_named(own.covers)
    return replace(strict, source=own.source, rules=tuple(rules.values()), covers=covers)


def _refuse_packaged(source: str) -> None:
    named = re.fullmatch(r"[\w .()/+-]*\w[\w .()/+-]*", source)
    if not named or source in MAPPINGS:
        given = f"{source!r} is a packaged mapping" if named else f"{source!r} is no plain name"
        raise ConfigurationError(f"source: {given}. Give yours a name of its own, e.g. city-clinic-2026.")


def _refuse_stray(own: OwnMapping, known: Mapping[str, LabelRule]) -> None:
    """Refuses a reason for a name that is nowhere, and two spellings of one name."""
    for name in [*own.loose, *own.reasons]:
        if name not in own.labels and fold(name) not in known:
            raise ConfigurationError(f"{name!r} has a reason, but stands nowhere under `labels`. Add it there.")
    spelt: dict[str, str] = {}
    for name in own.labels:
        if (other := spelt.setdefault(fold(name), name)) != name:
            raise ConfigurationError(f"labels: {other!r} and {name!r} are one name. Keep one of them.")


def image_classes(own: OwnMapping | None) -> dict[str, tuple[str, ...]]:
    """What was looked for in images that are declared by themselves, by what names them."""
    return {} if own is None else {name: classes_named(words, f"images, {name}") for name, words in own.images.items()}


def _rule(own: OwnMapping, name: str, strict: LabelRule | None) -> LabelRule:
    classes = _classes(name, own.labels[name]) if name in own.labels or strict is None else strict.classes
    if name in own.loose:
        return LabelRule(name, classes, loose=True, reason=_reason(own.loose[name], f"loose, {name!r}"))
    if not classes and strict and strict.classes and name not in own.reasons:
        raise ConfigurationError(
            f"labels, {name!r}: it is known as {' and '.join(strict.classes)}, and images with it would be healthy of "
            f"that. Say why it is dropped (reasons: {{{name!r}: why}}), and take the class out of `covers`."
        )
    return LabelRule(name, classes, reason=own.reasons.get(name, "dropped by its mapping" if not classes else ""))


def _reason(text: str, where: str) -> str:
    if not text.strip():
        raise ConfigurationError(f"{where}: say why, in a few words; reports repeat it.")
    return text


def _classes(name: str, given: str | Iterable[str]) -> tuple[str, ...]:
    words = (given,) if isinstance(given, str) else tuple(given)
    if words == (DROP,):
        return ()
    if not words or not all(word.strip() for word in words):
        raise ConfigurationError(
            f"labels, {name!r}: no class yet. Give a tooth, drop, or one of {', '.join(CONDITIONS)}."
        )
    for word in words:
        _refuse_unknown(name, word)
    if fold(name) in DECIDUOUS and not set(words).isdisjoint(TEETH):
        raise ConfigurationError(f"labels, {name!r}: a deciduous tooth is never folded into a permanent one. Drop it.")
    return words


def _refuse_unknown(name: str, word: str) -> None:
    if word not in CLASSES:
        near = get_close_matches(word, CONDITIONS, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are {', '.join(CONDITIONS)}."
        raise ConfigurationError(f"labels, {name!r}: {word!r} is no class. {hint}")
