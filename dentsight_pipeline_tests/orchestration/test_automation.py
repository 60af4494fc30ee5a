"""Schedules, sensors, conditions and notifications: what happens by itself, with a real instance and real servers."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import pytest

from dentsight_pipeline import errors
from dentsight_pipeline.definitions import defs
from dentsight_pipeline.orchestration import automation
from dentsight_pipeline.orchestration.assets import champion as champion_assets
from dentsight_pipeline.orchestration.conditions import on_new_content
from dentsight_pipeline.orchestration.notify import Notifier
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking
from dentsight_pipeline.release import champion
from dentsight_pipeline.store import content
from dentsight_pipeline_tests.local_server import QuietHandler, serving

KEY = "rf-key-that-nobody-may-read"
TOKEN = "webhook-token-that-nobody-may-read"
STEM = "1-2-826-0-1-3680043-8-498-1_png"


@dataclass
class Web:
    """A local server: Roboflow's list of versions for GET, a webhook for POST."""

    url: str = ""
    versions: list[int] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    webhook_status: int = 200


@pytest.fixture
def web() -> Iterator[Web]:
    """A running server."""
    state = Web()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            known = parse_qs(parts.query).get("api_key") == [KEY]
            listed = {"versions": [{"id": f"team/opg/{number}"} for number in state.versions]}
            self.answer(200 if known else 401, listed if known else {"error": {"message": f"bad key {self.path}"}})

        def do_POST(self) -> None:
            state.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(state.webhook_status, {})

    with serving(Handler) as address:
        state.url = address
        yield state


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An empty Dagster instance."""
    with dg.instance_for_test() as opened:
        yield opened


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(root=str(tmp_path / "workspace"))


@pytest.fixture
def notifier(workspace: Workspace, web: Web) -> Notifier:
    """A notifier that posts to the server."""
    return Notifier(workspace=workspace, webhook=f"{web.url}/hook?token={TOKEN}")


@pytest.fixture
def roboflow(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The server as Roboflow, watched by the sensor."""
    monkeypatch.setenv("ROBOFLOW_API_KEY", KEY)
    monkeypatch.setenv("ROBOFLOW_API_URL", web.url)
    monkeypatch.setenv(automation.PROJECT_VARIABLE, "team/opg")
    monkeypatch.setenv(automation.RECIPES_VARIABLE, "smoke, v3")
    return web


def told(workspace: Workspace) -> list[dict[str, Any]]:
    """Everything in the notification file."""
    path = workspace.folder / "notifications.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def look_for_versions(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    """One tick of the sensor."""
    result = automation.new_roboflow_version(dg.build_sensor_context(instance=instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    return result


def finished_run(instance: dg.DagsterInstance, job: dg.JobDefinition, **tags: str) -> dg.DagsterRun:
    """Run a job in this process, whatever comes of it."""
    result = job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


def after(
    run: dg.DagsterRun, instance: dg.DagsterInstance, resources: dict[str, Any] | None = None
) -> dg.RunStatusSensorContext:
    """The context in which a run status sensor sees the end of a run."""
    kind = dg.DagsterEventType.RUN_FAILURE if run.status == dg.DagsterRunStatus.FAILURE else None
    kind = kind or dg.DagsterEventType.RUN_SUCCESS
    entry = next(iter(instance.all_logs(run.run_id, of_type=kind)))
    assert entry.dagster_event is not None
    return dg.build_run_status_sensor_context(
        "sensor",
        entry.dagster_event,
        instance,
        run,
        resources=resources,
        partition_key=run.tags.get("dagster/partition"),
    )


def failing_job(error: Exception) -> dg.JobDefinition:
    """A job whose only step raises the error."""

    @dg.op
    def breaks() -> None:
        raise error

    @dg.job(name="experiment")
    def experiment() -> None:
        breaks()

    return experiment


# A new Roboflow version ----------------------------------------------------------------------------------------------


def test_a_new_roboflow_version_becomes_a_partition_and_one_data_run(
    roboflow: Web, instance: dg.DagsterInstance
) -> None:
    """Nobody has to watch Roboflow: the version arrives in the grid by itself."""
    roboflow.versions = [8]
    result = look_for_versions(instance, None)
    (request,) = result.run_requests or [dg.RunRequest()]

    assert [list(item.partition_keys) for item in result.dynamic_partitions_requests or ()] == [["opg-v8"]]
    assert request.partition_key == "opg-v8"
    assert request.run_config["ops"]["raw_export"]["config"]["export"] == ["roboflow:team/opg/8"]
    assert request.tags[automation.CHAIN_TAG] == "smoke.v3"


def test_every_version_since_the_last_tick_is_requested_once(roboflow: Web, instance: dg.DagsterInstance) -> None:
    """Two versions between two ticks must not lose the first, and a third tick must not repeat them."""
    roboflow.versions = [7]
    first = look_for_versions(instance, None)
    roboflow.versions = [9, 7, 8]
    second = look_for_versions(instance, first.cursor)
    third = automation.new_roboflow_version(dg.build_sensor_context(instance=instance, cursor=second.cursor))

    assert [request.partition_key for request in second.run_requests or ()] == ["opg-v8", "opg-v9"]
    assert isinstance(third, dg.SkipReason)


def test_a_tick_that_was_killed_before_its_cursor_was_kept_asks_for_the_same_run_keys(
    roboflow: Web, instance: dg.DagsterInstance
) -> None:
    """Dagster drops a run key that it has seen: repeating the same key is what makes a crash harmless."""
    roboflow.versions = [8]
    first, again = look_for_versions(instance, None), look_for_versions(instance, None)

    assert [r.run_key for r in first.run_requests or ()] == [r.run_key for r in again.run_requests or ()]


def test_watching_another_project_starts_from_its_own_versions(
    roboflow: Web, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cursor that is a bare number would swallow the first versions of the second project."""
    roboflow.versions = [8]
    first = look_for_versions(instance, None)
    monkeypatch.setenv(automation.PROJECT_VARIABLE, "team/other_project")
    roboflow.versions = [1]
    second = look_for_versions(instance, first.cursor)

    assert [request.partition_key for request in second.run_requests or ()] == ["other-project-v1"]


@pytest.mark.parametrize("way", ["variable", "cursor"])
def test_versions_that_are_old_already_can_be_left_out(
    roboflow: Web, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Switching the sensor on in a project with eight versions would otherwise train eight models."""
    roboflow.versions = [6, 7, 8]
    if way == "variable":
        monkeypatch.setenv(automation.AFTER_VARIABLE, "7")
    result = look_for_versions(instance, "7" if way == "cursor" else None)

    assert [request.partition_key for request in result.run_requests or ()] == ["opg-v8"]


def test_a_refused_key_is_told_without_the_key(roboflow: Web, instance: dg.DagsterInstance) -> None:
    """The tick's error is kept in Dagster's storage and shown in its UI."""
    roboflow.versions = [8]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(errors.ConfigurationError, match="refuses") as failure:
        patch.setenv("ROBOFLOW_API_KEY", "wrong-" + KEY)
        look_for_versions(instance, None)

    assert KEY not in str(failure.value)


def test_without_a_project_the_sensor_says_what_to_set(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched on by a curious click, it must not fail every hour."""
    monkeypatch.delenv(automation.PROJECT_VARIABLE, raising=False)
    result = automation.new_roboflow_version(dg.build_sensor_context(instance=instance))

    assert isinstance(result, dg.SkipReason)
    assert automation.PROJECT_VARIABLE in (result.skip_message or "")


# Chaining ------------------------------------------------------------------------------------------------------------


@dg.op
def works() -> None:
    """Nothing."""


@dg.job(name="data")
def data_stand_in() -> None:
    """A job that succeeds under the data job's name."""
    works()


def requests_after(run: dg.DagsterRun, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """What the chaining sensor asks for after a run."""
    context = after(run, instance)
    answers: Any = automation.experiment_after_data(context)
    return [item for item in answers if isinstance(item, dg.RunRequest)]


def test_a_data_run_of_the_sensor_is_followed_by_each_configured_recipe_once(instance: dg.DagsterInstance) -> None:
    """One Dagster run cannot span both partition schemes: this link is what carries a version into training."""
    run = finished_run(
        instance, data_stand_in, **{"dagster/partition": "opg-v8", automation.CHAIN_TAG: "smoke.v3", "x": "y"}
    )
    requests, again = requests_after(run, instance), requests_after(run, instance)

    assert [str(request.partition_key) for request in requests] == ["opg-v8|smoke", "opg-v8|v3"]
    assert len({request.run_key for request in requests}) == 2
    assert [request.run_key for request in requests] == [request.run_key for request in again]


def test_a_data_run_that_a_person_launched_trains_nothing(instance: dg.DagsterInstance) -> None:
    """Looking at new data must not start hours of training."""
    run = finished_run(instance, data_stand_in, **{"dagster/partition": "opg-v8"})

    assert requests_after(run, instance) == []


def test_the_chaining_sensor_watches_the_data_job_and_starts_experiments() -> None:
    """It reacts by names that only the definitions hold together."""
    sensor = defs.resolve_sensor_def("experiment_after_data")

    assert sensor.job.name == "experiment"
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


# Schedules -----------------------------------------------------------------------------------------------------------


def materialise_dataset(instance: dg.DagsterInstance, key: str) -> None:
    """Let a dataset appear in the grid."""
    instance.add_dynamic_partitions("dataset", [key])
    instance.report_runless_asset_event(dg.AssetMaterialization("condition_subset", partition=key))


def tick(schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance) -> list[Any]:
    """What a schedule yields at a Sunday night."""
    moment = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=moment)
    result: Any = schedule(context)
    return list(result)


def test_the_weekly_retrain_asks_for_each_configured_recipe_on_the_newest_dataset(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest is the one that appeared last, not the one that was looked at last or sorts last."""
    monkeypatch.setenv(automation.RECIPES_VARIABLE, "v2,v3")
    for key in ("opg-v9", "opg-v10"):
        materialise_dataset(instance, key)
        time.sleep(0.01)
    instance.report_runless_asset_event(dg.AssetMaterialization("condition_subset", partition="opg-v9"))
    requests = tick(automation.weekly_retrain, instance)

    assert [str(request.partition_key) for request in requests] == ["opg-v10|v2", "opg-v10|v3"]
    assert len({request.run_key for request in requests}) == 2


def test_the_nightly_evaluation_asks_for_the_champion_on_the_newest_dataset(instance: dg.DagsterInstance) -> None:
    """A model in use ages with the data, not with the calendar."""
    materialise_dataset(instance, "opg-v9")
    (request,) = tick(automation.nightly_champion_evaluation, instance)

    assert request.partition_key == "opg-v9"


@pytest.mark.parametrize("schedule", automation.schedules, ids=lambda schedule: schedule.name)
def test_schedules_are_off_and_skip_without_data(schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance) -> None:
    """A fresh clone must never start training by itself."""
    (answer,) = tick(schedule, instance)

    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert isinstance(answer, dg.SkipReason)


def test_a_recipe_that_does_not_exist_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt setting must not silently train nothing every Sunday."""
    monkeypatch.setenv(automation.RECIPES_VARIABLE, "v3,v33")

    with pytest.raises(errors.ConfigurationError, match="v33; there are smoke, v1, v2, v3, v4"):
        automation.configured_recipes()


@pytest.mark.parametrize("given", ["0", "-5", "an hour", "", "1.5"])
def test_an_interval_that_is_no_number_of_seconds_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero would ask Roboflow without a pause."""
    assert automation.new_roboflow_version.minimum_interval_seconds == automation.roboflow_interval() == 3600
    monkeypatch.setenv(automation.INTERVAL_VARIABLE, given)

    with pytest.raises(errors.ConfigurationError, match=r"DENTSIGHT_ROBOFLOW_SECONDS is .*seconds from 1 on"):
        automation.roboflow_interval()


@pytest.mark.parametrize("given", ["x", "", "0 2 * *", "61 2 * * 0"])
def test_times_that_are_none_are_refused_by_the_variables_name(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster's own refusal names a schedule, in a traceback, as every command that loads the graph starts."""
    assert automation.weekly_retrain.cron_schedule == automation.retrain_times()
    assert automation.nightly_champion_evaluation.cron_schedule == automation.champion_times()
    monkeypatch.setenv(automation.RETRAIN_CRON_VARIABLE, given)

    with pytest.raises(errors.ConfigurationError, match=r"DENTSIGHT_RETRAIN_CRON is .*five fields"):
        automation.retrain_times()


# Automation on content -----------------------------------------------------------------------------------------------


class Content(dg.Config):
    """What the stand-in for an upstream asset holds, and whether its blocking check passes."""

    digest: str
    passes: bool = True


@dg.asset(check_specs=[dg.AssetCheckSpec("fit_for_use", asset="upstream", blocking=True)])
def upstream(config: Content) -> dg.MaterializeResult:
    """Bytes with a digest."""
    check = dg.AssetCheckResult(passed=config.passes, check_name="fit_for_use")
    return dg.MaterializeResult(data_version=dg.DataVersion(config.digest), check_results=[check])


@dg.asset(deps=[upstream], automation_condition=on_new_content())
def downstream() -> dg.MaterializeResult:
    """Made from them."""
    return dg.MaterializeResult(data_version=dg.DataVersion("made"))


def test_automation_fires_on_new_bytes_with_passed_checks_and_never_on_the_same_bytes(
    instance: dg.DagsterInstance,
) -> None:
    """`eager()` alone retrains whenever somebody presses Materialize: hours of GPU for nothing."""
    location = dg.Definitions([upstream, downstream])
    cursor = None

    def requested() -> int:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(defs=location, instance=instance, cursor=cursor)
        cursor = result.cursor
        return result.total_requested

    def arrives(digest: str, *, passes: bool = True) -> int:
        config = {"ops": {"upstream": {"config": {"digest": digest, "passes": passes}}}}
        dg.materialize([upstream], instance=instance, run_config=config, raise_on_error=False)
        return requested()

    dg.materialize(
        [upstream, downstream], instance=instance, run_config={"ops": {"upstream": {"config": {"digest": "a"}}}}
    )
    requested()  # the first evaluation has nothing to compare with

    assert arrives("a") == 0
    assert arrives("b") == 1
    dg.materialize([downstream], instance=instance, selection=[downstream])
    assert arrives("b") == 0
    assert arrives("c", passes=False) == 0


@pytest.mark.parametrize("asset", ["normalized_splits", "condition_subset", "test_predictions", "class_metrics"])
def test_assets_that_make_themselves_do_so_on_new_content(asset: str) -> None:
    """The condition protects nothing on an asset that carries another one."""
    spec = defs.resolve_asset_graph().get(dg.AssetKey(asset))

    assert spec.automation_condition == on_new_content()


def test_no_training_starts_by_itself() -> None:
    """Automation in the UI switches whole groups on; hours of GPU want a schedule or a sensor that names its recipe."""
    assert defs.resolve_asset_graph().get(dg.AssetKey("trained_checkpoint")).automation_condition is None


def test_the_champions_metrics_have_a_freshness_policy(instance: dg.DagsterInstance) -> None:
    """Two missed nights turn the asset red in the UI, also when nobody reads notifications."""
    spec = next(iter(champion_assets.champion_metrics.specs))

    assert spec.freshness_policy == dg.FreshnessPolicy.time_window(fail_window=champion_assets.STALE_AFTER)


# Notifications -------------------------------------------------------------------------------------------------------


def tell_failure(
    error: Exception, instance: dg.DagsterInstance, notifier: Notifier, workspace: Workspace, **tags: str
) -> None:
    """A run fails, and the sensor sees it."""
    run = finished_run(instance, failing_job(error), **{"dagster/partition": "opg-v8|v3", **tags})
    if "dagster/will_retry" in tags:
        instance.add_run_tags(run.run_id, {"dagster/will_retry": tags["dagster/will_retry"]})
    kept = {"notifier": notifier, "tracking": Tracking(workspace=workspace)}
    with after(run, instance, kept).for_run_failure() as context:
        automation.failed_run(context)


def test_a_failed_run_is_told_to_the_webhook_and_to_the_file(
    instance: dg.DagsterInstance, notifier: Notifier, workspace: Workspace, web: Web
) -> None:
    """A pipeline left alone for a month has nobody who looks at its UI."""
    tell_failure(errors.TrainingError("The loss is nan at step 7."), instance, notifier, workspace)
    (posted,) = web.received

    assert posted["event"] == "run_failed"
    assert "The loss is nan at step 7." in posted["text"]
    assert posted["partition"] == "opg-v8|v3"
    assert told(workspace) == [posted]


def test_a_collapsed_head_is_told_as_such(
    instance: dg.DagsterInstance, notifier: Notifier, workspace: Workspace, web: Web
) -> None:
    """It is the one failure that a look at the loss curve does not show; whatever lies behind it."""
    error = errors.HeadCollapseError.__new__(errors.HeadCollapseError)
    Exception.__init__(error, "The head collapsed at step 125.")
    error.__cause__ = RuntimeError("a library's own words")
    tell_failure(error, instance, notifier, workspace)

    assert web.received[0]["event"] == "head_collapse"


def test_a_run_that_is_taken_up_again_is_no_news(
    instance: dg.DagsterInstance, notifier: Notifier, workspace: Workspace, web: Web
) -> None:
    """Whoever is woken at night for what mends itself switches the webhook off."""
    tell_failure(RuntimeError("gone"), instance, notifier, workspace, **{"dagster/will_retry": "true"})

    assert web.received == []


def test_original_stems_leave_no_trace_in_a_notification(
    instance: dg.DagsterInstance, notifier: Notifier, workspace: Workspace, web: Web
) -> None:
    """A webhook is somebody else's computer; a stem can be a patient's DICOM UID."""
    error = errors.DataError(f"train/{STEM}.rf.0123456789abcdef0123456789abcdef.jpg: cut off. Export it again.")
    tell_failure(error, instance, notifier, workspace)

    assert "cut off" in web.received[0]["text"]
    assert STEM not in json.dumps(web.received)
    assert STEM not in (workspace.folder / "notifications.jsonl").read_text()


@pytest.mark.parametrize("fault", ["500", "gone", "nonsense"])
def test_a_webhook_that_fails_is_noted_without_its_address(
    instance: dg.DagsterInstance, workspace: Workspace, web: Web, fault: str
) -> None:
    """The address holds a token; and a chat server that is down must not stop the pipeline."""
    web.webhook_status = 500
    urls = {"500": web.url, "gone": "http://127.0.0.1:9", "nonsense": "no-address"}
    sent = Notifier(workspace=workspace, webhook=f"{urls[fault]}/hook?token={TOKEN}", timeout_seconds=2).send(
        "run_failed", "a test", {"dagster_run": "1"}
    )
    (noted,) = told(workspace)

    assert not sent
    assert noted["webhook_problem"]
    assert TOKEN not in json.dumps(noted)


def test_the_webhook_can_come_from_a_file(
    workspace: Workspace, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers mount secrets as files; one that is missing is noted, and nothing fails."""
    monkeypatch.delenv("DENTSIGHT_WEBHOOK", raising=False)
    monkeypatch.setenv("DENTSIGHT_WEBHOOK_FILE", str(tmp_path / "webhook"))
    missing = Notifier(workspace=workspace).send("run_failed", "first", {})
    (tmp_path / "webhook").write_text(f"{web.url}/hook?token={TOKEN}\n")
    there = Notifier(workspace=workspace).send("run_failed", "second", {})

    assert (missing, there) == (False, True)
    assert [posted["text"] for posted in web.received] == ["second"]
    assert "cannot be read" in told(workspace)[0]["webhook_problem"]


def report(instance: dg.DagsterInstance, verdict: str, *, reused: bool = False) -> None:
    """A release report appears."""
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            "release_report",
            partition="opg-v8|v3",
            metadata={"verdict": verdict, "reused": reused, "path": "/reports/report.html", "digest": "d" * 64},
        )
    )


def test_every_new_verdict_is_told_also_when_several_came_between_two_ticks(
    instance: dg.DagsterInstance, notifier: Notifier, web: Web
) -> None:
    """An asset sensor sees the newest event alone: a FAIL followed by another cell's PASS would go untold."""

    def look(cursor: str | None) -> str | None:
        with dg.build_sensor_context(instance=instance, cursor=cursor, resources={"notifier": notifier}) as context:
            automation.gate_verdict(context)
            return context.cursor

    report(instance, "PASS")
    cursor = look(None)
    for verdict in ("FAIL", "INCONCLUSIVE"):
        report(instance, verdict)
    report(instance, "FAIL", reused=True)
    cursor = look(cursor)
    told_at_once = [posted["verdict"] for posted in web.received]
    look(cursor)

    assert told_at_once == ["PASS", "FAIL", "INCONCLUSIVE"]
    assert len(web.received) == 3


def crown(workspace: Workspace) -> str:
    """Make something the champion; returns its digest."""
    made = content.build(workspace.store, "release", {"model_card.md": b"card"}, {}, {"chain": {}, "verdict": "PASS"})
    workspace.store.put_manifest(made)
    champion.promote(workspace.store, made, "A. Tester", "first one")
    return made.digest


def look_at_champion(
    instance: dg.DagsterInstance, workspace: Workspace, notifier: Notifier, cursor: str | None
) -> str | None:
    """One tick of the stale-champion sensor; returns its cursor."""
    kept = {"workspace": workspace, "notifier": notifier}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=kept) as context:
        automation.stale_champion(context)
        return context.cursor


def test_a_champion_that_was_not_evaluated_in_time_is_told_once_a_day(
    instance: dg.DagsterInstance, workspace: Workspace, notifier: Notifier, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model in use is the one whose age matters; told every fifteen minutes it would be ignored."""
    crown(workspace)
    instance.report_runless_asset_event(dg.AssetMaterialization("champion_metrics", partition="opg-v8"))
    now = time.time()
    cursor = look_at_champion(instance, workspace, notifier, None)
    fresh = list(web.received)
    monkeypatch.setattr(time, "time", lambda: now + 50 * 3600)
    cursor = look_at_champion(instance, workspace, notifier, cursor)
    cursor = look_at_champion(instance, workspace, notifier, cursor)
    monkeypatch.setattr(time, "time", lambda: now + 75 * 3600)
    look_at_champion(instance, workspace, notifier, cursor)

    assert fresh == []
    assert [posted["event"] for posted in web.received] == ["champion_stale"] * 2
    assert "50 hours ago" in web.received[0]["text"]


def test_a_champion_that_was_never_evaluated_becomes_stale_too(
    instance: dg.DagsterInstance, workspace: Workspace, notifier: Notifier, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No evaluation at all is the staleness that a last-evaluation time cannot show."""
    crown(workspace)
    now = time.time()
    cursor = look_at_champion(instance, workspace, notifier, None)
    monkeypatch.setattr(time, "time", lambda: now + 50 * 3600)
    look_at_champion(instance, workspace, notifier, cursor)

    assert [posted["event"] for posted in web.received] == ["champion_stale"]
