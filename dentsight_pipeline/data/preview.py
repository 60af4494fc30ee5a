"""Small pictures of X-rays with boxes, for people who look at a dataset."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dentsight_pipeline.data.ontology import CLASSES
from dentsight_pipeline.errors import DataError

if TYPE_CHECKING:
    from dentsight_pipeline.documents.annotations import Split
    from dentsight_pipeline.store.objects import Store


def draw_boxes(
    image: bytes, boxes: Iterable[tuple[str, Sequence[float]]], *, width: int = 720, quality: int = 80
) -> bytes:
    """An X-ray with named boxes, as a small JPEG.

    Args:
        image: An encoded image.
        boxes: Name and `[x, y, w, h]` in the image's pixels.
        width: Width of the picture in px; the height follows.
        quality: JPEG quality, 0–100.

    Raises:
        DataError: The bytes are no image.
    """
    gray = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
    if gray is None:
        raise DataError("The bytes are no image that OpenCV can read. Ingest the export again.")
    scale = width / gray.shape[1]
    small = cv2.resize(gray, (width, max(1, round(gray.shape[0] * scale))), interpolation=cv2.INTER_AREA)
    canvas = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    for name, (x, y, w, h) in boxes:
        color = _color(name)
        corner = (round(x * scale), round(y * scale))
        cv2.rectangle(canvas, corner, (round((x + w) * scale), round((y + h) * scale)), color, 1, cv2.LINE_AA)
        cv2.putText(
            canvas, name, (corner[0], max(8, corner[1] - 2)), cv2.FONT_HERSHEY_SIMPLEX, 0.33, color, 1, cv2.LINE_AA
        )
    done, encoded = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise DataError("OpenCV could not encode the preview.")
    return encoded.tobytes()


def richest_images(store: Store, split: Split, count: int) -> list[bytes]:
    """The images of a split with the most boxes, drawn with them; of equals the one with the smaller id first."""
    chosen = np.argsort(-np.diff(split.offsets), kind="stable")[:count]
    digests = split.images["sha256"]
    return [draw_boxes(store.get_bytes(digests[int(row)].as_py()), _named_boxes(split, row)) for row in chosen]


def _named_boxes(split: Split, row: int) -> list[tuple[str, Sequence[float]]]:
    """Class and box of each annotation of the image in row `row`."""
    own = slice(*split.offsets[row : row + 2])
    names = [split.classes[number - 1] for number in split.category_ids[own]]
    return list(zip(names, split.boxes_xywh_px[own].tolist(), strict=True))


def _color(name: str) -> tuple[int, int, int]:
    """A colour of its own for every class, BGR 0–255; the same in every picture."""
    index = CLASSES.index(name) if name in CLASSES else len(CLASSES)
    red, green, blue = colorsys.hsv_to_rgb(index * 0.381966, 0.65, 1.0)  # a hue may be beyond 1
    return round(blue * 255), round(green * 255), round(red * 255)
