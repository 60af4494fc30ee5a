"""One page over all cells: right about each, whole at every moment, and safe whatever a name holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from msgspec import structs

from dentsight_pipeline.documents.codec import pretty
from dentsight_pipeline.documents.evaluation import EvaluationDocument, MacroRow, Population
from dentsight_pipeline.documents.facts import Corpus
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.report import ChainLink, Report
from dentsight_pipeline.documents.verdict import Override, Verdict
from dentsight_pipeline.release.gates import judge
from dentsight_pipeline.release.policy import load_policy
from dentsight_pipeline.release.report.overview import _cell, write_overview

CORPUS = Corpus(kind=CorpusKind.ROBOFLOW, name="OPGs v8", licence="private")


def _verdict(evaluation: EvaluationDocument, **changes: Any) -> Verdict:
    """One hard gate passed, one failed, one that does not apply; a soft one passed."""
    verdict = judge(evaluation, load_policy("card"))
    given = (("hard", "PASS"), ("hard", "FAIL"), ("hard", "NOT APPLICABLE"), ("soft", "PASS"))
    rows = [
        structs.replace(row, severity=severity, outcome=outcome)
        for row, (severity, outcome) in zip(verdict.rows, given, strict=False)
    ]
    return structs.replace(verdict, outcome="FAIL", rows=tuple(rows), **changes)


def put_report(
    reports: Path, dataset: str, recipe: str, *, ap50: float | None, corpus: Corpus = CORPUS, **changes: Any
) -> None:
    """A `report.json` as the report writes it; `changes` are of the verdict."""
    folder = reports / dataset / recipe
    folder.mkdir(parents=True)
    evaluation = EvaluationDocument(
        schema="dentsight-evaluation/1",
        classes=("caries",),
        gated_population="clean",
        populations={"clean": Population(images=31, groups=31, macro=MacroRow(ap50=ap50, present=1, of=1))},
    )
    report = Report(
        title=f"{dataset} × {recipe}",
        verdict=_verdict(evaluation, **changes),
        policy=load_policy("card"),
        corpus=corpus,
        loose_classes=(),
        banners=(),
        evaluation=evaluation,
        data=None,
        checkpoint=None,
        predictions=None,
        health=None,
        champion=None,
        chain=(ChainLink(kind="evaluation", digest="e" * 64), ChainLink(kind="checkpoint", digest="c" * 64)),
        cost=None,
        links={},
        gallery=(),
        gallery_problems=(),
        limits=(),
    )
    (folder / "report.json").write_bytes(pretty(report))


def test_each_cell_has_a_row_with_its_verdict_and_the_way_to_its_report(tmp_path: Path) -> None:
    """Whoever compares recipes must not open a report for each."""
    put_report(tmp_path, "opg-v8", "v1", ap50=0.31)
    put_report(tmp_path, "opg-v8", "v3", ap50=0.47)

    page = write_overview(tmp_path).read_text(encoding="utf-8")

    assert page.index('href="opg-v8/v3/report.html"') < page.index('href="opg-v8/v1/report.html"')  # the better first
    assert page.count(">FAIL<") == 2
    assert page.count("1 of 2") == 2  # neither soft gates nor those that do not apply count
    assert "0.47" in page
    assert "no interval" in page
    assert page.count(f">{'c' * 12}<") == 2


def test_a_release_under_an_override_says_so(tmp_path: Path) -> None:
    """An override that shows only inside the report would be forgotten."""
    put_report(tmp_path, "opg-v8", "v3", ap50=0.4, overrides=(Override(gate="x", name="A. Reviewer", reason="Study."),))

    assert "override</span>" in write_overview(tmp_path).read_text(encoding="utf-8")


def test_a_report_that_cannot_be_read_is_listed_and_hides_no_other(tmp_path: Path) -> None:
    """A half-written file in one cell must not take the page away from all."""
    put_report(tmp_path, "opg-v8", "v3", ap50=0.4)
    (tmp_path / "opg-v8" / "v1").mkdir()
    (tmp_path / "opg-v8" / "v1" / "report.json").write_text("{", encoding="utf-8")

    page = write_overview(tmp_path).read_text(encoding="utf-8")

    assert "report.json cannot be read: DocumentError" in page
    assert page.count(">FAIL<") == 1


def test_names_from_data_cannot_become_markup(tmp_path: Path) -> None:
    """A corpus is named by a stranger's export."""
    put_report(tmp_path, "opg-v8", "v3", ap50=0.4, corpus=structs.replace(CORPUS, name="<script>alert(1)</script>"))

    page = write_overview(tmp_path).read_text(encoding="utf-8")

    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_without_a_report_the_page_says_how_to_get_one(tmp_path: Path) -> None:
    """An empty table would look like a fault."""
    assert "No report yet" in write_overview(tmp_path).read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_cells_stand_by_dataset_and_then_by_their_figure(tmp_path: Path) -> None:
    """The better first, of equals by the recipe's name; one without a figure or without a report last, not lost."""
    for dataset, recipe, ap50 in (
        ("b", "v1", 0.9),
        ("a", "v3", None),
        ("a", "v2", 0.0),
        ("a", "v1", 0.4),
        ("a", "v0", 0.4),
    ):
        put_report(tmp_path, dataset, recipe, ap50=ap50)

    page = write_overview(tmp_path).read_text(encoding="utf-8")

    hrefs = re.findall(r'href="(\w/v\d)/report\.html"', page)
    assert list(dict.fromkeys(hrefs)) == ["a/v0", "a/v1", "a/v2", "a/v3", "b/v1"]


def test_a_cell_on_drawn_images_and_one_without_a_checkpoint_say_so(tmp_path: Path) -> None:
    """Nobody may compare a phantom's figure with an X-ray's."""
    put_report(tmp_path, "opg", "v1", ap50=0.4)
    put_report(tmp_path, "phantom", "v1", ap50=0.9, corpus=structs.replace(CORPUS, kind=CorpusKind.PHANTOM))

    rows = [_cell(tmp_path / name / "v1" / "report.json") for name in ("opg", "phantom")]
    lost = _cell(tmp_path / "none" / "v1" / "report.json")

    assert [row.phantom for row in (*rows, lost)] == [False, True, False]
    assert [row.checkpoint for row in (*rows, lost)] == ["c" * 12, "c" * 12, "–"]
    assert [row.ap50 for row in (*rows, lost)] == [0.4, 0.9, None]
    assert (lost.dataset, lost.recipe, lost.problem) == ("none", "v1", "report.json cannot be read: FileNotFoundError")
