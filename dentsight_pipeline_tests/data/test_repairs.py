"""What is mended in boxes and polygons, to the last limit, by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from dentsight_pipeline.data.repairs import lie_outside, mended_boxes, mended_polygons, twins

WIDTH, HEIGHT = 100.0, 50.0


@pytest.mark.parametrize(
    ("box", "inside", "note"),
    [
        ([10, 10, 20, 20], [10, 10, 20, 20], None),
        ([0, 0, 100, 50], [0, 0, 100, 50], None),
        ([-5, 10, 20, 20], [0, 10, 15, 20], ("clipped_box", "reached 5 px past the edge")),
        ([90, 45, 20, 15], [90, 45, 10, 5], ("clipped_box", "reached 10 px past the edge")),
        ([10, -3, 20, 60], [10, 0, 20, 50], ("clipped_box", "reached 7 px past the edge")),
        ([90, 10, 10 + 5e-7, 5], [90, 10, 10, 5], None),  # rounding
        ([90, 10, 10 + 2e-6, 5], [90, 10, 10, 5], ("clipped_box", "reached 2e-06 px past the edge")),
        ([10, 10, 1e-6, 5], None, ("zero_area_box", "1e-06×5 px, left out")),
        ([10, 10, 2e-6, 5], [10, 10, 2e-6, 5], None),
        ([10, 10, 5, 0], None, ("zero_area_box", "5×0 px, left out")),
        ([100.5, 10, 5, 5], None, ("zero_area_box", "nothing of it is inside the image, left out")),
    ],
)
def test_a_box_is_cut_at_the_edge_of_its_image_and_told_of(
    box: list[float], inside: list[float] | None, note: tuple[str, str] | None
) -> None:
    """A box that fits must not change in one bit; one of which nothing is left is no finding."""
    whole = [1.0, 1, 5, 5]

    made = mended_boxes(np.array([whole, box]), np.array([[WIDTH, HEIGHT]] * 2))

    assert made.kept.tolist() == [True, inside is not None]
    assert made.boxes[0].tolist() == whole
    assert inside is None or made.boxes[1].tolist() == pytest.approx(inside, abs=1e-9)
    told = [(own.kind, row, detail) for own in made.notes for row, detail in zip(own.rows, own.details, strict=True)]
    assert told == ([] if note is None else [(note[0], 1, note[1])])
    assert not made.outside.any()


def test_a_box_wholly_beyond_one_pixel_outside_cannot_be_meant() -> None:
    """Rounding puts a box next to its image, never further."""
    beside = [[100.5, 10, 5, 5], [10, 50.5, 5, 5], [-5.5, 10, 5, 5], [10, -5.5, 5, 5]]
    beyond = [[101.0, 10, 5, 5], [10, 51.0, 5, 5], [-6.0, 10, 5, 5], [10, -6.0, 5, 5]]
    boxes, sizes = np.array([*beside, *beyond]), np.array([[WIDTH, HEIGHT]] * 8)

    assert lie_outside(boxes, sizes).tolist() == [False] * 4 + [True] * 4
    assert mended_boxes(boxes, sizes).outside.tolist() == [False] * 4 + [True] * 4
    assert not mended_boxes(boxes, sizes).kept.any()


def test_polygons_are_moved_into_the_image_and_go_without_area() -> None:
    """A triangle past the left edge, a line, a square that fits, and an annotation without any, in two images."""
    triangle, line, square = [-5.0, 0, 10, 0, 10, 40], [0.0, 0, 9, 9, 0, 0], [60.0, 20, 80, 20, 80, 30, 60, 30]
    given = pa.array([[triangle, line], [], [square, [120.0, 60, 130, 60, 130, 70]]], pa.list_(pa.list_(pa.float64())))
    sizes = np.array([[WIDTH, HEIGHT], [WIDTH, HEIGHT], [70.0, 25.0]])

    left, notes = mended_polygons(given, sizes)

    assert left.to_pylist() == [[[0, 0, 10, 0, 10, 40]], [], [[60, 20, 70, 20, 70, 25, 60, 25]]]
    assert [(own.kind, own.rows.tolist(), list(own.details)) for own in notes] == [
        ("polygon_dropped", [0, 2], ["a polygon without area; the box stays"] * 2),
        ("clipped_polygon", [0, 2], ["points past the edge were moved onto it"] * 2),
    ]


def test_a_tiny_move_of_a_polygon_is_rounding() -> None:
    """A millionth of a pixel is nothing to tell of, and a millionth of a square pixel nothing to see."""
    almost = [[100.0 + 5e-7, 0, 50, 0, 50, 40], [0.0, 0, 1e-3, 0, 1e-3, 1e-3]]

    left, notes = mended_polygons(pa.array([almost], pa.list_(pa.list_(pa.float64()))), np.array([[WIDTH, HEIGHT]]))

    assert left.to_pylist() == [[[100, 0, 50, 0, 50, 40]]]
    assert [(own.kind, len(own.rows)) for own in notes] == [("polygon_dropped", 1), ("clipped_polygon", 0)]


def test_the_first_box_of_a_finding_stays_and_what_marks_the_same_goes() -> None:
    """From nine tenths of overlap on, within one class of one image; a box that goes takes none with it."""
    heights = [100, 90, 89, 81, 80]  # 90 is 90 % of the first; 81 is 91 % of the third, 80 is 89.9 %
    boxes = np.array([*([0.0, 0, 100, h] for h in heights), [0, 0, 100, 100], [300, 300, 100, 100]])
    groups = np.array([7, 7, 7, 7, 7, 3, 7])

    assert twins(groups, boxes).tolist() == [-1, 0, -1, 2, -1, -1, -1]
    assert twins(groups[:0], boxes[:0]).tolist() == []


def test_boxes_apart_in_both_directions_mark_nothing_together() -> None:
    """The product of two negative overlaps is positive: far apart, it would be more than any union."""
    apart = np.array([[0.0, 0, 1, 1], [50, 50, 1, 1], [0, 50, 1, 1], [50, 0, 1, 1]])

    assert twins(np.zeros(4, int), apart).tolist() == [-1] * 4
