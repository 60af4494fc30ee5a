"""A subset in the forms that others read: a folder for Hugging Face `datasets`, COCO files with their images.

Written on request and read by nothing here. Croissant metadata is made in `croissant.py`; `datasets` takes seconds to
import, so only the command that exports imports this module.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import ClassLabel, Features, Image, List, Value

from dentsight_pipeline.data.json_blocks import Content, json_blocks
from dentsight_pipeline.data.ontology import names_of
from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.documents.licences import strictest
from dentsight_pipeline.documents.mapping import OwnMapping
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.files import refuse_full, written_whole

if TYPE_CHECKING:
    from dentsight_pipeline.documents.annotations import Split
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

ROW_GROUP_BYTES = 32 * 2**20
"""Image bytes after which a row group is closed: what is held in memory."""

CARD = "README.md"
"""The dataset card, in which `datasets` looks for the splits."""


def write_huggingface(
    store: Store, subset: Manifest, folder: Path, progress: Progress | None = None
) -> dict[str, Path]:
    """Write a folder that `datasets.load_dataset(folder)` loads, images inside.

    One Parquet file a split and one row an image: `image_id`, `image` (the encoded bytes, decoded on access), `width`,
    `height`, `sha256`, `source_group`, `clean`, `partial_annotation`, `covered` (labels that were looked for: an image
    without a box is a negative of those alone) and `objects`, which holds lists of equal length: `id`, `bbox` ([x, y,
    width, height], pixels), `category` (a `ClassLabel`: category id - 1), `area` (px²) and `loose`. An image without
    annotations has empty lists.

    Args:
        store: Where the subset is.
        subset: A manifest of kind `condition-subset` or `tooth-subset`.
        folder: A new or empty folder.
        progress: Called with stage, done and total.

    Returns:
        The Parquet file of each split.

    Raises:
        ConfigurationError: The folder holds something.
        IntegrityError: An image is missing or was changed.
    """
    new_folder(folder)
    splits = read_splits(store, subset)
    files = {name: folder / f"{name}.parquet" for name in splits}
    for number, (name, split) in enumerate(splits.items()):
        if progress:
            progress("parquet", number, len(splits))
        _write_parquet(store, split, files[name])
    (folder / CARD).write_text(_card(subset, list(splits)), "utf-8")
    return files


def new_folder(folder: Path) -> None:
    """Makes a folder.

    Raises:
        ConfigurationError: There is one that holds something, or a file.
    """
    refuse_full(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _write_parquet(store: Store, split: Split, out: Path) -> None:
    """One split, row group by row group; the file appears whole or not at all."""
    schema = features(split.classes).arrow_schema
    # Images are compressed already, and the other columns are small.
    plain = {"compression": "none", "use_dictionary": False}
    with written_whole(out) as partial, pq.ParquetWriter(partial, schema, **plain) as writer:
        for first, images in _groups(store, split):
            writer.write_table(_rows(split, first, images, schema))


def features(classes: Sequence[str]) -> Features:
    """The columns as `datasets` knows them."""
    objects = {
        "id": List(Value("int64")),
        "bbox": List(List(Value("float64"), length=4)),
        "category": List(ClassLabel(names=list(classes))),
        "area": List(Value("float64")),
        "loose": List(Value("bool")),
    }
    numbers = {name: Value("int64") for name in ("width", "height")}
    texts = {name: Value("string") for name in ("sha256", "source_group")}
    flags = {name: Value("bool") for name in ("clean", "partial_annotation")}
    covered = {"covered": List(ClassLabel(names=list(classes)))}
    first = {"image_id": Value("int64"), "image": Image()}
    return Features({**first, **numbers, **texts, **flags, **covered, "objects": objects})


def _groups(store: Store, split: Split) -> Iterator[tuple[int, list[bytes]]]:
    """The first row and the encoded images of each row group, of bounded size."""
    first, images, size = 0, [], 0
    for row, digest in enumerate(split.images["sha256"].to_pylist(), start=1):
        images.append(store.get_bytes(digest))
        size += len(images[-1])
        if size >= ROW_GROUP_BYTES or row == len(split.images):
            yield first, images
            first, images, size = row, [], 0


def _rows(split: Split, first: int, images: list[bytes], schema: pa.Schema) -> pa.Table:
    """The rows from `first` on, one for each image."""
    ends = split.offsets[first : first + len(images) + 1]
    rows = split.images.slice(first, len(images))
    boxes = split.annotations.slice(ends[0], ends[-1] - ends[0])
    values = {name: boxes[name].combine_chunks() for name in ("id", "bbox", "area", "loose")}
    values["category"] = pa.array(split.category_ids[ends[0] : ends[-1]].astype(np.int64) - 1)
    names = [PurePosixPath(name).name for name in rows["file_name"].to_pylist()]
    lists = {name: pa.ListArray.from_arrays(pa.array(ends - ends[0], pa.int32()), v) for name, v in values.items()}
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        **{name: rows[name] for name in rows.column_names if name in schema.names},
        "covered": _labels(rows["covered"]),
        "image_id": rows["id"],
        "image": pa.array([{"bytes": data, "path": name} for data, name in zip(images, names, strict=True)]),
        "objects": pa.StructArray.from_arrays(
            [lists[field.name].cast(field.type) for field in schema.field("objects").type],
            fields=list(schema.field("objects").type),
        ),
    }
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _labels(covered: pa.ChunkedArray) -> pa.ListArray:
    """Class labels (category id - 1) of a column of category ids."""
    lists = covered.combine_chunks()
    offsets = np.concatenate([[0], lists.value_lengths().to_numpy().cumsum()])
    ids = lists.flatten().to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids.astype(np.int64) - 1))


def _card(subset: Manifest, splits: Sequence[str]) -> str:
    """The dataset card: where `load_dataset` finds the splits, and what a reader must know."""
    files = [{"split": name, "path": f"{name}.parquet"} for name in splits]
    head = {
        "license": strictest([subset.facts_as(SubsetFacts).corpus.licence]).id,
        "configs": [{"config_name": "default", "data_files": files}],
        "task_categories": ["object-detection"],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {subset.kind}\n\n{description(subset)}\n"


def description(subset: Manifest) -> str:
    """A subset in a few sentences for people; says that phantoms are phantoms."""
    facts = subset.facts_as(SubsetFacts)
    loose = f"Loosely marked at the source: {', '.join(facts.loose_classes)}. " if facts.loose_classes else ""
    return (
        f"Panoramic dental X-rays with boxes of {len(facts.classes)} classes, from {facts.corpus.name}. "
        f"Licence: {facts.corpus.licence}. "
        f"Labels of the source {facts.mapping.source!r}, mapping {facts.mapping.digest}. {loose}"
        "A class without a box in an image says nothing where it is not among those looked for (`covered`). "
        "Images whose field `clean` is false share their source with another split. Not for clinical decisions. "
        f"Made by dentsight_pipeline from the subset {subset.digest}."
    )


def write_coco(store: Store, subset: Manifest, folder: Path, progress: Progress | None = None) -> list[Path]:
    """Write each split as `<split>/_annotations.coco.json` with its images beside it, as Roboflow's exports lie.

    `dentsight.yaml` says what was looked for and under which licence, so that it is not lost when it is read again.

    Args:
        store: Where the subset is.
        subset: A manifest of kind `condition-subset` or `tooth-subset`.
        folder: A new or empty folder.
        progress: Called with stage, done and total.

    Returns:
        The annotation files.

    Raises:
        ConfigurationError: The folder holds something.
        IntegrityError: An image is missing or was changed.
    """
    new_folder(folder)
    files = []
    splits = read_splits(store, subset)
    for number, (name, split) in enumerate(splits.items()):
        if progress:
            progress("coco", number, len(splits))
        (folder / name).mkdir()
        names = [PurePosixPath(path).name for path in split.images["file_name"].to_pylist()]
        for digest, image in zip(split.images["sha256"].to_pylist(), names, strict=True):
            shutil.copyfile(store.local_path(digest), folder / name / image)
        files.append(folder / name / "_annotations.coco.json")
        with files[-1].open("wb") as file:
            file.writelines(json_blocks(_coco(subset, split, names)))
    (folder / "dentsight.yaml").write_text(_own_mapping(subset, [*splits.values()]), "utf-8")
    return files


def _own_mapping(subset: Manifest, splits: Sequence[Split]) -> str:
    """How the files are to be read again; images that differ from most in what was looked for are named."""
    looked_for = {
        PurePosixPath(path).name: names_of(compress(split.classes, row))
        for split in splits
        for path, row in zip(split.images["file_name"].to_pylist(), split.covered, strict=True)
    }
    most = Counter(looked_for.values()).most_common(1)[0][0] if looked_for else ()
    own = OwnMapping(
        source=f"{subset.kind}-{subset.digest[:8]}",
        licence=subset.facts_as(SubsetFacts).corpus.licence,
        covers=most,
        images={name: words for name, words in looked_for.items() if words != most},
    )
    return yaml.safe_dump(codec.plain(own), sort_keys=False, allow_unicode=True)


def _coco(subset: Manifest, split: Split, names: Sequence[str]) -> Content:
    """The split's COCO document, long lists as tables."""
    images, annotations, categories = split.coco_tables()
    place = images.schema.get_field_index("file_name")
    return {
        "info": {"description": description(subset)},
        "categories": categories,
        "images": images.set_column(place, "file_name", pa.array(names)),
        "annotations": annotations,
    }
