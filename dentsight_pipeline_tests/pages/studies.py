"""Small studies of drawn pictures, and a server for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dentsight_pipeline.documents.codec import pretty, write
from dentsight_pipeline.documents.study import MODEL_FILE, STUDY_FILE, ModelFinding, Study, StudyImage

CONDITIONS = ("caries", "crown", "periapical-radiolucency")


def picture(seed: int) -> bytes:
    """A small gray JPEG."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 24), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(noise, (240, 120), interpolation=cv2.INTER_LINEAR))[1].tobytes()


def write_study(
    folder: Path,
    readers: Sequence[str] = ("A. Bell", "C. Dorn"),
    pictures: Iterable[bytes] = (picture(0), picture(1), picture(2)),
    model: dict[int, list[tuple[str, str]]] | None = None,
    **more: Any,
) -> Study:
    """A study in a folder; `model` has tooth and condition by number of the picture."""
    (folder / "images").mkdir(parents=True)
    images = []
    for data in pictures:
        digest = hashlib.sha256(data).hexdigest()
        (folder / f"images/{digest}.jpg").write_bytes(data)
        images.append(StudyImage(sha256=digest, file=f"images/{digest}.jpg", source=digest))
    findings = {
        images[number].sha256: [
            ModelFinding(condition=condition, teeth=(tooth,), bbox_xywh_px=(10, 10, 20, 20), score=0.9)
            for tooth, condition in found
        ]
        for number, found in (model or {}).items()
    }
    if model is not None:
        (folder / MODEL_FILE).write_bytes(write(findings))
        more["model_sha256"] = hashlib.sha256(write(findings)).hexdigest()
    defaults = {"title": "Ten X-rays", "conditions": CONDITIONS}
    study = Study(readers=tuple(readers), images=tuple(images), **defaults | more)
    (folder / STUDY_FILE).write_bytes(pretty(study))
    return study
