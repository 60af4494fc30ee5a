"""What the HTML pages of this room have in common: the template environment and the style sheet.

What a page shows is decided in `build.py` and `overview.py`. No library that draws is loaded here: the page over all
cells is written after every run, also where nothing changed.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dentsight_pipeline.release.wording import number_text

_TEMPLATES = Path(__file__).parent / "templates"

STYLE = {
    "light": {
        "ink": "#1b2330",
        "muted": "#5b6675",
        "grid": "#dfe4ea",
        "blue": "#0063a6",
        "orange": "#b25c00",
        "green": "#00785a",
        "red": "#b3261e",
        "purple": "#8f3f7c",
        "paper": "#ffffff",
    },
    "dark": {
        "ink": "#e7ebf0",
        "muted": "#a2adba",
        "grid": "#343d49",
        "blue": "#5fb3f0",
        "orange": "#f0a94b",
        "green": "#46c9a0",
        "red": "#ff8a80",
        "purple": "#e39ccf",
        "paper": "#171c23",
    },
}
"""Role of `release/report/drawing.py`, a CSS variable here → its value, in both colour schemes.

The contrast of text on paper is at least 4.5 : 1.
"""


def render(template: str, **values: Any) -> str:
    """A page of this room from its template; every value is escaped, and a missing one is an error.

    Args:
        template: File name in `templates/`.
        values: What the template names; `css` is added.
    """
    return _environment(autoescape=True).get_template(template).render(css=Markup(stylesheet()), **values)


def render_text(template: str, **values: Any) -> str:
    """A Markdown file of this room from its template, which escapes what comes from data with `| text`."""
    return _environment(autoescape=False).get_template(template).render(**values)


def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"num": number, "text": markdown}
    return environment


def markdown(value: object) -> str:
    """One line of Markdown that means itself: no HTML, no table bars, no emphasis, no links."""
    line = escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", line)


def stylesheet() -> str:
    """The style sheet: the figures' colour roles in both schemes, then the layout; paper is always light."""
    more = {
        "light": {"page": "#f4f6f8", "line": "#dfe4ea", "amber": "#8a5a00"},
        "dark": {"page": "#0f1318", "line": "#313a46", "amber": "#f2b84b"},
    }
    schemes = {
        name: " ".join(f"--{role}: {value};" for role, value in (STYLE[name] | more[name]).items()) for name in more
    }
    layout = (_TEMPLATES / "report.css").read_text("utf-8")
    return (
        f":root {{ color-scheme: light dark; {schemes['light']} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {schemes['dark']} }} }}\n"
        f"@media print {{ :root {{ {schemes['light']} --page: #fff; }} }}\n{layout}"
    )


def number(value: float | None) -> str:
    """A figure as the pages print it; a dash for what was not measured."""
    return "–" if value is None else number_text(value).replace("-", "−")
