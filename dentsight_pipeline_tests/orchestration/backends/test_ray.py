"""Ray for real: a head on this machine, its Jobs API, and trainings of some seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dentsight_pipeline import errors
from dentsight_pipeline.orchestration.backends.base import Phase, UnreachableError
from dentsight_pipeline.orchestration.backends.detached import Detached
from dentsight_pipeline.orchestration.backends.ray import ADDRESS_VARIABLE, Ray
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.orchestration.backends.conftest import tiny
from dentsight_pipeline_tests.orchestration.backends.ray_head import Head, ray_head
from dentsight_pipeline_tests.orchestration.backends.tasks import QUICK, fit_task, start, undisturbed, wait_until
from dentsight_pipeline_tests.training.conftest import make_subset


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A running head."""
    with ray_head() as running:
        yield running


def test_a_head_that_does_not_answer_says_nothing_of_a_job() -> None:
    """It is being restarted."""
    with pytest.raises(UnreachableError, match="does not answer"):
        Ray("http://127.0.0.1:9").look("dentsight-1")


def test_without_an_address_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray has no default cluster."""
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)

    with pytest.raises(errors.ConfigurationError, match=f"{ADDRESS_VARIABLE} is not set"):
        Ray.of_environment()


def test_folders_are_shared_with_a_head_on_this_machine_alone() -> None:
    """Of another nobody knows: a bucket is needed."""
    assert Ray("http://127.0.0.1:8265").shares_folders
    assert not Ray("http://head:8265").shares_folders


@pytest.mark.slow
def test_a_job_is_submitted_once_found_and_stopped(head: Head, tmp_path: Path) -> None:
    """The submission's id is the attempt's name."""
    scheduler = head.scheduler
    job = scheduler.submit(
        "dentsight-x-1", [sys.executable, "-c", "print('hello'); import time; time.sleep(60)"], tmp_path
    )
    wait_until(lambda: scheduler.look(job).phase is Phase.RUNNING, 60)

    assert (scheduler.find("dentsight-x-1"), scheduler.find("dentsight-x-2")) == (job, None)
    wait_until(lambda: "hello" in scheduler.output(job, tmp_path), 20)
    scheduler.cancel(job)
    wait_until(lambda: scheduler.look(job).phase is Phase.GONE, 60)
    scheduler.cancel("never")
    with pytest.raises(errors.ConfigurationError, match="already exists"):
        scheduler.submit("dentsight-x-1", ["true"], tmp_path)


@pytest.mark.slow
def test_a_head_killed_in_the_middle_and_started_again_gives_the_same_checkpoint(head: Head, tmp_path: Path) -> None:
    """The new head knows no job; the store knows how far it was."""
    store = open_store(tmp_path / "store")
    subset = make_subset(store, {"train": 12, "valid": 5})
    ordered = fit_task(store, subset, tiny(24, evaluate_every_steps=12), tmp_path)
    waiting = start(Detached(head.scheduler, QUICK), ordered)
    wait_until(lambda: max(ordered.steps, default=0) >= 6, 300, f"step 6; {ordered.log.lines}")
    head.kill()
    time.sleep(1)
    head.start()
    result = waiting.result(600)

    assert ordered.said("Resuming at step")
    assert ordered.log.has("is ordered again")
    assert result.digest == undisturbed(ordered)
