"""From stored predictions of both stages to stored findings by tooth: reads products, publishes one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.data.ontology import categories
from dentsight_pipeline.data.splits import read_split, split_names
from dentsight_pipeline.documents.facts import CheckpointFacts, PredictionsFacts, SubsetFacts, ToothFindingsFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.product import EVALUATED, THRESHOLDS_FROM
from dentsight_pipeline.evaluation.teeth.findings import (
    Marked,
    Mouth,
    by_image,
    choose_tooth_threshold,
    findings_by_tooth,
    measure,
    one_mouth,
)
from dentsight_pipeline.evaluation.teeth.plain_json import plain
from dentsight_pipeline.store.content import build, read_json

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

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
        annotated teeth).

    Raises:
        EvaluationError: The tooth predictions were made by another checkpoint or on other images.
    """
    _require_made_from(tooth_predictions, chain)
    truth = read_split(store, chain[Asset.CONDITION_SUBSET], EVALUATED).to_coco()
    tooth_truth = _split(store, chain[Asset.TOOTH_SUBSET], EVALUATED)
    teeth, tooth_threshold, chosen_on = _teeth_found(store, chain[Asset.TOOTH_SUBSET], tooth_predictions)
    conditions, thresholds = _conditions_found(store, chain)
    annotated = {image["id"] for image in tooth_truth["images"]}
    images = [
        {
            "image_id": image["id"],
            **{key: image[key] for key in ("file_name", "width", "height", "source_group", "clean")},
            "teeth_annotated": image["id"] in annotated,
            **findings_by_tooth(teeth.get(image["id"], []), conditions.get(image["id"], [])),
        }
        for image in truth["images"]
    ]
    true_teeth, true_conditions = by_image_of(tooth_truth), by_image_of(truth)
    mouths = [
        Mouth(
            image["source_group"],
            image["clean"],
            *(boxes.get(image["id"], []) for boxes in (teeth, conditions, true_teeth, true_conditions)),
        )
        for image in truth["images"]
        if image["id"] in annotated
    ]
    subset = chain[Asset.CONDITION_SUBSET].facts_as(SubsetFacts)
    findings = {
        "schema": "dentsight-tooth-findings/1",
        "split": EVALUATED,
        "thresholds": {"teeth": tooth_threshold, "teeth_chosen_on": chosen_on, **thresholds},
        "images": images,
    }
    metrics = {
        "schema": "dentsight-tooth-metrics/1",
        "populations": measure(mouths, subset.classes, resamples=resamples, seed=seed) if true_teeth else None,
    }
    manifest = build(
        store,
        Kind.TOOTH_FINDINGS,
        {"findings.json": _json(findings), "metrics.json": _json(metrics)},
        {**{name: chain[name].digest for name in ASSETS_BELOW}, Asset.TOOTH_PREDICTIONS: tooth_predictions.digest},
        ToothFindingsFacts(
            corpus=subset.corpus,
            split=EVALUATED,
            images=len(images),
            images_with_annotated_teeth=len(annotated),
            teeth=sum(len(image["teeth"]) for image in images),
            findings=sum(len(image["findings"]) for image in images),
            unassigned_findings=sum(not f["assigned"] for image in images for f in image["findings"]),
            inferred_teeth=sum(f["inferred_tooth"] is not None for image in images for f in image["findings"]),
            tooth_threshold=plain(tooth_threshold),
            classes_without_threshold=tuple(n for n in subset.classes if thresholds["conditions"].get(n) is None),
            heads_healthy=_heads_healthy(store, chain),
            resamples=resamples,
            seed=seed,
        ),
    )
    store.put_manifest(manifest)
    return manifest


def by_image_of(coco: Mapping[str, Any]) -> dict[int, list[Marked]]:
    """The annotations of each image of a COCO file."""
    return by_image(coco["annotations"], {category["id"]: category["name"] for category in coco["categories"]})


def _require_made_from(tooth_predictions: Manifest, chain: Mapping[str, Manifest]) -> None:
    for name in ("tooth_checkpoint", Asset.CONDITION_SUBSET):
        given = tooth_predictions.inputs.get(name, "none")
        if given != chain[name].digest:
            raise EvaluationError(
                f"Tooth predictions {tooth_predictions.digest[:12]} come from {name} {given[:12]}, not from "
                f"{chain[name].digest[:12]}. Predict the teeth again."
            )


def _teeth_found(store: Store, subset: Manifest, predictions: Manifest) -> tuple[dict[int, list[Marked]], float, str]:
    """Teeth of each test image at or above the threshold, the threshold, and the split that it was chosen on."""
    names = dict(enumerate(predictions.facts_as(PredictionsFacts).classes, start=1))

    def mouths(split: str) -> dict[int, list[Marked]]:
        found = by_image(read_json(store, predictions, f"{split}.json"), names)
        return {image: one_mouth(detections) for image, detections in found.items()}

    both = THRESHOLDS_FROM in split_names(subset) and f"{THRESHOLDS_FROM}.json" in predictions.entries
    chosen_on = THRESHOLDS_FROM if both else EVALUATED
    threshold = choose_tooth_threshold(_split(store, subset, chosen_on), mouths(chosen_on))
    found = mouths(EVALUATED)
    return {image: _at_least(teeth, threshold) for image, teeth in found.items()}, threshold, chosen_on


def _conditions_found(store: Store, chain: Mapping[str, Manifest]) -> tuple[dict[int, list[Marked]], dict[str, Any]]:
    """Conditions of each test image at or above their class's operating threshold, and those thresholds.

    A class without a threshold is not shown, because nothing says which of its scores to believe.
    """
    evaluation = read_json(store, chain[Asset.CLASS_METRICS], "evaluation.json")
    least = {name: point["threshold_best_f1"] for name, point in evaluation["operating_points"].items()}
    names = dict(enumerate(chain[Asset.CONDITION_SUBSET].facts_as(SubsetFacts).classes, start=1))
    found = by_image(read_json(store, chain[Asset.TEST_PREDICTIONS], f"{EVALUATED}.json"), names)
    kept = {
        image: [c for c in conditions if least.get(c.name) is not None and _at_least([c], least[c.name])]
        for image, conditions in found.items()
    }
    return kept, {"conditions": least, "conditions_chosen_on": evaluation["thresholds_from"]}


def _at_least(found: Sequence[Marked], threshold: float) -> list[Marked]:
    return [marked for marked in found if marked.score is not None and marked.score >= threshold]


def _split(store: Store, subset: Manifest, name: str) -> dict[str, Any]:
    """A split of the tooth subset; empty when it has none."""
    if name in split_names(subset):
        return read_split(store, subset, name).to_coco()
    return {"images": [], "annotations": [], "categories": categories(subset.facts_as(SubsetFacts).classes)}


def _heads_healthy(store: Store, chain: Mapping[str, Manifest]) -> dict[str, bool | None]:
    conditions = store.get_manifest(chain[Asset.TEST_PREDICTIONS].inputs[Asset.TRAINED_CHECKPOINT])
    return {
        Asset.TOOTH_CHECKPOINT: chain[Asset.TOOTH_CHECKPOINT].facts_as(CheckpointFacts).healthy,
        Asset.TRAINED_CHECKPOINT: conditions.facts_as(CheckpointFacts).healthy,
    }


def _json(document: Any) -> bytes:
    return json.dumps(plain(document), ensure_ascii=False, allow_nan=False, indent=1).encode()
