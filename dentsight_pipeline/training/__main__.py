"""`python -m dentsight_pipeline.training fit JOB.json` and `… predict JOB.json`.

Exit status 0 = done, `result.json` is written; 2 = refused or failed with a clear error, `error.json` says which;
6 = the classification head collapsed; anything else = a crash. The files lie in the job's `workdir`.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

from dentsight_pipeline.errors import DentsightError, StorageError
from dentsight_pipeline.training import job as jobs
from dentsight_pipeline.training.reporting import Reporter

USAGE = "Usage: python -m dentsight_pipeline.training fit|predict JOB.json"


def main(arguments: list[str]) -> int:
    """Runs one job; returns the exit status."""
    if len(arguments) != 2 or arguments[0] not in {"fit", "predict"}:
        sys.stderr.write(USAGE + "\n")
        return jobs.EXIT_REFUSED
    # Before torch is loaded. OpenMP threads that spin while they wait slow a shared machine down many times over; ones
    # that sleep at once take half the speed of a quiet one. A short spin costs nothing on either (docs/log.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    verb, path = arguments[0], Path(arguments[1])
    workdir = path.parent
    first = os.environ.get("RANK", "0") == "0"
    try:
        job = jobs.load(jobs.FitJob if verb == "fit" else jobs.PredictJob, path)
        workdir = job.workdir
        (workdir / "error.json").unlink(missing_ok=True)  # of an attempt that was stopped while this one waited
        with Reporter(workdir if first else None, echo=sys.stderr if first else None) as reporter:
            _run(job, reporter)
    except Exception as error:
        return _fail(workdir, error)
    return 0


def _run(job: jobs.FitJob | jobs.PredictJob, reporter: Reporter) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    if isinstance(job, jobs.FitJob):
        from dentsight_pipeline.training.loop import run_fit

        run_fit(job, reporter)
    else:
        from dentsight_pipeline.training import cost
        from dentsight_pipeline.training.predict import run_predict

        started = time.perf_counter()
        digest = run_predict(job, reporter)
        card = {"wall_s": time.perf_counter() - started, "peak_memory_mib": cost.peak_memory_mib()}
        record = {"cost": card, "hardware": cost.hardware(), "packages": cost.package_versions()}
        jobs.write_result(job.workdir, digest, {**record, "finished": time.time()})


def _fail(workdir: Path, error: Exception) -> int:
    """Writes `error.json`, says the error, and gives the exit status; a full disk becomes a clear error as well."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        error = StorageError(
            f"The disk is full ({error.filename or workdir}). Free space and start the same job again, it resumes."
        )
    sys.stderr.write(f"{error}\n")
    if not isinstance(error, DentsightError):
        import traceback

        traceback.print_exception(error)
    try:
        return jobs.write_error(workdir, error)
    except OSError:  # the disk that is full is the one that the error should be written to
        return jobs.EXIT_REFUSED if isinstance(error, DentsightError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
