"""`dentsight workspace init` and `gc`: the folder and the store that a project's work lives in."""

from importlib import resources
from pathlib import Path

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.console import show
from dentsight_pipeline.documents.commands import Initialised
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

INSTANCE_FILES = ("dagster.yaml", "workspace.yaml")


def init(folder: Path, as_json: bool) -> None:
    """Prepare a folder and say so."""
    made = initialise(folder.resolve())
    show(made, as_json, lambda: f"Workspace ready in {made.home}. Next: cd there and run `dentsight run`.")


def initialise(home: Path) -> Initialised:
    """Prepare a folder: instance files where they are missing, the store, the MLflow database.

    Args:
        home: The folder; created when missing. Files that exist are left as they are.

    Raises:
        ConfigurationError: `home` is a file.
    """
    if home.exists() and not home.is_dir():
        raise ConfigurationError(f"{home} is a file. Give a folder to `dentsight workspace init`.")
    home.mkdir(parents=True, exist_ok=True)
    missing = [name for name in INSTANCE_FILES if not (home / name).exists()]
    packaged = resources.files("dentsight_pipeline.commands") / "instance_files"
    for name in missing:
        (home / name).write_bytes((packaged / name).read_bytes())
    workspace = Workspace(root=str(home / "workspace"))
    workspace.folder.mkdir(exist_ok=True)
    tracking = Tracking(workspace=workspace)
    tracking.client.search_experiments()
    return Initialised(home=str(home), written=missing, store=workspace.store.uri, mlflow=tracking.address)


def gc(apply: bool, as_json: bool) -> None:
    """Remove stored objects that no manifest names, or tell what would be removed."""
    from dentsight_pipeline.store import gc as collection

    store = Workspace().store
    found = collection.plan(store)
    done = collection.apply(store, found) if apply else found.whole
    facts = {"objects": done.objects, "bytes": done.size, "leftovers": done.leftovers, "removed": apply}
    show({"store": store.uri, **facts}, as_json, lambda: text.garbage(facts))


def damaged(apply: bool, as_json: bool) -> None:
    """Remove damaged objects, or tell what would be removed."""
    store = Workspace().store
    found = [digest for digest in store.damaged() if not apply or store.discard_damaged(digest)]
    facts = {"store": store.uri, "damaged": found, "removed": apply}
    show(facts, as_json, lambda: text.damaged(facts))
