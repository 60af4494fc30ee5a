"""Findings by tooth: what one mouth can hold, where findings go, and figures that can be counted by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.evaluation.teeth.findings import (
    Marked,
    Mouth,
    choose_tooth_threshold,
    findings_by_tooth,
    measure,
    one_mouth,
)
from dentsight_pipeline.evaluation.validation import read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import coco

PLACES = {"16": 100.0, "15": 165.0, "14": 230.0, "26": 800.0}


def tooth(fdi: str, at: str = "", score: float | None = None) -> Marked:
    """A tooth with the number `fdi` at the place of the tooth `at` (its own by default)."""
    return Marked(fdi, (PLACES[at or fdi], 100.0, 60.0, 150.0), score)


def on(fdi: str, condition: str = "caries", score: float | None = None) -> Marked:
    """A small condition inside a tooth's box."""
    return Marked(condition, (PLACES[fdi] + 20, 200.0, 20.0, 20.0), score)


def mouth(
    teeth: Sequence[Marked] = (),
    conditions: Sequence[Marked] = (),
    true_teeth: Sequence[Marked] = (),
    true_conditions: Sequence[Marked] = (),
    group: str = "a",
    clean: bool = True,
) -> Mouth:
    """An image; nothing found and nothing there unless said."""
    return Mouth(group, clean, teeth, conditions, true_teeth, true_conditions)


def measured(*mouths: Mouth, population: str = "all") -> dict[str, Any]:
    """Figures of one population, without intervals."""
    figures = measure(mouths, ["caries", "crown"], resamples=0)["all" if population == "all" else "clean"]
    assert figures is not None
    return plain(figures)


def row(figures: dict[str, Any], name: str) -> dict[str, Any]:
    """The row of one condition."""
    return next(row for row in figures["per_class"] if row["class"] == name)


class TestOneMouth:
    """A detector scores every box for every number; a mouth has each tooth once."""

    def test_a_number_that_is_found_twice_stays_where_the_score_is_higher(self) -> None:
        """The other one would put findings on a tooth that is somewhere else."""
        found = [tooth("16", at="15", score=0.3), tooth("16", score=0.8)]

        assert one_mouth(found) == [tooth("16", score=0.8)]

    def test_a_box_with_two_numbers_keeps_the_likelier_one(self) -> None:
        """Otherwise one caries would be reported on two teeth."""
        found = [tooth("15", at="16", score=0.4), tooth("16", score=0.6), tooth("15", score=0.35)]

        assert one_mouth(found) == [tooth("16", score=0.6), tooth("15", score=0.35)]

    def test_a_threshold_before_gives_the_same_as_one_after(self) -> None:
        """The threshold is chosen on mouths that were already made one."""
        found = [tooth("15", at="16", score=0.4), tooth("16", score=0.6), tooth("15", score=0.35)]
        before = one_mouth([t for t in found if (t.score or 0) >= 0.4])

        assert before == [t for t in one_mouth(found) if (t.score or 0) >= 0.4]


@pytest.mark.parametrize(("shift", "same"), [(20, True), (21, False)])
def test_two_boxes_are_of_one_tooth_from_half_an_overlap_on(shift: float, same: bool) -> None:
    """Teeth of 60 px: 40 of 80 px are a half. Less is a neighbour, and a number there is a stray one."""
    beside = Marked("15", (PLACES["16"] + shift, 100.0, 60.0, 150.0), 0.8)
    right = Marked("16", beside.bbox_xywh_px, 0.8)

    teeth = measured(mouth(teeth=[right], true_teeth=[tooth("16")]))["teeth"]

    assert one_mouth([beside, tooth("16", score=0.9)]) == [tooth("16", score=0.9), beside][: 1 if same else 2]
    assert (teeth["recall"], teeth["stray"]) == ((1.0, 0) if same else (0.0, 1))


class TestThreshold:
    """One threshold for all teeth, on the validation split."""

    def test_the_threshold_has_the_best_f1_over_all_teeth(self) -> None:
        """Two hits at .9 and .6, then only false ones: F1 is best at .6."""
        truth = coco(
            [(1, 1, list(tooth("16").bbox_xywh_px)), (1, 2, list(tooth("15").bbox_xywh_px))], 2, ("16", "15", "14")
        )
        found = {
            1: [tooth("16", score=0.9), tooth("15", score=0.6), tooth("14", score=0.5)],
            2: [tooth("14", score=0.4)],
        }

        assert choose_tooth_threshold(read_ground_truth(truth), found) == 0.6

    def test_images_whose_teeth_are_not_annotated_have_no_say(self) -> None:
        """Their teeth would all count as false."""
        truth = coco([(1, 1, list(tooth("16").bbox_xywh_px))], 1, ("16",))
        found = {1: [tooth("16", score=0.5)], 7: [tooth("16", score=0.9)]}

        assert choose_tooth_threshold(read_ground_truth(truth), found) == 0.5

    @pytest.mark.parametrize("found", [{}, {1: [tooth("16", at="26", score=0.9)]}])
    def test_without_a_hit_no_score_is_high_enough(self, found: dict[int, list[Marked]]) -> None:
        """A threshold that nobody measured must not let teeth through."""
        truth = coco([(1, 1, list(tooth("16").bbox_xywh_px))], 1, ("16",))

        assert choose_tooth_threshold(read_ground_truth(truth), found) == math.inf

    def test_without_annotated_teeth_no_score_is_high_enough(self) -> None:
        """There is nothing to choose on."""
        assert (
            choose_tooth_threshold(read_ground_truth(coco([], 1, ("16",))), {1: [tooth("16", score=0.9)]}) == math.inf
        )


class TestFindings:
    """The answer for one image."""

    def test_a_finding_is_listed_once_and_named_by_its_tooth(self) -> None:
        """Readers go by tooth, counts go by finding."""
        answer = plain(findings_by_tooth([tooth("16", score=0.9), tooth("15", score=0.8)], [on("16", score=0.7)]))

        assert [t["fdi"] for t in answer["teeth"]] == ["15", "16"]
        assert [t["findings"] for t in answer["teeth"]] == [(), ({"id": 1, "class": "caries"},)]
        (finding,) = answer["findings"]
        assert (finding["teeth"], finding["assigned"], finding["rule"]) == (("16",), True, "overlap")
        assert (finding["class"], finding["score"]) == ("caries", 0.7)

    def test_what_fits_no_tooth_stays_and_says_so(self) -> None:
        """Dropping it would hide a lesion because a tooth was missed."""
        answer = plain(findings_by_tooth([tooth("16")], [on("26", score=0.7), on("16", score=0.6)]))

        assert [(f["teeth"], f["assigned"], f["fit"]) for f in answer["findings"]] == [
            ((), False, None),
            (("16",), True, 1.0),
        ]

    def test_the_number_of_an_absent_tooth_is_said_to_be_inferred(self) -> None:
        """It was not found, so it is on no tooth's list; a caries in the same gap is no absent tooth."""
        teeth = [tooth("16"), tooth("14")]

        answer = plain(findings_by_tooth(teeth, [on("15", "missing", score=0.9), on("15", "caries", score=0.8)]))

        assert [(f["teeth"], f["assigned"], f["inferred_tooth"]) for f in answer["findings"]] == [
            ((), False, "15"),
            ((), False, None),
        ]
        assert [t["findings"] for t in answer["teeth"]] == [(), ()]

    def test_a_bridge_is_one_finding_on_several_teeth(self) -> None:
        """Three findings for one bridge would be read as three bridges."""
        bridge = Marked("bridge", (100.0, 200.0, 190.0, 50.0), 0.9)
        answer = plain(findings_by_tooth([tooth(fdi) for fdi in ("16", "15", "14")], [bridge]))

        assert [f["teeth"] for f in answer["findings"]] == [("14", "15", "16")]
        assert [len(t["findings"]) for t in answer["teeth"]] == [1, 1, 1]


class TestMeasure:
    """Figures by hand."""

    def test_the_right_condition_on_the_right_tooth_counts_once(self) -> None:
        """Two lesions on one tooth are one answer to "has 16 caries?"."""
        figures = measured(
            mouth(
                teeth=[tooth("16"), tooth("15")],
                conditions=[on("16"), on("16"), on("15")],
                true_teeth=[tooth("16"), tooth("15")],
                true_conditions=[on("16"), on("15", "crown")],
            )
        )

        caries, crown, everything = (row(figures, name) for name in ("caries", "crown", "all"))
        assert (caries["n_gt"], caries["n_found"], caries["precision"], caries["recall"]) == (1, 2, 0.5, 1.0)
        assert (crown["n_gt"], crown["n_found"], crown["precision"], crown["recall"]) == (1, 0, None, 0.0)
        assert (everything["n_gt"], everything["n_found"], everything["f1"]) == (2, 2, 0.5)

    def test_specificity_is_of_annotated_teeth_without_the_condition_where_it_was_looked_for(self) -> None:
        """Devices report sensitivity and specificity by tooth; a tooth that nobody looked at is no negative."""
        teeth = [tooth("16"), tooth("15"), tooth("26")]
        one = mouth(teeth, [on("16"), on("15")], teeth, [on("16")])
        unseen = replace(mouth(teeth, [], teeth, []), looked_for=frozenset({"crown"}))

        caries, crown = (row(measured(one, unseen), name) for name in ("caries", "crown"))

        assert (caries["n_without"], caries["specificity"], caries["recall"]) == (2, 0.5, 1.0)
        assert (crown["n_without"], crown["specificity"]) == (6, 1.0)

    def test_a_lesion_on_a_misnumbered_tooth_is_wrong_and_the_loss_is_stage_ones(self) -> None:
        """The report sends the dentist to the wrong tooth; with the true teeth it would have been right."""
        figures = measured(
            mouth([tooth("15", at="16")], [on("16")], [tooth("16")], [on("16")]),
        )

        assert (row(figures, "caries")["f1"], row(figures, "caries")["f1_with_true_teeth"]) == (0.0, 1.0)

    @pytest.mark.parametrize(
        ("given", "kind"), [("26", "wrong_side"), ("46", "wrong_jaw"), ("36", "wrong_jaw"), ("15", "wrong_position")]
    )
    def test_wrong_numbers_are_told_apart(self, given: str, kind: str) -> None:
        """A wrong side is what dentists complain about most."""
        teeth = measured(mouth(teeth=[tooth(given, at="16")], true_teeth=[tooth("16")]))["teeth"]

        assert {name: n for name, n in teeth["misnamed"].items() if n} == {kind: 1}
        assert (teeth["recall"], teeth["precision"], teeth["stray"]) == (0.0, 0.0, 0)

    def test_teeth_are_right_stray_or_missed(self) -> None:
        """16 found, 15 missed, 26 where nothing is."""
        teeth = measured(mouth(teeth=[tooth("16"), tooth("26")], true_teeth=[tooth("16"), tooth("15")]))["teeth"]

        assert (teeth["recall"], teeth["precision"], teeth["f1"], teeth["stray"]) == (0.5, 0.5, 0.5, 1)
        assert {r["tooth"]: (r["recall"], r["precision"]) for r in teeth["per_tooth"]} == {
            "15": (0.0, None),
            "16": (1.0, 1.0),
            "26": (None, 0.0),
        }

    def test_conditions_without_a_tooth_are_counted_beside(self) -> None:
        """They are neither right nor wrong about a tooth, and must not vanish."""
        figures = measured(mouth([tooth("16")], [on("26")], [tooth("16")], [on("15")]))

        caries = row(figures, "caries")
        assert (caries["unassigned_gt"], caries["unassigned_found"], caries["n_gt"], caries["n_found"]) == (1, 1, 0, 0)

    def test_the_clean_population_leaves_leaked_images_out(self) -> None:
        """Their lesions were seen in training."""
        right = mouth([tooth("16")], [on("16")], [tooth("16")], [on("16")], clean=False)
        wrong = mouth([tooth("16")], [], [tooth("16")], [on("16")], group="b")

        assert row(measured(right, wrong), "caries")["recall"] == 0.5
        assert row(measured(right, wrong, population="clean"), "caries")["recall"] == 0.0
        assert measure([right], ["caries"], resamples=0)["clean"] is None

    def test_intervals_come_from_source_groups(self) -> None:
        """Two pictures of one mouth are one observation: under five sources there is no interval at all."""
        mouths = [
            mouth([tooth("16")], [on("16")] if n % 2 else [], [tooth("16")], [on("16")], group=str(n)) for n in range(8)
        ]
        same = [mouth(m.teeth, m.conditions, m.true_teeth, m.true_conditions) for m in mouths]
        apart, together = (measure(m, ["caries"], resamples=200)["all"] for m in (mouths, same))
        assert apart is not None
        assert together is not None

        caries = row(plain(apart), "caries")
        assert caries["recall"] == 0.5
        assert 0 < caries["recall_low"] < 0.5 < caries["recall_high"] < 1
        assert row(plain(together), "caries")["recall_low"] is None
