"""The report's page: what stands on it beside the facts, as the lead, the tiles and the interval bars.

Belongs here: what the template cannot say itself. The facts come from `build.py`, tables that the model card shares
from `tables.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from dentsight_pipeline.documents.evaluation import RankedFigures
from dentsight_pipeline.documents.report import Report
from dentsight_pipeline.documents.verdict import BLOCKING_OUTCOMES, GateRow, Verdict
from dentsight_pipeline.release.report import tables
from dentsight_pipeline.release.report.drawing import Picture
from dentsight_pipeline.release.report.gallery import Example
from dentsight_pipeline.release.report.mistakes import ClassMistakes
from dentsight_pipeline.release.report.page import number, render
from dentsight_pipeline.release.wording import bound_text, interval_text

_SCALES = {"paired_delta_ap": (-0.2, 0.2), "paired_delta_ap50": (-0.2, 0.2), "left_minus_right_recall": (-0.5, 0.5)}
_SIGNS = {">=": "≥ ", "<=": "≤ ", "within": "±", ">": "> "}


class Tile(NamedTuple):
    """One large figure at the top."""

    label: str
    value: str
    detail: str


class Bar(NamedTuple):
    """The small interval bar beside a gate; positions in percent."""

    start: float
    end: float
    at: float
    floor: float
    floor2: float
    two: bool
    has_interval: bool
    alt: str


def page(
    report: Report,
    pictures: Mapping[str, Picture | None],
    gallery: Sequence[Example],
    mistakes: Sequence[ClassMistakes],
) -> str:
    """The whole page."""
    verdict = report.verdict
    populations = report.evaluation.populations.items()
    return render(
        "report.html.j2",
        f=report,
        v=verdict,
        tables=tables,
        pictures=pictures,
        gallery=gallery,
        mistakes=mistakes,
        lead=_lead(verdict),
        follow=_follow(verdict),
        tiles=list(_tiles(report)),
        bound_sign=bound_sign,
        interval_bar=interval_bar,
        interval_text=interval_text,
        is_web_link=is_web_link,
        populations=sorted(populations, key=lambda named: (named[0] != verdict.population, named[0])),
        readings={reading.condition: reading for reading in verdict.classes},
    )


def _lead(verdict: Verdict) -> list[str]:
    """The summary alone; the rows that did not pass follow as a list with badges."""
    listed = {row.sentence for row in verdict.rows} | {trigger.sentence for trigger in verdict.triggers}
    first, *more = (sentence for sentence in verdict.sentences if sentence not in listed)
    first = first.removeprefix(f"{verdict.outcome}: ")
    return [first[:1].upper() + first[1:], *more]


def _follow(verdict: Verdict) -> list[GateRow]:
    """The rows that did not pass, hard ones and shown failures first."""
    missed = [row for row in verdict.rows if row.outcome in BLOCKING_OUTCOMES]
    return sorted(missed, key=lambda row: (row.severity != "hard", BLOCKING_OUTCOMES.index(row.outcome)))


def _tiles(report: Report) -> Iterator[Tile]:
    verdict, part = report.verdict, report.evaluation.populations.get(report.verdict.population or "all")
    passed = sum(row.outcome == "PASS" for row in verdict.hard)
    yield Tile("Hard gates passed", f"{passed} of {len(verdict.hard)}", f"{len(verdict.blocking)} block a release")
    if part:
        yield _figure_tile("Macro AP50", part.macro, "ap50")
        yield _figure_tile("Macro AP", part.macro, "ap")
        present = f"{part.macro.present} of {part.macro.of} classes present"
        label = f"Test images ({verdict.population or 'unknown'})"
        yield Tile(label, f"{part.images}", f"from {part.groups} sources; {present}")
    ratio = report.health.ratio_last_to_first if report.health else None
    read = "no reading" if ratio is None else f"last / first layer {number(ratio)}"
    yield Tile("Classification head", verdict.head, read)


def _figure_tile(label: str, figures: RankedFigures, metric: str) -> Tile:
    value, _, interval = interval_text(*figures.figure(metric)).partition(" [")
    return Tile(label, value, f"[{interval} at 90 %" if interval else "no interval")


def bound_sign(row: GateRow) -> str:
    """The bound of a gate as a sign and a number."""
    return "–" if row.floor is None else f"{_SIGNS[row.operator]}{number(row.floor)}"


def interval_bar(row: GateRow) -> Bar | None:
    """The interval against its bound; None where there is nothing to show."""
    if row.value is None or row.floor is None or row.outcome == "NOT EVALUABLE":
        return None
    least, most = _SCALES.get(row.metric, (0.0, 1.0))

    def place(value: float) -> float:
        return round(100 * (min(max(value, least), most) - least) / (most - least), 2)

    is_two = row.operator == "within"
    return Bar(
        start=place(row.value if row.low is None else row.low),
        end=place(row.value if row.high is None else row.high),
        at=place(row.value),
        floor=place(row.floor),
        floor2=place(-row.floor if is_two else row.floor),
        two=is_two,
        has_interval=row.low is not None and row.high is not None,
        alt=f"{interval_text(row.value, row.low, row.high, row.floor)} against {bound_text(row.operator, row.floor)}",
    )


def is_web_link(url: str) -> bool:
    """Only http and https become links; `javascript:` and the like stay text."""
    try:
        return urlsplit(url).scheme in ("http", "https")
    except ValueError:
        return False
