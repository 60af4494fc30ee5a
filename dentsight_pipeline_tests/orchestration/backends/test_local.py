"""How many GPUs a training takes, and what a job that died says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dentsight_pipeline import errors
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.events import Event, Metrics
from dentsight_pipeline.orchestration.backends import local as backends
from dentsight_pipeline.orchestration.backends.local import LocalBackend


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the surrounding environment."""
    for name in (backends.GPUS_VARIABLE, backends.GPUS_PER_TRAINING_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("gpus", "per_training", "expected"), [("", "", (1, 1)), ("4", "", (4, 4)), ("4", "2", (4, 2)), ("4", "1", (4, 1))]
)
def test_gpus_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, gpus: str, per_training: str, expected: tuple[int, int]
) -> None:
    """A machine's hardware is no matter of code."""
    monkeypatch.setenv(backends.GPUS_VARIABLE, gpus)
    monkeypatch.setenv(backends.GPUS_PER_TRAINING_VARIABLE, per_training)
    backend = LocalBackend()

    assert (backend.count, backend.width) == expected


@pytest.mark.parametrize("gpus", ["0", "two", "-1", "1.5"])
def test_a_number_of_gpus_that_cannot_be_meant_is_refused(monkeypatch: pytest.MonkeyPatch, gpus: str) -> None:
    """Zero slots would wait for a GPU for ever."""
    monkeypatch.setenv(backends.GPUS_VARIABLE, gpus)

    with pytest.raises(errors.ConfigurationError, match="DENTSIGHT_GPUS"):
        _ = LocalBackend().count


def test_a_training_cannot_take_more_gpus_than_there_are() -> None:
    """It would wait for devices that never come."""
    with pytest.raises(errors.ConfigurationError, match="nearest legal value is 2"):
        _ = LocalBackend(gpus=2, gpus_per_training=3).width


@pytest.mark.parametrize(
    ("status", "killed"), [(137, True), (-9, True), (139, True), (130, False), (2, False), (1, False)]
)
def test_only_a_job_that_a_signal_ended_is_taken_up_again(status: int, killed: bool) -> None:
    """A refusal or a collapsed head would come out the same again; a cancel is meant."""
    assert backends._was_killed(status) is killed


def test_a_killed_job_names_the_signal_and_the_end_of_its_output(tmp_path: Path) -> None:
    """Signal 9 is usually the kernel's lack of memory: nothing else says so."""
    (tmp_path / backends.OUTPUT_FILE).write_text("the last words\n")
    failure = backends._failure("fit", 137, tmp_path)

    assert isinstance(failure, errors.TrainingError)
    assert "killed by signal 9" in str(failure)
    assert "the last words" in str(failure)


def test_a_job_that_refused_does_so_under_its_own_error(tmp_path: Path) -> None:
    """The notifier tells a collapsed head from a failed run by this type."""
    (tmp_path / "error.json").write_text(json.dumps({"type": "HeadCollapseError", "message": "at step 125"}))
    failure = backends._failure("fit", 6, tmp_path)

    assert isinstance(failure, errors.HeadCollapseError)
    assert str(failure) == "at step 125"


def test_every_event_is_heard_once_over_all_attempts(tmp_path: Path) -> None:
    """A second attempt appends to the same file; told twice, MLflow's curves would run backwards."""
    heard: list[int] = []
    events, position = tmp_path / "events.jsonl", tmp_path / "events.heard"

    def listen(event: Event) -> None:
        assert isinstance(event, Metrics)
        heard.append(event.step)

    for numbers in ((1, 2), (3,), ()):
        with backends.following(events, position, listen), events.open("ab") as lines:
            lines.writelines(codec.write(Metrics(time=1.0, step=number, values={})) + b"\n" for number in numbers)
    with events.open("ab") as lines:
        lines.write(codec.write(Metrics(time=1.0, step=4, values={})))
    with backends.following(events, position, listen):
        pass

    assert heard == [1, 2, 3]


@pytest.mark.parametrize("left", ["", "\0\0\0", "1000000"])
def test_a_position_that_a_power_cut_broke_hears_everything_again(tmp_path: Path, left: str) -> None:
    """An empty file once ended every later attempt at the training; one beyond the end would hear nothing any more."""
    events, position = tmp_path / "events.jsonl", tmp_path / "events.heard"
    events.write_bytes(codec.write(Metrics(time=1.0, step=1, values={})) + b"\n")
    position.write_text(left)
    heard: list[Event] = []

    with backends.following(events, position, heard.append):
        pass

    assert len(heard) == 1
    assert int(position.read_text()) == events.stat().st_size
