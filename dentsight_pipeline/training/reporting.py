"""What a training process tells the outside while it runs: one JSON line for each event.

Events go to `workdir/events.jsonl`; under Dagster (the environment variable DAGSTER_PIPES_CONTEXT is set) they also go
through Dagster Pipes, as log lines and as custom messages with the same content. Nothing here decides anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.events import Event, HealthRead, Message, Metrics, Progress
from dentsight_pipeline.documents.health import Reading

EVENTS = "events.jsonl"
PROGRESS_INTERVAL_S = 3.0
"""Progress events of one stage come at most this often, except the first and the last."""
_SHOWN = ("epoch", "loss", "images_per_s")


class Reporter:
    """Writes events; use it as a context manager.

    Args:
        workdir: Folder of `events.jsonl`, which is appended to; None makes a silent reporter (further processes of a
            distributed training have one).
        echo: Also gets progress and messages as lines for a person, e.g. `sys.stderr`.
        interval_s: Least time between two progress events of one stage.
    """

    def __init__(
        self, workdir: Path | None, *, echo: TextIO | None = None, interval_s: float = PROGRESS_INTERVAL_S
    ) -> None:
        self._path = None if workdir is None else workdir / EVENTS
        self._echo, self._interval_s = echo, interval_s
        self._last: dict[str, float] = {}
        self._stack = ExitStack()
        self._pipes: Any = None

    def __enter__(self) -> Reporter:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _cut_half_line(self._path)
            if os.environ.get("DAGSTER_PIPES_CONTEXT"):
                from dagster_pipes import open_dagster_pipes

                self._pipes = self._stack.enter_context(open_dagster_pipes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        self._pipes = None

    def progress(self, stage: str, step: int, steps: int, **numbers: float | None) -> None:
        """How far a stage is; see `Progress` for the numbers that may go with it."""
        now = time.monotonic()
        if 0 < step < steps and now - self._last.get(stage, float("-inf")) < self._interval_s:
            return
        self._last[stage] = now
        self._emit(Progress(time=time.time(), stage=stage, step=step, steps=steps, **numbers))  # type: ignore[arg-type]

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Curves: numbers by name at an optimiser step."""
        self._emit(Metrics(time=time.time(), step=step, values=dict(values)))

    def health(self, step: int, reading: Reading) -> None:
        """A reading of the class heads (see `health.py`) at an optimiser step."""
        self._emit(HealthRead(time=time.time(), step=step, reading=reading))

    def message(self, text: str) -> None:
        """A sentence for a person."""
        self._emit(Message(time=time.time(), text=text))

    def _emit(self, event: Event) -> None:
        """Writes an event, and its words where a person is to read some."""
        if self._path is None:
            return
        text = in_words(event)
        with self._path.open("ab") as file:
            file.write(codec.write(event) + b"\n")
        if self._echo is not None and text is not None:
            self._echo.write(text + "\n")
            self._echo.flush()
        if self._pipes is not None:
            if text is not None:
                self._pipes.log.info(text)
            self._pipes.report_custom_message(codec.plain(event))


def _cut_half_line(path: Path) -> None:
    """Takes off the line that a power cut or a full disk broke, so that the next event starts one of its own."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def read_events(workdir: Path) -> list[Event]:
    """All events that a training process has written so far; a last line that is still being written is left out.

    Raises:
        DocumentError: A line that is no event.
    """
    path = workdir / EVENTS
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    lines = [line for line in whole.splitlines() if line]
    return [codec.read(line, Event, path) for line in lines]  # pyright: ignore[reportArgumentType] - a union, to msgspec a type


def in_words(event: Event) -> str | None:
    """What a person reads of an event; None for what goes into curves alone."""
    match event:
        case Progress(stage=stage, step=step, steps=steps):
            return f"{stage} {step}/{steps}{_numbers_in_words(event)}"
        case Message(text=text):
            return text
    return None


def _numbers_in_words(event: Progress) -> str:
    known = {name: value for name in _SHOWN if (value := getattr(event, name)) is not None}
    text = "".join(f", {name} {value:.4g}" for name, value in known.items())
    return text if event.seconds_left is None else f"{text}, {_duration(event.seconds_left)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
