"""Which backend a job runs on: `DENTSIGHT_BACKEND`, unless the job goes on where an earlier start of it is noted."""

import os
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from dentsight_pipeline.documents.events import Event
from dentsight_pipeline.documents.job import Job, Result
from dentsight_pipeline.documents.remote import Note
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.backends.base import Scheduler, Task, UnreachableError, gpus
from dentsight_pipeline.orchestration.backends.detached import Detached, mailbox
from dentsight_pipeline.orchestration.backends.local import LocalBackend

BACKEND_VARIABLE = "DENTSIGHT_BACKEND"
LOCAL = "local"


def _slurm() -> Scheduler:
    from dentsight_pipeline.orchestration.backends.slurm import Slurm

    return Slurm.of_environment()


def _ray() -> Scheduler:
    from dentsight_pipeline.orchestration.backends.ray import Ray

    return Ray.of_environment()


def _hf_jobs() -> Scheduler:
    from dentsight_pipeline.orchestration.backends.hf_jobs import HfJobs

    return HfJobs.of_environment()


def _kubernetes() -> Scheduler:
    from dentsight_pipeline.orchestration.backends.kubernetes import Kubernetes

    return Kubernetes.of_environment()


SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "slurm": _slurm,
    "ray": _ray,
    "hf-jobs": _hf_jobs,
    "kubernetes": _kubernetes,
}
"""Each with its settings from the environment; loaded when chosen."""


def backend_name() -> str:
    """The backend in use.

    Raises:
        ConfigurationError: There is none of this name.
    """
    name = os.environ.get(BACKEND_VARIABLE, "").strip() or LOCAL
    if name not in (LOCAL, *SCHEDULERS):
        raise ConfigurationError(
            f"{BACKEND_VARIABLE} is {name!r}; there are {', '.join((LOCAL, *SCHEDULERS))}. See docs/operations.md."
        )
    return name


def scheduler() -> Scheduler | None:
    """The chosen scheduler with its settings; None for this machine."""
    name = backend_name()
    return None if name == LOCAL else SCHEDULERS[name]()


class ChosenBackend(dg.ConfigurableResource):
    """Runs jobs where this installation runs them; no asset knows where that is."""

    def run(
        self,
        context: dg.AssetExecutionContext,
        verb: str,
        job: Job,
        locks: Path,
        listen: Callable[[Event], None],
    ) -> Result:
        """Run one job to its end, as `Backend.perform` says."""
        version = (context.assets_def.code_versions_by_key or {}).get(context.asset_key) or ""
        return perform(Task(context, verb, job, locks, listen, version))

    @property
    def price_per_hour(self) -> float | None:
        """What an hour of a job costs, where its scheduler says so."""
        chosen = scheduler()
        return chosen.price_per_hour if chosen else None


def perform(task: Task) -> Result:
    """Do a job where an earlier start of this very work still runs, else at the chosen backend."""
    name, box = backend_name(), mailbox(task)
    note = box.note()
    if note is not None and note.backend not in (name, LOCAL) and (found := _goes_on(task, note.backend)):
        backend, adopted = found
        return backend.perform(task, adopted)
    if name != LOCAL:
        return _detached(name).perform(task)
    if note is not None:
        box.fetch_state(task.job.folder)
    return LocalBackend().perform(task)


def _detached(name: str) -> Detached:
    return Detached(SCHEDULERS[name](), processes=max(1, gpus()))


def _goes_on(task: Task, name: str) -> tuple[Detached, Note] | None:
    """The backend where an earlier start's job goes on, and the job; a worker given up ends itself when replaced."""
    try:
        earlier = _detached(name)
        adopted = earlier.adopt(task)
        return None if adopted is None else (earlier, adopted)
    except (KeyError, ConfigurationError, UnreachableError) as error:
        task.context.log.warning(
            f"This work was ordered at {name}, which cannot be asked ({error}). It is ordered anew."
        )
        return None
