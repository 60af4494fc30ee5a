"""The one letterbox: how an X-ray of any size becomes the canvas that a model sees, and back.

Training, validation, prediction and export all use this module; nothing else may resize an image. The image is fitted
into the canvas with its aspect ratio kept, anchored top left, and padded right and below with black. The new size is
the one transformers' image processor gives for `max_width` and `max_height`, so that an exported model's
`preprocessor_config.json` describes the same geometry.

Frames: `_px` are original image pixels, `_canvas_px` pixels of the padded canvas, `boxes_cxcywh` centre and size as
shares of the padded canvas, which is what D-FINE reads and writes. Pixel edges are at whole numbers, so that a box
from 0 to `width` covers the image. The scale factors are the true ones of each axis, `new_width / width` and
`new_height / height`, which differ a little because both new sides are rounded down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.errors import DataError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Letterbox:
    """The geometry of one image size on one canvas size; build it with `fit`.

    Args:
        width: Width of the original image in pixels.
        height: Height of the original image in pixels.
        canvas_width: Width of the canvas in pixels.
        canvas_height: Height of the canvas in pixels.
        new_width: Width of the resized image on the canvas, at most `canvas_width`.
        new_height: Height of the resized image on the canvas, at most `canvas_height`.
    """

    width: int
    height: int
    canvas_width: int
    canvas_height: int
    new_width: int
    new_height: int

    @property
    def scale_x(self) -> float:
        """Canvas pixels for one image pixel along x."""
        return self.new_width / self.width

    @property
    def scale_y(self) -> float:
        """Canvas pixels for one image pixel along y."""
        return self.new_height / self.height

    @property
    def content(self) -> tuple[int, int]:
        """(width, height) of the image's own part of the canvas, top left."""
        return self.new_width, self.new_height

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draws an image on the canvas.

        Args:
            image: [height, width] grayscale or [height, width, 3], uint8.

        Returns:
            [canvas_height, canvas_width] or [canvas_height, canvas_width, 3], uint8; black right of and below the
            image. Shrinking averages areas, growing is bilinear.

        Raises:
            DataError: The image does not have the size that this letterbox was made for.
        """
        import cv2

        if image.shape[:2] != (self.height, self.width):
            raise DataError(
                f"The image is {image.shape[1]}×{image.shape[0]} pixels, its record says {self.width}×{self.height}. "
                "Ingest the export again, so that records and images agree."
            )
        shrinks = self.new_width < self.width or self.new_height < self.height
        resized = cv2.resize(
            image, (self.new_width, self.new_height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        canvas = np.zeros((self.canvas_height, self.canvas_width, *image.shape[2:]), dtype=np.uint8)
        canvas[: self.new_height, : self.new_width] = resized
        return canvas

    def normalise(self, boxes_xywh_px: FloatArray) -> FloatArray:
        """[n, 4] COCO boxes (left, top, width, height) in image pixels to [n, 4] `boxes_cxcywh` of the canvas."""
        boxes = np.asarray(boxes_xywh_px, dtype=np.float64).reshape(-1, 4)
        centres_and_sizes = np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
        return centres_and_sizes * self._scales / self._canvas

    def denormalise(self, boxes_cxcywh: FloatArray) -> FloatArray:
        """[n, 4] `boxes_cxcywh` of the canvas to [n, 4] COCO boxes in image pixels, float64, not clipped."""
        boxes = np.asarray(boxes_cxcywh, dtype=np.float64).reshape(-1, 4) * self._canvas / self._scales
        return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)

    @property
    def _scales(self) -> FloatArray:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])

    @property
    def _canvas(self) -> FloatArray:
        return np.array([self.canvas_width, self.canvas_height, self.canvas_width, self.canvas_height], dtype=float)


def fit(image_size: tuple[int, int], canvas_size: tuple[int, int]) -> Letterbox:
    """The letterbox of an image size on a canvas size.

    Args:
        image_size: (width, height) of the original image in pixels.
        canvas_size: (width, height) of the canvas in pixels.

    Raises:
        DataError: The image has no pixels.
    """
    (width, height), (canvas_width, canvas_height) = image_size, canvas_size
    if width < 1 or height < 1:
        raise DataError(f"An image of {width}×{height} pixels has no pixels. Remove its record and ingest again.")
    scale = min(canvas_height / height, canvas_width / width)
    # int() on the product, not the tidier division of whole numbers: it is transformers' rule, to the last pixel
    new_width, new_height = max(1, int(width * scale)), max(1, int(height * scale))
    return Letterbox(width, height, canvas_width, canvas_height, new_width, new_height)


def tightest(image_sizes: Iterable[tuple[int, int]], canvas_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The smallest canvas (width, height) that shows each image as large as this one does.

    Its sides divide by `stride`; rounding may cost an image a pixel or two.
    """
    contents = np.array([fit(size, canvas_size).content for size in image_sizes]).max(axis=0)
    width, height = (-(-contents // stride) * stride).tolist()
    return width, height


def read_grayscale(path: str, image_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """An image file as [height, width] uint8 gray values, at its full size, EXIF orientation ignored.

    Args:
        path: JPEG or PNG file.
        image_size: (width, height) that the records say; checked when given.

    Raises:
        DataError: The file cannot be decoded, or has another size.
    """
    import cv2

    image = cv2.imread(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DataError(f"Image {path} cannot be decoded. Export it again; the file may be cut off.")
    if image_size is not None and (image.shape[1], image.shape[0]) != tuple(image_size):
        raise DataError(
            f"Image {path} is {image.shape[1]}×{image.shape[0]} pixels, its record says "
            f"{image_size[0]}×{image_size[1]}. Ingest the export again."
        )
    return np.asarray(image, dtype=np.uint8)
