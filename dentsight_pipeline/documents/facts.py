"""What the manifest of each kind says of its product: one type for a kind, read with `Manifest.facts_as`.

Facts are part of a product's identity: a field that is added here changes the digests of its kind, and a field that a
product lacks must stay absent in its canonical bytes (`omit_defaults`), not become null. Add a field when a reader
needs it without opening a file of the product; what is long belongs in a file.
"""

from __future__ import annotations

from collections.abc import Mapping

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.names import CorpusKind, Kind
from dentsight_pipeline.documents.verdict import Override

Cell = str | int | float | bool | None
"""What a table's cell or a recipe's field holds."""


class Facts(Document, frozen=True):
    """Base of the facts of every kind."""


class Corpus(Document, frozen=True, omit_defaults=True):
    """The corpus as every report names it."""

    kind: CorpusKind
    """Drawn, or a person's export."""
    name: str
    """Project and version, or the phantom's own sentence."""
    licence: str
    """As its source says; `unknown` when it says nothing."""
    pictures: str = ""
    """What the pictures look like where they do not look like panoramic X-rays; absent elsewhere."""


class PolicyVersion(Document, frozen=True):
    """The policy that a verdict was given under."""

    name: str
    """E.g. `card`."""
    version: int
    """Counts up with every change of a floor."""
    digest: str
    """sha256 of its canonical form."""


# Data ----------------------------------------------------------------------------------------------------------------


class Source(Document, frozen=True, omit_defaults=True):
    """What an export says of where it comes from, identifiers masked; what it does not say is absent."""

    name: str = ""
    """The project's title."""
    workspace: str = ""
    """Roboflow's workspace."""
    project: str = ""
    """Roboflow's project."""
    version: str = ""
    """Roboflow's version."""
    licence: str = ""
    """As README or annotation files name it."""
    url: str = ""
    """Roboflow Universe's address."""
    created: str = ""
    """When Roboflow made the version, as its API says."""
    exported_at: str = ""
    """As README.roboflow.txt writes it."""
    annotation_format: str = ""
    """E.g. `COCO Segmentation`."""
    versions: int = 0
    """Versions of each source image that it says it holds, augmented ones included; absent when it says nothing."""


class LabelSource(Document, frozen=True):
    """The label mapping that an export calls for."""

    source: str
    """A key of `ontology.MAPPINGS`."""
    chosen_by: str
    """`option`, `readme`, `category names` or `default`."""
    evidence: str
    """What was found, in words."""


class Coverage(Document, frozen=True, omit_defaults=True, kw_only=True):
    """What the annotators of an export looked for; only there a missing box means that there is none."""

    declared: bool
    """Whether the mapping says so; else a class counts as looked for where the export has a box of it."""
    classes: tuple[str, ...]
    """In class order, of every image without a declaration of its own."""
    images: int = 0
    """Images with a declaration of their own."""
    digest: str
    """sha256 of all of it, the images' own included."""


class AppliedMapping(LabelSource, frozen=True, omit_defaults=True):
    """The label mapping that was applied."""

    digest: str
    """sha256 of the mapping's rules."""
    drop: tuple[str, ...]
    """Raw names that were left out on request, in alphabetical order."""
    coverage: Coverage | None = None
    """What was looked for; absent when it was everything, everywhere."""


class Privacy(Document, frozen=True):
    """What was replaced and removed because it could name a patient."""

    names_replaced: int
    """File names, one for each image."""
    stem_kinds: Mapping[str, int]
    """How many of them looked like a UID, a number, a date …"""
    images_with_metadata: int
    """Images that carried any."""
    metadata_removed: Mapping[str, int]
    """Blocks removed, by kind."""


class RawSplitCounts(Document, frozen=True):
    """One split of a raw export in numbers."""

    images: int
    """Listed and stored."""
    annotations: int
    """As the export has them."""
    unlisted_files: int
    """Image files that the annotations do not name; not stored."""


class RawExportFacts(Facts, frozen=True, omit_defaults=True):
    """Facts of a `raw-export`."""

    corpus: Corpus
    """As reports name it."""
    source: Source
    """Where it comes from."""
    layout: str
    """`coco`, `dentex` (hierarchical COCO), `yolo`, `voc` or `csv`."""
    label_source: LabelSource
    """The mapping that READMEs and names call for, whatever was asked for."""
    splits: Mapping[str, RawSplitCounts]
    """By split."""
    repairs: Mapping[str, int]
    """Things mended at ingestion, by kind."""
    privacy: Privacy
    """What was replaced and removed."""
    accepted_repairs: tuple[str, ...] = ()
    """Kinds that were beyond their limits in some split, and accepted by name; absent when there are none."""


class SplitTotals(Document, frozen=True):
    """One split of a dataset in numbers."""

    images: int
    """All."""
    clean_images: int
    """Those that share their source with no other split."""
    images_without_annotations: int
    """True negatives."""
    annotations: int
    """Boxes."""


class SplitCounts(SplitTotals, frozen=True):
    """One split of a dataset in numbers, class by class."""

    class_counts: Mapping[str, int]
    """Boxes of each class, zeros included."""


class SplitLeakage(Document, frozen=True):
    """How many images of one split share their source with others."""

    images: int
    """All images of the split."""
    shared_with_train: int
    """With the training split."""
    shared_with_any: int
    """With any other split."""
    clean: int
    """With none."""


class Leakage(Document, frozen=True, omit_defaults=True):
    """What the splits share; a split that is not there is absent."""

    pairs: Mapping[str, int]
    """Pairs of images with one source by pair of splits, e.g. `test-train`."""
    valid: SplitLeakage | None = None
    """Of the valid split."""
    test: SplitLeakage | None = None
    """Of the test split."""


class ExportPart(Document, frozen=True):
    """What one of a dataset's several exports brought."""

    name: str
    """As the images' column `export` has it."""
    raw_export: str
    """Digest of its manifest."""
    corpus: Corpus
    """As it names itself."""
    source: Source
    """Where it comes from."""
    mapping: AppliedMapping
    """The label mapping that it was read with."""
    images: Mapping[str, int]
    """By split."""
    annotations: int
    """Boxes."""
    same_bytes: int
    """Its images that another export has too, byte for byte."""
    same_source: int
    """Its images that share their source with one of another export; those of the same bytes are among them."""


class ExportSetFacts(Facts, frozen=True):
    """Facts of an `export-set`: what a dataset key with several exports means."""

    exports: int
    """How many."""


class DatasetFacts(Facts, frozen=True, kw_only=True, omit_defaults=True):
    """What normalised splits and subsets of them have in common."""

    corpus: Corpus
    """As reports name it."""
    source: Source
    """Where it comes from."""
    privacy: Privacy
    """What ingestion replaced and removed."""
    classes: tuple[str, ...]
    """Class names; category id k is the k-th."""
    mapping: AppliedMapping
    """The label mapping that was applied."""
    loose_classes: tuple[str, ...]
    """Classes that the source marks loosely."""
    dropped: Mapping[str, int]
    """Annotations left out, by raw name."""
    repairs: Mapping[str, int]
    """Things mended, by kind."""
    splits: Mapping[str, SplitCounts]
    """By split."""
    leakage: Leakage
    """What the splits share."""
    exports: tuple[ExportPart, ...] = ()
    """What each brought, where there are several; absent where there is one."""
    corrections: Mapping[str, int] = {}
    """What became of people's corrections of labels, by outcome; absent without any."""

    @property
    def by_export(self) -> dict[str, tuple[Corpus, AppliedMapping]]:
        """Corpus and label mapping of each export, by its name."""
        several = {part.name: (part.corpus, part.mapping) for part in self.exports}
        return several or {self.corpus.name: (self.corpus, self.mapping)}


class SplitsFacts(DatasetFacts, frozen=True):
    """Facts of `normalized-splits`."""

    composites: int
    """Annotations whose raw name means several classes."""
    boxes_under_2_px: int
    """Boxes with a side under two pixels, kept."""
    sources: int
    """Distinct sources (patients' images, as far as can be told)."""
    partial_annotation: Mapping[str, int]
    """Images with conditions but no tooth boxes, by split."""
    flags: Mapping[str, int]
    """Images with implausible teeth, by kind of flag."""


class SubsetFacts(DatasetFacts, frozen=True):
    """Facts of a `condition-subset` or `tooth-subset`."""

    images_left_out: int
    """Images of the splits that are no part of it."""
    fold: tuple[int, int] | None = None
    """Which of how many folds it is, from 1, where sources are parted otherwise than published; else absent."""


class CheckOutcomeFacts(Facts, frozen=True):
    """Facts of a `check-outcome`: what one check found for exactly the bytes of its input."""

    check: str
    """The check's name."""
    passed: bool
    """Whether all was well."""
    blocking: bool
    """Whether training on data that fails it would be meaningless."""
    summary: str
    """One sentence."""
    rows: tuple[Mapping[str, Cell], ...] = ()
    """A table, with the same columns in every row; at most fifty rows of evidence."""


class PreviewFacts(Facts, frozen=True):
    """Facts of a `preview`: the small pictures that the UI shows of its input, in the order of their names."""

    title: str
    """What the pictures show."""


# Models --------------------------------------------------------------------------------------------------------------


class CheckpointFacts(Facts, frozen=True, omit_defaults=True):
    """Facts of a `checkpoint`."""

    recipe: str
    """The recipe's name."""
    recipe_digest: str
    """sha256 of the recipe in full, as `recipe.json` has it."""
    variant: bool
    """Whether a field of the recipe was overridden."""
    overrides: Mapping[str, Cell | tuple[Cell, ...]]
    """Those fields."""
    stage: int
    """1: teeth, 2: conditions."""
    corpus: Corpus
    """What it was trained on."""
    classes: tuple[str, ...]
    """Class names; label k of the model is the k-th, from 0."""
    image_size: tuple[int, int]
    """Width and height of the model's input, px."""
    parameters: int
    """Numbers in the model."""
    steps: int
    """Optimiser steps done."""
    total_steps: int
    """Optimiser steps that the recipe asks for."""
    best_step: int | None
    """The step whose weights these are; None when nothing was validated."""
    validation: Mapping[str, float | None]
    """The figures of that step."""
    healthy: bool | None
    """Whether the classification head still scores; None when training was too short to tell."""
    allow_head_collapse: str | None
    """Why a collapsed head was to be trained on; None when it stops the training."""
    initial_weights_sha256: str
    """Of all weights before the first step."""
    processes: int
    """Processes that trained together."""
    versions: Mapping[str, str]
    """Packages that decide the numbers, and Python."""
    packaged_weights: str | None = None
    """Weights of this package that it started from; None = other weights or none, as the recipe says."""
    nms_iou: float | None = None
    """Of findings of one class that overlap by more than this only the surest counts; None = all do."""
    weights_licence: str = ""
    """Of starting weights from outside the store, as their card or publisher says; `unknown` where nobody does."""


class PredictedCounts(Document, frozen=True):
    """One pass over a split in numbers."""

    images: int
    """Looked at."""
    detections: int
    """Kept."""


class PredictionsFacts(Facts, frozen=True):
    """Facts of `predictions`."""

    splits: Mapping[str, PredictedCounts]
    """By split; `test.mirrored` is the test split seen in a mirror."""
    classes: tuple[str, ...]
    """Class names; category id k is the k-th."""
    detections_per_image: int
    """At most so many are kept."""


class EvaluationFacts(Facts, frozen=True):
    """Facts of an `evaluation`."""

    corpus: Corpus
    """What it was measured on."""
    checkpoint: str
    """Digest of the checkpoint that was measured."""
    split: str
    """The split that it was measured on."""
    resamples: int
    """Bootstrap resamples."""
    seed: int
    """Bootstrap seed."""


class ToothFindingsFacts(Facts, frozen=True):
    """Facts of `tooth-findings`."""

    corpus: Corpus
    """What was looked at."""
    split: str
    """The split that was looked at."""
    images: int
    """All images."""
    images_with_annotated_teeth: int
    """Those that figures come from."""
    teeth: int
    """Teeth found."""
    findings: int
    """Conditions found."""
    unassigned_findings: int
    """Conditions on no tooth."""
    inferred_teeth: int
    """Conditions whose tooth is inferred from its neighbours."""
    tooth_threshold: float | None
    """Least score of a tooth; None when no tooth was hit."""
    classes_without_threshold: tuple[str, ...]
    """Conditions that are not shown because nothing says which of their scores to believe."""
    heads_healthy: Mapping[str, bool | None]
    """Health of both heads, by asset."""
    resamples: int
    """Bootstrap resamples."""
    seed: int
    """Bootstrap seed."""


class ToothReportFacts(Facts, frozen=True):
    """Facts of a `tooth-report`."""

    title: str
    """What was measured."""
    corpus: Corpus
    """What it was trained and measured on."""
    split: str
    """The split that it was measured on."""
    images: int
    """Images of it."""
    resamples: int
    """Bootstrap resamples."""
    seed: int
    """Bootstrap seed."""


# Releases ------------------------------------------------------------------------------------------------------------


class LabelReviewFacts(Facts, frozen=True, kw_only=True):
    """Facts of a `label-review`."""

    corpus: Corpus
    """Whose labels are looked at."""
    images: int
    """On which models that never saw their sources were asked."""
    suspects: Mapping[str, int]
    """By kind."""


class LabelCorrectionsFacts(Facts, frozen=True, kw_only=True):
    """Facts of `label-corrections`."""

    queue: str
    """Digest of the queue that was decided."""
    corrections: int
    """How many labels change."""
    people: tuple[str, ...]
    """Who decided, by the names they gave."""


class ReaderAgreementFacts(Facts, frozen=True, kw_only=True):
    """Facts of a `reader-agreement`."""

    corpus: Corpus
    """What was read."""
    study: str
    """Digest of the study, as it was registered before the first reading."""
    title: str
    """Of the study."""
    readers: int
    """Dentists."""
    images: int
    """X-rays that at least one of them finished."""
    unfinished: int
    """Readings that were still to be done."""
    resamples: int
    """Bootstrap resamples."""
    seed: int
    """Bootstrap seed."""


class PlanFacts(Facts, frozen=True, kw_only=True):
    """Facts of a `plan`."""

    title: str
    """What is planned."""
    by: str
    """Who signed it."""
    policy: PolicyVersion
    """The gates."""


class ReportFacts(Facts, frozen=True):
    """Facts of a `release-report`."""

    title: str
    """What was judged."""
    verdict: str
    """`PASS`, `FAIL` or `INCONCLUSIVE`: what was measured, overrides or not."""
    releasable: bool
    """Whether a release may follow, by measurement or by recorded overrides."""
    policy: PolicyVersion
    """The gates."""
    never_for_xrays: bool
    """Whether the policy is made for drawn images."""
    overrides: tuple[Override, ...]
    """Recorded with it."""
    champion: str | None
    """Digest of the release that it was compared with."""
    corpus: Corpus
    """What the model was trained and measured on."""


class ReleaseFacts(Facts, frozen=True):
    """Facts of a `release`."""

    title: str
    """What is released."""
    sequence: int
    """1 for the first release, one more for each."""
    previous: str | None
    """Digest of the release before; None for the first."""
    corpus: Corpus
    """What the model was trained and measured on."""
    never_for_xrays: bool
    """Whether policy or corpus forbid any use on X-rays."""
    overrides: tuple[Override, ...]
    """By which it was allowed."""
    chain: Mapping[str, str]
    """Digests of the products behind it, by asset."""
    verdict: str
    """Outcome of the report that allowed it."""


FACTS: Mapping[str, type[Facts]] = {
    Kind.RAW_EXPORT: RawExportFacts,
    Kind.EXPORT_SET: ExportSetFacts,
    Kind.NORMALIZED_SPLITS: SplitsFacts,
    Kind.CONDITION_SUBSET: SubsetFacts,
    Kind.TOOTH_SUBSET: SubsetFacts,
    Kind.CHECK_OUTCOME: CheckOutcomeFacts,
    Kind.PREVIEW: PreviewFacts,
    Kind.CHECKPOINT: CheckpointFacts,
    Kind.PREDICTIONS: PredictionsFacts,
    Kind.EVALUATION: EvaluationFacts,
    Kind.TOOTH_FINDINGS: ToothFindingsFacts,
    Kind.READER_AGREEMENT: ReaderAgreementFacts,
    Kind.LABEL_CORRECTIONS: LabelCorrectionsFacts,
    Kind.LABEL_REVIEW: LabelReviewFacts,
    Kind.TOOTH_REPORT: ToothReportFacts,
    Kind.RELEASE_REPORT: ReportFacts,
    Kind.RELEASE: ReleaseFacts,
    Kind.PLAN: PlanFacts,
}
"""The facts of each kind."""
