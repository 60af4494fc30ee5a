"""Hugging Face Jobs: a contract test. The real client talks to a server here that plays their API and runs commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dentsight_pipeline import errors
from dentsight_pipeline.orchestration.backends import hf_jobs
from dentsight_pipeline.orchestration.backends.base import Look, Phase, UnreachableError
from dentsight_pipeline.orchestration.backends.detached import Detached
from dentsight_pipeline.orchestration.backends.hf_jobs import HfJobs
from dentsight_pipeline_tests.orchestration.backends.loopback import PlayedHub, Service, played
from dentsight_pipeline_tests.orchestration.backends.tasks import QUICK, Ordered, start, wait_until

TOKEN = "hf_notarealtokenbutasecret"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The played service, and the settings of its user."""
    with played(PlayedHub, tmp_path / "hub") as (service, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("DENTSIGHT_WORKER_IMAGE", "ghcr.io/lab/dentsight:1")
        monkeypatch.setenv(hf_jobs.FLAVOR_VARIABLE, "a10g-large")
        yield service


def test_a_job_is_ordered_with_a_timeout_a_label_and_its_secrets_as_such(
    hub: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their default of 30 minutes ends a training in its middle; what is no secret is shown on a web page."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret-either")
    scheduler = HfJobs.of_environment()

    job = scheduler.submit("dentsight-fit-1", ["python", "-c", "print('hello')"], tmp_path)

    asked = hub.asked[0]
    assert (asked["timeoutSeconds"], asked["flavor"], asked["dockerImage"]) == (
        43200,
        "a10g-large",
        "ghcr.io/lab/dentsight:1",
    )
    assert asked["labels"]["dentsight-job"] == "dentsight-fit-1"
    assert asked["secrets"]["AWS_SECRET_ACCESS_KEY"] == "not-a-secret-either"
    assert "AWS_SECRET_ACCESS_KEY" not in asked["environment"]
    wait_until(lambda: scheduler.look(job) == Look(Phase.GONE, "COMPLETED"))
    assert scheduler.output(job, tmp_path) == "hello"


def test_a_running_job_is_found_by_its_label_and_cancelled(hub: Service, tmp_path: Path) -> None:
    """The answer to its submission may have got lost."""
    scheduler = HfJobs.of_environment()
    job = scheduler.submit("dentsight-fit-1", ["sleep", "60"], tmp_path)

    assert (scheduler.find("dentsight-fit-1"), scheduler.find("dentsight-fit-2")) == (job, None)
    assert scheduler.look(job).phase is Phase.RUNNING
    hub.stages[job] = {"stage": "SCHEDULING", "message": "waiting for hardware"}
    assert scheduler.look(job) == Look(Phase.WAITING, "SCHEDULING waiting for hardware")
    del hub.stages[job]
    scheduler.cancel(job)
    wait_until(lambda: scheduler.look(job).phase is Phase.GONE)
    assert scheduler.look("never").phase is Phase.GONE


def test_the_flavours_price_is_known_before_it_is_spent(hub: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.025 $ a minute is 1.50 $ an hour; a flavour that is none is refused with those that exist."""
    assert HfJobs.of_environment().price_per_hour == pytest.approx(1.5)
    monkeypatch.setenv(hf_jobs.FLAVOR_VARIABLE, "a10g-huge")

    with pytest.raises(errors.ConfigurationError, match="there are cpu-basic, a10g-large"):
        _ = HfJobs.of_environment().price_per_hour


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "missing, wrong or expired"), (402, "no credit left"), (403, "quota is used up"), (400, "so it is Correct")],
)
def test_a_refusal_says_what_to_do_and_no_token(hub: Service, tmp_path: Path, status: int, words: str) -> None:
    """An expired token is not a lost job."""
    scheduler = HfJobs.of_environment()
    hub.status = status

    with pytest.raises(errors.ConfigurationError, match=words) as refused:
        scheduler.submit("dentsight-fit-1", ["true"], tmp_path)
    assert TOKEN not in str(refused.value)


def test_a_hub_that_fails_or_is_gone_says_nothing_of_a_job(
    hub: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an hour of 503 must not order a second job."""
    scheduler = HfJobs.of_environment()
    job = scheduler.submit("dentsight-fit-1", ["sleep", "60"], tmp_path)
    hub.status = 503
    with pytest.raises(UnreachableError, match="answered 503"):
        scheduler.look(job)

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match="does not answer"):
        HfJobs.of_environment().look(job)


def test_without_image_or_flavour_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no default that would not cost somebody money."""
    monkeypatch.delenv("DENTSIGHT_WORKER_IMAGE", raising=False)

    with pytest.raises(errors.ConfigurationError, match="DENTSIGHT_WORKER_IMAGE is not set"):
        HfJobs.of_environment()


@pytest.mark.slow
def test_a_training_through_the_played_hub_and_a_bucket_ends_in_the_store(
    hub: Service, in_bucket: Callable[[int], Ordered]
) -> None:
    """Nothing but the bucket is shared; no secret is in anything that was said."""
    ordered = in_bucket(8)

    result = start(Detached(HfJobs.of_environment(), QUICK), ordered).result(600)

    told = "\n".join(ordered.log.lines) + hub.log("job1")
    assert result.job and ordered.steps == list(range(1, 9))
    assert TOKEN not in told and "not-a-secret" not in told
    assert hub.asked[0]["command"][:4] == ["python", "-m", "dentsight_pipeline.training", "remote"]
