"""From stored predictions of both stages to stored findings by tooth: reads products, publishes one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from dentsight_pipeline.data.splits import read_split, split_names
from dentsight_pipeline.documents.annotations import Split
from dentsight_pipeline.documents.codec import finite
from dentsight_pipeline.documents.evaluation import EVALUATION_FILE, EvaluationDocument, for_people
from dentsight_pipeline.documents.facts import CheckpointFacts, PredictionsFacts, SubsetFacts, ToothFindingsFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.documents.teeth import (
    FINDINGS_FILE,
    FINDINGS_SCHEMA,
    METRICS_FILE,
    METRICS_SCHEMA,
    ImageFindings,
    Thresholds,
    ToothFindings,
    ToothMetrics,
    tooth_findings_ref,
)
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.columns import GroundTruth, ground_truth_of
from dentsight_pipeline.evaluation.product import EVALUATED, THRESHOLDS_FROM, has_pass, stored_detections, stored_truth
from dentsight_pipeline.evaluation.teeth.findings import (
    Marked,
    Mouth,
    at_least,
    by_image,
    choose_tooth_threshold,
    findings_by_tooth,
    measure,
    one_mouth,
)
from dentsight_pipeline.store.content import build, read_document

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

Boxes = Mapping[int, Sequence[Marked]]
"""By image id."""

ASSETS_BELOW = (
    Asset.CONDITION_SUBSET,
    Asset.TEST_PREDICTIONS,
    Asset.CLASS_METRICS,
    Asset.TOOTH_SUBSET,
    Asset.TOOTH_CHECKPOINT,
)


def tooth_chain(store: Store, evaluation: Manifest, tooth_checkpoint: Manifest) -> dict[str, Manifest]:
    """The products behind findings by tooth, by asset name, each by the digest that the one above it names.

    Raises:
        EvaluationError: The two stages were made from different splits of the dataset.
    """
    conditions = store.get_manifest(evaluation.inputs[Asset.CONDITION_SUBSET])
    predictions = store.get_manifest(evaluation.inputs[Asset.TEST_PREDICTIONS])
    teeth = store.get_manifest(tooth_checkpoint.inputs[Asset.TOOTH_SUBSET])
    splits = [subset.inputs[Asset.NORMALIZED_SPLITS] for subset in (conditions, teeth)]
    if splits[0] != splits[1]:
        raise EvaluationError(
            f"The conditions were found on splits {splits[0][:12]}, but the tooth detector was trained on splits "
            f"{splits[1][:12]}: the same image may be a test image in one and a training image in the other. "
            "Materialise tooth_subset and tooth_checkpoint again."
        )
    return dict(zip(ASSETS_BELOW, (conditions, predictions, evaluation, teeth, tooth_checkpoint), strict=True))


def publish_tooth_findings(
    store: Store,
    chain: Mapping[str, Manifest],
    tooth_predictions: Manifest,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Manifest:
    """Join the conditions of the test images, at their operating thresholds, to the teeth found, and publish that.

    Args:
        store: Where everything is.
        chain: From `tooth_chain`.
        tooth_predictions: The tooth checkpoint's detections on the images of the condition subset.
        resamples: Bootstrap resamples behind the intervals.
        seed: Bootstrap seed.

    Returns:
        The published manifest of kind `tooth-findings`: `findings.json` (each test image with its teeth and findings;
        see `findings_by_tooth`) and `metrics.json` (see `measure`; `populations` is None when no test image has
        annotated teeth). The model's report finds it by `tooth_findings_ref`.

    Raises:
        EvaluationError: The tooth predictions were made by another checkpoint or on other images.
    """
    _require_made_from(tooth_predictions, chain)
    conditions = chain[Asset.CONDITION_SUBSET]
    split = read_split(store, conditions, EVALUATED)
    truth = ground_truth_of(split)
    found = _Found(
        teeth=_teeth_found(store, chain, tooth_predictions),
        conditions=_conditions_found(store, chain, truth),
        true_teeth=_annotated_teeth(store, chain[Asset.TOOTH_SUBSET]),
        true_conditions=by_image(truth, truth),
    )
    findings = _findings(split, found)
    metrics = ToothMetrics(
        schema=METRICS_SCHEMA,
        populations=measure(_mouths(split, found), split.classes, resamples=resamples, seed=seed)
        if any(found.true_teeth.values())
        else None,
    )
    every = [finding for image in findings.images for finding in image.findings]
    least = findings.thresholds
    facts = ToothFindingsFacts(
        corpus=conditions.facts_as(SubsetFacts).corpus,
        split=EVALUATED,
        images=len(findings.images),
        images_with_annotated_teeth=len(found.true_teeth),
        teeth=sum(len(image.teeth) for image in findings.images),
        findings=len(every),
        unassigned_findings=sum(not finding.assigned for finding in every),
        inferred_teeth=sum(finding.inferred_tooth is not None for finding in every),
        tooth_threshold=least.teeth,
        classes_without_threshold=tuple(name for name in split.classes if least.conditions.get(name) is None),
        heads_healthy=_heads_healthy(store, chain),
        resamples=resamples,
        seed=seed,
    )
    manifest = build(
        store,
        Kind.TOOTH_FINDINGS,
        {FINDINGS_FILE: for_people(findings), METRICS_FILE: for_people(metrics)},
        {**{name: chain[name].digest for name in ASSETS_BELOW}, Asset.TOOTH_PREDICTIONS: tooth_predictions.digest},
        facts,
    )
    store.put_manifest(manifest)
    store.write_ref(tooth_findings_ref(chain[Asset.CLASS_METRICS].digest), {"tooth_findings": manifest.digest})
    return manifest


@dataclass(frozen=True)
class _Teeth:
    """Teeth at or above their threshold, and where that is from."""

    by_image: Boxes
    threshold: float
    chosen_on: str


@dataclass(frozen=True)
class _Conditions:
    """Conditions at or above their class's operating threshold, and where those are from."""

    by_image: Boxes
    thresholds: Mapping[str, float | None]
    chosen_on: str | None


@dataclass(frozen=True)
class _Found:
    """Everything found and annotated on the test images; `true_teeth` has the images whose teeth are annotated."""

    teeth: _Teeth
    conditions: _Conditions
    true_teeth: Boxes
    true_conditions: Boxes


def _findings(split: Split, found: _Found) -> ToothFindings:
    images = split.images.select(["id", "file_name", "width", "height", "source_group", "clean"]).to_pylist()
    return ToothFindings(
        schema=FINDINGS_SCHEMA,
        split=EVALUATED,
        thresholds=Thresholds(
            teeth=finite(found.teeth.threshold),
            teeth_chosen_on=found.teeth.chosen_on,
            conditions=found.conditions.thresholds,
            conditions_chosen_on=found.conditions.chosen_on,
        ),
        images=tuple(_image(image.pop("id"), image, found) for image in images),
    )


def _image(image_id: int, columns: Mapping[str, Any], found: _Found) -> ImageFindings:
    mouth = findings_by_tooth(found.teeth.by_image.get(image_id, []), found.conditions.by_image.get(image_id, []))
    annotated = image_id in found.true_teeth
    return ImageFindings(image_id=image_id, **columns, teeth_annotated=annotated, **msgspec.structs.asdict(mouth))


def _mouths(split: Split, found: _Found) -> list[Mouth]:
    """The images whose teeth are annotated; a finding that nobody looked for is neither right nor wrong."""
    tables = (found.true_teeth, found.true_conditions)
    columns = (split.images[name].to_pylist() for name in ("id", "source_group", "clean"))
    covered = split.covered
    looked_for = [frozenset(name for name, own in zip(split.classes, row, strict=True) if own) for row in covered]
    return [
        Mouth(
            group,
            clean,
            found.teeth.by_image.get(image, []),
            [own for own in found.conditions.by_image.get(image, []) if own.name in names],
            *(boxes.get(image, []) for boxes in tables),
            looked_for=names,
        )
        for image, group, clean, names in zip(*columns, looked_for, strict=True)
        if image in found.true_teeth
    ]


def _require_made_from(tooth_predictions: Manifest, chain: Mapping[str, Manifest]) -> None:
    for name in ("tooth_checkpoint", Asset.CONDITION_SUBSET):
        given = tooth_predictions.inputs.get(name, "none")
        if given != chain[name].digest:
            raise EvaluationError(
                f"Tooth predictions {tooth_predictions.digest[:12]} come from {name} {given[:12]}, not from "
                f"{chain[name].digest[:12]}. Predict the teeth again."
            )


def _teeth_found(store: Store, chain: Mapping[str, Manifest], predictions: Manifest) -> _Teeth:
    conditions, subset = chain[Asset.CONDITION_SUBSET], chain[Asset.TOOTH_SUBSET]
    both = THRESHOLDS_FROM in split_names(subset) and has_pass(predictions, THRESHOLDS_FROM)
    chosen_on = THRESHOLDS_FROM if both else EVALUATED
    truth = _tooth_truth(store, subset, chosen_on)
    threshold = choose_tooth_threshold(truth, _mouths_of(store, conditions, predictions, chosen_on))
    found = _mouths_of(store, conditions, predictions, EVALUATED)
    return _Teeth({image: at_least(teeth, threshold) for image, teeth in found.items()}, threshold, chosen_on)


def _mouths_of(store: Store, conditions: Manifest, predictions: Manifest, split: str) -> Boxes:
    """Teeth found on the images of a split of the condition subset, each number once a mouth."""
    truth = ground_truth_of(read_split(store, conditions, split))
    names = predictions.facts_as(PredictionsFacts).classes
    every = np.ones((len(truth.image_ids), len(names)), bool)
    teeth = replace(truth, covered=every, class_names=names, category_ids=np.arange(1, len(names) + 1))
    found = by_image(stored_detections(store, predictions, split, teeth), teeth)
    return {image: one_mouth(detections) for image, detections in found.items()}


def _conditions_found(store: Store, chain: Mapping[str, Manifest], truth: GroundTruth) -> _Conditions:
    """A class without a threshold is not shown, because nothing says which of its scores to believe."""
    evaluation = read_document(store, chain[Asset.CLASS_METRICS], EVALUATION_FILE, EvaluationDocument)
    least = {name: point.threshold_best_f1 for name, point in evaluation.operating_points.items()}
    found = by_image(stored_detections(store, chain[Asset.TEST_PREDICTIONS], EVALUATED, truth), truth)
    kept = {
        image: [own for own in conditions if at_least([own], _or_infinity(least.get(own.name)))]
        for image, conditions in found.items()
    }
    return _Conditions(kept, least, evaluation.thresholds_from)


def _or_infinity(threshold: float | None) -> float:
    return math.inf if threshold is None else threshold


def _annotated_teeth(store: Store, subset: Manifest) -> Boxes:
    """Of every image of the tooth subset's test split; none when it has no such split."""
    truth = _tooth_truth(store, subset, EVALUATED)
    if truth is None:
        return {}
    return {**dict.fromkeys(truth.image_ids.tolist(), ()), **by_image(truth, truth)}


def _tooth_truth(store: Store, subset: Manifest, split: str) -> GroundTruth | None:
    """The images in which every tooth was looked for; None without such a split."""
    if split not in split_names(subset):
        return None
    truth = stored_truth(store, subset, split)
    return truth.subset(truth.fully_covered)


def _heads_healthy(store: Store, chain: Mapping[str, Manifest]) -> dict[str, bool | None]:
    conditions = store.get_manifest(chain[Asset.TEST_PREDICTIONS].inputs[Asset.TRAINED_CHECKPOINT])
    return {
        Asset.TOOTH_CHECKPOINT: chain[Asset.TOOTH_CHECKPOINT].facts_as(CheckpointFacts).healthy,
        Asset.TRAINED_CHECKPOINT: conditions.facts_as(CheckpointFacts).healthy,
    }
