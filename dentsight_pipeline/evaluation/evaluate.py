"""The evaluation: everything that is measured on one set of detections, and the folder that holds it.

It calls the other modules of this room in order and knows no formula itself. Both engines score every run; the figures
are those of pycocotools, the intervals those of the room's own matching, and the three must agree.

What the words mean:

- *populations*: `all` images, and `clean` ones (no source shared with another split) where the ground truth says so.
  Gates read the clean ones.
- *operating threshold* of a class: the one with the best F1, chosen on `thresholds_from` (the validation split).
  Everything that needs a decision (calibration, consistency, empty mouths, errors, confusion) is measured at it.
- `recall_at_p95`, `best_f1`: what the curve of the evaluated population allows. `…_at_threshold` (best F1) and
  `…_at_threshold_p95`: what the thresholds chosen on valid give on it, which is what a user would see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation import (
    bootstrap,
    calibration,
    consistency,
    engines,
    errors_by_type,
    matching,
    metrics,
    operating_points,
)
from dentsight_pipeline.evaluation.bootstrap import Draws, Interval, Weights
from dentsight_pipeline.evaluation.engines import EngineResult
from dentsight_pipeline.evaluation.folder import (
    SCHEMA,
    Evaluation,
    plain,
    read_evaluation,
    read_json_file,
    summary,
    write_evaluation,
)
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.tier2 import (
    Operating,
    measure_calibration,
    measure_consistency,
    measure_empty_mouth,
    measure_froc,
    measurement,
    sample_sizes,
)
from dentsight_pipeline.evaluation.validation import (
    Detections,
    GroundTruth,
    digest_of,
    read_detections,
    read_ground_truth,
)
from dentsight_pipeline.progress import Progress

__all__ = ["Evaluation", "evaluate", "evaluate_files", "read_evaluation", "summary", "write_evaluation"]

STATED_FLOOR = 0.05
"""Least score of a row in `matches.parquet`; lower when an operating threshold is lower."""
RANKED = ("ap", "ap50", "ap75", "ar100", "ap_small", "ap_medium", "ap_large", "recall_at_p95", "best_f1")
"""Figures that need no threshold chosen beforehand; they have a macro mean."""
AT_THRESHOLD = (
    "precision_at_threshold",
    "recall_at_threshold",
    "f1_at_threshold",
    "precision_at_threshold_p95",
    "recall_at_threshold_p95",
)
GATED = ("ap", "ap50", "ap75", "ar100", "recall_at_p95", "best_f1")
_CURVE_POINTS = 200


def evaluate(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    thresholds_from: tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]] | None = None,
    mirrored: Sequence[Mapping[str, Any]] | None = None,
    swap_mirrored_teeth: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    fill_missing: bool = False,
    progress: Progress | None = None,
    names: tuple[str, str] = ("ground truth", "detections"),
) -> Evaluation:
    """Evaluate detections against a COCO ground truth.

    Args:
        ground_truth: Parsed COCO JSON; its categories are the classes. `clean` and `source_group` of an image are
            used where they are there.
        detections: COCO results list, boxes [x, y, w, h] in original pixels, unrounded.
        thresholds_from: Ground truth and detections of the validation split. Without them thresholds are chosen on the
            evaluated images themselves, which flatters, and is recorded as `test`.
        mirrored: Detections on the mirrored images in the unmirrored frame: boxes mapped back and teeth renamed, as
            `training/predict` stores them.
        swap_mirrored_teeth: The teeth of `mirrored` still carry the names seen in the mirror; swap quadrants 1 with 2
            and 3 with 4 here.
        resamples: Bootstrap resamples; 0 = no intervals.
        seed: Bootstrap seed. The same inputs and seed give the same evaluation, byte for byte.
        fill_missing: Fill a missing `area` with w·h and a missing `iscrowd` with 0, and say so in the notes. Off by
            default, because an engine would crash or guess (EVALUATION.md: refuse).
        progress: Called with stage, done, total.
        names: How errors call the two inputs.

    Raises:
        ScoringRecordError: A record that would be mis-scored, with its place, the reason and the remedy.
        EvaluationError: Inputs that do not belong together, or figures that the engines and the room's own matching
            do not agree on.
    """
    say = progress or (lambda stage, done, total: None)
    say("validate", 0, 1)
    truth = read_ground_truth(ground_truth, source=names[0], fill_missing=fill_missing)
    found = read_detections(detections, truth, source=names[1])
    reflected = None if mirrored is None else read_detections(mirrored, truth, source="mirrored detections")
    if reflected is not None and swap_mirrored_teeth:
        reflected = consistency.with_teeth_renamed(reflected, truth.class_names)
    notes = list(truth.notes)
    truth, found, reflected = _without_partial_teeth(truth, found, reflected, notes)
    populations = {"all": np.ones(len(truth.image_ids), bool)}
    if truth.clean is not None:
        populations["clean"] = truth.clean
    gated = "clean" if "clean" in populations else "all"

    say("engines", 0, 2)
    of_record = _score(truth, found, "pycocotools", populations)
    say("engines", 1, 2)
    second = _score(truth, found, "hotcoco", populations)
    say("match", 0, 1)
    matched = matching.match(truth, found)
    engine_facts = _agreement(of_record, second, matched, populations)
    everything = [by_area["all"] for by_area in matched]
    say("thresholds", 0, 1)
    operating = _operating_points(truth, everything, thresholds_from, fill_missing)

    rows: list[dict[str, Any]] = []
    document_populations: dict[str, Any] = {}
    measurements: list[dict[str, Any]] = []
    curves: dict[str, Any] = {}
    weights: dict[str, Weights] = {}
    for name, mask in populations.items():
        weights[name] = bootstrap.draw(truth.groups[mask], resamples, seed)
        table = _population(name, mask, truth, matched, of_record[name], operating, weights[name], say)
        document_populations[name], own_rows, own_measurements = table
        rows += [{"population": name, **row} for row in own_rows]
        measurements += own_measurements
        curves[name] = {
            class_name: _curve(of_record[name], k, matched[k]["all"].subset(mask))
            for k, class_name in enumerate(truth.class_names)
        }

    say("tier 2", 0, 4)
    mask = populations[gated]
    parts = [m.subset(mask) for m in everything]
    calibrated = measure_calibration(truth, parts, operating, weights[gated], gated, measurements)
    say("tier 2", 1, 4)
    sides = measure_consistency(
        truth, found, reflected, everything, operating, mask, weights[gated], gated, measurements
    )
    say("tier 2", 2, 4)
    empty = measure_empty_mouth(truth, everything, operating, mask, weights[gated], gated, measurements)
    froc = measure_froc(truth, parts, weights[gated])
    say("tier 2", 3, 4)
    finite = operating.best_f1[np.isfinite(operating.best_f1)]
    floor = float(min([STATED_FLOOR, *finite]))
    typed = errors_by_type.classify(truth, found, everything, floor)
    document = {
        "schema": SCHEMA,
        "classes": list(truth.class_names),
        "ground_truth_sha256": digest_of(ground_truth),
        "detections_sha256": digest_of(detections),
        "mirrored_sha256": None if mirrored is None else digest_of(mirrored),
        "gated_population": gated,
        "populations": document_populations,
        "measurements": measurements,
        "engines": engine_facts,
        "thresholds_from": operating.chosen_on,
        "operating_points": {
            name: {"threshold_p95": operating.p95[k], "threshold_best_f1": operating.best_f1[k]}
            for k, name in enumerate(truth.class_names)
        },
        "bootstrap": {
            "resamples": resamples,
            "seed": seed,
            "unit": "source_group",
            "method": "BCa",
            "level": 1 - bootstrap.ALPHA,
            "minimum_groups": bootstrap.MINIMUM_GROUPS,
        },
        "calibration": calibrated,
        "consistency": sides,
        "empty_mouth": empty,
        "froc": froc,
        "errors": errors_by_type.count_by_type(truth, found, typed, operating.best_f1, mask),
        "confusion": errors_by_type.confusion_matrix(truth, found, typed, operating.best_f1, mask),
        "score_floor": floor,
        "sample_sizes": sample_sizes(measurements, document_populations[gated]["images"]),
        "notes": notes,
    }
    matches = errors_by_type.table_of_matches(truth, found, typed, operating.best_f1)
    say("done", 1, 1)
    return Evaluation(plain(document), rows, plain(curves), matches)


def evaluate_files(
    ground_truth: Path,
    detections: Path,
    out: Path,
    *,
    thresholds_from: tuple[Path, Path] | None = None,
    mirrored: Path | None = None,
    resamples: int = 1000,
    seed: int = 0,
    fill_missing: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`evaluate` on COCO files, written to the folder `out`.

    Returns:
        The summary that the command line prints; see `summary`.

    Raises:
        EvaluationError: A file that cannot be read, or as `evaluate`.
    """
    truth, found = read_json_file(ground_truth), read_json_file(detections)
    valid = None if thresholds_from is None else tuple(read_json_file(path) for path in thresholds_from)
    evaluation = evaluate(
        truth,
        found,
        thresholds_from=None if valid is None else (valid[0], valid[1]),
        mirrored=None if mirrored is None else read_json_file(mirrored),
        resamples=resamples,
        seed=seed,
        fill_missing=fill_missing,
        progress=progress,
        names=(str(ground_truth), str(detections)),
    )
    write_evaluation(evaluation, out)
    return summary(evaluation.document)


def _without_partial_teeth(
    truth: GroundTruth, found: Detections, reflected: Detections | None, notes: list[str]
) -> tuple[GroundTruth, Detections, Detections | None]:
    """Images whose teeth are not annotated are no tooth negatives: leave them out when the classes are teeth."""
    if not truth.partial.any() or not consistency.are_teeth(truth.class_names):
        return truth, found, reflected
    whole = ~truth.partial
    notes.append(f"{int(truth.partial.sum())} partially annotated images left out: their teeth are not marked.")
    return truth.subset(whole), found.subset(whole), None if reflected is None else reflected.subset(whole)


def _score(
    truth: GroundTruth, found: Detections, engine: engines.Engine, populations: Mapping[str, np.ndarray]
) -> dict[str, EngineResult]:
    """Every population by one engine; a population without images is −1 throughout."""
    filled = {name: mask for name, mask in populations.items() if mask.any()}
    results = engines.score_populations(truth, found, engine, filled)
    blank = results["all"]
    for name in populations.keys() - filled.keys():
        results[name] = EngineResult(
            blank.engine,
            blank.version,
            blank.classes,
            np.full_like(blank.precision, -1),
            np.full_like(blank.recall, -1),
            np.full_like(blank.scores, -1),
        )
    return results


def _agreement(
    of_record: Mapping[str, EngineResult],
    second: Mapping[str, EngineResult],
    matched: list[dict[str, ClassMatches]],
    populations: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Versions and the largest differences; engines that disagree are recorded (gates fail closed on it).

    Raises:
        EvaluationError: The room's own matching, which the intervals come from, differs from the engine of record.
    """
    between = max(engines.max_abs_difference(of_record[name], second[name]) for name in populations)
    own = 0.0
    for name, mask in populations.items():
        for k, by_area in enumerate(matched):
            for a, matches in enumerate(by_area.values()):
                precision, recall = metrics.average_precision(matches.subset(mask))
                theirs = of_record[name].precision[:, :, k, a, -1].mean(axis=1)
                own = max(own, float(np.abs(np.nan_to_num(precision, nan=-1.0) - theirs).max()))
                theirs = of_record[name].recall[:, k, a, -1]
                own = max(own, float(np.abs(np.nan_to_num(recall, nan=-1.0) - theirs).max()))
    record = of_record["all"]
    if not own <= engines.AGREEMENT_TOLERANCE:
        raise EvaluationError(
            f"The matching that intervals come from differs from {record.engine} {record.version} by {own:.3g} "
            f"(allowed: {engines.AGREEMENT_TOLERANCE:g}), so no interval of this run can be trusted. Install the "
            "versions of constraints.txt and report the pair of files."
        )
    return {
        "pycocotools": record.version,
        "hotcoco": second["all"].version,
        "max_abs_difference": between,
        "agree": bool(between <= engines.AGREEMENT_TOLERANCE),
        "tolerance": engines.AGREEMENT_TOLERANCE,
        "own_matching_max_abs_difference": own,
    }


def _operating_points(
    truth: GroundTruth,
    matches: Sequence[ClassMatches],
    thresholds_from: tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]] | None,
    fill_missing: bool,
) -> Operating:
    platt: dict[int, calibration.Platt] | None = None
    chosen_on, source = "test", list(matches)
    if thresholds_from is not None:
        chosen_on = "valid"
        valid = read_ground_truth(thresholds_from[0], source="validation ground truth", fill_missing=fill_missing)
        if valid.class_names != truth.class_names:
            raise EvaluationError(
                f"Thresholds are to come from a split with the classes {', '.join(valid.class_names)}, but those "
                f"evaluated are {', '.join(truth.class_names)}. Give the validation split of the same dataset."
            )
        found = read_detections(thresholds_from[1], valid, source="validation detections")
        source = [by_area["all"] for by_area in matching.match(valid, found)]
    p95, best_f1 = np.full(len(matches), math.inf), np.full(len(matches), math.inf)
    for k, own in enumerate(source):
        curve = operating_points.score_curve(own)
        if curve is not None:
            p95[k], best_f1[k] = curve.recall_at_precision().threshold, curve.best_f1().threshold
    if thresholds_from is not None and calibration.scores_are_probabilities(source):
        fits = {k: calibration.fit_platt(own, best_f1[k]) for k, own in enumerate(source)}
        platt = {k: fit for k, fit in fits.items() if fit is not None}
    return Operating(chosen_on, p95, best_f1, platt)


def _population(
    population: str,
    mask: np.ndarray,
    truth: GroundTruth,
    matched: list[dict[str, ClassMatches]],
    record: EngineResult,
    operating: Operating,
    weights: Weights,
    say: Progress,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """One population: its part of the document, its rows and its measurements."""
    rows: list[dict[str, Any]] = []
    measurements: list[dict[str, Any]] = []
    sampled: dict[str, list[Draws]] = {metric: [] for metric in RANKED}
    for k, name in enumerate(truth.class_names):
        say(f"bootstrap {population}", k, len(truth.class_names))
        parts = {area: m.subset(mask) for area, m in matched[k].items()}
        drawn = _draws(parts, operating.p95[k], operating.best_f1[k], weights)
        row: dict[str, Any] = {
            "class": name,
            "n_gt": parts["all"].n_gt,
            "n_images": int((parts["all"].gt_counts > 0).sum()),
            "n_detections": len(parts["all"].scores),
        }
        units = {area: bootstrap.units_with(m.gt_counts, weights) for area, m in parts.items()}
        for metric in (*RANKED, *AT_THRESHOLD):
            area = metric.removeprefix("ap_") if metric.startswith("ap_") else "all"
            measured = bootstrap.interval(drawn[metric], units[area])
            exact = record.per_class[name].get(metric)
            _put(row, metric, measured, exact if exact is not None else measured.value)
            if metric in sampled:
                sampled[metric].append(drawn[metric])
            if metric in GATED:
                note = "" if parts["all"].n_gt else f"no ground truth; {len(parts['all'].scores)} detections"
                measurements.append(
                    measurement(metric, name, population, measured, parts["all"].n_gt, units["all"], note)
                )
        row["threshold_p95"], row["threshold_best_f1"] = operating.p95[k], operating.best_f1[k]
        rows.append(row)

    macro: dict[str, Any] = {}
    n_gt = sum(row["n_gt"] for row in rows)
    present = [row["class"] for row in rows if row["ap"] is not None]
    units = bootstrap.units_with(np.sum([by_area["all"].gt_counts[mask] for by_area in matched], axis=0), weights)
    for metric in RANKED:
        mean = Draws(
            *(
                metrics.macro(np.stack([getattr(draw, part) for draw in sampled[metric]]))
                for part in ("point", "resampled", "jackknife")
            )
        )
        measured = bootstrap.interval(mean, units)
        exact = record.macro(metric) if metric in record.per_class[record.classes[0]] else None
        _put(macro, metric, measured, exact if exact is not None else measured.value)
        if metric in GATED:
            note = f"mean over {len(present)} of {len(rows)} classes"
            if metric == "ap":
                note += "; interval informational"
            measurements.append(measurement(metric, "macro", population, measured, n_gt, units, note))
    macro["present"], macro["of"] = len(present), len(rows)
    part = {"images": int(mask.sum()), "groups": weights.n_groups, "per_class": rows, "macro": macro}
    return part, rows, measurements


def _draws(parts: Mapping[str, ClassMatches], p95: float, best_f1: float, weights: Weights) -> dict[str, Draws]:
    """Every figure of one class on the population, the resamples and the jackknife replicates."""
    half = int(np.flatnonzero(engines.IOU_THRESHOLDS == 0.5)[0])
    three_quarters = int(np.flatnonzero(np.isclose(engines.IOU_THRESHOLDS, 0.75))[0])
    drawn: dict[str, Draws] = {}
    for area, matches in parts.items():
        table = metrics.CurveTable.from_matches(matches)
        both = bootstrap.draws(lambda w, table=table: np.stack(table.average_precision(w)), weights)  # [2, T, ·]
        if area == "all":
            drawn["ap"] = both.map(lambda v: v[0].mean(axis=0))
            drawn["ap50"] = both.map(lambda v: v[0, half])
            drawn["ap75"] = both.map(lambda v: v[0, three_quarters])
            drawn["ar100"] = both.map(lambda v: v[1].mean(axis=0))
        else:
            drawn[f"ap_{area}"] = both.map(lambda v: v[0].mean(axis=0))
    points = operating_points.PointTable.from_matches(parts["all"])
    drawn["recall_at_p95"] = bootstrap.draws(points.recall_at_precision, weights)
    drawn["best_f1"] = bootstrap.draws(points.best_f1, weights)
    at_best, at_p95 = (operating_points.counts_at(parts["all"], threshold) for threshold in (best_f1, p95))
    drawn["precision_at_threshold"] = bootstrap.draws(at_best.precision, weights)
    drawn["recall_at_threshold"] = bootstrap.draws(at_best.recall, weights)
    drawn["f1_at_threshold"] = bootstrap.draws(at_best.f1, weights)
    drawn["precision_at_threshold_p95"] = bootstrap.draws(at_p95.precision, weights)
    drawn["recall_at_threshold_p95"] = bootstrap.draws(at_p95.recall, weights)
    return drawn


def _curve(record: EngineResult, k: int, matches: ClassMatches) -> dict[str, Any]:
    """Precision over recall (engine of record, IoU .50), and precision, recall, F1 over the score."""
    precision = record.precision[0, :, k, 0, -1]
    curve = operating_points.score_curve(matches)
    empty: dict[str, Any] = {"score": [], "f1": [], "precision_by_score": [], "recall_by_score": []}
    envelope = {
        "recall": engines.RECALL_THRESHOLDS.tolist(),
        "precision": precision.tolist() if (precision > -1).all() else None,
    }
    if curve is None or not len(curve.scores):
        return {**envelope, **empty}
    best = int(np.argmax(curve.f1))
    spread = np.linspace(0, len(curve.scores) - 1, min(_CURVE_POINTS, len(curve.scores))).round().astype(int)
    at = np.unique([*spread, best])
    return {
        **envelope,
        "score": curve.scores[at].tolist(),
        "f1": curve.f1[at].tolist(),
        "precision_by_score": curve.precision[at].tolist(),
        "recall_by_score": curve.recall[at].tolist(),
    }


def _put(row: dict[str, Any], metric: str, measured: Interval, value: float | None) -> None:
    row[metric], row[f"{metric}_low"], row[f"{metric}_high"] = value, measured.low, measured.high
