"""A manifest's digest is a product's identity: the same thing always has it, another thing never."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dentsight_pipeline.documents.facts import (
    CheckpointFacts,
    Corpus,
    DatasetFacts,
    LabelSource,
    PredictionsFacts,
    Privacy,
    RawExportFacts,
    Source,
    SubsetFacts,
)
from dentsight_pipeline.documents.names import CorpusKind, Kind
from dentsight_pipeline.errors import DataError, DocumentError, IntegrityError, StorageError
from dentsight_pipeline.store import content, objects
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.names import object_key
from dentsight_pipeline_tests.documents.facts_for_tests import predictions_facts, subset_facts

from .conftest import DiskPlace, Place

EMPTY = Entry(sha256(b"").hexdigest(), 0)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | st.just(1e17) | st.just(-0.0)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aé😀\n\"", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def test_the_digest_of_a_manifest_never_changes_between_releases() -> None:
    """Releases name digests for years: a change of this value orphans every dataset that exists."""
    example = Manifest("raw-export", {"a/b.json": EMPTY}, {"export": "0" * 64}, {"n": 1.0, "é": [True, None, 1e21]})

    assert example.to_bytes().decode() == (
        '{"entries":{"a/b.json":{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}},'
        '"facts":{"n":1,"é":[true,null,1e+21]},"inputs":{"export":"' + "0" * 64 + '"},'
        '"kind":"raw-export","schema":"dentsight-manifest/1"}'
    )
    assert example.digest == sha256(example.to_bytes()).hexdigest()


@settings(deadline=None)  # a busy machine is no defect of the code
@given(facts=st.dictionaries(st.text("abc", max_size=3), JSON_VALUES, max_size=4))
def test_a_manifest_equals_itself_after_a_round_trip(facts: dict[str, Any]) -> None:
    """Otherwise a digest computed before storing would differ from the one computed after reading."""
    made = Manifest("raw-export", {"x": EMPTY}, {}, facts)

    back = Manifest.from_bytes(made.to_bytes())

    assert (back, back.digest, back.facts, back.entries) == (made, made.digest, made.facts, made.entries)


def test_the_order_of_the_files_does_not_matter() -> None:
    """A directory listing has no order, so a digest must not depend on one."""
    one = Manifest("k", {"a": EMPTY, "b": EMPTY}, {"x": "0" * 64, "y": "1" * 64}, {"p": 1, "q": 2})
    two = Manifest("k", {"b": EMPTY, "a": EMPTY}, {"y": "1" * 64, "x": "0" * 64}, {"q": 2, "p": 1})

    assert one.digest == two.digest
    assert list(two.entries) == ["a", "b"]


@pytest.mark.parametrize(
    "other",
    [
        Manifest("other", {"a": EMPTY}, {}, {"n": 1}),
        Manifest("k", {"b": EMPTY}, {}, {"n": 1}),
        Manifest("k", {"a": Entry("0" * 64, 0)}, {}, {"n": 1}),
        Manifest("k", {"a": Entry(EMPTY.sha256, 1)}, {}, {"n": 1}),
        Manifest("k", {"a": EMPTY}, {"x": "0" * 64}, {"n": 1}),
        Manifest("k", {"a": EMPTY}, {}, {"n": 2}),
    ],
)
def test_any_difference_changes_the_digest(other: Manifest) -> None:
    """Kind, paths, bytes, sizes, inputs and facts are all part of the identity."""
    assert other.digest != Manifest("k", {"a": EMPTY}, {}, {"n": 1}).digest


def test_facts_changed_afterwards_do_not_change_the_manifest() -> None:
    """The caller's dictionary lives on; the identity must not follow it."""
    facts: dict[str, Any] = {"list": [1]}
    made = Manifest("k", {}, {}, facts)
    before = made.digest

    facts["list"].append(2)

    assert (made.digest, made.facts) == (before, {"list": [1]})


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a/..", ".", "./a", "a//b", "a/", "..\\x", "C:x", "a\0b", "a\nb",
     "x" * 256, "/".join(["d" * 200] * 6), "\ud800"],
)  # fmt: skip
def test_a_path_that_could_leave_its_folder_is_refused(store: objects.Store, path: str) -> None:
    """File names come from strangers' exports; nothing is stored when one of them is hostile."""
    with pytest.raises(DataError, match="cannot be a file of a manifest"):
        Manifest("raw-export", {path: EMPTY})
    with pytest.raises(DataError, match="cannot be a file of a manifest"):
        content.build(store, "raw-export", {"fine": b"x", path: b"y"}, {}, {})
    assert list(store.object_digests()) == []


def test_a_path_that_is_file_and_folder_is_refused() -> None:
    """No folder can hold both `a` and `a/b`."""
    with pytest.raises(DataError, match="'a' is both a file and the folder of 'a/b/c'"):
        Manifest("raw-export", {"a": EMPTY, "a/b/c": EMPTY})


def test_bad_facts_are_refused_before_anything_is_stored(store: objects.Store) -> None:
    """An hour of hashing must not end in an error that could have been known at once."""
    with pytest.raises(DataError, match="facts of a raw-export manifest cannot be written as canonical JSON"):
        content.build(store, "raw-export", {"a": b"x"}, {}, {"map": float("nan")})
    with pytest.raises(DataError, match="Input 'splits' of a raw-export manifest must be 64"):
        content.build(store, "raw-export", {"a": b"x"}, {"splits": "latest"}, {})
    with pytest.raises(DataError, match="lower-case words joined by hyphens"):
        content.build(store, "../raw", {"a": b"x"}, {}, {})
    assert list(store.object_digests()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Not a manifest"),
        (b"[]", "Not a manifest of schema"),
        (b'{"schema":"dentsight-manifest/2"}', "Not a manifest of schema 'dentsight-manifest/1'"),
        (b'{"schema":"dentsight-manifest/1"}', "Not a manifest"),
        (b'{"entries":{"a":{"digest":"x"}},"schema":"dentsight-manifest/2"}', "Use the release that wrote it"),
        (b'{"schema":"dentsight-manifest/1","kind":"k","entries":[],"inputs":{},"facts":{}}', "Not a manifest"),
        (b'{"entries":{},"facts":{},"inputs":{},"kind":"k", "schema":"dentsight-manifest/1"}', "not in canonical"),
        (b'{"entries":{},"extra":1,"facts":{},"inputs":{},"kind":"k","schema":"dentsight-manifest/1"}', "canonical"),
        (b'{"entries":{},"facts":{},"facts":{},"inputs":{},"kind":"k","schema":"dentsight-manifest/1"}', "canonical"),
        (b'{"entries":{"../x":{"sha256":"' + b"0" * 64 + b'","size":0}},"facts":{},"inputs":{},"kind":"k",'
         b'"schema":"dentsight-manifest/1"}', "cannot be a file of a manifest"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_manifest_are_refused(data: bytes, message: str) -> None:
    """Also a manifest that says the same in other words: two digests for one thing would be two identities."""
    with pytest.raises(DataError, match=message):
        Manifest.from_bytes(data)


def test_files_bytes_and_stored_entries_go_into_one_manifest(store: objects.Store, tmp_path: Path) -> None:
    """A subset keeps the images of its input by their entries: nothing is read or stored again."""
    (tmp_path / "image.jpg").write_bytes(b"pixels")
    kept = Entry(store.put_bytes(b"kept"), 4)

    made = content.build(
        store, "condition-subset", {"a.json": b'{"x": 1}', "images/i.jpg": tmp_path / "image.jpg", "k": kept}, {}, {}
    )

    assert content.read_json(store, made, "a.json") == {"x": 1}
    assert content.read_bytes(store, made, "images/i.jpg") == b"pixels"
    assert (made.entry("k"), made.size) == (kept, 8 + 6 + 4)


def test_a_file_that_is_not_in_the_manifest_is_named(store: objects.Store) -> None:
    """The message lists what there is, because the split is often called otherwise (`val`, `valid`)."""
    made = content.build(store, "k", {"train.json": b"{}", "not.json": b"{"}, {}, {})

    with pytest.raises(DataError, match=r"has no file 'val\.json'; it has not.json, train.json"):
        content.read_json(store, made, "val.json")
    with pytest.raises(DataError, match=r"'not.json' of k .* is not JSON"):
        content.read_json(store, made, "not.json")


def test_a_version_with_ten_new_images_stores_ten_new_objects(place: Place, tmp_path: Path) -> None:
    """The price of a new dataset version is its news: 10 of 2,000 on disk, and in proportion on S3."""
    count = 2000 if isinstance(place, DiskPlace) else 200
    files: dict[str, Path | bytes | Entry] = {}
    for number in range(count):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(f"image {number}".encode() * 50)
        files[f"images/{number}.jpg"] = path
    old = dict(list(files.items())[: count - 10])
    place.store.put_manifest(content.build(place.store, "raw-export", old, {}, {}))
    before = set(place.store.object_digests())
    written = []
    write = place.store.blobs.write
    place.store.blobs.write = lambda key, data: (written.append(key), write(key, data))[1]

    place.store.put_manifest(content.build(place.store, "raw-export", files, {}, {}))

    assert len(before) == count - 10
    assert len(set(place.store.object_digests()) - before) == 10
    assert len([key for key in written if key.startswith("objects/")]) == 10


# Materialising


def test_a_manifest_is_written_as_files(store: objects.Store, tmp_path: Path) -> None:
    """Programs that want a folder get one, with exactly the bytes that the manifest names."""
    made = content.build(store, "k", {"model/config.json": b"{}", "model/a/b": b"x", "recipe.json": b"[]"}, {}, {})

    folder = content.materialise(store, made, tmp_path / "out", prefix="model/")

    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {"model/config.json": b"{}", "model/a/b": b"x"}


def test_writing_into_a_materialised_file_leaves_the_store_alone(store: objects.Store, tmp_path: Path) -> None:
    """Root may write into read-only files; a hard link would carry the damage into the store."""
    made = content.build(store, "k", {"a": b"right"}, {}, {})
    target = content.materialise(store, made, tmp_path / "out") / "a"

    target.write_bytes(b"wrong")

    assert content.read_bytes(store, made, "a") == b"right"
    assert (content.materialise(store, made, tmp_path / "out") / "a").read_bytes() == b"right"


def test_readers_can_ask_for_hard_links(disk: DiskPlace, tmp_path: Path) -> None:
    """A training run over a large dataset needs no second copy on the same disk."""
    made = content.build(disk.store, "k", {"a": b"x"}, {}, {})

    folder = content.materialise(disk.store, made, tmp_path / "out", link=True)

    assert (folder / "a").samefile(disk.store.local_path(made.entry("a").sha256))


def test_a_damaged_object_is_not_materialised(place: Place, tmp_path: Path) -> None:
    """A wrong file must not appear under a right name, not even for a moment."""
    made = content.build(place.store, "k", {"a": b"right"}, {}, {})
    place.overwrite(object_key(made.entry("a").sha256), lambda data: b"wrong")

    with pytest.raises(IntegrityError, match="was changed"):
        content.materialise(place.store, made, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_symbolic_link_cannot_lead_a_file_out_of_the_folder(disk: DiskPlace, tmp_path: Path) -> None:
    """A prepared folder must not turn `images/x` into a file elsewhere."""
    made = content.build(disk.store, "k", {"images/x": b"x"}, {}, {})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageError, match="symbolic link"):
        content.materialise(disk.store, made, tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Verifying


def test_every_damaged_or_missing_file_is_found(place: Place) -> None:
    """An audit lists all that is broken, not only the first."""
    files = {f"{number}": f"bytes {number}".encode() for number in range(20)}
    made = content.build(place.store, "k", files, {}, {})
    place.overwrite(object_key(made.entry("7").sha256), lambda data: data[:-1] + b"?")
    place.delete(object_key(made.entry("13").sha256))

    found = content.damaged(place.store, made)

    assert {path: error.found is None for path, error in found} == {"13": True, "7": False}
    assert place.store.missing(made) == ["13"]


def test_a_size_that_does_not_fit_is_damage(store: objects.Store) -> None:
    """The size is part of the manifest's statement, so it is verified like the bytes."""
    lying = Manifest("k", {"a": Entry(store.put_bytes(b"four"), 5)})

    assert [path for path, _ in content.damaged(store, lying)] == ["a"]
    with pytest.raises(DataError, match=r"has 4 bytes, but k .* says 5"):
        content.read_bytes(store, lying, "a")


def test_what_a_manifest_says_is_plain_json(store: objects.Store) -> None:
    """Another program in another language can read a store without this package."""
    digest = store.put_manifest(content.build(store, "k", {"a": b"x"}, {}, {"n": 1}))

    document = json.loads(store.get_manifest(digest).to_bytes())

    assert set(document) == {"schema", "kind", "entries", "inputs", "facts"}


def test_facts_are_read_as_the_type_of_their_kind() -> None:
    """A base takes each of its kinds, so that what all datasets say is read in one way."""
    subset = Manifest(Kind.TOOTH_SUBSET, {}, {}, subset_facts(["11", "12"]))

    assert subset.facts_as(SubsetFacts).classes == ("11", "12")
    assert subset.facts_as(DatasetFacts) == subset.facts_as(SubsetFacts)
    assert type(subset.facts_as(DatasetFacts)) is SubsetFacts


def test_facts_of_another_kind_are_refused() -> None:
    """A report in place of a checkpoint is a wrong digest, not a missing field."""
    subset = Manifest(Kind.TOOTH_SUBSET, {}, {}, subset_facts(["11"]))

    with pytest.raises(
        DataError, match=f"{subset.digest[:12]} is a tooth-subset, not a checkpoint. Give the digest of a"
    ):
        subset.facts_as(CheckpointFacts)
    with pytest.raises(DataError, match="is a thing, not a normalized-splits or condition-subset or tooth-subset"):
        Manifest("thing", {}).facts_as(DatasetFacts)
    with pytest.raises(DataError, match=r"is an evaluation, not a checkpoint\."):
        Manifest(Kind.EVALUATION, {}).facts_as(CheckpointFacts)


def test_facts_that_do_not_fit_are_refused_by_product_and_field() -> None:
    """Whoever wrote them by hand, or by another release, learns which field it is."""
    forged = Manifest(
        Kind.PREDICTIONS, {}, {}, predictions_facts([], splits={"test": {"images": "6", "detections": 1}})
    )

    with pytest.raises(DocumentError, match=rf"predictions {forged.digest[:12]} .*`\$\.splits\.test\.images`"):
        forged.facts_as(PredictionsFacts)


def test_typed_facts_are_checked_before_anything_is_stored(store: objects.Store) -> None:
    """Python does not check the types of arguments; a digest of wrong facts could not be taken back."""
    wrong = PredictionsFacts(splits={}, classes=("caries",), detections_per_image="300")  # pyright: ignore

    with pytest.raises(DocumentError, match="detections_per_image"):
        content.build(store, Kind.PREDICTIONS, {"a": b"x"}, {}, wrong)
    assert list(store.object_digests()) == []


def test_what_an_export_does_not_say_is_absent_from_its_facts() -> None:
    """An empty text or a null in its place would change the digest of every raw export."""
    facts = RawExportFacts(
        corpus=Corpus(kind=CorpusKind.ROBOFLOW, name="p v1", licence="unknown"),
        source=Source(project="p", version="1"),
        layout="coco",
        label_source=LabelSource(source="opg", chosen_by="default", evidence="nothing"),
        splits={},
        repairs={},
        privacy=Privacy(names_replaced=0, stem_kinds={}, images_with_metadata=0, metadata_removed={}),
    )

    assert Manifest(Kind.RAW_EXPORT, {}, {}, facts).facts["source"] == {"project": "p", "version": "1"}
