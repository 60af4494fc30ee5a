"""Release gates: policies as data, and the one function that judges an evaluation by them.

Belongs here: the schema of a policy file, its loading, and `judge`. The floors themselves are data (`policies/*.json`,
each with its source and reason); the wording of a verdict is in `verdict.py`; measuring is the business of
`evaluation/`. Nothing here can fail: a missed gate is a result. What cannot be judged is INCONCLUSIVE, never PASS.

How one row is decided (EVALUATION.md, "Gates are data"): the interval is two-sided 90 %, so each end is a one-sided
95 % bound. With operator `>=`, PASS if the lower bound reaches the floor, FAIL if the upper bound stays under it,
INCONCLUSIVE between. `<=` mirrors that for a ceiling, `within` asks both bounds to lie in ±floor, and `>` (champion
rows) asks the lower bound to stay above minus the margin.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.release.verdict import (
    BLOCKING_OUTCOMES,
    RANKING_ONLY,
    ClassReading,
    GateRow,
    Outcome,
    Override,
    Point,
    RowOutcome,
    Severity,
    Trigger,
    Verdict,
    bound_text,
    number_text,
    summary_sentences,
)

RANGES: dict[str, tuple[float, float]] = {
    "ap": (0.0, 1.0),
    "ap50": (0.0, 1.0),
    "ap75": (0.0, 1.0),
    "ar100": (0.0, 1.0),
    "recall_at_p95": (0.0, 1.0),
    "best_f1": (0.0, 1.0),
    "ece": (0.0, 1.0),
    "left_right_agreement": (0.0, 1.0),
    "left_minus_right_recall": (-1.0, 1.0),
    "empty_mouth_fp_rate": (0.0, 1.0),
    "empty_mouth_fp_per_image": (0.0, math.inf),
    "paired_delta_ap": (-1.0, 1.0),
    "paired_delta_ap50": (-1.0, 1.0),
}
"""Every metric a gate may name, with the values it can take. A value outside is not a measurement (-1 is COCO's "no
ground truth")."""

NEEDS_SCORES = frozenset(
    {
        "recall_at_p95",
        "best_f1",
        "ece",
        "left_right_agreement",
        "left_minus_right_recall",
        "empty_mouth_fp_rate",
        "empty_mouth_fp_per_image",
    }
)
"""Metrics that use a score as a number (a threshold or a probability); a collapsed head makes them meaningless. The
others use only the order of the scores and stay readable, marked ranking-only."""

PAIRED = frozenset({"paired_delta_ap", "paired_delta_ap50"})
HEAD_HEALTH = "head_health"
ENGINES_AGREE = "engines_agree"
TIER_0 = (HEAD_HEALTH, ENGINES_AGREE)
"""What tier 0 looks at before any figure: the head that made the scores, and the two engines that counted them."""

ENGINE_TOLERANCE = 1e-12
"""pycocotools and hotcoco must agree to this in every gate run (EVALUATION.md, "Engines")."""

OWN_THRESHOLDS = "thresholds not chosen on valid"

_NO_CHAMPION = "There is no champion yet: not applicable. The first release has nothing to regress from."


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Gate(_Data):
    """One row of a policy."""

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    """Also the name of its asset check."""
    tier: Literal["0", "1", "2", "champion"]
    title: str = Field(min_length=3)
    metric: str
    condition: str
    """A class of the policy, `macro` or `all`."""
    iou: str | None
    operator: Literal[">=", "<=", "within", ">"]
    floor: float
    """The bound itself; for `within` the half-width, for `>` minus the margin. Unused (0) in tier 0."""
    severity: Severity
    minimum_n: int = Field(ge=0)
    """Fewest ground-truth boxes (or what the metric counts) that a verdict may rest on."""
    minimum_units: int = Field(ge=0)
    """Fewest independent source groups."""
    minimum_present: int = Field(default=0, ge=0)
    """For macro rows: fewest classes with ground truth."""
    source: str = Field(min_length=10)
    """Where the floor comes from, quoted where it can be."""
    reason: str = Field(min_length=10)
    advice: str = ""
    """What to do, or not to do, while this gate has not passed."""
    trigger: str | None = None


class Bands(_Data):
    """The words the card uses for classes without a floor."""

    strong: float = Field(gt=0, le=1)
    acceptable: float = Field(gt=0, le=1)
    source: str


class Policy(_Data):
    """A versioned set of gates. A policy that could not block anything is refused."""

    schema_: Literal["dentsight-policy/1"] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: int = Field(ge=1)
    title: str
    purpose: str
    never_for_xrays: bool
    classes: tuple[str, ...] = Field(min_length=1)
    bands: Bands
    notes: tuple[str, ...] = ()
    triggers: Mapping[str, str] = Field(default_factory=dict)
    """Trigger id → the sentence to print when it fires."""
    gates: tuple[Gate, ...]

    @model_validator(mode="after")
    def _must_be_able_to_block(self) -> Policy:
        problems = list(_policy_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def digest(self) -> str:
        """sha256 of the policy's canonical JSON (RFC 8785): spacing and key order do not matter, content does."""
        plain = json.loads(self.model_dump_json(by_alias=True))
        return hashlib.sha256(rfc8785.dumps(plain)).hexdigest()

    @property
    def gate_ids(self) -> tuple[str, ...]:
        """All gate ids in the order of the file."""
        return tuple(gate.id for gate in self.gates)


def _policy_problems(policy: Policy) -> Iterable[str]:
    if not policy.gates:
        yield "the policy is empty: it has no gates, so it would pass anything"
        return
    measured = [gate for gate in policy.gates if gate.metric in RANGES and gate.metric not in PAIRED]
    if not any(gate.severity == "hard" for gate in measured):
        yield "no hard gate on any measurement: it could never block a release"
    for metric in TIER_0:
        found = [gate for gate in policy.gates if gate.metric == metric]
        if len(found) != 1 or found[0].severity != "hard":
            yield f"exactly one hard gate on {metric!r} is needed (tier 0), found {len(found)}"
    duplicates = sorted({gate.id for gate in policy.gates if policy.gate_ids.count(gate.id) > 1})
    if duplicates:
        yield f"gate ids occur twice: {', '.join(duplicates)}"
    if policy.bands.acceptable > policy.bands.strong:
        yield "bands: 'acceptable' lies above 'strong'"
    known_classes = [*policy.classes, "macro", "all"]
    for gate in policy.gates:
        where = f"gate {gate.id!r}"
        if gate.metric not in TIER_0 and gate.metric not in RANGES:
            yield f"{where}: unknown metric {gate.metric!r}{_nearest(gate.metric, [*RANGES, *TIER_0])}"
            continue
        if gate.condition not in known_classes:
            yield f"{where}: unknown class {gate.condition!r}{_nearest(gate.condition, known_classes)}"
        if gate.trigger is not None and gate.trigger not in policy.triggers:
            yield f"{where}: unknown trigger {gate.trigger!r}{_nearest(gate.trigger, list(policy.triggers))}"
        yield from _floor_problems(gate, where)


def _floor_problems(gate: Gate, where: str) -> Iterable[str]:
    """A floor that every possible value meets is no gate."""
    if gate.metric in TIER_0:
        return
    low, high = RANGES[gate.metric]
    if (gate.metric in PAIRED) != (gate.operator == ">"):
        yield f"{where}: operator '>' belongs to the paired champion metrics, and only to them"
    elif gate.operator == ">=" and not low < gate.floor <= high:
        yield f"{where}: floor {gate.floor:g} decides nothing; give one in ({low:g}, {high:g}]"
    elif gate.operator == "<=" and not low <= gate.floor < high:
        yield f"{where}: ceiling {gate.floor:g} decides nothing; give one in [{low:g}, {high:g})"
    elif gate.operator == "within" and not 0 < gate.floor < high:
        yield f"{where}: half-width {gate.floor:g} must lie in (0, {high:g})"
    elif gate.operator == ">" and not -0.5 <= gate.floor <= 0:
        yield f"{where}: the margin must lie in [-0.5, 0], got {gate.floor:g}"


def _nearest(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (known are {', '.join(known)})"


def policy_names() -> list[str]:
    """The policies that come with the package."""
    folder = resources.files("dentsight_pipeline.release") / "policies"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def load_policy(name_or_path: str | Path) -> Policy:
    """Reads and checks a policy.

    Args:
        name_or_path: `card`, `phantom`, or the path of a policy file.

    Raises:
        ConfigurationError: When there is no such policy, the file is not JSON, or the policy is empty, unknown in any
            name, or could not block a release.
    """
    name = str(name_or_path)
    if name in policy_names():
        text = (resources.files("dentsight_pipeline.release") / "policies" / f"{name}.json").read_text("utf-8")
    elif Path(name_or_path).is_file():
        try:
            text = Path(name_or_path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"Policy file {name} cannot be read: {error}.") from error
    else:
        raise ConfigurationError(
            f"There is no policy {name!r}{_nearest(name, policy_names())}. "
            f"Give one of {', '.join(policy_names())}, or the path of a policy file."
        )
    return parse_policy(text, name)


def parse_policy(text: str, name: str = "policy") -> Policy:
    """Reads a policy from the text of its JSON file.

    Raises:
        ConfigurationError: As `load_policy`.
    """
    try:
        return Policy.model_validate_json(text)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or 'policy'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise ConfigurationError(
            f"Policy {name!r} is refused: {'; '.join(problems)}. Compare it with release/policies/card.json."
        ) from error


class _Measured(BaseModel):
    """One measurement after checking: either numbers fit to judge, or the reason why not."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit_count: int | None = None
    problem: str | None = None
    nothing_to_measure: bool = False

    def but(self, **changes: float | str | bool | None) -> _Measured:
        return self.model_copy(update=changes)


def judge(
    evaluation: Mapping[str, Any],
    policy: Policy,
    health: Mapping[str, Any] | None = None,
    champion: Mapping[str, Any] | None = None,
    overrides: Iterable[Override] = (),
) -> Verdict:
    """Judges one evaluation by one policy.

    Args:
        evaluation: The content of `evaluation.json`. Only `measurements` of the `gated_population` are judged, plus
            `populations[…].macro.present` for macro rows.
        policy: From `load_policy`.
        health: The content of the checkpoint's `health.json`, or None when it was not measured: then Tier 0 is
            INCONCLUSIVE and blocks.
        champion: `{"digest", "ground_truth_sha256", "measurements": [paired_delta_ap…]}` of the comparison with the
            model now in use (differences are challenger minus champion), or None when there is no champion.
        overrides: Named decisions to release in spite of a hard gate. They never change an outcome.

    Returns:
        The verdict; never an exception for a missed, missing or broken measurement.

    Raises:
        ConfigurationError: When an override names no gate of the policy, or two name the same one.
    """
    by_gate = overrides_by_gate(tuple(overrides), policy)
    population, population_problem = _gated_population(evaluation)
    head, head_row = _judge_head(policy, health)
    rows = []
    for gate in policy.gates:
        if gate.metric == HEAD_HEALTH:
            row = head_row
        elif gate.metric == ENGINES_AGREE:
            row = _judge_engines(gate, evaluation.get("engines"))
        elif gate.metric in PAIRED:
            row = _judge_paired(gate, evaluation, champion, population, population_problem)
        else:
            found = evaluation.get("measurements")
            measured = _read(found, gate.metric, gate.condition, population, population_problem)
            row = _judge_row(gate, _with_macro_presence(gate, measured, evaluation, population))
        if head == "collapsed":
            row = _under_collapsed_head(row)
        if row.metric in NEEDS_SCORES and evaluation.get("thresholds_from") != "valid":
            row = row.model_copy(update={"marks": (*row.marks, OWN_THRESHOLDS)})
        override = by_gate.get(gate.id)
        rows.append(row.model_copy(update={"override": override}) if override else row)
    return _assemble(evaluation, policy, population, champion, head, tuple(rows), tuple(by_gate.values()))


def _assemble(
    evaluation: Mapping[str, Any],
    policy: Policy,
    population: str | None,
    champion: Mapping[str, Any] | None,
    head: Literal["healthy", "collapsed", "unknown"],
    rows: tuple[GateRow, ...],
    overrides: tuple[Override, ...],
) -> Verdict:
    hard = [row.outcome for row in rows if row.severity == "hard"]
    outcome: Outcome = (
        "FAIL"
        if "FAIL" in hard
        else "PASS"
        if hard and all(word in ("PASS", "NOT APPLICABLE") for word in hard) and "PASS" in hard
        else "INCONCLUSIVE"
    )
    triggers = _triggers(policy, rows)
    needed = {row.id for row in rows if row.severity == "hard" and row.outcome in BLOCKING_OUTCOMES}
    return Verdict(
        policy=policy.name,
        policy_version=policy.version,
        policy_title=policy.title,
        policy_digest=policy.digest,
        never_for_xrays=policy.never_for_xrays,
        outcome=outcome,
        releasable=not any(row.blocks for row in rows),
        population=population,
        ground_truth_sha256=_text(evaluation.get("ground_truth_sha256")),
        detections_sha256=_text(evaluation.get("detections_sha256")),
        champion=_text((champion or {}).get("digest")),
        head=head,
        rows=rows,
        classes=_class_readings(policy, evaluation, population, rows),
        triggers=triggers,
        overrides=tuple(o for o in overrides if o.gate in needed),
        unused_overrides=tuple(o for o in overrides if o.gate not in needed),
        notes=policy.notes,
        sentences=summary_sentences(outcome, rows, triggers, policy.never_for_xrays),
    )


def overrides_by_gate(overrides: tuple[Override, ...], policy: Policy) -> dict[str, Override]:
    """The overrides by the gate that each is for.

    Raises:
        ConfigurationError: When one names no gate of the policy, or two name the same one.
    """
    by_gate: dict[str, Override] = {}
    for override in overrides:
        if override.gate not in policy.gate_ids:
            raise ConfigurationError(
                f"The override by {override.name} names gate {override.gate!r}, which policy {policy.name!r} does not "
                f"have{_nearest(override.gate, list(policy.gate_ids))}."
            )
        if override.gate in by_gate:
            raise ConfigurationError(f"Gate {override.gate!r} is overridden twice; record one decision for each gate.")
        by_gate[override.gate] = override
    return by_gate


def _gated_population(evaluation: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The population the gates read, and what is wrong with it if anything is."""
    population = evaluation.get("gated_population")
    if population not in ("clean", "all"):
        return None, f"The evaluation does not say which population the gates read (found {population!r})."
    populations = evaluation.get("populations")
    if population == "all" and isinstance(populations, Mapping) and "clean" in populations:
        return "all", "The evaluation has clean images, but asks the gates to read all of them, leaked ones included."
    return population, None


def _read(rows: Any, metric: str, condition: str, population: str | None, problem: str | None) -> _Measured:
    """The one measurement that fits, checked; several or none are a problem, not a choice."""
    if problem is not None:
        return _Measured(problem=problem)
    if not isinstance(rows, list):
        return _Measured(problem="The evaluation has no list of measurements.")
    found = [
        row
        for row in rows
        if isinstance(row, Mapping)
        and (row.get("metric"), row.get("class"), row.get("population")) == (metric, condition, population)
    ]
    if len(found) != 1:
        how = "was not measured" if not found else f"was measured {len(found)} times, which contradicts itself"
        return _Measured(problem=f"{metric} of {condition} ({population} images) {how}.")
    return _checked(found[0], metric)


def _checked(row: Mapping[str, Any], metric: str) -> _Measured:
    n = _count(row.get("n"))
    counted = _Measured(n=n, unit_count=_count(row.get("unit_count")))
    value = _number(row.get("value"))
    note = row.get("note")
    said = f" ({note})" if isinstance(note, str) and note else ""
    if value is None:
        if row.get("value") is None and n == 0:
            return counted.but(problem=f"There was nothing to measure: n = 0{said}.", nothing_to_measure=True)
        return counted.but(problem=f"The value is missing or not a finite number{said}.")
    least, most = RANGES[metric]
    if not least <= value <= most:
        return counted.but(problem=f"The value {value:g} is outside [{least:g}, {most:g}]: not a measurement.")
    low, high = _number(row.get("low")), _number(row.get("high"))
    if low is None or high is None:
        return counted.but(value=value, problem=f"There is no interval, only a point{said}.")
    if not (least - 1e-9 <= low <= high <= most + 1e-9):
        return counted.but(value=value, problem=f"The interval [{low:g}, {high:g}] is not one.")
    return counted.but(value=value, low=low, high=high)


def _number(raw: Any) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        return None
    return float(raw)


def _count(raw: Any) -> int | None:
    number = _number(raw)
    return int(number) if number is not None and number >= 0 and number == int(number) else None


def _text(raw: Any) -> str | None:
    return raw if isinstance(raw, str) and raw else None


def _with_macro_presence(
    gate: Gate, measured: _Measured, evaluation: Mapping[str, Any], population: str | None
) -> _Measured:
    """A macro over few classes is another quantity: it needs `minimum_present` of them."""
    if measured.problem is not None or gate.condition != "macro" or gate.minimum_present == 0:
        return measured
    populations = evaluation.get("populations")
    part = populations.get(population) if isinstance(populations, Mapping) else None
    macro = part.get("macro") if isinstance(part, Mapping) else None
    present = _count(macro.get("present")) if isinstance(macro, Mapping) else None
    if present is None or present < gate.minimum_present:
        counted = "an unstated number of" if present is None else f"only {present}"
        problem = f"The macro covers {counted} classes; the gate asks for at least {gate.minimum_present}."
        return measured.but(problem=problem)
    return measured


def _judge_row(gate: Gate, measured: _Measured) -> GateRow:
    outcome, because = _decide(gate, measured)
    return _row(gate, outcome, because, measured, _point(gate, measured.value))


def _decide(gate: Gate, measured: _Measured) -> tuple[RowOutcome, str]:
    if measured.nothing_to_measure and gate.metric == "ece":
        return "FAIL", "No detection reaches the operating threshold: a model that asserts nothing is not calibrated."
    if measured.problem is not None:
        return "INCONCLUSIVE", measured.problem
    for name, found, least in (
        ("units (source groups)", measured.unit_count, gate.minimum_units),
        ("counted items", measured.n, gate.minimum_n),
    ):
        if least and (found is None or found < least):
            said = "an unstated number of" if found is None else f"{found}"
            return "INCONCLUSIVE", f"Too little data: {said} {name}, the gate needs {least}."
    value, low, high = measured.value, measured.low, measured.high
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


def _point(gate: Gate, value: float | None) -> Point:
    if value is None:
        return "not measured"
    return "pass" if _compare(gate, value, value, value)[2] else "FAIL"


def _row(gate: Gate, outcome: RowOutcome, because: str, measured: _Measured, point: Point) -> GateRow:
    return GateRow(
        id=gate.id,
        tier=gate.tier,
        title=gate.title,
        metric=gate.metric,
        condition=gate.condition,
        iou=gate.iou,
        operator=gate.operator,
        floor=None if gate.metric in TIER_0 else gate.floor,
        severity=gate.severity,
        outcome=outcome,
        point=point,
        value=measured.value,
        low=measured.low,
        high=measured.high,
        n=measured.n,
        unit_count=measured.unit_count,
        because=because,
        source=gate.source,
        reason=gate.reason,
        advice=gate.advice,
    )


def _judge_head(
    policy: Policy, health: Mapping[str, Any] | None
) -> tuple[Literal["healthy", "collapsed", "unknown"], GateRow]:
    """Tier 0. Healthy needs an explicit true, at least one rule that was looked at, and none that tripped."""
    gate = next(gate for gate in policy.gates if gate.metric == HEAD_HEALTH)
    healthy = health.get("healthy") if health is not None else None
    raw_rules = health.get("rules") if health is not None else None
    rules = [rule for rule in raw_rules if isinstance(rule, Mapping)] if isinstance(raw_rules, list) else []
    tripped = [str(rule.get("rule", "unnamed rule")) for rule in rules if rule.get("tripped") not in (False, None)]
    looked_at = [rule for rule in rules if rule.get("tripped") is False]
    point: Point
    if healthy is False or tripped:
        which = "; ".join(tripped) or "the record says so without naming a rule"
        head, outcome, point = "collapsed", "FAIL", "FAIL"
        because = f"The classification head has collapsed ({which}). AP only ranks; every score is meaningless."
    elif healthy is True and looked_at:
        head, outcome, point = "healthy", "PASS", "pass"
        because = f"None of the {len(looked_at)} rules tripped."
    else:
        head, outcome, point = "unknown", "INCONCLUSIVE", "not measured"
        because = "The head's health was not measured." if health is None else _why_unknown(rules)
    return head, _row(gate, outcome, because, _Measured(), point)


def _why_unknown(rules: list[Mapping[str, Any]]) -> str:
    open_rules = [f"{rule.get('rule')}: {rule.get('evidence')}" for rule in rules if rule.get("tripped") is None]
    if open_rules:
        return f"The head's health could not be judged ({'; '.join(open_rules)})."
    return "The health record holds no rule that was looked at and found good."


def _judge_engines(gate: Gate, engines: Any) -> GateRow:
    """Two independent implementations must have counted the same; otherwise no figure below can be believed."""
    found = engines if isinstance(engines, Mapping) else {}
    difference = _number(found.get("max_abs_difference"))
    if found.get("agree") is False or (difference is not None and abs(difference) > ENGINE_TOLERANCE):
        because = f"The two engines differ by up to {difference}; they must agree to {ENGINE_TOLERANCE:g}."
        return _row(gate, "FAIL", because, _Measured(), "FAIL")
    if found.get("agree") is True and difference is not None:
        names = ", ".join(f"{k} {v}" for k, v in sorted(found.items()) if isinstance(v, str))
        because = f"{names or 'Both engines'} agree: largest difference {difference:.1g}."
        return _row(gate, "PASS", because, _Measured(), "pass")
    because = "The evaluation does not show that two engines agree."
    return _row(gate, "INCONCLUSIVE", because, _Measured(), "not measured")


def _judge_paired(
    gate: Gate,
    evaluation: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    population: str | None,
    population_problem: str | None,
) -> GateRow:
    """Regression against the champion, valid only on the very same ground truth."""
    if champion is None:
        rows = evaluation.get("measurements")
        compared = isinstance(rows, list) and any(isinstance(r, Mapping) and r.get("metric") in PAIRED for r in rows)
        if not compared:
            return _row(gate, "NOT APPLICABLE", _NO_CHAMPION, _Measured(), "not measured")
        problem = "The evaluation holds a comparison, but the champion it was made with was not named."
        return _judge_row(gate, _Measured(problem=problem))
    if _text(champion.get("digest")) is None:
        return _judge_row(gate, _Measured(problem="The champion has no digest: nobody can tell what it was."))
    ours, theirs = _text(evaluation.get("ground_truth_sha256")), _text(champion.get("ground_truth_sha256"))
    if ours is None or ours != theirs:
        problem = "Champion and challenger were not evaluated on the same ground truth (their digests differ)."
        return _judge_row(gate, _Measured(problem=problem))
    return _judge_row(
        gate, _read(champion.get("measurements"), gate.metric, gate.condition, population, population_problem)
    )


def _under_collapsed_head(row: GateRow) -> GateRow:
    if row.metric in TIER_0:
        return row
    if row.metric in NEEDS_SCORES:
        because = "The classification head has collapsed: no threshold or probability of this model means anything."
        return row.model_copy(update={"outcome": "NOT EVALUABLE", "because": because, "point": "not measured"})
    return row.model_copy(update={"marks": (*row.marks, RANKING_ONLY)})


def _class_readings(
    policy: Policy, evaluation: Mapping[str, Any], population: str | None, rows: tuple[GateRow, ...]
) -> tuple[ClassReading, ...]:
    """Every class of the policy by its AP, in the card's words."""
    gated = {row.condition: row for row in rows if row.metric == "ap"}
    readings = []
    for condition in policy.classes:
        measured = _read(evaluation.get("measurements"), "ap", condition, population, None)
        row = gated.get(condition)
        readings.append(
            ClassReading(
                condition=condition,
                ap=measured.value,
                low=measured.low,
                high=measured.high,
                n_gt=measured.n,
                floor=row.floor if row else None,
                severity=row.severity if row else None,
                point=row.point if row else _band(policy.bands, measured.value),
                outcome=row.outcome if row else None,
            )
        )
    return tuple(readings)


def _band(bands: Bands, ap: float | None) -> Point:
    if ap is None:
        return "not measured"
    return "strong" if ap >= bands.strong else "acceptable" if ap >= bands.acceptable else "weak"


def _triggers(policy: Policy, rows: tuple[GateRow, ...]) -> tuple[Trigger, ...]:
    """A trigger fires only on a shown FAIL (the upper bound is under the floor), never on doubt."""
    wanted = {gate.id: gate.trigger for gate in policy.gates if gate.trigger}
    failed = {
        name: tuple(row.id for row in rows if wanted.get(row.id) == name and row.outcome == "FAIL")
        for name in policy.triggers
    }
    return tuple(
        Trigger(id=name, fired=bool(failed[name]), because=failed[name], sentence=sentence)
        for name, sentence in policy.triggers.items()
    )
