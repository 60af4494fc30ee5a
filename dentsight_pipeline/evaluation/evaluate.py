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

import csv
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation import (
    bootstrap,
    calibration,
    consistency,
    empty_mouth,
    engines,
    errors_by_type,
    matching,
    metrics,
    operating_points,
)
from dentsight_pipeline.evaluation.bootstrap import Draws, Interval, Weights
from dentsight_pipeline.evaluation.engines import EngineResult
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.validation import (
    Detections,
    GroundTruth,
    digest_of,
    read_detections,
    read_ground_truth,
)

SCHEMA = "dentsight-evaluation/1"
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

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation in memory.

    Attributes:
        document: The content of `evaluation.json`.
        per_class: Rows of both populations, with a `population` column.
        curves: The content of `curves.json`.
        matches: Columns of `matches.parquet`.
    """

    document: dict[str, Any]
    per_class: list[dict[str, Any]]
    curves: dict[str, Any]
    matches: dict[str, np.ndarray]

    @property
    def macro_ap(self) -> float | None:
        """Macro AP[.50:.95] over all images and the present classes."""
        return self.document["populations"]["all"]["macro"]["ap"]

    @property
    def macro_ap50(self) -> float | None:
        """Macro AP50 over all images and the present classes."""
        return self.document["populations"]["all"]["macro"]["ap50"]

    @property
    def measurements(self) -> list[dict[str, Any]]:
        """All that gates see."""
        return self.document["measurements"]


@dataclass(frozen=True)
class _Operating:
    """Thresholds of each class, with what they were chosen on."""

    chosen_on: str
    p95: np.ndarray  # [K]; +∞ = unreachable
    best_f1: np.ndarray  # [K]; +∞ = nothing is ever hit
    platt: dict[int, calibration.Platt] | None


def evaluate(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    thresholds_from: tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]] | None = None,
    mirrored: Sequence[Mapping[str, Any]] | None = None,
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
        mirrored: Detections on the mirrored images, boxes mapped back to the unmirrored frame, classes as the model
            gave them (this function swaps FDI quadrants).
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
    calibrated = _calibration(truth, parts, operating, weights[gated], gated, measurements)
    say("tier 2", 1, 4)
    sides = _consistency(truth, found, reflected, everything, operating, mask, weights[gated], gated, measurements)
    say("tier 2", 2, 4)
    empty = _empty_mouth(truth, everything, operating, mask, weights[gated], gated, measurements)
    froc = _froc(truth, parts, weights[gated])
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
        "sample_sizes": _sample_sizes(measurements, document_populations[gated]["images"]),
        "notes": notes,
    }
    matches = errors_by_type.table_of_matches(truth, found, typed, operating.best_f1)
    say("done", 1, 1)
    return Evaluation(_plain(document), rows, _plain(curves), matches)


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


def summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """The short form of an `evaluation.json`: the keys that scripts read.

    Args:
        document: Its content, e.g. from `read_evaluation`.

    Returns:
        `per_class` rows, `macro_ap`, `macro_ap50`, … over all images; `clean` holds the same for the clean ones.
    """

    def short(population: Mapping[str, Any]) -> dict[str, Any]:
        macro = population["macro"]
        figures = {f"macro_{name}": macro[name] for name in ("ap", "ap50", "ap75", "ar100")}
        bounds = {f"macro_{name}_{end}": macro[f"{name}_{end}"] for name in ("ap", "ap50") for end in ("low", "high")}
        counts = {"images": population["images"], "present": macro["present"], "of": macro["of"]}
        return {**figures, **bounds, **counts, "per_class": population["per_class"]}

    populations = document["populations"]
    return {
        **short(populations["all"]),
        "clean": short(populations["clean"]) if "clean" in populations else None,
        "gated_population": document["gated_population"],
        "thresholds_from": document["thresholds_from"],
        "engines": document["engines"],
        "ground_truth_sha256": document["ground_truth_sha256"],
        "detections_sha256": document["detections_sha256"],
        "notes": document["notes"],
    }


def read_evaluation(folder: Path) -> dict[str, Any]:
    """The `evaluation.json` of a folder.

    Raises:
        EvaluationError: None there, or of another schema.
    """
    document = read_json_file(folder / "evaluation.json")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise EvaluationError(
            f"{folder / 'evaluation.json'} is not a {SCHEMA} document. Make one with `dentsight evaluate --out`."
        )
    return document


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the evaluation folder: `evaluation.json`, `per_class.{csv,json,parquet}`, `curves.json`, `matches.parquet`.

    Each file appears whole or not at all, and the same evaluation gives the same bytes. In JSON an unreachable
    threshold is null beside a figure of 0; in CSV and Parquet it is `inf`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)

    def parquet_bytes(table: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink, compression="zstd")
        return sink.getvalue().to_pybytes()

    columns = list(evaluation.per_class[0])
    by_column = {name: [row[name] for row in evaluation.per_class] for name in columns}
    texts, wholes = {"population", "class"}, {"n_gt", "n_images", "n_detections"}
    types = {n: pa.string() if n in texts else pa.int64() if n in wholes else pa.float64() for n in columns}
    per_class = pa.table({name: pa.array(by_column[name], types[name]) for name in columns})
    matches = evaluation.matches
    gap = np.isnan(matches["score"])
    none = matches["matched_at_50"] < 0
    match_table = pa.table(
        {
            "image_id": pa.array(matches["image_id"], pa.int64()),
            "class": pa.array(matches["class"], pa.string()),
            "score": pa.array(matches["score"], pa.float64(), mask=gap),
            **{side: pa.array(matches[side], pa.float64()) for side in "xywh"},
            "matched_at_50": pa.array(matches["matched_at_50"], pa.int64(), mask=none),
            "iou": pa.array(matches["iou"], pa.float64(), mask=gap),
            "kind": pa.array(matches["kind"], pa.string()),
            "above_threshold": pa.array(matches["above_threshold"], pa.bool_(), mask=gap),
        }
    )
    _write(folder / "curves.json", _json(evaluation.curves, indent=None))
    _write(folder / "matches.parquet", parquet_bytes(match_table))
    _write(folder / "per_class.json", _json(_plain(evaluation.per_class)))
    _write(folder / "per_class.parquet", parquet_bytes(per_class))
    temporary = folder / f".per_class.csv.{os.getpid()}"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(evaluation.per_class)
    temporary.replace(folder / "per_class.csv")
    _write(folder / "evaluation.json", _json(evaluation.document))  # last: its presence says that the rest is there


def read_json_file(path: Path) -> Any:
    """Parsed JSON.

    Raises:
        EvaluationError: Missing or not JSON, with the place.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}. Give an existing JSON file.") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON: {error}. Write it anew; it may be cut off.") from error


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
) -> _Operating:
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
    return _Operating(chosen_on, p95, best_f1, platt)


def _population(
    population: str,
    mask: np.ndarray,
    truth: GroundTruth,
    matched: list[dict[str, ClassMatches]],
    record: EngineResult,
    operating: _Operating,
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
                    _measurement(metric, name, population, measured, parts["all"].n_gt, units["all"], note)
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
            measurements.append(_measurement(metric, "macro", population, measured, n_gt, units, note))
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


def _calibration(
    truth: GroundTruth,
    parts: Sequence[ClassMatches],
    operating: _Operating,
    weights: Weights,
    population: str,
    measurements: list[dict[str, Any]],
) -> dict[str, Any]:
    if not calibration.scores_are_probabilities(parts):
        note = "scores outside [0, 1] are no probabilities"
        n = sum(len(m.scores) for m in parts)
        measurements.append(_measurement("ece", "all", population, Interval(None), n, 0, note))
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
        measurements.append(_measurement("ece", name, population, measured, n, units, note))
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


def _consistency(
    truth: GroundTruth,
    found: Detections,
    reflected: Detections | None,
    matches: Sequence[ClassMatches],
    operating: _Operating,
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
            measurements.append(_measurement("left_right_agreement", name, population, measured, n, units, note))
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
        n = int(both.sum())
        measurements.append(
            _measurement("left_minus_right_recall", name, population, measured, n, units, "left = the patient's left")
        )
        document["left_minus_right_recall"][name] = {
            "n_left": int(counts.left_gt.sum()),
            "n_right": int(counts.right_gt.sum()),
            "value": measured.value,
            "low": measured.low,
            "high": measured.high,
        }
    return document


def _empty_mouth(
    truth: GroundTruth,
    matches: Sequence[ClassMatches],
    operating: _Operating,
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
        measurements.append(_measurement(metric, "all", population, measured, n, units, note))
    return {
        "population": population,
        "images": n,
        "images_with_false_positive": images_hit,
        "false_positives": positives,
        "rate": _bounds(rate),
        "rate_interval": "Clopper-Pearson",
        "per_image": _bounds(per_image),
        "per_image_interval": "Garwood",
        "images_needed_for_below_5_percent": needed,
        "images_needed_at_observed_rate": None if rate.value is None else empty_mouth.images_needed(rate=rate.value),
    }


def _froc(truth: GroundTruth, parts: Sequence[ClassMatches], weights: Weights) -> dict[str, Any]:
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
            "mean": _bounds(mean),
        }
    return document


def _sample_sizes(measurements: list[dict[str, Any]], n_images: int) -> dict[str, Any]:
    """About how many images each Tier 2 figure would take for a half-width of .05 (widths fall with √n)."""
    needed: dict[str, Any] = {"half_width": 0.05, "images": {}}
    for row in measurements:
        if row["metric"] in ("recall_at_p95", "ece", "left_right_agreement", "left_minus_right_recall"):
            measured = Interval(row["value"], row["low"], row["high"])
            needed["images"].setdefault(row["metric"], {})[row["class"]] = bootstrap.needed_images(measured, n_images)
    return needed


def _measurement(
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


def _put(row: dict[str, Any], metric: str, measured: Interval, value: float | None) -> None:
    row[metric], row[f"{metric}_low"], row[f"{metric}_high"] = value, measured.low, measured.high


def _bounds(measured: Interval) -> dict[str, float | None]:
    return {"value": measured.value, "low": measured.low, "high": measured.high}


def _plain(value: Any) -> Any:
    """JSON without NaN, infinity or numpy: what cannot be measured or reached is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(document: Any, indent: int | None = 1) -> bytes:
    return (json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
