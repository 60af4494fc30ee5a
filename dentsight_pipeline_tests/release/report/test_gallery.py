"""The worst X-rays are the ones with most errors, and each box, number and word lies where it belongs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dentsight_pipeline.release.report.gallery import Example, worst_cases
from dentsight_pipeline.release.report.pictures import SIDES, Truth


def _truth(*boxes: tuple[Any, ...], images: int = 2, width: int = 680) -> Truth:
    """Annotations as (id, image, class, x, y, w, h)."""
    known = pd.DataFrame({"id": range(1, images + 1), "width": width, "clean": True}).set_index("id")
    return Truth(known, pd.DataFrame(boxes, columns=["id", "image_id", "class", *SIDES]))


def _found(kind: str, score: float, box: tuple[float, ...], image: int = 1, matched: float = np.nan) -> dict[str, Any]:
    row = {"image_id": image, "class": "caries", "score": score, "kind": kind, "matched_at_50": matched}
    return row | dict(zip(SIDES, box, strict=True))


def _drawn(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), 90).save(buffer, "JPEG")
    return buffer.getvalue()


def _examples(rows: list[dict[str, Any]], truth: Truth, least: float | None = 0.5, **more: Any) -> list[Example]:
    size = more.pop("size", (680, 300))
    examples, problems = worst_cases(pd.DataFrame(rows), truth, {"caries": least}, lambda _: _drawn(*size), **more)
    assert problems == []
    return examples


def test_an_example_tells_what_is_right_wrong_and_missed() -> None:
    """Right ones first, then the missed and the wrong ones with a number each, the surest first."""
    rows = [
        _found("background", 0.6, (300, 100, 40, 20)),
        _found("class", 0.9, (200, 100, 40, 20)),
        _found("tp", 0.5, (100, 50, 20, 20), matched=1.0),
        _found("background", 0.49, (500, 100, 40, 20)),  # under the threshold: nobody sees it
    ]

    (example,) = _examples(rows, _truth((1, 1, "caries", 100, 50, 20, 20), (2, 1, "crown", 400, 60, 30, 30)))

    assert example.caption == "Image 1: 1 right, 2 wrong, 1 missed."
    assert [(box.words, box.number, box.x, box.dash) for box in example.boxes] == [
        ("caries 0.50", None, 100, "none"),
        ("crown", 1, 400, "1.4 2.2"),
        ("caries 0.90 (wrong class)", 2, 200, "5.0 3.0"),
        ("caries 0.60 (nothing there)", 3, 300, "5.0 3.0"),
    ]
    assert len({box.colour for box in example.boxes}) == 3
    assert example.lists == (
        ("Missed", "1 crown"),
        ("Wrong", "2 caries 0.90 (wrong class) · 3 caries 0.60 (nothing there)"),
    )
    assert example.alt == (
        "X-ray with boxes. Image 1: 1 right, 2 wrong, 1 missed. Missed: 1 crown; "
        "Wrong: 2 caries 0.90 (wrong class) · 3 caries 0.60 (nothing there)"
    )


@pytest.mark.parametrize(
    ("box", "at"),
    [
        ((100, 50, 40, 20), (100, 48)),  # a fifth of a letter above the box
        ((100, 12, 40, 20), (100, 41)),  # too close to the upper edge: under it
        ((100, 12.1, 40, 20), (100, 10.1)),
        ((-5, 50, 40, 20), (0, 48)),
        ((676, 50, 40, 20), (673.8, 48)),  # room for one figure
        ((100, 5, 40, 290), (100, 298)),  # over the whole height: at the lower edge
    ],
)
def test_a_number_stands_beside_its_box_and_inside_the_picture(box, at) -> None:
    """Letters are a 68th of the width high; one that is cut off leads to no words."""
    (example,) = _examples([_found("background", 0.9, box)], _truth())

    assert (example.boxes[0].text_x, example.boxes[0].text_y) == at


def test_boxes_follow_a_picture_that_was_made_smaller() -> None:
    """Wide X-rays are shown 960 px wide; their truth is in pixels of the original."""
    truth = _truth(width=1920)
    (example,) = _examples([_found("background", 0.9, (200, 101, 41, 21))], truth, size=(1920, 1001))
    shown = Image.open(io.BytesIO(base64.b64decode(example.jpeg_base64)))
    box = example.boxes[0]

    assert (example.width, example.height) == shown.size == (960, 500)
    assert (box.x, box.y, box.w, box.h) == (100, 50.5, 20.5, 10.5)
    assert shown.mode == "L"


def test_the_worst_images_come_first_and_no_more_than_asked_for() -> None:
    """By wrong and missed boxes together, of equals the lower id; an image without errors or of no truth is none."""
    rows = [_found("background", 0.9, (10, 50, 9, 9), image) for image in (1, 2, 2, 3, 3, 9, 9, 9)]
    truth = _truth((1, 3, "crown", 1, 1, 5, 5), images=4)

    assert [example.image_id for example in _examples(rows, truth)] == [3, 2, 1]
    assert [example.image_id for example in _examples(rows, truth, most=2)] == [3, 2]


def test_a_class_without_a_threshold_shows_nothing() -> None:
    """Nobody would see its boxes, so its findings are all missed."""
    row = _found("tp", 0.99, (100, 50, 20, 20), matched=1.0)

    (example,) = _examples([row], _truth((1, 1, "caries", 100, 50, 20, 20)), least=None)

    assert example.counts == {"right": 0, "wrong": 0, "missed": 1}


def test_a_picture_that_cannot_be_shown_is_told_and_the_next_one_is_taken() -> None:
    """As many complaints as pictures at the most, so that a lost disk does not fill the page."""
    rows = [_found("background", 0.9, (10, 50, 9, 9), image) for image in (1, 2, 3, 4)]

    def images(image_id: int) -> bytes:
        if image_id == 1:
            raise KeyError(image_id)
        return b"no picture" if image_id == 2 else _drawn(680, 300)

    examples, problems = worst_cases(pd.DataFrame(rows), _truth(images=4), {"caries": 0.5}, images)
    _, only = worst_cases(pd.DataFrame(rows), _truth(images=4), {"caries": 0.5}, lambda _: b"", most=2)

    assert problems == [
        "Image 1 could not be shown (KeyError).",
        "Image 2 could not be shown (UnidentifiedImageError).",
    ]
    assert [example.image_id for example in examples] == [3, 4]
    assert len(only) == 2
