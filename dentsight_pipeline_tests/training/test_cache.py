"""The image cache: the right pixels, built once, never half-built."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from dentsight_pipeline.errors import DataError, StorageError
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import cache, letterbox
from dentsight_pipeline.training.dataset import read_labelled

CANVAS = (96, 64)


def test_the_cache_holds_the_letterboxed_images_in_order(store: Store, subset: Manifest, tmp_path: Path):
    """A permuted cache would give every image another one's boxes."""
    images = read_labelled(store, subset, "train")

    array = cache.open_or_build(tmp_path, store, images, CANVAS)

    assert array.shape == (12, 64, 96)
    for digest, (width, height), cached in zip(images.digests, images.sizes_px.tolist(), array, strict=True):
        gray = letterbox.read_grayscale(str(store.local_path(digest)))
        np.testing.assert_array_equal(cached, letterbox.fit((width, height), CANVAS).apply(gray))


def test_a_second_opening_decodes_nothing(store: Store, subset: Manifest, tmp_path: Path, monkeypatch):
    """That is what the cache is for."""
    images = read_labelled(store, subset, "train")
    first = cache.open_or_build(tmp_path, store, images, CANVAS)
    monkeypatch.setattr(letterbox, "read_grayscale", lambda *_: pytest.fail("decoded again"))

    np.testing.assert_array_equal(cache.open_or_build(tmp_path, store, images, CANVAS), first)


def test_other_images_another_order_or_another_canvas_have_another_cache(store: Store, subset: Manifest):
    """The key is content: no dataset can be served another's pixels."""
    images = read_labelled(store, subset, "train").digests

    keys = {cache.key(images, CANVAS), cache.key(images[:-1], CANVAS), cache.key(images[::-1], CANVAS)}

    assert len(keys | {cache.key(images, (96, 96))}) == 4


def test_building_reports_every_image(store: Store, subset: Manifest, tmp_path: Path):
    """At full size a cache takes minutes; a person wants to see it move."""
    seen: list[tuple[int, int]] = []

    cache.open_or_build(
        tmp_path, store, read_labelled(store, subset, "valid"), CANVAS, lambda done, n: seen.append((done, n))
    )

    assert seen == [(i, 5) for i in range(1, 6)]


def test_a_cut_off_cache_is_built_again(store: Store, subset: Manifest, tmp_path: Path):
    """A disk that lost its end must not feed zeros to the training."""
    images = read_labelled(store, subset, "train")
    good = np.array(cache.open_or_build(tmp_path, store, images, CANVAS))
    file = next(tmp_path.rglob("images.npy"))
    os.truncate(file, 1000)

    np.testing.assert_array_equal(cache.open_or_build(tmp_path, store, images, CANVAS), good)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(store: Store, subset: Manifest, tmp_path: Path, monkeypatch):
    """Memory maps on a full disk die of a signal; the space is taken beforehand instead."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)

    with pytest.raises(StorageError, match=r"No space left on device.*needs 0 MiB.*cache_dir"):
        cache.open_or_build(tmp_path / "cache", store, read_labelled(store, subset, "train"), CANVAS)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_broken_image_stops_the_building_by_name(store: Store, subset: Manifest, tmp_path: Path, monkeypatch):
    """An image that silently became black would be a false negative for ever."""
    images = read_labelled(store, subset, "train")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    monkeypatch.setattr(store, "local_path", lambda _: broken)

    with pytest.raises(DataError, match=r"broken\.png cannot be decoded"):
        cache.open_or_build(tmp_path / "cache", store, images, CANVAS)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_half_built_is_cleared_away(store: Store, subset: Manifest, tmp_path: Path):
    """At full size each leftover is a gigabyte."""
    left = tmp_path / ".building-abc-4194305"  # above the largest process number that Linux gives
    left.mkdir()

    cache.open_or_build(tmp_path, store, read_labelled(store, subset, "valid"), CANVAS)

    assert not left.exists()
