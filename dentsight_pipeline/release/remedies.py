"""What to do next: for each gate that was missed or left undecided, the cheapest remedy that its figures point to.

Each rule looks at one cause and gives a remedy with the figures that it was computed from, or nothing; the rules stand
in the order of what they cost, and the first that fits is the answer. A row that is undecided with its point on the
right side is a question of data: an interval narrows with √n. With its point on the wrong side more data would only
show that the model fails, so a cause is looked for. Nothing here decides anything; `gates.py` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

from dentsight_pipeline.documents.evaluation import MACRO, EvaluationDocument, Population
from dentsight_pipeline.documents.policy import Gate, Policy
from dentsight_pipeline.documents.verdict import BLOCKING_OUTCOMES, GateRow, Remedy, RemedyKind
from dentsight_pipeline.release.policy import ENGINES_AGREE, HEAD_HEALTH, LICENCE, READERS
from dentsight_pipeline.release.wording import interval_text, number_text

POWER = 0.8
"""How often so many more sources would decide, if the true figure is the one that was measured."""
_SPARE = 1 + NormalDist().inv_cdf(POWER) / NormalDist().inv_cdf(0.95)  # half-widths between point and bound
_MOST = 100
"""Times as many sources as there are: beyond that no data is the remedy."""
_APART = 0.1
"""Recall of small boxes, or of one side, this far under that of the others is a cause."""
_FEWEST = 20
"""Boxes from which on a recall tells anything."""


@dataclass(frozen=True)
class _Missed:
    """One row that did not pass."""

    evaluation: EvaluationDocument
    gate: Gate
    row: GateRow
    unknown: bool

    @property
    def name(self) -> str:
        return self.gate.title

    @cached_property
    def part(self) -> Population | None:
        return self.evaluation.gated

    @cached_property
    def sources(self) -> float:
        """Test sources that tell anything of the class, as far as images tell."""
        if self.part is None or not self.part.images:
            return float(self.row.unit_count or 0)
        return self.part.groups * self.part.images_looked_at(self.row.condition) / self.part.images

    @property
    def measured(self) -> dict[str, float | None]:
        return {name: getattr(self.row, name) for name in ("value", "low", "high", "floor")}

    def remedy(self, kind: RemedyKind, sentence: str, sources: int | None = None, /, **figures: float | None) -> Remedy:
        told = {name: value for name, value in figures.items() if value is not None}
        return Remedy(
            gate=self.row.id,
            severity=self.row.severity,
            kind=kind,
            sources=sources,
            figures=told,
            sentence=f"{self.name}: {sentence}",
        )


def remedies(
    evaluation: EvaluationDocument, policy: Policy, rows: Sequence[GateRow], unknown: Sequence[str]
) -> tuple[Remedy, ...]:
    """One for each row that did not pass, hard gates first.

    Args:
        evaluation: What was measured.
        policy: The gates.
        rows: The verdict's.
        unknown: Classes that no gated image was looked at for.
    """
    gates = {gate.id: gate for gate in policy.gates}
    missed = [
        _Missed(evaluation, gates[row.id], row, row.condition in unknown)
        for row in sorted(rows, key=lambda row: row.severity != "hard")
        if row.outcome in BLOCKING_OUTCOMES
    ]
    return tuple(next(found for rule in _RULES if (found := rule(own))) for own in missed)


# Before any figure ---------------------------------------------------------------------------------------------------


def _head(of: _Missed) -> Remedy | None:
    """A collapsed head makes every score meaningless; what was not judged has to be."""
    if of.row.outcome == "NOT EVALUABLE" or (of.row.metric == HEAD_HEALTH and of.row.outcome == "FAIL"):
        told = "train again from a healthy start: the head has collapsed, and no other remedy can be told before that."
        return of.remedy("retrain", f"{told} `dentsight heads CHECKPOINT` shows the layers.")
    if of.row.metric == HEAD_HEALTH:
        return of.remedy("measure", "have the head looked at: `dentsight heads CHECKPOINT --images DIR`.")
    return None


def _ground(of: _Missed) -> Remedy | None:
    """Engines and licences."""
    if of.row.metric == ENGINES_AGREE:
        return of.remedy("installation", "install the versions of constraints.txt and evaluate again.")
    return of.remedy("licence", of.row.because) if of.row.metric == LICENCE else None


# More of what there is -----------------------------------------------------------------------------------------------


def _coverage(of: _Missed) -> Remedy | None:
    """Test images exist in which nobody looked for the class: looking is cheaper than new X-rays."""
    part, row = of.part, of.row
    if part is None or row.condition not in part.looked_at:
        return None
    seen = part.looked_at[row.condition]
    figures = {"looked_at": seen, "images": part.images, "unit_count": row.unit_count}
    figures["minimum_units"] = of.gate.minimum_units
    if of.unknown:
        told = f"look for {row.condition} in the {part.images} test images: nobody did."
        return of.remedy("coverage", told, **figures)
    wanted = _times(of) * seen if _is_undecided(of) else 0.0
    if not seen < wanted <= part.images:
        return None
    told = (
        f"look for {row.condition} in {math.ceil(wanted - seen)} more of the test images; {seen} of {part.images} were."
    )
    return of.remedy("coverage", told, **figures)


def _absent(of: _Missed) -> Remedy | None:
    """A mean over too few classes: those that no test image shows."""
    part, least = of.part, of.gate.minimum_present
    if of.row.condition != MACRO or part is None or part.macro.present >= least:
        return None
    figures = {"present": part.macro.present, "minimum_present": least}
    if unseen := [name for name in part.not_looked_for if name in of.evaluation.classes]:
        return of.remedy("coverage", f"look for {', '.join(unseen)} in the test images: nobody did.", **figures)
    absent = ", ".join(row.class_name for row in part.per_class if not row.n_gt) or "the classes that are absent"
    return of.remedy("test data", f"bring clean test sources that show {absent}: none does.", **figures)


def _is_undecided(of: _Missed) -> bool:
    """Data alone would decide, and by the point it would pass."""
    return of.row.outcome == "INCONCLUSIVE" and (of.row.point == "pass" or of.row.value is None)


def _times(of: _Missed) -> float:
    """Times as many sources as there are that would decide, in `POWER` of all repetitions; ∞ if none would."""
    row, counts = of.row, [1.0]
    for have, least in ((row.unit_count, of.gate.minimum_units), (row.n, of.gate.minimum_n)):
        counts.append(least / have if have else math.inf if least else 1.0)
    if row.value is None or row.low is None or row.high is None or row.floor is None:
        return max(counts)
    return max(*counts, *((_SPARE * half / away) ** 2 if away > 0 else math.inf for half, away in _distances(row)))


def _distances(row: GateRow) -> list[tuple[float, float]]:
    """Half-width and distance to the bound, of each end that has to lie on its right side."""
    value, low, high, floor = row.value or 0.0, row.low or 0.0, row.high or 0.0, row.floor or 0.0
    below, above = (value - low, value - floor), (high - value, floor - value)
    if row.operator == "within":
        return [(value - low, value + floor), (high - value, floor - value)]
    if row.operator == "<=":
        return [above] if value <= floor else [(value - low, value - floor)]
    return [below] if value >= floor else [above]


def _more_sources(of: _Missed) -> Remedy | None:
    """Undecided with the point on the right side: how many more sources would decide."""
    row, times = of.row, _times(of)
    if not _is_undecided(of) or of.unknown:
        return None
    if row.metric.startswith("empty_mouth"):
        return _empty_mouths(of)
    what = "X-rays in the reader study" if row.metric in READERS else "clean test sources"
    figures = {**of.measured, "test_sources": round(of.sources), "n": row.n, "unit_count": row.unit_count}
    figures["minimum_units"] = of.gate.minimum_units
    if not of.sources or not row.unit_count or (row.value is not None and row.low is None):
        told = f"{row.because} Bring {what} that show it: {of.gate.minimum_units} at least."
        return of.remedy("test data", told, max(of.gate.minimum_units, 1), **figures)
    if times > _MOST:
        return None
    more = math.ceil(of.sources * (times - 1))
    told = f"{more} more {what} would decide (of the kind of the {of.sources:.0f} that there are: {_figure(row)})."
    return of.remedy("test data", told, more, **figures)


def _figure(row: GateRow) -> str:
    return interval_text(row.value, row.low, row.high, row.floor)


def _empty_mouths(of: _Missed) -> Remedy | None:
    """A rate of empty X-rays is exact, and so is what it takes."""
    told = of.evaluation.empty_mouth
    needed = told.images_needed_at_observed_rate or told.images_needed_for_below_5_percent if told else None
    if told is None or not needed:
        return None
    more = max(needed - told.images, 1)
    figures = {"images": told.images, "with_false_positive": told.images_with_false_positive, "needed": needed}
    return of.remedy("test data", f"{more} more empty X-rays would decide, at the rate seen so far.", more, **figures)


# Causes --------------------------------------------------------------------------------------------------------------


def _labels(of: _Missed) -> Remedy | None:
    """Two annotators agree no better than this: no model can be shown to do better."""
    ceiling, row = of.row.ceiling, of.row
    if ceiling is None or ceiling.high is None or ceiling.low is None or row.floor is None:
        return None
    figures = {"floor": row.floor, "ceiling": ceiling.value, "ceiling_low": ceiling.low, "ceiling_high": ceiling.high}
    allowed = interval_text(ceiling.value, ceiling.low, ceiling.high)
    if ceiling.high < row.floor:
        told = f"have the labels of {row.condition} reviewed (`dentsight review`): they allow {allowed} only."
        return of.remedy("labels", told, **figures, value=row.value)
    if row.value is not None and ceiling.value is not None and ceiling.value <= row.value < row.floor:
        told = f"have the labels of {row.condition} reviewed (`dentsight review`): they allow {allowed}, and the model "
        return of.remedy("labels", f"{told}is there with {number_text(row.value)}.", **figures, value=row.value)
    return None


def _calibration(of: _Missed) -> Remedy | None:
    """Scores that one curve a class puts right."""
    told = of.evaluation.calibration
    overall = told.classes.get(of.row.condition) if told else None
    if of.row.metric != "ece" or overall is None or overall.after_platt is None or of.row.floor is None:
        return None
    after = overall.after_platt
    if after.high is None or after.high > of.row.floor:
        return None
    words = (
        f"scale the scores by `calibration.platt` of the evaluation: {interval_text(after.ece, after.low, after.high)}"
    )
    return of.remedy("calibration", f"{words} then.", ece=overall.ece, after_platt=after.ece, floor=of.row.floor)


def _sides(of: _Missed) -> Remedy | None:
    """One side is found less often than the other, or not the same in a mirror."""
    told, row = of.evaluation.consistency, of.row
    side = told.left_minus_right_recall.get(row.condition) if told else None
    if side is not None and side.low is not None and side.high is not None:
        weak = "left" if side.high < -_APART else "right" if side.low > _APART else ""
        if weak:
            figures = {"left_minus_right_recall": side.value, "n_left": side.n_left, "n_right": side.n_right}
            words = interval_text(side.value, side.low, side.high)
            told_of = (
                f"train with mirrored images, and look at the labels of the patient's {weak}: recall left minus right"
            )
            return of.remedy("sides", f"{told_of} is {words}.", **figures)
    if row.metric in ("left_right_agreement", "left_minus_right_recall") and row.value is not None:
        words = f"train with mirrored images: {_figure(row)}"
        return of.remedy("sides", f"{words}.", **of.measured)
    return None


def _resolution(of: _Missed) -> Remedy | None:
    """Small boxes are most of what is missed, and are found less often than the others."""
    sizes = of.evaluation.found_by_size.get(of.row.condition, {})
    small = sizes.get("small")
    rest = [own for name, own in sizes.items() if name != "small"]
    n_rest, found_rest = sum(own.n_gt for own in rest), sum(own.found for own in rest)
    if small is None or small.n_gt < _FEWEST or n_rest < _FEWEST:
        return None
    missed, all_missed = small.n_gt - small.found, small.n_gt - small.found + n_rest - found_rest
    recalls = small.found / small.n_gt, found_rest / n_rest
    if 2 * missed < all_missed or recalls[0] > recalls[1] - _APART:
        return None
    counted = f"{missed} of {all_missed} missed boxes are under 32² px"
    told = f"train on larger images (`--set image_width=… --set image_height=…`): {counted}; recall "
    told += f"{recalls[0]:.2f} of those, {recalls[1]:.2f} of larger ones."
    figures = {"missed_small": missed, "missed": all_missed, "recall_small": recalls[0], "recall_larger": recalls[1]}
    return of.remedy("resolution", told, **figures)


_ERRORS: Mapping[str, str] = {
    "class_confusion": "a wrong name on a right box: more training images of the classes that it is taken for",
    "localisation": "a badly placed box: look at how its boxes are drawn, and train longer",
    "duplicate": "a second box on one finding: look at whether its labels mark one finding or several",
    "background": "a box on nothing: train with more X-rays without it, or review labels (`dentsight review`)",
    "missed": "a finding without a box: more training images of it",
}


def _training(of: _Missed) -> Remedy:
    """What is left: a better model, by the mistake that it makes most."""
    row, errors = of.row, of.evaluation.errors.get(of.row.condition)
    if row.value is None:
        return of.remedy("measure", f"{row.because} Measure it.", **of.measured)
    counts = {name: getattr(errors, name) for name in _ERRORS} if errors else {}
    told = f"a better model is needed: {_figure(row)}."
    if row.condition == MACRO:
        weakest = _weakest(of)
        named = ", ".join(f"{name} {number_text(value)}" for name, value in weakest.items())
        return of.remedy(
            "retrain", f"{told} The weakest classes: {named}." if named else told, **of.measured, **weakest
        )
    if not any(counts.values()):
        return of.remedy("retrain", told, **of.measured)
    most = max(counts, key=lambda name: counts[name])
    told = f"{told} {counts[most]} of {sum(counts.values())} mistakes are {_ERRORS[most]}."
    return of.remedy("retrain", told, **of.measured, **counts)


def _weakest(of: _Missed) -> dict[str, float]:
    """The three classes that a mean is lowest by."""
    rows = [
        (row.figure(of.row.metric.removeprefix("paired_delta_")).value, row.class_name)
        for row in (of.part.per_class if of.part else ())
    ]
    return {name: value for value, name in sorted((value, name) for value, name in rows if value is not None)[:3]}


_RULES: tuple[Callable[[_Missed], Remedy | None], ...] = (
    _head,
    _ground,
    _coverage,
    _absent,
    _labels,
    _calibration,
    _more_sources,
    _sides,
    _resolution,
    _training,
)
"""In the order of what they cost; labels before data, which cannot help where labels set the limit."""
