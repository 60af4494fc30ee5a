"""What findings by tooth say: `findings.json` and `metrics.json` of the product `tooth-findings`.

Boxes are `[x, y, width, height]` in pixels of the stored image; teeth are named in FDI notation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import field

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.evaluation import EvaluationDocument, PopulationName, TwoFigures
from dentsight_pipeline.documents.facts import CheckpointFacts, Corpus, SubsetFacts
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.release import ChainLink

FINDINGS_FILE = "findings.json"
METRICS_FILE = "metrics.json"
FINDINGS_SCHEMA = "dentsight-tooth-findings/1"
METRICS_SCHEMA = "dentsight-tooth-metrics/1"


def tooth_findings_ref(evaluation: str) -> str:
    """Where the store keeps the newest findings by tooth of the model behind the evaluation of a digest."""
    return f"tooth-findings/{evaluation[:32]}"


Rule = Literal["overlap", "root-tip", "span", "none"]
Box = tuple[float, float, float, float]


class FindingOnTooth(Document, frozen=True, kw_only=True):
    """A finding as its tooth lists it."""

    id: int
    """Of the finding."""
    class_name: str = field(name="class")
    """The condition."""


class FoundTooth(Document, frozen=True, kw_only=True):
    """A tooth of one image."""

    fdi: str
    """Its number."""
    score: float | None
    """None = annotated."""
    bbox_xywh_px: Box
    """Where."""
    findings: tuple[FindingOnTooth, ...]
    """What it has."""


class Finding(Document, frozen=True, kw_only=True):
    """A condition of one image."""

    id: int
    """From 1, best score first."""
    class_name: str = field(name="class")
    """The condition."""
    score: float | None
    """None = annotated."""
    bbox_xywh_px: Box
    """Where."""
    teeth: tuple[str, ...]
    """FDI; several for a bridge."""
    assigned: bool
    """False where it fits no tooth; it stays."""
    rule: Rule
    """What assigned it."""
    fit: float | None
    """How well (`ToothFinding.score`); None when unassigned."""
    inferred_tooth: str | None
    """The number that a missing tooth or an implant must have by its neighbours; no metric counts it."""


class MouthFindings(Document, frozen=True, kw_only=True):
    """One mouth's answer."""

    teeth: tuple[FoundTooth, ...]
    """In FDI order."""
    findings: tuple[Finding, ...]
    """Best first."""


class ImageFindings(MouthFindings, frozen=True, kw_only=True):
    """One image with its answer."""

    image_id: int
    """As in the condition subset."""
    file_name: str
    """`images/<sha256>.<ext>`."""
    width: int
    """px."""
    height: int
    """px."""
    source_group: str
    """Its source."""
    clean: bool
    """Whether it shares no source with another split."""
    teeth_annotated: bool
    """Whether figures count it."""


class Thresholds(Document, frozen=True, kw_only=True):
    """Least scores of what is listed; None = nothing is."""

    teeth: float | None
    """One for all teeth."""
    teeth_chosen_on: str
    """The split."""
    conditions: Mapping[str, float | None]
    """By condition."""
    conditions_chosen_on: str | None
    """The split."""


class ToothFindings(Document, frozen=True, kw_only=True):
    """The content of `findings.json`."""

    schema: Literal["dentsight-tooth-findings/1"]
    """Of this form."""
    split: str
    """The split that was looked at."""
    thresholds: Thresholds
    """What they were listed from."""
    images: tuple[ImageFindings, ...]
    """All of the split."""


class CountedFigures(Document, frozen=True, kw_only=True):
    """Precision, recall and F1 with their intervals; None = not measurable."""

    n_gt: int
    """What is there."""
    n_found: int
    """What was found."""
    precision: float | None
    """Of what was found, the share that is right."""
    precision_low: float | None
    precision_high: float | None
    """Its interval."""
    recall: float | None
    """Of what is there, the share that was found."""
    recall_low: float | None
    recall_high: float | None
    """Its interval."""
    f1: float | None
    """Harmonic mean of the two."""
    f1_low: float | None
    f1_high: float | None
    """Its interval."""


class PerTooth(Document, frozen=True, kw_only=True):
    """One tooth number."""

    tooth: str
    """FDI."""
    n_gt: int
    """Annotated."""
    n_found: int
    """Found."""
    recall: float | None
    """None = none is there."""
    precision: float | None
    """None = none was found."""


class ToothNumbering(CountedFigures, frozen=True, kw_only=True):
    """How well teeth are found and numbered, at IoU .50."""

    misnamed: Mapping[str, int]
    """Found teeth that lie on a tooth of another number, by kind."""
    stray: int
    """Found teeth on no tooth."""
    per_tooth: tuple[PerTooth, ...]
    """By number."""


class ConditionByTooth(CountedFigures, frozen=True, kw_only=True):
    """Pairs of tooth and condition, of one condition or `all`."""

    class_name: str = field(name="class")
    """The condition."""
    f1_with_true_teeth: float | None
    """The same conditions joined to the annotated teeth: what is lost beyond it is stage 1's."""
    unassigned_gt: int
    """Annotated conditions on no tooth."""
    unassigned_found: int
    """Found conditions on no tooth."""
    n_without: int | None = None
    """Annotated teeth without the condition, in mouths where it was looked for; None in what was measured before."""
    specificity: float | None = None
    """Of those, the share on which it was not found; sensitivity is `recall`."""
    specificity_low: float | None = None
    specificity_high: float | None = None
    """Its interval."""


class ToothPopulation(Document, frozen=True, kw_only=True):
    """One population of the images with annotated teeth."""

    images: int
    """How many."""
    groups: int
    """Their source groups."""
    teeth: ToothNumbering
    """Stage 1."""
    per_class: tuple[ConditionByTooth, ...]
    """Both stages, by condition and `all`."""


class ToothGroup(TwoFigures, frozen=True, kw_only=True):
    """The mean over the teeth of a jaw, a side or a quadrant (or all) that are annotated at all."""

    group: str
    """Its name; sides are the patient's."""
    n_gt: int
    """Annotated teeth."""
    teeth: int
    """Tooth numbers that the mean is over."""


class ToothCount(Document, frozen=True, kw_only=True):
    """How many teeth are found in a mouth, against how many are annotated, with intervals."""

    n_gt: int
    """Annotated in all mouths."""
    n_found: int
    """Found in all mouths."""
    exact: float | None
    """Share of mouths with as many teeth found as annotated."""
    exact_low: float | None
    exact_high: float | None
    """Its interval."""
    off_by: float | None
    """Mean distance of the two numbers."""
    off_by_low: float | None
    off_by_high: float | None
    """Its interval."""
    bias: float | None
    """Mean of found less annotated."""
    bias_low: float | None
    bias_high: float | None
    """Its interval."""


class StageOne(Document, frozen=True, kw_only=True):
    """Stage 1 by itself on one population."""

    images: int
    """How many."""
    groups: int
    """Their source groups."""
    ap: tuple[ToothGroup, ...]
    """By jaw, side and quadrant; all teeth first."""
    images_counted: int
    """Images in which every tooth was looked for: those that the rest is measured on."""
    teeth: ToothNumbering | None
    """How they are found and numbered; None without such an image."""
    count: ToothCount | None
    """How many there are; None without such an image."""


class ToothReport(Document, frozen=True, kw_only=True):
    """`report.json` of stage 1 alone: all that its page says."""

    schema: Literal["dentsight-tooth-report/1"] = "dentsight-tooth-report/1"
    """Of this form."""
    title: str
    """What was measured, e.g. `opg-teeth × v3`."""
    corpus: Corpus
    """What it was trained and measured on."""
    threshold: float | None
    """Least score of a tooth that counts as found; None when none was hit."""
    thresholds_from: str
    """The split that it was chosen on."""
    populations: Mapping[PopulationName, StageOne | None]
    """Figures by population; None where it has no image."""
    evaluation: EvaluationDocument
    """AP of each tooth, and whatever is measured of any class."""
    data: SubsetFacts
    """Facts of the data."""
    checkpoint: CheckpointFacts
    """Facts of the model."""
    health: HeadHealth
    """The head's readings."""
    chain: tuple[ChainLink, ...]
    """From the newest product down to the raw exports."""


class ToothMetrics(Document, frozen=True, kw_only=True):
    """The content of `metrics.json`."""

    schema: Literal["dentsight-tooth-metrics/1"]
    """Of this form."""
    populations: Mapping[PopulationName, ToothPopulation | None] | None
    """None where no image has annotated teeth, or the population none."""


class ReportedTeeth(Document, frozen=True, kw_only=True):
    """What a release report shows of findings by tooth."""

    heads_healthy: Mapping[str, bool | None]
    """Health of both heads, by asset; None = not judged."""
    populations: Mapping[PopulationName, ToothPopulation | None] | None
    """As in `metrics.json`."""
