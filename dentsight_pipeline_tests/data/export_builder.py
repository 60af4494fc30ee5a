"""Builds small exports in Roboflow's layouts, with exactly the records and defects that a test asks for."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dentsight_pipeline.intake.open import open_export
from dentsight_pipeline.intake.read import read_export
from dentsight_pipeline.intake.records import Export, Refusals

NAMES = ("OPG-data", "11", "caries", "crown", "RC-treated", "root-stump", "RC-treated-and-root-stump")


def picture(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth grayscale picture of its own for each seed, uint8 `[height, width]`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    """The picture as JPEG; options go to Pillow (`exif`, `comment` …)."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90, **options)
    return out.getvalue()


def png(pixels: np.ndarray, **options: Any) -> bytes:
    """The picture as PNG; options go to Pillow (`pnginfo`, `exif` …)."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **options)
    return out.getvalue()


def exif(orientation: int, description: str = "PATIENT 1.2.826.0.1.3680043.2") -> Image.Exif:
    """EXIF with an orientation and a text that must not survive."""
    block = Image.Exif()
    block[274] = orientation
    block[270] = description
    return block


@dataclass
class ExportBuilder:
    """One COCO export in the making; ids restart at 0 in every split, as Roboflow's do."""

    root: Path
    names: tuple[str, ...] = NAMES
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: int = 0

    def split(self, name: str) -> dict[str, Any]:
        """The split's document, made when it is new."""
        (self.root / name).mkdir(parents=True, exist_ok=True)
        categories = [
            {"id": i, "name": n, "supercategory": self.names[0] if i else "none"} for i, n in enumerate(self.names)
        ]
        return self.splits.setdefault(
            name,
            {
                "info": {"year": "2025", "version": "1"},
                "licenses": [{"id": 1, "name": "CC BY 4.0", "url": ""}],
                "categories": categories,
                "images": [],
                "annotations": [],
            },
        )

    def image(
        self,
        split: str = "train",
        boxes: Mapping[str, Sequence[Sequence[float]]] | None = None,
        *,
        stem: str | None = None,
        data: bytes | None = None,
        size: tuple[int, int] = (64, 48),
    ) -> int:
        """Adds an image with boxes by label name, and its file; returns its id."""
        document = self.split(split)
        self.seed += 1
        image_id = len(document["images"])
        stem = stem if stem is not None else f"1-2-826-0-1-3680043-{self.seed:09d}_png"
        name = f"{stem}.rf.{self.seed:032x}.jpg"
        (self.root / split / name).write_bytes(data if data is not None else jpeg(picture(self.seed)))
        document["images"].append(
            {"id": image_id, "file_name": name, "width": size[0], "height": size[1], "license": 1}
        )
        for label, rows in (boxes or {}).items():
            for box in rows:
                self.annotation(split, image_id, label, box)
        return image_id

    def annotation(self, split: str, image_id: int, label: str, box: Sequence[float], **more: Any) -> dict[str, Any]:
        """Adds an annotation, and returns its record to be spoilt."""
        document = self.split(split)
        record = {
            "id": len(document["annotations"]),
            "image_id": image_id,
            "category_id": self.names.index(label),
            "bbox": box,
            "area": 0.0,
            "segmentation": [],
            "iscrowd": 0,
        } | more
        document["annotations"].append(record)
        return record

    def file_of(self, split: str, image_id: int) -> Path:
        """The path of an image's file."""
        return self.root / split / self.splits[split]["images"][image_id]["file_name"]

    def stems(self) -> list[str]:
        """All original stems."""
        return [i["file_name"].split(".rf.")[0] for s in self.splits.values() for i in s["images"]]

    def write(self) -> Path:
        """Writes the annotation files and returns the export's folder."""
        for name, document in self.splits.items():
            (self.root / name / "_annotations.coco.json").write_text(json.dumps(document))
        return self.root

    def zipped(self, file: Path, top: str = "") -> Path:
        """Writes the export as a zip, below one top folder if asked for."""
        self.write()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(self.root.rglob("*")):
                if path.is_file():
                    archive.write(path, f"{top}{path.relative_to(self.root).as_posix()}")
        return file


def read(root: Path, refusals: Refusals | None = None) -> Export:
    """What an export says; the first record that cannot be used is raised unless refusals are collected."""
    with open_export(root) as files:
        return read_export(files, refusals)[0]


def whole_export(root: Path) -> ExportBuilder:
    """A small sound export: teeth and conditions, all three splits, one image without annotations."""
    builder = ExportBuilder(root)
    builder.image("train", {"11": [[5, 5, 10, 12.5]], "caries": [[6, 6, 4, 4.25]]})
    builder.image(
        "train", {"11": [[8, 5, 10, 12]], "crown": [[8, 5, 10, 6]], "RC-treated-and-root-stump": [[30, 20, 9, 9]]}
    )
    builder.image("train")
    builder.image("valid", {"11": [[5, 9, 10, 12]], "caries": [[7, 10, 3, 5]]})
    builder.image("test", {"11": [[6, 5, 10, 12]], "crown": [[6, 5, 10, 6]]})
    return builder
