"""Columns that are scored: what they are known by, and what becomes of rows when a part is taken."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest

from dentsight_pipeline.errors import ScoringRecordError
from dentsight_pipeline.evaluation.columns import (
    Place,
    absent_classes,
    checked_ids,
    checked_numbers,
    digest_of_columns,
    group_index,
    rows_of,
)
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import coco, found

PLACE = Place("a.json", "annotations")
TRUTH = coco(
    [(1, 1, [0, 0, 10, 20]), (3, 2, [5, 5, 4, 4]), (3, 3, [1, 1, 2, 2]), (2, 3, [7, 7, 8, 8])], 3, ("a", "b", "c")
)


def test_a_digest_is_of_the_names_and_the_little_endian_values_of_the_columns() -> None:
    """It stands in every evaluation: another order or another width of a number would be other data."""
    truth = read_ground_truth(coco([(1, 1, [0, 0, 10, 20])], 2, ("a", "b")))
    columns = {
        "image_ids": struct.pack("<2q", 1, 2),
        "image_sizes_px": struct.pack("<4d", 1000, 500, 1000, 500),
        "groups": struct.pack("<2q", 0, 1),
        "partial": b"\0\0",
        "category_ids": struct.pack("<2q", 1, 2),
        "class_names": b"a\0b",
        "annotation_ids": struct.pack("<q", 1),
        "image_index": struct.pack("<q", 0),
        "class_index": struct.pack("<q", 0),
        "boxes_xywh_px": struct.pack("<4d", 0, 0, 10, 20),
        "areas_px": struct.pack("<d", 200),
        "crowd": b"\0",
    }
    plain = b"".join(name.encode() + b"\0" + value for name, value in columns.items())

    assert digest_of_columns(truth) == hashlib.sha256(plain).hexdigest()
    assert digest_of_columns(replace(truth, notes=("a",), sha256="b")) == digest_of_columns(truth)
    partly = replace(truth, covered=np.array([[True, False], [True, True]]))
    at = plain.index(b"category_ids")
    told = plain[:at] + b"covered\0\x01\0\x01\x01" + plain[at:]
    assert digest_of_columns(partly) == hashlib.sha256(told).hexdigest()
    clean = replace(truth, clean=np.array([True, False]))
    at = plain.index(b"partial")
    assert digest_of_columns(clean) == hashlib.sha256(plain[:at] + b"clean\0\x01\0" + plain[at:]).hexdigest()


def test_rows_of_a_part_point_into_the_part() -> None:
    """Of images 1 and 3, and of the classes b and c."""
    truth = read_ground_truth(TRUTH)
    detections = read_detections(
        found((3, 2, [0, 0, 5, 5], 0.9), (2, 1, [0, 0, 5, 5], 0.8), (1, 3, [0, 0, 5, 5], 0.7)), truth
    )

    some, two = truth.subset(np.array([True, False, True])), truth.of_classes(slice(1, 3))

    assert (some.image_ids.tolist(), some.image_index.tolist()) == ([1, 3], [0, 1, 1])
    assert some.annotation_ids.tolist() == [1, 2, 3]
    assert (two.class_names, two.category_ids.tolist(), two.covered.shape) == (("b", "c"), [2, 3], (3, 2))
    assert (two.class_index.tolist(), two.image_index.tolist(), two.annotation_ids.tolist()) == (
        [0, 1, 1],
        [2, 2, 1],
        [2, 3, 4],
    )
    own = detections.subset(np.array([True, False, True]))
    assert (own.image_index.tolist(), own.scores.tolist()) == ([1, 0], [0.9, 0.7])
    of_two = detections.of_classes(slice(1, 3))
    assert (of_two.class_index.tolist(), of_two.scores.tolist()) == ([0, 1], [0.9, 0.7])
    blind = replace(truth, covered=np.array([[True, True, False], [True, True, True], [True, True, True]]))
    assert detections.looked_for(blind).scores.tolist() == [0.9, 0.8]
    assert detections.looked_for(truth) is detections


def test_what_is_not_there_is_told_with_what_is() -> None:
    """The first five ids are enough to see that it is another file."""
    known = np.array([2, 4, 6, 8, 10])

    assert rows_of(np.array([4, 10, 2]), known, "image_id", "images", PLACE).tolist() == [1, 4, 0]
    for value in (1, 5, 11):
        with pytest.raises(ScoringRecordError, match=rf"annotations\[1\].*image_id {value} .*\(5: 2, 4, 6, 8, 10\)"):
            rows_of(np.array([2, value]), known, "image_id", "images", PLACE)
    with pytest.raises(ScoringRecordError, match=r"\(6: 2, 4, 6, 8, 10…\)"):
        rows_of(np.array([3]), np.append(known, 12), "image_id", "images", PLACE)


def test_ids_count_from_one_each_once_and_areas_from_zero() -> None:
    """The second of two equal ids is the one that is named."""
    assert checked_ids(np.array([1, 5, 2]), PLACE).tolist() == [1, 5, 2]
    assert checked_numbers(np.array([0.0, 1]), "area", "", PLACE).tolist() == [0, 1]
    assert checked_numbers(np.array([-1.0]), "score", "", PLACE).tolist() == [-1]
    for ids, words in (
        ([3, 0], r"annotations\[1\].*id 0 is below 1"),
        ([7, 3, 7], r"\[2\].*first by annotations\[0\]"),
    ):
        with pytest.raises(ScoringRecordError, match=words):
            checked_ids(np.array(ids), PLACE)
    with pytest.raises(ScoringRecordError, match=r"annotations\[1\].*area is -0.5"):
        checked_numbers(np.array([1.0, -0.5]), "area", "", PLACE)


def test_classes_without_boxes_are_told_from_those_that_nobody_looked_for() -> None:
    """A crowd region is no box; groups are numbered as they come."""
    truth = read_ground_truth(TRUTH)
    blind = np.ones((3, 3), bool)
    blind[:, 0] = False

    assert absent_classes(truth) == ()
    assert absent_classes(replace(truth, crowd=np.array([True, True, False, False]), covered=blind)) == (
        "No ground truth for b: not scored, and false positives there cost nothing in AP.",
        "In no image did anybody look for a: not measured.",
    )
    assert group_index(["y", "x", "y", "z"]).tolist() == [0, 1, 0, 2]
    assert group_index([]).dtype == np.int64
