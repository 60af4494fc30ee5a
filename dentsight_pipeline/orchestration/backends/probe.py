"""A job of seconds at the chosen scheduler, for the doctor: does a worker start there, reach the store, and match?"""

import time
import uuid
from pathlib import Path

from dentsight_pipeline.documents.remote import Order, Probe
from dentsight_pipeline.errors import DentsightError, TrainingError
from dentsight_pipeline.orchestration.backends.base import Phase, Scheduler, UnreachableError, worker_command
from dentsight_pipeline.orchestration.backends.detached import Detached
from dentsight_pipeline.orchestration.backends.local import error_of
from dentsight_pipeline.store.canonical import digest
from dentsight_pipeline.store.mailbox import Mailbox
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training.versions import versions

WAIT_SECONDS = 300.0
"""How long it may take to start and to answer."""


def probe(
    scheduler: Scheduler, store: Store, folder: Path, *, seconds: float = WAIT_SECONDS, pause: float = 1.0
) -> Probe:
    """Run the job, and hear what it found.

    Args:
        scheduler: Where.
        store: That the worker has to reach.
        folder: For what the scheduler writes.
        seconds: How long to wait.
        pause: Between two looks.

    Raises:
        DentsightError: It was refused, by the scheduler or by itself, or nothing was heard; says what is known.
    """
    backend, box = Detached(scheduler), Mailbox(store, f"probe-{uuid.uuid4().hex[:16]}")
    backend.require_reach(box)
    order = Order(digest=digest(box.key, "A probe"), verb="probe", versions=versions())
    box.give(order)
    folder.mkdir(parents=True, exist_ok=True)
    job_id = scheduler.submit(f"dentsight-{box.key}", worker_command(backend.python, store.uri, box.key), folder)
    try:
        return _heard(scheduler, box, order, job_id, folder, time.monotonic() + seconds, pause)
    finally:
        scheduler.cancel(job_id)
        box.remove()


def _heard(
    scheduler: Scheduler, box: Mailbox, order: Order, job_id: str, folder: Path, until: float, pause: float
) -> Probe:
    """What the worker said; what the scheduler says where it said nothing."""
    gone = 0
    while True:
        end = box.end(order.digest)
        if end is not None and end.failure is not None:
            raise error_of(end.failure)
        if end is not None and end.probe is not None:
            return end.probe
        try:
            look = scheduler.look(job_id)
        except UnreachableError as error:
            raise DentsightError(str(error)) from error
        gone += look.phase is Phase.GONE
        if gone > 5 or look.phase is Phase.STUCK or time.monotonic() > until:
            raise TrainingError(_silence(scheduler, job_id, look.words, folder, ended=gone > 5))
        time.sleep(pause)


def _silence(scheduler: Scheduler, job_id: str, words: str, folder: Path, *, ended: bool) -> str:
    """Why nothing was heard, as far as anybody knows."""
    if not ended:
        return f"Job {job_id} of {scheduler.name} has said nothing yet; the scheduler says: {words}."
    told = scheduler.output(job_id, folder).strip() or "(nothing)"
    return f"Job {job_id} of {scheduler.name} ended ({words}) and the store heard nothing of it. Its output:\n{told}"
