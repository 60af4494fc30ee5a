"""What every asset does around its one call: recall finished work, record what was read, tell what came out.

Assets stay thin because this lives here once. The logic of an asset itself never does.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.documents.facts import CheckpointFacts
from dentsight_pipeline.documents.names import (
    INPUT_METADATA,
    INPUT_TAG,
    LOG_METADATA,
    REUSED_TAG,
    TAG_DIGITS,
    VARIANT_TAG,
    Kind,
)
from dentsight_pipeline.errors import DentsightError, IntegrityError
from dentsight_pipeline.lineage.environment import environment
from dentsight_pipeline.orchestration.resources import Workspace

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest


def materialize_step(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    *,
    inputs: Mapping[str, "Manifest"],
    config: Mapping[str, Any] | None,
    make: Callable[[], "Made"],
    describe: Callable[["Manifest"], Mapping[str, Any]],
) -> dg.MaterializeResult:
    """Run one asset's work, or recall it when nothing that it depends on has changed.

    Args:
        context: The step.
        workspace: Where the store is.
        inputs: The manifests that the step reads, by asset name.
        config: Everything else that the result depends on; becomes part of the memo key. None when only the work
            itself can tell what it depends on: it is then always done.
        make: Does the work and returns the digest of the manifest it stored, with a record of how.
        describe: Metadata for the UI, from the manifest.

    Returns:
        The materialisation: data version = the manifest's digest, input tags, metadata.
    """
    from dentsight_pipeline.store import log, memo

    asset = context.asset_key.to_user_string()
    code_version = (context.assets_def.code_versions_by_key or {})[context.asset_key] or ""
    read = {name: manifest.digest for name, manifest in inputs.items()}
    store = workspace.store
    key = None if config is None else memo.key(asset, code_version, read, dict(config))
    known = None if key is None else memo.recall(store, key)
    started = time.time()
    made = make() if known is None else Made(known, reused=True)
    digest = made.digest
    logged = {}
    if made.reused:
        context.log.info(f"{asset}: unchanged, reused {digest[:12]}")
    else:
        entry = log.append(
            store,
            digest,
            {
                "asset": asset,
                "code_version": code_version,
                "partition": str(context.partition_key),
                "inputs": read,
                "config": None if config is None else dict(config),
                "dagster_run": context.run_id,
                "started": round(started, 3),
                "finished": round(time.time(), 3),
                **environment(),
                **made.record,
            },
        )
        logged = {LOG_METADATA: str(entry.head)}
        if key is not None:
            memo.remember(store, key, digest)
    manifest = store.get_manifest(digest)
    variant = manifest.kind == Kind.CHECKPOINT and manifest.facts_as(CheckpointFacts).variant
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest),
        metadata={
            "digest": digest,
            "reused": dg.MetadataValue.bool(made.reused),
            **{f"{INPUT_METADATA}{name}": value for name, value in read.items()},
            **logged,
            **describe(manifest),
        },
        tags={
            **{f"{INPUT_TAG}{name}": value[:TAG_DIGITS] for name, value in read.items()},
            **({VARIANT_TAG: "true"} if variant else {}),
            REUSED_TAG: str(made.reused).lower(),
        },
    )


@contextlib.contextmanager
def refusing_without_identifiers() -> Iterator[None]:
    """Refusals name files and records; what Dagster stores of them may not name a patient.

    The message is redacted (`data/privacy.py`) and keeps Roboflow's own hash of each file, by which its owner finds it.
    """
    from dentsight_pipeline.data.privacy import redact

    try:
        yield
    except DentsightError as error:
        redacted = type(error).__new__(type(error))
        Exception.__init__(redacted, redact(str(error)))
        raise redacted from None


def digest_of(result: dg.MaterializeResult) -> str:
    """The digest that a step's materialisation stands for."""
    if result.data_version is None:
        raise IntegrityError("A materialisation", "any digest", None, "Every asset here sets its data version.")
    return result.data_version.value


def chained_assets(context: dg.AssetExecutionContext) -> frozenset[str]:
    """The assets that this run materialises, this one included."""
    return frozenset(key.to_user_string() for key in context.job_def.asset_layer.selected_asset_keys)


class Made:
    """What `make` returns: the digest of the stored manifest, a record of how it came about, and whether the work
    found by itself that nothing had changed."""

    def __init__(self, digest: str, record: Mapping[str, Any] | None = None, *, reused: bool = False) -> None:
        self.digest = digest
        self.record = dict(record or {})
        self.reused = reused
