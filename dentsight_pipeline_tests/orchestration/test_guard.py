"""The guard against real processes: whatever dies, nothing is left running and no GPU stays locked."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"


@pytest.fixture
def start_guard(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a guard around a Python program; everything still alive at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        program: str, *, grace: float = 1.0, parent: int | None = None, slots: int = 1, width: int = 1, alone: str = ""
    ) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "dentsight_pipeline.orchestration.guard", "--parent", str(parent or os.getpid())),
            *("--locks", str(tmp_path / "locks"), "--grace", str(grace), "--slots", str(slots), "--width", str(width)),
            *(("--alone", str(tmp_path / alone)) if alone else ()),
            *("--", sys.executable, "-c", program),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def child_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The guarded process, once it is up."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return psutil.Process(process.pid).children()[0]


def gone(process: psutil.Process, within_seconds: float = 10.0) -> bool:
    """Whether a process ends in time; a zombie counts as ended."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def is_free(lock: Path) -> bool:
    """Whether nobody holds a GPU lock."""
    with lock.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_the_exit_status_of_the_trainer_comes_through(start_guard: Callable[..., subprocess.Popen[bytes]]) -> None:
    """The asset tells a refusal (2) from a collapsed head (6) by this status alone."""
    assert start_guard("raise SystemExit(6)").wait(30) == 6


def test_a_trainer_killed_by_a_signal_reads_as_128_plus_the_signal(
    start_guard: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """An out-of-memory kill must not look like success or like a refusal."""
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

    assert start_guard(program).wait(30) == 128 + signal.SIGKILL


def test_the_gpu_is_locked_while_the_trainer_runs_and_free_afterwards(
    start_guard: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """A lock that outlives its trainer would stop every later training."""
    guard = start_guard("print('up', flush=True); input()")
    child = child_of(guard)
    held = not is_free(tmp_path / "locks" / "gpu-0.lock")
    child.kill()
    guard.wait(30)

    assert held
    assert is_free(tmp_path / "locks" / "gpu-0.lock")


def test_a_second_training_waits_for_the_gpu_and_says_so(start_guard: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Two trainings on one GPU would run out of memory, or halve each other's speed unnoticed."""
    first = start_guard("print('up', flush=True); import time; time.sleep(60)")
    child = child_of(first)
    second = start_guard("print('up', flush=True)")
    assert second.stderr is not None
    told = second.stderr.readline().decode()
    waited = second.poll() is None
    child.kill()

    assert waited
    assert f"gpu-0 by process {first.pid}" in told
    assert second.wait(30) == 0


def test_the_trainer_dies_when_the_guard_is_killed(
    start_guard: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """`kill -9` of the guard leaves nobody who could clean up: the kernel has to do it."""
    guard = start_guard(STUBBORN)
    child = child_of(guard)

    guard.kill()

    assert gone(child)
    assert is_free(tmp_path / "locks" / "gpu-0.lock")


def test_the_trainer_dies_when_the_step_worker_is_killed(tmp_path: Path) -> None:
    """An orphaned trainer would hold the GPU for hours after its run was marked as failed."""
    program = (
        "import os, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'dentsight_pipeline.orchestration.guard', '--parent', str(os.getpid()),"
        f" '--locks', {str(tmp_path)!r}, '--grace', '1', '--', sys.executable, '-c', {STUBBORN!r}])"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"up\n"
    family = psutil.Process(worker.pid).children(recursive=True)

    worker.kill()
    worker.wait()

    assert len(family) == 2
    assert all(gone(process) for process in family)


@pytest.mark.parametrize("cancel", [signal.SIGTERM, signal.SIGINT])
def test_a_cancel_reaches_the_trainer_as_the_signal_that_it_saves_on(
    start_guard: Callable[..., subprocess.Popen[bytes]], cancel: signal.Signals
) -> None:
    """SIGINT would break a training off in the middle of a step, and its last minute would be lost."""
    program = (
        "import signal, time\n"
        "def save(*_):\n    print('saved', flush=True)\n    raise SystemExit(2)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('up', flush=True)\ntime.sleep(60)"
    )
    guard = start_guard(program, grace=20)
    child_of(guard)

    guard.send_signal(cancel)

    assert guard.stdout is not None
    assert guard.stdout.readline() == b"saved\n"
    assert guard.wait(30) == 130


def test_a_cancel_leaves_the_loaders_of_the_trainer_alone(
    start_guard: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """A training whose loader died of the signal fails in the middle of a step, instead of saving after it."""
    program = (
        "import signal, subprocess, sys, time\n"
        "loader = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "def save(*_):\n    time.sleep(0.5)\n    print(loader.poll(), flush=True)\n    raise SystemExit(2)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('up', flush=True)\ntime.sleep(60)"
    )
    guard = start_guard(program, grace=20)
    loader = child_of(guard).children()[0]

    guard.send_signal(signal.SIGTERM)

    assert guard.stdout is not None
    assert guard.stdout.readline() == b"None\n"
    assert guard.wait(30) == 130
    assert gone(loader)


def test_a_trainer_that_ignores_a_cancel_is_killed_after_the_grace_period(
    start_guard: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Without escalation a hung CUDA call keeps a cancelled run, and the pool's slot, for ever."""
    guard = start_guard(STUBBORN, grace=0.5)
    child = child_of(guard)

    guard.send_signal(signal.SIGINT)

    assert gone(child)
    assert guard.wait(30) == 130


def test_a_guard_whose_parent_has_gone_does_not_start_the_trainer(
    start_guard: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """The parent may die before the guard asks the kernel to be told: that race must not leave an orphan."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a mask is inherited by what is started
    try:
        guard = start_guard("print('up', flush=True)", parent=1)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    assert guard.wait(30) != 0
    assert guard.stdout is not None
    assert guard.stdout.read() == b""


def test_a_cancel_ends_the_wait_for_a_gpu(start_guard: Callable[..., subprocess.Popen[bytes]]) -> None:
    """A run cancelled in the queue must not hold on until the GPU is free, hours later."""
    first = start_guard(STUBBORN)
    child_of(first)
    second = start_guard("print('up', flush=True)")
    assert second.stderr is not None
    second.stderr.readline()

    second.send_signal(signal.SIGTERM)

    assert second.wait(10) == 130
    assert second.stdout is not None
    assert second.stdout.read() == b""


def test_two_attempts_at_one_job_never_run_together_although_a_gpu_is_free(
    start_guard: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """With two GPUs the retry of a killed run would find one, while its predecessor still writes a checkpoint."""
    first = start_guard("print('up', flush=True); import time; time.sleep(60)", slots=2, alone="job.lock")
    child = child_of(first)
    second = start_guard("print('up', flush=True)", slots=2, alone="job.lock")
    other = start_guard("print('up', flush=True)", slots=2, alone="other.lock")
    assert second.stderr is not None
    told = second.stderr.readline().decode()
    other_status, waited = other.wait(30), second.poll() is None
    child.kill()

    assert "another attempt at the same work" in told
    assert other_status == 0
    assert waited
    assert second.wait(30) == 0


def test_two_jobs_of_two_gpus_each_see_gpus_of_their_own(
    start_guard: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four GPUs, two trainings: with overlapping devices both would run out of memory."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = "import os, time; print(f'up\\n{os.environ[\"CUDA_VISIBLE_DEVICES\"]}', flush=True); time.sleep(60)"
    seen = []
    for _ in range(2):
        guard = start_guard(program, slots=2, width=2)
        child_of(guard)
        assert guard.stdout is not None
        seen.append(guard.stdout.readline().decode().strip())

    assert sorted(seen) == ["0,1", "2,3"]
