"""What a release says: the in-toto statement in its folder, its place in the chain, and who is champion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import UNSET, UnsetType, field

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.facts import Cell, Corpus
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.verdict import Outcome, Override

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:dentsight:release:1"


def chain_behind(report: str, inputs: Mapping[str, str]) -> dict[str, str]:
    """The products behind a release, by asset: the report of that digest, and what the report was made from."""
    return {str(Asset.RELEASE_REPORT): report, **inputs}


class ChainLink(Document, frozen=True, kw_only=True):
    """One product that a report rests on."""

    kind: str
    """The kind of its manifest."""
    digest: str
    """Of its manifest."""


class Digest(Document, frozen=True, kw_only=True):
    """in-toto's digest set, with one algorithm."""

    sha256: str
    """Lower-case hex."""


class Named(Document, frozen=True, kw_only=True):
    """A file or product with its digest (in-toto's resource descriptor)."""

    name: str
    """Path in the folder, or asset."""
    digest: Digest
    """Of the file, or of the product's manifest."""


class NamedPolicy(Document, frozen=True, kw_only=True):
    """The policy that the verdict was given under."""

    name: str
    """E.g. `card`."""
    version: int
    """Of its content."""
    digest: Digest
    """Of its canonical form."""


class ReleasedModel(Document, frozen=True, kw_only=True):
    """What the statement repeats of the checkpoint's facts; see `CheckpointFacts`."""

    recipe: str
    """The recipe's name."""
    recipe_digest: str
    """sha256 of the recipe in full."""
    variant: bool
    """Whether a field of it was overridden."""
    overrides: Mapping[str, Cell | tuple[Cell, ...]]
    """Those fields."""
    classes: tuple[str, ...]
    """In the order of the model's labels."""
    image_size: tuple[int, int]
    """Width and height, px."""
    parameters: int
    """Numbers in the model."""
    healthy: bool | None
    """Whether its head still scores."""


class LogPlace(Document, frozen=True, kw_only=True):
    """The newest entry of the store's log at the time of signing: what was logged before cannot be cut unseen."""

    sequence: int
    """From 1."""
    digest: str
    """Of the entry."""


class Predicate(Document, frozen=True, kw_only=True, rename="camel"):
    """What is said of the files."""

    title: str
    """What is released."""
    inputs: tuple[Named, ...]
    """The products behind it, report included."""
    policy: NamedPolicy
    """The gates."""
    verdict: Outcome
    """What they measured."""
    overrides: tuple[Override, ...]
    """Who released in spite of which gate."""
    ground_truth: str | None
    """sha256 of what the model was evaluated on."""
    detections: str | None
    """sha256 of what it found."""
    champion: str | None
    """The release that it was compared with."""
    corpus: Corpus | None
    """What it was trained and measured on."""
    model: ReleasedModel
    """What it is."""
    never_for_xrays: bool
    """Whether policy or corpus forbid any use on X-rays."""
    not_a_medical_device: Literal[True] = True
    """Always."""
    sequence: int
    """1 for the first release, one more for each."""
    previous: str | None
    """Manifest digest of the release before."""
    log: LogPlace | None
    """None where nothing was logged."""
    licences: Mapping[str, str] | UnsetType = UNSET
    """Of everything that the model was made from; absent from releases that nobody asked about it."""
    plan: str | UnsetType = UNSET
    """Digest of the plan that it fulfils; absent without one."""
    approved_by: tuple[str, ...] | UnsetType = UNSET
    """Who approved it, by the names of policy or plan; absent where nobody had to."""


class Statement(Document, frozen=True, kw_only=True):
    """`statement.json`."""

    type_: str = field(default=STATEMENT_TYPE, name="_type")
    """in-toto's form."""
    subject: tuple[Named, ...]
    """Every file but statement and signature."""
    predicate_type: str = field(default=PREDICATE_TYPE, name="predicateType")
    """The form of `predicate`."""
    predicate: Predicate
    """What is said of them."""


class ChainedRelease(Document, frozen=True, kw_only=True):
    """One release's place in the chain of releases."""

    digest: str
    """Of its manifest."""
    sequence: int
    """1 for the first."""
    previous: str | None
    """Digest of the one before."""


class ChampionChange(Document, frozen=True, kw_only=True):
    """One promotion or rollback."""

    release: str | None
    """Digest of the release that became champion; None when a rollback left no champion."""
    by: str
    """Who decided."""
    reason: str
    """Why."""
    action: Literal["promote", "rollback"]
    """What was done."""


class ChampionHistory(Document, frozen=True, kw_only=True):
    """The reference that says who is champion."""

    changes: tuple[ChampionChange, ...] = ()
    """Oldest first."""
