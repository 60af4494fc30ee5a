"""The two user interfaces as a person meets them: addresses printed, a run launched, pages that show it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import psutil
import pytest

from dentsight_pipeline_tests.local_server import free_port
from dentsight_pipeline_tests.orchestration.assets.conftest import FinishedCell, Home

GROUPS = ("data", "training", "evaluation", "release")
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
ADD_PARTITION = """
mutation Add($selector: RepositorySelector!) {
  addDynamicPartition(repositorySelector: $selector, partitionsDefName: "dataset", partitionKey: "ui-v1") { __typename }
}
"""
STATUS = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
REPOSITORY = {"repositoryLocationName": "dentsight_pipeline", "repositoryName": "__repository__"}


@dataclass(frozen=True)
class Served:
    """Both interfaces, up."""

    home: Home
    dagster: str
    mlflow: str

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask Dagster's webserver as its own UI does."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.dagster}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]


@pytest.fixture(scope="module")
def served(finished_cell: FinishedCell) -> Iterator[Served]:
    """`dentsight ui` in the finished cell's home, stopped as a person stops it: with Ctrl-C."""
    ports = free_port(), free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dentsight_pipeline.cli", "ui"),
            *("--dagster-port", str(ports[0]), "--mlflow-port", str(ports[1])),
        ],
        cwd=finished_cell.home.folder,
        env=finished_cell.home.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(2)]
    try:
        assert said == [f"Dagster: http://127.0.0.1:{ports[0]}\n", f"MLflow: http://127.0.0.1:{ports[1]}\n"]
        yield Served(finished_cell.home, said[0].split()[1], said[1].split()[1])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def in_browser(address: str, *options: str) -> str:
    """What headless Chromium prints for a page after its scripts have run; skipped where there is no Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--hide-scrollbars", f"--user-data-dir={profile}", "--virtual-time-budget=30000", *options, address),
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
    return done.stdout


def screenshot(address: str, out: Path, *, size: str) -> Any:
    """A page as a gray image."""
    in_browser(address, f"--window-size={size}", f"--screenshot={out}")
    return cv2.imread(str(out), cv2.IMREAD_GRAYSCALE)


def test_a_run_launched_through_the_webserver_succeeds(served: Served) -> None:
    """What a person does in the UI: pick a partition, say where the export is, press Materialize."""
    served.graphql(ADD_PARTITION, selector=REPOSITORY)
    config = {"ops": {"raw_export": {"config": {"export": ["phantom:12:5"]}}}}
    launched = served.graphql(
        LAUNCH,
        params={
            "selector": {**REPOSITORY, "pipelineName": "data"},
            "runConfigData": config,
            "mode": "default",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "ui-v1"}]},
        },
    )["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    deadline = time.monotonic() + 240
    status = ""
    while time.monotonic() < deadline and status not in {"SUCCESS", "FAILURE", "CANCELED"}:
        time.sleep(1)
        status = served.graphql(STATUS, id=launched["run"]["runId"])["runOrError"]["status"]

    assert status == "SUCCESS"


def test_the_graph_page_shows_every_asset(served: Served, tmp_path: Path) -> None:
    """The graph is the map of the pipeline; an asset that is missing there does not exist for its users."""
    expanded = ",".join(f"global@global:{group}" for group in GROUPS)
    page = f"{served.dagster}/asset-groups/?expanded={expanded}"
    wanted = ("raw_export", "condition_subset", "trained_checkpoint", "release_report", "released_model")
    source = ""
    source = ""
    for _ in range(5):  # on a busy machine the page's time can be over before its data has come
        source = in_browser(page, "--window-size=2400,900", "--dump-dom")
        if all(asset in source for asset in wanted):
            break
    image = screenshot(page, tmp_path / "graph.png", size="2400,900")

    assert [asset for asset in wanted if asset not in source] == []
    assert image.std() > 5  # a page that did not load is one colour


def test_the_report_reads_in_a_browser_without_the_network(finished_cell: FinishedCell, tmp_path: Path) -> None:
    """A reviewer opens one file, anywhere: nothing in it may come from elsewhere."""
    report = Path(finished_cell.said["report"])
    image = screenshot(report.as_uri(), tmp_path / "report.png", size="1280,2000")
    text = report.read_text("utf-8")

    assert image.std() > 5
    assert finished_cell.said["verdict"] in text
    assert "not a medical device" in text.lower()
    assert 'src="http' not in text
    assert 'rel="stylesheet"' not in text


def test_mlflow_shows_the_runs_of_the_cell(served: Served) -> None:
    """The second address must lead to the curves, not to an empty database."""
    body = json.dumps({"experiment_ids": ["1"], "max_results": 10}).encode()
    request = urllib.request.Request(
        f"{served.mlflow}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        runs = json.load(answer)["runs"]

    assert {"train", "evaluate"} <= {
        tag["value"] for run in runs for tag in run["data"]["tags"] if tag["key"] == "dentsight.stage"
    }


def test_nothing_listens_on_anything_but_localhost(served: Served) -> None:
    """Neither interface has a login: on any other address, everyone in the clinic's network could start runs."""
    addresses = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("DENTSIGHT_HOME") == str(served.home.folder):
                listening = [item for item in process.net_connections("inet") if item.status == psutil.CONN_LISTEN]
                addresses |= {(item.laddr.ip, item.laddr.port) for item in listening}
    wanted = {int(address.rpartition(":")[2]) for address in (served.dagster, served.mlflow)}

    assert wanted <= {port for _, port in addresses}
    assert {ip for ip, _ in addresses} == {"127.0.0.1"}
