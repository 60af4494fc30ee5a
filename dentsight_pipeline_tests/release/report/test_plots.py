"""Figures are self-contained elements: safe with any class name, the same bytes each time, and silent without data."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from msgspec import structs

from dentsight_pipeline.documents.evaluation import (
    Afroc,
    Bounds,
    ClassRow,
    Confusion,
    Curve,
    ErrorCounts,
    Froc,
    FrocPoints,
    ReliabilityBin,
)
from dentsight_pipeline.documents.health import LayerScore
from dentsight_pipeline.release.report import plots
from dentsight_pipeline.release.report.drawing import ROLES, Picture

EVIL = "</svg><script>alert(1)</script>\"onload='x' $\\frac{1}{0}$"
AFROC = Afroc(
    normal_images=4,
    diseased_images=4,
    findings=5,
    wafroc=Bounds(value=0.6),
    afroc=Bounds(),
    false_positive_fraction=(0.0, 0.25, 0.5, 1.0),
    weighted_sensitivity=(0.0, 0.4, 0.8, 1.0),
)


def _row(name: str, **figures: float | None) -> ClassRow:
    return ClassRow(class_name=name, n_gt=9, n_images=5, n_detections=12, **figures)


def _rows(names: list[str]) -> list[ClassRow]:
    figures = {"ap": 0.4, "ap_low": 0.3, "ap50": 0.5, "best_f1": 0.6, "threshold_best_f1": 0.4}
    return [_row(name, **figures, ap_small=0.1, ap_large=0.3) for name in names]


def _curves(names: list[str]) -> dict[str, Curve]:
    ramp = tuple(i / 100 for i in range(101))
    return {name: Curve(**dict.fromkeys(Curve.__struct_fields__, ramp)) for name in names}


def _errors(names: list[str]) -> dict[str, ErrorCounts]:
    counts = ErrorCounts(class_confusion=0, localisation=1, duplicate=0, background=2, missed=3)
    return dict.fromkeys(names, counts)


def _bin(number: int, n: int) -> ReliabilityBin:
    return ReliabilityBin(low=number / 15, high=(number + 1) / 15, n=n, mean_score=number / 15, precision=0.5)


def _layer(number: int, score: float | None) -> LayerScore:
    return LayerScore(layer=number, mean_max_score=score, supervised_by_normal_queries=True, scores_at_inference=True)


def _all(names: list[str]) -> list[plots.Picture | None]:
    """Every figure of the module on made-up numbers."""
    hits = pd.DataFrame({"class": names, "score": 0.9, "kind": "tp"})
    matches = pd.concat([hits, hits.assign(score=0.2, kind="background")])
    bins = [_bin(i, i) for i in range(15)]
    pooled = FrocPoints(sensitivity=(0.2, 0.4), low=(0.1, None), high=(0.3, None), mean=Bounds())
    ones = ((1,) * (len(names) + 1),) * (len(names) + 1)
    return [
        plots.class_intervals(_rows(names), {names[0]: 0.3}),
        plots.precision_recall_curves(_curves(names), _rows(names)),
        plots.threshold_curves(_curves(names), _rows(names)),
        plots.score_histograms(matches, _rows(names)),
        plots.confusion_matrix(Confusion(labels=(*names, "background"), matrix=ones)),
        plots.error_types(_errors(names), names),
        plots.reliability_diagram(bins, bins),
        plots.ap_by_size(_rows(names)),
        plots.froc_curve(Froc(false_positives_per_image=(0.5, 1.0), classes={"all": pooled})),
        plots.wafroc_curves(dict.fromkeys(names, AFROC)),
        plots.layer_scores([_layer(0, 0.5), _layer(1, 0.5)]),
    ]


@pytest.mark.parametrize("names", [["caries", "crown"], [EVIL, "$x$"]])
def test_every_figure_is_one_well_formed_element_with_an_alternative_text(names):
    """A class name with a tag or a dollar sign must neither break the page nor the drawing (mathtext is off)."""
    for picture in _all(names):
        assert picture is not None
        root = ET.fromstring(picture.svg)  # our own output
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("role") == "img"
        assert root.get("aria-label") == picture.alt
        assert "<script" not in picture.svg
        if names[1] in picture.alt:
            assert names[1] in "".join(root.itertext())


def test_the_same_data_gives_the_same_bytes():
    """Figures are part of a report with a digest; matplotlib puts dates and random ids in by default."""
    first, second = _all(["caries", "crown"]), _all(["caries", "crown"])

    assert first == second
    assert not re.search(r"20\d\d-\d\d-\d\d", "".join(p.svg for p in first if p))


def test_colours_are_roles():
    """A fixed colour would vanish on a dark page or on paper."""
    for picture in _all(["caries"]):
        assert picture is not None
        assert re.findall(r"#[0-9a-fA-F]{6}\b", picture.svg) == []
        assert "var(--" in picture.svg


def test_ids_of_two_figures_never_meet():
    """Inline figures share one page; a clip path of the same id would cut another figure."""
    pictures = [p for p in _all(["caries"]) if p]

    ids = [set(re.findall(r' id="([^"]+)"', p.svg)) for p in pictures]
    assert sum(map(len, ids)) == len(set().union(*ids))
    for picture, own in zip(pictures, ids, strict=True):
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', picture.svg))
        assert {a or b for a, b in used} <= own


def test_without_data_there_is_no_figure():
    """An empty frame would look like a result."""
    empty = Curve(recall=(), precision=None, score=(), f1=(), precision_by_score=(), recall_by_score=())
    assert plots.class_intervals([_row("caries")], {"caries": 0.3}) is None
    assert plots.precision_recall_curves({}, _rows(["caries"])) is None
    assert plots.precision_recall_curves({"caries": empty}, _rows(["caries"])) is None
    assert plots.threshold_curves({"caries": empty}, _rows(["caries"])) is None
    assert plots.score_histograms(pd.DataFrame({"class": [], "score": [], "kind": []}), _rows(["caries"])) is None
    assert plots.confusion_matrix(None) is None
    assert plots.confusion_matrix(Confusion(labels=(), matrix=())) is None
    assert plots.confusion_matrix(Confusion(labels=("a", "background"), matrix=((1,),))) is None
    assert plots.error_types({}, ["caries"]) is None
    assert plots.reliability_diagram([_bin(0, 0)], []) is None
    assert plots.ap_by_size([_row("caries")]) is None
    assert plots.froc_curve(None) is None
    assert plots.wafroc_curves({"caries": structs.replace(AFROC, wafroc=Bounds())}) is None
    assert plots.layer_scores([_layer(0, None)]) is None


def test_the_weakest_class_comes_first_with_its_interval_and_floor():
    """Which class is wrong is the first question; a class without ground truth has no place in the order."""
    rows = [
        _row("crown", ap=0.6, ap_low=0.5, ap_high=0.7, ap50=0.9),
        _row("caries", ap=0.04, ap_low=0.03, ap_high=0.05, ap50=0.2),
        _row("bridge"),
    ]

    picture = plots.class_intervals(rows, {"caries": 0.3})

    assert picture is not None
    assert picture.alt.endswith(
        "caries: AP 0.04 from 0.03 to 0.05, floor 0.30, AP50 0.20; crown: AP 0.60 from 0.50 to 0.70, AP50 0.90."
    )
    labels = "".join(ET.fromstring(picture.svg).itertext())  # our own output
    assert labels.index("caries") < labels.index("crown")
    assert "bridge" not in labels


# What is drawn -------------------------------------------------------------------------------------------------------

Drawn = Callable[[], list[Any]]
"""Figures, whose parts matplotlib types too broadly to be read back."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """The figures that pictures were made from so far, in the order of making."""
    figures: list[Any] = []

    def kept(name: str, figure: Figure, alt: str) -> Picture:
        figures.append(figure)
        return Picture(name, "", alt)

    monkeypatch.setattr(plots, "picture", kept)
    return lambda: figures


def _role(color: Any) -> str:
    """The role of a colour that was drawn."""
    return {stand_in: role for role, stand_in in ROLES.items()}[to_hex(color)]


def _ticks(axes: Any, which: str) -> dict[str, float]:
    """The labels of an axis, and where."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    return {text.get_text(): float(at) for text, at in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)}


def _shown(figure: Any) -> Iterator[Text]:
    """Every text of a figure but the labels of ticks beyond an axis' end, which are not drawn."""
    beyond = {
        id(tick.label1)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    yield from (t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and id(t) not in beyond)


def test_all_panels_and_words_lie_on_the_figure_and_none_on_another(drawn: Drawn) -> None:
    """What is cut off or written over cannot be read, and nobody looks at all figures of all reports."""
    _all([f"{number} lesion" for number in range(6)])  # one more than stand abreast

    for figure in drawn():
        figure.set_dpi(72)
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)  # which puts the labels of axes in their places
        panels = [axes.get_window_extent(renderer) for axes in figure.axes]
        words = [text.get_window_extent(renderer).padded(-1, -2) for text in _shown(figure)]
        sheet = figure.bbox.padded(1)
        assert sheet.width < 780  # 10.8 inches, the page
        assert sheet.height < 440
        for box in (*panels, *words, *(sign.get_window_extent(renderer) for sign in figure.artists)):
            assert sheet.contains(*box.min), figure
            assert sheet.contains(*box.max), figure
        assert not [pair for pair in combinations(panels, 2) if Bbox.intersection(*pair)]
        assert not [pair for pair in combinations(words, 2) if Bbox.intersection(*pair)]
        assert min(box.width for box in panels) > 90
        assert min(box.height for box in panels) > 20


def test_a_figure_of_several_colours_says_what_each_means(drawn: Drawn) -> None:
    """In its own legend; one of a single colour needs none."""
    _all(["caries", "crown"])

    words = [[text.get_text() for text in figure.texts] for figure in drawn()]

    assert [own for own in words if own] == [
        ["90 % interval", "floor of the gate"],
        ["precision", "recall", "F1", "threshold"],
        ["matched", "unmatched"],
        ["wrong class", "badly placed", "found twice", "nothing there", "missed"],
        ["small boxes", "medium boxes", "large boxes"],
    ]


def test_intervals_points_and_floors_lie_at_their_figures(drawn: Drawn) -> None:
    """The weakest class on top, and the floor of AP is none of AP50."""
    rows = [
        _row("crown", ap=0.6, ap_low=0.5, ap_high=0.7, ap50=0.9),
        _row("caries", ap=0.2, ap_low=0.1, ap_high=0.3, ap50=0.4, ap50_low=0.35),
    ]

    plots.class_intervals(rows, {"caries": 0.25})

    ap, ap50 = drawn()[0].axes
    lines = [(_role(line.get_color()), line.get_xydata().tolist()) for line in ap.lines]
    assert lines[:2] == [("blue", [[0.1, 0.0], [0.3, 0.0]]), ("blue", [[0.2, 0.0]])]
    assert lines[2] == ("red", [[0.25, pytest.approx(-0.36)], [0.25, pytest.approx(0.36)]])
    assert lines[3:] == [("blue", [[0.5, 1.0], [0.7, 1.0]]), ("blue", [[0.6, 1.0]])]
    assert [line.get_xydata().tolist() for line in ap50.lines] == [[[0.4, 0.0]], [[0.9, 1.0]]]
    assert _ticks(ap, "y") == {"caries": 0, "crown": 1}
    assert {*_ticks(ap50, "y")} == {""}
    assert (ap.get_xlabel(), ap50.get_xlabel()) == ("AP", "AP50")
    assert ap.get_xlim() == ap50.get_xlim() == pytest.approx((0, 1), abs=0.02)
    assert ap.get_ylim() == pytest.approx((1.5, -0.5), abs=0.11)


def test_curves_are_drawn_through_their_points(drawn: Drawn) -> None:
    """A long one by fewer points, first and last among them, and with the threshold in use."""
    scores = np.linspace(1, 0, 481)
    curve = Curve(
        recall=(0.0, 0.5, 1.0),
        precision=(1.0, 0.8, 0.1),
        score=tuple(scores),
        f1=tuple(scores / 2),
        precision_by_score=tuple(scores),
        recall_by_score=tuple(1 - scores),
    )

    plots.precision_recall_curves({"caries": curve}, _rows(["caries", "crown"]))
    plots.threshold_curves({"caries": curve}, _rows(["caries", "crown"]))

    (recalls,), (thresholds,) = (figure.axes for figure in drawn())
    (line,) = recalls.lines
    assert (line.get_xydata().tolist(), line.get_drawstyle()) == ([[0, 1], [0.5, 0.8], [1, 0.1]], "steps-post")
    assert (recalls.get_xlabel(), recalls.get_ylabel()) == ("recall", "precision")
    *lines, mark = thresholds.lines
    assert [len(line.get_xdata()) for line in lines] == [160] * 3
    assert np.diff(lines[0].get_xdata()) == pytest.approx(-1 / 159, abs=0.0025)
    assert [line.get_xdata()[[0, -1]].tolist() for line in lines] == [[1, 0]] * 3
    drawn_at = {_role(line.get_color()): line.get_ydata()[[0, -1]].tolist() for line in lines}
    assert drawn_at == {"blue": [1, 0], "orange": [0, 1], "green": [0.5, 0]}
    assert np.ravel(mark.get_xdata()).tolist() == [0.4, 0.4]
    for axes in (recalls, thresholds):
        assert axes.get_xlim() == (0, 1)
        assert axes.get_ylim() == pytest.approx((0, 1), abs=0.04)
        assert _ticks(axes, "x") == _ticks(axes, "y") == {"0": 0, ".5": 0.5, "1": 1}
        assert axes.get_title(loc="left") == "caries"


def test_scores_are_counted_in_25_bins_from_0_to_1(drawn: Drawn) -> None:
    """Matched and unmatched apart, on a scale of powers of ten that starts under a single detection."""
    scores = [0.01] * 120_000 + [1.0] * 3 + [0.5] * 2
    kinds = ["background"] * 120_000 + ["tp"] * 3 + ["background"] * 2
    matches = pd.DataFrame({"class": "caries", "score": [*scores, None], "kind": [*kinds, "missed"]})

    told = plots.score_histograms(matches, _rows(["caries"]))

    (axes,) = drawn()[0].axes
    filled, outline = axes.patches[::2], axes.patches[1::2]
    for stairs in (filled, outline):
        colors = [own.get_facecolor() if own.get_fill() else own.get_edgecolor() for own in stairs]
        counts = {_role(color): own.get_data().values for color, own in zip(colors, stairs, strict=True)}
        assert {role: np.flatnonzero(found > 0.5).tolist() for role, found in counts.items()} == {
            "orange": [0, 12],
            "blue": [24],
        }
        assert (counts["orange"][[0, 12]].tolist(), counts["blue"][24]) == ([120_000, 2], 3)
        assert {len(own.get_data().edges) for own in stairs} == {26}
        assert [np.unique(own.get_data().baseline).tolist() for own in stairs] == [[0.5]] * 2
    assert [own.get_fill() for own in axes.patches] == [True, False] * 2
    assert (axes.get_yscale(), axes.get_ylim()[0], axes.get_xlim()) == ("log", 0.5, (0, 1))
    labels = {"1": 1, "10": 10, "100": 100, "1 000": 1000, "10 000": 10_000, "100 000": 100_000}
    assert _ticks(axes, "y") == labels
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("score", "detections")
    assert [text.get_text() for text in axes.texts] == ["3 matched, 120002 not"]
    assert told is not None
    assert told.alt.endswith("caries: median matched 1.00, unmatched 0.01.")


def test_a_confusion_stands_in_the_row_of_the_truth_and_is_shaded_by_its_share_of_it(drawn: Drawn) -> None:
    """Right ones in blue, mistakes in orange; a cell without any has a point."""
    matrix = ((6, 2, 0), (0, 5, 0), (1, 3, 0))

    told = plots.confusion_matrix(Confusion(labels=("caries", "crown", "background"), matrix=matrix))

    (axes,) = drawn()[0].axes
    at = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert {(place, word) for place, word in at if word != "·"} == {
        ((0.5, 0.5), "6"),
        ((1.5, 0.5), "2"),
        ((1.5, 1.5), "5"),
        ((0.5, 2.5), "1"),
        ((1.5, 2.5), "3"),
    }
    assert len(at) == 9
    shades = {
        tuple(cell.get_paths()[0].get_extents().extents): (_role(cell.get_facecolor()[0, :3]), cell.get_alpha())
        for cell in axes.collections
    }
    assert shades == {
        (0, 0, 1, 1): ("blue", pytest.approx(0.07 + 0.6 * 0.75)),
        (1, 0, 2, 1): ("orange", pytest.approx(0.07 + 0.6 * 0.25)),
        (1, 1, 2, 2): ("blue", pytest.approx(0.67)),
        (0, 2, 1, 3): ("orange", pytest.approx(0.07 + 0.6 * 0.25)),
        (1, 2, 2, 3): ("orange", pytest.approx(0.07 + 0.6 * 0.75)),
    }
    assert _ticks(axes, "x") == _ticks(axes, "y") == {"caries": 0.5, "crown": 1.5, "background": 2.5}
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 3), (3, 0))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("found as", "truth")
    assert [np.ravel(line.get_ydata())[0] for line in axes.lines[::2]] == [0, 1, 2, 3]
    assert [np.ravel(line.get_xdata())[0] for line in axes.lines[1::2]] == [0, 1, 2, 3]
    assert not any(side.get_visible() for side in axes.spines.values())
    assert told is not None
    assert told.alt.endswith(": background found as crown: 3; caries found as crown: 2; background found as caries: 1.")


def test_the_five_most_frequent_confusions_are_told_and_none_where_there_is_none() -> None:
    """A reader who hears the page needs the worst, not all of 182 cells."""
    matrix = ((0, 1, 2), (3, 0, 4), (5, 6, 0))
    most = plots.confusion_matrix(Confusion(labels=("a", "b", "c"), matrix=matrix))
    none = plots.confusion_matrix(Confusion(labels=("a", "b"), matrix=((1, 0), (0, 2))))

    assert most is not None
    assert re.findall(r"(\w) found as (\w): (\d)", most.alt) == [
        ("c", "b", "6"),
        ("c", "a", "5"),
        ("b", "c", "4"),
        ("b", "a", "3"),
        ("a", "c", "2"),
    ]
    assert none is not None
    assert none.alt.endswith("off the diagonal: none.")


def test_errors_of_a_class_are_stacked_end_to_end(drawn: Drawn) -> None:
    """Each bar begins where the one before it ends, and their sum stands behind the last."""
    counts = ErrorCounts(class_confusion=1, localisation=2, duplicate=0, background=3, missed=4)

    told = plots.error_types(
        {"caries": counts, "crown": structs.replace(counts, missed=0)}, ["crown", "bridge", "caries"]
    )

    (axes,) = drawn()[0].axes
    bars = [
        [(_role(bar.get_facecolor()), bar.get_x(), bar.get_width()) for bar in stack if bar.get_width()]
        for stack in (axes.patches[::2], axes.patches[1::2])
    ]
    assert bars == [
        [("purple", 0, 1), ("blue", 1, 2), ("orange", 3, 3)],
        [("purple", 0, 1), ("blue", 1, 2), ("orange", 3, 3), ("red", 6, 4)],
    ]
    assert {text.get_text(): text.xy for text in axes.texts} == {"6": (6, 0), "10": (10, 1)}
    assert _ticks(axes, "y") == {"crown": 0, "caries": 1}
    assert axes.get_xlim() == pytest.approx((0, 10.8))
    assert axes.get_ylim() == pytest.approx((1.5, -0.5), abs=0.11)
    assert told is not None
    assert "caries: wrong class 1, badly placed 2" in told.alt


def test_reliability_is_drawn_at_the_mean_score_of_a_bin(drawn: Drawn) -> None:
    """Over a bin's whole width, its dot larger with more detections; an empty bin has no dot."""
    bins = [
        ReliabilityBin(low=0.2, high=0.4, n=4, mean_score=0.25, precision=0.5),
        ReliabilityBin(low=0.4, high=0.6, n=0, mean_score=None, precision=None),
        ReliabilityBin(low=0.6, high=0.8, n=16, mean_score=0.7, precision=0.75),
    ]

    told = plots.reliability_diagram(bins, [structs.replace(bins[0], precision=0.0)])

    before, after = drawn()[0].axes
    ideal, *dots = before.lines
    assert ideal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [dot.get_xydata().tolist() for dot in dots] == [[[0.25, 0.5]], [[0.7, 0.75]]]
    assert [_role(dot.get_color()) for dot in (*dots, *after.lines[1:])] == ["blue", "blue", "orange"]
    assert [dot.get_markersize() for dot in dots] == [5.0, 7.5]
    fills = [np.round(part.get_paths()[0].get_extents().extents, 3).tolist() for part in before.collections]
    assert fills == [[0.204, 0, 0.396, 0.5], [0.604, 0, 0.796, 0.75]]
    assert after.lines[1].get_xydata().tolist() == [[0.25, 0.0]]
    assert [text.get_text() for axes in (before, after) for text in axes.texts] == ["20 detections", "4 detections"]
    assert [axes.get_ylabel() for axes in (before, after)] == ["precision", ""]
    assert before.get_xlim() == (0, 1)
    assert before.get_ylim() == pytest.approx((0, 1), abs=0.04)
    assert told is not None
    assert "as scored: score 0.25 precision 0.50, score 0.70 precision 0.75; after Platt scaling: score" in told.alt


def test_ap_by_size_has_three_bars_a_class_side_by_side(drawn: Drawn) -> None:
    """Without boxes of a size there is a dash in the place of the bar: 0 would be a result."""
    rows = [_row("caries", ap_small=0.1, ap_medium=0.2, ap_large=0.3), _row("bridge"), _row("crown", ap_large=0.9)]

    told = plots.ap_by_size(rows)

    (axes,) = drawn()[0].axes
    bars = [(_role(bar.get_facecolor()), round(bar.get_center()[0], 6), bar.get_height()) for bar in axes.patches]
    assert bars == [("orange", -0.26, 0.1), ("blue", 0, 0.2), ("green", 0.26, 0.3), ("green", 1.26, 0.9)]
    assert all(bar.get_width() < 0.26 for bar in axes.patches)
    assert [text.get_position()[0] for text in axes.texts] == [0.74, 1]
    assert [text.get_text() for text in axes.texts] == ["–", "–"]
    assert _ticks(axes, "x") == {"caries": 0, "crown": 1}
    assert axes.get_xlim() == pytest.approx((-0.5, 1.5), abs=0.11)
    assert axes.get_ylim() == pytest.approx((0, 1), abs=0.04)
    assert told is not None
    assert told.alt.endswith("caries: small 0.10, medium 0.20, large 0.30; crown: small –, medium –, large 0.90.")


def test_froc_has_fractions_of_a_false_positive_on_its_axis(drawn: Drawn) -> None:
    """At powers of two; the band goes from the lower bound to the upper one."""
    pooled = FrocPoints(sensitivity=(0.2, 0.4, 0.6), low=(0.1, 0.3, 0.5), high=(0.3, 0.5, 0.7), mean=Bounds())

    told = plots.froc_curve(Froc(false_positives_per_image=(0.125, 1.0, 8.0), classes={"all": pooled}))

    (axes,) = drawn()[0].axes
    assert axes.lines[0].get_xydata().tolist() == [[0.125, 0.2], [1, 0.4], [8, 0.6]]
    assert axes.collections[0].get_paths()[0].get_extents().extents.tolist() == [0.125, 0.1, 8, 0.7]
    assert _ticks(axes, "x") == {"1/8": 0.125, "1": 1, "8": 8}
    assert (axes.get_xscale(), axes.xaxis.get_minorticklocs().tolist()) == ("log", [])
    assert axes.get_ylim() == pytest.approx((0, 1), abs=0.04)
    assert told is not None
    assert told.alt.startswith("FROC curve: sensitivity 0.20 at 0.125 false positives an image, sensitivity 0.40 at 1 ")


def test_the_last_piece_of_a_wafroc_curve_is_no_measurement(drawn: Drawn) -> None:
    """From the lowest score on to (1, 1) it is drawn dotted."""
    plots.wafroc_curves({"caries": AFROC, "crown": structs.replace(AFROC, wafroc=Bounds())})

    (axes,) = drawn()[0].axes
    measured, last = axes.lines
    assert measured.get_xydata().tolist() == [[0, 0], [0.25, 0.4], [0.5, 0.8]]
    assert (last.get_xydata().tolist(), last.get_linestyle()) == ([[0.5, 0.8], [1, 1]], ":")
    assert measured.get_linestyle() == "-"
    assert axes.get_title(loc="left") == "caries"
    assert axes.get_xlim() == (0, 1)
    assert axes.get_ylim() == pytest.approx((0, 1), abs=0.04)


def test_a_layer_whose_scores_are_used_stands_out(drawn: Drawn) -> None:
    """One that was not measured is left out, and the axis ends a little beyond the longest bar."""
    unused = structs.replace(_layer(0, 0.25), scores_at_inference=False)

    plots.layer_scores([unused, _layer(1, None), _layer(2, 0.5)])

    (axes,) = drawn()[0].axes
    bars = [(_role(bar.get_facecolor()), bar.get_x(), bar.get_width(), bar.get_center()[1]) for bar in axes.patches]
    assert bars == [("muted", 0, 0.25, 0), ("blue", 0, 0.5, 1)]
    assert {text.get_text(): text.xy for text in axes.texts} == {"0.250": (0.25, 0), "0.500": (0.5, 1)}
    assert _ticks(axes, "y") == {"layer 0": 0, "layer 2 (in use)": 1}
    assert axes.get_xlim() == pytest.approx((0, 0.59), abs=0.001)
    assert axes.get_ylim() == pytest.approx((1.5, -0.5), abs=0.11)
