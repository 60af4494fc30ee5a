"""The MLflow model registry as a mirror of what the store decided: versions, and the aliases of models in use."""

from typing import TYPE_CHECKING, Any

from dentsight_pipeline.resources import Tracking

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

MODEL = "dentsight-stage2-conditions"
CHAMPION, CHALLENGER = "champion", "challenger"
DIGEST_TAG = "dentsight.release_digest"


def register_release(tracking: Tracking, store: "Store", release: "Manifest") -> dict[str, Any]:
    """Register a release as a model version and make it the challenger.

    Args:
        tracking: MLflow.
        store: Where the release is.
        release: Its manifest.

    Returns:
        `registry`: name and version.
    """
    from mlflow.exceptions import MlflowException

    client = tracking.client
    try:
        client.create_registered_model(MODEL, description="Conditions on panoramic X-rays. Not a medical device.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run_id = _training_run(store, release)
    version = client.create_model_version(
        MODEL,
        source=f"{store.uri}#{release.digest}",
        run_id=run_id,
        tags={
            DIGEST_TAG: release.digest,
            "dentsight.never_for_xrays": str(release.facts["never_for_xrays"]).lower(),
            "dentsight.verdict": release.facts["verdict"],
            **{f"dentsight.{name}": digest for name, digest in release.facts["chain"].items()},
        },
    )
    client.set_registered_model_alias(MODEL, CHALLENGER, version.version)
    return {"registry": {"name": MODEL, "version": str(version.version)}}


def show_champion(tracking: Tracking, release: str | None) -> str | None:
    """Point the alias `champion` at the version of a release; returns that version.

    Args:
        tracking: MLflow.
        release: Digest of the champion, or None when there is none.
    """
    client = tracking.client
    if release is None:
        client.delete_registered_model_alias(MODEL, CHAMPION)
        return None
    versions = client.search_model_versions(f"name = '{MODEL}'")
    version = next((str(item.version) for item in versions if item.tags.get(DIGEST_TAG) == release), None)
    if version is not None:
        client.set_registered_model_alias(MODEL, CHAMPION, version)
    return version


def _training_run(store: "Store", release: "Manifest") -> str | None:
    records = store.records(release.facts["chain"]["trained_checkpoint"])
    return next((record["mlflow_run"] for record in records if "mlflow_run" in record), None)
