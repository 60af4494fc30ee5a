"""The review of labels: suspects (`review.json`) and what people decide about them (the lines of `decisions.jsonl`)."""

from __future__ import annotations

import hashlib
from typing import Literal

from msgspec import field

from dentsight_pipeline.documents.codec import Document, write
from dentsight_pipeline.documents.teeth import Box

QUEUE_FILE, DECISIONS_FILE, CORRECTIONS_FILE = "review.json", "decisions.jsonl", "corrections.json"
OUTCOMES_FILE = "corrections.json"
"""Of corrected splits: each correction with what became of it."""
SuspectKind = Literal["missed", "spurious", "class", "place"]
Verb = Literal["accept", "reject", "edit", "skip", "undo"]


def corrections_ref(dataset: str) -> str:
    """Where the store notes the corrections that a dataset key's normalisation reads."""
    return f"label-corrections/{dataset}"


class Suspect(Document, frozen=True, kw_only=True):
    """One label that may be wrong, or one that may be lacking."""

    image: str
    """Stored digest of the image."""
    kind: SuspectKind
    """A box is lacking, should not be there, has the wrong name, or lies elsewhere."""
    class_name: str = field(name="class")
    """Of the label; of a missed box what it would be; empty for a whole image without any label."""
    bbox: Box
    """Of the label; of a missed box where it would be. x, y, width, height in px of the stored image."""
    score: float
    """In [0, 1], higher first, comparable between classes; no probability: with a weak model most of the first are
    right labels."""
    why: str
    """What speaks for it, in a sentence."""
    split: str
    """Where the image is."""
    annotation: int | None = None
    """Id of the label in the normalised splits; None where one is lacking."""
    proposed_class: str | None = None
    """A better name, where one is seen."""
    proposed_bbox: Box | None = None
    """A better place, where one is seen."""


class ReviewQueue(Document, frozen=True, kw_only=True, rename={"schema_": "schema"}):
    """All suspects of a dataset, best first."""

    schema_: Literal["dentsight-review/1"] = "dentsight-review/1"
    """Name and version of this form."""
    splits: str
    """Digest of the normalised splits whose labels are looked at."""
    predictions: tuple[str, ...] = ()
    """Digests of the predictions that were asked; none: only what needs no model."""
    classes: tuple[str, ...]
    """What a label may be called."""
    suspects: tuple[Suspect, ...]
    """Best first."""

    @property
    def digest(self) -> str:
        """What decisions refer to."""
        return hashlib.sha256(write(self)).hexdigest()


class Opened(Document, frozen=True, kw_only=True, tag="opened"):
    """The first line: which queue is decided."""

    queue: str
    """Its digest."""
    at: float
    """Seconds since 1970."""


class Decision(Document, frozen=True, kw_only=True, tag="decision"):
    """What a person says of one suspect; the last one counts, and `undo` takes it back."""

    who: str
    """A name typed in, no account."""
    suspect: int
    """Its place in the queue, from 0."""
    verb: Verb | Literal["answer"]
    """`accept`: the label is wrong as proposed; `edit`: it is wrong, and becomes what is said here; `answer`: the whole
    image was decided in another tool, which its own line tells."""
    class_name: str | None = field(name="class", default=None)
    """Of an edit: the name that is right."""
    bbox: Box | None = None
    """Of an edit: where it lies."""
    at: float
    """Seconds since 1970."""


class Correction(Document, frozen=True, kw_only=True):
    """One change of the labels, from a decision."""

    image: str
    """Stored digest of the image."""
    annotation: int | None
    """Id of the label in the normalised splits that were reviewed; None: a new one."""
    before_class: str | None
    """What it was called; None for a new one."""
    before_bbox: Box | None
    """Where it was; None for a new one."""
    after_class: str | None
    """What it is called now; None: it is taken away."""
    after_bbox: Box | None
    """Where it is now; None: it is taken away."""
    who: str
    """Who decided."""
    at: float
    """When, in seconds since 1970."""
    why: str
    """What spoke for it."""


class Answered(Document, frozen=True, kw_only=True, tag="answered"):
    """What came back from another tool about one image; it takes the place of what was decided on it before."""

    who: str
    """A name typed in, no account."""
    image: str
    """Stored digest of the image."""
    open: tuple[int, ...]
    """Suspects on it that nobody has decided, by their place in the queue."""
    corrections: tuple[Correction, ...]
    """All that the answer changes on it."""
    at: float
    """Seconds since 1970."""


ReviewEntry = Opened | Decision | Answered


class Corrections(Document, frozen=True, kw_only=True, rename={"schema_": "schema"}):
    """The content of `corrections.json`."""

    schema_: Literal["dentsight-corrections/1"] = "dentsight-corrections/1"
    """Name and version of this form."""
    splits: str
    """Digest of the normalised splits that were reviewed."""
    queue: str
    """Digest of the queue."""
    corrections: tuple[Correction, ...]
    """In the order of the queue."""
