"""Single files that others read while they are written anew; what is kept for good are the objects of `local.py`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
