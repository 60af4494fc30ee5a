"""What a person is told when a step fails."""

from __future__ import annotations

import signal
from pathlib import Path

import dagster as dg
import pytest

from dentsight_pipeline import cli, errors
from dentsight_pipeline.commands import dry_run
from dentsight_pipeline.commands import run as cell


def told(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """What `dentsight run` raises when a step raised the error, from its cause."""

    @dg.op
    def breaks() -> None:
        raise error from cause

    @dg.job
    def job() -> None:
        breaks()

    return cell.cause(job.execute_in_process(raise_on_error=False))


def test_a_refusal_is_told_in_its_own_words_although_a_library_error_is_behind_it() -> None:
    """`raise … from error` is how most refusals begin; the library's own words do not say what to do."""
    found = told(errors.DataError("valid.json is cut off. Export it again."), KeyError("images"))

    assert isinstance(found, errors.DentsightError)
    assert str(found) == "valid.json is cut off. Export it again."


def test_of_two_refusals_the_outer_one_is_told() -> None:
    """It was made where more was known."""
    found = told(errors.TrainingError("The loader failed at step 7."), errors.IntegrityError("a", "b", "c", "d"))

    assert str(found) == "The loader failed at step 7."


def test_a_crash_is_told_by_its_innermost_cause_with_the_run_that_has_the_log() -> None:
    """It is no refusal, and must not read like one."""
    found = told(RuntimeError("outer"), ZeroDivisionError("inner"))

    assert not isinstance(found, errors.DentsightError)
    assert str(found).startswith("breaks failed: ZeroDivisionError: inner")
    assert "The whole log is in Dagster run" in str(found)


def test_an_interrupted_run_ends_as_an_interruption() -> None:
    """Ctrl-C is answered with one line that says what is kept, not with a traceback."""
    found = told(dg.DagsterExecutionInterruptedError(), KeyboardInterrupt())

    assert isinstance(found, KeyboardInterrupt)


def test_ctrl_c_is_answered_with_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a word, whoever interrupted a training believes it lost."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cell, "run_cell", interrupted)
    monkeypatch.setattr("sys.argv", ["dentsight", "run"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    signal.signal(signal.SIGTERM, before)

    assert ended.value.code == 130
    assert "What was finished is kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"policy": "cards"}, "no policy 'cards'"),
        ({"policy": "floorless.json"}, "Policy 'floorless.json' is refused"),
        ({"gate_overrides": {"tier1_caries": "A. Person: because"}}, "names gate 'tier1_caries'"),
        ({"gate_overrides": {"tier1_caries_ap": "because"}}, "Write who decides and why"),
    ],
)
def test_a_policy_or_override_that_cannot_be_meant_is_refused_before_the_training(
    settings: dict[str, object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged only where it is used, it would be refused after hours of training."""
    folder = tmp_path
    (folder / "floorless.json").write_text("{}")
    monkeypatch.chdir(folder)

    with pytest.raises(errors.ConfigurationError, match=says):
        cell._policy_of(cell.CellRequest(**settings))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"export": ("/gone",)}, "There is nothing at /gone"),
        ({"export": ("roboflow:foo",)}, "'roboflow:foo' is no version on Roboflow"),
        ({"export": ("phantom:foo",)}, "'phantom:foo' names no phantom corpus"),
        ({"export": ("s3:///foo",)}, "'s3:///foo' is no address on S3"),
        ({"source": "foo"}, "Source 'foo' is not known. Known sources: "),
        ({"study": "/gone"}, "There is no study in /gone"),
    ],
)
def test_a_place_or_source_that_is_none_is_refused_before_the_training(settings: dict[str, object], says: str) -> None:
    """A dry run told what would be made of an export that is not there; a study was missed after the training alone."""
    with pytest.raises(errors.DentsightError, match=says):
        cell.configs_of(cell.CellRequest(**settings))  # pyright: ignore[reportArgumentType]


def test_a_dry_run_refuses_starting_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run refuses them when the data are made; a finished cell, and a worker elsewhere, need no folder here."""
    monkeypatch.setenv("DENTSIGHT_HOME", str(tmp_path))
    monkeypatch.setenv("DENTSIGHT_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    asked = cell.CellRequest(dataset="new-v1", export=("phantom:4:1",), overrides={"weights": "/gone"})

    with pytest.raises(errors.ConfigurationError, match="Weights '/gone' cannot be loaded"):
        dry_run.plan(asked)
    monkeypatch.setenv("DENTSIGHT_BACKEND", "slurm")
    assert dry_run.plan(asked).reused == []


def test_a_policy_file_is_found_from_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs run in the project's home, where a relative path means another file."""
    from importlib import resources

    folder = tmp_path
    packaged = resources.files("dentsight_pipeline.release") / "policies" / "phantom.json"
    (folder / "mine.json").write_text(packaged.read_text("utf-8"))
    monkeypatch.chdir(folder)

    assert cell._policy_of(cell.CellRequest(policy="mine.json")) == str(folder / "mine.json")
    assert cell._policy_of(cell.CellRequest(policy="phantom")) == "phantom"
