"""One finished cell, made once by the command line on a tiny phantom corpus, for every test that reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.store.objects import Store, open_store

TINY = "phantom:48:3"
FEW_STEPS = ("--set", "max_steps=4", "--set", "evaluate_every_steps=4")


@dataclass(frozen=True)
class Home:
    """A project's home of its own."""

    folder: Path

    @property
    def store(self) -> Store:
        """Its store."""
        return open_store(self.folder / "workspace" / "store")

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that works in it; nothing of the surrounding project leaks in."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DENTSIGHT_", "DAGSTER_"))}
        return {**kept, "DENTSIGHT_HOME": str(self.folder)}

    def dentsight(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a `dentsight` command in it."""
        return subprocess.run(
            [sys.executable, "-m", "dentsight_pipeline.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@dataclass(frozen=True)
class FinishedCell:
    """A home, and what `dentsight run --json` said about the cell made in it."""

    home: Home
    said: dict[str, Any]
    stderr: str


def new_home(folder: Path) -> Home:
    """A prepared home."""
    folder.mkdir(exist_ok=True)
    home = Home(folder)
    done = home.dentsight("workspace", "init", str(folder))
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="session")
def finished_cell(tmp_path_factory: pytest.TempPathFactory) -> FinishedCell:
    """The whole graph, from a drawn export to a report, with a training of four steps."""
    home = new_home(tmp_path_factory.mktemp("home"))
    done = home.dentsight("run", "--dataset", "tiny-v1", "--export", TINY, *FEW_STEPS, "--json")
    assert done.returncode == 0, done.stderr
    return FinishedCell(home, json.loads(done.stdout), done.stderr)
