"""Job files in, result and error files out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dentsight_pipeline.documents.job import CostCard, FitJob
from dentsight_pipeline.errors import ConfigurationError, HeadCollapseError, TrainingError
from dentsight_pipeline.training import __main__ as entry
from dentsight_pipeline.training import cost
from dentsight_pipeline.training import job as jobs

FIT = {"store_uri": "store", "subset": "0" * 64, "recipe": {"name": "smoke"}, "workdir": "work"}


def test_a_job_with_the_contracts_fields_alone_is_complete(tmp_path: Path):
    """Whoever starts a job needs to know five fields."""
    (tmp_path / "job.json").write_text(json.dumps({**FIT, "allow_head_collapse": None}))

    job = jobs.load(FitJob, tmp_path / "job.json")

    assert (job.subset, job.folder, job.threads) == ("0" * 64, Path("work"), None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            json.dumps({**FIT, "gpu": 1}),
            r"is no FitJob: Object contains unknown field `gpu`\. Its fields are .*subset, recipe",
        ),
        (json.dumps({**FIT, "subset": "abc"}), r"`\$\.subset`"),
        ("{", "is no FitJob: .*truncated"),
    ],
)
def test_a_wrong_job_is_refused_with_its_field(tmp_path: Path, content: str, message: str):
    """A typo must not be ignored: the job would run with another meaning."""
    (tmp_path / "job.json").write_text(content)

    with pytest.raises(ConfigurationError, match=message):
        jobs.load(FitJob, tmp_path / "job.json")


def test_a_missing_job_file_is_refused(tmp_path: Path):
    """One line instead of a traceback."""
    with pytest.raises(ConfigurationError, match=r"job.json cannot be read: No such file"):
        jobs.load(FitJob, tmp_path / "job.json")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TrainingError("The loss is nan at step 3."), 2),
        (HeadCollapseError(10, ["R below 0.5"], {"R": 0.3}), 6),
        (ValueError("a bug"), 1),
    ],
)
def test_an_error_is_left_behind_with_its_type_and_status(tmp_path: Path, error: Exception, status: int):
    """The parent process re-raises it under its own name; a collapse has a status of its own."""
    assert jobs.write_error(tmp_path, error) == status

    told = json.loads((tmp_path / "error.json").read_text())
    assert told["type"] == type(error).__name__
    assert told["message"] == str(error)
    assert ("traceback" in told) == (status == 1)


def test_a_result_removes_the_error_of_an_earlier_attempt(tmp_path: Path):
    """A resumed and finished job must not look failed."""
    jobs.write_error(tmp_path, TrainingError("no memory"))

    jobs.write_result(tmp_path, "0" * 64, cost.record(CostCard(wall_s=1.0, peak_memory_mib=2.0)))

    assert not (tmp_path / "error.json").exists()
    assert json.loads((tmp_path / "result.json").read_text())["digest"] == "0" * 64


def test_wrong_arguments_print_the_usage(capsys: pytest.CaptureFixture[str]):
    """`python -m dentsight_pipeline.training` alone must say what it wants."""
    assert entry.main([]) == 2
    assert "fit|predict JOB.json" in capsys.readouterr().err


def test_a_refused_job_ends_with_status_2_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The whole way of a refusal: a recipe that cannot be meant."""
    job = {**FIT, "store_uri": str(tmp_path / "store"), "workdir": str(tmp_path / "work"), "recipe": {"name": "smoke"}}
    (tmp_path / "job.json").write_text(json.dumps(job))

    assert entry.main(["fit", str(tmp_path / "job.json")]) == 2

    assert json.loads((tmp_path / "work" / "error.json").read_text())["type"] == "ConfigurationError"
    assert "Field learning_rate is missing" in capsys.readouterr().err
