"""Single files that others read while they are written anew; what is kept for good are the objects of `local.py`."""

from __future__ import annotations

import uuid
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Creates or replaces a small file in one piece: whoever reads it finds all of the old bytes or all of the new.

    Of two who write at once the last one stays.

    Raises:
        OSError: The disk refused; the old file stays.
    """
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        new.write_bytes(data)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
