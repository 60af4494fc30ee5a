"""Each mistake gets one name, and the confusion matrix adds up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from dentsight_pipeline.documents.evaluation import ErrorCounts
from dentsight_pipeline.evaluation import errors_by_type, matching
from dentsight_pipeline.evaluation.errors_by_type import KINDS, Shown
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import coco, found, random_set

TRUTH = coco(
    [(1, 1, [0, 0, 40, 40]), (1, 2, [100, 0, 40, 40]), (1, 1, [200, 0, 40, 40]), (1, 1, [300, 0, 40, 40])],
    images=2,
    classes=("caries", "crown"),
)
RESULTS = found(
    (1, 1, [0, 0, 40, 40], 0.9),  # hit
    (1, 1, [1, 0, 40, 40], 0.8),  # the same box again
    (1, 1, [100, 0, 40, 40], 0.7),  # on the crown
    (1, 1, [225, 0, 40, 40], 0.6),  # beside its box, IoU .23
    (2, 1, [0, 0, 40, 40], 0.5),  # on nothing
    (1, 1, [300, 0, 40, 40], 0.1),  # a hit below the threshold
)
EVERY_IMAGE = np.ones(2, bool)


def prepare(truth: dict, results: list, floor: float = 0.05):
    """Columns and typed detections of a set."""
    columns = read_ground_truth(truth)
    detections = read_detections(results, columns)
    matches = [by_area["all"] for by_area in matching.match(columns, detections)]
    return columns, detections, errors_by_type.classify(columns, detections, matches, floor)


def shown(*thresholds: float) -> Shown:
    """The set above at these thresholds."""
    return Shown(*prepare(TRUTH, RESULTS), np.array(thresholds))


def test_each_mistake_gets_its_name() -> None:
    """Where to work next depends on it: a duplicate is a matter of scores, a class confusion one of labels."""
    _, detections, typed = prepare(TRUTH, RESULTS)

    names = {float(detections.scores[row]): KINDS[kind] for row, kind in zip(typed.rows, typed.kinds, strict=True)}
    assert names == {0.9: "tp", 0.8: "duplicate", 0.7: "class", 0.6: "localisation", 0.5: "background", 0.1: "tp"}


def test_kinds_change_at_overlaps_of_a_half_and_a_tenth() -> None:
    """On a caries that is taken, on a crown, and on a caries that nothing takes; with the overlap that decided."""
    truth = coco(
        [(1, 1, [0, 0, 100, 100]), (1, 2, [300, 0, 100, 100]), (1, 1, [500, 0, 100, 100])], 1, ("caries", "crown")
    )
    boxes = [
        [0, 0, 100, 100],
        *([x, 0, 100, h] for x, h in ((0, 50), (0, 49), (300, 50), (300, 49), (500, 10), (500, 9))),
    ]
    results = found(*((1, 1, box, 0.9 - k / 10) for k, box in enumerate(boxes)), (1, 1, [0, 0, 9, 9], 0.05))

    _, detections, typed = prepare(truth, results)
    above = prepare(truth, results, floor=0.06)[2]

    told = [(KINDS[kind], round(iou, 2)) for kind, iou in zip(typed.kinds, typed.iou, strict=True)]
    assert told == [
        ("tp", 1.0),
        ("duplicate", 0.5),
        ("localisation", 0.49),
        ("class", 0.5),
        ("background", 0.0),
        ("localisation", 0.1),
        ("background", 0.09),
        ("background", 0.01),
    ]
    assert typed.confused.tolist() == [[3, 1]]
    assert len(above.rows) == len(detections.scores) - 1


def test_boxes_found_are_counted_by_size() -> None:
    """1,024 px² are small, 9,216 medium; crowds and other images do not count."""
    sides = [(32, 32), (32, 33), (96, 96), (96, 97), (10, 10)]
    truth = coco([(1, 1, [0, 0, w, h]) for w, h in sides] + [(1, 2, [0, 0, 5, 5]), (2, 1, [0, 0, 5, 5])], 2, ("a", "b"))
    truth["annotations"][4]["iscrowd"] = 1

    counts = errors_by_type.found_by_size(
        read_ground_truth(truth), np.array([True, False, True, True, True, False, True]), np.array([True, False])
    )

    assert {name: {size: (own.n_gt, own.found) for size, own in sizes.items()} for name, sizes in counts.items()} == {
        "a": {"small": (1, 1), "medium": (2, 1), "large": (1, 1)},
        "b": {"small": (1, 0), "medium": (0, 0), "large": (0, 0)},
    }


def test_errors_are_counted_at_the_operating_threshold() -> None:
    """The box hit at .1 is missed for a user whose threshold is .4."""
    counts = shown(0.4, 0.4).count_by_type(EVERY_IMAGE)

    assert counts["caries"] == ErrorCounts(class_confusion=1, localisation=1, duplicate=1, background=1, missed=2)
    assert counts["crown"].missed == 1


def test_the_confusion_matrix_by_hand() -> None:
    """Rows are what is there, columns what was said; the last of each is background."""
    confusion = shown(0.4, 0.4).confusion_matrix(EVERY_IMAGE)

    assert confusion.labels == ("caries", "crown", "background")
    assert confusion.matrix == ((1, 0, 2), (1, 0, 0), (3, 0, 0))


def test_the_confusion_matrix_adds_up() -> None:
    """Every box is in one row and every detection in one column: nothing is lost or counted twice."""
    columns, detections, typed = prepare(*random_set(4, images=30))
    thresholds = [0.3, 0.4, 0.5]

    matrix = np.array(
        Shown(columns, detections, typed, np.array(thresholds)).confusion_matrix(np.ones(30, bool)).matrix
    )

    boxes = np.bincount(columns.class_index, minlength=3)
    above = detections.scores >= np.array(thresholds)[detections.class_index]
    assert matrix[:3].sum(axis=1).tolist() == boxes.tolist()
    assert matrix[:, :3].sum(axis=0).tolist() == np.bincount(detections.class_index[above], minlength=3).tolist()


def test_the_table_of_matches_holds_every_detection_and_every_missed_box() -> None:
    """The gallery of worst cases is drawn from it."""
    (table,) = shown(0.4, 0.4).blocks()
    rows = table.to_pylist()

    missed = [row for row in rows if row["kind"] == "missed"]
    assert len(rows) - len(missed) == 6
    assert sorted(row["matched_at_50"] for row in missed) == [2, 3, 4]
    assert {row["score"] for row in missed} == {None}
    assert sum(bool(row["above_threshold"]) for row in rows) == 5
    (hit,) = (row for row in rows if row["score"] == 0.1)
    assert (hit["kind"], hit["matched_at_50"]) == ("tp", 4)


@pytest.mark.parametrize("at_once", [1, 2, 4, 6, 7])
def test_the_table_of_matches_is_the_same_in_blocks(at_once: int) -> None:
    """A large evaluation is written block by block; none may lose or repeat a row where detections end."""
    (whole,) = shown(0.4, 0.4).blocks()

    blocks = list(shown(0.4, 0.4).blocks(at_once))

    assert max(len(block) for block in blocks) <= at_once
    assert pa.concat_tables(blocks).equals(whole.combine_chunks())


def test_images_outside_the_population_are_not_counted() -> None:
    """Errors of leaked images must not enter the clean table."""
    counts = shown(0.4, 0.4).count_by_type(np.array([False, True]))

    assert counts["caries"] == ErrorCounts(class_confusion=0, localisation=0, duplicate=0, background=1, missed=0)
