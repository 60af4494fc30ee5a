"""Each class's mistakes, cut out of the X-rays: what was shown with most confidence and is wrong, and what was missed.

Belongs here: choosing the boxes and cutting them out. Whole images are in `gallery.py`, counts in
`evaluation/errors_by_type.py`. The page draws the boxes as SVG over the cuttings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from dentsight_pipeline.evaluation.matching import iou_of_pairs
from dentsight_pipeline.release.report.pictures import (
    KIND_WORDS,
    SIDES,
    UNREADABLE,
    Images,
    Truth,
    decode_grey,
    jpeg_base64,
)

_SIDE_PX = 128
_JPEG_QUALITY = 75
_CONTEXT = 2.2
"""Side of a cutting as a multiple of the box's longer side: a finding is judged by what is around it."""
_LEAST_SIDE_PX = 64

_Row = Mapping[Any, Any]
"""One row of `matches.parquet`."""
_Why = Callable[[_Row], tuple[str, Sequence[float] | None]]
"""Words for a row, and the box of the finding that it lies on, if any."""


class Box(NamedTuple):
    """A box in px of the X-ray, from the upper left corner of a cutting."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Crop:
    """A square cut out of an X-ray around one box."""

    side: float
    """Side of the square in px of the X-ray."""
    jpeg_base64: str
    """The cutting."""
    box: Box
    """The wrong box, or the finding that was missed."""
    finding: Box | None
    """What a wrong box lies on, if anything."""
    words: str
    """What is wrong, for the line under the picture."""
    alt: str
    """Alternative text."""


@dataclass(frozen=True)
class ClassMistakes:
    """The mistakes of one class: how many there are, and pictures of a few."""

    name: str
    """The class."""
    n_wrong: int
    """Boxes shown that are not right."""
    n_missed: int
    """Findings not shown."""
    wrong: tuple[Crop, ...]
    """The most confident of the wrong boxes."""
    missed: tuple[Crop, ...]
    """The largest of the missed findings."""


def mistakes_by_class(
    matches: pd.DataFrame, truth: Truth, classes: Sequence[str], images: Images, most: int = 4
) -> list[ClassMistakes]:
    """What each class gets wrong at the operating thresholds.

    The largest misses are shown because a small one is easily excused. An image that cannot be decoded gives no
    cutting; its mistakes still count.

    Args:
        matches: `matches.parquet` of the evaluation.
        truth: What was evaluated, narrowed to the images that are to be shown.
        classes: Their order; a class without a mistake is left out.
        images: Gives an image's bytes by its id.
        most: How many cuttings of each sort at most.
    """
    matches = matches[matches["image_id"].isin(truth.images.index)]
    hidden = matches[(matches["kind"] == "tp") & matches["above_threshold"].eq(False)]
    under = hidden.groupby("matched_at_50")["score"].max().to_dict()
    boxes = dict(list(truth.boxes.groupby("image_id")))
    decoded = _decoder(images)
    found = []
    for name in classes:
        wrong, missed = _mistakes_of(matches[matches["class"] == name])
        if len(wrong) or len(missed):
            surest = _crops(wrong.head(most), decoded, lambda row: _why_wrong(row, boxes.get(row["image_id"])))
            largest = _crops(missed.head(most), decoded, lambda row: _why_missed(row, under))
            found.append(ClassMistakes(name, len(wrong), len(missed), surest, largest))
    return found


def _mistakes_of(own: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The wrong boxes of one class, surest first, and its missed findings, largest first."""
    wrong = own[own["above_threshold"].eq(True) & (own["kind"] != "tp")]
    missed = own[own["kind"] == "missed"]
    missed = missed.assign(area=missed["w"] * missed["h"])
    order, ascending = ["image_id", "x", "y"], [False, True, True, True]
    return (
        wrong.sort_values(["score", *order], ascending=ascending),
        missed.sort_values(["area", *order], ascending=ascending),
    )


def _decoder(images: Images) -> Callable[[int], Image.Image | None]:
    @functools.lru_cache(maxsize=8)
    def decoded(image_id: int) -> Image.Image | None:
        try:
            return decode_grey(images(image_id))
        except UNREADABLE:
            return None

    return decoded


def _why_wrong(row: _Row, truth: pd.DataFrame | None) -> tuple[str, Sequence[float] | None]:
    """Score and kind of the mistake, and the box of the finding that the wrong box lies on, if any."""
    words = f"{row['score']:.2f} {KIND_WORDS.get(row['kind'], row['kind'])}"
    if row["kind"] == "background" or truth is None:
        return words, None
    across = row["kind"] == "class"
    near = truth[(truth["class"] != row["class"]) == across]
    if near.empty:
        return words, None
    own = np.array([[row[side] for side in SIDES]])
    overlaps = iou_of_pairs(np.repeat(own, len(near), axis=0), near[SIDES].to_numpy(float))
    best = near.iloc[int(np.argmax(overlaps))]
    return (f"{words}: {best['class']}" if across else words), best[SIDES].tolist()


def _why_missed(row: _Row, under: Mapping[Any, float]) -> tuple[str, None]:
    """Whether a box under the threshold would have found it."""
    score = under.get(row["matched_at_50"])
    return ("not found" if score is None else f"found at {score:.2f} only"), None


def _crops(rows: pd.DataFrame, decoded: Callable[[int], Image.Image | None], why: _Why) -> tuple[Crop, ...]:
    """One cutting a row, as far as the images can be decoded."""
    crops = []
    for row in rows.to_dict("records"):
        if image := decoded(int(row["image_id"])):
            words, finding = why(row)
            box = [float(row[side]) for side in SIDES]
            crops.append(_crop(image, box, finding, words, f"{row['class']}, image {int(row['image_id'])}: {words}"))
    return tuple(crops)


def _crop(image: Image.Image, box: Sequence[float], finding: Sequence[float] | None, words: str, alt: str) -> Crop:
    """The square around a box [x, y, w, h], moved into the image where it would reach outside."""
    x, y, w, h = box
    side = min(max(_CONTEXT * max(w, h), _LEAST_SIDE_PX), image.width, image.height)
    left = min(max(x + w / 2 - side / 2, 0.0), image.width - side)
    top = min(max(y + h / 2 - side / 2, 0.0), image.height - side)
    square = (left, top, left + side, top + side)
    cut = image.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC, box=square)
    own, other = _inside(box, left, top), None if finding is None else _inside(finding, left, top)
    return Crop(round(side, 1), jpeg_base64(cut, _JPEG_QUALITY), own, other, words, alt)


def _inside(box: Sequence[float], left: float, top: float) -> Box:
    return Box(round(box[0] - left, 1), round(box[1] - top, 1), round(box[2], 1), round(box[3], 1))
