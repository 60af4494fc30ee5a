"""`dentsight run --with-review` and `--study`: what is asked for beside a cell, through Dagster."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents.facts import LabelReviewFacts, SubsetFacts
from dentsight_pipeline.documents.names import Asset, each
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline_tests.orchestration.assets.conftest import FEW_STEPS, FinishedCell

pytestmark = [pytest.mark.xdist_group("graph"), pytest.mark.slow]


ASKED = ("run", "--dataset", "tiny-v1", *FEW_STEPS, "--with-review", "--json")
KILLED_BETWEEN_FOLDS = """
import os, signal
from dentsight_pipeline.orchestration.assets import evaluation
from dentsight_pipeline.cli import main

whole = evaluation.predictions_out_of_fold

def until_the_second(step, subset, recipe, reason, number, of):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(step, subset, recipe, reason, number, of)

evaluation.predictions_out_of_fold = until_the_second
main()
"""
"""A `dentsight run` that is killed when one fold is trained and asked."""


@pytest.fixture(scope="module")
def reviewed(finished_cell: FinishedCell) -> dict[str, Any]:
    """What the run said that went on where a killed one was; only the review is new."""
    home = finished_cell.home
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BETWEEN_FOLDS, *ASKED], cwd=home.folder, env=home.environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    done = home.dentsight(*ASKED)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def asked(finished_cell: FinishedCell, reviewed: dict[str, Any]) -> list[Manifest]:
    """What each fold's model was asked, in order."""
    store = finished_cell.home.store
    inputs = store.get_manifest(reviewed["label_review_digest"]).inputs
    return [store.get_manifest(digest) for digest in each(inputs, Asset.TEST_PREDICTIONS)]


def test_every_image_is_asked_about_by_a_model_that_never_saw_its_source(
    finished_cell: FinishedCell, reviewed: dict[str, Any], asked: list[Manifest]
) -> None:
    """Three trainings, each on a fold of its own, and together they see all images."""
    store = finished_cell.home.store
    review = store.get_manifest(reviewed["label_review_digest"])

    trained = [store.get_manifest(made.inputs[Asset.TRAINED_CHECKPOINT]) for made in asked]
    folds = [store.get_manifest(made.inputs[Asset.CONDITION_SUBSET]) for made in trained]
    images = sum(len(split.images) for split in read_splits(store, folds[0]).values())
    assert [fold.facts_as(SubsetFacts).fold for fold in folds] == [(1, 3), (2, 3), (3, 3)]
    assert review.facts_as(LabelReviewFacts).images == images
    assert all(made.inputs[Asset.CONDITION_SUBSET] == fold.digest for made, fold in zip(asked, folds, strict=True))


def test_a_review_killed_between_folds_goes_on_and_trains_none_twice(
    finished_cell: FinishedCell, asked: list[Manifest]
) -> None:
    """The log has one training and one asking of each fold, the first before the kill: hours on a real dataset."""
    store = finished_cell.home.store

    made = [digest for own in asked for digest in (own.digest, own.inputs[Asset.TRAINED_CHECKPOINT])]
    assert [len(store.records(digest)) for digest in made] == [1] * 6


def test_an_audit_follows_the_review_through_every_fold_to_the_export(
    finished_cell: FinishedCell, reviewed: dict[str, Any]
) -> None:
    """Folds, trainings and predictions are each recorded, and nothing contradicts the rest."""
    done = finished_cell.home.dentsight("audit", reviewed["label_review_digest"], "--json")

    said = json.loads(done.stdout)
    assert said["findings"] == []
    kinds = [item["kind"] for item in said["chain"]]
    assert (kinds.count("checkpoint"), kinds.count("predictions")) == (3, 3)


def test_a_second_review_trains_nothing_and_its_page_lists_the_same_queue(
    finished_cell: FinishedCell, reviewed: dict[str, Any]
) -> None:
    """What a killed or repeated run finds done is not done again."""
    home = finished_cell.home
    again = home.dentsight(*ASKED)
    listed = home.dentsight("review", reviewed["label_review_digest"], "--list", "--json")

    assert "label_review" in json.loads(again.stdout)["cached"]
    queue = json.loads(listed.stdout)
    assert len(queue["predictions"]) == 3
    scores = [suspect["score"] for suspect in queue["suspects"]]
    assert scores == sorted(scores, reverse=True)
