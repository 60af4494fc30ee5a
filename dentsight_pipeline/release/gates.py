"""Release gates: the one function that judges an evaluation by a policy.

Belongs here: `judge`. The floors are data (`policies/*.json`, read in `policy.py`); the wording of a verdict is in
`wording.py`; measuring is the business of `evaluation/`. Nothing here can fail: a missed gate is a result. What cannot
be judged is INCONCLUSIVE, never PASS.

How one row is decided (docs/evaluation.md, "Gates"): the interval is two-sided 90 %, so each end is a one-sided 95 %
bound. With operator `>=`, PASS if the lower bound reaches the floor, FAIL if the upper bound stays under it,
INCONCLUSIVE between. `<=` mirrors that for a ceiling, `within` asks both bounds to lie in ±floor, and `>` (champion
rows) asks the lower bound to stay above minus the margin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeGuard

from msgspec.structs import replace

from dentsight_pipeline.documents.evaluation import (
    ENGINE_TOLERANCE,
    MACRO,
    Engines,
    EvaluationDocument,
    Measurement,
)
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.licences import named_in, strictest
from dentsight_pipeline.documents.policy import Bands, Gate, Policy
from dentsight_pipeline.documents.readers import ReaderAgreement
from dentsight_pipeline.documents.verdict import (
    BLOCKING_OUTCOMES,
    ChampionComparison,
    ClassReading,
    GateRow,
    Head,
    Outcome,
    Override,
    Point,
    RowOutcome,
    Trigger,
    Verdict,
)
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.release.policy import (
    ENGINES_AGREE,
    HEAD_HEALTH,
    LICENCE,
    METRICS,
    PAIRED,
    READERS,
    TIER_0,
    nearest,
)
from dentsight_pipeline.release.remedies import remedies
from dentsight_pipeline.release.wording import (
    bound_text,
    coverage_sentences,
    number_text,
    row_sentence,
    summary_sentences,
)

RANKING_ONLY = "ranking-only"
OWN_THRESHOLDS = "thresholds not chosen on valid"
_FROM_THE_GATE = sorted({*Gate.__struct_fields__} & {*GateRow.__struct_fields__} - {"floor"})


def judge(
    evaluation: EvaluationDocument,
    policy: Policy,
    health: HeadHealth | None = None,
    champion: ChampionComparison | None = None,
    overrides: Iterable[Override] = (),
    licences: Mapping[str, str] | None = None,
    readers: ReaderAgreement | None = None,
    plan: GateRow | None = None,
) -> Verdict:
    """Judges one evaluation by one policy.

    Args:
        evaluation: Only `measurements` of the `gated_population` are judged, plus `populations[…].macro.present` for
            macro rows.
        policy: From `load_policy`.
        health: Of the checkpoint, or None when it was not measured: then Tier 0 is INCONCLUSIVE and blocks.
        champion: The comparison with the model now in use, or None when there is no champion.
        overrides: Named decisions to release in spite of a hard gate. They never change an outcome.
        licences: Of everything that the model was made from, by what it is; None when nobody says.
        readers: A reader study of this model, or None when none was made.
        plan: Whether the plan is fulfilled, from `plan.row_of`; None where none was asked for.

    Returns:
        The verdict; never an exception for a missed, missing or broken measurement.

    Raises:
        ConfigurationError: When an override names no gate of the policy, or two name the same one.
    """
    by_gate = overrides_by_gate(overrides, policy)
    case = _Case(evaluation, policy, health, champion, licences or {}, readers)
    gates = tuple(_row(case, gate, _ruling(case, gate), by_gate.get(gate.id)) for gate in policy.gates)
    rows = (*([plan] if plan else ()), *gates)
    outcome, triggers = _overall(rows), tuple(_triggers(policy, rows))
    needed = {row.id for row in rows if row.severity == "hard" and row.outcome in BLOCKING_OUTCOMES}
    return Verdict(
        policy=policy.name,
        policy_version=policy.version,
        policy_title=policy.title,
        policy_digest=policy.digest,
        never_for_xrays=policy.never_for_xrays,
        outcome=outcome,
        releasable=not any(row.blocks for row in rows),
        population=case.population,
        ground_truth_sha256=evaluation.ground_truth_sha256 or None,
        detections_sha256=evaluation.detections_sha256 or None,
        champion=(champion.digest if champion else None) or None,
        head=case.head[0],
        rows=rows,
        classes=tuple(_class_readings(case, rows)),
        triggers=triggers,
        overrides=tuple(override for gate, override in by_gate.items() if gate in needed),
        unused_overrides=tuple(override for gate, override in by_gate.items() if gate not in needed),
        notes=policy.notes,
        sentences=(
            *summary_sentences(outcome, rows, triggers, policy.never_for_xrays),
            *coverage_sentences(policy, case.not_looked_for, _asks_for_unknown(case, gates)),
        ),
        licences=case.licences,
        remedies=remedies(evaluation, policy, gates, case.not_looked_for),
    )


def _asks_for_unknown(case: _Case, rows: Sequence[GateRow]) -> bool:
    """Whether a hard gate needs a class that nobody looked for, so that no model can pass on these images."""
    unknown = case.not_looked_for
    looked_for = len(case.policy.classes) - len(unknown)
    needed = {gate.id: _present_needed(case, gate) for gate in case.policy.gates}
    return any(row.counts and (row.condition in unknown or needed[row.id] > looked_for) for row in rows)


def overrides_by_gate(overrides: Iterable[Override], policy: Policy) -> dict[str, Override]:
    """The overrides by the gate that each is for.

    Raises:
        ConfigurationError: When one names no gate of the policy, or two name the same one.
    """
    by_gate: dict[str, Override] = {}
    for override in overrides:
        if override.gate not in policy.gate_ids:
            raise ConfigurationError(
                f"The override by {override.name} names gate {override.gate!r}, which policy {policy.name!r} does not "
                f"have{nearest(override.gate, list(policy.gate_ids))}."
            )
        if override.gate in by_gate:
            raise ConfigurationError(f"Gate {override.gate!r} is overridden twice; record one decision for each gate.")
        by_gate[override.gate] = override
    return by_gate


class _Reading(NamedTuple):
    """One measurement after checking: either numbers fit to judge, or the reason why not."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit_count: int | None = None
    problem: str | None = None
    nothing_to_measure: bool = False


class _Ruling(NamedTuple):
    """What is decided on one gate, and on what."""

    outcome: RowOutcome
    because: str
    point: Point = "not measured"
    reading: _Reading = _Reading()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Case:
    """Everything that one verdict rests on."""

    evaluation: EvaluationDocument
    policy: Policy
    health: HeadHealth | None
    champion: ChampionComparison | None
    licences: Mapping[str, str]
    readers: ReaderAgreement | None = None

    @property
    def population(self) -> str | None:
        """The images that the gates read."""
        return self.evaluation.gated_population

    @property
    def population_problem(self) -> str | None:
        """What is wrong with them, if anything."""
        if self.population is None:
            return "The evaluation does not say which population the gates read (found None)."
        if self.population == "all" and "clean" in self.evaluation.populations:
            return "The evaluation has clean images, but asks the gates to read all of them, leaked ones included."
        return None

    @cached_property
    def not_looked_for(self) -> tuple[str, ...]:
        """Classes of the policy of which the gated images tell nothing."""
        unknown = self.evaluation.gated.not_looked_for if self.evaluation.gated else ()
        return tuple(name for name in self.policy.classes if name not in self.evaluation.classes or name in unknown)

    @cached_property
    def head(self) -> tuple[Head, _Ruling]:
        """What tier 0 says of the classification head."""
        return _judge_head(self.health)


def _ruling(case: _Case, gate: Gate) -> _Ruling:
    if gate.metric == HEAD_HEALTH:
        return case.head[1]
    if gate.metric == ENGINES_AGREE:
        return _judge_engines(case.evaluation.engines)
    if gate.metric == LICENCE:
        return _judge_licences(case.policy.uses or (), case.licences)
    judged = _judge_paired if gate.metric in PAIRED else _judge_readers if gate.metric in READERS else _judge_measured
    return _marked(case, gate, judged(case, gate))


def _marked(case: _Case, gate: Gate, ruling: _Ruling) -> _Ruling:
    """What the head and the choice of thresholds leave of a ruling."""
    if ruling.outcome == "NOT APPLICABLE":
        return ruling
    uses_scores = METRICS[gate.metric].uses_scores
    marks = (OWN_THRESHOLDS,) if uses_scores and case.evaluation.thresholds_from != "valid" else ()
    if case.head[0] != "collapsed":
        return ruling._replace(marks=marks)
    if not uses_scores:
        return ruling._replace(marks=(RANKING_ONLY,))
    because = "The classification head has collapsed: no threshold or probability of this model means anything."
    return ruling._replace(outcome="NOT EVALUABLE", because=because, point="not measured", marks=marks)


def _row(case: _Case, gate: Gate, ruling: _Ruling, override: Override | None) -> GateRow:
    reading = ruling.reading
    row = GateRow(
        **{name: getattr(gate, name) for name in _FROM_THE_GATE},
        floor=None if gate.metric in TIER_0 else gate.floor,
        outcome=ruling.outcome,
        point=ruling.point,
        value=reading.value,
        low=reading.low,
        high=reading.high,
        n=reading.n,
        unit_count=reading.unit_count,
        ceiling=case.evaluation.ceiling(gate.metric, gate.condition),
        because=ruling.because,
        marks=ruling.marks,
        override=override,
        blocks=gate.severity == "hard" and ruling.outcome in BLOCKING_OUTCOMES and override is None,
        sentence="",
    )
    return replace(row, sentence=row_sentence(row))


# Reading a measurement -----------------------------------------------------------------------------------------------


def _read(case: _Case, rows: Sequence[Measurement], metric: str, condition: str) -> _Reading:
    """The one measurement that fits, checked; several or none are a problem, not a choice."""
    found = [
        row for row in rows if (row.metric, row.class_name, row.population) == (metric, condition, case.population)
    ]
    if len(found) == 1:
        return _checked(found[0], metric)
    how = f"was measured {len(found)} times, which contradicts itself" if found else "was not measured"
    return _Reading(problem=f"{metric} of {condition} ({case.population} images) {how}.")


def _checked(row: Measurement, metric: str) -> _Reading:
    """A measurement's numbers, as far as they are fit to judge."""
    counted = _Reading(n=_count(row.n), unit_count=_count(row.unit_count))
    said = f" ({row.note})" if row.note else ""
    if row.value is None and row.n == 0:
        return counted._replace(problem=f"There was nothing to measure: n = 0{said}.", nothing_to_measure=True)
    if not _is_finite(row.value):
        return counted._replace(problem=f"The value is missing or not a finite number{said}.")
    value, least, most = float(row.value), METRICS[metric].least, METRICS[metric].most
    if not least <= value <= most:
        return counted._replace(problem=f"The value {value:g} is outside [{least:g}, {most:g}]: not a measurement.")
    if not (_is_finite(row.low) and _is_finite(row.high)):
        return counted._replace(value=value, problem=f"There is no interval, only a point{said}.")
    if not least - 1e-9 <= row.low <= row.high <= most + 1e-9:
        return counted._replace(value=value, problem=f"The interval [{row.low:g}, {row.high:g}] is not one.")
    return counted._replace(value=value, low=float(row.low), high=float(row.high))


def _is_finite(number: float | None) -> TypeGuard[float]:
    return number is not None and math.isfinite(number)


def _count(number: int | None) -> int | None:
    return number if number is not None and number >= 0 else None


# Deciding ------------------------------------------------------------------------------------------------------------


def _judge_unknown(case: _Case, gate: Gate) -> _Ruling:
    """A class that no image was looked at for is unknown, whatever a file says of it."""
    because = f"No test image was looked at for {gate.condition}, so nothing is known of it."
    if case.policy.only_looked_for:
        return _Ruling("NOT APPLICABLE", because)
    return _by_interval(gate, _Reading(problem=because))


def _judge_measured(case: _Case, gate: Gate) -> _Ruling:
    if gate.condition in case.not_looked_for:
        return _judge_unknown(case, gate)
    if case.population_problem:
        return _by_interval(gate, _Reading(problem=case.population_problem))
    reading = _read(case, case.evaluation.measurements, gate.metric, gate.condition)
    return _by_interval(gate, reading._replace(problem=reading.problem or _too_few_classes(case, gate)))


def _too_few_classes(case: _Case, gate: Gate) -> str | None:
    """A macro over few classes is another quantity: it needs `minimum_present` of them."""
    needed = _present_needed(case, gate)
    if needed == 0:
        return None
    present = case.evaluation.gated.macro.present if case.evaluation.gated else None
    if present is not None and present >= needed:
        return None
    counted = "an unstated number of" if present is None else f"only {present}"
    return f"The macro covers {counted} classes; the gate asks for at least {needed}."


def _present_needed(case: _Case, gate: Gate) -> int:
    """How many classes a macro row asks for; 0 for other rows."""
    least = gate.minimum_present if gate.condition == MACRO else 0
    looked_for = len(case.policy.classes) - len(case.not_looked_for)
    return min(least, looked_for) if case.policy.only_looked_for else least


def _judge_paired(case: _Case, gate: Gate) -> _Ruling:
    """Regression against the champion, valid only on the very same ground truth."""
    compared = any(row.metric in PAIRED for row in case.evaluation.measurements)
    if case.champion is None and not compared:
        because = "There is no champion yet: not applicable. The first release has nothing to regress from."
        return _Ruling("NOT APPLICABLE", because)
    if gate.condition in case.not_looked_for:
        return _judge_unknown(case, gate)
    problem = _comparison_problem(case)
    if case.champion is None or problem:
        return _by_interval(gate, _Reading(problem=problem))
    return _by_interval(gate, _read(case, case.champion.measurements, gate.metric, gate.condition))


def _judge_readers(case: _Case, gate: Gate) -> _Ruling:
    """Does the model agree with dentists as well as they agree with each other, up to the margin?"""
    if case.readers is None:
        return _Ruling("NOT APPLICABLE", "No reader study was made of this model: not applicable.")
    return _by_interval(gate, _read(case, case.readers.measurements, gate.metric, gate.condition))


def _comparison_problem(case: _Case) -> str | None:
    """Why a comparison says nothing about these two models."""
    champion, ours = case.champion, case.evaluation.ground_truth_sha256
    if champion is None:
        return "The evaluation holds a comparison, but the champion it was made with was not named."
    if not champion.digest:
        return "The champion has no digest: nobody can tell what it was."
    if not ours or ours != champion.ground_truth_sha256:
        return "Champion and challenger were not evaluated on the same ground truth (their digests differ)."
    return case.population_problem


def _by_interval(gate: Gate, reading: _Reading) -> _Ruling:
    outcome, because = _decide(gate, reading)
    point: Point = "not measured"
    if reading.value is not None:
        point = "pass" if _compare(gate, reading.value, reading.value, reading.value)[2] else "FAIL"
    return _Ruling(outcome, because, point, reading)


def _decide(gate: Gate, reading: _Reading) -> tuple[RowOutcome, str]:
    if reading.nothing_to_measure and gate.metric == "ece":
        return "FAIL", "No detection reaches the operating threshold: a model that asserts nothing is not calibrated."
    if problem := reading.problem or _too_little(gate, reading):
        return "INCONCLUSIVE", problem
    value, low, high = reading.value, reading.low, reading.high
    if value is None or low is None or high is None:
        return "INCONCLUSIVE", "The measurement is incomplete."
    passes, fails, point_meets = _compare(gate, value, low, high)
    bound = bound_text(gate.operator, gate.floor)
    if passes and point_meets:
        return "PASS", f"The interval lies on the right side of its bound ({bound})."
    if fails and not point_meets:
        return "FAIL", f"The interval lies on the wrong side of its bound ({bound})."
    if passes or fails:
        return "INCONCLUSIVE", f"The point {number_text(value, gate.floor)} and its own interval contradict each other."
    return "INCONCLUSIVE", f"The interval spans the bound ({bound}): more data would decide."


def _too_little(gate: Gate, reading: _Reading) -> str | None:
    """Which count is too small to rest a verdict on."""
    for name, found, least in (
        ("units (source groups)", reading.unit_count, gate.minimum_units),
        ("counted items", reading.n, gate.minimum_n),
    ):
        if least and (found is None or found < least):
            said = "an unstated number of" if found is None else f"{found}"
            return f"Too little data: {said} {name}, the gate needs {least}."
    return None


def _compare(gate: Gate, value: float, low: float, high: float) -> tuple[bool, bool, bool]:
    """Whether the interval passes, whether it fails, and whether the point alone meets the bound."""
    floor = gate.floor
    if gate.operator == ">=":
        return low >= floor, high < floor, value >= floor
    if gate.operator == "<=":
        return high <= floor, low > floor, value <= floor
    if gate.operator == "within":
        return -floor <= low and high <= floor, low > floor or high < -floor, -floor <= value <= floor
    return low > floor, high <= floor, value > floor


def _judge_head(health: HeadHealth | None) -> tuple[Head, _Ruling]:
    """Tier 0. Healthy needs an explicit true, at least one rule that was looked at, and none that tripped."""
    if health is None:
        return "unknown", _Ruling("INCONCLUSIVE", "The head's health was not measured.")
    tripped = [rule.rule for rule in health.rules if rule.tripped]
    looked_at = [rule.rule for rule in health.rules if rule.tripped is False]
    if health.healthy is False or tripped:
        which = "; ".join(tripped) or "the record says so without naming a rule"
        because = f"The classification head has collapsed ({which}). AP only ranks; every score is meaningless."
        return "collapsed", _Ruling("FAIL", because, "FAIL")
    if health.healthy and looked_at:
        return "healthy", _Ruling("PASS", f"None of the {len(looked_at)} rules tripped.", "pass")
    unjudged = "; ".join(f"{rule.rule}: {rule.evidence}" for rule in health.rules if rule.tripped is None)
    because = (
        f"The head's health could not be judged ({unjudged})."
        if unjudged
        else "The health record holds no rule that was looked at and found good."
    )
    return "unknown", _Ruling("INCONCLUSIVE", because)


def _judge_engines(engines: Engines | None) -> _Ruling:
    """Two independent implementations must have counted the same; otherwise no figure below can be believed."""
    difference = engines.max_abs_difference if engines else None
    if engines is not None and (not engines.agree or abs(difference or 0.0) > ENGINE_TOLERANCE):
        because = f"The two engines differ by up to {difference}; they must agree to {ENGINE_TOLERANCE:g}."
        return _Ruling("FAIL", because, "FAIL")
    if engines is None or difference is None:
        return _Ruling("INCONCLUSIVE", "The evaluation does not show that two engines agree.")
    names = f"hotcoco {engines.hotcoco}, pycocotools {engines.pycocotools}"
    return _Ruling("PASS", f"{names} agree: largest difference {difference:.1g}.", "pass")


def _judge_licences(uses: Sequence[str], licences: Mapping[str, str]) -> _Ruling:
    """Everything that a model was made from must allow what the release is for; what nobody knows allows nothing."""
    if not licences:
        return _Ruling("INCONCLUSIVE", "Nothing says under which licences data and weights may be used.")
    each = [(what, terms) for what, text in licences.items() for terms in named_in(text)]
    denied = [
        f"{what}: {terms.name} does not allow {', '.join(missing)}"
        for what, terms in each
        if terms.allows is not None and (missing := [use for use in uses if use not in terms.allows])
    ]
    if denied:
        return _Ruling("FAIL", f"{'; '.join(denied)}.", "FAIL")
    if unknown := [f"{what} ({terms.name!r})" for what, terms in each if terms.allows is None]:
        because = f"Of unknown licence: {', '.join(unknown)}. Say it with `licence` in a mapping of the export."
        return _Ruling("INCONCLUSIVE", because)
    told = f"{len(licences)} licences allow {', '.join(uses)}; the strictest is {strictest(licences.values()).name}."
    return _Ruling("PASS", told, "pass")


def _overall(rows: Sequence[GateRow]) -> Outcome:
    hard = {row.outcome for row in rows if row.severity == "hard"}
    if "FAIL" in hard:
        return "FAIL"
    return "PASS" if "PASS" in hard and hard <= {"PASS", "NOT APPLICABLE"} else "INCONCLUSIVE"


# What follows --------------------------------------------------------------------------------------------------------


def _class_readings(case: _Case, rows: Sequence[GateRow]) -> Iterator[ClassReading]:
    """Every class of the policy by its AP, in the card's words."""
    gated = {row.condition: row for row in rows if row.metric == "ap"}
    for condition in case.policy.classes:
        measured = _read(case, case.evaluation.measurements, "ap", condition)
        row = gated.get(condition)
        yield ClassReading(
            condition=condition,
            ap=measured.value,
            low=measured.low,
            high=measured.high,
            n_gt=measured.n,
            floor=row.floor if row else None,
            severity=row.severity if row else None,
            point=row.point if row else _band(case.policy.bands, measured.value),
            outcome=row.outcome if row else None,
        )


def _band(bands: Bands, ap: float | None) -> Point:
    if ap is None:
        return "not measured"
    return "strong" if ap >= bands.strong else "acceptable" if ap >= bands.acceptable else "weak"


def _triggers(policy: Policy, rows: Sequence[GateRow]) -> Iterator[Trigger]:
    """A trigger fires only on a shown FAIL (the upper bound is under the floor), never on doubt."""
    failed = {row.id for row in rows if row.outcome == "FAIL"}
    for name, sentence in policy.triggers.items():
        because = tuple(gate.id for gate in policy.gates if gate.trigger == name and gate.id in failed)
        yield Trigger(id=name, fired=bool(because), because=because, sentence=sentence)
