"""What a dead worker leaves behind (a run that never ends, a pool's slot, a new partition) is taken back here.

Servers do the same for their runs by run monitoring. But nobody looks on where a `dentsight run` was killed, and the
next one would wait for the dead one's slot for ever. Nothing of a worker on another host is ever touched: this machine
cannot tell whether it lives, so it says who holds what, and what a person can do.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, WILL_RETRY_TAG

from dentsight_pipeline.documents import codec
from dentsight_pipeline.errors import DocumentError
from dentsight_pipeline.intake.datasets import recall_dataset
from dentsight_pipeline.orchestration.partitions import datasets
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.workers import State, Worker, lives, recorded, state_of
from dentsight_pipeline.store.files import write_whole

GONE = "The process that worked on this run is gone (killed, out of memory, or a power cut)."
GIVEN_BACK_TAG = "dentsight/retry_given_back"
_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def take_back(instance: dg.DagsterInstance, workspace: Workspace) -> list[str]:
    """End the runs of dead workers, free their slots, and remove the partitions that they added for nothing.

    Returns:
        The ids of the runs that were ended.
    """
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)) if state_of(run) is State.DEAD]
    for run in dead:
        _end(instance, run)
    free_slots(instance)
    for note in sorted(_notes(workspace).glob("*.json")):
        if not _owner_lives(note):
            _take_back_partition(instance, workspace, note)
    return [run.run_id for run in dead]


def free_slots(instance: dg.DagsterInstance) -> int:
    """Free the slots of runs that have ended or whose worker is dead; the latter are ended. Gives how many runs."""
    freed = 0
    for run_id in instance.event_log_storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            if run is None or state_of(run) is not State.ALIVE:
                instance.event_log_storage.free_concurrency_slots_for_run(run_id)
                freed += 1
        elif state_of(run) is State.DEAD:
            _end(instance, run)
            freed += 1
    return freed


def give_back_retries(instance: dg.DagsterInstance, settled: float = 30.0) -> list[str]:
    """Hand runs that were to be tried again, and were forgotten, to Dagster's daemon once more.

    Dagster stores the event of a failure before the run's status and tags. A daemon that looks between the two sees no
    failed run, and never comes back to it (of dagster#33741, 1.13.27 mends another half). Its cursor is set back to
    before the event; a run that it has tried again already it leaves alone.

    Args:
        instance: Where the runs are.
        settled: Seconds since the failure, in which the daemon would have come by itself.

    Returns:
        The ids of the forgotten runs, of the last day; each once.
    """
    now = datetime.now(UTC)
    failed = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE],
        tags={WILL_RETRY_TAG: "true"},
        updated_after=now - timedelta(days=1),
        updated_before=now - timedelta(seconds=settled),
    )
    forgotten = {run.run_id for run in instance.get_runs(failed) if not _is_followed(instance, run)}
    if forgotten:
        from dagster._daemon.auto_run_reexecution.event_log_consumer import _create_cursor_key  # doubles start-up

        kind = dg.DagsterEventType.RUN_FAILURE
        events = instance.event_log_storage.get_logs_for_all_runs_by_log_id(dagster_event_type={kind})
        first = min((number for number, event in events.items() if event.run_id in forgotten), default=0)
        instance.daemon_cursor_storage.set_cursor_values({_create_cursor_key(kind): str(first - 1)})
    for run_id in forgotten:
        instance.add_run_tags(run_id, {GIVEN_BACK_TAG: "true"})
    return sorted(forgotten)


def _is_followed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether it was tried again, by the daemon or by a person, or was given back before."""
    group = instance.get_run_group(run.run_id)
    children = [one for one in (group or ("", ()))[1] if one.parent_run_id == run.run_id]
    return bool(children) or not {AUTO_RETRY_RUN_ID_TAG, GIVEN_BACK_TAG}.isdisjoint(run.tags)


def holders(instance: dg.DagsterInstance, pool: str) -> list[str]:
    """Who holds a pool's slots: one sentence each, with a remedy where this machine cannot tell whether it lives."""
    found = instance.event_log_storage.get_concurrency_info(pool)
    assigned = [step for step in found.pending_steps if step.assigned_timestamp is not None]
    steps = {slot.run_id: slot.step_key for slot in (*assigned, *found.claimed_slots)}
    records = {run_id: instance.get_run_record_by_id(run_id) for run_id in steps}
    return [_holder(record, steps[run_id]) for run_id, record in records.items() if record is not None]


def _holder(record: RunRecord, step: str) -> str:
    run, worker = record.dagster_run, recorded(record.dagster_run)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.start_time or record.create_timestamp.timestamp()))
    where = f"process {worker.pid} on {worker.host}" if worker else "a process that is not recorded"
    held = f"{step} of run {run.run_id}, since {since}, {where}"
    if state_of(run) is State.ALIVE:
        return f"{held}."
    return (
        f"{held}. This machine cannot tell whether that process lives. If it is gone for good, free the slot with "
        f"`dagster run delete {run.run_id}`."
    )


def _end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Fail a dead worker's run, unless somebody was quicker, and free its slots."""
    now = instance.get_run_by_id(run.run_id)
    if now is not None and not now.is_finished:
        canceling = now.status == dg.DagsterRunStatus.CANCELING
        (instance.report_run_canceled if canceling else instance.report_run_failed)(now, GONE)
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


@contextmanager
def partition_of(
    instance: dg.DagsterInstance, workspace: Workspace, dataset: str, owner: Worker | None
) -> Iterator[None]:
    """The dataset's partition while a cell runs; a new one is taken back when its export was refused.

    A note on disk, written before the partition is added, lets the next run take it back where this process is killed.
    """
    note = _notes(workspace) / f"{dataset}.json"
    if owner is not None and not instance.has_dynamic_partition(str(datasets.name), dataset):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_whole(note, codec.write(owner))
    instance.add_dynamic_partitions(str(datasets.name), [dataset])
    try:
        yield
    finally:
        if note.exists():
            _take_back_partition(instance, workspace, note)


def _owner_lives(note: Path) -> bool:
    """Whether the process that wrote a note still runs; a note that a power cut broke is of one that does not."""
    try:
        return lives(codec.read(note.read_bytes(), Worker, note))
    except (DocumentError, FileNotFoundError):
        return False


def _take_back_partition(instance: dg.DagsterInstance, workspace: Workspace, note: Path) -> None:
    """Remove a partition that was added for an export which nothing came of."""
    if recall_dataset(workspace.store, note.stem) is None:
        instance.delete_dynamic_partition(str(datasets.name), note.stem)
    note.unlink(missing_ok=True)


def _notes(workspace: Workspace) -> Path:
    return workspace.folder / "locks" / "new-partitions"
