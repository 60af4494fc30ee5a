"""Folds of a subset: the same images, parted anew by source, so that a model can be asked about all that it never saw.

Held out of fold k (its `test`) is every source whose turn it is; of the rest a tenth is validated on, so that the step
that is kept was not chosen by looking at what is held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa

from dentsight_pipeline.data.normalise import split_counts
from dentsight_pipeline.data.splits import read_splits, split_tables, store_tables
from dentsight_pipeline.data.subset import narrowed
from dentsight_pipeline.documents.annotations import IMAGES, Split
from dentsight_pipeline.documents.facts import Leakage, SplitLeakage, SubsetFacts
from dentsight_pipeline.documents.names import SPLITS, Asset, Kind
from dentsight_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

_VALIDATED = 10
"""Every tenth source that is not held out is validated on."""


def publish_fold(store: Store, subset: Manifest, number: int, of: int) -> Manifest:
    """One fold of a subset, as a subset of the same kind whose `test` no source of `train` or `valid` is in.

    Args:
        store: Where the subset is and the fold goes.
        subset: With the published splits.
        number: Which fold, from 1.
        of: How many there are; together their `test` splits are the subset.

    Raises:
        ConfigurationError: Fewer than two folds, or fewer than two sources for each.
    """
    from dentsight_pipeline.store.content import build

    parts = list(read_splits(store, subset).values())
    names = _splits_of(parts, number, of)
    folded = [_part(parts, names == name, name) for name in SPLITS]
    facts = msgspec.structs.replace(
        subset.facts_as(SubsetFacts),
        splits={split.name: split_counts(split) for split in folded},
        leakage=Leakage(pairs={}, **{split.name: _nothing_shared(split) for split in folded[1:]}),
        fold=(number, of),
    )
    files = {path: entry for path, entry in subset.entries.items() if path.startswith("images/")}
    files |= store_tables(store, split_tables(folded))
    inputs = {Kind(subset.kind).asset: subset.digest, Asset.NORMALIZED_SPLITS: subset.inputs[Asset.NORMALIZED_SPLITS]}
    manifest = build(store, Kind(subset.kind), files, inputs, facts)
    if not store.has_manifest(manifest.digest):
        store.put_manifest(manifest)
    return manifest


def _splits_of(parts: Sequence[Split], number: int, of: int) -> NDArray[np.str_]:
    """`[images]` the split of each in this fold: sources are dealt out in turn, those of each export together."""
    rows = [row for part in parts for row in zip(*(part.images[c].to_pylist() for c in _DEALT), strict=True)]
    turn: dict[str, int] = {}
    for _, source in sorted(rows):
        turn.setdefault(source, len(turn))
    if of < 2 or len(turn) < 2 * of:
        raise ConfigurationError(
            f"{of} folds of {len(turn)} sources were asked for. Ask for at least 2, and for at most half as many as "
            "there are sources (`folds` of label_review)."
        )
    turns = np.array([turn[source] for _, source in rows])
    validated = np.where(turns // of % _VALIDATED == 0, "valid", "train")
    return np.where(turns % of == number - 1, "test", validated)


_DEALT = ("export", "source_group")


def _part(parts: Sequence[Split], keep: NDArray[np.bool_], name: str) -> Split:
    """The images of a fold's split, out of all published ones."""
    images, annotations = (
        pa.concat_tables([getattr(part, table) for part in parts]) for table in ("images", "annotations")
    )
    alone = pa.array(np.ones(len(images), bool))
    images = images.set_column(IMAGES.get_field_index("clean"), IMAGES.field("clean"), alone)
    return narrowed(Split(name, parts[0].classes, images, annotations), parts[0].classes, keep)


def _nothing_shared(split: Split) -> SplitLeakage:
    images = len(split.images)
    return SplitLeakage(images=images, shared_with_train=0, shared_with_any=0, clean=images)
