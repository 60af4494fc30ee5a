"""Photographs, bitewings and periapicals under the name of panoramic X-rays: told, never mended."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dentsight_pipeline.data.modality import colour_spread, unlike_panoramic
from dentsight_pipeline_tests.data.export_builder import jpeg, picture, png


def _coloured(seed: int) -> bytes:
    """Three pictures as the channels of one."""
    pixels = np.stack([picture(seed + n, 256, 192) for n in range(3)], axis=2)
    return jpeg(pixels)


def _tinted(seed: int) -> bytes:
    """A gray picture in the blue of old films."""
    gray = picture(seed, 256, 192).astype(float)
    pixels = np.stack([gray * 0.7, gray * 0.85, 40 + gray * 0.84], axis=2).astype(np.uint8)
    return jpeg(pixels)


def test_a_photograph_is_told_by_its_colours_and_a_tint_is_not() -> None:
    """Scanned films are blue or brown; no single tint makes lips, gums and teeth."""
    assert colour_spread(jpeg(picture(1, 256, 192))) < 0.5
    assert colour_spread(_tinted(1)) < 2.5
    assert colour_spread(_coloured(1)) > 10
    assert colour_spread(b"no picture") == 0.0


@pytest.mark.parametrize(
    ("sizes", "colours", "resized", "expected"),
    [
        ([(1615, 840)] * 9, [0.3], False, ""),
        ([(1662, 1077), (1991, 1127)] * 5, [1.9], False, ""),
        ([(640, 640)] * 9, [0.3], False, ""),  # resized, whoever says so
        ([(640, 480)] * 9, [0.3], True, ""),
        ([(640, 480)] * 9, [0.3], False, "bitewings"),
        ([(900, 1200), (1200, 900)] * 5, [0.3], False, "bitewings"),
        ([(900, 1200)] * 5, [0.3], False, ""),  # too few to tell
        ([(900, 1200)] * 6, [0.3], False, "bitewings"),
        ([(1400, 1000)] * 6, [0.3], False, ""),
        ([(1399, 1000)] * 6, [0.3], False, "bitewings"),
        ([(900, 1200)] * 6, [0.3], True, ""),  # one size for all
        ([(900, 1200)] * 5 + [(900, 1201)], [0.3], True, "bitewings"),
        ([(1615, 840)] * 3, [25.0, 31.0, 0.0], False, "photographs"),
        ([(1615, 840)] * 3, [5.0, 5.0, 9.0], False, ""),
        ([(1615, 840)] * 3, [5.1], False, "photographs"),
        ([], [], False, ""),
    ],
)
def test_what_pictures_look_like_is_said_where_they_are_not_panoramic(
    sizes: list[tuple[int, int]], colours: list[float], resized: bool, expected: str
) -> None:
    """The shape says nothing of images that were all given one."""
    assert unlike_panoramic(sizes, colours, resized=resized).startswith(expected)
    assert expected or not unlike_panoramic(sizes, colours, resized=resized)


def test_an_image_of_one_pixel_says_nothing_of_colours() -> None:
    """A regression over nothing has no rest."""
    out = io.BytesIO()
    Image.new("RGB", (1, 1), "red").save(out, "PNG")

    assert colour_spread(out.getvalue()) == 0.0


def test_colours_are_looked_at_from_sixteen_pixels_on() -> None:
    """After reduction by eight; of fewer, chance would make a photograph."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    assert colour_spread(png(pixels)) > 10
    assert colour_spread(png(pixels[:, :24])) == 0.0
