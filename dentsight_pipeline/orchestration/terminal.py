"""What a person at a terminal sees of a run: assets as they start, progress, sizes, checks that fail."""

import logging
import re
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import dagster as dg

PROGRESS_INTERVAL_S = 15.0
"""Progress lines of one stage come at most this often where they cannot overwrite each other."""
_PROGRESS = re.compile(r"[a-z ]+?:? (?P<done>\d+)(/| of )(?P<total>\d+)\b")
_TOLD = ("images", "annotations", "macro_ap50", "findings")
"""Numbers of a materialisation's metadata that a person wants to see as it is made."""


@dg.logger(config_schema={"assets": dg.Field(dg.Array(str), is_required=False, default_value=[])})
def terminal_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """Prints what a person at a terminal wants to follow: each asset as it starts, and what it says."""
    logger = logging.Logger("dentsight")
    logger.addHandler(_Terminal(context.logger_config["assets"]))
    return logger


class _Terminal(logging.Handler):
    """Lines on stderr: assets as they start, what they say, how large their product is, and every check that fails
    (✗ = error or hard gate, ! = warning or soft gate).

    Progress overwrites itself on a terminal; elsewhere (a file, CI) it is a line every 15 seconds and at each end.
    """

    def __init__(self, assets: Sequence[str], out: TextIO | None = None) -> None:
        super().__init__()
        self._assets = list(assets)
        self._out = out or sys.stderr
        self._overwrites = self._out.isatty()
        self._progress_shown = False
        self._progress_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", None) or {}
        event = meta.get("dagster_event")
        text = meta.get("orig_message") or record.getMessage()
        if event is None:
            if record.levelno < logging.INFO or text.startswith(("[pipes]", "Dependencies for step", "Skipping step")):
                return
            if progress := _PROGRESS.match(text):
                self._show_progress(text, done=progress["done"] in ("0", progress["total"]))
            else:
                self._say(f"      {text}")
        elif event.event_type_value == "STEP_START" and event.step_key in self._assets:
            self._say(f"[{self._assets.index(event.step_key) + 1}/{len(self._assets)}] {event.step_key}")
        elif event.event_type_value == "ASSET_MATERIALIZATION":
            values = event.step_materialization_data.materialization.metadata
            told = [_told(values[name].value, name) for name in _TOLD if name in values]
            if told:
                self._say(f"      {', '.join(told)}")
        elif event.event_type_value == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            if not check.passed:
                mark = "✗" if check.severity.value == "ERROR" else "!"
                self._say(f"      {mark} {check.check_name}: {check.description}")

    def _show_progress(self, text: str, *, done: bool) -> None:
        if self._overwrites:
            self._out.write(f"\r\x1b[2K      {text[: shutil.get_terminal_size().columns - 7]}")
            self._out.flush()
            self._progress_shown = True
        elif done or time.monotonic() - self._progress_at >= PROGRESS_INTERVAL_S:
            self._progress_at = time.monotonic()
            self._say(f"      {text}")

    def _say(self, text: str) -> None:
        self._out.write(("\n" if self._progress_shown else "") + text + "\n")
        self._out.flush()
        self._progress_shown = False


def _told(value: Any, name: str) -> str:
    shown = f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
    return f"{name.replace('_', ' ')} {shown}"
