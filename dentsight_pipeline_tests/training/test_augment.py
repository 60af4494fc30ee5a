"""Augmentation: decided by (seed, epoch, position) alone, boxes following the pixels, sides exchanged by flips."""

from __future__ import annotations

import numpy as np
import pytest

from dentsight_pipeline.training import augment
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.augment import View
from dentsight_pipeline.training.recipe import Recipe

TEETH = tuple(f"{q}{n}" for q in (1, 2, 3, 4) for n in range(1, 9))


@pytest.fixture
def strong() -> Recipe:
    """Every alteration on."""
    return recipes.named("smoke").override(
        {"augment_brightness": 0.2, "augment_contrast": 0.4, "augment_crop": 0.4, "augment_flip": 0.5}
    )


def bright_box(left: int, top: int, width: int, height: int, content: tuple[int, int] = (160, 96)) -> View:
    """A canvas of 192×96 with dark content and one white rectangle, and its box with label 0."""
    image = np.zeros((96, 192), np.uint8)
    image[: content[1], : content[0]] = 60
    image[top : top + height, left : left + width] = 255
    box = np.array([[(left + width / 2) / 192, (top + height / 2) / 96, width / 192, height / 96]])
    return View(image, box, np.array([0]), content, np.ones(1, bool))


def box_of_white(view: View) -> tuple[int, int, int, int]:
    """Corners of the white pixels: left, top, right, bottom."""
    rows, columns = np.nonzero(view.image > 170)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def corners(view: View) -> np.ndarray:
    """The view's boxes as corners in canvas pixels."""
    centre, size = view.boxes_cxcywh[:, :2] * [192, 96], view.boxes_cxcywh[:, 2:] * [192, 96]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def test_the_same_draw_gives_the_same_pixels_whatever_happened_before(strong: Recipe):
    """Resuming is exact only when no draw depends on those before it or on global random state."""
    view = bright_box(40, 30, 30, 20)
    np.random.seed(1)
    first = augment.apply(view, strong, (3, 17), np.array([0]))
    np.random.seed(2)
    augment.apply(view, strong, (0, 0), np.array([0]))
    again = augment.apply(view, strong, (3, 17), np.array([0]))

    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes_cxcywh, again.boxes_cxcywh)


def test_every_epoch_position_and_seed_draws_anew(strong: Recipe):
    """Without it the network would see one fixed alteration of each image."""
    view = bright_box(40, 30, 30, 20)
    other_seed = strong.override({"seed": 7})

    images = [
        augment.apply(view, recipe, draw, np.array([0])).image
        for recipe, draw in [(strong, (0, 0)), (strong, (1, 0)), (strong, (0, 1)), (other_seed, (0, 0))]
    ]

    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])


def test_the_original_is_left_alone(strong: Recipe):
    """It is the memory-mapped cache: writing into it would damage every later epoch."""
    view = bright_box(40, 30, 30, 20)
    before = view.image.copy()

    for position in range(8):
        augment.apply(view, strong, (0, position), np.array([0]))

    np.testing.assert_array_equal(view.image, before)


def test_a_recipe_without_alterations_changes_nothing():
    """v1 has none: its images must reach the model as they are."""
    view = bright_box(40, 30, 30, 20)
    plain = recipes.named("smoke").override({"augment_flip": 0})

    altered = augment.apply(view, plain, (0, 0), np.array([0]))

    np.testing.assert_array_equal(altered.image, view.image)
    np.testing.assert_array_equal(altered.boxes_cxcywh, view.boxes_cxcywh)


def test_a_flip_keeps_the_image_top_left_and_its_box_on_its_pixels():
    """Flipping the whole canvas would move the padding to the left, where inference never has it."""
    flipped = augment.flip(bright_box(10, 30, 30, 20), np.array([0]))

    assert box_of_white(flipped) == (120, 30, 150, 50)
    np.testing.assert_allclose(corners(flipped), [[120, 30, 150, 50]], atol=1e-9)
    assert (flipped.image[:, 160:] == 0).all()


def test_a_flip_exchanges_fdi_quadrants_and_keeps_positions():
    """A mirrored tooth 16 is a tooth 26; training on the wrong side would teach left and right as one."""
    mirrored = augment.mirrored_labels(TEETH)

    names = {name: TEETH[mirrored[i]] for i, name in enumerate(TEETH)}
    assert (names["16"], names["26"], names["31"], names["48"]) == ("26", "16", "41", "38")
    np.testing.assert_array_equal(mirrored[mirrored], np.arange(32))


def test_a_flip_exchanges_what_was_looked_for_as_well():
    """Who looked at the right side only looked, in the mirror, at the left one only."""
    right = np.array([name[0] in "14" for name in TEETH])
    view = View(np.zeros((96, 192), np.uint8), np.empty((0, 4)), np.empty(0, np.int64), (160, 96), right)

    flipped = augment.flip(view, augment.mirrored_labels(TEETH))

    np.testing.assert_array_equal(flipped.covered, ~right)


def test_conditions_are_their_own_mirror_image():
    """Caries has no side."""
    np.testing.assert_array_equal(augment.mirrored_labels(("caries", "crown", "missing")), [0, 1, 2])


def test_a_crop_moves_the_box_with_its_pixels():
    """A box that lags behind by the crop's offset teaches the wrong place."""
    cropped = augment.crop(bright_box(60, 40, 40, 24), 0.75, (0.5, 0.5))

    np.testing.assert_allclose(corners(cropped), [box_of_white(cropped)], atol=1.0)
    assert cropped.boxes_cxcywh[0, 2] * 192 == pytest.approx(40 / 0.75, abs=0.5)


def test_a_crop_drops_a_box_that_is_mostly_gone_and_clips_one_that_is_not():
    """A sliver of a lesion at the border is no example of the lesion."""
    left_out = augment.crop(bright_box(0, 40, 30, 20), 0.6, (1.0, 0.5))
    kept = augment.crop(bright_box(50, 40, 40, 20), 0.6, (1.0, 0.5))

    assert len(left_out.labels) == 0
    assert len(kept.labels) == 1
    assert corners(kept)[0, 0] == pytest.approx(0)


def test_shading_leaves_the_padding_black_and_clips_at_white():
    """Padding that brightens with the image would tell the model that an image was altered."""
    shaded = augment.shade(bright_box(40, 30, 30, 20), 1.0, 40.0)

    assert (shaded.image[:, 160:] == 0).all()
    assert shaded.image[0, 0] == 100
    assert shaded.image[35, 45] == 255


def test_an_image_without_boxes_can_be_altered(strong: Recipe):
    """Negatives are augmented as well."""
    view = View(np.zeros((96, 192), np.uint8), np.empty((0, 4)), np.empty(0, np.int64), (160, 96), np.ones(1, bool))

    assert augment.apply(view, strong, (0, 5), np.array([0])).boxes_cxcywh.shape == (0, 4)
