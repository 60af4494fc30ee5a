"""A study made from what is in the store: clean test images, one of each source, and the model's findings on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.documents.codec import pretty, write
from dentsight_pipeline.documents.names import Asset, Kind, with_article
from dentsight_pipeline.documents.study import MODEL_FILE, STUDY_FILE, ModelFinding, Study, StudyImage
from dentsight_pipeline.documents.teeth import FINDINGS_FILE, ToothFindings
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.pages.reading import meant
from dentsight_pipeline.store.content import read_document
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store


@dataclass(frozen=True)
class Plan:
    """What a study is to be: see `documents/study.py`."""

    readers: Sequence[str]
    images: int
    title: str
    crossover: bool = False
    washout_days: float = 14.0
    seed: int = 0


def plan_study(store: Store, made: Manifest, folder: Path, plan: Plan) -> Study:
    """Writes a study into a new folder.

    Args:
        store: Where the product is.
        made: A condition subset, or findings by tooth, which bring the model's findings.
        folder: New or empty.
        plan: Readers and design.

    Returns:
        The study.

    Raises:
        ConfigurationError: The folder is not empty, too few clean test images, or a design without a model.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(
            f"{folder} is not empty; a study that was read is never written anew. Name a new folder."
        )
    subset = store.get_manifest(made.inputs[Asset.CONDITION_SUBSET]) if made.kind == Kind.TOOTH_FINDINGS else made
    if subset.kind != Kind.CONDITION_SUBSET:
        raise ConfigurationError(
            f"{made.digest[:12]} is {with_article(made.kind)}. Plan from a condition subset or findings by tooth."
        )
    images, names = _chosen(store, subset, plan)
    model = _model(store, made, images, names) if made.kind == Kind.TOOTH_FINDINGS else b""
    study = meant(
        Study(
            title=plan.title,
            readers=tuple(plan.readers),
            conditions=names,
            images=images,
            design="crossover" if plan.crossover else "unaided",
            washout_days=plan.washout_days if plan.crossover else 0.0,
            seed=plan.seed,
            subset=subset.digest,
            predictions=made.inputs[Asset.TEST_PREDICTIONS] if model else "",
            model_sha256=hashlib.sha256(model).hexdigest() if model else "",
        )
    )
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for image in study.images:
        (folder / image.file).write_bytes(store.get_bytes(image.sha256))
    if model:
        (folder / MODEL_FILE).write_bytes(model)
    (folder / STUDY_FILE).write_bytes(pretty(study))
    return study


def _chosen(store: Store, subset: Manifest, plan: Plan) -> tuple[tuple[StudyImage, ...], tuple[str, ...]]:
    """Clean test images on which every condition was looked for, one of each source, drawn by lot."""
    split = read_split(store, subset, "test")
    fit = split.images["clean"].to_numpy() & split.covered.all(axis=1)
    columns = zip(*(split.images[name].to_pylist() for name in ("sha256", "file_name", "source_group")), strict=True)
    by_source = {row[2]: row for row, good in zip(columns, fit, strict=True) if good}
    if len(by_source) < plan.images:
        raise ConfigurationError(
            f"{plan.images} images were asked for; the test split has {len(by_source)} clean sources on which every "
            "condition was looked for. Ask for fewer (--images), or plan from a dataset with more of them: `dentsight "
            "inspect` shows which conditions its annotators looked for, and how many test sources are clean."
        )
    sources = sorted(by_source)
    drawn = np.random.default_rng(plan.seed).choice(len(sources), plan.images, replace=False)
    rows = [by_source[sources[place]] for place in sorted(drawn)]
    return tuple(StudyImage(sha256=sha, file=file, source=source) for sha, file, source in rows), split.classes


def _model(store: Store, made: Manifest, images: Sequence[StudyImage], conditions: Sequence[str]) -> bytes:
    """The model's findings on the images, as the bytes of `model.json`."""
    found = {image.file_name: image for image in read_document(store, made, FINDINGS_FILE, ToothFindings).images}
    return write(
        {
            image.sha256: [
                ModelFinding(
                    condition=own.class_name, teeth=own.teeth, bbox_xywh_px=own.bbox_xywh_px, score=own.score or 0.0
                )
                for own in found[image.file].findings
                if own.class_name in conditions
            ]
            for image in images
            if image.file in found
        }
    )
