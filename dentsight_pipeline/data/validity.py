"""What makes a box useless or misleading, and a class inexplicable, column by column. `checks.py` says it to people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dentsight_pipeline.documents.annotations import Split

EDGE_TOLERANCE_PX = 1e-6


@dataclass(frozen=True)
class Problem:
    """One box that cannot be."""

    split: str
    annotation: int
    """Its id."""
    problem: str
    """In words."""


def box_problems(splits: Iterable[Split], shown: int) -> tuple[int, int, list[Problem]]:
    """How many boxes there are, how many of them cannot be, and the first `shown` of these.

    A box is finite, has an area and lies in an image of its split; its id is at least 1 and unique over all splits.
    """
    boxes = bad = 0
    first: list[Problem] = []
    seen = np.empty(0, dtype=np.int64)
    for split in splits:
        ids = split.annotations["id"].to_numpy()
        rules = _rules(split, _met_before(ids, seen))
        seen = np.concatenate([seen, ids])
        broken = np.select([mask for mask, _ in rules], range(len(rules)), default=-1)  # the first rule that it breaks
        rows = np.flatnonzero(broken >= 0).tolist()
        boxes, bad = boxes + len(ids), bad + len(rows)
        some = rows[: shown - len(first)]
        first += [Problem(split.name, int(ids[row]), rules[broken[row]][1](row)) for row in some]
    return boxes, bad, first


def _met_before(ids: NDArray[np.int64], seen: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an id was there before, in `seen` or above it, shape [n]."""
    again = np.ones(len(ids), dtype=bool)
    again[np.unique(ids, return_index=True)[1]] = False
    return again | np.isin(ids, seen)


def _rules(split: Split, met_before: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], Callable[[int], str]]]:
    """What may be wrong with an annotation: where it is, shape [n], and in words for one row."""
    ids, area = (split.annotations[name].to_numpy() for name in ("id", "area"))
    boxes, images = split.boxes_xywh_px, split.annotation_image_ids
    sizes = _image_sizes(split)
    outside = (boxes[:, :2] < -EDGE_TOLERANCE_PX) | (boxes[:, :2] + boxes[:, 2:] > sizes + EDGE_TOLERANCE_PX)
    return [
        (np.isnan(sizes[:, 0]), lambda row: f"image {images[row]} is not in this split"),
        (ids < 1, lambda row: "id is less than 1, which pycocotools reads as 'unmatched'"),
        (~np.isfinite(boxes.sum(axis=1) + area), lambda row: "box or area is not finite"),
        (boxes[:, 2:].min(axis=1) <= 0, lambda row: "box of {} × {} px has no area".format(*boxes[row, 2:].tolist())),
        (
            outside[:, 0] | outside[:, 1],
            lambda row: "box {} reaches out of {:.0f} × {:.0f} px".format(boxes[row].tolist(), *sizes[row]),
        ),
        (met_before, lambda row: "id is used before"),
    ]


def _image_sizes(split: Split) -> NDArray[np.float64]:
    """Width and height of each annotation's image in px, NaN where the split has no such image, shape [n, 2]."""
    there = np.isin(split.annotation_image_ids, split.image_ids)
    rows = np.searchsorted(split.image_ids, split.annotation_image_ids[there])
    sizes = np.full((len(there), 2), np.nan)
    sizes[there] = np.stack([split.images[side].to_numpy() for side in ("width", "height")], axis=1)[rows]
    return sizes


def wrong_classes(splits: Iterable[Split], known: Mapping[str, Sequence[str]]) -> Counter[tuple[str, str]]:
    """Raw name and class of annotations that have no such class by `known` (raw name → classes), and how many."""
    wrong: Counter[tuple[str, str]] = Counter()
    for split in splits:
        labels = split.annotations["raw_name"].unify_dictionaries().combine_chunks()
        raw_names, names = labels.dictionary.to_pylist(), dict(enumerate(split.classes, start=1))
        pairs = np.stack([labels.indices.to_numpy(), split.category_ids], axis=1)
        for (code, category), count in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
            raw_name, name = raw_names[code], names.get(int(category), f"category {category}")
            if name not in known.get(raw_name, ()):
                wrong[raw_name, name] += int(count)
    return wrong
