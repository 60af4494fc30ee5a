"""The rows that page and card share say what was measured, in words, and what was not."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from dentsight_pipeline.documents.codec import convert
from dentsight_pipeline.documents.evaluation import EvaluationDocument
from dentsight_pipeline.documents.facts import CheckpointFacts, Corpus, Source
from dentsight_pipeline.documents.health import HeadHealth, RuleOutcome
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.report import ReportedData
from dentsight_pipeline.release.report import tables
from dentsight_pipeline_tests.documents.facts_for_tests import checkpoint_facts, split_counts, subset_facts

BOUNDS = {"value": 0.5, "low": 0.4, "high": 0.6}
SIDE = {"value": -0.1, "low": -0.2, "high": 0.0, "n_left": 40, "n_right": 50}


def _evaluation(**parts: Any) -> EvaluationDocument:
    return convert({"schema": "dentsight-evaluation/1", "classes": ["caries"], **parts}, EvaluationDocument, "made up")


def _calibration(**more: Any) -> dict[str, Any]:
    after = {"ece": 0.02, "low": 0.01, "high": 0.03, "bins": []}
    own = {"n": 90, "ece": 0.2, "low": None, "high": None, "bins": [], "after_platt": after}
    return {"calibration": {"measured": True, "counted": "those shown", "classes": {"all": own}, "platt": None} | more}


def _tables(**parts: Any) -> dict[str, list[tuple[str, str]]]:
    return {table.title: table.rows for table in tables.tier2_tables(_evaluation(**parts))}


def test_what_was_not_looked_at_has_no_table() -> None:
    """An empty one would look like a page that was cut off."""
    assert _tables() == {}


def test_calibration_is_told_as_scored_and_after_scaling() -> None:
    """With its reason where it was not measured."""
    assert _tables(**_calibration()) == {
        "Calibration": [
            ("Detection ECE as scored", "0.20 (no interval)"),
            ("Detection ECE after Platt scaling", "0.02 [0.01, 0.03]"),
            ("Detections counted", "90"),
            ("Counted are", "those shown"),
        ]
    }
    assert _tables(**_calibration(measured=False, reason="no scores", classes={}))["Calibration"] == [
        ("Not measured", "no scores")
    ]
    own = {"all": {"n": 9, "ece": None, "low": None, "high": None, "bins": []}}
    assert _tables(**_calibration(counted="", classes=own))["Calibration"] == [
        ("Detection ECE as scored", "not measured"),
        ("Detection ECE after Platt scaling", "not measured"),
        ("Detections counted", "9"),
    ]


def test_sides_are_told_with_a_true_minus_and_both_counts() -> None:
    """A hyphen before a figure is easily overlooked."""
    sides = {"population": "clean", "left_right_agreement": {"all": BOUNDS | {"n": 9}}}

    told = _tables(consistency=sides | {"left_minus_right_recall": {"all": SIDE}})
    bare = _tables(consistency=sides | {"left_right_agreement": None, "left_minus_right_recall": {}})

    assert told["Left and right"] == [
        ("Same findings on the mirrored X-ray", "0.50 [0.40, 0.60]"),
        ("Recall on the patient's left minus right", "−0.10 [−0.20, 0.00]"),
        ("Findings in the truth, left and right", "40 and 50"),
    ]
    assert bare["Left and right"] == [
        ("Same findings on the mirrored X-ray", "not measured"),
        ("Recall on the patient's left minus right", "not measured"),
    ]


@pytest.mark.parametrize("uncovered", [0, 7])
def test_empty_mouths_are_told_with_those_that_nobody_looked_at_in_full(uncovered: int) -> None:
    """They are no empty ones, and a reader may count them."""
    told = {"population": "clean", "images": 30, "images_with_false_positive": 15, "false_positives": 20}
    told |= {"rate": BOUNDS, "rate_interval": "", "per_image": BOUNDS, "per_image_interval": ""}
    told |= {"images_needed_for_below_5_percent": 59, "images_needed_at_observed_rate": None}

    rows = _tables(empty_mouth=told | {"images_not_fully_covered": uncovered})["Empty mouths"]

    assert rows == [
        ("X-rays without any finding", "30"),
        *([("X-rays not looked at for every class", "7: not counted as empty")] if uncovered else []),
        ("Share of them with a false positive", "0.50 [0.40, 0.60]"),
        ("False positives on each of them", "0.50 [0.40, 0.60]"),
        ("Empty X-rays needed to show < 5 %", "59 without any"),
    ]


def test_sample_sizes_are_told_for_all_or_class_by_class() -> None:
    """Those that nobody can tell last; the mean over classes is none of them."""
    images = {
        "recall_at_p95": {"caries": 300, "crown": None, "bridge": 20, "macro": 9},
        "ece": {"all": 150, "caries": 9},
        "left_right_agreement": {"all": None},
        "left_minus_right_recall": {"macro": 9},
    }

    (table,) = tables.tier2_tables(_evaluation(sample_sizes={"half_width": 0.1, "images": images}))

    assert (table.title, table.wide) == ("X-rays for an interval of ±0.10", True)
    assert table.rows == [
        ("Recall at precision .95", "caries 300, bridge 20, crown unknown"),
        ("Detection ECE", "about 150"),
        ("Same findings on the mirrored X-ray", "unknown"),
    ]


def test_each_rule_on_the_head_has_a_sign_and_a_tone() -> None:
    """Good, tripped and not judged; without a record there is no rule."""
    rules = [{"rule": str(state), "tripped": state, "evidence": "e"} for state in (False, True, None)]
    health = convert({"healthy": None, "layers": [], "ratio_last_to_first": None, "rules": rules}, HeadHealth, "h")

    assert [tuple(row) for row in tables.health_rules(health)] == [
        ("False", "✓ good", "PASS", "e"),
        ("True", "✗ tripped", "FAIL", "e"),
        ("None", "? not judged", "INCONCLUSIVE", "e"),
    ]
    assert tables.health_rules(None) == []


def _data(**changes: Any) -> ReportedData:
    told = subset_facts(["caries", "crown"], **changes)
    more = {"composites": 0, "boxes_under_2_px": 0, "sources": 9, "partial_annotation": {}, "flags": {}}
    return convert(told | more, ReportedData, "data")


def test_data_are_told_with_what_was_read_left_out_and_mended() -> None:
    """Nothing that is empty; copies are no repairs; what nobody knows is called unknown."""
    repairs = {"near_duplicate": 2, "exact_duplicate": 1, "clipped_box": 7}
    data = replace(
        _data(repairs=repairs, dropped={"Braces": 3, "None": 0}, loose_classes=["crown", "caries"]),
        corpus=Corpus(kind=CorpusKind.PHANTOM, name="drawn", licence="CC0"),
        source=Source(workspace="w", project="p", version="8"),
        corrections={"applied": 4},
    )

    assert tables.data_rows(data) == [
        ("Corpus", "drawn"),
        ("Kind", "phantom (drawn images, not clinical data)"),
        ("Licence", "CC0"),
        ("Roboflow workspace", "w"),
        ("Roboflow project", "p"),
        ("Version", "8"),
        ("Label mapping", "opg-reporting (option: --source opg-reporting)"),
        ("Dropped labels", "Braces 3"),
        ("Loose labels", "caries, crown"),
        ("Repairs", "clipped_box 7"),
        ("Corrections of labels", "applied 4"),
        ("Duplicate boxes left out", "exact_duplicate 1, near_duplicate 2"),
    ]
    roboflow = replace(data, corpus=Corpus(kind=CorpusKind.ROBOFLOW, name="opg", licence="CC0"))
    assert tables.data_rows(roboflow)[1] == ("Kind", "roboflow")
    assert tables.data_rows(None) == [("Corpus", "unknown"), ("Kind", "unknown"), ("Licence", "unknown")]


def test_splits_have_a_dash_where_nothing_is_known_to_be_shared() -> None:
    """Training images share with themselves; without data there is no row."""
    leaked = {"images": 40, "shared_with_train": 9, "shared_with_any": 10, "clean": 30}
    splits = {
        "train": split_counts({"caries": 4}, images=90, clean_images=80),
        "test": split_counts({"caries": 2}, images=40, clean_images=30),
    }

    rows = tables.split_rows(_data(splits=splits, leakage={"pairs": {}, "test": leaked}))

    assert [tuple(row) for row in rows] == [("train", 90, 80, 4, "–", "–"), ("test", 40, 30, 2, 9, 10)]
    assert tables.split_rows(None) == []


def test_a_model_is_told_with_recipe_size_and_versions() -> None:
    """A variant with each field that was changed; weights of this package with where they are from."""
    facts = checkpoint_facts(
        ["caries"], variant=True, overrides={"seed": 7, "lr": 0.1}, versions={"torch": "2", "a": "1"}
    )
    told = convert(facts | {"parameters": 3_700_000, "packaged_weights": "v1"}, CheckpointFacts, "facts")
    plain = convert(checkpoint_facts(["caries"], best_step=None, nms_iou=0.5), CheckpointFacts, "facts")

    assert tables.model_rows(told) == [
        ("Start", "v1: weights of this package, trained on drawn X-rays"),
        ("Recipe", "smoke"),
        ("Recipe digest", told.recipe_digest),
        ("Variant", "yes: lr = 0.1, seed = 7"),
        ("Input size", "320 × 192 px"),
        ("Doubles", "not suppressed: every finding counts"),
        ("Parameters", "3 700 000"),
        ("Best step", "4"),
        ("Versions", "a 1, torch 2"),
    ]
    rows = dict(tables.model_rows(plain))
    assert (rows["Variant"], rows["Best step"], rows["Parameters"]) == ("no: the recipe as named", "–", "1 024")
    assert "Start" not in rows
    assert tables.model_rows(None) == [("Recipe", "unknown")]


def test_the_method_is_told_as_it_was_noted() -> None:
    """Engines and bootstrap by their own names, then every note; a file of another tool may say nothing."""
    engines = {"pycocotools": "2.0.10", "hotcoco": "1.3.0", "max_abs_difference": 0.0, "agree": True}

    assert tables.method_rows(_evaluation(engines=engines, notes=["One.", "Two."])) == [
        ("Engines: pycocotools", "2.0.10"),
        ("Engines: hotcoco", "1.3.0"),
        ("Engines: max abs difference", "0"),
        ("Engines: agree", "yes"),
        ("Engines: tolerance", "1e-12"),
        ("Engines: own matching max abs difference", "–"),
        ("Note", "One."),
        ("Note", "Two."),
    ]
    assert tables.method_rows(_evaluation()) == [("Method", "not stated")]


def test_plain_values_are_short() -> None:
    """Four digits, or the whole part from a thousand on; nothing is a dash."""
    values = {"a_b": None, "c": True, "d": False, "e": 0.123456, "f": 999.96, "g": 1000.4, "h": -1234.5, "i": 12345}

    assert tables.flat(values | {"j": ["x", 1.5], "k": [], "l": "text"}, "of ") == [
        ("of a b", "–"),
        ("of c", "yes"),
        ("of d", "no"),
        ("of e", "0.1235"),
        ("of f", "1000"),
        ("of g", "1000"),
        ("of h", "-1234"),
        ("of i", "12345"),
        ("of j", "x, 1.5"),
        ("of k", "–"),
        ("of l", "text"),
    ]
    assert tables.columns([RuleOutcome(rule="a", tripped=None, evidence="e")], "tripped", "rule") == [(None, "a")]
