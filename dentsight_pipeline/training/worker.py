"""The worker's end of a job elsewhere: `python -m dentsight_pipeline.training remote STORE KEY`.

It knows a store's address and the name of a piece of work, and nothing of who ordered it or what started it. It reads
the order, refuses versions that are not the orchestrator's, lays the saved state into a folder of its own, runs the
trainer as a child, and meanwhile tells the store: a beat, events, output, the newest checkpoint. SIGTERM goes on to the
trainer; its last checkpoint is told, and whoever starts the same again, here or elsewhere, goes on from there.

Under Slurm with several tasks each one runs this: the first tells the store, all train together through torchrun.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.job import Failure, Result
from dentsight_pipeline.documents.remote import End, Order, Probe
from dentsight_pipeline.errors import ConfigurationError, RefConflictError, StorageError
from dentsight_pipeline.store.mailbox import FILES, Mailbox, Sender
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline.training.job import ALONE, EXIT_REFUSED, trainer_of
from dentsight_pipeline.training.leash import die_with_parent
from dentsight_pipeline.training.versions import CODE, differences, versions

STOPPED = 75
"""Exit status after SIGTERM: the state is saved, start the same again (EX_TEMPFAIL)."""
RESTARTS = 2
"""How often a trainer that was killed, or could not reach the store, is taken up again here."""
PATIENCE_S, LAST_PATIENCE_S = 120.0, 1800.0
"""How long a store that does not answer is asked again, at the start and for the last word."""
SCRATCH_VARIABLE = "DENTSIGHT_SCRATCH"
T = TypeVar("T")


def work(store_uri: str, key: str) -> int:
    """Do one piece of work; gives the exit status."""
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    box = Mailbox(patiently(lambda: open_store(store_uri), PATIENCE_S), key)
    folder = _scratch(key, rank)
    for name in (*FILES.values(), "result.json", "error.json"):
        (folder / name).unlink(missing_ok=True)
    sender = (
        Sender(box, {kind: folder / name for kind, name in FILES.items()}, socket.gethostname()) if not rank else None
    )
    return Worker(box, folder, rank, sender).run()


def patiently(ask: Callable[[], T], seconds: float) -> T:
    """What a store answers, asked again while it does not."""
    until = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except StorageError:
            if time.monotonic() > until:
                raise
            time.sleep(5)


class Worker:
    """One attempt at one piece of work.

    Args:
        box: Where it is told.
        folder: Of this attempt, on this machine.
        rank: Of this task among those of the job.
        sender: Tells the store; None for further tasks.
    """

    def __init__(self, box: Mailbox, folder: Path, rank: int, sender: Sender | None) -> None:
        self.box, self.folder, self.rank, self.sender = box, folder, rank, sender
        self.child: subprocess.Popen[bytes] | None = None
        self.stopping, self.saved = False, 0

    def run(self) -> int:
        """Do it, and say how it ended; gives the exit status."""
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, self._stop)
        try:
            return self._last_word(self._attempt())
        except RefConflictError as error:  # whoever has taken over tells the rest
            sys.stderr.write(f"{error}\n")
            return STOPPED

    def _attempt(self) -> End | None:
        """The work done or refused; None when there is nothing to say to the end."""
        digest = ""
        try:
            head = patiently(self.box.order_head, PATIENCE_S)
            if head is None:
                raise ConfigurationError(f"{self.box.store.uri} holds no order {self.box.key}. Is this the same store?")
            digest = head.digest
            require_same(head.versions)
            return self._do(patiently(self.box.order, PATIENCE_S))
        except RefConflictError:
            raise
        except Exception as error:
            sys.stderr.write(f"{error}\n")
            return End(order=digest, failure=Failure(type=type(error).__name__, message=str(error))) if digest else None

    def _last_word(self, end: End | None) -> int:
        """The end told, or at least the state; then nothing is left here."""
        if self.sender is not None:
            patiently(self._tell, LAST_PATIENCE_S)
        if self.sender is not None and end is not None:
            patiently(lambda: self.box.set_end(end), LAST_PATIENCE_S)
        shutil.rmtree(self.folder, ignore_errors=True)
        return STOPPED if end is None else EXIT_REFUSED if end.failure else 0

    def _stop(self, *_: object) -> None:
        self.stopping = True
        if self.child is not None and self.child.poll() is None:
            self.child.terminate()

    def _do(self, order: Order | None) -> End | None:
        """Work until there is something to say; None when it was stopped before."""
        if order is None:
            raise ConfigurationError("The order was taken away. Submit the job again.")
        if self.rank and order.verb != "fit":  # only trainings take several tasks
            return End(order=order.digest)
        if order.verb == "probe":
            from dentsight_pipeline.training.machine import hardware

            return End(
                order=order.digest, probe=Probe(host=socket.gethostname(), hardware=hardware(), versions=versions())
            )
        self.saved = self.box.fetch_state(self.folder)
        job = order.fit or order.predict
        path = self.folder / "job.json"
        path.write_bytes(codec.write(_here(job, self.folder)))
        end = None
        for attempt in range(RESTARTS + 1):
            status = self._train(_command(order, path, self.rank), order.interval_s)
            end = self._end(order, status)
            again = end is not None and end.failure is not None and (end.failure.type == "StorageError" or status < 0)
            if self.stopping or not again or _tasks() > 1 or attempt == RESTARTS:
                break
            time.sleep(10 if status > 0 else 1)
        return None if self.stopping and not (end and end.result) else end

    def _end(self, order: Order, status: int) -> End | None:
        """How the trainer ended; None where several trained together and one was killed: the others only say that."""
        if (self.folder / "result.json").exists():
            return End(order=order.digest, result=_document(self.folder / "result.json", Result))
        if self.rank and status == 0:
            return End(order=order.digest)
        failure = self._failure(order.verb, status)
        together = order.verb == "fit" and _tasks() * order.processes > 1
        if together and (failure.traceback or not (self.folder / "error.json").exists()):
            return None
        return End(order=order.digest, failure=failure)

    def _train(self, command: list[str], interval_s: float) -> int:
        """Run the trainer once; gives its status."""
        (self.folder / "error.json").unlink(missing_ok=True)
        me = os.getpid()
        with (self.folder / FILES["output"]).open("ab") as output:
            self.child = subprocess.Popen(
                command, stdout=output, stderr=output, preexec_fn=lambda: die_with_parent(me, signal.SIGKILL)
            )
        if self.stopping:
            self.child.terminate()
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return self.child.wait(timeout=interval_s)
                with contextlib.suppress(StorageError):  # it is told next time
                    self._tell()
        finally:
            if self.child.poll() is None:
                self.child.kill()

    def _tell(self) -> None:
        """A beat with what is new; then the newest checkpoint, so that no state is known before its events."""
        if self.sender is None:
            return
        self.sender.send()
        self.saved = self.box.save_newest(self.folder, self.saved)

    def _failure(self, verb: str, status: int) -> Failure:
        """What the trainer said, or how it died."""
        path = self.folder / "error.json"
        if path.exists():
            return _document(path, Failure)
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return Failure(
            type="TrainingError",
            message=f"The {verb} process on {socket.gethostname()} {how} without a word of its own (signal 9 is often "
            "a lack of memory). Its state is kept: launch the same cell again and it resumes.",
        )


def require_same(wanted: object) -> None:
    """Refuse versions that would give other numbers, by name.

    Raises:
        ConfigurationError: Something differs.
    """
    assert isinstance(wanted, dict)
    found = differences(wanted, versions())
    if found:
        code = " The code of the two is not the same checkout." if any(CODE in one for one in found) else ""
        raise ConfigurationError(
            f"The worker on {socket.gethostname()} is not what the orchestrator is: {'; '.join(found)}.{code} Install "
            "the same there: `pip install -c constraints.txt .` (docs/operations.md, A worker's environment)."
        )


def _here(job: object, folder: Path) -> object:
    """The job with folders of this machine."""
    own = {"workdir": str(folder), **({"cache_dir": None} if hasattr(job, "cache_dir") else {})}
    return replace(job, **own)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _command(order: Order, job: Path, rank: int) -> list[str]:
    """The trainer, together with those of the other tasks."""
    meet = _rendezvous(_tasks(), rank) if order.verb == "fit" and _tasks() > 1 else ALONE
    return [sys.executable, "-m", *trainer_of(order.verb, job, order.processes, meet)]


def _tasks() -> int:
    """Tasks of the Slurm job that run this; one anywhere else."""
    return int(os.environ.get("SLURM_NTASKS", "1"))


def _rendezvous(nodes: int, rank: int) -> list[str]:
    """Where the tasks of a Slurm job meet: at its first node, at a port of this job and start alone."""
    listed = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    first = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()[0]
    number = int(os.environ["SLURM_JOB_ID"]) * 7 + int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    return [
        f"--nnodes={nodes}",
        f"--node-rank={rank}",
        f"--master-addr={first}",
        f"--master-port={20000 + number % 20000}",
    ]


def _scratch(key: str, rank: int) -> Path:
    """This machine's folder of the work; what a killed attempt left there is used."""
    base = Path(os.environ.get(SCRATCH_VARIABLE) or tempfile.gettempdir()) / f"dentsight-{os.getuid()}"
    folder = base / (f"{key}-task-{rank}" if rank else key)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _document(path: Path, kind: type[T]) -> T:
    return codec.read(path.read_bytes(), kind, path)
