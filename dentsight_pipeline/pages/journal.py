"""A file to which lines are only ever added, each naming the one before: what people say must survive any crash.

An entry is on disk before the page shows the next thing. A line that a crash cut short is dropped when the file is
opened again; a line that was changed is found, because the next one holds its digest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from types import UnionType
from typing import Generic, TypeVar

import msgspec

from dentsight_pipeline.documents.codec import plain, read, write
from dentsight_pipeline.errors import ConfigurationError, DataError

Entry = TypeVar("Entry")
_START = "0" * 64


class Journal(Generic[Entry]):
    """One such file, open for adding by this process alone; give it back with `close`."""

    def __init__(self, path: Path, kind: type[Entry] | UnionType) -> None:
        """Opens the file and reads what it holds.

        Raises:
            ConfigurationError: Another process has it open.
            DataError: A line was changed, or is of another form.
        """
        self.path, self._kind = path, kind
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigurationError(f"{path} is in use by another server. Stop that one first.") from error
        try:
            self.entries, self._head = self._recover()
        except DataError:
            self.close()
            raise

    def append(self, entry: Entry) -> None:
        """Adds an entry; it is on disk when this returns."""
        line = _line(self._head, entry)
        self._file.write(line + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._head = hashlib.sha256(line).hexdigest()
        self.entries.append(entry)

    def close(self) -> None:
        """Lets others open the file."""
        self._file.close()

    def _recover(self) -> tuple[list[Entry], str]:
        """What the file holds, without the rest of a line that a crash cut short."""
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)
        return read_lines(data[:whole], self._kind, self.path)


def read_journal(path: Path, kind: type[Entry] | UnionType) -> list[Entry]:
    """The entries of a journal, for reading alone; raises DataError as `Journal` does."""
    data = path.read_bytes()
    return read_lines(data[: data.rfind(b"\n") + 1], kind, path)[0]


def read_lines(data: bytes, kind: type[Entry] | UnionType, path: Path) -> tuple[list[Entry], str]:
    """Entries and the digest of the last line.

    Raises:
        DataError: A line does not name the one before, or is of another form.
    """
    entries, head = [], _START
    for number, line in enumerate(data.splitlines(), start=1):
        told = read(line, _Line[kind], f"{path}, line {number}")
        if told.previous != head:
            raise DataError(
                f"{path}, line {number - 1} was changed after it was written: line {number} names another digest. "
                "Bring back the file as it was; nothing was added to it."
            )
        entries.append(told.entry)
        head = hashlib.sha256(line).hexdigest()
    return entries, head


class _Line(msgspec.Struct, Generic[Entry], frozen=True, forbid_unknown_fields=True):
    """One line: digest of the line before, and an entry."""

    previous: str
    entry: Entry


def _line(head: str, entry: object) -> bytes:
    return write({"previous": head, "entry": plain(entry)})
