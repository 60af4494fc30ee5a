"""Fetch an export from S3, as a folder or as a zip, so that it is there whole or not at all.

What arrives is kept in a `.partial` place until everything is there and has the size and, where S3 gives one, the MD5
that the bucket lists; a cut fetch goes on with the objects that are missing. Reading exports, from S3 or elsewhere,
belongs in `files.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.intake.files import is_whole_zip
from dentsight_pipeline.intake.paths import is_junk, refuse_unsafe_path
from dentsight_pipeline.progress import Progress

_STAGE = "fetching the export from S3"
_CONNECTIONS = 8
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class _Listed:
    """An object as the bucket lists it; `path` is relative to the prefix."""

    key: str
    path: str
    size: int
    etag: str


def fetch_s3_export(uri: str, folder: Path, progress: Progress | None = None, *, client: Any = None) -> Path:
    """Fetch an export and return the local folder or zip.

    Args:
        uri: `s3://bucket/prefix` for a folder of files, or `s3://bucket/path/export.zip`.
        folder: Where it goes; several exports may share it. What an earlier call finished is used again when the
            bucket still lists the same sizes and ETags.
        progress: Told of received bytes.
        client: A boto3 S3 client; by default one from the usual AWS settings.

    Returns:
        `folder/<name>` (a folder) or `folder/<name>.zip`; it appears only when it is whole.

    Raises:
        ConfigurationError: The address is no S3 address.
        DataError: Nothing is there, S3 refuses, a key is no plain relative path, or an object arrives damaged.
    """
    bucket, prefix = parse_address(uri)
    if client is None:
        import boto3

        client = boto3.client("s3")
    is_zip = prefix.endswith(".zip")
    listed = _list(client, uri, bucket, prefix, is_zip)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{Path(prefix).stem or bucket}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
    target = folder / (f"{name}.zip" if is_zip else name)
    with FileLock(folder / f"{name}.lock"):
        listing = folder / f"{name}.listing.json"
        state = json.dumps([asdict(item) for item in listed], sort_keys=True)
        if target.exists() and listing.exists() and listing.read_text() == state:
            return target
        listing.unlink(missing_ok=True)
        partial = folder / f"{name}.partial"
        if target.is_dir() and not partial.exists():
            target.replace(partial)  # an earlier state of the folder: what is unchanged need not be fetched again
        _fetch_all(client, bucket, listed, partial, progress or (lambda stage, done, total: None))
        if is_zip and not is_whole_zip(partial / listed[0].path, lambda stage, done, total: None):
            shutil.rmtree(partial)
            raise DataError(f"{uri} is not a whole zip file. Upload the export again.")
        _publish(partial / listed[0].path if is_zip else partial, target)
        shutil.rmtree(partial, ignore_errors=True)
        listing.write_text(state)
    return target


def parse_address(uri: str) -> tuple[str, str]:
    """Bucket and key or prefix.

    Raises:
        ConfigurationError: It is no address on S3.
    """
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(f"{uri!r} is no address on S3. Write s3://bucket/prefix or s3://bucket/export.zip.")
    return parts.netloc, parts.path.strip("/")


def _list(s3: Any, uri: str, bucket: str, prefix: str, is_zip: bool) -> list[_Listed]:
    """What is to be fetched, sorted by path."""
    found: list[_Listed] = []
    start = prefix if is_zip or not prefix else f"{prefix}/"
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start):
            for item in page.get("Contents", ()):
                key = item["Key"]
                path = Path(key).name if is_zip else key[len(start) :]
                if (is_zip and key != prefix) or not path or path.endswith("/") or is_junk(path):
                    continue
                refuse_unsafe_path(path, f"{uri}, key {key!r}")
                found.append(_Listed(key, path, item["Size"], item["ETag"].strip('"')))
    except DataError:
        raise
    except Exception as error:
        raise _refused(uri, error) from error
    if not found:
        raise DataError(f"There is nothing at {uri}. Check the bucket and the prefix; a zip's name ends in .zip.")
    return sorted(found, key=lambda item: item.path)


def _fetch_all(s3: Any, bucket: str, listed: list[_Listed], partial: Path, progress: Progress) -> None:
    """Make the partial folder hold exactly the listed objects."""
    partial.mkdir(exist_ok=True)
    wanted = {partial / item.path for item in listed}
    for path in sorted(partial.rglob("*"), reverse=True):
        if path.is_file() and path not in wanted:
            path.unlink()
    total, done = sum(item.size for item in listed), 0
    progress(_STAGE, 0, total)
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        running = {pool.submit(_fetch, s3, bucket, item, partial / item.path): item for item in listed}
        try:
            for future in as_completed(running):
                future.result()
                done += running[future].size
                progress(_STAGE, done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fetch(s3: Any, bucket: str, item: _Listed, path: Path) -> None:
    """Fetch one object, unless it is there already; twice when it arrives damaged."""
    if path.exists() and _is_intact(path, item):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_name(path.name + ".part")
    for _ in range(2):
        try:
            s3.download_file(bucket, item.key, str(arriving))
        except Exception as error:
            arriving.unlink(missing_ok=True)
            raise _refused(f"s3://{bucket}/{item.key}", error) from error
        if _is_intact(arriving, item):
            arriving.replace(path)
            return
    arriving.unlink()
    raise DataError(
        f"s3://{bucket}/{item.key} arrives with another size or checksum than the bucket lists. "
        "It may be changing: wait until the upload is done and run this again."
    )


def _is_intact(path: Path, item: _Listed) -> bool:
    """Whether the file has the listed size, and the MD5 where the ETag is one (no multipart or KMS upload)."""
    if path.stat().st_size != item.size:
        return False
    if not _MD5.fullmatch(item.etag):
        return True
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == item.etag


def _publish(finished: Path, target: Path) -> None:
    """Give what is whole its name."""
    if target.is_dir():
        shutil.rmtree(target)
    finished.replace(target)


def _refused(what: str, error: Exception) -> DataError:
    return DataError(f"{what}: S3 refused ({error}). Check the bucket's name, the prefix and your AWS credentials.")
