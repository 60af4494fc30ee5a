"""One page over all cells: `index.html` in the folder of reports, with the verdict of each and the way to its report.

It is read off the reports that lie beside it, so it can be made again at any time and decides nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dentsight_pipeline.release.report.page import render
from dentsight_pipeline.store.files import write_whole

PAGE = "index.html"


def write_overview(reports: Path) -> Path:
    """Writes the page over `reports/<dataset>/<recipe>/report.json`; the page is whole at every moment.

    Args:
        reports: The folder of reports; one that cannot be read is listed as such.

    Returns:
        The page's path.
    """
    rows = [_row(path, reports) for path in sorted(reports.glob("*/*/report.json"))]
    rows.sort(key=lambda row: (row["dataset"], -(row["ap50"] if row["ap50"] is not None else -1.0), row["recipe"]))
    write_whole(reports / PAGE, render("overview.html.j2", rows=rows).encode())
    return reports / PAGE


def _row(path: Path, reports: Path) -> dict[str, Any]:
    """What the page says of one report."""
    dataset, recipe = path.parent.relative_to(reports).parts
    row: dict[str, Any] = {
        "dataset": dataset,
        "recipe": recipe,
        "link": f"{dataset}/{recipe}/report.html",
        "problem": None,
        "ap50": None,
    }
    try:
        return row | _facts(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return row | {"problem": f"report.json cannot be read: {type(error).__name__}"}


def _facts(report: Mapping[str, Any]) -> dict[str, Any]:
    verdict, evaluation = report["verdict"], report["evaluation"]
    population = evaluation["populations"][evaluation["gated_population"]]
    macro = population["macro"]
    hard = Counter(row["outcome"] for row in verdict["rows"] if row["severity"] == "hard")
    hard.pop("NOT APPLICABLE", None)
    return {
        "outcome": verdict["outcome"],
        "overridden": bool(verdict["overrides"]),
        "policy": f"{verdict['policy']} v{verdict['policy_version']}",
        "ap50": macro["ap50"],
        "low": macro["ap50_low"],
        "high": macro["ap50_high"],
        "images": population["images"],
        "population": evaluation["gated_population"],
        "hard_passed": hard["PASS"],
        "hard_gates": hard.total(),
        "head": verdict["head"],
        "corpus": report["corpus"]["name"],
        "phantom": report["corpus"]["kind"] == "phantom",
        "checkpoint": next(link["digest"] for link in report["chain"] if link["kind"] == "checkpoint")[:12],
    }
