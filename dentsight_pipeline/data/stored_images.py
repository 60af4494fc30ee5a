"""What became of an export's images, and what the store remembers of them, so that no image is worked on twice.

An image is found by the sha256 of its original, in the raw exports that were made last. Fingerprints lie beside a raw
export, not in it. How an image becomes bytes to store is decided in `image_bytes.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from functools import lru_cache, partial
from hashlib import sha256
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.data import leakage
from dentsight_pipeline.data.image_bytes import ImageBytesError, decode_gray
from dentsight_pipeline.data.json_blocks import Content, json_blocks
from dentsight_pipeline.documents import codec
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.manifest import Entry
from dentsight_pipeline.store.threads import map_in_threads

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

CODE_VERSION = "2"
"""Goes up when the same original would be stored as other bytes."""

KNOWN_ORIGINALS = "ingest/known-originals"
FINGERPRINTS = "ingest/fingerprints"
_KNOWN_MANIFESTS = 16


class StoredImage(codec.Document, frozen=True, omit_defaults=True):
    """What became of one original image file."""

    original_sha256: str
    """Of the file as it was exported."""
    original_size: int
    """Its bytes."""
    sha256: str
    """Of the stored bytes."""
    size: int
    """Their number."""
    extension: str
    """`jpg` or `png`."""
    width: int
    """Of the stored image, pixels."""
    height: int
    """Of the stored image, pixels."""
    orientation: int
    """The EXIF orientation that the original had; the stored image is upright."""
    coded_size: tuple[int, int]
    """The original's width and height before turning."""
    removed: Mapping[str, int]
    """Metadata left out: segment → how often."""
    mended: Mapping[str, str] = {}
    """What was wrong with the file and could be mended: kind of repair → what was done."""

    @property
    def path(self) -> str:
        """The image's name in manifests and COCO files."""
        return f"images/{self.sha256}.{self.extension}"


class OriginalFile(codec.Document, frozen=True):
    """A file of an export that was read and is no image."""

    name: str | None
    """Its last two parts; none when it could hold an image's stem."""
    sha256: str
    size: int
    """Bytes."""


class Originals(codec.Document, frozen=True):
    """`originals.json`: the files that a raw export was made from, by which an audit proves it."""

    files: tuple[OriginalFile, ...]
    images: tuple[StoredImage, ...]
    """In the order of `original_sha256`."""


def read_originals(store: Store, raw: Manifest) -> Originals:
    """The content of a raw export's `originals.json`.

    Raises:
        IntegrityError: It is missing or was changed.
    """
    from dentsight_pipeline.store.content import read_bytes

    return codec.read(read_bytes(store, raw, "originals.json"), Originals, "originals.json")


def stored_documents(store: Store, documents: Mapping[str, Content]) -> dict[str, Entry]:
    """Store JSON documents; gives their entries for a manifest by path."""
    return {path: store.put_blocks(partial(json_blocks, document)) for path, document in documents.items()}


def fingerprints_of(store: Store, raw: Manifest, progress: Progress | None = None) -> Mapping[str, str]:
    """Stored sha256 → fingerprint of every image of a raw export.

    They were made at ingestion and are kept beside the manifest, not in it: another version of the decoder may round
    them differently, and that must not change what the dataset is. Where they are lost, they are made again.

    Args:
        store: Where the raw export is.
        raw: A manifest of kind `raw-export`.
        progress: Called as images are decoded, if they have to be.

    Raises:
        IntegrityError: An image is missing or was changed.
    """
    codes = _recalled_fingerprints(store, raw.digest)
    if codes:
        return codes
    images = {image.sha256: image for image in read_originals(store, raw).images}

    def make(image: StoredImage) -> tuple[str, str]:
        return image.sha256, fingerprint(store.get_bytes(image.sha256), (image.width, image.height))

    for done, (digest, code) in enumerate(map_in_threads(make, images.values(), 4), start=1):
        codes[digest] = code
        if progress and (done % 50 == 0 or done == len(images)):
            progress("fingerprints", done, len(images))
    remember_images(store, raw.digest, codes, stripped=stripped_images(store, raw.digest) >= images.keys())
    return codes


def fingerprint(data: bytes, size: tuple[int, int]) -> str:
    """The fingerprint, as text, of an image's bytes of this width and height in pixels."""
    return fingerprint_of(decode_gray(data, size))


def fingerprint_of(gray: NDArray[np.uint8] | None) -> str:
    """The same of an image that is decoded already (`decode_gray`): uint8 `[height, width]`, or None."""
    if gray is None:
        raise ImageBytesError("it cannot be decoded. Restore the file or export again")
    return leakage.fingerprint(gray).to_json()


@lru_cache(1)
def _fingerprint_version() -> str:
    """Changes whenever this installation would make other fingerprints: the digest of a fixed picture's, decoding
    included."""
    rows, columns = np.mgrid[0:96, 0:160]
    pattern = ((rows * rows + 3 * columns * rows // 7) % 251).astype(np.uint8)
    size = (1601, 1041)  # of which each step of the way to the fingerprint has to leave something out
    coded = cv2.imencode(".jpg", cv2.resize(pattern, size))[1].tobytes()
    return sha256(fingerprint(coded, size).encode()).hexdigest()[:16]


def _recalled_fingerprints(store: Store, raw_digest: str) -> dict[str, str]:
    """What is kept beside a raw export: all of its fingerprints, or none that can be used."""
    ref = store.read_ref(f"{FINGERPRINTS}/{raw_digest}")
    if ref is None or ref.get("version") != _fingerprint_version():
        return {}
    return _codes(store, ref)


def _codes(store: Store, ref: Mapping[str, str]) -> dict[str, str]:
    try:
        return codec.read(store.get_bytes(ref["codes"]), dict[str, str], "fingerprints")
    except DataError:  # lost or damaged: they are made again
        return {}


def stripped_images(store: Store, raw_digest: str) -> Set[str]:
    """Digests of the images that ingestion itself made without metadata: those very bytes need no second look."""
    ref = store.read_ref(f"{FINGERPRINTS}/{raw_digest}")
    return _codes(store, ref).keys() if ref is not None and ref.get("stripped_by") == CODE_VERSION else frozenset()


def remember_images(store: Store, raw_digest: str, codes: Mapping[str, str], *, stripped: bool) -> None:
    """Keep beside a raw export what was found out about its images, so that nobody looks at them again.

    Args:
        store: Where the raw export is.
        raw_digest: Its digest.
        codes: Stored sha256 → fingerprint.
        stripped: Whether the bytes are those that `image_bytes.clean` gave.
    """
    name = f"{FINGERPRINTS}/{raw_digest}"
    value = {"version": _fingerprint_version(), "codes": store.put_blocks(partial(json_blocks, codes)).sha256}
    value |= {"stripped_by": CODE_VERSION} if stripped else {}
    if store.read_ref(name) != value:
        store.write_ref(name, value)


class KnownOriginals:
    """What earlier raw exports of this store tell about an original by its sha256, so that no work is done twice."""

    def __init__(self, store: Store | None = None) -> None:
        ref = (store.read_ref(KNOWN_ORIGINALS) if store else None) or {}
        self._digests: list[str] = list(ref.get("manifests", ())) if ref.get("code_version") == CODE_VERSION else []
        self.images: dict[str, StoredImage] = {}
        self.fingerprints: dict[str, str] = {}
        if store:
            for digest in self._digests:
                self._load(store, digest)

    def _load(self, store: Store, digest: str) -> None:
        codes = _recalled_fingerprints(store, digest)
        try:
            images: Iterable[StoredImage] = read_originals(store, store.get_manifest(digest)).images
        except DataError:  # collected or damaged since: its images are simply worked on again
            return
        for image in images:
            if image.original_sha256 not in self.images and image.sha256 in codes:
                self.images[image.original_sha256] = image
                self.fingerprints[image.sha256] = codes[image.sha256]

    @property
    def manifests(self) -> tuple[str, ...]:
        """Digests of those raw exports."""
        return tuple(self._digests)

    def find(self, original_sha256: str) -> tuple[StoredImage, str] | None:
        """The image and its fingerprint."""
        image = self.images.get(original_sha256)
        return None if image is None else (image, self.fingerprints[image.sha256])

    def add(self, store: Store, digest: str) -> None:
        """Remember a raw export, in place of the oldest."""
        if digest not in self._digests:
            manifests = [digest, *self._digests][:_KNOWN_MANIFESTS]
            store.write_ref(KNOWN_ORIGINALS, {"code_version": CODE_VERSION, "manifests": manifests})
