"""Starts each run in a process of its own, and can tell at any later time whether that process still lives.

Dagster's default launcher starts runs inside the code server and has no health check: after a power cut a run stays
STARTED for ever, with its pool slot. This one records pid, start time and boot of every run worker in the run's tags,
so that run monitoring sees a worker that is gone, fails its run, and run retries take it up again. Workers do not
depend on the servers: a code server, daemon or webserver that ends, is restarted or upgraded leaves trainings alone.

This module and `executor.py` alone use private parts of Dagster: here the launcher's base class and the hidden command
`dagster api execute_run`, which its Docker and Kubernetes launchers start as well. `pyproject.toml` pins Dagster to one
minor version, and `test_launcher.py` runs real workers against it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dagster import DagsterRun
from dagster import _check as check
from dagster._config.config_schema import UserConfigSchema
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, serialize_value
from dagster._serdes.config_class import ConfigurableClassData

from dentsight_pipeline.orchestration.workers import State, identity_of, lives, recorded, state_of, tag_of, workers

KILL_AFTER_SECONDS = 60.0
"""How long a cancelled worker may take to end before it is killed; its trainer has 20 s of these."""
LOG_LINES = 20


class SupervisedRunLauncher(RunLauncher, ConfigurableClass):
    """Runs each run in its own process on this machine, and knows which of them still live."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """How `dagster.yaml` names this launcher."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """No settings."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """From `dagster.yaml`."""
        return cls(inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the worker and record who it is."""
        run = context.dagster_run
        origin = check.not_none(context.job_code_origin, f"Run {run.run_id} does not say where its job is defined.")
        arguments = ExecuteRunArgs(
            job_origin=origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        interpreter = origin.executable_path or sys.executable
        log = self._log_of(run.run_id)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [interpreter, "-m", "dagster", "api", "execute_run", serialize_value(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the servers' terminal is not for trainings
            )
        self._reap()
        self._workers[run.run_id] = process
        self._instance.add_run_tags(run.run_id, tag_of(process.pid, run.run_id))
        self._instance.report_engine_event(f"Started a worker for this run (pid {process.pid}).", run)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Lets run monitoring ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the worker of a started run lives."""
        self._reap()
        run = self._instance.get_run_by_id(run.run_id) or run  # the tag may be younger than the caller's copy
        state = state_of(run)
        if state is State.ELSEWHERE:  # a live training is never failed on the word of a machine that cannot see it
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its worker is on another host")
        if state is State.ALIVE:
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=str(_pid_of(run)))
        return CheckRunHealthResult(
            WorkerStatus.FAILED, "the run's worker process is gone (killed, out of memory, or a power cut)"
        )

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """The end of the worker's own output."""
        log = self._log_of(run.run_id)
        if not log.exists():
            return None
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        return f"The end of the worker's output ({log}):\n" + "\n".join(lines) if lines else None

    def terminate(self, run_id: str) -> bool:
        """Ask a worker to end, and kill it when it does not; works also after the servers were restarted."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or state_of(run) is State.ELSEWHERE:
            return False
        self._instance.report_run_canceling(run)
        pid = _pid_of(run)
        if pid is None:
            self._instance.report_run_canceled(run, "The run's worker process had gone already.")
            return True
        os.kill(pid, signal.SIGTERM)
        threading.Thread(
            target=self._kill_when_stubborn, args=(pid, run_id), name=f"terminate {run_id}", daemon=True
        ).start()
        return True

    def join(self, timeout: int = 30) -> None:
        """Wait for the workers that this process started."""
        deadline = time.monotonic() + timeout
        for process in self._workers.values():
            process.wait(timeout=max(0.0, deadline - time.monotonic()))

    def _kill_when_stubborn(self, pid: int, run_id: str) -> None:
        deadline = time.monotonic() + KILL_AFTER_SECONDS
        worker = identity_of(pid, run_id)
        while worker is not None and lives(worker):
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.5)

    def _reap(self) -> None:
        """Forget workers that ended; without it each would stay a zombie of the daemon."""
        for run_id, process in list(self._workers.items()):
            if process.poll() is not None:
                del self._workers[run_id]

    def _log_of(self, run_id: str) -> Path:
        return Path(self._instance.storage_directory()) / "run_workers" / f"{run_id}.log"


def _pid_of(run: DagsterRun) -> int | None:
    """The pid of a run's worker, or None when none lives on this machine."""
    worker = recorded(run)
    if worker is None:
        return next(iter(workers(run.run_id)), None)
    return worker.pid if state_of(run) is State.ALIVE else None
