"""Work on many items: in order, not too far ahead, and not beyond an error."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from dentsight_pipeline.store.threads import map_in_threads


def test_results_come_in_the_order_of_the_items() -> None:
    """Results are paired with their items by position."""

    def later_items_are_faster(number: int) -> int:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number

    assert list(map_in_threads(later_items_are_faster, range(100), 4)) == list(range(100))


def test_items_are_read_only_a_little_ahead() -> None:
    """A hundred thousand futures at once are a hundred megabytes."""
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    results = map_in_threads(lambda number: number, items(), 2)
    next(results)

    assert len(read) < 50
    results.close()


def test_after_an_error_nothing_new_is_begun() -> None:
    """A full disk must not be tried ten thousand times."""
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 5:
            raise ValueError("five")

    with pytest.raises(ValueError, match="five"):
        list(map_in_threads(work, range(1000), 2))

    assert len(begun) < 100
