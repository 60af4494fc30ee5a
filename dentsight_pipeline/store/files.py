"""Files and folders that are there whole or not at all; what is kept for good are the objects of `local.py`."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dentsight_pipeline.errors import ConfigurationError, StorageError


def refuse_existing(path: Path) -> None:
    """Refuses a name that is taken.

    Raises:
        ConfigurationError: There is something of that name.
    """
    if path.exists() or path.is_symlink():
        raise ConfigurationError(f"{path} exists; it is never written over. Give a new name.")


def refuse_full(folder: Path, remedy: str = "Give a new folder, so that nothing is mixed or lost.") -> None:
    """Refuses a place for a folder that is taken.

    Args:
        folder: Where something is to be written.
        remedy: What to do, as a sentence.

    Raises:
        ConfigurationError: There is a folder that holds something, or a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not empty. {remedy}")


@contextmanager
def made_whole(path: Path) -> Iterator[Path]:
    """Where to make a new folder or file that gets its name in one piece when the block ends without an error.

    Raises:
        ConfigurationError: There is something of that name.
        StorageError: The disk refused.
    """
    refuse_existing(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = f".{path.name}."
        with tempfile.TemporaryDirectory(prefix=hidden, dir=path.parent, ignore_cleanup_errors=True) as folder:
            new = Path(folder) / path.name
            yield new
            new.rename(path)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}. Nothing half-written was kept.") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of `path` in one piece when the block ends without an error.

    Whoever reads `path` finds all of the old bytes or all of the new; of two who write at once the last one stays.
    """
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """As `written_whole`, for bytes that are at hand.

    Raises:
        OSError: The disk refused; the old file stays.
    """
    with written_whole(path) as new:
        new.write_bytes(data)
