"""Tier 2: what a threshold and a score are worth. Each figure with its interval, its n and the n that it would need.

Measured on one population, at the operating threshold of each class, from the modules that hold the formulas. The
figures that need no threshold are in `figures.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict, TypeVar

import numpy as np

from dentsight_pipeline.documents.evaluation import (
    ALL_CLASSES,
    Afroc,
    Calibration,
    CalibrationError,
    ClassCalibration,
    Consistency,
    CountedBounds,
    EmptyMouth,
    Froc,
    FrocPoints,
    Measurement,
    PlattFit,
    Population,
    PopulationName,
    SampleSizes,
    SideRecall,
)
from dentsight_pipeline.evaluation import (
    bootstrap,
    calibration,
    consistency,
    empty_mouth,
    errors_by_type,
    operating_points,
)
from dentsight_pipeline.evaluation.afroc import FiguresOfMerit, Ratings
from dentsight_pipeline.evaluation.bootstrap import Interval, Weights
from dentsight_pipeline.evaluation.calibration import BinCounts
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.consistency import MirrorCounts, SideCounts
from dentsight_pipeline.evaluation.figures import measurement
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.operating import Operating
from dentsight_pipeline.evaluation.operating_points import PointTable

HALF_WIDTH = 0.05
"""Of the intervals that `sample_sizes` is about."""
_SIZED = ("recall_at_p95", "ece", "left_right_agreement", "left_minus_right_recall")
Part = TypeVar("Part")
Rows = list[Measurement]


class Tier2(TypedDict):
    """The fields of an `EvaluationDocument` that this module fills."""

    calibration: Calibration
    consistency: Consistency
    empty_mouth: EmptyMouth
    froc: Froc
    afroc: Mapping[str, Afroc]


@dataclass(frozen=True)
class Gated:
    """The gated population at its operating thresholds.

    Attributes:
        name: `all` or `clean`.
        images: [I] the mask of its images.
        weights: Of those.
        truth: Of all images.
        found: Of all images.
        mirrored: Detections on the mirrored images in the unmirrored frame, or None.
        matches: [K] for all areas, on all images.
        operating: Thresholds.
    """

    name: PopulationName
    images: np.ndarray
    weights: Weights
    truth: GroundTruth
    found: Detections
    mirrored: Detections | None
    matches: Sequence[ClassMatches]
    operating: Operating

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.truth.class_names

    @cached_property
    def parts(self) -> list[ClassMatches]:
        """[K] on the population's images."""
        return [matches.subset(self.images) for matches in self.matches]

    @cached_property
    def hit(self) -> np.ndarray:
        """[annotations] whether a box is shown at the operating threshold."""
        return errors_by_type.found_at(self.matches, self.operating.best_f1, len(self.truth.class_index))

    def row(self, metric: str, name: str, measured: Interval, n: int, units: int, note: str = "") -> Measurement:
        """One measurement on this population."""
        return measurement(metric, name, self.name, measured, n, units, note)


def measure_tier2(of: Gated) -> tuple[Tier2, Rows]:
    """The figures, and what gates see."""
    calibrated, calibration_rows = measure_calibration(of)
    sides, side_rows = measure_consistency(of)
    empty, empty_rows = measure_empty_mouth(of)
    measured = Tier2(
        calibration=calibrated, consistency=sides, empty_mouth=empty, froc=measure_froc(of), afroc=measure_afroc(of)
    )
    return measured, [*calibration_rows, *side_rows, *empty_rows]


def measure_calibration(of: Gated) -> tuple[Calibration, Rows]:
    """Detection ECE of each class and of all together, before and after Platt scaling."""
    if not calibration.scores_are_probabilities(of.parts):
        note = "scores outside [0, 1] are no probabilities"
        n = sum(len(matches.scores) for matches in of.parts)
        row = of.row("ece", ALL_CLASSES, Interval(None), n, 0, note)
        return Calibration(measured=False, reason=note, platt=None), [row]
    platt = of.operating.platt
    counts = _bins(of, {})
    scaled = _bins(of, platt) if platt is not None else {}
    measured = {name: _calibration(of, name, counts[name], scaled.get(name)) for name in counts}
    document = Calibration(
        measured=True,
        bins_per_class=calibration.BINS,
        population=of.name,
        counted="detections at or above the operating threshold of their class, hits at IoU .50",
        classes=_parts(measured),
        platt=None
        if platt is None
        else {
            of.classes[k]: PlattFit(slope=fit.slope, intercept=fit.intercept, fitted_on=fit.n)
            for k, fit in platt.items()
        },
    )
    return document, _rows(measured)


def measure_consistency(of: Gated) -> tuple[Consistency, Rows]:
    """Left and right: agreement with the mirrored images, and recall on either side."""
    mirrors = None if of.mirrored is None else _mirrors(of, of.mirrored)
    sides = {} if np.isnan(of.truth.image_sizes_px[:, 0]).all() else _sides(of)
    document = Consistency(
        population=of.name,
        left_right_agreement=None if mirrors is None else _parts(mirrors),
        left_minus_right_recall=_parts(sides),
        reason=None if sides else "no image gives its width, so sides are unknown",
    )
    return document, [*_rows(mirrors or {}), *_rows(sides)]


def measure_empty_mouth(of: Gated) -> tuple[EmptyMouth, Rows]:
    """False positives on images in which every class evaluated was looked for and none was found."""
    annotated = np.bincount(of.truth.image_index, minlength=len(of.images)) > 0
    empty = (of.truth.fully_covered & ~annotated)[of.images]
    shown = np.zeros(len(empty))
    for matches, threshold in zip(of.parts, of.operating.best_f1, strict=True):
        shown += operating_points.counts_at(matches, threshold).seen
    n, images_hit, positives = int(empty.sum()), int((shown[empty] > 0).sum()), int(shown[empty].sum())
    rate, per_image = empty_mouth.clopper_pearson(images_hit, n), empty_mouth.garwood(positives, n)
    needed = empty_mouth.images_needed()
    document = EmptyMouth(
        population=of.name,
        images=n,
        images_not_fully_covered=int((~of.truth.fully_covered)[of.images].sum()),
        images_with_false_positive=images_hit,
        false_positives=positives,
        rate=rate.bounds,
        rate_interval="Clopper-Pearson",
        per_image=per_image.bounds,
        per_image_interval="Garwood",
        images_needed_for_below_5_percent=needed,
        images_needed_at_observed_rate=None if rate.value is None else empty_mouth.images_needed(rate=rate.value),
    )
    units = len(np.unique(of.weights.groups[empty]))
    note = f"{needed} empty images without a false positive are needed to show < 5 %"
    if unknown := document.images_not_fully_covered:
        note = f"{note}; in {unknown} images some class was not looked for: nothing says whether they are empty"
    named = {"empty_mouth_fp_rate": rate, "empty_mouth_fp_per_image": per_image}
    return document, [of.row(metric, ALL_CLASSES, own, n, units, note) for metric, own in named.items()]


def measure_froc(of: Gated) -> Froc:
    """Sensitivity at ⅛ to 8 false positives an image, for each class and for all pooled by score.

    An image counts for a class that was looked for in it, and for all together where all were.
    """
    covered = of.truth.covered[of.images]
    classes = {
        name: _froc_points(of, part, covered[:, k])
        for k, (name, part) in enumerate(zip(of.classes, of.parts, strict=True))
    }
    classes[ALL_CLASSES] = _froc_points(of, operating_points.pooled(of.parts), of.truth.fully_covered[of.images])
    return Froc(false_positives_per_image=empty_mouth.FROC_FALSE_POSITIVES, classes=classes)


def measure_afroc(of: Gated) -> dict[str, Afroc]:
    """AFROC and wAFROC of each class, on the images in which it was looked for."""
    covered = of.truth.covered[of.images]
    return {
        name: _afroc(part.subset(covered[:, k]), of.weights.subset(covered[:, k]))
        for k, (name, part) in enumerate(zip(of.classes, of.parts, strict=True))
    }


def _afroc(part: ClassMatches, weights: Weights) -> Afroc:
    ratings, diseased = Ratings.of(part), part.gt_counts > 0
    drawn = bootstrap.draws(FiguresOfMerit(ratings), weights)
    units = min(bootstrap.units_with(some, weights) for some in (diseased, ~diseased))
    plain, weighted = (bootstrap.interval(drawn, units, at=(i,)).bounds for i in range(2))
    fractions, sensitivities = (tuple(np.round(column, 6).tolist()) for column in ratings.curve())
    return Afroc(
        normal_images=len(ratings.normal),
        diseased_images=int(diseased.sum()),
        findings=part.n_gt,
        wafroc=weighted,
        afroc=plain,
        false_positive_fraction=fractions,
        weighted_sensitivity=sensitivities,
    )


def sample_sizes(measurements: Sequence[Measurement], population: Population) -> SampleSizes:
    """About how many images each Tier 2 figure would take for a half-width of .05 (widths fall with √n)."""
    images: dict[str, dict[str, int | None]] = {}
    for row in measurements:
        if row.metric in _SIZED:
            measured = Interval(row.value, row.low, row.high)
            n_images = population.images_looked_at(row.class_name)
            needed = bootstrap.needed_images(measured, n_images, HALF_WIDTH)
            images.setdefault(row.metric, {})[row.class_name] = needed
    return SampleSizes(half_width=HALF_WIDTH, images=images)


def _bins(of: Gated, platt: Mapping[int, calibration.Platt]) -> dict[str, BinCounts]:
    """By class and `all`."""
    thresholds = of.operating.best_f1
    counts = {
        name: calibration.bin_counts(of.parts[k], thresholds[k], platt.get(k)) for k, name in enumerate(of.classes)
    }
    return {**counts, ALL_CLASSES: calibration.total(counts)}


def _calibration(
    of: Gated, name: str, own: BinCounts, scaled: BinCounts | None
) -> tuple[ClassCalibration, Measurement]:
    n, units = int(own.seen.sum()), bootstrap.units_with(own.seen.sum(axis=0), of.weights)
    measured = bootstrap.interval(bootstrap.draws(own.error, of.weights), units)
    after = None
    if scaled is not None:
        error = bootstrap.interval(bootstrap.draws(scaled.error, of.weights), units)
        after = CalibrationError(ece=error.value, low=error.low, high=error.high, bins=scaled.bins())
    note = "" if n else "no detection reaches the operating threshold: failed, not 0"
    return (
        ClassCalibration(
            n=n, ece=measured.value, low=measured.low, high=measured.high, bins=own.bins(), after_platt=after
        ),
        of.row("ece", name, measured, n, units, note),
    )


def _mirrors(of: Gated, mirrored: Detections) -> dict[str, tuple[CountedBounds, Measurement]]:
    counts = {
        name: consistency.mirror_counts(of.truth, of.found, mirrored, k, of.operating.best_f1[k]).subset(of.images)
        for k, name in enumerate(of.classes)
    }
    counts[ALL_CLASSES] = consistency.total(counts.values())
    return {name: _agreement(of, name, own) for name, own in counts.items()}


def _agreement(of: Gated, name: str, counts: MirrorCounts) -> tuple[CountedBounds, Measurement]:
    n, units = int(counts.a.sum() + counts.b.sum()), bootstrap.units_with(counts.a + counts.b, of.weights)
    measured = bootstrap.interval(bootstrap.draws(counts.agreement, of.weights), units)
    note = "" if n else "nothing reaches the operating threshold on either side"
    return (
        CountedBounds(n=n, value=measured.value, low=measured.low, high=measured.high),
        of.row("left_right_agreement", name, measured, n, units, note),
    )


def _sides(of: Gated) -> dict[str, tuple[SideRecall, Measurement]]:
    counts = {name: consistency.side_counts(of.truth, k, of.hit).subset(of.images) for k, name in enumerate(of.classes)}
    counts[ALL_CLASSES] = consistency.total(counts.values())
    return {name: _side_recall(of, name, own) for name, own in counts.items()}


def _side_recall(of: Gated, name: str, counts: SideCounts) -> tuple[SideRecall, Measurement]:
    both = counts.left_gt + counts.right_gt
    n, units, note = int(both.sum()), bootstrap.units_with(both, of.weights), "left = the patient's left"
    measured = bootstrap.interval(bootstrap.draws(counts.left_minus_right, of.weights), units, bounds=None)
    if n and not (counts.left_hits + counts.right_hits).any():  # equal recalls of nothing are no consistency
        measured, note = Interval(None), f"nothing is found on either side; {note}"
    sides = {"n_left": int(counts.left_gt.sum()), "n_right": int(counts.right_gt.sum())}
    return (
        SideRecall(**sides, value=measured.value, low=measured.low, high=measured.high),
        of.row("left_minus_right_recall", name, measured, n, units, note),
    )


def _froc_points(of: Gated, part: ClassMatches, images: np.ndarray) -> FrocPoints:
    part, weights = part.subset(images), of.weights.subset(images)
    points, table = empty_mouth.FROC_FALSE_POSITIVES, PointTable.from_matches(part)
    drawn = bootstrap.draws(lambda block: table.sensitivity_at(block, points), weights)
    units = bootstrap.units_with(part.gt_counts, weights)
    measured = [bootstrap.interval(drawn, units, at=(i,)) for i in range(len(points))]
    return FrocPoints(
        sensitivity=tuple(m.value for m in measured),
        low=tuple(m.low for m in measured),
        high=tuple(m.high for m in measured),
        mean=bootstrap.interval(drawn.map(lambda values: values.mean(axis=0)), units).bounds,
    )


def _parts(measured: Mapping[str, tuple[Part, Measurement]]) -> dict[str, Part]:
    return {name: part for name, (part, _) in measured.items()}


def _rows(measured: Mapping[str, tuple[object, Measurement]]) -> Rows:
    return [row for _, row in measured.values()]
