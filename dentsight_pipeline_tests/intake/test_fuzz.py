"""A sample of the campaign in `fuzz.py`; the whole of it is in docs/log.md."""

from __future__ import annotations

import pytest

from dentsight_pipeline_tests.intake.fuzz import UNFAIR, campaign


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_a_spoilt_export_is_read_or_refused_in_words(count: int) -> None:
    """A traceback or a hang leaves its owner without the file and the record that are to be mended."""
    bad = [outcome for outcome in campaign(count, 7, semantic=False) if outcome.result in UNFAIR]

    assert bad == []


@pytest.mark.parametrize("count", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_a_fault_of_meaning_is_stopped_or_flagged_before_training(count: int) -> None:
    """Every record is well-formed, and a model would be trained on boxes or numbers that mean something else."""
    outcomes = campaign(count, 0, semantic=True)
    accepted = [outcome for outcome in outcomes if outcome.result not in ("refused", "flagged")]

    assert len(accepted) <= 0.05 * count, accepted
