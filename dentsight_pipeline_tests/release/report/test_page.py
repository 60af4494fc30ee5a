"""What all pages have in common: colours that can be read, and no more code than they need."""

from __future__ import annotations

import subprocess
import sys

import jinja2
import pytest

from dentsight_pipeline.release.report import drawing, page


def test_every_text_colour_is_readable_on_its_paper() -> None:
    """WCAG AA: at least 4.5 : 1 in both schemes."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for scheme in page.STYLE.values():
        paper = luminance(scheme["paper"])
        for role in ("ink", "muted", "blue", "orange", "green", "red", "purple"):
            light, dark = sorted((luminance(scheme[role]), paper), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, role


def test_every_role_of_the_figures_has_a_colour_in_both_schemes() -> None:
    """A variable without a value would be drawn in black on black."""
    assert {name: set(scheme) for name, scheme in page.STYLE.items()} == {
        "light": set(drawing.ROLES),
        "dark": set(drawing.ROLES),
    }


def test_the_page_over_all_cells_loads_no_library_that_draws() -> None:
    """It is written after every run; loading matplotlib was an eighth of a run in which nothing changed."""
    program = "import sys, dentsight_pipeline.release.report.overview; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


def test_a_line_of_markdown_means_itself() -> None:
    """No bar that shifts a table, no emphasis, no link, no tag, and no second line."""
    assert page.markdown(" a|b*c_d`e[f]\\ <b>&\n  'x' ") == r"a\|b\*c\_d\`e\[f\]\\ &lt;b&gt;&amp; 'x'"
    assert page.markdown(3) == "3"


def test_a_figure_has_a_true_minus_and_its_absence_a_dash() -> None:
    """Two decimals, as everywhere."""
    assert [page.number(value) for value in (-0.125, 0.5, None)] == ["−0.12", "0.50", "–"]


def test_paper_is_light_in_either_scheme() -> None:
    """A dark page would empty a printer; on screen each scheme has its own paper, page and lines."""
    light, dark, printed = page.stylesheet().splitlines()[:3]

    assert light.startswith(":root { color-scheme: light dark; --ink: #1b2330;")
    assert "--paper: #ffffff; --page: #f4f6f8; --line: #dfe4ea; --amber: #8a5a00;" in light
    assert dark.startswith("@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0;")
    assert "--paper: #171c23; --page: #0f1318; --line: #313a46; --amber: #f2b84b;" in dark
    assert printed.startswith("@media print { :root { --ink: #1b2330;")
    assert printed.endswith("--amber: #8a5a00; --page: #fff; } }")


def test_a_template_that_lacks_a_value_is_an_error_and_values_are_escaped_on_pages_alone() -> None:
    """A hole in a page would be taken for an empty result; Markdown has its own escapes."""
    with pytest.raises(jinja2.UndefinedError):
        page.render("overview.html.j2")

    assert "&lt;b&gt;" in page._environment(autoescape=True).from_string("{{ x }}").render(x="<b>")
    assert page._environment(autoescape=False).from_string("{{ x }}\n").render(x="<b>") == "<b>\n"
