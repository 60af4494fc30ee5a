"""Reading JSON piece by piece: the values, the errors and their places are those of `json.loads`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dentsight_pipeline.data.json_stream import JsonStream

DOCUMENT: dict[str, Any] = {
    "information": {"nested": [1, [2.5e-7, {}], None], "text": 'a "quoted" ünïcode \\ line\n'},
    "numbers": [0, -12, 1.25, 1e300, float("nan"), True],
    "empty": [],
    "records": [{"id": number, "bbox": [number / 3, 2, 3, 4]} for number in range(50)],
}


def _read(data: bytes, block: int) -> dict[str, Any]:
    """The document, its arrays read element by element."""
    stream = JsonStream(data[start : start + block] for start in range(0, len(data), block))
    found: dict[str, Any] = {}
    for key in stream.members():
        found[key] = [value for value, _ in stream.items()] if stream.peek() == "[" else stream.value()
    stream.end()
    return found


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_is_the_same_wherever_its_blocks_end(block: int, indent: int | None) -> None:
    """A block may end inside a number, a letter of two bytes or an escape; `1e300` must not become 1."""
    data = b"\xef\xbb\xbf" + json.dumps(DOCUMENT, indent=indent, ensure_ascii=False).encode()

    assert repr(_read(data, block)) == repr(DOCUMENT)


def test_an_element_comes_with_its_own_text() -> None:
    """What is kept as it was written need not be written again."""
    stream = JsonStream([b'[ {"a" : 1.50} , 7,\n"x" ]'])

    assert [text for _, text in stream.items()] == ['{"a" : 1.50}', "7", '"x"']


def test_arrays_inside_arrays_can_be_walked() -> None:
    """A raw export keeps its boxes three levels down."""
    stream = JsonStream([b'{"splits": [{"boxes": [1, 2]}, {"boxes": []}, {"boxes": [3]}]}'])

    found = [
        [value for value, _ in stream.items()]
        for _ in stream.members()
        for _ in stream.elements()
        for _ in stream.members()
    ]

    assert found == [[1, 2], [], [3]]


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a"',
        '{"a": ',
        '{"a" 1}',
        '{"a": 1',
        '{"a": 1 "b": 2}',
        '{"a": [1, 2',
        '{"a": [1 2]}',
        '{"a": [1,\n  {"b": tru}]}',
        '{"a": "cut',
        '{"a": 1}\n x',
    ],
)
def test_what_is_no_whole_json_is_refused_at_the_place_that_json_names(text: str, block: int) -> None:
    """Line and column are all that a user has to find a fault in a file of a hundred megabytes."""
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)

    with pytest.raises(json.JSONDecodeError) as found:
        _read(text.encode(), block)

    assert (found.value.lineno, found.value.colno) == (expected.value.lineno, expected.value.colno)


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_a_byte_that_is_no_utf_8_is_named_by_its_offset(block: int) -> None:
    """The offset is that of the file, not of the block."""
    data = b'{"a": ["\xc3\xbc", "\xff"]}'

    with pytest.raises(UnicodeDecodeError) as found:
        _read(data, block)

    assert found.value.start == data.index(b"\xff")
