"""`dentsight doctor` with each fault planted, and `dentsight workspace init`."""

from __future__ import annotations

import importlib.metadata
import json
import sqlite3
import sys
from collections import namedtuple
from importlib import resources
from pathlib import Path

import psutil
import pytest

from dentsight_pipeline.commands import doctor, workspace
from dentsight_pipeline.documents.commands import Finding
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.instance import open_instance
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking import outbox
from dentsight_pipeline_tests.orchestration.assets.conftest import Home, new_home

KEY = "rf-key-that-nobody-may-read"
SUPERVISED = "  module: dentsight_pipeline.orchestration.launcher\n  class: SupervisedRunLauncher\n"
Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "available")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A prepared home."""
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def inside(home: Home, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The home's workspace, with nothing of the surrounding environment."""
    for name in ("DAGSTER_HOME", "ROBOFLOW_API_KEY", "ROBOFLOW_API_KEY_FILE", "MLFLOW_TRACKING_URI", "DENTSIGHT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DENTSIGHT_HOME", str(home.folder))
    monkeypatch.chdir(home.folder)
    return Workspace()


def finding(workspace: Workspace, check: str) -> Finding:
    """What the doctor says about one thing."""
    (found,) = doctor.examine(workspace, only={check})
    return found


def test_a_fresh_workspace_is_well(inside: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A doctor that finds faults in a healthy patient is not asked a second time."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(8e9))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(1e12, 0, 1e11))
    found = doctor.examine(inside)

    assert [item for item in found if not item.ok] == []
    assert all(item.remedy == "" for item in found)


def test_the_command_prints_json_alone_and_exits_0_also_when_something_is_missing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts look at `ok`; exit status 2 is for commands that could not be carried out."""
    Path(home.folder / "secret").write_text(KEY)
    Path(home.folder / "secret").chmod(0o644)
    monkeypatch.setenv("ROBOFLOW_API_KEY_FILE", str(home.folder / "secret"))
    done = home.dentsight("doctor", "--json")
    said = json.loads(done.stdout)

    assert done.returncode == 0
    assert said["ok"] is False
    assert KEY not in done.stdout + done.stderr


def test_an_old_python_is_found(inside: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fail later, in the middle of somebody else's package."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))

    assert "3.11 or newer" in finding(inside, "python").remedy


def test_a_transformers_that_trains_collapsing_heads_is_found(
    inside: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 5.18 the loss is wrong and nothing else tells."""
    true_version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "5.17.0" if name == "transformers" else true_version(name)
    )

    assert "collapse" in finding(inside, "packages").remedy


def test_a_missing_package_is_found(inside: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself breaks, and that is its finding."""

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = finding(inside, "packages")

    assert not found.ok
    assert "PackageNotFoundError" in found.found


def test_a_full_disk_and_little_memory_are_found(inside: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both end a training in the middle of the night."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(1e9))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(1e12, 1e12, 1e9))

    assert "dentsight gc" in finding(inside, "disk").remedy
    assert not finding(inside, "memory").ok


@pytest.mark.parametrize("named", ["relative/folder", "empty"])
def test_a_dagster_home_that_cannot_be_meant_is_found(
    inside: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    """Dagster would start there with an empty history of its own."""
    monkeypatch.setenv("DAGSTER_HOME", named if "/" in named else str(tmp_path))

    assert "absolute path" in finding(inside, "dagster home").remedy


def test_a_home_without_dagster_yaml_is_found(
    inside: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Relative folders of a dagster.yaml elsewhere are seen from elsewhere."""
    monkeypatch.setenv("DENTSIGHT_HOME", str(tmp_path))

    assert "dentsight workspace init" in finding(inside, "dagster home").remedy


def changed_instance(home: Home, folder: Path, old: str, new: str) -> Path:
    """A home whose dagster.yaml was edited."""
    for name in workspace.INSTANCE_FILES:
        text = (home.folder / name).read_text()
        (folder / name).write_text(text.replace(old, new) if name == "dagster.yaml" else text)
    assert old in (home.folder / "dagster.yaml").read_text()
    return folder


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("  class: SupervisedRunLauncher", "  class: NoSuchLauncher", "NoSuchLauncher"),
        (SUPERVISED, "  module: dagster\n  class: DefaultRunLauncher\n", "launcher"),
        ("run_monitoring:\n  enabled: true", "run_monitoring:\n  enabled: false", "run_monitoring"),
        ("run_retries:\n  enabled: true", "run_retries:\n  enabled: false", "run_retries"),
    ],
    ids=["unknown launcher", "default launcher", "no monitoring", "no retries"],
)
def test_an_instance_that_would_not_recover_from_a_crash_is_found(
    inside: Workspace, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str, missing: str
) -> None:
    """Nobody notices until the first power cut, and then the run hangs for ever."""
    monkeypatch.setenv("DENTSIGHT_HOME", str(changed_instance(home, tmp_path, old, new)))
    found = finding(inside, "crash recovery")

    assert not found.ok
    assert missing in found.found


@pytest.mark.parametrize(
    ("old", "new"),
    [("telemetry:", "telemetry: ["), ("run_monitoring:", "run_watching:")],
    ids=["no YAML", "no setting"],
)
def test_a_dagster_yaml_that_cannot_be_read_is_named(
    inside: Workspace, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str
) -> None:
    """`dentsight run` ended with the traceback of whoever reads it."""
    monkeypatch.setenv("DENTSIGHT_HOME", str(changed_instance(home, tmp_path, old, new)))

    with pytest.raises(ConfigurationError, match=r"dagster\.yaml cannot be read: .* Compare it with"), open_instance():
        pass


def test_a_pool_without_a_limit_is_found(
    inside: Workspace, home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two trainings on one GPU run out of memory."""
    folder = changed_instance(home, tmp_path, "    default_limit: 1\n", "")
    monkeypatch.setenv("DENTSIGHT_HOME", str(folder))

    assert "default_limit" in finding(inside, "pool gpu").remedy


def test_a_store_that_cannot_be_written_is_found(inside: Workspace, tmp_path: Path) -> None:
    """Found after hours of training, it costs the training."""
    (tmp_path / "file").write_text("in the way")
    found = finding(Workspace(root=inside.root, store_uri=str(tmp_path / "file" / "store")), "store")

    assert not found.ok
    assert found.remedy


@pytest.mark.parametrize(
    ("variable", "given", "takes"),
    [
        ("DENTSIGHT_GPUS", "x", "a number of GPUs; the least is 1"),
        ("DENTSIGHT_GPUS_PER_TRAINING", "2", "The nearest legal value is 1"),
        ("DENTSIGHT_WORKER_GPUS", "x", "a number of GPUs; 0 for none"),
        ("DENTSIGHT_SILENT_SECONDS", "x", "a number of seconds"),
        ("DENTSIGHT_PRICE_PER_HOUR", "x", "a price from 0 on"),
        ("DENTSIGHT_RECIPES", "v9", "there are smoke, v1"),
        ("DENTSIGHT_RETRAIN_CRON", "x", "five fields as cron does, e.g. '0 2 * * 0'"),
        ("DENTSIGHT_CHAMPION_CRON", "61 4 * * *", "five fields as cron does"),
        ("DENTSIGHT_ROBOFLOW_SECONDS", "x", "seconds from 1 on"),
    ],
)
def test_a_setting_that_nothing_can_read_is_found(
    inside: Workspace, monkeypatch: pytest.MonkeyPatch, variable: str, given: str, takes: str
) -> None:
    """The doctor was content, and a training, a schedule or the whole code location failed of it later."""
    monkeypatch.setenv("DENTSIGHT_GPUS", "1")
    monkeypatch.setenv(variable, given)
    found = finding(inside, "settings")

    assert not found.ok
    assert variable in found.found and given in found.found and takes in found.found
    assert found.remedy


def test_every_setting_that_nothing_can_read_is_told(inside: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mended one after the other, each would cost a look at the doctor."""
    for variable in ("DENTSIGHT_WORKER_GPUS", "DENTSIGHT_SILENT_SECONDS"):
        monkeypatch.setenv(variable, "x")

    found = finding(inside, "settings").found

    assert "DENTSIGHT_WORKER_GPUS is 'x'" in found and "DENTSIGHT_SILENT_SECONDS is 'x'" in found


def test_an_mlflow_that_does_not_answer_is_found(inside: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on without it, but somebody should know."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    assert not finding(inside, "mlflow").ok


def test_an_mlflow_database_that_is_damaged_is_found(inside: Workspace, tmp_path: Path) -> None:
    """A disk that lies, or two processes that created it at once."""
    broken = Workspace(root=str(tmp_path))
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(b"no database" * 1000)

    assert not finding(broken, "mlflow").ok


def test_figures_that_wait_for_mlflow_are_found(inside: Workspace, tmp_path: Path) -> None:
    """Otherwise they are noticed when somebody misses a curve."""
    workspace = Workspace(root=str(tmp_path))
    folder = tmp_path / "mlflow" / "outbox"
    folder.mkdir(parents=True)
    outbox.write_lines(folder / "k.jsonl", [outbox.Identity("k", "http://away").__dict__, {"do": "end"}])
    found = finding(workspace, "mlflow outbox")

    assert not found.ok
    assert "1 runs wait" in found.found
    assert "late_tracking" in found.remedy


@pytest.mark.parametrize("fault", ["missing", "empty", "readable by others"])
def test_a_roboflow_key_file_with_a_fault_is_found_and_its_content_is_not_shown(
    inside: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    """The sensor would fail at night; and a key that everybody reads is nobody's secret."""
    path = tmp_path / "key"
    if fault != "missing":
        path.write_text("" if fault == "empty" else KEY)
        path.chmod(0o644)
    monkeypatch.setenv("ROBOFLOW_API_KEY_FILE", str(path))
    found = finding(inside, "roboflow key")

    assert not found.ok
    assert found.remedy
    assert KEY not in str(found)


def test_a_private_roboflow_key_file_is_well(
    inside: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Secrets that are mounted into containers come this way."""
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    monkeypatch.setenv("ROBOFLOW_API_KEY_FILE", str(path))

    assert finding(inside, "roboflow key") == Finding(
        check="roboflow key", ok=True, found=f"given by a file, {path}", remedy=""
    )


@pytest.mark.parametrize(
    ("content", "mode", "ok"), [(None, 0, False), ("", 0o600, False), (KEY, 0o644, False), (f"{KEY}\n", 0o600, True)]
)
def test_a_webhook_file_with_a_fault_is_found_and_its_content_is_not_shown(
    inside: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, mode: int, ok: bool
) -> None:
    """Its address holds a token; and notifications that reach nobody are missed when they are needed."""
    path = tmp_path / "webhook"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    monkeypatch.delenv("DENTSIGHT_WEBHOOK", raising=False)
    monkeypatch.setenv("DENTSIGHT_WEBHOOK_FILE", str(path))
    found = finding(inside, "webhook")

    assert found.ok == ok
    assert bool(found.remedy) != ok
    assert KEY not in str(found)


def test_a_signing_key_that_others_may_read_is_found(inside: Workspace, tmp_path: Path) -> None:
    """Whoever has it can sign any model as ours."""
    (tmp_path / "keys").mkdir()
    path = tmp_path / "keys" / "release-key.pem"
    path.write_text("key")
    path.chmod(0o640)

    assert finding(Workspace(root=str(tmp_path)), "signing key").remedy == f"Run: chmod 600 {path}"


# Preparing a folder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", workspace.INSTANCE_FILES)
def test_the_packaged_instance_files_are_those_of_the_checkout(project_root: Path, name: str) -> None:
    """`make ui` uses the one, `dentsight workspace init` the other; a setting changed in one place only is lost."""
    packaged = (resources.files("dentsight_pipeline.commands") / "instance_files" / name).read_text("utf-8")

    assert packaged == (project_root / name).read_text("utf-8")


def test_preparing_a_folder_twice_leaves_what_is_there(home: Home) -> None:
    """Somebody's settings are in these files."""
    path = home.folder / "workspace.yaml"
    path.write_text(path.read_text() + "# mine\n")
    said = workspace.initialise(home.folder)

    assert said.written == []
    assert path.read_text().endswith("# mine\n")


def test_the_databases_survive_being_opened_by_several_processes(home: Home) -> None:
    """Readers and a writer at once: SQLite allows it in WAL mode only."""
    with sqlite3.connect(home.folder / "workspace" / "mlflow" / "mlflow.db") as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]

    assert mode == "wal"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """One line, and what to do."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="is a file"):
        workspace.initialise(tmp_path / "file")
