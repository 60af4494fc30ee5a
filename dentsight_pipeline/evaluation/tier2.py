"""Tier 2: what a threshold and a score are worth. Each figure with its interval, its n and the n that it would need.

Measured on one population, at the operating threshold of each class, from the modules that hold the formulas. The
figures that need no threshold are in `evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dentsight_pipeline.evaluation import (
    bootstrap,
    calibration,
    consistency,
    empty_mouth,
    errors_by_type,
    operating_points,
)
from dentsight_pipeline.evaluation.bootstrap import Interval, Weights
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.validation import Detections, GroundTruth


@dataclass(frozen=True)
class Operating:
    """Thresholds of each class, with what they were chosen on."""

    chosen_on: str
    p95: np.ndarray  # [K]; +∞ = unreachable
    best_f1: np.ndarray  # [K]; +∞ = nothing is ever hit
    platt: dict[int, calibration.Platt] | None


def measure_calibration(
    truth: GroundTruth,
    parts: Sequence[ClassMatches],
    operating: Operating,
    weights: Weights,
    population: str,
    measurements: list[dict[str, Any]],
) -> dict[str, Any]:
    if not calibration.scores_are_probabilities(parts):
        note = "scores outside [0, 1] are no probabilities"
        n = sum(len(m.scores) for m in parts)
        measurements.append(measurement("ece", "all", population, Interval(None), n, 0, note))
        return {"measured": False, "reason": note}
    counts = {name: calibration.bin_counts(parts[k], operating.best_f1[k]) for k, name in enumerate(truth.class_names)}
    scaled = None
    if operating.platt is not None:
        scaled = {
            name: calibration.bin_counts(parts[k], operating.best_f1[k], operating.platt.get(k))
            for k, name in enumerate(truth.class_names)
        }
    document: dict[str, Any] = {"measured": True, "bins_per_class": calibration.BINS, "population": population}
    document["counted"] = "detections at or above the operating threshold of their class, hits at IoU .50"
    classes: dict[str, Any] = {}
    for name, own in {**counts, "all": calibration.total(counts)}.items():
        n = int(own.seen.sum())
        units = bootstrap.units_with(own.seen.sum(axis=0), weights)
        measured = bootstrap.interval(bootstrap.draws(own.error, weights), units)
        note = "" if n else "no detection reaches the operating threshold: failed, not 0"
        measurements.append(measurement("ece", name, population, measured, n, units, note))
        entry: dict[str, Any] = {"n": n, "ece": measured.value, "low": measured.low, "high": measured.high}
        entry["bins"] = own.bins()
        if scaled is not None:
            after = calibration.total(scaled) if name == "all" else scaled[name]
            after_measured = bootstrap.interval(bootstrap.draws(after.error, weights), units)
            entry["after_platt"] = {
                "ece": after_measured.value,
                "low": after_measured.low,
                "high": after_measured.high,
                "bins": after.bins(),
            }
        classes[name] = entry
    document["classes"] = classes
    document["platt"] = (
        None
        if operating.platt is None
        else {
            truth.class_names[k]: {"slope": fit.slope, "intercept": fit.intercept, "fitted_on": fit.n}
            for k, fit in operating.platt.items()
        }
    )
    return document


def measure_consistency(
    truth: GroundTruth,
    found: Detections,
    reflected: Detections | None,
    matches: Sequence[ClassMatches],
    operating: Operating,
    mask: np.ndarray,
    weights: Weights,
    population: str,
    measurements: list[dict[str, Any]],
) -> dict[str, Any]:
    document: dict[str, Any] = {"population": population, "left_right_agreement": None, "left_minus_right_recall": {}}
    if reflected is not None:
        mirrors: dict[str, consistency.MirrorCounts] = {}
        for k, name in enumerate(truth.class_names):
            mirrors[name] = consistency.mirror_counts(truth, found, reflected, k, operating.best_f1[k]).subset(mask)
        table = {}
        for name, counts in {**mirrors, "all": consistency.total(mirrors.values())}.items():
            n = int(counts.a.sum() + counts.b.sum())
            units = bootstrap.units_with(counts.a + counts.b, weights)
            measured = bootstrap.interval(bootstrap.draws(counts.agreement, weights), units)
            note = "" if n else "nothing reaches the operating threshold on either side"
            measurements.append(measurement("left_right_agreement", name, population, measured, n, units, note))
            table[name] = {"n": n, "value": measured.value, "low": measured.low, "high": measured.high}
        document["left_right_agreement"] = table
    if np.isnan(truth.image_sizes_px[:, 0]).all():
        document["reason"] = "no image gives its width, so sides are unknown"
        return document
    hit = errors_by_type.found_at(matches, operating.best_f1.tolist(), len(truth.class_index))
    sides: dict[str, consistency.SideCounts] = {}
    for k, name in enumerate(truth.class_names):
        sides[name] = consistency.side_counts(truth, k, hit).subset(mask)
    for name, counts in {**sides, "all": consistency.total(sides.values())}.items():
        both = counts.left_gt + counts.right_gt
        units = bootstrap.units_with(both, weights)
        measured = bootstrap.interval(bootstrap.draws(counts.left_minus_right, weights), units, bounds=None)
        n, note = int(both.sum()), "left = the patient's left"
        if n and not (counts.left_hits + counts.right_hits).any():  # equal recalls of nothing are no consistency
            measured, note = Interval(None), f"nothing is found on either side; {note}"
        measurements.append(measurement("left_minus_right_recall", name, population, measured, n, units, note))
        document["left_minus_right_recall"][name] = {
            "n_left": int(counts.left_gt.sum()),
            "n_right": int(counts.right_gt.sum()),
            "value": measured.value,
            "low": measured.low,
            "high": measured.high,
        }
    return document


def measure_empty_mouth(
    truth: GroundTruth,
    matches: Sequence[ClassMatches],
    operating: Operating,
    mask: np.ndarray,
    weights: Weights,
    population: str,
    measurements: list[dict[str, Any]],
) -> dict[str, Any]:
    """False positives on images without any annotation of the classes evaluated."""
    annotated = np.bincount(truth.image_index, minlength=len(truth.image_ids)) > 0
    empty = ~annotated[mask]
    shown = np.zeros(int(mask.sum()))
    for k, own in enumerate(matches):
        shown += operating_points.counts_at(own, operating.best_f1[k]).seen[mask]
    n = int(empty.sum())
    images_hit, positives = int((shown[empty] > 0).sum()), int(shown[empty].sum())
    rate, per_image = empty_mouth.clopper_pearson(images_hit, n), empty_mouth.garwood(positives, n)
    needed = empty_mouth.images_needed()
    units = len(np.unique(weights.groups[empty]))
    note = f"{needed} empty images without a false positive are needed to show < 5 %"
    for metric, measured in (("empty_mouth_fp_rate", rate), ("empty_mouth_fp_per_image", per_image)):
        measurements.append(measurement(metric, "all", population, measured, n, units, note))
    return {
        "population": population,
        "images": n,
        "images_with_false_positive": images_hit,
        "false_positives": positives,
        "rate": bounds_of(rate),
        "rate_interval": "Clopper-Pearson",
        "per_image": bounds_of(per_image),
        "per_image_interval": "Garwood",
        "images_needed_for_below_5_percent": needed,
        "images_needed_at_observed_rate": None if rate.value is None else empty_mouth.images_needed(rate=rate.value),
    }


def measure_froc(truth: GroundTruth, parts: Sequence[ClassMatches], weights: Weights) -> dict[str, Any]:
    """Sensitivity at ⅛ to 8 false positives an image, for each class and for all pooled by score."""
    points = empty_mouth.FROC_FALSE_POSITIVES
    document: dict[str, Any] = {"false_positives_per_image": list(points), "classes": {}}
    for name, own in [*zip(truth.class_names, parts, strict=True), ("all", operating_points.pooled(list(parts)))]:
        table = operating_points.PointTable.from_matches(own)
        drawn = bootstrap.draws(lambda w, table=table: table.sensitivity_at(w, points), weights)
        units = bootstrap.units_with(own.gt_counts, weights)
        measured = [bootstrap.interval(drawn, units, at=(i,)) for i in range(len(points))]
        mean = bootstrap.interval(drawn.map(lambda v: v.mean(axis=0)), units)
        document["classes"][name] = {
            "sensitivity": [m.value for m in measured],
            "low": [m.low for m in measured],
            "high": [m.high for m in measured],
            "mean": bounds_of(mean),
        }
    return document


def sample_sizes(measurements: list[dict[str, Any]], n_images: int) -> dict[str, Any]:
    """About how many images each Tier 2 figure would take for a half-width of .05 (widths fall with √n)."""
    needed: dict[str, Any] = {"half_width": 0.05, "images": {}}
    for row in measurements:
        if row["metric"] in ("recall_at_p95", "ece", "left_right_agreement", "left_minus_right_recall"):
            measured = Interval(row["value"], row["low"], row["high"])
            needed["images"].setdefault(row["metric"], {})[row["class"]] = bootstrap.needed_images(measured, n_images)
    return needed


def measurement(
    metric: str, name: str, population: str, measured: Interval, n: int, units: int, note: str = ""
) -> dict[str, Any]:
    return {
        "metric": metric,
        "class": name,
        "population": population,
        "value": measured.value,
        "low": measured.low,
        "high": measured.high,
        "n": n,
        "unit_count": units,
        "note": "; ".join(part for part in (note, measured.note) if part),
    }


def bounds_of(measured: Interval) -> dict[str, float | None]:
    return {"value": measured.value, "low": measured.low, "high": measured.high}
