"""Figures by kind of X-ray: which image is in which group, and that unknown is a group of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.ontology import TEETH
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.evaluation import NOT_KNOWN
from dentsight_pipeline.evaluation.evaluate import coco_inputs, evaluate
from dentsight_pipeline.evaluation.subgroups import Traits, stored_traits
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.intake.limits import LIMITS
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder
from dentsight_pipeline_tests.evaluation.conftest import random_set

NAMES = ("OPG-data", *TEETH, "caries", "tooth-bud", "retained decidious")


def test_a_groups_figures_are_those_of_its_images_alone_and_unknown_is_a_group() -> None:
    """An image of which nothing is known must not make any group look better."""
    known = np.arange(12) % 3 != 0
    traits = Traits(np.where(known, np.arange(12) / 12, np.nan), np.full(12, np.nan), np.full(12, -1), np.zeros(12))
    given = replace(coco_inputs(*random_set(3, groups=True), resamples=50), traits=traits)

    document = evaluate(given).document

    assert {part.axis for part in document.subgroups} == {"brightness"}
    assert document.subgroups_unknown["sharpness"].startswith("not measured")
    assert document.subgroups_unknown["dentition"].startswith("not measured")
    assert document.subgroups_unknown["mixed dentition"] == "all images are alike: no sign"
    unknown = document.subgroups[-1]
    assert (unknown.group, unknown.images) == (NOT_KNOWN, 4)
    assert [part.images for part in document.subgroups[:-1]] == [2, 2, 2, 2]
    alone = replace(
        given, truth=given.truth.subset(~known), found=given.found.subset(~known), traits=traits.subset(~known)
    )
    population = evaluate(alone).document.gated
    assert population is not None
    own = {row.class_name: (row.n_gt, row.ap) for row in unknown.rows[:-1]}
    assert own == {row.class_name: (row.n_gt, pytest.approx(row.ap)) for row in population.per_class}


def test_teeth_count_only_where_they_were_looked_for(tmp_path: Path) -> None:
    """An image whose annotator marked conditions alone is no edentulous mouth."""
    export = ExportBuilder(tmp_path / "export", NAMES)
    full = {tooth: [[2 * k, 10, 2, 6]] for k, tooth in enumerate(TEETH)}
    export.image("test", full)
    export.image("test", {"11": [[4, 4, 9, 9]], "tooth-bud": [[20, 4, 9, 9]]})
    export.image("test", {"caries": [[4, 4, 9, 9]]})
    export.image("test", {"12": [[4, 4, 9, 9]], "retained decidious": [[20, 4, 9, 9]]})
    export.image("test", {})
    export.image("train", full | {"caries": [[4, 4, 9, 9]]})
    store = open_store(tmp_path / "store")

    request = Request(accept=frozenset(LIMITS))  # the boxes stand in no mouth
    subset = select_conditions(store, normalise_export(store, ingest_export(export.write(), store, request)))
    traits = stored_traits(store, subset, "test")

    assert traits is not None
    assert traits.teeth.tolist() == [32, 1, -1, 1, 0]
    assert traits.mixed.tolist() == [0, 1, 0, 1, 0]
    assert np.isfinite(traits.brightness).all()
