"""Tasks as a step would give them to a backend, without Dagster: a tiny training, its log, and what was heard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from dentsight_pipeline.documents.events import Event, Message, Metrics
from dentsight_pipeline.documents.job import FitJob, Result
from dentsight_pipeline.orchestration.backends.base import Task
from dentsight_pipeline.orchestration.backends.detached import Detached, Pace
from dentsight_pipeline.orchestration.backends.local import run_alone
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training.recipe import Recipe

QUICK = Pace(hear=0.3, look=0.7, gone=2.0, silent=8.0, tell=3.0, note=4.0)
"""A pace for tests."""


@dataclass
class Log:
    """What a step's log was told."""

    lines: list[str] = field(default_factory=list)

    def info(self, text: str) -> None:
        self.lines.append(text)

    warning = error = info

    def has(self, part: str) -> bool:
        return any(part in line for line in self.lines)


@dataclass
class Context:
    """As much of a step's context as a backend takes."""

    log: Log = field(default_factory=Log)


@dataclass
class Ordered:
    """A task, and what came of it."""

    task: Task
    log: Log
    heard: list[Event]

    @property
    def steps(self) -> list[int]:
        """Optimiser steps whose loss was told."""
        return [event.step for event in self.heard if isinstance(event, Metrics) and "train/loss" in event.values]

    def said(self, part: str) -> bool:
        """Whether the job said so itself."""
        return any(isinstance(event, Message) and part in event.text for event in self.heard)


def fit_task(store: Store, subset: Manifest, recipe: Recipe, folder: Path, **more: Any) -> Ordered:
    """A training as a step would order it."""
    fields = {"threads": 1, "checkpoint_interval_s": 0.0, **more}
    name = f"{subset.digest[:16]}-{recipe.digest[:16]}"
    job = FitJob(
        store_uri=store.uri,
        workdir=str(folder / "fit" / name),
        subset=subset.digest,
        recipe=recipe.model_dump(mode="json"),
        **fields,
    )
    context, heard = Context(), []
    task = Task(context, "fit", job, folder / "locks", heard.append)  # pyright: ignore[reportArgumentType]
    return Ordered(task, context.log, heard)


@dataclass
class Waiting:
    """A backend that works on a task in a thread, as an orchestrator's step does."""

    thread: threading.Thread
    outcome: dict[str, Any]

    def result(self, seconds: float = 120) -> Result:
        """Its result, or its error."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "it still waits"
        if "error" in self.outcome:
            raise self.outcome["error"]
        return self.outcome["result"]


def start(backend: Detached, ordered: Ordered) -> Waiting:
    """Let a backend work."""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["result"] = backend.perform(ordered.task)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return Waiting(thread, outcome)


def wait_until(condition: Callable[[], Any], seconds: float = 60, what: str = "") -> Any:
    """Wait until something holds; gives it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what or condition}")


def undisturbed(ordered: Ordered) -> str:
    """The digest of the same training in one go, on this machine; checkpoints would double its time."""
    folder = ordered.task.job.folder.with_name("undisturbed")
    job = replace(ordered.task.job, workdir=str(folder), checkpoint_interval_s=600.0)
    return run_alone("fit", job, folder / "locks")
