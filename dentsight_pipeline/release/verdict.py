"""What the gates decided, as frozen records and in sentences that need no key.

Belongs here: the records (`GateRow`, `ClassReading`, `Trigger`, `Override`, `Verdict`) and their wording. How a row is
decided belongs in `gates.py`; how it looks on a page in `report.py`.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
RowOutcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT EVALUABLE", "NOT APPLICABLE"]
Point = Literal["strong", "acceptable", "weak", "pass", "FAIL", "not measured"]
Severity = Literal["hard", "soft"]

BLOCKING_OUTCOMES: frozenset[str] = frozenset({"FAIL", "INCONCLUSIVE", "NOT EVALUABLE"})
"""Row outcomes that block a release when the gate is hard and nobody overrode it. NOT APPLICABLE does not: it is
given to the champion rows alone, and only when there is no champion to regress from."""

RANKING_ONLY = "ranking-only"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Override(_Record):
    """One named person's decision to release in spite of one hard gate. It never changes the measured outcome."""

    gate: str
    """The id of exactly one gate; there is no wildcard."""
    name: str
    """Who decides, as they sign."""
    reason: str
    """Why, in words that a reviewer can judge."""

    @field_validator("name", "reason")
    @classmethod
    def _say_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("an override needs a name and a reason; blank text is neither")
        return text.strip()


class GateRow(_Record):
    """One gate of the policy, the measurement it saw and what follows."""

    id: str
    tier: str
    title: str
    metric: str
    condition: str
    iou: str | None
    operator: str
    floor: float | None
    severity: Severity
    outcome: RowOutcome
    point: Point
    """What the point estimate alone says; never decides."""
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    unit_count: int | None
    because: str
    """Why this outcome, in one sentence without the numbers' names."""
    marks: tuple[str, ...] = ()
    """E.g. `ranking-only` when the head's health tripped."""
    source: str
    reason: str
    advice: str
    override: Override | None = None

    @property
    def blocks(self) -> bool:
        """Whether this row alone stops a release."""
        return self.severity == "hard" and self.outcome in BLOCKING_OUTCOMES and self.override is None

    @property
    def sentence(self) -> str:
        """The row in plain language, e.g. `caries: 0.04 [0.03, 0.05], floor 0.30: FAIL. Do not surface …`."""
        subject = _subject(self)
        if self.outcome == "NOT EVALUABLE" or (self.value is None and self.outcome != "FAIL"):
            return f"{subject}: {self.outcome}. {self.because}{self._advice()}"
        words = f"{subject}: {self.outcome}"
        if self.value is not None:
            measured = interval_text(self.value, self.low, self.high, self.floor)
            bound = "" if self.floor is None else f", {bound_text(self.operator, self.floor)}"
            words = f"{subject}: {measured}{bound}: {self.outcome}"
        marks = f" ({', '.join(self.marks)})" if self.marks else ""
        because = "" if self.outcome in ("PASS", "FAIL") and self.value is not None else f" {self.because}"
        return f"{words}{marks}.{because}{self._advice()}"

    def _advice(self) -> str:
        return f" {self.advice}" if self.advice and self.outcome in BLOCKING_OUTCOMES else ""


class ClassReading(_Record):
    """One condition as the card reads it: AP with its interval, the point word, and the gate if it has one."""

    condition: str
    ap: float | None
    low: float | None
    high: float | None
    n_gt: int | None
    floor: float | None
    severity: Severity | None
    point: Point
    outcome: RowOutcome | None
    """The interval verdict of its AP gate, or None when the policy has no floor for it."""


class Trigger(_Record):
    """Something to do next that the numbers ask for, e.g. a retrain at higher resolution."""

    id: str
    fired: bool
    because: tuple[str, ...]
    """Ids of the gates that fired it."""
    sentence: str


class Check(NamedTuple):
    """One gate as an orchestrator's asset check takes it."""

    gate_id: str
    passed: bool
    severity: Severity
    description: str


class Verdict(_Record):
    """Everything the gates decided about one evaluation under one policy.

    `outcome` is what was measured; an override never changes it. `releasable` is what may follow: True when no hard
    gate blocks any more, by measurement or by a recorded override.
    """

    schema_: Literal["dentsight-verdict/1"] = Field(default="dentsight-verdict/1", alias="schema")
    policy: str
    policy_version: int
    policy_title: str
    policy_digest: str
    never_for_xrays: bool
    """True when the policy's floors say nothing about X-rays of people (the phantom policy)."""
    outcome: Outcome
    releasable: bool
    population: str | None
    ground_truth_sha256: str | None
    detections_sha256: str | None
    champion: str | None
    """Digest of the champion compared with, or None when there is none yet."""
    head: Literal["healthy", "collapsed", "unknown"]
    rows: tuple[GateRow, ...]
    classes: tuple[ClassReading, ...]
    triggers: tuple[Trigger, ...]
    overrides: tuple[Override, ...]
    unused_overrides: tuple[Override, ...]
    """Overrides of gates that did not block; recorded, without effect."""
    notes: tuple[str, ...]
    sentences: tuple[str, ...]
    """The verdict in plain language: the summary first, then what to do about every row that did not pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    @property
    def blocking(self) -> tuple[GateRow, ...]:
        """The hard rows that stop a release."""
        return tuple(row for row in self.rows if row.blocks)

    @property
    def exit_code(self) -> int:
        """`dentsight gate`: 0 pass, 3 fail, 4 inconclusive."""
        return {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}[self.outcome]

    def checks(self) -> list[Check]:
        """Every gate as (id, passed, severity, description), for asset checks.

        An overridden gate stays not passed here: the override lets the release happen, not the gate turn green.
        """
        good = ("PASS", "NOT APPLICABLE")
        return [Check(row.id, row.outcome in good, row.severity, _check_text(row)) for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values, with `blocks` and `sentence` spelt out for every row."""
        plain = json.loads(self.model_dump_json(by_alias=True))
        for record, row in zip(plain["rows"], self.rows, strict=True):
            record |= {"blocks": row.blocks, "sentence": row.sentence}
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Verdict:
        """The inverse of `to_json`.

        Raises:
            pydantic.ValidationError: When a field is missing, unknown or not of its type.
        """
        rows = [{k: v for k, v in row.items() if k not in ("blocks", "sentence")} for row in plain["rows"]]
        return cls.model_validate_json(json.dumps(plain | {"rows": rows}))


def number_text(value: float | None, beside: float | None = None) -> str:
    """A metric in two decimals, or as many more (up to four) as it takes not to look equal to `beside`.

    .2996 beside a floor of .30 reads `0.2996`, not `0.30`: a FAIL must not look like a tie.
    """
    if value is None:
        return "not measured"
    for decimals in (2, 3, 4):
        text = f"{value:.{decimals}f}"
        if beside is None or value == beside or text != f"{beside:.{decimals}f}":
            return text.replace("-0.00", "0.00") if float(text) == 0 and decimals == 2 else text
    return f"{value:.6f}"


def interval_text(value: float | None, low: float | None, high: float | None, floor: float | None = None) -> str:
    """E.g. `0.04 [0.03, 0.05]`, or `0.04 (no interval)`."""
    if value is None:
        return "not measured"
    if low is None or high is None:
        return f"{number_text(value, floor)} (no interval)"
    return f"{number_text(value, floor)} [{number_text(low, floor)}, {number_text(high, floor)}]"


def bound_text(operator: str, floor: float) -> str:
    """The floor in words: `floor 0.30`, `ceiling 0.10`, `within ±0.10`, `must stay above -0.02`."""
    number = f"{floor:.2f}" if round(floor, 2) == floor else f"{floor:g}"
    words = {">=": "floor {}", "<=": "ceiling {}", "within": "within ±{}", ">": "must stay above {}"}
    return words[operator].format(number)


_METRIC_WORDS = {
    "ap": "",
    "ap50": "AP50",
    "ap75": "AP75",
    "ar100": "AR@100",
    "recall_at_p95": "recall at precision 0.95",
    "best_f1": "best F1",
    "ece": "calibration error",
    "left_right_agreement": "left/right agreement",
    "left_minus_right_recall": "left minus right recall",
    "empty_mouth_fp_rate": "empty mouths with a false positive",
    "empty_mouth_fp_per_image": "false positives per empty mouth",
    "paired_delta_ap": "AP against the champion",
    "paired_delta_ap50": "AP50 against the champion",
    "head_health": "classification head",
    "engines_agree": "agreement of the two engines",
}


def _subject(row: GateRow) -> str:
    words = _METRIC_WORDS.get(row.metric, row.metric)
    if row.condition == "all":
        return words
    return f"{row.condition} {words}".strip()


def _check_text(row: GateRow) -> str:
    override = f" Overridden by {row.override.name}: {row.override.reason}" if row.override else ""
    return f"{row.sentence}{override}"


def summary_sentences(
    outcome: Outcome, rows: tuple[GateRow, ...], triggers: tuple[Trigger, ...], never_for_xrays: bool
) -> tuple[str, ...]:
    """The verdict in plain language: the decision, then every row that did not pass, hard ones first."""
    hard = [row for row in rows if row.severity == "hard" and row.outcome != "NOT APPLICABLE"]
    words = ("PASS", "FAIL", "INCONCLUSIVE", "NOT EVALUABLE")
    counts = {word: sum(row.outcome == word for row in hard) for word in words}
    tally = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    blocked = [row for row in rows if row.blocks]
    overridden = [row for row in rows if row.override and row.outcome in BLOCKING_OUTCOMES and row.severity == "hard"]
    if outcome == "PASS":
        first = f"PASS: all {len(hard)} hard gates passed."
    elif outcome == "FAIL":
        first = f"FAIL: this model did not pass its release gates ({len(hard)} hard gates: {tally})."
    else:
        first = (
            f"INCONCLUSIVE: there is not enough evidence to release this model ({len(hard)} hard gates: {tally}). "
            "Nothing hard was shown to fail; nothing may be claimed to pass either."
        )
    lines = [first]
    if blocked:
        lines.append("It must not be released.")
    if overridden:
        names = sorted({row.override.name for row in overridden if row.override})
        counted = "1 hard gate is" if len(overridden) == 1 else f"{len(overridden)} hard gates are"
        lines.append(f"{counted} overridden by {', '.join(names)}; the measured verdict stands.")
    if never_for_xrays:
        lines.append("This policy's floors are for drawn images: whatever passes them is never for X-rays.")
    order = {"hard": 0, "soft": 1}
    missed = sorted((row for row in rows if row.outcome in BLOCKING_OUTCOMES), key=lambda row: order[row.severity])
    lines += [row.sentence for row in missed]
    lines += [trigger.sentence for trigger in triggers if trigger.fired]
    return tuple(lines)
