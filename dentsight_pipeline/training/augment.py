"""Mild alterations of X-rays, each decided by (seed, epoch, position) alone.

No global random state is read or changed: the same draw gives the same pixels in any process, in any order and after
any restart, which is what makes resuming exact. All work on the image's own part of the canvas, never on the padding,
so that a flipped image lies top left as it does at inference.

An X-ray has no hue and no saturation, gravity is always down and a tooth never stands on its crown: brightness,
contrast, slight crops and horizontal flips are what panoramic machines and patients really vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.data.fdi import OTHER_SIDE
from dentsight_pipeline.training.recipe import Recipe

LEAST_VISIBLE_SHARE = 0.3
"""A box of which a crop leaves a smaller share of its area is dropped."""


@dataclass(frozen=True)
class View:
    """An image on its canvas, with its boxes.

    Args:
        image: [height, width] uint8.
        boxes_cxcywh: [n, 4] float64, shares of the canvas.
        labels: [n] int64.
        content: (width, height) in pixels of the image's own part of the canvas, top left.
        covered: [classes] whether the image's annotators looked for a class.
    """

    image: NDArray[np.uint8]
    boxes_cxcywh: NDArray[np.float64]
    labels: NDArray[np.int64]
    content: tuple[int, int]
    covered: NDArray[np.bool_]


def mirrored_labels(classes: Sequence[str]) -> NDArray[np.int64]:
    """Label index after a horizontal flip, by label index.

    Names of FDI teeth (two digits, quadrant first) change sides; every other name is its own mirror image.
    """
    index = {name: i for i, name in enumerate(classes)}

    def mirror(name: str) -> str:
        is_tooth = len(name) == 2 and name.isdigit() and name[0] in OTHER_SIDE
        return OTHER_SIDE[name[0]] + name[1] if is_tooth else name

    return np.array([index.get(mirror(name), i) for i, name in enumerate(classes)], dtype=np.int64)


def apply(view: View, recipe: Recipe, draw: tuple[int, int], mirrored: NDArray[np.int64]) -> View:
    """Alters a view as the recipe says.

    Args:
        view: What to alter; left as it is.
        recipe: Seed and strengths.
        draw: (epoch, position in the epoch's draws).
        mirrored: Labels after a flip, from `mirrored_labels`.
    """
    random = np.random.default_rng([recipe.seed, *draw])
    # always the same number of draws in the same order, so that switching one alteration off leaves the others alone
    keep_share = 1.0 - recipe.augment_crop * random.random()
    offset_x, offset_y = random.random(2)
    contrast = 1.0 + recipe.augment_contrast * (2.0 * random.random() - 1.0)
    brightness = 255.0 * recipe.augment_brightness * (2.0 * random.random() - 1.0)
    flips = random.random() < recipe.augment_flip
    if keep_share < 1.0:
        view = crop(view, keep_share, (offset_x, offset_y))
    if contrast != 1.0 or brightness != 0.0:
        view = shade(view, contrast, brightness)
    return flip(view, mirrored) if flips else view


def flip(view: View, mirrored: NDArray[np.int64]) -> View:
    """The view mirrored left to right about the middle of its content, side-specific labels exchanged."""
    width, height = view.content
    image = view.image.copy()
    image[:height, :width] = view.image[:height, :width][:, ::-1]
    boxes = view.boxes_cxcywh.copy()
    boxes[:, 0] = width / view.image.shape[1] - boxes[:, 0]
    return View(image, boxes, mirrored[view.labels], view.content, view.covered[mirrored])


def crop(view: View, keep_share: float, offset: tuple[float, float]) -> View:
    """A window of the content, enlarged back to the content's size.

    Args:
        view: What to crop.
        keep_share: Share of each side that the window keeps.
        offset: Where the window lies, each in [0, 1]: 0 = left or top, 1 = right or bottom.
    """
    import cv2

    width, height = view.content
    window_width, window_height = max(1, round(width * keep_share)), max(1, round(height * keep_share))
    left, top = round((width - window_width) * offset[0]), round((height - window_height) * offset[1])
    image = view.image.copy()
    window = view.image[top : top + window_height, left : left + window_width]
    image[:height, :width] = cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas = np.array([view.image.shape[1], view.image.shape[0]] * 2, dtype=np.float64)
    boxes_px = view.boxes_cxcywh * canvas
    corners = np.concatenate([boxes_px[:, :2] - boxes_px[:, 2:] / 2, boxes_px[:, :2] + boxes_px[:, 2:] / 2], axis=1)
    visible = corners.clip([left, top, left, top], [left + window_width, top + window_height] * 2)
    sides = (visible[:, 2:] - visible[:, :2]).clip(0)
    kept = sides.prod(axis=1) >= LEAST_VISIBLE_SHARE * boxes_px[:, 2:].prod(axis=1)
    kept &= (sides > 0).all(axis=1)
    zoom = np.array([width / window_width, height / window_height] * 2)
    moved = (visible[kept] - [left, top, left, top]) * zoom
    boxes = np.concatenate([(moved[:, :2] + moved[:, 2:]) / 2, moved[:, 2:] - moved[:, :2]], axis=1) / canvas
    return replace(view, image=image, boxes_cxcywh=boxes, labels=view.labels[kept])


def shade(view: View, contrast: float, brightness: float) -> View:
    """Contrast about the content's mean, then a brightness shift in gray values; the padding stays black."""
    width, height = view.content
    image = view.image.copy()
    content = image[:height, :width]
    mean = float(content.mean())
    table = ((np.arange(256) - mean) * contrast + mean + brightness).round().clip(0, 255).astype(np.uint8)
    image[:height, :width] = table[content]
    return replace(view, image=image)
