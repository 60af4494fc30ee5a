"""What became of an export's images, and what the store remembers of them, so that no image is worked on twice.

An image is found by the sha256 of its original, in the raw exports that were made last. Fingerprints lie beside a raw
export, not in it. How an image becomes bytes to store is decided in `ingest.py` and `image_bytes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from dentsight_pipeline.data import leakage
from dentsight_pipeline.data.image_bytes import ImageBytesError, decode_gray
from dentsight_pipeline.data.json_stream import JsonStream
from dentsight_pipeline.data.records import RecordMap, from_text, json_blocks, to_text
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.manifest import Entry
from dentsight_pipeline.store.local import file_blocks
from dentsight_pipeline.store.threads import map_in_threads

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

CODE_VERSION = "1"
"""Goes up when the same original would be stored as other bytes."""

KNOWN_ORIGINALS = "ingest/known-originals"
FINGERPRINTS = "ingest/fingerprints"
_KNOWN_MANIFESTS = 4


@dataclass(frozen=True, slots=True)
class StoredImage:
    """What became of one original image file; all that a later ingestion of the same bytes needs to know.

    Attributes:
        original_sha256: Of the file as it was exported.
        original_size: Its bytes.
        sha256: Of the stored bytes.
        size: Their number.
        extension: `jpg` or `png`.
        width: Of the stored image, pixels.
        height: Of the stored image, pixels.
        orientation: The EXIF orientation that the original had; the stored image is upright.
        coded_size: The original's width and height before turning.
        removed: Metadata left out: segment → how often.
        fingerprint: Of its pixels, as text.
    """

    original_sha256: str
    original_size: int
    sha256: str
    size: int
    extension: str
    width: int
    height: int
    orientation: int
    coded_size: tuple[int, int]
    removed: Mapping[str, int]
    fingerprint: str

    @property
    def path(self) -> str:
        """The image's name in manifests and COCO files."""
        return f"images/{self.sha256}.{self.extension}"

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> StoredImage:
        """Read back `asdict` as JSON keeps it, which knows no tuples."""
        return cls(**{**record, "coded_size": tuple(record["coded_size"])})


def stored_images() -> RecordMap[StoredImage]:
    """No images yet, to be found by the sha256 of their originals."""
    return RecordMap(
        encode=lambda image: to_text(asdict(image)),
        decode=lambda text: StoredImage.from_record(from_text(text)),
    )


def stored_documents(store: Store, documents: Mapping[str, Any]) -> RecordMap[Entry]:
    """Store JSON documents; gives their entries for a manifest by path, to be followed by those of very many images."""
    entries: RecordMap[Entry] = RecordMap(
        encode=lambda entry: f"{entry.sha256} {entry.size}",
        decode=lambda text: Entry(text[:64], int(text[65:])),
    )
    for path, document in documents.items():
        entries[path] = store.put_blocks(partial(json_blocks, document))
    return entries


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
    lacking = {
        image["sha256"]: (image["width"], image["height"])
        for image in _original_images(store, raw)
        if image["sha256"] not in codes
    }
    if not lacking:
        return codes

    def make(item: tuple[str, tuple[int, int]]) -> tuple[str, str]:
        digest, size = item
        return digest, fingerprint(store.get_bytes(digest), size)

    for done, (digest, code) in enumerate(map_in_threads(make, sorted(lacking.items()), 4), start=1):
        codes[digest] = code
        if progress and (done % 50 == 0 or done == len(lacking)):
            progress("fingerprints", done, len(lacking))
    remember_fingerprints(store, raw.digest, codes)
    return codes


def _original_images(store: Store, raw: Manifest) -> Iterator[dict[str, Any]]:
    """The images of `originals.json`, one by one."""
    stream = open_json(store, raw, "originals.json")
    for key in stream.members():
        if key == "images":
            yield from (image for image, _ in stream.items())
        else:
            stream.value()


def fingerprint(data: bytes, size: tuple[int, int]) -> str:
    """The fingerprint, as text, of an image's bytes of this width and height in pixels."""
    gray = decode_gray(data, size)
    if gray is None:
        raise ImageBytesError("it cannot be decoded. Restore the file or export again")
    return leakage.fingerprint(gray).to_json()


def _fingerprint_version() -> str:
    """Changes whenever this installation would make other fingerprints: the digest of a fixed picture's."""
    rows, columns = np.mgrid[0:96, 0:160]
    pattern = ((rows * rows + 3 * columns * rows // 7) % 251).astype(np.uint8)
    return sha256(leakage.fingerprint(pattern).to_json().encode()).hexdigest()[:16]


def _recalled_fingerprints(store: Store, raw_digest: str) -> RecordMap[str]:
    codes: RecordMap[str] = RecordMap()
    ref = store.read_ref(f"{FINGERPRINTS}/{raw_digest}")
    if ref is None or ref.get("version") != _fingerprint_version():
        return codes
    try:
        stream = JsonStream(file_blocks(store.local_path(ref["codes"])))
    except DataError:  # lost or damaged: they are made again
        return codes
    for digest in stream.members():
        codes[digest] = stream.value()
    return codes


def remember_fingerprints(store: Store, raw_digest: str, codes: RecordMap[str]) -> None:
    """Keep the fingerprints of a raw export beside it, for `fingerprints_of` and `KnownOriginals`."""
    name = f"{FINGERPRINTS}/{raw_digest}"
    value = {"version": _fingerprint_version(), "codes": store.put_blocks(partial(json_blocks, codes)).sha256}
    if store.read_ref(name) != value:
        store.write_ref(name, value)


class KnownOriginals:
    """What earlier raw exports of this store tell about an original by its sha256, so that no work is done twice."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ref = store.read_ref(KNOWN_ORIGINALS) or {}
        self._digests: list[str] = (
            list(self._ref.get("manifests", ())) if self._ref.get("code_version") == CODE_VERSION else []
        )
        self._images = stored_images()
        for digest in self._digests:
            self._load(digest)

    def _load(self, digest: str) -> None:
        codes = _recalled_fingerprints(self._store, digest)
        try:
            for record in _original_images(self._store, self._store.get_manifest(digest)):
                if record["original_sha256"] not in self._images and record["sha256"] in codes:
                    image = StoredImage.from_record({**record, "fingerprint": codes[record["sha256"]]})
                    self._images[image.original_sha256] = image
        except DataError:  # collected or damaged since: its images are simply worked on again
            return

    def find(self, original_sha256: str) -> StoredImage | None:
        return self._images.get(original_sha256)

    def add(self, digest: str) -> None:
        if digest in self._digests:
            return
        manifests = [digest, *self._digests][:_KNOWN_MANIFESTS]
        self._store.write_ref(KNOWN_ORIGINALS, {"code_version": CODE_VERSION, "manifests": manifests})


def open_json(store: Store, manifest: Manifest, path: str) -> JsonStream:
    """One JSON file of a manifest, verified, to be read piece by piece.

    Raises:
        DataError: The manifest has no such file.
        IntegrityError: The object is missing or was changed.
    """
    return JsonStream(file_blocks(store.local_path(manifest.entry(path).sha256)))
