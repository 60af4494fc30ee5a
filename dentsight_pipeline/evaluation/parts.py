"""AP and AP50 of a part of the images or of the classes: an export, a jaw, the images of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dentsight_pipeline.documents.evaluation import MACRO, ExportFigures, ExportRow
from dentsight_pipeline.evaluation import bootstrap
from dentsight_pipeline.evaluation.bootstrap import Draws, Weights
from dentsight_pipeline.evaluation.figures import HALF, Counted, macro_of
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.metrics import CurveTable


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
        _of_export(name, of, mask, bootstrap.draw(groups[mask], resamples, seed))
        for name, mask in masks.items()
        if len(masks) > 1 and mask.any()
    )


def _of_export(name: str, of: Counted, mask: np.ndarray, weights: Weights) -> ExportFigures:
    matches = [own.subset(mask) for own in of.matches]
    looked_at = of.covered[mask[of.images]].sum(axis=0).tolist()
    drawn = [draws_of(own, weights) for own in matches]
    rows = [
        ExportRow(class_name=own.name, n_gt=own.n_gt, images=seen, **two_figures([part], own.gt_counts, weights))
        for own, seen, part in zip(matches, looked_at, drawn, strict=True)
        if seen
    ]
    counts = np.sum([own.gt_counts for own in matches], axis=0)
    mean = two_figures(drawn, counts, weights)
    macro = ExportRow(class_name=MACRO, n_gt=int(counts.sum()), images=int(mask.sum()), **mean)
    return ExportFigures(export=name, images=int(mask.sum()), groups=weights.n_groups, rows=(*rows, macro))
