"""What an evaluation says: `evaluation.json` and `curves.json`, each with one type, one reader and one writer.

A figure is null where it cannot be measured or reached; why is in the `note` of its measurement. `…_low` and `…_high`
are the ends of its two-sided 90 % interval: each is a one-sided 95 % bound. How figures are computed is evaluation/'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from msgspec import field

from dentsight_pipeline.documents.codec import Document, plain, read
from dentsight_pipeline.errors import DocumentError, EvaluationError

SCHEMA = "dentsight-evaluation/1"
EVALUATION_FILE = "evaluation.json"
CURVES_FILE = "curves.json"
ENGINE_TOLERANCE = 1e-12
"""The most that two engines may differ by in any cell."""
MACRO = "macro"
"""The `class` of a mean over classes."""
ALL_CLASSES = "all"
"""The `class` of a figure over all classes together."""

SUBGROUP_AXES = ("width", "brightness", "sharpness", "dentition", "mixed dentition", "export")
"""What X-rays are told apart by. Devices are known by the width of their pictures alone: metadata is taken away."""
NOT_KNOWN = "not known"
"""The group of images of which nothing says to which they belong."""

PopulationName = Literal["all", "clean"]


class Figure(NamedTuple):
    """A value with its bounds; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


class Bounds(Document, frozen=True, kw_only=True):
    """A value with its interval."""

    value: float | None = None
    """None = not measurable."""
    low: float | None = None
    """Lower end."""
    high: float | None = None
    """Upper end."""


class RankedFigures(Document, frozen=True, kw_only=True):
    """The figures that need no threshold chosen beforehand; they have a macro mean."""

    ap: float | None = None
    """AP[.50:.95]."""
    ap_low: float | None = None
    ap_high: float | None = None
    """Its interval; of the macro mean informational."""
    ap50: float | None = None
    """AP at IoU .50."""
    ap50_low: float | None = None
    ap50_high: float | None = None
    """Its interval."""
    ap75: float | None = None
    """AP at IoU .75."""
    ap75_low: float | None = None
    ap75_high: float | None = None
    """Its interval."""
    ar100: float | None = None
    """Recall with 100 detections an image, mean over IoU .50 to .95."""
    ar100_low: float | None = None
    ar100_high: float | None = None
    """Its interval."""
    ap_small: float | None = None
    """AP[.50:.95] of boxes up to 32² px²."""
    ap_small_low: float | None = None
    ap_small_high: float | None = None
    """Its interval."""
    ap_medium: float | None = None
    """AP[.50:.95] of boxes of 32² to 96² px²."""
    ap_medium_low: float | None = None
    ap_medium_high: float | None = None
    """Its interval."""
    ap_large: float | None = None
    """AP[.50:.95] of boxes from 96² px² on."""
    ap_large_low: float | None = None
    ap_large_high: float | None = None
    """Its interval."""
    recall_at_p95: float | None = None
    """Largest recall at a precision of .95 or more, IoU .50; 0 = never reached."""
    recall_at_p95_low: float | None = None
    recall_at_p95_high: float | None = None
    """Its interval."""
    best_f1: float | None = None
    """Largest F1 at IoU .50."""
    best_f1_low: float | None = None
    best_f1_high: float | None = None
    """Its interval."""

    def figure(self, metric: str) -> Figure:
        """One figure with its interval, by the name of its metric."""
        return Figure(*(getattr(self, f"{metric}{end}") for end in ("", "_low", "_high")))


class ClassRow(RankedFigures, frozen=True, kw_only=True):
    """One class on one population."""

    class_name: str = field(name="class")
    """The class."""
    n_gt: int
    """Ground-truth boxes."""
    n_images: int
    """Images with at least one."""
    n_detections: int
    """Detections that count, at most 100 an image."""
    precision_at_threshold: float | None = None
    """At the operating threshold `threshold_best_f1`, IoU .50."""
    precision_at_threshold_low: float | None = None
    precision_at_threshold_high: float | None = None
    """Its interval."""
    recall_at_threshold: float | None = None
    """At the operating threshold."""
    recall_at_threshold_low: float | None = None
    recall_at_threshold_high: float | None = None
    """Its interval."""
    f1_at_threshold: float | None = None
    """At the operating threshold."""
    f1_at_threshold_low: float | None = None
    f1_at_threshold_high: float | None = None
    """Its interval."""
    precision_at_threshold_p95: float | None = None
    """At `threshold_p95`."""
    precision_at_threshold_p95_low: float | None = None
    precision_at_threshold_p95_high: float | None = None
    """Its interval."""
    recall_at_threshold_p95: float | None = None
    """At `threshold_p95`."""
    recall_at_threshold_p95_low: float | None = None
    recall_at_threshold_p95_high: float | None = None
    """Its interval."""
    threshold_p95: float | None = None
    """Least score at which precision is .95 or more where thresholds are chosen; None = unreachable."""
    threshold_best_f1: float | None = None
    """The operating threshold: the score with the best F1 where thresholds are chosen; None = nothing is hit."""


class MacroRow(RankedFigures, frozen=True, kw_only=True):
    """Means over the classes that have ground truth."""

    present: int
    """Classes that have ground truth."""
    of: int
    """Classes evaluated."""


class Population(Document, frozen=True, kw_only=True, omit_defaults=True):
    """One set of images: `all`, or the `clean` ones that share no source with another split."""

    images: int = 0
    """How many."""
    groups: int = 0
    """Their source groups, the unit of resampling."""
    looked_at: Mapping[str, int] = {}
    """Images whose annotators looked for a class, of each class that was not looked for in all of them."""
    per_class: tuple[ClassRow, ...] = ()
    """In the order of the classes."""
    macro: MacroRow
    """Means over the classes present."""

    def images_looked_at(self, class_name: str) -> int:
        """How many images tell anything of a class."""
        return self.looked_at.get(class_name, self.images)

    @property
    def not_looked_for(self) -> tuple[str, ...]:
        """Classes that nobody looked for in any of the images."""
        return tuple(name for name, images in self.looked_at.items() if not images)


class TwoFigures(Document, frozen=True, kw_only=True):
    """AP and AP50 with their intervals; None = not measurable."""

    ap: float | None
    """AP."""
    ap_low: float | None
    ap_high: float | None
    """Its interval."""
    ap50: float | None
    """AP50."""
    ap50_low: float | None
    ap50_high: float | None
    """Its interval."""


class PartRow(TwoFigures, frozen=True, kw_only=True):
    """One class on a part of the images."""

    class_name: str = field(name="class")
    """The class; `macro` is the mean over those that are there."""
    n_gt: int
    """Annotated boxes."""
    images: int
    """Images whose annotators looked for the class."""
    sources: int | None = None
    """Source groups with a box of it; None in an evaluation that did not count them."""


class PartFigures(Document, frozen=True, kw_only=True):
    """A part of the images in the population that gates read."""

    images: int
    """How many."""
    groups: int
    """Their source groups."""
    rows: tuple[PartRow, ...]
    """By class that was looked for, the macro mean last."""


class ExportFigures(PartFigures, frozen=True, kw_only=True):
    """The images of one export."""

    export: str
    """Its name."""


class Subgroup(PartFigures, frozen=True, kw_only=True):
    """The images that are alike in one respect."""

    axis: str
    """The respect, one of `SUBGROUP_AXES`."""
    group: str
    """Which of its groups; `NOT_KNOWN` for the images of which nothing says."""


class Measurement(Document, frozen=True, kw_only=True):
    """One row of what gates see."""

    metric: str
    """Its name; `paired_delta_…` are challenger − champion."""
    class_name: str = field(name="class")
    """A class, `macro` or `all`."""
    population: str
    """The images that it was measured on."""
    value: float | None = None
    """None = not measurable."""
    low: float | None = None
    """One-sided lower 95 % bound."""
    high: float | None = None
    """One-sided upper 95 % bound."""
    n: int | None = None
    """What was counted: ground-truth boxes, detections, empty images."""
    unit_count: int | None = None
    """Source groups that carry information about it."""
    note: str = ""
    """What limits it, in words."""


class LabelCeiling(Document, frozen=True, kw_only=True):
    """How far two annotators of the same X-rays agree about a class, and the AP that this allows.

    The ceiling is the AP of a reader who says exactly what one annotator said, all with one score, against the other
    annotator, mean over both directions (label convergence: Tschirschwitz & Rodehorst, WACV 2025).
    """

    class_name: str = field(name="class")
    """A class, or `macro`: the mean over those that two annotators marked."""
    pairs: int
    """Pairs of images that say something about the class."""
    sources: int
    """Sources on which either annotator marked it: the unit of resampling."""
    boxes: int
    """Boxes of both annotators."""
    f1: Bounds
    """Agreement on boxes at IoU .50, each box matched once, as many as can be."""
    f1_75: Bounds
    """The same at IoU .75."""
    kappa_by_tooth: Bounds
    """Cohen's kappa over tooth × image, on teeth that both numbered."""
    ap50: Bounds
    """The ceiling of AP50."""
    ap: Bounds
    """The ceiling of AP[.50:.95]."""
    note: str = ""
    """What limits it, in words."""

    def of_metric(self, metric: str) -> Bounds | None:
        """The ceiling of a metric that gates may ask for; None where labels set none."""
        return {"ap": self.ap, "ap50": self.ap50}.get(metric)


class Engines(Document, frozen=True, kw_only=True):
    """Who counted, and how far apart they are."""

    pycocotools: str
    """Version of the engine of record."""
    hotcoco: str
    """Version of the second engine."""
    max_abs_difference: float | None
    """Largest difference over all cells of all populations; None = not finite."""
    agree: bool
    """Whether that is within the tolerance."""
    tolerance: float = ENGINE_TOLERANCE
    """The most that is allowed."""
    own_matching_max_abs_difference: float | None = None
    """The same between the matching that intervals come from and the engine of record."""


class OperatingPoint(Document, frozen=True, kw_only=True):
    """The thresholds of one class; None = unreachable."""

    threshold_p95: float | None = None
    """Least score at which precision is .95 or more."""
    threshold_best_f1: float | None = None
    """The score with the best F1: the operating threshold."""


class BootstrapFacts(Document, frozen=True, kw_only=True):
    """How intervals were made."""

    resamples: int
    """How many."""
    seed: int
    """Of numpy's PCG64."""
    unit: str
    """What is drawn."""
    method: str
    """Kind of interval."""
    level: float
    """Two-sided."""
    minimum_groups: int
    """Source groups below which no interval is given."""


class ReliabilityBin(Document, frozen=True, kw_only=True):
    """One bar of a reliability diagram."""

    low: float
    """Least score."""
    high: float
    """Largest score."""
    n: int
    """Detections."""
    mean_score: float | None
    """None = the bin is empty."""
    precision: float | None
    """Share of hits at IoU .50."""


class CalibrationError(Document, frozen=True, kw_only=True):
    """A detection calibration error with its diagram."""

    ece: float | None
    """None = nothing reaches the threshold."""
    low: float | None
    """Lower end of its interval."""
    high: float | None
    """Upper end."""
    bins: tuple[ReliabilityBin, ...]
    """15 equal bins of the score."""


class ClassCalibration(CalibrationError, frozen=True, kw_only=True, omit_defaults=True):
    """The calibration of one class, or of `all`."""

    n: int
    """Detections at or above the operating threshold."""
    after_platt: CalibrationError | None = None
    """The same after Platt scaling; absent where none was fitted."""


class PlattFit(Document, frozen=True, kw_only=True):
    """calibrated = σ(slope · logit(score) + intercept)."""

    slope: float
    """Above 0, so the ranking is kept."""
    intercept: float
    """Of the line."""
    fitted_on: int
    """Detections of the validation split."""


class Calibration(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Does a score mean what it says?"""

    measured: bool
    """False where scores are no probabilities."""
    reason: str | None = None
    """Why it was not measured; absent where it was."""
    bins_per_class: int = 0
    """How many bins."""
    population: str = ""
    """The images."""
    counted: str = ""
    """Which detections, in words."""
    classes: Mapping[str, ClassCalibration] = {}
    """By class, and `all`."""
    platt: Mapping[str, PlattFit] | None
    """Fits by class; None without a validation split."""


class CountedBounds(Bounds, frozen=True, kw_only=True):
    """A value with its interval and how many it is of."""

    n: int
    """Detections on both sides."""


class SideRecall(Bounds, frozen=True, kw_only=True):
    """Recall on the patient's left minus recall on the right."""

    n_left: int
    """Ground-truth boxes on the left."""
    n_right: int
    """Ground-truth boxes on the right."""


class Consistency(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Left and right, each by class and for `all`."""

    population: str
    """The images."""
    left_right_agreement: Mapping[str, CountedBounds] | None
    """With the detections of the mirrored images; None without them."""
    left_minus_right_recall: Mapping[str, SideRecall]
    """Empty where no image gives its width."""
    reason: str | None = None
    """Why sides were not measured; absent where they were."""


class EmptyMouth(Document, frozen=True, kw_only=True, omit_defaults=True):
    """False positives on images without any annotation, at the operating thresholds."""

    population: str
    """The images."""
    images: int
    """Those in which every class was looked for and none was found."""
    images_not_fully_covered: int = 0
    """Those in which some class was not looked for: nothing says whether they are empty."""
    images_with_false_positive: int
    """Of them."""
    false_positives: int
    """On them."""
    rate: Bounds
    """Share of them with a false positive."""
    rate_interval: str
    """How its interval is made."""
    per_image: Bounds
    """False positives on each."""
    per_image_interval: str
    """How its interval is made."""
    images_needed_for_below_5_percent: int | None
    """Empty images without a single false positive that show < 5 %."""
    images_needed_at_observed_rate: int | None
    """The same at the observed rate; None where no number would do."""


class FrocPoints(Document, frozen=True, kw_only=True):
    """Sensitivity of one class, or of `all` pooled by score."""

    sensitivity: tuple[float | None, ...]
    """At each number of false positives an image."""
    low: tuple[float | None, ...]
    """Lower ends."""
    high: tuple[float | None, ...]
    """Upper ends."""
    mean: Bounds
    """Over the points."""


class Froc(Document, frozen=True, kw_only=True):
    """Sensitivity against false positives an image."""

    false_positives_per_image: tuple[float, ...]
    """⅛ to 8."""
    classes: Mapping[str, FrocPoints]
    """By class, and `all`."""


class Afroc(Document, frozen=True, kw_only=True):
    """How a class's findings score against X-rays without one (Chakraborty 2017; RJafroc's `AFROC` and `wAFROC`)."""

    normal_images: int
    """Images in which it was looked for and nothing was found."""
    diseased_images: int
    """Images with a finding."""
    findings: int
    """Of them."""
    wafroc: Bounds
    """Every diseased image alike; None without a normal or a diseased image."""
    afroc: Bounds
    """Every finding alike."""
    false_positive_fraction: tuple[float, ...]
    """Of the wAFROC curve: share of the normal images with a false positive, at falling scores."""
    weighted_sensitivity: tuple[float, ...]
    """Of the wAFROC curve: share of the findings, each diseased image alike, at those scores."""


class ErrorCounts(Document, frozen=True, kw_only=True):
    """Mistakes of one class at its operating threshold, IoU .50."""

    class_confusion: int
    """On a box of another class."""
    localisation: int
    """On a box of its own class, at an IoU of .10 to .50."""
    duplicate: int
    """On a box that a higher score has taken."""
    background: int
    """On nothing."""
    missed: int
    """Ground truth that nothing takes."""


class FoundOfSize(Document, frozen=True, kw_only=True):
    """The boxes of one class and size in the truth."""

    n_gt: int
    """All."""
    found: int
    """Those that are shown at the operating threshold, IoU .50."""


class Confusion(Document, frozen=True, kw_only=True):
    """Rows: what is there; columns: what was said; the last of each is background."""

    labels: tuple[str, ...]
    """The classes and `background`."""
    matrix: tuple[tuple[int, ...], ...]
    """Counts."""


class SampleSizes(Document, frozen=True, kw_only=True):
    """About how many images a Tier 2 figure would take."""

    half_width: float
    """Of its interval."""
    images: Mapping[str, Mapping[str, int | None]]
    """By metric and class; None = unknown."""


class EvaluationDocument(Document, frozen=True, kw_only=True):
    """The content of `evaluation.json`.

    What follows `measurements` may be missing in a file of other tools; gates fail closed on it.
    """

    schema: Literal["dentsight-evaluation/1"]
    """Of this form."""
    classes: tuple[str, ...]
    """In the order of category ids."""
    ground_truth_sha256: str | None = None
    """What was scored on: `evaluation.validation.digest_of` the COCO file."""
    detections_sha256: str | None = None
    """What was scored: the same of the results list."""
    mirrored_sha256: str | None = None
    """The same of the detections on mirrored images; None without them."""
    gated_population: PopulationName | None = None
    """The population that gates read."""
    populations: Mapping[str, Population] = {}
    """`all`, and `clean` where the ground truth says which images are."""
    measurements: tuple[Measurement, ...] = ()
    """All that gates see."""
    engines: Engines | None = None
    """Both engines."""
    thresholds_from: Literal["valid", "test"] | None = None
    """`test` = chosen on the evaluated images themselves, which flatters."""
    operating_points: Mapping[str, OperatingPoint] = {}
    """By class."""
    bootstrap: BootstrapFacts | None = None
    """How intervals were made."""
    calibration: Calibration | None = None
    """Tier 2."""
    consistency: Consistency | None = None
    """Tier 2."""
    empty_mouth: EmptyMouth | None = None
    """Tier 2."""
    froc: Froc | None = None
    """By class, and `all`."""
    afroc: Mapping[str, Afroc] = {}
    """By class."""
    errors: Mapping[str, ErrorCounts] = {}
    """By class."""
    found_by_size: Mapping[str, Mapping[str, FoundOfSize]] = {}
    """By class and size: `small` under 32² px², `large` over 96²."""
    confusion: Confusion | None = None
    """At the operating thresholds."""
    score_floor: float | None = None
    """Least score of a row in `matches.parquet`."""
    sample_sizes: SampleSizes | None = None
    """For a half-width of .05."""
    label_ceilings: tuple[LabelCeiling, ...] = ()
    """What the labels allow, by class and `macro`; empty where nothing was labelled twice."""
    by_export: tuple[ExportFigures, ...] = ()
    """The images that gates read by their export; empty where all are of one."""
    subgroups: tuple[Subgroup, ...] = ()
    """The images that gates read by other respects; only those in which they differ."""
    subgroups_unknown: Mapping[str, str] = {}
    """Why there are no groups, by axis."""
    notes: tuple[str, ...] = ()
    """What was assumed or left out, in words."""

    def ceiling(self, metric: str, condition: str) -> Bounds | None:
        """What the labels allow of a figure; None where nobody can say."""
        own = [row for row in self.label_ceilings if row.class_name == condition]
        return own[0].of_metric(metric) if own else None

    @property
    def gated(self) -> Population | None:
        """The population that gates read; None where the file has none."""
        return self.populations.get(self.gated_population or "")


class Curve(Document, frozen=True, kw_only=True):
    """One class on one population."""

    recall: tuple[float, ...]
    """The 101 recall thresholds."""
    precision: tuple[float, ...] | None
    """COCO's envelope at them, IoU .50; None without ground truth."""
    score: tuple[float, ...]
    """Thresholds, falling; at most 200."""
    f1: tuple[float, ...]
    """At those."""
    precision_by_score: tuple[float, ...]
    """At those."""
    recall_by_score: tuple[float, ...]
    """At those."""


Curves = dict[str, dict[str, Curve]]
"""The content of `curves.json`: by population and class."""


def parse_evaluation(data: bytes, where: str | Path) -> EvaluationDocument:
    """An `evaluation.json`.

    Raises:
        EvaluationError: Not one; the message names `where` and the field.
    """
    try:
        return read(data, EvaluationDocument, where)
    except DocumentError as error:
        raise EvaluationError(
            f"{where} is not a {SCHEMA} document: {error.problem}. Make one with `dentsight evaluate --out`."
        ) from error


def read_evaluation(folder: Path) -> EvaluationDocument:
    """The `evaluation.json` of a folder.

    Raises:
        EvaluationError: None there, or not one.
    """
    path = folder / EVALUATION_FILE
    try:
        return parse_evaluation(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{folder} holds no {EVALUATION_FILE}. Run `dentsight evaluate … --out {folder}`."
        ) from error
    except OSError as error:
        remedy = "Give the folder, not a file in it." if folder.is_file() else "Evaluate again."
        raise EvaluationError(f"{path} cannot be read: {error.strerror}. {remedy}") from error


def for_people(document: Any, indent: int | None = 1) -> bytes:
    """A document as JSON in the order of its fields, one a line."""
    return (json.dumps(plain(document), indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()
