"""The whole graph, set up by docs/operations.md's own commands: PostgreSQL for Dagster and MLflow, a bucket, Slurm."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dentsight_pipeline_tests.local_server import free_port
from dentsight_pipeline_tests.orchestration.assets.conftest import FEW_STEPS, Home
from dentsight_pipeline_tests.orchestration.backends.campaign import bucket
from dentsight_pipeline_tests.orchestration.backends.cluster import slurm
from dentsight_pipeline_tests.orchestration.backends.tasks import wait_until

pytest.importorskip("dagster_postgres", reason="needs the extra postgres")
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server with two empty databases; gives the start of their addresses."""
    if not PROGRAMS:
        pytest.skip("needs Debian's postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres"))  # pytest's own folders are closed to the server's user
    port = free_port()
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder.chmod(0o777)
    data = folder / "data"

    def call(program: str, *arguments: str) -> None:
        command = [*as_user, str(PROGRAMS[-1] / program), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    call("initdb", "-D", str(data), "-A", "trust", "-U", "dentsight")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    call("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        for name in ("dagster", "mlflow"):
            call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dentsight", name)
        yield f"postgresql+psycopg2://dentsight@127.0.0.1:{port}"
    finally:
        call("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


CHAPTER = "docs/operations.md"
STEPS = ("## Set up", "**S3.**", "**PostgreSQL.**", "**Slurm.**")
AWS = """#!{python}
import sys
from pathlib import Path
import boto3
assert sys.argv[1:3] == ["s3", "sync"]
folder, (bucket, _, prefix) = Path(sys.argv[3]), sys.argv[4].removeprefix("s3://").partition("/")
for path in folder.rglob("*"):
    if path.is_file() and path.relative_to(folder).parts[0] not in ("tmp", "locks"):
        boto3.client("s3").upload_file(str(path), bucket, f"{{prefix}}/{{path.relative_to(folder)}}")
"""
"""What `aws s3 sync` does, where it is not installed."""


def blocks(chapter: str, opening: str) -> list[tuple[str, str]]:
    """Language and text of the code blocks of a step: up to the next step or section."""
    rest = chapter[chapter.index(opening) + len(opening) :]
    own = re.split(r"\n(?:#+ |\*\*[A-Z])", rest)[0]
    return re.findall(r"```(\w+)\n(.*?)```", own, re.DOTALL)


def script(chapter: str, replaced: dict[str, str]) -> str:
    """The steps of the chapter as one script; a YAML block is that part of `dagster.yaml`."""
    parts = []
    for language, text in (block for opening in STEPS for block in blocks(chapter, opening)):
        if language == "yaml":
            keep = "sed -n '/^local_artifact_storage:/,$p' dagster.yaml"
            parts.append(f"kept=$({keep})\nprintf '%s\\n%s\\n' {shlex.quote(text)} \"$kept\" > dagster.yaml\n")
        elif language == "sh":
            parts.append(text)
    whole = "set -eu\n" + "".join(parts) + 'env -0 > "$OUT"\n'
    for said, meant in replaced.items():
        assert said in whole, f"{CHAPTER} no longer says {said!r}"
        whole = whole.replace(said, meant)
    return whole


@pytest.mark.slow
def test_a_killed_run_on_postgres_a_bucket_and_slurm_is_adopted_and_audited(
    tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set up by the chapter's own commands; the orchestrator dies in the middle of the training, and the same command
    hears the rest, and every byte holds."""
    for name in ("AWS_ENDPOINT_URL_S3", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # as before afterwards
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "dentsight").write_text(f'#!/bin/sh\nexec {sys.executable} -m dentsight_pipeline.cli "$@"\n')
    (programs / "aws").write_text(AWS.format(python=sys.executable))
    for program in programs.iterdir():
        program.chmod(0o755)
    with slurm(tmp_path / "slurm") as cluster, postgres() as server, bucket(tmp_path):
        home = Home(tmp_path / "home")
        settings = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DENTSIGHT_SCRATCH": str(tmp_path / "scratch"),
            "DENTSIGHT_WORKER_GPUS": "0",
            "SLURM_CONF": str(cluster.configuration),
            "OUT": str(tmp_path / "environment"),
        }
        replaced = {
            "dentsight ui ": "true ",
            "/srv/dentsight": str(home.folder),
            "s3://bucket/prefix": "s3://campaign/store",
            " && dentsight audit champion": "",  # there is none yet
            "postgresql+psycopg2://dentsight@db": server,
            "--partition=gpu --time=8:00:00 --gres=gpu:1": "--partition=test",
        }
        steps = script((project_root / CHAPTER).read_text("utf-8"), replaced)
        given = {**home.environment, **settings}
        given.pop("DENTSIGHT_HOME")
        setup = subprocess.run(["bash", "-c", steps], env=given, capture_output=True, text=True, check=False)
        assert setup.returncode == 0, setup.stdout[-3000:] + setup.stderr[-3000:]
        pairs = (tmp_path / "environment").read_text().split("\0")[:-1]
        environment = dict(pair.split("=", 1) for pair in pairs)
        command = [sys.executable, "-m", "dentsight_pipeline.cli"]
        run = [*command, "run", "--dataset", "tiny-v1", "--export", "phantom:24:3", *FEW_STEPS, "--json"]

        def call(line: list[str]) -> subprocess.CompletedProcess[str]:
            return subprocess.run(line, cwd=home.folder, env=environment, capture_output=True, text=True, check=False)

        quiet = subprocess.DEVNULL
        first = subprocess.Popen(run, cwd=home.folder, env=environment, stdout=quiet, stderr=quiet)
        wait_until(cluster.jobs, 240, "the training's job")
        time.sleep(3)
        first.kill()
        first.wait()
        again = call(run)
        said = json.loads(again.stdout) if again.returncode == 0 else {}
        audited = call([*command, "audit", said.get("report_digest", "none")])

    assert "no GPU" in setup.stdout, "the doctor's job at the backend"
    assert again.returncode == 0, again.stderr[-3000:]
    assert "it is heard" in again.stderr, again.stderr[-3000:]
    assert audited.returncode == 0, audited.stdout[-2000:] + audited.stderr[-2000:]


def test_the_steps_of_the_chapter_are_found(project_root: Path) -> None:
    """A heading that was renamed would leave a step out, and the script would still run."""
    chapter = (project_root / CHAPTER).read_text("utf-8")

    found = [[language for language, _ in blocks(chapter, opening)] for opening in STEPS]

    assert found == [["sh", "ini"], ["sh"], ["yaml", "sh"], ["sh"]]
