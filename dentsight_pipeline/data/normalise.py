"""Turns a raw export into `normalized-splits`: 45 known classes, valid boxes, dense ids, sources and clean flags.

Every repair is counted and listed one by one; whatever would need a guess is refused. Reading exports belongs in
`intake/`, what becomes of one split's boxes in `normalised_split.py`, narrowing to conditions or teeth in `subset.py`,
the tables of label names in `ontology.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dentsight_pipeline.data import agreement, leakage
from dentsight_pipeline.data.coverage import LookedFor, looked_for, refuse_uncovered
from dentsight_pipeline.data.labels import label_rules, label_table
from dentsight_pipeline.data.normalised_split import ImageKeys, normalised_split
from dentsight_pipeline.data.ontology import CLASSES, LabelRule, SourceChoice, mapping_for
from dentsight_pipeline.data.own_mapping import image_classes, label_mapping
from dentsight_pipeline.data.raw_export import RawExport, read_raw
from dentsight_pipeline.data.splits import split_tables, store_tables
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.annotations import Split
from dentsight_pipeline.documents.dataset import SECOND_READINGS, AgreementRow, LabelRow, SecondReading
from dentsight_pipeline.documents.facts import AppliedMapping, Leakage, SplitCounts, SplitsFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.progress import Progress

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Entry, Manifest
    from dentsight_pipeline.store.objects import Store

TINY_PX = 2.0
"""Width or height below which a box is counted as tiny; it stays."""


@dataclass(frozen=True)
class NormalisedDocument:
    """The normalised splits, before they are stored.

    Attributes:
        splits: By name, classes 1–45.
        repairs: Everything that was mended, in ingestion and here, a table of schema `REPAIRS`.
        labels: What each raw name became, in alphabetical order.
        agreement: The annotator-agreement table of same-source pairs.
        second_readings: Those pairs.
        facts: The facts of the manifest.
    """

    splits: Mapping[str, Split]
    repairs: pa.Table
    labels: list[LabelRow]
    agreement: list[AgreementRow]
    second_readings: list[SecondReading]
    facts: SplitsFacts


def normalise_export(
    store: Store,
    raw: Manifest,
    *,
    source: str | None = None,
    drop: Collection[str] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Maps, repairs and re-keys a raw export, and publishes the result.

    Args:
        store: Where the raw export is, and the result goes.
        raw: A manifest of kind `raw-export`.
        source: The label mapping; None takes the one that READMEs and category names call for.
        drop: Raw label names to leave out.
        progress: Called with each stage.

    Returns:
        The published manifest of kind `normalized-splits`.

    Raises:
        UnknownLabelError: A label that the mapping does not know.
        AnnotationError: A box that lies wholly outside its image, or of a class that was not looked for there.
        ConfigurationError: No such mapping, or a name to drop that does not occur.
    """
    made = normalise_document(read_raw(store, raw, progress), source=source, drop=drop, progress=progress)
    return publish_splits(store, [raw], {Asset.RAW_EXPORT: raw.digest}, made)


def publish_splits(
    store: Store, raws: Sequence[Manifest], inputs: Mapping[str, str], made: NormalisedDocument
) -> Manifest:
    """Publish normalised splits with the images of the raw exports that they came from, named as inputs."""
    from dentsight_pipeline.store.content import build

    entries = {path: entry for raw in raws for path, entry in raw.entries.items()}
    files: dict[str, Entry | bytes] = {
        **store_tables(store, split_tables(made.splits.values()) | {"repairs.arrow": made.repairs}),
        "labels.json": codec.write(made.labels),
        "agreement.json": codec.write(made.agreement),
        SECOND_READINGS: codec.write(made.second_readings),
    }
    for split in made.splits.values():
        files |= {name: entries[name] for name in split.images["file_name"].to_pylist()}
    manifest = build(store, Kind.NORMALIZED_SPLITS, files, inputs, made.facts)
    if not store.has_manifest(manifest.digest):
        store.put_manifest(manifest)
    return manifest


def _raise(error: DataError) -> None:
    raise error


def normalise_document(
    raw: RawExport,
    *,
    source: str | None = None,
    drop: Collection[str] = (),
    progress: Progress | None = None,
    refuse: Callable[[DataError], None] = _raise,
) -> NormalisedDocument:
    """The normalisation itself, on content instead of stored files; arguments and errors as for `normalise_export`.

    `refuse` takes boxes of classes that nobody looked for.
    """
    report = progress or (lambda stage, done, total: None)
    choice = _choice(raw, source)
    rules = label_rules(choice.mapping, drop, raw.splits)
    report("sources", 0, 1)
    sources = _Sources(raw)
    report("sources", 1, 1)
    coverage = looked_for(choice.mapping, rules, raw.splits, image_classes(raw.mapping if choice.own else None))
    for split in raw.splits:
        refuse_uncovered(split, rules, coverage, refuse)
    splits, repairs = _normalised(raw, rules, coverage, sources, report)
    labels = label_table(rules, raw.splits)
    facts = _facts(raw, choice.applied(drop, coverage.facts()), splits, sources, repairs, labels)
    pairs = agreement.second_readings(list(splits.values()), raw.fingerprints, _augmented(raw))
    rows = agreement.agreement_table(list(splits.values()), CLASSES, pairs)
    return NormalisedDocument(splits, repairs, labels, rows, pairs.pairs, facts)


def _augmented(raw: RawExport) -> Collection[str]:
    """The export, where it says that it holds several versions of each image."""
    return {raw.facts.corpus.name} if raw.facts.source.versions else ()


class _Sources:
    """The split of each image, in the order of splits and images, its source, and whether no other split has that."""

    def __init__(self, raw: RawExport) -> None:
        self.splits = [split.name for split in raw.splits for _ in range(len(split.images))]
        self.names = leakage.group_by_source(raw.sources())
        self.clean = leakage.clean_flags(self.splits, self.names.numbers)


def _normalised(
    raw: RawExport, rules: Mapping[str, LabelRule], coverage: LookedFor, sources: _Sources, report: Progress
) -> tuple[dict[str, Split], pa.Table]:
    """Every split, and what was mended in ingestion and here."""
    splits: dict[str, Split] = {}
    repairs = [raw.repairs]
    images = boxes = 0
    for number, split in enumerate(raw.splits):
        report("normalise", number, len(raw.splits))
        own = slice(images, images + len(split.images))
        keys = ImageKeys(images + 1, boxes + 1, sources.names[own], sources.clean[own], raw.facts.corpus.name, coverage)
        splits[split.name], mended = normalised_split(split, rules, keys)
        images, boxes = own.stop, boxes + len(splits[split.name].annotations)
        repairs.append(mended)
    report("normalise", len(raw.splits), len(raw.splits))
    return splits, pa.concat_tables(repairs).unify_dictionaries()


def _choice(raw: RawExport, source: str | None) -> SourceChoice:
    if source is not None:
        return SourceChoice(mapping_for(source).source, "option", f"--source {source}")
    own, suggested = raw.mapping, raw.facts.label_source
    return SourceChoice(
        suggested.source, suggested.chosen_by, suggested.evidence, None if own is None else label_mapping(own)
    )


def _facts(
    raw: RawExport,
    mapping: AppliedMapping,
    splits: Mapping[str, Split],
    sources: _Sources,
    repairs: pa.Table,
    labels: Sequence[LabelRow],
) -> SplitsFacts:
    shared = leakage.leakage_table(sources.splits, sources.names.numbers)
    return SplitsFacts(
        corpus=raw.facts.corpus,
        source=raw.facts.source,
        privacy=raw.facts.privacy,
        classes=CLASSES,
        mapping=mapping,
        loose_classes=loose_classes(splits.values()),
        dropped={row.raw_name: row.total for row in labels if not row.classes},
        composites=sum(row.total for row in labels if len(row.classes) > 1),
        repairs=_counts(repairs["kind"].to_pylist()),
        boxes_under_2_px=sum(map(_under_2_px, splits.values())),
        splits={name: split_counts(split) for name, split in splits.items()},
        leakage=codec.convert(shared, Leakage, "leakage"),
        sources=len(np.unique(sources.names.numbers)),
        partial_annotation={name: _true(split.images["partial_annotation"]) for name, split in splits.items()},
        flags=_counts(flag.partition(":")[0] for split in splits.values() for flag in _flags(split)),
    )


def split_counts(split: Split) -> SplitCounts:
    """What a split holds: images, clean images, annotations, and annotations of each class, zeros included."""
    of_class = np.bincount(split.category_ids, minlength=len(split.classes) + 1)[1:]
    return SplitCounts(
        images=len(split.images),
        clean_images=_true(split.images["clean"]),
        images_without_annotations=int((np.diff(split.offsets) == 0).sum()),
        annotations=len(split.annotations),
        class_counts=dict(zip(split.classes, of_class.tolist(), strict=True)),
    )


def loose_classes(splits: Iterable[Split]) -> tuple[str, ...]:
    """Classes of which any box has a label that its source uses loosely, in class order."""
    loose = {k for split in splits for k in np.unique(split.category_ids[split.annotations["loose"].to_numpy()])}
    return tuple(CLASSES[number - 1] for number in sorted(loose))


def _under_2_px(split: Split) -> int:
    return int((split.boxes_xywh_px[:, 2:] < TINY_PX).any(axis=1).sum())


def _flags(split: Split) -> list[str]:
    return pc.list_flatten(split.images["flags"]).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _true(column: pa.ChunkedArray) -> int:
    return int(column.to_numpy().sum())
