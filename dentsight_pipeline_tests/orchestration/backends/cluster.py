"""A Slurm cluster of one node on this machine, started by the tests: Debian's slurm-wlm, no munge, no cgroups."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
import pytest

from dentsight_pipeline_tests.local_server import free_port

Daemon = Literal["slurmctld", "slurmd"]

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
StateSaveLocation={folder}/state
Prolog={folder}/prolog
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=60
KillWait=10
MinJobAge=5
MessageTimeout=5
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Cluster:
    """The two daemons of a cluster."""

    folder: Path
    slots: int = 2
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def configuration(self) -> Path:
        """Its slurm.conf."""
        return self.folder / "slurm.conf"

    @property
    def broken(self) -> Path:
        """While this file exists the node cannot start a job: Slurm drains it, and holds the job."""
        return self.folder / "broken"

    def start(self) -> None:
        """Start both daemons, and wait for an idle node."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(
            host=host, folder=self.folder, controller=free_port(), node=free_port(), slots=self.slots
        )
        self.configuration.write_text(text)
        prolog = self.folder / "prolog"
        prolog.write_text(f"#!/bin/sh\nexec test ! -e {self.broken}\n")
        prolog.chmod(0o755)
        self.run("slurmctld")
        self.run("slurmd")
        self.wait_for_node()

    def run(self, daemon: Daemon) -> None:
        """Start one daemon."""
        environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        self.processes[daemon] = subprocess.Popen(
            [f"/usr/sbin/{daemon}", "-D", "-f", str(self.configuration)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait_for_node(self, seconds: float = 120) -> None:
        """Wait until the node takes jobs."""
        deadline, said = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            said = self.ask("sinfo", "--noheader", "--format=%T")
            if said.strip() in ("idle", "mixed", "allocated"):
                return
            self.take_in()
            time.sleep(0.3)
        raise AssertionError(
            f"no node within {seconds} s: {said}\n{(self.folder / 'slurmctld.log').read_text()[-2000:]}"
        )

    def take_in(self) -> None:
        """What an administrator does with a node that a failed launch took out (drained: "Duplicate jobid")."""
        state, _, node = self.ask("sinfo", "--noheader", "--format=%T %N").strip().partition(" ")
        if state.startswith(("drain", "down")):
            self.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def ask(self, *command: str) -> str:
        """What a client command prints."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "SLURM_CONF": str(self.configuration)},
            check=False,
        )
        return done.stdout or done.stderr

    def kill(self, daemon: Daemon, *, with_jobs: bool = False) -> None:
        """`kill -9` of a daemon; with its jobs it is as if the node had lost its power."""
        if with_jobs:
            for process in self.job_processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.processes[daemon].kill()
        self.processes[daemon].wait()

    def job_processes(self) -> list[psutil.Process]:
        """Everything that the jobs run, the slurmstepd above them first: nothing can then report their death."""
        above, found = set(), set()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if "SLURM_JOB_ID" in environment and environment.get("SLURM_CONF") == str(self.configuration):
                    found.add(process)
                    parent = process.parent()
                    above |= {parent} if parent is not None and "slurmstepd" in parent.name() else set()
        return [*above, *(found - above)]

    def jobs(self) -> list[str]:
        """Ids, states and reasons of the jobs that are queued or running."""
        return self.ask("squeue", "--noheader", "--format=%i %T %r").split("\n")[:-1]

    def stop(self) -> None:
        """End everything."""
        if self.processes["slurmctld"].poll() is None:
            self.ask("scancel", "--user=root")
        deadline = time.monotonic() + 15
        while self.job_processes() and time.monotonic() < deadline:
            time.sleep(0.3)
        for process in self.job_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@contextmanager
def slurm(folder: Path, slots: int = 2) -> Iterator[Cluster]:
    """A running cluster; skips where Slurm is not installed or this user may not run it."""
    if shutil.which("sbatch") is None or not Path("/usr/sbin/slurmd").exists():
        pytest.skip("needs Debian's slurm-wlm")
    if os.getuid():
        pytest.skip("slurmd starts jobs as root alone")
    cluster = Cluster(folder, slots)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
