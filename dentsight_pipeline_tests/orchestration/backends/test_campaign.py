"""A sample of the campaign of kills, and many trainings at once; both with a real cluster."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pytest

from dentsight_pipeline.orchestration.backends.detached import Detached, Pace, mailbox
from dentsight_pipeline.orchestration.backends.slurm import Slurm
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.orchestration.backends.campaign import campaign
from dentsight_pipeline_tests.orchestration.backends.cluster import slurm
from dentsight_pipeline_tests.orchestration.backends.conftest import tiny
from dentsight_pipeline_tests.orchestration.backends.tasks import fit_task, start, wait_until
from dentsight_pipeline_tests.training.conftest import make_subset

pytestmark = pytest.mark.slow
MANY, SLOTS = 24, 2
WORKER = """#!/bin/sh
exec {python} -c '
import sys, time
from dentsight_pipeline.documents.job import Result
from dentsight_pipeline.documents.remote import End
from dentsight_pipeline.store import content
from dentsight_pipeline.store.mailbox import Mailbox, Sender
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.orchestration.backends.test_detached import RECORD

box = Mailbox(open_store(sys.argv[1]), sys.argv[2])
Sender(box, {{}}, "here").send()
time.sleep(2)
made = box.store.put_manifest(content.build(box.store, "little", {{"key": box.key.encode()}}, {{}}, {{}}))
box.set_end(End(order=box.order().digest, result=Result(digest=made, record=RECORD)))
' "$4" "$5"
"""
"""A worker that trains nothing: what is looked at is the queue, and loading torch 48 times takes minutes."""
MOST_OF_A_CORE = 0.002
"""Of one waiting run."""


def test_trainings_whose_parts_are_killed_end_as_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three random kills in one round; the whole campaign is in docs/log.md."""
    for name in ("DENTSIGHT_SCRATCH", "DENTSIGHT_WORKER_GPUS", "SLURM_CONF"):
        monkeypatch.setenv(name, "")  # set by the campaign, and as before afterwards
    with campaign(tmp_path, 1, print, with_bucket=False) as running:
        told = running.run(3)

    assert told.faults == [], capsys.readouterr().out


def cpu_seconds() -> float:
    """Of this process and the commands that it ran."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def test_many_trainings_at_once_are_all_done_once_in_order_and_waiting_costs_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue of a lab: two slots, and a grid of recipes."""
    worker = tmp_path / "worker"
    worker.write_text(WORKER.format(python=sys.executable))
    worker.chmod(0o755)
    monkeypatch.setenv("DENTSIGHT_WORKER_PYTHON", str(worker))
    store = open_store(tmp_path / "store")
    subset = make_subset(store, {"train": 2})
    monkeypatch.setenv("DENTSIGHT_SCRATCH", str(tmp_path / "scratch"))
    ordered = [fit_task(store, subset, tiny(1, seed=seed), tmp_path) for seed in range(MANY)]
    with slurm(tmp_path / "slurm", SLOTS) as cluster:
        monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
        waiting = []
        for one in ordered:
            waiting.append(start(Detached(Slurm(), Pace()), one))
            time.sleep(0.3)
        used, since, seen = cpu_seconds(), time.monotonic(), []
        while any(one.thread.is_alive() for one in waiting[:-SLOTS]) and time.monotonic() - since < 900:
            if len(seen) < 20:  # looking itself costs
                seen += [job.split()[0] for job in cluster.jobs() if " RUNNING " in job and job.split()[0] not in seen]
            time.sleep(2)
        share = (cpu_seconds() - used) / (time.monotonic() - since) / MANY
        results = [one.result(300) for one in waiting]
        wait_until(lambda: not cluster.jobs(), 60, "an empty queue")

    notes = [mailbox(one.task).note() for one in ordered]
    assert len({result.digest for result in results}) == MANY
    assert [note.attempt for note in notes if note] == [1] * MANY
    assert sorted(int(note.job_id or 0) for note in notes if note) == list(range(1, MANY + 1)), (
        "nothing was ordered twice"
    )
    assert seen == sorted(seen, key=int), "first come, first served"
    assert share < MOST_OF_A_CORE, f"{share:.4%} of a core for each waiting run"
