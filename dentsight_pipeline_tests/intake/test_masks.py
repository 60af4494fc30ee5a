"""Masks in run lengths become outlines; pycocotools is the witness."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from dentsight_pipeline.intake.masks import mask_polygons


def _blob() -> NDArray[np.uint8]:
    """Two parts, an ellipse and a rectangle at the edge, uint8 `[48, 64]`."""
    y, x = np.mgrid[:48, :64]
    blob = ((x - 20) / 14) ** 2 + ((y - 22) / 9) ** 2 <= 1
    blob[30:48, 50:64] = True
    return blob.astype(np.uint8)


def _lengths(mask: NDArray[np.uint8]) -> list[int]:
    flat = np.concatenate([[0], mask.T.ravel(), [0]]).astype(int)
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.array([0, *edges, mask.size])).tolist()


@pytest.mark.parametrize("compressed", [True, False])
def test_a_mask_in_run_lengths_becomes_its_outlines(compressed: bool) -> None:
    """Drawn again they cover the same pixels, but for the half that an outline through pixel middles cuts off."""
    blob = _blob()
    text = str(coco_mask.encode(np.asfortranarray(blob))["counts"], "ascii")  # pyright: ignore[reportCallIssue, reportArgumentType] - bytes
    counts: Any = text if compressed else _lengths(blob)

    outlines = mask_polygons({"size": [48, 64], "counts": counts}, (64, 48))
    again = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(cast(Any, outlines), 48, 64)))
    assert len(outlines) == 2
    assert (again & blob).sum() / (again | blob).sum() > 0.9
    assert [min(line[::2]) for line in sorted(outlines)] == [6.5, 50.5]


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [48, 64], "counts": "abc"},
        {"size": [48, 64], "counts": "é\ud83d"},
        {"size": [48, 64], "counts": "P" * 500},
        {"size": [48, 64], "counts": [10, 5]},
        {"size": [48, 64], "counts": [-1, 3073]},
        {"size": [48, 64], "counts": [3072]},
        {"size": [64, 48], "counts": [100, 2972]},
        {"size": [10**9, 10**9], "counts": [0, 10**18]},
        {"size": [48], "counts": [0, 48]},
        {"size": [48, 64], "counts": [True, 3071]},
        {"counts": [1]},
        "text",
        7,
    ],
)
def test_run_lengths_that_do_not_fit_give_nothing(mask: Any) -> None:
    """They are foreign numbers: nothing is drawn, allocated or guessed from them."""
    assert mask_polygons(mask, (64, 48)) == []
