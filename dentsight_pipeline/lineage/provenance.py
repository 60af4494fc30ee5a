"""How the products of a chain came about, read from their records: code, packages, hardware, runs, recipe, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.facts import CheckpointFacts, EvaluationFacts, RawExportFacts
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store.content import read_json

if TYPE_CHECKING:
    from dentsight_pipeline.lineage.walk import Walk
    from dentsight_pipeline.store.objects import Store

_OF_A_STEP = (
    "partition",
    "code",
    "code_version",
    "config",
    "packages",
    "python",
    "hardware",
    "machine",
    "dagster_run",
    "mlflow_run",
    "mlflow_url",
    "location",
    "started",
    "finished",
)


def provenance_of(
    store: Store, walked: Walk, records: Mapping[str, list[dict[str, Any]]], code: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a reader asks of a chain, in one place.

    Args:
        store: Where the files are.
        walked: The chain.
        records: Digest → records of each product, oldest first.
        code: The code that is running now, to compare with; `{"commit", "dirty"}`.

    Returns:
        `source` (what the export says about itself, Roboflow version included), `corpus`, `code` (commits behind the
        chain, and whether any was edited), `recipe`, `seeds`, `dagster_runs`, `mlflow_runs`, and `steps`: for each
        product what its first record says.
    """
    steps = []
    for digest, manifest in walked.products.items():
        first = next(iter(records.get(digest, ())), {})
        known = {key: first[key] for key in _OF_A_STEP if first.get(key) is not None}
        asset = first.get("asset", walked.asset(digest))
        steps.append({"asset": asset, "kind": manifest.kind, "digest": digest, **known})
    codes = [step["code"] for step in steps if "code" in step]
    told = walked.facts(RawExportFacts)
    return {
        "source": plain(told.source) if told else None,
        "corpus": plain(told.corpus) if told else None,
        "code": {
            "commits": sorted({str(code["commit"]) for code in codes if code.get("commit")}),
            "dirty": any(code.get("dirty") for code in codes) if codes else None,
            "now": dict(code) if code else None,
        },
        "recipe": _recipe(store, walked),
        "seeds": _seeds(store, walked),
        "dagster_runs": _distinct(steps, "dagster_run"),
        "mlflow_runs": _distinct(steps, "mlflow_run"),
        "steps": steps,
    }


def _recipe(store: Store, walked: Walk) -> dict[str, Any] | None:
    checkpoint, facts = walked.find(Kind.CHECKPOINT), walked.facts(CheckpointFacts)
    if checkpoint is None or facts is None:
        return None
    try:
        fields = read_json(store, checkpoint, "recipe.json")
    except DataError:  # damaged: a finding of its own
        fields = None
    return {
        "name": facts.recipe,
        "digest": facts.recipe_digest,
        "variant": facts.variant,
        "overrides": dict(facts.overrides),
        "fields": fields,
    }


def _seeds(store: Store, walked: Walk) -> dict[str, Any]:
    recipe, evaluation = _recipe(store, walked), walked.facts(EvaluationFacts)
    seeds = {}
    if recipe and recipe["fields"] and "seed" in recipe["fields"]:
        seeds["training"] = recipe["fields"]["seed"]
    if evaluation is not None:
        seeds["bootstrap"] = evaluation.seed
    return seeds


def _distinct(steps: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(step[key] for step in steps if key in step))
