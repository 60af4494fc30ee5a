"""Claim: the code location imports in at most 1.3 times an empty one's time; an unchanged cell costs under 2.0 s.

    python benchmarks/orchestration.py [--rounds 5] [--images 24]

Both are CPU seconds (user + system) of whole processes, so that other work on the machine disturbs them little; modules
are compiled beforehand, as an installation has them, also where PYTHONDONTWRITEBYTECODE is set. The second part makes
one tiny cell in a temporary home (some minutes on two cores), then runs it again unchanged, in one process, and takes
the time from the moment when the packages are imported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

EMPTY = "import dagster as dg; dg.Definitions().get_repository_def()"
OURS = "from dentsight_pipeline.definitions import defs; defs.get_repository_def()"
UNCHANGED = """
import json, os, sys, time
from dentsight_pipeline.definitions import defs
from dentsight_pipeline.commands.run import CellRequest, run_cell
defs.get_repository_def()
before = time.process_time()
said = run_cell(CellRequest(dataset="benchmark-v1", overrides={"max_steps": "2", "evaluate_every_steps": "2"}))
print(json.dumps({"cpu_s": time.process_time() - before, "cached": said.cached}))
"""


def cpu_seconds(program: str) -> float:
    """User and system time of a Python process that runs a program."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=24)
    given = parser.parse_args()

    times: dict[str, list[float]] = {"empty": [], "ours": []}
    cpu_seconds(OURS)  # which leaves compiled modules
    for _ in range(given.rounds):
        times["empty"].append(cpu_seconds(EMPTY))
        times["ours"].append(cpu_seconds(OURS))
    empty, ours = (statistics.median(times[name]) for name in ("empty", "ours"))
    print(f"import: empty code location {empty:.2f} s, ours {ours:.2f} s, ratio {ours / empty:.2f} (claim: ≤ 1.3)")

    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DENTSIGHT_HOME": folder}
        dentsight = [sys.executable, "-m", "dentsight_pipeline.cli"]
        subprocess.run([*dentsight, "workspace", "init", folder], check=True, stdout=subprocess.DEVNULL)
        first = [*dentsight, "run", "--dataset", "benchmark-v1", "--export", f"phantom:{given.images}:1"]
        steps = ["--set", "max_steps=2", "--set", "evaluate_every_steps=2"]
        subprocess.run([*first, *steps], check=True, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
        runs = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-W", "ignore", "-c", UNCHANGED],
                    check=True,
                    env=environment,
                    cwd=Path(folder),
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for _ in range(3)
        ]
    spent = statistics.median(run["cpu_s"] for run in runs)
    print(f"unchanged cell: {spent:.2f} s CPU, {len(runs[0]['cached'])} assets reused (claim: < 2.0)")


if __name__ == "__main__":
    main()
