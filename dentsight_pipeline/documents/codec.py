"""One way to read and to write a document: strict, and a refusal names the file and the field."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from dentsight_pipeline.errors import DocumentError

T = TypeVar("T")


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every document: immutable, and nothing unknown is passed over.

    `kw_only` is not inherited: a type with defaults before other fields says it again.
    """


def read(data: bytes | str, kind: type[T], where: str | Path) -> T:
    """A document from JSON.

    Args:
        data: The JSON text.
        kind: The document's type.
        where: The file or product that it comes from, for the refusal.

    Raises:
        DocumentError: Not JSON, or not such a document; the message names `where` and the field's path.
    """
    try:
        try:
            return msgspec.json.decode(data, type=kind, strict=True)
        except msgspec.ValidationError:  # said again with the whole path, unless the text is cut further on
            return convert(msgspec.json.decode(data), kind, where)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DocumentError(str(where), _name(kind), str(error)) from error


def convert(value: Any, kind: type[T], where: str | Path) -> T:
    """A document from values that `json` has already parsed; refuses as `read` does.

    Raises:
        DocumentError: Not such a document; the message names `where` and the field's path.
    """
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        problem = _with_keys(str(error), plain(value), kind)
        raise DocumentError(str(where), _name(kind), problem) from error


def plain(document: object) -> Any:
    """A document as the plain dictionaries, lists, numbers and texts that JSON has."""
    return msgspec.to_builtins(document)


def write(document: object) -> bytes:
    """A document as JSON bytes: keys in alphabetical order, no white space, the same bytes for the same content."""
    text = json.dumps(plain(document), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def pretty(document: object) -> bytes:
    """A document as JSON that people read as well: a field a line, keys in alphabetical order."""
    text = json.dumps(plain(document), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def finite(value: float) -> float | None:
    """A number as JSON can hold it: NaN and infinity, which no document has, become None."""
    return float(value) if math.isfinite(value) else None


def _name(kind: Any) -> str:
    """What a document's type is called in a refusal; a line of a file has one that only its reader knows."""
    return getattr(kind, "__name__", "Document").lstrip("_")


def _with_keys(problem: str, value: Any, kind: Any) -> str:
    """A refusal whose path names the keys of mappings too (`$.splits.train.images`), where msgspec writes `[...]`."""
    named, *others = problem.split("[...]")
    path, holder = named.partition("`$")[2], value
    for rest in others:
        for field, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
            holder = holder[field] if field else holder[int(index)]
        key = _failing_key(holder, value, kind)
        path, holder, named = rest, holder[key], f"{named}.{key}{rest}"
    return named


def _failing_key(holder: dict[str, Any], value: Any, kind: Any) -> str:
    """The first key of a mapping inside `value` whose content does not fit; the mapping keeps that one alone."""
    for key, held in list(holder.items()):
        holder.clear()
        holder[key] = held
        try:
            msgspec.convert(value, kind, strict=True)
        except msgspec.ValidationError:
            break
    return next(iter(holder))
