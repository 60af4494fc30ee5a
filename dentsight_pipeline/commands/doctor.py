"""`dentsight doctor`: is this machine ready, and what to do where it is not."""

import importlib.metadata
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

import psutil
from packaging.version import Version

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.console import show
from dentsight_pipeline.documents.commands import Finding
from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline.orchestration.notify import WEBHOOK_FILE_VARIABLE, WEBHOOK_VARIABLE
from dentsight_pipeline.orchestration.resources import Workspace, find_home
from dentsight_pipeline.orchestration.tracking import outbox, registry
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

LEAST = {"python": "3.11", "transformers": "5.18", "dagster": "1.13", "mlflow": "3.10"}
_Told = tuple[bool, str, str]
"""Whether all is well, what was found, and what to do otherwise."""
FREE_DISK_GB = 5.0
FREE_MEMORY_GB = 3.0


def doctor(as_json: bool) -> None:
    """Tell every finding."""
    found = examine(Workspace())
    show({"checks": found, "ok": all(item.ok for item in found)}, as_json, lambda: text.doctor(found))


def examine(workspace: Workspace, only: Collection[str] = ()) -> list[Finding]:
    """Every check of this machine and workspace, in the order in which a person would mend them.

    A check that cannot be done is not ok.

    Args:
        workspace: The workspace in use.
        only: Names of the checks wanted; all when empty.
    """
    checks: dict[str, Callable[[], _Told]] = {
        "python": _python,
        "packages": _packages,
        "disk": lambda: _disk(workspace),
        "memory": _memory,
        "gpu": _gpu,
        "dagster home": _dagster_home,
        "crash recovery": _crash_recovery,
        "pool gpu": _pool,
        "store": lambda: _store(workspace),
        "mlflow": lambda: _mlflow(workspace),
        "mlflow outbox": lambda: _outbox(workspace),
        "roboflow key": _roboflow,
        "webhook": _webhook,
        "signing key": lambda: _signing_key(workspace),
    }
    return [_finding(name, check) for name, check in checks.items() if not only or name in only]


def _finding(name: str, check: "Callable[[], _Told]") -> Finding:
    try:
        ok, found, remedy = check()
    except Exception as error:  # whatever breaks a check is its finding
        ok, found, remedy = False, f"{type(error).__name__}: {error}", "Mend this first, then run the doctor again."
    return Finding(check=name, ok=ok, found=found, remedy="" if ok else remedy)


def _python() -> _Told:
    found = ".".join(map(str, sys.version_info[:3]))
    return Version(found) >= Version(LEAST["python"]), found, f"Install Python {LEAST['python']} or newer."


def _packages() -> _Told:
    found = {name: importlib.metadata.version(name) for name in LEAST if name != "python"}
    old = [f"{name} {version}" for name, version in found.items() if Version(version) < Version(LEAST[name])]
    remedy = (
        f"Too old: {', '.join(old)}. Install from constraints.txt; transformers before 5.18 trains D-FINE heads that "
        "collapse (docs/training.md)."
    )
    return not old, ", ".join(f"{name} {version}" for name, version in found.items()), remedy


def _disk(workspace: Workspace) -> _Told:
    folder = next(path for path in (workspace.folder, *workspace.folder.parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1e9
    return free >= FREE_DISK_GB, f"{free:.0f} GB free at {folder}", "Free some space, or run `dentsight gc --apply`."


def _memory() -> _Told:
    free = psutil.virtual_memory().available / 1e9
    return (
        free >= FREE_MEMORY_GB,
        f"{free:.0f} GB free",
        f"The smoke recipe wants {FREE_MEMORY_GB:.0f} GB: close programs.",
    )


def _gpu() -> _Told:
    from dentsight_pipeline.training.machine import gpu_names

    none = "none; trainings run on the CPU (recipe smoke fits it, v1 to v3 want an NVIDIA GPU)"
    return True, ", ".join(gpu_names()) or none, ""


def _dagster_home() -> _Told:
    named = os.environ.get("DAGSTER_HOME")
    if named is None:
        home = find_home()
        ok = (home / "dagster.yaml").is_file()
        return (
            ok,
            f"dagster.yaml in {home}" if ok else "not set, and no dagster.yaml here",
            "Run `dentsight workspace init`.",
        )
    ok = Path(named).is_absolute() and (Path(named) / "dagster.yaml").is_file()
    return ok, named, "DAGSTER_HOME must be the absolute path of a folder with a dagster.yaml."


def _pool() -> _Told:
    from dentsight_pipeline.orchestration.instance import open_instance

    with open_instance() as instance:
        limits = {item.name: item.limit for item in instance.event_log_storage.get_pool_limits()}
        limit = limits.get("gpu", instance.global_op_concurrency_default_limit)
    return (
        bool(limit),
        f"{limit or 'no limit'}",
        "Set concurrency.pools.default_limit in dagster.yaml (see docs/operations.md).",
    )


def _store(workspace: Workspace) -> _Told:
    probe = uuid.uuid4().bytes
    try:
        digest = workspace.store.put_bytes(probe)
        ok = workspace.store.get_bytes(digest) == probe
    except DentsightError as error:
        return False, str(error), "Check the folder's rights, or the bucket and the AWS environment."
    return ok, workspace.store.uri, "The store does not give back what it was given: replace the disk."


def _mlflow(workspace: Workspace) -> _Told:
    tracking = Tracking(workspace=workspace)
    tracking.client.search_experiments(max_results=1)
    return True, tracking.address, ""


def _outbox(workspace: Workspace) -> _Told:
    tracking = Tracking(workspace=workspace)
    servers = {run.key: run.uri for run in outbox.ended(tracking.outbox_folder)}
    others = sorted({uri for uri in servers.values() if uri != tracking.address})
    waiting = []
    if servers:
        waiting.append(f"{len(servers)} runs wait" + (f", for {', '.join(others)} among others" if others else ""))
    if registry.is_behind(tracking):
        waiting.append("releases or the champion wait")
    return (
        not waiting,
        "; ".join(waiting) or "empty",
        "MLflow was away, or is a new one. The sensor late_tracking delivers what waits while `dentsight ui` runs, or "
        "the next run or release does"
        + (
            f"; for {others[0]} set MLFLOW_TRACKING_URI to it, or remove its files from {tracking.outbox_folder}."
            if others
            else "."
        ),
    )


def _crash_recovery() -> _Told:
    from dentsight_pipeline.orchestration.instance import open_instance

    with open_instance() as instance:
        parts = {
            "a launcher that notices a dead worker": instance.run_launcher.supports_check_run_worker_health,
            "run_monitoring": instance.run_monitoring_enabled,
            "run_retries": instance.run_retries_enabled and instance.run_retries_max_retries > 0,
        }
    missing = [name for name, there in parts.items() if not there]
    return (
        not missing,
        "missing: " + ", ".join(missing) if missing else "run launcher, run monitoring and run retries are on",
        "Without it a run that a crash cut short stays STARTED for ever. Take the run_launcher, run_monitoring and "
        "run_retries of the dagster.yaml that `dentsight workspace init` writes into an empty folder.",
    )


def _roboflow() -> _Told:
    from dentsight_pipeline.intake import roboflow as roboflow_api

    try:
        key = roboflow_api.read_key(os.environ)
    except ConfigurationError as error:
        return False, str(error), f"Correct {roboflow_api.KEY_FILE_VARIABLE}, or unset it."
    if key is None:
        return True, "not given; only needed to fetch from Roboflow's API", ""
    if os.environ.get(roboflow_api.KEY_VARIABLE, "").strip():
        return True, "given by the environment", ""
    return _private(Path(os.environ[roboflow_api.KEY_FILE_VARIABLE]), "given by a file")


def _webhook() -> _Told:
    variables = {name: os.environ.get(name, "").strip() for name in (WEBHOOK_VARIABLE, WEBHOOK_FILE_VARIABLE)}
    if variables[WEBHOOK_VARIABLE]:
        return True, "given by the environment", ""
    if not variables[WEBHOOK_FILE_VARIABLE]:
        return True, "not given; notifications go to workspace/notifications.jsonl alone", ""
    path = Path(variables[WEBHOOK_FILE_VARIABLE])
    if not path.is_file() or not path.read_text(encoding="utf-8").strip():
        return False, f"{path} is missing or empty", f"Correct {WEBHOOK_FILE_VARIABLE}, or unset it."
    return _private(path, "given by a file")


def _signing_key(workspace: Workspace) -> _Told:
    from dentsight_pipeline.release.keys import PRIVATE_KEY

    path = workspace.folder / "keys" / PRIVATE_KEY
    if not path.exists():
        return True, "none yet; the first release makes one", ""
    return _private(path, "there")


def _private(path: Path, found: str) -> _Told:
    """Whether a secret's file is its owner's alone."""
    open_to_others = path.stat().st_mode & 0o077
    return (
        not open_to_others,
        f"{found}, but others may read {path}" if open_to_others else f"{found}, {path}",
        f"Run: chmod 600 {path}",
    )
