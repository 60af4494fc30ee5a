"""Campaign of `kill -9` on real engines: every training ends as undisturbed, once, with nothing left.

    python -m dentsight_pipeline_tests.orchestration.backends.campaign --kills 30 [--engine ray] [--seed 1] [--parts …]

An engine (Slurm or Ray), an S3 server and an orchestrator are processes of this machine; each round trains the same
in a store of its own, while parts are killed at random moments. Prints a line a kill, and a table. `test_campaign.py`
samples it; `servers_campaign.py` does the same with Dagster's servers and MLflow above Slurm.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from typing import Any, Protocol

import boto3
import psutil
from botocore.config import Config

from dentsight_pipeline.documents.job import Result
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.orchestration.backends.choice import SCHEDULERS
from dentsight_pipeline.orchestration.backends.detached import LOST_AFTER, Detached, digest_of, mailbox
from dentsight_pipeline.store.mailbox import Mailbox
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.local_server import free_port
from dentsight_pipeline_tests.orchestration.backends.cluster import Cluster, slurm
from dentsight_pipeline_tests.orchestration.backends.conftest import tiny
from dentsight_pipeline_tests.orchestration.backends.ray_head import Head, ray_head
from dentsight_pipeline_tests.orchestration.backends.tasks import QUICK, Ordered, fit_task, undisturbed
from dentsight_pipeline_tests.training.conftest import make_subset

COMMON = ("worker", "trainer", "orchestrator", "S3 server")
ENDS_AN_ATTEMPT = ("node", "head", "worker")
"""After three of them in a row without a step more a person is asked: the third waits for a step."""
STEPS = 24
KILLS_A_ROUND = 10
S3_AWAY_SECONDS = 20.0
HANGS_SECONDS = 900.0
"""A round takes three minutes on two quiet cores."""
HELD_AFTER_ITS_END = "requeued held"
"""A controller that forgot a job's start may hold it when nobody waits for it any more: a person's to clear."""
BUCKET = "campaign"


class Engine(Protocol):
    """A scheduler of this machine whose own parts can be killed."""

    name: str
    """As `DENTSIGHT_BACKEND` says it."""
    parts: tuple[str, ...]
    """Its own."""

    def kill(self, part: str, pause: float) -> None:
        """Kill a part, and start it again after so many seconds."""

    def left(self) -> list[str]:
        """Jobs that it still has."""
        ...

    def tend(self) -> None:
        """What its administrator does now and then."""
        ...


@dataclass
class SlurmParts:
    """Slurm's; `node` is slurmd with all that runs there."""

    cluster: Cluster
    name: str = "slurm"
    parts: tuple[str, ...] = ("slurmd", "slurmctld", "node")

    def kill(self, part: str, pause: float) -> None:
        """As `Engine` says."""
        daemon = "slurmctld" if part == "slurmctld" else "slurmd"
        self.cluster.kill(daemon, with_jobs=part == "node")
        time.sleep(pause)
        self.cluster.run(daemon)

    def left(self) -> list[str]:
        """As `Engine` says."""
        return [job for job in self.cluster.jobs() if not job.endswith(HELD_AFTER_ITS_END)]

    def tend(self) -> None:
        """As `Engine` says."""
        self.cluster.take_in()


@dataclass
class RayParts:
    """Ray's: the head with its jobs, or without them, so that the next head knows nothing of what still runs."""

    head: Head
    name: str = "ray"
    parts: tuple[str, ...] = ("head", "head alone")

    def kill(self, part: str, pause: float) -> None:
        """As `Engine` says."""
        self.head.kill(with_jobs=part == "head")
        time.sleep(pause)
        self.head.start()

    def left(self) -> list[str]:
        """As `Engine` says."""
        return self.head.jobs()

    def tend(self) -> None:
        """Nothing: who lost the head has started another."""


@dataclass
class Told:
    """What a campaign found."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    rounds: int = 0

    def table(self) -> str:
        """Kills by part, while a training was not over."""
        rows = ["| killed | times |", "|---|---|", *(f"| {part} | {times} |" for part, times in self.kills.items())]
        return "\n".join(rows)


def order(store: Store, subset: str, folder: Path) -> Ordered:
    """The training of a round; a process that is killed orders the same again."""
    return fit_task(
        store, store.get_manifest(subset), tiny(STEPS, evaluate_every_steps=12), folder, checkpoint_interval_s=1.0
    )


def orchestrate(engine: str, uri: str, subset: str, folder: Path) -> None:
    """What a step does, in a process of its own that may be killed."""
    ordered = order(open_store(uri), subset, folder)
    pace = dataclasses.replace(QUICK, silent=60.0)  # with much to do here, a living worker is silent for long
    result: Result = Detached(SCHEDULERS[engine](), pace).perform(ordered.task)
    sys.stdout.write(result.digest)


@dataclass
class Campaign:
    """The parts that are killed, and what becomes of the trainings."""

    folder: Path
    engine: Engine
    chance: random.Random
    tell: Callable[[str], None]
    told: Told = field(default_factory=Told)
    server: subprocess.Popen[bytes] | None = None
    orchestrator: subprocess.Popen[str] | None = None
    expected: str = ""
    """What the training gives undisturbed, once that is known."""

    @property
    def parts(self) -> tuple[str, ...]:
        """All that can be killed here."""
        return tuple(part for part in (*self.engine.parts, *COMMON) if self.server or part != "S3 server")

    def run(self, kills: int, parts: Sequence[str] = ()) -> Told:
        """So many kills, over all parts alike, each while a training was not over."""
        parts = parts or self.parts
        todo = [parts[number % len(parts)] for number in range(kills)]
        self.chance.shuffle(todo)
        while todo:
            self.told.rounds += 1
            self._round(self.told.rounds, todo)
        return self.told

    def _round(self, number: int, todo: list[str]) -> None:
        folder = self.folder / f"round-{number}"
        store = open_store(f"s3://{BUCKET}/round-{number}" if self.server else folder / "store")
        ordered = order(store, make_subset(store, {"train": 8, "valid": 4}).digest, folder)
        job: Any = ordered.task.job  # a FitJob
        arguments = [self.engine.name, store.uri, job.subset, str(folder)]
        self._start(arguments)
        for _ in range(KILLS_A_ROUND):
            time.sleep(self.chance.uniform(2, 12))
            self._look_after(arguments)
            if not todo or _is_over(ordered) or not self._may(todo[0], ordered):
                break
            self._kill(todo.pop(0), arguments)
        digest = self._finish(arguments)
        self._examine(number, ordered, digest)
        if not self.expected:
            self.expected = undisturbed(ordered)
        if digest != self.expected:
            self.told.faults.append(f"round {number} gave {digest}, undisturbed it is {self.expected}")
        self.tell(f"round {number}: {'equal' if digest == self.expected else 'DIFFERS'}")

    def _start(self, arguments: list[str]) -> None:
        module = "dentsight_pipeline_tests.orchestration.backends.campaign"
        self.orchestrator = subprocess.Popen(
            [sys.executable, "-m", module, "--orchestrate", *arguments], stdout=subprocess.PIPE, text=True
        )

    def _look_after(self, arguments: list[str]) -> None:
        assert self.orchestrator is not None
        if self.orchestrator.poll() not in (None, 0):
            self.told.faults.append(f"the orchestrator ended with {self.orchestrator.poll()}")
            self._start(arguments)

    def _may(self, part: str, ordered: Ordered) -> bool:
        """Whether nobody need be asked after this kill; waits for a step where need be. False when it is over."""
        box = mailbox(ordered.task)
        while part in ENDS_AN_ATTEMPT and not _is_over(ordered):
            note, state = box.note(), box.state()
            if note is None or note.failures < LOST_AFTER or (state is not None and state.step > note.step):
                break
            time.sleep(0.3)
        return not _is_over(ordered)

    def _kill(self, part: str, arguments: list[str]) -> None:
        assert self.orchestrator is not None
        self.told.kills[part] += 1
        self.tell(f"{time.strftime('%H:%M:%S')} killed: {part}")
        match part:
            case "worker" | "trainer":
                for process in _at_work(" remote " if part == "worker" else "training fit "):
                    with suppress(psutil.Error):
                        process.kill()
            case "S3 server" if self.server is not None:  # its memory is its disk: it is held, not ended
                self.server.send_signal(signal.SIGSTOP)
                time.sleep(S3_AWAY_SECONDS)
                self.server.send_signal(signal.SIGCONT)
            case "orchestrator":
                self.orchestrator.kill()
                self.orchestrator.wait()
                self._start(arguments)
            case _:
                self.engine.kill(part, self.chance.uniform(0, 4))

    def _finish(self, arguments: list[str]) -> str:
        assert self.orchestrator is not None
        deadline = time.monotonic() + HANGS_SECONDS
        while time.monotonic() < deadline:
            self.engine.tend()
            with suppress(subprocess.TimeoutExpired):
                return self.orchestrator.communicate(timeout=5)[0].strip()
        self.told.faults.append(f"round {self.told.rounds} hangs")
        self.orchestrator.kill()
        return "(hangs)"

    def _examine(self, number: int, ordered: Ordered, digest: str) -> None:
        """One end, one checkpoint, no job in the queue, no process left."""
        deadline = time.monotonic() + 120
        while (left := [*self.engine.left(), *map(str, _at_work())]) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.told.faults += [f"round {number} left {one}" for one in left]
        store = mailbox(ordered.task).store
        made = [one for one in store.manifest_digests() if store.get_manifest(one).kind == Kind.CHECKPOINT]
        if made != [digest] or not _is_over(ordered):
            self.told.faults.append(f"round {number} made {made}")


def _is_over(ordered: Ordered) -> bool:
    box: Mailbox = mailbox(ordered.task)
    return box.end(digest_of(ordered.task)) is not None


def _at_work(sign: str = "dentsight_pipeline.training") -> list[psutil.Process]:
    """Workers and trainers of this campaign, by their scratch folder and a part of their command."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get("DENTSIGHT_SCRATCH") == os.environ["DENTSIGHT_SCRATCH"]
            command = " ".join(process.cmdline())
            if ours and "dentsight_pipeline.training" in command and sign in command:
                found.append(process)
    return found


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
def campaign(
    folder: Path, seed: int, tell: Callable[[str], None], *, engine: str = "slurm", with_bucket: bool = True
) -> Iterator[Campaign]:
    """A campaign's parts, running."""
    os.environ["DENTSIGHT_SCRATCH"] = str(folder / "scratch")
    os.environ["DENTSIGHT_WORKER_GPUS"] = "0"
    with ExitStack() as stack:
        server = stack.enter_context(bucket(folder)) if with_bucket else None
        parts: Engine
        if engine == "ray":  # its jobs have the head's environment
            head = stack.enter_context(ray_head())
            parts, os.environ["DENTSIGHT_RAY_ADDRESS"] = RayParts(head), head.scheduler.address
        else:
            cluster = stack.enter_context(slurm(folder / "slurm"))
            parts, os.environ["SLURM_CONF"] = SlurmParts(cluster), str(cluster.configuration)
        yield Campaign(folder, parts, random.Random(seed), tell, server=server)


def say(text: str) -> None:
    """A line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("slurm", "ray"), default="slurm")
    parser.add_argument("--parts", default="")
    parser.add_argument("--orchestrate", nargs=4)
    given = parser.parse_args()
    if given.orchestrate:
        engine, uri, subset, folder = given.orchestrate
        orchestrate(engine, uri, subset, Path(folder))
        return 0
    with campaign(Path(tempfile.mkdtemp(prefix="campaign")), given.seed, say, engine=given.engine) as running:
        told = running.run(given.kills, given.parts.split(",") if given.parts else ())
    say(f"{told.table()}\n{told.rounds} trainings; {'; '.join(told.faults) or 'no faults'}")
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())
