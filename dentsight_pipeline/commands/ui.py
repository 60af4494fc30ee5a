"""The two user interfaces on localhost: Dagster's and MLflow's, started together and stopped together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline.orchestration.resources import Workspace, find_home
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

LOCALHOST = "127.0.0.1"
"""Neither interface has a login, so neither ever listens on anything but this."""


RESTARTS, RESTARTS_WITHIN_SECONDS = 5, 600.0
"""A server that dies is started again; one that dies this often within that time has a reason that stays."""


def serve(dagster_port: int, mlflow_port: int) -> None:
    """Start both interfaces, print their addresses, and keep them until Ctrl-C; one that dies is started again.

    Args:
        dagster_port: Wanted port of Dagster; the next free one is taken when it is in use.
        mlflow_port: Wanted port of MLflow, likewise.

    Raises:
        ConfigurationError: There is no `dagster.yaml` here or above.
        DentsightError: One of the two did not come up, or dies again and again.
    """
    home = find_home()
    for name in ("dagster.yaml", "workspace.yaml"):
        if not (home / name).is_file():
            raise ConfigurationError(f"There is no {name} in {home}. Prepare a folder with `dentsight workspace init`.")
    os.chdir(home)
    workspace = Workspace()
    workspace.folder.mkdir(parents=True, exist_ok=True)
    dagster_port = free_port(dagster_port)
    mlflow_port = free_port(mlflow_port)
    commands = {"Dagster": dagster_command(dagster_port)}
    addresses = {"Dagster": f"http://{LOCALHOST}:{dagster_port}"}
    tracking = Tracking(workspace=workspace)
    if not tracking.is_server:
        tracking.client.search_experiments()  # creates the database once, before two servers race for it
        commands["MLflow"] = mlflow_command(mlflow_port, tracking)
        addresses["MLflow"] = f"http://{LOCALHOST}:{mlflow_port}"
    else:
        sys.stderr.write(f"MLflow runs elsewhere: {tracking.address}\n")
    logs = workspace.folder / "logs"
    logs.mkdir(exist_ok=True)
    started: dict[str, subprocess.Popen[bytes]] = {}
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # Ctrl-C, `kill`, a terminal that is closed
        signal.signal(ending, signal.default_int_handler)
    deaths: dict[str, list[float]] = {name: [] for name in commands}
    try:
        for name, command in commands.items():
            started[name] = _start(name, command, home, logs)
        for name, address in addresses.items():
            _wait_for(name, address, started[name], logs)
            sys.stdout.write(f"{name}: {address}\n")
        sys.stdout.write("Ctrl-C stops both.\n")
        sys.stdout.flush()
        while True:
            for name, process in started.items():
                if process.poll() is not None:
                    _note_death(name, process, deaths[name], logs)
                    stop({name: process})  # what it started must not keep the port
                    started[name] = _start(name, commands[name], home, logs)
            time.sleep(0.5)
    except KeyboardInterrupt:
        sys.stderr.write("Stopping …\n")
    finally:
        stop(started)
        _tell_what_goes_on()


def _start(name: str, command: list[str], home: Path, logs: Path) -> subprocess.Popen[bytes]:
    with (logs / f"{name.lower()}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment(home), start_new_session=True)


def _note_death(name: str, process: subprocess.Popen[bytes], deaths: list[float], logs: Path) -> None:
    """Say that a server is started again, or give up on it."""
    now = time.monotonic()
    deaths[:] = [*(moment for moment in deaths if now - moment < RESTARTS_WITHIN_SECONDS), now]
    log = logs / f"{name.lower()}.log"
    if len(deaths) > RESTARTS:
        raise DentsightError(f"{name} ended with status {process.returncode} for the {len(deaths)}th time; see {log}.")
    sys.stderr.write(f"{name} ended with status {process.returncode} and is started again; see {log}.\n")
    sys.stderr.flush()


def _tell_what_goes_on() -> None:
    """Runs have processes of their own: say so where somebody believes that all has ended."""
    from dentsight_pipeline.orchestration.workers import workers

    going_on = len(workers())
    if going_on:
        sys.stderr.write(
            f"{going_on} run(s) go on by themselves; the next `dentsight ui` shows them. To end one, cancel it there.\n"
        )


def environment(home: Path) -> dict[str, str]:
    """The environment in which servers find this project's Dagster instance and database; MLflow starts no jobs."""
    return {
        **os.environ,
        "DAGSTER_HOME": os.environ.get("DAGSTER_HOME") or str(home),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": Tracking(workspace=Workspace()).tracking_uri,
    }


def dagster_command(port: int) -> list[str]:
    """The command that starts Dagster's webserver, daemon and code server."""
    return [sys.executable, "-m", "dagster", "dev", "-h", LOCALHOST, "-p", str(port), "-w", "workspace.yaml"]


def mlflow_command(port: int, tracking: Tracking) -> list[str]:
    """The command that starts MLflow on the database that `environment` names, where no list of processes shows it."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", LOCALHOST, "--port", str(port), "--workers", "1"),
        *("--default-artifact-root", tracking.artifacts),
    ]


def free_port(wanted: int, tries: int = 50) -> int:
    """The wanted port, or the next one on which nobody listens.

    Raises:
        ConfigurationError: None of the next ports is free.
    """
    for port in range(wanted, wanted + tries):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOCALHOST, port))
            except OSError:
                continue
            return port
    raise ConfigurationError(f"Ports {wanted} to {wanted + tries - 1} are all in use. Choose another one.")


def _wait_for(name: str, address: str, process: subprocess.Popen[bytes], logs: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.3)
    raise DentsightError(f"{name} did not come up on {address}; see {logs / (name.lower() + '.log')}.")


def stop(started: Mapping[str, subprocess.Popen[bytes]], grace_seconds: float = 20) -> None:
    """End the servers and whatever they started, by force when they take too long."""
    for process in started.values():
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + grace_seconds
    for process in started.values():
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
