"""Jobs, schedules and sensors: when assets are made, never how. Conditions are in `assets/conditions.py`.

Two jobs, since one Dagster run cannot span both partition schemes: `data` (dataset) and `experiment`
(dataset × recipe); sensors chain them. `teeth_data` and `teeth` are their like for stage 1; nothing starts those but
`dentsight run --with-teeth` or a person. Everything that starts runs by itself is off until somebody turns it on in
the UI, and names its recipes: a backfill over all of them would train all of them.
"""

import json
import os
from collections.abc import Iterator

import dagster as dg

from dentsight_pipeline.assets import champion, data, evaluation, release, teeth, training
from dentsight_pipeline.assets.partitions import RECIPES, cell_key, checked_dataset_key
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.resources import Workspace
from dentsight_pipeline.runtime.notify import Notifier

RETRAIN_CRON_VARIABLE = "DENTSIGHT_RETRAIN_CRON"
CHAMPION_CRON_VARIABLE = "DENTSIGHT_CHAMPION_CRON"
RECIPES_VARIABLE = "DENTSIGHT_RECIPES"
PROJECT_VARIABLE = "DENTSIGHT_ROBOFLOW_PROJECT"

CHAIN_TAG = "dentsight/chain"
"""A data run with this tag is followed by one experiment run for each recipe that the tag's value lists."""

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

champion_job = dg.define_asset_job(
    "champion",
    selection=dg.AssetSelection.assets(champion.champion_metrics),
    description="Evaluate the model in use on one dataset.",
)

teeth_data_job = dg.define_asset_job(
    "teeth_data",
    selection=dg.AssetSelection.assets(teeth.tooth_subset),
    description="The tooth subset of one dataset; follows `data`.",
)

teeth_job = dg.define_asset_job(
    "teeth",
    selection=dg.AssetSelection.assets(teeth.tooth_checkpoint, teeth.tooth_findings),
    description="Train the tooth detector and join the conditions to its teeth, for one cell; follows `experiment`.",
)

jobs = [data_job, experiment_job, champion_job, teeth_data_job, teeth_job]


def configured_recipes() -> list[str]:
    """The recipes that automation trains: `DENTSIGHT_RECIPES`, a comma-separated list; `v3` when it is not set.

    Raises:
        ConfigurationError: It names a recipe that does not exist.
    """
    names = [name.strip() for name in os.environ.get(RECIPES_VARIABLE, "v3").split(",") if name.strip()]
    unknown = [name for name in names if name not in RECIPES]
    if unknown or not names:
        raise ConfigurationError(
            f"{RECIPES_VARIABLE} names {', '.join(unknown) or 'nothing'}; there are {', '.join(RECIPES)}."
        )
    return names


def newest_dataset(instance: dg.DagsterInstance) -> str | None:
    """The dataset key whose condition subset was materialised first most recently."""
    newest: tuple[float, str] | None = None
    for key in instance.get_dynamic_partitions("dataset"):
        events = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey("condition_subset"), asset_partitions=[key]),
            limit=1,
            ascending=True,
        ).records
        if events and (newest is None or events[0].timestamp > newest[0]):
            newest = (events[0].timestamp, key)
    return newest[1] if newest else None


@dg.schedule(
    job=experiment_job,
    cron_schedule=os.environ.get(RETRAIN_CRON_VARIABLE, "0 2 * * 0"),
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def weekly_retrain(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Trains the configured recipes on the newest dataset; unchanged cells are reused and say so."""
    dataset = newest_dataset(context.instance)
    if dataset is None:
        yield dg.SkipReason("No dataset has been materialised yet.")
        return
    for recipe in configured_recipes():
        yield dg.RunRequest(
            run_key=f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}:{dataset}:{recipe}",
            partition_key=cell_key(dataset, recipe),
        )


@dg.schedule(
    job=champion_job,
    cron_schedule=os.environ.get(CHAMPION_CRON_VARIABLE, "0 4 * * *"),
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def nightly_champion_evaluation(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Evaluates the champion on the newest dataset."""
    dataset = newest_dataset(context.instance)
    if dataset is None:
        yield dg.SkipReason("No dataset has been materialised yet.")
        return
    yield dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}", partition_key=dataset)


@dg.sensor(job=data_job, minimum_interval_seconds=3600, default_status=dg.DefaultSensorStatus.STOPPED)
def new_roboflow_version(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Turns every new version of the watched Roboflow project into a partition and one data run.

    The cursor moves together with the run requests, and each request carries the version as its run key: a restart
    between the two repeats the request, and Dagster drops the repetition.
    """
    from dentsight_pipeline.data.roboflow_api import RoboflowClient

    project = os.environ.get(PROJECT_VARIABLE, "")
    if not project:
        return dg.SkipReason(f"Set {PROJECT_VARIABLE}=workspace/project to watch a Roboflow project.")
    owner, _, name = project.partition("/")
    seen = int(context.cursor or 0)
    versions = [item for item in RoboflowClient.from_environment().list_versions(owner, name) if item.number > seen]
    if not versions:
        return dg.SkipReason(f"No version of {project} is newer than {seen}.")
    keys = {item.number: checked_dataset_key(f"{name.lower()}-v{item.number}") for item in versions}
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"data:{keys[item.number]}",
                partition_key=keys[item.number],
                run_config={"ops": {"raw_export": {"config": {"export": f"roboflow:{project}/{item.number}"}}}},
                tags={CHAIN_TAG: ".".join(configured_recipes())},
            )
            for item in versions
        ],
        dynamic_partitions_requests=[data.datasets.build_add_request(list(keys.values()))],
        cursor=str(max(keys)),
    )


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[data_job],
    request_job=experiment_job,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
)
def experiment_after_data(context: dg.RunStatusSensorContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Follows a tagged data run with one experiment run for each recipe that its tag lists."""
    recipes = [name for name in context.dagster_run.tags.get(CHAIN_TAG, "").split(".") if name in RECIPES]
    dataset = context.partition_key
    if not recipes or dataset is None:
        yield dg.SkipReason("This data run asks for no experiment.")
        return
    for recipe in recipes:
        yield dg.RunRequest(
            run_key=f"experiment:{dataset}:{recipe}:{context.dagster_run.run_id}",
            partition_key=cell_key(dataset, recipe),
        )


@dg.run_failure_sensor(default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=15)
def failed_run(context: dg.RunFailureSensorContext, notifier: Notifier) -> None:
    """Tells of every failed run; a collapsed head is told as such."""
    from dentsight_pipeline.data.privacy import redact

    run = context.dagster_run
    messages = []
    for event in context.get_step_failure_events():
        info = event.step_failure_data.error
        while info is not None and info.cause is not None:
            info = info.cause
        messages.append(f"{event.step_key}: {info.message.strip() if info else 'no message'}")
    text = redact("; ".join(messages) or context.failure_event.message or "no message")
    collapsed = "HeadCollapseError" in text
    notifier.send(
        "head_collapse" if collapsed else "run_failed",
        f"{run.job_name} for {run.tags.get('dagster/partition', 'no partition')}: {text}",
        {"dagster_run": run.run_id, "job": run.job_name, "partition": run.tags.get("dagster/partition")},
    )


@dg.asset_sensor(
    asset_key=dg.AssetKey("release_report"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
)
def gate_verdict(
    context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry, notifier: Notifier
) -> dg.SkipReason:
    """Tells the verdict of every new report; a reused one is no news."""
    materialization = asset_event.asset_materialization
    if materialization is None:
        return dg.SkipReason("No materialisation.")
    values = {name: value.value for name, value in materialization.metadata.items()}
    if not values.get("reused"):
        notifier.send(
            "gate_verdict",
            f"{values['verdict']} for {materialization.partition}; report: {values['path']}",
            {"partition": materialization.partition, "verdict": values["verdict"], "digest": values["digest"]},
        )
    return dg.SkipReason("Told.")


@dg.sensor(minimum_interval_seconds=900, default_status=dg.DefaultSensorStatus.RUNNING)
def stale_champion(context: dg.SensorEvaluationContext, workspace: Workspace, notifier: Notifier) -> dg.SkipReason:
    """Tells, once a day, when the champion has not been evaluated for longer than its freshness policy allows."""
    import time

    from dentsight_pipeline.release.champion import current

    release_manifest = current(workspace.store)
    if release_manifest is None:
        return dg.SkipReason("There is no champion.")
    event = context.instance.get_latest_materialization_event(dg.AssetKey("champion_metrics"))
    told = json.loads(context.cursor or "{}")
    since = event.timestamp if event else told.get("champion_since", {}).get(release_manifest.digest)
    now = time.time()
    if since is None:
        since = now
        told["champion_since"] = {release_manifest.digest: now}
    age = now - since
    if age > champion.STALE_AFTER.total_seconds() and now - told.get("told", 0) > 86400:
        notifier.send(
            "champion_stale",
            f"The champion {release_manifest.digest[:12]} was last evaluated {age / 3600:.0f} hours ago.",
            {"release": release_manifest.digest, "hours": round(age / 3600, 1)},
        )
        told["told"] = now
    context.update_cursor(json.dumps(told))
    return dg.SkipReason(f"The champion was evaluated {age / 3600:.1f} hours ago.")


schedules = [weekly_retrain, nightly_champion_evaluation]
sensors: list[dg.SensorDefinition] = [
    new_roboflow_version,
    experiment_after_data,
    failed_run,
    gate_verdict,
    stale_champion,
]
