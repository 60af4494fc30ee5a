"""The model in use, measured again on newer data: what the nightly schedule keeps fresh."""

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from dentsight_pipeline.documents.facts import ReleaseFacts
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.orchestration import metadata, tracked
from dentsight_pipeline.orchestration.assets.data import condition_subset
from dentsight_pipeline.orchestration.partitions import datasets
from dentsight_pipeline.orchestration.product import Made, Step, product

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest

STALE_AFTER = timedelta(hours=48)
"""A nightly evaluation that failed once is not yet stale; twice is."""


@product(
    datasets,
    reads=[condition_subset],
    gpu=True,
    group_name="champion",
    kinds={"python", "parquet"},
    output_required=False,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=STALE_AFTER),
)
def champion_metrics(step: Step[None]) -> dg.MaterializeResult | None:
    """The champion's metrics on this dataset's test images, so that a challenger can be compared on the same ones."""
    from dentsight_pipeline.release import champion

    release = champion.current(step.store)
    if release is None:
        step.context.log.info("There is no champion yet: nothing to evaluate. Promote one with `dentsight promote`.")
        return None
    subset, _ = step.read(condition_subset), step.reads({"release": release})
    return step.once(partial(_predict_and_evaluate, step, release, subset), metadata.of_evaluation)


def _predict_and_evaluate(step: Step[None], release: "Manifest", subset: "Manifest") -> Made:
    from dentsight_pipeline.evaluation.product import evaluate_predictions

    predictions = _predictions(step, release, subset)
    test = step.store.get_manifest(predictions.digest)
    return Made(evaluate_predictions(step.store, subset, test, progress=step.progress).digest, predictions.record)


def _predictions(step: Step[None], release: "Manifest", subset: "Manifest") -> Made:
    """The champion's predictions on the subset: those that are there already, else new ones."""
    from dentsight_pipeline.release import champion

    known = champion.champion_predictions(step.store, release, subset)
    if known is not None:
        return Made(known.digest)
    checkpoint = step.store.get_manifest(release.facts_as(ReleaseFacts).chain[Asset.TRAINED_CHECKPOINT])
    made = tracked.predict(step, subset, checkpoint)
    champion.remember_predictions(step.store, release, subset, step.store.get_manifest(made.digest))
    return made
