"""A new Roboflow version over a power cut and a reset cursor, with a real daemon: neither lost nor doubled."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline_tests.local_server import QuietHandler, serving
from dentsight_pipeline_tests.orchestration.assets.conftest import new_home
from dentsight_pipeline_tests.orchestration.servers import LOCATION, Servers, running

pytestmark = pytest.mark.slow

SENSOR = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__", "sensorName": "new_roboflow_version"}
START = "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename ... on Sensor { id } } }"
STOP = "mutation($i: String!) { stopSensor(id: $i) { __typename } }"
CURSOR = "mutation($s: SensorSelector!, $c: String) { setSensorCursor(sensorSelector: $s, cursor: $c) { __typename } }"
TICKS = """query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor
    { sensorState { ticks { status runKeys skipReason } } } } }"""
RUNS = "{ runsOrError { ... on Runs { results { runId rootRunId jobName status } } } }"


@pytest.fixture
def roboflow(tmp_path: Path) -> Iterator[str]:
    """A Roboflow with one version of one project."""
    write_phantom_export(tmp_path / "export", 24, 3)
    archive = Path(shutil.make_archive(str(tmp_path / "v8"), "zip", tmp_path / "export")).read_bytes()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            link = f"http://{self.headers['Host']}/zip"
            bodies: dict[str, Any] = {
                "/team/opg": {"versions": [{"id": "team/opg/8"}]},
                "/team/opg/8/coco-segmentation": {"export": {"link": link}},
                "/zip": archive,
            }
            self.answer(200 if path in bodies else 404, bodies.get(path, {}))

    with serving(Handler) as address:
        yield address


def until(found: Callable[[], Any], seconds: float = 150) -> Any:
    """Wait until something is found."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.5)
    raise AssertionError("it did not happen in time")


def runs_of(servers: Servers, job: str) -> list[dict[str, Any]]:
    """Runs of a job."""
    return [run for run in servers.ask(RUNS)["runsOrError"]["results"] if run["jobName"] == job]


def ticks(servers: Servers) -> list[dict[str, Any]]:
    """Finished ticks of the sensor, the newest first."""
    found = servers.ask(TICKS, s=SENSOR)["sensorOrError"]["sensorState"]["ticks"]
    return [tick for tick in found if tick["status"] != "STARTED"]


def test_a_version_is_trained_once_over_a_power_cut_and_a_reset_cursor(roboflow: str, tmp_path: Path) -> None:
    """Lost, the newest labels never reach a model; doubled, every restart costs hours of GPU."""
    (tmp_path / "home").mkdir()
    settings = {
        "ROBOFLOW_API_KEY": "key",
        "ROBOFLOW_API_URL": roboflow,
        "DENTSIGHT_ROBOFLOW_PROJECT": "team/opg",
        "DENTSIGHT_ROBOFLOW_SECONDS": "5",
        "DENTSIGHT_RECIPES": "smoke",
    }
    with running(new_home(tmp_path / "home"), **settings) as servers:
        servers.ask(START, s=SENSOR)
        until(lambda: runs_of(servers, "data"))
        servers.kill_everything()
        servers.start()
        data = runs_of(servers, "data")[-1]["rootRunId"] or runs_of(servers, "data")[-1]["runId"]
        group = servers.wait(data)
        launched = {"QUEUED", "STARTING", "STARTED"}
        experiment = until(lambda: [run for run in runs_of(servers, "experiment") if run["status"] in launched])
        servers.cancel(experiment[0]["runId"])
        sensor = servers.ask(START, s=SENSOR)["startSensor"]
        servers.ask(STOP, i=sensor["id"])
        servers.ask(CURSOR, s=SENSOR, c=None)
        servers.ask(START, s=SENSOR)
        before = len(ticks(servers))
        again = until(lambda: [tick for tick in ticks(servers)[:-before] if tick["runKeys"]])
        time.sleep(20)  # whatever the tick or the chaining sensor would start has started by then
        roots = {
            job: {run["rootRunId"] or run["runId"] for run in runs_of(servers, job)} for job in ("data", "experiment")
        }

    assert group[-1]["status"] == "SUCCESS"
    assert {job: len(found) for job, found in roots.items()} == {"data": 1, "experiment": 1}
    assert (again[0]["status"], again[0]["runKeys"]) == ("SKIPPED", ["data:team/opg:opg-v8"])
