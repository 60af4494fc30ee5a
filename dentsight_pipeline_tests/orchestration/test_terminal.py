"""What `dentsight run` prints while it works."""

from __future__ import annotations

import io
import logging
import sys

import dagster as dg
import pytest

from dentsight_pipeline.orchestration import terminal


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def said(*texts: str, out: io.StringIO) -> str:
    """What the terminal shows of some log messages."""
    handler = terminal._Terminal([], out)
    for text in texts:
        handler.emit(logging.LogRecord("dentsight", logging.INFO, "", 0, text, None, None))
    return out.getvalue()


def test_a_failed_check_and_a_products_size_are_told_at_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test set that leaked must be seen by whoever watches the run, not only by whoever opens the Dagster UI.

    The stream is our own: loggers that Dagster keeps would go on writing into a fixture's file that is closed by then.
    """
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())

    @dg.asset
    def splits() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"images": 1269})

    @dg.asset_check(asset=splits)
    def split_is_clean() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="24 of 30 leaked.")

    @dg.asset_check(asset=splits)
    def boxes_are_valid() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True, description="No problems.")

    definitions = dg.Definitions(
        [splits],
        asset_checks=[split_is_clean, boxes_are_valid],
        jobs=[dg.define_asset_job("job", [splits])],
        loggers={"terminal": terminal.terminal_logger},
    )

    definitions.resolve_job_def("job").execute_in_process(
        run_config={"loggers": {"terminal": {"config": {"assets": ["splits"]}}}}
    )

    shown = screen.getvalue()
    assert "[1/1] splits" in shown
    assert "      images 1,269" in shown
    assert "      ! split_is_clean: 24 of 30 leaked." in shown
    assert "boxes_are_valid" not in shown


def test_progress_overwrites_itself_on_a_terminal() -> None:
    """Eighty lines of progress would push everything that matters off the screen."""
    shown = said("train 6/500, loss 38.9", "train 12/500, loss 34.9", "Published checkpoint", out=Screen())

    assert shown.count("\n") == 2
    assert shown.split("\r")[-1].endswith("train 12/500, loss 34.9\nPublished checkpoint\n".replace("\nP", "\n      P"))


def test_progress_in_a_file_is_thinned_out_but_keeps_both_ends() -> None:
    """A log keeps what a person reads afterwards."""
    lines = said(
        "train 0/500", "train 6/500", "train 12/500", "train 500/500", "drawing phantoms: 164 of 400", out=io.StringIO()
    )

    assert [line.strip() for line in lines.splitlines()] == ["train 0/500", "train 500/500"]


def test_messages_that_are_no_progress_are_all_kept() -> None:
    """Only progress may be thinned out; a message that is lost cannot be acted upon."""
    texts = ["Resuming at step 6 of 500.", "raw_export: unchanged, reused 704c84c379c2", "28 of 30 test images leaked"]

    lines = said(*texts, out=io.StringIO()).splitlines()

    assert [line.strip() for line in lines] == texts
