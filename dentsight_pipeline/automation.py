"""Jobs, schedules, sensors and automation conditions: when assets are made, never how.

Two jobs, since one Dagster run cannot span both partition schemes: `data` (dataset) and `experiment`
(dataset × recipe).
"""

import dagster as dg

from dentsight_pipeline.assets import data, evaluation, release, training

data_job = dg.define_asset_job(
    "data",
    selection=dg.AssetSelection.assets(data.raw_export, data.normalized_splits, data.condition_subset),
    description="From an export to the condition subset, for one dataset.",
)

experiment_job = dg.define_asset_job(
    "experiment",
    selection=dg.AssetSelection.assets(
        training.trained_checkpoint,
        training.test_predictions,
        evaluation.class_metrics,
        release.release_report,
        release.released_model,
    ),
    description="Train, predict, evaluate, judge and release, for one cell of dataset × recipe.",
)

jobs = [data_job, experiment_job]
