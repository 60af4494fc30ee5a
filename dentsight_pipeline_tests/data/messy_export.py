"""A raw export's content with every kind of mess that normalisation mends, drawn at random from a seed."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import cv2
import numpy as np

from dentsight_pipeline.data import leakage
from dentsight_pipeline.data.raw_export import RawExport
from dentsight_pipeline.documents.annotations import (
    RAW_ANNOTATIONS,
    RAW_IMAGES,
    REPAIRS,
    RawCategory,
    RawSplit,
    table_of,
)
from dentsight_pipeline.documents.facts import Corpus, LabelSource, Privacy, RawExportFacts, Source
from dentsight_pipeline.documents.names import CorpusKind

FACTS = RawExportFacts(
    corpus=Corpus(kind=CorpusKind.ROBOFLOW, name="drawn", licence="CC BY 4.0"),
    source=Source(),
    layout="coco",
    label_source=LabelSource(source="opg-reporting", chosen_by="readme", evidence=""),
    splits={},
    repairs={},
    privacy=Privacy(names_replaced=0, stem_kinds={}, images_with_metadata=0, metadata_removed={}),
)
LABELS = ("OPG-data", "11", "12", "36", "48", "caries", "Cavity", "crown", "RC-treated-and-root-stump", "Healthy Teeth")
SIZES = ((640, 480), (333, 217))


def messy_export(seed: int, images: int = 40) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of `annotations.json`, and the fingerprint of each stored image.

    Images share sources across splits, some twice annotated; boxes reach past edges, have no area, stand twice.
    """
    draw = random.Random(seed)
    fingerprints: dict[str, str] = {}
    read_before: dict[tuple[str, int], list[tuple[str, list[float]]]] = {}
    splits = []
    for name in ("train", "valid", "test"):
        split: dict[str, Any] = {
            "name": name,
            "file": f"{name}/_annotations.coco.json",
            "images": [],
            "annotations": [],
        }
        split["categories"] = [{"id": k, "name": label, "placeholder": k == 0} for k, label in enumerate(LABELS)]
        for number in range(images):
            image = _image(draw, number, fingerprints)
            split["images"].append(image)
            reading = image["stem_group"], image["width"]
            boxes = [(draw.choice(LABELS[1:]), _box(draw, image)) for _ in range(draw.choice((0, 1, 6, 30)))]
            boxes += draw.choice((boxes[: len(boxes) // 4], read_before.get(reading, [])))
            read_before[reading] = boxes
            for label, box in boxes:
                near = [value + draw.choice((0.0, 0.0, 0.0, 0.1)) for value in box]
                record = {"image_id": image["id"], "label": label, "bbox": near, "polygons": _polygons(draw)}
                split["annotations"].append(record)
        draw.shuffle(split["annotations"])
        for position, annotation in enumerate(split["annotations"]):
            annotation["id"] = 3 * position
        splits.append(split)
    return {"schema": "dentsight-raw-export/1", "layout": "coco", "splits": splits}, fingerprints


def _image(draw: random.Random, number: int, fingerprints: dict[str, str]) -> dict[str, Any]:
    """One of a few patients, now and then mirrored, as a file of its own."""
    patient, flip, (width, height) = draw.randrange(60), draw.randrange(3), draw.choice(SIZES)
    noise = np.random.default_rng(patient).standard_normal((16, 32)).astype(np.float32)
    gray = cv2.resize((noise * 40 + 128).clip(0, 255).astype(np.uint8), (width, height))
    digest = hashlib.sha256(f"{patient} {flip} {width} {number}".encode()).hexdigest()
    fingerprints[digest] = leakage.fingerprint(np.ascontiguousarray(gray[:, :: 1 if flip else -1], np.uint8)).to_json()
    image = {"id": 1000 - number, "file_name": f"images/{digest}.jpg", "sha256": digest, "original_sha256": digest}
    stem = draw.choice(("uid", "other", "numeric"))
    group = hashlib.sha256(f"stem {patient if stem == 'uid' else number}".encode()).hexdigest()
    return {**image, "width": width, "height": height, "stem_group": group, "stem_kind": stem}


def _box(draw: random.Random, image: dict[str, Any]) -> list[float]:
    """Mostly sound; now and then without area, on an edge, past it, or larger than the image."""
    width, height = image["width"], image["height"]
    x, y, w, h = draw.uniform(0, width - 60), draw.uniform(0, height - 60), draw.uniform(1, 50), draw.uniform(1, 50)
    return draw.choice(
        [
            *[[x, y, w, h]] * 8,
            [round(x), round(y), float(round(w)), float(round(h))],
            [x, y, 0.0, h],
            [x, y, w, 1e-7],
            [-0.0, y, w, h],
            [width - w, height - h, w, h],
            [width - w / 2, y, w, h],
            [-w / 3, -h / 7, w, h],
            [width + 0.4, y, w, h],
            [-50.0, -50.0, width + 100.0, height + 100.0],
        ]
    )


def _polygons(draw: random.Random) -> list[list[float]]:
    """None, one or two; with points past the edge, or on one line."""
    points = draw.choice((3, 5, 9))
    wide = [draw.uniform(-20, 700) for _ in range(2 * points)]
    line = [value for k in range(points) for value in (0.1 * k, 0.3 * k)]
    return draw.choice([[], [], [wide], [line], [wide, line, wide[:6]]])


def raw_export_of(content: dict[str, Any], fingerprints: dict[str, str], facts: RawExportFacts = FACTS) -> RawExport:
    """A raw export from the content of its `annotations.json`."""
    splits = tuple(
        RawSplit(
            split["name"],
            split["file"],
            tuple(RawCategory(c["id"], c["name"], c["placeholder"]) for c in split["categories"]),
            table_of(split["images"], RAW_IMAGES),
            table_of(split["annotations"], RAW_ANNOTATIONS),
        )
        for split in content["splits"]
    )
    return RawExport("coco", splits, REPAIRS.empty_table(), fingerprints, facts)
