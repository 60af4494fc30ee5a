"""Canonical JSON (RFC 8785), and the small sealed documents that can change but must not rot unseen.

Canonical JSON gives one byte string to one value, so that a digest of a value is well defined on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import rfc8785

from dentsight_pipeline.errors import DataError, IntegrityError

JSON = Mapping[str, "JSON"] | Sequence["JSON"] | str | int | float | bool | None
"""What JSON can hold. Numbers are IEEE doubles: integers beyond ±2^53, NaN and infinities are refused."""


def dumps(value: Any, what: str) -> bytes:
    """The canonical JSON (RFC 8785) of a value.

    Args:
        value: Dictionaries with string keys, lists, tuples, strings, numbers, booleans and None.
        what: The value in words, for the message.

    Raises:
        DataError: The value cannot be written as JSON (NaN, a huge integer, a foreign type, a lone surrogate).
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, TypeError, RecursionError) as error:
        raise DataError(
            f"{what} cannot be written as canonical JSON: {error}. Give only text, finite numbers up to 2^53, "
            "true, false, null, lists and dictionaries with text keys."
        ) from error


def loads(data: bytes) -> Any:
    """The value that canonical JSON holds.

    RFC 8785 writes the double 1e17 as 100000000000000000; beyond ±2^53 such digits are read as the double they were.

    Raises:
        ValueError: Not JSON.
    """
    return json.loads(data, parse_int=_number)


def _number(digits: str) -> int | float:
    number = int(digits)
    return number if abs(number) < 2**53 else float(digits)


def digest(value: Any, what: str) -> str:
    """The sha256 (64 hex digits) of a value's canonical JSON."""
    return sha256(dumps(value, what)).hexdigest()


def seal(value: Any, what: str) -> bytes:
    """A mutable document's bytes: the value beside the digest of its canonical JSON.

    A reference has no digest in its name, so it carries one inside; a flipped byte is found on reading.
    """
    return dumps({"sha256": digest(value, what), "value": value}, what)


def unseal(data: bytes, what: str, remedy: str) -> Any:
    """The value inside a sealed document.

    Raises:
        IntegrityError: The document was changed or cut.
    """
    try:
        document = loads(data)
        expected, value = document["sha256"], document["value"]
        found = digest(value, what)
    except (ValueError, KeyError, TypeError, DataError) as error:
        raise IntegrityError(what, "inside the document", sha256(data).hexdigest(), remedy) from error
    if found != expected:
        raise IntegrityError(what, str(expected), found, remedy)
    return value
