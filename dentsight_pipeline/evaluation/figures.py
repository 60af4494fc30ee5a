"""The figures of each class on one population, and their means: rows of the document and what gates see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from dentsight_pipeline.documents.codec import finite
from dentsight_pipeline.documents.evaluation import MACRO, ClassRow, MacroRow, Measurement, Population, PopulationName
from dentsight_pipeline.evaluation import bootstrap, engines, metrics, operating_points
from dentsight_pipeline.evaluation.bootstrap import Draws, Interval, Weights
from dentsight_pipeline.evaluation.engines import EngineResult
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.metrics import CurveTable
from dentsight_pipeline.evaluation.operating import Operating
from dentsight_pipeline.evaluation.operating_points import PointTable, ThresholdCounts

RANKED = ("ap", "ap50", "ap75", "ar100", "ap_small", "ap_medium", "ap_large", "recall_at_p95", "best_f1")
"""Figures that need no threshold chosen beforehand; they have a macro mean."""
AT_THRESHOLD = (
    "precision_at_threshold",
    "recall_at_threshold",
    "f1_at_threshold",
    "precision_at_threshold_p95",
    "recall_at_threshold_p95",
)
FIGURES = (*RANKED, *AT_THRESHOLD)
GATED = ("ap", "ap50", "ap75", "ar100", "recall_at_p95", "best_f1")
POPULATIONS: tuple[PopulationName, ...] = get_args(PopulationName)
HALF, _THREE_QUARTERS = (int(np.argmin(np.abs(engines.IOU_THRESHOLDS - iou))) for iou in (0.5, 0.75))


@dataclass(frozen=True)
class Counted:
    """One population, matched: everything that its figures come from.

    Attributes:
        name: `all` or `clean`.
        images: [I] the mask of its images.
        covered: [its images, K] whether a class was looked for.
        matches: [K] for all areas, on all images.
        engine: What the engines say of this population.
        operating: Thresholds.
        weights: Of the population's images.
    """

    name: PopulationName
    images: np.ndarray
    covered: np.ndarray
    matches: Sequence[ClassMatches]
    engine: EngineResult
    operating: Operating
    weights: Weights

    @property
    def looked_at(self) -> dict[str, int]:
        """`Population.looked_at`."""
        counts = zip(self.engine.classes, self.covered.sum(axis=0).tolist(), strict=True)
        return {name: count for name, count in counts if count < len(self.covered)}

    @property
    def gt_counts(self) -> np.ndarray:
        """Ground-truth boxes of all classes on each image of the population."""
        return np.sum([matches.gt_counts[self.images] for matches in self.matches], axis=0)


@dataclass(frozen=True)
class ClassFigures:
    """Every figure of one class as a function of image weights."""

    curves: Mapping[str, CurveTable]
    points: PointTable
    at_best: ThresholdCounts
    at_p95: ThresholdCounts

    @classmethod
    def of(cls, part: Mapping[str, ClassMatches], p95: float, best_f1: float) -> ClassFigures:
        """Condense the matches of one class."""
        return cls(
            {area: CurveTable.from_matches(matches) for area, matches in part.items()},
            PointTable.from_matches(part["all"]),
            operating_points.counts_at(part["all"], best_f1),
            operating_points.counts_at(part["all"], p95),
        )

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """[F, B] in the order of `FIGURES`, for weights [I, B]."""
        (precision, recall), *sizes = (curve.average_precision(weights) for curve in self.curves.values())
        return np.stack(
            [
                precision.mean(axis=0),
                precision[HALF],
                precision[_THREE_QUARTERS],
                recall.mean(axis=0),
                *(of_size.mean(axis=0) for of_size, _ in sizes),
                self.points.recall_at_precision(weights),
                self.points.best_f1(weights),
                self.at_best.precision(weights),
                self.at_best.recall(weights),
                self.at_best.f1(weights),
                self.at_p95.precision(weights),
                self.at_p95.recall(weights),
            ]
        )

    def distance_to(self, engine: EngineResult, k: int) -> float:
        """The largest difference in AP or recall at any IoU and size between these tables and an engine."""
        worst = 0.0
        for a, curve in enumerate(self.curves.values()):
            ours = curve.average_precision(np.ones((len(curve.gt_counts), 1)))
            theirs = engine.precision[:, :, k, a, -1].mean(axis=1), engine.recall[:, k, a, -1]
            for own, other in zip(ours, theirs, strict=True):
                worst = max(worst, float(np.abs(np.nan_to_num(own[:, 0], nan=-1.0) - other).max()))
        return worst


@dataclass(frozen=True)
class MeasuredClass:
    """What one class adds to a population, and how far its figures are from the engines'."""

    row: ClassRow
    measurements: list[Measurement]
    drawn: Draws
    distance: float


@dataclass(frozen=True)
class MeasuredPopulation:
    """What one population adds to an evaluation, and how far its figures are from the engines'."""

    part: Population
    measurements: list[Measurement]
    distance: float


def measure_populations(
    populations: Sequence[Counted],
    matched: Callable[[int], Mapping[str, ClassMatches]],
    say: Callable[[int, int], None],
) -> dict[PopulationName, MeasuredPopulation]:
    """Every class, one after the other, on each population; then the means.

    Args:
        populations: One at least.
        matched: Gives the matches of one class by area range, on all images. Those of all classes at once would be
            four times what is needed anyway.
        say: Called with classes done and their number.
    """
    count = len(populations[0].engine.classes)
    measured: dict[PopulationName, list[MeasuredClass]] = {own.name: [] for own in populations}
    for k in range(count):
        say(k, count)
        by_area = matched(k)
        for own in populations:
            measured[own.name].append(_measure_class(own, k, by_area))
    return {own.name: _measured_population(own, measured[own.name]) for own in populations}


def _measure_class(of: Counted, k: int, by_area: Mapping[str, ClassMatches]) -> MeasuredClass:
    part = {area: matches.subset(of.images) for area, matches in by_area.items()}
    figures = ClassFigures.of(part, of.operating.p95[k], of.operating.best_f1[k])
    drawn = bootstrap.draws(figures, of.weights)
    return MeasuredClass(*class_row(of, k, part, drawn), drawn, figures.distance_to(of.engine, k))


def _measured_population(of: Counted, classes: Sequence[MeasuredClass]) -> MeasuredPopulation:
    rows = tuple(own.row for own in classes)
    macro, means = macro_row(of, rows, [own.drawn for own in classes])
    document = Population(
        images=int(of.images.sum()),
        groups=of.weights.n_groups,
        looked_at=of.looked_at,
        per_class=rows,
        macro=macro,
    )
    measurements = [row for own in classes for row in own.measurements]
    return MeasuredPopulation(document, [*measurements, *means], max(own.distance for own in classes))


def class_row(
    of: Counted, k: int, part: Mapping[str, ClassMatches], drawn: Draws
) -> tuple[ClassRow, list[Measurement]]:
    """One class: its row, and what gates see of it."""
    name, everything = of.engine.classes[k], part["all"]
    units = {area: bootstrap.units_with(matches.gt_counts, of.weights) for area, matches in part.items()}
    measured = {
        metric: bootstrap.interval(drawn, units.get(metric.removeprefix("ap_"), units["all"]), at=(i,))
        for i, metric in enumerate(FIGURES)
    }
    measured = _nested(measured)
    row = ClassRow(
        class_name=name,
        n_gt=everything.n_gt,
        n_images=int((everything.gt_counts > 0).sum()),
        n_detections=len(everything.scores),
        **_flat(measured, of.engine.per_class[name]),
        threshold_p95=finite(of.operating.p95[k]),
        threshold_best_f1=finite(of.operating.best_f1[k]),
    )
    absent = f"no ground truth; {row.n_detections} detections" if of.covered[:, k].any() else "nobody looked for it"
    note = "" if row.n_gt else absent
    return row, [measurement(metric, name, of.name, measured[metric], row.n_gt, units["all"], note) for metric in GATED]


def macro_row(of: Counted, rows: Sequence[ClassRow], drawn: Sequence[Draws]) -> tuple[MacroRow, list[Measurement]]:
    """Means over the classes that have ground truth, resample by resample."""
    mean = macro_of(drawn)
    units = bootstrap.units_with(of.gt_counts, of.weights)
    measured = {metric: bootstrap.interval(mean, units, at=(i,)) for i, metric in enumerate(RANKED)}
    measured = _nested(measured)
    exact = {metric: of.engine.macro(metric) for metric in RANKED if metric in of.engine.per_class[rows[0].class_name]}
    present = sum(row.ap is not None for row in rows)
    macro = MacroRow(**_flat(measured, exact), present=present, of=len(rows))
    n_gt, note = sum(row.n_gt for row in rows), f"mean over {present} of {len(rows)} classes"
    notes = {"ap": f"{note}; interval informational"}
    return macro, [
        measurement(metric, MACRO, of.name, measured[metric], n_gt, units, notes.get(metric, note)) for metric in GATED
    ]


def macro_of(drawn: Sequence[Draws]) -> Draws:
    """The mean of several classes' draws over those that are defined."""
    parts = ([getattr(own, name) for own in drawn] for name in ("point", "resampled", "jackknife"))
    return Draws(*(metrics.macro(np.stack(own)) for own in parts))


def _nested(measured: Mapping[str, Interval]) -> dict[str, Interval]:
    """AP50 is never below AP and AP75, so neither are the ends of its interval; the wider end holds.

    Where nothing is hit at IoU .75 its interval is the exact binomial bound, 0 to .35 of 7 sources; where one box is
    hit at .50 by the way, resampling alone would give AP50 a certain-looking 0 to .00.
    """
    ap50, wider = measured["ap50"], dict(measured)
    if ap50.low is None or ap50.high is None:
        return wider
    high = ap50.high
    for name in ("ap", "ap75"):
        own = measured[name]
        if own.low is not None and own.high is not None:
            high, wider[name] = max(high, own.high), replace(own, low=min(own.low, ap50.low))
    return {**wider, "ap50": replace(ap50, high=high)}


def measurement(
    metric: str, name: str, population: str, measured: Interval, n: int, units: int, note: str = ""
) -> Measurement:
    """One row of what gates see."""
    return Measurement(
        metric=metric,
        class_name=name,
        population=population,
        value=measured.value,
        low=measured.low,
        high=measured.high,
        n=n,
        unit_count=units,
        note="; ".join(part for part in (note, measured.note) if part),
    )


def _flat(measured: Mapping[str, Interval], exact: Mapping[str, float | None]) -> dict[str, float | None]:
    """Fields of a row; the values are the engines' where they have one."""
    fields: dict[str, float | None] = {}
    for metric, own in measured.items():
        of_engine = exact.get(metric)
        fields |= own.named(metric) if of_engine is None else {**own.named(metric), metric: of_engine}
    return fields
