"""DICOM files: the picture as it is meant to be seen, not one tag of it, and a refusal wherever one cannot be sure."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset

from dentsight_pipeline.data import dicom
from dentsight_pipeline.data.image_bytes import ImageBytesError, clean, decode_gray, metadata_left
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline_tests.data.dicom_builder import PLANTED, as_bytes, encoded, panoramic
from dentsight_pipeline_tests.data.dicom_fuzz import judged, mutated
from dentsight_pipeline_tests.data.export_builder import jpeg
from dentsight_pipeline_tests.data.export_builder import picture as drawn
from dentsight_pipeline_tests.data.test_image_bytes import lossless_jpeg

GENTLE = 2048 + (drawn(1).astype(int) - drawn(1)[0, 0]) * 4
"""12 bits in steps that the encoder of the tests has codes for."""


def values(bits: int = 12) -> np.ndarray:
    """A smooth picture that uses all of its bits."""
    gray = drawn(1).astype(float)
    return np.rint((gray - gray.min()) / np.ptp(gray) * ((1 << bits) - 1)).astype(np.uint16)


def seen(made: Dataset | bytes) -> np.ndarray:
    """What is stored of a DICOM file."""
    data = clean(made if isinstance(made, bytes) else as_bytes(made)).data
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_8_to_16_bits_of_either_polarity_give_the_same_picture(bits: int, photometric: str) -> None:
    """As a share of the brightest value that the bits hold; PNG gets 8 bits for 8, else 16."""
    stored, most = values(bits), (1 << bits) - 1
    given = most - stored if photometric == "MONOCHROME1" else stored

    made = seen(panoramic(given, bits, photometric))

    top = 255 if bits == 8 else 65535
    assert made.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(made - stored / most * top).max() <= 0.5


def test_the_modality_panoramic_and_digital_radiography_are_read_and_every_other_is_refused_by_its_name() -> None:
    """A bitewing or a CT slice looks like an X-ray to a detector."""
    assert seen(panoramic(values(), Modality="DX")).shape == (48, 64)
    for other in ("IO", "CT", "OT"):
        with pytest.raises(ImageBytesError, match=f"of {other} modality. Panoramic X-rays are read: PX and DX"):
            clean(as_bytes(panoramic(values(), Modality=other)))


WINDOW: dict[str, Any] = {"WindowCenter": "2048", "WindowWidth": "1024"}


@pytest.mark.parametrize(
    ("function", "shares"),
    [  # of PS3.3 C.11.2.1.2 and C.11.2.1.3, for the values below, by hand
        ("LINEAR", [0, 0, (2048 - 2047.5) / 1023 + 0.5, 1]),
        ("LINEAR_EXACT", [0, 0, 0.5, 1]),
        ("SIGMOID", [1 / (1 + np.exp(8)), 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-4 * 2047 / 1024))]),
    ],
)
def test_a_window_is_applied_as_the_standard_writes_it(function: str, shares: list[float]) -> None:
    """Without it, what a radiographer saw as bright is somewhere in the dark."""
    stored = np.array([[0, 1536, 2048, 4095]])

    made = seen(panoramic(stored, **WINDOW, VOILUTFunction=function))

    assert np.abs(made[0] - np.array(shares) * 65535).max() <= 0.5


def test_the_first_of_several_windows_and_a_rescale_before_it_count() -> None:
    """Window values are those after the rescale."""
    stored = np.array([[0, 1536, 2048, 4095]])
    one = seen(panoramic(stored, **WINDOW))
    scaled: dict[str, Any] = {"RescaleSlope": "2", "RescaleIntercept": "-1000"}

    several = panoramic(stored, WindowCenter=["2048", "9"], WindowWidth=["1024", "99"])
    rescaled = panoramic(stored, VOILUTFunction="LINEAR_EXACT", WindowCenter="3096", WindowWidth="2048", **scaled)

    assert np.array_equal(seen(several), one)
    exact = seen(panoramic(stored, VOILUTFunction="LINEAR_EXACT", **WINDOW))
    assert np.abs(seen(rescaled).astype(int) - exact).max() <= 1
    assert np.array_equal(seen(panoramic(stored, **scaled)), seen(panoramic(stored)))


def test_a_voi_lut_is_looked_up() -> None:
    """Devices with a curve of their own write one instead of a window."""
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (np.arange(4096)[::-1] * 16).tolist()
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"

    made = seen(panoramic(np.array([[0, 4095, 100]]), VOILUTSequence=[table]))

    assert made.tolist() == [[4095 * 16, 0, 3995 * 16]]


def test_every_compression_without_loss_gives_the_stored_values() -> None:
    """What archives hold: JPEG lossless, JPEG-LS, JPEG 2000, RLE, and none; also deflated, and implicit VR."""
    plain, made = seen(panoramic(values())), panoramic(values())
    made.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian

    assert np.array_equal(seen(made), plain)
    for syntax in (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless):
        assert np.array_equal(seen(encoded(panoramic(values()), syntax)), plain), syntax.name
    expected = seen(panoramic(GENTLE))
    for syntax in (uid.JPEGLosslessSV1, uid.JPEGLossless):
        made = encoded(panoramic(values()), syntax, lossless_jpeg(GENTLE, 12))
        assert np.array_equal(seen(made), expected), syntax.name
    deflated = panoramic(values())
    deflated.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    assert np.array_equal(seen(deflated), plain)


def test_a_baseline_jpeg_gives_what_its_decoder_gives() -> None:
    """8 bits with loss; another decoder rounds otherwise by a gray value."""
    stream = jpeg(drawn(1))

    made = seen(encoded(panoramic(drawn(1), 8), uid.JPEGBaseline8Bit, stream))

    assert np.abs(made.astype(int) - np.asarray(Image.open(io.BytesIO(stream)))).max() <= 1


@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="dcmtk is not installed")
@pytest.mark.parametrize(("option", "tolerance"), [("+ee", 80), ("+el", 0), ("+e1", 0)])
def test_jpegs_of_12_bits_by_another_toolkit_are_read(option: str, tolerance: int, tmp_path: Path) -> None:
    """dcmtk's extended (with loss, of 4,096 values) and lossless JPEG: nothing here encodes 12 bits with loss."""
    (tmp_path / "plain.dcm").write_bytes(as_bytes(panoramic(values())))

    command = ["dcmcjpeg", option, tmp_path / "plain.dcm", tmp_path / "coded.dcm"]
    subprocess.run(command, check=True, capture_output=True)

    made = seen((tmp_path / "coded.dcm").read_bytes()).astype(int)
    assert np.abs(made - seen(panoramic(values()))).max() <= tolerance * 16


def test_files_without_preamble_and_without_any_beginning_are_read() -> None:
    """Old archives send the data set alone."""
    plain = seen(panoramic(values()))

    for meta in (True, False):
        assert np.array_equal(seen(as_bytes(panoramic(values()), preamble=False, meta=meta)), plain)


@pytest.mark.parametrize(("name", "value"), [("Rows", 47), ("Rows", 4), ("Columns", 63), ("Columns", 66), ("Rows", 49)])
@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_compressed_pixels_of_another_size_are_refused(syntax: str, name: str, value: int) -> None:
    """Some decoders drop what is too much: the picture would be a slanted one."""
    made = encoded(panoramic(values()), syntax)
    setattr(made, name, value)

    with pytest.raises(ImageBytesError):
        clean(as_bytes(made))


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"NumberOfFrames": "3"}, "of 3 frames. Export the one that is meant"),
        ({"SamplesPerPixel": 3}, "in colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        ({"PixelRepresentation": 1}, "not of 8 to 16 unsigned bits"),
        ({"BitsStored": 7, "HighBit": 6}, "not of 8 to 16 unsigned bits"),
        ({"HighBit": 12}, "contradictory"),
        ({"PresentationLUTShape": "INVERSE"}, "contradictory"),
        ({"WindowCenter": "2048"}, "contradictory"),
        ({"RescaleSlope": "2"}, "contradictory"),
        ({"Rows": 47}, "pixels are cut off, or more than it says"),
        ({"Rows": 49}, "pixels are cut off, or more than it says"),
        ({"PixelData": None}, "without PixelData"),
        ({"BitsStored": None}, "without BitsStored"),
        ({"PixelRepresentation": None}, "without PixelRepresentation"),
        ({"WindowCenter": "2048", "WindowWidth": "0"}, "a window that is none"),
        ({"WindowCenter": "90000", "WindowWidth": "10"}, "shows nothing of the picture"),
        ({"BurnedInAnnotation": "YES"}, "says who the patient is in its pixels"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "meant for processing"),
        ({"PatientOrientation": ["R", "F"]}, "a mirrored DICOM file"),
        ({"PatientOrientation": ["RA", "F"]}, "a mirrored DICOM file"),
        ({"Modality": "SMITH"}, "a DICOM file of unnamed modality"),  # whatever stands there, it is not repeated
        ({"Modality": "A^B"}, "a DICOM file of unnamed modality"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "meant for processing"),
        ({"WindowCenter": "2048", "WindowWidth": "1"}, "a window that is none"),
        ({"WindowCenter": "1", "WindowWidth": "0", "VOILUTFunction": "LINEAR_EXACT"}, "a window that is none"),
        ({"WindowCenter": "1", "WindowWidth": "0", "VOILUTFunction": "SIGMOID"}, "a window that is none"),
        ({"WindowCenter": "2048", "WindowWidth": "9", "VOILUTFunction": "OTHER"}, "a window that is none"),
        ({"BitsStored": 11, "HighBit": 10}, "pixels are others than it says"),  # values of twelve bits
        ({"BitsAllocated": 24}, "not of 8 to 16 unsigned bits"),
        ({"Rows": 60000, "Columns": 60000}, "claims 60000×60000 pixels"),
    ],
)
def test_what_is_no_single_sound_picture_is_refused_with_the_reason(tags: dict[str, Any], words: str) -> None:
    """A wrong picture looks like a good one."""
    made = panoramic(values())
    for name, value in tags.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)

    with pytest.raises(ImageBytesError, match=words):
        clean(as_bytes(made))


def test_an_overlay_in_the_bits_that_no_sample_uses_is_left_out() -> None:
    """Old devices drew their marks there, and said so; what lies there unsaid is a fault."""
    plain = values()
    marked = panoramic(plain | 1 << 12)
    marked.add_new((0x6000, 0x0102), "US", 12)

    assert np.array_equal(seen(marked), seen(panoramic(plain)))


@pytest.mark.parametrize(
    "tags",
    [
        {"PatientOrientation": None},
        {"PatientOrientation": ["", ""]},
        {"PresentationLUTShape": None},
        {"PresentationLUTShape": ""},
        {"NumberOfFrames": "1"},
        {"NumberOfFrames": None},
        {"BurnedInAnnotation": None, "PresentationIntentType": None},
        {"PatientOrientation": ["L", "F"], "QualityControlImage": "NO", "PixelAspectRatio": ["1", "1"]},
    ],
)
def test_what_a_sound_file_may_say_or_leave_out_changes_nothing(tags: dict[str, Any]) -> None:
    """Devices fill in what they like; a refusal of them all would be safe and useless."""
    made = panoramic(values())
    for name, value in tags.items():
        setattr(made, name, value or "")
        if value is None:
            delattr(made, name)

    assert np.array_equal(seen(made), seen(panoramic(values())))


def test_padding_may_follow_the_pixels_and_nothing_else() -> None:
    """Data set trailing padding (PS3.10, 7.2) fills a file up to whole blocks; another element there is one misread."""
    padded, other = panoramic(values()), panoramic(values())
    padded.add_new(0xFFFCFFFC, "OB", bytes(64))
    other.add_new(0xFFFCFFFE, "OB", bytes(64))

    assert np.array_equal(seen(padded), seen(panoramic(values())))
    with pytest.raises(ImageBytesError, match="cut off, or"):
        seen(other)


def test_tags_about_the_picture_are_known_and_of_their_kind() -> None:
    """A byte that was shifted makes an unknown one, or a number of what was text."""
    unknown, other_kind = panoramic(values()), panoramic(values())
    unknown.add_new(0x0028FFF0, "US", 1)
    other_kind.add_new(0x00280004, "US", 1)
    del other_kind.PhotometricInterpretation
    other_kind.add_new(0x00281040, "US", 1)  # PixelIntensityRelationship is a code

    for made in (unknown, other_kind):
        with pytest.raises(ImageBytesError):
            clean(as_bytes(made))


def test_runs_of_either_kind_are_as_long_as_the_standard_says() -> None:
    """PS3.5, annex G: up to 127 one byte more follows as it is, from 129 on one is repeated, and 128 is nothing."""
    first = bytes([2, 7, 7, 7, 128, 254, 9, 129, 9])  # 3, nothing, 3 and 128
    second = bytes([127, *range(128), 255, 9])  # 128 and 2
    frame = struct.pack("<16I", 2, 64, 64 + len(first), *[0] * 13) + first + second

    assert list(dicom._rle_lengths(frame)) == [134, 130]


def test_an_odd_number_of_bytes_is_filled_up_by_one() -> None:
    """Elements have an even length: fifteen pixels of 8 bits are sixteen bytes."""
    odd = np.arange(15).reshape(3, 5)
    made = panoramic(odd, 8)
    made.PixelData += b"\0"

    assert seen(made).tolist() == odd.tolist()


def test_one_gray_throughout_is_a_picture_of_it() -> None:
    """Nothing was lost in it; only a picture with grays that its window makes one is refused."""
    flat = np.full((4, 6), 2048)

    assert np.unique(seen(panoramic(flat))).tolist() == [32776]  # 2048 of 4095 of 65535
    assert np.unique(seen(panoramic(flat, WindowCenter="90000", WindowWidth="10"))).tolist() == [0]


def test_a_curve_that_goes_up_and_down_again_is_refused() -> None:
    """Two grays that become one cannot be told apart by anybody."""
    table, curve = Dataset(), np.concatenate([np.arange(2048), np.arange(2048)[::-1]]) * 16
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], curve.tolist()
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"

    with pytest.raises(ImageBytesError, match="window or LUT cannot be"):
        clean(as_bytes(panoramic(values(), VOILUTSequence=[table])))


def test_what_was_done_is_told() -> None:
    """A person who wonders about a picture finds the reason in the report."""
    one = np.array([[0, 4095]])
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 12], np.arange(4096).tolist()
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"

    pictures = [
        panoramic(one, photometric="MONOCHROME1"),
        panoramic(one, **WINDOW),
        panoramic(one, VOILUTSequence=[table]),
    ]
    told = [clean(as_bytes(picture)).mended["converted_image"] for picture in pictures]

    assert told == [
        "a DICOM file of 12 bits, inverted (MONOCHROME1), stored as PNG",
        "a DICOM file of 12 bits, its window applied, stored as PNG",
        "a DICOM file of 12 bits, its VOI LUT applied, stored as PNG",
    ]
    assert seen(panoramic(one, VOILUTSequence=[table])).tolist() == [[0, 65535]]


def test_no_tag_stays_in_what_is_stored_and_none_is_told() -> None:
    """Text of every kind, dates, UIDs, private tags and the preamble: all that could tell whose picture it is."""
    stored = clean(as_bytes(panoramic(values())))

    told = stored.data + repr((stored.removed, stored.mended)).encode()
    assert [text for text in PLANTED if text.encode() in told] == []
    assert metadata_left(stored.data) == []
    assert stored.mended == {"converted_image": "a DICOM file of 12 bits, stored as PNG"}


def test_a_12_bit_picture_and_its_png_are_the_same_8_bit_grays() -> None:
    """What a detector sees of either."""
    out = io.BytesIO()
    Image.fromarray(values()).save(out, "PNG")

    files = out.getvalue(), as_bytes(panoramic(values()))
    of_png, of_dicom = (decode_gray(clean(data).data, (1, 1)) for data in files)

    assert of_png is not None and of_dicom is not None
    assert np.abs(of_png.astype(int) - of_dicom).max() <= 1


def test_without_the_packages_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not installed by default."""
    data = as_bytes(panoramic(values()))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    dicom.pydicom.cache_clear()

    with pytest.raises(ConfigurationError, match=r"pip install 'dentsight-pipeline\[dicom\]'"):
        clean(data)


def test_mutated_files_are_refused_or_give_the_true_picture() -> None:
    """A sample of the campaign in docs/log.md: no other error, and no picture that other bytes than pixels changed."""
    outcomes = [judged(mutated(number, random.Random(number))) for number in range(80)]

    assert set(outcomes) == {"refused", "same picture", "pixels changed"}
    assert outcomes.count("refused") > 20


def test_bytes_put_in_or_left_over_are_refused() -> None:
    """Four among the pixels shift all that follow, and leave four behind the end."""
    data = as_bytes(panoramic(values()))
    middle = len(data) - 2000

    for spoilt in (data[:middle] + b"\0\0\1\1" + data[middle:], data + b"\0\0", data[:-2]):
        with pytest.raises(ImageBytesError, match="cut off, or"):
            clean(spoilt)


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (b"x" * 128 + b"DICM", True),
        (b"x" * 127 + b"DICM", False),
        (b"\x02\0\x10\0", True),
        (b"\x08\0\xff\0", True),
        (b"\x08\0\x05\x01", False),
        (b"\x04\0\x05\0", False),
        (b"\x08\0\x05", False),
        (b"", False),
    ],
)
def test_a_dicom_file_is_known_by_its_beginning(data: bytes, is_one: bool, tmp_path: Path) -> None:
    """Files of a DICOM folder have no suffix, and old ones no preamble."""
    (tmp_path / "file").write_bytes(data + bytes(200) * bool(data[128:]))

    assert dicom.is_dicom(data) is is_one
    assert dicom.is_dicom_file(tmp_path / "file") is is_one
