"""Servers here that play Hugging Face Jobs and Kubernetes to their real clients, and run the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from dentsight_pipeline_tests.local_server import QuietHandler, serving

HARDWARE = [
    {"name": name, "prettyName": name, "cpu": "2 vCPU", "ram": "16 GB", "unitCostMicroUSD": int(cost * 1e6)}
    | {"unitCostUSD": cost, "unitLabel": "minute"}
    for name, cost in (("cpu-basic", 0.000167), ("a10g-large", 0.025))
]


@dataclass
class Service:
    """What a service was asked, what it runs, and how it misbehaves."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the submissions."""
    tokens: set[str] = field(default_factory=set)
    """Authorization headers seen."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    logs: Path = Path()
    status: int = 0
    """Answer everything with this status instead."""
    body: Any = field(default_factory=lambda: {"error": "so it is"})
    """With it."""
    stalls: float = 0.0
    """Seconds before each answer."""
    stages: dict[str, Any] = field(default_factory=dict)
    """What it says of a job, instead of the truth."""
    deleted: list[str] = field(default_factory=list)
    """Jobs that were cancelled."""

    def run(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Run a command as the service would in its container: nothing of this process's environment but paths."""
        kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "HOME") if key in os.environ}
        if command[0] == "python":
            command = [sys.executable, *command[1:]]
        with (self.logs / name).open("wb") as log:
            scratch = {"DENTSIGHT_SCRATCH": str(self.logs / f"scratch-{name}")}
            self.processes[name] = subprocess.Popen(
                command, env={**kept, **scratch, **environment}, stdout=log, stderr=log, start_new_session=True
            )

    def log(self, name: str) -> str:
        """What a job printed."""
        return (self.logs / name).read_text()

    def stop(self) -> None:
        """End what still runs."""
        for process in self.processes.values():
            process.kill()
            process.wait()


class Playing(QuietHandler):
    """Answers for a service, unless that is to misbehave."""

    service: ClassVar[Service]

    def parts(self) -> list[str]:
        """The path's parts."""
        return urlsplit(self.path).path.strip("/").split("/")

    def given(self) -> dict[str, Any]:
        """The body."""
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")

    def misbehaves(self) -> bool:
        """Whether the service did not answer as it should."""
        self.service.tokens.add(self.headers.get("Authorization", ""))
        time.sleep(self.service.stalls)
        if self.service.status:
            self.given()
            self.answer(self.service.status, self.service.body, {"Content-Type": "application/json"})
        return bool(self.service.status)


class PlayedHub(Playing):
    """Hugging Face's Jobs API."""

    def do_POST(self) -> None:
        """Start or cancel a job."""
        if self.misbehaves():
            return
        parts, body = self.parts(), self.given()
        if parts[-1] == "cancel":
            self.service.deleted.append(parts[-2])
            self.service.processes[parts[-2]].kill()
            self.answer(200, self.job(parts[-2]))
            return
        self.service.asked.append(body)
        name = f"job{len(self.service.asked)}"
        self.service.run(name, body["command"], {**body["environment"], **body.get("secrets", {})})
        self.answer(200, self.job(name))

    def do_GET(self) -> None:
        """Tell of a job, of all, of prices, of oneself."""
        if self.misbehaves():
            return
        parts, query = self.parts(), parse_qs(urlsplit(self.path).query)
        if parts[-1] == "whoami-v2":
            self.answer(200, {"name": "ann", "type": "user"})
        elif parts[-1] == "hardware":
            self.answer(200, HARDWARE)
        elif parts[-1] == "logs":
            lines = self.service.log(parts[-2]).splitlines()
            text = "".join(
                f"data: {json.dumps({'data': line, 'timestamp': '2026-01-01T00:00:00.000Z'})}\n\n" for line in lines
            )
            self.answer(200, text.encode(), {"Content-Type": "text/event-stream"})
        elif len(parts) == 4:
            known = parts[-1] in self.service.processes
            self.answer(200 if known else 404, self.job(parts[-1]) if known else {"error": "no such job"})
        else:
            wanted = dict(one.split("=", 1) for one in query.get("label", []))
            numbered = enumerate(self.service.asked, 1)
            found = [f"job{i}" for i, one in numbered if wanted.items() <= one.get("labels", {}).items()]
            self.answer(200, [self.job(name) for name in found])

    def job(self, name: str) -> dict[str, Any]:
        """A job as the hub tells it."""
        status = self.service.processes[name].poll()
        stage = "RUNNING" if status is None else "ERROR" if status else "COMPLETED"
        told = self.service.stages.get(name, {"stage": stage, "message": None})
        owner = {"id": "1", "name": "ann", "type": "user"}
        return {"id": name, "status": told, "owner": owner, "createdAt": "2026-01-01T00:00:00.000Z"}


class PlayedCluster(Playing):
    """Kubernetes' API of pods."""

    def do_POST(self) -> None:
        """Make a pod."""
        if self.misbehaves():
            return
        body = self.given()
        name = body["metadata"]["name"]
        if name in self.service.processes:
            self.answer(409, {"kind": "Status", "reason": "AlreadyExists"})
            return
        self.service.asked.append(body)
        secret = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        container = body["spec"]["containers"][0]
        self.service.run(name, container["command"], secret if container.get("envFrom") else {})
        self.answer(201, body, {"Content-Type": "application/json"})

    def do_GET(self) -> None:
        """A pod's status or log."""
        if self.misbehaves():
            return
        parts = self.parts()
        name = parts[-2]
        if name not in self.service.processes or name in self.service.deleted:
            self.answer(404, {"kind": "Status", "reason": "NotFound"}, {"Content-Type": "application/json"})
        elif parts[-1] == "log":
            self.answer(200, self.service.log(name).encode(), {"Content-Type": "text/plain"})
        else:
            status = self.service.processes[name].poll()
            phase = "Running" if status is None else "Failed" if status else "Succeeded"
            told = self.service.stages.get(name, {"phase": phase})
            pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "status": told}
            self.answer(200, pod, {"Content-Type": "application/json"})

    def do_DELETE(self) -> None:
        """End a pod."""
        if self.misbehaves():
            return
        name = self.parts()[-1]
        self.service.deleted.append(name)
        if name in self.service.processes:
            self.service.processes[name].terminate()
        self.answer(200, {"kind": "Pod", "metadata": {"name": name}}, {"Content-Type": "application/json"})


@contextmanager
def played(handler: type[Playing], folder: Path) -> Iterator[tuple[Service, str]]:
    """A running service and its address."""
    service = Service(logs=folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with serving(type("Handler", (handler,), {"service": service})) as address:
            yield service, address
    finally:
        service.stop()
