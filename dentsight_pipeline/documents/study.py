"""A reader study and what its readers say: `study.json`, `model.json` and the lines of `readings.jsonl`.

A study is a folder: `study.json` names images by digest, readers and design; nothing in it names a patient. Its digest
is the first line of `readings.jsonl`, so that nothing can be changed once somebody has read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from dentsight_pipeline.documents.codec import Document, write
from dentsight_pipeline.documents.teeth import Box

STUDY_FILE, MODEL_FILE, READINGS_FILE = "study.json", "model.json", "readings.jsonl"
Arm = Literal["unaided", "aided"]
Name = Annotated[str, Meta(min_length=1, max_length=80)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class StudyImage(Document, frozen=True, kw_only=True):
    """One X-ray of a study."""

    sha256: Digest
    """Of its bytes."""
    file: Annotated[str, Meta(pattern=r"^images/[0-9a-f]{64}\.(jpg|png)$")]
    """Below the study's folder."""
    source: str
    """Its source group: the unit of resampling."""


class Study(Document, frozen=True, kw_only=True, rename={"schema_": "schema"}):
    """What is read, by whom and how."""

    schema_: Literal["dentsight-study/1"] = "dentsight-study/1"
    """Name and version of this form."""
    title: Annotated[str, Meta(min_length=1, max_length=200)]
    """What readers see at the top."""
    readers: Annotated[tuple[Name, ...], Meta(min_length=1)]
    """By the names that they are told; each gets a link."""
    conditions: Annotated[tuple[Name, ...], Meta(min_length=1)]
    """What is marked, in the order of the page."""
    images: Annotated[tuple[StudyImage, ...], Meta(min_length=1)]
    """All of them are read by everybody, each reader in an order of his own."""
    design: Literal["unaided", "crossover"] = "unaided"
    """`crossover`: everybody reads twice, each image once with the model's findings and once without."""
    washout_days: Annotated[float, Meta(ge=0)] = 0.0
    """Between the end of a reader's first session and the start of the second."""
    seed: int = 0
    """Of the orders, together with digest, reader and session."""
    subset: str = ""
    """Digest of the condition subset that the images are test images of; empty: of none here."""
    predictions: str = ""
    """Digest of the model's predictions behind `model.json`; empty without a model, or of none here."""
    model_sha256: str = ""
    """Of `model.json`; empty without a model."""

    @property
    def digest(self) -> str:
        """What is registered."""
        return hashlib.sha256(write(self)).hexdigest()

    @property
    def sessions(self) -> int:
        """How often each reader reads each image."""
        return 2 if self.design == "crossover" else 1


class ModelFinding(Document, frozen=True, kw_only=True):
    """A finding of the model."""

    condition: str
    """A condition of the study."""
    teeth: tuple[str, ...]
    """FDI; none where it fits no tooth."""
    bbox_xywh_px: Box
    """Where."""
    score: float
    """Its score."""


ModelFindings = Mapping[str, tuple[ModelFinding, ...]]
"""The content of `model.json`: by digest of the image; an image that is not named was not predicted."""


class Registered(Document, frozen=True, kw_only=True, tag="registered"):
    """The first line: what was to be read, before anybody read."""

    study: str
    """Digest of the study."""
    at: float
    """Seconds since 1970."""


class Marked(Document, frozen=True, kw_only=True, tag="marked"):
    """A reader changed one tooth × condition; the last one counts."""

    reader: str
    """Who."""
    session: int
    """From 0."""
    image: str
    """Digest of the image."""
    tooth: str
    """FDI."""
    condition: str
    """Of the study."""
    present: bool
    """What he says now."""
    bbox_xywh_px: Box | None = None
    """Where, if he drew it."""
    at: float
    """Seconds since 1970."""


class Finished(Document, frozen=True, kw_only=True, tag="finished"):
    """A reader is done with an image; nothing of it changes any more."""

    reader: str
    """Who."""
    session: int
    """From 0."""
    image: str
    """Digest of the image."""
    arm: Arm
    """Whether the model's findings were shown."""
    readable: bool
    """False: the image could not be read, and counts for nothing."""
    at: float
    """Seconds since 1970."""


StudyEntry = Registered | Marked | Finished
