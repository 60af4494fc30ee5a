"""The search for identifiers finds them wherever text can stand: a proof that finds nothing anywhere proves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from dentsight_pipeline.data.identifiers import IdentifierFinding, find_identifiers
from dentsight_pipeline.documents.annotations import write_table
from dentsight_pipeline.documents.facts import ExportSetFacts
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.store.content import build
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import exif, jpeg, picture

UID, SEEN = "1.2.840.113619.2.55.3.604688119.971", "20240305_101112"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("store"))


def holding(store: Store, files: dict[str, Path | bytes]) -> Manifest:
    """A manifest with these files."""
    return build(store, Kind.EXPORT_SET, files, {}, ExportSetFacts(exports=1))


def test_texts_of_json_are_read_as_keys_as_values_and_in_escapes(store: Store) -> None:
    """Each distinct text counts once; a file of another kind is no text."""
    document = {UID: [f"seen {SEEN}", 7, {"again": UID, "quoted": f'"{SEEN}" said \\ {UID}'}]}
    text = json.dumps(document).replace("seen", "s\\u0065en")

    found = find_identifiers(store, holding(store, {"a.json": text.encode(), "b.txt": UID.encode()}), stems=["seen"])

    assert found == [
        IdentifierFinding("a.json", "date and time", 2),
        IdentifierFinding("a.json", "original stem", 1),
        IdentifierFinding("a.json", "uid", 2),
    ]


def test_texts_of_tables_are_read_at_whatever_depth(store: Store) -> None:
    """Plain columns, dictionaries, lists of lists; numbers and gaps are no text."""
    table = pa.table(
        {
            "plain": pa.array(["x", None, "x"]),
            "coded": pa.array([f"a {UID}", "b", f"a {UID}"]).dictionary_encode(),
            "listed": pa.array([[["x"], [SEEN]], [], [[f"{SEEN} "]]]),
            "fixed": pa.array([["a", UID], ["b", "c"], ["b", "c"]], pa.list_(pa.string(), 2)),
            "numbers": pa.array([20240305101112, 1, 2]),
        }
    )

    found = find_identifiers(store, holding(store, {"train/t.arrow": write_table(table)}))

    assert found == [
        IdentifierFinding("train/t.arrow", "date and time", 2),
        IdentifierFinding("train/t.arrow", "uid", 2),
    ]


def test_names_of_files_are_texts_too_and_images_are_looked_into(store: Store) -> None:
    """What was proven before is not read again; progress comes to its end."""
    marked = {f"images/{name}": jpeg(picture(1), exif=exif(1), comment=name.encode()) for name in ("a.jpg", "b.jpg")}
    files: dict[str, Path | bytes] = {**marked, f"images/{UID}.png": jpeg(picture(2))}
    made, told = holding(store, files), list[tuple[str, int, int]]()

    found = find_identifiers(
        store, made, proven={made.entries["images/b.jpg"].sha256}, progress=lambda *at: told.append(at)
    )

    assert found == [
        IdentifierFinding("facts", "uid", 1),
        IdentifierFinding("images/a.jpg", "image metadata", 2),
    ]
    assert told == [("looking for identifiers", 2, 2)]
