"""The thresholds that everything in Tier 2 is measured at, and what they were chosen on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dentsight_pipeline.documents.codec import finite
from dentsight_pipeline.documents.evaluation import OperatingPoint
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation import calibration, matching, operating_points
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.matching import ClassMatches


@dataclass(frozen=True)
class Operating:
    """Thresholds of each class.

    Attributes:
        chosen_on: `valid`, or `test` for the evaluated images themselves.
        p95: [K] least score with a precision of .95 or more; +∞ = unreachable.
        best_f1: [K] the operating threshold; +∞ = nothing is ever hit.
        platt: Scaling by class, where one could be fitted; None without a validation split.
    """

    chosen_on: Literal["valid", "test"]
    p95: np.ndarray
    best_f1: np.ndarray
    platt: dict[int, calibration.Platt] | None

    def point(self, k: int) -> OperatingPoint:
        """The thresholds of one class, as the document has them."""
        return OperatingPoint(threshold_p95=finite(self.p95[k]), threshold_best_f1=finite(self.best_f1[k]))


def choose_operating(
    truth: GroundTruth, matches: Sequence[ClassMatches], valid: tuple[GroundTruth, Detections] | None
) -> Operating:
    """Choose on the validation split, or on the matches of the evaluated images when there is none.

    Raises:
        EvaluationError: The validation split has other classes.
    """
    if valid is None:
        return Operating("test", *_thresholds(matches), None)
    if valid[0].class_names != truth.class_names:
        raise EvaluationError(
            f"Thresholds are to come from a split with the classes {', '.join(valid[0].class_names)}, but those "
            f"evaluated are {', '.join(truth.class_names)}. Give the validation split of the same dataset."
        )
    matches = matching.match_all_sizes(*valid)
    p95, best_f1 = _thresholds(matches)
    if not calibration.scores_are_probabilities(matches):
        return Operating("valid", p95, best_f1, None)
    fits = {k: calibration.fit_platt(own, best_f1[k]) for k, own in enumerate(matches)}
    return Operating("valid", p95, best_f1, {k: fit for k, fit in fits.items() if fit is not None})


def _thresholds(matches: Sequence[ClassMatches]) -> tuple[np.ndarray, np.ndarray]:
    curves = [operating_points.score_curve(own) for own in matches]
    points = [(c.recall_at_precision(), c.best_f1()) if c is not None else None for c in curves]
    pairs = [(math.inf, math.inf) if pair is None else (pair[0].threshold, pair[1].threshold) for pair in points]
    p95, best_f1 = np.array(pairs, np.float64).reshape(-1, 2).T
    return p95, best_f1
