"""Licences along the chain: no ancestor is too far away, and what is gone or says nothing is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.facts import CheckpointFacts, SubsetFacts
from dentsight_pipeline.documents.job import FitJob
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.release.licences import licences_of
from dentsight_pipeline.store.content import build
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.setup import Setup
from dentsight_pipeline_tests.documents.facts_for_tests import checkpoint_facts, subset_facts

NC = ("NC set", "CC BY-NC 4.0")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def _subset(store: Store, name: str, licence: str) -> Manifest:
    corpus = {"kind": "roboflow", "name": name, "licence": licence}
    facts = codec.convert(subset_facts(["caries"], corpus=corpus), SubsetFacts, "a test's facts")
    return store.get_manifest(store.put_manifest(build(store, Kind.CONDITION_SUBSET, {}, {}, facts)))


def _checkpoint(store: Store, subset: str, weights: str | None, parent: str = "", **facts: Any) -> Manifest:
    told = codec.convert(checkpoint_facts(["caries"], **facts), CheckpointFacts, "a test's facts")
    inputs = {"condition_subset": subset} | ({"initial_checkpoint": parent} if parent else {})
    files: dict[str, Path | bytes] = {"recipe.json": codec.write({"weights": weights})}
    return store.get_manifest(store.put_manifest(build(store, Kind.CHECKPOINT, files, inputs, told)))


def test_every_ancestor_is_found(store: Store) -> None:
    """Non-commercial data two trainings ago, and copyleft weights before that, bind this model too."""
    old, drawn, new = (
        _subset(store, *told).digest for told in (NC, ("phantoms", "Public Domain"), ("v8", "CC BY 4.0"))
    )
    first = _checkpoint(store, old, "/models/yolo", weights_licence="AGPL-3.0").digest
    second = _checkpoint(store, drawn, f"checkpoint:{first}", first).digest
    third = _checkpoint(store, new, f"checkpoint:{second}", second)

    assert licences_of(store, third) == {
        "data NC set": "CC BY-NC 4.0",
        "weights yolo": "AGPL-3.0",
        "data phantoms": "Public Domain",
        "data v8": "CC BY 4.0",
    }


def test_two_sources_of_one_name_keep_both_licences(store: Store) -> None:
    """Exports that do not say their name are all called alike; the freer must not hide the other."""
    first = _checkpoint(store, _subset(store, "unnamed export", "CC BY-NC 4.0").digest, None).digest
    second = _checkpoint(store, _subset(store, "unnamed export", "MIT").digest, f"checkpoint:{first}", first)

    assert set(licences_of(store, second)["data unnamed export"].split(" + ")) == {"CC BY-NC 4.0", "MIT"}


def test_what_is_not_there_is_unknown(store: Store) -> None:
    """An ancestor that was collected, and weights that nobody described, are no free ones."""
    subset = _subset(store, "v8", "CC BY 4.0").digest
    gone = _checkpoint(store, "0" * 64, None, "f" * 64)

    assert licences_of(store, gone) == {
        "condition_subset 000000000000": "unknown",
        "initial_checkpoint ffffffffffff": "unknown",
    }
    assert licences_of(store, _checkpoint(store, subset, None)) == {"data v8": "CC BY 4.0"}
    assert licences_of(store, _checkpoint(store, subset, "me/model"))["weights model"] == "unknown"
    published = _checkpoint(store, subset, "ustc-community/dfine-large-coco")
    assert licences_of(store, published)["weights dfine-large-coco"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("card", "licence"), [("---\nlicense: agpl-3.0\n---\n", "agpl-3.0"), ("# mine", "unknown"), (None, "unknown")]
)
def test_a_training_notes_the_licence_of_its_starting_weights(
    store: Store, tmp_path: Path, card: str | None, licence: str
) -> None:
    """From the folder's own card: by the time of a release the folder may be gone."""
    folder = tmp_path / "dfine"
    folder.mkdir()
    if card is not None:
        (folder / "README.md").write_text(card)
    smoke = recipes.named("smoke")
    job = FitJob(store_uri=store.uri, workdir=str(tmp_path), subset="0" * 64, recipe={})

    def noted(weights: str | None) -> str:
        recipe = smoke.model_copy(update={"weights": weights})
        return Setup(job, recipe, store, _subset(store, "v8", "CC BY 4.0")).weights_licence

    assert noted(str(folder)) == licence
    assert noted("ustc-community/dfine-large-coco") == "Apache-2.0"
    assert noted(None) == noted(f"checkpoint:{'0' * 64}") == ""
