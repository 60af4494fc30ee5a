"""Damages DICOM files and judges what is made of them: `python -m dentsight_pipeline_tests.data.dicom_fuzz 1000`.

A file has no checksum. What can be asked for is that damage outside the pixels is refused or changes nothing; a byte
that turns a window of 1,024 into one of 1,824 makes another, legal file, and is counted as that.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from dentsight_pipeline.data.image_bytes import ImageBytesError, clean
from dentsight_pipeline_tests.data.dicom_builder import as_bytes, encoded, panoramic
from dentsight_pipeline_tests.data.export_builder import picture as drawn
from dentsight_pipeline_tests.data.test_image_bytes import lossless_jpeg

_WINDOW: dict[str, Any] = {"WindowCenter": "2048", "WindowWidth": "1824"}


class Mutated(NamedTuple):
    """A damaged file: of which base, how, its bytes, and the first byte that was touched."""

    base: str
    kind: str
    data: bytes
    first: int


@cache
def bases() -> dict[str, bytes]:
    """Sound files of every coding."""
    gray = drawn(1).astype(np.uint16) * 16
    gentle = 2048 + (drawn(1).astype(int) - drawn(1)[0, 0]) * 4  # steps that its codes hold
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (np.arange(4096) * 15).tolist()
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    made = {
        "plain": panoramic(gray),
        "window": panoramic(gray, **_WINDOW),
        "inverted": panoramic(4095 - gray, photometric="MONOCHROME1", RescaleSlope="1", RescaleIntercept="0"),
        "8 bits": panoramic(drawn(1), 8),
        "VOI LUT": panoramic(gray, VOILUTSequence=[table]),
        "RLE": encoded(panoramic(gray), uid.RLELossless),
        "JPEG-LS": encoded(panoramic(gray), uid.JPEGLSLossless),
        "JPEG 2000": encoded(panoramic(gray), uid.JPEG2000Lossless),
        "JPEG lossless": encoded(panoramic(gray), uid.JPEGLosslessSV1, lossless_jpeg(gentle, 12)),
    }
    without = as_bytes(panoramic(gray), preamble=False, meta=False)
    return {name: as_bytes(one) for name, one in made.items()} | {"without preamble": without}


def mutated(number: int, chance: random.Random) -> Mutated:
    """One damaged file; half of all damage is in the tags, which are few bytes of a real file."""
    base = list(bases())[number % len(bases())]
    kind = chance.choice(("cut", "byte", "byte", "bit", "bit", "run", "drop", "add"))
    data = bases()[base]
    first = chance.randrange(len(data) if chance.random() < 0.5 else _pixels_begin(base))
    length = chance.choice((1, 2, 4, 8, 64))
    noise = chance.randbytes(length)
    if kind == "cut":
        return Mutated(base, kind, data[:first], first)
    if kind in ("drop", "add"):
        behind = data[first + length :] if kind == "drop" else noise + data[first:]
        return Mutated(base, kind, data[:first] + behind, first)
    flipped = bytes([data[first] ^ 1 << chance.randrange(8)])
    put = {"byte": noise[:1], "bit": flipped, "run": noise}[kind][: len(data) - first]
    return Mutated(base, kind, data[:first] + put + data[first + len(put) :], first)


@cache
def _pixels_begin(base: str) -> int:
    return bases()[base].index(b"\xe0\x7f\x10\x00")


def judged(one: Mutated) -> str:
    """`refused`, `same picture`, `pixels changed`, or `another legal tag` where a picture differs by other bytes."""
    try:
        made = clean(one.data)
    except ImageBytesError:
        return "refused"
    if np.array_equal(_decoded(made.data), _truth(one.base)):
        return "same picture"
    return "pixels changed" if one.first >= _pixels_begin(one.base) + 8 else "another legal tag"


@cache
def _truth(base: str) -> NDArray[np.generic]:
    return _decoded(clean(bases()[base]).data)


def _decoded(data: bytes) -> NDArray[np.generic]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def campaign(count: int) -> tuple[Counter[tuple[str, str]], list[Mutated]]:
    """How often each outcome by kind of damage, and the files whose picture differs by other bytes than pixels."""
    made = [mutated(number, random.Random(number)) for number in range(count)]
    outcomes = [judged(one) for one in made]
    doubtful = [one for one, outcome in zip(made, outcomes, strict=True) if outcome == "another legal tag"]
    return Counter((one.kind, outcome) for one, outcome in zip(made, outcomes, strict=True)), doubtful


if __name__ == "__main__":
    counts, doubtful = campaign(int(sys.argv[1]))
    lines = [f"{kind:6} {outcome:18} {count}" for (kind, outcome), count in sorted(counts.items())]
    for one in doubtful:
        before, after = (data[one.first - 12 : one.first + 12] for data in (bases()[one.base], one.data))
        lines.append(f"{one.base}, {one.kind}: {before!r} -> {after!r}")
    sys.stdout.write("\n".join(lines) + "\n")
