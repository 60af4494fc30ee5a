"""What each stage's dataset keeps, and the forms that it is offered in."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.data.identifiers import find_identifiers
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.ontology import CLASSES, CONDITIONS, TEETH
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.data.subset import select_conditions, select_teeth
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, whole_export


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def stems() -> list[str]:
    return []


@pytest.fixture(scope="module")
def normalised(tmp_path_factory: pytest.TempPathFactory, store: Store, stems: list[str]) -> Manifest:
    builder = whole_export(tmp_path_factory.mktemp("export"))
    builder.image("train", {"caries": [[1, 1, 5, 5]]})
    stems += builder.stems()
    return normalise_export(store, ingest_export(builder.write(), store))


def test_the_condition_subset_keeps_every_image_and_drops_the_teeth(store: Store, normalised: Manifest) -> None:
    """An image that loses all its boxes is a true negative; dropping it would overstate precision."""
    subset = select_conditions(store, normalised)

    train = read_split(store, subset, "train").to_coco()
    assert subset.kind == "condition-subset"
    assert [c["name"] for c in train["categories"]] == list(CONDITIONS)
    assert [c["id"] for c in train["categories"]] == list(range(1, 14))
    assert len(train["images"]) == 4
    assert [CONDITIONS[a["category_id"] - 1] for a in train["annotations"]] == [
        "caries",
        "crown",
        "RC-treated",
        "root-stump",
        "caries",
    ]
    assert subset.facts["splits"]["train"]["class_counts"]["caries"] == 2
    assert subset.facts["classes"] == list(CONDITIONS)
    assert subset.inputs == {"normalized_splits": normalised.digest}


def test_what_was_looked_for_in_an_image_survives_the_narrowing(store: Store, normalised: Manifest) -> None:
    """Category ids change with the classes, what the annotators looked for does not."""
    whole = read_split(store, normalised, "train").covered
    conditions = read_split(store, select_conditions(store, normalised), "train").covered

    assert whole[:, CLASSES.index("11")].tolist() == [True, True, True, False]
    assert whole[:, CLASSES.index("caries")].all()
    assert conditions.shape == (4, 13)
    assert conditions.all()


def test_the_tooth_subset_leaves_partially_annotated_images_out(store: Store, normalised: Manifest) -> None:
    """Nobody marked their teeth: as negatives they would teach the model to miss teeth."""
    subset = select_teeth(store, normalised)

    train = read_split(store, subset, "train").to_coco()
    assert [c["name"] for c in train["categories"]] == list(TEETH)
    assert len(train["images"]) == 3
    assert {a["raw_name"] for a in train["annotations"]} == {"11"}
    assert subset.facts["images_left_out"] == 1
    assert sum(path.startswith("images/") for path in subset.entries) == 5


def test_an_export_without_tooth_boxes_gives_no_tooth_subset(tmp_path: Path, store: Store) -> None:
    """A tooth detector that learned from no tooth would find none, and say nothing about why."""
    builder = ExportBuilder(tmp_path)
    builder.image("train", {"caries": [[1, 1, 5, 5]]})
    builder.image("test", {"11": [[6, 5, 10, 12]]})
    splits = normalise_export(store, ingest_export(builder.write(), store))

    with pytest.raises(DataError, match=r"No training image of this export has a tooth box.*without --with-teeth"):
        select_teeth(store, splits)


def test_annotation_ids_stay_those_of_the_splits_they_came_from(store: Store, normalised: Manifest) -> None:
    """A finding can be traced from the subset to the splits by its id."""
    whole = {a["id"]: a for a in read_split(store, normalised, "valid").to_coco()["annotations"]}

    for annotation in read_split(store, select_conditions(store, normalised), "valid").to_coco()["annotations"]:
        assert annotation["bbox"] == whole[annotation["id"]]["bbox"]


def test_subsets_are_stable_and_hold_no_identifier(store: Store, normalised: Manifest, stems: list[str]) -> None:
    """The digest is the identity that checkpoints and releases name."""
    subset = select_conditions(store, normalised)

    assert select_conditions(store, normalised).digest == subset.digest
    assert find_identifiers(store, subset, stems=stems) == []
