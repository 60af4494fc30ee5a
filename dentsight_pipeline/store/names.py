"""Names and keys: nothing that comes from an export, a manifest or a user can leave its folder."""

from __future__ import annotations

import re
from collections.abc import Collection

from dentsight_pipeline.errors import ConfigurationError, DataError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]*")
_KIND = re.compile(r"[a-z0-9][a-z0-9-]*")


def is_digest(text: object) -> bool:
    """Whether this is 64 lower-case hex digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def check_digest(text: object, what: str) -> str:
    """The text itself when it is 64 lower-case hex digits.

    Raises:
        DataError: It is not; the message names `what`.
    """
    if not is_digest(text):
        raise DataError(f"{what[:1].upper()}{what[1:]} must be 64 lower-case hex digits, not {text!r}.")
    return str(text)


def check_kind(kind: str) -> None:
    """Refuse a manifest kind that is not lower-case words joined by hyphens."""
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise DataError(f"A manifest's kind is lower-case words joined by hyphens, not {kind!r}.")


def check_ref(name: str, *, prefix: bool = False) -> str:
    """The name itself when it is words of `A-Za-z0-9_.+@=-` joined by `/`.

    Args:
        name: A reference's name, e.g. `dataset/opg-reporting-v8`.
        prefix: Allow the start of a name: empty, or ending in `/`.

    Raises:
        ConfigurationError: It is empty, absolute, too long, or would climb out of its folder.
    """
    parts = name.removesuffix("/").split("/") if prefix else name.split("/")
    legal = all(len(part) <= 200 and _PART.fullmatch(part) for part in parts) or (prefix and not name)
    if not legal or len(name) > 900:
        raise ConfigurationError(
            f"A reference is named by words of letters, digits and _.+@=- joined by '/', not {name!r}. "
            "No word may be empty or start with a dot."
        )
    return name


def is_ref(name: str) -> bool:
    """Whether this is a legal reference name; a stray file between the references has none."""
    try:
        check_ref(name)
    except ConfigurationError:
        return False
    return True


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_entry_paths(paths: Collection[str]) -> None:
    """Refuse paths that would leave their folder, or that no folder could hold together.

    Raises:
        DataError: A path is absolute, empty, climbs with `..`, holds a backslash, a control character, a drive letter
            or an over-long part, or is both a file and a folder.
    """
    folders: dict[str, str] = {}
    for path in paths:
        problem = _path_problem(path)
        if problem:
            raise DataError(
                f"{path!r} cannot be a file of a manifest: {problem}. Give a relative path like 'a/b.json'."
            )
        folder = path.rpartition("/")[0]
        while folder and folder not in folders:
            folders[folder] = path
            folder = folder.rpartition("/")[0]
    for folder, path in folders.items():
        if folder in paths:
            raise DataError(f"{folder!r} is both a file and the folder of {path!r}.")


def _path_problem(path: object) -> str | None:
    if not isinstance(path, str) or not path:
        return "it is empty or not text"
    if path.startswith("/"):
        return "it is absolute"
    if "\\" in path or ":" in path:
        return "it holds a backslash or a colon"
    if _CONTROL.search(path):
        return "it holds a control character"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "a part of it is empty, '.' or '..'"
    if any(len(part.encode()) > 255 for part in parts) or len(path.encode()) > 1024:
        return "it is too long"
    return None


def object_key(digest: str) -> str:
    """Where an object is kept. Raises `DataError` unless the digest is one, so that no name leads elsewhere."""
    return f"objects/{check_digest(digest, 'an object')[:2]}/{digest}"


def manifest_key(digest: str) -> str:
    """Where a manifest is kept."""
    return f"manifests/{check_digest(digest, 'a manifest')[:2]}/{digest}.json"


def record_key(product: str, digest: str) -> str:
    """Where a record of a product is kept."""
    return f"records/{check_digest(product, 'a product')}/{check_digest(digest, 'a record')}.json"


def memo_key(key: str) -> str:
    """Where the memo of a piece of work is kept."""
    return f"memo/{check_digest(key, 'a memo key')[:2]}/{key}.json"


def ref_key(name: str) -> str:
    """Where a reference is kept."""
    return f"refs/{check_ref(name)}.json"
