"""Fetching an export from S3, against moto's real HTTP server."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.intake.s3 import fetch_s3_export

FILES = {
    "README.roboflow.txt": b"OPG REPORTING - v8",
    "train/_annotations.coco.json": b"{}",
    "train/a.jpg": b"\xff\xd8" + bytes(5000),
    "test/b.jpg": b"\xff\xd8" + bytes(7000),
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of a running S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client with an empty bucket `exports`, found through the usual AWS settings."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="exports")
    for item in client.list_objects_v2(Bucket="exports").get("Contents", []):
        client.delete_object(Bucket="exports", Key=item["Key"])
    return client


def upload(s3: Any, prefix: str = "opg/v8", files: dict[str, bytes] | None = None) -> None:
    """Put the export into the bucket."""
    for path, data in (files or FILES).items():
        s3.put_object(Bucket="exports", Key=f"{prefix}/{path}", Body=data)


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Flaky:
    """A client that fails or damages some downloads, and counts them."""

    def __init__(self, s3: Any, fail_on: str = "", damage: str = "") -> None:
        self._s3, self.fail_on, self.damage = s3, fail_on, damage
        self.fetched: list[str] = []

    def get_paginator(self, name: str) -> Any:
        """List as the real one does."""
        return self._s3.get_paginator(name)

    def download_file(self, bucket: str, key: str, path: str) -> None:
        """Download, or not."""
        self.fetched.append(key)
        if self.fail_on and key.endswith(self.fail_on):
            Path(path).write_bytes(b"half")
            raise ConnectionError("connection lost")
        self._s3.download_file(bucket, key, path)
        if self.damage and key.endswith(self.damage):
            data = bytearray(Path(path).read_bytes())
            data[-1] ^= 1
            Path(path).write_bytes(data)


def test_a_prefix_becomes_a_folder_and_progress_is_told(s3: Any, tmp_path: Path) -> None:
    """What operating systems leave behind stays there; bytes are counted to the total."""
    upload(s3, files={**FILES, "__MACOSX/x": b"junk", "train/.DS_Store": b"junk"})
    reports: list[tuple[str, int, int]] = []

    folder = fetch_s3_export("s3://exports/opg/v8/", tmp_path, lambda *report: reports.append(report))

    total = sum(map(len, FILES.values()))
    assert content(folder) == FILES
    assert reports[0] == ("fetching the export from S3", 0, total)
    assert reports[-1] == ("fetching the export from S3", total, total)


def test_a_neighbouring_prefix_is_not_part_of_the_export(s3: Any, tmp_path: Path) -> None:
    """`opg/v8` must not bring `opg/v80` along."""
    upload(s3)
    upload(s3, "opg/v80", {"other.txt": b"other"})

    assert content(fetch_s3_export("s3://exports/opg/v8", tmp_path)) == FILES


def test_a_zip_object_becomes_a_zip(s3: Any, tmp_path: Path) -> None:
    """Roboflow's download, put into a bucket as it is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train/a.jpg", b"x" * 5000)
    s3.put_object(Bucket="exports", Key="opg.zip", Body=buffer.getvalue())

    path = fetch_s3_export("s3://exports/opg.zip", tmp_path)

    assert path.suffix == ".zip"
    assert path.read_bytes() == buffer.getvalue()


def test_a_damaged_zip_is_refused_and_not_visible(s3: Any, tmp_path: Path) -> None:
    """An upload that was cut is a valid object and no valid zip."""
    s3.put_object(Bucket="exports", Key="opg.zip", Body=b"PK\x03\x04 cut")

    with pytest.raises(DataError, match="not a whole zip"):
        fetch_s3_export("s3://exports/opg.zip", tmp_path)

    assert not list(tmp_path.glob("*.zip"))


def test_a_cut_fetch_shows_nothing_and_goes_on_with_what_is_missing(s3: Any, tmp_path: Path) -> None:
    """Two thousand images over a bad line must not start over, nor look finished."""
    upload(s3)
    with pytest.raises(DataError, match=r"train/a\.jpg: S3 refused \(connection lost\)"):
        fetch_s3_export("s3://exports/opg/v8", tmp_path, client=Flaky(s3, fail_on="train/a.jpg"))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [
        path.name for path in tmp_path.glob("*.partial")
    ]

    second = Flaky(s3)
    folder = fetch_s3_export("s3://exports/opg/v8", tmp_path, client=second)

    assert content(folder) == FILES
    assert "opg/v8/train/a.jpg" in second.fetched
    assert not list(tmp_path.glob("*.partial"))


def test_a_finished_fetch_is_used_again_until_the_bucket_changes(s3: Any, tmp_path: Path) -> None:
    """Only what changed is fetched; what was deleted disappears."""
    upload(s3)
    first = fetch_s3_export("s3://exports/opg/v8", tmp_path)
    unchanged = Flaky(s3)
    assert fetch_s3_export("s3://exports/opg/v8", tmp_path, client=unchanged) == first
    assert unchanged.fetched == []

    s3.put_object(Bucket="exports", Key="opg/v8/test/b.jpg", Body=b"\xff\xd8" + b"1" * 7000)
    s3.delete_object(Bucket="exports", Key="opg/v8/train/a.jpg")
    changed = Flaky(s3)
    folder = fetch_s3_export("s3://exports/opg/v8", tmp_path, client=changed)

    assert changed.fetched == ["opg/v8/test/b.jpg"]
    assert set(content(folder)) == set(FILES) - {"train/a.jpg"}


def test_an_object_that_arrives_damaged_is_refused(s3: Any, tmp_path: Path) -> None:
    """The size is right; only the MD5 that the bucket lists can tell."""
    upload(s3)

    with pytest.raises(DataError, match="another size or checksum"):
        fetch_s3_export("s3://exports/opg/v8", tmp_path, client=Flaky(s3, damage="test/b.jpg"))


def test_a_key_that_climbs_out_of_the_folder_is_refused(s3: Any, tmp_path: Path) -> None:
    """S3 keys may hold `..`; a folder must not."""
    upload(s3)
    s3.put_object(Bucket="exports", Key="opg/v8/train/../../../evil.txt", Body=b"x")

    with pytest.raises(DataError, match="leaves its folder"):
        fetch_s3_export("s3://exports/opg/v8", tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_an_empty_prefix_a_missing_bucket_and_a_wrong_address_are_named(s3: Any, tmp_path: Path) -> None:
    """Each of the three is a typing error with its own remedy."""
    with pytest.raises(DataError, match="There is nothing at s3://exports/nowhere"):
        fetch_s3_export("s3://exports/nowhere", tmp_path)
    with pytest.raises(DataError, match="s3://no-such-bucket/x: S3 refused"):
        fetch_s3_export("s3://no-such-bucket/x", tmp_path)
    with pytest.raises(ConfigurationError, match="is no address on S3"):
        fetch_s3_export("s3:///x", tmp_path)
