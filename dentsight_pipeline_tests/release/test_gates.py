"""The gates decide by interval, fail closed on everything else, and never raise for a missed gate."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from msgspec.structs import replace

from dentsight_pipeline.documents.codec import convert, plain, pretty, read
from dentsight_pipeline.documents.evaluation import Bounds, EvaluationDocument, LabelCeiling, parse_evaluation
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.documents.readers import ReaderAgreement
from dentsight_pipeline.documents.verdict import Override, Verdict
from dentsight_pipeline.errors import ConfigurationError, DocumentError, EvaluationError
from dentsight_pipeline.release import policy as policies
from dentsight_pipeline.release.ceiling import floors_above
from dentsight_pipeline.release.gates import judge
from dentsight_pipeline.release.wording import number_text
from dentsight_pipeline_tests.release import card_v1
from dentsight_pipeline_tests.release.conftest import judged, measurement


def _measured(evaluation: dict[str, Any], metric: str, name: str) -> dict[str, Any]:
    return next(row for row in evaluation["measurements"] if (row["metric"], row["class"]) == (metric, name))


def _row(verdict: Verdict, gate: str) -> Any:
    return next(row for row in verdict.rows if row.id == gate)


def _policy_text(**changes: Any) -> str:
    plain = json.loads((Path(policies.__file__).parent / "policies" / "card.json").read_text("utf-8"))
    return json.dumps(plain | changes)


def _policy_with_gate(gate_id: str = "tier1_caries_ap", **changes: Any) -> str:
    """The card's policy with one gate changed."""
    plain = json.loads(_policy_text())
    next(gate for gate in plain["gates"] if gate["id"] == gate_id).update(changes)
    return json.dumps(plain)


def test_a_good_model_on_enough_data_passes(policy, evaluation, healthy, champion):
    """Fail-closed gates are worthless if nothing can ever pass them."""
    verdict = judged(evaluation, policy, healthy, champion)

    assert verdict.outcome == "PASS"
    assert verdict.releasable
    assert {row.outcome for row in verdict.rows if row.tier != "3"} == {"PASS"}
    assert {row.outcome for row in verdict.rows if row.tier == "3"} == {"NOT APPLICABLE"}
    assert verdict.exit_code == 0


def test_without_a_champion_the_regression_rows_do_not_apply_and_do_not_block(policy, evaluation, healthy):
    """The first release has nothing to regress from; the report must say that plainly instead of passing silently."""
    verdict = judged(evaluation, policy, healthy)

    row = _row(verdict, "champion_caries_ap")
    assert (row.outcome, row.blocks) == ("NOT APPLICABLE", False)
    assert "no champion yet" in row.sentence
    assert verdict.outcome == "PASS"


@pytest.mark.parametrize(
    ("low", "value", "high", "outcome"),
    [
        (0.30, 0.35, 0.40, "PASS"),
        (0.2999, 0.35, 0.40, "INCONCLUSIVE"),
        (0.20, 0.25, 0.30, "INCONCLUSIVE"),
        (0.20, 0.25, 0.2999, "FAIL"),
        (0.31, 0.25, 0.40, "INCONCLUSIVE"),
        (0.20, 0.35, 0.29, "INCONCLUSIVE"),
    ],
)
def test_an_interval_decides_and_its_ends_count_exactly(policy, evaluation, healthy, low, value, high, outcome):
    """PASS at lower bound = floor, FAIL only under it, and a point outside its own interval decides nothing."""
    _measured(evaluation, "ap", "caries").update(low=low, value=value, high=high)

    verdict = judged(evaluation, policy, healthy)

    assert _row(verdict, "tier1_caries_ap").outcome == outcome
    assert verdict.outcome == outcome


@pytest.mark.parametrize(
    ("low", "value", "high", "outcome"),
    [
        (-0.05, 0.0, 0.10, "PASS"),
        (-0.05, 0.05, 0.11, "INCONCLUSIVE"),
        (0.11, 0.15, 0.2, "FAIL"),
        (-0.3, -0.2, -0.11, "FAIL"),
        (-0.3, -0.2, -0.10, "INCONCLUSIVE"),
        (0.10, 0.15, 0.2, "INCONCLUSIVE"),
    ],
)
def test_a_two_sided_bound_fails_on_either_side(policy, evaluation, healthy, low, value, high, outcome):
    """A model worse on the left is as bad as one worse on the right."""
    _measured(evaluation, "left_minus_right_recall", "all").update(low=low, value=value, high=high)

    assert _row(judged(evaluation, policy, healthy), "tier2_left_minus_right_recall").outcome == outcome


@pytest.mark.parametrize(
    ("low", "value", "high", "outcome"),
    [
        (0.0, 0.05, 0.10, "PASS"),
        (0.05, 0.08, 0.12, "INCONCLUSIVE"),
        (0.10, 0.2, 0.3, "INCONCLUSIVE"),
        (0.11, 0.2, 0.3, "FAIL"),
    ],
)
def test_a_ceiling_is_a_floor_upside_down(policy, evaluation, healthy, low, value, high, outcome):
    """A calibration error passes by its upper bound, not by its lower one."""
    _measured(evaluation, "ece", "all").update(low=low, value=value, high=high)

    assert _row(judged(evaluation, policy, healthy), "tier2_ece").outcome == outcome


@pytest.mark.parametrize(
    ("low", "value", "high", "outcome", "point"),
    [
        (-0.0199, 0.0, 0.02, "PASS", "pass"),
        (-0.02, 0.0, 0.02, "INCONCLUSIVE", "pass"),
        (-0.03, -0.02, -0.0199, "INCONCLUSIVE", "FAIL"),
        (-0.04, -0.03, -0.02, "FAIL", "FAIL"),
    ],
)
def test_a_regression_must_stay_above_its_margin_and_not_on_it(
    policy, evaluation, healthy, champion, low, value, high, outcome, point
):
    """A model that is worse by exactly the margin is not shown to be good enough."""
    champion["measurements"][0].update(low=low, value=value, high=high)

    row = _row(judged(evaluation, policy, healthy, champion), "champion_caries_ap")

    assert (row.outcome, row.point) == (outcome, point)


def test_the_least_data_that_a_gate_asks_for_is_enough(policy, evaluation, healthy):
    """Its `minimum_units` and `minimum_n` are the fewest that decide, not the most that do not."""
    gate = next(gate for gate in policy.gates if gate.id == "tier1_caries_ap")
    _measured(evaluation, "ap", "caries").update(n=gate.minimum_n, unit_count=gate.minimum_units)

    assert _row(judged(evaluation, policy, healthy), "tier1_caries_ap").outcome == "PASS"


def test_nothing_counted_is_not_an_unstated_count(policy, evaluation, healthy):
    """Whoever reads why a gate is open must know whether data are missing or a count is."""
    _measured(evaluation, "ap", "caries").update(n=0)
    _measured(evaluation, "ap", "calculus").update(n=None)

    verdict = judged(evaluation, policy, healthy)

    assert "Too little data: 0 counted items" in _row(verdict, "tier1_caries_ap").because
    assert "an unstated number of counted items" in _row(verdict, "tier1_calculus_ap").because


def test_rounding_of_the_last_digit_breaks_no_interval(policy, evaluation, healthy):
    """An upper end of 1.0000000000000002 is 1; a gate that is open for it would be open for ever."""
    _measured(evaluation, "ap", "caries").update(value=1.0, low=0.9, high=1.0 + 1e-10)
    _measured(evaluation, "ece", "all").update(value=0.0, low=-1e-10, high=0.01)

    verdict = judged(evaluation, policy, healthy)

    assert (_row(verdict, "tier1_caries_ap").outcome, _row(verdict, "tier2_ece").outcome) == ("PASS", "PASS")


@pytest.mark.parametrize(
    ("ap", "word"), [(0.45, "strong"), (0.4499, "acceptable"), (0.2, "acceptable"), (0.1999, "weak")]
)
def test_a_class_without_a_floor_is_read_in_the_cards_words(policy, evaluation, healthy, ap, word):
    """The bands include the figure that they begin at."""
    _measured(evaluation, "ap", "crown").update(value=ap, low=0.0, high=1.0)

    readings = judged(evaluation, policy, healthy).classes

    (crown,) = (reading for reading in readings if reading.condition == "crown")
    assert (crown.point, crown.floor, crown.outcome) == (word, None, None)


@pytest.mark.parametrize(
    "spoiled",
    [
        {"value": None},
        {"value": math.nan},
        {"value": -1},
        {"value": -1.0, "low": -1.0, "high": -1.0},
        {"value": math.inf, "high": math.inf},
        {"low": None},
        {"low": math.nan},
        {"high": None},
        {"low": 0.6, "high": 0.5},
        {"low": -0.5},
        {"high": 1.5},
        {"n": None},
        {"n": 3},
        {"unit_count": None},
        {"unit_count": 29},
        {"population": "all"},
        {"class": "carries"},
        {"metric": "AP"},
    ],
    ids=str,
)
def test_whatever_is_missing_or_broken_is_inconclusive_and_blocks(policy, evaluation, healthy, spoiled):
    """The gate must hold when a measurement is lost, not only when it is bad."""
    _measured(evaluation, "ap", "caries").update(spoiled)

    verdict = judged(evaluation, policy, healthy)

    assert _row(verdict, "tier1_caries_ap").outcome == "INCONCLUSIVE"
    assert verdict.outcome == "INCONCLUSIVE"
    assert not verdict.releasable
    assert verdict.exit_code == 4


@pytest.mark.parametrize(
    ("value", "reason"),
    [(math.nan, "not a finite number"), (None, "not a finite number"), (-1, "not a measurement"), (1.5, "outside")],
)
def test_a_value_that_is_none_is_named_as_such(policy, evaluation, healthy, value, reason):
    """COCO's -1 means 'no ground truth'; read as a figure it would be a FAIL of the model instead of the data."""
    _measured(evaluation, "ap", "caries").update(value=value)

    assert reason in _row(judged(evaluation, policy, healthy), "tier1_caries_ap").because


def test_every_single_missing_measurement_leaves_its_gate_unpassed(policy, evaluation, healthy):
    """No gate may pass because nobody looked."""
    evaluation["measurements"] = []

    verdict = judged(evaluation, policy, healthy)

    not_measured = {"tier0_head_health", "tier0_engines_agree", "licence_allows_release"}
    assert {row.id for row in verdict.rows if row.outcome == "PASS"} == not_measured
    assert verdict.outcome == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("spoiled", "path"),
    [
        ({"value": "0.9"}, r"\$\.measurements\[0\]\.value"),
        ({"value": True}, r"\$\.measurements\[0\]\.value"),
        ({"n": 3.5}, r"\$\.measurements\[0\]\.n"),
        ({"comment": ""}, r"unknown field `comment` - at `\$\.measurements\[0\]`"),
    ],
)
def test_a_measurement_of_another_form_is_refused_with_its_place(evaluation, spoiled, path):
    """No verdict at all is given on a file that was written by hand or cut off: nothing can be released on it."""
    evaluation["measurements"][0].update(spoiled)

    with pytest.raises(EvaluationError, match=f"evaluation.json is not .*{path}"):
        parse_evaluation(json.dumps(evaluation).encode(), "evaluation.json")


@pytest.mark.parametrize(
    "changes", [{"measurements": None}, {"measurements": "none"}, {"measurements": [1, None]}, {"schema": "x"}]
)
def test_an_evaluation_that_is_no_evaluation_is_refused(evaluation, changes):
    """A truncated file must end in a refusal that names it, not in a traceback that somebody catches."""
    with pytest.raises(EvaluationError, match=r"is not a dentsight-evaluation/1 document: .* at `\$\."):
        parse_evaluation(json.dumps(evaluation | changes).encode(), "evaluation.json")


def test_an_evaluation_that_holds_nothing_is_inconclusive(policy, healthy):
    """Whatever another tool leaves out counts as not measured."""
    verdict = judged(card_v1.EMPTY, policy, healthy)

    assert verdict.outcome == "INCONCLUSIVE"
    assert not verdict.releasable
    assert verdict.population is None


def test_a_measurement_made_twice_is_inconclusive(policy, evaluation, healthy):
    """Otherwise appending a better row to the file would pass the gate."""
    evaluation["measurements"].append(dict(_measured(evaluation, "ap", "caries"), value=0.99))

    assert _row(judged(evaluation, policy, healthy), "tier1_caries_ap").outcome == "INCONCLUSIVE"


def test_leaked_images_cannot_be_let_in_while_clean_ones_exist(policy, evaluation, healthy):
    """Switching the gated population back to all images would score the model on its own training sources."""
    evaluation["gated_population"] = "all"
    evaluation["measurements"] = [dict(row, population="all") for row in evaluation["measurements"]]

    verdict = judged(evaluation, policy, healthy)

    assert verdict.outcome == "INCONCLUSIVE"
    assert "leaked ones included" in _row(verdict, "tier1_caries_ap").because


def test_two_clean_images_decide_nothing_however_good_the_model(policy, healthy):
    """The public dental-radiography export has two clean test images: perfect detections on them prove nothing."""
    from dentsight_pipeline.evaluation.evaluate import coco_inputs, evaluate

    classes = [{"id": k + 1, "name": name} for k, name in enumerate(policy.classes)]
    images = [
        {"id": i, "file_name": "", "width": 640, "height": 640, "source_group": str(i), "clean": i <= 2}
        for i in range(1, 31)
    ]
    truth = [
        {
            "id": 13 * i + k,
            "image_id": i,
            "category_id": k,
            "bbox": [40.0 * k, 9.0 * i, 30.0, 30.0],
            "area": 900.0,
            "iscrowd": 0,
        }
        for i in range(1, 31)
        for k in range(1, 14)
    ]
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9} for a in truth
    ]
    ground_truth = {"images": images, "annotations": truth, "categories": classes}

    given = coco_inputs(ground_truth, found, thresholds_from=(ground_truth, found), mirrored=found, resamples=50)
    verdict = judged(plain(evaluate(given).document), policy, healthy)

    assert verdict.outcome == "INCONCLUSIVE"
    assert {row.outcome for row in verdict.rows if row.tier in "12"} == {"INCONCLUSIVE"}


def test_images_that_nobody_looked_at_for_conditions_are_no_empty_mouths(policy, healthy):
    """Two public sets put together, teeth alone and conditions alone: 64 of 67 X-rays would pass as healthy."""
    from dentsight_pipeline.evaluation.evaluate import coco_inputs, evaluate

    images = [
        {"id": i, "width": 640, "height": 640, "covered": [] if i <= 64 else [*range(1, 14)]} for i in range(1, 68)
    ]
    truth = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [40.0, 40.0, 30.0, 30.0], "area": 900.0, "iscrowd": 0}
        for i in (65, 66)
    ]
    found = [{"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9} for a in truth]
    classes = [{"id": k + 1, "name": name} for k, name in enumerate(policy.classes)]
    ground_truth = {"images": images, "annotations": truth, "categories": classes}

    document = evaluate(coco_inputs(ground_truth, found, resamples=0)).document
    row = _row(judged(plain(document), policy, healthy), "tier2_empty_mouth_fp_rate")

    assert (row.outcome, row.n) == ("INCONCLUSIVE", 1)
    assert document.empty_mouth is not None
    assert document.empty_mouth.images_needed_for_below_5_percent == 59


@pytest.fixture
def partly(policy, evaluation) -> dict[str, Any]:
    """The good evaluation on data in which nobody looked for calculus and bridges."""
    evaluation["populations"]["clean"] |= {"images": 175, "looked_at": {"calculus": 0, "bridge": 0, "crown": 90}}
    evaluation["populations"]["clean"]["macro"]["present"] = 11
    return evaluation


def test_a_class_that_nobody_looked_for_never_passes(policy, partly, healthy, champion):
    """Not even when the file holds a splendid figure of it, and neither against the champion."""
    verdict = judged(partly, policy, healthy, champion)

    rows = [row for row in verdict.rows if row.condition == "calculus"]
    assert [row.outcome for row in rows] == ["INCONCLUSIVE"] * 3
    assert {row.because for row in rows} == {"No test image was looked at for calculus, so nothing is known of it."}
    assert verdict.outcome == "INCONCLUSIVE"


@pytest.mark.parametrize("named", ["all but calculus", "none"])
def test_a_class_that_the_evaluation_does_not_name_was_not_looked_for(policy, evaluation, healthy, champion, named):
    """What a file holds of a class that it does not name rests on nothing; if it names none, of every class."""
    evaluation["classes"] = [c for c in evaluation["classes"] if c != "calculus"] if named != "none" else []

    rows = judged(evaluation, policy, healthy, champion).rows

    assert {row.outcome for row in rows if row.condition == "calculus"} == {"INCONCLUSIVE"}
    unnamed = {*policy.classes} - {*evaluation["classes"]}
    assert not [row.id for row in rows if row.condition in unnamed and row.outcome == "PASS"]


def test_calibration_of_a_class_that_nobody_looked_for_is_unknown_and_not_failed(partly, healthy):
    """Without a look there is no detection to count, which says nothing of the model."""
    policy = policies.parse_policy(_policy_with_gate("tier2_ece", condition="calculus", severity="hard"))
    _measured(partly, "ece", "all").update({"class": "calculus", "value": None, "low": None, "high": None, "n": 0})

    assert _row(judged(partly, policy, healthy), "tier2_ece").outcome == "INCONCLUSIVE"


def test_a_policy_that_cannot_be_passed_names_the_one_that_fits(policy, partly, healthy):
    """A source of few classes would otherwise read INCONCLUSIVE for ever and never learn why."""
    told = " ".join(judged(partly, policy, healthy).sentences)

    assert "Not looked for in any test image, hence unknown: calculus, bridge." in told
    assert "Policy 'card' asks for classes that nobody looked for" in told
    assert "Policy 'partial-labels' has the same floors for what was looked for: caries, RC-treated" in told


def test_a_macro_over_all_classes_alone_is_enough_to_name_the_fitting_policy(policy, partly, healthy):
    """Without bridges every class that has a gate of its own was looked for, and the macro still asks for thirteen."""
    partly["populations"]["clean"]["looked_at"] = {"bridge": 0}
    partly["populations"]["clean"]["macro"]["present"] = 12

    assert "Policy 'partial-labels' has" in " ".join(judged(partly, policy, healthy).sentences)


def test_the_fitting_policy_judges_what_was_looked_for(partly, healthy):
    """Calculus does not apply, the macro asks for the eleven others, and caries is asked for as by the card."""
    policy = policies.load_policy("partial-labels")

    passed = judged(partly, policy, healthy)
    _measured(partly, "ap", "caries").update(value=0.2, low=0.1, high=0.25)
    failed = judged(partly, policy, healthy)

    assert (passed.outcome, failed.outcome) == ("PASS", "FAIL")
    assert _row(passed, "tier1_calculus_ap").outcome == "NOT APPLICABLE"
    assert passed.sentences[-1] == "Not looked for in any test image, hence unknown: calculus, bridge."


def test_the_fitting_policy_still_asks_for_every_class_that_was_looked_for(partly, healthy):
    """A class that was looked for and never found in the truth is missing data, not missing coverage."""
    partly["populations"]["clean"]["macro"]["present"] = 10

    row = _row(judged(partly, policies.load_policy("partial-labels"), healthy), "tier1_macro_ap50")

    assert (row.outcome, row.because) == (
        "INCONCLUSIVE",
        "The macro covers only 10 classes; the gate asks for at least 11.",
    )


def test_a_digest_tells_of_partial_labels_only_where_a_policy_asks_for_them(policy):
    """Releases made before there was such a policy name the card's digest as it is in the file."""
    told = rfc8785.dumps(json.loads(_policy_text()))

    assert policy.digest == hashlib.sha256(told).hexdigest()
    assert policies.parse_policy(_policy_text(only_looked_for=True)).digest != policy.digest


def test_a_macro_over_few_classes_is_not_the_macro_of_the_policy(policy, evaluation, healthy):
    """The mean over two easy classes would clear .45 on any corpus that has only those."""
    evaluation["populations"]["clean"]["macro"]["present"] = 4

    row = _row(judged(evaluation, policy, healthy), "tier1_macro_ap50")

    assert row.outcome == "INCONCLUSIVE"
    assert "only 4 classes" in row.because


@pytest.mark.parametrize(
    ("engines", "outcome"),
    [
        (None, "INCONCLUSIVE"),
        ({"agree": True, "max_abs_difference": None}, "INCONCLUSIVE"),
        ({"agree": True, "max_abs_difference": 1e-9}, "FAIL"),
        ({"agree": True, "max_abs_difference": 1.1e-12}, "FAIL"),
        ({"agree": True, "max_abs_difference": -1e-9}, "FAIL"),
        ({"agree": True, "max_abs_difference": 1e-12}, "PASS"),
        ({"agree": False, "max_abs_difference": 0.0}, "FAIL"),
    ],
)
def test_figures_that_two_engines_do_not_share_release_nothing(policy, evaluation, healthy, engines, outcome):
    """A wrong engine must not be able to pass a gate alone."""
    evaluation["engines"] = engines and {"pycocotools": "2.0.10", "hotcoco": "1.3.0", **engines}

    assert judged(evaluation, policy, healthy).outcome == outcome


def test_a_collapsed_head_fails_first_and_makes_scores_unusable(policy, evaluation, healthy):
    """AP survives a collapse, so everything else may look perfect: the verdict must fail all the same."""
    healthy["rules"].append({"rule": "last over first layer", "tripped": True, "evidence": "0.26"})

    verdict = judged(evaluation, policy, healthy)

    assert verdict.outcome == "FAIL"
    assert verdict.rows[0].id == "tier0_head_health"
    assert _row(verdict, "tier1_caries_ap").marks == ("ranking-only",)
    assert _row(verdict, "tier1_caries_ap").outcome == "PASS"
    for gate in ("tier2_caries_recall_at_p95", "tier2_ece", "tier2_left_right_agreement", "tier2_empty_mouth_fp_rate"):
        assert _row(verdict, gate).outcome == "NOT EVALUABLE"


@pytest.mark.parametrize(
    "record",
    [
        None,
        {"healthy": None, "rules": []},
        {"healthy": None, "rules": [{"rule": "r", "tripped": False, "evidence": ""}]},
        {"healthy": True, "rules": []},
        {"healthy": True, "rules": [{"rule": "r", "tripped": None, "evidence": "too short"}]},
    ],
    ids=str,
)
def test_a_head_nobody_examined_is_not_healthy(policy, evaluation, record):
    """A health record without a rule that was looked at must block exactly like none at all."""
    whole = record and {"layers": [], "ratio_last_to_first": None, **record}

    verdict = judged(evaluation, policy, whole)

    assert verdict.head == "unknown"
    assert _row(verdict, "tier0_head_health").outcome == "INCONCLUSIVE"
    assert not verdict.releasable


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({}, "None of the 2 rules tripped."),
        (
            {"healthy": None, "rules": [{"rule": "a", "tripped": None, "evidence": "too short"}]},
            "The head's health could not be judged (a: too short).",
        ),
        ({"rules": []}, "The health record holds no rule that was looked at and found good."),
        (
            {"rules": [{"rule": name, "tripped": True, "evidence": ""} for name in "ab"]},
            "The classification head has collapsed (a; b). AP only ranks; every score is meaningless.",
        ),
        (
            {"healthy": False},
            "The classification head has collapsed (the record says so without naming a rule). AP only ranks; every "
            "score is meaningless.",
        ),
    ],
)
def test_what_is_said_of_a_head_is_what_its_rules_said(policy, evaluation, healthy, changes, because):
    """A rule that was not looked at is told with its reason, and counts among none that did not trip."""
    rules = [{"rule": name, "tripped": False, "evidence": "1.0"} for name in "ab"]
    rules.append({"rule": "c", "tripped": None, "evidence": "too short"})

    verdict = judged(evaluation, policy, healthy | {"rules": rules} | changes)

    assert _row(verdict, "tier0_head_health").because == because


@pytest.mark.parametrize(
    ("spoiled", "because"),
    [
        ({"value": None, "n": 0}, "There was nothing to measure: n = 0 (too dark)."),
        ({"value": None, "n": 4}, "The value is missing or not a finite number (too dark)."),
        ({"value": 1.5}, "The value 1.5 is outside [0, 1]: not a measurement."),
        ({"low": None}, "There is no interval, only a point (too dark)."),
        ({"high": None}, "There is no interval, only a point (too dark)."),
        ({"low": 0.6, "high": 0.5}, "The interval [0.6, 0.5] is not one."),
        ({"unit_count": 29}, "Too little data: 29 units (source groups), the gate needs 30."),
        ({"n": 19}, "Too little data: 19 counted items, the gate needs 20."),
        ({"population": "all"}, "ap of caries (clean images) was not measured."),
        ({"low": 0.2, "value": 0.35, "high": 0.29}, "The point 0.35 and its own interval contradict each other."),
        ({"low": 0.2}, "The interval spans the bound (floor 0.30): more data would decide."),
        ({"low": 0.1, "value": 0.15, "high": 0.2}, "The interval lies on the wrong side of its bound (floor 0.30)."),
        ({}, "The interval lies on the right side of its bound (floor 0.30)."),
    ],
)
def test_each_row_says_why_it_was_decided_so(policy, evaluation, healthy, spoiled, because):
    """With what the measurement itself says of its lack, and with the count or bound that was missed."""
    _measured(evaluation, "ap", "caries").update({"note": "too dark"} | spoiled)

    assert _row(judged(evaluation, policy, healthy), "tier1_caries_ap").because == because


def test_a_reason_without_a_note_ends_with_its_point(policy, evaluation, healthy):
    """No empty brackets; and a measurement that stands twice is told to contradict itself."""
    _measured(evaluation, "ap", "caries").update(value=None)
    evaluation["measurements"].append(_measured(evaluation, "ap", "calculus"))

    verdict = judged(evaluation, policy, healthy)

    missing, twice = (_row(verdict, f"tier1_{name}_ap").because for name in ("caries", "calculus"))
    assert missing == "The value is missing or not a finite number."
    assert twice == "ap of calculus (clean images) was measured 2 times, which contradicts itself."


def test_a_row_repeats_the_measurement_that_it_was_decided_on(policy, evaluation, healthy):
    """Page, card and remedies read the row, not the evaluation; a count below nothing is no count."""
    _measured(evaluation, "ap", "caries").update(value=0.5, low=0.4, high=0.6, n=321, unit_count=45)
    _measured(evaluation, "ap", "calculus").update(value=0.5, low=None, n=-1, unit_count=0)

    verdict = judged(evaluation, policy, healthy)

    whole, broken = _row(verdict, "tier1_caries_ap"), _row(verdict, "tier1_calculus_ap")
    assert (whole.value, whole.low, whole.high, whole.n, whole.unit_count) == (0.5, 0.4, 0.6, 321, 45)
    assert (broken.value, broken.low, broken.high, broken.n, broken.unit_count) == (0.5, None, None, None, 0)
    assert (whole.point, broken.point, _row(verdict, "tier0_head_health").floor) == ("pass", "pass", None)


@pytest.mark.parametrize("changes", [{"healthy": "yes"}, {"rules": None}, {"layers": [{}]}], ids=str)
def test_a_health_record_of_another_form_is_refused_with_its_place(policy, evaluation, healthy, changes):
    """Half a record must not be read as a whole one with good news."""
    with pytest.raises(DocumentError, match=r"health.json is no HeadHealth .* at `\$\."):
        judged(evaluation, policy, healthy | changes)


def test_no_detection_above_the_threshold_fails_calibration(policy, evaluation, healthy):
    """A silent model would otherwise have a calibration error of nothing, which reads like zero."""
    _measured(evaluation, "ece", "all").update(value=None, low=None, high=None, n=0)

    assert _row(judged(evaluation, policy, healthy), "tier2_ece").outcome == "FAIL"


def test_a_soft_gate_warns_and_does_not_block(policy, evaluation, healthy):
    """Soft means that the report is yellow, not that the release stops."""
    _measured(evaluation, "ap", "other-finding").update(value=0.1, low=0.05, high=0.15)

    verdict = judged(evaluation, policy, healthy)

    row = _row(verdict, "tier1_other_finding_ap")
    assert (row.outcome, row.blocks) == ("FAIL", False)
    assert (verdict.outcome, verdict.releasable, verdict.blocking) == ("PASS", True, ())
    assert "other-finding: 0.10 [0.05, 0.15], floor 0.20: FAIL. Read other-finding as a hint only." in verdict.sentences


@pytest.mark.parametrize(
    ("low", "value", "high", "fired"), [(0.50, 0.55, 0.59, True), (0.50, 0.55, 0.60, False), (0.1, 0.5, 0.9, False)]
)
def test_the_retrain_trigger_fires_only_when_the_upper_bound_is_under_the_floor(
    policy, evaluation, healthy, low, value, high, fired
):
    """A retrain at higher resolution costs days of GPU; doubt alone does not justify it."""
    _measured(evaluation, "recall_at_p95", "caries").update(low=low, value=value, high=high)

    (trigger,) = judged(evaluation, policy, healthy).triggers

    assert trigger.fired is fired
    assert trigger.because == (("tier2_caries_recall_at_p95",) if fired else ())


def test_a_collapsed_head_does_not_ask_for_a_higher_resolution(policy, evaluation, healthy):
    """Its recall at precision .95 is meaningless; more pixels would not repair it."""
    _measured(evaluation, "recall_at_p95", "caries").update(low=0.0, value=0.01, high=0.02)
    healthy["healthy"] = False

    assert not judged(evaluation, policy, healthy).triggers[0].fired


@pytest.mark.parametrize(("digest", "named"), [("c" * 64, "c" * 64), ("", None)])
def test_a_verdict_names_the_champion_that_it_was_judged_against(policy, evaluation, healthy, champion, digest, named):
    """A release says against whom; one without a name is none."""
    champion["digest"] = digest

    assert judged(evaluation, policy, healthy, champion).champion == named
    assert judged(evaluation, policy, healthy).champion is None


def test_a_challenger_shown_to_be_worse_is_stopped(policy, evaluation, healthy, champion):
    """Passing the absolute floors is not enough to replace a better model."""
    champion["measurements"][0].update(value=-0.05, low=-0.08, high=-0.03)

    verdict = judged(evaluation, policy, healthy, champion)

    assert _row(verdict, "champion_caries_ap").outcome == "FAIL"
    assert verdict.outcome == "FAIL"


@pytest.mark.parametrize("changes", [{"ground_truth_sha256": "d" * 64}, {"ground_truth_sha256": None}, {"digest": ""}])
def test_a_champion_measured_on_other_ground_truth_decides_nothing(policy, evaluation, healthy, champion, changes):
    """A difference between two test sets is not a difference between two models."""
    verdict = judged(evaluation, policy, healthy, champion | changes)

    assert _row(verdict, "champion_caries_ap").outcome == "INCONCLUSIVE"
    assert not verdict.releasable


def test_a_comparison_with_a_champion_nobody_names_is_not_waved_through(policy, evaluation, healthy, champion):
    """Forgetting to pass the champion must not turn a regression into 'not applicable'."""
    evaluation["measurements"] += champion["measurements"]

    assert _row(judged(evaluation, policy, healthy), "champion_caries_ap").outcome == "INCONCLUSIVE"


def test_an_override_releases_but_does_not_change_what_was_measured(policy, evaluation, healthy):
    """The decision belongs to a named person; the figures stay what they are."""
    _measured(evaluation, "ap", "caries").update(value=0.1, low=0.05, high=0.15)
    override = Override(gate="tier1_caries_ap", name="A. Reviewer", reason="Ranking study; caries is not shown.")

    verdict = judged(evaluation, policy, healthy, overrides=[override])

    assert verdict.outcome == "FAIL"
    assert verdict.releasable
    assert verdict.overrides == (override,)
    row = _row(verdict, "tier1_caries_ap")
    assert (row.passed, row.blocks) == (False, False)
    assert row.description.endswith("Overridden by A. Reviewer: Ranking study; caries is not shown.")
    assert "is overridden by A. Reviewer" in " ".join(verdict.sentences)


def test_an_override_frees_one_gate_only(policy, evaluation, healthy):
    """One signature must not open a second door."""
    for name in ("caries", "calculus"):
        _measured(evaluation, "ap", name).update(value=0.01, low=0.0, high=0.02)
    override = Override(gate="tier1_caries_ap", name="A. Reviewer", reason="Caries is not shown.")

    verdict = judged(evaluation, policy, healthy, overrides=[override])

    assert [row.id for row in verdict.blocking] == ["tier1_calculus_ap"]
    assert not verdict.releasable


def test_an_override_that_was_not_needed_is_recorded_as_such(policy, evaluation, healthy):
    """An auditor should see decisions that had no effect, too."""
    override = Override(gate="tier1_caries_ap", name="A. Reviewer", reason="Just in case.")

    verdict = judged(evaluation, policy, healthy, overrides=[override])

    assert (verdict.overrides, verdict.unused_overrides) == ((), (override,))


@pytest.mark.parametrize(("name", "reason"), [("", "why"), ("  ", "why"), ("A. Reviewer", "\n ")])
def test_an_override_without_name_or_reason_is_refused(name, reason):
    """An anonymous or unexplained decision is none."""
    with pytest.raises(ValueError, match="needs a name and a reason"):
        Override(gate="tier1_caries_ap", name=name, reason=reason)


def test_an_override_of_an_unknown_gate_is_refused_with_the_nearest_one(policy, evaluation, healthy):
    """A typing error must not look like a recorded decision."""
    override = Override(gate="tier1_carries_ap", name="A. Reviewer", reason="Typing error.")

    with pytest.raises(ConfigurationError, match=r"\(did you mean 'tier1_caries_ap'\?\)\."):
        judged(evaluation, policy, healthy, overrides=[override])


def test_two_overrides_of_one_gate_are_refused(policy, evaluation, healthy):
    """Of two reasons for one decision the second would replace the first unseen."""
    twice = [Override(gate="tier1_caries_ap", name=name, reason="Study.") for name in ("A. Reviewer", "B. Reviewer")]

    with pytest.raises(ConfigurationError, match="'tier1_caries_ap' is overridden twice"):
        judged(evaluation, policy, healthy, overrides=twice)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_policy_text(gates=[]), "policy is empty"),
        (_policy_with_gate(metric="apx"), "unknown metric 'apx' (did you mean 'ap'?)"),
        (_policy_with_gate(condition="carries"), "unknown class 'carries' (did you mean 'caries'?)"),
        (_policy_with_gate(floor=-1.0), "floor -1 decides nothing"),
        (_policy_with_gate(floor=0.0), "floor 0 decides nothing"),
        (_policy_with_gate(floor=1.01), "floor 1.01 decides nothing"),
        (_policy_with_gate(operator="<=", floor=1.0), "ceiling 1 decides nothing"),
        (_policy_with_gate("champion_caries_ap", floor=0.01), "the margin must lie in [-0.5, 0], got 0.01"),
        (_policy_with_gate("champion_caries_ap", floor=-0.51), "the margin must lie in [-0.5, 0], got -0.51"),
        (_policy_with_gate("tier0_head_health", severity="soft"), "exactly one hard gate on 'head_health' is needed"),
        (
            _policy_with_gate("tier0_engines_agree", metric="head_health"),
            "on 'head_health' is needed (tier 0), found 2",
        ),
        (
            _policy_text(bands={"strong": 0.2, "acceptable": 0.3, "source": "made up"}),
            "'acceptable' lies above 'strong'",
        ),
        (_policy_with_gate(operator="within", floor=0.0), "half-width 0 must lie in (0, 1)"),
        (_policy_with_gate(floor=math.nan), "malformed"),
        (_policy_with_gate(severity="optional"), "'optional' - at `$.gates[4].severity` (known are hard, soft)"),
        (_policy_with_gate(operator=">"), "belongs to the paired metrics"),
        (_policy_with_gate(id="tier1_calculus_ap"), "occur twice"),
        (_policy_with_gate(trigger="panic"), "unknown trigger 'panic'"),
        (_policy_with_gate(source=""), "`str` of length >= 10 - at `$.gates[4].source`"),
        (_policy_with_gate(comment="x"), "unknown field `comment` - at `$.gates[4]`"),
        ("{", "Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
    ],
)
def test_a_policy_that_could_pass_anything_is_refused(text, message):
    """A policy is the last line: a floor of 0, a NaN or a misspelt metric would open it without a word."""
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        policies.parse_policy(text)


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("tier1_caries_ap", {"floor": 1.0}),
        ("tier2_ece", {"floor": 0.0}),
        ("champion_caries_ap", {"floor": 0.0}),
        ("champion_caries_ap", {"floor": -0.5}),
    ],
)
def test_the_strictest_and_the_mildest_bound_that_decide_something_are_taken(gate, changes):
    """A reviewer may ask for perfection, or for no regression at all."""
    policy = policies.parse_policy(_policy_with_gate(gate, **changes))

    assert next(found for found in policy.gates if found.id == gate).floor == changes["floor"]


def test_a_policy_without_hard_gates_is_refused():
    """All-soft is empty in disguise."""
    plain = json.loads(_policy_text())
    for gate in plain["gates"]:
        gate["severity"] = "soft"

    with pytest.raises(ConfigurationError, match="never block a release"):
        policies.parse_policy(json.dumps(plain))


def test_an_unknown_policy_names_the_known_ones():
    """`dentsight run --policy phantm` should be one line, not a traceback."""
    with pytest.raises(ConfigurationError, match=r"no policy 'phantm' \(did you mean 'phantom'\?\)\. Give one of"):
        policies.load_policy("phantm")


def test_a_policy_file_is_read_from_its_path(tmp_path):
    """Reviewers bring policies of their own."""
    path = tmp_path / "mine.json"
    path.write_text(_policy_text(name="mine"), "utf-8")

    assert policies.load_policy(path).name == "mine"


def test_the_policy_digest_depends_on_content_and_not_on_spacing(policy):
    """The digest goes into reports and releases: two people must get the same one for the same floors."""
    respaced = policies.parse_policy(json.dumps(json.loads(_policy_text()), indent=7, sort_keys=True))
    changed = policies.parse_policy(_policy_with_gate(floor=0.29))

    assert respaced.digest == policy.digest
    assert changed.digest != policy.digest


def test_the_phantom_policy_is_labelled_and_has_the_same_gates(policy):
    """The asset checks are defined once for both policies, and nobody may take phantom floors for real ones."""
    phantom = policies.load_policy("phantom")

    assert phantom.gate_ids == policy.gate_ids
    assert phantom.never_for_xrays
    assert not policy.never_for_xrays
    assert "never for X-rays" in phantom.title


def test_what_passes_the_phantom_policy_is_marked_never_for_xrays(evaluation, healthy):
    """The mark must travel with the verdict, not with the reader's memory."""
    verdict = judged(evaluation, policies.load_policy("phantom"), healthy)

    assert verdict.outcome == "PASS"
    assert verdict.never_for_xrays
    assert any("never for X-rays" in sentence for sentence in verdict.sentences)


def test_an_untrained_model_does_not_pass_the_phantom_policy(evaluation, healthy):
    """Adjustable floors must not become no floors: the release path is for models that learned something."""
    _measured(evaluation, "ap50", "macro").update(value=0.004, low=0.001, high=0.01)

    assert judged(evaluation, policies.load_policy("phantom"), healthy).outcome == "FAIL"


def test_the_cards_own_table_gives_the_cards_point_verdicts(policy):
    """A known answer from outside: the card's published words, class by class."""
    verdict = judged(card_v1.evaluation(), policy)

    points = {reading.condition: reading.point for reading in verdict.classes}
    points["macro"] = _row(verdict, "tier1_macro_ap50").point
    assert points == card_v1.POINT_VERDICTS


def test_the_cards_table_is_inconclusive_for_want_of_intervals(policy):
    """The card gives points alone; an interval gate must not decide on them, also where the point is far off."""
    verdict = judged(card_v1.evaluation(), policy)

    tier_1 = [row for row in verdict.rows if row.tier == "1"]
    assert len(tier_1) == 5
    assert all(row.outcome == "INCONCLUSIVE" and "no interval" in row.because for row in tier_1)
    assert verdict.outcome == "INCONCLUSIVE"


def test_the_cards_head_health_makes_its_table_ranking_only(policy):
    """The card says so itself; with its health record the verdict is FAIL at tier 0."""
    verdict = judged(card_v1.evaluation(), policy, card_v1.HEALTH)

    assert verdict.outcome == "FAIL"
    assert all("ranking-only" in row.marks for row in verdict.rows if row.tier == "1")


def test_three_hard_and_one_soft_class_floor_and_the_note_about_the_cards_count(policy):
    """The card miscounts its own gates; whoever compares must find the explanation beside the verdict."""
    class_floors = [gate for gate in policy.gates if gate.metric == "ap"]

    assert [gate.severity for gate in class_floors] == ["hard", "hard", "hard", "soft"]
    assert {gate.condition: gate.floor for gate in class_floors} == {
        "caries": 0.30,
        "calculus": 0.10,
        "periapical-radiolucency": 0.25,
        "other-finding": 0.20,
    }
    assert "3 hard + 1 soft class floors + the macro gate" in judged(card_v1.EMPTY, policy).notes[0]


def test_the_plain_sentence_reads_as_asked(policy, evaluation, healthy):
    """This sentence is what a reviewer reads first."""
    _measured(evaluation, "ap", "caries").update(value=0.04, low=0.03, high=0.05)

    verdict = judged(evaluation, policy, healthy)

    assert (
        _row(verdict, "tier1_caries_ap").sentence
        == "caries: 0.04 [0.03, 0.05], floor 0.30: FAIL. Do not surface caries to a clinician."
    )
    assert _row(verdict, "tier1_caries_ap").sentence in verdict.sentences


def test_a_summary_says_what_follows_and_lists_what_missed_hard_gates_first(policy, evaluation, healthy):
    """The reader of one screen must learn what may happen, what to mend first, and what to do next."""
    _measured(evaluation, "ap", "other-finding").update(value=0.1, low=0.05, high=0.15)
    _measured(evaluation, "recall_at_p95", "caries").update(value=0.5, low=0.45, high=0.55)

    verdict = judged(evaluation, policy, healthy)

    (trigger,) = verdict.triggers
    assert verdict.sentences == (
        "FAIL: this model did not pass its release gates (10 hard gates: 9 PASS, 1 FAIL).",
        "It must not be released.",
        _row(verdict, "tier2_caries_recall_at_p95").sentence,
        _row(verdict, "tier1_other_finding_ap").sentence,
        trigger.sentence,
    )


def test_a_summary_of_a_pass_forbids_nothing_and_asks_for_nothing(policy, evaluation, healthy):
    """A trigger that did not fire is no advice."""
    verdict = judged(evaluation, policy, healthy)

    assert verdict.sentences == (f"PASS: all {len(verdict.hard)} hard gates passed.",)


def test_rounding_never_makes_a_miss_look_like_a_tie():
    """0.2996 shown as 0.30 beside a floor of 0.30 would read as met."""
    assert number_text(0.2996, beside=0.30) == "0.2996"
    assert number_text(0.30, beside=0.30) == "0.30"
    assert number_text(-0.001) == "0.00"


@pytest.mark.parametrize("chosen_on", ["test", None])
def test_thresholds_not_known_to_come_from_valid_are_marked(policy, evaluation, healthy, chosen_on):
    """Such figures are optimistic; the reader must see it on the row."""
    evaluation["thresholds_from"] = chosen_on

    verdict = judged(evaluation, policy, healthy)

    assert _row(verdict, "tier2_ece").marks == ("thresholds not chosen on valid",)
    assert _row(verdict, "tier1_caries_ap").marks == ()


def test_every_gate_has_a_row_with_its_severity(policy, evaluation, healthy):
    """The orchestrator shows exactly one check for each gate, red for hard and yellow for soft."""
    rows = judged(evaluation, policy, healthy).rows

    assert [row.id for row in rows] == list(policy.gate_ids)
    assert {row.severity for row in rows} == {"hard", "soft"}
    assert all(row.passed and row.description for row in rows)


def test_a_verdict_survives_its_own_json(policy, evaluation, healthy, champion):
    """The release step reads the verdict back from the store and must see the same decision."""
    verdict = judged(evaluation, policy, healthy, champion)

    assert read(pretty(verdict), Verdict, "verdict.json") == verdict
    assert plain(verdict)["rows"][0]["blocks"] is False


def test_the_same_evaluation_gives_the_same_verdict_bytes(policy, evaluation, healthy):
    """The verdict is part of a manifest whose digest must not drift."""
    assert pretty(judged(evaluation, policy, healthy)) == pretty(judged(evaluation, policy, healthy))


def test_every_gate_is_documented(project_root):
    """A reviewer must find each bound and its severity in the documentation, not only in a JSON file."""
    lines = (project_root / "docs" / "evaluation.md").read_text("utf-8").splitlines()
    for gate in policies.load_policy("card").gates:
        rows = [line for line in lines if line.startswith(f"| `{gate.id}` |")]
        assert len(rows) == 1, gate.id
        assert rows[0].endswith(f"| {gate.severity} |")
        if gate.metric not in policies.TIER_0:
            assert f"{abs(gate.floor):.2f}".removeprefix("0") in rows[0]


def ceiling(condition: str, low: float, high: float) -> dict[str, Any]:
    """What labels allow of a class, as `evaluation.json` has it."""
    bounds = {"value": (low + high) / 2, "low": low, "high": high}
    figures = dict.fromkeys(("f1", "f1_75", "kappa_by_tooth", "ap50", "ap"), bounds)
    return {"class": condition, "pairs": 60, "sources": 60, "boxes": 300, **figures}


def test_a_gate_shows_what_the_labels_allow(evaluation: dict[str, Any], policy: Policy) -> None:
    """Floor, measured and ceiling stand side by side; the ceiling decides nothing."""
    before = judged(evaluation, policy)
    evaluation["label_ceilings"] = [ceiling("caries", 0.12, 0.20)]

    verdict = judged(evaluation, policy)

    rows = {row.id: row for row in verdict.rows}
    assert rows["tier1_caries_ap"].ceiling == Bounds(value=0.16, low=0.12, high=0.20)
    assert rows["tier1_calculus_ap"].ceiling is None
    assert rows["tier2_caries_recall_at_p95"].ceiling is None
    assert [row.outcome for row in verdict.rows] == [row.outcome for row in before.rows]


@pytest.mark.parametrize(("high", "warned"), [(0.29, True), (0.31, False)])
def test_a_floor_above_the_label_ceiling_is_told(policy: Policy, high: float, warned: bool) -> None:
    """Nobody should train for weeks towards .30 where two dentists reach .29 against each other at the most."""
    told = floors_above(policy, [convert(ceiling("caries", 0.1, high), LabelCeiling, "a ceiling")])

    assert [sentence.split(":")[0] for sentence in told] == ["AP of caries"] * warned


def test_a_ceiling_without_an_interval_warns_of_nothing(policy: Policy) -> None:
    """Four sources are no evidence that a floor is out of reach."""
    row = ceiling("caries", 0.1, 0.2) | {"ap": {"value": 0.15, "low": None, "high": None}}

    assert floors_above(policy, [convert(row, LabelCeiling, "a ceiling")]) == []


@pytest.mark.parametrize(
    ("licences", "outcome", "because"),
    [
        (
            {"data A": "CC BY 4.0", "weights B": "Apache-2.0"},
            "PASS",
            "2 licences allow share, commercial, own",
        ),
        (
            {"data A": "CC BY-NC-SA 4.0", "weights B": "MIT"},
            "FAIL",
            "data A: CC BY-NC-SA 4.0 does not allow commer",
        ),
        ({"data A": "CC BY 4.0", "weights B": "AGPL-3.0"}, "FAIL", "weights B: AGPL-3.0 does not allow own-terms."),
        ({"data A": "CC BY 4.0 + BY-NC 4.0"}, "FAIL", "data A: BY-NC 4.0 does not allow commercial, own-terms."),
        (
            {"data A": "CC BY 4.0, Private"},
            "INCONCLUSIVE",
            "Of unknown licence: data A ('Private'). Say it",
        ),
        ({"data A": "Private", "weights B": "AGPL-3.0"}, "FAIL", "weights B: AGPL-3.0 does not allow own-terms."),
        ({"data A": "Agreement 12 [share, commercial, own-terms]"}, "PASS", "1 licences allow share, commercial"),
        ({}, "INCONCLUSIVE", "Nothing says under which licences data and weights may be used."),
        (None, "INCONCLUSIVE", "Nothing says under which licences data and weights may be used."),
    ],
)
def test_a_release_needs_licences_that_allow_it(
    policy: Policy,
    evaluation: dict[str, Any],
    healthy: dict[str, Any],
    licences: dict[str, str] | None,
    outcome: str,
    because: str,
) -> None:
    """One ancestor that forbids it binds the release; what nobody knows is not read as allowed."""
    verdict = judged(evaluation, policy, healthy, licences=licences)

    row = next(row for row in verdict.rows if row.id == "licence_allows_release")
    assert (row.outcome, row.because[: len(because)], row.blocks) == (outcome, because, outcome != "PASS")
    assert verdict.outcome == outcome
    assert verdict.licences == (licences or {})


def test_a_policy_may_ask_for_less(policy: Policy, evaluation: dict[str, Any], healthy: dict[str, Any]) -> None:
    """A release for research alone may rest on non-commercial data; a gate without `uses` would allow anything."""
    research = replace(policy, name="research", uses=("share",))

    assert judged(evaluation, research, healthy, licences={"data": "CC BY-NC-SA 4.0"}).outcome == "PASS"
    assert judged(evaluation, research, healthy, licences={"data": "CC BY-ND 4.0"}).outcome == "FAIL"
    with pytest.raises(ConfigurationError, match=r"a gate on 'licence_allows_release' needs `uses`"):
        policies.checked(replace(policy, uses=()))


def test_a_policy_without_licences_keeps_its_digest(policy: Policy) -> None:
    """Reports name policies by digest; those written before must stay the policies that they were."""
    before: dict[str, Any] = {**plain(policy), "version": 1}
    del before["uses"]
    later = (policies.LICENCE, *policies.READERS)
    before["gates"] = [gate for gate in before["gates"] if gate["metric"] not in later]

    assert (
        policies.parse_policy(json.dumps(before)).digest
        == "928cd54633e075de9f25502e74097b92813e31b713db0ac5687dea2b9abb3962"
    )


def study(value: float, low: float, high: float) -> ReaderAgreement:
    """A reader study that gives one Δκ for all conditions."""
    names = ("all", "caries", "periapical-radiolucency")
    rows = [measurement("reader_delta_kappa", name, value, low, high, n=900, unit_count=30) for name in names]
    told = {"title": "Thirty", "readers": ["x", "y"], "images": 30, "unfinished": 0, "conditions": [], "arms": []}
    return convert({**told, "measurements": rows}, ReaderAgreement, "a study")


@pytest.mark.parametrize(
    ("given", "outcome"),
    [(None, "NOT APPLICABLE"), ((0.02, -0.03, 0.06), "PASS"), ((-0.2, -0.3, -0.1), "FAIL"),
     ((0.0, -0.1, 0.1), "INCONCLUSIVE")],
)  # fmt: skip
def test_tier_3_asks_a_reader_study_and_is_soft(
    evaluation: dict[str, Any], policy: Policy, healthy: dict[str, Any], given: Any, outcome: str
) -> None:
    """Without a study the rows say so and block nothing; with one the lower bound must stay above minus the margin."""
    health = convert(healthy, HeadHealth, "health.json")
    measured = convert(evaluation, EvaluationDocument, "evaluation.json")

    verdict = judge(measured, policy, health, readers=study(*given) if given else None)

    rows = [row for row in verdict.rows if row.tier == "3"]
    assert [row.outcome for row in rows] == [outcome] * 3
    assert {row.severity for row in rows} == {"soft"}
    assert not any(row.blocks for row in rows)
