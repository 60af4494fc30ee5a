"""The structure holds: functions are short, documents typed. The direction of imports is held by `make lint`."""

from __future__ import annotations

import ast
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import dentsight_pipeline

PACKAGE = Path(dentsight_pipeline.__file__).parent
MEDIAN_LINES, P90_LINES = 5, 19
UNTYPED = re.compile(r"\b(?:dict|Mapping|MutableMapping)\[str, (?:Any|object)\]")
FEW_UNTYPED = 80


def modules() -> Iterator[tuple[str, str]]:
    """Every module of the package: path and text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first to the last statement, the docstring aside."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def lengths_by_room() -> dict[str, list[int]]:
    """Room → the lengths of its functions, ascending."""
    rooms: dict[str, list[int]] = defaultdict(list)
    for path, text in modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                rooms[path.split("/")[0]].append(body_lines(node))
    return {room: sorted(lengths) for room, lengths in rooms.items() if "." not in room}


@pytest.mark.parametrize("room", sorted(lengths_by_room()))
def test_functions_of_a_room_are_short(room: str) -> None:
    """A long function hides several ideas; what a room needs is found faster in five lines with a name."""
    lengths = lengths_by_room()[room]
    median, p90 = statistics.median(lengths), lengths[int(len(lengths) * 0.9)]

    assert (median <= MEDIAN_LINES, p90 <= P90_LINES) == (True, True), f"{room}: median {median}, 90th percentile {p90}"


def test_few_signatures_are_untyped() -> None:
    """Beyond the border where others' JSON arrives, a product's content has a type; `dict[str, Any]` has no fields."""
    found = {path: len(UNTYPED.findall(text)) for path, text in modules()}

    assert sum(found.values()) < FEW_UNTYPED, {path: count for path, count in found.items() if count}


def test_facts_are_read_by_type() -> None:
    """A misspelt key of `.facts["…"]` is found by a user; a misspelt field by the type checker."""
    found = [path for path, text in modules() if re.search(r"\.facts\[|\.facts\.get\(", text)]

    assert found == []
