"""The card's cells and its metadata for the hub say what was measured, and for whom it is not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from dentsight_pipeline.documents.codec import convert
from dentsight_pipeline.documents.evaluation import EvaluationDocument
from dentsight_pipeline.documents.facts import Corpus
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.report import Report
from dentsight_pipeline.documents.verdict import Override
from dentsight_pipeline.release.report import model_card
from dentsight_pipeline_tests.release.conftest import judged

CARIES = {
    "class": "caries",
    "n_gt": 50,
    "n_images": 20,
    "n_detections": 99,
    "ap": 0.4,
    "ap_low": 0.3,
    "ap_high": 0.5,
    "ap50": 0.6,
    "ar100": 0.7,
    "threshold_best_f1": 0.35,
    "precision_at_threshold": 0.8,
    "recall_at_threshold": 0.9,
}
CROWN = {"class": "crown", "n_gt": 0, "n_images": 0, "n_detections": 9}
ROBOFLOW = Corpus(kind=CorpusKind.ROBOFLOW, name="OPG Reporting, v8", licence="CC BY 4.0")


@pytest.fixture
def report(evaluation, policy, healthy) -> Report:
    """Of two classes, one without ground truth, one that nobody looked for in all images."""
    macro = {"present": 13, "of": 13, "ap50": 0.6}
    clean = {"images": 220, "groups": 175, "looked_at": {"caries": 90, "crown": 0}, "per_class": [CARIES, CROWN]}
    given = evaluation | {"populations": {"clean": clean | {"macro": macro}}}
    fields: dict[str, Any] = dict.fromkeys(("data", "checkpoint", "predictions", "health", "champion", "cost"))
    empty: dict[str, Any] = dict.fromkeys(
        ("loose_classes", "banners", "chain", "gallery", "gallery_problems", "limits"), ()
    )
    return Report(
        title="opg × v3!",
        verdict=judged(given, policy, healthy),
        policy=policy,
        corpus=ROBOFLOW,
        evaluation=convert(given, EvaluationDocument, "evaluation"),
        links={},
        **fields,
        **empty,
    )


def test_a_class_has_its_figures_in_the_order_of_the_table(report) -> None:
    """What was not measured or not looked for is said in its cell."""
    part = model_card.shown_population(report)
    caries, crown = part.per_class
    reading = report.verdict.classes[0]

    assert model_card._class_row(part, caries, reading) == (
        "caries",
        50,
        90,
        "0.40 [0.30, 0.50]",
        "0.60 (no interval)",
        "0.70",
        "not measured",
        "0.35",
        "0.80",
        "0.90",
        "PASS",
    )
    assert model_card._class_row(part, crown, replace(reading, outcome=None, point="weak"))[2:4] == (
        "not looked for",
        "not measured",
    )
    assert model_card._class_row(part, crown, replace(reading, outcome=None, point="weak"))[-1] == "weak"
    assert model_card._class_row(part, crown, None)[-1] == "–"


def test_a_gate_has_its_row_and_who_overrode_it(report) -> None:
    """The outcome stays what it was."""
    row = next(row for row in report.verdict.rows if row.id == "tier2_ece")
    by = Override(gate="tier2_ece", name="A. Bell", reason="Study.")

    assert model_card._gate_row(row) == (
        "Detection calibration error",
        "soft",
        "0.05 [0.04, 0.06]",
        "PASS",
        "pass",
    )
    assert model_card._gate_row(replace(row, override=by))[3] == "PASS (overridden by A. Bell)"


def _metadata(report: Report) -> dict[str, Any]:
    return yaml.safe_load(model_card._metadata(report))


def test_the_hub_reads_name_licence_tags_and_every_measured_figure(report) -> None:
    """A figure that was not measured is none; the mean comes after the classes."""
    told = _metadata(report)

    assert (told["language"], told["license"], told["library_name"]) == ("en", "cc-by-4.0", "transformers")
    assert told["pipeline_tag"] == "object-detection"
    assert told["tags"] == ["d-fine", "dental", "panoramic-x-ray", "research-only", "not-a-medical-device"]
    (model,) = told["model-index"]
    (result,) = model["results"]
    assert model["name"] == "opg-v3"
    assert result["dataset"] == {
        "type": "opg-reporting-v8",
        "name": "OPG Reporting, v8, clean test images",
        "split": "test",
    }
    assert [(metric["name"], metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("mAP@0.5:0.95 (caries)", "map", 0.4),
        ("mAP@0.5 (caries)", "map", 0.6),
        ("macro mAP@0.5", "map", 0.6),
    ]


@pytest.mark.parametrize("phantom", ["policy", "corpus"])
def test_what_is_never_for_x_rays_is_tagged_so(report, phantom: str) -> None:
    """By its floors or by its images; pictures of something else are not called panoramic."""
    verdict = replace(report.verdict, never_for_xrays=phantom == "policy")
    corpus = replace(ROBOFLOW, kind=CorpusKind.PHANTOM if phantom == "corpus" else CorpusKind.ROBOFLOW)

    tags = _metadata(replace(report, verdict=verdict, corpus=corpus))["tags"]
    pictures = _metadata(replace(report, corpus=replace(ROBOFLOW, pictures="photographs")))["tags"]

    assert tags[-2:] == ["phantom-corpus", "never-for-x-rays"]
    assert pictures == ["d-fine", "dental", "research-only", "not-a-medical-device"]


def test_without_figures_licences_or_corpus_the_card_still_parses(report) -> None:
    """Nothing is made up: no index, an unknown licence, an unknown corpus."""
    part = report.evaluation.populations["clean"]
    empty = replace(part, per_class=(), macro=replace(part.macro, ap50=None))
    bare = replace(report, evaluation=replace(report.evaluation, populations={"clean": empty}), title="×")
    told = _metadata(replace(bare, verdict=replace(report.verdict, licences={})))
    unknown = _metadata(replace(report, corpus=None, title="×"))

    assert "model-index" not in told
    assert told["license"] == "unknown"
    assert unknown["model-index"][0]["name"] == "dentsight-model"
    assert unknown["model-index"][0]["results"][0]["dataset"]["type"] == "unknown-corpus"
