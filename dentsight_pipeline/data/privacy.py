"""What could identify a patient, in words and names: patterns that find it, and masks for what is kept of messages.

Identifiers come as file-name stems (DICOM UIDs, acquisition dates and times), as metadata inside image files, and as
text that someone typed into a record. Add a pattern here. Removing them is done where they are read: names in
`intake/`, bytes in `image_bytes.py`; the proof that none is left is `identifiers.py`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Literal

StemKind = Literal["uid", "dated", "numeric", "other"]

_DATE = r"(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:[01]\d|2[0-3])[-_.:]?[0-5]\d(?:[-_.:]?[0-5]\d)?"
_DATED = re.compile(rf"(?<!\d){_DATE}(?:[-_. T]?{_TIME})?(?!\d)")
_UID = re.compile(r"(?<![\w.\-])[0-2](?:[._\-]\d{1,39}){3,}(?![0-9a-fA-F])|(?<!\w)2[._\-]25[._\-]\d{16,39}")
_LONG_NUMBER = re.compile(r"\d{12,}")
_COUNTER = re.compile(r"(?:[A-Za-z]{1,12}[ ._\-]*)?\(?\d{1,7}\)?")
_SUFFIX = re.compile(r"[._](?:jpe?g|png|bmp|tiff?|webp|gif|dcm|dicom)$", re.IGNORECASE)
_EXPORT_NAME = re.compile(r"[^\s/'\"]*\.rf\.([0-9a-fA-F]{20,64})")
_DATE_AND_TIME = re.compile(rf"(?<![\w.]){_DATE}[-_T]?{_TIME}(?!\w)")
_HEX_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_MIN_UID_DIGITS = 14


def stem_kind(stem: str) -> StemKind:
    """What kind of file-name stem this is.

    Args:
        stem: The part before `.rf.`, e.g. `1-2-826-0-1-3680043_png` or `18_png`.

    Returns:
        `uid` for DICOM-UID-like and other long numbers, `dated` when it holds a date, `numeric` for a counter (also
        behind one word, as in `image_12`), which collides between patients, and `other`.
    """
    bare = _SUFFIX.sub("", stem).strip()
    if is_uid_like(bare):
        return "uid"
    if _DATED.search(bare):
        return "dated"
    if _LONG_NUMBER.search(bare):
        return "uid"
    if _COUNTER.fullmatch(bare):
        return "numeric"
    return "other"


def is_uid_like(text: str) -> bool:
    """Whether the text holds a DICOM UID, with dots or with what Roboflow puts in their place."""
    return any(sum(map(str.isdigit, match.group())) >= _MIN_UID_DIGITS for match in _UID.finditer(text))


def redact(text: str) -> str:
    """The text with every identifier masked, fit for logs and events that are kept.

    An export's file name keeps Roboflow's own hash, by which its owner can still find the file.
    """
    text = _EXPORT_NAME.sub(lambda match: f"*.rf.{match.group(1)}", text)
    text = re.sub(r"[^\s/'\"]+\.(?:jpe?g|png|bmp|tiff?|dcm)\b", _masked_name, text, flags=re.IGNORECASE)
    text = _UID.sub(lambda match: "<uid>" if is_uid_like(match.group()) else match.group(), text)
    return _DATE_AND_TIME.sub("<date>", text)


def _masked_name(match: re.Match[str]) -> str:
    name = match.group()
    if ".rf." in name or re.fullmatch(r"[0-9a-f]{64}\.\w+", name):
        return name
    return f"*{PurePosixPath(name).suffix}"


def identifiers_in_text(text: str, stems: Collection[str] = ()) -> dict[str, int]:
    """Identifiers in a text by kind; sha256 digests are no text.

    Args:
        text: Any text.
        stems: Original stems that must not occur, where they are known.
    """
    bare = _HEX_DIGEST.sub(" ", text)
    found = {
        "uid": sum(is_uid_like(match.group()) for match in _UID.finditer(bare)),
        "date and time": sum(1 for _ in _DATE_AND_TIME.finditer(bare)),
        "export file name": sum(1 for _ in _EXPORT_NAME.finditer(bare)),
        "original stem": sum(stem in bare for stem in stems),
    }
    return {kind: count for kind, count in found.items() if count}
