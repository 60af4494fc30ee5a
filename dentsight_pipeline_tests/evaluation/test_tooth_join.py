"""A condition belongs to the tooth it lies on, to the root it hangs from, or to all that a bridge spans."""

from __future__ import annotations

import numpy as np
import pytest

from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.tooth_join import join_teeth

TEETH = np.array([[100.0, 100, 60, 150], [165, 100, 60, 150], [230, 100, 60, 150], [100, 260, 60, 150]])
NAMES = ["16", "15", "14", "46"]


def teeth_of(box: list[float], condition: str = "caries") -> tuple[tuple[str, ...], str]:
    """Names of the teeth and the rule for one condition box."""
    (joined,) = join_teeth(np.array([box]), [condition], TEETH, NAMES)
    return joined.fdi, joined.rule


def test_a_tiny_caries_belongs_to_its_tooth() -> None:
    """IoU with the tooth is .07, so a plain IoU rule would lose it; its own area lies on the tooth wholly."""
    assert teeth_of([120, 200, 24, 25]) == (("16",), "overlap")


def test_between_two_teeth_the_larger_share_decides() -> None:
    """An approximal caries that reaches over the gap."""
    assert teeth_of([150, 200, 24, 25]) == (("15",), "overlap") or teeth_of([145, 200, 24, 25]) == (("16",), "overlap")
    assert teeth_of([140, 200, 24, 25]) == (("16",), "overlap")


def test_an_upper_periapical_lesion_belongs_to_the_root_above_which_it_lies() -> None:
    """Root tips of upper teeth point up: the lesion lies outside every tooth box, above tooth 15."""
    assert teeth_of([180, 70, 30, 25], "periapical-radiolucency") == (("15",), "root-tip")


def test_a_lower_periapical_lesion_belongs_to_the_root_below() -> None:
    """Root tips of lower teeth point down."""
    assert teeth_of([115, 405, 30, 25], "periapical-radiolucency") == (("46",), "root-tip")


def test_a_bridge_belongs_to_every_tooth_it_spans() -> None:
    """From crown to crown; the lower tooth is not touched."""
    assert teeth_of([100, 200, 190, 50], "bridge") == (("16", "15", "14"), "span")


@pytest.mark.parametrize(
    ("condition", "box", "expected"),
    [
        ("caries", [85, 200, 30, 20], (("16",), "overlap", 0.5)),  # 15 of its 30 px
        ("caries", [84, 200, 30, 20], ((), "none", 0.0)),
        ("caries", [110, 235, 20, 40], ((), "none", 0.0)),  # three eighths on 16, as much on 46
        ("bridge", [145, 200, 100, 40], (("16", "15", "14"), "span", 0.9)),  # 15 of 60 px of either end
        ("bridge", [146, 200, 98, 40], (("15",), "span", 60 / 98)),
        ("bridge", [110, 125, 40, 50], (("16",), "overlap", 1.0)),  # ends where the crown half begins
        ("bridge", [110, 126, 40, 50], (("16",), "span", 1.0)),
        ("bridge", [110, 335, 40, 50], (("46",), "overlap", 1.0)),  # begins where the lower crown half ends
        ("bridge", [110, 334, 40, 50], (("46",), "span", 1.0)),
        ("periapical-radiolucency", [215, 70, 30, 20], (("14",), "root-tip", 25 / 150)),  # 15 px beside, 20 above
        ("periapical-radiolucency", [120, 430, 20, 20], (("46",), "root-tip", 30 / 150)),
        ("periapical-radiolucency", [185, 15, 20, 20], (("15",), "root-tip", 0.5)),
        ("periapical-radiolucency", [185, 14, 20, 20], ((), "none", 0.0)),
        ("periapical-radiolucency", [120, 265, 20, 20], (("46",), "overlap", 1.0)),  # on the crown, far from any tip
    ],
)
def test_each_rule_holds_up_to_its_limit_and_says_how_well_it_fits(
    condition: str, box: list[float], expected: tuple[tuple[str, ...], str, float]
) -> None:
    """A reader is shown the fit; a limit that moved would give findings to other teeth without a word."""
    (joined,) = join_teeth(np.array([box], float), [condition], TEETH, NAMES)

    assert (joined.fdi, joined.rule, joined.score) == (*expected[:2], pytest.approx(expected[2]))
    assert tuple(NAMES[tooth] for tooth in joined.teeth) == joined.fdi


def test_what_fits_no_tooth_stays_unassigned() -> None:
    """Nothing is dropped and nothing is guessed."""
    (joined,) = join_teeth(np.array([[900.0, 20, 30, 30]]), ["implant"], TEETH, NAMES)

    assert not joined.assigned
    assert (joined.teeth, joined.rule, joined.score) == ((), "none", 0.0)


def test_without_teeth_everything_is_unassigned() -> None:
    """A partially annotated image, or one without teeth."""
    joined = join_teeth(np.array([[0.0, 0, 9, 9], [5, 5, 9, 9]]), ["caries", "bridge"], np.zeros((0, 4)), [])

    assert [finding.rule for finding in joined] == ["none", "none"]


@pytest.mark.parametrize(("names", "message"), [(["16", "15", "14", "55"], "'55' is not"), (["16"], "4 tooth boxes")])
def test_what_cannot_be_joined_is_refused(names, message) -> None:
    """Deciduous teeth are never folded into permanent ones."""
    with pytest.raises(EvaluationError, match=message):
        join_teeth(np.array([[0.0, 0, 9, 9]]), ["caries"], TEETH, names)
