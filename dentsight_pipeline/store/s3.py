"""An S3 bucket as the place that keeps bytes, through boto3's managed transfers and conditional writes.

Credentials, region and endpoint come from the standard AWS environment and files (`AWS_PROFILE`,
`AWS_ENDPOINT_URL_S3`, …), never from this project's settings. S3 shows an object whole or not at all and is strongly
consistent; what it does not have is a lock, so collections announce themselves (see `publish` and `collecting`).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import boto3.session
import msgspec
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
)
from urllib3.exceptions import HTTPError

from dentsight_pipeline.errors import ConfigurationError, IntegrityError, StorageError
from dentsight_pipeline.store.blobs import BLOCK_BYTES, DAMAGED_REMEDY, IN_MEMORY_BYTES, Blobs, Stat
from dentsight_pipeline.store.local import LocalBlobs, hash_file, hash_stream

REFRESH_AFTER_SECONDS = 3600.0
"""An object that is put again is copied onto itself, and so made young for `gc`, once it is older than this."""

LEASE_SECONDS = 300.0
"""A collection that has not renewed its announcement for so long is taken for dead."""

T = TypeVar("T")
_COPY_LIMIT_BYTES = 5 << 30
_READ_ATTEMPTS = 3
_POLL_SECONDS = 0.5
_GONE = {"404", "NoSuchKey", "NotFound", "NoSuchUpload"}
_LOCK_KEY = "locks/gc.json"
_CHECKED = {"ChecksumAlgorithm": "SHA256"}
_CLIENT = Config(
    retries={"mode": "standard", "total_max_attempts": 6}, connect_timeout=10, read_timeout=60, max_pool_connections=32
)
_TRANSFERS = TransferConfig(
    multipart_threshold=IN_MEMORY_BYTES, multipart_chunksize=16 << 20, max_concurrency=4, io_chunksize=BLOCK_BYTES
)
_REMEDIES = {
    "NoSuchBucket": "Make the bucket, or correct the store's URI.",
    "AccessDenied": "Give this account s3:GetObject, PutObject, DeleteObject, ListBucket and multipart rights there.",
    "403": "Check the credentials (`aws sts get-caller-identity`) and the bucket's policy.",
    "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID, or AWS_PROFILE.",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY and the clock of this machine.",
    "SlowDown": "The bucket is busy; run again, what was stored stays stored.",
}


class _Announcement(msgspec.Struct, frozen=True):
    """What a collection writes under `locks/gc.json`."""

    token: str
    """Who announced last."""
    held: bool
    """Whether it ran when it wrote this."""
    written: float
    """Changes the bytes, and so the ETag, with every renewal."""


class _Collector(msgspec.Struct, frozen=True):
    """The newest announcement of a collection, and whether it still runs."""

    token: str | None = None
    held: bool = False
    etag: str | None = None


class S3Blobs(Blobs):
    """Keys below a prefix of a bucket, with a folder of verified local copies; what its methods promise: `Blobs`.

    Args:
        bucket: The bucket.
        prefix: Keys start with this and `/`; empty for the whole bucket.
        cache: The folder of verified local copies; it may be removed at any time.
    """

    lookup_threads = 16

    def __init__(self, bucket: str, prefix: str, cache: Path) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self.cache = LocalBlobs(cache)
        self._clients: dict[int, Any] = {}
        self._making = threading.Lock()

    @classmethod
    def from_uri(cls, uri: str, cache: Path | None = None) -> S3Blobs:
        """Parse `s3://bucket/prefix`.

        Raises:
            ConfigurationError: Not such a URI.
        """
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", uri)
        prefix = (match.group(2) or "").rstrip("/") if match else ""
        parts = prefix.split("/") if prefix else []
        if not match or any(not re.fullmatch(r"[A-Za-z0-9_=+@-][A-Za-z0-9_.=+@-]*", part) for part in parts):
            raise ConfigurationError(
                f"{uri!r} is not a bucket and prefix. Give s3://bucket/prefix with a bucket of lower-case letters, "
                "digits, dots and hyphens, and a prefix of words joined by '/'."
            )
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dentsight"
        return cls(match.group(1), prefix, cache or default)

    def __reduce__(self) -> tuple[type[S3Blobs], tuple[str, str, Path]]:
        """For worker processes: a client and its sockets belong to one process."""
        return S3Blobs, (self.bucket, self.prefix, self.cache.root)

    # Reading ---------------------------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes | None:
        found = self._download(key, lambda body: body.read())
        return None if found is None else found[0]

    def sha256(self, key: str) -> tuple[str, int] | None:
        found = self._download(key, hash_stream)
        return None if found is None else found[0]

    def stat(self, key: str) -> Stat | None:
        head = self._head(key)
        return None if head is None else Stat(head["ContentLength"], head["LastModified"].timestamp())

    def now(self) -> float:
        with self._refusals("look up", _LOCK_KEY):
            lock = self._key(_LOCK_KEY)
            return _server_time(self._client().list_objects_v2(Bucket=self.bucket, Prefix=lock, MaxKeys=1))

    def scan(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        start = len(self._key(""))
        for page in self._pages("list_objects_v2", self._key(prefix)):
            for item in page.get("Contents", ()):
                yield item["Key"][start:], Stat(item["Size"], item["LastModified"].timestamp())

    def local_path(self, key: str, digest: str) -> Path | None:
        """A verified file of the cache; fetched when it is not there or is damaged there."""
        cached = self.cache.sha256(key)
        if cached is not None and cached[0] == digest:
            return self.cache.root / key
        with self.cache.temporary() as file:
            if not self._ask("read", key, lambda client: _fetched(client, self._at(key), file)):
                return None
            found, _ = hash_file(file)
            if found != digest:
                raise IntegrityError(f"Object {key} of {self.uri}", digest, found, DAMAGED_REMEDY)
            self.cache.adopt(file, key)
        return self.cache.root / key

    # Writing ---------------------------------------------------------------------------------------------------------

    def touch(self, key: str, size: int) -> bool:
        """Copy an object onto itself once it is an hour old: no bytes travel."""
        head = self._head(key)
        if head is None or head["ContentLength"] != size:
            return False
        if _server_time(head) - head["LastModified"].timestamp() <= REFRESH_AFTER_SECONDS:
            return True
        if size >= _COPY_LIMIT_BYTES:
            return False
        at = self._at(key)
        copied = self._ask(
            "refresh", key, lambda client: client.copy_object(**at, CopySource=at, MetadataDirective="REPLACE")
        )
        return copied is not None

    def write(self, key: str, data: bytes) -> None:
        """The bucket checks the SHA-256 before it shows the object."""
        with self._refusals("write", key):
            if len(data) <= IN_MEMORY_BYTES:
                self._put(key, data)
            else:
                upload = self._client().upload_fileobj
                upload(io.BytesIO(data), **self._at(key), ExtraArgs=_CHECKED, Config=_TRANSFERS)

    def temporary(self) -> AbstractContextManager[Path]:
        return self.cache.temporary()

    def adopt(self, file: Path, key: str) -> None:
        """Upload a private file, then keep it as the local copy."""
        with self._refusals("write", key):
            self._client().upload_file(str(file), **self._at(key), ExtraArgs=_CHECKED, Config=_TRANSFERS)
        self.cache.adopt(file, key)

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """By S3's conditional writes."""
        while True:
            found = self._download(key, lambda body: body.read())
            if (found[0] if found else None) != expected:
                return False
            refusal = self._put_if(key, data, found[1] if found else None)
            if refusal is None:
                return True
            if _status(refusal) == 409:
                continue  # two writers in the same instant: S3 asks both to look again
            # A first answer that got lost made boto3 try again: then the bytes found are our own.
            retried = refusal.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
            return retried and self.read(key) == data

    def overwrite(self, key: str, data: bytes) -> None:
        """The condition of a `swap` is checked by the bucket at the very moment of its write."""
        self.write(key, data)

    def publish(self, key: str, data: bytes, check: Callable[[], None]) -> None:
        """Write a manifest, and look again whether a collection has run meanwhile.

        A collection announces itself before it lists the manifests. So either it sees this manifest, or this
        writer sees its announcement, waits for its end, and takes the manifest back if an object was removed.
        """
        before = self._collector()
        check()
        created = self.stat(key) is None
        self.write(key, data)
        after = self._collector()
        if before == after and not after.held:
            return
        while self._collector().held:
            time.sleep(_POLL_SECONDS)
        try:
            check()
        except IntegrityError:
            if created:
                self.remove([key])
            raise

    # Collecting ------------------------------------------------------------------------------------------------------

    @contextmanager
    def collecting(self) -> Iterator[Callable[[], None]]:
        """Announce a collection, and renew the announcement as long as it runs.

        The right is lost when it was not renewed for half of `LEASE_SECONDS`; no removal is started then.
        """
        token, current = uuid.uuid4().hex, self._collector()
        if current.held or not self._announce(token, True, current.etag):
            raise StorageError(f"Another collection of {self.uri} is running. Wait for its end, then run again.")
        renewed = time.monotonic()

        def still_mine() -> None:
            nonlocal renewed
            if time.monotonic() - renewed < LEASE_SECONDS / 10:
                return
            mine = self._collector()
            in_time = time.monotonic() - renewed < LEASE_SECONDS / 2
            if not (in_time and mine.token == token and self._announce(token, True, mine.etag)):
                raise StorageError(f"The collection of {self.uri} paused too long and lost its right. Run it again.")
            renewed = time.monotonic()

        try:
            yield still_mine
        finally:
            mine = self._collector()
            if mine.token == token:
                self._announce(token, False, mine.etag)

    def _collector(self) -> _Collector:
        found = self._download(_LOCK_KEY, lambda body: msgspec.json.decode(body.read(), type=_Announcement))
        if found is None:
            return _Collector()
        said, etag, age_seconds = found
        return _Collector(said.token, said.held and age_seconds < LEASE_SECONDS, etag)

    def _announce(self, token: str, held: bool, etag: str | None) -> bool:
        data = msgspec.json.encode(_Announcement(token, held, time.time()))
        return self._put_if(_LOCK_KEY, data, etag) is None or self.read(_LOCK_KEY) == data

    def remove(self, keys: Iterable[str]) -> None:
        remaining = iter(keys)
        while batch := list(islice(remaining, 1000)):
            doomed = {"Objects": [{"Key": self._key(key)} for key in batch], "Quiet": True}
            with self._refusals("remove", batch[0]):
                answer = self._client().delete_objects(Bucket=self.bucket, Delete=doomed)
            for refused in answer.get("Errors", ()):
                code = refused.get("Code", "")
                remedy = _REMEDIES.get(code, "Run again.")
                raise StorageError(f"Cannot remove {refused.get('Key')} of {self.uri}: {code}. {remedy}")

    def leftovers(self) -> Iterator[tuple[str, Stat]]:
        """Unfinished multipart uploads in the bucket, and temporary files in the cache."""
        for page in self._pages("list_multipart_uploads", self._key("")):
            for upload in page.get("Uploads", ()):
                yield f"upload {upload['UploadId']} {upload['Key']}", Stat(0, upload["Initiated"].timestamp())
        for name, stat in self.cache.leftovers():
            yield f"cache {name}", stat

    def remove_leftovers(self, names: Iterable[str]) -> None:
        for kind, _, rest in (name.partition(" ") for name in names):
            if kind == "cache":
                self.cache.remove_leftovers([rest])
            else:
                self._abort(*rest.split(" ", 1))

    def _abort(self, upload: str, key: str) -> None:
        at = {"Bucket": self.bucket, "Key": key, "UploadId": upload}
        self._ask("abort the upload of", key, lambda client: client.abort_multipart_upload(**at))

    # boto3 -----------------------------------------------------------------------------------------------------------

    def _client(self) -> Any:
        with self._making:
            if os.getpid() not in self._clients:
                with self._refusals("connect to", ""):
                    self._clients[os.getpid()] = boto3.session.Session().client("s3", config=_CLIENT)
            return self._clients[os.getpid()]

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(key)}

    def _ask(self, act: str, key: str, request: Callable[[Any], T]) -> T | None:
        """The bucket's answer, or None when it has no such key."""
        with self._refusals(act, key):
            try:
                return request(self._client())
            except ClientError as error:
                if _code(error) in _GONE:
                    return None
                raise

    def _head(self, key: str) -> Any | None:
        return self._ask("look up", key, lambda client: client.head_object(**self._at(key)))

    def _put(self, key: str, data: bytes, **condition: str) -> None:
        checksum = b64encode(hashlib.sha256(data).digest()).decode()
        self._client().put_object(**self._at(key), Body=data, ChecksumSHA256=checksum, **condition)

    def _put_if(self, key: str, data: bytes, etag: str | None) -> ClientError | None:
        """Put where the key's ETag is still this one (None: where there is no such key), or give the refusal."""
        with self._refusals("write", key):
            try:
                self._put(key, data, **({"IfMatch": etag} if etag else {"IfNoneMatch": "*"}))
            except ClientError as error:
                if _status(error) in (409, 412) or _code(error) in _GONE:
                    return error
                raise
        return None

    def _download(self, key: str, consume: Callable[[Any], T]) -> tuple[T, str, float] | None:
        """What `consume` makes of a key's body, its ETag and its age in seconds; a cut answer is asked for again."""
        for attempt in range(_READ_ATTEMPTS):
            answer = self._ask("read", key, lambda client: client.get_object(**self._at(key)))
            if answer is None:
                return None
            with self._refusals("read", key):
                try:
                    age = _server_time(answer) - answer["LastModified"].timestamp()
                    return consume(answer["Body"]), answer["ETag"], age
                except (HTTPError, HTTPClientError, IncompleteReadError, FlexibleChecksumError, OSError):
                    if attempt == _READ_ATTEMPTS - 1:
                        raise
            time.sleep(0.2 * 2**attempt)
        return None

    def _pages(self, operation: str, prefix: str) -> Iterator[Any]:
        with self._refusals("list", prefix):
            yield from self._client().get_paginator(operation).paginate(Bucket=self.bucket, Prefix=prefix)

    @contextmanager
    def _refusals(self, act: str, key: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, Boto3Error, ClientError, HTTPError, OSError) as error:
            cause, remedy = _cause(error)
            raise StorageError(f"Cannot {act} {key} of {self.uri}: {cause}. {remedy}") from error


def _cause(error: Exception) -> tuple[str, str]:
    """Why the bucket could not be used, and what to do, in words."""
    if isinstance(error, ClientError):
        remedy = _REMEDIES.get(_code(error), "Run again; if it stays, look the code up at the bucket's provider.")
        return f"the bucket answered {_code(error)}", remedy
    if isinstance(error, NoCredentialsError):
        remedy = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the environment."
        return "no AWS credentials were found", remedy
    return type(error).__name__, "Check the network, AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION, then run again."


def _fetched(client: Any, at: dict[str, str], file: Path) -> bool:
    client.download_file(**at, Filename=str(file), Config=_TRANSFERS)
    return True


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "an unknown error"))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _server_time(answer: Any) -> float:
    """Unix seconds by the bucket's clock, which is the clock of `LastModified` too."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date).timestamp() if date else time.time()
