"""A plan: what a training and its judgement will be, said and signed before it begins; and who approves a release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.facts import PolicyVersion
from dentsight_pipeline.documents.policy import ApprovalRule

PLAN, PLAN_ENVELOPE = "plan.json", "plan.dsse.json"


def approvals_ref(report: str) -> str:
    """The reference that holds the approvals of a report."""
    return f"approvals/{report}"


class PlannedSource(Document, frozen=True, kw_only=True):
    """One export, and how it is read."""

    name: str
    """As the dataset calls it."""
    raw_export: str
    """Digest of its manifest."""
    mapping: str
    """Digest of the label mapping's rules."""
    coverage: str
    """Digest of what its annotators looked for; `everything` where that was not narrowed."""


class Plan(Document, frozen=True, kw_only=True, rename={"schema_": "schema"}):
    """`plan.json`."""

    schema_: Literal["dentsight-plan/1"] = "dentsight-plan/1"
    """Name and version of this form."""
    title: str
    """What is planned."""
    by: Annotated[str, Meta(min_length=1)]
    """Who plans it."""
    policy: PolicyVersion
    """The gates."""
    recipes: Mapping[str, str]
    """Digest of each recipe that may be trained, by name."""
    sources: Annotated[tuple[PlannedSource, ...], Meta(min_length=1)]
    """All data, in the dataset's order."""
    subgroups: tuple[str, ...] = ()
    """What the evaluation must show figures of, by name."""
    margin: float
    """The most that a model may fall behind the champion or dentists under any gate."""
    approvals: ApprovalRule | None = None
    """Whose signatures a release needs; None asks for none."""
    key: str
    """Public key, PEM, that the plan is signed with."""


class Approved(Document, frozen=True, kw_only=True):
    """What a person signs: the payload of an approval's envelope."""

    type_: Literal["urn:dentsight:approval:1"] = "urn:dentsight:approval:1"
    """Name and version of this form."""
    report: str
    """Digest of the report that is approved."""
    by: str
    """Who approves, as the rule names them."""


class Approvals(Document, frozen=True, kw_only=True):
    """The reference with a report's approvals."""

    envelopes: Mapping[str, str] = {}
    """sha256 of the signed envelope, by name."""


class Planned(Document, frozen=True, kw_only=True):
    """What `dentsight plan` made."""

    plan: str
    """Its digest."""
    entry: str
    """Its entry of the log, `sequence:sha256`; worth noting elsewhere."""
    content: Plan
    """What it says."""


class ApprovalTold(Document, frozen=True, kw_only=True):
    """What `dentsight approve` did."""

    report: str
    """Digest of the report."""
    by: tuple[str, ...]
    """Everybody who approved it so far."""
    needed: int
    """How many signatures a release needs."""
