"""Slurm, by `sbatch`, `squeue` and `scancel` alone: many clusters have no accounting database to ask."""

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.backends.base import Look, Phase, UnreachableError
from dentsight_pipeline.orchestration.backends.local import end_of

OPTIONS_VARIABLE = "DENTSIGHT_SLURM_OPTIONS"
SCRIPT = """#!/bin/sh
if [ "${{SLURM_NTASKS:-1}}" -gt 1 ]; then exec srun --kill-on-bad-exit=1 {command}; fi
exec {command}
"""
"""`exec`, so that the TERM of a requeue, a time limit or a cancel reaches the worker itself."""
WARNING_SECONDS = 60
"""From the TERM before a time limit to the limit."""
_AWAY = (
    "unable to contact",
    "connection refused",
    "timed out",
    "communication",
    "no route",
    "zero bytes",
    "not responding",
)
_UNKNOWN = ("invalid job id",)
_WAITING = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
    "SUSPENDED",
}
_HELD = "requeued held"
"""In the reason of a job that Slurm gave up starting, such as one that still ran when a new controller started it."""
_RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING"}


@dataclass(frozen=True)
class Slurm:
    """A cluster that this machine can submit to; workers share its folders and its Python."""

    options: tuple[str, ...] = ()
    """Of sbatch: partition, account, time, GRES, nodes, whatever it takes."""
    name: str = "slurm"
    """As `DENTSIGHT_BACKEND` says it."""
    shares_folders: bool = True
    """As `Scheduler` says."""
    price_per_hour: float | None = None
    """Nobody tells."""

    @classmethod
    def of_environment(cls) -> "Slurm":
        """By `DENTSIGHT_SLURM_OPTIONS`, e.g. `--partition=gpu --account=lab --time=8:00:00 --gres=gpu:1`."""
        try:
            return cls(tuple(shlex.split(os.environ.get(OPTIONS_VARIABLE, ""))))
        except ValueError as error:
            raise ConfigurationError(f"{OPTIONS_VARIABLE} cannot be read: {error}. Quote as in a shell.") from error

    @property
    def asks_for_gpu(self) -> bool:
        """Whether a GPU is among the options."""
        return any("gpu" in option for option in self.options)

    def submit(self, name: str, command: list[str], folder: Path) -> str:
        """By sbatch; the job may be requeued, and hears TERM a minute before its time is up."""
        given = [f"--job-name={name}", "--requeue", "--open-mode=append", f"--output={folder}/slurm-%j.out"]
        given += [f"--signal=B:TERM@{WARNING_SECONDS}", "--parsable", *self.options]
        return _ask("sbatch", *given, text=SCRIPT.format(command=shlex.join(command))).strip().partition(";")[0]

    def find(self, name: str) -> str | None:
        """By squeue."""
        return _ask("squeue", "--noheader", f"--name={name}", "--format=%i").strip().partition("\n")[0] or None

    def look(self, job_id: str) -> Look:
        """By squeue; a state that nobody knows counts as gone only when the job is."""
        try:
            said = _ask("squeue", "--noheader", f"--jobs={job_id}", "--format=%T|%r").strip().partition("\n")[0]
        except ConfigurationError as error:
            if any(sign in str(error).lower() for sign in _UNKNOWN):
                return Look(Phase.GONE, "unknown")
            raise
        state, _, reason = said.partition("|")
        waits = Phase.HELD if _HELD in reason.lower() else Phase.WAITING
        phase = waits if state in _WAITING else Phase.RUNNING if state in _RUNNING else Phase.GONE
        return Look(phase, f"{state} ({reason})" if reason not in ("", "None") else state or "ended")

    def cancel(self, job_id: str) -> None:
        """By scancel, TERM first."""
        try:
            _ask("scancel", job_id)
        except ConfigurationError as error:
            if not any(sign in str(error).lower() for sign in (*_UNKNOWN, "already completing or completed")):
                raise

    def output(self, job_id: str, folder: Path) -> str:
        """The end of the file that it wrote."""
        return end_of(folder / f"slurm-{job_id}.out")


def _ask(*command: str, text: str = "") -> str:
    """What a command of Slurm's answers.

    Raises:
        UnreachableError: The controller does not answer.
        ConfigurationError: It refused.
    """
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=90, check=False)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{command[0]} is not installed here. Start the pipeline on a node that can submit."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"Slurm did not answer {command[0]} within 90 s.") from error
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split()) or f"status {done.returncode}"
    if any(sign in said.lower() for sign in _AWAY):
        raise UnreachableError(f"Slurm does not answer {command[0]}: {said}.")
    raise ConfigurationError(
        f"Slurm refused {command[0]}: {said}. Correct {OPTIONS_VARIABLE} ({' '.join(command[1:])})."
    )
