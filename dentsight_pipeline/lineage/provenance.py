"""How the products of a chain came about, read from their records: code, packages, hardware, runs, recipe, seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dentsight_pipeline.documents.facts import CheckpointFacts, EvaluationFacts, RawExportFacts
from dentsight_pipeline.documents.lineage import Code, CodeBehind, Provenance, RecipeBehind, Record, Step, step_of
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.lineage.walk import Walk
from dentsight_pipeline.store.content import read_json
from dentsight_pipeline.store.objects import Store


def provenance_of(
    store: Store, walked: Walk, records: Mapping[str, Sequence[Record]], code: Code | None = None
) -> Provenance:
    """What a reader asks of a chain, in one place.

    Args:
        store: Where the files are.
        walked: The chain.
        records: Digest → records of each product, oldest first.
        code: The code that is running now, to compare with.
    """
    steps = tuple(_steps(walked, records))
    raw, recipe = walked.facts(RawExportFacts), _recipe(store, walked)
    return Provenance(
        source=raw.source if raw else None,
        corpus=raw.corpus if raw else None,
        code=_code([step.code for step in steps if step.code], code),
        recipe=recipe,
        seeds=_seeds(walked, recipe),
        dagster_runs=tuple(dict.fromkeys(step.dagster_run for step in steps if step.dagster_run)),
        mlflow_runs=tuple(dict.fromkeys(step.mlflow_run for step in steps if step.mlflow_run)),
        steps=steps,
    )


def _steps(walked: Walk, records: Mapping[str, Sequence[Record]]) -> Iterator[Step]:
    for digest, manifest in walked.products.items():
        first = next(iter(records.get(digest, ())), Record())
        yield step_of(first, walked.asset(digest), manifest.kind, digest)


def _code(codes: Sequence[Code], now: Code | None) -> CodeBehind:
    commits = tuple(sorted({code.commit for code in codes if code.commit}))
    return CodeBehind(commits=commits, dirty=any(code.dirty for code in codes) if codes else None, now=now)


def _recipe(store: Store, walked: Walk) -> RecipeBehind | None:
    checkpoint, facts = walked.find(Kind.CHECKPOINT), walked.facts(CheckpointFacts)
    if checkpoint is None or facts is None:
        return None
    try:
        fields = read_json(store, checkpoint, "recipe.json")
    except DataError:  # damaged: a finding of its own
        fields = None
    return RecipeBehind(
        name=facts.recipe,
        digest=facts.recipe_digest,
        variant=facts.variant,
        overrides=facts.overrides,
        fields=fields,
    )


def _seeds(walked: Walk, recipe: RecipeBehind | None) -> dict[str, int]:
    evaluation = walked.facts(EvaluationFacts)
    training = (recipe.fields or {}).get("seed") if recipe else None
    seeds = {"training": training, "bootstrap": evaluation.seed if evaluation else None}
    return {name: seed for name, seed in seeds.items() if isinstance(seed, int)}
