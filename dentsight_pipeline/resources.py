"""Resources: where a project's work lives (`Workspace`) and where its figures go (`Tracking`).

Add something here when it gives assets an external service or a place on disk. Keep asset logic out of this
module, and keep heavy packages out of its imports: the code location loads it on every start.
"""

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from filelock import FileLock

from dentsight_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

EXPERIMENT = "dentsight"

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

    def report_folder(self, dataset: str, recipe: str) -> Path:
        """Where people find the reports of one cell."""
        return self.folder / "reports" / dataset / recipe

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
        events = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition]), limit=50
        ).records
        chosen = next((event for event in events if event.run_id == context.run.run_id), events[0] if events else None)
        if chosen is None or chosen.asset_materialization is None:
            return None
        tags = chosen.asset_materialization.tags or {}
        return self.store.get_manifest(tags["dagster/data_version"])


class Tracking(dg.ConfigurableResource):
    """MLflow runs for training and evaluation.

    A run's state is set here, never guessed: `FINISHED` when the block ends, `FAILED` when it raises and `KILLED`
    when it is interrupted. SQLite in the workspace by default; `MLFLOW_TRACKING_URI` names a server.
    """

    workspace: Workspace
    uri: str = ""
    """Tracking URI; `MLFLOW_TRACKING_URI`, else a SQLite file in the workspace, when empty."""

    @cached_property
    def tracking_uri(self) -> str:
        """The tracking URI in use."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.database}"

    @property
    def database(self) -> Path:
        """The default SQLite file."""
        return self.workspace.folder / "mlflow" / "mlflow.db"

    @cached_property
    def client(self) -> "MlflowClient":
        """A client on a database that exists and is ready.

        Several processes that create one SQLite database at the same moment break it for good (measured on
        MLflow 3.17), so creation happens once, under a lock, and in WAL mode.
        """
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        from mlflow import MlflowClient

        for chatty in ("mlflow", "alembic"):  # they announce every table they create on stderr
            logging.getLogger(chatty).setLevel(logging.WARNING)
        if not self.tracking_uri.startswith("sqlite:///"):
            return MlflowClient(tracking_uri=self.tracking_uri)
        database = Path(self.tracking_uri.removeprefix("sqlite:///"))
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            client = MlflowClient(tracking_uri=self.tracking_uri)
            if client.get_experiment_by_name(EXPERIMENT) is None:
                with contextlib.closing(sqlite3.connect(database)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
                client.create_experiment(EXPERIMENT, artifact_location=(database.parent / "artifacts").as_uri())
        return client

    @cached_property
    def experiment_id(self) -> str:
        """The id of the experiment that all runs belong to."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        return experiment.experiment_id if experiment else self.client.create_experiment(EXPERIMENT)

    @contextlib.contextmanager
    def run(
        self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str], resume: Path | None = None
    ) -> Iterator["TrackedRun"]:
        """One MLflow run around a block of work.

        Args:
            name: The run's name in the MLflow UI.
            params: Parameters; logged once.
            tags: Tags; digests go here in full, since an MLflow dataset digest holds 36 characters only.
            resume: A file that remembers the run's id between attempts, so that a resumed training goes on in the
                same MLflow run instead of leaving a torso behind.
        """
        run_id = None
        if resume is not None and resume.exists():
            remembered = json.loads(resume.read_text())
            if remembered["uri"] == self.tracking_uri:
                run_id = remembered["run_id"]
                with contextlib.suppress(Exception):  # the run was deleted on the server: start a new one
                    self.client.update_run(run_id, status="RUNNING")
        if run_id is None:
            created = self.client.create_run(
                self.experiment_id, run_name=name, tags={key: str(value) for key, value in tags.items()}
            )
            run_id = created.info.run_id
            if resume is not None:
                resume.write_text(json.dumps({"uri": self.tracking_uri, "run_id": run_id}))
            from mlflow.entities import Param

            items = [Param(key, str(value)[:6000]) for key, value in params.items()]
            for start in range(0, len(items), 100):
                self.client.log_batch(run_id, params=items[start : start + 100])
        tracked = TrackedRun(self, run_id)
        try:
            yield tracked
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            tracked.end("KILLED")
            raise
        except BaseException:
            tracked.end("FAILED")
            raise
        tracked.end("FINISHED")

    def url(self, run_id: str) -> str:
        """Where a person opens the run: on the server, or on the UI that `make ui` starts."""
        base = self.tracking_uri if self.tracking_uri.startswith("http") else "http://127.0.0.1:5000"
        return f"{base}/#/experiments/{self.experiment_id}/runs/{run_id}"


class TrackedRun:
    """One running MLflow run. Metrics that cannot be sent are kept and sent with the next ones, in order."""

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self._tracking = tracking
        self.run_id = run_id
        self._waiting: list[tuple[str, float, int, int]] = []
        self._retry_at = 0.0

    @property
    def url(self) -> str:
        """Where a person opens the run."""
        return self._tracking.url(self.run_id)

    def metrics(self, values: Mapping[str, float], step: int = 0, *, timestamp_ms: int | None = None) -> None:
        """Log numbers at a step; NaN and infinities are left out, since MLflow cannot plot them."""
        stamp = timestamp_ms or int(time.time() * 1000)
        self._waiting += [
            (key, float(value), stamp, step)
            for key, value in values.items()
            if value is not None and abs(value) < 1e300
        ]
        if time.monotonic() >= self._retry_at:
            self.flush()

    def flush(self, *, attempts: int = 1) -> bool:
        """Send what waits; a server that is away is tried again later, and training goes on meanwhile.

        Returns:
            Whether everything has been sent.
        """
        from mlflow.entities import Metric

        for attempt in range(attempts):
            try:
                while self._waiting:
                    batch = self._waiting[:500]
                    self._tracking.client.log_batch(self.run_id, metrics=[Metric(*item) for item in batch])
                    del self._waiting[: len(batch)]
                return True
            except Exception:  # any failure of the server; the numbers are kept and tried again
                self._retry_at = time.monotonic() + 15
                if attempt + 1 < attempts:
                    time.sleep(min(2**attempt, 10))
        return not self._waiting

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        for key, value in values.items():
            self._tracking.client.set_tag(self.run_id, key, str(value))

    def artifacts(self, folder: Path, under: str = "") -> None:
        """Upload a folder's files."""
        self._tracking.client.log_artifacts(self.run_id, str(folder), artifact_path=under or None)

    def dataset(self, name: str, digest: str) -> None:
        """Name the dataset that the run used; the full digest is the tag `dentsight.dataset_digest`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=name, digest=digest[:36], source_type="dentsight", source=json.dumps({"digest": digest}), schema=None
        )
        self._tracking.client.log_inputs(
            self.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])]
        )
        self.tags({"dentsight.dataset_digest": digest})

    def end(self, status: str) -> None:
        """Send what waits, then set the run's final state."""
        self.flush(attempts=5)
        self._tracking.client.set_terminated(self.run_id, status=status)


def throttled(say: Callable[[str], None], seconds: float = 4.0) -> Callable[[str, int, int], None]:
    """A progress callback `(stage, done, total)` that speaks at most every few seconds, and at the end of a stage."""
    state = {"at": 0.0, "stage": "", "started": 0.0}

    def report(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != state["stage"]:
            state.update(stage=stage, started=now, at=now)
            return
        if now - state["at"] < seconds and done < total:
            return
        if done >= total and now - state["started"] < seconds:
            return
        state["at"] = now
        left = (now - state["started"]) / max(done, 1) * (total - done)
        say(
            f"{stage}: {done} of {total}"
            + (f", about {left:.0f} s left" if done < total else f" in {now - state['started']:.0f} s")
        )

    return report
