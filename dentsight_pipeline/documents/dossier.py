"""What a dossier says of a release: Annex IV point by point, each with the digests that show it, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dentsight_pipeline.documents.codec import Document

DOSSIER, PAGE, BOM, PROVENANCE, ENVELOPE = (
    "dossier.json",
    "dossier.html",
    "bom.cdx.json",
    "provenance.slsa.json",
    "provenance.dsse.json",
)


class Cited(Document, frozen=True, kw_only=True):
    """One manifest, object or record that shows what is said."""

    kind: str
    """The manifest's kind, `object` or `record`."""
    name: str
    """A file's path, or the asset."""
    digest: str
    """Its sha256."""
    key: str
    """Where its bytes are in the store."""


class Point(Document, frozen=True, kw_only=True):
    """One thing that Annex IV asks for."""

    id: str
    """E.g. `2(d)`; several things under one letter share it."""
    asks: str
    """What it asks for, in its words."""
    says: str | None
    """What the release's bytes show; None where they show nothing: it is then not evidenced."""
    evidence: tuple[Cited, ...] = ()
    """What shows it; never empty where something is said."""


class Section(Document, frozen=True, kw_only=True):
    """One of the nine points of Annex IV."""

    number: int
    """1 to 9."""
    title: str
    """In its words."""
    points: tuple[Point, ...]
    """What it asks for."""


class LicenceLine(Document, frozen=True, kw_only=True):
    """The licence of one thing that the model was made from."""

    what: str
    """Data or weights, by name."""
    licence: str
    """As it was found; `unknown` where nobody says."""
    allows: tuple[str, ...] | None
    """Uses that it allows; None = unknown, so none."""


class Completeness(Document, frozen=True, kw_only=True):
    """How much of something is there."""

    present: int
    """What is there."""
    of: int
    """What could be."""


class Dossier(Document, frozen=True, kw_only=True, rename={"schema_": "schema"}):
    """`dossier.json`."""

    schema_: Literal["dentsight-dossier/1"] = "dentsight-dossier/1"
    """Name and version of this form."""
    release: str
    """Digest of the release."""
    title: str
    """What is released."""
    verdict: str
    """Outcome under its policy."""
    never_for_xrays: bool
    """Whether policy or corpus forbid any use on X-rays."""
    log_head: str
    """The log's newest entry when the release was signed, `sequence:sha256`."""
    evidenced: int
    """Points that bytes show."""
    points: int
    """All points."""
    sections: tuple[Section, ...]
    """Annex IV."""
    licences: tuple[LicenceLine, ...]
    """The chain of licences."""
    licence_evidence: Cited
    """What shows it."""
    bom: Mapping[str, Completeness]
    """Of the bill of materials: components with a hash, with a licence."""
    files: Mapping[str, str]
    """sha256 of what lies beside this file, by name."""


class Written(Document, frozen=True, kw_only=True):
    """What `dentsight dossier` wrote."""

    release: str
    """Digest of the release."""
    path: str
    """The page."""
    evidenced: int
    """Points that bytes show."""
    points: int
    """All points."""
    statements: tuple[Point, ...]
    """All points, with what is said and what shows it."""
    files: tuple[str, ...]
    """Everything that was written."""


class DossierChecked(Document, frozen=True, kw_only=True):
    """What `dentsight dossier --check` found."""

    release: str
    """Digest of the release."""
    intact: bool
    """Whether there are no findings."""
    findings: tuple[str, ...]
    """What is wrong, one sentence each."""
