"""The exchange forms, read back by the libraries that strangers would use."""

from __future__ import annotations

import json
from itertools import compress
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data import exchange
from dentsight_pipeline.data.croissant import write_croissant
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.ontology import CONDITIONS
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.annotations import ANNOTATIONS, IMAGES, Split
from dentsight_pipeline.documents.facts import SplitsFacts, SubsetFacts
from dentsight_pipeline.documents.mapping import OwnMapping
from dentsight_pipeline.errors import ConfigurationError, IntegrityError
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.intake.inspect import inspect_export
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, whole_export

BOXES = [[1.0, 2.25, 10.5, 4.0], [30.0, 2.25, 10.5, 4.0]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> ExportBuilder:
    """Five training images: two boxes, none, two, one and one."""
    builder = whole_export(tmp_path_factory.mktemp("export"))
    for boxes in ({"caries": BOXES}, {"crown": [[5, 5, 9, 9]]}):
        builder.image("train", boxes)
    return builder


@pytest.fixture(scope="module")
def subset(store: Store, export: ExportBuilder) -> Manifest:
    return select_conditions(store, normalise_export(store, ingest_export(export.write(), store)))


def loaded(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a stranger's one line gives."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def test_one_line_of_hugging_face_datasets_loads_images_boxes_and_class_names(
    tmp_path: Path, store: Store, subset: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise to a reader who does not know this project: `load_dataset(DIR)` and nothing else."""
    exchange.write_huggingface(store, subset, tmp_path / "hf")

    found = loaded(tmp_path / "hf", tmp_path / "cache", monkeypatch)

    assert {name: len(rows) for name, rows in found.items()} == {"train": 5, "valid": 1, "test": 1}
    train = found["train"]
    assert train[3]["image"].size == (64, 48)
    assert train[3]["objects"]["bbox"] == BOXES
    assert train[3]["objects"]["category"] == [0, 0]
    assert train[3]["objects"]["area"] == [42.0, 42.0]
    assert train[2]["objects"]["bbox"] == []
    assert train.features["objects"]["category"].feature.names == list(CONDITIONS)
    assert train[2]["covered"] == list(range(13))
    assert train.features["covered"].feature.names == list(CONDITIONS)
    split = read_split(store, subset, "train")
    for name in ("sha256", "source_group", "clean", "width", "partial_annotation"):
        assert list(train[name]) == split.images[name].to_pylist()
    assert [number for row in train["objects"] for number in row["id"]] == split.annotations["id"].to_pylist()


def test_the_images_in_the_table_are_the_stored_bytes(
    tmp_path: Path, store: Store, subset: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoded once more, a JPEG is another image."""
    import datasets

    exchange.write_huggingface(store, subset, tmp_path / "hf")
    rows = loaded(tmp_path / "hf", tmp_path / "cache", monkeypatch)["train"]

    for row in rows.cast_column("image", datasets.Image(decode=False)):
        assert row["image"]["bytes"] == store.get_bytes(row["sha256"])


def test_the_same_subset_gives_the_same_bytes(tmp_path: Path, store: Store, subset: Manifest) -> None:
    """Croissant names the files' digests: two people who export one subset must agree."""
    first, second = (exchange.write_huggingface(store, subset, tmp_path / name) for name in ("a", "b"))

    assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in second.values()]


def test_row_groups_are_closed_by_size_so_that_memory_stays_constant(
    tmp_path: Path, store: Store, subset: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50,000 images of one megabyte must not pass through memory at once."""
    import pyarrow.parquet as pq

    monkeypatch.setattr(exchange, "ROW_GROUP_BYTES", 1)

    file = pq.ParquetFile(exchange.write_huggingface(store, subset, tmp_path / "hf")["train"])

    assert (file.metadata.num_rows, file.metadata.num_row_groups) == (5, 5)
    assert [len(objects["id"]) for objects in file.read()["objects"].to_pylist()] == [1, 3, 0, 2, 1]


def test_a_split_without_images_is_an_empty_table_with_the_same_columns(
    tmp_path: Path, store: Store, subset: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subset may leave a split empty; its reader still finds the schema."""
    import pyarrow.parquet as pq

    whole = {name: read_split(store, subset, name) for name in ("train", "test")}
    empty = Split("test", CONDITIONS, IMAGES.empty_table(), ANNOTATIONS.empty_table())
    monkeypatch.setattr(exchange, "read_splits", lambda store, subset: whole | {"test": empty})

    files = exchange.write_huggingface(store, subset, tmp_path / "hf")

    assert pq.read_table(files["test"]).num_rows == 0
    assert pq.read_schema(files["test"]).equals(pq.read_schema(files["train"]))


def test_a_failure_in_the_middle_leaves_no_file(
    tmp_path: Path, store: Store, subset: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-written Parquet file has no footer, but it has a name that others would trust."""
    monkeypatch.setattr(exchange, "ROW_GROUP_BYTES", 1)
    images = read_split(store, subset, "train").images["sha256"].to_pylist()

    def failing(digest: str) -> bytes:
        if digest == images[3]:
            raise IntegrityError("An object", digest, None, "Restore it.")
        return Store.get_bytes(store, digest)

    monkeypatch.setattr(store, "get_bytes", failing)
    with pytest.raises(IntegrityError):
        exchange.write_huggingface(store, subset, tmp_path / "hf")

    assert list((tmp_path / "hf").iterdir()) == []


def test_a_folder_that_holds_something_is_refused(tmp_path: Path, store: Store, subset: Manifest) -> None:
    """`load_dataset` reads whatever lies there: two exports mixed would be one wrong dataset."""
    (tmp_path / "other.parquet").write_bytes(b"")

    for write in (exchange.write_huggingface, exchange.write_coco):
        with pytest.raises(ConfigurationError, match="is not empty"):
            write(store, subset, tmp_path)


def test_the_coco_folder_is_an_export_that_is_read_back(tmp_path: Path, store: Store, subset: Manifest) -> None:
    """Whoever gets it can put it through this pipeline, or through any tool that reads Roboflow's layout."""
    exchange.write_coco(store, subset, tmp_path / "coco")

    report = inspect_export(tmp_path / "coco", source="canonical")
    train = json.loads((tmp_path / "coco" / "train" / "_annotations.coco.json").read_text())

    assert report.refusals == ()
    facts = subset.facts_as(SubsetFacts)
    for name in CONDITIONS:
        assert report.classes[name]["train"] == facts.splits["train"].class_counts[name]
    assert train["annotations"] == [
        dict(sorted(row.items())) for row in read_split(store, subset, "train").to_coco()["annotations"]
    ]
    for image in train["images"]:
        assert (tmp_path / "coco" / "train" / image["file_name"]).read_bytes() == store.get_bytes(image["sha256"])


def test_what_was_looked_for_and_the_licence_come_back_with_a_coco_folder(tmp_path: Path, store: Store) -> None:
    """Without them somebody else's negatives would be images that nobody had looked at."""
    builder = ExportBuilder(tmp_path / "export", names=("root", "Cavity", "Implant"))
    for _ in range(2):
        builder.image("train", {"Cavity": BOXES})
    builder.image("test", {"Implant": [[5, 5, 9, 9]]})
    declared = OwnMapping(
        source="mine",
        licence="CC BY-NC 4.0",
        covers=("caries", "implant", "bridge"),
        images={builder.file_of("test", 0).name: ("implant",)},
    )
    raw = ingest_export(builder.write(), store, Request(mapping=declared))
    subset = select_conditions(store, normalise_export(store, raw))

    exchange.write_coco(store, subset, tmp_path / "coco")
    again = normalise_export(store, ingest_export(tmp_path / "coco", store))

    assert again.facts_as(SplitsFacts).corpus.licence == "CC BY 4.0; CC BY-NC 4.0"
    for name, classes in (("train", ["caries", "bridge", "implant"]), ("test", ["implant"])):
        there = read_split(store, select_conditions(store, again), name)
        assert list(compress(CONDITIONS, there.covered[0])) == classes


def test_no_original_name_leaves_with_an_export(
    tmp_path: Path, store: Store, subset: Manifest, export: ExportBuilder
) -> None:
    """What is exported is what is handed on."""
    parquet = exchange.write_huggingface(store, subset, tmp_path / "hf")
    write_croissant(subset, parquet, tmp_path / "hf" / "croissant.json")
    exchange.write_coco(store, subset, tmp_path / "coco")

    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert not any(stem.encode() in file.read_bytes() for stem in export.stems()), file.name
            assert not any(stem in file.name for stem in export.stems())


@pytest.mark.parametrize("place", ["hf/croissant.json", "croissant.json"])
def test_the_croissant_document_validates_and_its_records_can_be_read(
    tmp_path: Path, store: Store, subset: Manifest, place: str
) -> None:
    """`mlcroissant` is the reference reader: it checks the document, the files' hashes and every field."""
    import mlcroissant

    parquet = exchange.write_huggingface(store, subset, tmp_path / "hf")
    write_croissant(subset, parquet, tmp_path / place)

    dataset = mlcroissant.Dataset(jsonld=str(tmp_path / place))
    records = list(dataset.records("train"))

    assert dataset.metadata.issues.errors == set()
    assert len(records) == 5
    assert records[1]["train/clean"]
    assert records[1]["train/image"].size == (64, 48)
    assert list(records[3]["train/objects"]["train/objects/category"]) == [0, 0]
    assert list(records[3]["train/covered"]) == list(range(13))
    assert dataset.metadata.license == ["CC BY 4.0"]
    assert [str(record["classes/name"]) for record in dataset.records("classes")] == list(CONDITIONS)
