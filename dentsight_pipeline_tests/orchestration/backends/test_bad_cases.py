"""What goes wrong far away: a full disk, clocks that differ, a token that expires. A clear line each, nothing lost."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dentsight_pipeline import errors
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.events import Metrics
from dentsight_pipeline.documents.remote import End
from dentsight_pipeline.orchestration.backends.base import Look
from dentsight_pipeline.orchestration.backends.detached import Detached, mailbox
from dentsight_pipeline.store.mailbox import Mailbox, Sender
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.orchestration.backends import test_detached
from dentsight_pipeline_tests.orchestration.backends.conftest import tiny
from dentsight_pipeline_tests.orchestration.backends.tasks import (
    QUICK,
    Ordered,
    fit_task,
    start,
    undisturbed,
    wait_until,
)
from dentsight_pipeline_tests.orchestration.backends.test_detached import FAST, FakeScheduler, finish
from dentsight_pipeline_tests.orchestration.backends.test_probe import Here
from dentsight_pipeline_tests.training.conftest import make_subset

store, ordered = test_detached.store, test_detached.ordered
WITHOUT_A_CLOCK = (
    "documents/remote.py",
    "store/mailbox.py",
    "training/worker.py",
    "orchestration/backends/detached.py",
    "orchestration/backends/choice.py",
)
HOUR = 3600.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that holds a worker's images and its first checkpoint, but not the next ones."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_on_the_worker_ends_the_step_with_its_name_and_the_state_is_kept(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's files fill the node; with room again the same training goes on to the same checkpoint."""
    monkeypatch.setenv("DENTSIGHT_SCRATCH", str(small_disk))
    data = open_store(tmp_path / "store")
    task = fit_task(data, make_subset(data, {"train": 8, "valid": 3}), tiny(8), tmp_path)
    patient = dataclasses.replace(QUICK, silent=60.0)  # the worker rests for 10 s before it tries again

    with pytest.raises(errors.StorageError, match=f"(?s){small_disk}.*(disk is full|No space left)"):
        start(Detached(Here(), patient), task).result(300)
    state = mailbox(task.task).state()
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    result = start(Detached(Here(), patient), task).result(300)

    assert state is None or task.said(f"Resuming at step {state.step}")
    assert result.digest == undisturbed(task)


def test_no_code_between_two_machines_asks_what_time_it_is(project_root: Path) -> None:
    """The clock of a node is wrong by an hour sooner or later; seconds since something are counted on one machine."""
    found = [
        f"{name}:{node.lineno}"
        for name in WITHOUT_A_CLOCK
        for node in ast.walk(ast.parse((project_root / "dentsight_pipeline" / name).read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "datetime.now", "datetime.utcnow")
    ]

    assert found == []


@pytest.mark.parametrize("wrong", [-HOUR, HOUR])
def test_a_worker_whose_clock_is_wrong_by_an_hour_is_heard_like_any_other(
    ordered: Ordered, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    """Its beats count, not their times; and this machine's own clock is set right in the middle."""
    now, set_right = time.time, threading.Event()
    monkeypatch.setattr(time, "time", lambda: now() + (0 if set_right.is_set() else 10 * wrong))

    def work(box: Mailbox, _: threading.Event) -> None:
        order = box.order()
        assert order is not None and order.fit is not None
        events = Path(order.fit.workdir) / "worker.jsonl"
        sender = Sender(box, {"events": events}, "there")
        for step in (1, 2, 3):
            with events.open("ab") as lines:
                lines.write(codec.write(Metrics(time=now() + wrong, step=step, values={"train/loss": 1.0})) + b"\n")
            sender.send()
            time.sleep(0.3)
        set_right.set()
        finish(box, 0)

    scheduler = FakeScheduler(work)

    assert start(Detached(scheduler, FAST), ordered).result(20).digest
    assert ordered.steps == [1, 2, 3]
    assert (len(scheduler.submitted), scheduler.cancelled) == (1, [])


def test_a_token_that_expires_while_a_job_runs_ends_the_step_and_not_the_job(ordered: Ordered) -> None:
    """With a new token the next start hears what it missed; nothing is ordered or paid twice."""
    release, expired = threading.Event(), threading.Event()

    class Strict(FakeScheduler):
        def look(self, job_id: str) -> Look:
            if expired.is_set():
                raise errors.ConfigurationError("401: set HF_TOKEN to a new one")
            return super().look(job_id)

    scheduler = Strict(lambda box, _: finish(box, 3, lambda: not release.is_set()))
    waiting = start(Detached(scheduler, FAST), ordered)
    wait_until(lambda: ordered.steps, 10)
    expired.set()
    with pytest.raises(errors.ConfigurationError, match="set HF_TOKEN to a new one"):
        waiting.result(20)
    expired.clear()
    threading.Timer(0.3, release.set).start()

    assert start(Detached(scheduler, FAST), ordered).result(20).digest
    assert (len(scheduler.submitted), scheduler.cancelled) == (1, [])


def test_a_worker_that_cannot_write_at_all_says_so_in_the_store(
    ordered: Ordered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without a free byte: even the job's own file cannot be written; the reason still comes back."""
    from dentsight_pipeline.training import worker

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setenv("DENTSIGHT_SCRATCH", str(tmp_path / "scratch"))
    box = mailbox(ordered.task)
    box.give(test_detached.detached.order_of(ordered.task, 1, 0.1))
    folder = worker._scratch(box.key, 0)
    monkeypatch.setattr(Path, "write_bytes", full)

    end: End | None = worker.Worker(box, folder, 0, None)._attempt()

    assert end is not None and end.failure is not None
    assert "No space left on device" in end.failure.message and str(folder) in end.failure.message
