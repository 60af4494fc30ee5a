"""Which paths inside an export may be read: no way out of it, no litter, nothing that is not text."""

from __future__ import annotations

import re
import unicodedata

from dentsight_pipeline.errors import DataError

_JUNK = ("__MACOSX/", ".git/", "lost+found/")
_JUNK_NAMES = (".DS_Store", "Thumbs.db", "desktop.ini")
_UNSAFE = re.compile(r"^/|^[A-Za-z]:|[\\\x00-\x1f]")
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")


def refuse_unsafe_path(path: str, where: str) -> None:
    """Refuses a path that leaves its folder, on any operating system.

    Raises:
        DataError: The path is empty, absolute, holds `..`, a backslash, a drive letter, a control character or half
            a character.
    """
    if not path.strip() or ".." in path.split("/") or _UNSAFE.search(path) or not is_text(path):
        raise DataError(
            f"{where}: the path {path!r} leaves its folder or is no plain relative path. "
            "Such an export is not read; get it again from its origin."
        )


def folded(path: str) -> str:
    """A path as a disk sees it that tells neither capital letters nor the two ways of writing an accent apart."""
    return unicodedata.normalize("NFC", path).casefold()


def is_text(value: object) -> bool:
    """Whether this is text that can be written: JSON and file names can hold halves of characters (surrogates)."""
    return isinstance(value, str) and _HALF_CHARACTER.search(value) is None


def whole_text(value: object) -> str:
    """A value as text, a question mark for each half of a character: what is only shown need not stop anything."""
    return _HALF_CHARACTER.sub("?", str(value))


def is_junk(path: str) -> bool:
    """Whether an operating system or tool left this file behind, such as the `._name` that macOS adds to each."""
    name = path.rpartition("/")[2]
    return name in _JUNK_NAMES or name.startswith("._") or any(f"/{junk}" in f"/{path}" for junk in _JUNK)
