"""The worst group of each gated class: named where there is enough data, and never sold as more than chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dentsight_pipeline.documents.codec import convert
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
