"""A review in other tools: what they are given, and what comes back becomes corrections of exactly what changed."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest
from pydantic import SecretStr

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents.review import ReviewQueue, Suspect
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.evaluation.suspects import Labelled, as_box, labelled_images
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.intake.roboflow import RoboflowClient
from dentsight_pipeline.pages.answers import take_answers
from dentsight_pipeline.pages.handover import COCO_FILE, CVAT_FILE, SUSPECTS_FILE, upload, write_handover
from dentsight_pipeline.pages.reviewing import Review, corrections_of, keep_queue
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder
from dentsight_pipeline_tests.local_server import QuietHandler, serving

WHO = "A. Bell"
LABELS = {"caries": [[4, 4, 10, 10]], "crown": [[20, 4, 12, 12]], "root-stump": [[40, 4, 12, 12]]}
SHAPE = "<annotations><image name='x.jpg' width='9' height='9'>{}</image></annotations>"
MISSED, MOVED = (4.0, 30.0, 10.0, 10.0), (46.0, 4.0, 12.0, 12.0)


@dataclass
class Open:
    """A review of one image: a box is missing, a caries is none, a crown is a root-stump, a root-stump lies aside."""

    store: Store
    review: Review
    image: str


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """The review, nothing decided."""
    return open_review(tmp_path)


def open_review(tmp_path: Path, *more: Suspect) -> Open:
    """A review of one image with the four suspects, and with others."""
    store, splits, image = stored(tmp_path, LABELS)
    of = {
        name: (int(number), as_box(box)) for number, name, box in zip(image.ids, image.names, image.boxes, strict=True)
    }

    def suspect(kind: str, name: str, bbox: Any = None, **more: Any) -> Suspect:
        number, own = of[name] if bbox is None else (None, bbox)
        told = {"image": image.image, "kind": kind, "class_name": name, "bbox": own, "annotation": number}
        return Suspect(**told, score=0.9, why="seen", split="train", **more)  # pyright: ignore[reportArgumentType]

    queue = ReviewQueue(
        splits=splits.digest,
        classes=tuple(read_splits(store, splits)["train"].classes),
        suspects=(
            suspect("missed", "caries", MISSED),
            suspect("spurious", "caries"),
            suspect("class", "crown", proposed_class="root-stump"),
            suspect("place", "root-stump", proposed_bbox=MOVED),
            *more,
        ),
    )
    keep_queue(tmp_path / "review", queue)
    return Open(store, Review(tmp_path / "review", {}), image.image)


def stored(tmp_path: Path, labels: dict[str, list[list[int]]]) -> tuple[Store, Manifest, Labelled]:
    """Splits whose one training image has the labels."""
    builder = ExportBuilder(tmp_path / "export")
    for split in ("train", "valid", "test"):
        builder.image(split, labels if split == "train" else {"caries": [[1, 1, 5, 5]]})
    store = open_store(tmp_path / "store")
    splits = normalise_export(store, ingest_export(builder.write(), store))
    return store, splits, next(labelled_images(read_splits(store, splits).values()))


def changes(review: Review) -> set[tuple]:
    """Before and after of each correction."""
    made = corrections_of(review.queue, review.journal.entries).corrections
    return {(c.before_class, c.before_bbox, c.after_class, c.after_bbox) for c in made}


def edit_cvat(path: Path, decide: dict[str, str | None]) -> Path:
    """The file as somebody leaves it who takes away the dashes, or deletes, by the place of the box."""
    tree = ElementTree.parse(path)
    for image in tree.iter("image"):
        for box in list(image):
            verb = decide.get(f"{box.get('label')} {float(box.get('xtl') or 0):.0f}")
            if verb == "delete":
                image.remove(box)
            elif verb == "ok":
                box.set("occluded", "0")
    out = path.with_name("answers.xml")
    tree.write(out)
    return out


def test_cvat_gets_the_labels_with_open_proposals_dashed(opened: Open, tmp_path: Path) -> None:
    """Form `CVAT for images 1.1`: labels declared, images by digest, corners in px; undecided boxes are occluded."""
    opened.review.decide(WHO, 0, "reject")

    files = write_handover(opened.store, opened.review, tmp_path / "out")

    root = ElementTree.parse(tmp_path / "out" / CVAT_FILE).getroot()
    boxes = {(b.get("label"), float(b.get("xtl") or 0)): b.get("occluded") for b in root.iter("box")}
    assert [image.get("name") for image in root.iter("image")] == [f"{opened.image}.jpg"]
    assert {label.text for label in root.iterfind("meta/task/labels/label/name")} >= {"caries", "crown"}
    assert boxes == {("caries", 4.0): "1", ("root-stump", 20.0): "1", ("root-stump", 46.0): "1"}
    assert (tmp_path / "out/images" / f"{opened.image}.jpg").read_bytes() == opened.store.get_bytes(opened.image)
    rows = list(csv.DictReader((tmp_path / "out" / SUSPECTS_FILE).read_text().splitlines()))
    assert [row["kind"] for row in rows] == ["spurious", "class", "place"]
    assert [path.name for path in files] == [CVAT_FILE, COCO_FILE, SUSPECTS_FILE]


def test_what_was_decided_in_cvat_becomes_corrections_and_dashed_boxes_stay_open(opened: Open, tmp_path: Path) -> None:
    """Unknown is never read as good: a box that nobody touched changes nothing and comes up again on the page."""
    write_handover(opened.store, opened.review, tmp_path / "out")
    answered = edit_cvat(
        tmp_path / "out" / CVAT_FILE, {"caries 4": "delete", "root-stump 20": "ok"}
    )  # both caries begin at 4: the missed one is refused, the spurious one goes; the moved root-stump stays dashed

    told = take_answers(opened.store, opened.review, answered, WHO)

    assert told == {"images": 1, "corrections": 2, "open": 1}
    assert changes(opened.review) == {
        ("caries", (4, 4, 10, 10), None, None),
        ("crown", (20, 4, 12, 12), "root-stump", (20, 4, 12, 12)),
    }
    assert opened.review.view().position == 3


def test_an_untouched_file_decides_nothing(opened: Open, tmp_path: Path) -> None:
    """Exported and read back at once."""
    write_handover(opened.store, opened.review, tmp_path / "out")

    told = take_answers(opened.store, opened.review, tmp_path / "out" / CVAT_FILE, WHO)

    assert told == {"images": 1, "corrections": 0, "open": 4}
    assert opened.review.view().position == 0


def test_the_zip_that_cvat_exports_is_read_as_its_file(opened: Open, tmp_path: Path) -> None:
    """A task comes out of CVAT packed, with or without its images; what to read in it must be plain."""
    write_handover(opened.store, opened.review, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as packed:
        packed.write(tmp_path / "out" / CVAT_FILE, CVAT_FILE)
        packed.writestr(f"images/{opened.image}.jpg", b"")

    told = take_answers(opened.store, opened.review, tmp_path / "task.zip", WHO)

    assert told == {"images": 1, "corrections": 0, "open": 4}
    with zipfile.ZipFile(tmp_path / "task.zip", "a") as packed:
        packed.writestr("second.xml", "<annotations/>")
    with pytest.raises(DataError, match="holds 2 files of answers"):
        take_answers(opened.store, opened.review, tmp_path / "task.zip", WHO)


def test_two_proposals_in_one_place_stay_two(tmp_path: Path) -> None:
    """A missing root-stump where another one is to be moved: each dashed box is one suspect's."""
    told = {"kind": "missed", "class_name": "root-stump", "bbox": MOVED, "score": 0.5, "why": "seen", "split": "train"}
    image = open_review(tmp_path / "first").image
    twice = open_review(tmp_path / "second", Suspect(image=image, **told))  # pyright: ignore[reportArgumentType]
    write_handover(twice.store, twice.review, tmp_path / "out")

    assert take_answers(twice.store, twice.review, tmp_path / "out" / CVAT_FILE, WHO)["corrections"] == 0
    assert twice.review.view().decided == 0


def test_whether_an_image_is_empty_stays_open_while_its_proposals_do(tmp_path: Path) -> None:
    """A file that nobody touched decided that images without labels are right, because it proposed boxes on them."""
    store, splits, image = stored(tmp_path, {})
    told = {"image": image.image, "kind": "missed", "score": 0.5, "why": "seen", "split": "train"}
    places = {"": (0.0, 0.0, 64.0, 48.0), "caries": MISSED}
    suspects = tuple(Suspect(class_name=name, bbox=box, **told) for name, box in places.items())  # pyright: ignore
    keep_queue(tmp_path / "review", ReviewQueue(splits=splits.digest, classes=("caries",), suspects=suspects))
    review = Review(tmp_path / "review", {})
    write_handover(store, review, tmp_path / "out")

    assert take_answers(store, review, tmp_path / "out" / CVAT_FILE, WHO)["open"] == 2
    answered = edit_cvat(tmp_path / "out" / CVAT_FILE, {"caries 4": "ok"})
    assert take_answers(store, review, answered, WHO) == {"images": 1, "corrections": 1, "open": 0}


def test_an_image_in_coco_counts_as_looked_at_also_where_it_has_no_box(tmp_path: Path) -> None:
    """COCO has no mark for what is open, so whether an image is empty stayed open however often it was answered."""
    store, splits, image = stored(tmp_path, {})
    told = {"image": image.image, "kind": "missed", "score": 0.5, "why": "seen", "split": "train"}
    empty = Suspect(class_name="", bbox=(0.0, 0.0, 64.0, 48.0), **told)  # pyright: ignore[reportArgumentType]
    keep_queue(tmp_path / "review", ReviewQueue(splits=splits.digest, classes=("caries",), suspects=(empty,)))
    review = Review(tmp_path / "review", {})
    write_handover(store, review, tmp_path / "out")

    of_cvat, of_coco = (take_answers(store, review, tmp_path / "out" / name, WHO) for name in (CVAT_FILE, COCO_FILE))

    assert (of_cvat["open"], of_coco) == (1, {"images": 1, "corrections": 0, "open": 0})


def test_roboflow_answers_in_coco_resized_and_renamed_are_understood(opened: Open, tmp_path: Path) -> None:
    """Its next version has names of its own and perhaps another size; what is in it was approved by a person."""
    write_handover(opened.store, opened.review, tmp_path / "out")
    coco = json.loads((tmp_path / "out" / COCO_FILE).read_text())
    image = coco["images"][0]
    image |= {
        "file_name": f"{opened.image}_jpg.rf.0123.jpg",
        "width": image["width"] * 2,
        "height": image["height"] * 2,
    }
    for box in coco["annotations"]:
        box["bbox"] = [2 * side for side in box["bbox"]]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(coco))

    told = take_answers(opened.store, opened.review, path, WHO)

    assert told == {"images": 1, "corrections": 3, "open": 0}
    assert changes(opened.review) == {
        (None, None, "caries", MISSED),
        ("crown", (20, 4, 12, 12), "root-stump", (20, 4, 12, 12)),
        ("root-stump", (40, 4, 12, 12), "root-stump", MOVED),
    }
    assert opened.review.view().suspect is None


def test_an_answer_takes_the_place_of_earlier_decisions_also_after_a_restart(opened: Open, tmp_path: Path) -> None:
    """What was decided here went out with the file, so it comes back with it, once."""
    opened.review.decide(WHO, 0, "accept")
    write_handover(opened.store, opened.review, tmp_path / "out")
    answered = edit_cvat(tmp_path / "out" / CVAT_FILE, {"root-stump 20": "ok"})

    take_answers(opened.store, opened.review, answered, WHO)

    made = corrections_of(opened.review.queue, opened.review.journal.entries).corrections
    assert [(c.before_class, c.after_class) for c in made] == [("crown", "root-stump"), (None, "caries")]
    opened.review.journal.close()
    again = Review(opened.review.folder.rename(tmp_path / "moved"), {})
    assert corrections_of(again.queue, again.journal.entries).corrections == made


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotations><image name='x.jpg' width='1' height='1'/></annotations>", "none of this review"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "declares entities"),
        ("{}", "neither"),
        ("<annotations>", "neither"),
        (SHAPE.format("<polygon label='crown' points='1,1;2,2;3,1'/>"), r"x.jpg has a polygon \(crown\)"),
        (SHAPE.format("<box label='crown' rotation='30.00'/>"), "a box turned by 30°"),
        ("<annotations><track id='0' label='crown'/></annotations>", "tracks, as `CVAT for video`"),
    ],
)
def test_answers_of_another_form_or_about_others_are_refused(
    opened: Open, tmp_path: Path, content: str, message: str
) -> None:
    """Nothing of them is noted."""
    path = tmp_path / "answers"
    path.write_text(content)

    with pytest.raises(DataError, match=message):
        take_answers(opened.store, opened.review, path, WHO)

    assert len(opened.review.journal.entries) == 1


@dataclass
class Roboflow:
    """What a server that plays Roboflow was sent."""

    images: dict[str, bytes] = field(default_factory=dict)
    annotations: list[tuple[dict[str, list[str]], dict[str, Any]]] = field(default_factory=list)
    busy: int = 1


def handler(told: Roboflow) -> type[QuietHandler]:
    """Plays `dataset/PROJECT/upload` and `…/annotate/IMAGE`; busy at first."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            parts, body = urlsplit(self.path), self.rfile.read(int(self.headers["Content-Length"]))
            asked = parse_qs(parts.query)
            if told.busy:
                told.busy -= 1
                self.answer(503, {})
            elif parts.path == "/dataset/opg-review/upload":
                told.images[asked["name"][0]] = body
                self.answer(200, {"success": True, "id": "image-1"})
            elif parts.path == "/dataset/opg-review/annotate/image-1" and told.annotations:
                self.answer(409, {"error": {"message": "Image was already annotated."}})
            elif parts.path == "/dataset/opg-review/annotate/image-1":
                told.annotations.append((asked, json.loads(body)))
                self.answer(200, {"success": True})
            else:
                self.answer(404, {"error": {"message": "no such project"}})

    return Handler


def test_roboflow_gets_images_with_boxes_to_approve(opened: Open) -> None:
    """Through its API: the image, then its boxes as a prediction; a second upload changes nothing there."""
    told = Roboflow()
    with serving(handler(told)) as address:
        client = RoboflowClient(SecretStr("key"), address, sleep=lambda seconds: None)

        assert upload(opened.store, opened.review, client, "opg-review") == 1
        assert upload(opened.store, opened.review, client, "opg-review") == 1
        with pytest.raises(DataError, match="no upload to project elsewhere"):
            upload(opened.store, opened.review, client, "elsewhere")

    ((asked, sent),) = told.annotations
    assert asked["prediction"] == ["true"]
    assert opened.store.get_bytes(opened.image) in told.images[f"{opened.image}.jpg"]
    boxes = json.loads(sent["annotationFile"])
    assert boxes["images"][0]["file_name"] == f"{opened.image}.jpg"
    assert len(boxes["annotations"]) == 4


def test_nothing_is_handed_over_into_a_folder_in_use_or_when_all_is_decided(opened: Open, tmp_path: Path) -> None:
    """Two reviews in one folder could not be told apart."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(ConfigurationError, match="is not empty"):
        write_handover(opened.store, opened.review, tmp_path / "full")
    for position in range(4):
        opened.review.decide(WHO, position, "reject")
    with pytest.raises(ConfigurationError, match="No suspect is open"):
        write_handover(opened.store, opened.review, tmp_path / "out")
