"""MLflow runs over outages: work never waits, nothing is lost, nothing is told twice. The MLflow is a real one."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dentsight_pipeline.orchestration import automation
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking import outbox
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.store import content


@dataclass
class Line:
    """The line to MLflow, which a test can cut."""

    client: MlflowClient
    down: bool = False
    lose_answers: int = 0
    late: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self) -> Any:
        if self.down:
            raise ConnectionError("MLflow is away")
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def create_run(self, *arguments: Any, **options: Any) -> Any:
        """Create a run; the answer may get lost on the way back."""
        made = self.client.create_run(*arguments, **options)
        if self.lose_answers:
            self.lose_answers -= 1
            raise TimeoutError("no answer in time")
        return made


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """A workspace with its MLflow on SQLite."""
    tracking = Tracking(workspace=Workspace(root=str(tmp_path_factory.mktemp("home") / "workspace")))
    assert tracking.experiment_id
    return tracking


@pytest.fixture
def line(tracked: Tracking) -> Line:
    """A line that works."""
    return Line(tracked.client)


@pytest.fixture
def tracking(tracked: Tracking, line: Line, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """The tracking resource behind that line; it has no patience at the end of a run, and none between two tries."""
    monkeypatch.setattr(outbox, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 0.0)
    tracking = Tracking(workspace=tracked.workspace)
    tracking.__dict__["client"] = line
    monkeypatch.setattr(
        Tracking,
        "_server",
        property(
            lambda self: outbox.Server(
                client=line,
                experiment_id=lambda: tracked.experiment_id,
                materialise=self._materialise,
                created_late=self._record_late_run,
            )
        ),
    )
    return tracking


def runs_named(tracked: Tracking, name: str) -> list[Any]:
    """All MLflow runs of a name."""
    return tracked.client.search_runs([tracked.experiment_id], f"attributes.run_name = '{name}'")


def steps_of(tracked: Tracking, run: Any, metric: str = "loss") -> list[int]:
    """The steps of a curve, in the order in which MLflow keeps them."""
    return [point.step for point in tracked.client.get_metric_history(run.info.run_id, metric)]


def test_while_mlflow_answers_nothing_is_written_to_disk(tracking: Tracking, tracked: Tracking) -> None:
    """The outbox is for outages: a healthy pipeline leaves no files to explain."""
    with tracking.run("healthy", params={"seed": 1}, tags={"a": "b"}) as run:
        run.metrics({"loss": 1.0, "nan": float("nan")}, 1)
        links = tracking.links(run)
    (made,) = runs_named(tracked, "healthy")

    assert made.info.status == "FINISHED"
    assert made.data.params == {"seed": "1"}
    assert made.data.metrics == {"loss": 1.0}
    assert links["mlflow_run"] == made.info.run_id
    assert list(tracking.outbox_folder.glob("*.jsonl")) == []


def test_an_outage_from_beginning_to_end_loses_nothing(tracking: Tracking, tracked: Tracking, line: Line) -> None:
    """The server is upgraded while a short training runs: its run appears afterwards, whole, with its own times."""
    line.down = True
    began = int(time.time() * 1000)
    with tracking.run("away", params={"seed": 2}, tags={"stage": "train"}) as run:
        for step in range(1, 1201):
            run.metrics({"loss": 1 / step}, step, timestamp_ms=1_700_000_000_000 + step)
        links = tracking.links(run)
    ended = int(time.time() * 1000)
    waiting = tracking.waiting()
    line.down = False
    time.sleep(0.05)
    delivered = tracking.deliver()
    (made,) = runs_named(tracked, "away")

    assert links == {}
    assert len(waiting) == 1
    assert delivered == (1, 0)
    assert steps_of(tracked, made) == list(range(1, 1201))
    assert made.info.status == "FINISHED"
    assert began <= made.info.start_time <= made.info.end_time <= ended
    assert made.data.params == {"seed": "2"}
    assert tracking.waiting() == []


def test_metrics_of_an_outage_in_between_arrive_in_order(tracking: Tracking, tracked: Tracking, line: Line) -> None:
    """A gap in a loss curve reads like a pause of the training."""
    with tracking.run("gap", params={}, tags={}) as run:
        for step in range(30):
            line.down = 10 <= step < 20
            run.metrics({"loss": float(step)}, step)
    (made,) = runs_named(tracked, "gap")

    assert steps_of(tracked, made) == list(range(30))
    assert made.info.status == "FINISHED"


def test_what_a_killed_worker_had_not_sent_is_sent_by_the_next_attempt(
    tracking: Tracking, tracked: Tracking, tmp_path: Path
) -> None:
    """Events are heard once: what only the dead worker's memory held would be missing for ever."""
    resume = tmp_path / "mlflow_run.json"
    program = f"""
import os
from pathlib import Path
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

class Away(Tracking):
    @property
    def client(self):
        raise ConnectionError("MLflow is away")

tracking = Away(workspace=Workspace(root={str(tracked.workspace.folder)!r}))
with tracking.run("killed", params={{"seed": 3}}, tags={{}}, resume=Path({str(resume)!r})) as run:
    run.metrics({{"loss": 1.0}}, 1)
    run.metrics({{"loss": 0.5}}, 2)
    os.kill(os.getpid(), 9)
"""
    status = subprocess.run([sys.executable, "-c", program], check=False).returncode
    with tracking.run("killed", params={"seed": 3}, tags={}, resume=resume) as run:
        run.metrics({"loss": 0.25}, 3)
    (made,) = runs_named(tracked, "killed")

    assert status == -9
    assert steps_of(tracked, made) == [1, 2, 3]
    assert made.info.status == "FINISHED"
    assert made.data.params == {"seed": "3"}


def test_a_resumed_training_goes_on_in_the_same_run(tracking: Tracking, tracked: Tracking, tmp_path: Path) -> None:
    """A failed attempt and its continuation are one training, not a torso and a run that starts in the middle."""
    resume = tmp_path / "mlflow_run.json"
    with (
        pytest.raises(RuntimeError, match="cut"),
        tracking.run("resumed", params={"seed": 4}, tags={"dagster": "first"}, resume=resume) as run,
    ):
        run.metrics({"loss": 1.0}, 1)
        raise RuntimeError("cut")
    (failed,) = runs_named(tracked, "resumed")
    with tracking.run("resumed", params={"seed": 4}, tags={"dagster": "second"}, resume=resume) as run:
        during = tracked.client.get_run(failed.info.run_id).info.status
        run.metrics({"loss": 0.5}, 2)
    (made,) = runs_named(tracked, "resumed")

    assert failed.info.status == "FAILED"
    assert during == "RUNNING"
    assert made.info.status == "FINISHED"
    assert made.data.tags["dagster"] == "second"
    assert steps_of(tracked, made) == [1, 2]


def test_a_creation_whose_answer_was_lost_is_not_repeated(tracking: Tracking, tracked: Tracking, line: Line) -> None:
    """A time-out says nothing about whether the server did it."""
    line.lose_answers = 1
    with tracking.run("twice?", params={}, tags={}) as run:
        run.metrics({"loss": 1.0}, 1)
    (made,) = runs_named(tracked, "twice?")

    assert made.info.status == "FINISHED"
    assert steps_of(tracked, made) == [1]


def test_a_run_that_was_deleted_on_the_server_is_created_anew(
    tracking: Tracking, tracked: Tracking, tmp_path: Path
) -> None:
    """Somebody who tidies up MLflow must not make a training unrecordable."""
    resume = tmp_path / "mlflow_run.json"
    with pytest.raises(RuntimeError, match="cut"), tracking.run("deleted", params={}, tags={}, resume=resume):
        raise RuntimeError("cut")
    (gone,) = runs_named(tracked, "deleted")
    tracked.client.delete_run(gone.info.run_id)
    with tracking.run("deleted", params={"seed": 5}, tags={}, resume=resume) as run:
        run.metrics({"loss": 1.0}, 1)
    (made,) = runs_named(tracked, "deleted")

    assert made.info.run_id != gone.info.run_id
    assert made.info.status == "FINISHED"
    assert made.data.params == {"seed": "5"}


def test_what_mlflow_will_never_take_does_not_hold_up_the_rest(tracking: Tracking, tracked: Tracking) -> None:
    """One metric name that the server refuses must not stop the end of the run from arriving."""
    with tracking.run("refused", params={"seed": 1}, tags={}) as run:
        run.params({"seed": 2})  # MLflow does not change a parameter
        run.metrics({"loss": 1.0}, 1)
        problems = list(run.problems)
    (made,) = runs_named(tracked, "refused")

    assert made.info.status == "FINISHED"
    assert any("refused params" in problem for problem in problems)


def test_a_product_whose_run_was_created_late_gets_a_record_that_names_it(
    tracking: Tracking, tracked: Tracking, line: Line
) -> None:
    """`dentsight audit` holds MLflow's tags against the product's records; a run that no record names reads forged."""
    store = tracking.workspace.store
    made = content.build(store, "checkpoint", {"model/config.json": b"{}"}, {}, {})
    store.put_manifest(made)
    line.down = True
    with tracking.run("late", params={}, tags={}) as run:
        run.artifacts(made.digest, "checkpoint")
        run.made("checkpoint", made.digest)
    line.down = False
    with dg.build_sensor_context(resources={"tracking": tracking}) as context:
        automation.late_tracking(context)
    (late,) = runs_named(tracked, "late")
    files = tracked.client.list_artifacts(late.info.run_id, "checkpoint/model")

    assert late.data.tags["dentsight.checkpoint_digest"] == made.digest
    assert [record["mlflow_run"] for record in store.records(made.digest)] == [late.info.run_id]
    assert [file.path for file in files] == ["checkpoint/model/config.json"]


def test_what_waits_for_another_server_is_left_to_it(tracking: Tracking, tracked: Tracking, line: Line) -> None:
    """Told to the wrong server, a run would exist where nobody looks for it, and be gone where they do."""
    elsewhere = Tracking(workspace=tracked.workspace, uri="http://127.0.0.1:9")
    line.down = True
    with elsewhere.run("elsewhere", params={}, tags={}):
        pass
    line.down = False
    delivered = tracking.deliver()
    waiting = elsewhere.waiting()
    for path in tracking.outbox_folder.glob("*.jsonl"):
        path.unlink()

    assert delivered == (0, 0)
    assert len(waiting) == 1
    assert runs_named(tracked, "elsewhere") == []


def test_the_password_of_an_mlflow_address_is_kept_nowhere(tmp_path: Path) -> None:
    """Outbox and scratch folders are copied with backups, and the doctor's lines into tickets."""
    tracking = Tracking(workspace=Workspace(root=str(tmp_path)), uri="http://somebody:secret@127.0.0.1:9")
    resume = tmp_path / "mlflow_run.json"
    with tracking.run("away", params={}, tags={}, resume=resume):
        pass
    written = [path.read_text() for path in (resume, *tracking.outbox_folder.glob("*.jsonl"))]

    assert len(written) == 2
    assert all("http://somebody:***@127.0.0.1:9" in text and "secret" not in text for text in written)
    assert len(tracking.waiting()) == 1
    assert "secret" not in tracking.url("run", "1")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg2://u:p@db:5432/mlflow", "postgresql+psycopg2://u:***@db:5432/mlflow"),
        ("postgresql://u@db/mlflow", "postgresql://u@db/mlflow"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////home/a:b@c/mlflow.db", "sqlite:////home/a:b@c/mlflow.db"),
    ],
)
def test_an_address_is_shown_whole_but_for_its_password(uri: str, shown: str) -> None:
    """It says which server is meant; masked too much, two servers would look the same."""
    assert Tracking(workspace=Workspace(), uri=uri).address == shown


def test_a_run_that_somebody_is_writing_is_not_delivered_by_others(tracking: Tracking, line: Line) -> None:
    """Two senders of one queue would tell half of it twice and in the wrong order."""
    line.down = True
    with tracking.run("busy", params={}, tags={}) as run:
        run.end("FINISHED")
        line.down = False
        delivered = tracking.deliver()
    left = tracking.waiting()

    assert delivered == (0, 0)
    assert left == []


def test_the_run_of_a_killed_worker_reads_failed_once_its_run_is_given_up(
    tracking: Tracking, tracked: Tracking, line: Line
) -> None:
    """A run that stays RUNNING for ever looks like a training that is still going."""
    left = tracked.client.create_run(
        tracked.experiment_id, run_name="orphan", tags={"dentsight.dagster_run": "12345678-aaaa"}
    )
    tracking.__dict__["client"] = tracked.client
    count = tracking.fail_runs_of("12345678-aaaa")

    assert count == 1
    assert tracked.client.get_run(left.info.run_id).info.status == "FAILED"


def test_a_locked_database_is_tried_again(tracked: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup, or another process that writes for long, locks SQLite for seconds."""
    monkeypatch.setattr(outbox, "RETRY_SECONDS", 1.0)
    tracking = Tracking(workspace=tracked.workspace)
    with tracking.run("locked", params={}, tags={}) as run:
        run.metrics({"loss": 1.0}, 1)
        with contextlib.closing(sqlite3.connect(tracked.database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            run.metrics({"loss": 0.5}, 2)
            waited = not run.delivered
            other.execute("ROLLBACK")
        run.metrics({"loss": 0.25}, 3)
    (made,) = runs_named(tracked, "locked")

    assert waited
    assert steps_of(tracked, made) == [1, 2, 3]
    assert made.info.status == "FINISHED"


@pytest.mark.slow
def test_four_processes_that_meet_an_empty_workspace_make_one_good_database(tmp_path: Path) -> None:
    """Several processes that create one MLflow database at the same moment break it for good."""
    program = (
        "import sys\nfrom dentsight_pipeline.orchestration.resources import Workspace\n"
        "from dentsight_pipeline.orchestration.tracking.mlflow import Tracking\n"
        f"tracking = Tracking(workspace=Workspace(root={str(tmp_path / 'workspace')!r}))\n"
        "with tracking.run(f'run {sys.argv[1]}', params={}, tags={}) as run: run.metrics({'loss': 1.0}, 1)\n"
        "assert run.delivered, run.problems"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(4)]
    statuses = [process.wait(120) for process in started]
    tracking = Tracking(workspace=Workspace(root=str(tmp_path / "workspace")))
    runs = tracking.client.search_runs([tracking.experiment_id])

    assert statuses == [0] * 4
    assert sorted(str(run.info.run_name) for run in runs) == [f"run {number}" for number in range(4)]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_line_that_a_crash_cut_off_is_left_out(tracking: Tracking) -> None:
    """The outbox is written while machines lose power."""
    identity = outbox.Identity("cut", tracking.tracking_uri)
    path = tracking.outbox_folder / "cut.jsonl"
    outbox.write_lines(path, [identity.__dict__, {"do": "tags", "values": {}}])
    with path.open("a") as lines:
        lines.write(json.dumps({"do": "end"})[:7])
    content = outbox.read(tracking.outbox_folder, "cut")
    path.unlink()

    assert content == (identity, [{"do": "tags", "values": {}}])


@pytest.mark.parametrize("left", ["", '{"key": "bro', "\0\0\0\n"])
def test_a_file_that_a_power_cut_emptied_stops_no_training_and_no_delivery(tracking: Tracking, left: str) -> None:
    """Every later attempt at the training, and every delivery of other runs, once failed at such a file."""
    path = tracking.outbox_folder / "broken.jsonl"
    path.write_text(left)
    read, ended = outbox.read(tracking.outbox_folder, "broken"), outbox.ended(tracking.outbox_folder)
    path.unlink()

    assert read is None
    assert ended == []


def test_an_outage_is_told_apart_from_a_refusal() -> None:
    """Taking a refusal for an outage would try it again for ever; the other way round would lose figures."""
    codes = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}

    assert codes <= outbox._FINAL
    assert MlflowException("connection").error_code not in outbox._FINAL
