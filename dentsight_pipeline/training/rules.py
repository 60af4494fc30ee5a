"""The four rules on a training's class heads: pure functions of what was counted and read (docs/training.md).

Each measured figure in the comments is from runs with and without the fault of transformers before 5.18.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dentsight_pipeline.documents.health import Reading, RuleOutcome
from dentsight_pipeline.training.matching import Matching

RATIO_FLOOR = 0.5
"""R below this is a collapsed reading: measured .48 falling to .26 under the bug, .84 rising to 1.1 without it."""
RATIO_EVALUATIONS_IN_A_ROW = 2
"""One reading under the floor happens to healthy runs early on; two in a row did not."""
RATIO_FROM_SHARE_OF_TRAINING = 0.25
SCORES_FROM_SHARE_OF_TRAINING = 0.5
FIRST_JUDGED_STEP = 150
"""No rule but the matching one speaks before this step: a shorter run says nothing about its head, healthy or not."""
FEWEST_CLASSES = 3
"""With one or two classes the prior is 1/2 or 1/3 and twice chance is 1 or more: score rules 3 and 4 cannot apply."""

NO_DENOISING = "no denoising query in the main loss"
LAST_LIKE_FIRST = "last layer scores like the first"
ABOVE_PRIOR = "matched queries score above the prior"
RIGHT_CLASS = "matched queries name the right class"


@dataclass(frozen=True)
class Floors:
    """What the rules ask of one training, and from when on.

    Attributes:
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Optimiser steps of the learning-rate warm-up.
        num_labels: Classes that the head scores.
        prior: Score of an untrained head.
    """

    total_steps: int
    warmup_steps: int
    num_labels: int
    prior: float

    @property
    def chance(self) -> float:
        """Share of right classes that guessing gives."""
        return 1.0 / self.num_labels

    @property
    def ratio_from_step(self) -> int:
        """R is judged after this step."""
        return self._from(RATIO_FROM_SHARE_OF_TRAINING)

    @property
    def scores_from_step(self) -> int:
        """Scores and classes are judged from this step on."""
        return self._from(SCORES_FROM_SHARE_OF_TRAINING)

    def _from(self, share: float) -> int:
        return max(math.ceil(share * self.total_steps), self.warmup_steps, FIRST_JUDGED_STEP)


def judge(floors: Floors, run: Matching, readings: Sequence[Reading]) -> list[RuleOutcome]:
    """Every rule on all readings so far: `tripped` is None while a rule cannot be judged yet."""
    medians = [(r.step, r.matched_median_score) for r in readings]
    accuracies = [(r.step, r.matched_class_accuracy) for r in readings]
    prior, chance = floors.prior, 2 * floors.chance
    in_words = f"twice chance, 2/{floors.num_labels} = {chance:.4f}"
    return [
        _denoising(run),
        _ratio(floors, readings),
        _score(floors, ABOVE_PRIOR, "matched median score", medians, prior, f"prior {prior:.4f}"),
        _score(floors, RIGHT_CLASS, "matched class accuracy", accuracies, chance, in_words),
    ]


def _denoising(run: Matching) -> RuleOutcome:
    share = run.denoising_share
    if share is None:
        return RuleOutcome(rule=NO_DENOISING, tripped=None, evidence="no training match was observed")
    evidence = f"{run.denoising_matches} of {run.matches} main-loss matches ({share:.3g}) are denoising queries"
    return RuleOutcome(rule=NO_DENOISING, tripped=run.denoising_matches > 0, evidence=evidence)


def _ratio(floors: Floors, readings: Sequence[Reading]) -> RuleOutcome:
    after = [r for r in readings if r.step > floors.ratio_from_step]
    latest = [(r.step, r.ratio_last_to_first) for r in after if r.ratio_last_to_first is not None]
    latest = latest[-RATIO_EVALUATIONS_IN_A_ROW:]
    low = [ratio < RATIO_FLOOR for _, ratio in latest]
    shown = ", ".join(f"R = {ratio:.3f} at step {step}" for step, ratio in latest)
    if not latest:
        tripped, evidence = None, f"judged after step {floors.ratio_from_step}; no reading since"
    elif low == [True]:
        tripped, evidence = None, f"{shown}: under {RATIO_FLOOR}, and a second reading must confirm it"
    else:
        tripped = all(low)
        evidence = f"{shown}; floor {RATIO_FLOOR} on {RATIO_EVALUATIONS_IN_A_ROW} evaluations in a row"
    return RuleOutcome(rule=LAST_LIKE_FIRST, tripped=tripped, evidence=evidence)


def _score(
    floors: Floors, rule: str, what: str, values: list[tuple[int, float | None]], floor: float, floor_in_words: str
) -> RuleOutcome:
    """A rule on the latest of the (step, value) that is late enough to be judged."""
    if floors.num_labels < FEWEST_CLASSES:
        evidence = f"does not apply to {floors.num_labels} class(es)"
        return RuleOutcome(rule=rule, tripped=False, applicable=False, evidence=evidence)
    first = floors.scores_from_step
    late = [(step, value) for step, value in values if step >= first and value is not None]
    if not late:
        evidence = f"judged from step {first} on; no reading with ground truth since"
        return RuleOutcome(rule=rule, tripped=None, evidence=evidence)
    step, value = late[-1]
    evidence = f"{what} {value:.4f} at step {step}; floor: {floor_in_words}"
    return RuleOutcome(rule=rule, tripped=value < floor, evidence=evidence)
