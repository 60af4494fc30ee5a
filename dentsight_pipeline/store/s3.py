"""An S3 bucket as the place that keeps bytes, through boto3's managed transfers and conditional writes.

Credentials, region and endpoint come from the standard AWS environment and files (`AWS_PROFILE`,
`AWS_ENDPOINT_URL_S3`, …), never from this project's settings. S3 shows an object whole or not at all and is strongly
consistent; what it does not have is a lock, so collections announce themselves (see `publish` and `collecting`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any

import boto3
import boto3.session
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
from dentsight_pipeline.store.blobs import BLOCK_BYTES, IN_MEMORY_BYTES, Stat
from dentsight_pipeline.store.local import DAMAGED_REMEDY, LocalBlobs, hash_file

REFRESH_AFTER_SECONDS = 3600.0
"""An object that is put again is copied onto itself, and so made young for `gc`, once it is older than this."""

LEASE_SECONDS = 300.0
"""A collection that has not renewed its announcement for so long is taken for dead."""

_COPY_LIMIT_BYTES = 5 << 30
_READ_ATTEMPTS = 3
_POLL_SECONDS = 0.5
_GONE = {"404", "NoSuchKey", "NotFound"}
_LOCK_KEY = "locks/gc.json"
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


@dataclass(frozen=True, slots=True)
class _Collector:
    """The announcement of a collection: who announced last, and whether it still runs."""

    token: str | None
    held: bool
    etag: str | None


class S3Blobs:
    """Keys below a prefix of a bucket, with a folder of verified local copies.

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

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: a client and its sockets belong to one process."""
        return {"bucket": self.bucket, "prefix": self.prefix, "cache": self.cache.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["bucket"], state["prefix"], state["cache"])

    # Reading ---------------------------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes | None:
        """All bytes of a key, or None when there is none."""
        found = self._download(key, lambda body: body.read())
        return None if found is None else found[0]

    def sha256(self, key: str) -> tuple[str, int] | None:
        """The sha256 (hex) and size that the bucket's bytes really have, streamed; None when there is none."""
        found = self._download(key, _hash_stream)
        return None if found is None else found[0]

    def stat(self, key: str) -> Stat | None:
        """Size and age of a key, or None."""
        head = self._head(key)
        return None if head is None else Stat(head["ContentLength"], head["LastModified"].timestamp())

    def now(self) -> float:
        """Unix seconds by the bucket's clock."""
        with self._refusals("look up", _LOCK_KEY):
            try:
                answer = self._client().head_object(Bucket=self.bucket, Key=self._key(_LOCK_KEY))
            except ClientError as error:
                if _code(error) not in _GONE:
                    raise
                answer = error.response
        return _server_time(answer)

    def scan(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """All keys under a prefix that ends in `/`, in byte order."""
        start = len(self._key(""))
        for page in self._pages("list_objects_v2", Prefix=self._key(prefix)):
            for item in page.get("Contents", ()):
                yield item["Key"][start:], Stat(item["Size"], item["LastModified"].timestamp())

    def local_path(self, key: str, digest: str) -> Path | None:
        """A verified file of the cache; fetched when it is not there or is damaged there."""
        cached = self.cache.sha256(key)
        if cached is not None and cached[0] == digest:
            return self.cache.root / key
        with self.cache.temporary() as file:
            with self._refusals("read", key):
                try:
                    self._client().download_file(self.bucket, self._key(key), str(file), Config=_TRANSFERS)
                except ClientError as error:
                    if _code(error) in _GONE:
                        return None
                    raise
            found, _ = hash_file(file)
            if found != digest:
                raise IntegrityError(f"Object {key} of {self.uri}", digest, found, DAMAGED_REMEDY)
            self.cache.adopt(file, key)
        return self.cache.root / key

    # Writing ---------------------------------------------------------------------------------------------------------

    def touch(self, key: str, size: int) -> bool:
        """Make an existing key of this size young again (once it is an hour old); False when there is none."""
        head = self._head(key)
        if head is None or head["ContentLength"] != size:
            return False
        if _server_time(head) - head["LastModified"].timestamp() <= REFRESH_AFTER_SECONDS:
            return True
        if size >= _COPY_LIMIT_BYTES:
            return False
        with self._refusals("refresh", key):
            try:
                self._client().copy_object(
                    Bucket=self.bucket,
                    Key=self._key(key),
                    CopySource={"Bucket": self.bucket, "Key": self._key(key)},
                    MetadataDirective="REPLACE",
                )
            except ClientError as error:
                if _code(error) in _GONE:
                    return False
                raise
        return True

    def write(self, key: str, data: bytes) -> None:
        """Create or replace a key; the bucket checks the SHA-256 before it shows the object."""
        with self._refusals("write", key):
            if len(data) > IN_MEMORY_BYTES:
                extra = {"ChecksumAlgorithm": "SHA256"}
                target = self._key(key)
                self._client().upload_fileobj(io.BytesIO(data), self.bucket, target, ExtraArgs=extra, Config=_TRANSFERS)
            else:
                self._put(key, data)

    def temporary(self) -> AbstractContextManager[Path]:
        """The path of a private file in the cache."""
        return self.cache.temporary()

    def adopt(self, file: Path, key: str) -> None:
        """Upload a private file, then keep it as the local copy."""
        with self._refusals("write", key):
            extra = {"ChecksumAlgorithm": "SHA256"}
            self._client().upload_file(str(file), self.bucket, self._key(key), ExtraArgs=extra, Config=_TRANSFERS)
        self.cache.adopt(file, key)

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Write only if the key's bytes are still `expected`, by S3's conditional writes."""
        while True:
            found = self._download(key, lambda body: body.read())
            if (found[0] if found else None) != expected:
                return False
            condition = {"IfMatch": found[1]} if found else {"IfNoneMatch": "*"}
            try:
                with self._refusals("write", key):
                    self._put(key, data, **condition)
                return True
            except StorageError as refusal:
                cause = refusal.__cause__
                if not isinstance(cause, ClientError):
                    raise
                if _code(cause) == "ConditionalRequestConflict" or _status(cause) == 409:
                    continue  # two writers in the same instant: S3 asks both to look again
                if _status(cause) not in (404, 412):
                    raise
                # A first answer that got lost made boto3 try again: then the bytes found are our own.
                retried = cause.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
                return retried and self.read(key) == data

    def overwrite(self, key: str, data: bytes) -> None:
        """Like `write`: the condition of a `swap` is checked by the bucket at the very moment of its write."""
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
        token = uuid.uuid4().hex
        self._announce(token)
        renewed = time.monotonic()

        def still_mine() -> None:
            nonlocal renewed
            if time.monotonic() - renewed < LEASE_SECONDS / 10:
                return
            mine = self._collector()
            in_time = time.monotonic() - renewed < LEASE_SECONDS / 2
            if not (in_time and mine.token == token and self._swap_lock(token, True, mine.etag)):
                raise StorageError(f"The collection of {self.uri} paused too long and lost its right. Run it again.")
            renewed = time.monotonic()

        try:
            yield still_mine
        finally:
            mine = self._collector()
            if mine.token == token:
                self._swap_lock(token, False, mine.etag)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove keys; one that is already gone is no error."""
        remaining = iter(keys)
        while batch := list(islice(remaining, 1000)):
            with self._refusals("remove", batch[0]):
                answer = self._client().delete_objects(
                    Bucket=self.bucket, Delete={"Objects": [{"Key": self._key(k)} for k in batch], "Quiet": True}
                )
            if answer.get("Errors"):
                first = answer["Errors"][0]
                remedy = _REMEDIES.get(first.get("Code", ""), "Run again.")
                raise StorageError(f"Cannot remove {first.get('Key')} of {self.uri}: {first.get('Code')}. {remedy}")

    def leftovers(self) -> Iterator[tuple[str, Stat]]:
        """Unfinished multipart uploads in the bucket, and temporary files in the cache."""
        for page in self._pages("list_multipart_uploads", Prefix=self._key("")):
            for upload in page.get("Uploads", ()):
                started: datetime = upload["Initiated"]
                yield f"upload {upload['UploadId']} {upload['Key']}", Stat(0, started.timestamp())
        for name, stat in self.cache.leftovers():
            yield f"cache {name}", stat

    def remove_leftovers(self, names: Iterable[str]) -> None:
        """Remove what `leftovers` named."""
        for name in names:
            kind, _, rest = name.partition(" ")
            if kind == "cache":
                self.cache.remove_leftovers([rest])
                continue
            upload, _, key = rest.partition(" ")
            with self._refusals("abort the upload of", key):
                try:
                    self._client().abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
                except ClientError as error:
                    if _code(error) not in {"NoSuchUpload", *_GONE}:
                        raise

    def _collector(self) -> _Collector:
        found = self._download(_LOCK_KEY, lambda body: json.loads(body.read()))
        if found is None:
            return _Collector(None, False, None)
        document, etag, age_seconds = found
        return _Collector(document["token"], document["held"] and age_seconds < LEASE_SECONDS, etag)

    def _announce(self, token: str) -> None:
        current = self._collector()
        if current.held or not self._swap_lock(token, True, current.etag):
            raise StorageError(f"Another collection of {self.uri} is running. Wait for its end, then run again.")

    def _swap_lock(self, token: str, held: bool, etag: str | None) -> bool:
        # The time is there to change the bytes, and so the ETag, with every renewal.
        data = json.dumps({"token": token, "held": held, "written": time.time()}).encode()
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            with self._refusals("lock", _LOCK_KEY):
                self._put(_LOCK_KEY, data, **condition)
        except StorageError as refusal:
            if isinstance(refusal.__cause__, ClientError) and _status(refusal.__cause__) in (404, 409, 412):
                return self.read(_LOCK_KEY) == data
            raise
        return True

    # boto3 -----------------------------------------------------------------------------------------------------------

    def _client(self) -> Any:
        with self._making:
            if os.getpid() not in self._clients:
                config = Config(
                    retries={"mode": "standard", "total_max_attempts": 6},
                    connect_timeout=10,
                    read_timeout=60,
                    max_pool_connections=32,
                )
                with self._refusals("connect to", ""):
                    self._clients[os.getpid()] = boto3.session.Session().client("s3", config=config)
            return self._clients[os.getpid()]

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _put(self, key: str, data: bytes, **condition: str) -> None:
        checksum = b64encode(hashlib.sha256(data).digest()).decode()
        self._client().put_object(
            Bucket=self.bucket, Key=self._key(key), Body=data, ChecksumSHA256=checksum, **condition
        )

    def _head(self, key: str) -> Any | None:
        with self._refusals("look up", key):
            try:
                return self._client().head_object(Bucket=self.bucket, Key=self._key(key))
            except ClientError as error:
                if _code(error) in _GONE:
                    return None
                raise

    def _download(self, key: str, consume: Callable[[Any], Any]) -> tuple[Any, str, float] | None:
        """What `consume` makes of a key's body, its ETag and its age in seconds; a cut answer is asked for again."""
        with self._refusals("read", key):
            for attempt in range(_READ_ATTEMPTS):
                try:
                    answer = self._client().get_object(Bucket=self.bucket, Key=self._key(key))
                except ClientError as error:
                    if _code(error) in _GONE:
                        return None
                    raise
                try:
                    age = _server_time(answer) - answer["LastModified"].timestamp()
                    return consume(answer["Body"]), answer["ETag"], age
                except (HTTPError, HTTPClientError, IncompleteReadError, FlexibleChecksumError, OSError):
                    if attempt == _READ_ATTEMPTS - 1:
                        raise
                    time.sleep(0.2 * 2**attempt)
        return None

    def _pages(self, operation: str, **arguments: Any) -> Iterator[Any]:
        with self._refusals("list", arguments["Prefix"]):
            yield from self._client().get_paginator(operation).paginate(Bucket=self.bucket, **arguments)

    @contextmanager
    def _refusals(self, act: str, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = _code(error)
            remedy = _REMEDIES.get(code, "Run again; if it stays, look the code up at the bucket's provider.")
            raise StorageError(f"Cannot {act} {key} of {self.uri}: the bucket answered {code}. {remedy}") from error
        except NoCredentialsError as error:
            remedy = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the environment."
            raise StorageError(f"Cannot {act} {key} of {self.uri}: no AWS credentials were found. {remedy}") from error
        except (BotoCoreError, Boto3Error, HTTPError, OSError) as error:
            remedy = "Check the network, AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION, then run again."
            raise StorageError(f"Cannot {act} {key} of {self.uri}: {type(error).__name__}. {remedy}") from error


def _hash_stream(body: Any) -> tuple[str, int]:
    hasher, size = hashlib.sha256(), 0
    for block in body.iter_chunks(BLOCK_BYTES):
        hasher.update(block)
        size += len(block)
    return hasher.hexdigest(), size


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "an unknown error"))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _server_time(answer: Any) -> float:
    """Unix seconds by the bucket's clock, which is the clock of `LastModified` too."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date).timestamp() if date else time.time()
