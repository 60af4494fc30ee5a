"""Resources: where a project's work lives (`Workspace`) and where its figures go (`Tracking`).

Add something here when it gives assets an external service or a place on disk. Keep asset logic out of this
module, and keep heavy packages out of its imports: the code location loads it on every start.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from dentsight_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


StepContext = dg.AssetExecutionContext | dg.AssetCheckExecutionContext


def find_home(start: Path | None = None) -> Path:
    """The folder that holds this project's `dagster.yaml` and, by default, its `workspace/`.

    `DENTSIGHT_HOME` decides; without it, the nearest folder upwards from `start` that holds a `dagster.yaml`;
    without one, `start` itself.

    Args:
        start: Where to look from; the current folder by default.

    Raises:
        ConfigurationError: `DENTSIGHT_HOME` names something that is no folder.
    """
    if named := os.environ.get("DENTSIGHT_HOME"):
        if not Path(named).is_dir():
            raise ConfigurationError(
                f"DENTSIGHT_HOME is {named!r}, which is no folder. Create it with `dentsight workspace init {named}`."
            )
        return Path(named).resolve()
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "dagster.yaml").is_file()), here)


class Workspace(dg.ConfigurableResource):
    """The folder and the store that a project's work lives in.

    Every path below is absolute. Nothing is read or created before it is needed.
    """

    root: str = ""
    """Folder for local state; `DENTSIGHT_WORKSPACE`, else `workspace/` in the project's home, when empty."""
    store_uri: str = ""
    """Where bytes live: a folder or `s3://bucket/prefix`; `DENTSIGHT_STORE`, else `store/` in the root, when empty."""

    @cached_property
    def folder(self) -> Path:
        """The root of local state."""
        named = self.root or os.environ.get("DENTSIGHT_WORKSPACE", "")
        return (Path(named) if named else find_home() / "workspace").resolve()

    @cached_property
    def store(self) -> "Store":
        """The content-addressed store."""
        from dentsight_pipeline.store.objects import open_store

        return open_store(self.store_uri or os.environ.get("DENTSIGHT_STORE", "") or str(self.folder / "store"))

    def scratch(self, asset: str, key: str) -> Path:
        """A folder for the resumable state of one piece of work; the same key gives the same folder again."""
        folder = self.folder / "scratch" / asset / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def gpu_locks(self) -> Path:
        """The folder with one lock file for each GPU."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def reports(self) -> Path:
        """Where people find the reports of all cells."""
        return self.folder / "reports"

    def report_folder(self, dataset: str, recipe: str) -> Path:
        """Where people find the reports of one cell."""
        return self.reports / dataset / recipe

    def latest(self, context: StepContext, asset: str, partition: str) -> "Manifest":
        """The manifest of an upstream asset that this step reads, chosen once and recorded by the caller.

        The materialisation of this very run wins over a newer one by another run, so that a cell's chain stays one
        chain when two runs cross.

        Args:
            context: The step that reads.
            asset: The upstream asset's name.
            partition: Its partition key.

        Raises:
            ConfigurationError: It was never materialised for this partition.
            IntegrityError: Its manifest is missing or was changed.
        """
        manifest = self.latest_or_none(context, asset, partition)
        if manifest is None:
            raise ConfigurationError(
                f"{asset} was never materialised for partition {partition!r}. Materialise it first, or use "
                "`dentsight run`, which does everything in order."
            )
        return manifest

    def latest_or_none(self, context: StepContext, asset: str, partition: str) -> "Manifest | None":
        """As `latest`, but None when the asset was never materialised for the partition."""
        chosen = _newest(context, dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition]))
        if chosen is None or chosen.asset_materialization is None:
            return None
        tags = chosen.asset_materialization.tags or {}
        return self.store.get_manifest(tags["dagster/data_version"])


def _newest(context: StepContext, wanted: dg.AssetRecordsFilter) -> dg.EventLogRecord | None:
    """The newest materialisation of the step's own run, else of any; the history is read only as far as that takes."""
    newest = None
    for limit in (1, 50):
        events = context.instance.fetch_materializations(wanted, limit=limit).records
        newest = events[0] if events else None
        own = next((event for event in events if event.run_id == context.run.run_id), None)
        if own is not None or len(events) < limit:
            return own or newest
    return newest
