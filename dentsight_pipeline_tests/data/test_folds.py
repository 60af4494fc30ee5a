"""Folds: every image is asked about once, by a model that never saw its source."""

from __future__ import annotations

import pytest

from dentsight_pipeline.data.folds import publish_fold
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store

OF = 3


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest]:
    """Forty phantoms, some of them copies, with their published splits."""
    root = tmp_path_factory.mktemp("folds")
    write_phantom_export(root / "export", 40, 5, 160)
    store = open_store(root / "store")
    return store, select_conditions(store, normalise_export(store, ingest_export(root / "export", store)))


def sources(store: Store, fold: Manifest) -> dict[str, set[str]]:
    """Source groups by split."""
    return {name: {*split.images["source_group"].to_pylist()} for name, split in read_splits(store, fold).items()}


def test_every_image_is_held_out_once_and_no_source_is_on_both_sides(subset: tuple[Store, Manifest]) -> None:
    """A copy of an image in train, or in valid by which the step is chosen, would confirm its wrong labels."""
    store, whole = subset

    folds = [publish_fold(store, whole, number, OF) for number in range(1, OF + 1)]

    held_out = [row for fold in folds for row in read_splits(store, fold)["test"].images["id"].to_pylist()]
    published = [row for split in read_splits(store, whole).values() for row in split.images["id"].to_pylist()]
    assert sorted(held_out) == published
    for fold in folds:
        own = sources(store, fold)
        assert all(own.values())
        assert not own["test"] & (own["train"] | own["valid"])
        assert not own["valid"] & own["train"]


def test_a_fold_is_a_subset_with_the_same_images_and_boxes(subset: tuple[Store, Manifest]) -> None:
    """The trainer and the audit take it like any other; its facts say which fold it is."""
    store, whole = subset

    fold = publish_fold(store, whole, 2, OF)

    facts, before = fold.facts_as(SubsetFacts), whole.facts_as(SubsetFacts)
    assert (fold.kind, facts.fold) == (Kind.CONDITION_SUBSET, (2, OF))
    assert fold.inputs[Asset.CONDITION_SUBSET] == whole.digest
    assert sum(s.annotations for s in facts.splits.values()) == sum(s.annotations for s in before.splits.values())
    assert "fold" not in whole.facts
    assert publish_fold(store, whole, 2, OF).digest == fold.digest


@pytest.mark.parametrize("of", [1, 30])
def test_folds_that_leave_nothing_to_train_or_to_ask_are_refused(subset: tuple[Store, Manifest], of: int) -> None:
    """One fold holds everything out."""
    with pytest.raises(ConfigurationError, match=f"{of} folds of .* sources were asked for"):
        publish_fold(*subset, 1, of)
