"""Canonical JSON: compact, keys in order, so that equal content has equal bytes. Long tables are written in blocks.

A table is the list of its rows; what is null in a row is left out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.codec import Document

Content = pa.Table | Document | Mapping[str, "Content"] | Sequence["Content"] | str | int | float | None
"""What JSON is written from."""
ROWS_AT_ONCE = 1024
"""Rows that are Python objects at a time: so few that most are gone before the garbage collector grows them old."""
_LEAST, _MOST = 1e-4, 1e16
"""Numbers from the one up to the other are written the same by `json` and by msgspec, which is ten times as fast."""


def json_blocks(value: Any) -> Iterator[bytes]:
    """The bytes of JSON content whose dictionaries and lists may hold tables, piece by piece."""
    if isinstance(value, pa.Table):
        batches = value.to_batches(ROWS_AT_ONCE)
        yield from _joined(b"[", ([_rows(batch)] for batch in batches if len(batch)), b"]")
    elif isinstance(value, Mapping) and _holds_tables(value.values()):
        members = (chain([codec.write(key), b":"], json_blocks(value[key])) for key in sorted(value))
        yield from _joined(b"{", members, b"}")
    elif isinstance(value, list | tuple) and _holds_tables(value):
        yield from _joined(b"[", map(json_blocks, value), b"]")
    else:
        yield codec.write(value)


def _holds_tables(values: Iterable[object]) -> bool:
    """Whether one is a table, or may hold one a level below."""
    return any(
        isinstance(value, pa.Table)
        or (isinstance(value, Mapping) and _holds_tables(value.values()))
        or (isinstance(value, list | tuple) and _holds_tables(value))
        for value in values
    )


def _joined(start: bytes, members: Iterable[Iterable[bytes]], end: bytes) -> Iterator[bytes]:
    yield start
    for number, member in enumerate(members):
        if number:
            yield b","
        yield from member
    yield end


def _rows(batch: pa.RecordBatch) -> bytes:
    """The rows of some of a table, divided by commas."""
    names = sorted(batch.schema.names)
    columns = [_values(batch.column(name)) for name in names]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if any(column.null_count for column in batch.columns):
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    exact = all(map(_is_written_alike, batch.columns))
    return (msgspec.json.encode(rows) if exact else codec.write(rows))[1:-1]


def _values(column: pa.Array) -> list[Any]:
    """A column as Python's values; `to_pylist`, which makes an object of Arrow's for each, is the slow way."""
    if column.null_count or pa.types.is_list(column.type):
        return column.to_pylist()
    if pa.types.is_dictionary(column.type):
        return np.asarray(column.dictionary.to_pylist(), dtype=object)[column.indices.to_numpy()].tolist()
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(-1, column.type.list_size).tolist()
    return column.to_pylist()


def _is_written_alike(column: pa.Array) -> bool:
    """Whether `json` and msgspec write the numbers of a column with the same characters."""
    while isinstance(column, pa.ListArray | pa.FixedSizeListArray):
        column = column.flatten()
    if not pa.types.is_floating(column.type):
        return True
    size = np.abs(column.to_numpy(zero_copy_only=False))
    return bool(((size == 0) | ((size >= _LEAST) & (size < _MOST))).all())
