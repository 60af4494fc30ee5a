"""Which paths inside an export may be read: no way out of it, no litter, nothing that is not text."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from dentsight_pipeline.errors import DataError

_JUNK = ("__MACOSX/", ".git/", "lost+found/")
_JUNK_NAMES = (".DS_Store", "Thumbs.db", "desktop.ini")


def refuse_unsafe_path(path: str, where: str) -> None:
    """Refuses a path that leaves its folder, on any operating system.

    Raises:
        DataError: The path is empty, absolute, holds `..`, a backslash, a drive letter, a control character or half
            a character.
    """
    parts = path.split("/")
    unsafe = (
        not path.strip()
        or path.startswith("/")
        or "\\" in path
        or ".." in parts
        or re.match(r"[A-Za-z]:", path) is not None
        or any(ord(character) < 32 for character in path)
        or not is_text(path)
    )
    if unsafe:
        raise DataError(
            f"{where}: the path {path!r} leaves its folder or is no plain relative path. "
            "Such an export is not read; get it again from its origin."
        )


def is_text(value: object) -> bool:
    """Whether this is text that can be written: JSON and file names can hold halves of characters (surrogates)."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def is_junk(path: str) -> bool:
    """Whether an operating system or tool left this file behind."""
    return PurePosixPath(path).name in _JUNK_NAMES or any(part in f"/{path}" for part in (f"/{junk}" for junk in _JUNK))
