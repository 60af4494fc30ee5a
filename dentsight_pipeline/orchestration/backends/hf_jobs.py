"""Hugging Face Jobs, through `huggingface_hub`'s own client."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.backends.base import (
    IMAGE_VARIABLE,
    Look,
    Phase,
    UnreachableError,
    bucket_credentials,
    required,
)

FLAVOR_VARIABLE, TIMEOUT_VARIABLE = "DENTSIGHT_HF_FLAVOR", "DENTSIGHT_HF_TIMEOUT"
TIMEOUT = "12h"
"""Theirs is 30 minutes, less than one training."""
LABEL = "dentsight-job"
T = TypeVar("T")
_PHASES = {"SCHEDULING": Phase.WAITING, "RUNNING": Phase.RUNNING}
_HOURS = {"second": 3600, "minute": 60, "hour": 1}
_REMEDIES = {
    401: "The token is missing, wrong or expired: set HF_TOKEN to a new one with the right to start jobs.",
    402: "The account has no credit left: add some at https://huggingface.co/settings/billing.",
    403: "The token may not start jobs, or the account's quota is used up: look at its rights and at the account.",
}


@dataclass(frozen=True)
class HfJobs:
    """Jobs on Hugging Face's machines."""

    image: str
    """With this package installed."""
    flavor: str
    """Kind of machine, e.g. `a10g-large`."""
    timeout: str = TIMEOUT
    """Longest run of one job; a training that needs more is ordered again and resumes."""
    name: str = "hf-jobs"
    """As `DENTSIGHT_BACKEND` says it."""
    shares_folders: bool = False
    """As `Scheduler` says."""

    @classmethod
    def of_environment(cls) -> "HfJobs":
        """By `DENTSIGHT_WORKER_IMAGE`, `DENTSIGHT_HF_FLAVOR` and `DENTSIGHT_HF_TIMEOUT`; the token is `HF_TOKEN`."""
        image, flavor = required(IMAGE_VARIABLE, "ghcr.io/you/dentsight:1"), required(FLAVOR_VARIABLE, "a10g-large")
        return cls(image, flavor, os.environ.get(TIMEOUT_VARIABLE, "").strip() or TIMEOUT)

    @property
    def asks_for_gpu(self) -> bool:
        """Every flavour that is not `cpu-…`."""
        return not self.flavor.startswith("cpu")

    @property
    def price_per_hour(self) -> float | None:
        """Of the flavour, as the price list says."""
        return self._price

    @cached_property
    def _price(self) -> float | None:
        offered = {one.name: one for one in _ask(self._api.list_jobs_hardware)}
        if self.flavor not in offered:
            exist = ", ".join(offered)
            raise ConfigurationError(f"{FLAVOR_VARIABLE} is {self.flavor!r}, which is none; there are {exist}.")
        unit = offered[self.flavor]
        return unit.unit_cost_usd * _HOURS[unit.unit_label] if unit.unit_label in _HOURS else None

    def submit(self, name: str, command: list[str], folder: Path) -> str:
        """With the bucket's credentials as secrets, a label to find it by, and a timeout always."""
        job = _ask(
            lambda: self._api.run_job(
                image=self.image,
                command=command,
                flavor=self.flavor,
                timeout=self.timeout,
                secrets=bucket_credentials(),
                labels={LABEL: name},
                namespace=self._namespace,
            )
        )
        return job.id

    def find(self, name: str) -> str | None:
        """By its label."""
        jobs = _ask(lambda: list(self._api.list_jobs(labels={LABEL: name}, namespace=self._namespace)))
        return next((job.id for job in jobs if job.status and job.status.stage in _PHASES), None)

    def look(self, job_id: str) -> Look:
        """Its stage."""
        job = _ask(lambda: self._api.inspect_job(job_id=job_id, namespace=self._namespace), missing=None)
        if job is None or job.status is None:
            return Look(Phase.GONE, "unknown")
        stage = getattr(job.status.stage, "value", job.status.stage)
        return Look(_PHASES.get(stage, Phase.GONE), f"{stage} {job.status.message or ''}".strip())

    def cancel(self, job_id: str) -> None:
        """By its id."""
        _ask(lambda: self._api.cancel_job(job_id=job_id, namespace=self._namespace), missing=None)

    def output(self, job_id: str, folder: Path) -> str:
        """The end of its log."""
        lines = _ask(
            lambda: list(islice(self._api.fetch_job_logs(job_id=job_id, tail=20, namespace=self._namespace), 20)),
            missing=[],
        )
        return "\n".join(lines)

    @cached_property
    def _api(self) -> HfApi:
        return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    @cached_property
    def _namespace(self) -> str:
        """The namespace, asked once: each call would ask for it again."""
        return _ask(self._api.whoami)["name"]


_NOT_MISSING = object()
_HTTP_ERROR: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
"""Of the HTTP library that this release of the client is built on."""


def _ask(request: Callable[[], T], missing: Any = _NOT_MISSING) -> T:
    """What the hub answers; `missing` where there is no such job. Its own words are kept, which hold no token."""
    try:
        return request()
    except LocalTokenNotFoundError as error:
        raise ConfigurationError(f"Hugging Face: {_REMEDIES[401]}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 404 and missing is not _NOT_MISSING:
            return missing
        if status >= 500 or status == 429:
            raise UnreachableError(f"Hugging Face answered {status}.") from error
        said = (error.server_message or str(error)).strip().splitlines()[-1]
        remedy = _REMEDIES.get(status, f"Correct {FLAVOR_VARIABLE}, {IMAGE_VARIABLE} or {TIMEOUT_VARIABLE}.")
        raise ConfigurationError(f"Hugging Face refused ({status}): {said} {remedy}") from error
    except _HTTP_ERROR as error:
        raise UnreachableError(f"Hugging Face does not answer ({type(error).__name__}).") from error
