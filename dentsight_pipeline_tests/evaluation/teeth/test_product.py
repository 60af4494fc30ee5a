"""Findings by tooth as a stored product: from two stages' predictions in a store to one manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data.ontology import CONDITIONS, TEETH
from dentsight_pipeline.data.splits import split_files
from dentsight_pipeline.documents.annotations import coco_categories, table_of, write_table
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.product import evaluate_predictions
from dentsight_pipeline.evaluation.teeth.product import publish_tooth_findings, tooth_chain
from dentsight_pipeline.store.content import build, read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.documents.facts_for_tests import checkpoint_facts, predictions_facts, subset_facts

TOOTH_BOXES = {"16": [100.0, 100.0, 60.0, 150.0], "15": [165.0, 100.0, 60.0, 150.0]}
CARIES = [120.0, 200.0, 20.0, 20.0]
ELSEWHERE = [700.0, 300.0, 20.0, 20.0]
PARTIAL = 4
"""A test image whose teeth nobody marked."""


def split(first: int, images: int, boxes: dict[str, list[float]], classes: tuple[str, ...], without: int = 0) -> Any:
    """One split file in which every image has the same boxes; `without` is left out."""
    ids = [number for number in range(first, first + images) if number != without]
    return {
        "images": [
            {
                "id": n,
                "file_name": f"images/{n}.jpg",
                "width": 1000,
                "height": 500,
                "source_group": str(n),
                "clean": True,
            }
            for n in ids
        ],
        "annotations": [
            {"id": 1000 * n + k, "image_id": n, "category_id": classes.index(name) + 1, "bbox": box, "area": 400.0}
            | {"iscrowd": 0}
            for n in ids
            for k, (name, box) in enumerate(boxes.items(), start=1)
        ],
        "categories": coco_categories(classes),
    }


def results(truth: Any, boxes: dict[str, tuple[list[float], float]], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The same detections on every image."""
    return [
        {"image_id": image["id"], "category_id": classes.index(name) + 1, "bbox": box, "score": score}
        for image in truth["images"]
        for name, (box, score) in boxes.items()
    ]


class Products:
    """A store with the products of both stages: caries on 16, found with .8; a crown elsewhere is found with .4."""

    def __init__(self, folder: Path, tooth_splits: str | None = None, nobody_looked: bool = False) -> None:
        self.store: Store = open_store(folder)
        truth = {name: split(first, 2, {"caries": CARIES}, CONDITIONS) for name, first in (("valid", 1), ("test", 3))}
        teeth = {name: split(first, 2, TOOTH_BOXES, TEETH, PARTIAL) for name, first in (("valid", 1), ("test", 3))}
        if nobody_looked:  # for the teeth of one test image, nor for caries in the other
            teeth["test"]["images"].append({**truth["test"]["images"][1], "covered": []})
            truth["test"]["images"][0]["covered"] = [*range(2, len(CONDITIONS) + 1)]
            truth["test"]["annotations"] = truth["test"]["annotations"][1:]
        splits = self.put("tooth-subset", {}, {}, subset_facts(TEETH)).digest  # nothing was read twice
        self.subset = self.put("condition-subset", truth, {"normalized_splits": splits}, subset_facts(CONDITIONS))
        of_teeth = {"normalized_splits": tooth_splits or splits}
        tooth_subset = self.put("tooth-subset", teeth, of_teeth, subset_facts(TEETH))
        checkpoint = self.put(
            "checkpoint", {}, {"condition_subset": self.subset.digest}, checkpoint_facts(CONDITIONS, healthy=True)
        )
        self.tooth_checkpoint = self.put(
            "checkpoint", {}, {"tooth_subset": tooth_subset.digest}, checkpoint_facts(TEETH, healthy=False)
        )
        found = {"caries": (CARIES, 0.8), "bridge": (ELSEWHERE, 0.4)}
        predictions = self.put(
            "predictions",
            {name: results(coco, found, CONDITIONS) for name, coco in truth.items()},
            {"trained_checkpoint": checkpoint.digest, "condition_subset": self.subset.digest},
            predictions_facts(CONDITIONS),
        )
        self.evaluation = evaluate_predictions(self.store, self.subset, predictions, resamples=0)
        seen = {
            "16": (TOOTH_BOXES["16"], 0.9),
            "17": (TOOTH_BOXES["16"], 0.5),
            "15": (TOOTH_BOXES["15"], 0.7),
            "48": (ELSEWHERE, 0.2),
        }
        self.tooth_predictions = self.put(
            "predictions",
            {name: results(coco, seen, TEETH) for name, coco in truth.items()},
            {"tooth_checkpoint": self.tooth_checkpoint.digest, "condition_subset": self.subset.digest},
            predictions_facts(TEETH),
        )

    def put(self, kind: str, splits: dict[str, Any], inputs: dict[str, str], facts: dict[str, Any]) -> Manifest:
        """Publish a small product."""
        if kind == "predictions":
            files: dict[str, Any] = {
                f"{n}.arrow": write_table(table_of(found, DETECTIONS)) for n, found in splits.items()
            }
        else:
            files = dict(split_files(from_coco(name, coco) for name, coco in splits.items()))
        manifest = build(self.store, kind, files, inputs, facts)
        self.store.put_manifest(manifest)
        return manifest

    def published(self) -> Manifest:
        """The findings by tooth."""
        chain = tooth_chain(self.store, self.evaluation, self.tooth_checkpoint)
        return publish_tooth_findings(self.store, chain, self.tooth_predictions, resamples=0)


@pytest.fixture
def products(tmp_path: Path) -> Products:
    return Products(tmp_path)


def test_conditions_above_their_threshold_go_to_teeth_above_theirs(products: Products) -> None:
    """The tooth of .2 and the second number of a box are gone; so is the bridge, for which no threshold exists."""
    made = products.published()
    document = read_json(products.store, made, "findings.json")

    assert [image["image_id"] for image in document["images"]] == [3, 4]
    for image in document["images"]:
        assert [t["fdi"] for t in image["teeth"]] == ["15", "16"]
        assert [(f["class"], f["teeth"]) for f in image["findings"]] == [("caries", ["16"])]
    assert document["thresholds"]["teeth"] == 0.7
    assert document["thresholds"]["teeth_chosen_on"] == "valid"
    assert "bridge" in made.facts["classes_without_threshold"]


def test_images_without_marked_teeth_have_findings_but_no_figures(products: Products) -> None:
    """Nobody said which teeth are there, so nothing about them can be right or wrong."""
    made = products.published()
    document = read_json(products.store, made, "findings.json")
    metrics = read_json(products.store, made, "metrics.json")

    assert [image["teeth_annotated"] for image in document["images"]] == [True, False]
    assert metrics["populations"]["all"]["images"] == 1
    assert metrics["populations"]["all"]["per_class"][0]["f1"] == 1.0


def test_what_nobody_looked_for_is_no_toothless_mouth_and_no_false_finding(tmp_path: Path) -> None:
    """The findings stay, since a dentist reads them; no figure counts them."""
    products = Products(tmp_path, nobody_looked=True)

    made = products.published()

    document = read_json(products.store, made, "findings.json")
    everyone = read_json(products.store, made, "metrics.json")["populations"]["all"]
    assert [[f["class"] for f in image["findings"]] for image in document["images"]] == [["caries"], ["caries"]]
    assert [image["teeth_annotated"] for image in document["images"]] == [True, False]
    assert (everyone["images"], everyone["teeth"]["n_gt"], everyone["per_class"][0]["n_found"]) == (1, 2, 0)


def test_the_product_names_everything_it_was_made_from(products: Products) -> None:
    """An auditor must reach both checkpoints, and a collapsed head must not be forgotten on the way."""
    made = products.published()

    assert made.inputs["class_metrics"] == products.evaluation.digest
    assert made.inputs["tooth_predictions"] == products.tooth_predictions.digest
    assert made.inputs["tooth_checkpoint"] == products.tooth_checkpoint.digest
    assert made.facts["heads_healthy"] == {"tooth_checkpoint": False, "trained_checkpoint": True}
    assert made.digest == products.published().digest


def test_stages_of_different_splits_are_not_joined(tmp_path: Path) -> None:
    """A test image of one stage may be a training image of the other."""
    products = Products(tmp_path, tooth_splits="2" * 64)

    with pytest.raises(EvaluationError, match="Materialise tooth_subset and tooth_checkpoint again"):
        products.published()


def test_predictions_of_another_tooth_checkpoint_are_refused(products: Products) -> None:
    """Their figures would be told of the wrong model."""
    chain = tooth_chain(products.store, products.evaluation, products.tooth_checkpoint)
    other = products.put("predictions", {}, {"tooth_checkpoint": "3" * 64}, predictions_facts(TEETH))

    with pytest.raises(EvaluationError, match="come from tooth_checkpoint 333333333333"):
        publish_tooth_findings(products.store, chain, other)


def test_tooth_predictions_are_never_evaluated_as_conditions(products: Products) -> None:
    """Category 1 is tooth 11 there and caries here: the engines would score it without a word."""
    with pytest.raises(EvaluationError, match="of the classes 11, 12"):
        evaluate_predictions(products.store, products.subset, products.tooth_predictions)
