"""The store: bytes named by their sha256, manifests, references and records, on disk or on S3.

Layout, the same in a folder and in a bucket:

    objects/ab/<sha256>              bytes, immutable
    manifests/ab/<sha256>.json       canonical JSON, immutable
    records/<product>/<sha256>.json  provenance of a product (times, hosts, run ids), immutable
    memo/ab/<key>.json               which manifest a piece of work gave
    refs/<name>.json                 small mutable documents, changed by compare-and-swap

Whatever is read is hashed before it is returned: nothing wrong is ever read as right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from dentsight_pipeline.errors import ConfigurationError, IntegrityError, RefConflictError, StorageError
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.blobs import DAMAGED_REMEDY, IN_MEMORY_BYTES, Blobs, Stat
from dentsight_pipeline.store.local import LocalBlobs, file_blocks, hash_file, write_and_hash
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.names import (
    check_digest,
    check_ref,
    is_digest,
    is_ref,
    manifest_key,
    object_key,
    record_key,
    ref_key,
)
from dentsight_pipeline.store.threads import map_in_threads

ANY: Final = object()
"""For `write_ref`: whatever is there is replaced."""


def open_store(uri: str | Path, *, cache: Path | None = None) -> Store:
    """Open a store, and make it when it is a folder that does not exist.

    Args:
        uri: A path, `file:///path`, or `s3://bucket/prefix` (settings from the standard AWS environment,
            `AWS_ENDPOINT_URL_S3` for another provider).
        cache: For S3 only: the folder of verified local copies; `$XDG_CACHE_HOME/dentsight` by default.

    Raises:
        ConfigurationError: The URI names no kind of store that exists.
        StorageError: The folder cannot be made.
    """
    if isinstance(uri, Path):
        return Store(LocalBlobs(uri))
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        from dentsight_pipeline.store.s3 import S3Blobs

        return Store(S3Blobs.from_uri(uri, cache))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return Store(LocalBlobs(Path(unquote(parts.path))))
    if not uri or parts.scheme or "://" in uri:
        raise ConfigurationError(f"{uri!r} names no store. Give a folder, file:///folder or s3://bucket/prefix.")
    return Store(LocalBlobs(Path(uri).expanduser()))


class Store:
    """Content-addressed bytes, and the documents that name them. Safe with several threads, processes and machines.

    Args:
        blobs: The place that keeps the bytes.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def uri(self) -> str:
        """What `open_store` opens this store by, also from another folder."""
        return self.blobs.uri

    # Objects ---------------------------------------------------------------------------------------------------------

    def put_bytes(self, data: bytes, digest: str = "") -> str:
        """Keep bytes; nothing is written when the store has them.

        Args:
            data: The bytes.
            digest: Their sha256 where the caller has just hashed them, else they are hashed here.

        Returns:
            Their sha256, 64 hex digits.

        Raises:
            StorageError: The store refused; nothing half-written stays behind.
        """
        digest = digest or sha256(data).hexdigest()
        if not self.blobs.touch(object_key(digest), len(data)):
            self.blobs.write(object_key(digest), data)
        return digest

    def put_file(self, path: Path) -> Entry:
        """Keep a file's bytes, streamed; the file is only read.

        A file that changes while it is read is kept as the bytes that were read, under their own digest.

        Raises:
            StorageError: The file cannot be read, or the store refused; nothing half-written stays behind.
        """
        try:
            if path.stat().st_size <= IN_MEMORY_BYTES:
                data = path.read_bytes()
                return Entry(self.put_bytes(data), len(data))
            digest, size = hash_file(path)
        except OSError as error:
            raise StorageError(f"Cannot read {path}: {error.strerror or error}. Check that it exists.") from error
        if self.blobs.touch(object_key(digest), size):
            return Entry(digest, size)
        return self._put_written(file_blocks(path), str(path))

    def put_blocks(self, blocks: Callable[[], Iterable[bytes]]) -> Entry:
        """Keep bytes that are made piece by piece, without ever holding more than `IN_MEMORY_BYTES` of them.

        Args:
            blocks: Makes them from the start, each time the same: once to hash them, and where the store does not have
                them and they are more than `IN_MEMORY_BYTES` once more to write them.

        Raises:
            StorageError: The store refused; nothing half-written stays behind.
        """
        hasher, size, kept = sha256(), 0, list[bytes]()
        for block in blocks():
            hasher.update(block)
            size += len(block)
            if size <= IN_MEMORY_BYTES:
                kept.append(block)
            else:
                kept.clear()
        if self.blobs.touch(object_key(hasher.hexdigest()), size):
            return Entry(hasher.hexdigest(), size)
        return self._put_written(kept or blocks(), "an object")

    def _put_written(self, blocks: Iterable[bytes], what: str) -> Entry:
        with self.blobs.temporary() as file:
            try:
                digest, size = write_and_hash(blocks, file)
            except OSError as error:
                raise StorageError(
                    f"Cannot store {what}: {error.strerror or error}. Nothing half-written was kept; "
                    "free some space (`dentsight gc --apply`), then run again."
                ) from error
            if not self.blobs.touch(object_key(digest), size):
                self.blobs.adopt(file, object_key(digest))
        return Entry(digest, size)

    def get_bytes(self, digest: str) -> bytes:
        """The bytes with this sha256, verified.

        Raises:
            IntegrityError: They are missing or were changed.
        """
        return self._verified(object_key(digest), "Object", digest, DAMAGED_REMEDY)

    def local_path(self, digest: str) -> Path:
        """A local file with exactly these bytes, hashed in this very call. Only for reading: it may be the store's own.

        Raises:
            IntegrityError: They are missing or were changed.
            StorageError: The local disk refused (the cache of an S3 store is full, for example).
        """
        path = self.blobs.local_path(object_key(digest), digest)
        if path is None:
            raise self._missing("Object", digest)
        return path

    def verify(self, digest: str) -> int:
        """Hash what the store really holds, streamed, without keeping it.

        Returns:
            The size in bytes.

        Raises:
            IntegrityError: The object is missing or was changed.
        """
        found = self.blobs.sha256(object_key(digest))
        if found is None:
            raise self._missing("Object", digest)
        if found[0] != digest:
            raise IntegrityError(f"Object of {self.uri}", digest, found[0], DAMAGED_REMEDY)
        return found[1]

    def discard_damaged(self, digest: str) -> bool:
        """Remove an object whose bytes are not what its name says, so that the next `put` writes it anew.

        Returns:
            Whether it was damaged, and so removed. An intact object is never touched.
        """
        found = self.blobs.sha256(object_key(digest))
        if found is None or found[0] == digest:
            return False
        self.blobs.remove([object_key(digest)])
        return True

    def damaged(self) -> Iterator[str]:
        """Objects whose bytes are not what their names say; every byte of the store is read."""
        for digest in self.object_digests():
            found = self.blobs.sha256(object_key(digest))
            if found is not None and found[0] != digest:
                yield digest

    def has(self, digest: str) -> bool:
        """Whether there is an object of this name; it is not hashed."""
        return self.stat(digest) is not None

    def size(self, digest: str) -> int:
        """The size in bytes.

        Raises:
            IntegrityError: There is no such object.
        """
        stat = self.stat(digest)
        if stat is None:
            raise self._missing("Object", digest)
        return stat.size

    def stat(self, digest: str) -> Stat | None:
        """Size and age of an object, or None."""
        return self.blobs.stat(object_key(digest))

    def object_digests(self) -> Iterator[str]:
        """The names of all objects, sorted."""
        return self._digests("objects/", "")

    # Manifests -------------------------------------------------------------------------------------------------------

    def put_manifest(self, manifest: Manifest) -> str:
        """Publish a manifest.

        Returns:
            Its digest.

        Raises:
            IntegrityError: An object that it names is not in the store; nothing is published then.
        """

        def check() -> None:
            lacking = self.missing(manifest)
            if lacking:
                more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
                what = f"{lacking[0]!r}{more} of the {manifest.kind} to publish in {self.uri}"
                digest = manifest.entries[lacking[0]].sha256
                raise IntegrityError(what, digest, None, "Store the files (`manifest.build`) before their manifest.")

        self.blobs.publish(manifest_key(manifest.digest), manifest.to_bytes(), check)
        return manifest.digest

    def get_manifest(self, digest: str) -> Manifest:
        """A manifest, verified.

        Raises:
            IntegrityError: It is missing or was changed.
            DataError: It was written by an incompatible release.
        """
        data = self._verified(manifest_key(digest), "Manifest", digest, "Restore it from a backup.")
        return Manifest.from_bytes(data)

    def has_manifest(self, digest: str) -> bool:
        """Whether there is a manifest of this name; it is not read."""
        return self.blobs.stat(manifest_key(digest)) is not None

    def manifest_digests(self) -> Iterator[str]:
        """The digests of all manifests, sorted."""
        return self._digests("manifests/", ".json")

    # References ------------------------------------------------------------------------------------------------------

    def read_ref(self, name: str) -> dict[str, Any] | None:
        """The value of a reference, or None when there is none.

        Raises:
            IntegrityError: The reference was damaged.
            ConfigurationError: Not a legal name.
        """
        data = self.blobs.read(ref_key(name))
        what = f"Reference {name!r} of {self.uri}"
        return None if data is None else canonical.unseal(data, what, "Write it again, or restore it from a backup.")

    def write_ref(self, name: str, value: Mapping[str, Any], *, expected: Any = ANY) -> None:
        """Set a reference, atomically.

        Args:
            name: Words joined by `/`, e.g. `dataset/opg-reporting-v8`.
            value: JSON.
            expected: What `read_ref` gave before (None: nothing). With anything but `ANY` the reference is changed
                only if that is still its value, also when several machines try at once.

        Raises:
            RefConflictError: Somebody else changed it meanwhile.
            DataError: The value is not JSON.
        """
        key, what = ref_key(name), f"Reference {name!r}"
        data = canonical.seal(dict(value), what)
        if expected is ANY:
            self.blobs.overwrite(key, data)
            return
        before = None if expected is None else canonical.seal(expected, what)
        if not self.blobs.swap(key, data, before):
            raise RefConflictError(name, expected, self.read_ref(name))

    def refs(self, prefix: str = "") -> list[str]:
        """The names of all references that start with a prefix, sorted; `""` gives all."""
        folder = check_ref(prefix, prefix=True).rpartition("/")[0]
        keys = (key for key, _ in self.blobs.scan(f"refs/{folder}/" if folder else "refs/"))
        names = (key.removeprefix("refs/").removesuffix(".json") for key in keys if key.endswith(".json"))
        return sorted(name for name in names if name.startswith(prefix) and is_ref(name))

    # Records ---------------------------------------------------------------------------------------------------------

    def append_record(self, product_digest: str, record: Mapping[str, canonical.JSON]) -> str:
        """Add provenance to a product: what is true of one run, not of the product. Never changed afterwards.

        Returns:
            The record's digest.
        """
        data = canonical.dumps(dict(record), f"A record of {product_digest}")
        digest = sha256(data).hexdigest()
        self.blobs.write(record_key(product_digest, digest), data)
        return digest

    def records(self, product_digest: str) -> list[dict[str, Any]]:
        """All records of a product, verified, the oldest first by their `started` (then `finished`) where given.

        Raises:
            IntegrityError: One of them was changed.
        """
        return [record for _, record in self.named_records(product_digest)]

    def named_records(self, product_digest: str) -> list[tuple[str, dict[str, Any]]]:
        """Like `records`, each with its digest."""
        folder = f"records/{check_digest(product_digest, 'a product')}/"
        found = []
        for key, _ in self.blobs.scan(folder):
            digest = key.removeprefix(folder).removesuffix(".json")
            if is_digest(digest):
                what = f"A record of {product_digest}"
                found.append((digest, canonical.loads(self._verified(key, what, digest, "Restore it from a backup."))))
        return sorted(found, key=lambda item: (*(str(item[1].get(k, "")) for k in ("started", "finished")), item[0]))

    def _digests(self, prefix: str, suffix: str) -> Iterator[str]:
        for key, _ in self.blobs.scan(prefix):
            digest = key.rpartition("/")[2].removesuffix(suffix) if key.endswith(suffix) else ""
            if is_digest(digest) and key == f"{prefix}{digest[:2]}/{digest}{suffix}":
                yield digest

    def missing(self, manifest: Manifest) -> list[str]:
        """The paths whose object is not in the store, or has another size; looked up, not hashed."""

        def lacks(entry: Entry) -> bool:
            stat = self.stat(entry.sha256)
            return stat is None or stat.size != entry.size

        threads = self.blobs.lookup_threads
        entries = manifest.entries.values()
        gone = map_in_threads(lacks, entries, threads) if threads > 1 else map(lacks, entries)
        return [path for path, lacking in zip(manifest.entries, gone, strict=True) if lacking]

    def _verified(self, key: str, what: str, digest: str, remedy: str) -> bytes:
        """A key's bytes, which hash to `digest`."""
        data = self.blobs.read(key)
        if data is None:
            raise self._missing(what, digest)
        found = sha256(data).hexdigest()
        if found != digest:
            raise IntegrityError(f"{what} of {self.uri}", digest, found, remedy)
        return data

    def _missing(self, what: str, digest: str) -> IntegrityError:
        remedy = "Restore it from a backup, or make it again from its inputs; check that this is the right store."
        return IntegrityError(f"{what} of {self.uri}", digest, None, remedy)
