"""What a job away is ordered with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dentsight_pipeline.documents.lineage import Began
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration import tracked
from dentsight_pipeline.orchestration.backends.slurm import Slurm
from dentsight_pipeline.orchestration.tracked import PRICE_VARIABLE, price_per_hour
from dentsight_pipeline.store import log
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline.training import recipe as recipes


def test_the_price_that_a_person_sets_stands_over_the_schedulers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training's cost card and a dry run reckon with the same price."""
    monkeypatch.delenv(PRICE_VARIABLE, raising=False)
    assert (price_per_hour(None), price_per_hour(Slurm(price_per_hour=1.5))) == (None, 1.5)

    monkeypatch.setenv(PRICE_VARIABLE, "2.5")
    assert (price_per_hour(None), price_per_hour(Slurm(price_per_hour=1.5))) == (2.5, 2.5)


@pytest.mark.parametrize("told", ["cheap", "-1", "nan", "inf"])
def test_what_is_no_price_is_refused_by_the_name_of_its_setting(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """A float that could not be converted tells nobody which variable holds it."""
    monkeypatch.setenv(PRICE_VARIABLE, told)

    with pytest.raises(ConfigurationError, match=f"{PRICE_VARIABLE} is '{told}'. It takes a price from 0 on"):
        price_per_hour(None)


def step_of(version: str, folder: Path) -> Any:
    """As much of a step as an order of work asks for."""
    return SimpleNamespace(
        version=version,
        store=SimpleNamespace(uri="s3://bucket/store"),
        backend=SimpleNamespace(price_per_hour=None),
        workspace=SimpleNamespace(scratch=lambda *parts: folder.joinpath(*parts), folder=folder),
        inputs={},
    )


@pytest.mark.parametrize("verb", ["fit", "predict"])
def test_work_of_another_code_version_is_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """The trainer gives what is finished or half done in its folder: a memo that asks anew got the old bytes back."""
    monkeypatch.setattr(tracked, "_run_job", lambda step, verb, job, inputs: job.workdir)
    subset = SimpleNamespace(digest="a" * 64, kind="condition-subset", entries={})
    recipe = SimpleNamespace(digest="b" * 64, identity={"recipe": "b" * 64}, model_dump=lambda mode: {})
    folders = []
    for version in ("1", "2", "2"):
        step = step_of(version, tmp_path)
        made = tracked.fit(step, subset, recipe, "") if verb == "fit" else tracked.predict(step, subset, recipe)  # type: ignore[arg-type]
        folders.append(made)

    assert folders[0] != folders[1] == folders[2]


def test_a_training_from_other_weights_of_the_package_is_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same trap: what an older package's start became lies finished in the folder of the same recipe and data."""
    monkeypatch.setattr(tracked, "_run_job", lambda step, verb, job, inputs: job.workdir)
    subset: Any = SimpleNamespace(digest="a" * 64)
    folders = []
    for digest in ("1" * 64, "2" * 64, "2" * 64):
        monkeypatch.setattr(recipes, "PACKAGED", {"phantom-tiny": digest})
        folders.append(tracked.fit(step_of("2", tmp_path), subset, recipes.named("smoke"), ""))

    assert folders[0] != folders[1] == folders[2]


def test_a_training_that_is_taken_up_again_began_with_its_first_attempt(tmp_path: Path) -> None:
    """A plan that was signed between two attempts came after the beginning."""
    store = open_store(tmp_path / "store")

    first = tracked.began(store, tmp_path / "job")
    log.append(store, "a" * 64, {"asset": "plan"})
    again = tracked.began(store, tmp_path / "job")
    other = tracked.began(store, tmp_path / "another")

    assert first == again
    assert (first.log, other.log) == ("0:", str(log.head(store)))


@pytest.mark.parametrize("left", ["", '{"log": "0:", "ti', "\0\0\0"])
def test_a_beginning_that_a_power_cut_broke_is_not_known_and_stops_nothing(tmp_path: Path, left: str) -> None:
    """Every later attempt at the training once failed at it. A beginning noted now would let a late plan pass."""
    store = open_store(tmp_path / "store")
    (tmp_path / "began.json").write_text(left)

    assert tracked.began(store, tmp_path) == Began()
