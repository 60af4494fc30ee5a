"""Training backends: how a training or prediction job gets a process to run in, and how its events come back.

Dagster is known here, torch is not: the job runs in `python -m dentsight_pipeline.training`, behind the guard.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import msgspec

from dentsight_pipeline import errors
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.events import Event
from dentsight_pipeline.documents.job import Failure, Job, Result
from dentsight_pipeline.orchestration.backends.base import Backend, Task
from dentsight_pipeline.store.files import write_whole
from dentsight_pipeline.training.job import trainer_of

OUTPUT_FILE = "output.log"
"""In a job's folder: everything that its process printed, over all attempts."""
JOB_FILE, RESULT_FILE, ERROR_FILE = "job.json", "result.json", "error.json"
"""In a job's folder: what is to be done, and how it ended."""
RESTARTS = 2
"""How often a job whose process was killed from outside is taken up again within its run."""
GPUS_VARIABLE, GPUS_PER_TRAINING_VARIABLE = "DENTSIGHT_GPUS", "DENTSIGHT_GPUS_PER_TRAINING"
_EVENTS = msgspec.json.Decoder(Event)
CANCELLED = 130
"""Exit status of the guard after a cancel."""


@dataclass(frozen=True)
class Running:
    """A trainer at work behind its guard."""

    guard: "subprocess.Popen[bytes]"
    """Its guard."""
    session: contextlib.ExitStack
    """Dagster Pipes', which is open as long as it may say something."""


@dataclass(frozen=True)
class LocalBackend(Backend[Running]):
    """Runs jobs on this machine through Dagster Pipes, each a process with its own GPU; they end with their step."""

    gpus: int = 0
    """GPUs of this machine; `DENTSIGHT_GPUS`, else 1, when 0. 1 also without a GPU, so that two trainings never share
    its cores."""
    gpus_per_training: int = 0
    """GPUs of one training, which goes through torchrun when they are more than one; `DENTSIGHT_GPUS_PER_TRAINING`,
    else all of them, when 0. As many trainings as fit run at once, where the pool `gpu` allows it."""
    grace_seconds: float = 20.0
    """How long a cancelled job may take to end by itself before it is killed."""

    @property
    def count(self) -> int:
        """GPUs in use."""
        return self.gpus or _number(GPUS_VARIABLE, 1)

    @property
    def width(self) -> int:
        """GPUs of one training."""
        wanted = self.gpus_per_training or _number(GPUS_PER_TRAINING_VARIABLE, self.count)
        if wanted > self.count:
            raise errors.ConfigurationError(
                f"One training is to use {wanted} GPUs ({GPUS_PER_TRAINING_VARIABLE}), but there are {self.count} "
                f"({GPUS_VARIABLE}). The nearest legal value is {self.count}."
            )
        return wanted

    def adopt(self, task: Task) -> None:
        """None: a trainer dies with its step, and the next one resumes in the same folder."""

    def submit(self, task: Task) -> Running:
        """Start the trainer behind its guard; its events come back through Pipes and `events.jsonl`."""
        workdir = task.job.folder
        workdir.mkdir(parents=True, exist_ok=True)
        for stale in (ERROR_FILE, RESULT_FILE):
            (workdir / stale).unlink(missing_ok=True)
        (workdir / JOB_FILE).write_bytes(codec.write(task.job))
        session = contextlib.ExitStack()
        pipes = dg.open_pipes_session(task.context, dg.PipesTempFileContextInjector(), dg.PipesTempFileMessageReader())
        environment = {**os.environ, **session.enter_context(pipes).get_bootstrap_env_vars()}
        command = self._command(task.verb, workdir, task.locks)
        # What the job has to say comes as events; its raw output, tracebacks included, is kept in a file.
        with (workdir / OUTPUT_FILE).open("ab") as log:
            return Running(subprocess.Popen(command, env=environment, stdout=log, stderr=log), session)

    def watch(self, task: Task, handle: Running) -> Result:
        """Wait for the trainer's end.

        Raises:
            TrainingError: The job died; the message names its log.
            RetryRequested: Its process was killed from outside.
        """
        workdir = task.job.folder
        with handle.session, following(workdir / "events.jsonl", workdir / "events.heard", task.listen):
            try:
                status = handle.guard.wait()
            except BaseException:  # while it can still be heard
                self.cancel(task, handle)
                raise
        if status == 0 and (workdir / RESULT_FILE).exists():
            return codec.read((workdir / RESULT_FILE).read_bytes(), Result, workdir / RESULT_FILE)
        failure = _failure(task.verb, status, workdir)
        if _was_killed(status) and not (workdir / ERROR_FILE).exists():
            task.context.log.warning(f"The {task.verb} process was killed. It is taken up again where it stood.")
            raise dg.RetryRequested(max_retries=RESTARTS, seconds_to_wait=2) from failure
        raise failure

    def cancel(self, task: Task, handle: Running) -> None:
        """Ask it to stop, and kill it when it does not."""
        if handle.guard.poll() is not None:
            return
        task.context.log.info(f"Cancelled: asking the job to stop; it is killed after {self.grace_seconds:.0f} s.")
        handle.guard.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            handle.guard.wait(timeout=self.grace_seconds + 10)
        if handle.guard.poll() is None:
            handle.guard.kill()

    def _command(self, verb: str, workdir: Path, locks: Path) -> list[str]:
        """The trainer behind its guard, through torchrun where one training has several GPUs."""
        width = self.width
        slots = ["--slots", str(max(1, self.count // width)), "--width", str(width)]
        options = [*slots, "--alone", str(workdir / "attempt.lock")]
        return _guarded(trainer_of(verb, workdir / JOB_FILE, width), locks, options, self.grace_seconds)


def run_alone(verb: str, job: Job, locks: Path, grace_seconds: int = 20) -> str:
    """Run a job outside of Dagster, in a process that dies with this one and waits for a GPU.

    Returns:
        The digest that it published.

    Raises:
        DentsightError: The job's own error, or how it died.
    """
    workdir = job.folder
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / JOB_FILE).write_bytes(codec.write(job))
    trainer = trainer_of(verb, workdir / JOB_FILE)
    # stdout stays free for the caller's JSON.
    with (workdir / OUTPUT_FILE).open("ab") as log:
        process = subprocess.Popen(_guarded(trainer, locks, ["--slots", "1"], grace_seconds), stdout=log, stderr=log)
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait(timeout=grace_seconds + 10)
        raise
    if status:
        raise _failure(verb, status, workdir)
    return codec.read((workdir / RESULT_FILE).read_bytes(), Result, workdir / RESULT_FILE).digest


def _guarded(trainer: list[str], locks: Path, options: list[str], grace_seconds: float) -> list[str]:
    """The command of a module behind the guard, which dies with this process."""
    python = [sys.executable, "-m"]
    guard = ["dentsight_pipeline.orchestration.guard", "--parent", str(os.getpid()), "--locks", str(locks), *options]
    return [*python, *guard, "--grace", str(grace_seconds), "--", *python, *trainer]


def _number(variable: str, default: int) -> int:
    """A whole number of at least 1 from the environment."""
    given = os.environ.get(variable, "").strip() or str(default)
    if not given.isdecimal() or int(given) < 1:
        raise errors.ConfigurationError(f"{variable} is {given!r}. It must be a number of GPUs; the least is 1.")
    return int(given)


def _was_killed(status: int) -> bool:
    """Whether a signal that nobody here sent ended the job (128 + n) or its guard (-n)."""
    return status < 0 or (status > 128 and status != CANCELLED)


def _failure(verb: str, status: int, workdir: Path) -> errors.DentsightError:
    """The error that a job left behind, under its own type where it wrote one."""
    report = workdir / ERROR_FILE
    if report.exists():
        return error_of(codec.read(report.read_bytes(), Failure, report))
    by = status - 128 if status > 0 else -status
    how = f"was killed by signal {by}" if _was_killed(status) else f"ended with status {status}"
    return errors.TrainingError(
        f"The {verb} process {how} without a word of its own (signal 9 is often a lack of memory). Its state is kept: "
        f"launch the same cell again and it resumes. The end of its output ({workdir / OUTPUT_FILE}):\n"
        + end_of(workdir / OUTPUT_FILE)
    )


def error_of(told: Failure) -> errors.DentsightError:
    """The error that a job told of: typed errors build their message from fields, here the message exists already."""
    kind = getattr(errors, told.type, errors.TrainingError)
    error = kind.__new__(kind)
    Exception.__init__(error, told.message)
    return error


def end_of(path: Path, lines: int = 15) -> str:
    if not path.exists():
        return "(none)"
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def following(events: Path, heard: Path, listen: Callable[[Event], None]) -> Iterator[None]:
    """Hand every line of an event file to `listen` while the block runs, exactly once over all attempts.

    Args:
        events: JSON lines that another process appends.
        heard: Remembers how many bytes were handed on, between attempts.
        listen: Receives one event. What it raises is kept and raised at the end of the block.
    """
    done = threading.Event()
    position = _heard_before(heard, events)
    failures: list[Exception] = []

    def drain() -> None:
        nonlocal position
        if not events.exists() or failures:
            return
        with events.open("rb") as lines:
            lines.seek(position)
            while (line := lines.readline()).endswith(b"\n"):
                try:
                    listen(_EVENTS.decode(line))
                except Exception as failure:
                    failures.append(failure)
                    return
                position = lines.tell()
        write_whole(heard, str(position).encode())

    def follow() -> None:
        while not done.wait(1.0):
            drain()

    follower = threading.Thread(target=follow, name="events", daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()
        drain()
    if failures:
        raise failures[0]


def _heard_before(heard: Path, events: Path) -> int:
    """Bytes that an earlier attempt handed on; 0 where a power cut left no such number, since twice is not lost."""
    told = heard.read_text(errors="replace") if heard.exists() else ""
    position = int(told) if told.isdecimal() else 0
    return position if events.exists() and position <= events.stat().st_size else 0
