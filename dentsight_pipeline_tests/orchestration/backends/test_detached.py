"""Jobs that outlive whoever ordered them, on a scheduler that lies, forgets and is away; workers are threads."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from dentsight_pipeline import errors
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.events import Message, Metrics
from dentsight_pipeline.documents.job import CostCard, Failure, Hardware, Result, RunRecord
from dentsight_pipeline.documents.remote import End, Note
from dentsight_pipeline.orchestration.backends import choice, detached
from dentsight_pipeline.orchestration.backends.base import Look, Phase, UnreachableError
from dentsight_pipeline.orchestration.backends.detached import Detached, Pace, mailbox
from dentsight_pipeline.store import log
from dentsight_pipeline.store.mailbox import Mailbox, Receiver, Sender
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline_tests.orchestration.backends.tasks import Ordered, fit_task, start, wait_until
from dentsight_pipeline_tests.training.conftest import make_subset

FAST = Pace(hear=0.02, look=0.05, gone=0.5, silent=10.0, tell=0.2, note=2.0)
RECORD = RunRecord(
    cost=CostCard(wall_s=1.0, peak_memory_mib=1.0),
    hardware=Hardware(device="CPU", gpus=0, cpu_cores=1, threads=1, machine="x"),
    packages={},
    finished=1.0,
)


@dataclass
class FakeScheduler:
    """Runs workers as threads; what it says can be set."""

    work: Callable[[Mailbox, threading.Event], None]
    name: str = "slurm"
    shares_folders: bool = True
    asks_for_gpu: bool = False
    price_per_hour: float | None = None
    submitted: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    says: dict[str, Phase] = field(default_factory=dict)
    away: bool = False
    loses_answer: bool = False
    threads: dict[str, tuple[threading.Thread, threading.Event]] = field(default_factory=dict)

    def submit(self, name: str, command: list[str], folder: Path) -> str:
        self._answer()
        self.submitted.append(name)
        stop = threading.Event()
        thread = threading.Thread(
            target=self.work, args=(Mailbox(open_store(command[-2]), command[-1]), stop), daemon=True
        )
        thread.start()
        self.threads[str(len(self.submitted))] = (thread, stop)
        if self.loses_answer:
            self.loses_answer = False
            raise UnreachableError("the answer got lost")
        return str(len(self.submitted))

    def find(self, name: str) -> str | None:
        self._answer()
        return next((str(i) for i, one in enumerate(self.submitted, 1) if one == name and self._lives(str(i))), None)

    def look(self, job_id: str) -> Look:
        self._answer()
        seen = Phase.RUNNING if self._lives(job_id) else Phase.GONE
        return Look(self.says.get(job_id, seen), "so it says")

    def cancel(self, job_id: str) -> None:
        self._answer()
        self.cancelled.append(job_id)
        self.threads[job_id][1].set()

    def output(self, job_id: str, folder: Path) -> str:
        return "the last words of the worker"

    def _lives(self, job_id: str) -> bool:
        return job_id in self.threads and self.threads[job_id][0].is_alive()

    def _answer(self) -> None:
        if self.away:
            raise UnreachableError("the cluster is away")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return open_store(tmp_path / "store")


@pytest.fixture
def ordered(store: Store, tmp_path: Path) -> Ordered:
    """A training to order; its product will be the subset itself, which is a manifest as good as any."""
    subset = make_subset(store, {"train": 1})
    return fit_task(store, subset, recipes.named("smoke"), tmp_path)


def finish(box: Mailbox, metrics: int = 2, busy: Callable[[], bool] = lambda: False) -> None:
    """A worker that says something, beats while it is busy, and ends well."""
    order = box.order()
    assert order is not None and order.fit is not None
    events = Path(order.fit.workdir) / f"worker-{threading.get_ident()}.jsonl"
    events.write_bytes(
        b"".join(
            codec.write(Metrics(time=1.0, step=i, values={"train/loss": 1.0})) + b"\n" for i in range(1, metrics + 1)
        )
    )
    sender = Sender(box, {"events": events}, "here")
    sender.send()
    while busy():
        sender.send()
        time.sleep(0.02)
    box.set_end(End(order=order.digest, result=Result(digest=order.fit.subset, record=RECORD)))


def busy_for(seconds: float) -> Callable[[], bool]:
    """Whether so much time has not passed yet."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() < until


def beat_until(box: Mailbox, stop: threading.Event) -> None:
    """A worker that lives until it is stopped."""
    sender = Sender(box, {}, "here")
    while not stop.wait(0.02):
        sender.send()


def test_what_a_worker_says_comes_back_once_and_in_order(ordered: Ordered) -> None:
    """MLflow's curves and the step's log fill from the store alone."""
    backend = Detached(FakeScheduler(lambda box, _: finish(box, 5)), FAST)

    result = start(backend, ordered).result(20)

    assert ordered.steps == [1, 2, 3, 4, 5]
    assert result.job == detached.digest_of(ordered.task)


def test_a_job_is_noted_before_anybody_waits_and_adopted_by_the_next_start(ordered: Ordered, tmp_path: Path) -> None:
    """The orchestrator that ordered it is gone without a word; the job is neither ended nor ordered again."""
    release = threading.Event()
    scheduler = FakeScheduler(lambda box, _: finish(box, 3, lambda: not release.is_set()))
    first = Detached(scheduler, FAST)
    first.submit(ordered.task)
    assert mailbox(ordered.task).note() == Note(
        order=detached.digest_of(ordered.task), attempt=1, backend="slurm", job_id="1", step=0, failures=0
    )

    waiting = start(Detached(scheduler, FAST), ordered)
    wait_until(lambda: ordered.steps == [1, 2, 3], 10)
    release.set()

    assert waiting.result(20).digest
    assert scheduler.submitted == [f"dentsight-{ordered.task.key}-1"]
    assert ordered.log.has("is heard again")


def test_a_result_that_nobody_heard_is_heard_by_the_next_start(ordered: Ordered) -> None:
    """The training ended while the laptop was shut."""
    scheduler = FakeScheduler(lambda box, _: finish(box, 3))
    Detached(scheduler, FAST).submit(ordered.task)
    wait_until(lambda: mailbox(ordered.task).end(detached.digest_of(ordered.task)), 10)

    assert start(Detached(scheduler, FAST), ordered).result(20).digest
    assert ordered.steps == [1, 2, 3]
    assert len(scheduler.submitted) == 1


def test_two_orchestrators_order_one_job_and_log_one_record(ordered: Ordered, store: Store) -> None:
    """Both wait for the same; the product has one way of coming about."""
    both, release = threading.Barrier(2), threading.Event()
    scheduler = FakeScheduler(lambda box, _: finish(box, 3, lambda: not release.is_set()))

    class Both(Detached):
        def submit(self, task: detached.Task) -> Note:
            both.wait(10)
            return super().submit(task)

    waiting = [start(Both(scheduler, FAST), ordered), start(Both(scheduler, FAST), ordered)]
    wait_until(lambda: scheduler.submitted, 10)
    time.sleep(0.2)
    release.set()
    results = [one.result(20) for one in waiting]
    heads = {log.append(store, one.digest, {"job": one.job, "run": i}).head for i, one in enumerate(results)}

    assert len(scheduler.submitted) == 1
    assert len(heads) == len(log.read(store).of(results[0].digest)) == 1


def test_an_answer_that_got_lost_orders_nothing_twice(ordered: Ordered) -> None:
    """sbatch may time out after the job was queued."""
    scheduler = FakeScheduler(lambda box, _: finish(box, 1, busy_for(0.3)), loses_answer=True)

    start(Detached(scheduler, FAST), ordered).result(20)

    assert len(scheduler.submitted) == 1


def test_an_intention_whose_orchestrator_died_is_taken_up(ordered: Ordered) -> None:
    """Killed between the note and the submission."""
    scheduler = FakeScheduler(lambda box, _: finish(box))
    box = mailbox(ordered.task)
    intention = Note(order=detached.digest_of(ordered.task), attempt=1, backend="slurm", job_id=None)
    box.give(detached.order_of(ordered.task, 1, 0.1))
    box.set_note(intention, None)

    start(Detached(scheduler, FAST), ordered).result(20)

    note = box.note()
    assert note == replace(intention, job_id="1")


def test_a_job_that_a_scheduler_forgot_is_ordered_again_and_goes_on(ordered: Ordered, tmp_path: Path) -> None:
    """Somebody deleted it; it had come as far as step 5, so that the next attempt is no failure."""
    saved = tmp_path / "step-00000005"
    saved.mkdir()
    (saved / "state.json").write_text("{}")

    def work(box: Mailbox, _: threading.Event) -> None:
        if box.state() is None:
            Sender(box, {}, "here").send()
            box.save_state(5, saved)
        else:
            finish(box)

    scheduler = FakeScheduler(work)

    start(Detached(scheduler, FAST), ordered).result(20)

    assert scheduler.submitted == [f"dentsight-{ordered.task.key}-{number}" for number in (1, 2)]
    assert ordered.log.has("It is ordered again, from step 5.")


def test_a_job_that_gets_nowhere_is_given_to_a_person(ordered: Ordered) -> None:
    """A store that the worker cannot reach, a broken environment: three attempts, then its own last words."""
    scheduler = FakeScheduler(lambda box, stop: None)

    with pytest.raises(
        errors.TrainingError, match=r"(?s)3 attempts in a row took no step more.*the last words of the w"
    ):
        start(Detached(scheduler, FAST), ordered).result(30)

    assert len(scheduler.submitted) == 3


def test_a_scheduler_that_says_running_of_a_dead_job_is_not_believed(ordered: Ordered) -> None:
    """squeue does so for as long as it likes when a node lost its power."""

    def work(box: Mailbox, stop: threading.Event) -> None:
        if len(scheduler.submitted) > 1:
            finish(box)

    scheduler = FakeScheduler(work, says={"1": Phase.RUNNING})

    start(Detached(scheduler, dataclasses.replace(FAST, silent=1.0)), ordered).result(20)

    assert scheduler.cancelled == ["1"]
    assert ordered.log.has("was silent for")


def test_a_scheduler_that_has_forgotten_a_living_job_is_not_believed_either(ordered: Ordered) -> None:
    """A controller that was set up anew knows nothing of what its nodes still do."""

    def work(box: Mailbox, stop: threading.Event) -> None:
        beat_until(box, stop)
        finish(box)

    scheduler = FakeScheduler(work, says={"1": Phase.GONE})
    waiting = start(Detached(scheduler, FAST), ordered)
    time.sleep(2.0)
    scheduler.threads["1"][1].set()

    assert waiting.result(20).digest
    assert len(scheduler.submitted) == 1


def test_a_job_that_is_held_after_a_failed_start_is_taken_out_and_ordered_again(ordered: Ordered) -> None:
    """Slurm's "launch failed requeued held" waits for ever."""

    def work(box: Mailbox, stop: threading.Event) -> None:
        if len(scheduler.submitted) > 1:
            finish(box)

    scheduler = FakeScheduler(work, says={"1": Phase.HELD})

    start(Detached(scheduler, FAST), ordered).result(20)

    assert scheduler.cancelled == ["1"]
    assert len(scheduler.submitted) == 2


def test_a_job_that_waits_once_more_after_its_work_is_done_leaves_the_queue(ordered: Ordered) -> None:
    """A controller that lost its memory queues again what has ended on the node."""
    scheduler = FakeScheduler(lambda box, _: finish(box, 2, busy_for(0.3)), says={"1": Phase.WAITING})

    assert start(Detached(scheduler, FAST), ordered).result(20).digest
    assert scheduler.cancelled == ["1"]
    assert len(scheduler.submitted) == 1


def test_a_result_is_kept_also_where_the_scheduler_refuses_to_say_what_became_of_the_job(ordered: Ordered) -> None:
    """A token expires in the hours that a training takes; the store has the result."""

    @dataclass
    class Refuses(FakeScheduler):
        def look(self, job_id: str) -> Look:
            raise errors.ConfigurationError("The token has expired.")

    scheduler = Refuses(lambda box, _: finish(box))

    assert start(Detached(scheduler, dataclasses.replace(FAST, look=30.0)), ordered).result(20).digest


def test_a_cluster_that_is_away_is_waited_for(ordered: Ordered) -> None:
    """An hour's maintenance: told once in a while, and nothing is given up, before and after the submission."""
    scheduler = FakeScheduler(lambda box, _: finish(box, 2, busy_for(1.0)), away=True)
    waiting = start(Detached(scheduler, FAST), ordered)
    wait_until(lambda: ordered.log.has("the cluster is away"), 10)
    scheduler.away = False
    wait_until(lambda: scheduler.submitted, 10)
    scheduler.away = True
    wait_until(lambda: ordered.log.has("results come through the store"), 10)

    assert waiting.result(20).digest
    assert len(scheduler.submitted) == 1


def test_a_cancel_ends_the_job_also_while_it_is_queued(ordered: Ordered, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is interrupted; the job would otherwise go on for nobody."""
    scheduler = FakeScheduler(beat_until, says={"1": Phase.WAITING})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(detached._Watch, "_mend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Detached(scheduler, FAST).perform(ordered.task)

    assert scheduler.cancelled == ["1"]


def test_a_refusal_comes_under_its_own_error_and_is_not_tried_again(ordered: Ordered) -> None:
    """A collapsed head is one on every machine."""

    def work(box: Mailbox, _: threading.Event) -> None:
        head = box.order_head()
        assert head is not None
        box.set_end(End(order=head.digest, failure=Failure(type="HeadCollapseError", message="at step 125")))

    scheduler = FakeScheduler(work)

    with pytest.raises(errors.HeadCollapseError, match="at step 125"):
        start(Detached(scheduler, FAST), ordered).result(20)
    assert len(scheduler.submitted) == 1


def test_another_order_under_the_same_name_ends_the_running_one_first(ordered: Ordered) -> None:
    """Two trainings would write one state."""

    def work(box: Mailbox, stop: threading.Event) -> None:
        if len(scheduler.submitted) > 1:
            finish(box)
        else:
            beat_until(box, stop)

    scheduler = FakeScheduler(work)
    Detached(scheduler, FAST).submit(ordered.task)
    changed = detached.Task(**{**vars(ordered.task), "version": "next"})

    Detached(scheduler, FAST).perform(changed)

    assert scheduler.cancelled == ["1"]
    assert len(scheduler.submitted) == 2


def test_a_folder_is_no_store_for_a_worker_far_away(ordered: Ordered) -> None:
    """It would pay for a GPU to find that out."""
    scheduler = FakeScheduler(lambda *_: None, name="hf-jobs", shares_folders=False)

    with pytest.raises(errors.ConfigurationError, match="Set DENTSIGHT_STORE to a bucket"):
        Detached(scheduler, FAST).perform(ordered.task)
    assert scheduler.submitted == []


@pytest.fixture
def here(ordered: Ordered, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """This machine is chosen now; gives the work that it was asked to do."""
    asked: list[str] = []
    monkeypatch.setenv(choice.BACKEND_VARIABLE, "local")
    monkeypatch.setattr(choice.LocalBackend, "perform", lambda self, task: asked.append(task.key))
    return asked


def test_a_job_goes_on_where_it_was_ordered_although_another_backend_is_chosen_now(
    ordered: Ordered, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting changed between two attempts: the training must not run twice, and is adopted and told of once."""
    release = threading.Event()
    scheduler = FakeScheduler(lambda box, _: finish(box, 3, lambda: not release.is_set()))
    Detached(scheduler, FAST).submit(ordered.task)
    monkeypatch.setitem(choice.SCHEDULERS, "slurm", lambda: scheduler)
    monkeypatch.setattr(choice, "_detached", lambda name: Detached(choice.SCHEDULERS[name](), FAST))
    threading.Timer(0.5, release.set).start()

    result = choice.perform(ordered.task)

    assert (result.job, here) == (detached.digest_of(ordered.task), [])
    assert sum("is heard again" in line for line in ordered.log.lines) == 1
    assert len(scheduler.submitted) == 1


def test_a_job_that_is_gone_at_the_earlier_backend_goes_on_at_the_one_chosen_now(
    ordered: Ordered, here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways: from Slurm to Ray with the state in the store, and from there to this machine."""
    saved = tmp_path / "step-00000005"
    saved.mkdir()
    (saved / "state.json").write_text("{}")
    gone, next_one = FakeScheduler(lambda *_: None), FakeScheduler(lambda *_: None, name="ray")
    monkeypatch.setitem(choice.SCHEDULERS, "slurm", lambda: gone)
    monkeypatch.setitem(choice.SCHEDULERS, "ray", lambda: next_one)
    Detached(gone, FAST).submit(ordered.task)
    mailbox(ordered.task).save_state(5, saved)
    wait_until(lambda: not gone._lives("1"), 10)
    monkeypatch.setenv(choice.BACKEND_VARIABLE, "ray")
    monkeypatch.setattr(Detached, "watch", lambda self, task, handle: handle)

    note: object = choice.perform(ordered.task)

    assert note == mailbox(ordered.task).note()
    assert isinstance(note, Note) and (note.backend, note.attempt, note.step) == ("ray", 2, 5)
    monkeypatch.setenv(choice.BACKEND_VARIABLE, "local")
    wait_until(lambda: not next_one._lives("1"), 10)
    choice.perform(ordered.task)
    assert here == [ordered.task.key]
    assert (ordered.task.job.folder / "checkpoints" / "step-00000005" / "state.json").exists()


def test_an_earlier_backend_that_cannot_be_asked_is_left_behind_with_a_word(ordered: Ordered, here: list[str]) -> None:
    """Its settings are gone for good; should its worker still live, it finds itself replaced."""
    Detached(FakeScheduler(beat_until, name="moon"), FAST).submit(ordered.task)

    choice.perform(ordered.task)

    assert here == [ordered.task.key]
    assert ordered.log.has("ordered at moon")


def test_a_backend_of_no_name_is_refused_with_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error must not train on this machine."""
    monkeypatch.setenv(choice.BACKEND_VARIABLE, "slrum")

    with pytest.raises(errors.ConfigurationError, match="there are local, slurm"):
        choice.backend_name()


def test_a_worker_that_was_replaced_finds_out_at_its_next_beat(store: Store) -> None:
    """A node that was given up for lost comes back; it must not write into its successor's state."""
    box = Mailbox(store, "fit-a-b")
    old = Sender(box, {}, "old")
    old.send()
    Sender(box, {}, "new").send()

    with pytest.raises(errors.RefConflictError):
        old.send()


def test_pieces_are_copied_once_although_the_copier_dies_between_copying_and_noting(
    store: Store, tmp_path: Path
) -> None:
    """MLflow's curves would run backwards."""
    box, events = Mailbox(store, "fit-a-b"), tmp_path / "sent.jsonl"
    sender = Sender(box, {"events": events}, "here")
    lines = [codec.write(Message(time=1.0, text=str(number))) + b"\n" for number in range(4)]
    for number in range(4):
        with events.open("ab") as file:
            file.write(lines[number])
        sender.send()
        if number == 1:
            Receiver(box, tmp_path / "there").receive()
        if number == 2:
            dying = Receiver(box, tmp_path / "there")
            dying._copy("events", 3)  # killed here, before the note
    Receiver(box, tmp_path / "there").receive()

    assert (tmp_path / "there" / "events.jsonl").read_bytes() == b"".join(lines)


def test_a_half_written_line_waits_for_its_end(store: Store, tmp_path: Path) -> None:
    """Half a line of JSON is no event."""
    box, events = Mailbox(store, "fit-a-b"), tmp_path / "sent.jsonl"
    sender = Sender(box, {"events": events}, "here")
    for text in ("one\ntw", "o\n"):
        with events.open("a") as file:
            file.write(text)
        sender.send()

    assert [box.read_piece("events", number) for number in (0, 1)] == [b"one\n", b"two\n"]


def test_a_state_travels_whole_and_a_damaged_one_is_refused(store: Store, tmp_path: Path) -> None:
    """The worker's node is another one each time."""
    box, saved = Mailbox(store, "fit-a-b"), tmp_path / "step-00000007"
    saved.mkdir()
    (saved / "model.safetensors").write_bytes(b"weights")
    (saved / "state.json").write_bytes(b"{}")
    assert box.save_state(7, saved)

    assert box.fetch_state(tmp_path / "node-1") == 7
    assert (tmp_path / "node-1" / "checkpoints" / "step-00000007" / "model.safetensors").read_bytes() == b"weights"

    state = box.state()
    assert state is not None
    store.blobs.write(f"jobs/fit-a-b/state/{state.files['state.json']}", b"{!")
    with pytest.raises(errors.IntegrityError, match="to train from the start"):
        box.fetch_state(tmp_path / "node-2")


def test_a_state_that_is_saved_anew_while_it_is_read_is_not_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TERM saves the step that was just saved once more; files of both would fit neither's sums."""
    box, saved = Mailbox(store, "fit-a-b"), tmp_path / "step-00000006"
    for folder, content in ((saved, b"first"), (tmp_path / ".writing", b"second")):
        folder.mkdir()
        for name in ("model.safetensors", "state.json"):
            (folder / name).write_bytes(content)
    put = box._put

    def put_and_replace(path: Path) -> str:
        digest = put(path)
        if (tmp_path / ".writing").exists():
            shutil.rmtree(saved)
            (tmp_path / ".writing").rename(saved)
        return digest

    monkeypatch.setattr(box, "_put", put_and_replace)

    assert not box.save_state(6, saved)
    assert box.state() is None
    assert box.save_state(6, saved)
    assert box.fetch_state(tmp_path / "node") == 6
    assert (tmp_path / "node" / "checkpoints" / "step-00000006" / "state.json").read_bytes() == b"second"


def test_the_bytes_of_an_older_state_are_not_kept(store: Store, tmp_path: Path) -> None:
    """A checkpoint of half a gigabyte each minute would fill the store."""
    box = Mailbox(store, "fit-a-b")
    for step, text in ((1, "one"), (2, "two")):
        saved = tmp_path / f"step-{step}"
        saved.mkdir()
        (saved / "model.safetensors").write_text(text)
        (saved / "best.safetensors").write_text("best")
        box.save_state(step, saved)

    assert len(list(store.blobs.scan("jobs/fit-a-b/state/"))) == 2
