"""Jobs that outlive whoever ordered them: ordered, heard and adopted again through the store, on any scheduler.

The note in the store says who was asked for a piece of work, and is written before anybody waits. Whoever comes next,
the same process or another machine, goes on from it: a job that still runs is adopted, one that has ended is heard, one
that is lost is ordered again and resumes from the state in the store. Four things are believed, in this order:

- `end.json` and the manifest: the work is done.
- A beat that changes: the worker lives, whatever the scheduler says.
- A scheduler that has no such job, while no beat comes: it is lost.
- A beat that has long not changed, while the scheduler says "running": it is lost.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec.structs import asdict, replace

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.events import Event
from dentsight_pipeline.documents.job import FitJob, Job, PredictJob, Result
from dentsight_pipeline.documents.remote import Beat, End, Note, Order
from dentsight_pipeline.errors import ConfigurationError, StorageError, TrainingError
from dentsight_pipeline.orchestration.backends.base import (
    Backend,
    Look,
    Phase,
    Scheduler,
    Task,
    UnreachableError,
    worker_command,
)
from dentsight_pipeline.orchestration.backends.local import end_of, error_of, following
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.mailbox import FILES, Mailbox, Receiver
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline.training.reporting import in_words
from dentsight_pipeline.training.versions import versions

LOST_AFTER = 2
"""Attempts in a row without a step more, after which a person is asked."""
_NO_MORE = (Phase.GONE, Phase.HELD)
VOLATILE = (
    "store_uri",
    "workdir",
    "cache_dir",
    "threads",
    "workers",
    "price_per_hour",
    "currency",
    "checkpoint_interval_s",
)
"""Fields of a job that change nothing of its product."""


@dataclass(frozen=True)
class Pace:
    """How often things are looked at, in seconds; one process that waits costs 0.2 % of a core at most."""

    hear: float = 5.0
    """Between two looks into the store."""
    look: float = 30.0
    """Between two questions to the scheduler."""
    gone: float = 15.0
    """From a scheduler's "gone" to believing it: the store may be a little behind."""
    silent: float = 900.0
    """From the last beat to taking a job that "runs" for lost."""
    tell: float = 1800.0
    """Between two words on a job that waits, or on a scheduler that does not answer."""
    note: float = 60.0
    """How long another orchestrator may take from its note to its submission."""

    @classmethod
    def of_environment(cls) -> "Pace":
        """`DENTSIGHT_SILENT_SECONDS` alone is a setting; the rest follows it where it is short."""
        given = os.environ.get("DENTSIGHT_SILENT_SECONDS", "").strip()
        if not given:
            return cls()
        if not given.replace(".", "", 1).isdigit() or float(given) <= 0:
            raise ConfigurationError(
                f"DENTSIGHT_SILENT_SECONDS is {given!r}. It must be a number of seconds, e.g. 900."
            )
        silent = float(given)
        return cls(
            hear=min(5.0, silent / 8),
            look=min(30.0, silent / 4),
            gone=min(15.0, silent / 4),
            silent=silent,
            note=min(60.0, silent),
        )


@dataclass
class Detached(Backend[Note]):
    """Orders jobs at a scheduler, and hears of them through the store."""

    scheduler: Scheduler
    """Where they run."""
    pace: Pace = field(default_factory=Pace.of_environment)
    """How often it looks."""
    processes: int = 1
    """GPUs of one training on one node."""

    def adopt(self, task: Task) -> Note | None:
        """The noted job of this work while it runs, or when it has ended and has something to say."""
        box = mailbox(task)
        note = box.note()
        if note is None or note.backend != self.scheduler.name:
            return None
        if note.order != digest_of(task):
            self._end_other(task, note)
            return None
        if (end := box.end(note.order)) is not None:
            if end.result is None or not box.store.has_manifest(end.result.digest):
                return None
            self._say(task, f"Job {note.job_id} of {note.backend} has ended meanwhile; it is heard now.")
            return note
        if note.job_id is None:
            return self._find(task, box, note)
        if self._look(note).phase in _NO_MORE:
            return None
        self._say(task, f"Job {note.job_id} of {note.backend} goes on (attempt {note.attempt}); it is heard again.")
        return replace(note, failures=0)

    def submit(self, task: Task) -> Note:
        """Note the intention, give the order, start the job, note its id."""
        box, before = mailbox(task), mailbox(task).note()
        self.require_reach(box)
        self._bring_state(task, box)
        return self._submit(task, box, before, failures=0)

    def watch(self, task: Task, handle: Note) -> Result:
        """Hear the job until the store says that it is done; order it again when it is lost."""
        box, folder = mailbox(task), task.job.folder / "remote"
        watching = _Watch(self, task, box, handle, Receiver(box, folder))
        with following(folder / FILES["events"], folder / "events.heard", _telling(task)):
            end = watching.until_the_end()
        if end.failure is not None:
            raise error_of(end.failure)
        if end.result is None or not box.store.has_manifest(end.result.digest):
            raise TrainingError(
                f"The job of {task.key} says that it is done, but its product is not in {box.store.uri}."
            )
        box.clean()
        self._withdraw(watching.note, (Phase.WAITING, Phase.HELD))
        return replace(end.result, job=end.order)

    def cancel(self, task: Task, handle: Note) -> None:
        """End the job; its state is saved, and the next start of the same work resumes."""
        note = mailbox(task).note() or handle
        if note.job_id is not None:
            try:
                self.scheduler.cancel(note.job_id)
                self._say(task, f"Job {note.job_id} of {note.backend} is asked to save its state and to end.")
            except UnreachableError as error:
                task.context.log.warning(f"{error} Job {note.job_id} may go on there; end it by hand if it should not.")

    # ---- ordering ----------------------------------------------------------------------------------------------------

    def _submit(self, task: Task, box: Mailbox, before: Note | None, *, failures: int) -> Note:
        """A new attempt; where another orchestrator was quicker, its note."""
        state = box.state()
        intention = Note(
            order=digest_of(task),
            attempt=before.attempt + 1 if before else 1,
            backend=self.scheduler.name,
            job_id=None,
            step=state.step if state else 0,
            failures=failures,
        )
        if not box.set_note(intention, before):
            other = box.note()
            return intention if other is None else self._find(task, box, other) or other
        if before is not None and before.backend == self.scheduler.name:
            self._withdraw(before, (Phase.HELD,))
        box.give(order_of(task, self.processes, min(5.0, self.pace.hear)))
        return self._start(task, box, intention)

    def _start(self, task: Task, box: Mailbox, intention: Note) -> Note:
        """The job of a noted intention, started and noted by its id."""
        task.job.folder.mkdir(parents=True, exist_ok=True)
        command = worker_command(self.python, box.store.uri, box.key)
        job_id = self._patiently(task, lambda: self._once(intention, box.key, command, task))
        note = replace(intention, job_id=job_id)
        box.set_note(note, intention)
        self._say(task, f"Job {job_id} at {note.backend}, attempt {note.attempt}, from step {note.step}.")
        return note

    def _once(self, intention: Note, key: str, command: list[str], task: Task) -> str:
        """Submit unless an answer that got lost has done so already."""
        name = name_of(key, intention)
        return self.scheduler.find(name) or self.scheduler.submit(name, command, task.job.folder)

    @property
    def python(self) -> str:
        """The worker's Python: this very one where folders are shared."""
        return os.environ.get("DENTSIGHT_WORKER_PYTHON") or (
            sys.executable if self.scheduler.shares_folders else "python"
        )

    def _patiently(self, task: Task, ask: Callable[[], str]) -> str:
        """A scheduler's answer, waited for as long as it takes; what it refuses for good is raised."""
        told = float("-inf")
        while True:
            try:
                return ask()
            except UnreachableError as error:
                if time.monotonic() - told > self.pace.tell:
                    task.context.log.warning(f"{error} It is asked again every {self.pace.look:.0f} s.")
                    told = time.monotonic()
                time.sleep(self.pace.look)

    def _find(self, task: Task, box: Mailbox, note: Note) -> Note | None:
        """The job of a note that does not name it yet: another orchestrator is at it, or died there."""
        until = time.monotonic() + self.pace.note
        while note.job_id is None and time.monotonic() < until and not self._is_known(name_of(box.key, note)):
            time.sleep(min(1.0, self.pace.hear))
            note = box.note() or note
        return note if note.job_id is not None else self._start(task, box, note)

    def _is_known(self, name: str) -> bool:
        """Whether the scheduler has a job of this name; False also where it does not answer."""
        try:
            return self.scheduler.find(name) is not None
        except UnreachableError:
            return False

    def _end_other(self, task: Task, note: Note) -> None:
        """A job of other settings under the same name would train in the same state: it is ended first."""
        if note.job_id is not None and mailbox(task).end(note.order) is None:
            self._say(task, f"Job {note.job_id} of {note.backend} was ordered with other settings; it is ended.")
            self._patiently(task, lambda: self.scheduler.cancel(note.job_id or "") or "")

    def require_reach(self, box: Mailbox) -> None:
        """Refuse a store that a worker cannot reach.

        Raises:
            ConfigurationError: It is a folder, and the worker far away.
        """
        if not self.scheduler.shares_folders and not box.store.uri.startswith("s3://"):
            raise ConfigurationError(
                f"The store {box.store.uri} is a folder, which a worker of {self.scheduler.name} cannot reach. Set "
                "DENTSIGHT_STORE to a bucket (s3://…, docs/operations.md, Beyond one machine)."
            )

    def _bring_state(self, task: Task, box: Mailbox) -> None:
        """What an attempt on this machine has reached goes along, where it is further than the store."""
        state = box.state()
        box.save_newest(task.job.folder, beyond=state.step if state else 0)

    def _withdraw(self, note: Note, phases: tuple[Phase, ...]) -> None:
        """A scheduler that lost count keeps a job in its queue whose work is done, or goes on under another name.

        What it says to that, an expired token included, is no reason to lose a result.
        """
        with suppress(UnreachableError, ConfigurationError):
            if note.job_id is not None and self.scheduler.look(note.job_id).phase in phases:
                self.scheduler.cancel(note.job_id)

    def _look(self, note: Note) -> Look:
        """The scheduler's hint; one that does not answer says nothing against the job."""
        try:
            return self.scheduler.look(note.job_id or "")
        except UnreachableError as error:
            return Look(Phase.WAITING, str(error))

    @staticmethod
    def _say(task: Task, text: str) -> None:
        task.context.log.info(text)


@dataclass
class _Watch:
    """One orchestrator waiting for one job."""

    backend: Detached
    task: Task
    box: Mailbox
    note: Note
    receiver: Receiver
    count: int = -1
    """Of the last beat."""
    beaten: float = field(default_factory=time.monotonic)
    """When it came, by this machine's clock."""
    looked: float = field(default_factory=time.monotonic)
    """When the scheduler was asked last."""
    told: tuple[float, str] = (float("-inf"), "")
    """When and how a wait was told last."""
    words: str = ""
    """Of the scheduler's last answer."""
    gone: float | None = None
    """Since when the scheduler has no such job."""
    running: bool = False
    """Whether the scheduler said so in its last answer."""

    def until_the_end(self) -> End:
        """How it ended; meanwhile everything is heard and mended."""
        while True:
            try:
                self._hear(self.receiver.receive())
                if (end := self.box.end(self.note.order)) is not None:
                    self.receiver.receive()
                    return end
                self._mend()
            except StorageError as error:
                self._tell(f"{error} The job goes on; the store is asked again.")
            time.sleep(self.backend.pace.hear)

    def _hear(self, beat: Beat | None) -> None:
        if beat is not None and beat.count != self.count:
            self.count, self.beaten, self.gone = beat.count, time.monotonic(), None

    def _mend(self) -> None:
        """Ask the scheduler now and then; a lost job is ordered again."""
        now, pace = time.monotonic(), self.backend.pace
        if now - self.looked >= (pace.look if self.gone is None else pace.gone / 2):
            self.looked = now
            self._ask()
        if self.gone is not None and now - self.gone > pace.gone:
            self._lost(
                f"{self.note.backend} runs no job {self.note.job_id} any more ({self.words}), and it left no result"
            )
        elif self.running and now - self.beaten > pace.silent:
            self.backend.cancel(self.task, self.note)
            self._lost(f"Job {self.note.job_id} runs, says {self.note.backend}, but was silent for {pace.silent:.0f} s")

    def _ask(self) -> None:
        try:
            look = self.backend.scheduler.look(self.note.job_id or "")
        except UnreachableError as error:
            self.running = False
            self._tell(f"{error} The job goes on if it can; results come through the store.")
            return
        if look.phase is Phase.STUCK:
            self.backend.cancel(self.task, self.note)
            raise ConfigurationError(f"Job {self.note.job_id} at {self.note.backend} cannot start: {look.words}.")
        started = look.phase is Phase.RUNNING and not self.running
        self.running, self.words = look.phase is Phase.RUNNING, look.words
        if started:
            self.beaten = time.monotonic()
        if look.phase in _NO_MORE:
            self.gone = self.gone or time.monotonic()
        elif look.phase is Phase.WAITING:
            self._tell(f"Job {self.note.job_id} waits at {self.note.backend}: {look.words}.")

    def _lost(self, why: str) -> None:
        """Order it again, if it got anywhere; another orchestrator may have done so already."""
        now = self.box.note()
        if now is not None and now.attempt != self.note.attempt:
            self._follow(self.backend._find(self.task, self.box, now) or now)
            return
        state = self.box.state()
        failures = 0 if state is not None and state.step > self.note.step else self.note.failures + 1
        if failures > LOST_AFTER:
            raise TrainingError(f"{why}; {failures} attempts in a row took no step more. {self._last_words()}")
        self.task.context.log.warning(f"{why}. It is ordered again, from step {state.step if state else 0}.")
        self._follow(self.backend._submit(self.task, self.box, now, failures=failures))

    def _follow(self, note: Note) -> None:
        self.note, self.gone, self.running, self.beaten = note, None, False, time.monotonic()

    def _last_words(self) -> str:
        """What the worker printed, as far as anybody knows."""
        try:
            told = self.backend.scheduler.output(self.note.job_id or "", self.task.job.folder).strip()
        except UnreachableError as error:
            told = str(error)
        told = told or end_of(self.receiver.folder / FILES["output"])
        return f"Its state is kept: launch the same cell again and it resumes. The end of its output:\n{told}"

    def _tell(self, text: str) -> None:
        """Say it now, and the same not again for some time."""
        if text != self.told[1] or time.monotonic() - self.told[0] > self.backend.pace.tell:
            self.told = time.monotonic(), text
            self.task.context.log.warning(text)


def name_of(key: str, note: Note) -> str:
    """What an attempt is called at a scheduler."""
    return f"dentsight-{key}-{note.attempt}"


def mailbox(task: Task) -> Mailbox:
    """Where a task's work is told of."""
    return Mailbox(open_store(task.job.store_uri), task.key)


def digest_of(task: Task) -> str:
    """Of the work itself: the same on every machine and at every price."""
    fields = {name: value for name, value in codec.plain(asdict(task.job)).items() if name not in VOLATILE}
    return canonical.digest({"verb": task.verb, "version": task.version, "job": fields}, f"The order of {task.key}")


def order_of(task: Task, processes: int, interval_s: float) -> Order:
    """What the worker is told."""
    job: Job = task.job
    return Order(
        digest=digest_of(task),
        verb=task.verb,
        versions=versions(),
        fit=job if isinstance(job, FitJob) else None,
        predict=job if isinstance(job, PredictJob) else None,
        processes=processes,
        interval_s=interval_s,
    )


def _telling(task: Task) -> Callable[[Event], None]:
    """Hands an event on, and says it in the step's log as Pipes does for a job on this machine."""

    def hear(event: Event) -> None:
        if text := in_words(event):
            task.context.log.info(text)
        task.listen(event)

    return hear
