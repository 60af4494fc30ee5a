"""Whether a raw export was made from the files that somebody still has."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.intake.originals import verify_originals
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, exif, jpeg, picture, whole_export


@pytest.fixture
def export(tmp_path: Path) -> ExportBuilder:
    builder = whole_export(tmp_path / "export")
    builder.image("train", data=jpeg(picture(60), exif=exif(6)), size=(48, 64))
    builder.write()
    return builder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def raw(export: ExportBuilder, store: Store) -> Manifest:
    return ingest_export(export.root, store)


def test_the_untouched_export_proves_its_raw_export(export: ExportBuilder, store: Store, raw: Manifest) -> None:
    """Without one name, by content alone; renamed files are still the same files."""
    file = export.file_of("valid", 0)
    file.rename(file.with_name("renamed.jpg"))
    (export.root / "notes.txt").write_text("mine")

    (report,) = verify_originals(store, [raw], [export.root])

    assert (report.intact, report.images, report.files, report.found, report.unused) == (True, 6, 3, 9, 1)
    assert report.findings() == []


def test_a_changed_and_a_missing_original_are_found(export: ExportBuilder, store: Store, raw: Manifest) -> None:
    """One flipped byte in one image, one deleted, one edited label."""
    changed = export.file_of("train", 0)
    data = bytearray(changed.read_bytes())
    data[-10] ^= 1
    changed.write_bytes(data)
    export.file_of("train", 1).unlink()
    export.splits["test"]["annotations"][0]["bbox"][0] += 1
    export.write()

    (report,) = verify_originals(store, [raw], [export.root])

    assert not report.intact
    assert len(report.missing_images) == 2
    assert report.missing_files == ("test/_annotations.coco.json",)
    assert "original file test/_annotations.coco.json is missing or was changed" in report.findings()


def test_each_of_several_exports_is_proved_wherever_its_files_are(
    tmp_path: Path, export: ExportBuilder, store: Store, raw: Manifest
) -> None:
    """The order of places says nothing; an export whose place was not named is told as such, not file by file."""
    other = ExportBuilder(tmp_path / "other", seed=80)
    for split in ("train", "valid", "test"):
        other.image(split)
    second = ingest_export(other.write(), store)

    both = verify_originals(store, [raw, second], [other.root, export.root])
    half = verify_originals(store, [raw, second], [export.root])

    assert [report.intact for report in both] == [True, True]
    assert [report.intact for report in half] == [True, False]
    assert half[1].findings() == ["none of its 6 original files is there; name its place with --export"]
