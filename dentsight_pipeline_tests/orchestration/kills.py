"""Campaign of `kill -9`: a `dentsight run` is killed at random moments of every stage, and ends as undisturbed.

    python -m dentsight_pipeline_tests.orchestration.kills --kills 30 [--seed 1] [--servers] [--stages NAME,NAME]

Each round takes one new dataset through the whole graph, killed some times on the way, and once undisturbed in a home
of its own. Prints one line a kill, and a table of the stages in which the kills fell. `test_kills.py` samples it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from dentsight_pipeline_tests.orchestration.assets.conftest import Home, new_home
from dentsight_pipeline_tests.orchestration.servers import TINY_TRAINING, Servers, events_of, running

STAGES = (
    "start",
    "raw_export",
    "normalized_splits",
    "condition_subset",
    "between jobs",
    "trained_checkpoint",
    "training steps",
    "test_predictions",
    "class_metrics",
    "release_report",
)
"""What stderr says as each begins; `start` is before the first word, `between jobs` when the data are made and the run
of the training is not, `training steps` after some steps of this attempt."""
KILLED_BETWEEN_JOBS = """
import os, signal
from dentsight_pipeline.commands import run
from dentsight_pipeline.cli import main

whole = run._execute

def until_the_experiment(job, *rest):
    if job.name == "experiment":
        os.killpg(0, signal.SIGKILL)
    return whole(job, *rest)

run._execute = until_the_experiment
main()
"""
"""A `dentsight run` that is killed at that moment; no word on stderr tells when it comes."""
LONGEST = {"start": 4.0, "raw_export": 3.0, "trained_checkpoint": 9.0, "test_predictions": 6.0}
"""Seconds within which a kill falls after the stage began; 1.5 for the others. On a quicker machine it may fall into a
later stage: then it comes once more, after half the time, which helps where the stage has not yet made its product."""
HALVINGS = 4
MOST_STEPS = 12
"""A kill in `training steps` comes after one to so many, with a checkpoint (one at every eighth) or without."""
ORPHANS_GONE_SECONDS = 15.0
KILLS_A_ROUND = 15
CHAIN = ("condition_subset", "trained_checkpoint", "test_predictions", "class_metrics")
UNCHECKED = ("memory", "disk", "packages", "python")
"""Lines of the doctor that say nothing of what a kill leaves behind."""


@dataclass(frozen=True)
class Kill:
    """One `kill -9`."""

    round: int
    stage: str
    """In which it fell, as stderr tells; `ended` when the run was quicker."""
    orphans: int


@dataclass
class Told:
    """What a campaign found."""

    rounds: int = 0
    kills: list[Kill] = field(default_factory=list)
    late: list[Kill] = field(default_factory=list)
    """Which fell behind their stage, and came once more."""
    orphans: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Kills and orphans by stage."""
        rows = [f"| {'stage':18} | kills | orphans |", f"|{'-' * 20}|-------|---------|"]
        for stage in (*STAGES, "ended"):
            fell = [kill.orphans for kill in self.kills if kill.stage == stage]
            rows.append(f"| {stage:18} | {len(fell):5} | {sum(fell):7} |")
        return "\n".join(rows)


def campaign(
    folder: Path,
    kills: int,
    seed: int,
    *,
    servers: bool,
    tell: Callable[[str], None],
    among: Sequence[str] = STAGES,
    calm: Home | None = None,
) -> Told:
    """Run the campaign in homes below a folder.

    Args:
        folder: Empty.
        kills: How many there are to be, over all stages alike, not counting those that come once more.
        seed: Of stages and moments.
        servers: Whether the UI's servers, with their daemon, run beside it.
        tell: Given each line.
        among: The stages that the kills are to fall into.
        calm: The home of the undisturbed runs; a new one when None.
    """
    chance, told = random.Random(seed), Told()
    home, calm = new_home(folder / "killed"), calm or new_home(folder / "calm")
    stages = [among[number % len(among)] for number in range(kills)]
    chance.shuffle(stages)
    with ExitStack() as stack:
        if servers:
            stack.enter_context(running(home))
        for first in range(0, kills, KILLS_A_ROUND):
            told.rounds += 1
            arguments = _arguments(told.rounds)
            for stage in sorted(stages[first : first + KILLS_A_ROUND], key=STAGES.index):
                _kill(home, arguments, stage, chance, told, tell)
            _compare(home, calm, arguments, told, tell)
        _examine(home, told)
    return told


def _arguments(number: int) -> list[str]:
    fields = {**TINY_TRAINING, "max_steps": "24", "seed": str(number)}
    options = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    return ["run", "--dataset", f"round-{number}", "--export", f"phantom:24:{number}", *options, "--json"]


def _kill(
    home: Home, arguments: list[str], stage: str, chance: random.Random, told: Told, tell: Callable[[str], None]
) -> None:
    """Kill a run in this stage; after half the time, a few times over, when it was past it already."""
    least = chance.randint(1, MOST_STEPS) if stage == "training steps" else 0
    after = chance.uniform(0, LONGEST.get(stage, 1.5))
    for halved in range(HALVINGS + 1):
        fell = _kill_once(home, arguments, stage, least, after / 2**halved, told, tell)
        if fell in (stage, "ended") or halved == HALVINGS:
            return
        told.late.append(told.kills.pop())


def _kill_once(
    home: Home, arguments: list[str], stage: str, least: int, after: float, told: Told, tell: Callable[[str], None]
) -> str:
    log, before = home.folder / "killed.log", _steps(home)
    started = ["-c", KILLED_BETWEEN_JOBS] if stage == "between jobs" else ["-m", "dentsight_pipeline.cli"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *started, *arguments],
            cwd=home.folder,
            env=home.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    while process.poll() is None and not _has_begun(stage, log, _steps(home) - before, least):
        time.sleep(0.05)
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
    ended, said, steps = process.poll(), log.read_text(errors="replace"), _steps(home) - before
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = _orphans(home)
    words = (said.strip().splitlines() or ["(nothing yet)"])[-1].strip()[:70]
    by_itself = stage == "between jobs" and ended == -signal.SIGKILL
    fell = stage if by_itself else "ended" if ended == 0 else _stage_of(said, steps)
    told.kills.append(Kill(told.rounds, fell, len(left)))
    told.orphans += left
    if ended not in (None, 0) and not by_itself:
        told.faults.append(f"ended by itself with {ended} before the kill in {stage}: {words}")
    tell(f"{_clock()} {len(told.kills):3} {stage:18} + {after:4.1f} s, in {fell}, orphans {len(left)}: {words}")
    return fell


def _has_begun(stage: str, log: Path, steps: int, least: int) -> bool:
    if _stage_of(log.read_text(errors="replace"), steps) == "training steps" and steps < least:
        return False
    return STAGES.index(_stage_of(log.read_text(errors="replace"), steps)) >= STAGES.index(stage)


def _stage_of(said: str, steps: int) -> str:
    """The stage in which a run is, by what it said and the steps that its training took."""
    begun = [stage for stage in STAGES if f"] {stage}\n" in said]
    stage = begun[-1] if begun else "start"
    return "training steps" if stage == "trained_checkpoint" and steps else stage


def _steps(home: Home) -> int:
    return sum(event["event"] == "metrics" for event in events_of(home))


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _orphans(home: Home) -> list[str]:
    """Processes of the home that live on without being its servers; they have some seconds to end."""
    servers = Servers(home)
    deadline = time.monotonic() + ORPHANS_GONE_SECONDS
    while True:
        found = []
        for process in servers.family():
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if any(sign in command for sign in ("dentsight_pipeline.cli", "training", "guard", "watch_orphans")):
                    found.append(command[:200])
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _compare(home: Home, calm: Home, arguments: list[str], told: Told, tell: Callable[[str], None]) -> None:
    """The round's last run, which ends, gives what an undisturbed one gives, and its audit is intact."""
    said = [_finish(where, arguments, told) for where in (home, calm)]
    if None in said:
        return
    first, second = (_digests(where, facts) for where, facts in zip((home, calm), said, strict=True) if facts)
    told.faults += [f"{name} differs from the undisturbed one" for name in CHAIN if first[name] != second[name]]
    audited = home.dentsight("audit", first["trained_checkpoint"], timeout=900)
    told.faults += [] if audited.returncode == 0 else [f"audit: {audited.stdout[-500:]}{audited.stderr[-500:]}"]
    equal = "equal" if first == second else "DIFFER"
    tell(f"{_clock()} round {told.rounds}: digests {equal}, audit {audited.returncode}")


def _finish(home: Home, arguments: list[str], told: Told) -> dict[str, Any] | None:
    try:
        done = home.dentsight(*arguments, timeout=900)
    except subprocess.TimeoutExpired:
        told.faults.append(f"round {told.rounds} hangs")
        return None
    if done.returncode:
        told.faults.append(f"round {told.rounds}: status {done.returncode}: {done.stderr[-800:]}")
        return None
    return json.loads(done.stdout)


def _digests(home: Home, said: dict[str, Any]) -> dict[str, str]:
    inputs = home.store.get_manifest(said["report_digest"]).inputs
    return {name: inputs[name] for name in CHAIN}


def _examine(home: Home, told: Told) -> None:
    """Nothing is left: no unfinished run, no slot, no partition without data, and the doctor finds nothing."""
    program = (
        "import json, dagster as dg; from dentsight_pipeline.orchestration.instance import open_instance\n"
        "with open_instance() as i:\n"
        "    runs = i.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]))\n"
        "    print(json.dumps([[r.run_id for r in runs], sorted(i.event_log_storage.get_concurrency_run_ids()),"
        " list(i.get_dynamic_partitions('dataset'))]))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program],
        cwd=home.folder,
        env=home.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    runs, slots, partitions = json.loads(asked.stdout.splitlines()[-1])
    told.faults += [f"run {run} is unfinished" for run in runs] + [f"run {run} holds a slot" for run in slots]
    expected = [f"round-{number}" for number in range(1, told.rounds + 1)]
    told.faults += [] if sorted(partitions) == sorted(expected) else [f"partitions {partitions}"]
    notes = list((home.folder / "workspace" / "locks" / "new-partitions").glob("*"))
    told.faults += [f"{note} is left" for note in notes]
    checks = json.loads(home.dentsight("doctor", "--json").stdout)["checks"]
    told.faults += [f"doctor: {item}" for item in checks if not item["ok"] and item["check"] not in UNCHECKED]


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--servers", action="store_true")
    parser.add_argument("--stages", default=",".join(STAGES), help="of these the kills fall into")
    given = parser.parse_args()

    def tell(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    among = given.stages.split(",")
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        told = campaign(Path(folder), given.kills, given.seed, servers=given.servers, tell=tell, among=among)
    tell(told.table())
    tell(f"{len(told.kills)} kills, {told.rounds} rounds, {len(told.orphans)} orphans, {len(told.faults)} faults")
    for fault in (*told.orphans, *told.faults):
        tell(f"- {fault}")
    sys.exit(bool(told.orphans or told.faults))


if __name__ == "__main__":
    main()
