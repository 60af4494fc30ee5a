"""`dentsight plan` as it is typed: what is signed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dentsight_pipeline.cli import app
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline.training import recipe as recipes


@pytest.fixture
def subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A dataset in a workspace."""
    monkeypatch.chdir(tmp_path)
    write_phantom_export(tmp_path / "export", 6, 4, 320)
    store = Workspace().store
    return select_conditions(store, normalise_export(store, ingest_export(tmp_path / "export", store))).digest


def planned(subset: str, *more: str) -> Result:
    return CliRunner().invoke(
        app, ["plan", "--data", subset, "--recipe", "smoke", "--policy", "phantom", "--by", "Ann", *more, "--json"]
    )


def test_a_plan_holds_the_recipe_with_the_fields_that_will_be_set(subset: str) -> None:
    """Another seed is another recipe: `run --set seed=43 --plan` must be able to fulfil a plan."""
    told = json.loads(planned(subset, "--margin", "0.2", "--set", "seed=43").stdout)

    assert told["content"]["recipes"] == {"smoke": recipes.named("smoke").override({"seed": "43"}).digest}
    assert told["content"]["by"] == "Ann"


def test_what_a_plan_cannot_hold_is_refused_with_what_would_do(subset: str) -> None:
    """The margin that the policy needs is said, a field that no recipe has is named."""
    narrow, unknown = planned(subset), planned(subset, "--margin", "0.2", "--set", "sed=43")

    assert "Give --margin 0.2" in str(narrow.exception)
    assert "sed" in str(unknown.exception)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("brightnes", "there is no subgroup 'brightnes'. Give --subgroup as one of width, brightness, sharpness"),
        ("export", "the planned data are of one export"),
    ],
)
def test_a_subgroup_that_no_evaluation_can_show_is_refused(subset: str, name: str, says: str) -> None:
    """The clause would break after the training, and no override lifts it."""
    good, wrong = (planned(subset, "--margin", "0.2", "--subgroup", given) for given in ("brightness", name))

    assert json.loads(good.stdout)["content"]["subgroups"] == ["brightness"]
    assert says in str(wrong.exception)


def test_a_number_of_approvals_without_anybody_who_may_approve_is_refused(subset: str) -> None:
    """It was left aside without a word, and the release waited for nobody."""
    refused = planned(subset, "--margin", "0.2", "--approvals", "3")

    assert "--approvals 3 needs the people who may approve: add --approver NAME=KEY.pub" in str(refused.exception)
