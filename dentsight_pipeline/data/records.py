"""Records that lie on disk while an export is read, so that memory does not depend on how many there are.

A private database of SQLite's holds them (a temporary file that the system removes, small ones never leave memory).
They are JSON, in the one form in which they are stored: equal content has equal bytes. What a record means is known
where it is made; what is kept for good belongs in the store.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import chain, islice
from typing import Any, Generic, TypeVar, overload

_Record = TypeVar("_Record")

_LIST_CACHE_KIB = 256
_MAP_CACHE_KIB = 512
"""SQLite's cache of one table; a map is filled in no order, and touches a page for each record."""
_BLOCK_CHARACTERS = 1 << 16
_ROWS_AT_ONCE = 256


def to_text(value: Any) -> str:
    """Compact JSON with sorted keys, so that equal content has equal text."""
    return _encode(value)


def from_text(text: str) -> Any:
    """The value that `to_text` wrote, or any other JSON without white space around it."""
    return _decode(text)[0]


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_decode = json.JSONDecoder().raw_decode


def to_json(value: Any) -> bytes:
    """Compact UTF-8 JSON with sorted keys, so that equal content has equal bytes."""
    return to_text(value).encode()


def json_blocks(value: Any) -> Iterator[bytes]:
    """The bytes of `to_json`, in blocks; of `Records` and `RecordMap` in dictionaries and lists some at a time."""
    pending: list[str] = []
    length = 0
    for part in _parts(value):
        pending.append(part)
        length += len(part)
        if length >= _BLOCK_CHARACTERS:
            yield "".join(pending).encode()
            pending, length = [], 0
    yield "".join(pending).encode()


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, Records):
        yield from _joined("[", _in_batches(value.texts()), "]")
    elif isinstance(value, RecordMap):
        yield from _joined("{", _in_batches(f"{to_text(key)}:{text}" for key, text in value.texts()), "}")
    elif isinstance(value, Mapping):
        members = sorted(value.items())
        yield from _joined("{", (chain([to_text(key), ":"], _parts(member)) for key, member in members), "}")
    elif isinstance(value, (list, tuple)):
        yield from _joined("[", map(_parts, value), "]")
    else:
        yield to_text(value)


def _joined(start: str, members: Iterable[Iterable[str]], end: str) -> Iterator[str]:
    yield start
    for number, member in enumerate(members):
        if number:
            yield ","
        yield from member
    yield end


def _in_batches(members: Iterator[str]) -> Iterator[list[str]]:
    """Members of a list, many at once and divided by commas."""
    while several := list(islice(members, _ROWS_AT_ONCE)):
        yield [",".join(several)]


def _database(table: str, cache_kib: int = _LIST_CACHE_KIB) -> sqlite3.Connection:
    database = sqlite3.connect("", check_same_thread=False)  # "": private, on disk when large
    for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{cache_kib}"):
        database.execute(f"PRAGMA {setting}")
    database.execute(f"CREATE TABLE {table}")
    return database


class Records(Sequence[_Record], Generic[_Record]):
    """A list of records that only grows.

    Args:
        records: The first ones.
        key: What `of` finds a record by, e.g. the id of its image; whole numbers below 2^63 or text.
        encode: Record → text; `to_text` by default. Only that text can be written by `json_blocks`.
        decode: The inverse; `from_text` by default.
    """

    def __init__(
        self,
        records: Iterable[_Record] = (),
        *,
        key: Callable[[_Record], int | str] | None = None,
        encode: Callable[[_Record], str] = to_text,
        decode: Callable[[str], _Record] = from_text,
    ) -> None:
        self._key, self._encoded, self._decoded = key, encode, decode
        self._rows = _database("records (position INTEGER PRIMARY KEY, key, text TEXT)")
        self._waiting: list[tuple[int, int | str | None, str]] = []  # rows on their way to the database
        self._count = 0
        self._indexed = False
        for record in records:
            self.append(record)

    def append(self, record: _Record, text: str | None = None) -> None:
        """Adds a record at the end.

        Args:
            record: The record.
            text: What `encode` would give, where it is known.
        """
        key = None if self._key is None else self._key(record)
        self._waiting.append((self._count, key, self._encoded(record) if text is None else text))
        self._count += 1
        if len(self._waiting) == _ROWS_AT_ONCE:
            self._written()

    def _written(self) -> sqlite3.Connection:
        """The database with all rows."""
        self._rows.executemany("INSERT INTO records VALUES (?, ?, ?)", self._waiting)
        self._waiting.clear()
        return self._rows

    def texts(self) -> Iterator[str]:
        """The records as text, in order."""
        return (text for (text,) in self._written().execute("SELECT text FROM records ORDER BY position"))

    def of(self, key: int | str) -> list[_Record]:
        """The records with this key, in order."""
        if not self._indexed:
            self._rows.execute("CREATE INDEX by_key ON records (key)")
            self._indexed = True
        found = self._written().execute("SELECT text FROM records WHERE key = ? ORDER BY position", (key,))
        return [self._decoded(text) for (text,) in found]

    def by_key(self) -> Mapping[int | str, list[_Record]]:
        """A view: each key, in order, with its records."""
        return _ByKey(self)

    def keys(self) -> Iterator[int | str]:
        """The distinct keys, in order."""
        return (key for (key,) in self._written().execute("SELECT DISTINCT key FROM records ORDER BY key"))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_Record]:
        return map(self._decoded, self.texts())

    @overload
    def __getitem__(self, index: int) -> _Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[_Record]: ...
    def __getitem__(self, index: int | slice) -> _Record | list[_Record]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._count))]
        position = range(self._count)[index]
        (text,) = self._written().execute("SELECT text FROM records WHERE position = ?", (position,)).fetchone()
        return self._decoded(text)


class _ByKey(Mapping[int | str, list[_Record]], Generic[_Record]):
    def __init__(self, records: Records[_Record]) -> None:
        self._records = records

    def __getitem__(self, key: int | str) -> list[_Record]:
        found = self._records.of(key)
        if not found:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[int | str]:
        return self._records.keys()

    def __len__(self) -> int:
        return sum(1 for _ in self)


class RecordMap(MutableMapping[str, _Record], Generic[_Record]):
    """A dictionary from text to records, iterated in the order of its keys; safe with several threads.

    Args:
        encode: Record → text.
        decode: The inverse.
    """

    def __init__(
        self, encode: Callable[[_Record], str] = to_text, decode: Callable[[str], _Record] = from_text
    ) -> None:
        self._encoded, self._decoded = encode, decode
        self._rows = _database("records (key TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID", _MAP_CACHE_KIB)
        self._lock = threading.Lock()

    def texts(self) -> Iterator[tuple[str, str]]:
        """Keys and records as text, in the order of the keys."""
        return self._rows.execute("SELECT key, text FROM records ORDER BY key")

    def __getitem__(self, key: str) -> _Record:
        with self._lock:
            row = self._rows.execute("SELECT text FROM records WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return self._decoded(row[0])

    def __setitem__(self, key: str, record: _Record) -> None:
        with self._lock:
            self._rows.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (key, self._encoded(record)))

    def __delitem__(self, key: str) -> None:
        with self._lock:
            if not self._rows.execute("DELETE FROM records WHERE key = ?", (key,)).rowcount:
                raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.texts())

    def __len__(self) -> int:
        return self._rows.execute("SELECT count(*) FROM records").fetchone()[0]


class Names(Collection[str]):
    """The distinct file names among many, iterated in order; also such as are no text, which Linux allows.

    Args:
        names: Read once.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._rows = _database("names (name BLOB PRIMARY KEY) WITHOUT ROWID", _MAP_CACHE_KIB)
        self._rows.executemany("INSERT OR IGNORE INTO names VALUES (?)", ((_octets(name),) for name in names))

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        return self._rows.execute("SELECT 1 FROM names WHERE name = ?", (_octets(name),)).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        found = self._rows.execute("SELECT name FROM names ORDER BY name")
        return (name.decode("utf-8", "surrogateescape") for (name,) in found)

    def __len__(self) -> int:
        return self._rows.execute("SELECT count(*) FROM names").fetchone()[0]


def _octets(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


class IdSet:
    """Whole numbers below 2^63 that were seen. Those that count up by one, as ids mostly do, take no room."""

    def __init__(self) -> None:
        self._run = range(0)
        self._others = _database("ids (id INTEGER PRIMARY KEY)")
        self._has_others = False

    def __contains__(self, number: int) -> bool:
        if number in self._run:
            return True
        found = self._has_others and self._others.execute("SELECT 1 FROM ids WHERE id = ?", (number,)).fetchone()
        return bool(found)

    def add(self, number: int) -> bool:
        """Remembers a number, and says whether it is new."""
        if number in self:
            return False
        if not self._run:
            self._run = range(number, number + 1)
        elif number == self._run.stop:
            self._run = range(self._run.start, number + 1)
        else:
            self._others.execute("INSERT INTO ids VALUES (?)", (number,))
            self._has_others = True
        return True
