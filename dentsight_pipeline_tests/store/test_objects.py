"""Bytes go in and come out the same, or an error says which ones did not."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from dentsight_pipeline.errors import ConfigurationError, DataError, IntegrityError, RefConflictError, StorageError
from dentsight_pipeline.store import content, objects
from dentsight_pipeline.store.blobs import IN_MEMORY_BYTES
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.names import manifest_key, object_key, record_key, ref_key

from .conftest import BucketPlace, DiskPlace, Place

ABSENT = sha256(b"never stored").hexdigest()


def test_bytes_come_back_under_their_sha256(store: objects.Store) -> None:
    """The name is the content: whoever knows the digest can check what they were given."""
    digest = store.put_bytes(b"an X-ray")

    assert digest == sha256(b"an X-ray").hexdigest()
    assert store.get_bytes(digest) == b"an X-ray"
    assert (store.has(digest), store.size(digest), list(store.object_digests())) == (True, 8, [digest])


@pytest.mark.parametrize("size", [0, 1000, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 12_345_678])
def test_a_file_of_any_size_is_stored_whole(store: objects.Store, tmp_path: Path, size: int) -> None:
    """Small files take another road than large ones (one read; streaming and multipart uploads)."""
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    path = tmp_path / "file"
    path.write_bytes(data)

    digest = store.put_file(path).sha256

    assert digest == sha256(data).hexdigest()
    assert (store.size(digest), store.verify(digest)) == (size, size)
    assert store.local_path(digest).read_bytes() == data


def test_bytes_of_any_size_are_stored_whole(store: objects.Store) -> None:
    """A large `put_bytes` becomes a multipart upload on S3."""
    data = bytes(range(256)) * ((IN_MEMORY_BYTES >> 8) + 5)

    assert store.get_bytes(store.put_bytes(data)) == data


@pytest.mark.parametrize("blocks", [0, 3, (IN_MEMORY_BYTES >> 20) + 3])  # S3 takes the last in parts
def test_bytes_that_are_made_piece_by_piece_are_stored_whole_and_once(place: Place, blocks: int) -> None:
    """They go through a private file, which must not stay, and is not even written when the store has them already."""
    pieces = [bytes([number % 251]) * (1 << 20) for number in range(blocks)]

    entry = place.store.put_blocks(lambda: iter(pieces))

    place.store.blobs.temporary = None  # type: ignore[assignment]  # nobody asks for one any more
    assert entry == place.store.put_blocks(lambda: iter(pieces))
    assert entry == Entry(sha256(b"".join(pieces)).hexdigest(), blocks << 20)
    assert place.store.get_bytes(entry.sha256) == b"".join(pieces)
    assert list(place.store.object_digests()) == [entry.sha256]
    assert list(place.store.blobs.leftovers()) == []


def test_what_fits_into_memory_is_made_once(store: objects.Store) -> None:
    """The tables of an export with ten new images would be written as JSON twice: to hash and to store them."""
    made: list[int] = []

    def blocks(count: int) -> Iterator[bytes]:
        made.append(count)
        yield from (bytes([number]) * (1 << 20) for number in range(count))

    for count in (2, (IN_MEMORY_BYTES >> 20) + 1):
        store.put_blocks(lambda count=count: blocks(count))

    assert made == [2, (IN_MEMORY_BYTES >> 20) + 1, (IN_MEMORY_BYTES >> 20) + 1]


def test_storing_twice_keeps_one_copy(place: Place, tmp_path: Path) -> None:
    """Deduplication is what makes a new dataset version cheap."""
    (tmp_path / "file").write_bytes(b"same")

    assert place.store.put_bytes(b"same") == place.store.put_file(tmp_path / "file").sha256
    assert len(place.keys()) == 1


def test_a_flipped_byte_is_never_returned(place: Place) -> None:
    """Whoever reads gets the right bytes or an error; a wrong pixel must not reach training."""
    digest = place.store.put_bytes(b"right")
    place.overwrite(object_key(digest), lambda data: b"w" + data[1:])

    for read in (place.store.get_bytes, place.store.local_path, place.store.verify):
        with pytest.raises(IntegrityError, match=f"{digest}.*was changed.*gc --damaged"):
            read(digest)


def test_a_truncated_object_is_never_returned(place: Place) -> None:
    """A cut file is the commonest damage of all."""
    digest = place.store.put_bytes(b"right")
    place.overwrite(object_key(digest), lambda data: data[:2])

    with pytest.raises(IntegrityError, match="was changed"):
        place.store.get_bytes(digest)


def test_storing_again_replaces_a_truncated_object(place: Place) -> None:
    """An object of the wrong size cannot be right; the writer has the right bytes in hand."""
    digest = place.store.put_bytes(b"right")
    place.overwrite(object_key(digest), lambda data: data[:2])

    assert place.store.put_bytes(b"right") == digest
    assert place.store.get_bytes(digest) == b"right"


def test_a_damaged_object_can_be_discarded_and_stored_again(place: Place) -> None:
    """The remedy that the error message names has to work; an intact object is never discarded."""
    digest = place.store.put_bytes(b"right")
    intact = place.store.put_bytes(b"intact")
    place.overwrite(object_key(digest), lambda data: b"wrong")

    assert list(place.store.damaged()) == [digest]
    assert (place.store.discard_damaged(digest), place.store.discard_damaged(intact)) == (True, False)
    assert place.store.put_bytes(b"right") == digest
    assert place.store.get_bytes(digest) == b"right"
    assert place.store.get_bytes(intact) == b"intact"


def test_a_missing_object_is_named(store: objects.Store) -> None:
    """The message says which bytes and in which store, so that a wrong URI is seen at once."""
    for read in (store.get_bytes, store.local_path, store.verify, store.size):
        with pytest.raises(IntegrityError, match=rf"{store.uri}.*{ABSENT}.*is missing.*right store"):
            read(ABSENT)
    assert not store.has(ABSENT)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", f"../{'a' * 64}"])
def test_a_digest_that_is_none_is_refused(store: objects.Store, digest: str) -> None:
    """A digest becomes a path, so nothing else may pass for one."""
    for read in (store.get_bytes, store.local_path, store.verify, store.size, store.has, store.get_manifest):
        with pytest.raises(DataError, match="64 lower-case hex digits"):
            read(digest)
    with pytest.raises(DataError, match="64 lower-case hex digits"):
        store.append_record(digest, {})


def test_a_stray_file_is_not_taken_for_an_object(place: Place) -> None:
    """Editors and file managers leave files behind; none of them becomes an object."""
    digest = place.store.put_bytes(b"x")
    for key in (f"objects/{digest[:2]}/.DS_Store", f"objects/zz/{digest}", f"manifests/{digest[:2]}/{digest}.json~"):
        place.store.blobs.write(key, b"stray")

    assert list(place.store.object_digests()) == [digest]
    assert list(place.store.manifest_digests()) == []


def test_a_disk_store_is_opened_by_path_or_uri(tmp_path: Path) -> None:
    """`store.uri` travels in job files, so it must open the same store from any folder."""
    folder = tmp_path / "with space é"
    digest = objects.open_store(str(folder)).put_bytes(b"x")

    assert objects.open_store(objects.open_store(folder).uri).get_bytes(digest) == b"x"
    assert objects.open_store(folder.as_uri()).uri == objects.open_store(folder).uri


@pytest.mark.parametrize(
    "uri", ["", "http://host/x", "gs://bucket/x", "file://host/x", "s3://", "s3://B", "s3://bucket/a/../b", "s3:/b/x"]
)
def test_a_uri_of_no_store_is_refused(uri: str) -> None:
    """A misspelt scheme must not quietly become a folder called `http:`."""
    with pytest.raises(ConfigurationError, match=r"Give (a folder|s3://bucket/prefix)"):
        objects.open_store(uri)


def test_a_store_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    """A path through a file is a common slip."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="Cannot open the store"):
        objects.open_store(tmp_path / "file" / "store")


def test_a_source_that_cannot_be_read_says_so(store: objects.Store, tmp_path: Path) -> None:
    """The error names the file of the user, not one of ours."""
    with pytest.raises(StorageError, match=r"Cannot read .*absent\.jpg: No such file"):
        store.put_file(tmp_path / "absent.jpg")


def test_the_object_file_of_a_disk_store_is_read_only(disk: DiskPlace) -> None:
    """`local_path` hands out the store's own file; a careless writer should be stopped by the file system."""
    assert disk.store.local_path(disk.store.put_bytes(b"x")).stat().st_mode & 0o222 == 0


def test_a_store_travels_to_worker_processes(store: objects.Store) -> None:
    """Data loader workers get the store as an argument; a client and its sockets must not travel along."""
    digest = store.put_bytes(b"x")

    assert pickle.loads(pickle.dumps(store)).get_bytes(digest) == b"x"


# Manifests


def test_a_manifest_is_published_and_read_back(place: Place) -> None:
    """The digest of what comes back is the digest that was asked for."""
    made = content.build(place.store, "raw-export", {"a.json": b"{}"}, {}, {"n": 1})

    digest = place.store.put_manifest(made)

    assert digest == made.digest
    assert place.store.get_manifest(digest) == made
    assert list(place.store.manifest_digests()) == [digest]
    assert place.store.has_manifest(digest)


@pytest.mark.parametrize("size_is_wrong", [False, True])
def test_a_manifest_of_missing_objects_is_refused(place: Place, size_is_wrong: bool) -> None:
    """A published manifest is a promise that everything it names is there."""
    digest = place.store.put_bytes(b"four") if size_is_wrong else ABSENT
    dangling = Manifest("raw-export", {"images/a.jpg": Entry(digest, 5)}, {}, {})

    with pytest.raises(IntegrityError, match=rf"'images/a.jpg' of the raw-export.*{digest}.*is missing"):
        place.store.put_manifest(dangling)
    assert list(place.store.manifest_digests()) == []


def test_an_edited_manifest_is_never_returned(place: Place) -> None:
    """An edited fact changes the digest, so the edit is found whatever it says."""
    digest = place.store.put_manifest(Manifest("raw-export", {}, {}, {"licence": "CC BY 4.0"}))
    place.overwrite(manifest_key(digest), lambda data: data.replace(b"CC BY 4.0", b"CC0      "))

    with pytest.raises(IntegrityError, match="was changed"):
        place.store.get_manifest(digest)
    with pytest.raises(IntegrityError, match="is missing"):
        place.store.get_manifest(ABSENT)


# References


def test_a_reference_is_written_and_replaced(store: objects.Store) -> None:
    """References are the only things in a store that change."""
    assert store.read_ref("dataset/phantom-v1") is None
    store.write_ref("dataset/phantom-v1", {"manifest": ABSENT})
    store.write_ref("dataset/phantom-v1", {"manifest": ABSENT, "note": "replaced"})

    assert store.read_ref("dataset/phantom-v1") == {"manifest": ABSENT, "note": "replaced"}


def test_references_are_listed_by_prefix(store: objects.Store) -> None:
    """`refs` lists one folder, one stem or everything, and nothing else."""
    for name in ("dataset/a", "dataset/ab", "dataset/sub/c", "datasets", "release/head"):
        store.write_ref(name, {})

    assert store.refs("dataset/") == ["dataset/a", "dataset/ab", "dataset/sub/c"]
    assert store.refs("dataset/a") == ["dataset/a", "dataset/ab"]
    assert store.refs("nothing/") == []
    assert len(store.refs()) == 5


def test_a_stray_file_is_not_taken_for_a_reference(place: Place) -> None:
    """A name that could never have been written is not listed, so that whoever reads the list can read each entry."""
    place.store.write_ref("head", {})
    for key in ("refs/.hidden.json", "refs/a b.json", "refs/head.json~"):
        place.store.blobs.write(key, b"stray")

    assert place.store.refs() == ["head"]


def test_a_reference_that_changed_meanwhile_is_not_overwritten(store: objects.Store) -> None:
    """Two people promote at once: the second one is told, and nothing is lost."""
    store.write_ref("champion", {"n": 1}, expected=None)

    with pytest.raises(RefConflictError, match=r"'champion' was expected to be absent, but it is \{'n': 1\}"):
        store.write_ref("champion", {"n": 2}, expected=None)
    with pytest.raises(RefConflictError, match=r"was expected to be \{'n': 7\}"):
        store.write_ref("champion", {"n": 2}, expected={"n": 7})
    store.write_ref("champion", {"n": 3}, expected={"n": 1})
    assert store.read_ref("champion") == {"n": 3}


@pytest.mark.parametrize("change", [lambda d: d.replace(b"1", b"2"), lambda d: d[:-3], lambda d: b"[]", lambda d: b""])
def test_a_damaged_reference_is_never_returned(place: Place, change) -> None:
    """A reference has no digest in its name, so it carries one inside."""
    place.store.write_ref("champion", {"n": 1})
    place.overwrite(ref_key("champion"), change)

    with pytest.raises(IntegrityError, match=r"Reference 'champion'.*was changed"):
        place.store.read_ref("champion")


@pytest.mark.parametrize(
    "name", ["", "/etc/x", "../x", "a/../x", "a//b", "a/", ".hidden", "a\\b", "a b", "x" * 300, "é"]
)
def test_a_reference_cannot_leave_its_folder(store: objects.Store, name: str) -> None:
    """A reference's name may come from a dataset key that a user typed."""
    with pytest.raises(ConfigurationError, match="A reference is named by words"):
        store.write_ref(name, {})
    with pytest.raises(ConfigurationError, match="A reference is named by words"):
        store.read_ref(name)


@pytest.mark.parametrize("value", [float("nan"), 2**53 + 1, object(), {1: 2}, "\ud800", {1, 2}])
def test_a_value_that_is_not_json_is_refused(store: objects.Store, value: object) -> None:
    """NaN in particular: Python would write it, and no other program could read it."""
    with pytest.raises(DataError, match="cannot be written as canonical JSON"):
        store.write_ref("x", {"value": value})
    assert store.refs() == []


# Records


def test_records_of_a_product_are_kept_in_order_of_their_start(store: objects.Store) -> None:
    """Making the same product again adds provenance; it does not change the product."""
    store.append_record(ABSENT, {"started": "2025-02-01", "host": "b"})
    store.append_record(ABSENT, {"started": "2025-01-01", "host": "a"})
    again = store.append_record(ABSENT, {"started": "2025-01-01", "host": "a"})

    assert [record["host"] for record in store.records(ABSENT)] == ["a", "b"]
    assert next(digest for digest, _ in store.named_records(ABSENT)) == again
    assert store.records(sha256(b"other").hexdigest()) == []


def test_an_edited_record_is_never_returned(place: Place) -> None:
    """Provenance that can be edited unseen proves nothing."""
    digest = place.store.append_record(ABSENT, {"host": "a"})
    place.overwrite(record_key(ABSENT, digest), lambda data: data.replace(b'"a"', b'"b"'))

    with pytest.raises(IntegrityError, match=f"A record of {ABSENT}.*was changed"):
        place.store.records(ABSENT)


# The verified local copies of an S3 store


def test_a_damaged_local_copy_is_fetched_again(bucket: BucketPlace) -> None:
    """The cache saves time; it is never a second truth."""
    digest = bucket.store.put_bytes(b"right")
    copy = bucket.store.local_path(digest)
    copy.chmod(0o644)
    copy.write_bytes(b"wrong")

    assert bucket.store.local_path(digest).read_bytes() == b"right"


def test_verification_looks_at_the_bucket_and_not_at_the_local_copy(bucket: BucketPlace) -> None:
    """An audit that read the cache would call a damaged bucket intact."""
    digest = bucket.store.put_bytes(b"right")
    bucket.store.local_path(digest)
    bucket.overwrite(object_key(digest), lambda data: b"wrong")

    with pytest.raises(IntegrityError, match="was changed"):
        bucket.store.verify(digest)
