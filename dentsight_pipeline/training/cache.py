"""Letterboxed images as one memory-mapped array: decoding and resizing are paid once, not once an epoch.

A cache is a folder `<key>/` with `images.npy`, [n, height, width] uint8 gray values. Its key is the digest of the
images' digests, their order and the canvas size, so that a cache can never belong to other data, and several trainings
may share one. It is built beside its place and moved there in one piece. It is never an input to anything: deleting it
costs time only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.errors import StorageError
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import letterbox
from dentsight_pipeline.training.dataset import LabelledImages

FILE = "images.npy"
LAYOUT = "dentsight-letterbox-cache/1"
"""Part of every key; changes when the same images would give other bytes."""


def key(digests: Sequence[str], canvas_size: tuple[int, int]) -> str:
    """The cache's name: sha256 (hex) of layout, canvas size and the images' digests in order."""
    content = {"layout": LAYOUT, "canvas": list(canvas_size), "images": list(digests)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_or_build(
    folder: Path,
    store: Store,
    images: LabelledImages,
    canvas_size: tuple[int, int],
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """The letterboxed images, from the cache where it exists, built first where it does not.

    Args:
        folder: Holds one folder a cache.
        store: Where the images' bytes are.
        images: In the order of the result.
        canvas_size: (width, height) in pixels.
        progress: Called with (images done, images in all) while building.
        threads: Decoding threads; None = one a core.

    Returns:
        [n, height, width] uint8, memory-mapped and read-only.

    Raises:
        DataError: An image cannot be decoded or has another size than its record.
        StorageError: The disk is full; nothing half-written stays behind.
    """
    place = folder / key(images.digests, canvas_size)
    width, height = canvas_size
    shape = (len(images), height, width)
    existing = _open(place / FILE, shape)
    if existing is not None:
        return existing
    try:
        with _building(folder, place) as building:
            _draw(building / FILE, store, images, shape, progress, threads)
    except OSError as error:
        built = _open(place / FILE, shape)
        if built is not None and error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            return built  # another process was first; theirs has the same bytes
        raise _no_room(folder, shape, error) from error
    finished = _open(place / FILE, shape)
    if finished is None:
        raise StorageError(f"The image cache {place} vanished while it was written. Start again.")
    return finished


@contextmanager
def _building(folder: Path, place: Path) -> Iterator[Path]:
    """A folder to build in that becomes `place` at the end of the block, and nothing when the block fails."""
    building = folder / f".building-{place.name[:16]}-{os.getpid()}"
    try:
        _remove_abandoned(folder)
        building.mkdir(parents=True)
        yield building
        shutil.rmtree(place, ignore_errors=True)  # one of another shape is damaged, see _open
        building.rename(place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _no_room(folder: Path, shape: tuple[int, int, int], error: OSError) -> StorageError:
    needed = shape[0] * shape[1] * shape[2] / 2**20
    return StorageError(
        f"The image cache in {folder} cannot be written ({error.strerror or error}); it needs {needed:.0f} MiB. "
        "Free that much, or set cache_dir to another disk."
    )


def _draw(
    path: Path,
    store: Store,
    images: LabelledImages,
    shape: tuple[int, int, int],
    progress: Callable[[int, int], None] | None,
    threads: int | None,
) -> None:
    """Decodes, letterboxes and writes every image; several threads, since OpenCV lets go of the interpreter lock."""
    if shape[0] == 0:
        np.save(path, np.zeros(shape, dtype=np.uint8))
        return
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    _reserve(path)

    def one(image: int) -> None:
        width, height = images.sizes_px[image].tolist()
        gray = letterbox.read_grayscale(str(store.local_path(images.digests[image])), (width, height))
        array[image] = letterbox.fit((width, height), (shape[2], shape[1])).apply(gray)

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for done, _ in enumerate(pool.map(one, range(len(images))), start=1):
            if progress is not None:
                progress(done, len(images))
    array.flush()


def _reserve(path: Path) -> None:
    """Takes the whole file's space now: a memory map on a full disk would die of SIGBUS instead of an error."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _open(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    """The cache's array, or None when it is missing or not what it should be."""
    try:
        array = np.load(path, mmap_mode=None if shape[0] == 0 else "r")
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _remove_abandoned(folder: Path) -> None:
    """Removes half-built caches whose process is gone."""
    for left in folder.glob(".building-*"):
        process = int(left.name.rpartition("-")[2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:
            continue
