"""Stripping image files: lossless, complete, and refusing what is no whole picture."""

from __future__ import annotations

import io
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dentsight_pipeline.data.image_bytes import ImageBytesError, clean, decode_gray, metadata_left, turn_point
from dentsight_pipeline_tests.data.export_builder import exif, jpeg, picture, png

SECRET = b"PATIENT 1.2.826.0.1.3680043.2"


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_jpeg_loses_its_metadata_and_not_one_pixel() -> None:
    """Names and dates hide in EXIF, comments and whatever software adds; the picture must stay bit for bit."""
    original = jpeg(picture(1), exif=exif(1), comment=SECRET, icc_profile=b"profile " + SECRET)

    stripped = clean(original)

    assert SECRET not in stripped.data
    assert stripped.removed == {"APP1 Exif": 1, "APP2": 1, "COM": 1}
    assert np.array_equal(_pixels(stripped.data), _pixels(original))
    assert metadata_left(original) == ["APP1 Exif", "APP2", "COM"]
    assert metadata_left(stripped.data) == []


def test_a_clean_jpeg_stays_byte_for_byte() -> None:
    """Then its stored digest equals the original's, and deduplication works across versions."""
    original = jpeg(picture(1))

    assert clean(original).data == original


def test_what_follows_the_end_of_a_jpeg_goes() -> None:
    """Phones append whole second files there."""
    stripped = clean(jpeg(picture(1)) + SECRET)

    assert SECRET not in stripped.data
    assert stripped.removed == {"bytes after the end": 1}


def test_a_progressive_jpeg_with_a_comment_between_its_scans_is_stripped() -> None:
    """Comments are legal between scans, where a reader of headers alone never looks."""
    original = jpeg(picture(1), progressive=True)
    scan = original.rindex(b"\xff\xda")
    spoilt = original[:scan] + b"\xff\xfe" + struct.pack(">H", len(SECRET) + 2) + SECRET + original[scan:]

    stripped = clean(spoilt)

    assert stripped.data == original
    assert stripped.removed == {"COM": 1}


def test_a_jfif_thumbnail_goes() -> None:
    """A thumbnail may show what was blacked out in the picture."""
    original = jpeg(picture(1))
    assert original[2:4] == b"\xff\xe0"
    header = bytearray(original[4:20])
    thumbnail = struct.pack(">H", 16 + 3) + bytes(header[2:14]) + b"\x01\x01" + b"\xaa\xbb\xcc"

    stripped = clean(original[:4] + thumbnail + original[20:])

    assert stripped.data == original
    assert stripped.removed == {"JFIF thumbnail": 1}


def test_a_png_keeps_only_what_makes_the_picture() -> None:
    """PNG text chunks carry patient names as easily as EXIF does."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", SECRET.decode())
    text.add_itxt("Name", SECRET.decode(), zip=True)
    original = png(picture(1), pnginfo=text, exif=exif(1)) + SECRET

    stripped = clean(original)

    assert SECRET not in stripped.data
    assert stripped.removed == {"tEXt": 1, "iTXt": 1, "eXIf": 1, "bytes after the end": 1}
    assert np.array_equal(_pixels(stripped.data), picture(1))
    assert metadata_left(stripped.data) == []


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_exif_rotation_is_applied_to_the_pixels_and_to_points(orientation: int) -> None:
    """Dropping the tag alone would turn the mouth; a box must be able to follow where it was drawn before turning."""
    pixels = np.zeros((20, 30), np.uint8)
    pixels[3, 7] = 255
    original = png(pixels, exif=exif(orientation))

    turned = clean(original)

    shown = np.zeros((turned.height, turned.width), np.uint8)
    x, y = turn_point(7.5, 3.5, (30, 20), orientation)
    shown[int(y), int(x)] = 255
    assert turned.orientation == orientation
    assert np.array_equal(_pixels(turned.data), shown)


def test_a_jpeg_with_an_exif_rotation_becomes_the_png_that_it_displays() -> None:
    """Coding it as JPEG again would cost quality."""
    original = jpeg(picture(1), exif=exif(6))

    turned = clean(original)

    assert (turned.extension, turned.width, turned.height, turned.coded_size) == ("png", 48, 64, (64, 48))
    assert np.array_equal(_pixels(turned.data), np.rot90(_pixels(original), -1))


@pytest.mark.parametrize("cut", [3, 25, 0.5, 0.99])
def test_a_jpeg_that_is_cut_off_is_refused(cut: float) -> None:
    """Decoders fill the rest with grey and say nothing."""
    original = jpeg(picture(1))
    end = int(cut * len(original)) if cut < 1 else int(cut)

    with pytest.raises(ImageBytesError, match="cut off"):
        clean(original[:end])


def test_a_png_that_is_cut_off_or_flipped_is_refused() -> None:
    """PNG carries checksums; they are read."""
    original = png(picture(1))
    flipped = bytearray(original)
    flipped[len(original) // 2] ^= 1

    with pytest.raises(ImageBytesError, match="cut off"):
        clean(original[:-20])
    with pytest.raises(ImageBytesError, match="damaged at byte"):
        clean(bytes(flipped))


@pytest.mark.parametrize("data", [b"", b"GIF89a....", b"<html>not found</html>"])
def test_what_is_no_jpeg_or_png_is_refused(data: bytes) -> None:
    """An error page saved under a .jpg name is a classic of downloads."""
    with pytest.raises(ImageBytesError, match=r"empty|GIF|neither JPEG nor PNG"):
        clean(data)


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded() -> None:
    """A PNG of a few bytes can claim gigabytes."""
    header = struct.pack(">II5B", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )

    with pytest.raises(ImageBytesError, match="claims 60000×60000 pixels"):
        clean(data)


# Mended and converted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_marker_gets_it(options: dict[str, object], lost: int) -> None:
    """Some programs never write it; every decoder shows the picture, and not one pixel is missing."""
    whole = jpeg(picture(1, 640, 480), **options)

    mended = clean(whole[:-lost])

    assert mended.data == whole
    assert list(mended.mended) == ["jpeg_end_added"]
    assert clean(whole).mended == {}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("lost", [3, 4, 7, 20, 200, 2000])
def test_a_jpeg_that_lacks_one_byte_more_is_refused(options: dict[str, object], lost: int) -> None:
    """A decoder fills what is lost with grey, and a finding there would be lost too."""
    whole = jpeg(picture(1, 640, 480), **options)

    with pytest.raises(ImageBytesError, match="cut off"):
        clean(whole[:-lost])


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("marker", [-1, -2, -9])
def test_a_jpeg_cut_off_where_its_decoder_restarts_is_refused(options: dict[str, object], marker: int) -> None:
    """There a decoder passes over all but the next restart marker: the rest was grey, and "not one pixel was lost"."""
    whole = jpeg(picture(1, 640, 480), restart_marker_rows=1, **options)
    place = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", whole)][marker]

    with pytest.raises(ImageBytesError, match="cut off"):
        clean(whole[:place])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_progressive_jpeg_cut_off_between_two_scans_is_refused(mode: str) -> None:
    """Every decoder shows it, and alike whatever follows: only finer, or in colour, would the rest have made it."""
    pixels = Image.fromarray(picture(1, 640, 480)).convert(mode)
    whole = jpeg(np.asarray(pixels), progressive=True)
    places = [match.start() for match in re.finditer(rb"\xff\xda", whole)][1:]
    assert len(places) >= 5

    for place in places:
        before = whole[:place].rpartition(b"\xff\xc4")  # a scan may have its own tables before it
        for cut in {place, len(before[0])}:
            with pytest.raises(ImageBytesError, match="cut off"):
                clean(whole[:cut])


@pytest.mark.parametrize(
    ("kind", "mode"), [("BMP", "L"), ("TIFF", "L"), ("TIFF", "I;16"), ("BMP", "RGB"), ("TIFF", "1")]
)
def test_another_format_of_the_same_pixels_is_stored_as_png(kind: str, mode: str) -> None:
    """Bit for bit: sixteen bits stay sixteen."""
    pixels = picture(1).astype(np.uint16) * 257 if mode == "I;16" else picture(1)
    image = Image.fromarray(pixels) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    out = io.BytesIO()
    image.save(out, kind)

    stored = clean(out.getvalue())

    assert (stored.extension, stored.width, stored.height, stored.orientation) == ("png", 64, 48, 1)
    assert np.array_equal(_pixels(stored.data), np.asarray(image.convert("L") if mode == "1" else image))
    assert stored.mended == {"converted_image": f"a {kind}, stored as PNG with the same pixels"}
    assert metadata_left(stored.data) == []


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_webp_is_stored_upright_and_without_its_metadata(orientation: int) -> None:
    """Pixels as the decoder gives them; a name in EXIF goes like any other."""
    out = io.BytesIO()
    Image.fromarray(picture(1)).convert("RGB").save(out, "WEBP", lossless=True, exif=exif(orientation))

    stored = clean(out.getvalue())

    turned = np.rot90(picture(1), -1) if orientation == 6 else picture(1)
    assert np.array_equal(_pixels(stored.data)[..., 0], turned)
    assert (stored.orientation, stored.coded_size, stored.removed) == (orientation, (64, 48), {"exif": 1})
    assert SECRET not in stored.data


def lossless_jpeg(pixels: np.ndarray, bits: int = 8, marker: int = 0xC3) -> bytes:
    """A lossless JPEG (ITU-T T.81, annex H: predictor 1, one code length for all), as archives of X-rays have them."""
    before = np.hstack([np.vstack([[[1 << (bits - 1)]], pixels[:-1, :1]]), pixels[:, :-1]]).astype(int)
    coded = ""
    for change in (pixels.astype(int) - before).ravel().tolist():
        size = abs(change).bit_length()
        coded += f"{size:04b}" + (f"{change if change > 0 else change + (1 << size) - 1:0{size}b}" if size else "")
    coded += "1" * (-len(coded) % 8)
    scan = int(coded, 2).to_bytes(len(coded) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHB", bits, *pixels.shape, 1) + b"\1\x11\0"
    table = b"\0" + bytes(3) + b"\x09" + bytes(12) + bytes(range(9))
    segments = ((marker, frame), (0xC4, table), (0xDA, b"\1\1\0\1\0\0"))
    parts = [b"\xff" + bytes([kind]) + struct.pack(">H", len(data) + 2) + data for kind, data in segments]
    return b"\xff\xd8" + b"".join(parts) + scan + b"\xff\xd9"


def test_a_lossless_jpeg_is_kept_as_it_is() -> None:
    """Both decoders read it to the last gray value."""
    stored = clean(lossless_jpeg(picture(1)))

    assert (stored.extension, stored.mended) == ("jpg", {})
    assert np.array_equal(_pixels(stored.data), picture(1))
    decoded = decode_gray(stored.data, (1, 1))
    assert decoded is not None
    assert np.array_equal(decoded, picture(1))


@pytest.mark.parametrize("kind", ["GIF", "JPEG2000"])
def test_a_gif_or_jpeg_2000_of_one_picture_is_stored_as_png(kind: str) -> None:
    """What Pillow reads without loss is read; an animation is refused by the count of its pictures."""
    one, two = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture(1)).save(one, kind)
    Image.fromarray(picture(1)).save(two, "GIF", save_all=True, append_images=[Image.fromarray(picture(2))])

    stored = clean(one.getvalue())

    assert stored.mended == {"converted_image": f"a {kind}, stored as PNG with the same pixels"}
    shown = _pixels(stored.data)
    assert np.array_equal(shown[..., 0] if shown.ndim == 3 else shown, picture(1))
    with pytest.raises(ImageBytesError, match="it is a GIF of 2 pictures"):
        clean(two.getvalue())


def test_what_is_not_read_is_refused_by_its_name() -> None:
    """`neither JPEG nor PNG` left the user to find out what it was."""
    pages = io.BytesIO()
    Image.fromarray(picture(1)).save(pages, "TIFF", save_all=True, append_images=[Image.fromarray(picture(2))])
    cmyk = io.BytesIO()
    Image.fromarray(picture(1)).convert("CMYK").save(cmyk, "TIFF")
    for data, words in (
        (b"GIF89a" + b"x" * 200, "it is a damaged GIF|cannot be decoded"),
        (b"\0\0\0\x0cjP  \r\n", "it is a damaged JPEG 2000"),
        (b"\xff\x4f\xff\x51", "it is a damaged JPEG 2000|cannot be decoded"),
        (lossless_jpeg(picture(1), bits=12), "it is a JPEG of 12 bits. Convert it to a PNG of 16 bits"),
        (lossless_jpeg(picture(1), marker=0xCB), "it is a JPEG with arithmetic coding"),
        (b"\xff\xd8\xff\xf7\x00\x0b\x08" + b"\0" * 40, "it is a JPEG-LS image"),
        (b"\0\0\0\x20ftypavif", "it is an AVIF image"),
        (b"\0" * 128 + b"DICM", "it is a DICOM file of unnamed modality"),
        (pages.getvalue(), "it is a TIFF of 2 pictures. Export the one that is meant"),
        (cmyk.getvalue(), "it is a TIFF of CMYK pixels. Convert it to grayscale or RGB"),
        (b"BM" + b"x" * 60, "it is neither JPEG nor PNG|cannot be decoded"),
    ):
        with pytest.raises(ImageBytesError, match=words):
            clean(data)


@pytest.mark.parametrize(("used", "kind"), [(12, "PNG"), (12, "TIFF"), (10, "PNG"), (8, "PNG")])
def test_gray_values_of_fewer_than_16_bits_are_scaled_by_the_bits_that_are_used(used: int, kind: str) -> None:
    """Read as 8 bits, 12 in 16 were cut to sixteen grays; each is now the gray that it was of its range."""
    most = (1 << used) - 1
    values = np.array([[0, 1, most // 4, most // 2, most]] * 3, np.uint16)
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind)

    made = clean(out.getvalue())
    stored = cv2.imdecode(np.frombuffer(made.data, np.uint8), cv2.IMREAD_UNCHANGED)
    shown = decode_gray(made.data, (made.width, made.height))
    assert stored is not None
    assert stored.tolist() == (values << (16 - used)).tolist()
    assert shown is not None
    assert shown[0].tolist() == [0, (1 << (16 - used)) >> 8, 63, 127, 255]
    assert made.mended["gray_values_scaled"] == f"{used} of 16 bits are used; multiplied by {1 << (16 - used)}"
    assert clean(made.data).mended == {}


def test_colours_of_fewer_than_16_bits_are_scaled_by_the_bits_that_are_used() -> None:
    """As gray values are: a gray picture saved as RGB is not darker than it was, and keeps all its grays."""
    values = (picture(1).astype(np.uint16) * 16)[..., None] + np.array([0, 3, 7], np.uint16)

    made = clean(bytes(cv2.imencode(".png", values)[1]))

    stored = cv2.imdecode(np.frombuffer(made.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored.tolist() == (values << 4).tolist()
    assert made.mended["gray_values_scaled"] == "12 of 16 bits are used; multiplied by 16"
    assert (clean(made.data).mended, metadata_left(made.data)) == ({}, [])


@pytest.mark.parametrize("kind", ["tiff", "jp2"])
def test_colours_of_16_bits_that_would_be_cut_to_8_are_refused(kind: str) -> None:
    """They were stored "with the same pixels", of 12 bits the upper four."""
    values = np.repeat((picture(1).astype(np.uint16) * 16)[..., None], 3, axis=2)

    with pytest.raises(ImageBytesError, match=r"RGB pixels of 16 bits\. Convert it to an upright PNG, or to grayscale"):
        clean(bytes(cv2.imencode(f".{kind}", values)[1]))


def test_colours_of_16_bits_that_their_exif_turns_are_refused() -> None:
    """Turning goes through a decoder that reads 8 of them."""
    whole = bytes(cv2.imencode(".png", np.repeat((picture(1).astype(np.uint16) * 16)[..., None], 3, axis=2))[1])
    exif = b"eXIf" + tiff("<", (274, 3, 6))
    chunk = struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif))

    with pytest.raises(ImageBytesError, match="PNG of RGB pixels of 16 bits"):
        clean(whole[:33] + chunk + whole[33:])


def test_gray_values_that_use_16_bits_stay_as_they_are() -> None:
    """And so does an image without any light, of which nothing can be told."""
    for values in (np.array([[0, 40000]], np.uint16), np.zeros((2, 2), np.uint16)):
        out = io.BytesIO()
        Image.fromarray(values).save(out, "PNG")

        made = clean(out.getvalue())
        assert (made.data, made.mended) == (out.getvalue(), {})


# By hand -------------------------------------------------------------------------------------------------------------


def tiff(order: str, *entries: tuple[int, int, int], start: int = 8) -> bytes:
    """EXIF with one directory of short or other values: tag, kind and value."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", start)
    rows = (struct.pack(f"{order}HHIHH", tag, kind, 1, value, 0) for tag, kind, value in entries)
    return head + bytes(start - 8) + struct.pack(f"{order}H", len(entries)) + b"".join(rows) + bytes(4)


@pytest.mark.parametrize(
    ("block", "orientation"),
    [
        (tiff("<", (256, 3, 64), (274, 3, 6)), 6),
        (tiff(">", (256, 3, 64), (274, 3, 8), start=20), 8),
        (tiff("<", (256, 3, 6)), 1),
        (tiff("<", (274, 4, 6)), 1),  # a long, not a short
        (tiff("<", (274, 3, 0)), 1),
        (tiff("<", (274, 3, 9)), 1),
        (tiff("<", (256, 3, 64), (274, 3, 6))[:-10], 1),
        (b"XX" + tiff("<", (274, 3, 6))[2:], 1),
        (b"II*\0", 1),
    ],
)
def test_an_orientation_is_read_from_either_byte_order_and_only_where_it_makes_sense(
    block: bytes, orientation: int
) -> None:
    """A wrong one would turn a mouth that was upright."""
    coded = jpeg(picture(1), exif=b"Exif\0\0" + block)

    assert clean(coded).orientation == orientation
    assert clean(coded).coded_size == (64, 48)
    assert clean(coded).extension == ("jpg" if orientation == 1 else "png")


def segment(marker: int, payload: bytes) -> bytes:
    """One JPEG segment."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload


@pytest.mark.parametrize(
    ("given", "kept", "removed"),
    [
        (segment(0xEE, b"Adobe" + bytes(7)), segment(0xEE, b"Adobe" + bytes(7)), {}),
        (segment(0xEE, b"Adobe" + bytes(7) + SECRET), segment(0xEE, b"Adobe" + bytes(7)), {"Adobe extra": 1}),
        (segment(0xEE, b"Adobe" + bytes(6)), b"", {"APP14": 1}),
        (segment(0xE0, b"JFIF\0" + bytes(8)), b"", {"APP0": 1}),
        (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + SECRET) * 2, b"", {"APP1 XMP": 2}),
        (segment(0xEF, SECRET), b"", {"APP15": 1}),
        (b"\xff\x01", b"\xff\x01", {}),  # a marker without a length
        (b"\xff\xff\xff" + segment(0xFE, SECRET), b"", {"COM": 1}),  # fill bytes
        (segment(0xF0, b"kept"), segment(0xF0, b"kept"), {}),
    ],
)
def test_each_segment_stays_or_goes_as_the_standards_have_it(
    given: bytes, kept: bytes, removed: dict[str, int]
) -> None:
    """What decides about the picture's colours stays; everything that can hold words goes."""
    plain = jpeg(picture(1))

    stripped = clean(plain[:2] + given + plain[2:])

    assert stripped.data == plain[:2] + kept + plain[2:]
    assert stripped.removed == removed


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xd8\xff\xd9", "the JPEG has no picture"),
        (b"\xff\xd8\0", "damaged at byte 2"),
        (b"\xff\xd8\xff", "the JPEG has no end"),
        (b"\xff\xd8", "the JPEG has no end"),
        (b"\xff\xd8\xff\xe0\0\x01\xff\xd9", "inside a JPEG segment"),
        (b"\xff\xd8\xff\xe0\0", "inside a JPEG segment"),
        (b"\xff\xd8\xff\xe0\0\x03", "inside a JPEG segment"),
        (b"\0\0\0\x20ftypheic", "it is a HEIC image"),
        (b"%PDF-1.7", "it is a PDF"),
        (b"", "it is empty"),
        (
            b"<html>",
            "it is neither JPEG nor PNG, WebP, BMP, GIF, JPEG 2000, TIFF or DICOM. Convert it to PNG, or export again$",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_bytes(data: bytes, words: str) -> None:
    """A person has to know which program to ask."""
    with pytest.raises(ImageBytesError, match=words):
        clean(data)


@pytest.mark.parametrize(("size", "allowed"), [((15_000, 10_000), True), ((150_000_001, 1), False), ((0, 5), False)])
def test_a_picture_has_at_most_150_million_pixels_and_one_at_least(size: tuple[int, int], allowed: bool) -> None:
    """Told from the header alone."""
    header = struct.pack(">II5B", *size, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    )

    if allowed:
        assert (clean(data).width, clean(data).height, clean(data).data) == (*size, data)
    else:
        with pytest.raises(ImageBytesError, match=rf"claims {size[0]}×{size[1]} pixels"):
            clean(data)


@pytest.mark.parametrize(
    ("shortest_side", "shape"), [(6, (6, 8)), (7, (12, 16)), (12, (12, 16)), (13, (24, 32)), (25, (48, 64))]
)
def test_a_picture_is_decoded_at_the_smallest_scale_that_is_asked_for(
    shortest_side: int, shape: tuple[int, int]
) -> None:
    """An eighth costs a fraction of the whole, and half would double every ingestion."""
    decoded = decode_gray(jpeg(picture(1)), (64, 48), shortest_side)

    assert decoded is not None
    assert (decoded.shape, decoded.dtype) == (shape, np.uint8)
    assert decode_gray(b"no picture", (64, 48)) is None
    assert decode_gray(b"", (64, 48)) is None


@pytest.mark.parametrize("kind", ["gray", "16 bits", "colour", "black and white"])
def test_a_turned_picture_keeps_its_kind_of_pixels(kind: str) -> None:
    """Sixteen bits stay sixteen, and colours stay colours."""
    gray = picture(1)
    pixels = {
        "gray": gray,
        "16 bits": gray.astype(np.uint16) * 257,
        "colour": np.dstack([gray, 255 - gray, gray // 2]),
        "black and white": gray > 128,
    }[kind]

    turned = clean(png(pixels, exif=exif(6)))

    shown = cv2.imdecode(np.frombuffer(turned.data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = np.rot90(pixels, -1)
    assert shown is not None
    assert np.array_equal(shown[..., ::-1] if kind == "colour" else shown, expected * (255 if kind[0] == "b" else 1))
