"""What could identify a patient, and the proof that none of it left ingestion.

Identifiers come as file-name stems (DICOM UIDs, acquisition dates and times), as metadata inside image files, and as
text that someone typed into a record. Add a pattern here. Removing them is done where they are read: names in
`ingest.py`, bytes in `image_bytes.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from dentsight_pipeline.data.image_bytes import metadata_left
from dentsight_pipeline.data.stored_images import stripped_images
from dentsight_pipeline.progress import Progress

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

StemKind = Literal["uid", "dated", "numeric", "other"]

_DATE = r"(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:[01]\d|2[0-3])[-_.:]?[0-5]\d(?:[-_.:]?[0-5]\d)?"
_DATED = re.compile(rf"(?<!\d){_DATE}(?:[-_. T]?{_TIME})?(?!\d)")
_UID = re.compile(r"(?<![\w.\-])[0-2](?:[._\-]\d{1,39}){3,}(?![0-9a-fA-F])|(?<!\w)2[._\-]25[._\-]\d{16,39}")
_LONG_NUMBER = re.compile(r"\d{12,}")
_COUNTER = re.compile(r"(?:[A-Za-z]{1,12}[ ._\-]*)?\(?\d{1,7}\)?")
_SUFFIX = re.compile(r"[._](?:jpe?g|png|bmp|tiff?|webp|gif|dcm|dicom)$", re.IGNORECASE)
_EXPORT_NAME = re.compile(r"[^\s/'\"]*\.rf\.([0-9a-fA-F]{20,64})")
_DATE_AND_TIME = re.compile(rf"(?<![\w.]){_DATE}[-_T]?{_TIME}(?!\w)")
_HEX_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_MIN_UID_DIGITS = 14


def stem_kind(stem: str) -> StemKind:
    """What kind of file-name stem this is.

    Args:
        stem: The part before `.rf.`, e.g. `1-2-826-0-1-3680043_png` or `18_png`.

    Returns:
        `uid` for DICOM-UID-like and other long numbers, `dated` when it holds a date, `numeric` for a counter (also
        behind one word, as in `image_12`), which collides between patients, and `other`.
    """
    bare = _SUFFIX.sub("", stem).strip()
    if is_uid_like(bare):
        return "uid"
    if _DATED.search(bare):
        return "dated"
    if _LONG_NUMBER.search(bare):
        return "uid"
    if _COUNTER.fullmatch(bare):
        return "numeric"
    return "other"


def is_uid_like(text: str) -> bool:
    """Whether the text holds a DICOM UID, with dots or with what Roboflow puts in their place."""
    return any(sum(map(str.isdigit, match.group())) >= _MIN_UID_DIGITS for match in _UID.finditer(text))


def redact(text: str) -> str:
    """The text with every identifier masked, fit for logs and events that are kept.

    An export's file name keeps Roboflow's own hash, by which its owner can still find the file.
    """
    text = _EXPORT_NAME.sub(lambda match: f"*.rf.{match.group(1)}", text)
    text = re.sub(r"[^\s/'\"]+\.(?:jpe?g|png|bmp|tiff?|dcm)\b", _masked_name, text, flags=re.IGNORECASE)
    text = _UID.sub(lambda match: "<uid>" if is_uid_like(match.group()) else match.group(), text)
    return _DATE_AND_TIME.sub("<date>", text)


def _masked_name(match: re.Match[str]) -> str:
    name = match.group()
    if ".rf." in name or re.fullmatch(r"[0-9a-f]{64}\.\w+", name):
        return name
    return f"*{PurePosixPath(name).suffix}"


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


def identifiers_in_text(text: str, stems: Collection[str] = ()) -> dict[str, int]:
    """Identifiers in a text by kind; sha256 digests are no text.

    Args:
        text: Any text.
        stems: Original stems that must not occur, where they are known.
    """
    bare = _HEX_DIGEST.sub(" ", text)
    found = {
        "uid": sum(is_uid_like(match.group()) for match in _UID.finditer(bare)),
        "date and time": sum(1 for _ in _DATE_AND_TIME.finditer(bare)),
        "export file name": sum(1 for _ in _EXPORT_NAME.finditer(bare)),
        "original stem": sum(stem in bare for stem in stems),
    }
    return {kind: count for kind, count in found.items() if count}


def find_identifiers(
    store: Store,
    manifest: Manifest,
    *,
    stems: Collection[str] = (),
    images: bool = True,
    progress: Progress | None = None,
) -> list[IdentifierFinding]:
    """Looks through a manifest, its JSON files and its images for anything that could identify a patient.

    Args:
        store: Where the bytes are.
        manifest: A raw export, normalised dataset or subset.
        stems: Original stems that must not occur, where they are known.
        images: Also read the images for metadata. A dataset whose images all come from a raw export that was checked
            needs that once.
        progress: Called with stage, done and total.
    """
    found: list[IdentifierFinding] = []
    texts: dict[str, Iterable[str]] = {"facts": _strings([dict(manifest.facts), list(manifest.entries)])}
    for path, entry in manifest.entries.items():
        if path.endswith(".json"):
            texts[path] = _strings(json.loads(store.get_bytes(entry.sha256)))
        elif path.endswith(".arrow"):
            texts[path] = _strings_of_table(store.local_path(entry.sha256))
    for where, strings in texts.items():
        counts: dict[str, int] = {}
        for text in set(strings):
            for kind, count in identifiers_in_text(text, stems).items():
                counts[kind] = counts.get(kind, 0) + count
        found += [IdentifierFinding(where, kind, count) for kind, count in sorted(counts.items())]
    if images:
        found += _images_with_metadata(store, manifest, progress)
    return found


def _images_with_metadata(store: Store, manifest: Manifest, progress: Progress | None) -> list[IdentifierFinding]:
    """The images that have some; those that ingestion itself stripped were looked at then."""
    stripped = stripped_images(store, manifest.digest)
    images = {path: entry.sha256 for path, entry in manifest.entries.items() if path.endswith((".jpg", ".png"))}
    paths = [path for path, digest in images.items() if digest not in stripped]

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


def _strings_of_table(file: Path) -> Iterator[str]:
    """Every distinct text in an Arrow file, column by column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            yield from (text for chunk in column.chunks for text in chunk.dictionary.to_pylist())
        elif pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
            yield from pc.unique(pc.list_flatten(column)).to_pylist()
        elif pa.types.is_string(column.type):
            yield from pc.unique(column).drop_null().to_pylist()


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
