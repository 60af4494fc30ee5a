"""What nobody looked for is unknown: it is no negative, and what is found there is neither right nor wrong."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.errors import EvaluationError, ScoringRecordError
from dentsight_pipeline.evaluation.columns import ground_truth_of
from dentsight_pipeline.evaluation.engines import coco_statistics
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.evaluation.conftest import Found, Truth, coco, compared, evaluated, found, random_set

STATED = ("ground_truth_sha256", "detections_sha256", "mirrored_sha256")


def partly_covered(seed: int, images: int = 20, classes: int = 3, **options: Any) -> tuple[Truth, Found, np.ndarray]:
    """A random set in which each image was looked at for some classes, and which of them [I, K]."""
    truth, results = random_set(seed, images, classes, **options)
    covered = np.random.default_rng(seed).random((images, classes)) < 0.6
    covered[0] = True
    for image, row in zip(truth["images"], covered, strict=True):
        image["covered"] = (np.flatnonzero(row) + 1).tolist()
    truth["annotations"] = [a for a in truth["annotations"] if covered[a["image_id"] - 1, a["category_id"] - 1]]
    return truth, results, covered


def where_looked_for(results: Found, covered: np.ndarray) -> Found:
    """Only the detections of classes that were looked for."""
    return [record for record in results if covered[record["image_id"] - 1, record["category_id"] - 1]]


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=10, deadline=None)
def test_each_class_is_scored_on_the_images_that_were_looked_at_for_it(seed: int, crowds: bool) -> None:
    """Held against pycocotools, run for each class on a file of its covering images alone."""
    truth, results, _ = partly_covered(seed, crowds=crowds)

    document = evaluated(truth, results, resamples=0).document

    for k, row in enumerate(document.populations["all"].per_class, start=1):
        own = [image for image in truth["images"] if k in image["covered"]]
        ids = {image["id"] for image in own}
        alone = {
            "images": [{name: value for name, value in image.items() if name != "covered"} for image in own],
            "annotations": [a for a in truth["annotations"] if a["category_id"] == k],
            "categories": [{"id": k, "name": row.class_name}],
        }
        expected = coco_statistics(
            alone, [d for d in results if d["category_id"] == k and d["image_id"] in ids], "pycocotools"
        ).per_class[row.class_name]
        assert document.populations["all"].images_looked_at(row.class_name) == len(own)
        for metric, value in expected.items():
            assert getattr(row, metric) == (None if value is None else pytest.approx(value, abs=1e-12))
    assert document.engines is not None and document.engines.agree


def test_what_is_found_where_nobody_looked_changes_no_figure() -> None:
    """Matching, intervals, thresholds, calibration, errors, confusion, sides, empty mouths, FROC: all of it."""
    truth, results, covered = partly_covered(3, images=60, groups=True)
    valid, valid_results, valid_covered = partly_covered(4, images=60)
    kept, valid_kept = where_looked_for(results, covered), where_looked_for(valid_results, valid_covered)
    reflected = results[::-1][3:]

    with_them, without = (
        evaluated(truth, own, thresholds_from=(valid, known), mirrored=mirrored, resamples=50)
        for own, known, mirrored in (
            (results, valid_results, reflected),
            (kept, valid_kept, where_looked_for(reflected, covered)),
        )
    )

    assert len(kept) < 0.8 * len(results)
    ours, theirs = plain(with_them.document), plain(without.document)
    assert {k: v for k, v in ours.items() if k not in STATED} == {k: v for k, v in theirs.items() if k not in STATED}
    assert with_them.curves == without.curves


def test_a_comparison_reads_neither_model_where_nobody_looked() -> None:
    """The challenger's detections of an unannotated class would otherwise count against it alone."""
    truth, results, covered = partly_covered(5, images=40)
    champion = results[::2]

    differences = [
        compared(truth, ours, theirs, resamples=20).measurements
        for ours, theirs in (
            (results, champion),
            (where_looked_for(results, covered), where_looked_for(champion, covered)),
        )
    ]

    assert differences[0] == differences[1]


def test_full_coverage_said_aloud_is_full_coverage() -> None:
    """Not a figure moves when a file lists every class for every image."""
    truth, results = random_set(6, images=30, groups=True)
    said = copy.deepcopy(truth)
    for image in said["images"]:
        image["covered"] = [3, 1, 2]

    ours, theirs = (plain(evaluated(own, results, resamples=20).document) for own in (said, truth))

    assert {k: v for k, v in ours.items() if k not in STATED} == {k: v for k, v in theirs.items() if k not in STATED}
    assert "looked_at" not in ours["populations"]["all"]


def test_an_image_counts_as_empty_where_every_class_was_looked_for() -> None:
    """Image 1 is empty; in image 2 nobody looked for crowns, so it may be full of them; image 3 has caries."""
    truth = coco([(3, 1, [10, 10, 20, 20])], images=3, classes=("caries", "crown"))
    truth["images"][1]["covered"] = [1]
    results = found((1, 1, [300, 10, 20, 20], 0.9), (2, 1, [300, 10, 20, 20], 0.9), (3, 1, [10, 10, 20, 20], 0.8))

    empty = evaluated(truth, results, resamples=0).document.empty_mouth

    assert empty is not None
    assert (empty.images, empty.images_with_false_positive, empty.images_not_fully_covered) == (1, 1, 1)


def test_false_positives_an_image_are_counted_over_the_images_looked_at() -> None:
    """One false positive in two images that were looked at is ½ an image; ten others make it no rarer."""
    truth = coco([(1, 1, [10, 10, 20, 20])], images=12, classes=("caries", "crown"))
    for image in truth["images"][2:]:
        image["covered"] = [2]
    results = found((2, 1, [300, 10, 20, 20], 0.9), (1, 1, [10, 10, 20, 20], 0.8))

    froc = evaluated(truth, results, resamples=0).document.froc

    assert froc is not None
    for name in ("caries", "all"):
        sensitivity = dict(zip(froc.false_positives_per_image, froc.classes[name].sensitivity, strict=True))
        assert (sensitivity[0.25], sensitivity[0.5]) == (0.0, 1.0)


def test_a_class_that_nobody_looked_for_is_not_measured() -> None:
    """No figure, no threshold, a note; the mean is over the others and says so."""
    truth, results, _ = partly_covered(8, images=20)
    for image in truth["images"]:
        image["covered"] = sorted({*image["covered"]} - {2} | {1})
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != 2]

    document = evaluated(truth, results, resamples=20).document

    population = document.populations["all"]
    row = population.per_class[1]
    assert population.not_looked_for == ("class 2",)
    assert (row.ap, row.n_detections, row.threshold_best_f1, population.macro.present) == (None, 0, None, 2)
    assert any("In no image did anybody look for class 2" in note for note in document.notes)
    (ap,) = [m for m in document.measurements if (m.metric, m.class_name) == ("ap", "class 2")]
    assert (ap.value, ap.n, ap.note.split(";")[0]) == (None, 0, "nobody looked for it")
    assert document.froc is not None and set(document.froc.classes["all"].sensitivity) == {None}


def test_images_in_which_nobody_looked_for_anything_are_left_out() -> None:
    """They say nothing of any class: no negatives, no sources to resample."""
    truth, results = random_set(9, images=20)
    more = copy.deepcopy(truth)
    more["images"] += [{"id": n, "width": 1000, "height": 500, "covered": []} for n in range(21, 31)]

    ours = evaluated(more, results, resamples=20).document
    theirs = evaluated(truth, results, resamples=20).document

    assert ours.measurements == theirs.measurements
    assert ours.notes[-1] == "10 images left out: nobody looked for any of the classes there."


def test_a_set_in_which_nobody_looked_for_anything_is_refused() -> None:
    """A report full of dashes would look like one."""
    truth = coco([], images=2)
    for image in truth["images"]:
        image["covered"] = []

    with pytest.raises(EvaluationError, match="In none of the 2 images did anybody look for caries"):
        evaluated(truth, [])


def test_a_box_of_a_class_that_nobody_looked_for_is_refused() -> None:
    """Either somebody looked, or the box is of another class."""
    truth = coco([(1, 2, [10, 10, 20, 20])], classes=("caries", "crown"))
    truth["images"][0]["covered"] = [1]

    with pytest.raises(ScoringRecordError, match=r"annotations\[0\] \(id 1\): is crown, which image 1 says nobody"):
        evaluated(truth, [])


@pytest.mark.parametrize(
    ("covered", "message"), [([1, 7], "covered names category 7"), (["caries"], "not a list of category ids")]
)
def test_coverage_that_cannot_be_read_is_refused(covered: list[Any], message: str) -> None:
    """Names in the place of ids would otherwise cover nothing."""
    truth = coco([], images=1)
    truth["images"][0]["covered"] = covered

    with pytest.raises(ScoringRecordError, match=message):
        evaluated(truth, [])


def test_a_stored_split_brings_its_coverage_and_its_digest_tells_it() -> None:
    """Two splits that differ in what was looked for alone are not the same ground truth."""
    truth = coco([(1, 1, [10, 10, 20, 20])], images=2, classes=("caries", "crown"))
    whole = ground_truth_of(from_coco("test", truth))
    truth["images"][1]["covered"] = [2]
    part = ground_truth_of(from_coco("test", truth))

    assert part.covered.tolist() == [[True, True], [False, True]]
    assert part.sha256 != whole.sha256
