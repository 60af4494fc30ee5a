"""An export's files, in a folder or a zip, read through one small interface.

Everything hostile about an archive is refused when it is opened, before any byte of it is used. What the files mean
belongs in `read.py`, how they come from a bucket in `s3.py`.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from dentsight_pipeline.data.privacy import redact
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.paths import is_junk, refuse_unsafe_path
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.blobs import BLOCK_BYTES
from dentsight_pipeline.store.local import file_blocks

MAX_ENTRIES = 2_000_000
MAX_FILE_BYTES = 4 * 2**30
MAX_TOTAL_BYTES = 512 * 2**30
MAX_RATIO = 200
"""Uncompressed over compressed bytes. Annotation files reach about 20; a bomb has 1,000 and more."""
SMALL_ENOUGH = 2**20
"""Bytes below which a high ratio is harmless."""


class ExportFiles(ABC):
    """Read-only files of one export; paths are relative to its root and `/`-separated. Safe with several threads."""

    name: str
    """What the user gave, for messages."""
    linked: Sequence[str] = ()
    """Symbolic links to folders, which are not followed."""

    @abstractmethod
    def paths(self) -> Set[str]:
        """All files, in order and quickly found, without what operating systems leave behind."""

    @abstractmethod
    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of one file, in order, piece by piece.

        Raises:
            DataError: The file is missing or cannot be read.
        """

    def read(self, path: str) -> bytes:
        """The bytes of one file.

        Raises:
            DataError: The file is missing or cannot be read.
        """
        return b"".join(self.blocks(path))

    def findable(self, path: str) -> str:
        """A path for a message whose names may be masked: with its place in its folder, where that would hide it."""
        if redact(path) == path or ".rf." in path:
            return path
        folder = path.rpartition("/")[0]
        place, count = self._places[path], self._counts[folder]
        return f"{path} (file {place} of {count} in {folder or 'the export'}, by name)"

    @cached_property
    def _counts(self) -> Counter[str]:
        return Counter(path.rpartition("/")[0] for path in self.paths())

    @cached_property
    def _places(self) -> dict[str, int]:
        """Path → which file of its folder it is, counted from 1."""
        seen = Counter[str]()
        places: dict[str, int] = {}
        for path in self.paths():
            folder = path.rpartition("/")[0]
            seen[folder] += 1
            places[path] = seen[folder]
        return places


class FolderFiles(ExportFiles):
    """An export in a folder."""

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root, self.name = root, name or str(root)
        links: list[str] = []
        self._paths = _in_order(path for path in self._listed(links) if not is_junk(path))
        self.linked = links

    def _listed(self, links: list[str]) -> Iterator[str]:
        """The files below the root; symbolic links to folders are not followed, but added to `links`."""
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.root / folder) as found:
                    for entry in found:
                        if not _is_folder(entry):
                            yield folder + entry.name
                        elif entry.is_symlink():
                            links.append(folder + entry.name)
                        elif not is_junk(f"{folder}{entry.name}/"):
                            folders.append(f"{folder}{entry.name}/")
            except OSError as error:
                where = f"{self.name}/{folder}".rstrip("/")
                problem = f"cannot be listed ({error.strerror}). Give leave to read it, or export again"
                raise DataError(f"{where}: {problem}.") from error

    def paths(self) -> Set[str]:
        """All files below the folder when it was opened."""
        return self._paths

    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of one file, piece by piece."""
        with _unreadable(path):
            yield from file_blocks(self.root / path)

    def read(self, path: str) -> bytes:
        """The bytes of one file."""
        with _unreadable(path), (self.root / path).open("rb", buffering=0) as file:
            return file.read()


@contextmanager
def _unreadable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Restore it, or export again.") from error


def _in_order(paths: Iterable[str]) -> Set[str]:
    """Names in the order of their bytes, which need not be text; quickly found."""
    return dict.fromkeys(sorted(paths, key=os.fsencode)).keys()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link that leads nowhere or to itself
        return False


class ZipFiles(ExportFiles):
    """An export in a zip, checked as a whole when it is opened.

    Raises:
        DataError: Not a zip, cut off, encrypted, a decompression bomb, or with an entry that is absolute, climbs out,
            is a symbolic link or occurs twice.
    """

    def __init__(self, file: Path, name: str | None = None) -> None:
        self.name = name or str(file)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise DataError(f"{self.name}: not a whole zip file ({error}). Download it again.") from error
        try:
            checked = sorted(self._checked(file.stat().st_size), key=lambda info: info.filename)
            self._entries = {info.filename: info for info in checked}
        except DataError:
            self._zip.close()
            raise

    def _checked(self, archive_bytes: int) -> Iterator[zipfile.ZipInfo]:
        entries = [info for info in self._zip.infolist() if not info.is_dir()]
        if len(entries) > MAX_ENTRIES:
            raise DataError(f"{self.name}: {len(entries)} entries, more than {MAX_ENTRIES}. It is not read.")
        if sum(info.compress_size for info in entries) > archive_bytes:
            raise self._bomb("its entries overlap")
        if sum(info.file_size for info in entries) > MAX_TOTAL_BYTES:
            raise self._bomb(f"it holds more than {MAX_TOTAL_BYTES // 2**30} GiB")
        seen: set[str] = set()
        for info in self._zip.infolist():
            refuse_unsafe_path(info.filename.removesuffix("/"), f"{self.name}, entry {info.filename!r}")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(
                    f"{self.name}, entry {info.filename!r}: a symbolic link or special file. "
                    "Such an archive is not read; get it again from its origin."
                )
            if info.is_dir() or is_junk(info.filename):
                continue
            if info.filename in seen:
                raise DataError(f"{self.name}, entry {info.filename!r}: it occurs twice. Download the archive again.")
            seen.add(info.filename)
            if info.flag_bits & 0x1:
                raise DataError(f"{self.name}, entry {info.filename!r}: encrypted. Unpack it first, give the folder.")
            if info.file_size > MAX_FILE_BYTES:
                raise self._bomb(f"entry {info.filename!r} would have {info.file_size} bytes")
            if info.file_size > SMALL_ENOUGH and info.file_size > MAX_RATIO * max(info.compress_size, 1):
                raise self._bomb(f"entry {info.filename!r} would unpack to {info.file_size} bytes")
            yield info

    def _bomb(self, problem: str) -> DataError:
        return DataError(
            f"{self.name}: {problem}, as a decompression bomb does. Unpack it yourself and give the folder."
        )

    def paths(self) -> Set[str]:
        """All files of the archive."""
        return self._entries.keys()

    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of one entry, never more than its header said, with its checksum verified at the end."""
        info = self._entries.get(path)
        if info is None:
            raise DataError(f"{self.name}, entry {path!r}: it is missing. Download the archive again.")
        size = 0
        try:
            with self._zip.open(info) as stream:
                while block := stream.read(BLOCK_BYTES):
                    size += len(block)
                    if size > info.file_size:
                        break
                    yield block
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise DataError(f"{self.name}, entry {path!r}: damaged ({error}). Download the archive again.") from error
        except Exception as error:
            if type(error).__module__ in ("zlib", "lzma", "_lzma", "bz2"):
                raise DataError(f"{self.name}, entry {path!r}: damaged ({error}). Download it again.") from error
            raise
        if size != info.file_size:
            raise self._bomb(f"entry {path!r} does not have the {info.file_size} bytes that its header says")

    def close(self) -> None:
        """Closes the archive."""
        self._zip.close()


class _Below(ExportFiles):
    """The files below an export's single top folder."""

    def __init__(self, files: ExportFiles, top: str) -> None:
        self.name, self._files, self._top = files.name, files, f"{top}/"
        self._paths = _in_order(self._below(files.paths()))
        self.linked = list(self._below(files.linked))

    def _below(self, paths: Iterable[str]) -> Iterator[str]:
        return (path.removeprefix(self._top) for path in paths if path.startswith(self._top))

    def paths(self) -> Set[str]:
        return self._paths

    def blocks(self, path: str) -> Iterator[bytes]:
        return self._files.blocks(self._top + path)

    def read(self, path: str) -> bytes:
        return self._files.read(self._top + path)


def without_top_folder(files: ExportFiles, is_mark: Callable[[str], bool]) -> ExportFiles:
    """Steps into the one top folder of an export, as zips often have, and into the one folder in that.

    Args:
        files: The files.
        is_mark: Whether an export's root holds this name; where one is there already, nothing is skipped.
    """
    tops = {path.partition("/")[0] for path in files.paths()}
    folders = {path.partition("/")[0] for path in files.paths() if "/" in path}
    if not any(map(is_mark, tops)) and len(folders) == 1:
        return without_top_folder(_Below(files, folders.pop()), is_mark)
    return files


@contextmanager
def open_files(path: Path, name: str) -> Iterator[ExportFiles]:
    """Opens a folder or a zip; `name` is what the user gave.

    Raises:
        DataError: It does not exist, is empty, or is no archive that may be read.
    """
    if path.is_dir():
        yield _nonempty(FolderFiles(path, name))
    elif path.is_file():
        archive = ZipFiles(path, name)
        try:
            yield _nonempty(archive)
        finally:
            archive.close()
    else:
        raise DataError(f"{name}: no such folder or zip. Give the folder or the zip that Roboflow exported.")


def linked_folder(name: str, folder: str) -> DataError:
    """The refusal of an export one of whose folders is a link."""
    problem = "is a symbolic link to a folder, which is not followed"
    return DataError(f"{name}: {folder} {problem}. Copy the folder there, or give the one that it leads to.")


def _nonempty(files: ExportFiles) -> ExportFiles:
    if not files.paths() and files.linked:
        raise linked_folder(files.name, files.linked[0])
    if not files.paths():
        raise DataError(f"{files.name}: empty. Give the folder or the zip that Roboflow exported.")
    return files


_READ_CHUNK = 2**20


def is_whole_zip(path: Path, report: Progress) -> bool:
    """Whether the file is a zip all of whose entries have their checksum.

    Raises:
        DataError: It is whole, but made to do harm.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            ZipFiles(path).close()  # refuses a bomb before its entries are unpacked
            entries = archive.infolist()
            for number, entry in enumerate(entries):
                with archive.open(entry) as stream:
                    while stream.read(_READ_CHUNK):
                        pass
                if number % 64 == 0 or number == len(entries) - 1:
                    report("checking the zip", number + 1, len(entries))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        return False
    return True
