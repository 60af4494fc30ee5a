"""The worst test images with their boxes: what figures hide and a look shows.

Belongs here: choosing the images and laying boxes, numbers and words over them. The page draws the boxes as SVG over
the picture; class names reach it as text that the template escapes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
from PIL import Image

from dentsight_pipeline.release.report.pictures import (
    KIND_WORDS,
    SIDES,
    UNREADABLE,
    Images,
    Truth,
    decode_grey,
    jpeg_base64,
)

_WIDTH_PX = 960
_JPEG_QUALITY = 80
_COLOURS = {"right": "#2fbf8f", "wrong": "#ff9f1c", "missed": "#ff5fa2"}
"""Fixed, not the page's: they lie on a dark X-ray in either scheme. The dashes tell them apart without colour."""
_DASHES = {"wrong": (0.5, 0.3), "missed": (0.14, 0.22)}
"""Line and gap as multiples of the font's size."""
_MOST_NUMBERED = 12
"""Numbers of each kind on one picture: more would hide the teeth. The other boxes are drawn without one."""


@dataclass(frozen=True)
class DrawnBox:
    """A box in pixels of the picture as shown; most of what is wrong or missed has a number that leads to its words."""

    x: float
    y: float
    w: float
    h: float
    words: str
    number: int | None
    colour: str
    dash: str
    text_x: float
    text_y: float


class Listed(NamedTuple):
    """What was missed, or what was wrong, by number."""

    title: str
    text: str


@dataclass(frozen=True)
class Example:
    """One image with its boxes."""

    image_id: int
    """Id in the ground truth; no file name, which could identify a person."""
    width: int
    """Of the picture as shown, px."""
    height: int
    """Of the picture as shown, px."""
    jpeg_base64: str
    """The picture."""
    boxes: tuple[DrawnBox, ...]
    """What to draw."""
    counts: Mapping[str, int]
    """right, wrong, missed."""
    lists: tuple[Listed, ...]
    """What was missed and what was wrong."""

    @property
    def caption(self) -> str:
        """One line under the picture."""
        return f"Image {self.image_id}: {', '.join(f'{n} {kind}' for kind, n in self.counts.items())}."

    @property
    def alt(self) -> str:
        """Alternative text."""
        return f"X-ray with boxes. {self.caption} {'; '.join(f'{part.title}: {part.text}' for part in self.lists)}"


class _Mark(NamedTuple):
    """A box in px of the X-ray, what it is, and what is said of it."""

    kind: str
    box: Sequence[float]
    words: str


def worst_cases(
    matches: pd.DataFrame, truth: Truth, thresholds: Mapping[str, float | None], images: Images, most: int = 6
) -> tuple[list[Example], list[str]]:
    """The test images with the most errors at the operating thresholds, worst first.

    Args:
        matches: `matches.parquet` of the evaluation.
        truth: What was evaluated.
        thresholds: Operating threshold of each class; a class without one shows nothing.
        images: Gives an image's bytes by its id.
        most: How many examples at most.

    Returns:
        The examples, and a sentence for each image that could not be shown.
    """
    shown = _shown(matches, thresholds)
    missed = truth.boxes[~truth.boxes["id"].isin(shown.loc[shown["kind"] == "tp", "matched_at_50"])]
    widths = truth.images["width"].to_dict()
    examples: list[Example] = []
    problems: list[str] = []
    for image_id in _ranked(shown, missed, truth):
        if most in (len(examples), len(problems)):
            break
        try:
            picture = _picture(images(image_id))
        except UNREADABLE as error:
            problems.append(f"Image {image_id} could not be shown ({type(error).__name__}).")
            continue
        found = shown[shown["image_id"] == image_id].sort_values(["score", "x"], ascending=[False, True])
        marks = [*_marks(found, missed[missed["image_id"] == image_id])]
        examples.append(_example(image_id, picture, marks, picture.width / widths[image_id]))
    return examples, problems


def _shown(matches: pd.DataFrame, thresholds: Mapping[str, float | None]) -> pd.DataFrame:
    """The detections that a reader would see: at or above their class's operating threshold."""
    least = matches["class"].map({name: math.inf if value is None else value for name, value in thresholds.items()})
    return matches[matches["score"] >= least.fillna(math.inf)]


def _ranked(shown: pd.DataFrame, missed: pd.DataFrame, truth: Truth) -> list[int]:
    """Images with errors, most of them first."""
    errors = pd.concat([shown.loc[shown["kind"] != "tp", "image_id"], missed["image_id"]]).value_counts()
    counted = dict(zip(errors.index.tolist(), errors.tolist(), strict=True))
    known = [image for image in counted if image in truth.images.index]
    return sorted(known, key=lambda image: (-counted[image], image))


def _picture(data: bytes) -> Image.Image:
    """The image with at most 960 px width."""
    grey = decode_grey(data, draft_px=_WIDTH_PX)
    if grey.width <= _WIDTH_PX:
        return grey
    return grey.resize((_WIDTH_PX, max(1, round(grey.height * _WIDTH_PX / grey.width))), Image.Resampling.LANCZOS)


def _marks(found: pd.DataFrame, missed: pd.DataFrame) -> Iterator[_Mark]:
    """What is right, what was missed and what is wrong, in the order in which it is drawn."""
    rows = [
        (row, [row[side] for side in SIDES], f"{row['class']} {row['score']:.2f}") for row in found.to_dict("records")
    ]
    yield from (_Mark("right", box, words) for row, box, words in rows if row["kind"] == "tp")
    yield from (_Mark("missed", box, name) for name, *box in missed[["class", *SIDES]].itertuples(index=False))
    for row, box, words in rows:
        if row["kind"] != "tp":
            yield _Mark("wrong", box, f"{words} ({KIND_WORDS.get(row['kind'], row['kind'])})")


def _example(image_id: int, picture: Image.Image, marks: Sequence[_Mark], scale: float) -> Example:
    numbers = list(_numbers(marks))
    counted = Counter(mark.kind for mark in marks)
    return Example(
        image_id=image_id,
        width=picture.width,
        height=picture.height,
        jpeg_base64=jpeg_base64(picture, _JPEG_QUALITY),
        boxes=tuple(_drawn(mark, number, picture.size, scale) for mark, number in zip(marks, numbers, strict=True)),
        counts={kind: counted[kind] for kind in _COLOURS},
        lists=tuple(_lists(marks, numbers)),
    )


def _numbers(marks: Sequence[_Mark]) -> Iterator[int | None]:
    """The number of each mark, if it gets one."""
    seen, last = Counter[str](), 0
    for mark in marks:
        seen[mark.kind] += 1
        is_numbered = mark.kind != "right" and seen[mark.kind] <= _MOST_NUMBERED
        last += is_numbered
        yield last if is_numbered else None


def _drawn(mark: _Mark, number: int | None, size: tuple[int, int], scale: float) -> DrawnBox:
    (width, height), font = size, size[0] / 68
    x, y, w, h = (round(float(value) * scale, 1) for value in mark.box)
    dash = " ".join(f"{font * part:.1f}" for part in _DASHES.get(mark.kind, ())) or "none"
    text_x = min(max(0.0, x), max(0.0, width - 0.62 * font * len(str(number))))
    text_y = y - font * 0.2 if y > font * 1.2 else min(height - 2.0, y + h + font * 0.9)
    return DrawnBox(x, y, w, h, mark.words, number, _COLOURS[mark.kind], dash, round(text_x, 1), round(text_y, 1))


def _lists(marks: Sequence[_Mark], numbers: Sequence[int | None]) -> Iterator[Listed]:
    """The words that numbers lead to, and how many boxes have none."""
    for kind in ("missed", "wrong"):
        own = [(mark, number) for mark, number in zip(marks, numbers, strict=True) if mark.kind == kind]
        words = [f"{number} {mark.words}" for mark, number in own if number]
        more = f" · and {len(own) - len(words)} more without a number" if len(own) > len(words) else ""
        if words:
            yield Listed(kind.capitalize(), " · ".join(words) + more)
