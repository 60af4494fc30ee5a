"""Collection removes what nobody names, and nothing else, whoever writes meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from dentsight_pipeline.errors import ConfigurationError, DataError, IntegrityError, StorageError
from dentsight_pipeline.store import content, gc, objects
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.names import manifest_key, object_key, record_key, ref_key

from .conftest import BucketPlace, DiskPlace, Place

OLD_SECONDS = 3 * 86400.0


def old_object(place: Place, data: bytes) -> str:
    """An object that was stored three days ago."""
    digest = place.store.put_bytes(data)
    place.age(object_key(digest), OLD_SECONDS)
    return digest


def test_a_dry_run_changes_nothing(place: Place) -> None:
    """The plan is what a person reads before deciding."""
    unnamed = old_object(place, b"nobody names me")
    before = place.keys()

    plan = gc.plan(place.store)

    assert (plan.unnamed, plan.size, plan.named, plan.young) == (((unnamed, 15),), 15, 0, 0)
    assert place.keys() == before


def test_only_old_objects_that_nobody_names_are_removed(place: Place) -> None:
    """A named object stays however old it is, and a young one however unnamed it is."""
    unnamed, named = old_object(place, b"unnamed"), old_object(place, b"named")
    young = place.store.put_bytes(b"young")
    published = place.store.put_manifest(Manifest("k", {"a": Entry(named, 5)}))
    place.age(manifest_key(published), OLD_SECONDS)
    place.store.write_ref("champion", {"manifest": published})
    place.store.append_record(published, {"host": "a"})
    place.age(ref_key("champion"), OLD_SECONDS)
    before = place.keys()

    removed = gc.apply(place.store, gc.plan(place.store))

    assert (removed.objects, removed.size, removed.spared) == (1, 7, 0)
    assert place.keys() == sorted(set(before) - {object_key(unnamed)})
    assert set(place.store.object_digests()) == {named, young}
    assert gc.plan(place.store).unnamed == ()


def test_an_object_that_a_reference_or_record_names_stays(place: Place) -> None:
    """Only manifests should name objects; when something else does, removing would still lose something."""
    in_ref, in_record = old_object(place, b"in a reference"), old_object(place, b"in a record")
    place.store.write_ref("note", {"file": in_ref})
    place.store.append_record("0" * 64, {"log": f"sha256:{in_record}"})

    assert gc.plan(place.store).unnamed == ()


def test_an_object_that_was_put_again_since_the_dry_run_is_spared(place: Place) -> None:
    """Deduplication writes nothing, so the second writer's claim must be visible in the object's age."""
    digest = old_object(place, b"unnamed")
    plan = gc.plan(place.store)
    place.store.put_bytes(b"unnamed")

    removed = gc.apply(place.store, plan)

    assert (removed.objects, removed.spared) == (0, 1)
    assert place.store.get_bytes(digest) == b"unnamed"


def test_an_object_that_was_named_since_the_dry_run_is_spared(place: Place) -> None:
    """A manifest may name an old object without putting it again (`Entry` of an earlier manifest)."""
    digest = old_object(place, b"unnamed")
    plan = gc.plan(place.store)
    place.store.put_manifest(Manifest("k", {"a": Entry(digest, 7)}))

    assert (gc.apply(place.store, plan).objects, place.store.get_bytes(digest)) == (0, b"unnamed")


def test_no_manifest_is_published_while_objects_are_removed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that comes in the middle waits, and is refused when its objects are gone: nothing dangles."""
    monkeypatch.setattr("dentsight_pipeline.store.s3._POLL_SECONDS", 0.02)
    digest = old_object(place, b"unnamed")
    publishing = Manifest("k", {"a": Entry(digest, 7)})
    inside, go_on = threading.Event(), threading.Event()

    def collect() -> None:
        with place.store.blobs.collecting() as still_mine:
            inside.set()
            go_on.wait(60)
            still_mine()
            place.store.blobs.remove([object_key(digest)])

    with ThreadPoolExecutor(2) as pool:
        collecting = pool.submit(collect)
        inside.wait(60)
        published = pool.submit(place.store.put_manifest, publishing)
        with pytest.raises(TimeoutError):
            published.result(timeout=0.3)
        go_on.set()
        collecting.result(60)
        with pytest.raises(IntegrityError, match="is missing"):
            published.result(60)
    assert list(place.store.manifest_digests()) == []


def test_a_collection_that_ran_between_check_and_write_is_noticed(bucket: BucketPlace) -> None:
    """S3 has no lock: the publisher must see that a whole collection went by, and take its manifest back."""
    digest = old_object(bucket, b"unnamed")
    other = objects.open_store(bucket.store.uri, cache=bucket.store.blobs.cache.root)  # pyright: ignore
    checks = []

    def check() -> None:
        if not bucket.store.has(digest):
            raise IntegrityError("the object", digest, None, "Put it again.")
        if not checks:
            checks.append(gc.apply(other, gc.plan(other)))

    with pytest.raises(IntegrityError, match="Put it again"):
        bucket.store.blobs.publish(manifest_key("1" * 64), b"{}", check)
    assert checks[0].objects == 1
    assert list(bucket.store.manifest_digests()) == []


def test_two_collections_do_not_run_at_once_in_a_bucket(bucket: BucketPlace) -> None:
    """Otherwise the first to end would open the door while the second still removes."""
    plan = gc.plan(bucket.store)

    with bucket.store.blobs.collecting(), pytest.raises(StorageError, match=r"Another collection of .* is running"):
        gc.apply(bucket.store, plan)
    assert gc.apply(bucket.store, plan).objects == 0


def test_a_collection_that_was_killed_blocks_nobody(bucket: BucketPlace) -> None:
    """Its announcement stays in the bucket, and expires by the bucket's own clock."""
    holding = bucket.store.blobs.collecting()
    holding.__enter__()
    bucket.age("locks/gc.json", 301)

    gc.apply(bucket.store, gc.plan(bucket.store))

    bucket.store.put_manifest(Manifest("k", {}))
    holding.__exit__(None, None, None)


def test_a_collection_that_lost_its_right_removes_nothing(bucket: BucketPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop that was asleep in the middle must not go on removing what others have named since."""
    monkeypatch.setattr("dentsight_pipeline.store.s3.LEASE_SECONDS", 0.0)

    first, second = bucket.store.blobs.collecting(), bucket.store.blobs.collecting()
    with first as still_mine, second, pytest.raises(StorageError, match="lost its right"):
        still_mine()


@pytest.mark.parametrize("fault", ["damaged manifest", "damaged record", "damaged reference", "manifest of the future"])
def test_nothing_is_removed_when_what_is_named_cannot_be_known(place: Place, fault: str) -> None:
    """A collection that skipped a damaged manifest would remove all that it names."""
    digest = old_object(place, b"unnamed")
    published = place.store.put_manifest(Manifest("k", {"a": Entry(digest, 7)}))
    record = place.store.append_record(published, {"host": "a"})
    place.store.write_ref("champion", {"n": 1})
    future = b'{"schema":"dentsight-manifest/2"}'
    if fault == "manifest of the future":
        place.store.blobs.write(manifest_key(sha256(future).hexdigest()), future)
    else:
        key = {"damaged manifest": manifest_key(published), "damaged record": record_key(published, record)}
        place.overwrite(
            key.get(fault, ref_key("champion")), lambda data: data.replace(b"1", b"7").replace(b'"a"', b'"b"')
        )

    with pytest.raises((IntegrityError, DataError), match=r"was changed|Not a manifest of schema"):
        gc.plan(place.store)
    assert place.store.has(digest)


def test_stray_files_are_never_removed(disk: DiskPlace) -> None:
    """What this program did not write is not its to remove."""
    stray = disk.root / "objects" / "notes.txt"
    stray.parent.mkdir(exist_ok=True)
    stray.write_text("mine")

    gc.apply(disk.store, gc.plan(disk.store, grace=timedelta(0)))

    assert stray.read_text() == "mine"


def test_old_temporary_files_are_removed_and_young_ones_left(disk: DiskPlace) -> None:
    """A killed writer leaves its temporary file; a living one needs it."""
    for name in ("old.part", "young.part"):
        (disk.root / "tmp" / name).write_bytes(b"half")
    disk.age("tmp/old.part", OLD_SECONDS)

    removed = gc.apply(disk.store, gc.plan(disk.store))

    assert removed.leftovers == 1
    assert [path.name for path in (disk.root / "tmp").iterdir()] == ["young.part"]


def test_the_temporary_file_of_a_living_writer_is_left(disk: DiskPlace) -> None:
    """However long a write takes and however short the grace: its writer still holds the file."""
    with disk.store.blobs.temporary() as file:
        disk.age(f"tmp/{file.name}", OLD_SECONDS)
        gc.apply(disk.store, gc.plan(disk.store, grace=timedelta(0)))

        assert file.exists()


def test_unfinished_uploads_are_removed(bucket: BucketPlace) -> None:
    """Their parts are paid for, and no listing of the bucket shows them."""
    name = f"{bucket.prefix}/objects/00/{'0' * 64}"
    bucket.client.create_multipart_upload(Bucket=bucket.bucket, Key=name)
    bucket.client.create_multipart_upload(Bucket=bucket.bucket, Key="another/store")

    removed = gc.apply(bucket.store, gc.plan(bucket.store, grace=timedelta(0)))

    left = bucket.client.list_multipart_uploads(Bucket=bucket.bucket).get("Uploads", [])
    assert removed.leftovers == 1
    assert [upload["Key"] for upload in left] == ["another/store"]


def test_a_plan_fits_only_its_own_store(disk: DiskPlace, tmp_path: Path) -> None:
    """A plan read on one store and applied to another would be a guess."""
    other = objects.open_store(tmp_path / "other")

    with pytest.raises(ConfigurationError, match="The plan was made for"):
        gc.apply(other, gc.plan(disk.store))
    with pytest.raises(ConfigurationError, match="cannot be negative"):
        gc.plan(disk.store, grace=timedelta(seconds=-1))


def test_many_objects_are_collected_in_batches(disk: DiskPlace) -> None:
    """More than one batch, so that the loop over batches is seen to end and to lose nothing."""
    kept = content.build(disk.store, "k", {f"{n}": f"kept {n}".encode() for n in range(50)}, {}, {})
    disk.store.put_manifest(kept)
    content.build(disk.store, "k", {f"{n}": f"lost {n}".encode() for n in range(600)}, {}, {})

    removed = gc.apply(disk.store, gc.plan(disk.store, grace=timedelta(0)))

    assert (removed.objects, len(list(disk.store.object_digests()))) == (600, 50)
    assert content.damaged(disk.store, kept) == []
