"""A DICOM file's one picture as it is meant to be seen, and nothing else of it.

Only what decides about the picture is read; whose it is, where and when it was taken is never looked at, and no refusal
quotes a value. A file whose tags contradict each other is refused: nothing tells which of them is right, and a wrong
picture would look like a good one. What becomes of the picture is `image_bytes.py`'s; which files a person means by a
folder or a DICOMDIR is told in `intake/dicom.py`.

Sources: DICOM PS3.3 C.7.6.3 (pixels), C.8.11.3 (DX image), C.11.1 (modality LUT), C.11.2 (VOI LUT and windows).
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

MODALITIES = ("PX", "DX")
"""Panoramic X-ray, and digital radiography, under which many panoramic devices file theirs."""
INSTALL = "pip install 'dentsight-pipeline[dicom]'"
_BEGINNINGS = (b"\x02\x00", b"\x08\x00")
"""Groups that come first in a file without a preamble; the number of the element, below 256, follows."""
_LAST = (0x7FE00010, 0xFFFCFFFC)
"""The pixels, or padding behind them."""
_OVERLAYS, _OVERLAY_BIT_POSITION = range(0x6000, 0x6020, 2), 0x0102
_ITEM, _UNDEFINED = b"\xfe\xff\x00\xe0", 0xFFFFFFFF
_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_AGAIN = "Restore the file, or export it again"
_NEEDED = ("Modality", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData")
_Shares = NDArray[np.float64]


class DicomError(DataError):
    """A DICOM file that is not read; the message says why and fits behind a file name."""


def is_dicom(data: bytes) -> bool:
    """Whether bytes begin as a DICOM file does, with or without its preamble."""
    return data[128:132] == b"DICM" or (data[:2] in _BEGINNINGS and data[3:4] == b"\0")


def is_dicom_file(path: Path) -> bool:
    """Whether a file begins as a DICOM file does; no more of it is read."""
    with path.open("rb") as opened:
        return is_dicom(opened.read(132))


@cache
def pydicom() -> Any:
    """The package, told to keep what it reads to itself.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import pydicom as package
        import pylibjpeg  # noqa: F401 # the decoders of compressed pixels
        from pydicom import config
    except ImportError:
        raise ConfigurationError(f"The packages that read DICOM are not installed. Install them: {INSTALL}.") from None
    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its warnings quote values
    warnings.filterwarnings("ignore", module="pydicom")
    return package


def read_header(data: bytes) -> FileDataset:
    """A file's elements, unread until they are asked for.

    Raises:
        ConfigurationError: pydicom is not installed.
        DicomError: It is no DICOM file.
    """
    package = pydicom()
    try:
        return package.dcmread(io.BytesIO(data), force=True)
    except Exception:  # pydicom answers a damaged file with whatever error it meets, values in its text
        raise DicomError(f"it is a damaged DICOM file. {_AGAIN}") from None


def picture(data: bytes, most_pixels: int) -> tuple[NDArray[np.unsignedinteger], str]:
    """The picture as it is meant to be seen, black at 0, and what was done to it, in words without a value of a tag.

    Args:
        data: The file.
        most_pixels: One that claims more is refused, before it is decoded.

    Returns:
        [rows, columns], of 8 bits where 8 are stored and of 16 where more are; and the words.

    Raises:
        ConfigurationError: pydicom is not installed.
        DicomError: Another modality, several frames, colours, or a damaged or contradictory file.
    """
    header = read_header(data)
    try:
        _refuse_what_is_no_picture(header)
        _refuse_contradictions(header)
        if not _ends_as_it_says(header, len(data)):
            raise DicomError(f"it is a DICOM file that is cut off, or holds more than it says. {_AGAIN}")
        if not 0 < header.Rows * header.Columns <= most_pixels:
            raise DicomError(f"it claims {header.Columns}×{header.Rows} pixels. {_AGAIN}")
        stored = _stored_values(header)
        shares, done = _shown(header, np.arange(1 << header.BitsStored))
    except DicomError:
        raise
    except Exception:  # as above: a value that cannot be read, or pixels that cannot be decoded
        raise DicomError(f"it is a damaged DICOM file: its picture cannot be read. {_AGAIN}") from None
    bits = 8 if header.BitsStored == 8 else 16
    table = np.rint(shares * ((1 << bits) - 1)).astype(f"uint{bits}")
    seen = table[stored]
    if seen.min() == seen.max() and stored.min() != stored.max():
        raise DicomError(f"it is a DICOM file whose window shows nothing of the picture. {_AGAIN}")
    return seen, f"a DICOM file of {header.BitsStored} bits{done}, stored as PNG"


def _refuse_what_is_no_picture(header: FileDataset) -> None:
    modality, frames = str(header.get("Modality", "")), int(header.get("NumberOfFrames", None) or 1)
    if modality not in MODALITIES:
        named = modality if modality.isalnum() and len(modality) <= 4 else "unnamed"
        raise DicomError(
            f"it is a DICOM file of {named} modality. Panoramic X-rays are read: {' and '.join(MODALITIES)}"
        )
    if missing := [name for name in _NEEDED if name not in header]:
        raise DicomError(f"it is a DICOM file without {', '.join(missing)}. {_AGAIN}")
    if frames != 1:
        raise DicomError(f"it is a DICOM file of {frames} frames. Export the one that is meant")
    if header.SamplesPerPixel != 1 or header.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise DicomError("it is a DICOM file in colour, not MONOCHROME1 or 2. Export the X-ray itself")
    if header.get("BurnedInAnnotation") == "YES":
        raise DicomError("it is a DICOM file that says who the patient is in its pixels. Export it without that")
    if header.get("SOPClassUID") == _FOR_PROCESSING or header.get("PresentationIntentType") == "FOR PROCESSING":
        raise DicomError("it is a DICOM file meant for processing, not for viewing. Export the one for presentation")


def _refuse_contradictions(header: FileDataset) -> None:
    """Refuses tags that cannot be true together, or that a damaged byte turned into others."""
    unsigned = header.PixelRepresentation == 0
    if not (unsigned and 8 <= header.BitsStored <= header.BitsAllocated <= 16 and header.BitsAllocated % 8 == 0):
        raise DicomError(f"it is a DICOM file whose samples are not of 8 to 16 unsigned bits. {_AGAIN}")
    if str((header.get("PatientOrientation") or " ")[0]).startswith("R"):
        raise DicomError("it is a mirrored DICOM file: its rows run to the patient's right. Export it unmirrored")
    inverse, shape = header.PhotometricInterpretation == "MONOCHROME1", header.get("PresentationLUTShape")
    pairs = (("RescaleSlope", "RescaleIntercept"), ("WindowWidth", "WindowCenter"))
    if (
        header.HighBit != header.BitsStored - 1
        or shape not in (None, "", "INVERSE" if inverse else "IDENTITY")
        or any((one in header) != (other in header) for one, other in pairs)
        or not _is_in_order(header)
    ):
        raise DicomError(f"it is a damaged DICOM file: what it says of its picture is contradictory. {_AGAIN}")


def _is_in_order(header: FileDataset) -> bool:
    """Whether elements ascend, and those about the picture are known and of their kind: a shifted byte breaks this."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    tags = list(header.keys())
    return tags == sorted(tags) and all(
        dictionary_has_tag(tag) and header.get_item(tag).VR in (None, *dictionary_VR(tag).split(" or "))
        for tag in tags
        if tag.group == 0x0028
    )


def _ends_as_it_says(header: FileDataset, size: int) -> bool:
    """Whether the last element ends where the file does, and fragments of compressed pixels are as long as they say."""
    last: Any = header.get_item(list(header.keys())[-1])
    pixels: Any = header.get_item("PixelData")
    syntax = header.file_meta.get("TransferSyntaxUID", None)
    at, fragments = 0, pixels.value if syntax and syntax.is_encapsulated else b""
    while at < len(fragments) and fragments[at : at + 4] == _ITEM:
        at += 8 + int.from_bytes(fragments[at + 4 : at + 8], "little")
    end = last.value_tell + len(last.value) + (8 if last.length == _UNDEFINED else 0)
    return at == len(fragments) and last.tag in _LAST and (end == size or (syntax and syntax.is_deflated))


def _stored_values(header: FileDataset) -> NDArray[np.integer]:
    """[rows, columns], decoded; exactly as many as the tags say."""
    from pydicom import uid
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import pixel_array

    if "TransferSyntaxUID" not in header.file_meta:
        implicit, little = header.original_encoding
        plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        header.file_meta.TransferSyntaxUID = plain if little else uid.ExplicitVRBigEndian
    size = header.Rows * header.Columns * header.BitsAllocated // 8
    if not header.file_meta.TransferSyntaxUID.is_encapsulated and len(header.PixelData) != size + size % 2:
        raise DicomError(f"it is a DICOM file whose pixels are cut off, or more than it says. {_AGAIN}")
    rle = header.file_meta.TransferSyntaxUID == uid.RLELossless
    plugin = "pydicom" if rle else ""  # pylibjpeg-rle ends the process
    stored = pixel_array(header, raw=True, decoding_plugin=plugin, correct_unused_bits=_bits_hold_an_overlay(header))
    if rle and not _is_as_long(get_frame(header.PixelData, 0, number_of_frames=1), stored.size):
        raise DicomError(f"it is a DICOM file whose pixels are others than it says. {_AGAIN}")
    if stored.shape != (header.Rows, header.Columns) or stored.max() >> header.BitsStored:
        raise DicomError(f"it is a DICOM file whose pixels are others than it says. {_AGAIN}")
    return stored


def _bits_hold_an_overlay(header: FileDataset) -> bool:
    """Whether bits beyond those stored are an overlay's (PS3.5 of 2004, retired); else what lies there is a fault."""
    places = (header.get((group, _OVERLAY_BIT_POSITION)) for group in _OVERLAYS)
    return any(place is not None and place.value for place in places)


def _is_as_long(frame: bytes, size: int) -> bool:
    """Whether each run-length coded segment (PS3.5, annex G) becomes `size` bytes; decoders drop the rest."""
    return all(size <= length <= size + 1 for length in _rle_lengths(frame))  # one to fill it up to an even length


def _rle_lengths(frame: bytes) -> Iterator[int]:
    count, *offsets = struct.unpack("<16I", frame[:64])
    for first, end in pairwise([*offsets[:count], len(frame)]):
        length, at = 0, first
        while at < end:
            run = frame[at]
            length += run + 1 if run < 128 else (257 - run) % 129
            at += run + 2 if run < 128 else 1 + (run > 128)
        yield length


def _shown(header: FileDataset, values: NDArray[np.int64]) -> tuple[_Shares, str]:
    """How bright each stored value is shown, from 0 to 1, and what was done, in words."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    measured = apply_modality_lut(values, header)
    if header.get("VOILUTSequence"):
        brightest = (1 << header.VOILUTSequence[0].LUTDescriptor[2]) - 1
        shares, done = apply_voi(np.rint(measured).astype(np.int64), header) / brightest, ", its VOI LUT applied"
    elif "WindowWidth" in header:
        shares, done = _windowed(header, measured.astype(float)), ", its window applied"
    else:
        low, high = float(measured.min()), float(measured.max())
        shares, done = (measured - low) / (high - low), ""
    if header.PhotometricInterpretation == "MONOCHROME1":
        shares, done = 1 - shares, f"{done}, inverted (MONOCHROME1)"
    steps = np.diff(shares)  # a curve that goes up and down again is a damaged one
    if not (shares.min() >= 0 and shares.max() <= 1 and ((steps >= 0).all() or (steps <= 0).all())):
        raise DicomError(f"it is a DICOM file whose window or LUT cannot be. {_AGAIN}")
    return shares, done


def _windowed(header: FileDataset, measured: NDArray[np.float64]) -> _Shares:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3; the first of several windows is the one to begin with."""
    width, centre = (np.atleast_1d(header[name].value)[0] for name in ("WindowWidth", "WindowCenter"))
    width, centre, function = float(width), float(centre), header.get("VOILUTFunction") or "LINEAR"
    if function == "LINEAR" and width > 1:
        return np.clip((measured - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((measured - centre) / width + 0.5, 0, 1)
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(-4 * (measured - centre) / width))
    raise DicomError(f"it is a DICOM file with a window that is none. {_AGAIN}")
