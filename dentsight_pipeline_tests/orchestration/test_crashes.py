"""`kill -9` of every part in the middle of a training, with real processes: it ends finished, resumed, nothing lost."""

from __future__ import annotations

import fcntl
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dentsight_pipeline_tests.orchestration.assets.conftest import Home
from dentsight_pipeline_tests.orchestration.conftest import DATASET
from dentsight_pipeline_tests.orchestration.servers import (
    Part,
    Servers,
    events_of,
    trainings_of,
    wait_for_step,
)

pytestmark = pytest.mark.slow

STEPS = 24
TRAINING_PARTS: tuple[Part, ...] = ("worker", "guard", "trainer")


def mlflow_run(home: Home, partition: str, training: str) -> Any:
    """The one MLflow run of a training; a torso beside it fails."""
    client = MlflowClient(f"sqlite:///{home.folder / 'workspace' / 'mlflow' / 'mlflow.db'}")
    known = json.loads((home.folder / "workspace" / "scratch" / "fit" / training / "mlflow_run.json").read_text())
    experiment = client.get_experiment_by_name("dentsight")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`dentsight.tracking_key` = '{known['key']}'")
    assert [run.info.run_id for run in found] == [known["run_id"]]
    return client, found[0]


def assert_nothing_is_left(servers: Servers, server_home: Home) -> None:
    """No slot is held, no GPU is locked, no process is left but the servers."""
    deadline, left = time.monotonic() + 40, []
    while time.monotonic() < deadline:
        left = [part for part in TRAINING_PARTS if servers.find(part)]
        if not left and not servers.slots_held():
            break
        time.sleep(0.5)
    with (server_home.folder / "workspace" / "locks" / "gpu-0.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert left == []
    assert servers.slots_held() == 0


def assert_trained_once_and_whole(home: Home, training: str, *, resumed: bool) -> None:
    """The training took every step, told every loss, resumed where it should have, and MLflow knows all of it."""
    events = [event for event in events_of(home) if event["training"] == training]
    resumptions = [event["text"] for event in events if event.get("text", "").startswith("Resuming at step")]
    client, run = mlflow_run(home, DATASET, training)
    told = {metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")}

    assert len(resumptions) == resumed
    assert all(int(text.split()[3]) > 0 for text in resumptions)
    assert run.info.status == "FINISHED"
    assert told == set(range(1, STEPS + 1))
    assert run.data.tags["dentsight.checkpoint_digest"]


def failures_told(home: Home) -> list[str]:
    """What people were told of failed runs."""
    path = home.folder / "workspace" / "notifications.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if json.loads(line)["event"] == "run_failed"]


@pytest.mark.parametrize(
    ("part", "resumes", "runs"),
    [
        ("trainer", True, 1),
        ("guard", True, 1),
        ("worker", True, 2),
        ("code server", False, 1),
        ("daemon", False, 1),
        ("webserver", False, 1),
    ],
)
def test_a_training_outlives_kill_9_of(
    servers: Servers, server_home: Home, part: Part, resumes: bool, runs: int
) -> None:
    """Nobody is there at night: whatever dies, the morning finds a finished training.

    A killed server leaves the training alone; a killed trainer is taken up again within its run; a killed worker is
    noticed by run monitoring and its run is retried. None of it may start the training anew.
    """
    before = trainings_of(server_home)
    run_id = servers.train(DATASET, max_steps=str(STEPS), seed=str(sum(part.encode())))
    training = wait_for_step(server_home, before, 9)

    servers.kill(part)
    servers.revive()
    group = servers.wait(run_id)

    assert [run["status"] for run in group] == ["FAILURE"] * (runs - 1) + ["SUCCESS"]
    assert_nothing_is_left(servers, server_home)
    assert_trained_once_and_whole(server_home, training, resumed=resumes)
    assert failures_told(server_home) == []


def test_an_experiment_outlives_a_power_cut(servers: Servers, server_home: Home) -> None:
    """Everything dies at the same moment: after the restart the whole chain is finished, from a resumed training."""
    before = trainings_of(server_home)
    whole = ("trained_checkpoint", "test_predictions", "class_metrics", "release_report", "released_model")
    run_id = servers.train(DATASET, assets=whole, max_steps=str(STEPS), seed="1")
    training = wait_for_step(server_home, before, 9)

    servers.kill_everything()
    left = servers.family()
    servers.start()
    group = servers.wait(run_id)

    assert left == []
    assert [run["status"] for run in group] == ["FAILURE", "SUCCESS"]
    assert_nothing_is_left(servers, server_home)
    assert_trained_once_and_whole(server_home, training, resumed=True)
    assert Path(server_home.folder / "workspace" / "reports" / DATASET / "smoke" / "report.html").is_file()


def test_a_cancelled_run_ends_and_its_training_with_it(servers: Servers, server_home: Home) -> None:
    """A run cancelled in the UI after the servers were restarted: the default launcher cannot find its worker then.

    The training saves what it has, so that launching it again goes on from there.
    """
    before = trainings_of(server_home)
    run_id = servers.train(DATASET, max_steps="2000", seed="2")
    training = wait_for_step(server_home, before, 3)
    servers.kill("code server")
    servers.kill("daemon")
    servers.revive()

    servers.cancel(run_id)
    group = servers.wait(run_id, seconds=90)

    assert [run["status"] for run in group] == ["CANCELED"]
    assert_nothing_is_left(servers, server_home)
    assert mlflow_run(server_home, DATASET, training)[1].info.status == "KILLED"
    last_words = json.loads(
        (server_home.folder / "workspace" / "scratch" / "fit" / training / "error.json").read_text()
    )
    assert re.search(r"asked to stop and did at step \d+ of 2000; its state is kept", last_words["message"])
