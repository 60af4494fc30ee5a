"""A small process between a Dagster step and its trainer: it dies with its parent and holds one GPU.

    python -m dentsight_pipeline.orchestration.guard --locks FOLDER --slots N --width N --alone FILE --grace S -- CMD

- **Dies with its parent.** When the step's worker is killed, the kernel signals the guard, and the guard ends the
  trainer; when the guard itself is killed with SIGKILL, the kernel kills the trainer (`PR_SET_PDEATHSIG`, prctl(2)).
- **Holds one GPU.** An `flock` on `gpu-<n>.lock` is taken before the trainer starts. The kernel gives it back at
  whatever end, so a crash leaves nothing to clean. Waiting for a busy GPU is said, not silent.
- **Works alone.** A second `flock`, on a file of the job's own, keeps two attempts at one job apart where there is more
  than one GPU: the trainer of a killed attempt may still be writing its last checkpoint.
- **Escalates.** SIGINT or SIGTERM reaches the trainer as SIGTERM, on which a training writes a checkpoint and ends; its
  loaders it still needs for that. What still lives of its process group after the grace period is killed.

Standard library only (so is `leash.py`): it starts in a few milliseconds and works where nothing else is installed.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from dentsight_pipeline.training.leash import die_with_parent

INTERRUPTED = 130
"""Exit status after a cancel, as a shell gives it for SIGINT."""


def take_gpu(locks: Path, slots: int, wait_seconds: float = 1.0) -> tuple[int, IO[str]]:
    """Wait for a free GPU slot and lock it.

    Args:
        locks: Folder of the lock files; created when missing.
        slots: How many GPUs there are; 1 on a machine without one, so that two trainings never share its cores.
        wait_seconds: Pause between two looks.

    Returns:
        The slot's index and its open lock file. The lock lives as long as the file is open.
    """
    locks.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        for slot in range(slots):
            handle = (locks / f"gpu-{slot}.lock").open("a+")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                continue
            handle.seek(0)
            handle.truncate()
            handle.write(f"{os.getpid()}\n")
            handle.flush()
            return slot, handle
        if not told:
            holders = ", ".join(
                f"{path.stem} by process {path.read_text().strip() or '?'}" for path in sorted(locks.glob("gpu-*.lock"))
            )
            sys.stderr.write(f"waiting for a GPU slot: {holders}\n")
            sys.stderr.flush()
            told = True
        time.sleep(wait_seconds)


def wait_alone(path: Path, wait_seconds: float = 0.5) -> IO[str]:
    """Wait until no other attempt holds the file, and lock it; the lock lives as long as the returned file is open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("a+")
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if not told:
                sys.stderr.write(f"waiting for another attempt at the same work: {path}\n")
                sys.stderr.flush()
                told = True
            time.sleep(wait_seconds)


def run_guarded(
    command: list[str], locks: Path, slots: int, grace_seconds: float, alone: Path | None = None, width: int = 1
) -> int:
    """Run a command as the guard; returns its exit status, or 130 after a cancel.

    Args:
        command: The trainer.
        locks: Folder of the GPU locks.
        slots: Jobs that may run at once.
        grace_seconds: From asking the trainer to end to killing it.
        alone: Lock file of this very job, or None.
        width: GPUs of one slot; slot 1 of width 2 sees GPUs 2 and 3.
    """

    def give_up(*_: object) -> None:
        raise SystemExit(INTERRUPTED)

    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, give_up)  # nothing runs yet: whoever waits for a GPU stops waiting
    mine = None if alone is None else wait_alone(alone)
    slot, lock = take_gpu(locks, slots)
    stopping: list[float] = []
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: stopping.append(time.monotonic()))
    environment = dict(os.environ)
    if slots > 1 and "CUDA_VISIBLE_DEVICES" not in environment:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(slot * width + number) for number in range(width))
    me = os.getpid()
    child = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(me, signal.SIGKILL),
    )
    asked = killed = False
    while True:
        try:
            status = child.wait(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            pass
        if stopping and not asked:
            asked = True
            child.terminate()
        if asked and not killed and time.monotonic() - stopping[0] > grace_seconds:
            killed = True
            sys.stderr.write(f"the trainer did not stop within {grace_seconds:.0f} s and was killed\n")
            _kill_group(child.pid)
    _kill_group(child.pid)  # loaders and torchrun workers that outlived it
    lock.close()
    if mine is not None:
        mine.close()
    return INTERRUPTED if asked else (status if status >= 0 else 128 - status)


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> int:
    """Parse the command line and guard the command after `--`."""
    parser = argparse.ArgumentParser(prog="guard", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--parent", type=int, default=os.getppid())
    parser.add_argument("--locks", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--grace", type=float, default=20.0)
    parser.add_argument("--alone", type=Path, default=None)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    # A blocked or ignored signal is inherited: without this a cancel, or the parent's death, could pass unnoticed.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(given.parent, signal.SIGTERM)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    return run_guarded(command, given.locks, given.slots, given.grace, given.alone, given.width)


if __name__ == "__main__":
    sys.exit(main())
