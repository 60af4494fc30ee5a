"""JSON written in blocks from tables: the bytes of JSON written at once."""

from __future__ import annotations

import json
import random
from typing import Any

import pyarrow as pa
import pytest

from dentsight_pipeline.data import json_blocks as module
from dentsight_pipeline.data.json_blocks import json_blocks
from dentsight_pipeline.documents.codec import write

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("text", pa.dictionary(pa.int32(), pa.string())),
        pa.field("bbox", pa.list_(pa.float64(), 4)),
        pa.field("polygons", pa.list_(pa.list_(pa.float64()))),
        pa.field("again", pa.int64()),
        pa.field("share", pa.float64()),
    ]
)


def _rows(numbers: list[float]) -> list[dict[str, Any]]:
    return [
        {
            "id": row,
            "text": 'ü "quoted" \x1f'[: row % 14],
            "bbox": [number, -number, number / 3, 0.0],
            "polygons": [[number, 2.0], []][: row % 3],
            **({"again": row, "share": number / 2} if row % 2 else {}),
        }
        for row, number in enumerate(numbers)
    ]


@pytest.mark.parametrize("at_once", [1, 7, 4096])
def test_a_table_is_written_as_the_list_of_its_rows(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset's digest must not depend on how its files were written; a null is left out of its row."""
    monkeypatch.setattr(module, "ROWS_AT_ONCE", at_once)
    rows = _rows([row / 7 for row in range(60)])
    table = pa.Table.from_pylist(rows, SCHEMA)
    plain = {"records": rows, "list": [{"z": 1, "rows": rows[10:20]}, []], "empty": {}, "b": 1.5, "a": "ü"}
    tables = plain | {"records": table, "list": [{"z": 1, "rows": table.slice(10, 10)}, SCHEMA.empty_table()]}

    assert (
        b"".join(json_blocks(tables))
        == json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    )


@pytest.mark.parametrize(
    "numbers",
    [
        [1e-5, 2.0],
        [1e16, 1e22, 123456789012345678.0],
        [9.999e-5, 1e-4, 9999999999999998.0],
        [-0.0],
        [random.Random(0).uniform(0, 2000) for _ in range(500)],
        [10.0 ** random.Random(1).uniform(-300, 300) for _ in range(50)],
    ],
)
def test_every_number_is_written_as_json_writes_it(numbers: list[float]) -> None:
    """Two writers share the work; of 0.00001 one says 1e-05 and the other 1e-5."""
    rows = _rows(numbers)

    assert b"".join(json_blocks(pa.Table.from_pylist(rows, SCHEMA))) == write(rows)


def test_what_is_no_number_is_refused() -> None:
    """NaN is no JSON: a file that holds it could be read by nobody else."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        list(json_blocks(pa.Table.from_pylist(_rows([float("nan")]), SCHEMA)))
