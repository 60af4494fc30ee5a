"""What the gates decided about one evaluation under one policy: `verdict.json`.

How a row is decided is the business of `release/gates.py`, its words that of `release/wording.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.evaluation import Bounds, Measurement
from dentsight_pipeline.documents.policy import Severity

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
RowOutcome = Literal["PASS", "FAIL", "INCONCLUSIVE", "NOT EVALUABLE", "NOT APPLICABLE"]
Point = Literal["strong", "acceptable", "weak", "pass", "FAIL", "not measured"]
Head = Literal["healthy", "collapsed", "unknown"]

PLAN_ROW = "plan_fulfilled"
"""Id of the row about the plan. It is no gate of a policy, so nobody can override it."""
BLOCKING_OUTCOMES: tuple[RowOutcome, ...] = ("FAIL", "INCONCLUSIVE", "NOT EVALUABLE")
"""Row outcomes that block a release when the gate is hard and nobody overrode it, the worst first. NOT APPLICABLE does
not: it is given to the champion rows when there is no champion to regress from, to those of tier 3 when no reader study
was made, and to classes that nobody looked for under a policy that judges only what was looked for."""


class ChampionComparison(Document, frozen=True, kw_only=True):
    """A model against the one in use, as gates take it."""

    digest: str
    """Of the champion's release."""
    ground_truth_sha256: str | None
    """What both were scored on; None when the champion has never predicted these images."""
    measurements: tuple[Measurement, ...]
    """`paired_delta_…` of each class and the macro mean: challenger minus champion."""


class Override(Document, frozen=True, kw_only=True):
    """One named person's decision to release in spite of one hard gate. It never changes the measured outcome."""

    gate: str
    """The id of exactly one gate; there is no wildcard."""
    name: str
    """Who decides, as they sign."""
    reason: str
    """Why, in words that a reviewer can judge."""

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.reason.strip():
            raise ValueError("an override needs a name and a reason; blank text is neither")


class GateRow(Document, frozen=True, kw_only=True):
    """One gate of the policy, the measurement it saw and what follows."""

    id: str
    """As in the policy, like all up to `severity`."""
    tier: str
    """See `Gate.tier`."""
    title: str
    """What a reviewer reads."""
    metric: str
    """What was measured."""
    condition: str
    """Of which class; `macro` or `all`."""
    iou: str | None
    """IoU of a match in words."""
    operator: str
    """How the interval must lie to `floor`."""
    floor: float | None
    """The bound; None in tier 0."""
    severity: Severity
    """Whether it blocks or warns."""
    outcome: RowOutcome
    """What the interval decides."""
    point: Point
    """What the point estimate alone says; never decides."""
    value: float | None
    """The point; None where there is none, like the next four."""
    low: float | None
    """Lower end of the two-sided 90 % interval."""
    high: float | None
    """Its upper end."""
    n: int | None
    """Ground-truth boxes, or what the metric counts."""
    unit_count: int | None
    """Independent source groups."""
    ceiling: Bounds | None = None
    """What the labels allow of this figure; None where nothing was labelled twice, or labels set no bound."""
    because: str
    """Why this outcome, in one sentence without the numbers' names."""
    marks: tuple[str, ...] = ()
    """E.g. `ranking-only` when the head's health tripped."""
    source: str
    """Where the floor comes from."""
    reason: str
    """Why the gate is there."""
    advice: str
    """What to do, or not to do, while it has not passed."""
    override: Override | None = None
    """Who releases in spite of it."""
    blocks: bool
    """Whether this row alone stops a release."""
    sentence: str
    """The row in plain language, e.g. `caries: 0.04 [0.03, 0.05], floor 0.30: FAIL. Do not surface …`."""

    @property
    def passed(self) -> bool:
        """For an asset check. An overridden gate stays not passed: the override frees the release, not the gate."""
        return self.outcome in ("PASS", "NOT APPLICABLE")

    @property
    def counts(self) -> bool:
        """Whether it is one of the gates that a release needs."""
        return self.severity == "hard" and self.outcome != "NOT APPLICABLE"

    @property
    def description(self) -> str:
        """The sentence, and who overrode the gate."""
        told = f" Overridden by {self.override.name}: {self.override.reason}" if self.override else ""
        return f"{self.sentence}{told}"


class ClassReading(Document, frozen=True, kw_only=True):
    """One condition as the card reads it: AP with its interval, the point word, and the gate if it has one."""

    condition: str
    """The class."""
    ap: float | None
    """AP[.50:.95] on the images that gates read."""
    low: float | None
    """Lower end of its interval."""
    high: float | None
    """Its upper end."""
    n_gt: int | None
    """Ground-truth boxes."""
    floor: float | None
    """The floor of its AP gate, or None when the policy has none for it, like the next."""
    severity: Severity | None
    """The gate's."""
    point: Point
    """The card's word, or what the point says of the floor."""
    outcome: RowOutcome | None
    """The interval verdict of its AP gate, or None when the policy has no floor for it."""


class Trigger(Document, frozen=True, kw_only=True):
    """Something to do next that the numbers ask for, e.g. a retrain at higher resolution."""

    id: str
    """As in the policy."""
    fired: bool
    """Whether a gate of it was shown to fail."""
    because: tuple[str, ...]
    """Ids of the gates that fired it."""
    sentence: str
    """What to do."""


RemedyKind = Literal[
    "retrain",
    "installation",
    "licence",
    "measure",
    "coverage",
    "test data",
    "labels",
    "calibration",
    "sides",
    "resolution",
]


class Remedy(Document, frozen=True, kw_only=True):
    """The cheapest thing that would help one gate that was missed or left undecided, as far as the figures tell."""

    gate: str
    """Its id."""
    severity: Severity
    """Of the gate."""
    kind: RemedyKind
    """What is to be done."""
    sources: int | None = None
    """How many more test sources it takes; None where that is not the remedy."""
    figures: Mapping[str, float]
    """What this was computed from, each by its name in the evaluation or the policy."""
    sentence: str
    """What to do and why, in words."""


class Verdict(Document, frozen=True, kw_only=True, rename={"schema_": "schema"}):
    """Everything the gates decided about one evaluation under one policy.

    `outcome` is what was measured; an override never changes it. `releasable` is what may follow: True when no hard
    gate blocks any more, by measurement or by a recorded override.
    """

    schema_: Literal["dentsight-verdict/1"] = "dentsight-verdict/1"
    """Name and version of this form."""
    policy: str
    """Name of the policy, like the next five."""
    policy_version: int
    """Its version."""
    policy_title: str
    """Its title."""
    policy_digest: str
    """Its digest."""
    never_for_xrays: bool
    """True when the policy's floors say nothing about X-rays of people (the phantom policy)."""
    outcome: Outcome
    """What was measured."""
    releasable: bool
    """Whether a release may follow."""
    population: str | None
    """The images that the gates read, `clean` or `all`; None when the evaluation does not say."""
    ground_truth_sha256: str | None
    """Of the ground truth evaluated."""
    detections_sha256: str | None
    """Of the detections evaluated."""
    champion: str | None
    """Digest of the champion compared with, or None when there is none yet."""
    head: Head
    """What tier 0 says of the classification head."""
    rows: tuple[GateRow, ...]
    """One for each gate, in the policy's order."""
    classes: tuple[ClassReading, ...]
    """One for each class of the policy."""
    triggers: tuple[Trigger, ...]
    """Those of the policy, fired or not."""
    overrides: tuple[Override, ...]
    """Overrides of gates that block."""
    unused_overrides: tuple[Override, ...]
    """Overrides of gates that did not block; recorded, without effect."""
    notes: tuple[str, ...]
    """The policy's."""
    sentences: tuple[str, ...]
    """The verdict in plain language: the summary first, then what to do about every row that did not pass."""
    licences: Mapping[str, str] = {}
    """Of everything that the model was made from, by what it is; empty when nobody says."""
    remedies: tuple[Remedy, ...] = ()
    """What to do next: one for each row that did not pass, hard ones first."""

    @property
    def blocking(self) -> tuple[GateRow, ...]:
        """The hard rows that stop a release."""
        return tuple(row for row in self.rows if row.blocks)

    @property
    def hard(self) -> tuple[GateRow, ...]:
        """The hard rows that apply."""
        return tuple(row for row in self.rows if row.counts)

    @property
    def exit_code(self) -> int:
        """`dentsight gate`: 0 pass, 3 fail, 4 inconclusive."""
        return {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4}[self.outcome]
