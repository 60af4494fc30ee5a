"""`dentsight ui` left alone: a server that dies comes back, and one that cannot come up is given up with a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dentsight_pipeline.commands import ui
from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline_tests.local_server import free_port
from dentsight_pipeline_tests.orchestration.assets.conftest import new_home


def answers(address: str, seconds: float = 120) -> bool:
    """Whether a server answers in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError):
            urllib.request.urlopen(address, timeout=5).close()
            return True
        time.sleep(0.3)
    return False


@pytest.mark.slow
def test_a_killed_server_is_started_again_on_the_same_address(tmp_path: Path) -> None:
    """Nobody restarts anything at night; and a bookmark has to stay good."""
    (tmp_path / "home").mkdir()
    home = new_home(tmp_path / "home")
    ports = free_port(), free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dentsight_pipeline.cli", "ui"),
            *("--dagster-port", str(ports[0]), "--mlflow-port", str(ports[1])),
        ],
        cwd=home.folder,
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        addresses = [process.stdout.readline().split()[1] for _ in range(2)]
        for child in psutil.Process(process.pid).children():
            os.kill(child.pid, signal.SIGKILL)
        told = [process.stderr.readline() for _ in range(2)]
        back = [answers(address) for address in addresses]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)

    assert [line.split(" ended")[0] for line in sorted(told)] == ["Dagster", "MLflow"]
    assert back == [True, True]


def test_a_server_that_dies_again_and_again_is_given_up_with_its_log(tmp_path: Path) -> None:
    """Started again for ever, a broken configuration would only fill the disk with logs."""
    server = ui.Server("MLflow", [], 5000, tmp_path)
    for _ in range(ui.RESTARTS):
        server.note_death(3)

    with pytest.raises(DentsightError, match=r"MLflow ended with status 3 for the 6th time; see .*mlflow\.log"):
        server.note_death(3)


def test_deaths_of_long_ago_do_not_count(tmp_path: Path) -> None:
    """Six power cuts in a month are no broken configuration."""
    long_ago = [time.monotonic() - 2 * ui.RESTARTS_WITHIN_SECONDS] * 50
    server = ui.Server("MLflow", [], 5000, tmp_path, deaths=long_ago)
    server.note_death(0)

    assert len(server.deaths) == 1


def test_a_server_that_ends_before_it_answers_is_told_with_its_log(tmp_path: Path) -> None:
    """Its reason is in there, and nowhere else."""
    server = ui.Server("MLflow", [sys.executable, "-c", "raise SystemExit('no such port')"], 1, tmp_path)
    process = server.start(tmp_path)
    process.wait()

    with pytest.raises(DentsightError, match=r"MLflow did not come up on http://127\.0\.0\.1:1; see .*mlflow\.log"):
        server.wait_for(process)
    assert server.log.read_text() == "no such port\n"


def test_a_port_in_use_is_passed_over() -> None:
    """Two projects on one machine, both with `make ui`."""
    import socket

    with socket.socket() as taken:
        taken.bind((ui.LOCALHOST, 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert ui.free_port(port) > port
        with pytest.raises(ConfigurationError, match="all in use"):
            ui.free_port(port, tries=1)


def test_a_folder_without_instance_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster would start with a temporary instance, and everything would be gone at the end."""
    monkeypatch.setenv("DENTSIGHT_HOME", str(tmp_path))

    with pytest.raises(ConfigurationError, match="dentsight workspace init"):
        ui.serve(3000, 5000)


def test_every_server_is_told_to_listen_on_localhost_only() -> None:
    """Neither has a login."""
    from dentsight_pipeline.orchestration.resources import Workspace
    from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

    dagster = ui.dagster_command(3000)
    mlflow = ui.mlflow_command(5000, Tracking(workspace=Workspace()))

    assert dagster[dagster.index("-h") + 1] == "127.0.0.1"
    assert mlflow[mlflow.index("--host") + 1] == "127.0.0.1"


def test_the_password_of_a_database_is_on_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user of a machine sees the command lines of its processes."""
    from dentsight_pipeline.orchestration.resources import Workspace
    from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://u:secret@db/mlflow")
    tracking = Tracking(workspace=Workspace())

    assert not tracking.is_server
    assert "secret" not in " ".join(ui.mlflow_command(5000, tracking))
    assert ui.environment(tmp_path)["MLFLOW_BACKEND_STORE_URI"] == tracking.tracking_uri
