"""`kill -9` of `dentsight run` at a sample of its stages; `kills.py` runs the whole campaign."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline_tests.orchestration.assets.conftest import Home, new_home
from dentsight_pipeline_tests.orchestration.kills import campaign

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Where nothing is killed."""
    return new_home(tmp_path_factory.mktemp("calm"))


@pytest.mark.parametrize(
    ("servers", "stages"),
    [
        (False, ("between jobs", "training steps", "test_predictions")),
        (True, ("start", "trained_checkpoint", "training steps")),
    ],
)
def test_a_run_killed_at_any_moment_is_taken_up_by_the_same_command(
    tmp_path: Path, calm: Home, servers: bool, stages: tuple[str, ...]
) -> None:
    """A dead run once kept the GPU's slot, and every later one waited for it for ever at 100 % of a core.

    The digests are those of a run that nobody disturbed, with the UI's daemon beside it or without.
    """
    lines: list[str] = []

    # By this seed the first training dies after its checkpoint of step 8, the second one before it has any.
    told = campaign(tmp_path, len(stages), seed=10, servers=servers, tell=lines.append, among=stages, calm=calm)

    assert [kill.stage for kill in told.kills] == list(stages), lines
    assert told.orphans == [], lines
    assert told.faults == [], lines
