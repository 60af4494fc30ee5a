"""What the store asks of a place that keeps bytes under keys: `local.py` is a folder, `s3.py` a bucket.

A key is a relative POSIX path that `objects.py` has built from checked parts (`objects/ab/<digest>`).
Both places promise the same: a key appears with all its bytes or not at all, and a write that returned survives
a crash of the process and of the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 1 << 20
"""Files are copied and hashed in blocks of this size: large enough that SHA-256 is the only cost that is left."""

IN_MEMORY_BYTES = 8 << 20
"""Files up to this size are read once into memory; larger ones are streamed."""

DAMAGED_REMEDY = (
    "Restore it from a backup, or remove the damaged copy (`dentsight gc --damaged`) and ingest its source again."
)


@dataclass(frozen=True, slots=True)
class Stat:
    """Size and age of one key."""

    size: int
    """Bytes."""
    modified: float
    """Unix seconds of the last write or `touch`, by the clock of the place that keeps it."""


class Blobs(Protocol):
    """A place that keeps bytes under keys. Every method raises `StorageError` when the place refuses."""

    uri: str
    lookup_threads: int
    """How many `stat` at once are quickest; one where threads cost more than they save."""

    def read(self, key: str) -> bytes | None:
        """All bytes of a key, or None when there is none."""
        ...

    def sha256(self, key: str) -> tuple[str, int] | None:
        """The sha256 (hex) and size that the key's bytes really have, streamed; None when there is none."""
        ...

    def stat(self, key: str) -> Stat | None:
        """Size and age of a key, or None."""
        ...

    def now(self) -> float:
        """Unix seconds by the clock that `Stat.modified` comes from."""
        ...

    def touch(self, key: str, size: int) -> bool:
        """Make an existing key of this size young again, so that `gc` spares it; False when there is none."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Create or replace a key, atomically and durably."""
        ...

    def temporary(self) -> AbstractContextManager[Path]:
        """The path of a private file to fill and then `adopt`; whatever is left of it is removed at the end."""
        ...

    def adopt(self, file: Path, key: str) -> None:
        """Create or replace a key from a private file of `temporary`, atomically and durably."""
        ...

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Write only if the key's bytes are still `expected` (None: there is no such key); False when they are not."""
        ...

    def overwrite(self, key: str, data: bytes) -> None:
        """Like `write`, but never between the look and the write of a `swap` of the same key."""
        ...

    def publish(self, key: str, data: bytes, check: Callable[[], None]) -> None:
        """Write a manifest so that `gc` cannot pull away what it names.

        `check` raises when a named object is missing; it is called while no collection can remove anything.
        """
        ...

    def collecting(self) -> AbstractContextManager[Callable[[], None]]:
        """Hold the right to remove objects; no `publish` completes meanwhile.

        Gives a function to call before every removal; it raises `StorageError` when the right was lost.
        """
        ...

    def scan(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """All keys under a prefix that ends in `/`, in byte order; never a half-written one."""
        ...

    def remove(self, keys: Iterable[str]) -> None:
        """Remove keys; one that is already gone is no error."""
        ...

    def local_path(self, key: str, digest: str) -> Path | None:
        """A local file that holds the object's bytes, hashed in this very call; None when there is no such key.

        Raises:
            IntegrityError: The bytes do not hash to `digest`.
        """
        ...

    def leftovers(self) -> Iterator[tuple[str, Stat]]:
        """Temporary files or unfinished uploads that a killed writer left behind."""
        ...

    def remove_leftovers(self, names: Iterable[str]) -> None:
        """Remove what `leftovers` named."""
        ...
