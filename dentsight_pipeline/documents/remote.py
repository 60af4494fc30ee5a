"""What an orchestrator and a worker elsewhere tell each other through the store (`store/mailbox.py`).

No document holds a time: the clocks of two machines are never compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.job import Digest, Failure, FitJob, Hardware, PredictJob, Result

Number = Annotated[int, Meta(ge=0)]


class OrderHead(msgspec.Struct, frozen=True, kw_only=True):
    """What an order of every release says; the rest is read only by a worker of the same one."""

    digest: Digest
    """Of the work: two orders of one digest give the same product."""
    versions: Mapping[str, str]
    """Of the code and the packages that decide the numbers; the worker refuses where its own differ."""


class Order(Document, frozen=True, kw_only=True, omit_defaults=True):
    """`order.json`: what a worker is to do."""

    digest: Digest
    """As in `OrderHead`."""
    verb: str
    """`fit`, `predict`, or `probe` for the doctor's question."""
    versions: Mapping[str, str]
    """As in `OrderHead`."""
    fit: FitJob | None = None
    """The training; its folders are the worker's to choose."""
    predict: PredictJob | None = None
    """The prediction."""
    processes: Annotated[int, Meta(ge=1)] = 1
    """Processes of one node, one a GPU."""
    interval_s: Annotated[float, Meta(gt=0)] = 5.0
    """Seconds between two words of the worker."""


class Note(Document, frozen=True, kw_only=True):
    """`note.json`: who was asked to do it; written before anybody waits."""

    order: Digest
    """The work."""
    attempt: Annotated[int, Meta(ge=1)]
    """Submissions so far; part of the job's name at the backend."""
    backend: str
    """`slurm`, `ray`, …"""
    job_id: str | None
    """What the backend calls it; None between the intention and the submission."""
    step: Number = 0
    """What the saved state had reached when it was submitted."""
    failures: Number = 0
    """Attempts in a row that ended without a step more."""


class Beat(Document, frozen=True, kw_only=True):
    """`beat.json`: the worker lives, and this is what it has sent. Who wrote it last is the one that works."""

    token: str
    """Of this worker; one that finds another's here has been replaced, and ends."""
    count: Number = 0
    """One more each time."""
    events: Number = 0
    """Pieces of events sent, over all workers."""
    output: Number = 0
    """Pieces of output sent, over all workers."""
    host: str = ""
    """Where it runs, for people."""


class State(Document, frozen=True, kw_only=True):
    """`state.json`: the newest resumable checkpoint; its files are `state/<sha256>`."""

    step: Number
    """Optimiser steps taken."""
    files: Mapping[str, Digest]
    """Digest by name."""


class Probe(Document, frozen=True, kw_only=True):
    """What the worker of a `probe` found."""

    host: str
    """Its name."""
    hardware: Hardware
    """With its GPUs."""
    versions: Mapping[str, str]
    """As in the order."""


class End(Document, frozen=True, kw_only=True, omit_defaults=True):
    """`end.json`: how the work ended; a worker that was stopped or died leaves none."""

    order: Digest
    """The work."""
    result: Result | None = None
    """What it published."""
    failure: Failure | None = None
    """Or why it refused."""
    probe: Probe | None = None
    """Or what a probe found."""


class Heard(Document, frozen=True, kw_only=True):
    """`heard.json` in the orchestrator's folder: what it has copied of the pieces, and how long its files were then."""

    pieces: Mapping[str, Number] = {}
    """By kind: `events`, `output`."""
    sizes: Mapping[str, Number] = {}
    """Bytes by kind."""
