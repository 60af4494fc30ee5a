"""From stored predictions to a stored evaluation: reads the subset and the detections, publishes the tables."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.data.splits import read_split, split_names
from dentsight_pipeline.documents.facts import EvaluationFacts, PredictionsFacts, SubsetFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.evaluate import evaluate, write_evaluation
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.content import build, read_json

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

EVALUATED = "test"
THRESHOLDS_FROM = "valid"


def evaluate_predictions(
    store: Store,
    subset: Manifest,
    predictions: Manifest,
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Evaluate stored predictions on the test split, with thresholds chosen on valid, and publish the result.

    Args:
        store: Where both inputs are and the result goes.
        subset: The condition subset that was predicted.
        predictions: The predictions; must name this subset.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.
        progress: Called with stage, done, total.

    Returns:
        The published manifest, kind `evaluation`.

    Raises:
        EvaluationError: The predictions belong to other data, or there is no test split to evaluate.
    """
    if predictions.inputs.get(Asset.CONDITION_SUBSET) != subset.digest:
        raise EvaluationError(
            f"Predictions {predictions.digest[:12]} were made on subset {predictions.inputs.get('condition_subset')}, "
            f"not on {subset.digest}. Predict again on the data that is to be evaluated."
        )
    facts, predicted = subset.facts_as(SubsetFacts), predictions.facts_as(PredictionsFacts)
    if predicted.classes != facts.classes:
        raise EvaluationError(
            f"Predictions {predictions.digest[:12]} are of the classes {', '.join(predicted.classes)}, the "
            f"subset {subset.digest[:12]} has {', '.join(facts.classes)}. Evaluate a checkpoint of the "
            "subset's own classes."
        )
    if EVALUATED not in split_names(subset):
        raise EvaluationError(
            f"Subset {subset.digest[:12]} has no {EVALUATED} split, so there is nothing to evaluate on. "
            "Export a version with a test split."
        )

    def both(split: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return read_split(store, subset, split).to_coco(), read_json(store, predictions, f"{split}.json")

    ground_truth, detections = both(EVALUATED)
    mirrored = f"{EVALUATED}.mirrored.json"
    evaluation = evaluate(
        ground_truth,
        detections,
        thresholds_from=both(THRESHOLDS_FROM) if f"{THRESHOLDS_FROM}.json" in predictions.entries else None,
        mirrored=read_json(store, predictions, mirrored) if mirrored in predictions.entries else None,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    with tempfile.TemporaryDirectory() as folder:
        write_evaluation(evaluation, Path(folder))
        files = {path.name: path for path in Path(folder).iterdir()}
        manifest = build(
            store,
            Kind.EVALUATION,
            files,
            {Asset.CONDITION_SUBSET: subset.digest, Asset.TEST_PREDICTIONS: predictions.digest},
            EvaluationFacts(
                corpus=facts.corpus,
                checkpoint=predictions.inputs[Asset.TRAINED_CHECKPOINT],
                split=EVALUATED,
                resamples=resamples,
                seed=seed,
            ),
        )
    store.put_manifest(manifest)
    return manifest
