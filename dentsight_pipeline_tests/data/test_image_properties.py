"""What is measured of an image: once at ingestion, again where that is lost, and what it tells apart."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from dentsight_pipeline.data import image_properties
from dentsight_pipeline.data.image_properties import measure, measured, properties_by_row, properties_of
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import picture, png, whole_export


def test_a_brighter_and_a_blurred_picture_are_told_apart() -> None:
    """Brightness must not depend on sharpness, nor sharpness on contrast: each is an axis of its own."""
    noisy = np.clip(picture(1, 640, 480) / 2 + np.random.default_rng(0).normal(40, 8, (480, 640)), 0, 255)
    plain, brighter, flat, blurred = (
        measure(png(pixels.astype(np.uint8)), (640, 480))
        for pixels in (noisy, noisy + 40, noisy / 2 + 40, cv2.GaussianBlur(noisy, (0, 0), 3))
    )

    assert brighter.brightness - plain.brightness == pytest.approx(40 / 255, abs=0.01)
    assert brighter.sharpness == pytest.approx(plain.sharpness, rel=0.02)
    assert flat.sharpness == pytest.approx(plain.sharpness, rel=0.1)
    assert blurred.sharpness < plain.sharpness / 5
    assert blurred.brightness == pytest.approx(plain.brightness, abs=0.005)


def test_properties_of_three_columns_are_those_computed_by_hand() -> None:
    """Black, black, white: a mean of a third, a deviation of √2 thirds, Laplacians of 0, 1 and −2 over it; and a
    picture of 1,024 px is measured at 512."""
    columns = np.tile(np.array([0, 0, 255], np.uint8), (4, 1))
    noise = np.random.default_rng(0).integers(0, 256, (512, 600), dtype=np.uint8)

    assert measured(columns) == (0.3333, 0.4714, 2.121)
    assert measured(np.full((4, 4), 51, np.uint8)) == (0.2, 0, 0)
    assert measured(noise.repeat(2, axis=0).repeat(2, axis=1)) == measured(noise)
    assert measured(noise[:256].repeat(2, axis=0)) != measured(noise[:256])
    assert np.isnan(measured(columns[:0])).all()


def test_one_that_cannot_be_decoded_is_unknown() -> None:
    """It must never be the darkest."""
    assert np.isnan(measure(b"no picture", (10, 10))).all()


def test_ingestion_measures_each_image_and_nobody_looks_at_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty thousand images are read from S3 once; what is lost, or older than this, is measured when asked for."""
    store = open_store(tmp_path / "store")
    splits = normalise_export(store, ingest_export(whole_export(tmp_path / "export").write(), store))
    images = read_split(store, splits, "train").images
    wanted = dict.fromkeys(images["sha256"].to_pylist(), (64, 48))
    again: list[str] = []
    monkeypatch.setattr(image_properties, "measure", lambda *args: again.append("") or measure(*args))

    found = properties_of(store, splits, wanted)
    store.write_ref(f"{image_properties.PROPERTIES}/{splits.inputs['raw_export']}", {"version": "0"})
    remeasured = properties_of(store, splits, wanted)
    known = properties_of(store, splits, wanted)

    assert len(found) == len(wanted) > 1
    assert found == remeasured == known
    assert len(again) == len(wanted)


def test_what_an_earlier_version_measured_is_measured_again_and_not_compared(tmp_path: Path) -> None:
    """Sharpness was 3 % lower before: against new X-rays all known ones would have been out of focus."""
    store = open_store(tmp_path / "store")
    splits = normalise_export(store, ingest_export(whole_export(tmp_path / "export").write(), store))
    images = read_split(store, splits, "train").images
    (digest, *_), size = images["sha256"].to_pylist(), (64, 48)
    ref = f"{image_properties.PROPERTIES}/{splits.inputs['raw_export']}"
    earlier = store.put_bytes(json.dumps({digest: [0.5, 0.5, 0.5]}).encode())

    for version, expected in (
        ("1", measure(store.get_bytes(digest), size)),
        (image_properties.VERSION, (0.5, 0.5, 0.5)),
    ):
        store.write_ref(ref, {"version": version, "images": earlier})
        store.write_ref(f"{image_properties.PROPERTIES}/{splits.digest}", {"version": "1", "images": earlier})
        assert properties_of(store, splits, {digest: size}) == [expected]


def test_a_picture_that_is_there_twice_is_told_for_each_of_its_rows(tmp_path: Path) -> None:
    """Two exports share pictures, byte for byte: columns that were shorter than the images belonged to others."""
    store = open_store(tmp_path / "store")
    splits = normalise_export(store, ingest_export(whole_export(tmp_path / "export").write(), store))
    images = read_split(store, splits, "train").images

    once, twice = (properties_by_row(store, splits, table) for table in (images, pa.concat_tables([images, images])))

    assert len(once) == len(images)
    assert twice == [*once, *once]
