"""Events of a training process."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from dentsight_pipeline.documents.events import HealthRead, Message, Metrics, Progress
from dentsight_pipeline.errors import DocumentError
from dentsight_pipeline.training.reporting import Reporter, read_events
from dentsight_pipeline_tests.training.test_health import reading

READING = reading(5)


def test_progress_is_told_at_most_every_few_seconds_but_always_first_and_last(tmp_path: Path):
    """Ten thousand steps must not become ten thousand log lines; the end must not be missing."""
    with Reporter(tmp_path, interval_s=60) as reporter:
        for step in range(101):
            reporter.progress("train", step, 100)

    assert [event.step for event in read_events(tmp_path) if isinstance(event, Progress)] == [0, 100]


def test_events_hold_their_numbers_and_a_time(tmp_path: Path):
    """Curves in MLflow are drawn from these."""
    with Reporter(tmp_path) as reporter:
        reporter.metrics(5, {"train/loss": 1.5})
        reporter.health(5, READING)
        reporter.message("Resuming at step 5 of 10.")

    events = read_events(tmp_path)
    assert [type(event) for event in events] == [Metrics, HealthRead, Message]
    assert [event.values for event in events if isinstance(event, Metrics)] == [{"train/loss": 1.5}]
    assert [event.reading for event in events if isinstance(event, HealthRead)] == [READING]
    assert all(event.time > 0 for event in events)


def test_a_line_still_being_written_is_left_for_the_next_reading(tmp_path: Path):
    """The reader follows the file while the trainer writes it."""
    (tmp_path / "events.jsonl").write_text(
        json.dumps({"event": "message", "time": 1.0, "text": "a"}) + '\n{"event": "mess'
    )

    assert read_events(tmp_path) == [Message(time=1.0, text="a")]


def test_the_next_attempt_takes_off_the_half_line_that_a_power_cut_left(tmp_path: Path):
    """Its first event once went on in the broken line, which no later attempt could read: a training lost for good."""
    (tmp_path / "events.jsonl").write_text(
        json.dumps({"event": "message", "time": 1.0, "text": "a"}) + '\n{"event": "mess'
    )

    with Reporter(tmp_path) as reporter:
        reporter.message("b")

    assert [event.text for event in read_events(tmp_path) if isinstance(event, Message)] == ["a", "b"]


def test_a_line_that_is_no_event_is_refused_with_its_field(tmp_path: Path):
    """A follower that passed over what it does not know would lose curves in silence."""
    (tmp_path / "events.jsonl").write_text(
        json.dumps({"event": "metrics", "time": 1, "step": "9", "values": {}}) + "\n"
    )

    with pytest.raises(DocumentError, match=r"events\.jsonl is no .*`\$\.step`"):
        read_events(tmp_path)


def test_a_person_reads_step_epoch_loss_and_time_left(tmp_path: Path):
    """The one line that is looked at while waiting."""
    screen = io.StringIO()

    with Reporter(tmp_path, echo=screen) as reporter:
        reporter.progress("train", 10, 10, epoch=2, loss=3.14159, images_per_s=12.5, seconds_left=75.0)

    assert screen.getvalue() == "train 10/10, epoch 2, loss 3.142, images_per_s 12.5, 1 min 15 s left\n"


def test_a_silent_reporter_writes_nothing(tmp_path: Path):
    """The further processes of a distributed training must not repeat what the first one says."""
    with Reporter(None) as reporter:
        reporter.message("hello")

    assert list(tmp_path.iterdir()) == []


def test_under_dagster_events_go_through_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A real Pipes message file is the witness: log lines for people, custom messages for programs."""
    import dagster_pipes

    messages = tmp_path / "messages"
    context = {
        "asset_keys": None, "code_version_by_asset_key": None, "provenance_by_asset_key": None, "partition_key": None,
        "partition_key_range": None, "partition_time_window": None, "run_id": "r", "job_name": None, "retry_number": 0,
        "extras": {},
    }  # fmt: skip
    (tmp_path / "context").write_text(json.dumps(context))
    encode = dagster_pipes.encode_param
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", encode({"path": str(tmp_path / "context")}))
    monkeypatch.setenv("DAGSTER_PIPES_MESSAGES", encode({"path": str(messages)}))

    with Reporter(tmp_path / "work") as reporter:
        reporter.message("Resuming at step 5 of 10.")
        reporter.metrics(6, {"train/loss": 2.0})

    sent = [json.loads(line) for line in messages.read_text().splitlines()]
    logged = [m["params"]["message"] for m in sent if m["method"] == "log"]
    custom = [m["params"]["payload"]["event"] for m in sent if m["method"] == "report_custom_message"]
    assert "Resuming at step 5 of 10." in logged
    assert custom == ["message", "metrics"]
