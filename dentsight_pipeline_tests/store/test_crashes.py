"""Killed, out of space, raced, with real processes: nothing is lost, nothing wrong is ever read as right."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from dentsight_pipeline.errors import RefConflictError, StorageError
from dentsight_pipeline.store import content, gc, manifest, objects
from dentsight_pipeline.store.blobs import IN_MEMORY_BYTES
from dentsight_pipeline.store.names import object_key

from .conftest import BucketPlace, DiskPlace

PREAMBLE = """
import os, signal, sys
from pathlib import Path
from dentsight_pipeline.store import gc, content, manifest, memo, objects
store = objects.open_store(sys.argv[1])
"""
LARGE = IN_MEMORY_BYTES * 3


def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A process of its own that runs code with `store` open on its first argument."""
    program = PREAMBLE + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def assert_whole(store: objects.Store) -> None:
    """Every object that has a valid name has the bytes of that name."""
    for digest in store.object_digests():
        store.verify(digest)
    for digest in store.manifest_digests():
        assert content.damaged(store, store.get_manifest(digest)) == []


# kill -9


@pytest.mark.parametrize("event", ["os.rename", "os.chmod", "os.mkdir"])
@pytest.mark.parametrize("size", [100, LARGE])
def test_a_writer_killed_before_the_rename_leaves_no_object(
    disk: DiskPlace, tmp_path: Path, event: str, size: int
) -> None:
    """The bytes are there, the name is not: the next writer starts anew, and `gc` removes what was left."""
    source = tmp_path / "source"
    source.write_bytes(bytes(size))
    killed = start(
        """
        sys.addaudithook(lambda event, _: event == sys.argv[3] and os.kill(os.getpid(), signal.SIGKILL))
        store.put_file(Path(sys.argv[2]))
        """,
        str(disk.root), str(source), event,
    )  # fmt: skip

    assert killed.wait(120) == -signal.SIGKILL
    assert list(disk.store.object_digests()) == []
    assert any((disk.root / "tmp").iterdir())
    assert disk.store.verify(disk.store.put_file(source).sha256) == size
    gc.apply(disk.store, gc.plan(disk.store, grace=timedelta(0)))
    assert list((disk.root / "tmp").iterdir()) == []


def test_writers_killed_at_any_moment_leave_only_whole_objects(disk: DiskPlace) -> None:
    """The moment of a real crash is not chosen: eight writers, each killed at a random one."""
    chance = random.Random(7)
    for _ in range(8):
        writer = start(
            """
            for number in range(10**6):
                files = {f"{n}": os.urandom(3_000_000) for n in range(2)} | {"s": os.urandom(10)}
                made = content.build(store, "k", files, {}, {"number": number})
                store.put_manifest(made)
                store.write_ref("head", {"manifest": made.digest})
                store.append_record(made.digest, {"number": number})
                print("went round once", flush=True)
            """,
            str(disk.root),
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"went round once\n"
        time.sleep(chance.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        writer.wait(120)

    assert_whole(disk.store)
    head = disk.store.read_ref("head")
    assert head is not None and disk.store.missing(disk.store.get_manifest(head["manifest"])) == []
    assert_whole(disk.store)


def test_a_process_killed_with_a_lock_in_its_hand_blocks_nobody(disk: DiskPlace) -> None:
    """The kernel opens the locks of the dead; a lock *file* would stay for ever."""
    holder = start(
        """
        with store.blobs.collecting(), store.blobs._lock("refs", 2):
            print("held", flush=True)
            signal.pause()
        """,
        str(disk.root),
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    holder.send_signal(signal.SIGKILL)
    holder.wait(120)

    disk.store.put_manifest(content.build(disk.store, "k", {"a": b"x"}, {}, {}))
    disk.store.write_ref("head", {"n": 1}, expected=None)
    assert disk.store.read_ref("head") == {"n": 1}


def test_an_upload_killed_before_its_end_leaves_no_object(bucket: BucketPlace, tmp_path: Path) -> None:
    """All parts are in the bucket, the object is not; `gc` removes the parts."""
    source = tmp_path / "source"
    source.write_bytes(bytes(LARGE))
    killed = start(
        """
        def kill(**_): os.kill(os.getpid(), signal.SIGKILL)
        store.blobs._client().meta.events.register("before-call.s3.CompleteMultipartUpload", kill)
        store.put_file(Path(sys.argv[2]))
        """,
        bucket.store.uri, str(source),
    )  # fmt: skip

    assert killed.wait(120) == -signal.SIGKILL
    assert list(bucket.store.object_digests()) == []
    uploads = [name for name, _ in bucket.store.blobs.leftovers() if name.startswith("upload ")]
    assert len(uploads) == 1
    gc.apply(bucket.store, gc.plan(bucket.store, grace=timedelta(0)))
    assert not any(name.startswith("upload ") for name, _ in bucket.store.blobs.leftovers())
    assert bucket.store.verify(bucket.store.put_file(source).sha256) == LARGE


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs; the file size limit is tested everywhere")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(small_disk: Path, tmp_path: Path) -> None:
    """What was stored stays readable, what was not has no name, and work goes on once there is space."""
    store = objects.open_store(small_disk / "store")
    kept = store.put_bytes(b"kept")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    (tmp_path / "large").write_bytes(bytes(LARGE))

    with pytest.raises(StorageError, match=r"No space left on device.*Nothing half-written was kept.*gc --apply"):
        store.put_bytes(os.urandom(600_000))
    with pytest.raises(StorageError, match=r"No space left on device.*Nothing half-written was kept"):
        store.put_file(tmp_path / "large")
    assert list((small_disk / "store" / "tmp").iterdir()) == []
    assert list(store.object_digests()) == [kept]
    ballast.unlink()
    assert store.verify(store.put_bytes(os.urandom(600_000))) == 600_000
    assert store.get_bytes(kept) == b"kept"


def test_a_full_disk_publishes_no_manifest_and_keeps_the_reference(small_disk: Path) -> None:
    """A reference that was half replaced would lose the champion."""
    store = objects.open_store(small_disk / "store")
    store.write_ref("head", {"n": 1})
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(bytes(free))

    with pytest.raises(StorageError, match="No space left"):
        store.put_manifest(manifest.Manifest("k", {}))
    with pytest.raises(StorageError, match="No space left"):
        store.write_ref("head", {"n": 2})
    assert list(store.manifest_digests()) == []
    assert store.read_ref("head") == {"n": 1}


def test_a_full_disk_materialises_no_half_file(small_disk: Path, disk: DiskPlace) -> None:
    """A training run that starts on a cut image would train on grey."""
    made = content.build(disk.store, "k", {"a": b"small", "b": os.urandom(2_000_000)}, {}, {})

    with pytest.raises(StorageError, match="No space left"):
        content.materialise(disk.store, made, small_disk / "out")
    assert [path.name for path in (small_disk / "out").iterdir()] == ["a"]


def test_a_full_cache_says_so(small_disk: Path, bucket: BucketPlace) -> None:
    """The bytes are safe in the bucket; it is the local copy that has no room."""
    digest = bucket.store.put_bytes(os.urandom(2_000_000))
    store = objects.open_store(bucket.store.uri, cache=small_disk / "cache")

    with pytest.raises(StorageError, match="Cannot"):
        store.local_path(digest)
    assert list((small_disk / "cache" / "tmp").iterdir()) == []
    assert store.verify(digest) == 2_000_000


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The kernel refuses to make files larger than this (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_the_kernel_cuts_is_refused(disk: DiskPlace) -> None:
    """The write fails in the middle, as on a full disk, wherever the tests run."""
    with file_size_limit(100_000), pytest.raises(StorageError, match=r"File too large.*ulimit -f"):
        disk.store.put_bytes(bytes(200_000))
    assert disk.keys() == []


def test_a_folder_that_cannot_be_written_is_named(disk: DiskPlace) -> None:
    """Whatever the reason, the message names the place, and nothing is left in it."""
    folder = disk.root / "objects"
    folder.write_text("in the way")

    with pytest.raises(StorageError, match=r"Cannot write .*objects"):
        disk.store.put_bytes(b"x")
    assert list((disk.root / "tmp").iterdir()) == []


# Several writers


def test_many_processes_store_the_same_dataset_at_once(disk: DiskPlace) -> None:
    """Four ingestions of one export end with one copy of each image and one manifest."""
    code = """
    files = {f"images/{n}.jpg": f"image {n}".encode() * 1000 for n in range(150)}
    print(store.put_manifest(content.build(store, "raw-export", files, {}, {})))
    """
    writers = [start(code, str(disk.root)) for _ in range(4)]
    answers = [writer.communicate(timeout=120) for writer in writers]

    assert [writer.returncode for writer in writers] == [0] * 4, answers
    assert len({out for out, _ in answers}) == 1
    assert len(list(disk.store.object_digests())) == 150
    assert len(list(disk.store.manifest_digests())) == 1
    assert_whole(disk.store)
    assert list((disk.root / "tmp").iterdir()) == []


def test_no_update_of_a_reference_is_lost_between_processes(disk: DiskPlace) -> None:
    """Four processes count to 100 together by compare-and-swap; a lost update would leave less."""
    code = """
    from dentsight_pipeline.errors import RefConflictError
    done = 0
    while done < 25:
        before = store.read_ref("count")
        try:
            store.write_ref("count", {"n": before["n"] + 1 if before else 1}, expected=before)
            done += 1
        except RefConflictError:
            pass
    """
    writers = [start(code, str(disk.root)) for _ in range(4)]
    answers = [writer.communicate(timeout=120) for writer in writers]

    assert [writer.returncode for writer in writers] == [0] * 4, answers
    assert disk.store.read_ref("count") == {"n": 100}


def test_a_writer_and_a_collector_run_at_once_and_nothing_dangles(disk: DiskPlace) -> None:
    """Collections without any grace against a writer: a manifest is refused or whole, never published and broken."""
    writer = start(
        """
        from dentsight_pipeline.errors import IntegrityError
        published = refused = 0
        while published < 60:
            files = {f"{n}": f"{published} {n}".encode() for n in range(5)}
            try:
                store.put_manifest(content.build(store, "k", files, {}, {}))
                published += 1
            except IntegrityError:
                refused += 1
        print(published, refused)
        """,
        str(disk.root),
    )
    while writer.poll() is None:
        gc.apply(disk.store, gc.plan(disk.store, grace=timedelta(0)))
    assert writer.stdout is not None and writer.stderr is not None

    assert writer.returncode == 0, writer.stderr.read()
    assert len(list(disk.store.manifest_digests())) == 60
    assert_whole(disk.store)


def test_a_reference_in_a_bucket_that_changes_between_look_and_write_is_not_overwritten(bucket: BucketPlace) -> None:
    """The second writer strikes between the first one's read and its write: S3's condition must refuse the first."""
    for before in (None, {"n": 1}):
        other = objects.open_store(bucket.store.uri, cache=bucket.store.blobs.cache.root)  # pyright: ignore
        client = bucket.store.blobs._client()  # pyright: ignore[reportAttributeAccessIssue]
        name = f"ref{before is None}"
        if before is not None:
            other.write_ref(name, before)

        def strike(other: objects.Store = other, name: str = name, **_: object) -> None:
            other.write_ref(name, {"n": 2})

        client.meta.events.register("before-call.s3.PutObject", strike, unique_id="strike")
        with pytest.raises(RefConflictError, match=r"it is \{'n': 2\}"):
            bucket.store.write_ref(name, {"n": 3}, expected=before)
        client.meta.events.unregister("before-call.s3.PutObject", strike, unique_id="strike")
        assert bucket.store.read_ref(name) == {"n": 2}


def test_a_source_that_changes_while_it_is_stored_is_kept_as_it_was_read(
    disk: DiskPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is hashed, then copied: if it changed between, the copy's own hash must be its name."""
    source = tmp_path / "source"
    source.write_bytes(b"a" * LARGE)
    read = objects.file_blocks

    def change_then_read(path: Path) -> Iterator[bytes]:
        path.write_bytes(b"b" * LARGE)
        return read(path)

    monkeypatch.setattr(objects, "file_blocks", change_then_read)

    assert disk.store.put_file(source).sha256 == sha256(b"b" * LARGE).hexdigest()
    assert disk.store.blobs.stat(object_key(sha256(b"a" * LARGE).hexdigest())) is None
    assert_whole(disk.store)
