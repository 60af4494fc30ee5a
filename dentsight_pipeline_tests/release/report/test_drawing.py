"""Panels, legends and titles lie where a reader looks for them, and a picture knows its own size."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from dentsight_pipeline.release.report import drawing
from dentsight_pipeline.release.report.drawing import ROLES, Entry


def test_a_picture_tells_its_size_in_pixels_of_a_screen() -> None:
    """A page may make it smaller, never blow it up: 4 by 2 inches at 96 pixels, and 72 points in its own frame."""
    with drawing.drawing(4, 2) as figure:
        root = ET.fromstring(drawing.picture("empty", figure, "Nothing.").svg)  # our own output

    assert (root.get("viewBox"), root.get("style")) == ("0 0 288 144", "--natural: 384px")


def test_only_the_outer_panels_are_labelled() -> None:
    """Seven panels in two lines: y on the first of a line, x where none stands below."""

    def draw(axes: Any, row: int) -> None:
        axes.plot([row], [row])

    figure: Any = drawing.panels(range(7), draw, ("recall", "precision"))

    assert [bool(axes.get_ylabel()) for axes in figure.axes] == [True, *[False] * 4, True, False]
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, False, *[True] * 5]
    assert [axes.lines[0].get_xdata()[0] for axes in figure.axes] == [*range(7)]
    words = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert words == [["0", ".5", "1"], *[["", "", ""]] * 4, ["0", ".5", "1"], ["", "", ""]]


def test_panels_stand_in_lines_of_five_of_one_size() -> None:
    """Whoever compares classes compares along a line."""
    figure = drawing.panels(range(6), lambda axes, row: None, ("", ""), [Entry("recall", "blue", "-")])
    boxes = [axes.get_position() for axes in figure.axes]

    assert figure.get_size_inches() == pytest.approx((10.8, 0.32 + 2 * 1.72 + 0.3))
    assert len({(round(box.width, 6), round(box.height, 6)) for box in boxes}) == 1
    assert len({round(box.y0, 6) for box in boxes[:5]}) == 1
    assert 0 < boxes[0].x0 < boxes[4].x1 < 1
    assert 0 < boxes[5].y0 < boxes[0].y1 < 1
    steps = [(after.x0 - before.x0) * 10.8 for before, after in pairwise(boxes[:5])]
    assert steps == pytest.approx([steps[0]] * 4)
    assert (boxes[5].x0, (boxes[0].y0 - boxes[5].y0) * figure.get_figheight()) == pytest.approx((boxes[0].x0, 1.72))


@pytest.mark.parametrize("style", ["-", "bar"])
def test_each_sign_of_a_legend_stands_close_before_its_words(style) -> None:
    """Between two of them nobody could tell to which words a colour belongs."""
    entries = [Entry("found", "blue", style), Entry("a long word or two", "red", style), Entry("x", "green", style)]
    with drawing.drawing(6, 3) as figure:
        drawing.legend(figure, entries)
    figure.set_dpi(100)
    renderer = FigureCanvasAgg(figure).get_renderer()
    signs: list[Any] = list(figure.artists)
    boxes = [sign.get_window_extent(renderer) for sign in signs]
    words = [text.get_window_extent(renderer) for text in figure.texts]

    assert [text.get_text() for text in figure.texts] == [entry.words for entry in entries]
    colors = [to_hex(sign.get_facecolor() if style == "bar" else sign.get_color()) for sign in signs]
    assert colors == [ROLES[entry.role] for entry in entries]
    for sign, word in zip(boxes, words, strict=True):
        assert 15 < sign.width < 30
        assert 0 < word.x0 - sign.x1 < 15
        assert sign.y0 >= word.y0 - 2
        assert sign.y1 <= word.y1 + 2
    assert all(20 < after.x0 - before.x1 < 60 for before, after in zip(words[:-1], boxes[1:], strict=True))
    assert 270 < words[0].y0 < words[0].y1 < 300


def test_a_title_that_is_too_long_for_its_panel_is_cut_where_it_still_tells_the_class() -> None:
    """23 letters fit; of 24 the first 22 are kept, and a sign that more follows."""
    with drawing.drawing(4, 2) as figure:
        first, second = (figure.add_axes((0.5 * k, 0, 0.4, 0.6)) for k in range(2))
        drawing.subtitle(first, "a" * 23, "AP50 0.40")
        drawing.subtitle(second, "a" * 24, "AP50 0.40")
    detail: Any = first.texts[0]

    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("a" * 23, "a" * 22 + "…")
    assert (detail.get_text(), detail.xy, detail.xycoords) == ("AP50 0.40", (0, 1), "axes fraction")


def test_words_beside_a_point_begin_four_points_to_its_right() -> None:
    """At its height: the value behind a bar."""
    with drawing.drawing(4, 2) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        drawing.beside(axes, (0.25, 0.5), "0.25")
    words: Any = axes.texts[0]

    assert (words.xy, words.xyann, words.anncoords, words.get_va()) == ((0.25, 0.5), (4, 0), "offset points", "center")
    assert to_hex(words.get_color()) == ROLES["muted"]
