"""`evaluation.json` is read in one place, strictly, and written as it was read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dentsight_pipeline.documents.evaluation import for_people, parse_evaluation, read_evaluation
from dentsight_pipeline.errors import EvaluationError

BARE = {"schema": "dentsight-evaluation/1", "classes": ["caries"], "gated_population": "clean"}


def test_an_evaluation_of_another_tool_may_hold_measurements_alone() -> None:
    """Gates then fail closed on what is not there; refusing the file would hide what it does say."""
    row = {"metric": "ap", "class": "caries", "population": "clean", "value": 0.5}

    document = parse_evaluation(json.dumps({**BARE, "measurements": [row]}).encode(), "theirs")

    assert (document.measurements[0].class_name, document.measurements[0].low) == ("caries", None)
    assert document.engines is None and document.gated is None


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"measurements": [{"metric": "ap", "class": "caries", "population": "all", "value": "0.9"}]}, "value"),
        ({"gated_population": "best"}, "gated_population"),
        ({"schema": "other"}, "schema"),
        ({"engines": {"agree": True}}, "engines"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(changed, path) -> None:
    """A number as text, or a word nobody knows, would otherwise turn up as a missing figure far from its cause."""
    with pytest.raises(EvaluationError, match=f"theirs is not a dentsight-evaluation/1 document: .*{path}"):
        parse_evaluation(json.dumps({**BARE, **changed}).encode(), "theirs")


def test_not_a_number_is_refused() -> None:
    """JSON has none; written by another tool it would pass as a figure that no comparison is true of."""
    text = json.dumps({**BARE, "score_floor": float("nan")})

    with pytest.raises(EvaluationError, match="not a dentsight-evaluation/1 document"):
        parse_evaluation(text.encode(), "theirs")


def test_reading_and_writing_changes_nothing(tmp_path: Path) -> None:
    """People and scripts read the file by its keys."""
    macro = {"present": 1, "of": 1, "ap": 0.25, "ap_low": 0.125}
    text = json.dumps({**BARE, "populations": {"clean": {"images": 3, "groups": 2, "per_class": [], "macro": macro}}})

    document = parse_evaluation(text.encode(), "ours")
    (tmp_path / "evaluation.json").write_bytes(for_people(document))

    assert read_evaluation(tmp_path) == document
    assert json.loads(for_people(document))["populations"]["clean"]["macro"] == {
        **dict.fromkeys(document.populations["clean"].macro.__struct_fields__),
        **macro,
    }
    assert document.gated is not None and document.gated.macro.figure("ap") == (0.25, 0.125, None)


def test_a_folder_without_an_evaluation_says_how_to_make_one(tmp_path: Path) -> None:
    """The usual mistake is a wrong folder."""
    with pytest.raises(EvaluationError, match=r"holds no evaluation\.json\. Run `dentsight evaluate"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(EvaluationError, match="Give the folder, not a file in it"):
        read_evaluation(tmp_path / "evaluation.json")
