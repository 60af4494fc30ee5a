"""Do an export's pictures look like panoramic X-rays? A warning for people: by colour and by the shape of the pictures.

Photographs have colours that no tint explains; bitewings and periapicals are nearly as high as wide, or higher. Single
images are not judged, and a resized export has lost its shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

LOOKED_AT = 24
"""Images of an export whose colours are looked at."""
_COLOURED = 5.0
"""Gray values by which channels differ beyond what one tint over a gray picture gives; JPEG alone gives 1 to 2."""
_NARROW = 1.4
"""Width over height; the narrowest panoramic X-rays that are known have 1.5, bitewings 1.33."""
_FEWEST = 6
"""Images from which on their shapes tell anything."""


def colour_spread(data: bytes) -> float:
    """How far a picture is from a tinted gray one, in gray values (0 for a gray one, or one that cannot be decoded)."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_8)
    except cv2.error:
        return 0.0
    if pixels is None or pixels.size < 3 * 16:
        return 0.0
    channels = pixels.reshape(-1, 3).astype(float)
    green = np.stack([channels[:, 1], channels[:, 1] ** 2, np.ones(len(channels))], axis=1)  # a tint may bend
    others = channels[:, [0, 2]]
    rest = others - green @ np.linalg.lstsq(green, others, rcond=None)[0]
    return float(np.sqrt((rest**2).mean()))


def unlike_panoramic(sizes: Sequence[tuple[int, int]], colours: Sequence[float], *, resized: bool) -> str:
    """What the pictures of an export look like where that is no panoramic X-ray, in words; empty where it is.

    Args:
        sizes: Width and height of every image.
        colours: `colour_spread` of some.
        resized: The export says that it changed their sizes.
    """
    if len(colours) and np.median(colours) > _COLOURED:
        return "photographs (by their colours)"
    shapes = np.array(sizes, float).reshape(-1, 2)
    one_size = len(set(sizes)) == 1 and (resized or shapes[0, 0] == shapes[0, 1])
    if len(shapes) < _FEWEST or one_size or np.median(shapes[:, 0] / shapes[:, 1]) >= _NARROW:
        return ""
    return "bitewings or periapical X-rays (by width and height)"
