"""How bright, how rich in contrast and how sharp an image is, measured once and remembered beside the data.

Subgroups and drift ask for it. It lies beside manifests as fingerprints do, not in them: another version of the decoder
may round otherwise, and that must not change what the dataset is. What was ingested before is measured when it is asked
for. Metadata is gone by then, so that a device is known by the width of its pictures alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.data.image_bytes import SHORT_SIDE_PX, decode_gray
from dentsight_pipeline.data.json_blocks import json_blocks
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.names import raw_exports
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store.threads import map_in_threads

if TYPE_CHECKING:
    import pyarrow as pa

    from dentsight_pipeline.data.stored_images import Originals
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

PROPERTIES = "ingest/image-properties"
VERSION = "2"
"""Goes up when an image would be measured otherwise."""


class ImageProperties(NamedTuple):
    """What is measured of one image; NaN where it cannot be decoded."""

    brightness: float
    """Mean gray value, 0 (black) to 1."""
    contrast: float
    """Standard deviation of the gray values, 0 to .5."""
    sharpness: float
    """Mean absolute Laplacian over contrast, at a shorter side of `SHORT_SIDE_PX` where the image has it: how much of
    the contrast lies between neighbouring pixels."""


UNKNOWN = ImageProperties(np.nan, np.nan, np.nan)


def measure(data: bytes, size: tuple[int, int]) -> ImageProperties:
    """The properties of an image's bytes of this width and height in pixels, to four significant digits."""
    return measured(decode_gray(data, size))


def measured(gray: NDArray[np.uint8] | None) -> ImageProperties:
    """The same of an image that is decoded already (`decode_gray`): uint8 `[height, width]`, or None."""
    if gray is None or not gray.size:
        return UNKNOWN
    scale = SHORT_SIDE_PX / min(gray.shape)
    pixels = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR) if scale < 1 else gray
    brightness, contrast = (float(value[0, 0]) / 255 for value in cv2.meanStdDev(pixels))
    edges = cv2.norm(cv2.Laplacian(pixels, cv2.CV_16S), cv2.NORM_L1) / pixels.size / 255
    return ImageProperties(*(float(f"{x:.4g}") for x in (brightness, contrast, edges / max(contrast, 1e-3))))


def remember_properties(
    store: Store, raw: str, originals: Originals, found: Mapping[str, ImageProperties], earlier: Iterable[str]
) -> None:
    """Keep beside a raw export what ingestion measured of its images, now or for one of the `earlier` raw exports."""
    known = {**recalled(store, earlier), **found}
    own = {image.sha256: known[image.sha256] for image in originals.images if image.sha256 in known}
    if own:
        _remember(store, raw, own)


def _remember(store: Store, digest: str, found: Mapping[str, ImageProperties]) -> None:
    known = {sha256: list(own) for sha256, own in found.items() if own.brightness == own.brightness}
    value = {"version": VERSION, "images": store.put_blocks(partial(json_blocks, known)).sha256}
    if store.read_ref(f"{PROPERTIES}/{digest}") != value:
        store.write_ref(f"{PROPERTIES}/{digest}", value)


def recalled(store: Store, digests: Iterable[str]) -> dict[str, ImageProperties]:
    """What is remembered beside these manifests; empty where nothing is, or it was lost."""
    refs = (store.read_ref(f"{PROPERTIES}/{digest}") or {} for digest in digests)
    kept = [ref["images"] for ref in refs if ref.get("version") == VERSION]
    return {sha256: own for digest in kept for sha256, own in _read(store, digest).items()}


def _read(store: Store, digest: str) -> dict[str, ImageProperties]:
    try:
        told = codec.read(store.get_bytes(digest), dict[str, tuple[float, float, float]], "image properties")
    except DataError:  # lost or damaged: they are measured again
        return {}
    return {sha256: ImageProperties(*own) for sha256, own in told.items()}


def properties_by_row(store: Store, splits: Manifest, images: pa.Table) -> list[ImageProperties]:
    """As `properties_of`, of each row of a table of images: a picture of two exports is two images."""
    digests, *sides = (images[name].to_pylist() for name in ("sha256", "width", "height"))
    sizes = dict(zip(digests, zip(*sides, strict=True), strict=True))
    found = dict(zip(sizes, properties_of(store, splits, sizes), strict=True))
    return [found[sha256] for sha256 in digests]


def properties_of(store: Store, splits: Manifest, images: Mapping[str, tuple[int, int]]) -> list[ImageProperties]:
    """Of each of these images: what ingestion measured, or else what is measured now, and remembered.

    Args:
        store: Where the images are.
        splits: Of kind `normalized-splits`.
        images: Sha256 → width and height in pixels.
    """
    known = recalled(store, (splits.digest, *raw_exports(splits.inputs)))
    missing = [sha256 for sha256 in images if sha256 not in known]
    if missing:
        again = map_in_threads(lambda sha256: measure(store.get_bytes(sha256), images[sha256]), missing, 4)
        known |= dict(zip(missing, again, strict=True))
        _remember(store, splits.digest, known)
    return [known[sha256] for sha256 in images]
