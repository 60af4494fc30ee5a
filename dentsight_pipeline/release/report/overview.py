"""One page over all cells: `index.html` in the folder of reports, with the verdict of each and the way to its report.

It is read off the reports that lie beside it, so it can be made again at any time and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dentsight_pipeline.documents.codec import read
from dentsight_pipeline.documents.evaluation import Population
from dentsight_pipeline.documents.names import CorpusKind, Kind
from dentsight_pipeline.documents.report import Report
from dentsight_pipeline.errors import DocumentError
from dentsight_pipeline.release.report.page import render
from dentsight_pipeline.store.files import write_whole

PAGE = "index.html"


@dataclass(frozen=True)
class _Cell:
    """One cell's report, or why it cannot be shown."""

    dataset: str
    recipe: str
    report: Report | None
    problem: str | None = None

    @property
    def population(self) -> Population | None:
        """The images that its gates read."""
        return self.report.evaluation.gated if self.report else None

    @property
    def ap50(self) -> float | None:
        """The figure that cells are ordered by."""
        return self.population.macro.ap50 if self.population else None

    @property
    def checkpoint(self) -> str:
        """The start of its digest."""
        chain = self.report.chain if self.report else ()
        return next((link.digest[:12] for link in chain if link.kind == Kind.CHECKPOINT), "–")

    @property
    def phantom(self) -> bool:
        """Whether its images are drawn."""
        corpus = self.report.corpus if self.report else None
        return corpus is not None and corpus.kind == CorpusKind.PHANTOM


def write_overview(reports: Path) -> Path:
    """Writes the page over `reports/<dataset>/<recipe>/report.json`; the page is whole at every moment.

    Args:
        reports: The folder of reports; one that cannot be read is listed as such.

    Returns:
        The page's path.
    """
    rows = [_cell(path) for path in sorted(reports.glob("*/*/report.json"))]
    rows.sort(key=lambda row: (row.dataset, -(row.ap50 if row.ap50 is not None else -1.0), row.recipe))
    write_whole(reports / PAGE, render("overview.html.j2", rows=rows).encode())
    return reports / PAGE


def _cell(path: Path) -> _Cell:
    dataset, recipe = path.parts[-3:-1]
    try:
        return _Cell(dataset, recipe, read(path.read_bytes(), Report, path))
    except (OSError, DocumentError) as error:
        return _Cell(dataset, recipe, None, f"report.json cannot be read: {type(error).__name__}")
