"""The letterbox and its inverse: the same geometry for training, evaluation and export."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.image_utils import get_image_size_for_max_height_width

from dentsight_pipeline.errors import DataError
from dentsight_pipeline.training import letterbox

SIDES = st.integers(1, 4000)
CANVASES = st.sampled_from([(1280, 704), (1664, 928), (320, 192), (640, 640)])


@settings(deadline=None)
@given(SIDES, SIDES, CANVASES)
def test_the_new_size_is_the_one_of_transformers_image_processor(width: int, height: int, canvas: tuple[int, int]):
    """An exported model's preprocessor_config.json must describe this very geometry, to the last pixel."""
    fitted = letterbox.fit((width, height), canvas)

    theirs = get_image_size_for_max_height_width((height, width), canvas[1], canvas[0])
    assert (fitted.new_height, fitted.new_width) == (max(1, theirs[0]), max(1, theirs[1]))
    assert fitted.new_width <= canvas[0]
    assert fitted.new_height <= canvas[1]


@settings(deadline=None)
@given(SIDES, SIDES, CANVASES, st.lists(st.tuples(*[st.floats(-100, 4100)] * 4), max_size=5))
def test_boxes_come_back_to_less_than_a_thousandth_pixel(
    width: int, height: int, canvas: tuple[int, int], boxes: list[tuple[float, ...]]
):
    """Every metric is computed in original pixels: what the letterbox loses, no model can win back."""
    fitted = letterbox.fit((width, height), canvas)
    given_boxes = np.array(boxes, dtype=float).reshape(-1, 4)

    np.testing.assert_allclose(fitted.denormalise(fitted.normalise(given_boxes)), given_boxes, atol=1e-8)


def on_canvas(fitted: letterbox.Letterbox, box_xywh_px: list[float]) -> list[float]:
    """Left, top, right and bottom of a box in pixels of the canvas."""
    sides = [fitted.canvas_width, fitted.canvas_height] * 2
    x, y, width, height = fitted.normalise(np.array([box_xywh_px]))[0] * sides
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def test_a_box_over_the_whole_image_covers_the_content_exactly():
    """The scale factors are the true ones of each axis, not one common factor: rounding down changes the aspect."""
    fitted = letterbox.fit((1662, 1077), (1280, 704))

    corners = on_canvas(fitted, [0.0, 0.0, 1662.0, 1077.0])

    assert (fitted.new_width, fitted.new_height) == (1086, 704)
    np.testing.assert_allclose(corners, [0, 0, 1086, 704], atol=1e-9)


def test_a_drawn_rectangle_lies_where_its_box_says():
    """Formulas and pixels can disagree by half a pixel without anyone noticing; the image is the witness."""
    image = np.zeros((600, 1000), np.uint8)
    image[200:360, 400:700] = 255
    fitted = letterbox.fit((1000, 600), (320, 192))

    canvas = fitted.apply(image)

    left, top, right, bottom = on_canvas(fitted, [400.0, 200, 300, 160])
    columns, rows = canvas.sum(axis=0) / 255, canvas.sum(axis=1) / 255
    centre_x = (columns * (np.arange(320) + 0.5)).sum() / columns.sum()
    centre_y = (rows * (np.arange(192) + 0.5)).sum() / rows.sum()
    assert centre_x == pytest.approx((left + right) / 2, abs=0.02)
    assert centre_y == pytest.approx((top + bottom) / 2, abs=0.02)
    assert canvas.sum() / 255 == pytest.approx((right - left) * (bottom - top), rel=0.01)


def test_the_image_lies_top_left_and_the_rest_is_black():
    """Padding elsewhere, or gray, would be another geometry than the exported configuration describes."""
    canvas = letterbox.fit((100, 200), (320, 192)).apply(np.full((200, 100), 200, np.uint8))

    assert canvas.shape == (192, 320)
    assert (canvas[:, :96] == 200).all()
    assert (canvas[:, 96:] == 0).all()


def test_colour_images_keep_their_channels():
    """Prediction on one's own pictures may pass colour."""
    assert letterbox.fit((100, 50), (320, 192)).apply(np.ones((50, 100, 3), np.uint8)).shape == (192, 320, 3)


def test_an_image_of_another_size_than_its_record_is_refused():
    """Boxes in pixels of another size would be wrong everywhere, silently."""
    with pytest.raises(DataError, match="The image is 100×50 pixels, its record says 50×100"):
        letterbox.fit((50, 100), (320, 192)).apply(np.zeros((50, 100), np.uint8))


def test_an_image_without_pixels_is_refused():
    """A record of size 0 would divide by zero."""
    with pytest.raises(DataError, match="0×10 pixels has no pixels"):
        letterbox.fit((0, 10), (320, 192))


def test_a_file_is_read_as_gray_at_its_full_size(tmp_path: Path):
    """Draft decoding at reduced size would change the pixels that v1 was compared on."""
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((90, 160, 3), 128, np.uint8))

    gray = letterbox.read_grayscale(str(tmp_path / "a.jpg"), (160, 90))

    assert gray.shape == (90, 160)
    assert gray.dtype == np.uint8


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path):
    """A cut-off JPEG must not become a black image."""
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff")

    with pytest.raises(DataError, match=r"b\.jpg cannot be decoded"):
        letterbox.read_grayscale(str(tmp_path / "b.jpg"))
    with pytest.raises(DataError, match="its record says 10×10"):
        cv2.imwrite(str(tmp_path / "c.png"), np.zeros((5, 10), np.uint8))
        letterbox.read_grayscale(str(tmp_path / "c.png"), (10, 10))


def test_the_tightest_canvas_shows_every_image_as_large_and_is_as_wide_as_the_widest():
    """Square X-rays on a canvas for panoramic ones leave 43 % of it black, and each step pays for it."""
    assert letterbox.tightest([(640, 640), (500, 600)], (448, 256), stride=32) == (256, 256)
    assert letterbox.tightest([(640, 640), (1600, 900)], (448, 256), stride=32) == (448, 256)
    assert letterbox.tightest([(1600, 400)], (448, 256), stride=32) == (448, 128)
