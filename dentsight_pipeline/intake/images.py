"""Reads an export's files and keeps its images: each is read and hashed once, and worked on only when it is new."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.data.image_bytes import ImageBytesError, clean, decode_gray
from dentsight_pipeline.data.image_properties import ImageProperties, measured
from dentsight_pipeline.data.modality import colour_spread
from dentsight_pipeline.data.stored_images import KnownOriginals, OriginalFile, StoredImage, fingerprint_of
from dentsight_pipeline.data.tooth_signs import GRAY_PX
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.files import ExportFiles
from dentsight_pipeline.intake.records import ExportImage, Refusals, is_image
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.threads import map_in_threads

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store


_Kept = tuple[str, StoredImage, str, ImageProperties | None, NDArray[np.uint8] | None, float | None]


class HashedFiles(ExportFiles):
    """Files that remember the sha256 and size of what was read of them, images apart."""

    def __init__(self, files: ExportFiles) -> None:
        self.name, self.linked, self._files = files.name, files.linked, files
        self._seen: dict[str, tuple[str, int]] = {}

    def paths(self) -> Set[str]:
        return self._files.paths()

    def blocks(self, path: str) -> Iterator[bytes]:
        yield self.read(path)

    def read(self, path: str) -> bytes:
        data = self._files.read(path)
        if not is_image(path):
            self._seen[path] = (sha256(data).hexdigest(), len(data))
        return data

    def seen(self) -> tuple[OriginalFile, ...]:
        """The files read so far that are no images; a label file's name holds a stem, so it stays unnamed."""
        files = []
        for path, (digest, size) in self._seen.items():
            named = not path.lower().endswith(".txt") or "README" in path
            name = "/".join(path.split("/")[-2:]) if named else None
            files.append(OriginalFile(name=name, sha256=digest, size=size))
        return tuple(sorted(files, key=lambda file: (file.name or "~", file.sha256)))


@dataclass(slots=True)
class StoredImages:
    """What became of an export's images; those that were refused are absent."""

    by_path: dict[str, StoredImage] = field(default_factory=dict)
    """By their paths in the export."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """By their stored sha256."""
    properties: dict[str, ImageProperties] = field(default_factory=dict)
    """Of those that are new to the store, by their stored sha256."""
    grays: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Those that were asked for, reduced, by their stored sha256."""

    colours: list[float] = field(default_factory=list)
    """How coloured those are that were asked for (`modality.py`)."""

    def add(
        self,
        path: str,
        image: StoredImage,
        code: str,
        properties: ImageProperties | None,
        gray: NDArray[np.uint8] | None,
        colour: float | None,
    ) -> None:
        self.colours += [] if colour is None else [colour]
        self.by_path[path], self.fingerprints[image.sha256] = image, code
        if properties is not None:
            self.properties[image.sha256] = properties
        if gray is not None:
            self.grays[image.sha256] = gray

    def originals(self) -> tuple[StoredImage, ...]:
        """One for each distinct original, in the order of their digests."""
        distinct = {image.original_sha256: image for image in self.by_path.values()}
        return tuple(distinct[digest] for digest in sorted(distinct))


@dataclass(frozen=True, slots=True)
class ImageKeeper:
    """Keeps the images of one export."""

    files: ExportFiles
    store: Store | None
    """Where image bytes go; None keeps nothing, as `inspect` does."""
    known: KnownOriginals
    workers: int
    progress: Progress | None
    shown: Set[str] = frozenset()
    """Paths of those that are wanted in gray too."""
    coloured: Set[str] = frozenset()
    """Paths of those whose colours are looked at."""

    def keep(self, images: Iterable[ExportImage], refusals: Refusals) -> StoredImages:
        """Reads every image that is there, and stores it unless the store has it."""
        paths = [image.path for image in images if image.exists]
        stored = StoredImages()
        for done, result in enumerate(map_in_threads(self._kept, paths, self.workers), start=1):
            if isinstance(result, DataError):
                refusals.add(result)
            else:
                stored.add(*result)
            if self.progress and (done % 50 == 0 or done == len(paths)):
                self.progress("images", done, len(paths))
        return stored

    def _kept(self, path: str) -> _Kept | DataError:
        try:
            data = self.files.read(path)
            original = sha256(data).hexdigest()
            image, code, properties = self._found(original) or self._made(data, original)
            shown, coloured = path in self.shown, path in self.coloured
            seen = clean(data).data if image.mended and (shown or coloured) else data
            gray = decode_gray(seen, (image.width, image.height), GRAY_PX) if shown else None
            return path, image, code, properties, gray, colour_spread(seen) if coloured else None
        except ImageBytesError as error:
            return DataError(f"{self.files.findable(path)}: {error}.")
        except DataError as error:
            return error

    def _found(self, original: str) -> tuple[StoredImage, str, None] | None:
        """What is known about an original, as long as its stored bytes are there."""
        found = self.known.find(original)
        if found is None or self.store is None:
            return found and (*found, None)
        stat = self.store.stat(found[0].sha256)
        return (*found, None) if stat is not None and stat.size == found[0].size else None

    def _made(self, data: bytes, original: str) -> tuple[StoredImage, str, ImageProperties | None]:
        image = clean(data)
        gray = decode_gray(image.data, (image.width, image.height))
        code = fingerprint_of(gray)
        digest = original if image.data == data else sha256(image.data).hexdigest()
        stored = StoredImage(
            original_sha256=original,
            original_size=len(data),
            sha256=self.store.put_bytes(image.data, digest) if self.store else digest,
            size=len(image.data),
            extension=image.extension,
            width=image.width,
            height=image.height,
            orientation=image.orientation,
            coded_size=image.coded_size,
            removed=image.removed,
            mended=image.mended,
        )
        return stored, code, measured(gray) if self.store else None
