"""DICOM as clinics hand it over: beside a COCO file, as a folder, as a disc with a DICOMDIR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from dentsight_pipeline.data.identifiers import find_identifiers
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.dicom import xray_files
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.intake.inspect import inspect_export
from dentsight_pipeline.intake.originals import verify_originals
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.dicom_builder import PLANTED, as_bytes, panoramic
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, picture, whole_export


def with_dicom(root: Path, suffix: str = ".dcm") -> ExportBuilder:
    """An export whose images are DICOM files named by their UIDs."""
    export = whole_export(root)
    for split, document in export.splits.items():
        for image in document["images"]:
            seed, old = int(image["file_name"].split(".rf.")[1][:32], 16), root / split / image["file_name"]
            image["file_name"] = f"{PLANTED[2]}.{seed}{suffix}"
            old.unlink()
            (root / split / image["file_name"]).write_bytes(as_bytes(panoramic(picture(seed).astype(int) * 16)))
    export.write()
    return export


@pytest.mark.parametrize("suffix", [".dcm", ".png"])
def test_dicom_beside_a_coco_file_is_ingested_without_a_tag_in_the_store(suffix: str, tmp_path: Path) -> None:
    """Whatever the file is called; its original is still known by its digest."""
    export, store = with_dicom(tmp_path / "export", suffix), open_store(tmp_path / "store")

    raw = ingest_export(export.root, store)

    kept = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    held = b"\n".join(str(path).encode() + path.read_bytes() for path in kept)
    assert [text for text in PLANTED if text.encode() in held] == []
    assert sum(path.endswith(".png") for path in raw.entries) == 5
    assert find_identifiers(store, raw) == []
    assert verify_originals(store, [raw], [export.root])[0].intact


def test_a_damaged_or_foreign_dicom_file_stops_ingestion_by_its_name(tmp_path: Path) -> None:
    """As any other image does; `inspect` collects."""
    export = with_dicom(tmp_path / "export")
    export.file_of("train", 0).write_bytes(as_bytes(panoramic(picture(1), 8, Modality="CT")))

    with pytest.raises(DataError, match="of CT modality"):
        ingest_export(export.root, open_store(tmp_path / "store"))
    assert any("of CT modality" in refusal.message for refusal in inspect_export(export.root).refusals)


def disc(root: Path) -> Path:
    """A disc with two panoramic X-rays, a CT slice, a report, a viewer, and its DICOMDIR."""
    (root / "IMAGES").mkdir(parents=True)
    index, kinds = Dataset(), ("PX", "CT", "DX", "SR")
    index.file_meta, index.DirectoryRecordSequence = FileMetaDataset(), []
    index.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = uid.UID("2.25.1")
    index.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    for number, modality in enumerate(kinds):
        made = panoramic(picture(number), 8, Modality=modality)
        (root / "IMAGES" / f"IM{number}").write_bytes(as_bytes(made))
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["IMAGES", f"IM{number}"]
        index.DirectoryRecordSequence.append(record)
    (root / "viewer.exe").write_bytes(b"MZ")
    index.save_as(root / "DICOMDIR", enforce_file_format=True)
    return root


def test_a_folder_and_a_dicomdir_mean_the_x_rays_in_them(tmp_path: Path) -> None:
    """A disc holds whatever was taken; what is left out is told, by modality."""
    root = disc(tmp_path / "disc")
    expected = [root / "IMAGES" / name for name in ("IM0", "IM2")]

    assert xray_files([root / "DICOMDIR"]) == (expected, {"CT": 1, "SR": 1})
    assert xray_files([root]) == (expected, {"CT": 1, "SR": 1})
    (root / "DICOMDIR").unlink()
    (root / "mine.png").write_bytes(b"later")
    assert xray_files([root]) == ([*expected, root / "mine.png"], {"CT": 1, "SR": 1})
    assert xray_files([Path("one.png")]) == ([Path("one.png")], {})


def test_a_place_without_x_rays_and_a_false_dicomdir_are_refused(tmp_path: Path) -> None:
    """With what is there, or what is lacking."""
    root = disc(tmp_path / "disc")
    (root / "IMAGES" / "IM2").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "DICOMDIR").write_bytes(as_bytes(panoramic(picture(1), 8)))

    cases: list[tuple[Any, str]] = [
        (root, r"it lists IMAGES/IM2, which is not there"),
        (tmp_path / "empty", r"no PX or DX among its files \(no image at all\)"),
        (tmp_path / "other", r"it is no DICOMDIR, or damaged"),
    ]
    for place, words in cases:
        with pytest.raises(DataError, match=words):
            xray_files([place])
    (root / "DICOMDIR").unlink()
    (root / "IMAGES" / "IM0").unlink()
    with pytest.raises(DataError, match=r"no PX or DX among its files \(1 CT, 1 SR\)"):
        xray_files([root])
