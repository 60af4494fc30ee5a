"""The cuttings show the mistakes that matter, at the right place, with what is wrong about each."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dentsight_pipeline.release.report.mistakes import ClassMistakes, mistakes_by_class
from dentsight_pipeline.release.report.pictures import SIDES, Truth

TRUTH = Truth(
    images=pd.DataFrame({"id": [1, 2], "width": 400, "clean": True}).set_index("id"),
    boxes=pd.DataFrame(
        [
            (1, 1, "caries", 100, 50, 20, 20),
            (2, 1, "crown", 300, 100, 40, 40),
            (3, 2, "caries", 10, 10, 30, 30),
            (4, 1, "crown", 118, 50, 20, 20),
            (5, 1, "caries", 200, 150, 20, 20),
        ],
        columns=["id", "image_id", "class", *SIDES],
    ),
)


def _row(kind: str, box: tuple[float, ...], score: float | None = None, **more: Any) -> dict[str, Any]:
    """One row of `matches.parquet` as pandas reads it; what was missed has no score and no threshold."""
    row: dict[str, Any] = {"image_id": 1, "class": "caries", "score": np.nan if score is None else score, "kind": kind}
    row |= dict(zip("xywh", box, strict=True))
    return row | {"matched_at_50": np.nan, "above_threshold": None if score is None else True} | more


def _white_square(_: int) -> bytes:
    """A black X-ray with a white square at the first annotation."""
    pixels = np.zeros((200, 400), np.uint8)
    pixels[50:70, 100:120] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _mistakes(*rows: dict[str, Any], most: int = 4, images: Any = _white_square) -> list[ClassMistakes]:
    return mistakes_by_class(pd.DataFrame(rows), TRUTH, ["caries", "crown"], images, most)


def test_the_surest_wrong_boxes_and_the_largest_misses_come_first():
    """A confident mistake harms most, and a large miss is hardest to excuse."""
    wrong = [_row("background", (200, 100, 10, 10), score) for score in (0.4, 0.9, 0.6)]
    missed = [_row("missed", (200, 100, side, side)) for side in (10, 30, 20)]

    (caries,) = _mistakes(*wrong, *missed, most=2)

    assert (caries.name, caries.n_wrong, caries.n_missed) == ("caries", 3, 3)
    assert [crop.words for crop in caries.wrong] == ["0.90 nothing there", "0.60 nothing there"]
    assert [crop.box.w for crop in caries.missed] == [30, 20]


def test_a_box_under_the_threshold_is_no_mistake_but_explains_a_miss():
    """Nobody sees it; yet a lower threshold would mend such a miss, and nothing mends the other."""
    hidden = _row("tp", (100, 50, 20, 20), 0.18, matched_at_50=1.0, above_threshold=False)
    noise = _row("background", (200, 100, 10, 10), 0.10, above_threshold=False)
    missed = [
        _row("missed", (10, 10, 30, 30), image_id=2, matched_at_50=3.0),
        _row("missed", (100, 50, 20, 20), matched_at_50=1.0),
    ]

    (caries,) = _mistakes(hidden, noise, *missed)

    assert caries.wrong == ()
    assert [crop.words for crop in caries.missed] == ["not found", "found at 0.18 only"]


def test_a_wrong_box_is_shown_with_the_finding_that_it_lies_on():
    """Only so can be seen how far off a box is, and what was taken for what."""
    (caries,) = _mistakes(
        _row("class", (302, 100, 40, 40), 0.9),
        _row("localisation", (110, 50, 20, 20), 0.8),
        _row("background", (200, 100, 10, 10), 0.7),
    )

    as_crown, shifted, nothing = caries.wrong
    assert as_crown.words == "0.90 wrong class: crown"
    assert as_crown.finding is not None
    assert as_crown.box.x - as_crown.finding.x == pytest.approx(2)
    assert shifted.words == "0.80 badly placed"
    assert shifted.finding is not None
    assert shifted.box.x - shifted.finding.x == pytest.approx(10)
    assert nothing.finding is None


def test_the_cutting_shows_what_the_box_marks():
    """A box drawn over the wrong place would accuse the model, or excuse it, of something else."""
    (caries,) = _mistakes(_row("missed", (100, 50, 20, 20)))
    crop = caries.missed[0]

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(crop.jpeg_base64))))

    scale = pixels.shape[1] / crop.side
    x, y, w, h = (round(value * scale) for value in crop.box)
    assert pixels[y + 3 : y + h - 3, x + 3 : x + w - 3].min() > 200
    assert pixels[: y - 3].max() < 50
    assert pixels[:, x + w + 3 :].max() < 50


@pytest.mark.parametrize(
    ("box", "side", "own"),
    [
        ((100, 50, 20, 10), 64, (22, 27, 20, 10)),  # 64 px at least, the box in the middle
        ((200, 80, 40, 20), 88, (24, 34, 40, 20)),  # 2.2 times the longer side
        ((10, 5, 20, 20), 64, (10, 5, 20, 20)),  # moved to the upper left corner
        ((370, 170, 20, 20), 64, (34, 34, 20, 20)),  # and to the lower right one
        ((100, 50, 150, 20), 200, (25, 50, 150, 20)),  # as high as the X-ray
    ],
)
def test_a_cutting_is_a_square_with_what_is_around_its_box(box, side, own):
    """A finding is judged by its neighbourhood, which must not end at the box."""
    (caries,) = _mistakes(_row("missed", box))
    crop = caries.missed[0]

    assert (crop.side, tuple(crop.box)) == (side, own)
    assert crop.alt == "caries, image 1: not found"


@pytest.mark.parametrize("box", [(-8, -5, 20, 20), (390, 190, 30, 30), (0, 0, 400, 200)])
def test_a_cutting_at_the_edge_stays_inside_the_x_ray(box):
    """Detections may reach outside; a black border would look like part of the X-ray."""
    (caries,) = _mistakes(_row("background", box, 0.9), images=lambda _: _blank(255))

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(caries.wrong[0].jpeg_base64))))

    assert pixels.shape == (128, 128)
    assert pixels.min() > 250


def _blank(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (400, 200), value).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_that_cannot_be_decoded_gives_no_cutting_but_counts():
    """Leaving out the mistake with the picture would flatter the model."""
    (caries,) = _mistakes(_row("missed", (100, 50, 20, 20)), images=lambda _: b"no picture")

    assert (caries.n_missed, caries.missed) == (1, ())


def test_a_mistake_on_an_image_that_is_not_shown_does_not_count():
    """The gates read the clean images alone; the cuttings must tell of the same ones."""
    narrowed = TRUTH._replace(images=TRUTH.images.assign(clean=[False, True])).only_clean()
    rows = pd.DataFrame([_row("missed", (100, 50, 20, 20)), _row("missed", (10, 10, 30, 30), image_id=2)])

    (caries,) = mistakes_by_class(rows, narrowed, ["caries"], _white_square)

    assert (caries.n_missed, caries.missed[0].box.w) == (1, 30)
    assert narrowed.boxes["id"].tolist() == [3]


def test_a_class_without_a_mistake_is_left_out():
    """Thirteen empty rows would hide the one that matters."""
    assert _mistakes(_row("tp", (100, 50, 20, 20), 0.9, matched_at_50=1.0)) == []
