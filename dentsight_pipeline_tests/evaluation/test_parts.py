"""Figures of a part of the images: what an export by itself would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dentsight_pipeline.evaluation.evaluate import Inputs, coco_inputs, evaluate
from dentsight_pipeline_tests.evaluation.conftest import random_set


def _given(exports: tuple[str, ...]) -> Inputs:
    return replace(coco_inputs(*random_set(3, groups=True), resamples=50), exports=exports)


def test_each_exports_figures_are_those_of_its_images_alone() -> None:
    """A model may be good on one set and useless on the other, and the mean of both would hide it."""
    exports = tuple("AB"[i % 2] for i in range(12))
    given = _given(exports)

    document = evaluate(given).document

    assert [part.export for part in document.by_export] == ["A", "B"]
    for part in document.by_export:
        mask = np.array(exports) == part.export
        alone = evaluate(replace(given, truth=given.truth.subset(mask), found=given.found.subset(mask), exports=()))
        population = alone.document.gated
        assert population is not None
        assert (part.images, part.groups) == (population.images, population.groups)
        own = {row.class_name: (row.n_gt, row.ap, row.ap50) for row in part.rows[:-1]}
        for row in population.per_class:
            assert own[row.class_name] == (row.n_gt, pytest.approx(row.ap), pytest.approx(row.ap50))
        assert part.rows[-1].ap50 == pytest.approx(population.macro.ap50)


def test_one_export_alone_is_no_part() -> None:
    """The table would say again what the page has said."""
    assert evaluate(_given(("A",) * 12)).document.by_export == ()
    assert evaluate(_given(())).document.by_export == ()


def test_a_class_that_an_export_did_not_look_for_is_no_row_of_it() -> None:
    """A figure there would be of nothing."""
    given = _given(("A",) * 6 + ("B",) * 6)
    covered = given.truth.covered.copy()
    covered[:6, 0] = False
    taken = (given.truth.class_index == 0) & (given.truth.image_index < 6)
    kept = {name: getattr(given.truth, name)[~taken] for name in ("annotation_ids", "image_index", "class_index")}
    kept |= {name: getattr(given.truth, name)[~taken] for name in ("boxes_xywh_px", "areas_px", "crowd")}

    document = evaluate(replace(given, truth=replace(given.truth, covered=covered, **kept))).document

    rows = {part.export: [row.class_name for row in part.rows] for part in document.by_export}
    assert rows == {"A": ["class 2", "class 3", "macro"], "B": ["class 1", "class 2", "class 3", "macro"]}
