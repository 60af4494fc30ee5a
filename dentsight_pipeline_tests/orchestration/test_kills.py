"""`kill -9` of `dentsight run` at a sample of its stages; `kills.py` runs the whole campaign."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline_tests.orchestration.kills import campaign

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("servers")]


@pytest.mark.parametrize("servers", [False, True])
def test_a_run_killed_at_any_moment_is_taken_up_by_the_same_command(tmp_path: Path, servers: bool) -> None:
    """A dead run once kept the GPU's slot, and every later one waited for it for ever at 100 % of a core.

    The digests are those of a run that nobody disturbed, with the UI's daemon beside it or without.
    """
    lines: list[str] = []

    told = campaign(tmp_path, 4, seed=3, servers=servers, tell=lines.append)

    assert told.orphans == [], lines
    assert told.faults == [], lines
