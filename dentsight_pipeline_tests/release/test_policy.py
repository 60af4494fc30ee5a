"""Which figures a gate may name and how far a floor may go: a gate that every value meets is none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dentsight_pipeline.documents.policy import ApprovalRule, Policy
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.release import policy as policies
from dentsight_pipeline.release.keys import generate_key


def _with_gate(policy: Policy, **changes: Any) -> Policy:
    """The card with the gate on the AP of caries changed."""
    gates = [replace(gate, **changes) if gate.id == "tier1_caries_ap" else gate for gate in policy.gates]
    return replace(policy, gates=tuple(gates))


def test_figures_that_use_a_score_as_a_number_are_known() -> None:
    """A collapsed head leaves the order of its scores, so these and no others become meaningless."""
    assert {name for name, metric in policies.METRICS.items() if not metric.uses_scores} == {
        "ap",
        "ap50",
        "ap75",
        "ar100",
        "paired_delta_ap",
        "paired_delta_ap50",
    }


def test_what_a_figure_can_be_is_known() -> None:
    """Shares from 0 to 1, differences of shares from −1, of κ from −2 to 2, and a count without an end."""
    ranges = {name: (metric.least, metric.most) for name, metric in policies.METRICS.items()}

    assert {name: span for name, span in ranges.items() if span != (0, 1)} == {
        "left_minus_right_recall": (-1, 1),
        "empty_mouth_fp_per_image": (0, math.inf),
        "reader_delta_kappa": (-2, 2),
        "paired_delta_ap": (-1, 1),
        "paired_delta_ap50": (-1, 1),
    }


def test_every_figure_has_words_of_its_own() -> None:
    """They stand after the class in a sentence; AP alone needs none."""
    words = [metric.words for metric in policies.METRICS.values()]

    assert len({*words}) == len(words)
    assert policies.METRICS["ap"].words == ""
    assert all(words[1:])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"floor": 1.0}, None),
        ({"floor": 0.0}, "floor 0 decides nothing; give one in (0, 1]"),
        ({"metric": "left_minus_right_recall", "floor": -0.9}, None),
        ({"metric": "left_minus_right_recall", "floor": -1.0}, "floor -1 decides nothing; give one in (-1, 1]"),
        ({"operator": "<=", "floor": 0.0}, None),
        ({"operator": "<=", "floor": 1.0}, "ceiling 1 decides nothing; give one in [0, 1)"),
        ({"operator": "<=", "floor": -0.1}, "ceiling -0.1 decides nothing; give one in [0, 1)"),
        ({"metric": "empty_mouth_fp_per_image", "operator": "<=", "floor": 9.0}, None),
        ({"operator": "within", "floor": 0.5}, None),
        ({"operator": "within", "floor": 1.0}, "half-width 1 must lie in (0, 1)"),
        ({"operator": "within", "floor": 0.0}, "half-width 0 must lie in (0, 1)"),
        ({"metric": "paired_delta_ap", "operator": ">", "floor": -0.5}, None),
        ({"metric": "paired_delta_ap", "operator": ">", "floor": 0.0}, None),
        ({"metric": "paired_delta_ap", "operator": ">", "floor": 0.1}, "the margin must lie in [-0.5, 0], got 0.1"),
        ({"metric": "paired_delta_ap"}, "operator '>' belongs to the paired metrics"),
        ({"metric": "reader_delta_kappa"}, "operator '>' belongs to the paired metrics"),
        ({"operator": ">", "floor": -0.1}, "operator '>' belongs to the paired metrics"),
    ],
)
def test_a_bound_decides_something_between_the_least_and_the_most(policy, changes, problem) -> None:
    """The strictest and the mildest that do are taken."""
    changed = _with_gate(policy, **changes)

    if problem is None:
        assert policies.checked(changed) == changed
    else:
        with pytest.raises(ConfigurationError) as refused:
            policies.checked(changed)
        assert f"Policy 'card' is refused: gate 'tier1_caries_ap': {problem}" in str(refused.value)


def test_gates_on_comparisons_alone_could_never_block_a_first_release(policy) -> None:
    """Without a champion and without readers they do not apply."""
    soft = [replace(g, severity="soft") if g.tier in "12" else g for g in policy.gates]

    with pytest.raises(ConfigurationError, match="no hard gate on any measurement: it could never block a release"):
        policies.checked(replace(policy, gates=tuple(soft)))


def test_all_that_is_wrong_with_a_policy_is_told_at_once(policy) -> None:
    """Unknown names with what was probably meant, or with all that there are."""
    spoilt = _with_gate(policy, metric="apx", condition="zzz", trigger="retrain")

    with pytest.raises(ConfigurationError) as refused:
        policies.checked(spoilt)

    said = str(refused.value)
    assert "unknown metric 'apx' (did you mean 'ap'?)" in said
    assert "unknown class 'zzz' (known are caries, calculus" in said
    assert "macro, all)" in said
    assert "unknown trigger 'retrain'" in said
    assert said.endswith(". Compare it with release/policies/card.json.")


def test_policies_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    """Those of the package in alphabetical order; a file that is no text is refused as such."""
    (tmp_path / "mine.json").write_bytes(b"\xff\xfe")

    assert policies.policy_names() == ["card", "partial-labels", "phantom"]
    assert policies.load_policy("partial-labels").only_looked_for
    with pytest.raises(ConfigurationError, match=r"Policy file .*mine\.json cannot be read"):
        policies.load_policy(tmp_path / "mine.json")
    with pytest.raises(ConfigurationError, match=r"There is no policy '/none' \(known are card, partial-labels, ph"):
        policies.load_policy("/none")


def test_a_rule_of_approvals_asks_for_what_different_people_can_give(tmp_path: Path) -> None:
    """Neither nobody's signature, nor one person's twice, nor more than there are."""
    one, other = (generate_key(tmp_path / name).public.read_text() for name in ("a", "b"))

    def problem(needed: int, **people: str) -> str | None:
        return policies.rule_problem(
            ApprovalRule(people={n.replace("_", " "): k for n, k in people.items()}, needed=needed)
        )

    assert problem(2, Ann=one, Ben=other) is None
    assert problem(3, Ann=one, Ben=other) == "it asks for 3 signatures, but names 2 people"
    assert problem(1, Ann=one, Ben=one) == "two people have the same key, so one of them could sign for both"
    assert problem(1, Ann=one, _=other) == "a person without a name"
    assert problem(1, Ann=one, Ben="no key") is not None
    assert "is none in PEM form" in str(problem(1, Ann=one, Ben="no key"))


def test_a_policy_file_without_words_for_its_severity_names_those_that_there_are() -> None:
    """As a typing error is told: with what was probably meant."""
    text = json.loads((Path(policies.__file__).parent / "policies" / "card.json").read_text("utf-8"))
    text["gates"][4] |= {"operator": ">>"}

    with pytest.raises(ConfigurationError, match=r"'>>' - at `\$\.gates\[4\]\.operator` \(did you mean '>'\?\)"):
        policies.parse_policy(json.dumps(text))
