"""Who a run's worker is, and whether it lives. The campaign with real runs is in `test_crashes.py`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.launcher.base import RunLauncher, WorkerStatus
from dagster._core.test_utils import create_run_for_test

from dentsight_pipeline.documents import codec
from dentsight_pipeline.orchestration import launcher
from dentsight_pipeline.orchestration.launcher import SupervisedRunLauncher
from dentsight_pipeline.orchestration.workers import WORKER_TAG, Worker, here, identity_of, workers

RUN = "5f0d7f0c-6a5e-4b53-9f41-0d6a4d6c0b11"
SLEEP = "import sys, time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance with the settings of this project's dagster.yaml."""
    settings = yaml.safe_load((Path(__file__).resolve().parents[2] / "dagster.yaml").read_text())
    kept = {name: settings[name] for name in ("run_launcher", "run_monitoring", "run_retries", "concurrency")}
    with dg.instance_for_test(overrides=kept) as opened:
        yield opened


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that could be a worker of the run."""
    started = subprocess.Popen([sys.executable, "-c", SLEEP, "execute_run", RUN], stdout=subprocess.PIPE)
    assert started.stdout is not None
    started.stdout.readline()
    yield started
    started.kill()
    started.wait()


def run_with(instance: dg.DagsterInstance, worker: Worker | None) -> dg.DagsterRun:
    """A started run whose tag names a worker."""
    run = create_run_for_test(instance, run_id=RUN, status=dg.DagsterRunStatus.STARTED)
    if worker is not None:
        instance.add_run_tags(run.run_id, {WORKER_TAG: codec.write(worker).decode()})
    return run


GONE_WORKER = Worker(run=RUN, host=here(), boot="before", pid=2**22 - 1, started=0.0)


def changed(worker: Worker, **fields: object) -> Worker:
    """The same worker with other values in some fields."""
    return codec.convert({**codec.plain(worker), **fields}, Worker, "test")


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> WorkerStatus:
    """What run monitoring is told about a run."""
    return instance.run_launcher.check_run_worker_health(run).status


def test_dagster_yaml_names_this_launcher_and_lets_a_crashed_run_be_taken_up_again(
    instance: dg.DagsterInstance,
) -> None:
    """The default launcher has no health check: after a power cut its runs stay STARTED, with the gpu slot."""
    assert isinstance(instance.run_launcher, SupervisedRunLauncher)
    assert instance.run_launcher.supports_check_run_worker_health
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_poll_interval_seconds == 10
    assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 5
    assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 2)
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.global_op_concurrency_default_limit == 1


def test_a_living_worker_is_healthy(instance: dg.DagsterInstance, process: subprocess.Popen[bytes]) -> None:
    """A healthy run that is taken for dead would be trained twice at once."""
    run = run_with(instance, identity_of(process.pid, RUN))

    assert status(instance, run) == WorkerStatus.RUNNING


def test_a_killed_worker_is_noticed_also_while_it_is_a_zombie(
    instance: dg.DagsterInstance, process: subprocess.Popen[bytes]
) -> None:
    """Its parent may never ask for its exit status; the process table still lists it then."""
    run = run_with(instance, identity_of(process.pid, RUN))
    process.kill()
    deadline = time.monotonic() + 10
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)

    assert status(instance, run) == WorkerStatus.FAILED


@pytest.mark.parametrize(("field", "value"), [("boot", "another boot"), ("started", 1.0)])
def test_another_process_with_the_same_pid_is_not_the_worker(
    instance: dg.DagsterInstance, process: subprocess.Popen[bytes], field: str, value: object
) -> None:
    """After a power cut the pids start anew, and some other program has the worker's."""
    identity = identity_of(process.pid, RUN)
    assert identity is not None
    run = run_with(instance, changed(identity, **{field: value}))

    assert status(instance, run) == WorkerStatus.FAILED


def test_a_worker_on_another_host_is_neither_failed_nor_cancelled_from_here(
    instance: dg.DagsterInstance, process: subprocess.Popen[bytes]
) -> None:
    """Two machines may share one database: its pid means nothing here, and its training may be in full swing."""
    run = run_with(instance, changed(GONE_WORKER, host="gpu-7 0123abcd"))

    assert status(instance, run) == WorkerStatus.RUNNING
    assert not instance.run_launcher.terminate(run.run_id)


def test_two_processes_never_have_the_same_identity(process: subprocess.Popen[bytes]) -> None:
    """Pid numbers come round again within hours on a busy machine; the start time does not."""
    mine, theirs = identity_of(psutil.Process().pid, RUN), identity_of(process.pid, RUN)
    assert mine is not None
    assert theirs is not None

    assert mine.started < theirs.started
    assert identity_of(process.pid, RUN) == theirs


def test_a_worker_whose_launcher_was_killed_before_it_wrote_the_tag_is_found(
    instance: dg.DagsterInstance, process: subprocess.Popen[bytes]
) -> None:
    """The daemon may die between starting a worker and saying so."""
    run = run_with(instance, None)

    assert status(instance, run) == WorkerStatus.RUNNING
    assert workers(RUN) == [process.pid]


def test_a_retried_run_does_not_trust_the_tag_of_its_predecessor(
    instance: dg.DagsterInstance, process: subprocess.Popen[bytes]
) -> None:
    """Dagster copies the tags of a run to its retry, the dead worker's identity among them."""
    run = run_with(instance, changed(GONE_WORKER, run="another"))

    assert status(instance, run) == WorkerStatus.RUNNING


def test_cancelling_a_run_whose_worker_has_gone_ends_it(instance: dg.DagsterInstance) -> None:
    """Otherwise it hangs in CANCELING until a time-out."""
    run = run_with(instance, GONE_WORKER)

    assert instance.run_launcher.terminate(run.run_id)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status == dg.DagsterRunStatus.CANCELED


def test_a_worker_that_ignores_a_cancel_is_killed(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hung worker keeps the run in CANCELING and the pool's slot."""
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    stubborn = subprocess.Popen([sys.executable, "-c", program, "execute_run", RUN], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    monkeypatch.setattr(launcher, "KILL_AFTER_SECONDS", 0.5)
    run = run_with(instance, identity_of(stubborn.pid, RUN))

    assert instance.run_launcher.terminate(run.run_id)
    assert stubborn.wait(20) == -9


def test_the_private_parts_of_dagster_that_this_rests_on_are_there() -> None:
    """They are no contract: an upgrade that changes them has to fail here, and not in a power cut."""
    from dagster._grpc.types import ExecuteRunArgs

    assert dg.__version__.startswith("1.13.")
    assert {"launch_run", "terminate", "check_run_worker_health", "get_run_worker_debug_info"} <= set(dir(RunLauncher))
    assert {"job_origin", "run_id", "instance_ref", "set_exit_code_on_failure"} <= set(ExecuteRunArgs.__annotations__)
    shown = subprocess.run(
        [sys.executable, "-m", "dagster", "api", "execute_run", "--help"], capture_output=True, text=True, check=True
    )
    assert "INPUT_JSON" in shown.stdout
