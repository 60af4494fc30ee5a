"""The proof that no identifier left ingestion: a search through all that a manifest names. Patterns: `privacy.py`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from dentsight_pipeline.data.image_bytes import metadata_left
from dentsight_pipeline.data.privacy import identifiers_in_text
from dentsight_pipeline.data.stored_images import stripped_images
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store import canonical

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


@dataclass(frozen=True, slots=True)
class IdentifierFinding:
    """Something that could identify a patient, in words that do not repeat it.

    Attributes:
        where: Manifest entry, or `facts`.
        kind: `uid`, `date and time`, `export file name`, `original stem` or `image metadata`.
        count: How often.
    """

    where: str
    kind: str
    count: int


def find_identifiers(
    store: Store,
    manifest: Manifest,
    *,
    stems: Collection[str] = (),
    proven: Container[str] = (),
    progress: Progress | None = None,
) -> list[IdentifierFinding]:
    """Looks through a manifest, its JSON files and its images for anything that could identify a patient.

    Args:
        store: Where the bytes are.
        manifest: A raw export, normalised dataset or subset.
        stems: Original stems that must not occur, where they are known.
        proven: Digests of images that were looked at before, and need not be read for metadata.
        progress: Called with stage, done and total.
    """
    found: list[IdentifierFinding] = []
    for where, texts in _texts(store, manifest):
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(identifiers_in_text(text, stems))
        found += [IdentifierFinding(where, kind, count) for kind, count in sorted(counts.items())]
    return found + _images_with_metadata(store, manifest, proven, progress)


def _images_with_metadata(
    store: Store, manifest: Manifest, proven: Container[str], progress: Progress | None
) -> list[IdentifierFinding]:
    """The images that have some; those that ingestion itself stripped were looked at then."""
    stripped = stripped_images(store, manifest.digest)
    images = {path: entry.sha256 for path, entry in manifest.entries.items() if path.endswith((".jpg", ".png"))}
    paths = [path for path, digest in images.items() if digest not in stripped and digest not in proven]

    def left(path: str) -> int:
        return len(metadata_left(store.get_bytes(images[path])))

    found: list[IdentifierFinding] = []
    with ThreadPoolExecutor(4) as pool:
        for done, (path, count) in enumerate(zip(paths, pool.map(left, paths), strict=True), start=1):
            if count:
                found.append(IdentifierFinding(path, "image metadata", count))
            if progress and (done % 200 == 0 or done == len(paths)):
                progress("looking for identifiers", done, len(paths))
    return found


def _texts(store: Store, manifest: Manifest) -> Iterator[tuple[str, set[str]]]:
    """Every place of a manifest that holds text, and its distinct texts."""
    yield "facts", _texts_of_json(canonical.dumps([dict(manifest.facts), list(manifest.entries)], "facts"))
    for path, entry in manifest.entries.items():
        if path.endswith(".json"):
            with store.local_path(entry.sha256).open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                yield path, _texts_of_json(data)
        elif path.endswith(".arrow"):
            yield path, _texts_of_table(store.local_path(entry.sha256))


def _texts_of_json(data: bytes | mmap) -> set[str]:
    """The strings of a JSON text, keys included, found without building what it holds."""
    return {json.loads(token) for token in {match.group() for match in _JSON_STRING.finditer(data)}}


def _texts_of_table(file: Path) -> set[str]:
    """The texts of an Arrow file, at whatever depth."""
    table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    return {text for column in table.columns for chunk in column.chunks for text in _texts_of_column(chunk)}


def _texts_of_column(column: pa.Array) -> list[str]:
    if isinstance(column, pa.DictionaryArray):
        return _texts_of_column(column.dictionary)
    if isinstance(column, pa.ListArray | pa.FixedSizeListArray):
        return _texts_of_column(column.flatten())
    return column.unique().drop_null().to_pylist() if pa.types.is_string(column.type) else []
