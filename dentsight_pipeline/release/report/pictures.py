"""X-rays in a report: decoded once, shown as JPEG, with the boxes of the truth that they are held against.

Images come from outside: one that cannot be decoded is left out and said so.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from dentsight_pipeline.documents.annotations import Split

Images = Callable[[int], bytes]
"""Gives an image's bytes by its id."""

UNREADABLE = (OSError, ValueError, KeyError, Image.DecompressionBombError)
"""What a picture that is missing, broken or too large raises."""
KIND_WORDS = {
    "class": "wrong class",
    "localisation": "badly placed",
    "duplicate": "found twice",
    "background": "nothing there",
}
"""What is wrong with a box, by `kind` in `matches.parquet`."""
SIDES = ["x", "y", "w", "h"]
"""Columns of a box, px of the X-ray."""
_MOST_PIXELS = 60_000_000


class Truth(NamedTuple):
    """The ground truth that was evaluated, as far as pictures need it."""

    images: pd.DataFrame
    """By id: `width` in px, and `clean`."""
    boxes: pd.DataFrame
    """`id`, `image_id`, `class`, and the box as `SIDES`."""

    @classmethod
    def of_split(cls, split: Split) -> Truth:
        """Of the split's tables."""
        annotations = split.annotations.select(["id", "image_id"]).to_pandas()
        annotations["class"] = np.array(split.classes, dtype=object)[split.category_ids - 1]
        annotations[SIDES] = split.boxes_xywh_px
        return cls(split.images.select(["id", "width", "clean"]).to_pandas().set_index("id"), annotations)

    def only_clean(self) -> Truth:
        """The images that share no source with another split."""
        images = self.images[self.images["clean"]]
        return Truth(images, self.boxes[self.boxes["image_id"].isin(images.index)])


def decode_grey(data: bytes, draft_px: int | None = None) -> Image.Image:
    """An X-ray's bytes as a grey image.

    Args:
        data: JPEG or PNG.
        draft_px: A JPEG may be decoded smaller, but not under this width; None = full size.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: Bytes that are no such image, or too many pixels.
    """
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width}×{image.height} pixels are more than {_MOST_PIXELS}")
        if draft_px is not None:
            image.draft("L", (draft_px, draft_px))
        return image.convert("L")


def jpeg_base64(image: Image.Image, quality: int) -> str:
    """An image as a page embeds it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
