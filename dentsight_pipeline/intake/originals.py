"""Proves, or disproves, that raw exports were made from the files someone still has: `dentsight audit --export DIR`.

Files are matched by their sha256 alone, because no name of theirs was kept. Walking from a release back to its raw
export belongs in `lineage/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dentsight_pipeline.data.image_bytes import ImageBytesError, clean, decode_gray
from dentsight_pipeline.data.stored_images import StoredImage, read_originals
from dentsight_pipeline.intake.open import open_export
from dentsight_pipeline.progress import Progress

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


@dataclass(frozen=True, slots=True)
class OriginalsReport:
    """What was found of a raw export's original files.

    Attributes:
        images: Distinct original images that the manifest names.
        files: Annotation and README files that it names.
        found: Of both, those that are there with exactly the bytes named.
        missing_images: sha256 of original images that are not there (removed or changed).
        missing_files: Names, or sha256 where there is no name, of other files that are not there.
        not_reproduced: sha256 of originals whose stripped bytes are not those that the manifest stored.
        unused: Files there that the raw export was not made from.
    """

    images: int
    files: int
    found: int
    missing_images: tuple[str, ...]
    missing_files: tuple[str, ...]
    not_reproduced: tuple[str, ...]
    unused: int

    @property
    def intact(self) -> bool:
        """Whether every original is there and gives the stored bytes."""
        return not (self.missing_images or self.missing_files or self.not_reproduced)

    def findings(self) -> list[str]:
        """What is wrong, one line each; empty when intact."""
        if not self.found:
            return [f"none of its {self.images + self.files} original files is there; name its place with --export"]
        lines = [f"original image with sha256 {digest} is missing or was changed" for digest in self.missing_images]
        lines += [f"original file {name} is missing or was changed" for name in self.missing_files]
        return lines + [f"stripping the original {digest} gives other bytes" for digest in self.not_reproduced]


def verify_originals(
    store: Store,
    raws: Sequence[Manifest],
    exports: Sequence[str | Path],
    progress: Progress | None = None,
) -> list[OriginalsReport]:
    """Compares raw exports with exports' files, byte by byte.

    Args:
        store: Where the manifests' files are.
        raws: Manifests of kind `raw-export`.
        exports: Folders, zips or `s3://` addresses; each file in them is read once and may be any raw export's.
        progress: Called as files are hashed.

    Returns:
        A report for each raw export.

    Raises:
        DataError: An export cannot be opened.
        IntegrityError: A manifest's own `originals.json` is missing or was changed.
    """
    searches = [_Search(store, raw) for raw in raws]
    for export in exports:
        with open_export(export) as opened:
            paths = opened.paths()
            for done, path in enumerate(paths, start=1):
                data = opened.read(path)
                digest = sha256(data).hexdigest()
                for search in searches:
                    search.see(digest, data)
                if progress and (done % 200 == 0 or done == len(paths)):
                    progress("originals", done, len(paths))
    return [search.report() for search in searches]


class _Search:
    """What was seen so far of the originals of one raw export."""

    def __init__(self, store: Store, raw: Manifest) -> None:
        originals = read_originals(store, raw)
        self._store = store
        self._images = {image.original_sha256: image for image in originals.images}
        self._files = {file.sha256: file.name or file.sha256 for file in originals.files}
        self._found: set[str] = set()
        self._not_reproduced: set[str] = set()
        self._unused = 0

    def see(self, digest: str, data: bytes) -> None:
        """One file, with its sha256."""
        if digest in self._images and digest not in self._found and not _gives(data, self._images[digest], self._store):
            self._not_reproduced.add(digest)
        if digest in self._images or digest in self._files:
            self._found.add(digest)
        else:
            self._unused += 1

    def report(self) -> OriginalsReport:
        """All that was seen."""
        return OriginalsReport(
            images=len(self._images),
            files=len(self._files),
            found=len(self._found),
            missing_images=tuple(sorted(self._images.keys() - self._found)),
            missing_files=tuple(sorted(name for digest, name in self._files.items() if digest not in self._found)),
            not_reproduced=tuple(sorted(self._not_reproduced)),
            unused=self._unused,
        )


def _gives(original: bytes, stored: StoredImage, store: Store) -> bool:
    """Whether stripping the original gives the stored bytes; for one that was coded anew, the same pixels."""
    try:
        stripped = clean(original)
    except ImageBytesError:
        return False
    if sha256(stripped.data).hexdigest() == stored.sha256:
        return True
    if stripped.extension != "png" or (stripped.orientation == 1 and not stripped.mended):
        return False
    first, second = (decode_gray(data, (1, 1)) for data in (stripped.data, store.get_bytes(stored.sha256)))
    return first is not None and second is not None and np.array_equal(first, second)
