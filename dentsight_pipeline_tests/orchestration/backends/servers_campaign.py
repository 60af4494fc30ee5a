"""Campaign of `kill -9` on Dagster's servers, its run workers and MLflow, while trainings run through Slurm.

    python -m dentsight_pipeline_tests.orchestration.backends.servers_campaign --kills 30 [--seed 1]

Each round launches one training as the UI does. It ends with the digest of an undisturbed one, in the log once, with
one MLflow run that has every loss, and with no slot, job or process left.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from msgspec.structs import replace

from dentsight_pipeline.documents.remote import Order
from dentsight_pipeline.orchestration.backends.local import run_alone
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.store import log
from dentsight_pipeline.store.mailbox import Mailbox
from dentsight_pipeline_tests.orchestration.assets.conftest import new_home
from dentsight_pipeline_tests.orchestration.backends.campaign import HANGS_SECONDS, KILLS_A_ROUND, Told, say
from dentsight_pipeline_tests.orchestration.backends.cluster import Cluster, slurm
from dentsight_pipeline_tests.orchestration.servers import Servers, running
from dentsight_pipeline_tests.orchestration.test_concurrency import MlflowServer

PARTS = ("daemon", "code server", "run worker", "MLflow", "training worker")
DATASET = "tiny-v1"
STEPS = 60
TRAINING: dict[str, Any] = {
    "image_width": "96",
    "image_height": "64",
    "evaluate_every_steps": "30",
    "max_steps": str(STEPS),
}


@dataclass
class Campaign:
    """The servers, and what becomes of the trainings that they launch."""

    servers: Servers
    cluster: Cluster
    mlflow: MlflowServer
    chance: random.Random
    tell: Callable[[str], None]
    told: Told = field(default_factory=Told)

    def run(self, kills: int) -> Told:
        """So many kills, over all parts alike, each while a training was not over."""
        todo = [PARTS[number % len(PARTS)] for number in range(kills)]
        self.chance.shuffle(todo)
        while todo:
            self.told.rounds += 1
            self._round(todo)
        self._examine_mlflow()
        return self.told

    def _round(self, todo: list[str]) -> None:
        known, number = set(self._boxes()), self.told.rounds
        run = self._launch(number)
        for _ in range(KILLS_A_ROUND):
            time.sleep(self.chance.uniform(2, 10))
            if not todo or self._is_over(known):
                break
            part = todo.pop(0)
            if not self._kill(part):
                todo.append(part)
        group = self.servers.wait(run, HANGS_SECONDS)
        while group[-1]["status"] != "SUCCESS":  # its workers died more often than it is tried again: by a person
            self.tell(f"round {number} is launched again after {len(group)} runs: {group[-1]['status']}")
            group = self.servers.wait(self._launch(number), HANGS_SECONDS)
        self._examine(number, set(self._boxes()) - known)

    def _launch(self, number: int) -> str:
        return self.servers.train(DATASET, **TRAINING, seed=str(number))

    def _kill(self, part: str) -> bool:
        """Whether there was anything to kill; a worker may just be started again."""
        match part:
            case "daemon" | "code server":
                self.servers.kill(part)
                self.servers.revive()
            case "run worker":
                if not self.servers.find("worker"):
                    return False
                self.servers.kill("worker")
            case "training worker":
                workers = [one for one in self.cluster.job_processes() if " remote " in " ".join(one.cmdline())]
                if not workers:
                    return False
                for process in workers:
                    process.kill()
            case _:
                self.mlflow.stop()
                time.sleep(self.chance.uniform(0, 10))
                self.mlflow.start()
        self.told.kills[part] += 1
        self.tell(f"{time.strftime('%H:%M:%S')} killed: {part}")
        return True

    # ---- what became of it -------------------------------------------------------------------------------------------

    def _boxes(self) -> list[str]:
        keys = self.servers.home.store.blobs.scan("jobs/")
        return sorted({key.split("/")[1] for key, _ in keys if "/fit-" in key})

    def _order(self, key: str) -> tuple[Mailbox, Order]:
        box = Mailbox(self.servers.home.store, key)
        order = box.order()
        assert order is not None
        return box, order

    def _is_over(self, known: set[str]) -> bool:
        return any(box.end(one.digest) for box, one in map(self._order, set(self._boxes()) - known))

    def _examine(self, number: int, made: set[str]) -> None:
        box, order = self._order(made.pop())
        end, fit = box.end(order.digest), order.fit
        assert fit is not None
        folder = self.servers.home.folder / "undisturbed" / str(number)
        alone = replace(fit, workdir=str(folder), checkpoint_interval_s=600.0)
        expected = run_alone("fit", alone, folder / "locks")
        digest = end.result.digest if end and end.result else "(no result)"
        entries = len(log.read(self.servers.home.store).of(expected))
        deadline = time.monotonic() + 120
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.5)
        found = {"another order": bool(made), "other digest": digest != expected, "entries": entries != 1, **left}
        self.told.faults += [f"round {number}: {name} {what}" for name, what in found.items() if what]
        self.tell(f"round {number}: {'equal' if digest == expected else 'DIFFERS'}, {entries} entry in the log")

    def _left(self) -> dict[str, object]:
        workers = [process.pid for process in self.servers.find("worker")]
        left = {"workers": workers, "jobs": self.cluster.jobs(), "slots": self.servers.slots_held()}
        return {name: what for name, what in left.items() if what}

    def _examine_mlflow(self) -> None:
        """One finished run for each training, with every step once."""
        tracking = Tracking(workspace=Workspace(root=str(self.servers.home.folder / "workspace")), uri=self.mlflow.url)
        tracking.deliver()
        client = MlflowClient(self.mlflow.url)
        runs = client.search_runs([tracking.experiment_id])
        for run in runs:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
            if run.info.status != "FINISHED" or set(steps) != set(range(1, STEPS + 1)):
                self.told.faults.append(f"MLflow run {run.info.run_id}: {run.info.status}, {len(set(steps))} steps")
        if len(runs) != self.told.rounds:
            self.told.faults.append(f"{len(runs)} MLflow runs of {self.told.rounds} trainings")


@contextmanager
def campaign(folder: Path, seed: int, tell: Callable[[str], None]) -> Iterator[Campaign]:
    """A campaign's parts, running, and a dataset to train on."""
    mlflow = MlflowServer(folder / "mlflow")
    with slurm(folder / "slurm") as cluster:
        settings = {
            "DENTSIGHT_BACKEND": "slurm",
            "DENTSIGHT_SILENT_SECONDS": "20",
            "DENTSIGHT_SCRATCH": str(folder / "scratch"),
            "MLFLOW_TRACKING_URI": mlflow.url,
            "SLURM_CONF": str(cluster.configuration),
        }
        home = new_home(folder / "home")
        mlflow.start()
        try:
            with running(home, **settings) as servers:
                servers.add_dataset(DATASET)
                config = {"ops": {"raw_export": {"config": {"export": ["phantom:24:3"]}}}}
                made = servers.launch("data", {"dagster/partition": DATASET}, config)
                assert servers.wait(made)[-1]["status"] == "SUCCESS", servers.log_end()
                yield Campaign(servers, cluster, mlflow, random.Random(seed), tell)
        finally:
            mlflow.stop()


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with campaign(Path(tempfile.mkdtemp(prefix="campaign")), given.seed, say) as started:
        told = started.run(given.kills)
    say(f"{told.table()}\n{told.rounds} trainings; {'; '.join(told.faults) or 'no faults'}")
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())
