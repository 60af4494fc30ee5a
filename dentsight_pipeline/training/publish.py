"""What a finished training leaves behind: the checkpoint manifest in the store, and its result file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.facts import CheckpointFacts, SubsetFacts
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.job import Published
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.store import content
from dentsight_pipeline.training import checkpointing, cost, export
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.cost import Meters
from dentsight_pipeline.training.job import write_document, write_result
from dentsight_pipeline.training.learner import Learner
from dentsight_pipeline.training.recipe import PACKAGED
from dentsight_pipeline.training.setup import Setup
from dentsight_pipeline.training.state import Record
from dentsight_pipeline.training.versions import package_versions

PUBLISHED = "published.json"


@dataclass(frozen=True)
class Finished:
    """A training that has taken its last step.

    Attributes:
        setup: What was trained, and where.
        learner: The last weights.
        record: Losses, figures and the best weights.
        health: Of the class heads, shown at the best step.
        meters: What it took.
        classes: Names in label order.
        steps: Optimiser steps taken.
        total_steps: Optimiser steps that the recipe asks for.
    """

    setup: Setup
    learner: Learner
    record: Record
    health: HeadHealth
    meters: Meters
    classes: tuple[str, ...]
    steps: int
    total_steps: int


def publish(finished: Finished) -> str:
    """Exports the best weights, puts the checkpoint manifest into the store, and writes the result; its digest."""
    setup, folder = finished.setup, finished.setup.job.folder
    product = content.build(setup.store, Kind.CHECKPOINT, _files(finished), _inputs(setup), _facts(finished))
    digest = setup.store.put_manifest(product)
    record = cost.record(finished.meters.card(setup.job))
    done = Published(recipe=setup.identity.recipe, subset=setup.identity.subset, digest=digest, record=record)
    write_document(folder / PUBLISHED, done)
    write_result(folder, digest, record)
    return digest


def already_published(setup: Setup) -> str | None:
    """The digest of this very training's product when an earlier attempt finished it; the result is written again."""
    folder, identity = setup.job.folder, setup.identity
    path = folder / PUBLISHED
    if not path.exists():
        return None
    done = codec.read(path.read_bytes(), Published, path)
    same = (done.recipe, done.subset) == (identity.recipe, identity.subset)
    if not same or not setup.store.has_manifest(done.digest):
        return None
    write_result(folder, done.digest, done.record)
    return done.digest


def _files(finished: Finished) -> dict[str, Path | bytes]:
    model, setup = finished.learner.to_evaluate(), finished.setup
    if finished.record.best_weights is not None:
        checkpointing.load_model_tensors(model, finished.record.best_weights)
    folder = export.save_pretrained_folder(model, setup.recipe, finished.classes, setup.job.folder / "model")
    return {
        **{f"model/{path.name}": path for path in sorted(folder.iterdir())},
        "recipe.json": codec.pretty(setup.recipe.document),
        "history.json": codec.pretty(finished.record.history),
        "health.json": codec.pretty(finished.health),
    }


def _inputs(setup: Setup) -> dict[str, str]:
    inputs = {Kind(setup.subset.kind).asset: setup.subset.digest}
    initial = setup.initial_checkpoint
    return inputs if initial is None else {**inputs, Asset.INITIAL_CHECKPOINT: initial}


def _facts(finished: Finished) -> CheckpointFacts:
    setup, recipe, learner = finished.setup, finished.setup.recipe, finished.learner
    return CheckpointFacts(
        recipe=recipe.name,
        recipe_digest=recipe.digest,
        variant=bool(recipe.overrides.keys() - {"stage"}),  # the stage is the asset's, nobody's override
        overrides=recipe.overrides,
        stage=recipe.stage,
        corpus=setup.subset.facts_as(SubsetFacts).corpus,
        classes=finished.classes,
        image_size=recipe.image_size,
        parameters=models.count_parameters(learner.raw_model),
        steps=finished.steps,
        total_steps=finished.total_steps,
        best_step=finished.record.best.step,
        validation=finished.record.best_values,
        healthy=finished.health.healthy,
        allow_head_collapse=setup.job.allow_head_collapse,
        initial_weights_sha256=learner.initial_weights_sha256,
        processes=learner.processes.count,
        versions=package_versions(),
        packaged_weights=recipe.weights if recipe.weights in PACKAGED else None,
        nms_iou=recipe.nms_iou,
        weights_licence=setup.weights_licence,
    )
