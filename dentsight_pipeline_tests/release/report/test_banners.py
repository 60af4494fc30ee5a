"""What must be read before any figure stands in a banner, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from dentsight_pipeline.documents.codec import convert
from dentsight_pipeline.documents.evaluation import EvaluationDocument
from dentsight_pipeline.documents.facts import Corpus
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.report import ReportedData
from dentsight_pipeline.documents.verdict import Override
from dentsight_pipeline.release.report import build
from dentsight_pipeline_tests.documents.facts_for_tests import subset_facts
from dentsight_pipeline_tests.release.conftest import judged
from dentsight_pipeline_tests.release.test_gates import ceiling

ROBOFLOW = Corpus(kind=CorpusKind.ROBOFLOW, name="opg", licence="CC BY 4.0")


@pytest.fixture
def told(evaluation, policy, healthy, tmp_path: Path):
    """Titles and kinds of the banners; keywords replace parts of an ordinary report."""

    def banners(
        corpus: Corpus | None = ROBOFLOW, loose: tuple[str, ...] = (), ceilings: Any = (), **changes: Any
    ) -> Any:
        more = {"composites": 0, "boxes_under_2_px": 0, "sources": 9, "partial_annotation": {}, "flags": {}}
        data = convert(subset_facts(["caries"]) | more, ReportedData, "data")
        verdict = replace(judged(evaluation, policy, healthy), **changes)
        shown = None if corpus is None else replace(data, corpus=corpus, loose_classes=loose)
        inputs = build.ReportInputs("title", tmp_path, verdict, policy, data=shown)
        document = convert(evaluation | {"label_ceilings": list(ceilings)}, EvaluationDocument, "evaluation")
        vars(inputs)["evaluation"] = document
        return [(banner.kind, banner.title, banner.text) for banner in build._banners(inputs)]

    return banners


def test_an_ordinary_report_has_no_banner(told) -> None:
    """One that is always there is read by nobody."""
    assert told() == []


def test_each_thing_that_must_be_known_first_has_a_banner(told) -> None:
    """What stops a use stands out from what warns, and each names what it is about."""
    by = Override(gate="tier1_caries_ap", name="A. Bell", reason="Study.")
    phantom = Corpus(kind=CorpusKind.PHANTOM, name="drawn", licence="CC0")

    shown = {
        "unknown": told(corpus=None),
        "phantom": told(corpus=phantom),
        "pictures": told(corpus=replace(ROBOFLOW, pictures="photographs")),
        "never": told(never_for_xrays=True),
        "collapsed": told(head="collapsed"),
        "override": told(overrides=(by,)),
        "ceiling": told(ceilings=[ceiling("caries", 0.12, 0.20)]),
        "loose": told(loose=("crown", "bridge")),
    }

    assert {name: [banner[:2] for banner in banners] for name, banners in shown.items()} == {
        "unknown": [("warn", "Unknown corpus.")],
        "phantom": [("stop", "Phantom corpus: these are not clinical results.")],
        "pictures": [("warn", "Not panoramic X-rays.")],
        "never": [("stop", "Never for X-rays.")],
        "collapsed": [("stop", "Ranking-only.")],
        "override": [("warn", "Gate tier1_caries_ap overridden by A. Bell.")],
        "ceiling": [("warn", "Floors above what the labels allow.")],
        "loose": [("warn", "Loose labels.")],
    }
    assert "photographs" in shown["pictures"][0][2]
    assert "“card”" in shown["never"][0][2]
    assert shown["override"][0][2] == "Reason: Study. The measured verdict below stands."
    assert "labels of bridge, crown are known to be loose" in shown["loose"][0][2]
    assert "0.20" in shown["ceiling"][0][2]


def test_all_banners_of_one_report_stand_in_the_order_of_their_weight(told) -> None:
    """What the images forbid comes before what the model lacks."""
    phantom = Corpus(kind=CorpusKind.PHANTOM, name="drawn", licence="CC0")

    titles = [title for _, title, _ in told(corpus=phantom, loose=("crown",), never_for_xrays=True, head="collapsed")]

    assert titles == [
        "Phantom corpus: these are not clinical results.",
        "Never for X-rays.",
        "Ranking-only.",
        "Loose labels.",
    ]
