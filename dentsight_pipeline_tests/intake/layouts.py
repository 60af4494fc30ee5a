"""One small export written in every layout that is read: the same pictures, names and boxes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dentsight_pipeline_tests.data.export_builder import NAMES, jpeg, picture

SIZE = (64, 48)
Boxes = Mapping[str, list[tuple[str, tuple[float, float, float, float]]]]
CONTENT: Mapping[str, Boxes] = {
    "train": {"a": [("11", (5, 5, 10, 12)), ("caries", (6, 6, 4, 4))], "b": [("crown", (8, 5, 10, 6))], "c": []},
    "valid": {"d": [("11", (5, 9, 10, 12)), ("caries", (7, 10, 3, 5))]},
    "test": {"e": [("crown", (6, 5, 10, 6))]},
}
"""Split → stem → label and box (x, y, width, height in px)."""


def _pictures() -> Iterator[tuple[str, str, bytes]]:
    number = 0
    for split, images in CONTENT.items():
        for stem in images:
            number += 1
            yield split, stem, jpeg(picture(number))


def _write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def _coco(split: str, file_name: Callable[[str], str], first: int = 1) -> dict[str, Any]:
    ids = {stem: number for number, stem in enumerate(CONTENT[split], start=first)}
    boxes = [(stem, *box) for stem, some in CONTENT[split].items() for box in some]
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "description": ""},
        "categories": [{"id": n, "name": name, "supercategory": ""} for n, name in enumerate(NAMES[1:], first)],
        "images": [
            {"id": n, "width": SIZE[0], "height": SIZE[1], "file_name": file_name(stem)} for stem, n in ids.items()
        ],
        "annotations": [
            {
                "id": n,
                "image_id": ids[stem],
                "category_id": NAMES.index(label) - 1 + first,
                "segmentation": [],
                "area": box[2] * box[3],
                "bbox": list(box),
                "iscrowd": 0,
                "attributes": {"occluded": False, "rotation": 0.0},
            }
            for n, (stem, label, box) in enumerate(boxes, start=first)
        ],
    }


def cvat_coco(root: Path) -> None:
    """CVAT's COCO 1.0 with subsets of its own names."""
    names = {"train": "Train", "valid": "Validation", "test": "Test"}
    for split, stem, data in _pictures():
        _write(root / "images" / names[split] / f"{stem}.jpg", data)
    for split, name in names.items():
        document = _coco(split, lambda stem: f"{stem}.jpg")
        _write(root / "annotations" / f"instances_{name}.json", json.dumps(document))


def plain_coco(root: Path) -> None:
    """`annotations/instances_val2017.json` beside `val2017/`, as COCO itself."""
    names = {"train": "train2017", "valid": "val2017", "test": "test2017"}
    for split, stem, data in _pictures():
        _write(root / names[split] / f"{stem}.jpg", data)
    for split, name in names.items():
        document = _coco(split, lambda stem, name=name: f"{name}/{stem}.jpg")
        _write(root / "annotations" / f"instances_{name}.json", json.dumps(document))


def _yolo(root: Path, folder: Callable[[str, str], str], names: Mapping[str, str], yaml: str) -> None:
    for split, stem, data in _pictures():
        _write(root / folder("images", names[split]) / f"{stem}.jpg", data)
        lines = [
            f"{NAMES.index(label)} {(x + w / 2) / SIZE[0]:.9f} {(y + h / 2) / SIZE[1]:.9f} "
            f"{w / SIZE[0]:.9f} {h / SIZE[1]:.9f}\n"
            for label, (x, y, w, h) in CONTENT[split][stem]
        ]
        _write(root / folder("labels", names[split]) / f"{stem}.txt", "".join(lines))
    _write(
        root / yaml, f"path: .\ntrain: images/train\nval: images/val\nnc: {len(NAMES)}\nnames: {json.dumps(NAMES)}\n"
    )


_SPLITS = {"train": "train", "valid": "val", "test": "test"}


def yolo_ultralytics(root: Path) -> None:
    """`images/{train,val,test}` and `labels/…`, the YAML under a name of its own."""
    _yolo(root, lambda kind, split: f"{kind}/{split}", _SPLITS, "dental.yml")


def yolo_roboflow(root: Path) -> None:
    """`{train,valid,test}/images` and `labels`, in capital letters."""
    _yolo(root, lambda kind, split: f"{split}/{kind}", {s: s.title() for s in CONTENT}, "data.yaml")


def yolo_deep(root: Path) -> None:
    """The same far below the folder that is given, beside other files."""
    _yolo(root / "a" / "b" / "set", lambda kind, split: f"{kind}/{split}", _SPLITS, "set.yaml")
    _write(root / "a" / "about.txt", "hello")


def yolo_named_by_yaml(root: Path) -> None:
    """Folders whose names tell nothing; the YAML says which is which."""
    names = {"train": "fold_a", "valid": "fold_b", "test": "fold_c"}
    _yolo(root, lambda kind, split: f"{kind}/{split}", names, "data.yaml")
    text = (root / "data.yaml").read_text().split("nc:")[1]
    yaml = f"path: /home/me/set\ntrain: ./images/fold_a\nval: images/fold_b\ntest: images/fold_c\nnc:{text}"
    _write(root / "data.yaml", yaml)


def _xml(split: str, stem: str) -> str:
    objects = "".join(
        f"<object><name>{label}</name><pose>Unspecified</pose><difficult>0</difficult><bndbox><xmin>{x}</xmin>"
        f"<xmax>{x + w}</xmax><ymin>{y}</ymin><ymax>{y + h}</ymax></bndbox></object>"
        for label, (x, y, w, h) in CONTENT[split][stem]
    )
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>1</depth></size>"
    return f"<annotation><folder/><filename>{stem}.jpg</filename>{size}{objects}</annotation>"


def voc_roboflow(root: Path) -> None:
    """Roboflow's Pascal VOC: the XML beside its image."""
    for split, stem, data in _pictures():
        _write(root / split / f"{stem}.jpg", data)
        _write(root / split / f"{stem}.xml", _xml(split, stem))


def voc_classic(root: Path) -> None:
    """`JPEGImages`, `Annotations`, and the splits as lists."""
    for split, stem, data in _pictures():
        _write(root / "VOC2012" / "JPEGImages" / f"{stem}.jpg", data)
        _write(root / "VOC2012" / "Annotations" / f"{stem}.xml", _xml(split, stem))
    for split, name in _SPLITS.items():
        _write(root / "VOC2012" / "ImageSets" / "Main" / f"{name}.txt", "".join(f"{stem}\n" for stem in CONTENT[split]))


def csv_roboflow(root: Path) -> None:
    """Roboflow's Tensorflow CSV: an image without boxes has no row."""
    for split, stem, data in _pictures():
        _write(root / split / f"{stem}.jpg", data)
    for split, images in CONTENT.items():
        rows = [
            f"{stem}.jpg,{SIZE[0]},{SIZE[1]},{label},{x},{y},{x + w},{y + h}\n"
            for stem, boxes in images.items()
            for label, (x, y, w, h) in boxes
        ]
        _write(root / split / "_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(rows))


LAYOUTS: Mapping[str, Callable[[Path], None]] = {
    write.__name__: write
    for write in (
        cvat_coco, plain_coco, yolo_ultralytics, yolo_roboflow, yolo_deep, yolo_named_by_yaml, voc_roboflow,
        voc_classic, csv_roboflow,
    )
}  # fmt: skip
"""By name; each writes `CONTENT` into a folder."""


def label_studio(root: Path, split: str = "train") -> None:
    """Label Studio's COCO: one file without a split, ids from 0, uploads under names of its own."""
    for of, stem, data in _pictures():
        if of == split:
            _write(root / "images" / f"3f2a91bc-{stem}.jpg", data)
    document = _coco(split, lambda stem: f"images/3f2a91bc-{stem}.jpg", first=0)
    document["info"] = {"version": "1.0", "contributor": "Label Studio"}
    for record in (*document["categories"], *document["annotations"]):
        record.pop("supercategory", None)
        record.pop("attributes", None)
    _write(root / "result.json", json.dumps(document))


DISEASES = ("Impacted", "Caries", "Periapical Lesion", "Deep Caries")


def dentex(root: Path, level: str = "quadrant-enumeration-disease", split: str = "train") -> None:
    """One level of DENTEX: `quadrant`, `quadrant_enumeration` or `quadrant-enumeration-disease`; names are numbers."""
    found = [("a", 0, 7, 0), ("a", 2, 5, 1), ("b", 3, 7, 3), ("b", 1, 0, 2)]  # 18 impacted, 36, 48, 21
    stems = ["a", "b", "c"]
    for number, stem in enumerate(stems):
        _write(root / "xrays" / f"{split}_{stem}.png.jpg", jpeg(picture(number + 7)))
    keys = {"quadrant": 1, "quadrant_enumeration": 2}.get(level, 3)
    numbered = [[{"id": n, "name": n + 1, "supercategory": n + 1} for n in range(count)] for count in (4, 8)]
    lists = [*numbered, [{"id": n, "name": name, "supercategory": name} for n, name in enumerate(DISEASES)]]
    document = {
        "images": [
            {"id": n, "file_name": f"{split}_{stem}.png.jpg", "width": SIZE[0], "height": SIZE[1]}
            for n, stem in enumerate(stems, start=1)
        ],
        "annotations": [
            {
                "id": n, "image_id": stems.index(stem) + 1, "iscrowd": 0, "area": 80, "bbox": [4 + n, 5, 8, 10],
                "segmentation": [[4 + n, 5, 12 + n, 5, 12 + n, 15, 4 + n, 15]],
            } | {f"category_id_{k + 1}": numbers[k] for k in range(keys)}
            for n, (stem, *numbers) in enumerate(found, start=1)
        ],
    } | {f"categories_{k + 1}": lists[k] for k in range(keys)}  # fmt: skip
    _write(root / f"{split}_{level.replace('-', '_')}.json", json.dumps(document))


def moved_below(root: Path, top: str) -> None:
    """Everything below one folder more."""
    for path in list(root.iterdir()):
        (root / top).mkdir(exist_ok=True)
        if path.name != top:
            shutil.move(path, root / top / path.name)
