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
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TextIO

from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline.orchestration.resources import Workspace, find_home
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

LOCALHOST = "127.0.0.1"
"""Neither interface has a login, so neither ever listens on anything but this."""
RESTARTS, RESTARTS_WITHIN_SECONDS = 5, 600.0
"""A server that dies is started again; one that dies this often within that time has a reason that stays."""


@dataclass
class Server:
    """One of the two, in a session of its own: how it is started, where it answers and logs, and when it died."""

    name: str
    command: list[str]
    port: int
    logs: Path
    deaths: list[float] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{LOCALHOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.logs / f"{self.name.lower()}.log"

    def start(self, home: Path) -> subprocess.Popen[bytes]:
        """Start it, or start it again."""
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log, env=environment(home), start_new_session=True)

    def wait_for(self, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
        """Wait until it answers.

        Raises:
            DentsightError: It ended, or did not answer in time.
        """
        deadline = time.monotonic() + seconds
        while not _answers(self.address):
            if time.monotonic() > deadline or process.poll() is not None:
                raise DentsightError(f"{self.name} did not come up on {self.address}; see {self.log}.")
            time.sleep(0.3)

    def note_death(self, status: int) -> None:
        """Say that it is started again.

        Raises:
            DentsightError: It died too often.
        """
        now = time.monotonic()
        self.deaths[:] = [*(moment for moment in self.deaths if now - moment < RESTARTS_WITHIN_SECONDS), now]
        ended = f"{self.name} ended with status {status}"
        if len(self.deaths) > RESTARTS:
            raise DentsightError(f"{ended} for the {len(self.deaths)}th time; see {self.log}.")
        _tell(sys.stderr, f"{ended} and is started again; see {self.log}.")


def serve(dagster_port: int, mlflow_port: int) -> None:
    """Start both interfaces, print their addresses, and keep them until Ctrl-C; one that dies is started again.

    Args:
        dagster_port: Wanted port of Dagster; the next free one is taken when it is in use.
        mlflow_port: Wanted port of MLflow, likewise.

    Raises:
        ConfigurationError: There is no `dagster.yaml` here or above.
        DentsightError: One of the two did not come up, or dies again and again.
    """
    home = _home()
    os.chdir(home)
    servers = _servers(dagster_port, mlflow_port)
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # Ctrl-C, `kill`, a terminal that is closed
        signal.signal(ending, signal.default_int_handler)
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        _keep_up(servers, home, started)
    except KeyboardInterrupt:
        _tell(sys.stderr, "Stopping …")
    finally:
        stop(started)
        _tell_what_goes_on()


def _home() -> Path:
    home = find_home()
    for name in ("dagster.yaml", "workspace.yaml"):
        if not (home / name).is_file():
            raise ConfigurationError(f"There is no {name} in {home}. Prepare a folder with `dentsight workspace init`.")
    return home


def _servers(dagster_port: int, mlflow_port: int) -> list[Server]:
    """Dagster, and MLflow unless it runs elsewhere."""
    workspace = Workspace()
    logs, tracking = workspace.folder / "logs", Tracking(workspace=workspace)
    logs.mkdir(parents=True, exist_ok=True)
    dagster_port, mlflow_port = free_port(dagster_port), free_port(mlflow_port)
    dagster = Server("Dagster", dagster_command(dagster_port), dagster_port, logs)
    if tracking.is_server:
        _tell(sys.stderr, f"MLflow runs elsewhere: {tracking.address}")
        return [dagster]
    tracking.client.search_experiments()  # creates the database once, before two servers race for it
    return [dagster, Server("MLflow", mlflow_command(mlflow_port, tracking), mlflow_port, logs)]


def _keep_up(servers: list[Server], home: Path, started: dict[str, subprocess.Popen[bytes]]) -> NoReturn:
    """Start the servers, noting each in `started`, and start again what dies, until an exception ends it."""
    for server in servers:
        started[server.name] = server.start(home)
    for server in servers:
        server.wait_for(started[server.name])
        _tell(sys.stdout, f"{server.name}: {server.address}")
    _tell(sys.stdout, "Ctrl-C stops both.")
    while True:
        _start_the_dead_again(servers, home, started)
        time.sleep(0.5)


def _start_the_dead_again(servers: list[Server], home: Path, started: dict[str, subprocess.Popen[bytes]]) -> None:
    for server in servers:
        status = started[server.name].poll()
        if status is not None:
            server.note_death(status)
            stop({server.name: started[server.name]})  # what it started must not keep the port
            started[server.name] = server.start(home)


def _answers(address: str) -> bool:
    """Whether a server is there, whatever it answers."""
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError as error:
        return isinstance(error, urllib.error.HTTPError)
    return True


def _tell(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


def _tell_what_goes_on() -> None:
    """Runs have processes of their own: say so where somebody believes that all has ended."""
    from dentsight_pipeline.orchestration.workers import workers

    if going_on := len(workers()):
        next_time = "the next `dentsight ui` shows them. To end one, cancel it there."
        _tell(sys.stderr, f"{going_on} run(s) go on by themselves; {next_time}")


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
        if _is_free(port):
            return port
    raise ConfigurationError(f"Ports {wanted} to {wanted + tries - 1} are all in use. Choose another one.")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOCALHOST, port))
        return True
    return False


def stop(started: Mapping[str, subprocess.Popen[bytes]], grace_seconds: float = 20) -> None:
    """End the servers and whatever they started, by force when they take too long."""
    for process in started.values():
        process.terminate()
    deadline = time.monotonic() + grace_seconds
    for process in started.values():
        _end(process, deadline)


def _end(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
