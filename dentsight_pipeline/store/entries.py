"""The files that a manifest names, kept as the text of its bytes: a dataset can have very many."""

from __future__ import annotations

import json
import re
import reprlib
from array import array
from bisect import bisect_left
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from itertools import pairwise

from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.names import check_digest

HEAD = b'{"entries":{'
"""How the canonical bytes of a manifest begin."""
_MEMBER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*":\{"sha256":"([0-9a-f]{64})","size":([0-9]{1,16})\},?')
_BEHIND_PATH = b'":{"sha256":"'


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One file of a manifest."""

    sha256: str
    """64 lower-case hex digits."""
    size: int
    """Bytes."""

    def __post_init__(self) -> None:
        check_digest(self.sha256, "an entry's sha256")
        if type(self.size) is not int or self.size < 0:
            raise DataError(f"An entry's size must be a whole number of bytes, not {self.size!r}.")


class Entries(Mapping[str, Entry]):
    """Path → file, in canonical order, each read from the manifest's bytes when it is asked for.

    A dictionary would take some 400 bytes for each image beside the text; this takes 8. A path is found by bisection.

    Args:
        document: The bytes of a manifest, which begin with `HEAD`. What is behind the last well-formed entry starts at
            `end`; whether all of it is canonical is for the reader to check.
    """

    def __init__(self, document: bytes) -> None:
        self._document = document
        self._starts = array("Q")
        self.end = len(HEAD)
        while member := _MEMBER.match(document, self.end):
            self._starts.append(self.end)
            self.end = member.end()

    def __getitem__(self, path: str) -> Entry:
        if not isinstance(path, str):
            raise KeyError(path)
        place = bisect_left(self._starts, _utf_16(path), key=lambda start: _utf_16(self._path(start)))
        if place == len(self._starts) or self._path(self._starts[place]) != path:
            raise KeyError(path)
        return self._at(self._starts[place])[1]

    def __iter__(self) -> Iterator[str]:
        return map(self._path, self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __repr__(self) -> str:
        return f"Entries({reprlib.repr(dict(self.items()))})"

    def items(self) -> ItemsView[str, Entry]:
        return _Items(self)

    def values(self) -> ValuesView[Entry]:
        return _Values(self)

    def pairs(self) -> Iterator[tuple[str, Entry]]:
        """What `items` shows."""
        return map(self._at, self._starts)

    def _at(self, start: int) -> tuple[str, Entry]:
        member = _MEMBER.match(self._document, start)
        assert member is not None  # it was found there before
        digest, size = member.groups()
        return self._path(start), Entry(digest.decode(), int(size))

    def _path(self, start: int) -> str:
        quoted = self._document[start : self._document.index(_BEHIND_PATH, start) + 1]
        return json.loads(quoted) if b"\\" in quoted else quoted[1:-1].decode()


class _Items(ItemsView[str, Entry]):
    _mapping: Entries

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return self._mapping.pairs()


class _Values(ValuesView[Entry]):
    _mapping: Entries

    def __iter__(self) -> Iterator[Entry]:
        return (entry for _, entry in self._mapping.pairs())


def canonical_members(entries: Mapping[str, Entry], what: str) -> Iterator[bytes]:
    """The entries one by one, as RFC 8785 writes and orders them.

    Raises:
        DataError: A size that canonical JSON cannot hold; the message names `what`.
    """
    for path, entry in _ordered(entries):
        size = canonical.dumps(entry.size, what)
        yield b'%b:{"sha256":"%b","size":%b}' % (canonical.dumps(path, what), entry.sha256.encode(), size)


def _ordered(entries: Mapping[str, Entry]) -> Iterable[tuple[str, Entry]]:
    """The entries by path, each path once; those that come so are not held."""
    if all(first < second for first, second in pairwise(map(_utf_16, entries))):
        return entries.items()
    return sorted(dict(entries.items()).items(), key=lambda item: _utf_16(item[0]))


def _utf_16(path: str) -> bytes:
    """What RFC 8785 sorts keys by."""
    return path.encode("utf-16be", "surrogatepass")
