"""What to do next is computed: each remedy from the figures that point to it, the cheapest first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.documents.verdict import Remedy
from dentsight_pipeline.evaluation import bootstrap
from dentsight_pipeline.release.remedies import _SPARE, POWER
from dentsight_pipeline_tests.release.conftest import judged, layer, measurement

CARIES = "tier1_caries_ap"


def _remedy(evaluation: dict[str, Any], policy: Policy, healthy: dict[str, Any], gate: str = CARIES) -> Remedy:
    return {remedy.gate: remedy for remedy in judged(evaluation, policy, healthy).remedies}[gate]


def _with(evaluation: dict[str, Any], row: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The perfect evaluation with one measurement spoilt, on 200 clean sources."""
    of = (row["metric"], row["class"])
    rows = [row if (own["metric"], own["class"]) == of else own for own in evaluation["measurements"]]
    clean = {"images": 220, "groups": 200, "macro": {"present": 13, "of": 13}} | more.pop("clean", {})
    return evaluation | {"measurements": rows, "populations": {"clean": clean}} | more


MISSED = measurement("ap", "caries", 0.20, 0.15, 0.25)
UNDECIDED = measurement("ap", "caries", 0.35, 0.25, 0.45)


def test_nothing_is_to_be_done_where_every_gate_passes(evaluation, policy, healthy):
    """An empty list is the only honest one."""
    assert judged(evaluation, policy, healthy).remedies == ()


def test_an_undecided_gate_with_its_point_on_the_right_side_asks_for_sources(evaluation, policy, healthy):
    """Half-width .10, distance .05, four of five repetitions: 9.14 times the 200 sources, less those that are there."""
    remedy = _remedy(_with(evaluation, UNDECIDED), policy, healthy)

    assert (remedy.kind, remedy.sources) == ("test data", math.ceil(200 * (((1.6449 + 0.8416) / 1.6449 * 2) ** 2 - 1)))
    assert remedy.figures["floor"] == 0.3
    assert "1629 more clean test sources would decide" in remedy.sentence


def test_so_many_more_sources_do_decide(policy):
    """The promise is four of five repetitions; a simulated figure by source, its interval the one that gates read."""
    rng, floor, truth, first = np.random.default_rng(1), 0.3, 0.35, 100
    half = 1.645 * math.sqrt(truth * (1 - truth) / first)
    needed = math.ceil(first * (_SPARE * half / (truth - floor)) ** 2)

    def passes(values: np.ndarray) -> bool:
        drawn = bootstrap.draws(lambda w: values @ w / w.sum(axis=0), bootstrap.draw(np.arange(len(values)), 200, 0))
        low = bootstrap.interval(drawn, len(values)).low
        return low is not None and low >= floor

    decided = np.mean([passes((rng.random(needed) < truth).astype(float)) for _ in range(150)])

    assert decided == pytest.approx(POWER, abs=0.1)


def test_labels_come_before_data_where_they_set_the_limit(evaluation, policy, healthy):
    """No number of X-rays lets a model agree with labels better than the labels agree with each other."""
    bounds = {"value": 0.22, "low": 0.18, "high": 0.26}
    ceiling = {"class": "caries", "pairs": 60, "sources": 60, "boxes": 300, "ap": bounds}
    ceiling |= {name: {} for name in ("f1", "f1_75", "kappa_by_tooth", "ap50")}
    for row in (MISSED, UNDECIDED):
        remedy = _remedy(_with(evaluation, row, label_ceilings=[ceiling]), policy, healthy)

        assert remedy.kind == "labels"
        assert remedy.figures["ceiling_high"] == 0.26


def test_labels_are_no_remedy_where_the_floor_is_reached_already(evaluation, policy, healthy):
    """A model above floor and ceiling that lacks test sources needs sources: the demo's calculus was told otherwise."""
    bounds = {"value": 0.3, "low": 0.2, "high": 0.4}
    ceiling = {"class": "caries", "pairs": 60, "sources": 60, "boxes": 300, "ap": bounds}
    ceiling |= {name: {} for name in ("f1", "f1_75", "kappa_by_tooth", "ap50")}

    assert _remedy(_with(evaluation, UNDECIDED, label_ceilings=[ceiling]), policy, healthy).kind == "test data"


def test_small_boxes_that_are_most_of_the_miss_ask_for_resolution(evaluation, policy, healthy):
    """The same misses spread over all sizes do not."""

    def kind(small: int, large: int) -> str:
        sizes = {"small": {"n_gt": 100, "found": small}, "medium": {"n_gt": 100, "found": large}}
        sizes["large"] = {"n_gt": 0, "found": 0}
        return _remedy(_with(evaluation, MISSED, found_by_size={"caries": sizes}), policy, healthy).kind

    assert (kind(20, 80), kind(50, 50), kind(78, 85)) == ("resolution", "retrain", "retrain")


def test_one_side_that_is_found_less_often_is_named(evaluation, policy, healthy):
    """Wrong side is what dentists complain of most."""
    side = {"value": -0.2, "low": -0.3, "high": -0.12, "n_left": 90, "n_right": 95}
    sides = {"population": "clean", "left_right_agreement": None, "left_minus_right_recall": {"caries": side}}

    remedy = _remedy(_with(evaluation, MISSED, consistency=sides), policy, healthy)

    assert remedy.kind == "sides"
    assert "patient's left" in remedy.sentence


def test_looking_at_the_test_images_that_are_there_comes_before_new_ones(evaluation, policy, healthy):
    """A class that was looked for in a tenth of the images needs no new X-ray, but somebody who looks."""
    few = measurement("ap", "caries", 0.55, 0.40, 0.70, unit_count=10, n=40)

    partly = _remedy(_with(evaluation, few, clean={"looked_at": {"caries": 22}}), policy, healthy)
    not_at_all = _remedy(_with(evaluation, few, clean={"looked_at": {"caries": 0}}), policy, healthy)
    enough = _remedy(_with(evaluation, few), policy, healthy)

    assert (partly.kind, not_at_all.kind, enough.kind) == ("coverage", "coverage", "test data")
    assert "look for caries in 44 more of the test images; 22 of 220 were" in partly.sentence
    assert enough.sources == 400


def test_scores_that_one_curve_puts_right_are_scaled(evaluation, policy, healthy):
    """Platt scaling costs nothing and keeps AP."""
    bins: dict[str, Any] = {"bins": []}
    own = {"n": 90, "ece": 0.2, "low": 0.15, "high": 0.25, **bins}
    own["after_platt"] = {"ece": 0.05, "low": 0.03, "high": 0.08, **bins}
    row = measurement("ece", "all", 0.2, 0.15, 0.25)

    given = _with(evaluation, row, calibration={"measured": True, "classes": {"all": own}, "platt": None})

    assert _remedy(given, policy, healthy, "tier2_ece").kind == "calibration"


def test_a_collapsed_head_is_the_only_remedy_of_what_it_spoils(evaluation, policy, healthy):
    """Whatever else the figures say, they are of scores that mean nothing."""
    collapsed = healthy | {"healthy": False, "layers": [layer(0, 0.6), layer(1, 0.01, last=True)]}

    found = {remedy.gate: remedy.kind for remedy in judged(evaluation, policy, collapsed).remedies}

    assert found["tier0_head_health"] == found["tier2_caries_recall_at_p95"] == "retrain"


def test_what_is_left_is_told_by_the_mistake_that_is_made_most(evaluation, policy, healthy):
    """“Train a better model” says nothing; which mistake to look at does."""
    errors = {"class_confusion": 3, "localisation": 90, "duplicate": 2, "background": 5, "missed": 40}

    remedy = _remedy(_with(evaluation, MISSED, errors={"caries": errors}), policy, healthy)

    assert remedy.kind == "retrain"
    assert "90 of 140 mistakes are a badly placed box" in remedy.sentence


def test_every_row_that_did_not_pass_has_a_remedy_hard_ones_first(policy):
    """Also of an evaluation that measured nothing at all: unknown is never read as good."""
    nothing = {"schema": "dentsight-evaluation/1", "classes": list(policy.classes)}

    verdict = judged(nothing, policy, None, licences={})

    missed = [row for row in verdict.rows if not row.passed]
    assert {remedy.gate for remedy in verdict.remedies} == {row.id for row in missed}
    assert [remedy.severity for remedy in verdict.remedies] == sorted(remedy.severity for remedy in verdict.remedies)
