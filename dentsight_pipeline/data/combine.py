"""Several exports as one dataset: each is normalised by itself, and here they get common ids, sources and facts.

A picture that occurs in two exports stays two images, each with the boxes and the coverage of its own annotators; they
share a source, so leakage and intervals treat them as one patient. Why not one image: docs/decisions/0022. What becomes
of the labels of one export is decided in `normalise.py`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dentsight_pipeline.data import agreement, leakage
from dentsight_pipeline.data.normalise import (
    NormalisedDocument,
    loose_classes,
    normalise_document,
    normalise_export,
    publish_splits,
    split_counts,
)
from dentsight_pipeline.data.ontology import CLASSES, covered_classes
from dentsight_pipeline.data.raw_export import RawExport, read_raw
from dentsight_pipeline.data.reading import Reading
from dentsight_pipeline.data.stems import one_group, recall_stems
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.annotations import ANNOTATIONS, IMAGES, Split
from dentsight_pipeline.documents.dataset import LabelRow
from dentsight_pipeline.documents.facts import (
    AppliedMapping,
    Corpus,
    Coverage,
    ExportPart,
    Leakage,
    Privacy,
    Source,
    SplitsFacts,
)
from dentsight_pipeline.documents.names import SPLITS, CorpusKind, raw_export_name
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


@dataclass(frozen=True)
class Part:
    """One export of several.

    Attributes:
        digest: Of its manifest; empty where it is not stored.
        raw: Its content.
        made: What became of it.
        stems: Stem, or its hash → stem group.
    """

    digest: str
    raw: RawExport
    made: NormalisedDocument
    stems: Mapping[str, str]


def normalise_exports(
    store: Store, raws: Sequence[Manifest], readings: Sequence[Reading], progress: Progress | None = None
) -> Manifest:
    """Maps, repairs and re-keys raw exports into one dataset, and publishes it.

    Args:
        store: Where the raw exports are, and the result goes.
        raws: Manifests of kind `raw-export`, in the order that ids follow.
        readings: How each is to be read.
        progress: Called with each stage.

    Returns:
        The published manifest of kind `normalized-splits`, which names each export as an input.

    Raises:
        DataError: As for `normalise_export`; or the stems of one are not known.
        ConfigurationError: A name to drop that no export has.
    """
    if len(raws) == 1:
        return normalise_export(store, raws[0], source=readings[0].source, drop=readings[0].drop, progress=progress)
    contents = [read_raw(store, raw, progress) for raw in raws]
    refuse_unknown_drops(contents, [name for reading in readings for name in reading.drop])
    parts = [
        Part(raw.digest, content, normalised(content, reading, progress), recall_stems(store, raw.digest))
        for raw, content, reading in zip(raws, contents, readings, strict=True)
    ]
    inputs = {raw_export_name(number): raw.digest for number, raw in enumerate(raws, start=1)}
    return publish_splits(store, raws, inputs, combined(parts))


def normalised(raw: RawExport, reading: Reading, progress: Progress | None = None, **more: Any) -> NormalisedDocument:
    """One export of several, read as it is to be."""
    drop = tuple(name for name in reading.drop if name in _names(raw))
    return normalise_document(raw, source=reading.source, drop=drop, progress=progress, **more)


def refuse_unknown_drops(raws: Iterable[RawExport], drop: Iterable[str]) -> None:
    """Refuses a name to drop that none of the exports has.

    Raises:
        ConfigurationError: There is one.
    """
    names = {name for raw in raws for name in _names(raw)}
    for name in drop:
        if name not in names:
            raise ConfigurationError(f"--drop {name!r}: no export has such a label. There are {sorted(names)}.")


def _names(raw: RawExport) -> set[str]:
    return {category.name for split in raw.splits for category in split.categories}


def combined(parts: Sequence[Part]) -> NormalisedDocument:
    """Several normalised exports as one dataset."""
    whole = _Whole(parts)
    splits = {name: whole.split(name) for name in SPLITS if any(name in part.made.splits for part in parts)}
    tables = list(splits.values())
    fingerprints = {digest: code for part in parts for digest, code in part.raw.fingerprints.items()}
    augmented = {name for name, part in zip(whole.names, parts, strict=True) if part.raw.facts.source.versions}
    found = agreement.second_readings(tables, fingerprints, augmented)
    return NormalisedDocument(
        splits,
        pa.concat_tables([part.made.repairs for part in parts]).unify_dictionaries(),
        sorted(whole.labels(), key=lambda row: (row.export, row.raw_name)),
        agreement.agreement_table(tables, CLASSES, found),
        found.pairs,
        whole.facts(splits),
    )


class _Whole:
    """All images of all exports, in the order of exports, splits and images, and what they share."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts, self.names = parts, export_names(parts)
        self.exports = np.array([k for k, part in enumerate(parts) for _ in range(_images(part))], dtype=np.int64)
        self.splits = [s.name for part in parts for s in part.raw.splits for _ in range(len(s.images))]
        self.sources = leakage.group_by_source(self._items())
        self.clean = leakage.clean_flags(self.splits, self.sources.numbers)

    def _items(self) -> Iterator[leakage.SourceItem]:
        same = one_group(part.stems for part in self.parts)
        for part in self.parts:
            for item in part.raw.sources():
                yield replace(item, stem_group=same.get(item.stem_group or "", item.stem_group))

    @cached_property
    def digests(self) -> NDArray[np.str_]:
        """Of every image's bytes."""
        return np.array(
            [item for part in self.parts for s in part.raw.splits for item in s.images["sha256"].to_pylist()]
        )

    def split(self, name: str) -> Split:
        """One split of all exports, one export after the other; ids go on from those of the splits before."""
        earlier = SPLITS[: SPLITS.index(name)]
        image = int(np.isin(self.splits, earlier).sum()) + 1
        before = [split for part in self.parts for split in part.made.splits.values() if split.name in earlier]
        box = sum(len(split.annotations) for split in before) + 1
        images, annotations = [IMAGES.empty_table()], [ANNOTATIONS.empty_table()]
        for k, part in enumerate(self.parts):
            if (own := part.made.splits.get(name)) is not None:
                rows = np.flatnonzero((self.exports == k) & (np.array(self.splits) == name))
                images.append(_with(own.images, IMAGES, self._keys(k, rows, image)))
                annotations.append(_with(own.annotations, ANNOTATIONS, _moved(own, image, box)))
                image, box = image + len(rows), box + len(own.annotations)
        return Split(name, CLASSES, _one(images), _one(annotations))

    def _keys(self, k: int, rows: NDArray[np.int64], first: int) -> dict[str, Any]:
        """What images are known by in the whole; `rows` are theirs among all."""
        return {
            "id": first + np.arange(len(rows)),
            "source_group": [self.sources[row] for row in rows],
            "clean": self.clean[rows],
            "export": [self.names[k]] * len(rows),
        }

    def labels(self) -> Iterator[LabelRow]:
        """What each raw name of each export became."""
        for name, part in zip(self.names, self.parts, strict=True):
            for row in part.made.labels:
                yield codec.convert({**codec.plain(row), "export": name}, LabelRow, "labels")

    def facts(self, splits: Mapping[str, Split]) -> SplitsFacts:
        """Of the whole dataset; counts are sums, except of what the exports share."""
        each, corpus = [part.made.facts for part in self.parts], _corpus(self.parts)
        shared = leakage.leakage_table(self.splits, self.sources.numbers)
        return SplitsFacts(
            corpus=corpus,
            source=Source(name=corpus.name, licence=corpus.licence),
            privacy=_privacy([facts.privacy for facts in each]),
            classes=CLASSES,
            mapping=_mapping([facts.mapping for facts in each]),
            loose_classes=loose_classes(splits.values()),
            dropped=_sum(facts.dropped for facts in each),
            composites=sum(facts.composites for facts in each),
            repairs=_sum(facts.repairs for facts in each),
            boxes_under_2_px=sum(facts.boxes_under_2_px for facts in each),
            splits={name: split_counts(split) for name, split in splits.items()},
            leakage=codec.convert(shared, Leakage, "leakage"),
            sources=len(np.unique(self.sources.numbers)),
            partial_annotation=_sum(facts.partial_annotation for facts in each),
            flags=_sum(facts.flags for facts in each),
            exports=tuple(self._part(k) for k in range(len(self.parts))),
        )

    def _part(self, k: int) -> ExportPart:
        facts, own = self.parts[k].made.facts, self.exports == k
        return ExportPart(
            name=self.names[k],
            raw_export=self.parts[k].digest,
            corpus=facts.corpus,
            source=facts.source,
            mapping=facts.mapping,
            images={name: split.images for name, split in facts.splits.items()},
            annotations=sum(split.annotations for split in facts.splits.values()),
            same_bytes=_also_in(self.digests, own),
            same_source=_also_in(self.sources.numbers, own),
        )


def export_names(parts: Sequence[Part]) -> list[str]:
    """What each export is called: its corpus, and the start of its digest (else its number) where two are alike."""
    names = [part.made.facts.corpus.name for part in parts]
    tags = [part.digest[:8] or str(number) for number, part in enumerate(parts, start=1)]
    return [f"{name} ({tag})" if names.count(name) > 1 else name for name, tag in zip(names, tags, strict=True)]


def _moved(own: Split, image: int, box: int) -> dict[str, Any]:
    """The ids of a split's boxes when its first image gets the id `image` and its first box the id `box`."""
    first = int(own.image_ids[0]) if len(own.images) else 0
    return {"id": box + np.arange(len(own.annotations)), "image_id": own.annotation_image_ids + (image - first)}


def _images(part: Part) -> int:
    return sum(len(split.images) for split in part.raw.splits)


def _also_in(keys: NDArray[Any], own: NDArray[np.bool_]) -> int:
    """How many of its own have the key of another's."""
    return int(np.isin(keys[own], keys[~own]).sum())


def _with(table: pa.Table, schema: pa.Schema, values: Mapping[str, Any]) -> pa.Table:
    return pa.table([values.get(name, table[name]) for name in schema.names], schema=schema)


def _one(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _corpus(parts: Sequence[Part]) -> Corpus:
    """The exports' corpora as one; drawn as soon as one is, because nothing drawn may be used on X-rays."""
    each = [part.made.facts.corpus for part in parts]
    kinds = [kind for kind in CorpusKind if any(corpus.kind == kind for corpus in each)]
    return Corpus(
        kind=CorpusKind.PHANTOM if CorpusKind.PHANTOM in kinds else kinds[-1],
        name=" + ".join(dict.fromkeys(corpus.name for corpus in each)),
        licence=" + ".join(sorted({corpus.licence for corpus in each})),
        pictures=", ".join(dict.fromkeys(corpus.pictures for corpus in each if corpus.pictures)),
    )


def _mapping(each: Sequence[AppliedMapping]) -> AppliedMapping:
    """The exports' mappings as one, for those who ask for one; `exports` has each."""
    digests = list(dict.fromkeys(mapping.digest for mapping in each))
    return AppliedMapping(
        source=" + ".join(dict.fromkeys(mapping.source for mapping in each)),
        chosen_by="several exports",
        evidence="each export by its own",
        digest=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        drop=tuple(sorted({name for mapping in each for name in mapping.drop})),
        coverage=_coverage(each),
    )


def _coverage(each: Sequence[AppliedMapping]) -> Coverage | None:
    """What was looked for in every image of every export; what else is looked for in some is said by each export."""
    if all(mapping.coverage is None for mapping in each):
        return None
    told = [mapping.coverage.digest if mapping.coverage else "everything" for mapping in each]
    return Coverage(
        declared=all(mapping.coverage is None or mapping.coverage.declared for mapping in each),
        classes=tuple(name for name in CLASSES if all(name in covered_classes(mapping) for mapping in each)),
        images=sum(mapping.coverage.images for mapping in each if mapping.coverage),
        digest=hashlib.sha256(" ".join(told).encode()).hexdigest(),
    )


def _privacy(each: Sequence[Privacy]) -> Privacy:
    return Privacy(
        names_replaced=sum(privacy.names_replaced for privacy in each),
        stem_kinds=_sum(privacy.stem_kinds for privacy in each),
        images_with_metadata=sum(privacy.images_with_metadata for privacy in each),
        metadata_removed=_sum(privacy.metadata_removed for privacy in each),
    )


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts of the same name together, zeros included."""
    total: Counter[str] = Counter()
    for own in counts:
        total.update(own)
    return dict(sorted(total.items()))
