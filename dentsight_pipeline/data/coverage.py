"""What the annotators of an export looked for: a class without a box says "none here" only where somebody looked.

A mapping declares it (`covers`), for the export and for single images; where it does not, a class counts as looked for
when the export has a box of it. What the names mean is in `ontology.py`; the column `covered` of a split is the answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from dentsight_pipeline.data.ontology import CLASSES, CONDITIONS, MAPPINGS, TEETH, LabelMapping, LabelRule
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.facts import Coverage
from dentsight_pipeline.errors import AnnotationError, ConfigurationError, DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from dentsight_pipeline.documents.annotations import RawSplit

GROUPS: Mapping[str, tuple[str, ...]] = {"teeth": TEETH, "conditions": CONDITIONS}
"""Words of `covers` that stand for several classes."""


def classes_named(names: Iterable[str], where: str = "covers") -> tuple[str, ...]:
    """The classes that names of `covers` mean, in class order.

    Raises:
        ConfigurationError: A name is neither a class nor a group.
    """
    found: set[str] = set()
    for name in names:
        if name not in GROUPS and name not in CLASSES:
            known = [*GROUPS, *CONDITIONS]
            near = " or ".join(map(repr, get_close_matches(name, known, n=3, cutoff=0.5))) or ", ".join(known)
            raise ConfigurationError(f"{where}: {name!r} is no class that can be looked for. Did you mean {near}?")
        found |= {*GROUPS.get(name, (name,))}
    return tuple(name for name in CLASSES if name in found)


@dataclass(frozen=True)
class LookedFor:
    """What was looked for in one export.

    Attributes:
        source: The mapping's name.
        classes: In class order, of every image that `images` does not name.
        declared: The mapping says so; else it is what the export has boxes of.
        images: Stored sha256 → classes, of images with a declaration of their own.
        at_findings: Raw name → classes that were looked for where it has a box, and nowhere else.
    """

    source: str
    classes: tuple[str, ...] = CLASSES
    declared: bool = True
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    at_findings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def matrix(self, raw: RawSplit) -> NDArray[np.bool_]:
        """Whether a class was looked for in an image, shape [images, classes]."""
        usual, of = _mask(self.classes), {digest: _mask(classes) for digest, classes in self.images.items()}
        rows = [of.get(digest, usual) for digest in raw.images["sha256"].to_pylist()]
        covered = np.array(rows, dtype=np.bool_).reshape(len(rows), len(CLASSES))
        for name, classes in self.at_findings.items():
            covered[np.ix_(_images_with(raw, name), np.flatnonzero(_mask(classes)))] = True
        return covered

    def facts(self) -> Coverage | None:
        """As the dataset's facts have it; None when everything was looked for everywhere."""
        if self.classes == CLASSES and not self.images:
            return None
        at_findings = {"at_findings": dict(self.at_findings)} if self.at_findings else {}
        content = codec.write({"classes": self.classes, "images": dict(self.images)} | at_findings)
        digest = hashlib.sha256(content).hexdigest()
        return Coverage(declared=self.declared, classes=self.classes, images=len(self.images), digest=digest)


def looked_for(
    mapping: LabelMapping,
    rules: Mapping[str, LabelRule],
    splits: Sequence[RawSplit],
    images: Mapping[str, tuple[str, ...]] | None = None,
) -> LookedFor:
    """What was looked for in an export.

    Args:
        mapping: Its source's.
        rules: What each of its raw names becomes.
        splits: All of it.
        images: Stored sha256 → classes, of images that are declared by themselves.
    """
    seen = _seen(rules, splits)
    if mapping.covers is None:
        return LookedFor(mapping.source, seen, False, images or {})
    covers = _plausible(mapping.covers, seen) if mapping.source in MAPPINGS else mapping.covers
    return LookedFor(mapping.source, covers, True, images or {}, _at_findings(mapping, rules))


def _plausible(covers: Iterable[str], seen: Iterable[str]) -> tuple[str, ...]:
    """What a packaged mapping declares, but no teeth (no conditions) where an export has no box of any.

    Parts of known sources are handed on, teeth alone or conditions alone, under the README of the whole.
    """
    there = {cls in TEETH for cls in seen}
    return tuple(cls for cls in covers if (cls in TEETH) in there)


def _seen(rules: Mapping[str, LabelRule], splits: Sequence[RawSplit]) -> tuple[str, ...]:
    """Classes that there is any box of."""
    names = {str(name) for split in splits for name in split.annotations["label"].unique().to_pylist()}
    seen = {cls for name in names if name in rules for cls in rules[name].classes}
    return tuple(cls for cls in CLASSES if cls in seen)


def _at_findings(mapping: LabelMapping, rules: Mapping[str, LabelRule]) -> dict[str, tuple[str, ...]]:
    """Raw name → those of its classes that its source marks only beside something else."""
    here = {name: tuple(cls for cls in rule.classes if cls in mapping.at_findings) for name, rule in rules.items()}
    return {name: classes for name, classes in sorted(here.items()) if classes}


def refuse_uncovered(
    raw: RawSplit, rules: Mapping[str, LabelRule], coverage: LookedFor, refuse: Callable[[DataError], None]
) -> None:
    """Refuses every label of a split that has a box where nobody looked for its class: one of the two is wrong."""
    if not coverage.images and (not coverage.declared or coverage.classes == CLASSES):
        return
    there, image, where = _labels(raw).dictionary.to_pylist(), raw.image_rows, coverage.matrix(raw)
    for label, cls in [(name, cls) for name in there if name in rules for cls in rules[name].classes]:
        boxes = _boxes_of(raw, label)
        wrong = boxes[(image[boxes] >= 0) & ~where[image[boxes], CLASSES.index(cls)]]
        if len(wrong):
            refuse(_uncovered(raw, int(wrong[0]), len(wrong), label, cls, coverage))


def _labels(raw: RawSplit) -> pa.DictionaryArray:
    return raw.annotations["label"].combine_chunks()


def _boxes_of(raw: RawSplit, name: str) -> NDArray[np.int64]:
    """Rows of a label's annotations."""
    labels = _labels(raw)
    return np.flatnonzero(labels.indices.to_numpy() == labels.dictionary.to_pylist().index(name))


def _images_with(raw: RawSplit, name: str) -> NDArray[np.int64]:
    """Rows of the images that have a label."""
    found = raw.image_rows[_boxes_of(raw, name)] if name in _labels(raw).dictionary.to_pylist() else np.array([], int)
    return np.unique(found[found >= 0])


def _uncovered(raw: RawSplit, row: int, count: int, name: str, cls: str, coverage: LookedFor) -> AnnotationError:
    (first,) = raw.annotations.slice(row, 1).to_pylist()
    word = "teeth" if cls in TEETH else cls
    return AnnotationError(
        raw.file,
        f"annotation {first['id']} of image {first['image_id']} (one of {count} {name!r})",
        f"it marks {cls}, which mapping {coverage.source!r} says was not looked for in its image",
        f"Add {word!r} to `covers` in a mapping of your own (`dentsight inspect EXPORT --write-mapping FILE` writes "
        f"one), or leave the label out with --drop {name!r}.",
    )


def _mask(classes: Iterable[str]) -> NDArray[np.bool_]:
    return np.isin(CLASSES, list(classes))
