"""The worst test images, with what was right, wrong and missed drawn on them.

Belongs here: choosing the images and preparing their boxes. The page draws them as SVG over the picture, so labels are
text that the template escapes. Images come from outside: one that cannot be decoded is left out and said so.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    import pandas as pd

_WIDTH_PX = 960
_JPEG_QUALITY = 80
_MOST_PIXELS = 60_000_000
_COLOURS = {"right": "#2fbf8f", "wrong": "#ff9f1c", "missed": "#ff5fa2"}
"""Fixed, not the page's: they lie on a dark X-ray in either scheme. The dashes tell them apart without colour."""
KIND_WORDS = {
    "class": "wrong class",
    "localisation": "badly placed",
    "duplicate": "found twice",
    "background": "nothing there",
}
UNREADABLE = (OSError, ValueError, KeyError, Image.DecompressionBombError)
"""What a picture that is missing, broken or too large raises."""
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


@dataclass(frozen=True)
class Example:
    """One image with its boxes.

    Attributes:
        image_id: Id in the ground truth; no file name, which could identify a person.
        width: Of the picture as shown, px.
        height: Of the picture as shown, px.
        jpeg_base64: The picture.
        boxes: What to draw.
        counts: right, wrong, missed.
        caption: One line under the picture.
        lists: Title and text of what was missed and what was wrong, by number.
        alt: Alternative text.
    """

    image_id: int
    width: int
    height: int
    jpeg_base64: str
    boxes: tuple[DrawnBox, ...]
    counts: Mapping[str, int]
    caption: str
    lists: tuple[Mapping[str, str], ...]
    alt: str

    @property
    def stroke(self) -> float:
        """Line width in px of the picture."""
        return round(self.width / 420, 2)

    @property
    def font(self) -> float:
        """Font size in px of the picture."""
        return round(self.width / 68, 2)

    @property
    def halo(self) -> float:
        """Width of the dark outline of the text, px."""
        return round(self.width / 340, 2)


def worst_cases(
    matches: pd.DataFrame,
    ground_truth: Mapping[str, Any],
    thresholds: Mapping[str, float | None],
    images: Callable[[int], bytes],
    most: int = 6,
) -> tuple[list[Example], list[str]]:
    """The test images with the most errors at the operating thresholds, worst first.

    Args:
        matches: `matches.parquet` of the evaluation.
        ground_truth: The COCO ground truth that was evaluated (boxes of what was missed, image sizes).
        thresholds: Operating threshold of each class; a class without one shows nothing.
        images: Gives an image's bytes by its id.
        most: How many examples at most.

    Returns:
        The examples, and a sentence for each image that could not be shown.
    """
    shown = _shown(matches, thresholds)
    by_image = {int(str(key)): part for key, part in shown.groupby("image_id", sort=True)}
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    truth: dict[int, list[dict[str, Any]]] = {}
    for annotation in ground_truth["annotations"]:
        if not annotation.get("iscrowd"):
            truth.setdefault(annotation["image_id"], []).append(annotation)
    ranked = []
    for image in ground_truth["images"]:
        found = by_image.get(image["id"])
        hits = set() if found is None else {int(i) for i in found.loc[found["kind"] == "tp", "matched_at_50"].dropna()}
        missed = [annotation for annotation in truth.get(image["id"], []) if annotation["id"] not in hits]
        wrong = 0 if found is None else int((found["kind"] != "tp").sum())
        if missed or wrong:
            ranked.append((-(len(missed) + wrong), image["id"], image, found, missed, wrong))
    examples, problems = [], []
    for _, image_id, image, found, missed, wrong in sorted(ranked, key=lambda item: item[:2]):
        if len(examples) == most or len(problems) == most:
            break
        try:
            picture = _picture(images(image_id))
        except UNREADABLE as error:
            problems.append(f"Image {image_id} could not be shown ({type(error).__name__}).")
            continue
        examples.append(_example(image, picture, found, missed, wrong, names))
    return examples, problems


def _shown(matches: pd.DataFrame, thresholds: Mapping[str, float | None]) -> pd.DataFrame:
    """The detections that a reader would see: at or above their class's operating threshold."""
    least = matches["class"].map({name: _threshold(value) for name, value in thresholds.items()}).fillna(math.inf)
    return matches[matches["score"].notna() & (matches["score"] >= least)]


def _threshold(value: float | None) -> float:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else math.inf


def decode_grey(data: bytes, draft_px: int | None = None) -> Image.Image:
    """An X-ray's bytes as a grey image.

    Args:
        data: JPEG or PNG.
        draft_px: A JPEG may be decoded smaller, but not under this width; None = full size.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: Bytes that are no such image, or too many pixels.
    """
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width}×{image.height} pixels are more than {_MOST_PIXELS}")
        if draft_px is not None:
            image.draft("L", (draft_px, draft_px))
        return image.convert("L")


def _picture(data: bytes) -> tuple[int, int, str]:
    """The image as a JPEG of at most 960 px width: (width, height, base64)."""
    grey = decode_grey(data, draft_px=_WIDTH_PX)
    if grey.width > _WIDTH_PX:
        grey = grey.resize((_WIDTH_PX, max(1, round(grey.height * _WIDTH_PX / grey.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    grey.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return grey.width, grey.height, base64.b64encode(buffer.getvalue()).decode("ascii")


def _example(
    image: Mapping[str, Any],
    picture: tuple[int, int, str],
    found: pd.DataFrame | None,
    missed: Sequence[Mapping[str, Any]],
    wrong: int,
    names: Mapping[int, str],
) -> Example:
    width, height, encoded = picture
    scale = width / image["width"]
    font = width / 68
    boxes: list[DrawnBox] = []
    numbered: dict[str, list[str]] = {"missed": [], "wrong": []}

    def add(kind: str, box_xywh_px: Sequence[float], words: str) -> None:
        x, y, w, h = (round(float(value) * scale, 1) for value in box_xywh_px)
        number = None
        if kind != "right" and len(numbered[kind]) < _MOST_NUMBERED:
            number = 1 + sum(map(len, numbered.values()))
            numbered[kind].append(f"{number} {words}")
        dash = {"right": "none", "wrong": _dashes(font, 0.5, 0.3), "missed": _dashes(font, 0.14, 0.22)}[kind]
        text_x = min(max(0.0, x), max(0.0, width - 0.62 * font * len(str(number))))
        text_y = y - font * 0.2 if y > font * 1.2 else min(height - 2.0, y + h + font * 0.9)
        colour = _COLOURS[kind]
        boxes.append(DrawnBox(x, y, w, h, words, number, colour, dash, round(text_x, 1), round(text_y, 1)))

    rows = [] if found is None else found.sort_values(["score", "x"], ascending=[False, True]).to_dict("records")
    hits = [row for row in rows if row["kind"] == "tp"]
    for row in hits:
        add("right", (row["x"], row["y"], row["w"], row["h"]), f"{row['class']} {row['score']:.2f}")
    for annotation in missed:
        add("missed", annotation["bbox"], names[annotation["category_id"]])
    for row in rows:
        if row["kind"] != "tp":
            why = KIND_WORDS.get(row["kind"], row["kind"])
            add("wrong", (row["x"], row["y"], row["w"], row["h"]), f"{row['class']} {row['score']:.2f} ({why})")
    counts = {"right": len(hits), "wrong": wrong, "missed": len(missed)}
    caption = f"Image {image['id']}: {len(hits)} right, {wrong} wrong, {len(missed)} missed."
    lists = tuple(
        {"title": kind.capitalize(), "text": " · ".join(words) + _and_more(counts[kind] - len(words))}
        for kind, words in numbered.items()
        if words
    )
    listed = "; ".join(f"{part['title']}: {part['text']}" for part in lists)
    return Example(
        image_id=int(image["id"]),
        width=width,
        height=height,
        jpeg_base64=encoded,
        boxes=tuple(boxes),
        counts=counts,
        caption=caption,
        lists=lists,
        alt=f"X-ray with boxes. {caption} {listed}",
    )


def _and_more(n: int) -> str:
    return f" · and {n} more without a number" if n > 0 else ""


def _dashes(font: float, line: float, gap: float) -> str:
    return f"{font * line:.1f} {font * gap:.1f}"
