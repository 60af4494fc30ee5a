"""MLflow runs around training and evaluation: what they are told, and when they end."""

import contextlib
import logging
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from filelock import FileLock

from dentsight_pipeline.documents.names import MLFLOW_DAGSTER_RUN_TAG
from dentsight_pipeline.orchestration.tracking import outbox

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dentsight_pipeline.orchestration.tracking.outbox import TrackedRun
from dentsight_pipeline.orchestration.resources import Workspace

EXPERIMENT = "dentsight"
_SQLITE = "sqlite:///"


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
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{self.database}"

    @property
    def address(self) -> str:
        """The tracking URI as it may be shown and kept: without the password of a database."""
        return re.sub(r"(?<=://)([^/@]*?):[^/]*@", r"\1:***@", self.tracking_uri)

    @property
    def is_server(self) -> bool:
        """Whether somebody else runs an MLflow server there; else it is a database."""
        return self.tracking_uri.startswith("http")

    @property
    def folder(self) -> Path:
        """Where the artifacts and the lock of a database lie: beside a SQLite file, else in the workspace."""
        if self.tracking_uri.startswith(_SQLITE):
            return Path(self.tracking_uri.removeprefix(_SQLITE)).parent
        return self.workspace.folder / "mlflow"

    @property
    def artifacts(self) -> str:
        """The artifacts of a database, as a URI; a server has a place of its own."""
        return (self.folder / "artifacts").as_uri()

    @property
    def database(self) -> Path:
        """The default SQLite file."""
        return self.workspace.folder / "mlflow" / "mlflow.db"

    @cached_property
    def client(self) -> "MlflowClient":
        """A client on a database that exists and is ready.

        Several processes that create one SQLite database at the same moment break it for good (measured on
        MLflow 3.17), so creation happens once, under a lock, and in WAL mode. MLflow would put the artifacts of a
        database into the folder that a command happens to start in.
        """
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        from mlflow import MlflowClient

        for chatty in ("mlflow", "alembic"):  # they announce every table they create on stderr
            logging.getLogger(chatty).setLevel(logging.WARNING)
        if self.is_server:
            return MlflowClient(tracking_uri=self.tracking_uri)
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "database.lock"):
            client = MlflowClient(tracking_uri=self.tracking_uri)
            if client.get_experiment_by_name(EXPERIMENT) is None:
                if self.tracking_uri.startswith(_SQLITE):
                    with contextlib.closing(sqlite3.connect(self.tracking_uri.removeprefix(_SQLITE))) as connection:
                        connection.execute("PRAGMA journal_mode=WAL")
                client.create_experiment(EXPERIMENT, artifact_location=self.artifacts)
        return client

    @cached_property
    def experiment_id(self) -> str:
        """The id of the experiment that all runs belong to."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        return experiment.experiment_id if experiment else self.client.create_experiment(EXPERIMENT)

    @property
    def outbox_folder(self) -> Path:
        """Where waits what MLflow could not be told."""
        folder = self.workspace.folder / "mlflow" / "outbox"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def run(
        self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str], resume: Path | None = None
    ) -> Iterator["TrackedRun"]:
        """One MLflow run around a block of work; a server that is away neither stops nor delays the work.

        Args:
            name: The run's name in the MLflow UI.
            params: Parameters; logged once.
            tags: Tags; digests go here in full, since an MLflow dataset digest holds 36 characters only.
            resume: A file that remembers the run between attempts, so that a resumed training goes on in the same
                MLflow run instead of leaving a torso behind.
        """
        create = {"name": name, "tags": {key: str(value) for key, value in tags.items()}, "time": _now_ms()}
        known = outbox.recall(resume, self.address) if resume is not None else None
        identity = known or outbox.Identity(
            uuid.uuid4().hex, self.address, remembered_in=str(resume) if resume is not None else None
        )
        with outbox.owned(self.outbox_folder, identity.key, wait=True):
            if known is None:
                outbox.remember(identity)
                waiting = [{"do": "create", **create}]
            else:
                identity, waiting = outbox.read(self.outbox_folder, identity.key) or (known, [])
                waiting = [operation for operation in waiting if operation["do"] != "end"]
                if identity.run_id is not None:
                    items = [[key, str(value)[:6000]] for key, value in params.items()]
                    waiting.insert(0, {"do": "resume", "anew": create, "params": items})
                elif not any(operation["do"] == "create" for operation in waiting):
                    waiting.insert(0, {"do": "create", "tried": True, **create})
            tracked = outbox.TrackedRun(self._server, self.outbox_folder, identity, waiting)
            if known is None or identity.run_id is None:
                tracked.params(params)
            else:
                tracked.tags(tags)  # the run of Dagster that has taken the work up
            try:
                yield tracked
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                tracked.end("KILLED")
                raise
            except BaseException:
                tracked.end("FAILED")
                raise
            tracked.end("FINISHED")
        if tracked.delivered:
            self.deliver()

    def links(self, run: "TrackedRun") -> dict[str, str]:
        """`mlflow_run` and `mlflow_url` for a product's record; empty while MLflow does not know the run."""
        identity = run.identity
        if identity.run_id is None:
            return {}
        return {"mlflow_run": identity.run_id, "mlflow_url": self.url(identity.run_id, identity.experiment_id)}

    def url(self, run_id: str, experiment_id: str | None = None) -> str:
        """Where a person opens the run: on the server, or on the UI that `make ui` starts."""
        base = self.address if self.is_server else "http://127.0.0.1:5000"
        return f"{base}/#/experiments/{experiment_id or self.experiment_id}/runs/{run_id}"

    def waiting(self) -> list[str]:
        """Keys of ended runs that this MLflow does not know everything of."""
        return [run.key for run in outbox.ended(self.outbox_folder) if run.uri == self.address]

    def deliver(self) -> tuple[int, int]:
        """Send what waits of runs that have ended.

        Returns:
            Runs delivered, and runs that go on waiting.
        """
        delivered = left = 0
        for key in self.waiting():
            with outbox.owned(self.outbox_folder, key, wait=False) as mine:
                content = outbox.read(self.outbox_folder, key) if mine else None
                if content is None:
                    continue
                if outbox.TrackedRun(self._server, self.outbox_folder, *content).deliver():
                    delivered += 1
                    continue
                left += 1
                break  # the server is away: the others would only wait for it as well
        return delivered, left

    def fail_runs_of(self, dagster_run: str) -> int:
        """Set the MLflow runs FAILED that a Dagster run left running because its worker was killed.

        Returns:
            How many there were.
        """
        filter_string = f"tags.`{MLFLOW_DAGSTER_RUN_TAG}` = '{dagster_run}' and attributes.status = 'RUNNING'"
        runs = self.client.search_runs([self.experiment_id], filter_string)
        for run in runs:
            self.client.set_terminated(run.info.run_id, status="FAILED")
        return len(runs)

    @property
    def _server(self) -> outbox.Server:
        return outbox.Server(
            client=lambda: self.client,
            experiment_id=lambda: self.experiment_id,
            materialise=self._materialise,
            created_late=self._record_late_run,
        )

    def _materialise(self, digest: str, folder: Path) -> Path:
        from dentsight_pipeline.store.content import materialise

        store = self.workspace.store
        return materialise(store, store.get_manifest(digest), folder)

    def _record_late_run(self, product: str, run_id: str, experiment_id: str) -> None:
        """A product whose record could not name its MLflow run gets a second record that does."""
        from dentsight_pipeline.store import log

        link = {"mlflow_run": run_id, "mlflow_url": self.url(run_id, experiment_id)}
        log.append(self.workspace.store, product, {**link, "delivered_late": True, "finished": round(time.time(), 3)})


def _now_ms() -> int:
    return int(time.time() * 1000)
