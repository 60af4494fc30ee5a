"""Mutated exports through `inspect`: none may end in a traceback, hang, or be read as something that it is not.

    python -m dentsight_pipeline_tests.intake.fuzz --count 10000 --seed 0     # the campaign
    python -m dentsight_pipeline_tests.intake.fuzz --count 200 --semantic     # faults of meaning: stopped or flagged?

Seeds are small phantom exports as COCO, YOLO, Pascal VOC and DENTEX. A mutation spoils structure, values, bytes, names,
links or the layout; a semantic one leaves every record well-formed and makes it mean something else.
`test_fuzz.py` runs a sample.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.documents.codec import write
from dentsight_pipeline.documents.names import SPLITS
from dentsight_pipeline.errors import DentsightError
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.intake.inspect import inspect_export
from dentsight_pipeline.phantom.export import CATEGORY_NAMES, write_phantom_export
from dentsight_pipeline.store.objects import open_store

COCO_FILE = "_annotations.coco.json"
LONGEST_S = 60
UNFAIR = frozenset({"traceback", "hang", "partial", "contradiction"})
Rng = random.Random


@dataclass(frozen=True)
class Outcome:
    """What became of one mutated export, and a line on why.

    `accepted`, `flagged` and `refused` are fair; `traceback`, `hang`, `partial` (a product of what was refused) and
    `contradiction` (ingestion did not do what `inspect` told) are not.
    """

    seed: str
    mutation: str
    number: int
    result: str
    said: str


# Seeds ---------------------------------------------------------------------------------------------------------------


def make_seeds(folder: Path, images: int = 6, width: int = 320) -> dict[str, Path]:
    """A sound phantom export in each layout."""
    coco, yolo = folder / "coco", folder / "yolo"
    write_phantom_export(coco, images, 3, width)
    for split in ("train", "valid", "test"):
        document = json.loads((coco / split / COCO_FILE).read_text())
        (yolo / split / "images").mkdir(parents=True)
        (yolo / split / "labels").mkdir()
        for image in document["images"]:
            name = image["file_name"]
            shutil.copyfile(coco / split / name, yolo / split / "images" / name)
            lines = [_yolo_line(a, image) for a in document["annotations"] if a["image_id"] == image["id"]]
            (yolo / split / "labels" / name).with_suffix(".txt").write_text("".join(lines))
    names = json.dumps(list(CATEGORY_NAMES))
    (yolo / "data.yaml").write_text(
        f"train: ../train/images\nval: ../valid/images\nnc: {len(CATEGORY_NAMES)}\nnames: {names}\n"
    )
    shutil.copyfile(coco / "README.dataset.txt", yolo / "README.dataset.txt")
    _write_voc(coco, folder / "voc")
    _write_dentex(coco, folder / "dentex")
    return {name: folder / name for name in SPOILING}


def _write_voc(coco: Path, voc: Path) -> None:
    """The same as Pascal VOC, the XML beside its image."""
    for split, document, image, marked in _images(coco):
        names = {category["id"]: category["name"] for category in document["categories"]}
        objects = "".join(_voc_object(names[a["category_id"]], a["bbox"]) for a in marked)
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>1</depth></size>"
        (voc / split).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(coco / split / image["file_name"], voc / split / image["file_name"])
        text = f"<annotation>\n<filename>{image['file_name']}</filename>\n{size}\n{objects}</annotation>\n"
        (voc / split / image["file_name"]).with_suffix(".xml").write_text(text)


def _voc_object(name: str, bbox: list[float]) -> str:
    x, y, w, h = bbox
    corners = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
    return f"<object>\n<name>{name}</name>\n<bndbox>{corners}</bndbox>\n</object>\n"


def _write_dentex(coco: Path, dentex: Path) -> None:
    """Its teeth as hierarchical COCO, a disease for each."""
    numbers = [[{"id": n, "name": n + 1, "supercategory": n + 1} for n in range(count)] for count in (4, 8)]
    diseases = ("Impacted", "Caries", "Periapical Lesion", "Deep Caries")
    lists = [*numbers, [{"id": n, "name": name, "supercategory": name} for n, name in enumerate(diseases)]]
    made: dict[str, dict[str, Any]] = {}
    for split, document, image, marked in _images(coco):
        names = {category["id"]: category["name"] for category in document["categories"]}
        new = made.setdefault(split, {"images": [], "annotations": []})
        (dentex / split / "xrays").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(coco / split / image["file_name"], dentex / split / "xrays" / image["file_name"])
        new["images"].append(image)
        for annotation in marked:
            if (name := names[annotation["category_id"]]).isdigit():
                levels = (int(name[0]) - 1, int(name[1]) - 1, annotation["id"] % 4)
                of = {f"category_id_{k}": level for k, level in enumerate(levels, start=1)}
                kept = {key: annotation[key] for key in ("id", "image_id", "bbox", "segmentation", "iscrowd", "area")}
                new["annotations"].append(kept | of)
    for split, document in made.items():
        document |= {f"categories_{k}": level for k, level in enumerate(lists, start=1)}
        (dentex / split / f"{split}_quadrant_enumeration_disease.json").write_text(json.dumps(document))


def _images(coco: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], list[dict[str, Any]]]]:
    """Split, its document, an image, and what is annotated on it."""
    for split in ("train", "valid", "test"):
        document = json.loads((coco / split / COCO_FILE).read_text())
        for image in document["images"]:
            yield split, document, image, [a for a in document["annotations"] if a["image_id"] == image["id"]]


def _yolo_line(annotation: dict[str, Any], image: dict[str, Any]) -> str:
    x, y, w, h = annotation["bbox"]
    values = ((x + w / 2) / image["width"], (y + h / 2) / image["height"], w / image["width"], h / image["height"])
    return f"{annotation['category_id']} " + " ".join(f"{value:.6f}" for value in values) + "\n"


# Mutations that spoil a record, a file or the layout -----------------------------------------------------------------

STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 2**70, 1e308, -0.0, float("nan"), float("inf"), "", "0", "caries", "\ud83d", "\x00",
    "../x", "é" * 300, [], [[]], {}, {"a": 1}, [1, 2, 3], [0, 0, 0, 0], "1.5", 1.5, "<script>", "a/b", "NaN",
)  # fmt: skip


def _paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*at, key)
        yield from _paths(member, (*at, key))


def _annotation_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.json")) if path.name == COCO_FILE or "quadrant" in path.name]


def _document(folder: Path, rng: Rng) -> tuple[Path, Any]:
    path = rng.choice(_annotation_files(folder))
    return path, json.loads(path.read_text())


def json_value(folder: Path, rng: Rng) -> None:
    """One to three values of an annotation file become something strange, vanish or are doubled."""
    path, document = _document(folder, rng)
    for _ in range(rng.randint(1, 3)):
        *parents, key = rng.choice(list(_paths(document)))
        holder = document
        for parent in parents:
            holder = holder[parent]
        action = rng.randrange(4)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = rng.choice(STRANGE)
    path.write_text(json.dumps(document))


def json_text(folder: Path, rng: Rng) -> None:
    """The text of an annotation file is cut, doubled, or changed in a few characters."""
    path = rng.choice(_annotation_files(folder))
    _spoil(path, rng)


def any_bytes(folder: Path, rng: Rng) -> None:
    """Bytes of any file are cut, flipped or replaced."""
    _spoil(rng.choice(_files(folder)), rng)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _spoil(path: Path, rng: Rng) -> None:
    data = bytearray(path.read_bytes())
    action = rng.randrange(5)
    if action == 0:
        data = data[: rng.randrange(len(data) + 1)]
    elif action == 1:
        data = data + data
    elif action == 2:
        data = bytearray(rng.randbytes(rng.randrange(300)))
    else:
        for _ in range(rng.randint(1, 8)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)


def yolo_text(folder: Path, rng: Rng) -> None:
    """A field of a label line, or a line of data.yaml, becomes something strange."""
    path = rng.choice([*sorted(folder.rglob("labels/*.txt")), *[folder / "data.yaml"] * 3])
    lines = path.read_text().split("\n")
    row = rng.randrange(len(lines))
    fields = lines[row].split(" ")
    fields[rng.randrange(len(fields))] = (
        str(rng.choice((*STRANGE, "&a [*a]", "- - -", "{", "999999"))).encode("utf-8", "replace").decode()
    )
    lines[row] = " ".join(fields if rng.random() < 0.8 else fields * 3)
    path.write_text("\n".join(lines))


def xml_text(folder: Path, rng: Rng) -> None:
    """An element of an XML file becomes something strange, vanishes or is doubled; entities are declared."""
    path = rng.choice(sorted(folder.rglob("*.xml")))
    lines = path.read_text().split("\n")
    row = rng.randrange(len(lines))
    action = rng.randrange(5)
    if action == 0:
        del lines[row]
    elif action == 1:
        lines.insert(row, lines[row])
    elif action == 2:
        lines.insert(0, '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>')
    else:
        strange = str(rng.choice((*STRANGE, "&b;", "<", "]]>", "<object>"))).encode("utf-8", "replace").decode()
        lines[row] = re.sub(r">[^<>]+<", lambda _: f">{strange}<", lines[row], count=rng.randint(1, 3))
    path.write_text("\n".join(lines))


def names(folder: Path, rng: Rng) -> None:
    """A file or folder gets another name, or goes."""
    path = rng.choice(sorted(folder.rglob("*")))
    action = rng.randrange(6)
    if action == 0:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif action == 1:
        path.rename(path.with_name(path.name.upper()))
    elif action == 2:
        path.rename(path.with_name(f"._{path.name}"))
    elif action == 3:
        path.rename(path.with_name("ü \n'\"" + path.name[:40]))
    elif action == 4:
        path.rename(folder / path.name) if path.parent != folder else path.rename(folder / "renamed")
    else:
        other = rng.choice(sorted(folder.rglob("*")))
        target = (other if other.is_dir() else other.parent) / f"copy-{path.name}"
        if path.is_file():
            shutil.copyfile(path, target)


def links(folder: Path, rng: Rng) -> None:
    """A file or folder becomes a link: to itself, out of the export, to a sibling, or nowhere."""
    path = rng.choice(sorted(folder.rglob("*")))
    moved = folder.parent / "elsewhere"
    target = rng.choice((path, Path("/etc/passwd"), folder, Path("nowhere"), moved))
    if target == moved:
        path.rename(moved)
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(target)


def layout(folder: Path, rng: Rng) -> None:
    """Another layout around the same files: a top folder more, a split fewer or renamed, a zip, a second layout."""
    action = rng.randrange(6)
    split = rng.choice(("train", "valid", "test"))
    if action == 0:
        top = folder / "top"
        top.mkdir()
        for path in sorted(folder.iterdir()):
            if path != top:
                path.rename(top / path.name)
    elif action == 1 and (folder / split).is_dir():
        shutil.rmtree(folder / split)
    elif action == 2 and (folder / split).is_dir():
        (folder / split).rename(folder / rng.choice(("Train", "validation", "val", "holdout", split.upper())))
    elif action in (3, 4):
        inner = folder.parent / "inner.zip"
        with zipfile.ZipFile(inner, "w") as archive:
            for path in _files(folder):
                archive.write(path, path.relative_to(folder).as_posix())
        shutil.rmtree(folder)
        folder.mkdir()
        inner.rename(folder / "export.zip")
    else:
        (folder / "data.yaml").write_text("names: [a]\nnc: '1'\n")


SPOILING: dict[str, tuple[Callable[[Path, Rng], None], ...]] = {
    "coco": (json_value, json_value, json_value, json_text, any_bytes, names, links, layout),
    "yolo": (yolo_text, yolo_text, any_bytes, names, links, layout),
    "voc": (xml_text, xml_text, any_bytes, names, links, layout),
    "dentex": (json_value, json_value, json_text, any_bytes, names, links, layout),
}
"""By seed; what is listed twice is drawn twice as often."""

# Mutations that change the meaning -----------------------------------------------------------------------------------


def change_documents(folder: Path, change: Callable[[Any], None]) -> None:
    for path in _annotation_files(folder):
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))


def change_boxes(folder: Path, change: Callable[[list[float], Any], list[float]]) -> None:
    def apply(document: Any) -> None:
        images = {image["id"]: image for image in document["images"]}
        for annotation in document["annotations"]:
            annotation["bbox"] = change(annotation["bbox"], images[annotation["image_id"]])
            annotation["segmentation"] = []

    change_documents(folder, apply)


def coco_corners(folder: Path, rng: Rng) -> None:
    """Boxes as x1 y1 x2 y2."""
    change_boxes(folder, lambda b, _: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


def coco_centres(folder: Path, rng: Rng) -> None:
    """Boxes as cx cy w h in px."""
    change_boxes(folder, lambda b, _: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]])


def coco_fractions(folder: Path, rng: Rng) -> None:
    """Boxes as fractions of the image."""
    change_boxes(folder, lambda b, i: [b[0] / i["width"], b[1] / i["height"], b[2] / i["width"], b[3] / i["height"]])


def coco_swapped_axes(folder: Path, rng: Rng) -> None:
    """Boxes as y x h w."""
    change_boxes(folder, lambda b, _: [b[1], b[0], b[3], b[2]])


def coco_scaled(folder: Path, rng: Rng) -> None:
    """Boxes of a picture of another size."""
    factor = rng.choice((0.25, 0.5, 1.6, 2.0, 4.0))
    change_boxes(folder, lambda b, _: [value * factor for value in b])


def coco_mirrored(folder: Path, rng: Rng) -> None:
    """Boxes of the mirrored picture: every tooth on the wrong side."""
    change_boxes(folder, lambda b, i: [i["width"] - b[0] - b[2], *b[1:]])


def coco_upside_down(folder: Path, rng: Rng) -> None:
    """Boxes of the picture upside down: every tooth in the wrong jaw."""
    change_boxes(folder, lambda b, i: [b[0], i["height"] - b[1] - b[3], b[2], b[3]])


def coco_shifted_categories(folder: Path, rng: Rng) -> None:
    """Category ids one too high or too low, as with a list that starts at 0 instead of 1."""
    step, last = rng.choice((-1, 1)), len(CATEGORY_NAMES) - 1

    def apply(document: Any) -> None:
        for annotation in document["annotations"]:
            annotation["category_id"] = min(max(annotation["category_id"] + step, 1), last)

    change_documents(folder, apply)


def coco_shifted_images(folder: Path, rng: Rng) -> None:
    """Boxes of the next image."""

    def apply(document: Any) -> None:
        ids = [image["id"] for image in document["images"]]
        following = dict(zip(ids, ids[1:] + ids[:1], strict=True))
        for annotation in document["annotations"]:
            annotation["image_id"] = following[annotation["image_id"]] + (len(ids) == 1)

    change_documents(folder, apply)


def coco_permuted(folder: Path, rng: Rng) -> None:
    """Class names in another order, as with an alphabetical list."""

    def apply(document: Any) -> None:
        names = [category["name"] for category in document["categories"][1:]]
        Rng(rng_seed).shuffle(names)
        for category, name in zip(document["categories"][1:], names, strict=True):
            category["name"] = name

    rng_seed = rng.randrange(10**6)
    change_documents(folder, apply)


def _yolo_lines(folder: Path, change: Callable[[list[float]], list[float]]) -> None:
    for path in sorted(folder.rglob("labels/*.txt")):
        lines = [line.split() for line in path.read_text().splitlines()]
        changed = [[name, *(f"{v:.6f}" for v in change([float(v) for v in values]))] for name, *values in lines]
        path.write_text("".join(" ".join(line) + "\n" for line in changed))


def yolo_corners(folder: Path, rng: Rng) -> None:
    """Lines as x1 y1 x2 y2."""
    _yolo_lines(folder, lambda b: [b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2])


def yolo_top_left(folder: Path, rng: Rng) -> None:
    """Lines as x y w h from the top left corner."""
    _yolo_lines(folder, lambda b: [b[0] - b[2] / 2, b[1] - b[3] / 2, b[2], b[3]])


def yolo_pixels(folder: Path, rng: Rng) -> None:
    """Lines in px."""
    _yolo_lines(folder, lambda b: [b[0] * 320, b[1] * 160, b[2] * 320, b[3] * 160])


def yolo_pose(folder: Path, rng: Rng) -> None:
    """Lines with keypoints and their visibility."""
    _yolo_lines(folder, lambda b: [*b, b[0], b[1], 2.0, b[0], b[1], 2.0])


def yolo_swapped_axes(folder: Path, rng: Rng) -> None:
    """Lines as cy cx h w."""
    _yolo_lines(folder, lambda b: [b[1], b[0], b[3], b[2]])


def yolo_shifted_classes(folder: Path, rng: Rng) -> None:
    """A list of names without Roboflow's placeholder: every number means the next name."""
    path = folder / "data.yaml"
    path.write_text(
        path.read_text()
        .replace('"OPG-data", ', "")
        .replace(f"nc: {len(CATEGORY_NAMES)}", f"nc: {len(CATEGORY_NAMES) - 1}")
    )
    _yolo_lines_of_last_class(folder)


def _yolo_lines_of_last_class(folder: Path) -> None:
    for path in sorted(folder.rglob("labels/*.txt")):
        kept = [line for line in path.read_text().splitlines() if int(line.split()[0]) < len(CATEGORY_NAMES) - 1]
        path.write_text("".join(f"{line}\n" for line in kept))


def _change_xml(folder: Path, change: Callable[[list[float], tuple[float, float]], list[float]]) -> None:
    """Corners of every box, and the image's width and height → what is written instead."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    for path in sorted(folder.rglob("*.xml")):
        root = ElementTree.fromstring(path.read_text())
        size = tuple(float(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        for box in root.iter("bndbox"):
            new = change([float(box.findtext(side) or 0) for side in sides], (size[0], size[1]))
            for side, value in zip(sides, new, strict=True):
                corner = box.find(side)
                assert corner is not None
                corner.text = f"{value}"
        path.write_bytes(ElementTree.tostring(root))


def voc_sizes(folder: Path, rng: Rng) -> None:
    """Width and height where the far corner belongs."""
    _change_xml(folder, lambda b, _: [b[0], b[1], b[2] - b[0], b[3] - b[1]])


def voc_swapped_axes(folder: Path, rng: Rng) -> None:
    """Corners as y x y x."""
    _change_xml(folder, lambda b, _: [b[1], b[0], b[3], b[2]])


def voc_scaled(folder: Path, rng: Rng) -> None:
    """Boxes of a picture of another size."""
    factor = rng.choice((0.25, 0.5, 1.6, 2.0, 4.0))
    _change_xml(folder, lambda b, _: [value * factor for value in b])


def voc_mirrored(folder: Path, rng: Rng) -> None:
    """Boxes of the mirrored picture."""
    _change_xml(folder, lambda b, s: [s[0] - b[2], b[1], s[0] - b[0], b[3]])


def voc_shifted_images(folder: Path, rng: Rng) -> None:
    """Each image with the next one's boxes."""
    for split in sorted({path.parent for path in folder.rglob("*.xml")}):
        paths = sorted(split.glob("*.xml"))
        texts = [path.read_bytes() for path in paths]
        for path, text in zip(paths, texts[1:] + texts[:1], strict=True):
            path.write_bytes(text)
        if len(paths) == 1:
            paths[0].unlink()


def dentex_quadrants(folder: Path, rng: Rng) -> None:
    """Quadrants counted in another order."""
    order = rng.choice(((1, 0, 3, 2), (3, 2, 1, 0), (1, 2, 3, 0), (0, 1, 3, 2), (2, 3, 0, 1)))

    def apply(document: Any) -> None:
        for annotation in document["annotations"]:
            annotation["category_id_1"] = order[annotation["category_id_1"]]

    change_documents(folder, apply)


def dentex_exchanged(folder: Path, rng: Rng) -> None:
    """The lists of quadrants and places exchanged."""

    def apply(document: Any) -> None:
        document["categories_1"], document["categories_2"] = document["categories_2"], document["categories_1"]
        for annotation in document["annotations"]:
            annotation["category_id_1"], annotation["category_id_2"] = (
                annotation["category_id_2"], annotation["category_id_1"],
            )  # fmt: skip

    change_documents(folder, apply)


MEANING: dict[str, tuple[Callable[[Path, Rng], None], ...]] = {
    "coco": (
        coco_corners, coco_centres, coco_fractions, coco_swapped_axes, coco_scaled, coco_mirrored, coco_upside_down,
        coco_shifted_categories, coco_shifted_images, coco_permuted,
    ),
    "yolo": (yolo_corners, yolo_top_left, yolo_pixels, yolo_pose, yolo_swapped_axes, yolo_shifted_classes),
    "voc": (voc_sizes, voc_swapped_axes, voc_scaled, voc_mirrored, voc_shifted_images),
    "dentex": (
        coco_corners, coco_centres, coco_fractions, coco_swapped_axes, coco_scaled, coco_mirrored, coco_upside_down,
        coco_shifted_images, dentex_quadrants, dentex_exchanged,
    ),
}  # fmt: skip

# The campaign --------------------------------------------------------------------------------------------------------


DONE_EACH = 10
"""Every so many exports are ingested and normalised too: what `run` does with them before it trains."""


def outcome_of(seeds: dict[str, Path], number: int, seed: int, *, semantic: bool) -> Outcome:
    """Spoil one copy of a seed and look at what `inspect` makes of it, and sometimes ingestion."""
    rng = Rng(f"{seed}/{number}/{semantic}")
    kind = rng.choice(sorted(seeds))
    mutation = rng.choice((MEANING if semantic else SPOILING)[kind])
    with tempfile.TemporaryDirectory(prefix="dentsight-fuzz-") as scratch:
        export = Path(scratch) / "export"
        shutil.copytree(seeds[kind], export, symlinks=True)
        mutation(export, rng)
        result, said = _inspected(export)
        if number % DONE_EACH == 0 and result not in ("traceback", "hang"):
            result, said = _done(export, Path(scratch) / "store", result, said)
    return Outcome(kind, mutation.__name__, number, result, said)


def _inspected(export: Path) -> tuple[str, str]:
    try:
        with _deadline(LONGEST_S):
            report = inspect_export(export, workers=1)
            write(report)
    except DentsightError as error:
        return ("refused" if str(error).encode("utf-8", "replace") else "traceback"), str(error)[:200]
    except _TooLongError:
        return "hang", f"longer than {LONGEST_S} s"
    except Exception:
        return "traceback", traceback.format_exc()[-600:]
    if report.refusals:
        return "refused", report.refusals[0].message[:200]
    flags = report.flags
    return ("flagged" if flags else "accepted"), json.dumps({"flags": flags, "repairs": report.repairs})


def _done(export: Path, root: Path, told: str, why: str) -> tuple[str, str]:
    """The same outcome when ingestion does what `inspect` told, and leaves nothing behind that it refuses."""
    store = open_store(root)
    try:
        with _deadline(LONGEST_S):
            normalise_export(store, ingest_export(export, store, Request(require=SPLITS, workers=1)))
    except DentsightError as error:
        if left := list(store.manifest_digests()):
            return "partial", f"{len(left)} products were published: {error}"[:200]
        return (told, why) if told == "refused" else ("contradiction", f"told {told}, but {error}"[:200])
    except _TooLongError:
        return "hang", f"longer than {LONGEST_S} s"
    except Exception:
        return "traceback", traceback.format_exc()[-600:]
    return (told, why) if told != "refused" else ("contradiction", f"done, although told {why}"[:200])


class _TooLongError(BaseException):
    """The alarm of `_deadline`."""


@contextmanager
def _deadline(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def campaign(count: int, seed: int, *, semantic: bool, workers: int = 1) -> list[Outcome]:
    """Many mutations; in processes of their own when `workers` is above 1."""
    with tempfile.TemporaryDirectory(prefix="dentsight-fuzz-seeds-") as folder:
        seeds = make_seeds(Path(folder)) if semantic else make_seeds(Path(folder), 4, 160)  # whose pictures say nothing
        work = [(seeds, number, seed, semantic) for number in range(count)]
        if workers == 1:
            return [_one(item) for item in work]
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            return pool.map(_one, work, chunksize=20)


def _one(item: tuple[dict[str, Path], int, int, bool]) -> Outcome:
    seeds, number, seed, semantic = item
    return outcome_of(seeds, number, seed, semantic=semantic)


def main() -> None:
    """The table, and every outcome that should not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--semantic", action="store_true", help="faults of meaning instead of form")
    arguments = parser.parse_args()
    outcomes = campaign(arguments.count, arguments.seed, semantic=arguments.semantic, workers=arguments.workers)
    table = collections.Counter((o.seed, o.mutation, o.result) for o in outcomes)
    for (kind, mutation, result), count in sorted(table.items()):
        sys.stdout.write(f"{kind:6} {mutation:24} {result:10} {count}\n")
    bad = UNFAIR | ({"accepted"} if arguments.semantic else set())
    for outcome in outcomes:
        if outcome.result in bad:
            sys.stdout.write(f"{outcome}\n")


if __name__ == "__main__":
    main()
