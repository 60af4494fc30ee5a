"""Tooth numbers that cannot be right, in mouths that are tilted, cropped, toothless or flipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from dentsight_pipeline.data.fdi import out_of_order, tooth_flags

WIDTH, HEIGHT = 1600, 1000
Teeth = list[tuple[str, Sequence[float]]]


def mouth(seed: int = 0, without: Sequence[str] = ()) -> Teeth:
    """32 teeth of roughly natural size on two arches that bend downwards, each box off by a few pixels.

    Written from the convention alone: the patient's right (quadrants 1 and 4) is on the image's left.
    """
    generator = np.random.default_rng(seed)
    teeth: Teeth = []
    for quadrant in (1, 2, 3, 4):
        side, upper = (-1 if quadrant in (1, 4) else 1), quadrant in (1, 2)
        for position in range(1, 9):
            x = WIDTH / 2 + side * (position - 0.5) * 72 + generator.normal(0, 8)
            y = HEIGHT / 2 + (-90 if upper else 90) - 1.2 * position**2 + generator.normal(0, 8)
            teeth.append((f"{quadrant}{position}", [x - 35, y - 80, 70, 160]))
    return [tooth for tooth in teeth if tooth[0] not in without]


def renamed(teeth: Teeth, names: dict[str, str]) -> Teeth:
    """The teeth with other numbers on some of them."""
    return [(names.get(name, name), box) for name, box in teeth]


def flipped(teeth: Teeth, x: bool, y: bool) -> Teeth:
    """The boxes after flipping the picture."""
    return [
        (name, [WIDTH - b[0] - b[2] if x else b[0], HEIGHT - b[1] - b[3] if y else b[1], b[2], b[3]])
        for name, b in teeth
    ]


def turned(teeth: Teeth, degrees: float) -> Teeth:
    """The boxes with their centres turned about the middle of the image."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    result: Teeth = []
    for name, (x, y, w, h) in teeth:
        dx, dy = x + w / 2 - WIDTH / 2, y + h / 2 - HEIGHT / 2
        centre = WIDTH / 2 + cosine * dx - sine * dy, HEIGHT / 2 + sine * dx + cosine * dy
        result.append((name, [centre[0] - w / 2, centre[1] - h / 2, w, h]))
    return result


def flags(teeth: Sequence[tuple[str, Sequence[float]]]) -> list[str]:
    """The flags of teeth in the test's image."""
    return tooth_flags(WIDTH, HEIGHT, teeth)


@pytest.mark.parametrize("shift", [-150, 0, 150])
def test_jaws_that_stand_beside_each_other_are_in_order_but_for_exchanged_teeth(shift: int) -> None:
    """A turned head moves the lower row by two teeth against the upper one; two numbers exchanged are two teeth."""
    beside: Teeth = [(name, [b[0] + shift * (name[0] in "34"), *b[1:]]) for name, b in mouth()]

    assert out_of_order(WIDTH, beside) == 0
    assert out_of_order(WIDTH, renamed(beside, {"18": "25", "25": "18"})) == 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("degrees", [0, -12, 25])
def test_a_sound_mouth_has_no_flags_even_when_the_head_was_tilted(seed: int, degrees: float) -> None:
    """A flag on every tilted head is a flag that nobody reads."""
    assert flags(turned(mouth(seed), degrees)) == []


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param("14", id="the right half"),
        pytest.param("23", id="the left half"),
        pytest.param("12", id="the upper jaw"),
        pytest.param("3", id="one quadrant"),
    ],
)
def test_a_part_of_a_mouth_has_no_flags(keep: str) -> None:
    """Cropped images and toothless jaws are common; the image's middle is no midline then."""
    shifted = [(name, [box[0] - 300, box[1] + 120, *box[2:]]) for name, box in mouth() if name[0] in keep]

    assert flags(shifted) == []


def test_a_mouth_with_few_teeth_left_has_no_flags() -> None:
    """Six scattered teeth are a frequent mouth."""
    remaining = [tooth for tooth in mouth() if tooth[0] in {"13", "23", "33", "43", "45", "34"}]

    assert flags(remaining) == []


def test_a_repeated_number_is_flagged_once() -> None:
    """The commonest slip: the neighbour's number given twice."""
    assert flags(renamed(mouth(without=["35"]), {"37": "36"})) == ["repeated_tooth:36"]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [(True, False, ["mirrored"]), (False, True, ["upside_down"]), (True, True, ["mirrored", "upside_down"])],
)
@pytest.mark.parametrize("degrees", [0, 10])
def test_a_flipped_picture_is_recognised(x: bool, y: bool, expected: list[str], degrees: float) -> None:
    """Flipped with its boxes and without its numbers: training on it teaches left for right."""
    assert flags(turned(flipped(mouth(), x, y), degrees)) == expected


@pytest.mark.parametrize(("right", "wrong"), [("36", "46"), ("11", "21"), ("18", "28"), ("43", "33")])
def test_a_number_of_the_other_side_is_flagged(right: str, wrong: str) -> None:
    """Wrong side is the dentists' most frequent complaint; it is learnt from labels like this."""
    assert flags(renamed(mouth(without=[wrong]), {right: wrong})) == [f"wrong_side:{wrong}"]


def test_two_exchanged_numbers_are_both_flagged() -> None:
    """Nothing is repeated then, and only the places tell."""
    assert flags(renamed(mouth(), {"16": "26", "26": "16"})) == ["wrong_side:16", "wrong_side:26"]


@pytest.mark.parametrize(("right", "wrong"), [("36", "26"), ("11", "41"), ("24", "34")])
def test_a_number_of_the_other_jaw_is_flagged(right: str, wrong: str) -> None:
    """36 for 26 is one keystroke."""
    assert flags(renamed(mouth(without=[wrong]), {right: wrong})) == [f"wrong_jaw:{wrong}"]


def test_several_numbers_of_the_wrong_jaw_do_not_bend_the_rows() -> None:
    """Three wrong numbers at one end would tilt a least-squares row and accuse the right ones."""
    wrong = {f"3{n}": f"2{n}" for n in (4, 6, 8)}
    teeth = renamed(mouth(without=[f"2{n}" for n in (4, 6, 8)]), wrong)

    assert flags(teeth) == sorted(f"wrong_jaw:{name}" for name in wrong.values())


def test_one_number_of_a_toothless_jaw_in_the_other_row_is_flagged() -> None:
    """With no second row to compare with, the first row alone shows the intruder."""
    upper_only = [tooth for tooth in mouth() if tooth[0][0] in "12"]

    assert flags(renamed(upper_only, {"16": "46"})) == ["wrong_jaw:46"]


def test_wrong_numbers_in_a_flipped_picture_are_judged_in_its_own_orientation() -> None:
    """One flag for the picture and one for the tooth, not 31 for the others."""
    teeth = flipped(renamed(mouth(without=["46"]), {"36": "46"}), x=True, y=False)

    assert flags(teeth) == ["mirrored", "wrong_side:46"]


def test_an_impacted_tooth_away_from_its_row_is_not_in_the_wrong_jaw() -> None:
    """A lower wisdom tooth in the ramus and an upper canine near the nose lie off their rows by nature."""
    moved = {"38": (0, -60), "13": (40, -90)}
    teeth = [
        (name, [box[0] + (moved or {}).get(name, (0, 0))[0], box[1] + (moved or {}).get(name, (0, 0))[1], *box[2:]])
        for name, box in mouth()
    ]

    assert flags(teeth) == []


@pytest.mark.parametrize("teeth", [[], [("11", [1, 1, 5, 5])], [("11", [1, 1, 5, 5])] * 2 + [("51", [1, 1, 5, 5])]])
def test_too_few_teeth_are_not_judged_by_place(teeth: Teeth) -> None:
    """One tooth has no neighbours, and deciduous numbers are not of this convention."""
    assert [flag for flag in flags(teeth) if not flag.startswith("repeated")] == []


def test_teeth_all_in_one_place_are_not_judged() -> None:
    """A broken export must give no arithmetic error."""
    assert flags([(name, [10, 10, 20, 20]) for name, _ in mouth()]) == []


# A mouth to the pixel ------------------------------------------------------------------------------------------------

CROWNS_MM = {"1": (8.5, 6.5, 7.5, 7, 7, 10, 9.5, 9), "4": (5, 5.5, 7, 7, 7, 11, 10.5, 10.5)}
"""Mean widths of the crowns of the upper and the lower teeth, from the midline on."""
PLACES = {
    f"{quadrant}{n + 1}": sign * (sum(own[:n]) + own[n] / 2) / 8
    for row, quadrants in (("1", "12"), ("4", "43"))
    for quadrant, sign in zip(quadrants, (-1, 1), strict=True)
    for own in [CROWNS_MM[row]]
    for n in range(8)
}
"""FDI number → place from the midline in units of 8 mm, negative on the patient's right."""


def drawn(
    names: Iterable[str] = PLACES,
    pitch: float = 40,
    rows: tuple[float, float] = (400, 600),
    moved: Mapping[str, tuple[float, float]] | None = None,
) -> Teeth:
    """Teeth where they belong, 40 px for 8 mm, in two straight rows; `{"36": (1, -5)}` moves one by places, pixels."""
    teeth: Teeth = []
    for name in names:
        across, down = (moved or {}).get(name, (0, 0))
        x, y = 800 + pitch * (PLACES[name] + across), rows[name[0] in "34"] + down
        teeth.append((name, [x - 10, y - 80, 20, 160]))
    return teeth


@pytest.mark.parametrize("name", PLACES)
def test_each_tooth_is_out_of_order_from_two_and_a_half_places_on(name: str) -> None:
    """Twenty millimetres are more than gaps close; a millimetre less is a mouth that moved together."""
    far = {
        way * off: out_of_order(WIDTH, drawn(moved={name: (way * off, 0)})) for way in (-1, 1) for off in (2.45, 2.55)
    }

    assert far == {-2.45: 0, 2.45: 0, -2.55: 1, 2.55: 1}


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        ({"18": (PLACES["28"] + 2.6, 0)}, ["wrong_side:18"]),  # nearer to 28's place than half the way to its own
        ({"18": (PLACES["28"] + 2.45, 0)}, []),
        ({"41": (0.3125 + 0.2, 0)}, []),  # over the midline, but hardly anywhere else than before
        ({"41": (0.3125 + 0.4, 0)}, ["wrong_side:41"]),
        ({"16": (0, 135)}, []),
        ({"16": (0, 145)}, ["wrong_jaw:16"]),  # four tenths of the way from the middle to the other row
        ({"36": (0, -135)}, []),
        ({"36": (0, -145)}, ["wrong_jaw:36"]),
    ],
)
def test_a_tooth_is_judged_by_how_near_it_lies_to_where_its_counterpart_belongs(
    moved: dict[str, tuple[float, float]], expected: list[str]
) -> None:
    """Drifted and erupting teeth lie between their places, and are nobody's mistake."""
    assert flags(drawn(moved=moved)) == expected


@pytest.mark.parametrize(
    ("teeth", "expected"),
    [
        (drawn(["17", "14", "11", "24"], pitch=-40), []),  # four teeth
        (drawn(["17", "14", "11", "24", "27"], pitch=-40), ["mirrored"]),
        (drawn(["12", "11", "21", "31", "41"], pitch=-40), ["mirrored"]),  # two places apart
        (drawn(["42", "11", "21", "31", "41"], pitch=-40), []),
        (drawn(pitch=-7.9), []),  # 8 px are .005 of the width
        (drawn(pitch=-8.1), ["mirrored"]),
        (drawn(rows=(509, 491)), []),  # 10 px are .01 of the height
        (drawn(rows=(511, 489)), ["upside_down"]),
    ],
)
def test_an_orientation_is_told_only_where_teeth_show_it(teeth: Teeth, expected: list[str]) -> None:
    """A handful of boxes in one place has every order and none."""
    assert flags(teeth) == expected


@pytest.mark.parametrize(("in_order", "seen"), [(6, True), (5, False)])
def test_an_order_is_seen_where_six_of_ten_teeth_agree(in_order: int, seen: bool) -> None:
    """Of fewer every tooth counts as far from its place: the numbers are no numbers of these teeth."""
    row, heap = ["13", "11", "21", "23", "14", "24"][:in_order], ["18", "17", "16", "26", "27"][: 10 - in_order]
    teeth = drawn([*row, *heap], moved={name: (-PLACES[name], 0) for name in heap})

    assert out_of_order(WIDTH, teeth) == (4 if seen else 10)
    assert out_of_order(WIDTH, teeth[:4]) == 0, "four teeth have no order"


@pytest.mark.parametrize(
    ("upper", "off", "expected"),
    [
        (["17", "15", "13", "11"], 55, ["wrong_jaw:46"]),  # .35 of a tooth's height of 160 px are 56
        (["17", "15", "13", "11"], 57, []),
        (["17", "15", "13", "11", "21"], -55, ["wrong_jaw:46"]),
        (["17", "15", "13"], 0, []),  # three teeth are no row
    ],
)
def test_one_or_two_teeth_are_strays_in_the_row_of_four(upper: list[str], off: float, expected: list[str]) -> None:
    """A toothless jaw has no row to compare with; two lower teeth are none either."""
    lower = ["46"] if len(upper) > 3 else ["46", "47"]

    assert flags(drawn([*upper, *lower], rows=(400, 400 + off))) == expected
