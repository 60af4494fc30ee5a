"""Slurm for real: Debian's daemons on this machine, and trainings of some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dentsight_pipeline import errors
from dentsight_pipeline.orchestration.backends import detached
from dentsight_pipeline.orchestration.backends.base import Phase, UnreachableError
from dentsight_pipeline.orchestration.backends.detached import Detached, mailbox
from dentsight_pipeline.orchestration.backends.slurm import OPTIONS_VARIABLE, Slurm
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.orchestration.backends.cluster import Cluster, slurm
from dentsight_pipeline_tests.orchestration.backends.conftest import tiny
from dentsight_pipeline_tests.orchestration.backends.tasks import (
    QUICK,
    Ordered,
    fit_task,
    start,
    undisturbed,
    wait_until,
)
from dentsight_pipeline_tests.training.conftest import make_subset


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster."""
    with slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user of the cluster has; a scratch folder of this test alone."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    monkeypatch.setenv("DENTSIGHT_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv(OPTIONS_VARIABLE, raising=False)
    for daemon in ("slurmctld", "slurmd"):
        if cluster.processes[daemon].poll() is not None:
            cluster.run(daemon)
    cluster.wait_for_node()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest]:
    """A store with a tiny subset."""
    store = open_store(tmp_path_factory.mktemp("data") / "store")
    return store, make_subset(store, {"train": 12, "valid": 5})


Order = Callable[..., Ordered]


@pytest.fixture
def order(data: tuple[Store, Manifest], tmp_path: Path) -> Order:
    """Makes tasks; each has a seed of its own, and so work of its own."""

    def make(steps: int = 8, **fields: Any) -> Ordered:
        return fit_task(*data, tiny(steps, seed=abs(hash(tmp_path.name)) % 10_000, **fields), tmp_path)

    return make


def after_step(ordered: Ordered, step: int) -> None:
    """Wait until a training has told this step's loss."""
    wait_until(lambda: max(ordered.steps, default=0) >= step, 300, f"step {step}")


def test_a_job_is_submitted_found_looked_at_and_cancelled(cluster: Cluster) -> None:
    """The five commands that the backend is made of."""
    scheduler = Slurm()
    job = scheduler.submit("dentsight-x-1", ["sleep", "60"], cluster.folder)
    wait_until(lambda: scheduler.look(job).phase is Phase.RUNNING, 20)

    assert scheduler.find("dentsight-x-1") == job
    assert scheduler.find("dentsight-y-1") is None
    scheduler.cancel(job)
    wait_until(lambda: scheduler.look(job).phase is Phase.GONE, 20)
    scheduler.cancel(job)
    assert scheduler.look("4000000").phase is Phase.GONE


def test_a_queued_job_waits_with_a_reason_and_is_cancelled_in_the_queue(cluster: Cluster) -> None:
    """More than the partition has: it would wait for ever, and the log says why."""
    scheduler = Slurm(("--hold",))
    job = scheduler.submit("dentsight-x-2", ["sleep", "60"], cluster.folder)

    look = scheduler.look(job)

    assert (look.phase, "JobHeldUser" in look.words) == (Phase.WAITING, True)
    scheduler.cancel(job)
    wait_until(lambda: scheduler.look(job).phase is Phase.GONE, 20)


def test_a_partition_that_does_not_exist_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is noted as running; the words are Slurm's and name the setting."""
    monkeypatch.setenv(OPTIONS_VARIABLE, "--partition=gpus")

    with pytest.raises(
        errors.ConfigurationError, match=f"(?s)invalid partition specified: gpus.*Correct {OPTIONS_VARIABLE}"
    ):
        Slurm.of_environment().submit("dentsight-x-3", ["true"], Path("/tmp"))


def test_options_are_read_as_a_shell_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment with blanks is one option; an open quote is told."""
    monkeypatch.setenv(OPTIONS_VARIABLE, "--gres=gpu:1 --comment='two words'")
    assert Slurm.of_environment() == Slurm(("--gres=gpu:1", "--comment=two words"))
    assert Slurm.of_environment().asks_for_gpu

    monkeypatch.setenv(OPTIONS_VARIABLE, "--comment='two")
    with pytest.raises(errors.ConfigurationError, match="Quote as in a shell"):
        Slurm.of_environment()


def test_without_slurm_the_pipeline_says_where_it_should_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every machine of a lab may submit."""
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(errors.ConfigurationError, match="on a node that can submit"):
        Slurm().look("1")


@pytest.mark.slow
def test_a_training_through_slurm_gives_what_it_gives_here(order: Order) -> None:
    """Log, losses and result come through the store alone."""
    ordered = order(8)

    result = start(Detached(Slurm(), QUICK), ordered).result(600)

    assert ordered.steps == list(range(1, 9))
    assert ordered.log.has("train 8/8")
    assert mailbox(ordered.task).store.has_manifest(result.digest)
    assert mailbox(ordered.task).state() is None


@pytest.mark.slow
def test_a_requeued_job_saves_its_state_and_resumes(cluster: Cluster, order: Order) -> None:
    """Preemption sends TERM, and starts the job again on another node: the same checkpoint as undisturbed."""
    disturbed = order(20, evaluate_every_steps=10)
    waiting = start(Detached(Slurm(), QUICK), disturbed)
    after_step(disturbed, 4)
    note = mailbox(disturbed.task).note()
    assert note is not None and note.job_id is not None
    cluster.ask("scontrol", "requeue", note.job_id)
    result = waiting.result(600)

    assert disturbed.said("Resuming at step")
    assert sorted(set(disturbed.steps)) == list(range(1, 21))
    after = mailbox(disturbed.task).note()
    assert after is not None and after.attempt == 1, "it was requeued by Slurm, not ordered again"
    assert result.digest == undisturbed(order(20, evaluate_every_steps=10))


def interrupted(*_: object) -> None:
    """What a cancel of the step does to whoever waits."""
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_time_limit_is_survived_and_a_cancel_ends_the_job(
    cluster: Cluster, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TERM comes before the limit, the state is saved, and the next job goes on from there, until somebody cancels."""
    ordered = order(4000, evaluate_every_steps=2000)
    waiting = start(Detached(Slurm(("--time=1", "--signal=B:TERM@20")), QUICK), ordered)
    wait_until(lambda: ordered.said("Resuming at step"), 600, "a second attempt")
    assert ordered.log.has("It is ordered again, from step")
    monkeypatch.setattr(detached._Watch, "_mend", interrupted)

    with pytest.raises(KeyboardInterrupt):
        waiting.result(120)
    wait_until(lambda: not cluster.jobs(), 120, "an empty queue")


@pytest.mark.slow
def test_slurmd_is_killed_and_the_training_goes_on_to_its_result(cluster: Cluster, order: Order) -> None:
    """squeue says R for ever; the result is in the store."""
    ordered = order(12, evaluate_every_steps=6)
    waiting = start(Detached(Slurm(), QUICK), ordered)
    after_step(ordered, 3)
    cluster.kill("slurmd")
    result = waiting.result(600)

    assert mailbox(ordered.task).store.has_manifest(result.digest)
    assert any("RUNNING" in line or "COMPLETING" in line for line in cluster.jobs()), cluster.jobs()


@pytest.mark.slow
def test_a_node_that_lost_its_power_is_given_up_although_squeue_says_running(cluster: Cluster, order: Order) -> None:
    """Nothing is heard, so the job is ended and ordered again, and resumes on the node that comes back."""
    ordered = order(20, evaluate_every_steps=10)
    waiting = start(Detached(Slurm(), QUICK), ordered)
    after_step(ordered, 4)
    wait_until(lambda: mailbox(ordered.task).state(), 20)
    cluster.kill("slurmd", with_jobs=True)
    assert any("RUNNING" in line for line in cluster.jobs())
    wait_until(lambda: ordered.log.has("was silent for"), 60)
    cluster.run("slurmd")
    result = waiting.result(600)

    assert ordered.said("Resuming at step")
    assert result.digest == undisturbed(order(20, evaluate_every_steps=10))


@pytest.mark.slow
def test_the_controller_is_away_and_comes_back(cluster: Cluster, order: Order) -> None:
    """A cluster gone for a while: the training does not notice, and the orchestrator only says so."""
    ordered = order(12, evaluate_every_steps=6)
    waiting = start(Detached(Slurm(), QUICK), ordered)
    after_step(ordered, 3)
    cluster.kill("slurmctld")
    with pytest.raises(UnreachableError):
        Slurm().look("1")
    result = waiting.result(600)

    assert mailbox(ordered.task).store.has_manifest(result.digest)


@pytest.mark.slow
def test_a_job_that_slurm_holds_for_ever_is_taken_out_and_ordered_again(cluster: Cluster, order: Order) -> None:
    """A node that cannot start it is drained, and the job waits for a person ("launch failed requeued held")."""
    cluster.ask("scancel", "--user=root")  # a controller that was killed may have brought an earlier job back
    wait_until(lambda: not cluster.jobs(), 120, "an empty queue")
    ordered = order(8)
    cluster.broken.touch()
    waiting = start(Detached(Slurm(), QUICK), ordered)
    wait_until(lambda: "requeued held" in cluster.ask("squeue", "--noheader", "--format=%r"), 60, "a held job")
    cluster.broken.unlink()
    cluster.take_in()
    result = waiting.result(180)

    note = mailbox(ordered.task).note()
    assert note is not None and note.attempt > 1
    assert ordered.log.has("requeued held")
    assert result.digest == undisturbed(order(8))
    wait_until(lambda: not cluster.jobs(), 120, "an empty queue")


@pytest.mark.slow
def test_the_orchestrator_is_gone_and_the_next_one_adopts(order: Order) -> None:
    """The job runs on without anybody; whoever comes hears all of it."""
    first = order(12, evaluate_every_steps=6)
    backend = Detached(Slurm(), QUICK)
    backend.submit(first.task)
    time.sleep(5)
    second = order(12, evaluate_every_steps=6)

    result = start(backend, second).result(600)

    assert second.steps == list(range(1, 13))
    assert result.digest


@pytest.mark.slow
def test_a_trainer_killed_on_its_node_is_started_again_there(order: Order, tmp_path: Path) -> None:
    """The worker beside it lives, so that no scheduler has to."""
    ordered = order(20, evaluate_every_steps=10)
    waiting = start(Detached(Slurm(), QUICK), ordered)
    after_step(ordered, 4)
    trainers = [
        p for p in psutil.process_iter(["cmdline"]) if str(tmp_path / "scratch") in " ".join(p.info["cmdline"] or [])
    ]
    for process in trainers:
        process.kill()
    result = waiting.result(600)

    assert trainers
    assert ordered.said("Resuming at step")
    assert result.digest


@pytest.mark.slow
def test_two_tasks_train_together_and_a_killed_one_ends_the_job_which_resumes(order: Order, tmp_path: Path) -> None:
    """torchrun over the tasks of a job: the same images a step and the same validation as one process."""
    ordered = order(16, evaluate_every_steps=8, batch_size=4)
    waiting = start(Detached(Slurm(("--ntasks=2",)), QUICK), ordered)
    after_step(ordered, 4)
    for process in psutil.process_iter(["cmdline"]):
        if "-task-1/job.json" in " ".join(process.info["cmdline"] or []):
            process.kill()
    result = waiting.result(600)

    manifest = mailbox(ordered.task).store.get_manifest(result.digest)
    assert ordered.said("2 process(es)")
    assert ordered.said("Resuming at step")
    assert manifest
