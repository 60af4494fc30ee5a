"""The evaluation assets: every metric of docs/evaluation.md, and what is found by tooth."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.orchestration import metadata, tracked
from dentsight_pipeline.orchestration.assets.data import condition_subset, tooth_subset
from dentsight_pipeline.orchestration.assets.training import RecipeConfig, test_predictions, tooth_checkpoint
from dentsight_pipeline.orchestration.conditions import on_new_content
from dentsight_pipeline.orchestration.folds import predictions_out_of_fold
from dentsight_pipeline.orchestration.partitions import cells
from dentsight_pipeline.orchestration.product import Made, Step, product

if TYPE_CHECKING:
    from dentsight_pipeline.evaluation.readers import StudyReadings
    from dentsight_pipeline.store.canonical import JSON
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.training.recipe import Recipe


class EvaluationConfig(dg.Config):
    """How much work the intervals are worth."""

    resamples: int = 1000
    """Bootstrap resamples behind every interval."""
    seed: int = 0
    """Seed of the bootstrap."""


@product(
    cells,
    reads=[condition_subset, test_predictions],
    settings=EvaluationConfig,
    version="5",
    tracked=True,
    group_name="evaluation",
    kinds={"python", "parquet"},
    automation_condition=on_new_content(),
)
def class_metrics(step: Step[EvaluationConfig]) -> dg.MaterializeResult:
    """Each condition's AP, operating points and intervals, with thresholds chosen on valid and reported on test."""
    predictions = step.read(test_predictions)
    subset = step.follow(predictions, Asset.CONDITION_SUBSET)
    config = step.config.model_dump()
    return step.once(lambda: tracked.evaluate(step, subset, predictions), metadata.of_evaluation, config)


@product(
    cells,
    reads=[condition_subset, test_predictions, class_metrics, tooth_subset, tooth_checkpoint],
    settings=EvaluationConfig,
    version="4",
    gpu=True,
    group_name="teeth",
    kinds={"pytorch", "json"},
)
def tooth_findings(step: Step[EvaluationConfig]) -> dg.MaterializeResult:
    """Each test image's teeth with the conditions found on them; what fits no tooth stays, marked so."""
    from dentsight_pipeline.evaluation.teeth.product import tooth_chain

    chain = step.reads(tooth_chain(step.store, step.read(class_metrics), step.read(tooth_checkpoint)))
    return step.once(partial(_predict_and_join, step, chain), metadata.of_tooth_findings, step.config.model_dump())


def _predict_and_join(step: Step[EvaluationConfig], chain: "Mapping[str, Manifest]") -> Made:
    from dentsight_pipeline.evaluation.teeth.product import publish_tooth_findings

    seen = tracked.predict(step, chain[Asset.CONDITION_SUBSET], chain[Asset.TOOTH_CHECKPOINT], images_only=True)
    teeth = step.store.get_manifest(seen.digest)
    made = publish_tooth_findings(step.store, chain, teeth, resamples=step.config.resamples, seed=step.config.seed)
    return Made(made.digest, seen.record)


class ReviewConfig(RecipeConfig):
    """How many models are asked about labels, and what is changed about their recipe."""

    folds: int = 3
    """Models to train, each without the sources that it is then asked about."""


@product(
    cells,
    reads=[condition_subset],
    settings=ReviewConfig,
    version="3",
    gpu=True,
    group_name="evaluation",
    kinds={"pytorch", "json"},
)
def label_review(step: Step[ReviewConfig]) -> dg.MaterializeResult:
    """Labels that are likely wrong, best first: from themselves, and from models that never saw their sources."""
    from dentsight_pipeline.data import checks
    from dentsight_pipeline.training import recipe as recipes

    recipe, subset = recipes.named(step.recipe).override(step.config.overrides), step.read(condition_subset)
    checks.require(step.store, subset)
    config = {**recipe.identity, "folds": step.config.folds}
    return step.once(partial(_ask_folds, step, subset, recipe), metadata.of_label_review, config)


def _ask_folds(step: Step[ReviewConfig], subset: "Manifest", recipe: "Recipe") -> "Manifest":
    from dentsight_pipeline.evaluation.label_review import publish_review

    reason, of = step.config.allow_head_collapse, step.config.folds
    seen = [predictions_out_of_fold(step, subset, recipe, reason, number, of) for number in range(1, of + 1)]
    return publish_review(step.store, subset, seen)


class StudyConfig(EvaluationConfig):
    """Which readings are held against the model."""

    study: str
    """Folder of a reader study of this model: `dentsight read FOLDER --plan …`."""


@product(cells, reads=[class_metrics], settings=StudyConfig, group_name="evaluation", kinds={"python", "parquet"})
def reader_agreement(step: Step[StudyConfig]) -> dg.MaterializeResult:
    """Dentists' readings of test images: does the model agree with them as they agree with each other?"""
    from dentsight_pipeline.pages.readings import study_readings

    evaluation, given = step.read(class_metrics), study_readings(Path(step.config.study))
    config = {"study": given.study.digest, "readings": given.digest, **_bootstrap(step.config)}
    return step.once(partial(_held_against, step, evaluation, given), metadata.of_reader_agreement, config)


def _bootstrap(config: EvaluationConfig) -> dict[str, "JSON"]:
    return {"resamples": config.resamples, "seed": config.seed}


def _held_against(step: Step[StudyConfig], evaluation: "Manifest", given: "StudyReadings") -> "Manifest":
    from dentsight_pipeline.evaluation.readers import publish_reader_agreement

    config = step.config
    return publish_reader_agreement(step.store, evaluation, given, resamples=config.resamples, seed=config.seed)
