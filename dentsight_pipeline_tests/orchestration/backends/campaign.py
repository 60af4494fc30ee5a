"""Campaign of `kill -9` on real engines: every training ends as undisturbed, once, with nothing left.

    python -m dentsight_pipeline_tests.orchestration.backends.campaign --kills 30 [--seed 1] [--parts NAME,NAME]

A Slurm cluster, an S3 server and an orchestrator are processes of this machine; each round trains one seed, while parts
are killed at random moments. Prints a line a kill, and a table. `test_campaign.py` samples it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import psutil
from botocore.config import Config

from dentsight_pipeline.documents.job import Result
from dentsight_pipeline.orchestration.backends.detached import Detached, mailbox
from dentsight_pipeline.orchestration.backends.slurm import Slurm
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.local_server import free_port
from dentsight_pipeline_tests.orchestration.backends.cluster import Cluster, slurm
from dentsight_pipeline_tests.orchestration.backends.conftest import tiny
from dentsight_pipeline_tests.orchestration.backends.tasks import QUICK, Ordered, fit_task, undisturbed
from dentsight_pipeline_tests.training.conftest import make_subset

PARTS = ("slurmd", "slurmctld", "node", "worker", "trainer", "orchestrator", "S3 server")
STEPS = 24
KILLS_A_ROUND = 5
S3_AWAY_SECONDS = 20.0
BUCKET = "campaign"


@dataclass
class Told:
    """What a campaign found."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Kills by part."""
        rows = ["| killed | times |", "|---|---|", *(f"| {part} | {self.kills[part]} |" for part in PARTS)]
        return "\n".join(rows)


def order(store: Store, subset: str, seed: int, folder: Path) -> Ordered:
    """The training of a round; a process that is killed orders the same again."""
    return fit_task(store, store.get_manifest(subset), tiny(STEPS, seed=seed, evaluate_every_steps=12), folder)


def orchestrate(uri: str, subset: str, seed: int, folder: Path) -> None:
    """What a step does, in a process of its own that may be killed."""
    ordered = order(open_store(uri), subset, seed, folder)
    result: Result = Detached(Slurm(), QUICK).perform(ordered.task)
    sys.stdout.write(result.digest)


@dataclass
class Campaign:
    """The parts that are killed, and what becomes of the trainings."""

    folder: Path
    cluster: Cluster
    chance: random.Random
    tell: Callable[[str], None]
    told: Told = field(default_factory=Told)
    server: subprocess.Popen[bytes] | None = None
    orchestrator: subprocess.Popen[str] | None = None

    def run(self, kills: int, parts: Sequence[str]) -> Told:
        """So many kills, over all parts alike."""
        todo = [parts[number % len(parts)] for number in range(kills)]
        self.chance.shuffle(todo)
        store = open_store(f"s3://{BUCKET}/store" if self.server else self.folder / "store")
        subset = make_subset(store, {"train": 8, "valid": 4}).digest
        for seed, first in enumerate(range(0, kills, KILLS_A_ROUND), 1):
            self._round(store, subset, seed, todo[first : first + KILLS_A_ROUND])
        return self.told

    def _round(self, store: Store, subset: str, seed: int, todo: Sequence[str]) -> None:
        arguments = [store.uri, subset, str(seed), str(self.folder / f"round-{seed}")]
        ordered = order(store, subset, seed, self.folder / f"round-{seed}")
        self._start(arguments)
        for part in todo:
            self._sleep(self.chance.uniform(2, 12), arguments)
            self._kill(part, arguments)
        digest = self._finish(arguments)
        expected = undisturbed(ordered)
        if digest != expected:
            self.told.faults.append(f"round {seed} gave {digest}, undisturbed it is {expected}")
        self._examine(seed, ordered)
        self.tell(f"round {seed}: {'equal' if digest == expected else 'DIFFERS'}")

    def _start(self, arguments: list[str]) -> None:
        module = "dentsight_pipeline_tests.orchestration.backends.campaign"
        self.orchestrator = subprocess.Popen(
            [sys.executable, "-m", module, "--orchestrate", *arguments], stdout=subprocess.PIPE, text=True
        )

    def _sleep(self, seconds: float, arguments: list[str]) -> None:
        time.sleep(seconds)
        assert self.orchestrator is not None
        if self.orchestrator.poll() not in (None, 0):
            self.told.faults.append(f"the orchestrator ended with {self.orchestrator.poll()}")
            self._start(arguments)

    def _kill(self, part: str, arguments: list[str]) -> None:
        assert self.orchestrator is not None
        if self.orchestrator.poll() is None:
            self.told.kills[part] += 1
        match part:
            case "slurmd" | "slurmctld":
                self.cluster.kill(part)
                time.sleep(self.chance.uniform(0, 4))
                self.cluster.run(part)
            case "node":
                self.cluster.kill("slurmd", with_jobs=True)
                time.sleep(self.chance.uniform(0, 4))
                self.cluster.run("slurmd")
            case "worker" | "trainer":
                sign = " remote " if part == "worker" else "training fit "
                for process in self.cluster.job_processes():
                    with suppress(psutil.Error):
                        if sign in " ".join(process.cmdline()):
                            process.kill()
            case "S3 server" if self.server is not None:  # its memory is its disk: it is held, not ended
                self.server.send_signal(signal.SIGSTOP)
                time.sleep(S3_AWAY_SECONDS)
                self.server.send_signal(signal.SIGCONT)
            case "orchestrator":
                if self.orchestrator.poll() is None:
                    self.orchestrator.kill()
                    self.orchestrator.wait()
                    self._start(arguments)
        self.tell(f"{time.strftime('%H:%M:%S')} killed: {part}")

    def _finish(self, arguments: list[str]) -> str:
        assert self.orchestrator is not None
        try:
            said, _ = self.orchestrator.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            self.told.faults.append(f"round {arguments[2]} hangs")
            self.orchestrator.kill()
            return "(hangs)"
        return said.strip()

    def _examine(self, seed: int, ordered: Ordered) -> None:
        """One end, no job in the queue, no process left."""
        box = mailbox(ordered.task)
        note = box.note()
        deadline = time.monotonic() + 30
        while (self.cluster.jobs() or self.cluster.job_processes()) and time.monotonic() < deadline:
            time.sleep(0.5)
        left = [*self.cluster.jobs(), *(str(process) for process in self.cluster.job_processes())]
        self.told.faults += [f"round {seed} left {one}" for one in left]
        if note is None or box.end(note.order) is None:
            self.told.faults.append(f"round {seed} has no end")


@contextmanager
def bucket(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An S3 server in a process of its own, with a bucket, and the environment that leads there."""
    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1"}
    place = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}", "XDG_CACHE_HOME": str(folder / "cache")}
    os.environ.update({**keys, **place, "AWS_EC2_METADATA_DISABLED": "true"})
    serve = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])"]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen([*serve, "-H", "127.0.0.1", "-p", str(port)], stdout=quiet, stderr=quiet)
    try:
        boto3.client("s3", config=Config(retries={"total_max_attempts": 10})).create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.send_signal(signal.SIGCONT)
        server.kill()
        server.wait()


@contextmanager
def campaign(folder: Path, seed: int, tell: Callable[[str], None], *, with_bucket: bool = True) -> Iterator[Campaign]:
    """A campaign's parts, running."""
    os.environ["DENTSIGHT_SCRATCH"] = str(folder / "scratch")
    with slurm(folder / "slurm") as cluster, ExitStack() as stack:
        os.environ["SLURM_CONF"] = str(cluster.configuration)
        server = stack.enter_context(bucket(folder)) if with_bucket else None
        yield Campaign(folder, cluster, random.Random(seed), tell, server=server)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--orchestrate", nargs=4)
    given = parser.parse_args()
    if given.orchestrate:
        uri, subset, seed, folder = given.orchestrate
        orchestrate(uri, subset, int(seed), Path(folder))
        return 0
    with campaign(Path(tempfile.mkdtemp(prefix="campaign")), given.seed, _say) as running:
        told = running.run(given.kills, given.parts.split(","))
    sys.stdout.write(f"{told.table()}\n{'; '.join(told.faults) or 'no faults'}\n")
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())
