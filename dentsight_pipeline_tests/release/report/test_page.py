"""What all pages have in common: colours that can be read, and no more code than they need."""

from __future__ import annotations

import subprocess
import sys

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
