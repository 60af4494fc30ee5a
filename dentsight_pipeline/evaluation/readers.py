"""A reader study, evaluated: agreement of model and dentists, and what the model's findings change in the dentists.

Agreement (`agreement.py`) compares readers with each other and asks nobody for the truth. The two arms are held against
the labels of the dataset, by tooth: sensitivity and specificity with the model minus without, for the same reader on
the same image. Cases are resampled by source; readers are fixed, and nothing is claimed about others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from dentsight_pipeline.documents.annotations import write_table
from dentsight_pipeline.documents.codec import pretty
from dentsight_pipeline.documents.evaluation import (
    ALL_CLASSES,
    EVALUATION_FILE,
    EvaluationDocument,
    Measurement,
)
from dentsight_pipeline.documents.facts import EvaluationFacts, ReaderAgreementFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.documents.readers import (
    AGREEMENT_FILE,
    MODEL_READER,
    READINGS_TABLE,
    ArmEffect,
    ConditionAgreement,
    ReaderAgreement,
    reader_agreement_ref,
)
from dentsight_pipeline.documents.study import Study
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation import bootstrap
from dentsight_pipeline.evaluation.agreement import Agreement, agreement_of_table, joint_counts
from dentsight_pipeline.evaluation.ceiling import on_teeth
from dentsight_pipeline.evaluation.figures import measurement

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

METRIC = "reader_delta_kappa"
Truth = Mapping[str, Collection[tuple[str, str]]]
"""Condition and tooth that the labels say are there, by digest of the image; images that are not named have none."""


@dataclass(frozen=True)
class StudyReadings:
    """The finished readings of a study: a table of schema `READINGS`, and how many are still to be done."""

    study: Study
    table: pa.Table
    unfinished: int

    @property
    def digest(self) -> str:
        """sha256 of the table: the same readings give the same."""
        return hashlib.sha256(write_table(self.table)).hexdigest()


def evaluate_readings(
    given: StudyReadings, truth: Truth, *, population: str = ALL_CLASSES, resamples: int = 1000, seed: int = 0
) -> ReaderAgreement:
    """What a study says.

    Args:
        given: The readings.
        truth: For the two arms.
        population: Of the evaluation whose gates read the result.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Raises:
        EvaluationError: No model, or fewer than two dentists.
    """
    where = f"Study {given.study.digest[:12]}"
    found = agreement_of_table(given.table, where, model=MODEL_READER, resamples=resamples, seed=seed)
    readers = sorted({*given.table["reader"].to_pylist()} - {MODEL_READER})
    return ReaderAgreement(
        study=given.study.digest,
        title=given.study.title,
        readers=tuple(readers),
        images=len({*given.table.filter(_is_dentist(given.table))["image"].to_pylist()}),
        unfinished=given.unfinished,
        conditions=tuple(map(_agreement, found)),
        arms=arm_effects(given.table, truth, resamples=resamples, seed=seed),
        measurements=tuple(_measurement(row, population) for row in found),
    )


def _is_dentist(table: pa.Table) -> pa.Array:
    return pa.array([name != MODEL_READER for name in table["reader"].to_pylist()])


def _agreement(row: Agreement) -> ConditionAgreement:
    same = {name: getattr(row, name) for name in ConditionAgreement.__struct_fields__ if name not in ("delta", "note")}
    return ConditionAgreement(**same, delta=row.delta.bounds, note=row.delta.note)


def _measurement(row: Agreement, population: str) -> Measurement:
    return measurement(METRIC, row.condition, population, row.delta, row.items, row.images)


# The two arms --------------------------------------------------------------------------------------------------------


class _Items(NamedTuple):
    """The readings of one condition by item; R readers with both arms."""

    image: np.ndarray
    """[N] number of the image."""
    truth: np.ndarray
    """[N] 1 or 0."""
    ratings: np.ndarray
    """[2, R, N] unaided and aided; NaN where one of the two is missing."""


def arm_effects(table: pa.Table, truth: Truth, *, resamples: int, seed: int) -> tuple[ArmEffect, ...]:
    """Sensitivity and specificity with against without the model, by condition and over all; empty with one arm."""
    known = table.filter(pa.array([image in truth for image in table["image"].to_pylist()]))
    aided = {*known.filter(pa.array([arm == "aided" for arm in known["arm"].to_pylist()]))["reader"].to_pylist()}
    if not aided:
        return ()
    columns = {name: np.array(known[name].to_pylist()) for name in ("reader", "image", "tooth", "condition", "arm")}
    columns["present"] = np.array([np.nan if said is None else said for said in known["present"].to_pylist()])
    chosen = {name: columns["condition"] == name for name in np.unique(columns["condition"]).tolist()}
    rows = {**chosen, ALL_CLASSES: np.ones(len(known), bool)}
    images = np.unique(columns["image"])
    weights = bootstrap.draw(np.arange(len(images)), resamples, seed)
    return tuple(
        _effect(name, _items({k: v[own] for k, v in columns.items()}, sorted(aided), images, truth), weights)
        for name, own in rows.items()
    )


def _items(columns: Mapping[str, np.ndarray], readers: list[str], images: np.ndarray, truth: Truth) -> _Items:
    """Each item with what every reader said of it in either arm."""
    keys = np.stack([columns[name] for name in ("image", "tooth", "condition")], axis=1)
    items, item = np.unique(keys, axis=0, return_inverse=True)
    ratings = np.full((2, len(readers), len(items)), np.nan)
    mine = np.isin(columns["reader"], readers)
    arm, reader = (columns["arm"][mine] == "aided").astype(int), np.searchsorted(readers, columns["reader"][mine])
    ratings[arm, reader, item.reshape(-1)[mine]] = columns["present"][mine]
    both = ~np.isnan(ratings).any(axis=0)
    there = np.array([float((condition, tooth) in truth[image]) for image, tooth, condition in items.tolist()])
    return _Items(np.searchsorted(images, items[:, 0]), there, np.where(both, ratings, np.nan))


def _effect(name: str, items: _Items, weights: bootstrap.Weights) -> ArmEffect:
    n_images = len(weights.groups)
    counts = [[joint_counts(items.truth, said, items.image, n_images) for said in arm] for arm in items.ratings]

    def rates(of: np.ndarray) -> np.ndarray:
        """[6, B] sensitivity unaided, aided, change; specificity likewise."""
        by_arm = np.array([[_rates(cells @ of) for cells in arm] for arm in counts]).mean(axis=1)  # [2 arms, 2, B]
        return np.concatenate([np.stack([own[0], own[1], own[1] - own[0]]) for own in np.moveaxis(by_arm, 1, 0)])

    drawn = bootstrap.draws(rates, weights)
    found = [
        bootstrap.interval(drawn, n_images, at=(place,), bounds=None if place % 3 == 2 else (0.0, 1.0)).bounds
        for place in range(6)
    ]
    fields = [f"{what}_{arm}" for what in ("sensitivity", "specificity") for arm in ("unaided", "aided", "change")]
    positives = int(items.truth.sum())
    return ArmEffect(
        condition=name,
        positives=positives,
        negatives=len(items.truth) - positives,
        **dict(zip(fields, found, strict=True)),
    )


def _rates(cells: np.ndarray) -> np.ndarray:
    """[2, B] sensitivity and specificity of counts [truth, said, B]; NaN without positives or negatives."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([cells[1, 1] / cells[1].sum(axis=0), cells[0, 0] / cells[0].sum(axis=0)])


# Stored --------------------------------------------------------------------------------------------------------------


def publish_reader_agreement(
    store: Store, evaluation: Manifest, given: StudyReadings, *, resamples: int = 1000, seed: int = 0
) -> Manifest:
    """Evaluate a study of the model behind an evaluation, publish the result, and note it for the model's report.

    Raises:
        EvaluationError: The study shows another model, or images of another dataset.
    """
    study = given.study
    _require_this_model(study, evaluation)
    from dentsight_pipeline.store.content import build, read_document

    document = read_document(store, evaluation, EVALUATION_FILE, EvaluationDocument)
    population = document.gated_population or ALL_CLASSES
    truth = stored_truth_by_tooth(store, evaluation, study)
    result = evaluate_readings(given, truth, population=population, resamples=resamples, seed=seed)
    files = {AGREEMENT_FILE: pretty(result), READINGS_TABLE: _as_parquet(given.table)}
    facts = ReaderAgreementFacts(
        corpus=evaluation.facts_as(EvaluationFacts).corpus,
        study=study.digest,
        title=study.title,
        readers=len(result.readers),
        images=result.images,
        unfinished=given.unfinished,
        resamples=resamples,
        seed=seed,
    )
    manifest = build(store, Kind.READER_AGREEMENT, files, {Asset.CLASS_METRICS: evaluation.digest}, facts)
    store.put_manifest(manifest)
    store.write_ref(reader_agreement_ref(evaluation.digest), {"reader_agreement": manifest.digest})
    return manifest


def _require_this_model(study: Study, evaluation: Manifest) -> None:
    named = {Asset.TEST_PREDICTIONS: study.predictions, Asset.CONDITION_SUBSET: study.subset}
    for asset, digest in named.items():
        if digest != evaluation.inputs[asset]:
            raise EvaluationError(
                f"Study {study.digest[:12]} was planned from {asset} {digest[:12] or '(none)'}, but the evaluation "
                f"{evaluation.digest[:12]} is of {evaluation.inputs[asset][:12]}. Give the study of this model."
            )


def _as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def stored_truth_by_tooth(store: Store, evaluation: Manifest, study: Study) -> Truth:
    """What the labels say of a study's images, tooth by tooth; an image whose teeth nobody numbered has no truth."""
    from dentsight_pipeline.data.ontology import TEETH
    from dentsight_pipeline.data.splits import read_splits
    from dentsight_pipeline.evaluation.suspects import labelled_images

    subset = store.get_manifest(evaluation.inputs[Asset.CONDITION_SUBSET])
    splits = read_splits(store, store.get_manifest(subset.inputs[Asset.NORMALIZED_SPLITS]))
    wanted = {image.sha256 for image in study.images}
    return {
        own.image: on_teeth(list(zip(own.names, own.boxes, strict=True)))
        for own in labelled_images(splits.values())
        if own.image in wanted and any(name in TEETH for name in own.names)
    }
