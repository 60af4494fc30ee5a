"""The figures of an evaluation: what reviewers like to see, drawn from the evaluation's own files.

Belongs here: one function for each figure. Each takes typed parts of the evaluation and returns a `Picture` with its
alternative text, or None when there is nothing to draw. How a drawing becomes an element of a page is the business of
`drawing.py`; how a page arranges figures that of `build.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dentsight_pipeline.documents.evaluation import (
    ALL_CLASSES,
    Afroc,
    ClassRow,
    Confusion,
    Curve,
    ErrorCounts,
    Froc,
    ReliabilityBin,
)
from dentsight_pipeline.documents.health import LayerScore
from dentsight_pipeline.release.report.drawing import (
    ROLES,
    WIDTH_IN,
    Entry,
    Picture,
    beside,
    drawing,
    legend,
    listed,
    panels,
    picture,
    short,
    subtitle,
)
from dentsight_pipeline.release.report.tables import ERROR_WORDS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_MOST_POINTS = 160
_ERROR_ROLES = dict(zip(ERROR_WORDS, ("purple", "blue", "green", "orange", "red"), strict=True))
_SIZES = {"small": "orange", "medium": "blue", "large": "green"}


def class_intervals(rows: Sequence[ClassRow], floors: Mapping[str, float]) -> Picture | None:
    """AP and AP50 of every class with their intervals, the weakest class first, and the floors of AP.

    Args:
        rows: Of one population.
        floors: class → floor of its AP, for the classes that have a gate.
    """
    measured = [(row.ap, row.class_name, row) for row in rows if row.ap is not None]
    drawn = [row for _, _, row in sorted(measured, key=lambda item: item[:2])]
    if not drawn:
        return None
    height = 0.75 + 0.24 * len(drawn)
    with drawing(WIDTH_IN, height) as figure:
        for place, (metric, words) in enumerate((("ap", "AP"), ("ap50", "AP50"))):
            axes = figure.add_axes((0.17 + 0.42 * place, 0.42 / height, 0.39, 1 - 0.72 / height))
            _draw_intervals(axes, drawn, metric, floors if metric == "ap" else {})
            axes.set_yticks(np.arange(len(drawn)), ["" if place else row.class_name for row in drawn])
            axes.set(xlim=(-0.01, 1.01), ylim=(len(drawn) - 0.4, -0.6), xlabel=words)
        legend(figure, [Entry("90 % interval", "blue", "-"), Entry("floor of the gate", "red", "-")])
    alt = listed((row.class_name, _interval_words(row, floors.get(row.class_name))) for row in drawn)
    return picture("class-intervals", figure, f"AP and AP50 of each class, the weakest first. {alt}")


def _draw_intervals(axes: Axes, rows: Sequence[ClassRow], metric: str, floors: Mapping[str, float]) -> None:
    for at, row in enumerate(rows):
        value, low, high = row.figure(metric)
        if low is not None and high is not None:
            axes.plot([low, high], [at, at], color=ROLES["blue"], linewidth=3, alpha=0.45)
        if value is not None:
            axes.plot([value], [at], "o", color=ROLES["blue"], markersize=4.5)
        if (floor := floors.get(row.class_name)) is not None:
            axes.plot([floor, floor], [at - 0.36, at + 0.36], color=ROLES["red"], linewidth=1.8)


def _interval_words(row: ClassRow, floor: float | None) -> str:
    bound = "" if floor is None else f", floor {short(floor)}"
    return f"AP {short(row.ap)} from {short(row.ap_low)} to {short(row.ap_high)}{bound}, AP50 {short(row.ap50)}"


def precision_recall_curves(curves: Mapping[str, Curve], rows: Sequence[ClassRow]) -> Picture | None:
    """Precision against recall at IoU .50, one panel a class; curves and rows of one population."""
    drawn = [row for row in rows if row.class_name in curves and curves[row.class_name].precision]
    if not drawn:
        return None

    def panel(axes: Axes, row: ClassRow) -> None:
        recall, precision = np.asarray(curves[row.class_name].recall), np.array(curves[row.class_name].precision)
        axes.fill_between(recall, precision, step="post", color=ROLES["blue"], alpha=0.13, linewidth=0)
        axes.step(recall, precision, where="post", color=ROLES["blue"], linewidth=1.4)
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
        subtitle(axes, row.class_name, f"AP50 {short(row.ap50)}")

    alt = listed((row.class_name, f"AP50 {short(row.ap50)}") for row in drawn)
    return picture(
        "precision-recall",
        panels(drawn, panel, ("recall", "precision")),
        f"Precision against recall at IoU 0.50 for each class. {alt}",
    )


def threshold_curves(curves: Mapping[str, Curve], rows: Sequence[ClassRow]) -> Picture | None:
    """Precision, recall and F1 against the score threshold, one panel a class, with the best-F1 threshold marked."""
    drawn = [row for row in rows if row.class_name in curves and curves[row.class_name].score]
    if not drawn:
        return None

    def panel(axes: Axes, row: ClassRow) -> None:
        _draw_thresholds(axes, curves[row.class_name])
        if row.threshold_best_f1 is not None:
            axes.axvline(row.threshold_best_f1, color=ROLES["muted"], linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
        subtitle(axes, row.class_name, f"best F1 {short(row.best_f1)}, in use ≥ {short(row.threshold_best_f1)}")

    entries = [Entry("precision", "blue", "-"), Entry("recall", "orange", "--"), Entry("F1", "green", "-")]
    figure = panels(drawn, panel, ("score threshold", ""), [*entries, Entry("threshold", "muted", ":")])
    alt = listed((row.class_name, f"{short(row.best_f1)} at {short(row.threshold_best_f1)}") for row in drawn)
    return picture(
        "thresholds",
        figure,
        f"Precision, recall and F1 against the score threshold for each class. Best F1: {alt}",
    )


def _draw_thresholds(axes: Axes, curve: Curve) -> None:
    """The three curves, at no more points than a panel can show."""
    n = len(curve.score)
    keep = np.unique(np.linspace(0, n - 1, min(n, _MOST_POINTS)).round().astype(int))
    lines = ((curve.precision_by_score, "blue", "-"), (curve.recall_by_score, "orange", "--"), (curve.f1, "green", "-"))
    for values, role, style in lines:
        width = 1.8 if role == "green" else 1.1
        axes.plot(np.array(curve.score)[keep], np.array(values)[keep], style, color=ROLES[role], linewidth=width)


def score_histograms(matches: pd.DataFrame, rows: Sequence[ClassRow]) -> Picture | None:
    """Scores of matched (IoU ≥ .50) and unmatched detections, one panel a class, counts on a log scale.

    Args:
        matches: `matches.parquet`; missed ground truth has no score and is left out.
        rows: Give the classes and their order.
    """
    found = matches[matches["score"].notna()]
    scores = {name: (own["score"], own["kind"] == "tp") for name, own in found.groupby("class")}
    drawn = [row.class_name for row in rows if row.class_name in scores]
    if not drawn:
        return None

    def panel(axes: Axes, name: str) -> None:
        own, hit = scores[name]
        _draw_histograms(axes, own[~hit], own[hit])
        subtitle(axes, name, f"{int(hit.sum())} matched, {int((~hit).sum())} not")

    entries = [Entry("matched", "blue", "-"), Entry("unmatched", "orange", "-")]
    medians = {name: (own[hit].median(), own[~hit].median()) for name, (own, hit) in scores.items()}
    words = {name: [short(None if np.isnan(value) else value) for value in pair] for name, pair in medians.items()}
    alt = listed((name, f"median matched {words[name][0]}, unmatched {words[name][1]}") for name in drawn)
    return picture(
        "scores",
        panels(drawn, panel, ("score", "detections"), entries, share_y_ticks=False),
        f"Histograms of the scores of matched and unmatched detections for each class. {alt}",
    )


def _draw_histograms(axes: Axes, unmatched: pd.Series, matched: pd.Series) -> None:
    edges = np.linspace(0, 1, 26)
    for scores, role in ((unmatched, "orange"), (matched, "blue")):
        counts = np.maximum(np.histogram(scores.clip(0, 1), edges)[0], 0.5)
        axes.stairs(counts, edges, baseline=0.5, fill=True, color=ROLES[role], alpha=0.28)
        axes.stairs(counts, edges, baseline=0.5, color=ROLES[role], linewidth=1.1)
    axes.set_yscale("log")
    axes.set(xlim=(0, 1), ylim=(0.5, None))
    powers = [power for power in (1, 10, 100, 1000, 10_000, 100_000) if power <= axes.get_ylim()[1]]
    axes.set_yticks(powers, [f"{power:,}".replace(",", " ") for power in powers])
    axes.minorticks_off()


def confusion_matrix(confusion: Confusion | None) -> Picture | None:
    """The confusion matrix with background, rows (truth) shaded by their share."""
    labels = confusion.labels if confusion else ()
    counts = np.array(confusion.matrix if confusion else (), dtype=float)
    if not labels or counts.shape != (len(labels), len(labels)):
        return None
    with drawing(WIDTH_IN * 0.86, WIDTH_IN * 0.56) as figure:
        axes = figure.add_axes((0.18, 0.03, 0.75, 0.77))
        _draw_cells(axes, counts)
        _draw_grid(axes, labels)
    off = [(i, j) for i, j in np.argwhere(counts) if i != j]
    worst = sorted(off, key=lambda cell: (-counts[cell], labels[cell[0]], labels[cell[1]]))[:5]
    alt = "; ".join(f"{labels[i]} found as {labels[j]}: {int(counts[i, j])}" for i, j in worst) or "none"
    return picture("confusion", figure, f"Confusion matrix with background. Most frequent off the diagonal: {alt}.")


def _draw_cells(axes: Axes, counts: np.ndarray) -> None:
    """Numbers on shades; [K, K] counts, truth in rows and prediction in columns."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for i, j in np.ndindex(counts.shape):
        middle = {"x": j + 0.5, "y": i + 0.5, "ha": "center", "va": "center", "fontsize": 7.5}
        if counts[i, j]:
            color, alpha = ROLES["blue" if i == j else "orange"], float(0.07 + 0.6 * share[i, j])
            axes.fill_between((j, j + 1), i, i + 1, color=color, alpha=alpha, linewidth=0)
            axes.text(s=f"{int(counts[i, j])}", **middle)
        else:
            axes.text(s="·", color=ROLES["muted"], **middle)


def _draw_grid(axes: Axes, labels: Sequence[str]) -> None:
    axes.set(xlim=(0, len(labels)), ylim=(len(labels), 0))
    axes.set_xticks(np.arange(len(labels)) + 0.5, labels, rotation=40, ha="left", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels)
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.set(ylabel="truth", xlabel="found as")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    for line in range(len(labels) + 1):
        axes.axhline(line, color=ROLES["grid"], linewidth=0.5)
        axes.axvline(line, color=ROLES["grid"], linewidth=0.5)


def error_types(errors: Mapping[str, ErrorCounts], classes: Sequence[str]) -> Picture | None:
    """How each class goes wrong: stacked counts of wrong class, badly placed, found twice, nothing there, missed."""
    drawn = [name for name in classes if name in errors]
    if not drawn:
        return None
    height = 0.95 + 0.27 * len(drawn)
    with drawing(WIDTH_IN, height) as figure:
        axes = figure.add_axes((0.17, 0.48 / height, 0.81, 1 - 0.8 / height))
        totals = _draw_stacks(axes, [errors[name] for name in drawn])
        axes.set_yticks(np.arange(len(drawn)), drawn)
        axes.set(xlim=(0, max(1.0, float(totals.max())) * 1.08), ylim=(len(drawn) - 0.4, -0.6))
        axes.set_xlabel("errors at the operating thresholds", loc="left")
        axes.grid(axis="y", visible=False)
        legend(figure, [Entry(words, _ERROR_ROLES[kind], "bar") for kind, words in ERROR_WORDS.items()])
    counted = {
        name: [f"{words} {getattr(errors[name], kind)}" for kind, words in ERROR_WORDS.items()] for name in drawn
    }
    return picture(
        "errors",
        figure,
        f"Errors of each class by type. {listed((name, ', '.join(words)) for name, words in counted.items())}",
    )


def _draw_stacks(axes: Axes, errors: Sequence[ErrorCounts]) -> np.ndarray:
    """One bar a class; gives its length."""
    at, left = np.arange(len(errors)), np.zeros(len(errors))
    for kind, role in _ERROR_ROLES.items():
        counts = np.array([float(getattr(own, kind)) for own in errors])
        axes.barh(at, counts, left=left, height=0.66, color=ROLES[role], alpha=0.75, linewidth=0)
        left += counts
    for place, total in enumerate(left):
        beside(axes, (total, place), f"{int(total)}")
    return left


class _Reliability(NamedTuple):
    words: str
    role: str
    filled: list[ReliabilityBin]

    @property
    def spoken(self) -> str:
        """For the alternative text."""
        pairs = (f"score {short(part.mean_score)} precision {short(part.precision)}" for part in self.filled)
        return f"{self.words}: {', '.join(pairs)}"


def reliability_diagram(before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin]) -> Picture | None:
    """Precision against mean score in equal bins, as scored and (if there are any) after Platt scaling."""
    both = [("as scored", "blue", before)] + ([("after Platt scaling", "orange", after)] if after else [])
    sets = [_Reliability(words, role, [part for part in bins if part.n]) for words, role, bins in both]
    if not any(part.filled for part in sets):
        return None
    with drawing(WIDTH_IN * 0.9, 3.3) as figure:
        for place, part in enumerate(sets):
            axes = figure.add_axes((0.06 + 0.49 * place, 0.14, 0.42, 0.74))
            axes.plot([0, 1], [0, 1], linestyle=":", linewidth=1, color=ROLES["muted"])
            _draw_bins(axes, part)
            axes.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="mean score", ylabel="" if place else "precision")
            subtitle(axes, part.words, f"{sum(row.n for row in part.filled)} detections")
    return picture(
        "reliability",
        figure,
        f"Reliability diagram: precision in bins of the score. {'; '.join(part.spoken for part in sets)}.",
    )


def _draw_bins(axes: Axes, part: _Reliability) -> None:
    most = max((row.n for row in part.filled), default=1)
    for row in part.filled:
        ends, precision, color = (row.low + 0.004, row.high - 0.004), row.precision or 0.0, ROLES[part.role]
        axes.fill_between(ends, 0, precision, color=color, alpha=0.28, linewidth=0)
        axes.plot([row.mean_score or 0.0], [precision], "o", color=color, markersize=2.5 + 5 * (row.n / most) ** 0.5)


def ap_by_size(rows: Sequence[ClassRow]) -> Picture | None:
    """AP of small (< 32² px), medium and large (> 96² px) boxes for each class."""
    by_class = {row.class_name: {size: row.figure(f"ap_{size}").value for size in _SIZES} for row in rows}
    drawn = {
        name: by_size for name, by_size in by_class.items() if any(value is not None for value in by_size.values())
    }
    if not drawn:
        return None
    with drawing(WIDTH_IN, 3.2) as figure:
        axes = figure.add_axes((0.05, 0.27, 0.94, 0.62))
        for place, (size, role) in enumerate(_SIZES.items()):
            _draw_size(axes, [by_size[size] for by_size in drawn.values()], (place - 1) * 0.26, role)
        axes.set_xticks(np.arange(len(drawn)), list(drawn), rotation=28, ha="right", rotation_mode="anchor")
        axes.set(xlim=(-0.6, len(drawn) - 0.4), ylim=(0, 1.03), ylabel="AP")
        axes.grid(axis="x", visible=False)
        legend(figure, [Entry(f"{size} boxes", role, "bar") for size, role in _SIZES.items()])
    figures = {name: [f"{size} {short(value)}" for size, value in by_size.items()] for name, by_size in drawn.items()}
    return picture(
        "sizes",
        figure,
        f"AP by box size for each class. {listed((name, ', '.join(words)) for name, words in figures.items())}",
    )


def _draw_size(axes: Axes, values: Sequence[float | None], shift: float, role: str) -> None:
    for at, value in enumerate(values):
        if value is None:
            axes.text(at + shift, 0.012, "–", ha="center", fontsize=8, color=ROLES["muted"])
        else:
            axes.bar(at + shift, value, width=0.23, color=ROLES[role], alpha=0.75, linewidth=0)


def froc_curve(froc: Froc | None) -> Picture | None:
    """Sensitivity at ⅛ to 8 false positives an image, all classes pooled."""
    pooled = froc.classes.get(ALL_CLASSES) if froc else None
    if froc is None or pooled is None or not pooled.sensitivity or None in pooled.sensitivity:
        return None
    x, y = froc.false_positives_per_image, np.array(pooled.sensitivity, dtype=float)
    with drawing(WIDTH_IN * 0.6, 2.9) as figure:
        axes = figure.add_axes((0.1, 0.17, 0.87, 0.77))
        low, high = np.array(pooled.low, dtype=float), np.array(pooled.high, dtype=float)
        axes.fill_between(x, low, high, color=ROLES["blue"], alpha=0.15, linewidth=0)
        axes.plot(x, y, "o-", color=ROLES["blue"], linewidth=1.4, markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [f"{value:g}" if value >= 1 else f"1/{round(1 / value)}" for value in x])
        axes.minorticks_off()
        axes.set(ylim=(0, 1.03), xlabel="false positives an image", ylabel="sensitivity")
    alt = ", ".join(f"sensitivity {short(b)} at {a:g} false positives an image" for a, b in zip(x, y, strict=True))
    return picture("froc", figure, f"FROC curve: {alt}.")


def wafroc_curves(afroc: Mapping[str, Afroc]) -> Picture | None:
    """Weighted sensitivity against the share of normal X-rays with a false positive, one panel a class."""
    drawn = [(name, own) for name, own in afroc.items() if own.wafroc.value is not None]
    if not drawn:
        return None

    def panel(axes: Axes, named: tuple[str, Afroc]) -> None:
        name, own = named
        axes.plot(own.false_positive_fraction[:-1], own.weighted_sensitivity[:-1], color=ROLES["blue"], linewidth=1.4)
        last = (own.false_positive_fraction[-2:], own.weighted_sensitivity[-2:])
        axes.plot(*last, color=ROLES["blue"], linewidth=1, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
        subtitle(axes, name, f"wAFROC {short(own.wafroc.value)}")

    alt = listed((name, f"wAFROC {short(own.wafroc.value)}") for name, own in drawn)
    figure = panels(drawn, panel, ("normal X-rays with a false positive", "sensitivity"))
    return picture("wafroc", figure, f"wAFROC curve of each class. {alt}")


def layer_scores(layers: Sequence[LayerScore]) -> Picture | None:
    """Mean of the highest score of an image by decoder layer: where a collapsed head shows."""
    drawn = {row.layer: (row.mean_max_score, row.scores_at_inference) for row in layers}
    scores = {layer: (value, in_use) for layer, (value, in_use) in drawn.items() if value is not None}
    if not scores:
        return None
    height = 0.55 + 0.3 * len(scores)
    with drawing(WIDTH_IN * 0.5, height) as figure:
        axes = figure.add_axes((0.2, 0.42 / height, 0.72, 1 - 0.5 / height))
        for place, (value, in_use) in enumerate(scores.values()):
            axes.barh(place, value, height=0.62, color=ROLES["blue" if in_use else "muted"], alpha=0.7, linewidth=0)
            beside(axes, (value, place), f"{value:.3f}")
        names = [f"layer {layer}{' (in use)' if in_use else ''}" for layer, (_, in_use) in scores.items()]
        axes.set_yticks(np.arange(len(names)), names)
        longest = max(value for value, _ in scores.values())
        axes.set(xlim=(0, longest * 1.18 + 1e-9), ylim=(len(names) - 0.4, -0.6))
        axes.set_xlabel("mean highest score of an image")
        axes.grid(axis="y", visible=False)
    alt = ", ".join(f"layer {layer} {value:.3f}" for layer, (value, _) in scores.items())
    return picture("layers", figure, f"Mean highest score of an image by decoder layer: {alt}.")
