"""What comes back from other tools about the images of a review: `CVAT for images 1.1`, or COCO, as Roboflow writes it.

Each image is held against the stored labels. A box that is still marked as undecided (`occluded`, in CVAT) was not
looked at: its label stays and its suspect is open. COCO has no such mark: an image in such a file counts as looked at.
"""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np

from dentsight_pipeline.data.agreement import pairwise_iou
from dentsight_pipeline.data.corrections import SAME_BOX_IOU
from dentsight_pipeline.documents.review import Answered, Correction, ReviewQueue
from dentsight_pipeline.documents.teeth import Box
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.evaluation.suspects import BESIDE_IOU, SAME_IOU, Labelled, as_box
from dentsight_pipeline.pages.handover import Shown, images_of, places_by_image, proposed
from dentsight_pipeline.pages.reviewing import Review
from dentsight_pipeline.store.objects import Store

_STORED = re.compile(r"(?:.*/)?([0-9a-f]{64})[._]")
_Label = tuple[str, Box]


@dataclass(frozen=True)
class Answer:
    """What another tool says of one image.

    Attributes:
        file: Its name there.
        size: Its width and height there.
        boxes: Its boxes there; `open` where nobody decided.
        marked: Whether the form marks what nobody decided, so that no box may also mean that nobody looked.
    """

    file: str
    size: tuple[float, float]
    boxes: tuple[Shown, ...]
    marked: bool


class _Category(msgspec.Struct):
    id: int
    name: str


class _Listed(msgspec.Struct):
    id: int
    file_name: str
    width: float
    height: float


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: Box


class _Coco(msgspec.Struct):
    images: list[_Listed]
    annotations: list[_Annotation]
    categories: list[_Category]


def take_answers(store: Store, review: Review, path: Path, who: str) -> dict[str, int]:
    """Note what another tool says of the images of a review; gives images, corrections and suspects still open.

    Raises:
        DataError: A file of another form, an image that is none of this review, or a class that this dataset lacks.
    """
    images = {image.image: image for image in images_of(store, review.queue)}
    places = places_by_image(review.queue)
    entries = []
    for answer in read_answers(path):
        digest = _meant(answer, places, review.queue, path)
        entries.append(_answered(review.queue, images[digest], places[digest], answer, who))
    for entry in entries:
        review.journal.append(entry)
    changed, still = (sum(len(getattr(entry, name)) for entry in entries) for name in ("corrections", "open"))
    return {"images": len(entries), "corrections": changed, "open": still}


def read_answers(path: Path) -> list[Answer]:
    """The images of a CVAT file or a COCO file.

    Raises:
        DataError: It is neither, or has what is no upright box.
    """
    data = _unpacked(path)
    try:
        return _from_cvat(data) if data.lstrip().startswith(b"<") else _from_coco(data)
    except (ElementTree.ParseError, msgspec.DecodeError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is neither `CVAT for images 1.1` nor COCO: {error}. Export the task or the dataset in one of them."
        ) from error


def _unpacked(path: Path) -> bytes:
    """What a file holds, also in the ZIP that CVAT exports a task as."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as packed:
        files = [name for name in packed.namelist() if name.endswith((".xml", ".json"))]
        if len(files) != 1:
            raise DataError(
                f"{path} holds {len(files)} files of answers (.xml, .json), not one. Unpack it and give one."
            )
        return packed.read(files[0])


def _from_cvat(data: bytes) -> list[Answer]:
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("it declares entities, which no such file does")
    root, answers = ElementTree.fromstring(data), []
    if root.find("track") is not None:
        raise ValueError("it has tracks, as `CVAT for video` writes them")
    for image in root.iter("image"):
        told, own = image.attrib, [_upright(shape, image.attrib["name"]).attrib for shape in image]
        boxes = tuple(Shown(box["label"], _corners(box), box.get("occluded") == "1") for box in own)
        answers.append(Answer(told["name"], (float(told["width"]), float(told["height"])), boxes, marked=True))
    return answers


def _upright(shape: ElementTree.Element, file: str) -> ElementTree.Element:
    """A shape that is a box, as every label here is; one that is left out would read as a label taken away."""
    turned = float(shape.get("rotation", 0))
    if shape.tag != "box" or turned:
        what = f"a box turned by {turned:g}°" if shape.tag == "box" else f"a {shape.tag}"
        raise DataError(
            f"{file} has {what} ({shape.get('label')}). Draw an upright box in its place, and export again."
        )
    return shape


def _corners(box: Mapping[str, str]) -> Box:
    left, top, right, bottom = (float(box[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
    return left, top, right - left, bottom - top


def _from_coco(data: bytes) -> list[Answer]:
    told = msgspec.json.decode(data, type=_Coco)
    names = {category.id: category.name for category in told.categories}
    boxes: dict[int, list[Shown]] = {image.id: [] for image in told.images}
    for own in told.annotations:
        boxes[own.image_id].append(Shown(names[own.category_id], own.bbox))
    return [
        Answer(image.file_name, (image.width, image.height), tuple(boxes[image.id]), marked=False)
        for image in told.images
    ]


def _meant(answer: Answer, places: Mapping[str, Sequence[int]], queue: ReviewQueue, path: Path) -> str:
    """Digest of the image that an answer is about."""
    found = _STORED.match(answer.file)
    if found is None or found[1] not in places:
        raise DataError(f"{path}: image {answer.file!r} is none of this review. Give the answers to the same queue.")
    unknown = {shown.name for shown in answer.boxes} - {*queue.classes}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise DataError(f"{path}: {answer.file} has {names}, which no label of this dataset is. Rename it there.")
    return found[1]


def _answered(queue: ReviewQueue, image: Labelled, places: Sequence[int], answer: Answer, who: str) -> Answered:
    scale = np.tile(np.array(image.size, float) / answer.size, 2)  # Roboflow may have resized it
    boxes = [(shown, as_box(np.array(shown.bbox) * scale)) for shown in answer.boxes]
    untouched = _untouched(queue, places, boxes)
    undecided = {*untouched.values()}
    if answer.marked and len(untouched) == len(boxes):  # nothing was said of whether it is empty
        undecided |= {place for place in places if not queue.suspects[place].class_name}
    kept = {queue.suspects[place].annotation for place in undecided}
    labels = zip(map(int, image.ids), image.names, map(as_box, image.boxes), strict=True)
    before = {number: (name, box) for number, name, box in labels if number not in kept}
    after = [(shown.name, box) for row, (shown, box) in enumerate(boxes) if row not in untouched]
    told, now = changes(before, after), time.time()
    made = tuple(_correction(image.image, number, before, new, who, now) for number, new in told)
    return Answered(who=who, image=image.image, open=tuple(sorted(undecided)), corrections=made, at=now)


def _correction(
    image: str, number: int | None, before: Mapping[int, _Label], after: _Label | None, who: str, at: float
) -> Correction:
    (was, where), (now, there) = before[number] if number is not None else (None, None), after or (None, None)
    told = {"image": image, "annotation": number, "who": who, "at": at, "why": "decided in another tool"}
    places = {"before_class": was, "before_bbox": where, "after_class": now, "after_bbox": there}
    return Correction(**told, **places)  # pyright: ignore[reportArgumentType]


def _untouched(queue: ReviewQueue, places: Sequence[int], boxes: Sequence[tuple[Shown, Box]]) -> dict[int, int]:
    """The boxes that came back as they were proposed, still undecided, each with a suspect of its own."""
    proposals = [(place, *proposed(queue.suspects[place])) for place in places]
    pairs = [
        (_iou(box, bbox), row, place)
        for row, (shown, box) in enumerate(boxes)
        for place, name, bbox in proposals
        if shown.open and shown.name == name
    ]
    found: dict[int, int] = {}
    for iou, row, place in sorted(pairs, key=lambda pair: -pair[0]):
        if iou >= SAME_BOX_IOU and row not in found and place not in found.values():
            found[row] = place
    return found


def changes(before: Mapping[int, _Label], after: Sequence[_Label]) -> Iterator[tuple[int | None, _Label | None]]:
    """What became of labels: the label's id (None: a new one) with what it is now (None: it is gone).

    Boxes of one name that cover each other are the same and are not told; then boxes of one name that overlap were
    moved, and those of two names renamed.
    """
    old, new = dict(before), list(after)
    for least, same_name, told in ((SAME_BOX_IOU, True, False), (BESIDE_IOU, True, True), (SAME_IOU, False, True)):
        for row, label in _pairs(old, new, least, same_name=same_name):
            if row in old and label in new:
                del old[row]
                new.remove(label)
                if told:
                    yield row, label
    yield from ((row, None) for row in old)
    yield from ((None, label) for label in new)


def _pairs(old: Mapping[int, _Label], new: Sequence[_Label], least: float, *, same_name: bool) -> list:
    """Label and box that overlap enough, best first."""
    every = [(row, was, now) for row, was in old.items() for now in new if (was[0] == now[0]) == same_name]
    rated = [(_iou(was[1], now[1]), row, now) for row, was, now in every]
    return [(row, now) for iou, row, now in sorted(rated, key=lambda one: -one[0]) if iou >= least]


def _iou(a: Box, b: Box) -> float:
    return float(pairwise_iou(np.array([a]), np.array([b]))[0, 0])
