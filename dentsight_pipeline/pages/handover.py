"""A review handed over to other tools: the images with open suspects, for CVAT, as COCO, and to Roboflow.

The boxes are the labels as decided so far, with what is proposed in the place of what is doubted. In CVAT a box that
nobody has decided is drawn dashed (`occluded`): whoever looks at it takes that mark away, moves, renames or deletes it.
What comes back is read by `answers.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents.annotations import coco_categories
from dentsight_pipeline.documents.codec import write
from dentsight_pipeline.documents.review import Decision, ReviewQueue, Suspect
from dentsight_pipeline.documents.teeth import Box
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.evaluation.suspects import Labelled, as_box, labelled_images
from dentsight_pipeline.intake.roboflow import RoboflowClient
from dentsight_pipeline.pages.reviewing import Review, after_decision, is_open
from dentsight_pipeline.store.files import refuse_full
from dentsight_pipeline.store.objects import Store

CVAT_FILE, COCO_FILE, SUSPECTS_FILE = "annotations.xml", "_annotations.coco.json", "suspects.csv"
NEW_FOLDER = "Give a new folder (--hand-over)."
_PNG = b"\x89PNG"


@dataclass(frozen=True)
class Shown:
    """One box as another tool shows it.

    Attributes:
        name: Its class.
        bbox: px of the stored image.
        open: Whether nobody has decided it yet.
    """

    name: str
    bbox: Box
    open: bool = False


@dataclass(frozen=True)
class Handed:
    """One image with its boxes, and what it is called in the other tool."""

    image: Labelled
    boxes: tuple[Shown, ...]
    file: str


def handed_over(store: Store, review: Review) -> list[Handed]:
    """The images with open suspects, in the order of the queue."""
    images, decisions = {image.image: image for image in images_of(store, review.queue)}, review.decisions
    return [
        Handed(images[name], tuple(_shown(review.queue, images[name], places, decisions)), _file(store, name))
        for name, places in places_by_image(review.queue).items()
        if any(is_open(decisions.get(place)) for place in places)
    ]


def places_by_image(queue: ReviewQueue) -> dict[str, list[int]]:
    """Where in the queue the suspects of each image are."""
    found: dict[str, list[int]] = {}
    for place, suspect in enumerate(queue.suspects):
        found.setdefault(suspect.image, []).append(place)
    return found


def images_of(store: Store, queue: ReviewQueue) -> Iterator[Labelled]:
    """The labels that a queue is about."""
    return labelled_images(read_splits(store, store.get_manifest(queue.splits)).values())


def _file(store: Store, digest: str) -> str:
    return f"{digest}.{'png' if store.get_bytes(digest).startswith(_PNG) else 'jpg'}"


def _shown(
    queue: ReviewQueue, image: Labelled, places: Sequence[int], decisions: Mapping[int, Decision]
) -> Iterator[Shown]:
    """The boxes of one image: labels as they are after what was decided, with the open suspects in their places."""
    labels = zip(image.ids, image.names, image.boxes, strict=True)
    boxes: dict[int, Shown] = {int(number): Shown(name, as_box(box)) for number, name, box in labels}
    for place in places:
        suspect, decision = queue.suspects[place], decisions.get(place)
        after = proposed(suspect) if decision is None or is_open(decision) else after_decision(suspect, decision)
        if after:
            key = -place - 1 if suspect.annotation is None else suspect.annotation
            boxes[key] = Shown(after[0] or "", after[1] or suspect.bbox, is_open(decision))
    return (shown for shown in boxes.values() if shown.name)


def proposed(suspect: Suspect) -> tuple[str, Box]:
    """Name and place that a suspect would have; of a spurious one those that it has."""
    return suspect.proposed_class or suspect.class_name, suspect.proposed_bbox or suspect.bbox


# To other tools ------------------------------------------------------------------------------------------------------


def write_handover(store: Store, review: Review, folder: Path) -> list[Path]:
    """A folder with the images and their boxes: `annotations.xml` for CVAT, COCO, and the open suspects as a table.

    Raises:
        ConfigurationError: The folder is not empty, or nothing is open.
    """
    refuse_full(folder, NEW_FOLDER)
    handed = handed_over(store, review)
    if not handed:
        raise ConfigurationError("No suspect is open, so there is nothing to hand over. Write --corrections.")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for one in handed:
        (folder / "images" / one.file).write_bytes(store.get_bytes(one.image.image))
    files = {
        folder / CVAT_FILE: cvat_xml(handed, review.queue.classes),
        folder / COCO_FILE: write(coco(handed, review.queue.classes)),
        folder / SUSPECTS_FILE: _table(review, handed),
    }
    for path, data in files.items():
        path.write_bytes(data)
    return list(files)


def cvat_xml(handed: Iterable[Handed], classes: Sequence[str]) -> bytes:
    """The form `CVAT for images 1.1`; `occluded` marks what nobody has decided."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in classes:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, one in enumerate(handed):
        width, height = map(str, one.image.size)
        own = ElementTree.SubElement(root, "image", id=str(number), name=one.file, width=width, height=height)
        for shown in one.boxes:
            ElementTree.SubElement(own, "box", _attributes(shown))
    return ElementTree.tostring(root, "utf-8", xml_declaration=True)


def _attributes(shown: Shown) -> dict[str, str]:
    x, y, w, h = shown.bbox
    corners = {"xtl": x, "ytl": y, "xbr": x + w, "ybr": y + h}
    told = {"label": shown.name, "source": "auto" if shown.open else "manual", "occluded": str(int(shown.open))}
    return {**told, "z_order": "0", **{side: f"{value:.2f}" for side, value in corners.items()}}


def coco(handed: Iterable[Handed], classes: Sequence[str]) -> dict[str, list]:
    """COCO's document."""
    images, annotations = [], []
    for number, one in enumerate(handed, start=1):
        width, height = one.image.size
        images.append({"id": number, "file_name": one.file, "width": width, "height": height})
        for shown in one.boxes:
            box = {"bbox": list(shown.bbox), "area": shown.bbox[2] * shown.bbox[3], "segmentation": [], "iscrowd": 0}
            where = {"image_id": number, "category_id": classes.index(shown.name) + 1}
            annotations.append({"id": len(annotations) + 1, **where, **box})
    return {"images": images, "annotations": annotations, "categories": coco_categories(classes)}


def _table(review: Review, handed: Iterable[Handed]) -> bytes:
    """The open suspects, best first within an image."""
    text, decisions = io.StringIO(), review.decisions
    rows = csv.writer(text)
    rows.writerow(["image", "kind", "class", "x", "y", "width", "height", "score", "why"])
    files = {one.image.image: one.file for one in handed}
    for place, own in enumerate(review.queue.suspects):
        if is_open(decisions.get(place)):
            rows.writerow([files[own.image], own.kind, own.class_name, *own.bbox, f"{own.score:.3f}", own.why])
    return text.getvalue().encode()


def upload(store: Store, review: Review, client: RoboflowClient, project: str) -> int:
    """Every image with its boxes as pre-annotations in a Roboflow project; gives the number of images.

    Raises:
        ConfigurationError: The key was refused.
        DataError: Roboflow refuses an image, or does not answer. What arrived stays; the same call goes on.
    """
    handed, batch = handed_over(store, review), f"dentsight review {review.queue.digest[:12]}"
    for one in handed:
        image = client.upload_image(project, one.file, store.get_bytes(one.image.image), batch)
        client.annotate(project, image, one.file, write(coco([one], review.queue.classes)).decode(), batch)
    return len(handed)
