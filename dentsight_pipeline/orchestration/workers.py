"""Who works on a run, and whether that process still lives: host, boot, pid and start time, kept in the run's tags."""

import os
import socket
from enum import StrEnum
from pathlib import Path

import psutil
from dagster import DagsterRun

from dentsight_pipeline.documents import codec
from dentsight_pipeline.errors import DocumentError

WORKER_TAG = "dentsight/worker"
"""Run tag with the identity of the run's worker, as JSON."""


class Worker(codec.Document, frozen=True):
    """What tells a process from every other one, before and after, on every machine."""

    run: str
    """The run that it works on; a retried run carries the tag of its predecessor."""
    host: str
    """Name and machine id of where it runs."""
    boot: str
    """Identity of that machine's boot."""
    pid: int
    """Process id."""
    started: float
    """Clock ticks from boot to its start."""


class State(StrEnum):
    """What this machine can tell about a run's worker."""

    ALIVE = "alive"
    DEAD = "dead"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"


def identity_of(pid: int, run_id: str) -> Worker | None:
    """Who a process of this machine is; None when it does not run. A zombie does not run any more."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Worker(run=run_id, host=here(), boot=_boot(), pid=pid, started=_start_of(process))
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def tag_of(pid: int, run_id: str) -> dict[str, str]:
    """The run tag that records a process as the worker of a run."""
    return {WORKER_TAG: codec.write(identity_of(pid, run_id)).decode()}


def recorded(run: DagsterRun) -> Worker | None:
    """The worker that a run's tags name, or None when they name none of this very run."""
    try:
        worker = codec.read(run.tags.get(WORKER_TAG, ""), Worker, f"Tag {WORKER_TAG} of run {run.run_id}")
    except DocumentError:
        return None
    return worker if worker.run == run.run_id else None


def state_of(run: DagsterRun) -> State:
    """Whether a run's worker lives, as far as this machine can tell.

    Of a process on another host it never says that it is dead. The process that launched a worker may have been killed
    before it wrote the tag: then the worker's command line names its run.
    """
    worker = recorded(run)
    if worker is None:
        return State.ALIVE if workers(run.run_id) else State.UNKNOWN
    if worker.host != here():
        return State.ELSEWHERE
    return State.ALIVE if lives(worker) else State.DEAD


def lives(worker: Worker) -> bool:
    """Whether this very process still runs here."""
    return identity_of(worker.pid, worker.run) == worker


def workers(run_id: str = "") -> list[int]:
    """Pids of living run workers of this user, of one run or of all runs."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status", "uids"]):
        command = process.info["cmdline"] or []
        is_worker = "execute_run" in command and any(run_id in part for part in command)
        mine = process.info["uids"] is not None and process.info["uids"].real == os.getuid()
        if is_worker and mine and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.info["pid"])
    return found


def here() -> str:
    """This machine: its name, and its machine id, since names like `localhost` are given twice."""
    machine = Path("/etc/machine-id")
    return f"{socket.gethostname()} {machine.read_text().strip()[:8] if machine.is_file() else ''}".strip()


def _start_of(process: psutil.Process) -> float:
    """When the process started, by a clock that nobody can set (proc(5), stat field 22) where there is one."""
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():
        return process.create_time()
    return float(stat.read_text().rpartition(")")[2].split()[19])


def _boot() -> str:
    """Identity of the machine's present boot."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(psutil.boot_time())
