"""The worst group of each gated class: named where there is enough data, and never sold as more than chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dentsight_pipeline.documents.codec import convert, plain
from dentsight_pipeline.documents.evaluation import EvaluationDocument
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.release.subgroups import holm, worst_groups


def _part(axis: str, group: str, ap: float, sources: int = 60, half: float = 0.05, name: str = "caries") -> Any:
    row = {"class": name, "n_gt": 200, "images": 100, "sources": sources, "ap": ap, "ap_low": ap - half}
    row |= {"ap_high": ap + half, "ap50": None, "ap50_low": None, "ap50_high": None}
    return {"axis": axis, "group": group, "images": 100, "groups": 90, "rows": [row]}


def _caries(evaluation: dict[str, Any], policy: Policy, *parts: Any) -> Any:
    document = convert(evaluation | {"subgroups": parts}, EvaluationDocument, "evaluation.json")
    return {row.condition: row for row in worst_groups(policy, document)}["caries"]


def test_the_worst_group_is_named_with_what_its_interval_says_of_the_floor(evaluation, policy):
    """A mean over all devices hides the one on which the model is useless."""
    worst = _caries(
        evaluation, policy, _part("width", "a", 0.5), _part("width", "b", 0.2), _part("brightness", "c", 0.45)
    )

    assert (worst.axis, worst.group, worst.outcome) == ("width", "b", "FAIL")
    assert worst.p_holm < 0.001
    assert "differs from the other groups" in worst.sentence


def test_a_small_group_is_no_worst_group_and_small_groups_alone_are_inconclusive(evaluation, policy):
    """Three sources say nothing, however bad they look; unknown is never read as good."""
    small = _part("width", "b", 0.0, sources=29)

    beside, alone = _caries(evaluation, policy, _part("width", "a", 0.5), small), _caries(evaluation, policy, small)

    assert (beside.group, beside.too_small, beside.p_holm) == ("a", 1, None)
    assert (alone.group, alone.outcome) == (None, "INCONCLUSIVE")
    assert _caries(evaluation, policy, _part("width", "b", 0.0, sources=30)).group == "b"


def test_without_groups_nothing_is_said(evaluation, policy):
    """Evaluations from before, and of COCO files, tell no X-rays apart."""
    assert worst_groups(policy, convert(evaluation, EvaluationDocument, "evaluation.json")) == ()


def test_a_worst_group_is_told_with_all_that_it_rests_on(evaluation, policy):
    """Two groups .1 apart with standard errors of .0304 each: z = 2.33, p = .02, and twice that after Holm."""
    parts = (_part("width", "a", 0.4), _part("width", "b", 0.3), _part("width", "c", 0.0, sources=29))

    worst = _caries(evaluation, policy, *parts)

    assert plain(worst) == {
        "gate": "tier1_caries_ap",
        "condition": "caries",
        "metric": "ap",
        "floor": 0.3,
        "axis": "width",
        "group": "b",
        "value": 0.3,
        "low": 0.25,
        "high": 0.35,
        "sources": 60,
        "outcome": "INCONCLUSIVE",
        "p_holm": pytest.approx(0.04, abs=0.0001),
        "groups": 2,
        "too_small": 1,
        "sentence": "caries AP: worst on width “b”: 0.30 [0.25, 0.35], floor 0.30: INCONCLUSIVE. It differs from the "
        "other groups of its axis (p = 0.04 after Holm).",
    }


def test_a_group_is_held_against_the_others_of_its_axis_by_their_boxes(evaluation, policy):
    """.30 against .40 on 300 boxes and .36 on 100, so .39: z = .09 / (.0304 √(1 + .75² + .25²)) = 2.32, p = .020;
    tested are five groups, so five times that at the most after Holm."""
    first, second = _part("width", "a", 0.40), _part("width", "b", 0.36)
    first["rows"][0]["n_gt"], second["rows"][0]["n_gt"] = 300, 100
    elsewhere = [_part("brightness", name, 0.40) for name in "de"]

    worst = _caries(evaluation, policy, first, second, _part("width", "c", 0.30), *elsewhere)

    assert (worst.group, worst.groups) == ("c", 5)
    assert worst.p_holm == pytest.approx(5 * 0.0203, abs=0.002)
    assert worst.sentence.endswith("Chance alone may make it the worst (p = 0.1 after Holm).")


@pytest.mark.parametrize(
    ("ap", "outcome"), [(0.35, "PASS"), (0.34, "INCONCLUSIVE"), (0.25, "INCONCLUSIVE"), (0.24, "FAIL")]
)
def test_a_worst_group_meets_its_floor_like_a_gate(evaluation, policy, ap, outcome):
    """PASS from a lower end at the floor on, FAIL only with the upper end under it."""
    row = _part("width", "a", ap)
    row["rows"][0] |= {"ap_low": round(ap - 0.05, 2), "ap_high": round(ap + 0.05, 2)}

    worst = _caries(evaluation, policy, row)

    assert (worst.outcome, worst.p_holm) == (outcome, None)
    assert worst.sentence.endswith("Its axis has no other group with enough sources to hold it against.")


def test_without_enough_sources_the_largest_group_is_told(evaluation, policy):
    """So that a reader sees how far away a figure is; a group without a box of the class is none."""
    empty = _part("width", "c", 0.9)
    empty["rows"][0]["n_gt"] = 0

    worst = _caries(
        evaluation, policy, _part("width", "a", 0.5, sources=12), _part("width", "b", 0.5, sources=29), empty
    )

    assert (worst.sources, worst.groups, worst.too_small, worst.value) == (29, 0, 2, None)
    assert worst.sentence == "caries AP: no group has 30 sources with a finding (the largest 29): INCONCLUSIVE."


def test_holms_correction_is_that_of_the_textbook():
    """Holm (1979): p(k)·(m − k + 1), never falling, at most 1; what could not be tested takes no part."""
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02], nan_ok=True)


def test_groups_that_differ_by_chance_alone_seldom_look_different(evaluation, policy):
    """All reports together: no more than one in twenty names a group whose difference is chance."""
    rng, error = np.random.default_rng(0), 0.05 / 1.645
    parts = [
        [_part(axis, str(k), float(0.5 + rng.normal(0, error))) for axis in "abcde" for k in range(4)]
        for _ in range(300)
    ]

    named = [_caries(evaluation, policy, *own).p_holm <= 0.05 for own in parts]

    assert np.mean(named) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
