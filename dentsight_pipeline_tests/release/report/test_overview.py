"""One page over all cells: right about each, whole at every moment, and safe whatever a name holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dentsight_pipeline.release.report.overview import write_overview


def put_report(reports: Path, dataset: str, recipe: str, *, ap50: float | None, **more: Any) -> None:
    """A `report.json` as the report writes it, as far as the overview reads it."""
    folder = reports / dataset / recipe
    folder.mkdir(parents=True)
    gates = [
        {"severity": "hard", "outcome": "PASS"},
        {"severity": "hard", "outcome": "FAIL"},
        {"severity": "hard", "outcome": "NOT APPLICABLE"},
        {"severity": "soft", "outcome": "PASS"},
    ]
    macro = {"ap50": ap50, "ap50_low": None, "ap50_high": None}
    verdict = {"outcome": "FAIL", "policy": "card", "policy_version": 1, "head": "healthy", "overrides": []}
    content = {
        "verdict": {**verdict, "rows": gates, **more.pop("verdict", {})},
        "evaluation": {"gated_population": "clean", "populations": {"clean": {"macro": macro, "images": 31}}},
        "corpus": {"kind": "roboflow", "name": "OPGs v8"},
        "chain": [{"kind": "evaluation", "digest": "e" * 64}, {"kind": "checkpoint", "digest": "c" * 64}],
        **more,
    }
    (folder / "report.json").write_text(json.dumps(content), encoding="utf-8")


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


def test_a_release_under_an_override_says_so(tmp_path: Path) -> None:
    """An override that shows only inside the report would be forgotten."""
    put_report(tmp_path, "opg-v8", "v3", ap50=0.4, verdict={"overrides": [{"gate": "x"}]})

    assert "override</span>" in write_overview(tmp_path).read_text(encoding="utf-8")


def test_a_report_that_cannot_be_read_is_listed_and_hides_no_other(tmp_path: Path) -> None:
    """A half-written file in one cell must not take the page away from all."""
    put_report(tmp_path, "opg-v8", "v3", ap50=0.4)
    (tmp_path / "opg-v8" / "v1").mkdir()
    (tmp_path / "opg-v8" / "v1" / "report.json").write_text("{", encoding="utf-8")

    page = write_overview(tmp_path).read_text(encoding="utf-8")

    assert "report.json cannot be read" in page
    assert page.count(">FAIL<") == 1


def test_names_from_data_cannot_become_markup(tmp_path: Path) -> None:
    """A corpus is named by a stranger's export."""
    put_report(tmp_path, "opg-v8", "v3", ap50=0.4, corpus={"kind": "roboflow", "name": "<script>alert(1)</script>"})

    page = write_overview(tmp_path).read_text(encoding="utf-8")

    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_without_a_report_the_page_says_how_to_get_one(tmp_path: Path) -> None:
    """An empty table would look like a fault."""
    assert "No report yet" in write_overview(tmp_path).read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
