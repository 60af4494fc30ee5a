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


def test_each_group_is_named_by_its_limits_and_the_unknown_stands_last() -> None:
    """Thirty sources of one width are a family, 28 teeth a full mouth; quarters end where a quarter of the images
    does."""
    truth, results = random_set(5, images=62)
    for number, record in enumerate(truth["images"]):
        record["width"] = 1000 if number < 30 else 1200 if number < 59 else None
    traits = Traits(
        brightness=np.arange(62.0) % 4,  # 16, 16, 15 and 15 images
        sharpness=np.where(np.arange(62) < 61, 0.5, np.nan),
        teeth=np.array([0, 1, 27, 28, 32, -1])[np.arange(62) % 6],
        mixed=np.array([-1, 0, 1])[np.arange(62) % 3],
    )

    document = evaluate(replace(coco_inputs(truth, results, resamples=0), traits=traits)).document

    assert [(part.axis, part.group, part.images) for part in document.subgroups] == [
        ("width", "1000 px wide", 30),
        ("width", "other widths", 29),
        ("width", NOT_KNOWN, 3),
        ("brightness", "1 of 4, darkest: to 0.25", 16),
        ("brightness", "2 of 4: 0.25 to 1", 16),
        ("brightness", "3 of 4: 1 to 2", 15),
        ("brightness", "4 of 4, brightest: over 2", 15),
        ("sharpness", "1 of 4, least sharp: to 0.5", 61),
        ("sharpness", NOT_KNOWN, 1),
        ("dentition", "edentulous: no tooth", 11),
        ("dentition", "fully dentate: 28 teeth or more", 20),
        ("dentition", "partly dentate: 1 to 27 teeth", 21),
        ("dentition", NOT_KNOWN, 10),
        ("mixed dentition", "no sign", 21),
        ("mixed dentition", "suspected: a bud or a deciduous tooth", 20),
        ("mixed dentition", NOT_KNOWN, 21),
    ]
    assert document.subgroups_unknown == {}


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
