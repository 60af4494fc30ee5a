"""What `dentsight inspect --json` says of an export: what ingestion and normalisation would do with it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import UNSET, UnsetType

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.dataset import AgreementRow, LabelRow
from dentsight_pipeline.documents.evaluation import LabelCeiling
from dentsight_pipeline.documents.facts import (
    AppliedMapping,
    Cell,
    Corpus,
    ExportPart,
    Leakage,
    Privacy,
    Source,
    SplitTotals,
)


class InspectedSplit(SplitTotals, frozen=True, kw_only=True):
    """One split in numbers."""

    partial_annotation: int
    """Images with conditions but no tooth boxes."""
    unlisted_files: int
    """Image files that the annotations do not name."""


class Refusal(Document, frozen=True):
    """Why ingestion would stop; what the kind of error does not tell is absent."""

    kind: str
    """The error's type."""
    message: str
    """File, record and remedy, in a sentence."""
    file: str | UnsetType = UNSET
    """Of a record that cannot be used: its annotation file."""
    record: str | UnsetType = UNSET
    """Which one it is."""
    problem: str | UnsetType = UNSET
    """What is wrong with it."""
    remedy: str | UnsetType = UNSET
    """What helps."""
    label: str | UnsetType = UNSET
    """The name that the mapping does not know."""
    source: str | UnsetType = UNSET
    """The mapping."""
    suggestions: list[str] | UnsetType = UNSET
    """Known names that resemble it."""
    export: str | UnsetType = UNSET
    """The export that it is about, where several were looked at."""


class Inspection(Document, frozen=True, kw_only=True):
    """The whole report. With refusals, the other figures are those of the records that can be used."""

    corpus: Corpus
    """As reports name it."""
    identity: Source
    """What the export says of itself."""
    layout: str
    """As a raw export has it: `coco`, `yolo`, `voc`, …"""
    source: AppliedMapping
    """The label mapping, and the names left out on request."""
    sources_known: tuple[str, ...]
    """All label mappings."""
    mapping_digest: str
    """Of the mapping's rules."""
    splits: Mapping[str, InspectedSplit]
    """By name."""
    classes: Mapping[str, Mapping[str, int | bool]]
    """Each class that occurs or is a condition: annotations by split, their `total`, and whether it is `loose`."""
    labels: tuple[LabelRow, ...]
    """What each raw name becomes."""
    loose_classes: tuple[str, ...]
    """Classes that the source marks loosely."""
    coverage: Mapping[str, tuple[str, ...]]
    """What was looked for, by export: `teeth` for all 32, each condition by its name."""
    licences: Mapping[str, str]
    """By export, as it or its mapping says; `unknown` where neither does."""
    repairs: Mapping[str, int]
    """Things mended, by kind."""
    accepted_repairs: tuple[str, ...]
    """Kinds of them that were let through beyond their limits."""
    repair_list: tuple[Mapping[str, Cell], ...]
    """Each of them: the rows of `repairs.arrow`, without what is null."""
    dropped: Mapping[str, int]
    """Annotations left out, by raw name."""
    leakage: Leakage
    """What the splits share."""
    distinct_sources: int
    """Patients' images, as far as can be told."""
    agreement: tuple[AgreementRow, ...]
    """Annotators of the same picture, class by class."""
    label_ceilings: tuple[LabelCeiling, ...]
    """What the labels allow, by class; empty where nothing was labelled twice."""
    ceiling_warnings: tuple[str, ...]
    """A sentence for each floor of the policy that lies above it."""
    flags: Mapping[str, int]
    """Images with implausible teeth, by kind of flag."""
    partial_annotation: Mapping[str, int]
    """Images with conditions but no tooth boxes, by split."""
    unlabelled: Mapping[str, int]
    """Images without a label file of their own, by split: kept out unless they are accepted as negatives."""
    shared_names: int
    """Mere numbers that several files have for a name, where the export does not say that they are versions."""
    privacy: Privacy
    """What would be replaced and removed."""
    refusals: tuple[Refusal, ...]
    """Why ingestion would stop; empty when it would not."""
    unlabelled_files: tuple[str, ...] = ()
    """The unlabelled images by their paths."""
    exports: tuple[ExportPart, ...] | UnsetType = UNSET
    """What each export brings, where several were looked at."""
