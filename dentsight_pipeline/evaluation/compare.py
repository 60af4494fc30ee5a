"""Challenger against champion on the same ground truth: the paired bootstrap.

Both models are scored on the same resamples of the same images, so what varies between images cancels: the interval of
the difference is about three times tighter than that of two independent figures. Promotion itself is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation import bootstrap, matching, metrics
from dentsight_pipeline.evaluation.bootstrap import Draws
from dentsight_pipeline.evaluation.folder import Evaluation
from dentsight_pipeline.evaluation.validation import GroundTruth, digest_of, read_detections, read_ground_truth
from dentsight_pipeline.progress import Progress


@dataclass(frozen=True)
class Comparison:
    """Differences challenger − champion, in the form of an evaluation's measurements.

    Attributes:
        ground_truth_sha256: What both were scored on.
        challenger_sha256: Digest of the challenger's detections.
        champion_sha256: Digest of the champion's detections.
        population: `clean` where the ground truth says which images are, else `all`.
        measurements: `paired_delta_ap` and `paired_delta_ap50` for each class and `macro`.
    """

    ground_truth_sha256: str
    challenger_sha256: str
    champion_sha256: str
    population: str
    measurements: list[dict[str, Any]]


def compare(
    ground_truth: Mapping[str, Any],
    challenger: Sequence[Mapping[str, Any]],
    champion: Sequence[Mapping[str, Any]],
    *,
    champion_ground_truth_sha256: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two sets of detections by the paired bootstrap.

    Args:
        ground_truth: What both are scored on, as for `evaluate`.
        challenger: Detections of the new model.
        champion: Detections of the model in use, on the same images.
        champion_ground_truth_sha256: What the champion's evaluation says it was scored on; checked when given.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.
        progress: Called with stage, done, total.

    Raises:
        EvaluationError: The champion was evaluated on other ground truth.
        ScoringRecordError: As for `evaluate`.
    """
    digest = digest_of(ground_truth)
    if champion_ground_truth_sha256 is not None and champion_ground_truth_sha256 != digest:
        raise EvaluationError(
            f"The champion was evaluated on ground truth {champion_ground_truth_sha256}, the challenger on {digest}. "
            "Figures on different images cannot be compared: predict with the champion on this test split first."
        )
    truth = read_ground_truth(ground_truth)
    mask = np.ones(len(truth.image_ids), bool) if truth.clean is None else truth.clean
    population = "all" if truth.clean is None else "clean"
    weights = bootstrap.draw(truth.groups[mask], resamples, seed)
    say = progress or (lambda stage, done, total: None)
    drawn: list[list[Draws]] = []
    counts: list[np.ndarray] = []
    for step, (detections, source) in enumerate(((challenger, "challenger"), (champion, "champion"))):
        say("compare", step, 2)
        own, counts = _draws_of(truth, detections, source, mask, weights)
        drawn.append(own)
    measurements = []
    for metric, row in (("paired_delta_ap", 0), ("paired_delta_ap50", 1)):
        for k, name in enumerate((*truth.class_names, "macro")):
            delta = drawn[0][k].map(lambda v, row=row: v[row]) - drawn[1][k].map(lambda v, row=row: v[row])
            units = bootstrap.units_with(counts[k], weights)
            measured = bootstrap.interval(delta, units, bounds=None)
            measurements.append(
                {
                    "metric": metric,
                    "class": name,
                    "population": population,
                    "value": measured.value,
                    "low": measured.low,
                    "high": measured.high,
                    "n": int(counts[k].sum()),
                    "unit_count": units,
                    "note": "; ".join(part for part in ("challenger − champion", measured.note) if part),
                }
            )
    return Comparison(digest, digest_of(challenger), digest_of(champion), population, measurements)


def with_comparison(evaluation: Evaluation, comparison: Comparison) -> Evaluation:
    """The challenger's evaluation with the paired differences among its measurements.

    Raises:
        EvaluationError: The comparison is of other ground truth or other detections.
    """
    document = evaluation.document
    ours = (document["ground_truth_sha256"], document["detections_sha256"])
    theirs = (comparison.ground_truth_sha256, comparison.challenger_sha256)
    if ours != theirs:
        raise EvaluationError(
            f"The comparison is of ground truth {theirs[0][:12]} and detections {theirs[1][:12]}, the evaluation of "
            f"{ours[0][:12]} and {ours[1][:12]}. Compare the detections that were evaluated."
        )
    kept = [row for row in document["measurements"] if not row["metric"].startswith("paired_delta_")]
    champion = {"detections_sha256": comparison.champion_sha256, "population": comparison.population}
    joined = {**document, "measurements": [*kept, *comparison.measurements], "champion": champion}
    return Evaluation(joined, evaluation.per_class, evaluation.curves, evaluation.matches)


def _draws_of(
    truth: GroundTruth,
    detections: Sequence[Mapping[str, Any]],
    source: str,
    mask: np.ndarray,
    weights: bootstrap.Weights,
) -> tuple[list[Draws], list[np.ndarray]]:
    """AP and AP50 draws [2, ·] of each class and of the macro mean, with the ground-truth counts of each image."""
    found = read_detections(detections, truth, source=f"{source}'s detections")
    own = [by_area["all"].subset(mask) for by_area in matching.match(truth, found)]
    drawn = []
    for matches in own:
        table = metrics.CurveTable.from_matches(matches)

        def both(w: np.ndarray, table: metrics.CurveTable = table) -> np.ndarray:
            precision, _ = table.average_precision(w)
            return np.stack([precision.mean(axis=0), precision[0]])

        drawn.append(bootstrap.draws(both, weights))
    fields = ("point", "resampled", "jackknife")
    macro = Draws(*(metrics.macro(np.stack([getattr(draw, field) for draw in drawn])) for field in fields))
    counts = [matches.gt_counts for matches in own]
    return [*drawn, macro], [*counts, np.sum(counts, axis=0)]
