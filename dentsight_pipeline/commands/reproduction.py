"""The means for making a checkpoint again: an empty workspace, and processes behind the guard that locks the GPU."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from dentsight_pipeline import errors
from dentsight_pipeline.commands.doctor import initialise
from dentsight_pipeline.documents.codec import write
from dentsight_pipeline.documents.job import Job
from dentsight_pipeline.lineage.environment import code_state
from dentsight_pipeline.lineage.reference import resolve
from dentsight_pipeline.lineage.reproduce import Reproduction, reproduce
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.orchestration.tracking.registry import MlflowRegistry
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.objects import open_store

GRACE_SECONDS = 20


def reproduce_reference(
    workspace: Workspace,
    ref: str,
    *,
    into: Path | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Make again what a reference means, in a workspace of its own.

    Args:
        workspace: Where it was recorded; only read, but for the locks of the GPUs.
        ref: See `lineage/reference.py`.
        into: A new or empty folder that becomes a workspace and is kept; by default a temporary one.
        progress: Called with stage, done, total.

    Raises:
        ConfigurationError: The reference leads to no checkpoint, or `into` is not empty.
        DentsightError: Something recorded is damaged, or the training failed.
    """
    if into is not None and into.exists() and any(into.iterdir()):
        raise errors.ConfigurationError(f"{into} is not empty. Give a new folder, so that nothing old is reused.")
    found = resolve(workspace.store, ref, MlflowRegistry(Tracking(workspace=workspace)))
    with ExitStack() as stack:
        if into is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dentsight-reproduce-")))
            fresh = open_store(home / "store")
        else:
            home = into
            fresh = open_store(initialise(into)["store"])
        scratch = home / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)

        def run_job(verb: str, job: Job) -> str:
            return _run_guarded(verb, job, workspace.gpu_locks)

        return reproduce(workspace.store, found.digest, fresh, scratch, run_job, code=code_state(), progress=progress)


def _run_guarded(verb: str, job: Job, locks: Path) -> str:
    """Run a job in a process that dies with this one and waits for a GPU; returns the digest that it published.

    Raises:
        DentsightError: The job's own error, in its own words.
        TrainingError: It died without a word.
    """
    workdir = job.folder
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "job.json").write_bytes(write(job))
    command = [
        *(sys.executable, "-m", "dentsight_pipeline.orchestration.guard", "--parent", str(os.getpid())),
        *("--locks", str(locks), "--slots", "1", "--grace", str(GRACE_SECONDS)),
        *("--", sys.executable, "-m", "dentsight_pipeline.training", verb, str(workdir / "job.json")),
    ]
    # stdout stays free for the caller's JSON.
    process = subprocess.Popen(command, stdout=sys.stderr.fileno(), stderr=sys.stderr.fileno())
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait(timeout=GRACE_SECONDS + 10)
        raise
    if status == 0:
        return json.loads((workdir / "result.json").read_text("utf-8"))["digest"]
    told = workdir / "error.json"
    if told.exists():
        raise errors.TrainingError(json.loads(told.read_text("utf-8"))["message"])
    raise errors.TrainingError(
        f"The {verb} process ended with status {status} without a word of its own; its output is above. Free memory "
        "(a signal 9 is often a lack of it) and run again."
    )
