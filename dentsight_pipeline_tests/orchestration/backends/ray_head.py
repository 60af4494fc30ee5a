"""A Ray head on this machine, started by the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from dentsight_pipeline.orchestration.backends.base import UnreachableError
from dentsight_pipeline.orchestration.backends.ray import Ray
from dentsight_pipeline_tests.local_server import free_port
from dentsight_pipeline_tests.orchestration.backends.tasks import wait_until


@dataclass
class Head:
    """A Ray head with its dashboard."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def scheduler(self) -> Ray:
        """The backend at this head."""
        return Ray(f"http://127.0.0.1:{self.port}", gpus=0)

    def start(self, tries: int = 5) -> None:
        """Start it, and wait until it takes jobs."""
        ports = [f"--port={free_port()}", f"--dashboard-port={self.port}", "--dashboard-agent-listen-port=0"]
        options = ["--head", "--block", "--num-cpus=2", "--include-dashboard=true", "--disable-usage-stats"]
        ray = Path(sys.executable).with_name("ray")
        command = [ray, "start", *options, *ports, f"--temp-dir={self.folder}"]
        own = {
            "DENTSIGHT_SCRATCH": str(self.folder / "scratch")
        }  # its jobs inherit this: an earlier test's are not met
        patient = {"RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600"}  # a busy machine needs more than its 60 s
        with (self.folder / "head.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**own, **os.environ, **patient})
        wait_until(lambda: self._answers() or (self.process and self.process.poll()), 600, "a head that takes jobs")
        if self.process.poll():  # Ray gives its own parts 30 s and no setting: too little on a machine with much to do
            assert tries > 1, (self.folder / "head.log").read_text()[-3000:]
            self.start(tries - 1)

    def _answers(self) -> bool:
        with suppress(UnreachableError):  # its agent comes some seconds after its dashboard
            return bool(self.scheduler.submit(f"ready-{time.monotonic_ns()}", ["true"], self.folder))
        return False

    def kill(self, *, with_jobs: bool = True) -> None:
        """`kill -9` of everything that it consists of; without its jobs they go on, unknown to the next head."""
        assert self.process is not None
        if self.process.poll() is not None:
            return
        first = psutil.Process(self.process.pid)
        family = [one for one in (first, *first.children(recursive=True)) if with_jobs or not _is_job(one)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()  # so that nothing can react to the death of another
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=10)

    def jobs(self) -> list[str]:
        """Ids of the jobs that it believes to run."""
        told = requests.get(f"http://127.0.0.1:{self.port}/api/jobs/", timeout=30).json()
        return [job["submission_id"] for job in told if job["status"] in ("PENDING", "RUNNING")]


def _is_job(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "dentsight_pipeline.training" in process.cmdline()
    return False


@contextmanager
def ray_head() -> Iterator[Head]:
    """A running head; skips where Ray is not installed. Its sockets need a short path."""
    if not Path(sys.executable).with_name("ray").exists():
        pytest.skip("needs ray[default]")
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    running = Head(folder, free_port())
    try:
        running.start()
        yield running
    finally:
        running.kill()
        shutil.rmtree(folder, ignore_errors=True)
