"""What every backend is to the assets (`Backend`), and what a scheduler of another machine has to tell (`Scheduler`).

The manifest in the store decides whether work is done; what a scheduler says of a job is a hint, and may be late, wrong
or missing. A scheduler is one file beside this one: five short methods.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import dagster as dg

from dentsight_pipeline.documents.events import Event
from dentsight_pipeline.documents.job import Job, Result
from dentsight_pipeline.errors import ConfigurationError, DentsightError

INTERRUPTIONS = (KeyboardInterrupt, SystemExit, dg.DagsterExecutionInterruptedError)
"""What ends a step because somebody asked for it."""
GPUS_VARIABLE, IMAGE_VARIABLE = "DENTSIGHT_WORKER_GPUS", "DENTSIGHT_WORKER_IMAGE"
Handle = TypeVar("Handle")


@dataclass(frozen=True)
class Task:
    """One job that a step wants done."""

    context: dg.AssetExecutionContext
    """The step: its log, and Pipes."""
    verb: str
    """`fit` or `predict`."""
    job: Job
    """What is to be done; its working folder is the orchestrator's."""
    locks: Path
    """Folder of this machine's GPU locks."""
    listen: Callable[[Event], None]
    """Receives every event once and in order, also those of an earlier attempt that nobody heard."""
    version: str = ""
    """Code version of the asset: another one means other bytes from the same inputs."""

    @property
    def key(self) -> str:
        """The work's name in the store: the same recipe on the same data has the same, on every machine."""
        return f"{self.verb}-{self.job.folder.name}"


class Backend(ABC, Generic[Handle]):
    """Where jobs run."""

    def perform(self, task: Task, adopted: Handle | None = None) -> Result:
        """Do one job to its end, going on with what an earlier start of it left.

        Args:
            task: The job.
            adopted: What `adopt` gave, where whoever chose this backend has asked already.

        Raises:
            DentsightError: The job refused, with its own words, or it was lost too often.
            RetryRequested: It was killed from outside; Dagster takes the step up again, and it resumes.
        """
        handle = adopted or self.adopt(task) or self.submit(task)
        try:
            return self.watch(task, handle)
        except INTERRUPTIONS:
            self.cancel(task, handle)
            raise

    @abstractmethod
    def adopt(self, task: Task) -> Handle | None:
        """The job as an earlier start of this task left it, where it still runs or has ended unheard."""

    @abstractmethod
    def submit(self, task: Task) -> Handle:
        """Start it."""

    @abstractmethod
    def watch(self, task: Task, handle: Handle) -> Result:
        """Hear its events until it has ended."""

    @abstractmethod
    def cancel(self, task: Task, handle: Handle) -> None:
        """Ask it to save its state and to end."""


class Phase(StrEnum):
    """What a scheduler says of a job."""

    WAITING = "waiting"
    """Queued, or being prepared."""
    RUNNING = "running"
    """At work, it believes."""
    GONE = "gone"
    """Ended in whatever way, or unknown to it."""
    HELD = "held"
    """It was to be started again, and that failed: it waits for ever, and another one of the same work may start."""
    STUCK = "stuck"
    """It will never start before a person has mended something."""


@dataclass(frozen=True)
class Look:
    """A scheduler's answer."""

    phase: Phase
    """In our words."""
    words: str
    """In its own, for people."""


class UnreachableError(DentsightError):
    """A scheduler does not answer now; nothing follows from that."""


class Scheduler(Protocol):
    """A cluster or a service that runs a command somewhere; each method raises `UnreachableError` when it is silent."""

    @property
    def name(self) -> str:
        """As `DENTSIGHT_BACKEND` says it."""
        ...

    @property
    def shares_folders(self) -> bool:
        """Whether a folder of this machine can be the store of a worker; else it has to be a bucket."""
        ...

    @property
    def asks_for_gpu(self) -> bool:
        """Whether its settings ask for a GPU."""
        ...

    @property
    def price_per_hour(self) -> float | None:
        """What an hour of a job costs, where it says so."""
        ...

    def submit(self, name: str, command: list[str], folder: Path) -> str:
        """Start a command under a name; gives the scheduler's id.

        Args:
            name: Unique; `find` finds the job by it.
            command: Of the worker.
            folder: The orchestrator's folder of this job, for what the scheduler writes.

        Raises:
            ConfigurationError: It refuses for good (no such partition, expired token, over quota); says what to do.
        """
        ...

    def find(self, name: str) -> str | None:
        """The id of the job with this name, while it is queued or running."""
        ...

    def look(self, job_id: str) -> Look:
        """What it says of a job."""
        ...

    def cancel(self, job_id: str) -> None:
        """End a job; one that has ended is no error."""
        ...

    def output(self, job_id: str, folder: Path) -> str:
        """The end of what the worker printed before it could reach the store; empty when that is not known."""
        ...


def gpus() -> int:
    """GPUs of one job on one node, and so its processes: `DENTSIGHT_WORKER_GPUS`, else 1."""
    given = os.environ.get(GPUS_VARIABLE, "").strip() or "1"
    if not given.isdecimal():
        raise ConfigurationError(f"{GPUS_VARIABLE} is {given!r}. It must be a number of GPUs; 0 for none.")
    return int(given)


def required(variable: str, example: str) -> str:
    """A setting without which a backend cannot work.

    Raises:
        ConfigurationError: It is not set.
    """
    if given := os.environ.get(variable, "").strip():
        return given
    raise ConfigurationError(
        f"{variable} is not set. Set it, e.g. to {example} (docs/operations.md, Beyond one machine)."
    )


def bucket_credentials() -> dict[str, str]:
    """What a worker far away needs to reach the store, from this process's environment: secrets, never in a log."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def worker_command(python: str, store_uri: str, key: str) -> list[str]:
    """What a worker runs."""
    return [python, "-m", "dentsight_pipeline.training", "remote", store_uri, key]
