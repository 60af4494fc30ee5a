"""Real Dagster servers in a home of their own, driven over GraphQL like a browser does, for tests of crashes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from dentsight_pipeline.commands import ui
from dentsight_pipeline_tests.local_server import free_port
from dentsight_pipeline_tests.orchestration.assets.conftest import Home

Part = Literal["webserver", "daemon", "code server", "worker", "guard", "trainer"]
_SIGNS: dict[Part, tuple[str, ...]] = {
    "webserver": ("dagster_webserver",),
    "daemon": ("dagster._daemon",),
    "code server": ("code-server", "grpc"),
    "worker": ("execute_run",),
    "guard": ("dentsight_pipeline.orchestration.guard",),
    "trainer": ("dentsight_pipeline.training",),
}
SERVER_PARTS: tuple[Part, ...] = ("webserver", "daemon", "code server")
LOCATION = "dentsight_pipeline"
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
TINY_TRAINING = {"evaluate_every_steps": "8", "validation_images": "4", "num_queries": "30", "num_denoising": "10"}


@dataclass
class Servers:
    """`dagster dev` in a home: webserver, daemon and code server."""

    home: Home
    variables: dict[str, str] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 400) -> None:
        """Start everything, and wait until the code location is loaded."""
        self.port = ui.free_port(self.port or free_port())
        environment = {**self.home.environment, "DAGSTER_HOME": str(self.home.folder), "OMP_NUM_THREADS": "1"}
        with (self.home.folder / "servers.log").open("ab") as log:
            self.process = subprocess.Popen(
                ui.dagster_command(self.port),
                cwd=self.home.folder,
                env={**environment, **self.variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(OSError, KeyError, ValueError):
                found = self.ask("{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }")
                if found["repositoriesOrError"]["nodes"]:
                    return
            time.sleep(0.5)
        raise AssertionError((self.home.folder / "servers.log").read_text()[-3000:])

    def stop(self) -> None:
        """End the servers as Ctrl-C does, and whatever else still runs in the home."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.kill_everything()

    def kill_everything(self) -> None:
        """`kill -9` of every process of this home at one moment, as a power cut would."""
        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)  # so that nothing can react to the death of another
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until_gone(family)
        if self.process is not None:
            self.process.wait()

    def family(self) -> list[psutil.Process]:
        """Every living process that works in this home."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_ours = process.environ().get("DENTSIGHT_HOME") == str(self.home.folder)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    found.append(process)
        return found

    def find(self, part: Part) -> list[psutil.Process]:
        """The processes of one part."""
        found = []
        for process in self.family():
            with suppress(psutil.Error):
                command = process.cmdline()
                wrapped = "dentsight_pipeline.orchestration.guard" in command
                if any(sign in command for sign in _SIGNS[part]) and (part == "guard") == wrapped:
                    found.append(process)
        return found

    def kill(self, part: Part) -> None:
        """`kill -9` of one part."""
        victims = self.find(part)
        assert victims, f"there is no {part} among {[process.cmdline()[:6] for process in self.family()]}"
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until_gone(victims)

    def revive(self) -> None:
        """Start the servers again when they are not all there, as `dentsight ui` or systemd does."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not self.find("code server"):
            time.sleep(0.5)  # `dagster dev` replaces its code server by itself
        if not all(self.find(part) for part in SERVER_PARTS):
            self._end_servers()
            self.start()

    def _end_servers(self) -> None:
        """Whoever restarts a service makes sure that its old parts are gone; trainings are no parts of it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for part in SERVER_PARTS:
            for process in self.find(part):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """One GraphQL request."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = json.load(answer)
        assert "errors" not in content, content
        return content["data"]

    def launch(self, job: str, tags: dict[str, str], config: dict[str, Any], assets: tuple[str, ...] = ()) -> str:
        """Launch a job; returns the run's id."""
        query = """mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) { __typename
            ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
            ... on RunConfigValidationInvalid { errors { message } } } }"""
        selector: dict[str, Any] = {
            "repositoryLocationName": LOCATION,
            "repositoryName": "__repository__",
            "pipelineName": job,
        }
        if assets:
            selector["assetSelection"] = [{"path": [asset]} for asset in assets]
        parameters = {
            "selector": selector,
            "runConfigData": config,
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        made = self.ask(query, p=parameters)["launchPipelineExecution"]
        assert made["__typename"] == "LaunchRunSuccess", made
        return made["run"]["runId"]

    def add_dataset(self, dataset: str) -> None:
        """Add a dataset key to the grid."""
        query = """mutation($r: RepositorySelector!, $k: String!) { addDynamicPartition(
            repositorySelector: $r, partitionsDefName: "dataset", partitionKey: $k) { __typename } }"""
        selector = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}
        made = self.ask(query, r=selector, k=dataset)["addDynamicPartition"]["__typename"]
        assert made == "AddDynamicPartitionSuccess", made

    def cancel(self, run_id: str) -> None:
        """Cancel a run as the UI's button does."""
        query = """mutation($r: String!) { terminateRun(runId: $r)
            { __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
        made = self.ask(query, r=run_id)["terminateRun"]
        assert made["__typename"] == "TerminateRunSuccess", made

    def train(self, dataset: str, *, assets: tuple[str, ...] = ("trained_checkpoint",), **overrides: str) -> str:
        """Launch an experiment with a tiny training; returns the run's id."""
        tags = {
            "dagster/partition": f"{dataset}|smoke",
            "dagster/partition/dataset": dataset,
            "dagster/partition/recipe": "smoke",
        }
        config = {"trained_checkpoint": {"config": {"overrides": {**TINY_TRAINING, **overrides}}}}
        if "class_metrics" in assets:
            config["class_metrics"] = {"config": {"resamples": 20}}  # type: ignore[dict-item]
        return self.launch("experiment", tags, {"ops": config}, assets)

    def group(self, run_id: str) -> list[dict[str, Any]]:
        """A run and its retries, the first one first: `runId`, `status`, `tags`."""
        query = """query($f: RunsFilter!) { runsOrError(filter: $f) { ... on Runs { results
            { runId status rootRunId creationTime tags { key value } } } } }"""
        runs = self.ask(query, f={})["runsOrError"]["results"]
        chosen = [run for run in runs if run_id in (run["runId"], run["rootRunId"])]
        for run in chosen:
            run["tags"] = {tag["key"]: tag["value"] for tag in run["tags"]}
        return sorted(chosen, key=lambda run: run["creationTime"])

    def wait(self, run_id: str, seconds: float = 240) -> list[dict[str, Any]]:
        """Wait until a run, or the retry that took it up, has ended for good; returns all of them."""
        deadline = time.monotonic() + seconds
        group: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            with suppress(OSError):
                group = self.group(run_id)
                last = group[-1]
                will_retry = last["tags"].get("dagster/will_retry") == "true"
                if last["status"] in ENDED and not will_retry:
                    return group
            time.sleep(1)
        raise AssertionError(f"not ended within {seconds} s: {group}\n{self.log_end()}")

    def log_end(self) -> str:
        """The last words of the servers."""
        return (self.home.folder / "servers.log").read_text()[-4000:]

    def slots_held(self, pool: str = "gpu") -> int:
        """Claimed and waiting slots of a pool."""
        query = """query($k: String!) { instance { concurrencyLimit(concurrencyKey: $k)
            { activeSlotCount pendingStepCount } } }"""
        found = self.ask(query, k=pool)["instance"]["concurrencyLimit"]
        return found["activeSlotCount"] + found["pendingStepCount"]


def wait_until_gone(processes: list[psutil.Process], seconds: float = 20) -> None:
    """Wait until none of the processes runs; a zombie does not run."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        living = 0
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                living += process.status() != psutil.STATUS_ZOMBIE
        if not living:
            return
        time.sleep(0.1)
    raise AssertionError(f"still running after {seconds} s: {processes}")


@contextmanager
def running(home: Home, **variables: str) -> Iterator[Servers]:
    """Servers of a home; everything is gone afterwards."""
    servers = Servers(home, variables)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def events_of(home: Home, step: int = 0) -> list[dict[str, Any]]:
    """All events of the trainings in a home, in the order of the files."""
    found = []
    for path in sorted((home.folder / "workspace" / "scratch" / "fit").glob("*/events.jsonl")):
        lines = path.read_text().rpartition("\n")[0].splitlines()
        found += [{**json.loads(line), "training": path.parent.name} for line in lines]
    return found


def wait_for_step(home: Home, training: set[str], step: int, seconds: float = 180) -> str:
    """Wait until a training that is not in `training` has taken `step` steps; returns its folder's name."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in events_of(home):
            if event["training"] not in training and event["event"] == "metrics" and event["step"] >= step:
                return event["training"]
        time.sleep(0.2)
    raise AssertionError(f"no training took {step} steps within {seconds} s")


def trainings_of(home: Home) -> set[str]:
    """Folders of the trainings that were started in a home."""
    return {path.name for path in Path(home.folder / "workspace" / "scratch" / "fit").glob("*")}
