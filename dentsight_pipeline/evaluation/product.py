"""From stored predictions to a stored evaluation: reads the subset and the detections, publishes the tables."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.data.splits import read_split, read_stored, split_names
from dentsight_pipeline.documents.annotations import Split
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.documents.facts import EvaluationFacts, PredictionsFacts, SubsetFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.ceiling import stored_ceilings
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth, detections_of, ground_truth_of
from dentsight_pipeline.evaluation.compare import Comparison, compare
from dentsight_pipeline.evaluation.evaluate import Inputs, evaluate
from dentsight_pipeline.evaluation.folder import write_evaluation
from dentsight_pipeline.evaluation.subgroups import stored_traits
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.content import build

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

EVALUATED = "test"
MIRRORED = "test.mirrored"
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
    _require_fit(subset, predictions)
    given = replace(
        stored_inputs(store, subset, predictions, resamples, seed),
        label_ceilings=stored_ceilings(store, subset, resamples=resamples, seed=seed),
        traits=stored_traits(store, subset, EVALUATED),
    )
    facts = EvaluationFacts(
        corpus=subset.facts_as(SubsetFacts).corpus,
        checkpoint=predictions.inputs[Asset.TRAINED_CHECKPOINT],
        split=EVALUATED,
        resamples=resamples,
        seed=seed,
    )
    inputs: dict[str, str] = {Asset.CONDITION_SUBSET: subset.digest, Asset.TEST_PREDICTIONS: predictions.digest}
    with tempfile.TemporaryDirectory() as folder:
        write_evaluation(evaluate(given, progress), Path(folder))
        files = {path.name: path for path in Path(folder).iterdir()}
        manifest = build(store, Kind.EVALUATION, files, inputs, facts)
    store.put_manifest(manifest)
    return manifest


def stored_inputs(store: Store, subset: Manifest, predictions: Manifest, resamples: int, seed: int) -> Inputs:
    """What is evaluated of predictions on a subset; raises as `stored_truth` and `stored_detections` do."""
    split = read_split(store, subset, EVALUATED)
    truth = _truth_of(subset, split)
    return Inputs(
        truth=truth,
        found=stored_detections(store, predictions, EVALUATED, truth),
        mirrored=stored_detections(store, predictions, MIRRORED, truth) if has_pass(predictions, MIRRORED) else None,
        valid=_validation(store, subset, predictions),
        resamples=resamples,
        seed=seed,
        exports=tuple(split.images["export"].to_pylist()),
    )


def stored_truth(store: Store, subset: Manifest, split: str) -> GroundTruth:
    """A split of a subset, to be scored against; raises as `read_split` and `ground_truth_of` do."""
    return _truth_of(subset, read_split(store, subset, split))


def _truth_of(subset: Manifest, split: Split) -> GroundTruth:
    return ground_truth_of(split, f"{split.name} of {subset.kind} {subset.digest[:12]}")


def has_pass(predictions: Manifest, name: str) -> bool:
    """Whether the predictions hold detections of this name: a split, or `MIRRORED`."""
    return f"{name}.arrow" in predictions.entries


def stored_detections(store: Store, predictions: Manifest, name: str, truth: GroundTruth) -> Detections:
    """The detections of one pass over images of `truth`; raises as `read_stored` and `detections_of` do."""
    source = f"{name} of {predictions.kind} {predictions.digest[:12]}"
    return detections_of(read_stored(store, predictions, f"{name}.arrow", DETECTIONS), truth, source)


def compare_stored(
    store: Store,
    subset: Manifest,
    challenger: Manifest,
    champion: Manifest,
    *,
    resamples: int = 1000,
    progress: Progress | None = None,
) -> Comparison:
    """The predictions of two checkpoints on the test images of one subset; see `compare`."""
    truth = stored_truth(store, subset, EVALUATED)
    ours, theirs = (stored_detections(store, made, EVALUATED, truth) for made in (challenger, champion))
    return compare(truth, ours, theirs, resamples=resamples, progress=progress)


def _validation(store: Store, subset: Manifest, predictions: Manifest) -> tuple[GroundTruth, Detections] | None:
    if not has_pass(predictions, THRESHOLDS_FROM):
        return None
    truth = stored_truth(store, subset, THRESHOLDS_FROM)
    return truth, stored_detections(store, predictions, THRESHOLDS_FROM, truth)


def _require_fit(subset: Manifest, predictions: Manifest) -> None:
    if predictions.inputs.get(Asset.CONDITION_SUBSET) != subset.digest:
        raise EvaluationError(
            f"Predictions {predictions.digest[:12]} were made on subset "
            f"{predictions.inputs.get(Asset.CONDITION_SUBSET)}, not on {subset.digest}. Predict again on the data that "
            "is to be evaluated."
        )
    ours, theirs = predictions.facts_as(PredictionsFacts).classes, subset.facts_as(SubsetFacts).classes
    if ours != theirs:
        raise EvaluationError(
            f"Predictions {predictions.digest[:12]} are of the classes {', '.join(ours)}, the "
            f"subset {subset.digest[:12]} has {', '.join(theirs)}. Evaluate a checkpoint of the "
            "subset's own classes."
        )
    if EVALUATED not in split_names(subset):
        raise EvaluationError(
            f"Subset {subset.digest[:12]} has no {EVALUATED} split, so there is nothing to evaluate on. "
            "Export a version with a test split."
        )
