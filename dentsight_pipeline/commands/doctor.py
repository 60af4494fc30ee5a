"""`dentsight doctor`: is this machine ready, and what to do where it is not."""

import importlib.metadata
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import psutil
from packaging.version import Version

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.console import show
from dentsight_pipeline.documents.commands import Finding
from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline.intake import roboflow
from dentsight_pipeline.orchestration.backends import base, choice
from dentsight_pipeline.orchestration.backends.detached import Pace
from dentsight_pipeline.orchestration.backends.local import LocalBackend
from dentsight_pipeline.orchestration.backends.probe import probe
from dentsight_pipeline.orchestration.instance import open_instance
from dentsight_pipeline.orchestration.notify import WEBHOOK_FILE_VARIABLE, WEBHOOK_VARIABLE
from dentsight_pipeline.orchestration.resources import Workspace, find_home
from dentsight_pipeline.orchestration.tracked import price_per_hour
from dentsight_pipeline.orchestration.tracking import outbox, registry
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.release.keys import PRIVATE_KEY

LEAST = {"python": "3.11", "transformers": "5.18", "dagster": "1.13", "mlflow": "3.10"}
FREE_DISK_GB, FREE_MEMORY_GB = 5.0, 3.0
Told = tuple[bool, str] | tuple[bool, str, str]
"""Whether all is well, what was found, and what to do otherwise, where that is not always the same."""
REMEDIES = {
    "python": f"Install Python {LEAST['python']} or newer.",
    "disk": "Free some space, or run `dentsight gc --apply`.",
    "memory": f"The smoke recipe wants {FREE_MEMORY_GB:.0f} GB: close programs.",
    "crash recovery": "Without it a run that a crash cut short stays STARTED for ever. Take the run_launcher, "
    "run_monitoring and run_retries of the dagster.yaml that `dentsight workspace init` writes into an empty folder.",
    "settings": "Correct it, or unset it (docs/operations.md, Settings).",
    "pool gpu": "Set concurrency.pools.default_limit in dagster.yaml (see docs/operations.md).",
    "store": "Check the folder's rights, or the bucket and the AWS environment; a store that does not give back what "
    "it was given needs another disk.",
}
"""What to do about each check, where that is always the same."""


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
    checks: dict[str, Callable[[], Told]] = {
        "python": _python,
        "packages": _packages,
        "disk": lambda: _disk(workspace),
        "memory": _memory,
        "gpu": _gpu,
        "dagster home": _dagster_home,
        "crash recovery": _crash_recovery,
        "pool gpu": _pool,
        "store": lambda: _store(workspace),
        "settings": _settings,
        "backend": lambda: _backend(workspace),
        "mlflow": lambda: _mlflow(workspace),
        "mlflow outbox": lambda: _outbox(workspace),
        "roboflow key": _roboflow,
        "webhook": _webhook,
        "signing key": lambda: _signing_key(workspace),
    }
    return [_finding(name, check) for name, check in checks.items() if not only or name in only]


def _finding(name: str, check: Callable[[], Told]) -> Finding:
    try:
        ok, found, *remedy = check()
    except Exception as error:  # whatever breaks a check is its finding
        ok, found, remedy = False, f"{type(error).__name__}: {error}", ["Mend this first, then run the doctor again."]
    return Finding(check=name, ok=ok, found=found, remedy="" if ok else (remedy or [REMEDIES[name]])[0])


def _python() -> Told:
    found = ".".join(map(str, sys.version_info[:3]))
    return Version(found) >= Version(LEAST["python"]), found


def _packages() -> Told:
    found = {name: importlib.metadata.version(name) for name in LEAST if name != "python"}
    old = ", ".join(f"{name} {have}" for name, have in found.items() if Version(have) < Version(LEAST[name]))
    why = "transformers before 5.18 trains D-FINE heads that collapse (docs/training.md)"
    remedy = f"Too old: {old}. Install from constraints.txt; {why}."
    return not old, ", ".join(f"{name} {have}" for name, have in found.items()), remedy


def _disk(workspace: Workspace) -> Told:
    folder = next(path for path in (workspace.folder, *workspace.folder.parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1e9
    return free >= FREE_DISK_GB, f"{free:.0f} GB free at {folder}"


def _memory() -> Told:
    free = psutil.virtual_memory().available / 1e9
    return free >= FREE_MEMORY_GB, f"{free:.0f} GB free"


def _gpu() -> Told:
    from dentsight_pipeline.training.machine import gpu_names

    none = "none; trainings run on the CPU (recipe smoke fits it, v1 to v4 want an NVIDIA GPU)"
    return True, ", ".join(gpu_names()) or none


def _dagster_home() -> Told:
    named = os.environ.get("DAGSTER_HOME")
    if named is None:
        return _found_home(find_home())
    ok = Path(named).is_absolute() and (Path(named) / "dagster.yaml").is_file()
    return ok, named, "DAGSTER_HOME must be the absolute path of a folder with a dagster.yaml."


def _found_home(home: Path) -> Told:
    ok = (home / "dagster.yaml").is_file()
    found = f"dagster.yaml in {home}" if ok else "not set, and no dagster.yaml here"
    return ok, found, "Run `dentsight workspace init`."


def _crash_recovery() -> Told:
    with open_instance() as instance:
        parts = {
            "a launcher that notices a dead worker": instance.run_launcher.supports_check_run_worker_health,
            "run_monitoring": instance.run_monitoring_enabled,
            "run_retries": instance.run_retries_enabled and instance.run_retries_max_retries > 0,
        }
    missing = ", ".join(name for name, there in parts.items() if not there)
    return not missing, f"missing: {missing}" if missing else "run launcher, run monitoring and run retries are on"


def _pool() -> Told:
    with open_instance() as instance:
        limits = {item.name: item.limit for item in instance.event_log_storage.get_pool_limits()}
        limit = limits.get("gpu", instance.global_op_concurrency_default_limit)
    return bool(limit), f"{limit or 'no limit'}"


def _store(workspace: Workspace) -> Told:
    probe = uuid.uuid4().bytes
    try:
        return workspace.store.get_bytes(workspace.store.put_bytes(probe)) == probe, workspace.store.uri
    except DentsightError as error:
        return False, str(error)


def _settings() -> Told:
    """The environment's settings as those read them that need them: an hour later, or at night."""
    readers = (
        lambda: LocalBackend().width,
        base.gpus,
        Pace.of_environment,
        lambda: price_per_hour(None),
        *(partial(_of_automation, name) for name in _OF_AUTOMATION),
    )
    problems = dict.fromkeys(filter(None, map(_problem, readers)))
    return not problems, " ".join(problems) or "all are understood"


_OF_AUTOMATION = ("configured_recipes", "retrain_times", "champion_times", "roboflow_interval")


def _of_automation(name: str) -> object:
    from dentsight_pipeline.orchestration import automation  # which reads some of its settings as it loads

    return getattr(automation, name)()


def _problem(read: Callable[[], object]) -> str:
    try:
        read()
    except ConfigurationError as error:
        return str(error)
    return ""


def _backend(workspace: Workspace) -> Told:
    """A job of seconds at the chosen scheduler; nothing to try on this machine."""
    try:
        chosen = choice.scheduler()
        if chosen is None:
            return True, "local: trainings run on this machine"
        found = probe(chosen, workspace.store, workspace.folder / "scratch" / "probe")
    except DentsightError as error:
        return False, str(error), "See docs/operations.md, Trainings elsewhere; then run the doctor again."
    gpus = f"{found.hardware.gpus} × {found.hardware.device}" if found.hardware.gpus else "no GPU"
    told = f"{chosen.name}: a worker on {found.host} reaches the store, has the same versions, and sees {gpus}"
    remedy = "The job asks for a GPU and torch sees none: install torch for CUDA there, and look at the node's driver."
    return bool(found.hardware.gpus) or not chosen.asks_for_gpu, told, remedy


def _mlflow(workspace: Workspace) -> Told:
    tracking = Tracking(workspace=workspace)
    tracking.client.search_experiments(max_results=1)
    return True, tracking.address


def _outbox(workspace: Workspace) -> Told:
    tracking = Tracking(workspace=workspace)
    servers = [run.uri for run in outbox.ended(tracking.outbox_folder)]
    others = sorted(set(servers) - {tracking.address})
    waiting = [f"{len(servers)} runs wait" + (f", for {', '.join(others)} among others" if others else "")]
    waiting = waiting * bool(servers) + ["releases or the champion wait"] * registry.is_behind(tracking)
    return not waiting, "; ".join(waiting) or "empty", _delivery(tracking, others)


def _delivery(tracking: Tracking, others: Sequence[str]) -> str:
    """How what waits comes to MLflow, and to the other servers that it is for."""
    remedy = (
        "MLflow was away, or is a new one. The sensor late_tracking delivers what waits while `dentsight ui` runs, or "
        "the next run or release does"
    )
    away = [
        f"for {uri} set MLFLOW_TRACKING_URI to it, or remove its files from {tracking.outbox_folder}" for uri in others
    ]
    return "; ".join([remedy, *away[:1]]) + "."


def _roboflow() -> Told:
    try:
        key = roboflow.read_key(os.environ)
    except ConfigurationError as error:
        return False, str(error), f"Correct {roboflow.KEY_FILE_VARIABLE}, or unset it."
    none = "not given; only needed to fetch from Roboflow's API"
    return _secret(roboflow.KEY_VARIABLE, roboflow.KEY_FILE_VARIABLE) if key else (True, none)


def _webhook() -> Told:
    named = os.environ.get(WEBHOOK_FILE_VARIABLE, "").strip()
    if not (named or os.environ.get(WEBHOOK_VARIABLE, "").strip()):
        return True, "not given; notifications go to workspace/notifications.jsonl alone"
    return _secret(WEBHOOK_VARIABLE, WEBHOOK_FILE_VARIABLE)


def _signing_key(workspace: Workspace) -> Told:
    path = workspace.folder / "keys" / PRIVATE_KEY
    return _private(path, "there") if path.exists() else (True, "none yet; the first release makes one")


def _secret(variable: str, file_variable: str) -> Told:
    """A secret in the environment, which is read first, or in a file that the environment names."""
    if os.environ.get(variable, "").strip():
        return True, "given by the environment"
    path = Path(os.environ[file_variable])
    if not path.is_file() or not path.read_text(encoding="utf-8").strip():
        return False, f"{path} is missing or empty", f"Correct {file_variable}, or unset it."
    return _private(path, "given by a file")


def _private(path: Path, found: str) -> Told:
    """Whether a secret's file is its owner's alone."""
    open_to_others = path.stat().st_mode & 0o077
    told = f"{found}, but others may read {path}" if open_to_others else f"{found}, {path}"
    return not open_to_others, told, f"Run: chmod 600 {path}"
