"""Records on disk: the same as lists and dictionaries, without their memory."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dentsight_pipeline.data.records import IdSet, Names, RecordMap, Records, json_blocks, to_json

RECORDS: list[dict[str, Any]] = [
    {"image": number % 7, "text": f"ü {number}", "box": [number / 3]} for number in range(600)
]


def test_records_read_like_the_list_that_they_were_made_from() -> None:
    """Also while some of them are still on their way to the disk."""
    records = Records(RECORDS)

    assert len(records) == 600
    assert list(records) == RECORDS
    assert records == RECORDS
    assert records != RECORDS[:-1]
    assert (records[0], records[-1], records[598:]) == (RECORDS[0], RECORDS[599], RECORDS[598:])
    with pytest.raises(IndexError):
        records[600]


def test_records_are_found_by_their_key_in_the_order_of_the_list() -> None:
    """Boxes of one image may stand anywhere in its file; also those that are added after the first question."""
    records = Records(RECORDS, key=lambda record: record["image"])
    assert records.of(3) == [record for record in RECORDS if record["image"] == 3]

    records.append({"image": 3, "text": "late", "box": []})

    assert records.of(3)[-1]["text"] == "late"
    assert records.of(99) == []
    assert dict(records.by_key()) == {image: records.of(image) for image in range(7)}
    assert 99 not in records.by_key()


def test_a_record_map_is_a_dictionary_in_the_order_of_its_keys() -> None:
    """The order goes into a dataset's bytes."""
    records: RecordMap[int] = RecordMap()
    records.update({"b": 1, "a": 2, "c": 3})
    records["b"] = 4
    del records["c"]

    assert list(records.items()) == [("a", 2), ("b", 4)]
    assert len(records) == 2
    with pytest.raises(KeyError):
        records["c"]
    with pytest.raises(KeyError):
        del records["c"]


def test_json_written_in_blocks_has_the_bytes_of_json_written_at_once() -> None:
    """A dataset's digest must not depend on how its files were written."""
    records: RecordMap[Any] = RecordMap()
    records["z"], records["a"] = {"y": 1, "x": None}, "ü"
    plain = {"records": RECORDS, "map": dict(records), "list": [RECORDS, []], "empty": {}, "b": 1.5, "a": "ü"}
    on_disk = plain | {"records": Records(RECORDS), "map": records, "list": [Records(RECORDS), Records()]}

    assert b"".join(json_blocks(on_disk)) == to_json(plain)


@pytest.mark.parametrize("numbers", [range(5, 400), random.Random(0).choices(range(-50, 50), k=500), [3, 5, 4, 5, 3]])
def test_an_id_is_new_once(numbers: list[int]) -> None:
    """Whatever their order: a run that grows must not forget what came out of turn."""
    ids, seen = IdSet(), set()

    for number in numbers:
        assert (number in ids) == (number in seen)
        assert ids.add(number) == (number not in seen)
        seen.add(number)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.just("\udcff"))))
def test_names_are_a_set_in_order(names: list[str]) -> None:
    """Also those that are no text, as Linux allows for files: Python reads their bytes as lone surrogates."""
    found = Names(iter(names))

    assert list(found) == sorted(set(names), key=lambda name: name.encode("utf-8", "surrogateescape"))
    assert len(found) == len(set(names))
    assert all(name in found for name in names)
    assert "another" not in Names(["other"])
