"""A store on disk and one on moto's real HTTP server, and the means to damage what they hold."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import boto3
import pytest
from moto.core.utils import utcnow
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.s3.models import s3_backends

from dentsight_pipeline.store import objects


class Place(Protocol):
    """A store seen from below: what a failing disk or a careless person could do to it."""

    store: objects.Store

    def overwrite(self, key: str, change: Callable[[bytes], bytes]) -> None: ...
    def delete(self, key: str) -> None: ...
    def age(self, key: str, seconds: float) -> None: ...
    def keys(self) -> list[str]: ...


class DiskPlace:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = objects.open_store(root)

    def overwrite(self, key: str, change: Callable[[bytes], bytes]) -> None:
        path = self.root / key
        data = change(path.read_bytes())
        path.unlink()
        path.write_bytes(data)

    def delete(self, key: str) -> None:
        (self.root / key).unlink()

    def age(self, key: str, seconds: float) -> None:
        then = time.time() - seconds
        os.utime(self.root / key, (then, then))

    def keys(self) -> list[str]:
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(key for key in found if not key.startswith("locks/"))


class BucketPlace:
    """A bucket on moto's HTTP server."""

    def __init__(self, bucket: str, prefix: str, cache: Path) -> None:
        self.bucket, self.prefix = bucket, prefix
        self.client: Any = boto3.client("s3")
        self.client.create_bucket(Bucket=bucket)
        self.store = objects.open_store(f"s3://{bucket}/{prefix}", cache=cache)

    def overwrite(self, key: str, change: Callable[[bytes], bytes]) -> None:
        name = f"{self.prefix}/{key}"
        data = self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
        self.client.put_object(Bucket=self.bucket, Key=name, Body=change(data))

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")

    def age(self, key: str, seconds: float) -> None:
        held = s3_backends["123456789012"]["aws"].buckets[self.bucket].keys[f"{self.prefix}/{key}"]
        past = datetime.fromtimestamp(time.time() - seconds, UTC)
        held.last_modified = past.replace(tzinfo=utcnow().tzinfo)

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        names = (item["Key"].removeprefix(f"{self.prefix}/") for item in found)
        return sorted(name for name in names if not name.startswith("locks/"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a real HTTP server that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The standard AWS settings, as a user would give them."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))


@pytest.fixture
def disk(tmp_path: Path) -> DiskPlace:
    """An empty store in a folder."""
    return DiskPlace(tmp_path / "store")


@pytest.fixture
def bucket(aws_environment: None, tmp_path: Path) -> BucketPlace:
    """An empty store in a bucket of its own."""
    return BucketPlace(f"test-{uuid.uuid4().hex}", "team/store", tmp_path / "cache")


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest) -> Place:
    """Every promise of the store is kept on both."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def store(place: Place) -> objects.Store:
    """An empty store, once in a folder and once in a bucket."""
    return place.store
