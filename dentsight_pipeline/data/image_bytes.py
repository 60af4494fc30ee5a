"""An image file's bytes without whatever could tell whose they are, and its pixels in gray.

Stripping is lossless: the coded picture is copied byte for byte, and only segments or chunks that do not change it are
left out. A picture that is only right together with its EXIF orientation is turned and stored as PNG, and so is one in
another format that is read without loss, DICOM (`dicom.py`) among them. Which patterns count as identifiers belongs in
`privacy.py`.

Sources: JPEG markers from ITU-T T.81, table B.1; JFIF from ITU-T T.871; EXIF orientation from CIPA DC-008 (tag 274);
PNG chunks from the W3C PNG specification, sections 5 and 11.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dentsight_pipeline.data.dicom import DicomError, is_dicom, picture
from dentsight_pipeline.errors import DataError

MAX_PIXELS = 150_000_000
"""Pixels beyond which a file is taken for a decompression bomb; a panoramic X-ray has 2 to 5 million."""

SHORT_SIDE_PX = 512
"""Pixels that the shorter side of an image keeps in gray, where it has them: fingerprint and properties are made from
one decoding, and devices differ in pixels."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"bKGD"}
)
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # stuffed zeros and restart markers belong to the scan
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_JPEG_END = b"\xff\xd9"
_FILLERS = (b"\x00" * 64, b"\x55" * 64, b"\xaa" * 64)
_STORED_MODES = {"1": "L", "P": "RGB", "I;16B": "I;16"} | {mode: mode for mode in ("L", "LA", "RGB", "RGBA", "I;16")}
"""Pillow's modes that PNG holds without loss: read as → stored as."""
_DEEP = (b"\x10\x00", b"\x10\x02")
"""Bits of a sample and kind of colour, as a PNG's header has them: 16 bits of gray, of RGB."""
_DETECTOR_BITS = (8, 10, 12, 14, 16)
"""Bits that a sample of 16 may use: one image's darkness must not decide how bright it becomes, beyond these."""
_CONVERTED = ("WEBP", "BMP", "TIFF", "GIF", "JPEG2000")
"""Pillow's names of the formats that become PNG; of JPEG 2000 the pixels that its decoder gives."""
_SIGNATURES = (
    (0, b"GIF8", "a damaged GIF"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"jP  ", "a damaged JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a damaged JPEG 2000"),
    (0, b"%PDF", "a PDF"),
)
"""Place, bytes and name of what is refused by its name."""
_Px = TypeVar("_Px", float, NDArray[np.float64])
_TRANSPOSED = frozenset({5, 6, 7, 8})  # EXIF orientations that exchange width and height


class ImageBytesError(DataError):
    """Bytes that are no whole image of a known kind; the message says why and fits behind a file name."""


class _NoEndError(ImageBytesError):
    """A JPEG whose last scan is not followed by anything."""


@dataclass(frozen=True, slots=True)
class CleanImage:
    """An image as it is stored.

    Attributes:
        data: A JPEG or PNG without metadata.
        extension: `jpg` or `png`.
        width: Pixels across, as displayed.
        height: Pixels down, as displayed.
        orientation: The EXIF orientation that the original had; 1 when it had none.
        coded_size: Width and height before turning.
        removed: What was left out: segment or chunk name → how often.
        mended: What was wrong with the file and could be mended: kind of repair → what was done.
    """

    data: bytes
    extension: str
    width: int
    height: int
    orientation: int
    coded_size: tuple[int, int]
    removed: dict[str, int]
    mended: dict[str, str] = field(default_factory=dict)


def clean(data: bytes) -> CleanImage:
    """The same picture without metadata, upright.

    Raises:
        ImageBytesError: No image that is read without loss, cut off, or so large that it must be a decompression bomb.
    """
    if data.startswith(b"\xff\xd8"):
        stripped, size, orientation, removed, mended, extension = *_strip_mended_jpeg(data), "jpg"
    elif data.startswith(_PNG_SIGNATURE):
        stripped, size, orientation, removed, extension, mended = *_strip_png(data), "png", {}
    elif is_dicom(data):
        return _of_dicom(data)
    else:
        return _converted(data)
    _refuse_absurd_size(size)
    if orientation != 1:
        stripped, extension = _turned(data), "png"
    stripped, scaled = _scaled(stripped)
    size_shown = displayed_size(size, orientation)
    return CleanImage(stripped, extension, *size_shown, orientation, size, removed, mended | scaled)


def _refuse_absurd_size(size: tuple[int, int]) -> None:
    if not (0 < size[0] * size[1] <= MAX_PIXELS):
        raise ImageBytesError(f"it claims {size[0]}×{size[1]} pixels. Remove it or export again")


def displayed_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height after the EXIF orientation is applied."""
    return (size[1], size[0]) if orientation in _TRANSPOSED else size


def turn_point(x: _Px, y: _Px, size: tuple[int, int], orientation: int) -> tuple[_Px, _Px]:
    """Where a point of the coded picture lies after the EXIF orientation is applied, both in pixels.

    Args:
        x: From the coded picture's left edge; one number, or an array of them.
        y: From its top edge.
        size: The coded picture's width and height.
        orientation: EXIF orientation, 1 to 8.
    """
    w, h = size
    return {
        1: (x, y),
        2: (w - x, y),
        3: (w - x, h - y),
        4: (x, h - y),
        5: (y, x),
        6: (h - y, x),
        7: (h - y, w - x),
        8: (y, w - x),
    }[orientation]


def metadata_left(data: bytes) -> list[str]:
    """Segments or chunks of a stored image that could carry an identifier; empty for what `clean` made."""
    try:
        if data.startswith(_PNG_SIGNATURE):
            return sorted(_strip_png(data)[3])
        return sorted(_strip_jpeg(data)[3])
    except ImageBytesError as error:
        return [str(error)]


def decode_gray(data: bytes, size: tuple[int, int], shortest_side: int = SHORT_SIDE_PX) -> np.ndarray | None:
    """Decodes to grayscale at the smallest scale that keeps the shorter side long enough.

    A JPEG is reduced by 2, 4 or 8 inside the decoder, which costs a fraction of a full decoding.

    Args:
        data: A JPEG or PNG.
        size: Its width and height in pixels.
        shortest_side: Pixels that the shorter side keeps, where the image has them.

    Returns:
        uint8 `[height, width]`, or None when it cannot be decoded.
    """
    scales = (
        (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    )
    flag = next((f for scale, f in scales if -(-min(size) // scale) >= shortest_side), cv2.IMREAD_GRAYSCALE)
    try:
        gray = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flag)
    except cv2.error:
        return None
    return None if gray is None else np.asarray(gray, np.uint8)


# JPEG ----------------------------------------------------------------------------------------------------------------


def _strip_jpeg(data: bytes) -> tuple[bytes, tuple[int, int], int, dict[str, int]]:
    """The JPEG without APPn (but JFIF, Adobe) and COM segments and what follows its end; size, orientation, removed."""
    parts: list[bytes] = [b"\xff\xd8"]
    removed: dict[str, int] = {}
    size, orientation = (0, 0), 1
    for marker, payload, scan, end in _jpeg_segments(data):
        if marker in _JPEG_WITHOUT_LENGTH:
            parts.append(bytes((0xFF, marker)))
            if marker == 0xD9 and end < len(data):
                _count(removed, "bytes after the end")
            continue
        if marker == 0xF7:
            raise ImageBytesError("it is a JPEG-LS image. Convert it to PNG")
        if marker in _JPEG_FRAMES and len(payload) >= 5:
            _refuse_other_coding(marker, payload[0])
            height, width = struct.unpack(">HH", payload[1:5])
            size = (width, height)
        if marker == 0xE1 and payload.startswith(b"Exif\0"):
            orientation = _exif_orientation(payload[6:])
        kept, name = _kept_segment(marker, payload)
        if name:
            _count(removed, name)
        if kept is not None:
            parts.append(b"\xff" + bytes((marker,)) + struct.pack(">H", len(kept) + 2) + kept + scan)
    if size == (0, 0):
        raise ImageBytesError("the JPEG has no picture. Restore the file or export again")
    return b"".join(parts), size, orientation, removed


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes, bytes, int]]:
    """Each marker to the end's, its payload, the coded scan that follows it and the position behind."""
    marker, at = 0xD8, 2
    while marker != 0xD9:
        marker, at = _next_marker(data, at)
        payload = scan = b""
        if marker not in _JPEG_WITHOUT_LENGTH:
            end = at + _segment_length(data, at)
            payload, at = data[at + 2 : end], end
        if marker == 0xDA:
            match = _MARKER_AFTER_SCAN.search(data, at)
            if match is None:
                raise _NoEndError("it is cut off: the JPEG has no end. Restore the file or export again")
            scan, at = data[at : match.start()], match.start()
        yield marker, payload, scan, at


def _refuse_other_coding(marker: int, bits: int) -> None:
    """Refuses frames that not everything after this decodes alike; 8-bit lossless ones (0xC3) are fine."""
    if bits != 8:
        raise ImageBytesError(f"it is a JPEG of {bits} bits. Convert it to a PNG of 16 bits")
    if marker >= 0xC9:
        raise ImageBytesError("it is a JPEG with arithmetic coding. Convert it to PNG")


def _strip_mended_jpeg(data: bytes) -> tuple[bytes, tuple[int, int], int, dict[str, int], dict[str, str]]:
    """The same of a JPEG that may lack its end marker, if it lacks nothing else; and what was mended."""
    try:
        return *_strip_jpeg(data), {}
    except _NoEndError:
        scans = data.rstrip(b"\xff")
        if not _is_whole_picture(scans) or not _has_every_scan(scans + _JPEG_END):
            raise
    mended = {"jpeg_end_added": "the file lacked its end marker; not one pixel was lost"}
    return *_strip_jpeg(scans + _JPEG_END), mended


def _is_whole_picture(scans: bytes) -> bool:
    """Whether a JPEG without its end has all of its picture: then what is put behind it changes no pixel.

    A decoder that waits for a restart marker passes over all else, so that this stands before it once.
    """
    restarts = len(_RESTART.findall(scans.rpartition(b"\xff\xda")[2]))
    starts = (b"", bytes((0xFF, 0xD0 + restarts % 8)))
    ends = [start + filler + _JPEG_END for start in starts for filler in _FILLERS]
    pictures = [cv2.imdecode(np.frombuffer(scans + end, np.uint8), cv2.IMREAD_UNCHANGED) for end in ends]
    whole = [picture for picture in pictures if picture is not None]
    return len(whole) == len(ends) and all(np.array_equal(whole[0], other) for other in whole)


def _has_every_scan(jpeg: bytes) -> bool:
    """Whether each coefficient of each component comes to its last bit: what is cut between two scans decodes too.

    Progressive JPEGs send coefficients from `first` to `last` of the zigzag, without their `missing` lowest bits, and
    those later (ITU-T T.81, G.1); all others send a component at once.
    """
    frame, left = 0, dict[tuple[int, int], int]()
    for marker, payload, _, _ in _jpeg_segments(jpeg):
        if marker in _JPEG_FRAMES:
            frame, left = marker, dict.fromkeys(itertools.product(payload[6::3], range(64)), 1)
        if marker == 0xDA:
            *components, first, last, bits = payload[1 : 1 + 2 * payload[0] : 2] + payload[-3:]
            sent, missing = (range(first, last + 1), bits & 15) if frame == 0xC2 else (range(64), 0)
            left.update(dict.fromkeys(itertools.product(components, sent), missing))
    return not any(left.values())


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """The marker at a position (fill bytes skipped) and the position behind it."""
    if at >= len(data):
        raise ImageBytesError("it is cut off: the JPEG has no end. Restore the file or export again")
    if data[at] != 0xFF:
        raise ImageBytesError(f"the JPEG is damaged at byte {at}. Restore the file or export again")
    while at < len(data) and data[at] == 0xFF:
        at += 1
    if at >= len(data):
        raise ImageBytesError("it is cut off: the JPEG has no end. Restore the file or export again")
    return data[at], at + 1


def _segment_length(data: bytes, at: int) -> int:
    length = int.from_bytes(data[at : at + 2], "big")
    if at + 2 > len(data) or length < 2 or at + length > len(data):
        raise ImageBytesError("it is cut off inside a JPEG segment. Restore the file or export again")
    return length


def _kept_segment(marker: int, payload: bytes) -> tuple[bytes | None, str]:
    """What stays of a segment (None = nothing), and the name of what goes ("" = nothing)."""
    if marker == 0xFE:
        return None, "COM"
    if not 0xE0 <= marker <= 0xEF:
        return payload, ""
    if marker == 0xE0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
        plain = payload[:12] + b"\0\0"  # version, density; no thumbnail
        return plain, "" if plain == payload else "JFIF thumbnail"
    if marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= 12:
        return payload[:12], "" if len(payload) == 12 else "Adobe extra"
    kind = "Exif" if payload.startswith(b"Exif\0") else "XMP" if payload.startswith(b"http://ns.adobe.com/x") else ""
    return None, f"APP{marker - 0xE0} {kind}".strip()


def _exif_orientation(tiff: bytes) -> int:
    """Tag 274 of the first image directory; 1 when it is absent or makes no sense."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for number in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * number)
            if tag == 274 and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


# PNG -----------------------------------------------------------------------------------------------------------------


def _strip_png(data: bytes) -> tuple[bytes, tuple[int, int], int, dict[str, int]]:
    """The PNG with only the chunks that make the picture, without what follows its end; size, orientation, removed."""
    parts, removed, size, orientation = [_PNG_SIGNATURE], dict[str, int](), (0, 0), 1
    end = len(_PNG_SIGNATURE)
    for kind, payload, start, end in _png_chunks(data):
        if kind == b"IHDR" and len(payload) == 13:
            size = struct.unpack(">II", payload[:8])
        if kind == b"eXIf":
            orientation = _exif_orientation(payload)
        if kind in _PNG_KEPT:
            parts.append(data[start:end])
        else:
            _count(removed, kind.decode("latin-1"))
    if end < len(data):
        _count(removed, "bytes after the end")
    return b"".join(parts), size, orientation, removed


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int, int]]:
    at = len(_PNG_SIGNATURE)
    while True:
        header = data[at : at + 8]
        length = int.from_bytes(header[:4], "big")
        end = at + 12 + length
        if len(header) < 8 or end > len(data):
            raise ImageBytesError("it is cut off: the PNG has no end. Restore the file or export again")
        kind, payload = header[4:], data[at + 8 : end - 4]
        if zlib.crc32(payload, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end], "big"):
            raise ImageBytesError(f"the PNG is damaged at byte {at}. Restore the file or export again")
        yield kind, payload, at, end
        if kind == b"IEND":
            return
        at = end


def _turned(data: bytes) -> bytes:
    """The picture as its EXIF orientation displays it, as PNG, so that turning loses nothing."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            _refuse_deep_colours(data, image)
            return _as_png(image, "L" if image.mode in ("1", "L") else "I;16" if "16" in image.mode else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageBytesError(f"it cannot be decoded ({error}). Restore the file or export again") from error


def _scaled(data: bytes) -> tuple[bytes, dict[str, str]]:
    """A gray or RGB PNG of 16 bits with its values moved up by the bits that it leaves unused; any other as it is.

    Detectors write 10, 12 or 14 bits into 16. Whatever reads such a file as 8 bits cuts the lower half off, and would
    see sixteen grays of 4,096. Moving them up loses nothing.
    """
    if not data.startswith(_PNG_SIGNATURE) or data[24:26] not in _DEEP:
        return data, {}
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[2:] not in {(), (3,)}:
        return data, {}
    most = int(pixels.max())
    used = next(bits for bits in _DETECTOR_BITS if most < 1 << bits)
    if most == 0 or used == 16:
        return data, {}
    moved = np.left_shift(pixels, 16 - used, dtype=np.uint16)
    stored = _png(Image.fromarray(moved)) if moved.ndim == 2 else bytes(cv2.imencode(".png", moved)[1])
    return stored, {"gray_values_scaled": f"{used} of 16 bits are used; multiplied by {1 << (16 - used)}"}


def _as_png(image: Image.Image, mode: str) -> bytes:
    return _png(ImageOps.exif_transpose(image).convert(mode))


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", exif=b"", pnginfo=None)
    return _strip_png(out.getvalue())[0]


# Other formats -------------------------------------------------------------------------------------------------------


def _converted(data: bytes) -> CleanImage:
    """A WebP, BMP, GIF, JPEG 2000 or TIFF of one picture, pixel by pixel as PNG."""
    try:
        with Image.open(io.BytesIO(data), formats=_CONVERTED) as image:
            _refuse_absurd_size(image.size)
            _refuse_what_png_cannot_hold(image)
            _refuse_deep_colours(data, image)
            orientation, size = image.getexif().get(274, 1), image.size
            removed = {name: 1 for name in ("comment", "exif", "icc_profile", "xmp") if image.info.get(name)}
            stored, scaled = _scaled(_as_png(image, _STORED_MODES[image.mode]))
            mended = {"converted_image": f"a {image.format}, stored as PNG with the same pixels"} | scaled
    except UnidentifiedImageError:
        raise ImageBytesError(_not_read(data)) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageBytesError(f"it cannot be decoded ({error}). Restore the file or export again") from error
    return CleanImage(stored, "png", *displayed_size(size, orientation), orientation, size, removed, mended)


def _refuse_what_png_cannot_hold(image: Image.Image) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise ImageBytesError(f"it is a {image.format} of {pages} pictures. Export the one that is meant")
    if image.mode not in _STORED_MODES:
        raise ImageBytesError(f"it is a {image.format} of {image.mode} pixels. Convert it to grayscale or RGB")


def _refuse_deep_colours(data: bytes, image: Image.Image) -> None:
    """Of colours of more than 8 bits Pillow reads the upper eight and says nothing, where OpenCV reads all."""
    if "16" in image.mode:
        return
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is not None and pixels.dtype != np.uint8:
        what = f"it is a {image.format} of {image.mode} pixels of {8 * pixels.itemsize} bits"
        raise ImageBytesError(f"{what}. Convert it to an upright PNG, or to grayscale")


def _of_dicom(data: bytes) -> CleanImage:
    """A DICOM file's picture as it is meant to be seen, as PNG; not one of its tags."""
    try:
        pixels, done = picture(data, MAX_PIXELS)
    except DicomError as error:
        raise ImageBytesError(str(error)) from None
    size = (pixels.shape[1], pixels.shape[0])
    stored, removed = _png(Image.fromarray(pixels)), {"DICOM elements": 1}
    return CleanImage(stored, "png", *size, 1, size, removed, {"converted_image": done})


def _not_read(data: bytes) -> str:
    """What a file is that is not read, and what to do."""
    if not data:
        return "it is empty. Restore the file or export again"
    named = (name for place, mark, name in _SIGNATURES if data.startswith(mark, place))
    found = next(named, "neither JPEG nor PNG, WebP, BMP, GIF, JPEG 2000, TIFF or DICOM")
    return f"it is {found}. Convert it to PNG, or export again"


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1
