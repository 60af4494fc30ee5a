"""Each class's mistakes, cut out of the X-rays: what was shown with most confidence and is wrong, and what was missed.

Belongs here: choosing the boxes and cutting them out. Whole images are in `gallery.py`, counts in
`evaluation/errors_by_type.py`. The page draws the boxes as SVG over the cuttings.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from dentsight_pipeline.evaluation.matching import iou_of_pairs
from dentsight_pipeline.release.report.gallery import KIND_WORDS, UNREADABLE, decode_grey

if TYPE_CHECKING:
    import pandas as pd

_SIDE_PX = 128
_JPEG_QUALITY = 75
_CONTEXT = 2.2
"""Side of a cutting as a multiple of the box's longer side: a finding is judged by what is around it."""
_LEAST_SIDE_PX = 64


class Box(NamedTuple):
    """A box in px of the X-ray, from the upper left corner of a cutting."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Crop:
    """A square cut out of an X-ray around one box.

    Attributes:
        side: Side of the square in px of the X-ray.
        jpeg_base64: The cutting.
        box: The wrong box, or the finding that was missed.
        finding: What a wrong box lies on, if anything.
        words: What is wrong, for the line under the picture.
        alt: Alternative text.
    """

    side: float
    jpeg_base64: str
    box: Box
    finding: Box | None
    words: str
    alt: str


@dataclass(frozen=True)
class ClassMistakes:
    """The mistakes of one class: how many there are, and pictures of a few.

    Attributes:
        name: The class.
        n_wrong: Boxes shown that are not right.
        n_missed: Findings not shown.
        wrong: The most confident of the wrong boxes.
        missed: The largest of the missed findings.
    """

    name: str
    n_wrong: int
    n_missed: int
    wrong: tuple[Crop, ...]
    missed: tuple[Crop, ...]


def mistakes_by_class(
    matches: pd.DataFrame,
    ground_truth: Mapping[str, Any],
    classes: Sequence[str],
    images: Callable[[int], bytes],
    most: int = 4,
) -> list[ClassMistakes]:
    """What each class gets wrong at the operating thresholds.

    The largest misses are shown because a small one is easily excused. An image that cannot be decoded gives no
    cutting; its mistakes still count.

    Args:
        matches: `matches.parquet` of the evaluation, narrowed to the images that are to be shown.
        ground_truth: The COCO ground truth that was evaluated.
        classes: Their order; a class without a mistake is left out.
        images: Gives an image's bytes by its id.
        most: How many cuttings of each sort at most.
    """
    chosen = {}
    for name in classes:
        own = matches[matches["class"] == name]
        wrong = own[own["above_threshold"].eq(True) & (own["kind"] != "tp")]
        missed = own[own["kind"] == "missed"]
        if len(wrong) or len(missed):
            surest = wrong.sort_values(["score", "image_id", "x", "y"], ascending=[False, True, True, True])
            largest = missed.assign(area=missed["w"] * missed["h"]).sort_values(
                ["area", "image_id", "x", "y"], ascending=[False, True, True, True]
            )
            chosen[name] = (wrong, missed, surest.head(most), largest.head(most))

    @functools.lru_cache(maxsize=8)
    def decoded(image_id: int) -> Image.Image | None:
        try:
            return decode_grey(images(image_id))
        except UNREADABLE:
            return None

    truth = _boxes_by_image(ground_truth)
    hidden = matches[(matches["kind"] == "tp") & matches["above_threshold"].eq(False)]
    under = hidden.groupby("matched_at_50")["score"].max().to_dict()
    return [
        ClassMistakes(
            name,
            len(wrong),
            len(missed),
            _crops(surest, decoded, lambda row: _why_wrong(row, truth)),
            _crops(largest, decoded, lambda row: _why_missed(row, under)),
        )
        for name, (wrong, missed, surest, largest) in chosen.items()
    ]


def _boxes_by_image(ground_truth: Mapping[str, Any]) -> dict[int, list[tuple[str, list[float]]]]:
    """Class and box of every annotation, crowds aside."""
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    boxes: dict[int, list[tuple[str, list[float]]]] = {}
    for annotation in ground_truth["annotations"]:
        if not annotation.get("iscrowd"):
            own = boxes.setdefault(annotation["image_id"], [])
            own.append((names[annotation["category_id"]], annotation["bbox"]))
    return boxes


def _why_wrong(
    row: Mapping[Any, Any], truth: Mapping[int, list[tuple[str, list[float]]]]
) -> tuple[str, list[float] | None]:
    """Score and kind of the mistake, and the box of the finding that the wrong box lies on, if any."""
    words = f"{row['score']:.2f} {KIND_WORDS.get(row['kind'], row['kind'])}"
    across = row["kind"] == "class"
    near = [(name, box) for name, box in truth.get(row["image_id"], []) if (name != row["class"]) == across]
    if row["kind"] == "background" or not near:
        return words, None
    own = np.array([[row[key] for key in "xywh"]])
    overlaps = iou_of_pairs(np.repeat(own, len(near), axis=0), np.array([box for _, box in near], dtype=float))
    name, box = near[int(np.argmax(overlaps))]
    return (f"{words}: {name}" if across else words), box


def _why_missed(row: Mapping[Any, Any], under: Mapping[Any, float]) -> tuple[str, None]:
    """Whether a box under the threshold would have found it."""
    score = under.get(row["matched_at_50"])
    return ("not found" if score is None else f"found at {score:.2f} only"), None


def _crops(
    rows: pd.DataFrame,
    decoded: Callable[[int], Image.Image | None],
    why: Callable[[Mapping[Any, Any]], tuple[str, Sequence[float] | None]],
) -> tuple[Crop, ...]:
    """One cutting a row, as far as the images can be decoded."""
    crops = []
    for row in rows.to_dict("records"):
        image = decoded(int(row["image_id"]))
        if image is not None:
            words, finding = why(row)
            box = [float(row[key]) for key in "xywh"]
            crops.append(_crop(image, box, finding, words, f"{row['class']}, image {int(row['image_id'])}: {words}"))
    return tuple(crops)


def _crop(image: Image.Image, box: Sequence[float], finding: Sequence[float] | None, words: str, alt: str) -> Crop:
    """The square around a box [x, y, w, h], moved into the image where it would reach outside."""
    x, y, w, h = box
    side = min(max(_CONTEXT * max(w, h), _LEAST_SIDE_PX), image.width, image.height)
    left = min(max(x + w / 2 - side / 2, 0.0), image.width - side)
    top = min(max(y + h / 2 - side / 2, 0.0), image.height - side)
    cut = image.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    buffer = io.BytesIO()
    cut.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)

    def inside(box: Sequence[float]) -> Box:
        return Box(round(box[0] - left, 1), round(box[1] - top, 1), round(box[2], 1), round(box[3], 1))

    return Crop(
        side=round(side, 1),
        jpeg_base64=base64.b64encode(buffer.getvalue()).decode("ascii"),
        box=inside(box),
        finding=None if finding is None else inside(finding),
        words=words,
        alt=alt,
    )
