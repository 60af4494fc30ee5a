"""Several runs at once on one machine, and an MLflow server that goes away while they train."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dentsight_pipeline.commands.ui import mlflow_command
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline_tests.local_server import free_port
from dentsight_pipeline_tests.orchestration.assets.conftest import Home
from dentsight_pipeline_tests.orchestration.conftest import DATASET
from dentsight_pipeline_tests.orchestration.servers import (
    TINY_TRAINING,
    Servers,
    events_of,
    trainings_of,
    wait_for_step,
)
from dentsight_pipeline_tests.orchestration.test_crashes import assert_nothing_is_left, assert_trained_once_and_whole

pytestmark = pytest.mark.slow

STEPS = 24
LOCKED = re.compile(r"database is locked|database table is locked|OperationalError", re.IGNORECASE)


def test_three_runs_at_once_train_one_after_the_other_and_lose_nothing(servers: Servers, server_home: Home) -> None:
    """One GPU slot: two trainings at a time would run out of memory; three workers share three SQLite databases."""
    before = trainings_of(server_home)
    runs = [servers.train(DATASET, max_steps=str(STEPS), seed=str(100 + number)) for number in range(3)]
    ended = [servers.wait(run) for run in runs]
    made = trainings_of(server_home) - before
    spans = []
    for training in made:
        times = [event["time"] for event in events_of(server_home) if event["training"] == training]
        spans.append((min(times), max(times)))
    spans.sort()
    logs = [server_home.folder / "servers.log"]
    logs += (server_home.folder / "workspace" / "dagster" / "storage" / "run_workers").glob("*.log")

    assert [[run["status"] for run in group] for group in ended] == [["SUCCESS"]] * 3
    assert len(made) == 3
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    for training in made:
        assert_trained_once_and_whole(server_home, training, resumed=False)
    assert_nothing_is_left(servers, server_home)
    assert [path.name for path in logs if LOCKED.search(path.read_text(errors="replace"))] == []


class MlflowServer:
    """A real MLflow server that can be stopped and started again on the same database and port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        workspace = Workspace(root=str(folder))
        self._tracking = Tracking(workspace=workspace)
        self._tracking.client.search_experiments()  # creates the database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        database = {"MLFLOW_BACKEND_STORE_URI": self._tracking.tracking_uri}
        environment = {**os.environ, **database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        command = mlflow_command(self.port, self._tracking)
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
                return
            time.sleep(0.3)
        raise AssertionError("MLflow did not come up")

    def stop(self) -> None:
        """Kill it with all its workers."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.mark.parametrize("returns", ["during training", "after everything"])
def test_training_goes_on_while_mlflow_is_down_and_its_figures_arrive_afterwards(
    servers: Servers, server_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returns: str
) -> None:
    """The tracking server is upgraded or reboots; no hour of GPU may depend on it."""
    server = MlflowServer(tmp_path / "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    before = trainings_of(server_home)
    fields = {**TINY_TRAINING, "max_steps": str(2 * STEPS), "seed": str(len(returns))}
    options = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "dentsight_pipeline.cli", "run", "--dataset", DATASET, *options]
    output = (tmp_path / "run.log").open("wb")
    server.start()
    try:
        run = subprocess.Popen(
            command, cwd=server_home.folder, env=server_home.environment, stdout=output, stderr=output
        )
        training = wait_for_step(server_home, before, 4)
        server.stop()
        if returns == "during training":
            wait_for_step(server_home, before, STEPS)
            server.start()
        status = run.wait(300)
        server.start() if returns == "after everything" else None
        tracking = Tracking(workspace=Workspace(root=str(server_home.folder / "workspace")), uri=server.url)
        waiting = tracking.waiting()
        delivered = tracking.deliver()
        client = MlflowClient(server.url)
        found = client.search_runs([tracking.experiment_id])
        by_stage = {run.data.tags["dentsight.stage"]: run for run in found}
        losses = [point.step for point in client.get_metric_history(by_stage["train"].info.run_id, "train/loss")]
        uploaded = client.list_artifacts(by_stage["train"].info.run_id, "checkpoint")
    finally:
        server.stop()
        output.close()

    assert status == 0, (tmp_path / "run.log").read_text()[-3000:]
    assert bool(waiting) == (returns == "after everything")
    assert delivered == (len(waiting), 0)
    assert sorted(run.data.tags["dentsight.stage"] for run in found) == ["evaluate", "predict", "train"]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert losses == list(range(1, 2 * STEPS + 1))
    assert training in trainings_of(server_home)
    assert "dentsight.checkpoint_digest" in by_stage["train"].data.tags
    assert uploaded
