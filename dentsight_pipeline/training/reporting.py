"""What a training process tells the outside while it runs: one JSON line for each event.

Events go to `workdir/events.jsonl`; under Dagster (the environment variable DAGSTER_PIPES_CONTEXT is set) they also go
through Dagster Pipes, as log lines and as custom messages with the same content. Nothing here decides anything.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

PROGRESS_INTERVAL_S = 3.0
"""Progress events of one stage come at most this often, except the first and the last."""


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
        self._path = None if workdir is None else workdir / "events.jsonl"
        self._echo, self._interval_s = echo, interval_s
        self._last: dict[str, float] = {}
        self._stack = ExitStack()
        self._pipes: Any = None

    def __enter__(self) -> Reporter:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if os.environ.get("DAGSTER_PIPES_CONTEXT"):
                from dagster_pipes import open_dagster_pipes

                self._pipes = self._stack.enter_context(open_dagster_pipes())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        self._pipes = None

    def progress(self, stage: str, step: int, steps: int, **numbers: float | int | str | None) -> None:
        """How far a stage is.

        Args:
            stage: What is being done, e.g. `cache`, `train`, `validate`, `predict`.
            step: Units done, from 0.
            steps: Units in all.
            numbers: Whatever helps a person: epoch, loss, images_per_s, seconds_left.
        """
        now = time.monotonic()
        if 0 < step < steps and now - self._last.get(stage, float("-inf")) < self._interval_s:
            return
        self._last[stage] = now
        known = {name: value for name, value in numbers.items() if value is not None}
        text = ", ".join(f"{name} {_round(value)}" for name, value in known.items() if name != "seconds_left")
        left = known.get("seconds_left")
        tail = f", {_duration(float(left))} left" if left is not None else ""
        self._emit(
            {"event": "progress", "stage": stage, "step": step, "steps": steps, **known},
            f"{stage} {step}/{steps}{', ' + text if text else ''}{tail}",
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Curves: numbers by name at an optimiser step."""
        text = ", ".join(f"{name} {_round(value)}" for name, value in values.items())
        self._emit({"event": "metrics", "step": step, "values": dict(values)}, f"step {step}: {text}", log=False)

    def health(self, step: int, reading: Mapping[str, Any]) -> None:
        """A reading of the class heads (see `health.py`) at an optimiser step."""
        self._emit({"event": "health", "step": step, "reading": dict(reading)}, f"step {step}: head health", log=False)

    def message(self, text: str) -> None:
        """A sentence for a person."""
        self._emit({"event": "message", "text": text}, text)

    def _emit(self, event: dict[str, Any], text: str, *, log: bool = True) -> None:
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**event, "time": time.time()}, allow_nan=True) + "\n")
        if self._echo is not None and log:
            self._echo.write(text + "\n")
            self._echo.flush()
        if self._pipes is not None:
            if log:
                self._pipes.log.info(text)
            self._pipes.report_custom_message(event)


def read_events(workdir: Path) -> list[dict[str, Any]]:
    """All events that a training process has written so far; a last line that is still being written is left out."""
    path = workdir / "events.jsonl"
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines() if line]


def _round(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
