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


WHOLE = {"value": 0.20, "low": 0.15, "high": 0.25, "floor": 0.3}
"""The figures of `MISSED`."""


@pytest.mark.parametrize(
    ("gate", "row"),
    [
        ("tier2_ece", measurement("ece", "all", 0.08, 0.04, 0.12)),
        ("tier2_left_minus_right_recall", measurement("left_minus_right_recall", "all", 0.05, -0.05, 0.15)),
        ("tier2_left_minus_right_recall", measurement("left_minus_right_recall", "all", -0.05, -0.15, 0.05)),
    ],
)
def test_each_kind_of_bound_asks_for_sources_by_the_end_that_has_to_move(evaluation, policy, healthy, gate, row):
    """Half-width twice the distance to the bound, under a ceiling and between two bounds: as many as under a floor."""
    remedy = _remedy(_with(evaluation, row), policy, healthy, gate)

    assert (remedy.kind, remedy.sources) == ("test data", 1629)
    assert "1629 more clean test sources would decide" in remedy.sentence


def test_sources_are_counted_among_the_images_that_were_looked_at(evaluation, policy, healthy):
    """Of 200 sources half were looked at for caries: so many of that kind are there, and 8.14 times as many lack."""
    given = _with(evaluation, UNDECIDED, clean={"looked_at": {"caries": 110}})

    remedy = _remedy(given, policy, healthy)

    assert remedy.sources == 815
    assert remedy.sentence == (
        "AP of caries: 815 more clean test sources would decide (of the kind of the 100 that there are: "
        "0.35 [0.25, 0.45])."
    )
    told = {"value": 0.35, "low": 0.25, "high": 0.45, "floor": 0.3, "n": 500, "unit_count": 175, "minimum_units": 30}
    assert remedy.figures == {**told, "test_sources": 100}


def test_a_point_without_an_interval_asks_for_the_fewest_sources_that_have_one(evaluation, policy, healthy):
    """How many would decide cannot be told from a point."""
    remedy = _remedy(_with(evaluation, measurement("ap", "caries", 0.35, None, None)), policy, healthy)

    assert (remedy.kind, remedy.sources) == ("test data", 30)
    assert remedy.sentence.endswith(
        "There is no interval, only a point. Bring clean test sources that show it: 30 at least."
    )


def test_more_than_a_hundred_times_the_sources_is_no_remedy(evaluation, policy, healthy):
    """Half-width .10 and distance .015 ask for 101.6 times as many, .0152 for 98.9."""
    kinds = [
        _remedy(_with(evaluation, measurement("ap", "caries", value, value - 0.1, 0.5)), policy, healthy).kind
        for value in (0.315, 0.3152)
    ]

    assert kinds == ["retrain", "test data"]


@pytest.mark.parametrize(
    ("counted", "more"),
    [
        ({"images_needed_at_observed_rate": 59, "images_needed_for_below_5_percent": 70}, 29),
        ({"images_needed_at_observed_rate": None, "images_needed_for_below_5_percent": 70}, 40),
        ({"images_needed_at_observed_rate": 30, "images_needed_for_below_5_percent": 70}, 1),
    ],
)
def test_empty_mouths_are_asked_for_by_their_exact_number(evaluation, policy, healthy, counted, more):
    """One at least: a gate that is open is not decided by what is there."""
    rate = {"value": 0.0, "low": 0.0, "high": 0.08}
    told = {"population": "clean", "images": 30, "images_with_false_positive": 1, "false_positives": 2, "rate": rate}
    told |= {"rate_interval": "", "per_image": rate, "per_image_interval": "", **counted}
    row = measurement("empty_mouth_fp_rate", "all", 0.0, 0.0, 0.08, n=30, unit_count=30)

    remedy = _remedy(_with(evaluation, row, empty_mouth=told), policy, healthy, "tier2_empty_mouth_fp_rate")

    assert (remedy.kind, remedy.sources) == ("test data", more)
    assert remedy.sentence.endswith(f": {more} more empty X-rays would decide, at the rate seen so far.")
    assert remedy.figures == {"images": 30, "with_false_positive": 1, "needed": 30 + more - (more == 1)}


def test_no_number_of_empty_mouths_is_made_up(evaluation, policy, healthy):
    """At a rate that no number of X-rays could bring under the ceiling a better model is what is left."""
    rate = {"value": 0.04, "low": 0.0, "high": 0.08}
    told = {"population": "clean", "images": 30, "images_with_false_positive": 1, "false_positives": 2, "rate": rate}
    told |= {"rate_interval": "", "per_image": rate, "per_image_interval": ""}
    told |= dict.fromkeys(("images_needed_at_observed_rate", "images_needed_for_below_5_percent"))
    row = measurement("empty_mouth_fp_rate", "all", 0.04, 0.0, 0.08, n=30, unit_count=30)

    kinds = [
        _remedy(_with(evaluation, row, empty_mouth=own), policy, healthy, "tier2_empty_mouth_fp_rate").kind
        for own in (told, None)
    ]

    assert kinds == ["retrain", "retrain"]


@pytest.mark.parametrize(("images", "kind"), [(66, "coverage"), (65, "test data")])
def test_images_that_are_there_are_a_remedy_if_they_are_enough(evaluation, policy, healthy, images, kind):
    """Three times 22 looked-at images are needed: of 66 all, of 65 not enough."""
    few = measurement("ap", "caries", 0.55, 0.40, 0.70, unit_count=10, n=40)
    clean = {"images": images, "looked_at": {"caries": 22}}

    remedy = _remedy(_with(evaluation, few, clean=clean), policy, healthy)

    assert remedy.kind == kind
    if kind == "coverage":
        assert remedy.figures == {"looked_at": 22, "images": 66, "unit_count": 10, "minimum_units": 30}


def test_a_macro_over_too_few_classes_names_those_that_are_absent(evaluation, policy, healthy):
    """To look for a class is cheaper than to find X-rays that show it."""
    rows = [{"class": name, "n_gt": n, "n_images": n, "n_detections": 9} for name, n in (("crown", 0), ("caries", 5))]
    macro, gate = {"present": 12, "of": 13}, "tier1_macro_ap50"
    same = next(row for row in evaluation["measurements"] if row["metric"] == "ap50")

    absent = _remedy(_with(evaluation, same, clean={"macro": macro, "per_class": rows}), policy, healthy, gate)
    unseen = _remedy(_with(evaluation, same, clean={"macro": macro, "looked_at": {"crown": 0}}), policy, healthy, gate)

    assert (absent.kind, unseen.kind) == ("test data", "coverage")
    assert absent.sentence.endswith(": bring clean test sources that show crown: none does.")
    assert unseen.sentence.endswith(": look for crown in the test images: nobody did.")
    assert absent.figures == unseen.figures == {"present": 12, "minimum_present": 13}


def _ceiling(value: float, low: float, high: float) -> dict[str, Any]:
    own = {"class": "caries", "pairs": 60, "sources": 60, "boxes": 300}
    own |= {name: {} for name in ("f1", "f1_75", "kappa_by_tooth", "ap50")}
    return {"label_ceilings": [own | {"ap": {"value": value, "low": low, "high": high}}]}


@pytest.mark.parametrize(
    ("ceiling", "told"),
    [
        ((0.22, 0.18, 0.26), "they allow 0.22 [0.18, 0.26] only."),
        ((0.20, 0.10, 0.30), "they allow 0.20 [0.10, 0.30], and the model is there with 0.20."),
        ((0.21, 0.10, 0.30), None),
    ],
)
def test_labels_are_told_as_the_cause_up_to_what_they_allow(evaluation, policy, healthy, ceiling, told):
    """A ceiling whose interval reaches the floor does not forbid it, unless the model is at the ceiling already."""
    remedy = _remedy(_with(evaluation, MISSED, **_ceiling(*ceiling)), policy, healthy)

    if told is None:
        assert remedy.kind == "retrain"
    else:
        assert remedy.sentence == f"AP of caries: have the labels of caries reviewed (`dentsight review`): {told}"
        bounds = dict(zip(("ceiling", "ceiling_low", "ceiling_high"), ceiling, strict=True))
        assert remedy.figures == {"value": 0.2, "floor": 0.3, **bounds}


def test_scaling_is_a_remedy_if_its_whole_interval_lies_under_the_ceiling(evaluation, policy, healthy):
    """A point that is good by chance would be paid for in the next evaluation."""

    def remedy(high: float) -> Remedy:
        after = {"ece": 0.05, "low": 0.03, "high": high, "bins": []}
        own = {"n": 90, "ece": 0.2, "low": 0.15, "high": 0.25, "bins": [], "after_platt": after}
        calibration = {"measured": True, "classes": {"all": own}, "platt": None}
        row = measurement("ece", "all", 0.2, 0.15, 0.25)
        return _remedy(_with(evaluation, row, calibration=calibration), policy, healthy, "tier2_ece")

    assert [remedy(high).kind for high in (0.1, 0.11)] == ["calibration", "retrain"]
    assert remedy(0.1).sentence.endswith("by `calibration.platt` of the evaluation: 0.05 [0.03, 0.10] then.")
    assert remedy(0.1).figures == {"ece": 0.2, "after_platt": 0.05, "floor": 0.1}


@pytest.mark.parametrize(
    ("low", "high", "weak"), [(0.11, 0.3, "right"), (0.1, 0.3, None), (-0.3, -0.1, None), (-0.3, -0.11, "left")]
)
def test_a_side_is_weak_if_it_is_a_tenth_behind_with_its_whole_interval(evaluation, policy, healthy, low, high, weak):
    """Recall left minus right: above, the right one is found less often."""
    side = {"value": (low + high) / 2, "low": low, "high": high, "n_left": 90, "n_right": 95}
    sides = {"population": "clean", "left_right_agreement": None, "left_minus_right_recall": {"caries": side}}

    remedy = _remedy(_with(evaluation, MISSED, consistency=sides), policy, healthy)

    assert remedy.kind == ("sides" if weak else "retrain")
    assert f"patient's {weak}: recall left minus right is" in remedy.sentence or not weak
    assert not weak or remedy.figures == {"left_minus_right_recall": side["value"], "n_left": 90, "n_right": 95}


@pytest.mark.parametrize("metric", ["left_right_agreement", "left_minus_right_recall"])
def test_what_is_another_in_the_mirror_asks_for_mirrored_images(evaluation, policy, healthy, metric):
    """Both gates miss at the same figure: below .8, and beyond .1."""
    remedy = _remedy(_with(evaluation, measurement(metric, "all", 0.6, 0.5, 0.7)), policy, healthy, f"tier2_{metric}")

    assert remedy.kind == "sides"
    assert remedy.sentence.endswith(": train with mirrored images: 0.60 [0.50, 0.70].")
    assert {name: remedy.figures[name] for name in ("value", "low", "high")} == {"value": 0.6, "low": 0.5, "high": 0.7}


@pytest.mark.parametrize(
    ("small", "large", "kind"),
    [
        ((20, 10), (20, 12), "resolution"),
        ((19, 9), (20, 12), "retrain"),  # too few small boxes
        ((20, 10), (19, 12), "retrain"),  # too few others
        ((20, 10), (25, 15), "resolution"),  # half of the misses
        ((20, 10), (30, 19), "retrain"),  # 10 of 21 misses
        ((20, 11), (20, 12), "retrain"),  # recall .55 and .60
    ],
)
def test_resolution_is_asked_for_from_the_fewest_boxes_on(evaluation, policy, healthy, small, large, kind):
    """Half of the misses at least, a tenth of recall behind, on twenty boxes each."""
    sizes = {"small": dict(zip(("n_gt", "found"), small, strict=True))}
    sizes["large"] = dict(zip(("n_gt", "found"), large, strict=True))

    remedy = _remedy(_with(evaluation, MISSED, found_by_size={"caries": sizes}), policy, healthy)

    assert remedy.kind == kind
    if large == (20, 12) and kind == "resolution":
        assert remedy.sentence.endswith(
            ": 10 of 18 missed boxes are under 32² px; recall 0.50 of those, 0.60 of larger ones."
        )
        told = {"missed_small": 10, "missed": 18, "recall_small": 0.5, "recall_larger": 0.6}
        assert remedy.figures == told


def test_a_macro_is_told_with_its_three_weakest_classes(evaluation, policy, healthy):
    """The mean rises by them; one that was not measured is none of them."""
    aps = {"caries": 0.2, "crown": 0.9, "bridge": None, "calculus": 0.1, "implant": 0.3}
    rows = [{"class": name, "n_gt": 5, "n_images": 5, "n_detections": 9, "ap50": ap} for name, ap in aps.items()]
    given = _with(evaluation, measurement("ap50", "macro", 0.2, 0.1, 0.3), clean={"per_class": rows})

    remedy = _remedy(given, policy, healthy, "tier1_macro_ap50")

    told = "a better model is needed: 0.20 [0.10, 0.30]. The weakest classes: calculus 0.10, caries 0.20, implant 0.30."
    assert (remedy.kind, remedy.sentence.partition(": ")[2]) == ("retrain", told)
    figures = {"value": 0.2, "low": 0.1, "high": 0.3, "floor": 0.45, "calculus": 0.1, "caries": 0.2, "implant": 0.3}
    assert remedy.figures == figures


def test_without_any_cause_a_better_model_is_all_that_is_told(evaluation, policy, healthy):
    """No mistake is made up; with mistakes all their counts are given."""
    errors = {"class_confusion": 3, "localisation": 1, "duplicate": 2, "background": 5, "missed": 4}

    none = _remedy(_with(evaluation, MISSED, errors={"caries": dict.fromkeys(errors, 0)}), policy, healthy)
    some = _remedy(_with(evaluation, MISSED, errors={"caries": errors}), policy, healthy)

    assert (none.sentence, none.figures) == ("AP of caries: a better model is needed: 0.20 [0.15, 0.25].", WHOLE)
    assert "5 of 15 mistakes are a box on nothing" in some.sentence
    assert some.figures == WHOLE | errors


def test_what_was_not_measured_is_to_be_measured_and_installations_and_licences_to_be_mended(
    evaluation, policy, healthy
):
    """Four gates that no X-ray and no training can pass."""
    silent = _with(evaluation, measurement("ece", "all", None, None, None, n=0), engines=None)

    verdict = judged(silent, policy, None, licences={})

    told = {remedy.gate: (remedy.kind, remedy.sentence.partition(": ")[2]) for remedy in verdict.remedies}
    assert told == {
        "tier0_head_health": ("measure", "have the head looked at: `dentsight heads CHECKPOINT --images DIR`."),
        "tier0_engines_agree": ("installation", "install the versions of constraints.txt and evaluate again."),
        "licence_allows_release": ("licence", "Nothing says under which licences data and weights may be used."),
        "tier2_ece": (
            "measure",
            "No detection reaches the operating threshold: a model that asserts nothing is not calibrated. Measure it.",
        ),
    }


def test_every_row_that_did_not_pass_has_a_remedy_hard_ones_first(policy):
    """Also of an evaluation that measured nothing at all: unknown is never read as good."""
    nothing = {"schema": "dentsight-evaluation/1", "classes": list(policy.classes)}

    verdict = judged(nothing, policy, None, licences={})

    missed = [row for row in verdict.rows if not row.passed]
    assert {remedy.gate for remedy in verdict.remedies} == {row.id for row in missed}
    assert [remedy.severity for remedy in verdict.remedies] == sorted(remedy.severity for remedy in verdict.remedies)
