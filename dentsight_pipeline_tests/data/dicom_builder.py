"""Builds DICOM files of panoramic X-rays, with a marker in every kind of text that such a file holds."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

MARKER = "ZXMARKERQ"
"""In every text VR that takes letters."""
PLANTED = (MARKER, "19870615", "1.2.826.0.1.3680043.8.777", "7654321", "314159")
"""Whatever of a file must be found nowhere: text, dates, UIDs, numbers as text."""
_TEXTS = {
    "PatientName": f"{MARKER}^Anna", "PatientID": f"{MARKER}-7654321", "PatientBirthDate": "19870615",
    "PatientSex": "F",
    "PatientAge": "039Y", "PatientComments": f"{MARKER} LT", "InstitutionName": f"{MARKER} clinic",
    "StudyID": "7654321",
    "InstitutionAddress": f"{MARKER} ST", "AccessionNumber": "7654321", "StudyDate": "19870615", "StudyTime": "101112",
    "AcquisitionDateTime": "19870615101112", "StationAETitle": MARKER, "StationName": MARKER, "Manufacturer": MARKER,
    "ReferringPhysicianName": f"{MARKER}^Ben", "StudyDescription": MARKER, "LongCodeValue": f"{MARKER} UC",
    "RetrieveURL": f"http://{MARKER}/", "TextValue": f"{MARKER} UT", "PatientWeight": "314159",
    "InstanceNumber": "314159",
    "ContentDate": "19870615", "ContentTime": "101112", "DeviceSerialNumber": MARKER,
}  # fmt: skip


def panoramic(pixels: np.ndarray, bits: int = 12, photometric: str = "MONOCHROME2", **tags: Any) -> Dataset:
    """A DX image of modality PX with these stored values `[rows, columns]`."""
    made, inverse = Dataset(), photometric == "MONOCHROME1"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    made.file_meta.MediaStorageSOPInstanceUID = uid.UID(f"{PLANTED[2]}.3")
    made.file_meta.SourceApplicationEntityTitle = MARKER
    allocated = 8 if bits == 8 else 16
    own = {
        "SOPClassUID": uid.DigitalXRayImageStorageForPresentation, "SOPInstanceUID": f"{PLANTED[2]}.3",
        "StudyInstanceUID": f"{PLANTED[2]}.1", "SeriesInstanceUID": f"{PLANTED[2]}.2", "SeriesNumber": 1,
        "FrameOfReferenceUID": f"{PLANTED[2]}.4", "Modality": "PX", "PresentationIntentType": "FOR PRESENTATION",
        "SamplesPerPixel": 1, "PhotometricInterpretation": photometric, "Rows": pixels.shape[0],
        "Columns": pixels.shape[1], "BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1,
        "PixelRepresentation": 0, "PresentationLUTShape": "INVERSE" if inverse else "IDENTITY",
        "BurnedInAnnotation": "NO", "PatientOrientation": ["L", "F"],
        "PixelData": pixels.astype(f"<u{allocated // 8}").tobytes(),
    }  # fmt: skip
    for name, value in {**_TEXTS, **own, **tags}.items():
        setattr(made, name, value)
    made["PixelData"].VR = "OB" if allocated == 8 else "OW"
    private = made.private_block(0x0011, MARKER, create=True)
    private.add_new(0x01, "UN", MARKER.encode())
    private.add_new(0x02, "LO", MARKER)
    return made


def encoded(made: Dataset, syntax: str, stream: bytes | None = None) -> Dataset:
    """The same with its pixels compressed, by pydicom or as a stream that is at hand."""
    if stream is None:
        made.compress(syntax, generate_instance_uid=False)
        return made
    made.file_meta.TransferSyntaxUID = uid.UID(syntax)
    made.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    return made


def as_bytes(made: Dataset, *, preamble: bool = True, meta: bool = True) -> bytes:
    """The file; with the marker in its preamble."""
    out = io.BytesIO()
    made.preamble = MARKER.encode().ljust(128, b"\0") if preamble else None
    if preamble:
        made.save_as(out, enforce_file_format=True)
    else:
        written = Dataset(made)
        written.file_meta = made.file_meta if meta else FileMetaDataset()
        syntax = made.file_meta.TransferSyntaxUID
        written.save_as(out, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    return out.getvalue()
