"""Reads a JSON document of any length piece by piece: the walk is the caller's, the values are `json`'s own.

`ijson` does the same, but refuses the `NaN` that `json` and annotation tools write, which here has to be refused by its
record; and one decoder for all gives one wording of errors. What the documents mean belongs to who reads them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

_WHITESPACE = " \t\n\r"
_NUMBER_TAIL = 3
"""Characters behind a number that may still belong to it: of `1e+5`, a window that ends early shows `1` and `e+`."""


class JsonStream:
    """A place in a JSON document, which moves forward with every call.

    Args:
        blocks: The document's bytes, UTF-8 with or without a byte order mark.

    Every method raises `json.JSONDecodeError` with the line and column of the document, `UnicodeDecodeError` with the
    offset of the byte, or `RecursionError` when values are nested too deep.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._finished = "", 0, False
        self._bytes = self._lines = self._columns = 0  # what was let go before the window

    def peek(self) -> str:
        """The next character that is no white space, which is not passed; empty at the end of the document."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _WHITESPACE:
                    return self._text[self._at]
                self._at += 1
            if self._finished:
                return ""
            self._grow()

    def value(self) -> Any:
        """The whole value that begins here."""
        return self._value()[0]

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here; read the value of each before asking for the next."""
        self._pass("{", "Expecting value")
        if self._ends("}"):
            return
        while True:
            if self.peek() != '"':
                raise self._error("Expecting property name enclosed in double quotes")
            key = self.value()
            self._pass(":", "Expecting ':' delimiter")
            yield key
            if self._ends("}"):
                return
            self._pass(",", "Expecting ',' delimiter")

    def elements(self) -> Iterator[None]:
        """Stops before each element of the array that begins here; read it before asking for the next."""
        self._pass("[", "Expecting value")
        if self._ends("]"):
            return
        while True:
            yield
            if self._ends("]"):
                return
            self._pass(",", "Expecting ',' delimiter")

    def items(self) -> Iterator[tuple[Any, str]]:
        """The elements of the array that begins here, each as a value and as it was written."""
        for _ in self.elements():
            yield self._value()

    def end(self) -> None:
        """Refuses anything behind the document's value."""
        if self.peek():
            raise self._error("Extra data")

    def _value(self) -> tuple[Any, str]:
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._finished:
                    raise self._error(error.msg, error.pos) from None
            else:
                if self._finished or end + _NUMBER_TAIL <= len(self._text):
                    start, self._at = self._at, end
                    return value, self._text[start:end]
            self._grow()  # the value may be longer than the window

    def _ends(self, mark: str) -> bool:
        """Passes the mark if it is next."""
        found = self.peek() == mark
        self._at += found
        return found

    def _pass(self, mark: str, otherwise: str) -> None:
        if not self._ends(mark):
            raise self._error(otherwise)

    def _grow(self) -> None:
        """Lets go of what was passed, and at least doubles what lies ahead."""
        passed, ahead = self._text[: self._at], self._text[self._at :]
        self._lines += passed.count("\n")
        self._columns = len(passed) - passed.rfind("\n") - 1 + ("\n" not in passed) * self._columns
        parts, wanted = [ahead], max(len(ahead), 1)
        for block in self._blocks:
            parts.append(self._decoded(block))
            wanted -= len(parts[-1])
            if wanted <= 0:
                break
        else:
            parts.append(self._decoded(b"", final=True))
            self._finished = True
        self._text, self._at = "".join(parts), 0

    def _decoded(self, block: bytes, *, final: bool = False) -> str:
        held = len(self._utf8.getstate()[0])
        try:
            text = self._utf8.decode(block, final)
        except UnicodeDecodeError as error:
            error.start += self._bytes - held
            raise
        self._bytes += len(block)
        return text

    def _error(self, problem: str, at: int | None = None) -> json.JSONDecodeError:
        error = json.JSONDecodeError(problem, self._text, self._at if at is None else at)
        error.colno += self._columns if error.lineno == 1 else 0
        error.lineno += self._lines
        return error
