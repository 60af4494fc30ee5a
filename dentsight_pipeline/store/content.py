"""The bytes that a manifest names: stored, read, written out and verified."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dentsight_pipeline.documents.codec import read
from dentsight_pipeline.documents.facts import Facts
from dentsight_pipeline.errors import DataError, IntegrityError, StorageError
from dentsight_pipeline.store.files import written_whole
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.names import check_entry_paths
from dentsight_pipeline.store.threads import map_in_threads

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store

T = TypeVar("T")


def build(
    store: Store,
    kind: str,
    files: Mapping[str, Path | bytes | Entry],
    inputs: Mapping[str, str],
    facts: Facts | Mapping[str, Any],
    *,
    workers: int = 8,
) -> Manifest:
    """Store the bytes of every file and name them in a manifest. Publish it with `store.put_manifest`.

    Args:
        store: Where the bytes go.
        kind: The manifest's kind.
        files: Relative POSIX path to a local file, bytes, or the entry of an object that is already stored.
        inputs: Asset name to the digest of the manifest that was read.
        facts: The kind's typed facts, or JSON; deterministic.
        workers: Threads that hash and write; hashing and fsync both let go of the interpreter lock.

    Raises:
        DataError: A path that would leave its folder, or facts that are not JSON; nothing is stored then.
        StorageError: The store refused.
    """
    check_entry_paths(files)
    Manifest(kind, {}, inputs, facts)  # refuses bad facts before any byte is written

    def stored(item: tuple[str, Any]) -> tuple[str, Entry]:
        path, content = item
        if isinstance(content, bytes):
            return path, Entry(store.put_bytes(content), len(content))
        return path, store.put_file(content)

    entries = {path: content for path, content in files.items() if isinstance(content, Entry)}
    entries |= map_in_threads(stored, (item for item in files.items() if item[0] not in entries), workers)
    return Manifest(kind, entries, inputs, facts)


def read_bytes(store: Store, manifest: Manifest, path: str) -> bytes:
    """The verified bytes of one file of a manifest.

    Raises:
        DataError: The manifest has no such file.
        IntegrityError: The object is missing or was changed.
    """
    entry = manifest.entry(path)
    data = store.get_bytes(entry.sha256)
    if len(data) != entry.size:
        raise DataError(f"{path!r} has {len(data)} bytes, but {manifest.kind} {manifest.digest} says {entry.size}.")
    return data


def read_json(store: Store, manifest: Manifest, path: str) -> Any:
    """One JSON file of a manifest, verified and parsed.

    Raises:
        DataError: The manifest has no such file, or the file is not JSON.
        IntegrityError: The object is missing or was changed.
    """
    data = read_bytes(store, manifest, path)
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{path!r} of {manifest.kind} {manifest.digest} is not JSON: {error}") from error


def read_document(store: Store, manifest: Manifest, path: str, kind: type[T]) -> T:
    """One JSON file of a manifest as its document; raises as `read_bytes`, and DocumentError where it is none."""
    return read(read_bytes(store, manifest, path), kind, f"{path} of {manifest.kind} {manifest.digest[:12]}")


def materialise(
    store: Store, manifest: Manifest, folder: Path, prefix: str = "", *, link: bool = False, workers: int = 8
) -> Path:
    """Write a manifest's files below a folder, each verified, each appearing whole or not at all.

    Args:
        store: Where the bytes are.
        manifest: What to write.
        folder: The folder; made when it does not exist. Files with the same names are replaced.
        prefix: Only paths that start with this; they keep their full names.
        link: Hard-link instead of copying where the store is on the same file system. Only for readers: a process
            that writes into a linked file (root may, in spite of the read-only mode) damages the store.
        workers: Threads that fetch, hash and write.

    Returns:
        `folder`.

    Raises:
        IntegrityError: An object is missing or was changed.
        StorageError: The disk refused, or a symbolic link inside the folder would lead a file out of it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        base = folder.resolve()
        wanted = ((path, entry) for path, entry in manifest.entries.items() if path.startswith(prefix))
        for _ in map_in_threads(lambda item: _materialise_one(store, item[1], base, item[0], link), wanted, workers):
            pass
    except OSError as error:
        raise StorageError(
            f"Cannot write {error.filename or folder}: {error.strerror}. Free or choose a folder."
        ) from error
    return folder


def _materialise_one(store: Store, entry: Entry, base: Path, path: str, link: bool) -> None:
    target = base / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.parent.resolve() != target.parent:
        raise StorageError(f"{target.parent} leads through a symbolic link; give a folder of your own.")
    source = store.local_path(entry.sha256)
    with written_whole(target) as temporary:
        if not (link and _linked(source, temporary)):
            shutil.copyfile(source, temporary)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links: the caller copies
        return False
    return True


def damaged(store: Store, manifest: Manifest, *, workers: int = 2) -> list[tuple[str, IntegrityError]]:
    """Re-hash every byte that a manifest names.

    Args:
        store: Where the bytes are.
        manifest: What to verify.
        workers: Threads; SHA-256 lets go of the interpreter lock, so two of them use two cores.

    Returns:
        Path and error of every object that is missing or was changed; empty when all is intact.
    """
    faults = map_in_threads(lambda item: fault_of(store, *item), manifest.entries.items(), workers)
    return [(path, found) for path, found in zip(manifest.entries, faults, strict=True) if found is not None]


def fault_of(store: Store, path: str, entry: Entry) -> IntegrityError | None:
    """What is wrong with one object, hashed again; None when it is whole and as long as it should be."""
    try:
        size = store.verify(entry.sha256)
    except IntegrityError as error:
        return error
    if size == entry.size:
        return None
    what = f"The size of {path} ({size} bytes, the manifest says {entry.size})"
    return IntegrityError(what, entry.sha256, entry.sha256, "Make the product again.")
