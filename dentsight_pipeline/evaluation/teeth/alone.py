"""Stage 1 by itself: AP by jaw and side, teeth with a wrong number by kind, and how many teeth a mouth has.

AP of each tooth is the evaluation's, as of any class. Which tooth has a condition is the business of `findings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress

import numpy as np

from dentsight_pipeline.documents.evaluation import PopulationName
from dentsight_pipeline.documents.teeth import StageOne, ToothCount, ToothGroup
from dentsight_pipeline.evaluation import bootstrap, matching
from dentsight_pipeline.evaluation.bootstrap import Draws, Interval, Weights
from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.parts import draws_of, two_figures
from dentsight_pipeline.evaluation.teeth.findings import (
    Marked,
    Mouth,
    at_least,
    by_image,
    choose_tooth_threshold,
    numbering,
    one_mouth,
)

GROUPS: Mapping[str, str] = {
    "all": "1234",
    "upper": "12",
    "lower": "34",
    "right": "14",
    "left": "23",
    "upper right": "1",
    "upper left": "2",
    "lower left": "3",
    "lower right": "4",
}
"""Jaws, sides and quadrants by the first digit of their teeth; sides are the patient's."""


def measure_alone(
    truth: GroundTruth,
    found: Detections,
    valid: tuple[GroundTruth, Detections] | None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, dict[PopulationName, StageOne | None]]:
    """How well teeth are found, numbered and counted, whatever else is on them.

    Args:
        truth: Annotated teeth of the evaluated images.
        found: Detections on them.
        valid: The same of the split that the tooth threshold is chosen on; without it, on the evaluated images.
        resamples: Bootstrap resamples over source groups; 0 = no intervals.
        seed: Of the bootstrap.

    Returns:
        The least score of a tooth (+∞ when none is hit), and the figures by population; None where it has no image.
    """
    marked, matches = _marked(truth, found), matching.match_all_sizes(truth, found)
    threshold = choose_tooth_threshold(*((valid[0], _marked(*valid)) if valid else (truth, marked)))
    mouths = _mouths(truth, {image: at_least(teeth, threshold) for image, teeth in marked.items()})
    masks: dict[PopulationName, np.ndarray | None] = {
        "all": np.ones(len(truth.image_ids), bool),
        "clean": truth.clean,
    }
    return threshold, {
        name: None if mask is None or not mask.any() else _measure(truth, matches, mouths, mask, resamples, seed)
        for name, mask in masks.items()
    }


def _marked(truth: GroundTruth, found: Detections) -> dict[int, list[Marked]]:
    return {image: one_mouth(teeth) for image, teeth in by_image(found, truth).items()}


def _mouths(truth: GroundTruth, found: Mapping[int, Sequence[Marked]]) -> list[Mouth]:
    """Each image with the teeth found and annotated."""
    there = by_image(truth, truth)
    clean = np.ones(len(truth.image_ids), bool) if truth.clean is None else truth.clean
    columns = (column.tolist() for column in (truth.image_ids, truth.groups, clean))
    return [
        Mouth(str(group), ok, found.get(image, []), (), there.get(image, []), ())
        for image, group, ok in zip(*columns, strict=True)
    ]


def _measure(
    truth: GroundTruth,
    matches: Sequence[ClassMatches],
    every: Sequence[Mouth],
    images: np.ndarray,
    resamples: int,
    seed: int,
) -> StageOne:
    """The figures on the images where the mask `images` is true."""
    weights = bootstrap.draw(truth.groups[images], resamples, seed)
    mouths = list(compress(every, images & truth.fully_covered))
    return StageOne(
        images=int(images.sum()),
        groups=weights.n_groups,
        ap=tuple(_groups(truth, [own.subset(images) for own in matches], weights)),
        images_counted=len(mouths),
        teeth=numbering(mouths, resamples, seed) if mouths else None,
        count=_count(mouths, resamples, seed) if mouths else None,
    )


def _groups(truth: GroundTruth, matches: Sequence[ClassMatches], weights: Weights) -> list[ToothGroup]:
    """The mean AP of the teeth of each group that are there."""
    drawn = [draws_of(own, weights) for own in matches]
    return [_group(name, _of(truth, quadrants), matches, drawn, weights) for name, quadrants in GROUPS.items()]


def _of(truth: GroundTruth, quadrants: str) -> list[int]:
    return [k for k, tooth in enumerate(truth.class_names) if tooth[0] in quadrants]


def _group(
    name: str, own: Sequence[int], matches: Sequence[ClassMatches], drawn: Sequence[Draws], weights: Weights
) -> ToothGroup:
    counts = np.sum([matches[k].gt_counts for k in own], axis=0)
    return ToothGroup(
        group=name,
        n_gt=int(counts.sum()),
        teeth=sum(matches[k].n_gt > 0 for k in own),
        **two_figures([drawn[k] for k in own], counts, weights),
    )


def _count(mouths: Sequence[Mouth], resamples: int, seed: int) -> ToothCount:
    """How many teeth are found in a mouth against how many there are."""
    weights = bootstrap.draw(np.array([mouth.group for mouth in mouths]), resamples, seed)
    more = np.array([len(mouth.teeth) - len(mouth.true_teeth) for mouth in mouths], np.float64)
    measured = {
        "exact": _mean((more == 0).astype(np.float64), weights, (0.0, 1.0)),
        "off_by": _mean(np.abs(more), weights, None),
        "bias": _mean(more, weights, None),
    }
    fields: dict[str, float | None] = {}
    for name, own in measured.items():
        fields |= own.named(name)
    return ToothCount(
        n_gt=sum(len(mouth.true_teeth) for mouth in mouths),
        n_found=sum(len(mouth.teeth) for mouth in mouths),
        **fields,
    )


def _mean(values: np.ndarray, weights: Weights, bounds: tuple[float, float] | None) -> Interval:
    """The mean of a value of each image [I]."""
    with np.errstate(invalid="ignore"):  # a jackknife replicate of one group is empty
        drawn = bootstrap.draws(lambda by_image: (values @ by_image / by_image.sum(axis=0))[None], weights)
    return bootstrap.interval(drawn, weights.n_groups, at=(0,), bounds=bounds)
