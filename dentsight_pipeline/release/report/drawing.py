"""How a figure is drawn and becomes an element of a page: sizes, colours as roles, panels, legends, inline SVG.

The bytes are the same for the same input: no dates, no global state (`pyplot` is not used), ids derived from the
figure's name. Colours come out as CSS variables (`var(--ink)`, …), so one figure serves a light, a dark and a printed
page; what value a role has is said in `page.py`. What is drawn is the business of `plots.py`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")

ROLES = {
    "ink": "#010101",
    "muted": "#020202",
    "grid": "#030303",
    "blue": "#040404",
    "orange": "#050505",
    "green": "#060606",
    "red": "#070707",
    "purple": "#080808",
    "paper": "#090909",
}
"""Stand-ins drawn by matplotlib and replaced by `var(--<role>)` in the finished SVG."""

WIDTH_IN = 10.8
"""Of a figure that fills the page."""
_COLUMNS = 5
_PANEL_IN = 1.72
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class name with two dollar signs is text, not a formula
    "font.size": 8.5,
    "font.family": "sans-serif",
    "axes.titlesize": 9,
    "text.color": ROLES["ink"],
    "axes.labelcolor": ROLES["muted"],
    "axes.edgecolor": ROLES["grid"],
    "xtick.color": ROLES["grid"],
    "ytick.color": ROLES["grid"],
    "xtick.labelcolor": ROLES["ink"],
    "ytick.labelcolor": ROLES["ink"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "grid.color": ROLES["grid"],
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Picture:
    """One finished figure."""

    name: str
    """Short identifier, unique on a page."""
    svg: str
    """An `<svg role="img">` element with its own alternative text."""
    alt: str
    """The same alternative text."""


class Entry(NamedTuple):
    """One entry of a legend."""

    words: str
    role: str
    style: Literal["-", "--", ":", "bar"]
    """A line style, or `bar`."""


@contextmanager
def drawing(width_in: float, height_in: float) -> Iterator[Figure]:
    """A figure under this room's settings of matplotlib, which are restored afterwards."""
    with matplotlib.rc_context(_SETTINGS):
        yield Figure(figsize=(width_in, height_in))


def picture(name: str, figure: Figure, alt: str) -> Picture:
    """A drawn figure as an element of a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)
    return Picture(name, _inline(buffer.getvalue(), name, alt), alt)


def _inline(svg: str, name: str, alt: str) -> str:
    """Matplotlib's file as an element for a page: no prologue, unique ids, colours and font left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    box = svg.partition('viewBox="')[2].partition('"')[0]
    _, _, width_pt, _ = map(float, box.split())
    element = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{escape(alt, quote=True)}" viewBox="{box}" '
        f'style="--natural: {width_pt * 4 / 3:.0f}px">'
    )
    svg = re.sub(r"<svg[^>]*>", lambda _: element, svg, count=1)  # a function: a label may hold backslashes
    svg = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r"font-family: [^;\"]+; ?", "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", svg)
    svg = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    for role, stand_in in ROLES.items():
        svg = svg.replace(stand_in, f"var(--{role})")
    return svg.strip()


# Parts of figures ----------------------------------------------------------------------------------------------------


def panels(
    rows: Sequence[T],
    draw: Callable[[Axes, T], None],
    labels: tuple[str, str],
    entries: Sequence[Entry] = (),
    *,
    share_y_ticks: bool = True,
) -> Figure:
    """One small panel a row, five abreast, with labels (x, y) on the outer panels only."""
    top = 0.32 if entries else 0.05
    height = top + _PANEL_IN * -(-len(rows) // _COLUMNS) + 0.3
    left, gap = (0.045, 0.022) if share_y_ticks else (0.05, 0.034)
    width = (1 - left - 0.01) / _COLUMNS
    with drawing(WIDTH_IN, height) as figure:
        for place, row in enumerate(rows):
            line, column = divmod(place, _COLUMNS)
            bottom = 1 - (top + _PANEL_IN * (line + 1) - 0.12) / height
            axes = figure.add_axes((left + column * width, bottom, width - gap, 1.22 / height))
            draw(axes, row)
            _panel_ticks(axes, column == 0, share_y_ticks)
            _panel_labels(axes, labels, column == 0, place + _COLUMNS >= len(rows))
        legend(figure, entries)
    return figure


def _panel_ticks(axes: Axes, is_first: bool, share_y_ticks: bool) -> None:
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    if share_y_ticks:
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"] if is_first else ["", "", ""])
    axes.tick_params(labelsize=7.5, pad=2)


def _panel_labels(axes: Axes, labels: tuple[str, str], is_first: bool, is_last: bool) -> None:
    if is_first:
        axes.set_ylabel(labels[1], fontsize=8, labelpad=2)
    if is_last:
        axes.set_xlabel(labels[0], fontsize=8, labelpad=2)


def legend(figure: Figure, entries: Iterable[Entry]) -> None:
    """A one-line legend along the top."""
    width, height = figure.get_size_inches()
    x, y = 0.35, 1 - 0.13 / height
    for words, role, style in entries:
        color = ROLES[role]
        if style == "bar":
            corner = (x / width, y - 0.055 / height)
            sign = Rectangle(corner, 0.2 / width, 0.11 / height, alpha=0.75, linewidth=0, color=color)
        else:
            sign = Line2D([x / width, (x + 0.26) / width], [y, y], linestyle=style, linewidth=1.6, color=color)
        figure.add_artist(sign)
        figure.text((x + 0.33) / width, y, words, va="center_baseline", fontsize=8.5)
        x += 0.62 + 0.075 * len(words)


def subtitle(axes: Axes, name: str, detail: str) -> None:
    """What a panel shows, and its figure."""
    shown = name if len(name) <= 23 else f"{name[:22]}…"
    axes.set_title(shown, loc="left", fontsize=8.5, fontweight="bold", pad=14)
    beside(axes, (0, 1), detail, (0, 3.5), xycoords="axes fraction", va="baseline", fontsize=7.5)


def beside(axes: Axes, at: tuple[float, float], words: str, by: tuple[float, float] = (4, 0), **more: Any) -> None:
    """Words near a point, e.g. a value to the right of a bar's end."""
    style = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": ROLES["muted"], **more}
    axes.annotate(words, at, by, **style)


def listed(items: Iterable[tuple[str, str]]) -> str:
    """Names and what is said of each, as the end of an alternative text."""
    return "; ".join(f"{name}: {words}" for name, words in items) + "."


def short(value: float | None) -> str:
    """A figure in two decimals."""
    return "–" if value is None else f"{value:.2f}"
