"""Narrows normalised splits to what one stage is to find: the 13 conditions, or the 32 teeth.

Add a subset here when a model is to find other classes. Repairs and mappings belong in `normalise.py`; the forms in
which others read a subset are written by `exchange.py`, on request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dentsight_pipeline.data.normalise import split_counts
from dentsight_pipeline.data.ontology import CONDITIONS, TEETH
from dentsight_pipeline.data.splits import read_splits, split_tables, store_tables
from dentsight_pipeline.documents.annotations import ANNOTATIONS, IMAGES, Split, covered_column
from dentsight_pipeline.documents.facts import SplitsFacts, SubsetFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

_CARRIED = ("corpus", "source", "privacy", "mapping", "repairs", "leakage", "dropped", "exports", "corrections")


def select_conditions(store: Store, normalized: Manifest) -> Manifest:
    """The splits narrowed to the 13 conditions that stage 2 is to find, category ids 1–13.

    An image that loses all its annotations stays: it is a true negative for the conditions kept, and dropping it would
    overstate precision. One in which nobody looked for any condition says nothing about them, and is left out.

    Args:
        store: Where the splits are, and the subset goes.
        normalized: A manifest of kind `normalized-splits`.

    Returns:
        The published manifest of kind `condition-subset`.

    Raises:
        DataError: No training image was looked at for any condition.
    """
    splits = {name: looked_at(split, CONDITIONS) for name, split in read_splits(store, normalized).items()}
    if "train" in splits and not len(splits["train"].images):
        raise DataError(
            "No training image of this export was looked at for any of the 13 conditions, so no detector of conditions "
            "can learn from it. Train teeth alone with --stage teeth. If its annotators did look, declare them with "
            "`covers` in a mapping of your own: `dentsight inspect EXPORT --write-mapping FILE` writes one."
        )
    return _publish(store, normalized, Kind.CONDITION_SUBSET, CONDITIONS, splits)


def select_teeth(store: Store, normalized: Manifest) -> Manifest:
    """The splits narrowed to the 32 teeth that stage 1 is to find, category ids 1–32.

    Images in which nobody looked for teeth are left out, as are those with conditions but no tooth boxes: they are no
    negatives.

    Args:
        store: Where the splits are, and the subset goes.
        normalized: A manifest of kind `normalized-splits`.

    Returns:
        The published manifest of kind `tooth-subset`.

    Raises:
        DataError: No training image has a tooth box, so there is nothing to learn teeth from.
    """
    train = normalized.facts_as(SplitsFacts).splits.get("train")
    if train is None or not any(train.class_counts[tooth] for tooth in TEETH):
        raise DataError(
            "No training image of this export has a tooth box (FDI 11 … 48), so no tooth detector can learn from it. "
            "Run without --with-teeth, or use an export whose teeth are annotated."
        )
    splits = {name: looked_at(split, TEETH) for name, split in read_splits(store, normalized).items()}
    return _publish(store, normalized, Kind.TOOTH_SUBSET, TEETH, splits)


def looked_at(split: Split, classes: Sequence[str]) -> Split:
    """One split with only these classes, and only the images that were looked at for any of them."""
    of_them = split.covered[:, [split.classes.index(name) for name in classes]]
    return narrowed(split, classes, np.any(of_them, axis=1))


def narrowed(split: Split, classes: Sequence[str], keep: NDArray[np.bool_] | None = None) -> Split:
    """One split with only these classes, in their order, as category ids from 1.

    Args:
        split: With more classes.
        classes: Those that stay.
        keep: Which images stay, shape [images], all by default; their ids and those of their boxes do not change.
    """
    new_id = np.zeros(len(split.classes) + 1, dtype=np.int16)
    new_id[[split.classes.index(name) + 1 for name in classes]] = np.arange(1, len(classes) + 1)
    category = new_id[split.category_ids]
    covered = covered_column(split.covered[:, [split.classes.index(name) for name in classes]])
    images = _with_column(split.images, IMAGES, "covered", covered)
    images = images if keep is None else images.filter(pa.array(keep))
    kept = (category > 0) & np.isin(split.annotation_image_ids, images["id"].to_numpy())
    annotations = _with_column(
        split.annotations.filter(pa.array(kept)), ANNOTATIONS, "category_id", pa.array(category[kept])
    )
    return Split(split.name, tuple(classes), images, annotations)


def _with_column(table: pa.Table, schema: pa.Schema, name: str, values: pa.Array) -> pa.Table:
    place = schema.get_field_index(name)
    return table.set_column(place, schema.field(place), values)


def _publish(
    store: Store, normalized: Manifest, kind: Kind, classes: Sequence[str], splits: Mapping[str, Split]
) -> Manifest:
    from dentsight_pipeline.store.content import build

    whole = normalized.facts_as(SplitsFacts)
    facts = SubsetFacts(
        **{name: getattr(whole, name) for name in _CARRIED},
        classes=tuple(classes),
        loose_classes=tuple(name for name in whole.loose_classes if name in classes),
        splits={name: split_counts(split) for name, split in splits.items()},
        images_left_out=sum(whole.splits[name].images - len(split.images) for name, split in splits.items()),
    )
    files = store_tables(store, split_tables(splits.values()))
    for split in splits.values():
        files |= {name: normalized.entries[name] for name in split.images["file_name"].to_pylist()}
    manifest = build(store, kind, files, {Asset.NORMALIZED_SPLITS: normalized.digest}, facts)
    if not store.has_manifest(manifest.digest):
        store.put_manifest(manifest)
    return manifest
