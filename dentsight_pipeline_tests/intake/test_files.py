"""Archives and folders: what is refused before a byte of it is used."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake import files as export_files
from dentsight_pipeline.intake.files import ZipFiles
from dentsight_pipeline.intake.open import open_export
from dentsight_pipeline.intake.read import read_export
from dentsight_pipeline_tests.data.export_builder import whole_export


@pytest.mark.parametrize("top", ["", "OPG REPORTING.v8.coco/"])
def test_a_zip_reads_like_the_folder_it_was_made_from(tmp_path: Path, top: str) -> None:
    """Roboflow's zips have one top folder or none."""
    builder = whole_export(tmp_path / "export")
    archive = builder.zipped(tmp_path / "export.zip", top)

    with open_export(archive) as files, open_export(builder.root) as folder:
        from_zip, zip_files = read_export(files)
        from_folder, folder_files = read_export(folder)

        assert from_zip == from_folder
        assert list(zip_files.paths()) == list(folder_files.paths())
        assert all(zip_files.read(path) == folder_files.read(path) for path in folder_files.paths())


def test_a_folder_with_one_top_folder_is_stepped_into(tmp_path: Path) -> None:
    """What unpacking such a zip leaves behind."""
    whole_export(tmp_path / "outer" / "inner").write()

    with open_export(tmp_path / "outer") as files:
        export, _ = read_export(files)

    assert [split.name for split in export.splits] == ["train", "valid", "test"]


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "train/../../evil.txt", "/etc/evil.txt", "C:/evil.txt", "train\\..\\evil.txt", "a/\nb.txt"],
)
def test_a_zip_entry_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    """Zip-slip: the name decides where careless readers write."""
    archive = whole_export(tmp_path / "export").zipped(tmp_path / "export.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(zipfile.ZipInfo(name), b"x")

    with pytest.raises(DataError, match=r"leaves its folder or is no plain relative path"), open_export(archive):
        pass


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    """A link to /etc/passwd would be read as an image otherwise."""
    archive = whole_export(tmp_path / "export").zipped(tmp_path / "export.zip")
    link = zipfile.ZipInfo("train/link.jpg")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, b"/etc/passwd")

    with pytest.raises(DataError, match=r"train/link\.jpg'?: a symbolic link or special file"), open_export(archive):
        pass


def test_a_decompression_bomb_is_refused_unread(tmp_path: Path) -> None:
    """Fifty megabytes of zeros pack into fifty kilobytes."""
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("train/_annotations.coco.json", bytes(50 * 2**20))

    with pytest.raises(DataError, match=r"would unpack to 52428800 bytes, as a decompression bomb does"):
        ZipFiles(archive)


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many files of a harmless ratio are a bomb together."""
    archive = whole_export(tmp_path / "export").zipped(tmp_path / "export.zip")
    monkeypatch.setattr(export_files, "MAX_TOTAL_BYTES", 1000)

    with pytest.raises(DataError, match="it holds more than"):
        ZipFiles(archive)


def test_an_entry_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """The check before reading believes the header; reading does not."""
    archive = tmp_path / "liar.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("train/a.jpg", b"x" * 5000)
    files = ZipFiles(archive)
    files._entries["train/a.jpg"].file_size = 100

    with pytest.raises(DataError, match=r"train/a\.jpg.*(damaged|does not have)"):
        files.read("train/a.jpg")


def test_a_zip_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    """A download that stopped."""
    archive = whole_export(tmp_path / "export").zipped(tmp_path / "export.zip")
    archive.write_bytes(archive.read_bytes()[:-100])

    with (
        pytest.raises(DataError, match=r"export\.zip: not a whole zip file .* Download it again"),
        open_export(archive),
    ):
        pass


def test_a_zip_with_a_flipped_byte_is_refused_when_it_is_read(tmp_path: Path) -> None:
    """Zips carry a checksum of every entry."""
    archive = whole_export(tmp_path / "export").zipped(tmp_path / "export.zip")
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo("valid/_annotations.coco.json")
    data = bytearray(archive.read_bytes())
    data[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 0xFF
    archive.write_bytes(data)

    with open_export(archive) as files, pytest.raises(DataError, match=r"_annotations\.coco\.json.*damaged"):
        read_export(files)


def test_nothing_there_an_empty_folder_and_an_empty_zip_are_refused(tmp_path: Path) -> None:
    """Each in one line that says what to give instead."""
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    (tmp_path / "empty").mkdir()

    for name, problem in (("nothing", "no such folder or zip"), ("empty", "empty"), ("empty.zip", "empty")):
        with (
            pytest.raises(DataError, match=rf"{name}: {problem}\. Give the folder or the zip"),
            open_export(tmp_path / name),
        ):
            pass


def test_an_entry_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    """Two readers would see two different exports."""
    archive = whole_export(tmp_path / "export").zipped(tmp_path / "export.zip")
    with zipfile.ZipFile(archive, "a") as opened, pytest.warns(UserWarning, match="Duplicate name"):
        opened.writestr("train/_annotations.coco.json", b"{}")

    with pytest.raises(DataError, match="it occurs twice"), open_export(archive):
        pass


def test_a_symbolic_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    """Else an export could pull in whatever its reader may read."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.jpg").write_bytes(b"x")
    root = whole_export(tmp_path / "export").write()
    (root / "train" / "more").symlink_to(tmp_path / "private")
    (root / "train" / "loop").symlink_to(root / "train" / "loop")

    with open_export(root) as files:
        assert not [path for path in files.paths() if "more" in path]
        assert "train/more/secret.jpg" not in files.paths()


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out in silence, its images would be missing from every figure."""
    root = whole_export(tmp_path / "export").write()
    scandir = os.scandir

    def refusing(path: Path) -> Any:
        if str(path).rstrip("/").endswith("valid"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"export/valid: cannot be listed \(Permission denied\)"), open_export(root):
        pass


def test_a_file_whose_name_is_no_text_does_not_stop_an_export(tmp_path: Path) -> None:
    """Linux allows any bytes; nothing lists such a file, so it is only counted."""
    builder = whole_export(tmp_path / "export")
    Path(os.fsdecode(os.fsencode(builder.root / "train") + b"/\xff.jpg")).write_bytes(b"x")

    with open_export(builder.write()) as files:
        export, _ = read_export(files)

    assert {split.name: split.unlisted_files for split in export.splits} == {"train": 1, "valid": 0, "test": 0}


def test_what_operating_systems_leave_behind_is_no_part_of_an_export(tmp_path: Path) -> None:
    """macOS adds a second top folder to every zip."""
    archive = whole_export(tmp_path / "export").zipped(tmp_path / "export.zip", "top/")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("__MACOSX/top/._train", b"x")
        opened.writestr("top/.DS_Store", b"x")

    with open_export(archive) as files:
        export, _ = read_export(files)

    assert len(export.splits) == 3
