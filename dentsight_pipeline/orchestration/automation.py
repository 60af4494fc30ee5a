"""Jobs, schedules and sensors: when assets are made, never how. Conditions are in `orchestration/conditions.py`.

Two jobs, since one Dagster run cannot span both partition schemes: `data` (dataset) and `experiment`
(dataset × recipe); sensors chain them. `teeth_data` and `teeth` are their like for stage 1; nothing starts those but
`dentsight run --with-teeth` or a person. Everything that starts runs by itself is off until somebody turns it on in
the UI, and names its recipes: a backfill over all of them would train all of them.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator

import dagster as dg
from dagster._utils.schedules import is_valid_cron_schedule

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration import recovery
from dentsight_pipeline.orchestration.assets import champion, data, evaluation, release, teeth, training
from dentsight_pipeline.orchestration.failure import cause_of
from dentsight_pipeline.orchestration.notify import Notifier
from dentsight_pipeline.orchestration.partitions import RECIPES, cell_key, checked_dataset_key
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking import registry
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

RETRAIN_CRON_VARIABLE = "DENTSIGHT_RETRAIN_CRON"
CHAMPION_CRON_VARIABLE = "DENTSIGHT_CHAMPION_CRON"
RECIPES_VARIABLE = "DENTSIGHT_RECIPES"
PROJECT_VARIABLE = "DENTSIGHT_ROBOFLOW_PROJECT"
AFTER_VARIABLE = "DENTSIGHT_ROBOFLOW_AFTER"
INTERVAL_VARIABLE = "DENTSIGHT_ROBOFLOW_SECONDS"

CHAIN_TAG = "dentsight/chain"
"""A data run with this tag is followed by one experiment run for each recipe that the tag's value lists."""

TRIED_AGAIN = {"dagster/max_retries": "3", "dagster/retry_on_asset_or_op_failure": "true"}
"""Run tags of what the sensor starts: nobody watches it, and a download that failed deserves another try."""

data_job = dg.define_asset_job(
    "data",
    selection=dg.AssetSelection.assets(data.raw_export, data.normalized_splits, data.condition_subset),
    description="From an export to the condition subset, for one dataset.",
)

_measured = dg.AssetSelection.assets(training.trained_checkpoint, training.test_predictions, evaluation.class_metrics)
_judged = dg.AssetSelection.assets(release.release_report, release.released_model)

experiment_job = dg.define_asset_job(
    "experiment",
    selection=_measured | _judged,
    description="Train, predict, evaluate, judge and release, for one cell of dataset × recipe.",
)

champion_job = dg.define_asset_job(
    "champion",
    selection=dg.AssetSelection.assets(champion.champion_metrics),
    description="Evaluate the model in use on one dataset.",
)

review_job = dg.define_asset_job(
    "review",
    selection=dg.AssetSelection.assets(evaluation.label_review),
    description="Rank the labels that are likely wrong by models of folds, for one cell; follows `data`.",
)

readers_job = dg.define_asset_job(
    "readers",
    selection=dg.AssetSelection.assets(evaluation.reader_agreement, release.release_report),
    description="Hold dentists' readings against the model of one cell, and judge it again; follows `experiment`.",
)

measure_job = dg.define_asset_job(
    "measure", selection=_measured, description="The first half of `experiment`: train, predict and evaluate."
)

judge_job = dg.define_asset_job(
    "judge",
    selection=_judged,
    description="The second half of `experiment`: judge and release; after `teeth` the report shows findings by tooth.",
)

teeth_data_job = dg.define_asset_job(
    "teeth_data",
    selection=dg.AssetSelection.assets(data.tooth_subset),
    description="The tooth subset of one dataset; follows `data`.",
)

teeth_job = dg.define_asset_job(
    "teeth",
    selection=dg.AssetSelection.assets(training.tooth_checkpoint, evaluation.tooth_findings),
    description="Train the tooth detector and join the conditions to its teeth, for one cell; follows `measure`.",
)

teeth_alone_data_job = dg.define_asset_job(
    "teeth_alone_data",
    selection=dg.AssetSelection.assets(data.raw_export, data.normalized_splits, data.tooth_subset),
    description="From an export to the tooth subset, for one dataset; no conditions are needed.",
)

teeth_alone_job = dg.define_asset_job(
    "teeth_alone",
    selection=dg.AssetSelection.assets(training.tooth_checkpoint, teeth.tooth_report),
    description="Train the tooth detector and report on it alone, for one cell; follows `teeth_alone_data`.",
)

jobs = [
    data_job,
    experiment_job,
    measure_job,
    judge_job,
    champion_job,
    teeth_data_job,
    teeth_job,
    teeth_alone_data_job,
    teeth_alone_job,
    readers_job,
    review_job,
]


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
    subset, first = dg.AssetKey("condition_subset"), {}
    for key in instance.get_dynamic_partitions("dataset"):
        wanted = dg.AssetRecordsFilter(asset_key=subset, asset_partitions=[key])
        for event in instance.fetch_materializations(wanted, limit=1, ascending=True).records:
            first[key] = event.timestamp
    return max(first, key=first.__getitem__, default=None)


Requests = Iterator[dg.RunRequest | dg.SkipReason]


def _on_the_newest_dataset(
    context: dg.ScheduleEvaluationContext, partitions: Callable[[str], Iterable[str]]
) -> Requests:
    """A run for each of its partitions, once for each time of the schedule."""
    dataset = newest_dataset(context.instance)
    if dataset is None:
        yield dg.SkipReason("No dataset has been materialised yet.")
        return
    for partition in partitions(dataset):
        run_key = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}:{partition}"
        yield dg.RunRequest(run_key=run_key, partition_key=partition)


def retrain_times() -> str:
    """When the configured recipes are trained again: `DENTSIGHT_RETRAIN_CRON`, else weekly.

    Raises:
        ConfigurationError: It is no line of five fields as cron takes it.
    """
    return _cron(RETRAIN_CRON_VARIABLE, "0 2 * * 0")


def champion_times() -> str:
    """When the champion is evaluated: `DENTSIGHT_CHAMPION_CRON`, else nightly.

    Raises:
        ConfigurationError: It is no line of five fields as cron takes it.
    """
    return _cron(CHAMPION_CRON_VARIABLE, "0 4 * * *")


def _cron(variable: str, usual: str) -> str:
    given = os.environ.get(variable, usual)
    if not is_valid_cron_schedule(given):
        raise ConfigurationError(f"{variable} is {given!r}; it takes five fields as cron does, e.g. {usual!r}.")
    return given


@dg.schedule(
    job=experiment_job,
    cron_schedule=retrain_times(),
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def weekly_retrain(context: dg.ScheduleEvaluationContext) -> Requests:
    """Trains the configured recipes on the newest dataset; unchanged cells are reused and say so."""
    yield from _on_the_newest_dataset(
        context, lambda dataset: [cell_key(dataset, recipe) for recipe in configured_recipes()]
    )


@dg.schedule(
    job=champion_job,
    cron_schedule=champion_times(),
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def nightly_champion_evaluation(context: dg.ScheduleEvaluationContext) -> Requests:
    """Evaluates the champion on the newest dataset."""
    yield from _on_the_newest_dataset(context, lambda dataset: [dataset])


def roboflow_interval() -> int:
    """Seconds between two looks at Roboflow: `DENTSIGHT_ROBOFLOW_SECONDS`; an hour when it is not set.

    Raises:
        ConfigurationError: It is no whole number of seconds from 1 on.
    """
    given = os.environ.get(INTERVAL_VARIABLE, "3600")
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise ConfigurationError(f"{INTERVAL_VARIABLE} is {given!r}; it takes seconds from 1 on, e.g. 3600.")
    return int(given)


@dg.sensor(job=data_job, minimum_interval_seconds=roboflow_interval(), default_status=dg.DefaultSensorStatus.STOPPED)
def new_roboflow_version(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Turns every new version of the watched Roboflow project into a partition and one data run.

    The cursor moves together with the run requests, and each request carries the version as its run key: a restart
    between the two repeats the request, and Dagster drops the repetition.
    """
    from dentsight_pipeline.intake.roboflow import RoboflowClient

    project = os.environ.get(PROJECT_VARIABLE, "")
    owner, _, name = project.partition("/")
    if not owner or not name:
        return dg.SkipReason(f"Set {PROJECT_VARIABLE}=workspace/project to watch a Roboflow project.")
    seen = _seen_versions(context.cursor, project)
    client = RoboflowClient.from_environment(attempts=2, timeout_s=(5.0, 15.0))  # a tick has a minute; the next comes
    versions = [item for item in client.list_versions(owner, name) if item.number > seen]
    if not versions:
        return dg.SkipReason(f"No version of {project} is newer than {seen}.")
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    keys = {item.number: checked_dataset_key(f"{prefix}-v{item.number}") for item in versions}
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"data:{project}:{keys[item.number]}",
                partition_key=keys[item.number],
                run_config={"ops": {"raw_export": {"config": {"export": [f"roboflow:{project}/{item.number}"]}}}},
                tags={CHAIN_TAG: ".".join(configured_recipes()), **TRIED_AGAIN},
            )
            for item in versions
        ],
        dynamic_partitions_requests=[data.datasets.build_add_request(list(keys.values()))],
        cursor=json.dumps({"project": project, "version": max(keys)}),
    )


def _seen_versions(cursor: str | None, project: str) -> int:
    """The newest version that is no news: from the cursor, where a person may also write a plain number in the UI."""
    try:
        known = json.loads(cursor or "{}")
        first = int(os.environ.get(AFTER_VARIABLE, "0"))
    except ValueError as error:
        raise ConfigurationError(
            f"{AFTER_VARIABLE} and the cursor of new_roboflow_version hold a version's number: {error}. Correct the "
            "variable, or set the cursor in the Dagster UI."
        ) from error
    if isinstance(known, dict):
        known = known.get("version", 0) if known.get("project") == project else 0
    return max(first, known)


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[data_job],
    request_job=experiment_job,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
)
def experiment_after_data(context: dg.RunStatusSensorContext) -> Requests:
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
def failed_run(context: dg.RunFailureSensorContext, notifier: Notifier, tracking: Tracking) -> None:
    """Tells of every run that failed for good; a collapsed head is told as such, one that is tried again is not."""
    from dentsight_pipeline.data.privacy import redact

    run = context.instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run
    if run.tags.get("dagster/will_retry") == "true":
        return
    messages = []
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        messages.append(f"{event.step_key}: {cause_of(error).message.strip() if error else 'no message'}")
    text = redact("; ".join(messages) or context.failure_event.message or "no message")
    collapsed = "HeadCollapseError" in text
    notifier.send(
        "head_collapse" if collapsed else "run_failed",
        f"{run.job_name} for {run.tags.get('dagster/partition', 'no partition')}: {text}",
        {"dagster_run": run.run_id, "job": run.job_name, "partition": run.tags.get("dagster/partition")},
    )
    if not messages:  # its worker was killed, so nobody ended the MLflow run
        with contextlib.suppress(Exception):  # MLflow is away: its run stays as it is, the failure has been told
            tracking.fail_runs_of(run.run_id)


@dg.sensor(minimum_interval_seconds=15, default_status=dg.DefaultSensorStatus.RUNNING)
def gate_verdict(context: dg.SensorEvaluationContext, notifier: Notifier) -> dg.SkipReason:
    """Tells the verdict of every new report; a reused one is no news.

    Not an asset sensor: that one sees only the newest report of all that came since its last tick.
    """
    events = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=dg.AssetKey("release_report"), after_storage_id=int(context.cursor) if context.cursor else None
        ),
        limit=100 if context.cursor else 1,  # at the very first tick: the newest one, not the whole history
        ascending=bool(context.cursor),
    ).records
    told = 0
    for event in events:
        materialization = event.asset_materialization
        values = {name: value.value for name, value in materialization.metadata.items()} if materialization else {}
        if materialization is not None and "verdict" in values and not values.get("reused"):
            notifier.send(
                "gate_verdict",
                f"{values['verdict']} for {materialization.partition}; report: {values['path']}",
                {"partition": materialization.partition, "verdict": values["verdict"], "digest": values["digest"]},
            )
            told += 1
        context.update_cursor(str(event.storage_id))
    return dg.SkipReason(f"{told} verdicts told.")


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def late_tracking(tracking: Tracking) -> dg.SkipReason:
    """Sends MLflow what it could not be told while it was away: runs, and who is champion."""
    told = []
    if tracking.waiting():
        delivered, left = tracking.deliver()
        told.append(f"{delivered} runs delivered to MLflow, {'more wait' if left else 'none waits'}.")
    if registry.is_behind(tracking):
        problem = registry.show(tracking).problem
        told.append(f"MLflow's registry {f'cannot be told yet: {problem}' if problem else 'was brought up to date'}.")
    return dg.SkipReason(" ".join(told) or "MLflow knows everything.")


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def lost_retry(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Gives runs whose promised retry never came to Dagster's daemon again; nobody would be told of them."""
    lost = recovery.give_back_retries(context.instance)
    return dg.SkipReason(f"Given to the daemon again: {', '.join(lost)}." if lost else "No retry is missing.")


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
    late_tracking,
    lost_retry,
    stale_champion,
]
