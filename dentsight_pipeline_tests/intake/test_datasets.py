"""What a dataset key means, and that nobody changes it by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.datasets import (
    RegisteredDataset,
    RegisteredExport,
    phantom_of,
    recall_dataset,
    register_dataset,
)
from dentsight_pipeline.store.objects import Store, open_store

FIRST, SECOND = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def _register(store: Store, raw_export: str, location: str = "/exports/v8", replace: str = "") -> RegisteredDataset:
    export = RegisteredExport(raw_export=raw_export, location=location, source="canonical")
    return register_dataset(store, "opg-v8", raw_export, [export], drop=("x",), replace=replace)


def test_a_key_is_recalled_as_it_was_registered(store: Store) -> None:
    """Later runs name the key alone."""
    assert recall_dataset(store, "opg-v8") is None

    made = _register(store, FIRST)

    assert recall_dataset(store, "opg-v8") == made
    assert store.read_ref("dataset/opg-v8") == {
        "raw_export": FIRST,
        "exports": [{"raw_export": FIRST, "location": "/exports/v8", "source": "canonical"}],
        "drop": ["x"],
        "accept": [],
        "history": [],
    }


def test_a_key_from_before_there_were_several_exports_keeps_its_meaning(store: Store) -> None:
    """Stores outlive versions: place and mapping were the dataset's own then."""
    made = _register(store, FIRST)
    old = {"raw_export": FIRST, "location": "/exports/v8", "source": "canonical", "drop": ["x"], "history": []}

    store.write_ref("dataset/opg-v8", old)

    assert recall_dataset(store, "opg-v8") == made


def test_other_bytes_under_a_key_are_refused(store: Store) -> None:
    """Two runs of one key would otherwise be about different patients; both digests are named."""
    _register(store, FIRST)

    with pytest.raises(DataError, match=r"'opg-v8' already means the export a{12} \(read from /exports/v8\); /new h"):
        _register(store, SECOND, "/new")

    known = recall_dataset(store, "opg-v8")
    assert known is not None and (known.raw_export, known.location, known.drop) == (FIRST, "/exports/v8", ("x",))


def test_a_replacement_says_why_and_keeps_what_the_key_meant(store: Store) -> None:
    """A figure of last month must be explained by what the key meant then."""
    _register(store, FIRST)

    _register(store, SECOND, "/new", replace="v8 was exported anew")

    third = _register(store, FIRST, "/old", replace="a mistake")
    assert third.raw_export == FIRST
    assert [plain(earlier) for earlier in third.history] == [
        {"raw_export": FIRST, "location": "/exports/v8", "replaced_because": "v8 was exported anew"},
        {"raw_export": SECOND, "location": "/new", "replaced_because": "a mistake"},
    ]
    assert recall_dataset(store, "opg-v8") == third


def test_the_same_bytes_from_another_place_are_no_replacement(store: Store) -> None:
    """A folder that was moved is the same dataset; a reason given in vain leaves no trace."""
    _register(store, FIRST)

    moved = _register(store, FIRST, "/moved", replace="not needed")

    assert (moved.location, moved.history) == ("/moved", ())


@pytest.mark.parametrize("location", ["phantom:0:7", "phantom:400", "phantom:many:7", "other:400:7", "phantom:4:7:1"])
def test_a_phantom_of_another_form_is_refused_with_an_example(location: str) -> None:
    """The numbers are the corpus: none of them is guessed."""
    assert phantom_of("phantom:400:7") == (400, 7)

    with pytest.raises(DataError, match=r"names no phantom corpus\. Write it as phantom:IMAGES:SEED, e\.g\. ph"):
        phantom_of(location)
