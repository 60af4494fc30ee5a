"""AP and AP50 of a part of the images or of the classes: an export, a jaw, the images of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from dentsight_pipeline.documents.evaluation import MACRO, ExportFigures, PartRow
from dentsight_pipeline.evaluation import bootstrap
from dentsight_pipeline.evaluation.bootstrap import Draws, Weights
from dentsight_pipeline.evaluation.figures import HALF, Counted, macro_of
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.metrics import CurveTable


class PartFields(TypedDict):
    """The fields of `PartFigures`."""

    images: int
    groups: int
    rows: tuple[PartRow, ...]


def draws_of(matches: ClassMatches, weights: Weights) -> Draws:
    """AP and AP50 of one class on the images of `matches`, [2, ·]."""
    curve = CurveTable.from_matches(matches)

    def figures(by_image: np.ndarray) -> np.ndarray:
        precision, _ = curve.average_precision(by_image)
        return np.stack([precision.mean(axis=0), precision[HALF]])

    return bootstrap.draws(figures, weights)


def two_figures(drawn: Sequence[Draws], gt_counts: np.ndarray, weights: Weights) -> dict[str, float | None]:
    """Fields of `TwoFigures`: the mean over classes that are there, with intervals from what `gt_counts` [I] counts."""
    mean, units = macro_of(drawn), bootstrap.units_with(gt_counts, weights)
    fields: dict[str, float | None] = {}
    for i, name in enumerate(("ap", "ap50")):
        fields |= bootstrap.interval(mean, units, at=(i,)).named(name)
    return fields


def by_export(
    of: Counted, exports: Sequence[str], groups: np.ndarray, resamples: int, seed: int
) -> tuple[ExportFigures, ...]:
    """The figures of each export's images; none where all are of one, or nothing says of which.

    Args:
        of: The population.
        exports: Export of each image [I], those outside of the population included; empty where nothing says.
        groups: [I] their source groups.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.
    """
    names = np.array(exports)
    masks = {name: of.images & (names == name) for name in sorted({*exports})}
    return tuple(
        ExportFigures(export=name, **figures_of(of, mask, groups, resamples, seed))
        for name, mask in masks.items()
        if len(masks) > 1 and mask.any()
    )


def figures_of(of: Counted, mask: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> PartFields:
    """Fields of `PartFigures` on the images where `mask` [I] is true, some of the population's.

    One class's detections are taken at a time: those of all would be a second copy of what is there.
    """
    weights, looked_at = bootstrap.draw(groups[mask], resamples, seed), of.covered[mask[of.images]].sum(axis=0)
    drawn, rows, counts = [], [], np.zeros(int(mask.sum()), np.int64)
    for own, seen in zip(of.matches, looked_at.tolist(), strict=True):
        part = own.subset(mask)
        drawn.append(draws_of(part, weights))
        counts = counts + part.gt_counts
        rows += [_row(own.name, seen, part.gt_counts, drawn[-1:], weights)] if seen else []
    rows.append(_row(MACRO, int(mask.sum()), counts, drawn, weights))
    return PartFields(images=int(mask.sum()), groups=weights.n_groups, rows=tuple(rows))


def _row(name: str, images: int, gt_counts: np.ndarray, drawn: Sequence[Draws], weights: Weights) -> PartRow:
    return PartRow(
        class_name=name,
        n_gt=int(gt_counts.sum()),
        images=images,
        sources=bootstrap.units_with(gt_counts, weights),
        **two_figures(drawn, gt_counts, weights),
    )
