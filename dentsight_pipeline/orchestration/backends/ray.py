"""Ray, by its Jobs API over HTTP: nothing of Ray need be installed here."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.backends.base import Look, Phase, UnreachableError, gpus, required

ADDRESS_VARIABLE = "DENTSIGHT_RAY_ADDRESS"
_PHASES = {"PENDING": Phase.WAITING, "RUNNING": Phase.RUNNING}


@dataclass(frozen=True)
class Ray:
    """A Ray cluster, by the address of its dashboard. Its nodes have their own credentials for the bucket."""

    address: str
    """E.g. `http://head:8265`."""
    gpus: int = 1
    """Of one job."""
    name: str = "ray"
    """As `DENTSIGHT_BACKEND` says it."""
    price_per_hour: float | None = None
    """Nobody tells."""

    @classmethod
    def of_environment(cls) -> "Ray":
        """By `DENTSIGHT_RAY_ADDRESS` and `DENTSIGHT_WORKER_GPUS`."""
        return cls(required(ADDRESS_VARIABLE, "http://head:8265").rstrip("/"), gpus())

    @property
    def shares_folders(self) -> bool:
        """A head on this machine does; of another nobody knows."""
        return urlsplit(self.address).hostname in ("127.0.0.1", "localhost", "::1")

    @property
    def asks_for_gpu(self) -> bool:
        """Whether its jobs do."""
        return self.gpus > 0

    def submit(self, name: str, command: list[str], folder: Path) -> str:
        """Under the name as the submission's id, so that the same is never submitted twice."""
        wanted = {"entrypoint": shlex.join(command), "submission_id": name, "entrypoint_num_gpus": self.gpus}
        return str(self._ask("POST", "", {**wanted, "metadata": {"project": "dentsight"}})["submission_id"])

    def find(self, name: str) -> str | None:
        """The name is the id."""
        return None if self.look(name).phase is Phase.GONE else name

    def look(self, job_id: str) -> Look:
        """Its status; a head that was started anew knows no job."""
        told = self._ask("GET", job_id, missing={})
        status = str(told.get("status", "unknown"))
        return Look(_PHASES.get(status, Phase.GONE), f"{status} {told.get('message') or ''}".strip())

    def cancel(self, job_id: str) -> None:
        """TERM first."""
        self._ask("POST", f"{job_id}/stop", missing={})

    def output(self, job_id: str, folder: Path) -> str:
        """The end of its log."""
        return str(self._ask("GET", f"{job_id}/logs", missing={}).get("logs", ""))[-2000:]

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, missing: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """What the head answers; `missing` where it knows no such job."""
        try:
            answer = requests.request(method, f"{self.address}/api/jobs/{path}", json=body, timeout=30)
        except requests.RequestException as error:
            raise UnreachableError(f"Ray does not answer at {self.address} ({type(error).__name__}).") from error
        if answer.status_code == 404 and missing is not None:
            return missing
        said = f"{answer.status_code}: {' '.join(answer.text.split())[-300:]}"  # the end of a traceback
        if answer.status_code >= 500 and "already exists" not in answer.text:
            raise UnreachableError(f"Ray at {self.address} answered {said}")
        if not answer.ok:
            raise ConfigurationError(f"Ray at {self.address} refused: {said}. Correct {ADDRESS_VARIABLE}.")
        return answer.json() if answer.content else {}
