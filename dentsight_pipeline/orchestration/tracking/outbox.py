"""One MLflow run that no outage can spoil: what cannot be sent now waits on disk and is sent later, in order.

Training never waits for MLflow. Everything that is to be told about a run (its creation, parameters, metrics, tags,
artifacts, its end) is an operation in a queue. While the server answers, the queue is empty and nothing is written.
When it does not, the queue is a file in the outbox, so that a killed worker loses nothing either; the run's next
attempt takes it up, and the outbox of runs that have ended is delivered by whoever comes next.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from dentsight_pipeline.documents.names import MLFLOW_DATASET_TAG, mlflow_digest_tag
from dentsight_pipeline.store.files import write_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY_TAG = "dentsight.tracking_key"
"""Tag by which a run is found again whose creation was not answered, so that it is never created twice."""
RETRY_SECONDS = 15.0
"""Pause between two tries while training goes on."""
PATIENCE_SECONDS = 20.0
"""How long the end of a run is tried before it is left to the outbox, where the server was there at all."""
BATCH = 500

_FINAL = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}
"""MLflow error codes that trying again does not change; everything else is taken for an outage."""

Operation = dict[str, Any]


@dataclass(frozen=True)
class Identity:
    """Which run an outbox file belongs to."""

    key: str
    """Chosen here, before the server knows the run."""
    uri: str
    """The tracking server."""
    run_id: str | None = None
    """The server's name of it, once it was created."""
    experiment_id: str | None = None
    """The experiment that it was created in."""
    remembered_in: str | None = None
    """File that the next attempt at the same work reads."""


@dataclass(frozen=True)
class Server:
    """How operations reach MLflow."""

    client: Callable[[], "MlflowClient"]
    """Opens the client; may raise while the server is away."""
    experiment_id: Callable[[], str]
    """The experiment of new runs."""
    materialise: Callable[[str, Path], Path]
    """Writes a product of the store, by digest, into a folder, for upload."""
    created_late: Callable[[str, str, str], None]
    """Told product digest, run id and experiment id when a run was created only after its product was recorded."""


class TrackedRun:
    """One running MLflow run. No method waits for a server that is away, and none raises for it."""

    def __init__(self, server: Server, outbox: Path, identity: Identity, waiting: list[Operation]) -> None:
        self._server, self._outbox, self.identity = server, outbox, identity
        self._waiting = waiting
        self._persisted = _path(outbox, identity.key).exists()
        self._retry_at = 0.0
        self.problems: list[str] = []

    @property
    def run_id(self) -> str | None:
        """The run's id, or None while MLflow could not be told of it."""
        return self.identity.run_id

    @property
    def delivered(self) -> bool:
        """Whether MLflow knows everything."""
        return not self._waiting

    def metrics(self, values: Mapping[str, float], step: int = 0, *, timestamp_ms: int | None = None) -> None:
        """Log numbers at a step; NaN and infinities are left out, since MLflow cannot plot them."""
        stamp = timestamp_ms or int(time.time() * 1000)
        items = [
            [key, float(value), stamp, step]
            for key, value in values.items()
            if value is not None and abs(value) < 1e300
        ]
        if items:
            self._tell({"do": "metrics", "items": items})

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters."""
        items = [[key, str(value)[:6000]] for key, value in values.items()]
        for start in range(0, len(items), 100):
            self._tell({"do": "params", "items": items[start : start + 100]})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._tell({"do": "tags", "values": {key: str(value) for key, value in values.items()}})

    def made(self, kind: str, digest: str) -> None:
        """Name the product of the run; the full digest is the tag `dentsight.<kind>_digest`."""
        self.tags({mlflow_digest_tag(kind): digest})
        if self.run_id is None:
            self._tell({"do": "made", "digest": digest})

    def artifacts(self, digest: str, under: str) -> None:
        """Upload the files of a product of the store."""
        self._tell({"do": "artifacts", "digest": digest, "under": under})

    def dataset(self, name: str, digest: str) -> None:
        """Name the dataset that the run used; the full digest is the tag `dentsight.dataset_digest`."""
        self._tell({"do": "dataset", "name": name, "digest": digest})
        self.tags({MLFLOW_DATASET_TAG: digest})

    def end(self, status: str) -> bool:
        """Set the run's final state, after everything that waits.

        Returns:
            Whether MLflow knows everything; else it is in the outbox.
        """
        self._tell({"do": "end", "status": status, "time": int(time.time() * 1000)})
        deadline = time.monotonic() + (PATIENCE_SECONDS if self.run_id is not None else 0)
        while not self.deliver() and time.monotonic() < deadline:
            time.sleep(1)
        return self.delivered

    def deliver(self) -> bool:
        """Send what waits.

        Returns:
            Whether everything has been sent.
        """
        try:
            while self._waiting:
                self._join_metrics()
                operation = self._waiting[0]
                try:
                    self._send(operation)
                except Exception as error:
                    if getattr(error, "error_code", None) not in _FINAL:
                        raise
                    self._refused(operation, error)
                del self._waiting[0]
        except Exception as error:  # an outage: everything is kept and tried again
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self.problems.append(f"{type(error).__name__}: {str(error)[:300]}")
            self._persist()
            return False
        if self._persisted:
            _path(self._outbox, self.identity.key).unlink(missing_ok=True)
            self._persisted = False
        return True

    def _tell(self, operation: Operation) -> None:
        self._waiting.append(operation)
        if time.monotonic() >= self._retry_at:
            self.deliver()
        else:
            with _path(self._outbox, self.identity.key).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(operation) + "\n")

    def _join_metrics(self) -> None:
        """Make one batch of the metrics at the front of the queue."""
        items: list[Any] = []
        count = 0
        for operation in self._waiting:
            if operation["do"] != "metrics" or (items and len(items) + len(operation["items"]) > BATCH):
                break
            items += operation["items"]
            count += 1
        if count > 1:
            self._waiting[:count] = [{"do": "metrics", "items": items}]

    def _send(self, operation: Operation) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

        client, run_id = self._server.client(), self.identity.run_id or ""
        match operation["do"]:
            case "create":
                self._create(client, operation)
            case "resume":
                client.update_run(run_id, status="RUNNING")
            case "params":
                client.log_batch(run_id, params=[Param(*item) for item in operation["items"]])
            case "metrics":
                for start in range(0, len(operation["items"]), BATCH):
                    items = operation["items"][start : start + BATCH]
                    client.log_batch(run_id, metrics=[Metric(*item) for item in items])
            case "tags":
                for key, value in operation["values"].items():
                    client.set_tag(run_id, key, value)
            case "dataset":
                source = json.dumps({"digest": operation["digest"]})
                # MLflow holds 36 characters of a dataset's digest.
                entity = Dataset(operation["name"], operation["digest"][:36], "dentsight", source, schema=None)
                client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])
            case "artifacts":
                import tempfile

                with tempfile.TemporaryDirectory() as folder:
                    files = self._server.materialise(operation["digest"], Path(folder))
                    client.log_artifacts(run_id, str(files), artifact_path=operation["under"])
            case "made":
                self._server.created_late(operation["digest"], run_id, self.identity.experiment_id or "")
            case "end":
                client.set_terminated(run_id, status=operation["status"], end_time=operation["time"])

    def _create(self, client: "MlflowClient", operation: Operation) -> None:
        """Create the run, unless an earlier try did and its answer was lost."""
        experiment = self._server.experiment_id()
        filter_string = f"tags.`{KEY_TAG}` = '{self.identity.key}'"
        found = client.search_runs([experiment], filter_string, max_results=1) if operation.get("tried") else []
        operation["tried"] = True
        run = next(iter(found), None) or client.create_run(
            experiment,
            start_time=operation["time"],
            run_name=operation["name"],
            tags={**operation["tags"], KEY_TAG: self.identity.key},
        )
        self.identity = replace(self.identity, run_id=run.info.run_id, experiment_id=experiment)
        remember(self.identity)

    def _refused(self, operation: Operation, error: Exception) -> None:
        """An operation that the server will never take; a resumed run that it does not know is created anew."""
        if operation["do"] == "resume":
            self.identity = replace(self.identity, run_id=None)
            created = [{"do": "create", **operation["anew"]}, {"do": "params", "items": operation["params"]}]
            self._waiting[1:1] = created
            return
        self.problems.append(f"MLflow refused {operation['do']}: {str(error)[:300]}")

    def _persist(self) -> None:
        write_lines(_path(self._outbox, self.identity.key), [asdict(self.identity), *self._waiting])
        self._persisted = True


def remember(identity: Identity) -> None:
    """Write a run's identity where the next attempt at the same work reads it."""
    if identity.remembered_in is not None:
        with suppress(FileNotFoundError):  # the work's folder was cleaned up meanwhile
            write_lines(Path(identity.remembered_in), [asdict(identity)])


def recall(path: Path, uri: str) -> Identity | None:
    """The run of an earlier attempt on the same server, or None."""
    try:
        return Identity(**known) if (known := json.loads(path.read_text()))["uri"] == uri else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read(outbox: Path, key: str) -> tuple[Identity, list[Operation]] | None:
    """A run's file in the outbox, or None; a last line that a crash cut off is left out.

    None as well where a power cut left a name without its bytes: then nobody knows whose run it was.
    """
    path = _path(outbox, key)
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    try:
        header, *operations = [json.loads(line) for line in lines]
    except ValueError:
        return None
    return Identity(**header), operations


def ended(outbox: Path) -> list[Identity]:
    """The runs in the outbox that have ended: nobody but `Tracking.deliver` will send what waits of them."""
    found = []
    for path in sorted(outbox.glob("*.jsonl")):
        content = read(outbox, path.stem)
        if content and any(operation["do"] == "end" for operation in content[1]):
            found.append(content[0])
    return found


@contextmanager
def owned(outbox: Path, key: str, *, wait: bool) -> Iterator[bool]:
    """Own a run's queue while the block runs; gives False when somebody else does and `wait` is not set.

    The kernel ends the ownership of a process that dies.
    """
    outbox.mkdir(parents=True, exist_ok=True)
    lock = FileLock(outbox / f"{key}.lock", timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()  # its file stays: removing one that somebody waits for would give two owners


def write_lines(path: Path, documents: list[Any]) -> None:
    """Write JSON lines in one piece: the file is there whole or not at all."""
    write_whole(path, "".join(json.dumps(document) + "\n" for document in documents).encode())


def _path(outbox: Path, key: str) -> Path:
    return outbox / f"{key}.jsonl"
