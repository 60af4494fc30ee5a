"""Which X-rays a person means by a folder or a DICOMDIR, as a clinic's disc or archive hands them over.

Such a place holds whatever was taken of a patient: what is of another modality is left out and counted. What a DICOM
file's picture is, and which files are refused, is decided in `data/dicom.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from dentsight_pipeline.data.dicom import MODALITIES, DicomError, is_dicom_file, read_header
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.paths import refuse_unsafe_path
from dentsight_pipeline.intake.records import is_image

_INDEX = "DICOMDIR"
"""PS3.10, 8.6: the name of the file that lists a disc's files."""


def xray_files(given: Sequence[Path]) -> tuple[list[Path], Counter[str]]:
    """The image files that paths mean, and how many of each other modality were left out.

    Args:
        given: Files, which are taken as they are; folders and DICOMDIRs, of which the X-rays are.

    Raises:
        ConfigurationError: The packages that read DICOM are needed, and not installed.
        DataError: A folder or DICOMDIR without one, or a DICOMDIR that is damaged or lists what is not there.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in given:
        if path.is_dir() or path.name.upper() == _INDEX:
            others = Counter[str]()
            taken = [file for file in _held(path) if _is_xray(file, others)]
            if not taken:
                there = ", ".join(f"{count} {name}" for name, count in sorted(others.items())) or "no image at all"
                raise DataError(f"{path}: no {' or '.join(MODALITIES)} among its files ({there}). Name the X-rays.")
            found, left_out = [*found, *taken], left_out + others
        else:
            found.append(path)
    return found, left_out


def _held(path: Path) -> Iterable[Path]:
    """What a folder holds, or a DICOMDIR lists; a folder's own DICOMDIR speaks for it."""
    index = path / _INDEX if path.is_dir() else path
    return _listed(index) if index.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _listed(index: Path) -> list[Path]:
    try:
        records = read_header(index.read_bytes()).DirectoryRecordSequence
        names = [record.ReferencedFileID for record in records if "ReferencedFileID" in record]
        parts = ["/".join([name] if isinstance(name, str) else name) for name in names]
    except (DicomError, AttributeError, TypeError, ValueError):
        raise DataError(f"{index}: it is no DICOMDIR, or damaged. Name the X-rays themselves.") from None
    for part in parts:
        refuse_unsafe_path(part, str(index))
        if not (index.parent / part).is_file():
            raise DataError(f"{index}: it lists {part}, which is not there. Copy the whole disc, or name the X-rays.")
    return [index.parent / part for part in parts]


def _is_xray(file: Path, others: Counter[str]) -> bool:
    """Whether a file is an image that may be an X-ray; DICOM of other modalities is counted in `others`."""
    if not is_dicom_file(file):
        return is_image(file.name)
    modality = str(read_header(file.read_bytes()).get("Modality", "unnamed"))
    if modality not in MODALITIES:
        others[modality] += 1
    return modality in MODALITIES
