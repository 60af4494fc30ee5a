"""The bars, tiles and leading sentences of the page say what the verdict says."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dentsight_pipeline.documents.codec import convert
from dentsight_pipeline.documents.evaluation import EvaluationDocument
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.report import Report
from dentsight_pipeline.release.report import sections
from dentsight_pipeline_tests.release.conftest import judged, measurement


@pytest.fixture
def row(evaluation, policy, healthy):
    """The row of a gate, with other figures."""
    rows = {row.id: row for row in judged(evaluation, policy, healthy).rows}
    return lambda gate, **changes: replace(rows[gate], **changes)


def test_an_interval_bar_lies_between_nought_and_one(row) -> None:
    """In percent of its width: .50 to .60 about .55, against .30."""
    bar = sections.interval_bar(row("tier1_caries_ap"))

    assert bar == sections.Bar(50, 60, 55, 30, 30, False, True, "0.55 [0.50, 0.60] against floor 0.30")


def test_a_bar_of_a_difference_has_nought_in_its_middle(row) -> None:
    """Sides from −.5 to .5 with both bounds; what lies beyond an end is drawn at the end."""
    bar = sections.interval_bar(row("tier2_left_minus_right_recall", value=0.25, low=-0.7, high=0.7))
    champion = sections.interval_bar(row("champion_caries_ap", value=0.1, low=0.0, high=0.15))

    assert bar is not None
    assert champion is not None
    assert (bar.start, bar.at, bar.end, bar.floor, bar.floor2, bar.two) == (0, 75, 100, 60, 40, True)
    assert (champion.start, champion.at, champion.end, champion.floor) == (50, 75, 87.5, 45)


@pytest.mark.parametrize("changes", [{"value": None}, {"floor": None}, {"outcome": "NOT EVALUABLE"}])
def test_there_is_no_bar_where_nothing_can_be_shown(row, changes) -> None:
    """A bar at nought would read as a result."""
    assert sections.interval_bar(row("tier1_caries_ap", **changes)) is None


def test_a_bar_without_an_interval_is_a_point(row) -> None:
    """It begins and ends at the figure."""
    for ends in ({"low": None}, {"high": None}):
        bar = sections.interval_bar(row("tier1_caries_ap", **ends))

        assert bar is not None
        assert bar.has_interval is False
        assert (bar.start if "low" in ends else bar.end) == bar.at == 55


def test_bounds_have_a_sign(row) -> None:
    """One for each operator; a gate without a bound has a dash."""
    gates = ("tier1_caries_ap", "tier2_ece", "tier2_left_minus_right_recall", "champion_caries_ap", "tier0_head_health")

    assert [sections.bound_sign(row(gate)) for gate in gates] == ["≥ 0.30", "≤ 0.10", "±0.10", "> −0.02", "–"]


def _report(evaluation, policy, health, verdict) -> Report:
    return Report(
        title="",
        verdict=verdict,
        policy=policy,
        corpus=None,
        loose_classes=(),
        banners=(),
        evaluation=convert(evaluation, EvaluationDocument, "evaluation"),
        data=None,
        checkpoint=None,
        predictions=None,
        health=None if health is None else convert(health, HeadHealth, "health"),
        champion=None,
        chain=(),
        cost=None,
        links={},
        gallery=(),
        gallery_problems=(),
        limits=(),
    )


def test_the_tiles_are_the_five_figures_of_one_look(evaluation, policy, healthy) -> None:
    """Gates, both means, images and head; where nothing was measured that is said."""
    macro = {"present": 13, "of": 13, "ap50": 0.6, "ap50_low": 0.55, "ap50_high": 0.65, "ap": 0.4}
    given = evaluation | {"populations": {"clean": {"images": 220, "groups": 175, "macro": macro}}}
    verdict = judged(given, policy, healthy)

    tiles = list(sections._tiles(_report(given, policy, healthy, verdict)))
    bare = list(sections._tiles(_report(given | {"populations": {}}, policy, None, verdict)))

    assert [tuple(tile) for tile in tiles] == [
        ("Hard gates passed", "10 of 10", "0 block a release"),
        ("Macro AP50", "0.60", "[0.55, 0.65] at 90 %"),
        ("Macro AP", "0.40 (no interval)", "no interval"),
        ("Test images (clean)", "220", "from 175 sources; 13 of 13 classes present"),
        ("Classification head", "healthy", "last / first layer 1.03"),
    ]
    assert [tile.label for tile in bare] == ["Hard gates passed", "Classification head"]
    assert bare[-1].detail == "no reading"


def test_the_lead_is_the_summary_and_the_missed_rows_follow_hard_and_shown_ones_first(
    evaluation, policy, healthy
) -> None:
    """The rows stand in a list of their own, so the lead does not repeat them."""
    rows = {(row["metric"], row["class"]): row for row in evaluation["measurements"]}
    rows["ap", "other-finding"].update(measurement("ap", "other-finding", 0.1, 0.05, 0.15))
    rows["ap", "calculus"].update(low=0.05)
    rows["recall_at_p95", "caries"].update(value=0.3, low=0.2, high=0.4)
    verdict = judged(evaluation, policy, healthy)

    assert sections._lead(verdict) == [
        "This model did not pass its release gates (10 hard gates: 8 PASS, 1 FAIL, 1 INCONCLUSIVE).",
        "It must not be released.",
    ]
    assert [row.id for row in sections._follow(verdict)] == [
        "tier2_caries_recall_at_p95",
        "tier1_calculus_ap",
        "tier1_other_finding_ap",
    ]


@pytest.mark.parametrize(
    ("url", "is_link"),
    [("http://a/b", True), ("https://a", True), ("javascript:x", False), ("ftp://a", False), ("http://[", False)],
)
def test_only_the_web_is_a_link(url: str, is_link: bool) -> None:
    """Also of an address that no parser understands."""
    assert sections.is_web_link(url) is is_link
