"""How annotators of phantoms err: what they miss, add, call otherwise and draw in another place, as stated numbers.

An X-ray that is uploaded twice is labelled by the second annotator the second time. What two such annotators allow a
model to reach is measured in `evaluation/ceiling.py`, and can be known here, because the noise is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dentsight_pipeline.phantom.canvas import Points


@dataclass(frozen=True)
class AnnotatorNoise:
    """An annotator's habits.

    Attributes:
        missed: Share of the true findings of a label that are left out.
        missed_else: The same for labels that are not listed.
        renamed: Label → what it is called instead, and how often.
        added: Label → mean number an image of findings that are not there.
        spread: Standard deviation of a box's sides, and twice that of its place, as a share of its size.
        misnumbered: Share of teeth that get the neighbour's number.
    """

    missed: Mapping[str, float] = field(default_factory=dict)
    missed_else: float = 0.0
    renamed: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    added: Mapping[str, float] = field(default_factory=dict)
    spread: float = 0.0
    misnumbered: float = 0.0

    def share_missed(self, label: str) -> float:
        """How often a true finding is left out."""
        return self.missed.get(label, self.missed_else)


_ADDED_SHARE = (0.015, 0.03)  # of the image: the sides of an added box where no true one shows its size

FIRST_ANNOTATOR = AnnotatorNoise(spread=0.02)
SECOND_ANNOTATOR = AnnotatorNoise(
    missed={
        "caries": 0.35, "calculus": 0.40, "periapical radiolucency": 0.30, "missing": 0.15, "restoration": 0.12,
        "RC-treated": 0.06, "root-stump": 0.08, "condensing osteitis": 0.5,
    },
    missed_else=0.03,
    renamed={
        "crown": ("restoration", 0.06),
        "restoration": ("crown", 0.06),
        "root-stump": ("grossly-decayed", 0.04),
        "RC-treated-and-root-stump": ("root-stump", 0.3),
        "periapical radiolucency": ("radiolucency", 0.01),
        "bridge": ("crown", 0.08),
    },
    added={"caries": 0.6, "calculus": 0.4},
    spread=0.05,
    misnumbered=0.012,
)  # fmt: skip
"""The dentist who labels an X-ray that is uploaded a second time."""


def shifted(outline: Points, spread: float, rng: np.random.Generator) -> Points:
    """An outline [n, 2] as another hand draws it: moved and scaled by a share of its size."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    size = high - low
    z = rng.standard_normal(4)
    center = (low + high) / 2
    return center + (outline - center) * (1 + spread * z[:2]) + spread * size * 0.5 * z[2:]


def read_boxes(
    truth: Mapping[str, np.ndarray], noise: AnnotatorNoise, size: tuple[float, float], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """One annotator's boxes of one image, without drawing it.

    Args:
        truth: Boxes [n, 4], x, y, w, h in px, by label.
        noise: The annotator.
        size: Width and height of the image, px; added boxes lie anywhere in it.
        rng: Of the annotator.

    Returns:
        Boxes by label; a label that the annotator did not use is left out.
    """
    drawn: dict[str, list[np.ndarray]] = {}
    for label, boxes in truth.items():
        for box in boxes[rng.random(len(boxes)) >= noise.share_missed(label)]:
            name, share = noise.renamed.get(label, (label, 0.0))
            corners = shifted(np.array([box[:2], box[:2] + box[2:]]), noise.spread, rng)
            drawn.setdefault(name if rng.random() < share else label, []).append(
                np.concatenate([corners[0], corners[1] - corners[0]])
            )
    for label, mean in noise.added.items():
        for _ in range(int(rng.poisson(mean))):
            true = truth.get(label, np.empty((0, 4)))
            sides = true[int(rng.integers(len(true))), 2:] if len(true) else np.array(size) * _ADDED_SHARE
            drawn.setdefault(label, []).append(np.concatenate([rng.random(2) * (np.array(size) - sides), sides]))
    return {label: np.array(boxes) for label, boxes in drawn.items()}
