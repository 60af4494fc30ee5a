"""What only a bucket does: refuse, cut, be elsewhere, and speak to other processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from dentsight_pipeline.errors import IntegrityError, StorageError
from dentsight_pipeline.store import objects
from dentsight_pipeline.store.names import object_key
from dentsight_pipeline.store.s3 import S3Blobs
from dentsight_pipeline_tests.local_server import QuietHandler, free_port, serving

from .conftest import BucketPlace


def test_two_stores_in_one_bucket_do_not_see_each_other(bucket: BucketPlace) -> None:
    """A prefix is a store of its own, also when another prefix starts with the same letters."""
    other = objects.open_store(bucket.store.uri + "-2", cache=bucket.store.blobs.cache.root)  # pyright: ignore
    digest = other.put_bytes(b"x")

    assert not bucket.store.has(digest)
    assert list(bucket.store.object_digests()) == []
    assert list(other.object_digests()) == [digest]


def test_a_whole_bucket_can_be_a_store(bucket: BucketPlace) -> None:
    """`s3://bucket` and `s3://bucket/` are the same store."""
    digest = objects.open_store(f"s3://{bucket.bucket}", cache=bucket.store.blobs.cache.root).put_bytes(b"x")  # pyright: ignore

    store = objects.open_store(f"s3://{bucket.bucket}/")
    assert store.uri == f"s3://{bucket.bucket}"
    assert list(store.object_digests()) == [digest]


def test_the_local_copies_are_kept_in_the_user_cache(
    bucket: BucketPlace, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the XDG convention, so that a user finds and removes them where every program keeps such things."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    store = objects.open_store(bucket.store.uri)

    assert (tmp_path / "xdg" / "dentsight") in store.local_path(store.put_bytes(b"x")).parents


def test_a_local_copy_is_not_fetched_twice(bucket: BucketPlace) -> None:
    """Training reads every image many times; the network is asked once."""
    digest = bucket.store.put_bytes(b"x")
    bucket.store.local_path(digest)
    requests = []
    bucket.store.blobs._client().meta.events.register("before-call.s3", lambda **_: requests.append(1))  # pyright: ignore

    bucket.store.local_path(digest)

    assert requests == []


def test_the_bucket_refuses_bytes_that_arrive_damaged(bucket: BucketPlace) -> None:
    """Every upload carries its SHA-256, which the bucket compares before the object appears."""
    sent = []

    def note(params, **_: object) -> None:
        sent.append(params["headers"].get("x-amz-checksum-sha256"))

    bucket.store.blobs._client().meta.events.register("before-call.s3.PutObject", note)  # pyright: ignore
    bucket.store.put_bytes(b"x")

    assert sent == ["LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE="]


def test_a_missing_bucket_is_named(bucket: BucketPlace) -> None:
    """A misspelt bucket is the commonest mistake."""
    store = objects.open_store("s3://no-such-bucket-here/x", cache=bucket.store.blobs.cache.root)  # pyright: ignore

    with pytest.raises(StorageError, match=r"s3://no-such-bucket-here/x: the bucket answered NoSuchBucket. Make the"):
        store.put_bytes(b"x")
    with pytest.raises(StorageError, match="NoSuchBucket"):
        list(store.object_digests())
    with pytest.raises(StorageError, match="NoSuchBucket"):
        store.get_bytes("0" * 64)


def test_missing_credentials_are_named_and_no_secret_is_shown(
    bucket: BucketPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy names the variables; no message ever holds their values."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = objects.open_store(bucket.store.uri, cache=bucket.store.blobs.cache.root)  # pyright: ignore

    with pytest.raises(StorageError, match=r"no AWS credentials were found\. Set AWS_PROFILE") as caught:
        store.put_bytes(b"x")
    assert "not-a-secret" not in str(caught.value)


def test_an_endpoint_that_does_not_answer_is_named(bucket: BucketPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing hangs: boto3 tries again a few times, and then the network is named."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    store = objects.open_store(bucket.store.uri, cache=bucket.store.blobs.cache.root)  # pyright: ignore

    with pytest.raises(StorageError, match=r"EndpointConnectionError. Check the network, AWS_ENDPOINT_URL_S3"):
        store.put_bytes(b"x")


class _Cutting(QuietHandler):
    """An S3 that breaks off its first answers in the middle of the body, or refuses them."""

    failures: list[str]
    body = b"right bytes"

    def do_GET(self) -> None:
        failure = type(self).failures.pop(0) if type(self).failures else ""
        self.send_response(503 if failure == "503" else 200)
        self.send_header("Content-Length", str(len(self.body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(self.body[:4] if failure == "cut" else self.body)
        self.close_connection = True


@pytest.fixture
def cutting_server(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Cutting]]:
    """A local HTTP server that plays a bad connection."""
    handler = type("Handler", (_Cutting,), {"failures": []})
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    with serving(handler) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        yield handler


def test_an_answer_that_is_cut_or_refused_is_asked_for_again(cutting_server, tmp_path) -> None:
    """A cut answer must neither be returned nor end a night's work."""
    cutting_server.failures = ["503", "cut", "cut"]
    blobs = S3Blobs("bucket", "", tmp_path)

    assert blobs.read("x") == b"right bytes"
    cutting_server.failures = ["cut"]
    found = blobs.sha256("x")
    assert found is not None and found[1] == len(b"right bytes")


def test_an_answer_that_stays_cut_is_an_error(cutting_server, tmp_path) -> None:
    """After a few tries the error names the network, and no half object was returned."""
    cutting_server.failures = ["cut"] * 50

    with pytest.raises(StorageError, match="Cannot read x of s3://bucket"):
        S3Blobs("bucket", "", tmp_path).read("x")


def test_an_old_object_that_is_put_again_becomes_young(bucket: BucketPlace) -> None:
    """The bucket copies it onto itself: `gc` sees the second writer's claim, and no bytes travel."""
    digest = bucket.store.put_bytes(b"x")
    bucket.age(object_key(digest), 86400.0)
    old = bucket.store.stat(digest)

    bucket.store.put_bytes(b"x")

    young = bucket.store.stat(digest)
    assert old is not None and young is not None and young.modified - old.modified > 80000
    assert bucket.store.get_bytes(digest) == b"x"


def test_a_damaged_download_is_not_kept_as_a_local_copy(bucket: BucketPlace) -> None:
    """The cache holds only what was verified."""
    digest = bucket.store.put_bytes(b"right")
    bucket.overwrite(object_key(digest), lambda data: b"wrong")

    with pytest.raises(IntegrityError, match="was changed"):
        bucket.store.local_path(digest)
    assert not any(path.is_file() for path in (bucket.store.blobs.cache.root / "objects").rglob("*"))  # pyright: ignore


def test_a_disk_store_needs_no_boto3() -> None:
    """Most users never see S3; half a second of imports at every command would be theirs to pay."""
    code = "import sys; from dentsight_pipeline.store import objects, gc, memo; print('boto3' in sys.modules)"

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "False"
