"""The MLflow model registry as a mirror of what the store decided: versions, and the aliases of models in use.

The store never waits for the mirror. What the registry shows is made from the store each time, so that nothing has to
be queued: an MLflow that was away, was restored, or is a new one gets whatever it lacks.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from dentsight_pipeline.documents.facts import ReleaseFacts
from dentsight_pipeline.documents.names import MLFLOW_RELEASE_TAG, Asset, mlflow_chain_tag
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking import outbox
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

MODEL = "dentsight-stage2-conditions"
CHAMPION, CHALLENGER = "champion", "challenger"
SHOWN_FILE = "registry.json"
"""In the outbox: which state of the store was shown last, and to which MLflow."""


@dataclass(frozen=True)
class Shown:
    """What the registry shows now."""

    versions: dict[str, str] = field(default_factory=dict)
    """Version number by the digest of its release."""
    problem: str | None = None
    """Why MLflow could not be told; None when it shows everything."""


def show(tracking: Tracking) -> Shown:
    """Make the registry show the store's releases and champion. An MLflow that is away raises nothing.

    Every release is a version; the newest one has the alias `challenger`, the model in use `champion`. Doing it twice
    changes nothing.

    Args:
        tracking: MLflow, and the workspace with the store.
    """
    with FileLock(tracking.outbox_folder / "registry.lock"):
        state = _state(tracking)
        try:
            versions = _mirror(tracking.client, tracking.workspace.store, state)
        except Exception as error:  # whatever it is: the store has decided, and the mirror is made again later
            return Shown(problem=f"{type(error).__name__}: {str(error)[:150]}")
        outbox.write_lines(tracking.outbox_folder / SHOWN_FILE, [state])
        return Shown(versions)


def is_behind(tracking: Tracking) -> bool:
    """Whether this MLflow's registry was not shown the store's present releases and champion. Asks the store alone."""
    state = _state(tracking)
    if state["release"] is None:
        return False
    try:
        return json.loads((tracking.outbox_folder / SHOWN_FILE).read_text("utf-8")) != state
    except (OSError, ValueError):
        return True


def _state(tracking: Tracking) -> dict[str, str | None]:
    from dentsight_pipeline.release import champion, statement

    store = tracking.workspace.store
    newest = statement.head(store)
    return {
        "mlflow": tracking.address,
        "release": newest.digest if newest else None,
        "champion": champion.current_digest(store),
    }


def _mirror(client: "MlflowClient", store: "Store", state: dict[str, Any]) -> dict[str, str]:
    """Add the versions that are missing, oldest first, and set the aliases; gives versions by digest."""
    if state["release"] is None:
        return {}
    _create_model(client)
    versions = {
        item.tags[MLFLOW_RELEASE_TAG]: str(item.version)
        for item in client.search_model_versions(f"name = '{MODEL}'")
        if MLFLOW_RELEASE_TAG in item.tags
    }
    missing = [release for release in _releases(store, state["release"]) if release.digest not in versions]
    for release in reversed(missing):
        versions[release.digest] = _add_version(client, store, release)
    client.set_registered_model_alias(MODEL, CHALLENGER, versions[state["release"]])
    if state["champion"] in versions:
        client.set_registered_model_alias(MODEL, CHAMPION, versions[state["champion"]])
    else:
        client.delete_registered_model_alias(MODEL, CHAMPION)
    return versions


def _releases(store: "Store", newest: str | None) -> Iterator["Manifest"]:
    """The chain of releases, newest first."""
    while newest is not None:
        release = store.get_manifest(newest)
        yield release
        newest = release.facts_as(ReleaseFacts).previous


def _create_model(client: "MlflowClient") -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(MODEL, description="Conditions on panoramic X-rays. Not a medical device.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _add_version(client: "MlflowClient", store: "Store", release: "Manifest") -> str:
    facts = release.facts_as(ReleaseFacts)
    version = client.create_model_version(
        MODEL,
        source=f"{store.uri}#{release.digest}",
        run_id=_training_run(store, release),
        tags={
            MLFLOW_RELEASE_TAG: release.digest,
            "dentsight.never_for_xrays": str(facts.never_for_xrays).lower(),
            "dentsight.verdict": facts.verdict,
            **{mlflow_chain_tag(asset): digest for asset, digest in facts.chain.items()},
        },
    )
    return str(version.version)


def _training_run(store: "Store", release: "Manifest") -> str | None:
    records = store.records(release.facts_as(ReleaseFacts).chain[Asset.TRAINED_CHECKPOINT])
    return next((record["mlflow_run"] for record in records if "mlflow_run" in record), None)


def registry_of(workspace: Workspace) -> "MlflowRegistry":
    """The registry of a workspace's MLflow."""
    return MlflowRegistry(Tracking(workspace=workspace))


class MlflowRegistry:
    """`lineage.reference.Registry` on this project's MLflow; nothing is opened before it is asked."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def run_tags(self, run_id: str) -> Mapping[str, str] | None:
        """The tags of a run, or None when there is no such run."""
        with self._asked():
            return dict(self._tracking.client.get_run(run_id).data.tags)
        return None

    def version_tags(self, name: str | None, *, version: str = "", alias: str = "") -> Mapping[str, str] | None:
        """The tags of a registered model's version, by number or alias; None when there is none."""
        model = name or MODEL
        with self._asked():
            client = self._tracking.client
            found = (
                client.get_model_version_by_alias(model, alias) if alias else client.get_model_version(model, version)
            )
            return dict(found.tags)
        return None

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Leave the block when MLflow has no such thing.

        Raises:
            ConfigurationError: MLflow does not answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return
            raise ConfigurationError(
                f"MLflow ({self._tracking.address}) does not answer: {str(error)[:150]} … Start it, or give a digest, "
                "`champion` or `release`, which need no MLflow."
            ) from error
