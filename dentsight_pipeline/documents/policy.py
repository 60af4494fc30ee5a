"""A gate policy as its file says it: which figure, which bound, how severe, from which source and why.

What makes a policy unfit to judge anything is decided in `release/policy.py`; judging is done in `release/gates.py`.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import rfc8785
from msgspec import UNSET, Meta, UnsetType, field

from dentsight_pipeline.documents.codec import Document, plain
from dentsight_pipeline.documents.licences import Use

Severity = Literal["hard", "soft"]
Tier = Literal["0", "1", "2", "3", "champion"]
Operator = Literal[">=", "<=", "within", ">"]
Count = Annotated[int, Meta(ge=0)]
Sentence = Annotated[str, Meta(min_length=10)]
Share = Annotated[float, Meta(gt=0, le=1)]


class Gate(Document, frozen=True, kw_only=True):
    """One row of a policy."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9_]+$")]
    """Also the name of its asset check."""
    tier: Tier
    """`0` asks whether figures can be read at all, `champion` whether a better model is replaced."""
    title: Annotated[str, Meta(min_length=3)]
    """What a reviewer reads."""
    metric: str
    """One of `release.policy.METRICS` or `TIER_0`."""
    condition: str
    """A class of the policy, `macro` or `all`."""
    iou: str | None
    """IoU of a match in words, or None where the metric has none."""
    operator: Operator
    """How the interval must lie to `floor`."""
    floor: float
    """The bound itself; for `within` the half-width, for `>` minus the margin. Unused (0) in tier 0."""
    severity: Severity
    """A hard gate blocks a release, a soft one warns."""
    minimum_n: Count
    """Fewest ground-truth boxes (or what the metric counts) that a verdict may rest on."""
    minimum_units: Count
    """Fewest independent source groups."""
    minimum_present: Count = 0
    """For macro rows: fewest classes with ground truth."""
    source: Sentence
    """Where the floor comes from, quoted where it can be."""
    reason: Sentence
    """Why the gate is there."""
    advice: str = ""
    """What to do, or not to do, while this gate has not passed."""
    trigger: str | None = None
    """The trigger that a FAIL fires."""


class Bands(Document, frozen=True, kw_only=True):
    """The words the card uses for classes without a floor."""

    strong: Share
    """Least AP of a *strong* class."""
    acceptable: Share
    """Least AP of an *acceptable* class; below it is *weak*."""
    source: str
    """Where the two come from."""


class ApprovalRule(Document, frozen=True, kw_only=True):
    """Whose signatures a release needs beside the workspace's."""

    needed: Annotated[int, Meta(ge=1)]
    """How many different people."""
    people: dict[str, str]
    """Public key, PEM, by name."""


class Policy(Document, frozen=True, kw_only=True, rename={"schema_": "schema"}):
    """A versioned set of gates."""

    schema_: Literal["dentsight-policy/1"]
    """Name and version of this form."""
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """What `--policy` and reports call it."""
    version: Annotated[int, Meta(ge=1)]
    """One more for each change of content."""
    title: str
    """One line for the report."""
    purpose: str
    """Which models it may decide on."""
    never_for_xrays: bool
    """True when its floors say nothing about X-rays of people."""
    classes: Annotated[tuple[str, ...], Meta(min_length=1)]
    """The classes that a report reads, in its order."""
    bands: Bands
    """Words for classes without a floor."""
    notes: tuple[str, ...] = ()
    """What must be known beside the verdict."""
    only_looked_for: bool = False
    """Judges what was looked for: a row of a class that no test image was looked at for is NOT APPLICABLE instead of
    INCONCLUSIVE, and a macro row asks for no more classes than were looked for."""
    triggers: dict[str, str] = field(default_factory=dict)
    """Trigger id → the sentence to print when it fires."""
    gates: tuple[Gate, ...]
    """In the order of the report."""
    uses: tuple[Use, ...] | UnsetType = UNSET
    """What a release is for, and so what the licence of everything that it was made from must allow."""
    approvals: ApprovalRule | UnsetType = UNSET
    """Whose signatures a release needs; absent asks for none."""

    @property
    def digest(self) -> str:
        """sha256 of the policy's canonical JSON (RFC 8785): spacing and key order do not matter, content does."""
        told = {name: value for name, value in plain(self).items() if (name, value) != ("only_looked_for", False)}
        return hashlib.sha256(rfc8785.dumps(told)).hexdigest()

    @property
    def gate_ids(self) -> tuple[str, ...]:
        """All gate ids in the order of the file."""
        return tuple(gate.id for gate in self.gates)
