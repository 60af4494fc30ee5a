"""The whole graph as operations.md sets it up for a team: PostgreSQL under Dagster and MLflow, a bucket, Slurm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dentsight_pipeline_tests.local_server import free_port
from dentsight_pipeline_tests.orchestration.assets.conftest import FEW_STEPS, new_home
from dentsight_pipeline_tests.orchestration.backends.campaign import bucket
from dentsight_pipeline_tests.orchestration.backends.cluster import slurm

pytestmark = pytest.mark.slow
pytest.importorskip("dagster_postgres", reason="needs the extra postgres")
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
STORAGE = "storage:\n  postgres:\n    postgres_url:\n      env: DAGSTER_POSTGRES_URL\n"


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


def test_a_killed_run_on_postgres_a_bucket_and_slurm_is_adopted_and_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The orchestrator dies in the middle of the training; the same command hears the rest, and every byte holds."""
    for name in ("AWS_ENDPOINT_URL_S3", "XDG_CACHE_HOME", "DENTSIGHT_STORE"):
        monkeypatch.setenv(name, "")  # as before afterwards
    with slurm(tmp_path / "slurm") as cluster, postgres() as server, bucket(tmp_path):
        home = new_home(tmp_path / "home")
        configuration = home.folder / "dagster.yaml"
        kept = configuration.read_text().partition("local_artifact_storage:")
        configuration.write_text(STORAGE + "".join(kept[1:]))
        settings = {
            "DENTSIGHT_BACKEND": "slurm",
            "DENTSIGHT_STORE": "s3://campaign/store",
            "DENTSIGHT_SCRATCH": str(tmp_path / "scratch"),
            "DAGSTER_POSTGRES_URL": f"{server}/dagster",
            "MLFLOW_TRACKING_URI": f"{server}/mlflow",
            "SLURM_CONF": str(cluster.configuration),
        }
        command = [sys.executable, "-m", "dentsight_pipeline.cli"]
        environment = {**home.environment, **settings}
        run = [*command, "run", "--dataset", "tiny-v1", "--export", "phantom:24:3", *FEW_STEPS, "--json"]

        def call(*arguments: str) -> subprocess.CompletedProcess[str]:
            line = [*command, *arguments]
            return subprocess.run(line, cwd=home.folder, env=environment, capture_output=True, text=True, check=False)

        told = json.loads(call("doctor", "--json").stdout)
        first = subprocess.Popen(
            run, cwd=home.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while not cluster.jobs() and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(3)
        first.send_signal(signal.SIGKILL)
        first.wait()
        again = subprocess.run(run, cwd=home.folder, env=environment, capture_output=True, text=True, check=False)
        said = json.loads(again.stdout) if again.returncode == 0 else {}
        audited = call("audit", said.get("report_digest", "none"))

    backend = next(check for check in told["checks"] if check["check"] == "backend")
    assert backend["ok"], backend
    assert "no GPU" in backend["found"]
    assert again.returncode == 0, again.stderr[-3000:]
    assert "it is heard" in again.stderr, again.stderr[-3000:]
    assert audited.returncode == 0, audited.stdout[-2000:] + audited.stderr[-2000:]
