"""Figures and verdicts in words: no rounding hides a miss, and each sentence ends with what follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from dentsight_pipeline.documents.verdict import GateRow, Override, Trigger
from dentsight_pipeline.release import wording
from dentsight_pipeline.release.policy import load_policy

SIGNED = Override(gate="tier1_caries_ap", name="A. Bell", reason="Study.")


def _row(**changes: Any) -> GateRow:
    told: dict[str, Any] = {
        "id": "tier1_caries_ap",
        "tier": "1",
        "title": "AP of caries",
        "metric": "ap",
        "condition": "caries",
        "iou": None,
        "operator": ">=",
        "floor": 0.3,
        "severity": "hard",
        "outcome": "PASS",
        "point": "pass",
        "value": 0.4,
        "low": 0.35,
        "high": 0.45,
        "n": 50,
        "unit_count": 40,
        "because": "Why.",
        "source": "",
        "reason": "",
        "advice": "Do this.",
        "blocks": False,
        "sentence": "A sentence.",
    }
    return GateRow(**told | changes)


@pytest.mark.parametrize(
    ("value", "beside", "text"),
    [
        (None, None, "not measured"),
        (0.299, None, "0.30"),
        (0.2951, 0.30, "0.295"),
        (0.2996, 0.30, "0.2996"),
        (0.300001, 0.30, "0.300001"),
        (0.3, 0.3, "0.30"),
        (0.299, 0.5, "0.30"),
        (-0.004, None, "0.00"),
        (-0.004, 0.004, "0.00"),
        (-0.0014, -0.001, "-0.0014"),
    ],
)
def test_a_figure_has_as_many_decimals_as_it_takes_to_differ(value, beside, text):
    """Two, and up to six beside a floor that it does not meet; a nought has no sign."""
    assert wording.number_text(value, beside) == text


def test_an_interval_that_lacks_an_end_is_none():
    """All three numbers differ from the floor as far as they do."""
    assert wording.interval_text(0.2996, 0.2, 0.3, 0.3) == "0.2996 [0.20, 0.30]"
    assert wording.interval_text(None, 0.2, 0.3) == "not measured"
    assert [wording.interval_text(0.2996, *ends, 0.3) for ends in ((None, 0.3), (0.2, None))] == [
        "0.2996 (no interval)"
    ] * 2


def test_each_kind_of_bound_has_its_words():
    """With two decimals where they say all of it."""
    operators = (">=", "<=", "within", ">")

    assert [wording.bound_text(operator, 0.3) for operator in operators] == [
        "floor 0.30",
        "ceiling 0.30",
        "within ±0.30",
        "must stay above 0.30",
    ]
    assert wording.bound_text(">=", 0.125) == "floor 0.125"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "caries: 0.40 [0.35, 0.45], floor 0.30: PASS."),
        ({"outcome": "FAIL"}, "caries: 0.40 [0.35, 0.45], floor 0.30: FAIL. Do this."),
        ({"outcome": "FAIL", "advice": ""}, "caries: 0.40 [0.35, 0.45], floor 0.30: FAIL."),
        ({"outcome": "INCONCLUSIVE"}, "caries: 0.40 [0.35, 0.45], floor 0.30: INCONCLUSIVE. Why. Do this."),
        ({"marks": ("one", "two")}, "caries: 0.40 [0.35, 0.45], floor 0.30: PASS (one, two)."),
        ({"outcome": "NOT EVALUABLE"}, "caries: NOT EVALUABLE. Why. Do this."),
        ({"outcome": "INCONCLUSIVE", "value": None}, "caries: INCONCLUSIVE. Why. Do this."),
        ({"outcome": "NOT APPLICABLE", "value": None}, "caries: NOT APPLICABLE. Why."),
        ({"outcome": "FAIL", "value": None}, "caries: FAIL. Why. Do this."),
        ({"floor": None}, "caries: 0.40 [0.35, 0.45]: PASS."),
        ({"metric": "ap50", "condition": "macro"}, "macro AP50: 0.40 [0.35, 0.45], floor 0.30: PASS."),
        ({"metric": "ece", "condition": "all"}, "calibration error: 0.40 [0.35, 0.45], floor 0.30: PASS."),
        (
            {"metric": "head_health", "condition": "all", "value": None, "floor": None, "outcome": "FAIL"},
            "classification head: FAIL. Why. Do this.",
        ),
    ],
)
def test_a_row_in_plain_language_holds_what_it_knows(changes, sentence):
    """Figure and bound where there is a figure, the reason where the figure does not say it, advice where it missed."""
    assert wording.row_sentence(_row(**changes)) == sentence


def test_a_failed_verdict_counts_hard_gates_and_names_who_overrode_them():
    """Those that do not apply are none of them; soft ones are told after hard ones."""
    rows = [
        _row(severity="soft", outcome="FAIL", sentence="Soft."),
        _row(),
        _row(outcome="FAIL", blocks=True, sentence="Hard."),
        _row(outcome="INCONCLUSIVE", override=SIGNED, sentence="Signed."),
        _row(outcome="NOT APPLICABLE", sentence="None."),
    ]
    triggers = [Trigger(id=str(fired), fired=fired, because=(), sentence=f"Fired {fired}.") for fired in (True, False)]

    assert wording.summary_sentences("FAIL", rows, triggers, True) == (
        "FAIL: this model did not pass its release gates (3 hard gates: 1 PASS, 1 FAIL, 1 INCONCLUSIVE).",
        "It must not be released.",
        "1 hard gate is overridden by A. Bell; the measured verdict stands.",
        "This policy's floors are for drawn images: whatever passes them is never for X-rays.",
        "Hard.",
        "Signed.",
        "Soft.",
        "Fired True.",
    )


def test_several_overrides_name_each_person_once():
    """In alphabetical order; nothing blocks then, and a gate that passed all the same does not count."""
    other = Override(gate="tier1_caries_ap", name="C. Dyer", reason="Study.")
    rows = [_row(outcome="FAIL", override=by, sentence=by.name) for by in (other, SIGNED, SIGNED)]

    told = wording.summary_sentences("INCONCLUSIVE", [*rows, _row(override=other)], (), False)

    assert told[:2] == (
        "INCONCLUSIVE: there is not enough evidence to release this model (4 hard gates: 1 PASS, 3 FAIL). "
        "Nothing hard was shown to fail; nothing may be claimed to pass either.",
        "3 hard gates are overridden by A. Bell, C. Dyer; the measured verdict stands.",
    )
    assert len(told) == 5


def test_classes_that_nobody_looked_for_lead_to_a_policy_that_fits():
    """Only where this one cannot be passed, and never from floors for drawn images to those of X-rays."""
    card, phantom = load_policy("card"), load_policy("phantom")
    unknown = "Not looked for in any test image, hence unknown: crown, bridge."

    def told(policy: Any, classes: Any, impossible: bool) -> list[str]:
        return list(wording.coverage_sentences(policy, classes, impossible))

    assert told(card, (), True) == []
    assert told(card, ("crown", "bridge"), False) == told(phantom, ("crown", "bridge"), True) == [unknown]
    assert told(card, ("crown", "bridge"), True)[1].endswith(
        "has the same floors for what was looked for: caries, calculus, RC-treated, impacted, restoration, "
        "periapical-radiolucency, root-stump, implant, tooth-bud, missing, other-finding."
    )
    assert told(card, card.classes, True)[1].endswith("for what was looked for: nothing.")
