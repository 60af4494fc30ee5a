"""The exchange forms, read back by the libraries that strangers would use."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dentsight_pipeline.data import exchange
from dentsight_pipeline.errors import DataError

CLASSES = ["caries", "calculus", "missing"]


def jpeg(seed: int, size: int = 32) -> bytes:
    """A small grayscale JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size * 2), dtype=np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def split_of(count: int) -> dict[str, Any]:
    """A COCO split; every third image has no annotation, the others two."""
    images, annotations = [], []
    for number in range(1, count + 1):
        digest = hashlib.sha256(jpeg(number)).hexdigest()
        images.append(
            {
                "id": number,
                "file_name": f"images/{digest}.jpg",
                "width": 64,
                "height": 32,
                "sha256": digest,
                "source_group": digest,
                "clean": number % 2 == 0,
                "partial_annotation": False,
                "flags": [],
            }
        )
        for category in () if number % 3 == 0 else (1, 3):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [1, 2.25, 10.5, 4.0],
                    "area": 42.0,
                    "iscrowd": 0,
                    "segmentation": [],
                    "raw_name": "x",
                    "loose": category == 3,
                }
            )
    categories = [{"id": i, "name": name, "supercategory": "condition"} for i, name in enumerate(CLASSES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def bytes_of(image: dict[str, Any]) -> bytes:
    """The bytes of an image of `split_of`."""
    return jpeg(image["id"])


def test_one_line_of_hugging_face_datasets_loads_images_boxes_and_class_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise to a reader who does not know this project: `load_dataset("parquet", …)` and nothing else."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    exchange.write_parquet(split_of(5), bytes_of, tmp_path / "train.parquet")

    loaded = datasets.load_dataset(
        "parquet", data_files={"train": str(tmp_path / "train.parquet")}, cache_dir=str(tmp_path / "cache")
    )["train"]

    first, third = loaded[0], loaded[2]
    assert first["image"].size == (64, 32)
    assert first["objects"] == {
        "id": [1, 2],
        "bbox": [[1.0, 2.25, 10.5, 4.0]] * 2,
        "category": [0, 2],
        "area": [42.0, 42.0],
        "loose": [False, True],
    }
    assert third["objects"]["bbox"] == []
    assert loaded.features["objects"]["category"].feature.names == CLASSES
    assert loaded["clean"] == [False, True, False, True, False]
    raw = loaded.cast_column("image", datasets.Image(decode=False))[1]["image"]["bytes"]
    assert raw == jpeg(2)


def test_the_same_split_gives_the_same_bytes(tmp_path: Path) -> None:
    """The file's digest goes into the dataset's digest: two machines must agree."""
    exchange.write_parquet(split_of(7), bytes_of, tmp_path / "a.parquet")
    exchange.write_parquet(split_of(7), bytes_of, tmp_path / "b.parquet")

    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_row_groups_are_closed_by_size_so_that_memory_stays_constant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50,000 images of one megabyte must not pass through memory at once."""
    import pyarrow.parquet as pq

    monkeypatch.setattr(exchange, "ROW_GROUP_BYTES", 3 * len(jpeg(1)))

    exchange.write_parquet(split_of(10), bytes_of, tmp_path / "train.parquet")

    file = pq.ParquetFile(tmp_path / "train.parquet")
    assert file.metadata.num_rows == 10
    assert file.metadata.num_row_groups >= 3


def test_a_split_without_images_is_an_empty_table_with_the_same_columns(tmp_path: Path) -> None:
    """A subset may leave a split empty; its reader still finds the schema."""
    import pyarrow.parquet as pq

    exchange.write_parquet(split_of(0), bytes_of, tmp_path / "test.parquet")
    exchange.write_parquet(split_of(1), bytes_of, tmp_path / "one.parquet")

    assert pq.read_table(tmp_path / "test.parquet").num_rows == 0
    assert pq.read_schema(tmp_path / "test.parquet").equals(pq.read_schema(tmp_path / "one.parquet"))


def test_a_failure_in_the_middle_leaves_no_file(tmp_path: Path) -> None:
    """A half-written Parquet file has no footer, but it has a name that others would trust."""

    def failing(image: dict[str, Any]) -> bytes:
        if image["id"] == 4:
            raise OSError("disk gone")
        return bytes_of(image)

    with pytest.raises(OSError, match="disk gone"):
        exchange.write_parquet(split_of(5), failing, tmp_path / "train.parquet")

    assert list(tmp_path.iterdir()) == []


def test_gaps_in_the_category_ids_are_refused(tmp_path: Path) -> None:
    """A class label is the id minus one; with a gap every later class would silently be its neighbour."""
    coco = split_of(1)
    coco["categories"][2]["id"] = 7

    with pytest.raises(DataError, match="class labels need 1 to 3"):
        exchange.write_parquet(coco, bytes_of, tmp_path / "train.parquet")


def test_an_orphan_annotation_is_refused(tmp_path: Path) -> None:
    """It would vanish without a trace from a table that has one row an image."""
    coco = split_of(1)
    coco["annotations"][0]["image_id"] = 99

    with pytest.raises(DataError, match="names image 99"):
        exchange.write_parquet(coco, bytes_of, tmp_path / "train.parquet")


def test_the_croissant_document_validates_and_its_records_can_be_read(tmp_path: Path) -> None:
    """`mlcroissant` is the reference reader: it checks the document, the files' hashes and every field."""
    import mlcroissant

    splits = {}
    (tmp_path / "parquet").mkdir()
    for split, count in (("train", 4), ("test", 2)):
        path = tmp_path / "parquet" / f"{split}.parquet"
        exchange.write_parquet(split_of(count), bytes_of, path)
        splits[split] = (f"parquet/{split}.parquet", hashlib.sha256(path.read_bytes()).hexdigest(), count)
    document = exchange.croissant("opg-reporting-v8", "CC BY 4.0", "Panoramic X-rays.", splits, CLASSES)
    (tmp_path / "croissant.json").write_text(json.dumps(document))

    dataset = mlcroissant.Dataset(jsonld=str(tmp_path / "croissant.json"))
    records = list(dataset.records("train"))

    assert dataset.metadata.issues.errors == set()
    assert len(records) == 4
    assert records[1]["train/clean"]
    assert records[1]["train/image"].size == (64, 32)
    assert list(records[0]["train/objects"]["train/objects/category"]) == [0, 2]
    assert [str(record["classes/name"]) for record in dataset.records("classes")] == CLASSES


def test_writing_needs_neither_datasets_nor_mlcroissant() -> None:
    """Both take seconds to import, and a GPU worker has neither."""
    code = (
        "import sys, dentsight_pipeline.data.exchange\n"
        "print(sorted({'datasets', 'mlcroissant', 'pandas', 'torch'} & set(sys.modules)))"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"
