"""The doctor's job of seconds, and the worker's own refusals, with the real worker as a process of this machine."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dentsight_pipeline import errors
from dentsight_pipeline.orchestration.backends import probe as probing
from dentsight_pipeline.orchestration.backends.base import Look, Phase
from dentsight_pipeline.orchestration.backends.probe import probe
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline.training.versions import differences, versions


@dataclass
class Here:
    """A scheduler that starts processes here."""

    name: str = "here"
    shares_folders: bool = True
    asks_for_gpu: bool = False
    price_per_hour: float | None = None
    replaced: dict[str, str] = field(default_factory=dict)
    """Parts of the command, and what they are replaced with."""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def submit(self, name: str, command: list[str], folder: Path) -> str:
        changed = [self.replaced.get(part, part) for part in command]
        pipe = subprocess.PIPE
        self.processes.append(subprocess.Popen(changed, stdout=pipe, stderr=subprocess.STDOUT, text=True))
        return str(len(self.processes))

    def find(self, name: str) -> str | None:
        return None

    def look(self, job_id: str) -> Look:
        if int(job_id) > len(self.processes):
            return Look(Phase.GONE, "started by another")
        status = self.processes[int(job_id) - 1].poll()
        return Look(Phase.RUNNING, "") if status is None else Look(Phase.GONE, f"status {status}")

    def cancel(self, job_id: str) -> None:
        self.processes[int(job_id) - 1].kill()

    def output(self, job_id: str, folder: Path) -> str:
        return self.processes[int(job_id) - 1].communicate()[0]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store."""
    monkeypatch.setenv("DENTSIGHT_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv("DENTSIGHT_WORKER_PYTHON", raising=False)
    return open_store(tmp_path / "store")


def test_a_worker_that_reaches_the_store_tells_what_it_is(store: Store, tmp_path: Path) -> None:
    """Host, GPUs and versions; nothing of the question is left in the store."""
    found = probe(Here(), store, tmp_path, pause=0.1)

    assert found.versions == versions()
    assert found.hardware.gpus == 0
    assert list(store.blobs.scan("jobs/")) == []


def test_another_version_is_refused_by_the_worker_by_name(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other code or another torch gives other numbers, hours later and without a word."""
    other = {**versions(), "torch": "9.9.0", "dentsight_pipeline": "0123456789ab"}
    monkeypatch.setattr(probing, "versions", lambda: other)

    with pytest.raises(
        errors.ConfigurationError, match=r"(?s)not what the orchestrator is.*torch .* where 9\.9\.0 is"
    ) as refused:
        probe(Here(), store, tmp_path, pause=0.1)
    assert "where 0123456789ab is wanted" in str(refused.value)
    assert "pip install -c constraints.txt" in str(refused.value)


def test_a_store_that_the_worker_does_not_see_is_told_in_its_own_words(store: Store, tmp_path: Path) -> None:
    """A folder that is not mounted on the node is a folder without an order."""
    elsewhere = Here(replaced={store.uri: str(tmp_path / "not-mounted")})

    with pytest.raises(
        errors.TrainingError, match=r"(?s)heard nothing of it.*holds no order .* Is this the same store\?"
    ):
        probe(elsewhere, store, tmp_path, pause=0.1)


def test_an_environment_without_the_package_is_told_in_its_own_words(store: Store, tmp_path: Path) -> None:
    """The commonest mistake with a new image."""
    bare = Here(replaced={"dentsight_pipeline.training": "dentsight_pipeline_of_nobody"})

    with pytest.raises(errors.TrainingError, match="No module named dentsight_pipeline_of_nobody"):
        probe(bare, store, tmp_path, pause=0.1)


def test_a_job_that_does_not_start_is_told_with_the_schedulers_reason(store: Store, tmp_path: Path) -> None:
    """And it is taken out of the queue again."""
    queue = Here(replaced={"-m": "-c", "dentsight_pipeline.training": "import time; time.sleep(60)"})

    with pytest.raises(errors.TrainingError, match="has said nothing yet"):
        probe(queue, store, tmp_path, seconds=0.5, pause=0.1)
    assert queue.processes[0].wait(10) != 0


def test_builds_of_one_version_are_alike_and_pythons_count_to_the_minor_version() -> None:
    """A worker with a GPU has `+cu130` where the orchestrator has `+cpu`."""
    wanted = {"torch": "2.13.0+cpu", "python": "3.11.7", "numpy": "2.4.6"}

    assert differences(wanted, {"torch": "2.13.0+cu130", "python": "3.11.9", "numpy": "2.4.6"}) == []
    assert differences(wanted, {"torch": "2.13.1", "python": "3.12.7"}) == [
        "torch 2.13.1 where 2.13.0+cpu is wanted",
        "python 3.12.7 where 3.11.7 is wanted",
        "numpy is not installed where 2.4.6 is wanted",
    ]
