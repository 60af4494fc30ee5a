"""Splits for tests, from COCO JSON's dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dentsight_pipeline.documents.annotations import ANNOTATIONS, IMAGES, Split, table_of


def from_coco(name: str, coco: Mapping[str, Any]) -> Split:
    """A split from COCO JSON's dictionary; what COCO files of others lack is filled in.

    Without `area` it is the box's; without `source_group` an image is its own source, and clean; without `covered`
    every class was looked for.
    """
    classes = [category["name"] for category in sorted(coco["categories"], key=lambda category: category["id"])]
    images = sorted(coco["images"], key=lambda image: image["id"])
    annotations = sorted(coco["annotations"], key=lambda annotation: annotation["image_id"])
    return Split(
        name,
        tuple(classes),
        table_of([_image(image, len(classes)) for image in images], IMAGES),
        table_of([_annotation(annotation, classes) for annotation in annotations], ANNOTATIONS),
    )


def _image(image: Mapping[str, Any], classes: int) -> dict[str, Any]:
    sha256 = image.get("sha256", Path(image["file_name"]).stem)
    filled = {"sha256": sha256, "source_group": sha256, "clean": True, "partial_annotation": False, "flags": []}
    return {**filled, "covered": [*range(1, classes + 1)], "export": "", **image}


def _annotation(annotation: Mapping[str, Any], classes: list[str]) -> dict[str, Any]:
    number, (_, _, width, height) = annotation["category_id"], annotation["bbox"]
    label = classes[number - 1] if 1 <= number <= len(classes) else ""
    return {"area": width * height, "segmentation": [], "raw_name": label, "loose": False, **annotation}
