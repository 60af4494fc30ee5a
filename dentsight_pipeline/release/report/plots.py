"""The figures of an evaluation as inline SVG: what reviewers like to see, drawn from the evaluation's own files.

Belongs here: one function for each figure. Each takes plain values out of the evaluation folder and returns a `Picture`
with its alternative text, or None when there is nothing to draw. The bytes are the same for the same input: no dates,
no global state (`pyplot` is not used), ids derived from the figure's name. Colours are roles, not values: they come out
as CSS variables (`var(--ink)`, …), so one figure serves a light, a dark and a printed page.

What value a role has is said in `page.py`; how a page arranges figures is the business of `build.py`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

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

_WIDTH_IN = 10.8
_COLUMNS = 5
_MOST_POINTS = 160
ERROR_WORDS = {
    "class_confusion": "wrong class",
    "localisation": "badly placed",
    "duplicate": "found twice",
    "background": "nothing there",
    "missed": "missed",
}


@dataclass(frozen=True)
class Picture:
    """One finished figure.

    Attributes:
        name: Short identifier, unique on a page.
        title: Its heading.
        svg: An `<svg role="img">` element with its own alternative text.
        alt: The same alternative text.
        caption: How to read it, in one or two sentences.
    """

    name: str
    title: str
    svg: str
    alt: str
    caption: str


def class_intervals(rows: Sequence[Mapping[str, Any]], floors: Mapping[str, float]) -> Picture | None:
    """AP and AP50 of every class with their intervals, the weakest class first, and the floors of AP.

    Args:
        rows: `per_class` rows of one population; `_low` and `_high` may be missing.
        floors: class → floor of its AP, for the classes that have a gate.
    """
    drawn = sorted((row for row in rows if _is_number(row.get("ap"))), key=lambda row: (row["ap"], row["class"]))
    if not drawn:
        return None
    with _drawing("class-intervals"):
        height = 0.75 + 0.24 * len(drawn)
        figure = Figure(figsize=(_WIDTH_IN, height))
        for place, (key, words) in enumerate((("ap", "AP"), ("ap50", "AP50"))):
            axes = figure.add_axes((0.17 + 0.42 * place, 0.42 / height, 0.39, 1 - 0.72 / height))
            for at, row in enumerate(drawn):
                low, value, high = (row.get(name) for name in (f"{key}_low", key, f"{key}_high"))
                if _is_number(low) and _is_number(high):
                    axes.plot(_floats([low, high]), [at, at], color=ROLES["blue"], linewidth=3, alpha=0.45)
                if _is_number(value):
                    axes.plot(_floats([value]), [at], "o", color=ROLES["blue"], markersize=4.5)
                if key == "ap" and row["class"] in floors:
                    floor = floors[row["class"]]
                    axes.plot([floor, floor], [at - 0.36, at + 0.36], color=ROLES["red"], linewidth=1.8)
            axes.set_yticks(np.arange(len(drawn)), [row["class"] if place == 0 else "" for row in drawn])
            axes.set(xlim=(-0.01, 1.01), ylim=(len(drawn) - 0.4, -0.6))
            axes.set_xlabel(words)
        _legend(figure, [("90 % interval", "blue", "-"), ("floor of the gate", "red", "-")])
    alt = "AP and AP50 of each class, the weakest first. " + _listed(
        (
            row["class"],
            f"AP {_short(row['ap'])} from {_short(row.get('ap_low'))} to {_short(row.get('ap_high'))}"
            + (f", floor {_short(floors[row['class']])}" if row["class"] in floors else "")
            + f", AP50 {_short(row.get('ap50'))}",
        )
        for row in drawn
    )
    return _picture(
        "class-intervals",
        "Weakest class first",
        figure,
        alt,
        "A dot without a bar has no interval: too few sources. Red: the least AP that the class's gate asks for; the "
        "whole bar must lie on or right of it.",
    )


def precision_recall_curves(curves: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Precision against recall at IoU .50, one panel a class.

    Args:
        curves: `curves.json` of one population: class → `recall` and `precision`, each [101].
        rows: `per_class` rows of the same population.
    """
    drawn = [row for row in rows if _usable(curves.get(row["class"]), "recall", "precision")]
    if not drawn:
        return None

    def panel(axes: Axes, row: Mapping[str, Any]) -> None:
        curve = curves[row["class"]]
        recall, precision = _floats(curve["recall"]), _floats(curve["precision"])
        axes.fill_between(recall, precision, step="post", color=ROLES["blue"], alpha=0.13, linewidth=0)
        axes.step(recall, precision, where="post", color=ROLES["blue"], linewidth=1.4)
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
        _subtitle(axes, row["class"], f"AP50 {_short(row.get('ap50'))}")

    figure = _panels(drawn, panel, "recall", "precision")
    alt = "Precision against recall at IoU 0.50 for each class. " + _listed(
        (row["class"], f"AP50 {_short(row.get('ap50'))}") for row in drawn
    )
    return _picture(
        "precision-recall",
        "Precision and recall",
        figure,
        alt,
        "Precision (share of shown boxes that are right) against recall (share of the truth that is shown) at "
        "IoU 0.50, as COCO interpolates it. Further up and to the right is better.",
    )


def threshold_curves(curves: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Precision, recall and F1 against the score threshold, one panel a class, with the best-F1 threshold marked.

    Args:
        curves: `curves.json` of one population: class → `score`, `f1`, `precision_by_score`, `recall_by_score`.
        rows: `per_class` rows of the same population.
    """
    keys = ("score", "f1", "precision_by_score", "recall_by_score")
    drawn = [row for row in rows if _usable(curves.get(row["class"]), *keys)]
    if not drawn:
        return None

    def panel(axes: Axes, row: Mapping[str, Any]) -> None:
        curve = curves[row["class"]]
        score = _floats(curve["score"])
        keep = _thinned(len(score))
        for key, role, style in (
            ("precision_by_score", "blue", "-"),
            ("recall_by_score", "orange", "--"),
            ("f1", "green", "-"),
        ):
            width = 1.8 if key == "f1" else 1.1
            axes.plot(score[keep], _floats(curve[key])[keep], style, color=ROLES[role], linewidth=width)
        threshold = row.get("threshold_best_f1")
        if isinstance(threshold, int | float) and np.isfinite(threshold):
            axes.axvline(threshold, color=ROLES["muted"], linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
        _subtitle(axes, row["class"], f"best F1 {_short(row.get('best_f1'))}, in use ≥ {_short(threshold)}")

    figure = _panels(
        drawn,
        panel,
        "score threshold",
        "",
        legend=[
            ("precision", "blue", "-"),
            ("recall", "orange", "--"),
            ("F1", "green", "-"),
            ("threshold", "muted", ":"),
        ],
    )
    alt = "Precision, recall and F1 against the score threshold for each class. Best F1: " + _listed(
        (row["class"], f"{_short(row.get('best_f1'))} at {_short(row.get('threshold_best_f1'))}") for row in drawn
    )
    return _picture(
        "thresholds",
        "F1, precision and recall against the threshold",
        figure,
        alt,
        "What happens when only boxes at or above a score are shown. The dotted line is the threshold in use. A curve "
        "squeezed to the left means that the model gives low scores only.",
    )


def score_histograms(matches: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Scores of matched (IoU ≥ .50) and unmatched detections, one panel a class, counts on a log scale.

    Args:
        matches: `matches.parquet`; missed ground truth has no score and is left out.
        rows: `per_class` rows; gives the classes and their order.
    """
    found = matches[matches["score"].notna()]
    drawn = [row for row in rows if (found["class"] == row["class"]).any()]
    if not drawn:
        return None
    edges = np.linspace(0, 1, 26)

    def panel(axes: Axes, row: Mapping[str, Any]) -> None:
        own = found[found["class"] == row["class"]]
        hit = own["kind"] == "tp"
        for part, role in ((~hit, "orange"), (hit, "blue")):
            counts, _ = np.histogram(own.loc[part, "score"].clip(0, 1), edges)
            axes.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, fill=True, color=ROLES[role], alpha=0.28)
            axes.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, color=ROLES[role], linewidth=1.1)
        axes.set_yscale("log")
        axes.set(xlim=(0, 1), ylim=(0.5, None))
        powers = [power for power in (1, 10, 100, 1000, 10_000, 100_000) if power <= axes.get_ylim()[1]]
        axes.set_yticks(powers, [f"{power:,}".replace(",", " ") for power in powers])
        axes.minorticks_off()
        _subtitle(axes, row["class"], f"{int(hit.sum())} matched, {int((~hit).sum())} not")

    figure = _panels(
        drawn,
        panel,
        "score",
        "detections",
        legend=[("matched", "blue", "-"), ("unmatched", "orange", "-")],
        share_y_ticks=False,
    )
    alt = "Histograms of the scores of matched and unmatched detections for each class. " + _listed(
        (
            row["class"],
            f"median matched {_median(found, row['class'], True)}, unmatched {_median(found, row['class'], False)}",
        )
        for row in drawn
    )
    return _picture(
        "scores",
        "Scores of matched and unmatched detections",
        figure,
        alt,
        "Matched boxes should lie to the right of unmatched ones. Where the two lie on top of each other, the score "
        "says nothing. All test images; counts on a logarithmic scale.",
    )


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Picture | None:
    """The confusion matrix with background, rows (truth) shaded by their share.

    Args:
        labels: Class names and, last, `background`.
        matrix: [K, K] counts, truth in rows and prediction in columns.
    """
    counts = np.asarray(matrix, dtype=float)
    if counts.size == 0 or counts.shape != (len(labels), len(labels)):
        return None
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with _drawing("confusion"):
        figure = Figure(figsize=(_WIDTH_IN * 0.86, _WIDTH_IN * 0.56))
        axes = figure.add_axes((0.18, 0.03, 0.75, 0.77))
        for i, j in np.ndindex(counts.shape):
            role = "blue" if i == j else "orange"
            if counts[i, j]:
                axes.fill_between(
                    (j, j + 1), i, i + 1, color=ROLES[role], alpha=float(0.07 + 0.6 * share[i, j]), linewidth=0
                )
                axes.text(j + 0.5, i + 0.5, f"{int(counts[i, j])}", ha="center", va="center", fontsize=7.5)
            else:
                axes.text(j + 0.5, i + 0.5, "·", ha="center", va="center", fontsize=7.5, color=ROLES["muted"])
        axes.set(xlim=(0, len(labels)), ylim=(len(labels), 0))
        axes.set_xticks(np.arange(len(labels)) + 0.5, labels, rotation=40, ha="left", rotation_mode="anchor")
        axes.set_yticks(np.arange(len(labels)) + 0.5, labels)
        axes.xaxis.set_ticks_position("top")
        axes.xaxis.set_label_position("top")
        axes.set_ylabel("truth")
        axes.set_xlabel("found as")
        axes.tick_params(length=0)
        axes.grid(False)
        for side in axes.spines.values():
            side.set_visible(False)
        for line in range(len(labels) + 1):
            axes.axhline(line, color=ROLES["grid"], linewidth=0.5)
            axes.axvline(line, color=ROLES["grid"], linewidth=0.5)
    worst = sorted(
        ((counts[i, j], labels[i], labels[j]) for i, j in np.ndindex(counts.shape) if i != j and counts[i, j]),
        key=lambda item: (-item[0], item[1], item[2]),
    )[:5]
    alt = "Confusion matrix with background. Most frequent off the diagonal: " + (
        "; ".join(f"{truth} found as {found}: {int(n)}" for n, truth, found in worst) or "none"
    )
    return _picture(
        "confusion",
        "Confusion matrix",
        figure,
        f"{alt}.",
        "Truth in rows, findings in columns, at the operating thresholds and IoU 0.50. The last column counts what was "
        "missed, the last row what was found where nothing is. Shade: share of the row.",
    )


def error_types(errors: Mapping[str, Mapping[str, int]], classes: Sequence[str]) -> Picture | None:
    """How each class goes wrong: stacked counts of wrong class, badly placed, found twice, nothing there, missed.

    Args:
        errors: class → counts by kind.
        classes: Their order.
    """
    drawn = [name for name in classes if name in errors]
    if not drawn:
        return None
    roles = dict(zip(ERROR_WORDS, ("purple", "blue", "green", "orange", "red"), strict=True))
    with _drawing("errors"):
        height = 0.95 + 0.27 * len(drawn)
        figure = Figure(figsize=(_WIDTH_IN, height))
        axes = figure.add_axes((0.17, 0.48 / height, 0.81, 1 - 0.8 / height))
        left = np.zeros(len(drawn))
        for kind in ERROR_WORDS:
            counts = np.array([float(errors[name].get(kind) or 0) for name in drawn])
            axes.barh(
                np.arange(len(drawn)),
                counts,
                left=left,
                height=0.66,
                color=ROLES[roles[kind]],
                alpha=0.75,
                linewidth=0,
            )
            left += counts
        for place, total in enumerate(left):
            _beside(axes, total, place, f"{int(total)}")
        axes.set_yticks(np.arange(len(drawn)), drawn)
        axes.set(xlim=(0, max(1.0, float(left.max())) * 1.08), ylim=(len(drawn) - 0.4, -0.6))
        axes.set_xlabel("errors at the operating thresholds", loc="left")
        axes.grid(axis="y", visible=False)
        _legend(figure, [(ERROR_WORDS[kind], roles[kind], "bar") for kind in ERROR_WORDS])
    alt = "Errors of each class by type. " + _listed(
        (name, ", ".join(f"{ERROR_WORDS[kind]} {int(errors[name].get(kind) or 0)}" for kind in ERROR_WORDS))
        for name in drawn
    )
    return _picture(
        "errors",
        "Error types",
        figure,
        alt,
        "Wrong class: the box is right, the name is not. Badly placed: overlaps a little. Found twice: a second box on "
        "one finding. Nothing there: no finding near. Missed: a finding without any box.",
    )


def reliability_diagram(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]] | None
) -> Picture | None:
    """Precision against mean score in 15 equal bins, as scored and (if given) after Platt scaling.

    Args:
        before: Bins with `n`, `mean_score`, `precision` (None when empty).
        after: The same after scaling, or None.
    """
    sets = [("as scored", "blue", before)] + ([("after Platt scaling", "orange", after)] if after else [])
    if not any(row.get("n") for _, _, bins in sets for row in bins):
        return None
    with _drawing("reliability"):
        figure = Figure(figsize=(_WIDTH_IN * 0.9, 3.3))
        for place, (words, role, bins) in enumerate(sets):
            axes = figure.add_axes((0.06 + 0.49 * place, 0.14, 0.42, 0.74))
            axes.plot([0, 1], [0, 1], linestyle=":", linewidth=1, color=ROLES["muted"])
            filled = [row for row in bins if row.get("n")]
            most = max((float(row["n"]) for row in filled), default=1.0)
            for row in filled:
                low, high = float(row["low"]), float(row["high"])
                axes.fill_between(
                    (low + 0.004, high - 0.004), 0, float(row["precision"]), color=ROLES[role], alpha=0.28, linewidth=0
                )
                axes.plot(
                    [float(row["mean_score"])],
                    [float(row["precision"])],
                    "o",
                    color=ROLES[role],
                    markersize=2.5 + 5 * (float(row["n"]) / most) ** 0.5,
                )
            axes.set(xlim=(0, 1), ylim=(0, 1.03))
            axes.set_xlabel("mean score")
            axes.set_ylabel("precision" if place == 0 else "")
            _subtitle(axes, words, f"{sum(int(row['n']) for row in filled)} detections")
    alt = "Reliability diagram: precision in bins of the score. " + "; ".join(
        f"{words}: "
        + ", ".join(
            f"score {_short(row['mean_score'])} precision {_short(row['precision'])}" for row in bins if row.get("n")
        )
        for words, _, bins in sets
    )
    return _picture(
        "reliability",
        "Reliability diagram",
        figure,
        f"{alt}.",
        "On the dotted line a score of 0.8 is right 8 times in 10. Below it the model is overconfident. Only "
        "detections at or above the operating thresholds; larger dots hold more of them.",
    )


def ap_by_size(rows: Sequence[Mapping[str, Any]]) -> Picture | None:
    """AP of small (< 32² px), medium and large (> 96² px) boxes for each class."""
    sizes = (("ap_small", "small", "orange"), ("ap_medium", "medium", "blue"), ("ap_large", "large", "green"))
    drawn = [row for row in rows if any(isinstance(row.get(key), int | float) for key, _, _ in sizes)]
    if not drawn:
        return None
    with _drawing("sizes"):
        figure = Figure(figsize=(_WIDTH_IN, 3.2))
        axes = figure.add_axes((0.05, 0.27, 0.94, 0.62))
        for place, (key, _, role) in enumerate(sizes):
            for at, row in enumerate(drawn):
                value = row.get(key)
                x = at + (place - 1) * 0.26
                if isinstance(value, int | float) and np.isfinite(value):
                    axes.bar(x, value, width=0.23, color=ROLES[role], alpha=0.75, linewidth=0)
                else:
                    axes.text(x, 0.012, "–", ha="center", fontsize=8, color=ROLES["muted"])
        axes.set_xticks(
            np.arange(len(drawn)), [row["class"] for row in drawn], rotation=28, ha="right", rotation_mode="anchor"
        )
        axes.set(xlim=(-0.6, len(drawn) - 0.4), ylim=(0, 1.03))
        axes.set_ylabel("AP")
        axes.grid(axis="x", visible=False)
        _legend(figure, [(f"{word} boxes", role, "bar") for _, word, role in sizes])
    alt = "AP by box size for each class. " + _listed(
        (row["class"], ", ".join(f"{word} {_short(row.get(key))}" for key, word, _ in sizes)) for row in drawn
    )
    return _picture(
        "sizes",
        "AP by box size",
        figure,
        alt,
        "COCO's areas in pixels of the original X-ray: small under 32², large over 96². A dash: no such box "
        "in the truth.",
    )


def froc_curve(froc: Mapping[str, Any]) -> Picture | None:
    """Sensitivity at 1/8 to 8 false positives an image, all classes pooled.

    Args:
        froc: `false_positives_per_image` and `classes` → `all` → `sensitivity`, `low`, `high`, one value a point.
    """
    pooled = (froc.get("classes") or {}).get("all") or {}
    x = [float(value) for value in froc.get("false_positives_per_image") or []]
    y = pooled.get("sensitivity") or []
    if not x or len(x) != len(y) or any(value is None for value in y):
        return None
    low, high = (_floats(pooled.get(key) or [None] * len(x)) for key in ("low", "high"))
    with _drawing("froc"):
        figure = Figure(figsize=(_WIDTH_IN * 0.6, 2.9))
        axes = figure.add_axes((0.1, 0.17, 0.87, 0.77))
        axes.fill_between(x, low, high, color=ROLES["blue"], alpha=0.15, linewidth=0)
        axes.plot(x, y, "o-", color=ROLES["blue"], linewidth=1.4, markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{value:g}" if value >= 1 else f"1/{round(1 / value)}" for value in x])
        axes.minorticks_off()
        axes.set(ylim=(0, 1.03), xlabel="false positives an image", ylabel="sensitivity")
    alt = "FROC curve: " + ", ".join(
        f"sensitivity {_short(b)} at {a:g} false positives an image" for a, b in zip(x, y, strict=True)
    )
    return _picture(
        "froc",
        "FROC",
        figure,
        f"{alt}.",
        "How much of the truth is found when so many false findings an X-ray are tolerated, all classes together, with "
        "its 90 % interval.",
    )


def layer_scores(layers: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Mean of the highest score of an image by decoder layer: where a collapsed head shows.

    Args:
        layers: `layer`, `mean_max_score` and whether the layer `scores_at_inference`.
    """
    drawn = [row for row in layers if isinstance(row.get("mean_max_score"), int | float)]
    if not drawn:
        return None
    with _drawing("layers"):
        figure = Figure(figsize=(_WIDTH_IN * 0.5, 0.55 + 0.3 * len(drawn)))
        height = 0.55 + 0.3 * len(drawn)
        axes = figure.add_axes((0.2, 0.42 / height, 0.72, 1 - 0.5 / height))
        for place, row in enumerate(drawn):
            last = bool(row.get("scores_at_inference"))
            value = float(row["mean_max_score"])
            axes.barh(place, value, height=0.62, color=ROLES["blue" if last else "muted"], alpha=0.7, linewidth=0)
            _beside(axes, value, place, f"{value:.3f}")
        names = [f"layer {row['layer']}" + (" (in use)" if row.get("scores_at_inference") else "") for row in drawn]
        axes.set_yticks(np.arange(len(drawn)), names)
        axes.set(
            xlim=(0, max(float(row["mean_max_score"]) for row in drawn) * 1.18 + 1e-9), ylim=(len(drawn) - 0.4, -0.6)
        )
        axes.set_xlabel("mean highest score of an image")
        axes.grid(axis="y", visible=False)
    alt = "Mean highest score of an image by decoder layer: " + ", ".join(
        f"layer {row['layer']} {float(row['mean_max_score']):.3f}" for row in drawn
    )
    return _picture(
        "layers",
        "Scores by decoder layer",
        figure,
        f"{alt}.",
        "In a healthy model the layer in use scores about like the first one. A collapsed head scores far lower.",
    )


# ── How a figure becomes a picture ──────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _drawing(name: str) -> Iterator[None]:
    """Matplotlib's settings for one figure; restored afterwards."""
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
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
    with matplotlib.rc_context(settings):
        yield


def _panels(
    rows: Sequence[Mapping[str, Any]],
    draw: Callable[[Axes, Mapping[str, Any]], None],
    x_label: str,
    y_label: str,
    *,
    legend: Sequence[tuple[str, str, Any]] = (),
    share_y_ticks: bool = True,
) -> Figure:
    """One small panel a class, five a row, with labels on the outer panels only."""
    n_rows = -(-len(rows) // _COLUMNS)
    top = 0.32 if legend else 0.05
    height = top + 1.72 * n_rows + 0.3
    with _drawing(x_label):
        figure = Figure(figsize=(_WIDTH_IN, height))
        gap_left = 0.045 if share_y_ticks else 0.05
        width = (1 - gap_left - 0.01) / _COLUMNS
        for place, row in enumerate(rows):
            line, column = divmod(place, _COLUMNS)
            bottom = 1 - (top + 1.72 * (line + 1) - 0.12) / height
            inner = width - (0.022 if share_y_ticks else 0.034)
            axes = figure.add_axes((gap_left + column * width, bottom, inner, 1.22 / height))
            draw(axes, row)
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
            if share_y_ticks:
                axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"] if column == 0 else ["", "", ""])
            axes.tick_params(labelsize=7.5, pad=2)
            if column == 0:
                axes.set_ylabel(y_label, fontsize=8, labelpad=2)
            if place + _COLUMNS >= len(rows):
                axes.set_xlabel(x_label, fontsize=8, labelpad=2)
        if legend:
            _legend(figure, legend)
    return figure


def _legend(figure: Figure, entries: Sequence[tuple[str, str, Any]]) -> None:
    """A one-line legend along the top: (words, colour role, line style or `bar`)."""
    width, height = figure.get_size_inches()
    x = 0.35
    for words, role, style in entries:
        y = 1 - 0.13 / height
        if style == "bar":
            figure.add_artist(
                Rectangle(
                    (x / width, y - 0.055 / height),
                    0.2 / width,
                    0.11 / height,
                    color=ROLES[role],
                    alpha=0.75,
                    linewidth=0,
                )
            )
        else:
            line = Line2D([x / width, (x + 0.26) / width], [y, y], color=ROLES[role], linestyle=style, linewidth=1.6)
            figure.add_artist(line)
        figure.text((x + 0.33) / width, y, words, va="center_baseline", fontsize=8.5)
        x += 0.62 + 0.075 * len(words)


def _picture(name: str, title: str, figure: Figure, alt: str, caption: str) -> Picture:
    with _drawing(name):
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return Picture(name, title, _inline(buffer.getvalue(), name, alt), alt, caption)


def _inline(svg: str, name: str, alt: str) -> str:
    """Matplotlib's file as an element for a page: no prologue, unique ids, colours and font left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    width = box.group(1).split()[2] if box else "700"
    element = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{escape(alt, quote=True)}" viewBox="{box.group(1) if box else "0 0 700 400"}" '
        f'style="--natural: {float(width) * 4 / 3:.0f}px">'
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


def _subtitle(axes: Axes, name: str, detail: str) -> None:
    axes.set_title(_cut(name, 23), loc="left", fontsize=8.5, fontweight="bold", pad=14)
    axes.annotate(
        detail,
        (0, 1),
        (0, 3.5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=7.5,
        color=ROLES["muted"],
    )


def _beside(axes: Axes, x: float, y: float, words: str) -> None:
    """A value to the right of a bar's end."""
    axes.annotate(words, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=8, color=ROLES["muted"])


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _usable(curve: Any, *keys: str) -> bool:
    return isinstance(curve, Mapping) and all(isinstance(curve.get(key), list) and curve[key] for key in keys)


def _floats(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values])


def _thinned(n: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, _MOST_POINTS)).round().astype(int))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _short(value: Any) -> str:
    return f"{value:.2f}" if _is_number(value) else "–"


def _median(found: pd.DataFrame, name: str, hit: bool) -> str:
    scores = found.loc[(found["class"] == name) & ((found["kind"] == "tp") == hit), "score"]
    return f"{scores.median():.2f}" if len(scores) else "–"


def _listed(items: Any) -> str:
    return "; ".join(f"{name}: {words}" for name, words in items) + "."
