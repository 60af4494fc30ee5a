"""What a killed worker leaves behind is taken back, and of nobody else anything. The campaign is in `test_kills.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.auto_run_reexecution import event_log_consumer
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import filter_runs_to_should_retry

from dentsight_pipeline.documents import codec
from dentsight_pipeline.intake.datasets import register_dataset
from dentsight_pipeline.orchestration import executor, recovery
from dentsight_pipeline.orchestration.executor import execute_here, patient_executor
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.workers import WORKER_TAG, Worker, identity_of

DEAD = {"pid": 4_000_000, "started": 1.0}
ELSEWHERE = {"host": "gpu-7 0123abcd"}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance with one slot in each pool."""
    pools = {"concurrency": {"pools": {"granularity": "op", "default_limit": 1}}}
    with dg.instance_for_test(overrides=pools) as opened:
        opened.event_log_storage.initialize_concurrency_limit_to_default("gpu")
        yield opened


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(root=str(tmp_path))


def worker(run_id: str, **changes: object) -> Worker:
    """This process as the worker of a run, but for the changes."""
    me = identity_of(os.getpid(), run_id)
    assert me is not None
    return codec.convert({**codec.plain(me), **changes}, Worker, "test")


def run_of(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, **changes: object) -> str:
    """A run of such a worker that holds the slot."""
    run_id = str(uuid.uuid4())
    tags = {WORKER_TAG: codec.write(worker(run_id, **changes)).decode()}
    create_run_for_test(instance, job_name="experiment", run_id=run_id, status=status, tags=tags)
    instance.event_log_storage.claim_concurrency_slot("gpu", run_id, "trained_checkpoint")
    return run_id


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    """The run's status now."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE),
        (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED),
    ],
)
def test_the_run_of_a_dead_worker_ends_and_its_slot_is_free(
    instance: dg.DagsterInstance, workspace: Workspace, was: dg.DagsterRunStatus, becomes: dg.DagsterRunStatus
) -> None:
    """A run that stays STARTED for ever reads as a training in progress, and its slot stops every later one."""
    run_id = run_of(instance, was, **DEAD)

    ended = recovery.take_back(instance, workspace)

    assert ended == [run_id]
    assert status_of(instance, run_id) == becomes
    assert instance.event_log_storage.get_concurrency_run_ids() == set()


@pytest.mark.parametrize("changes", [{}, ELSEWHERE, {**ELSEWHERE, **DEAD}])
def test_a_living_run_and_one_on_another_host_are_left_alone(
    instance: dg.DagsterInstance, workspace: Workspace, changes: dict[str, object]
) -> None:
    """A run that is wrongly taken for dead would be trained twice at once; a pid says nothing about another host."""
    run_id = run_of(instance, dg.DagsterRunStatus.STARTED, **changes)

    ended = recovery.take_back(instance, workspace)

    assert ended == []
    assert status_of(instance, run_id) == dg.DagsterRunStatus.STARTED
    assert instance.event_log_storage.get_concurrency_run_ids() == {run_id}


def test_the_slot_of_a_run_that_ended_is_freed_when_its_worker_is_gone(instance: dg.DagsterInstance) -> None:
    """Dagster's executor keeps the slot of a run that Ctrl-C ended, and no daemon may be there to free it."""
    run_of(instance, dg.DagsterRunStatus.FAILURE, **DEAD)

    freed = recovery.free_slots(instance)

    assert freed == 1
    assert instance.event_log_storage.get_concurrency_run_ids() == set()


def test_who_holds_a_slot_is_said_with_a_remedy_only_where_nobody_can_tell(instance: dg.DagsterInstance) -> None:
    """ "Waiting" alone leaves a person to guess; a remedy beside a living training would kill it."""
    living = run_of(instance, dg.DagsterRunStatus.STARTED)
    said = recovery.holders(instance, "gpu")
    instance.event_log_storage.free_concurrency_slots_for_run(living)
    far = run_of(instance, dg.DagsterRunStatus.STARTED, **ELSEWHERE)
    said_of_far = recovery.holders(instance, "gpu")

    assert len(said) == len(said_of_far) == 1
    assert said[0].startswith(f"trained_checkpoint of run {living}, since ")
    assert "delete" not in said[0]
    assert "on gpu-7 0123abcd. This machine cannot tell" in said_of_far[0]
    assert f"`dagster run delete {far}`" in said_of_far[0]


def test_deleting_a_run_frees_its_slot_as_the_remedy_promises(instance: dg.DagsterInstance) -> None:
    """The remedy for a host that is gone for good is Dagster's own command; it must do what is said of it."""
    run_id = run_of(instance, dg.DagsterRunStatus.STARTED, **ELSEWHERE)

    instance.delete_run(run_id)
    recovery.free_slots(instance)

    assert instance.event_log_storage.get_concurrency_run_ids() == set()


def one_step_job() -> dg.JobDefinition:
    """A job whose only step needs the slot."""

    @dg.op(pool="gpu")
    def train() -> None:
        return None

    @dg.job(executor_def=patient_executor)
    def experiment() -> None:
        train()

    return experiment


def test_a_step_waits_for_a_living_run_without_burning_a_core_and_says_for_whom(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's own executor takes 100 % of a core meanwhile and says nothing: hours of it beside a training."""
    monkeypatch.setattr(executor, "LOOK_SECONDS", 0.5)
    holder = run_of(instance, dg.DagsterRunStatus.STARTED)
    free = threading.Timer(3, instance.event_log_storage.free_concurrency_slots_for_run, [holder])
    free.start()
    began, cpu, run_id = time.monotonic(), time.process_time(), str(uuid.uuid4())

    result = execute_here(one_step_job(), instance, "", {}, run_id, {})
    waited, spent = time.monotonic() - began, time.process_time() - cpu
    free.join()

    assert result.success
    assert 3 <= waited < 10
    assert spent < waited / 3
    said = f"train waits for pool gpu: held by trained_checkpoint of run {holder}"
    assert sum(said in entry.user_message for entry in instance.all_logs(run_id)) == 1


def test_a_step_takes_the_slot_of_a_run_that_dies_while_it_waits(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dagster dev` without its daemon, or two terminals: nobody but the waiting run is there to see the death."""
    monkeypatch.setattr(executor, "LOOK_SECONDS", 0.2)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    mine = identity_of(process.pid, "")
    assert mine is not None
    holder = run_of(instance, dg.DagsterRunStatus.STARTED, pid=process.pid, started=mine.started)
    threading.Timer(1, process.kill).start()

    result = execute_here(one_step_job(), instance, "", {}, str(uuid.uuid4()), {})
    process.wait()

    assert result.success
    assert status_of(instance, holder) == dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(("changes", "keys"), [(DEAD, []), ({}, ["new-v1"])])
def test_a_partition_that_a_killed_run_added_for_nothing_is_taken_back(
    instance: dg.DagsterInstance, workspace: Workspace, changes: dict[str, object], keys: list[str]
) -> None:
    """Half-known datasets in the grid look like results that are still to come; a living run's stays."""
    killed = recovery.partition_of(instance, workspace, "new-v1", worker("", **changes))
    killed.__enter__()

    recovery.take_back(instance, workspace)

    assert list(instance.get_dynamic_partitions("dataset")) == keys
    killed.__exit__(None, None, None)
    assert list(instance.get_dynamic_partitions("dataset")) == []


def test_a_partition_stays_when_its_run_was_killed_after_the_dataset_was_made(
    instance: dg.DagsterInstance, workspace: Workspace
) -> None:
    """A power cut between the jobs of a cell: the data are whole, and the next run goes on with them."""
    killed = recovery.partition_of(instance, workspace, "new-v1", worker("", **DEAD))
    killed.__enter__()
    register_dataset(workspace.store, "new-v1", "0" * 64, [])

    recovery.take_back(instance, workspace)

    assert list(instance.get_dynamic_partitions("dataset")) == ["new-v1"]
    assert list((workspace.folder / "locks" / "new-partitions").iterdir()) == []
    killed.__exit__(None, None, None)


@pytest.mark.parametrize("left", [b"", b'{"run": "", "ho', b"\0" * 40])
def test_a_note_that_a_power_cut_broke_stops_nobody(
    instance: dg.DagsterInstance, workspace: Workspace, left: bytes
) -> None:
    """A name may reach the disk before its bytes; every later run once refused to start because of such a note."""
    killed = recovery.partition_of(instance, workspace, "new-v1", worker(""))
    killed.__enter__()
    note = workspace.folder / "locks" / "new-partitions" / "new-v1.json"
    note.write_bytes(left)

    recovery.take_back(instance, workspace)

    assert list(instance.get_dynamic_partitions("dataset")) == []
    assert not note.exists()
    killed.__exit__(None, None, None)


def test_a_partition_that_was_there_before_stays(instance: dg.DagsterInstance, workspace: Workspace) -> None:
    """Somebody added it in the UI and has not launched its data job yet."""
    instance.add_dynamic_partitions("dataset", ["theirs-v1"])

    with recovery.partition_of(instance, workspace, "theirs-v1", worker("")):
        pass

    assert list(instance.get_dynamic_partitions("dataset")) == ["theirs-v1"]


class Daemon(event_log_consumer.EventLogConsumerDaemon):
    """Dagster's, up to the runs that it would try again."""

    def __init__(self) -> None:
        super().__init__()
        self.retried: list[str] = []

    @property
    def handle_updated_runs_fns(self):  # as Dagster has it
        """What it does with runs that have ended, without a code location to start them in."""

        def consume(_: object, records: Sequence[RunRecord], __: object) -> Iterator[None]:
            runs = [record.dagster_run for record in records]
            self.retried += [run.run_id for run in filter_runs_to_should_retry(runs, opened.instance)]
            yield

        return [consume]

    def look(self, instance: dg.DagsterInstance) -> None:
        """One iteration."""
        opened.instance = instance
        list(self.run_iteration(opened))


opened: Any = SimpleNamespace()
"""As much of a daemon's workspace as is looked at before a run is started."""


@pytest.mark.parametrize("in_between", [False, True])
def test_a_retry_that_dagsters_daemon_loses_in_the_moment_of_the_failure_is_given_back(
    monkeypatch: pytest.MonkeyPatch, in_between: bool
) -> None:
    """The event is there and the run's status is not yet: the daemon moves on. Seen in a campaign of kills."""
    with dg.instance_for_test(overrides={"run_retries": {"enabled": True, "max_retries": 2}}) as instance:
        daemon, store = Daemon(), instance.run_storage.handle_run_event
        daemon.look(instance)

        def late(*event: Any) -> None:
            if in_between:
                daemon.look(instance)
            store(*event)

        run = create_run_for_test(instance, job_name="experiment", status=dg.DagsterRunStatus.STARTED)
        monkeypatch.setattr(instance.run_storage, "handle_run_event", late)
        instance.report_run_failed(run)
        daemon.look(instance)
        assert daemon.retried == ([] if in_between else [run.run_id])

        assert recovery.give_back_retries(instance, settled=600) == [], "it may be at it"
        assert recovery.give_back_retries(instance, settled=0) == [run.run_id]
        daemon.look(instance)
        assert daemon.retried[-1] == run.run_id

        assert recovery.give_back_retries(instance, settled=0) == [], "once"


def test_a_failed_run_that_a_person_launched_again_is_not_given_back() -> None:
    """It is followed already, by whom does not matter; and one that failed for good is nobody's to retry."""
    with dg.instance_for_test(overrides={"run_retries": {"enabled": True, "max_retries": 2}}) as instance:
        failed = create_run_for_test(instance, job_name="experiment", status=dg.DagsterRunStatus.STARTED)
        for_good = create_run_for_test(
            instance, job_name="experiment", status=dg.DagsterRunStatus.STARTED, tags={"dagster/max_retries": "0"}
        )
        for run in (failed, for_good):
            instance.report_run_failed(run)
        create_run_for_test(
            instance,
            job_name="experiment",
            parent_run_id=failed.run_id,
            root_run_id=failed.run_id,
            tags={"dagster/root_run_id": failed.run_id, "dagster/parent_run_id": failed.run_id},
        )

        assert recovery.give_back_retries(instance, settled=0) == []
