"""Turns someone's export into a `raw-export`: the same pictures and labels, without anything that names a patient.

Images are stored under the digest of their bytes, their stems are kept only as groups, and of each original its sha256
and size stay, so that an audit can still prove where everything came from. What the labels mean and which boxes are
repaired is decided in `normalise.py`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from msgspec.structs import replace

from dentsight_pipeline.data.coverage import looked_for, refuse_uncovered
from dentsight_pipeline.data.image_properties import ImageProperties, remember_properties
from dentsight_pipeline.data.leakage import STEM_KINDS_THAT_PROVE
from dentsight_pipeline.data.modality import LOOKED_AT, unlike_panoramic
from dentsight_pipeline.data.ontology import TEETH, LabelMapping, LabelRule
from dentsight_pipeline.data.own_mapping import image_classes
from dentsight_pipeline.data.privacy import stem_kind
from dentsight_pipeline.data.raw_export import RawExport, raw_documents
from dentsight_pipeline.data.stems import remember_stems
from dentsight_pipeline.data.stored_images import (
    KnownOriginals,
    Originals,
    StoredImage,
    remember_images,
    stored_documents,
)
from dentsight_pipeline.data.tooth_signs import images_to_look_at, tooth_signs
from dentsight_pipeline.documents.annotations import RawSplit
from dentsight_pipeline.documents.facts import LabelSource, Privacy, RawExportFacts, RawSplitCounts
from dentsight_pipeline.documents.mapping import OwnMapping
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.errors import ConfigurationError, UnknownLabelError
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.identity import corpus, declared_versions, is_resized, source_identity
from dentsight_pipeline.intake.images import HashedFiles, ImageKeeper, StoredImages
from dentsight_pipeline.intake.limits import UNLABELLED, Limits
from dentsight_pipeline.intake.mapping_file import MAPPING_FILE, by_digest, chosen, mapping_in
from dentsight_pipeline.intake.open import open_export
from dentsight_pipeline.intake.raw_split import RawSplits, rows_of_images, stem_groups
from dentsight_pipeline.intake.read import missing_split, read_export
from dentsight_pipeline.intake.records import Export, ExportSplit, Refusals
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.manifest import Entry, Manifest

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store


@dataclass(frozen=True, slots=True)
class Request:
    """How an export is to be read."""

    label_source: str | None = None
    """The label mapping that normalisation will use; None chooses by READMEs and category names."""
    drop: Collection[str] = ()
    """Label names that normalisation will drop."""
    require: Sequence[str] = ()
    """Splits that must be there."""
    accept: Collection[str] = ()
    """Kinds of repairs that may be beyond their limits (`limits.py`)."""
    identity: Mapping[str, str | int] | None = None
    """Known facts about the source (workspace, project, version …), e.g. from Roboflow's API."""
    workers: int = 4
    """Threads."""
    progress: Progress | None = None
    """Called as images are done."""
    mapping: OwnMapping | None = None
    """A mapping of one's own; without it and `label_source`, the one at the export's root."""
    remembered: OwnMapping | None = None
    """The mapping that a dataset key remembers, for an export that brings none now."""
    alone: bool = True
    """Whether a label to drop must be one of its own: of several exports it may be another's."""


@dataclass(frozen=True, slots=True)
class ExportContent:
    """What was read of an export, before it is stored."""

    raw: RawExport
    originals: Originals
    unlabelled: Sequence[str]
    """Paths of the images without a label file, for the person who asks; never stored."""
    stems: Mapping[str, str]
    """Stem → stem group, of stems that prove a source."""
    properties: Mapping[str, ImageProperties]
    """Of the images that are new to the store, by their stored sha256."""


def ingest_export(source: str | Path, store: Store, request: Request | None = None) -> Manifest:
    """Stores an export, pseudonymised, and publishes its manifest.

    Every record is checked, and every label looked up, before the first image is stored. An unchanged export is read
    once, to hash it, and nothing is written; a new version costs the work of its new images.

    Args:
        source: A folder, a zip, or an `s3://` address.
        store: Where it goes.
        request: How it is to be read.

    Returns:
        The published manifest of kind `raw-export`.

    Raises:
        DataError: Something is neither usable nor repairable; the message names file, record and remedy. No manifest
            is published then.
        ConfigurationError: No such label mapping, or kind of repairs.
    """
    known = KnownOriginals(store)
    with open_export(source) as files:
        content = read_content(files, request or Request(), Refusals(), store, known)
    manifest = _stored(store, content)
    if not store.has_manifest(manifest.digest):
        store.put_manifest(manifest)
    remember_images(store, manifest.digest, content.raw.fingerprints, stripped=True)
    remember_properties(store, manifest.digest, content.originals, content.properties, known.manifests)
    remember_stems(store, manifest.digest, content.stems)
    known.add(store, manifest.digest)
    return manifest


def read_content(
    files: ExportFiles,
    request: Request,
    refusals: Refusals,
    store: Store | None = None,
    known: KnownOriginals | None = None,
) -> ExportContent:
    """Reads a whole export, images included, and pseudonymises it; stores image bytes when `store` is given.

    Args:
        files: The export's files.
        request: How they are to be read.
        refusals: Where refused records go.
        store: Where image bytes go; None keeps nothing, as `inspect` does.
        known: What is known about originals.

    Raises:
        DataError: The export cannot be read, or (unless collected) a record cannot be used.
    """
    limits = Limits(request.accept, refusals)
    hashed = HashedFiles(files)
    export, below = read_export(hashed, refusals)
    if limits.accepts(UNLABELLED, any(split.unlabelled for split in export.splits)):
        export = dataclasses.replace(export, splits=[split.with_negatives() for split in export.splits])
    own = mapping_of(below, request)
    _refuse_missing_splits(below, export, request.require, refusals)
    choice = chosen(export, request.label_source, own)
    drop = request.drop if request.alone else set(request.drop) & set(export.category_names())
    rules = resolved_labels(export, choice.mapping, drop, refusals)

    # What a mapping says is `mapping.json`, wherever it came from.
    other_files = tuple(file for file in hashed.seen() if not (file.name or "").endswith(MAPPING_FILE))
    teeth = _tooth_names(rules)
    shown = frozenset(path for split in export.splits for path in _to_look_at(split, teeth))
    known = known or KnownOriginals()
    coloured = _spread([image.path for split in export.splits for image in split.images if image.exists])
    keeper = ImageKeeper(below, store, known, request.workers, request.progress, shown, coloured)
    images = keeper.keep(chain.from_iterable(split.images for split in export.splits), refusals)
    groups = stem_groups(export.splits, images.by_path)
    maker = RawSplits(images.by_path, groups, refusals, limits, versioned=declared_versions(export) > 1)
    splits = tuple(map(maker.make, export.splits))
    for split in splits:
        for kind, (wrong, total) in tooth_signs(split, teeth, images.grays).items():
            limits.judge(split.file, kind, wrong, total)
    own = own and by_digest(own, {path: image.sha256 for path, image in images.by_path.items()})
    _refuse_uncovered(splits, choice.mapping, rules, own, refusals)
    repairs = maker.repairs()
    raw = RawExport(
        export.layout,
        splits,
        repairs,
        images.fingerprints,
        replace(_facts(export, request, own, splits, repairs, images), accepted_repairs=tuple(sorted(limits.exceeded))),
        own,
    )
    proving = {stem: group for stem, group in groups.items() if stem_kind(stem) in STEM_KINDS_THAT_PROVE}
    unlabelled = [image.path for split in export.splits for image in split.unlabelled]
    originals = Originals(files=other_files, images=images.originals())
    return ExportContent(raw, originals, unlabelled, proving, images.properties)


def mapping_of(files: ExportFiles, request: Request) -> OwnMapping | None:
    """The mapping that an export brings, or that somebody brings for it; none where a packaged one is asked for."""
    if request.label_source is not None or request.mapping is not None:
        return request.mapping
    return mapping_in(files) or request.remembered


def _facts(
    export: Export,
    request: Request,
    own: OwnMapping | None,
    splits: Sequence[RawSplit],
    repairs: pa.Table,
    images: StoredImages,
) -> RawExportFacts:
    identity = source_identity(export, request.identity)
    counts = {
        split.name: RawSplitCounts(
            images=len(split.images), annotations=len(split.annotations), unlisted_files=unread.unlisted_files
        )
        for split, unread in zip(splits, export.splits, strict=True)
    }
    return RawExportFacts(
        corpus=corpus(export, identity, own.licence if own else "", _pictures(export, images)),
        source=identity,
        layout=export.layout,
        label_source=_label_source(export, own),
        splits=counts,
        repairs=dict(sorted(Counter(repairs["kind"].to_pylist()).items())),
        privacy=_privacy(export, images.by_path),
    )


def _spread(paths: Sequence[str]) -> frozenset[str]:
    """Some of the paths, evenly spread."""
    return frozenset(paths[:: max(1, len(paths) // LOOKED_AT)][:LOOKED_AT])


def _pictures(export: Export, images: StoredImages) -> str:
    """What they look like where they do not look like panoramic X-rays."""
    sizes = [(image.width, image.height) for image in images.by_path.values()]
    return unlike_panoramic(sizes, images.colours, resized=is_resized(export))


def _refuse_missing_splits(files: ExportFiles, export: Export, required: Sequence[str], refusals: Refusals) -> None:
    present = [split.name for split in export.splits]
    lacking = [split for split in required if split not in present]
    listed = {image.path for split in export.splits for image in split.images} if lacking else set()
    for split in lacking:
        refusals.add(missing_split(files.name, split, present, sorted(files.paths() - listed)))


def resolved_labels(
    export: Export, mapping: LabelMapping, drop: Collection[str], refusals: Refusals
) -> dict[str, LabelRule]:
    """The rule of each label name that the mapping knows; refuses all others, and every `drop` that is no label.

    Raises:
        UnknownLabelError: The first unknown or ambiguous name, unless refusals are collected.
        ConfigurationError: A name to drop occurs in no category.
    """
    for name in drop:
        if name not in export.category_names():
            names = ", ".join(map(repr, export.category_names()[:70]))
            raise ConfigurationError(f"--drop {name!r}: the export has no such label. It has {names}.")
    counts = sum((split.label_counts for split in export.splits), Counter[str]())
    seen: set[str] = set(drop)
    rules: dict[str, LabelRule] = {}
    for split in export.splits:
        for category in split.categories:
            if category.placeholder or category.name in seen:
                continue
            seen.add(category.name)
            where = f"{split.file}, category {category.id} ({counts[category.name]} annotations)"
            try:
                rules[category.name] = mapping.resolve(category.name, where)
            except UnknownLabelError as error:
                refusals.add(error)
    return rules


def _refuse_uncovered(
    splits: Sequence[RawSplit],
    mapping: LabelMapping,
    rules: Mapping[str, LabelRule],
    own: OwnMapping | None,
    refusals: Refusals,
) -> None:
    """Refuses boxes of classes that the mapping says nobody looked for; unknown names are refused elsewhere."""
    coverage = looked_for(mapping, rules, splits, image_classes(own))
    for split in splits:
        refuse_uncovered(split, rules, coverage, refusals.add)


def _tooth_names(rules: Mapping[str, LabelRule]) -> dict[str, str]:
    """Raw name → FDI number, of the names that mean one tooth."""
    return {name: rule.classes[0] for name, rule in rules.items() if rule.classes and rule.classes[0] in TEETH}


def _to_look_at(split: ExportSplit, teeth: Mapping[str, str]) -> list[str]:
    """Paths of the images whose pixels tell whether the boxes lie on teeth."""
    rows = images_to_look_at(split.annotations["label"], rows_of_images(split), teeth)
    return [split.images[row].path for row in rows]


def _label_source(export: Export, own: OwnMapping | None) -> LabelSource:
    """The mapping that it brings, else the one that READMEs and names call for, whatever `--source` says."""
    choice = chosen(export, None, own)
    return LabelSource(source=choice.source, chosen_by=choice.chosen_by, evidence=choice.evidence)


def _privacy(export: Export, images: Mapping[str, StoredImage]) -> Privacy:
    listed = [image for split in export.splits for image in split.images]
    kinds = Counter(stem_kind(image.stem) for image in listed)
    removed = [images[image.path].removed for image in listed if image.path in images]
    return Privacy(
        names_replaced=len(listed),
        stem_kinds=dict(sorted(kinds.items())),
        images_with_metadata=sum(map(bool, removed)),
        metadata_removed=dict(sorted(Counter(chain.from_iterable(removed)).items())),
    )


def _stored(store: Store, content: ExportContent) -> Manifest:
    """The manifest, its documents stored; its images are."""
    entries = stored_documents(store, raw_documents(content.raw, content.originals))
    images = {image.path: Entry(image.sha256, image.size) for image in content.originals.images}
    return Manifest(Kind.RAW_EXPORT, entries | images, {}, content.raw.facts)
