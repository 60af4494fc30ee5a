"""`python -m dentsight_pipeline.training fit JOB.json`, `… predict JOB.json`, and `… remote STORE KEY` (`worker.py`).

Exit status 0 = done, `result.json` is written; 2 = refused or failed with a clear error, `error.json` says which;
6 = the classification head collapsed; anything else = a crash. The files lie in the job's `workdir`.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from dentsight_pipeline.documents.job import FitJob, Job, PredictJob
from dentsight_pipeline.errors import DentsightError, StorageError
from dentsight_pipeline.training import job as jobs
from dentsight_pipeline.training.reporting import Reporter

USAGE = "Usage: python -m dentsight_pipeline.training fit|predict JOB.json, or … remote STORE KEY"
VERBS: dict[str, type[Job]] = {"fit": FitJob, "predict": PredictJob}


def main(arguments: list[str]) -> int:
    """Runs one job; returns the exit status."""
    if len(arguments) == 3 and arguments[0] == "remote":
        from dentsight_pipeline.training.worker import work

        return work(*arguments[1:])
    if len(arguments) != 2 or arguments[0] not in VERBS:
        sys.stderr.write(USAGE + "\n")
        return jobs.EXIT_REFUSED
    _set_openmp()
    folder = Path(arguments[1]).parent
    first = os.environ.get("RANK", "0") == "0"
    try:
        job = jobs.load(VERBS[arguments[0]], Path(arguments[1]))
        folder = job.folder
        (folder / "error.json").unlink(missing_ok=True)  # of an attempt that was stopped while this one waited
        with Reporter(folder if first else None, echo=sys.stderr if first else None) as reporter:
            _run(job, reporter)
    except Exception as error:
        return _fail(folder, error)
    return 0


def _set_openmp() -> None:
    """Before torch is loaded: threads that neither spin for long nor sleep at once, unless told otherwise.

    OpenMP threads that spin while they wait slow a shared machine down many times over; ones that sleep at once take
    half the speed of a quiet one. A short spin costs nothing on either (docs/log.md).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _run(job: Job, reporter: Reporter) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    if isinstance(job, FitJob):
        from dentsight_pipeline.training.loop import run_fit

        run_fit(job, reporter)
    elif isinstance(job, PredictJob):
        from dentsight_pipeline.training.predict import run_predict

        run_predict(job, reporter)


def _fail(folder: Path, error: Exception) -> int:
    """Writes `error.json`, says the error, and gives the exit status; a full disk becomes a clear error as well."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        error = StorageError(
            f"The disk is full ({error.filename or folder}). Free space and start the same job again, it resumes."
        )
    sys.stderr.write(f"{error}\n")
    if not isinstance(error, DentsightError):
        import traceback

        traceback.print_exception(error)
    try:
        return jobs.write_error(folder, error)
    except OSError:  # the disk that is full is the one that the error should be written to
        return jobs.exit_status(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
