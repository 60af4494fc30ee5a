"""A folder as the place that keeps bytes: temporary file, fsync, rename, fsync of the folder.

Layout: keys are paths below the root; `tmp/` holds what is being written; `locks/` two empty lock files.
The locks are `flock`s: the kernel lets go of them when a process dies, so a killed writer blocks nobody.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat as stat_flags
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import TypeVar

from dentsight_pipeline.errors import IntegrityError, StorageError
from dentsight_pipeline.store.blobs import BLOCK_BYTES, DAMAGED_REMEDY, Blobs, Stat

T = TypeVar("T")


class LocalBlobs(Blobs):
    """Keys below one folder of a local or shared POSIX file system; what its methods promise: `Blobs`.

    Args:
        root: The folder; made when it does not exist.

    Raises:
        StorageError: The folder cannot be made.
    """

    lookup_threads = 1

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = self.root.as_uri()
        with self._refusals("open the store", self.root):
            for name in ("tmp", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)

    def read(self, key: str) -> bytes | None:
        return self._ask("read", key, Path.read_bytes)

    def sha256(self, key: str) -> tuple[str, int] | None:
        return self._ask("read", key, hash_file)

    def stat(self, key: str) -> Stat | None:
        found = self._ask("look up", key, Path.stat)
        return Stat(found.st_size, found.st_mtime) if found and stat_flags.S_ISREG(found.st_mode) else None

    def now(self) -> float:
        """By the clock of the file system, which may be another machine's."""
        with self.temporary() as file, self._refusals("write", file):
            return file.stat().st_mtime

    def touch(self, key: str, size: int) -> bool:
        def renew(path: Path) -> bool:
            if path.stat().st_size != size:
                return False
            os.utime(path)
            return True

        with self._lock("gc", fcntl.LOCK_SH):
            return bool(self._ask("touch", key, renew))

    def write(self, key: str, data: bytes) -> None:
        with self.temporary() as file:
            with self._refusals("write", self.root / key):
                file.write_bytes(data)
            self.adopt(file, key)

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """The path of a private file in `tmp/`, on the same file system as the keys, locked while its writer lives."""
        while True:
            file = self.root / "tmp" / f"{uuid.uuid4().hex}.part"
            with self._refusals("write", file):
                descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # a collection took it in the instant before it was locked
        try:
            yield file
        finally:
            with suppress(OSError):
                file.unlink(missing_ok=True)
            os.close(descriptor)

    def adopt(self, file: Path, key: str) -> None:
        path = self.root / key
        with self._refusals("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o444)
            _sync(file)
            file.replace(path)
            _sync(path.parent)

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        with self._lock("refs", fcntl.LOCK_EX):
            if self.read(key) != expected:
                return False
            self.write(key, data)
        return True

    def overwrite(self, key: str, data: bytes) -> None:
        with self._lock("refs", fcntl.LOCK_EX):
            self.write(key, data)

    def publish(self, key: str, data: bytes, check: Callable[[], None]) -> None:
        with self._lock("gc", fcntl.LOCK_SH):
            check()
            self.write(key, data)

    @contextmanager
    def collecting(self) -> Iterator[Callable[[], None]]:
        """The kernel takes the right back only when this process dies."""
        with self._lock("gc", fcntl.LOCK_EX):
            yield lambda: None

    def scan(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        for name in sorted(self._ask("list", prefix, _names_in) or (), key=os.fsencode):
            if name.endswith("/"):
                yield from self.scan(prefix + name)
            elif (found := self.stat(prefix + name)) is not None:
                yield prefix + name, found

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._refusals("remove", self.root / key):
                (self.root / key).unlink(missing_ok=True)

    def local_path(self, key: str, digest: str) -> Path | None:
        """The object's own file, read-only, hashed in this very call."""
        found = self.sha256(key)
        if found is None:
            return None
        if found[0] != digest:
            raise IntegrityError(f"Object {key} of {self.uri}", digest, found[0], DAMAGED_REMEDY)
        return self.root / key

    def leftovers(self) -> Iterator[tuple[str, Stat]]:
        """Temporary files whose writers are dead: nobody holds their lock any more."""
        for name, stat in self.scan("tmp/"):
            with self._unlocked(name) as free:
                if free:
                    yield name, stat

    def remove_leftovers(self, names: Iterable[str]) -> None:
        for name in names:
            with self._unlocked(name) as free:
                if free:
                    self.remove([name])

    @contextmanager
    def _unlocked(self, name: str) -> Iterator[bool]:
        """Whether a temporary file exists and no writer holds it; none can take it meanwhile."""
        with ExitStack() as held:
            try:
                descriptor = os.open(self.root / name, os.O_RDONLY | os.O_CLOEXEC)
                held.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
            except OSError:
                free = False
            yield free

    @contextmanager
    def _lock(self, name: str, kind: int) -> Iterator[None]:
        path = self.root / "locks" / name
        with self._refusals("lock", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with self._refusals("lock", path):
                fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def _ask(self, act: str, key: str, question: Callable[[Path], T]) -> T | None:
        """What a key's file answers, or None when there is none."""
        with self._refusals(act, self.root / key):
            try:
                return question(self.root / key)
            except (FileNotFoundError, NotADirectoryError):
                return None

    @contextmanager
    def _refusals(self, act: str, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"Cannot {act} {path}: {error.strerror or error}. {_remedy(error, self.root)}"
            ) from error


def hash_file(path: Path) -> tuple[str, int]:
    """The sha256 (hex) and size of a file's bytes, streamed in large blocks."""
    with path.open("rb", buffering=0) as file:
        return hash_stream(file)


def hash_stream(stream: RawIOBase) -> tuple[str, int]:
    """The sha256 (hex) and size of what a stream still gives from its start."""
    return hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()


def _names_in(folder: Path) -> list[str]:
    """The names in a folder; those of folders end in `/`."""
    with os.scandir(folder) as found:
        return [f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in found]


def file_blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes, in order, piece by piece."""
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def write_and_hash(blocks: Iterable[bytes], file: Path) -> tuple[str, int]:
    """Fill a file, and return the sha256 (hex) and size of exactly the bytes that were written."""
    hasher, size = hashlib.sha256(), 0
    with file.open("wb", buffering=0) as writing:
        for block in blocks:
            hasher.update(block)
            size += len(block)
            view = memoryview(block)
            while view:
                view = view[writing.write(view) :]
    return hasher.hexdigest(), size


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remedy(error: OSError, root: Path) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            free = (
                f"{shutil.disk_usage(root).free / 1e6:.0f} MB are free there" if root.exists() else "the disk is full"
            )
            return f"Nothing half-written was kept; {free}. Free some space (`dentsight gc --apply`), then run again."
        case errno.EFBIG:
            return "Nothing half-written was kept. Raise the file size limit (`ulimit -f`), then run again."
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return "Make the folder writable for this user, or name another store."
        case _:
            return "Check that the folder is mounted and healthy, then run again."
