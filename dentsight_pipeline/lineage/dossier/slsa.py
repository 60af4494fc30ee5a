"""Where a release came from, as SLSA provenance v1 in an in-toto statement; `release/envelope.py` signs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.lineage import Record
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.release import STATEMENT_TYPE
from dentsight_pipeline.lineage.dossier.case import Case
from dentsight_pipeline.store.canonical import JSON
from dentsight_pipeline.store.manifest import Manifest

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:dentsight:training:1"


def provenance_of(case: Case) -> bytes:
    """The statement, the same bytes for the same release."""
    how, files = case.how(case.checkpoint), case.release.entries
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": path, "digest": {"sha256": entry.sha256}} for path, entry in files.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _asked(case),
                "internalParameters": {"packages": dict(how.packages or {}), "hardware": dict(how.hardware or {})},
                "resolvedDependencies": [*map(_product, _made_from(case)), *_code(how)],
            },
            "runDetails": {
                "builder": {"id": "urn:dentsight:pipeline", "version": {"dentsight_pipeline": _version(how)}},
                "metadata": _when(how),
                "byproducts": [_product(case.product(name)) for name in (Asset.RELEASE_REPORT, Asset.CLASS_METRICS)],
            },
        },
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _asked(case: Case) -> Mapping[str, JSON]:
    told = {"recipe": case.trained.recipe, "recipeDigest": case.trained.recipe_digest}
    return {**told, "overrides": plain(case.trained.overrides), "dataset": case.subset.digest}


def _made_from(case: Case) -> tuple[Manifest, ...]:
    return (case.checkpoint, case.subset, case.splits, *case.raws)


def _product(manifest: Manifest) -> JSON:
    return {"name": manifest.kind, "digest": {"sha256": manifest.digest}}


def _code(how: Record) -> list[JSON]:
    """The commit, where one is known; that it had been edited is said."""
    if how.code is None or how.code.commit is None:
        return []
    annotations = {"dirty": how.code.dirty}
    return [{"name": "code", "digest": {"gitCommit": how.code.commit}, "annotations": annotations}]


def _version(how: Record) -> str:
    return (how.code.version if how.code else None) or "unknown"


def _when(how: Record) -> Mapping[str, JSON]:
    times = {"startedOn": how.started, "finishedOn": how.finished}
    told = {name: datetime.fromtimestamp(int(time), UTC).isoformat() for name, time in times.items() if time}
    return {"invocationId": how.dagster_run or "unknown", **told}
