"""Challenger against champion on the same ground truth: the paired bootstrap.

Both models are scored on the same resamples of the same images, so what varies between images cancels: the interval of
the difference is about three times tighter than that of two independent figures. Promotion itself is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dentsight_pipeline.documents.evaluation import MACRO, Measurement, PopulationName
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation import bootstrap
from dentsight_pipeline.evaluation.bootstrap import Draws, Weights
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.figures import macro_of, measurement
from dentsight_pipeline.evaluation.matching import ClassMatches, match_all_sizes
from dentsight_pipeline.evaluation.parts import draws_of
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
    measurements: tuple[Measurement, ...]


def compare(
    truth: GroundTruth,
    challenger: Detections,
    champion: Detections,
    *,
    champion_ground_truth_sha256: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two sets of detections by the paired bootstrap.

    Args:
        truth: What both are scored on, as for `evaluate`.
        challenger: Detections of the new model.
        champion: Detections of the model in use, on the same images.
        champion_ground_truth_sha256: What the champion's evaluation says it was scored on; checked when given.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.
        progress: Called with stage, done, total.

    Raises:
        EvaluationError: The champion was evaluated on other ground truth.
    """
    if champion_ground_truth_sha256 not in (None, truth.sha256):
        raise EvaluationError(
            f"The champion was evaluated on ground truth {champion_ground_truth_sha256}, the challenger on "
            f"{truth.sha256}. Figures on different images cannot be compared: predict with the champion on this test "
            "split first."
        )
    say = progress or (lambda stage, done, total: None)
    population: PopulationName = "all" if truth.clean is None else "clean"
    mask = np.ones(len(truth.image_ids), bool) if truth.clean is None else truth.clean
    weights = bootstrap.draw(truth.groups[mask], resamples, seed)
    drawn = []
    for step, found in enumerate((challenger, champion)):
        say("compare", step, 2)
        drawn.append(_draws_of([own.subset(mask) for own in match_all_sizes(truth, found)], weights))
    counts = _gt_counts(truth, mask)
    rows = [
        _row(metric, name, population, (ours - theirs, at), own, weights)
        for at, metric in enumerate(("paired_delta_ap", "paired_delta_ap50"))
        for name, ours, theirs, own in zip((*truth.class_names, MACRO), *drawn, counts, strict=True)
    ]
    return Comparison(truth.sha256, challenger.sha256, champion.sha256, population, tuple(rows))


def _row(
    metric: str, name: str, population: str, delta: tuple[Draws, int], gt_counts: np.ndarray, weights: Weights
) -> Measurement:
    units = bootstrap.units_with(gt_counts, weights)
    measured = bootstrap.interval(delta[0], units, at=(delta[1],), bounds=None)
    return measurement(metric, name, population, measured, int(gt_counts.sum()), units, "challenger − champion")


def _draws_of(matches: Sequence[ClassMatches], weights: Weights) -> list[Draws]:
    """AP and AP50 draws [2, ·] of each class and of the macro mean."""
    drawn = [draws_of(own, weights) for own in matches]
    return [*drawn, macro_of(drawn)]


def _gt_counts(truth: GroundTruth, mask: np.ndarray) -> list[np.ndarray]:
    """Counted boxes on each image of the mask, for each class and for all together."""
    rows = ~truth.crowd
    n_images, n_classes = len(truth.image_ids), len(truth.class_names)
    flat = truth.class_index[rows] * n_images + truth.image_index[rows]
    counts = np.bincount(flat, minlength=n_images * n_classes).reshape(n_classes, n_images)[:, mask]
    return [*counts, counts.sum(axis=0)]
