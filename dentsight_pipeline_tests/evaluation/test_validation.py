"""Every record that an engine would crash on, or score wrongly in silence, is refused by name."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from hashlib import sha256
from typing import Any

import pytest

from dentsight_pipeline.errors import EvaluationError, ScoringRecordError
from dentsight_pipeline.evaluation.validation import digest_of, read_detections, read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import coco, found

TRUTH = coco([(1, 1, [0, 0, 40, 40]), (2, 1, [5, 5, 10, 10])], images=2)


def changed(table: str, row: int, **fields: Any) -> dict[str, Any]:
    """The ground truth with some fields of one record replaced; `...` removes a field."""
    truth = copy.deepcopy(TRUTH)
    for name, value in fields.items():
        if value is ...:
            del truth[table][row][name]
        else:
            truth[table][row][name] = value
    return truth


@pytest.mark.parametrize(
    ("truth", "record", "reason"),
    [
        (changed("annotations", 0, id=0), "annotations[0] (id 0)", "a perfect detection becomes a miss"),
        (changed("annotations", 1, id=-3), "annotations[1] (id -3)", "below 1"),
        (changed("annotations", 1, id=1), "annotations[1] (id 1)", "used twice"),
        (changed("annotations", 1, id="7"), "annotations[1] (id '7')", "not an integer"),
        (changed("annotations", 1, id=True), "annotations[1] (id True)", "not an integer"),
        (changed("annotations", 1, id=2**70), f"annotations[1] (id {2**70})", "64 bits"),
        (changed("images", 1, id=1), "images[1] (id 1)", "used twice"),
        (changed("images", 0, id=0), "images[0] (id 0)", "below 1"),
        (changed("categories", 0, id=0), "categories[0] (id 0)", "below 1"),
        (changed("annotations", 0, image_id=9), "annotations[0] (id 1)", "image_id 9 is not among"),
        (changed("annotations", 0, category_id=9), "annotations[0] (id 1)", "category_id 9 is not among"),
        (changed("annotations", 0, bbox=[0, 0, 0, 5]), "annotations[0] (id 1)", "has no area"),
        (changed("annotations", 0, bbox=[0, 0, 5, -1]), "annotations[0] (id 1)", "has no area"),
        (changed("annotations", 0, bbox=[math.nan, 0, 5, 5]), "annotations[0] (id 1)", "count a NaN box as a match"),
        (changed("annotations", 0, bbox=[0, 0, math.inf, 5]), "annotations[0] (id 1)", "not finite"),
        (changed("annotations", 0, bbox=[0, 0, 5]), "annotations[0] (id 1)", "bbox is [0, 0, 5]"),
        (changed("annotations", 0, bbox=[0, 0, "5", 5]), "annotations[0] (id 1)", "bbox is [0, 0, '5', 5]"),
        (changed("annotations", 0, bbox=None), "annotations[0] (id 1)", "bbox is None"),
        (changed("annotations", 1, area=...), "annotations[1] (id 2)", "area is missing"),
        (changed("annotations", 1, area=math.nan), "annotations[1] (id 2)", "area is nan"),
        (changed("annotations", 1, area=-1), "annotations[1] (id 2)", "area is -1"),
        (changed("annotations", 1, iscrowd=...), "annotations[1] (id 2)", "iscrowd is missing"),
        (changed("annotations", 1, iscrowd=2), "annotations[1] (id 2)", "iscrowd is 2"),
        (changed("categories", 0, name=""), "categories[0] (id 1)", "name is ''"),
        (changed("images", 1, width=0), "images[1] (id 2)", "width is 0"),
        (changed("images", 1, clean=True), "images[0] (id 1)", "clean is None"),
        (changed("images", 1, source_group="a"), "images[0] (id 1)", "source_group is missing"),
    ],
)  # fmt: skip
def test_a_ground_truth_record_that_would_be_mis_scored_is_refused_by_name(truth, record, reason) -> None:
    """The message names the record and the reason, so that the user can go and mend it."""
    with pytest.raises(ScoringRecordError) as caught:
        read_ground_truth(truth, source="gt.json")

    assert (caught.value.source, caught.value.record) == ("gt.json", record)
    assert reason in caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"score": math.nan}, "score is nan"),
        ({"score": math.inf}, "score is inf"),
        ({"score": "0.9"}, "score is '0.9', not a number"),
        ({"score": None}, "score is None, not a number"),
        ({"bbox": [0, 0, math.nan, 4]}, "count a NaN box as a match"),
        ({"bbox": [0, 0, 4, 0]}, "has no area"),
        ({"image_id": 3}, "image_id 3 is not among the ground truth's images (2: 1, 2)"),
        ({"category_id": 2}, "category_id 2 is not among the ground truth's categories (1: 1)"),
        ({"image_id": "1"}, "image_id is '1', not an integer"),
    ],
)  # fmt: skip
def test_a_detection_that_would_be_mis_scored_is_refused_by_name(fields, reason) -> None:
    """NaN scores halve AP and NaN boxes count as matches in pycocotools, both without a word."""
    good = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5}

    with pytest.raises(ScoringRecordError, match=r"dt.json, detections\[1\]") as caught:
        read_detections([good, {**good, **fields}], read_ground_truth(TRUTH), source="dt.json")

    assert reason in caught.value.problem


@pytest.mark.parametrize("field", ["image_id", "category_id", "bbox", "score"])
def test_a_detection_without_a_field_is_refused(field) -> None:
    """The four fields of a results list; nothing is guessed."""
    record = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5}
    del record[field]

    with pytest.raises(ScoringRecordError, match=f"{field} is missing"):
        read_detections([record], read_ground_truth(TRUTH))


@pytest.mark.parametrize("trap", ["annotation id 0", "NaN box", "NaN scores"])
def test_the_traps_are_real_in_pycocotools(trap) -> None:
    """The witnesses for the refusals above: should pycocotools mend one, its rule here can go."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = changed("annotations", 0, id=0) if trap == "annotation id 0" else copy.deepcopy(TRUTH)
    results = found((1, 1, [0, 0, 40, 40], 0.9), (2, 1, [5, 5, 10, 10], 0.8))
    if trap == "NaN box":
        results[0]["bbox"] = [math.nan, 0, 40, 40]
    if trap == "NaN scores":
        results.insert(0, {"image_id": 1, "category_id": 1, "bbox": [300, 0, 9, 9], "score": math.nan})
        results[1]["score"] = math.nan
    with contextlib.redirect_stdout(io.StringIO()):
        reference: Any = COCO()
        reference.dataset = {"info": {}, **truth}
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    ap50 = float(evaluator.stats[1])

    if trap == "NaN box":
        assert ap50 == pytest.approx(1.0)
    else:
        assert ap50 < 0.9


def test_detections_need_no_id_area_or_iscrowd_and_may_reach_outside() -> None:
    """Other tools write bare results lists, and a detector's boxes do reach over the edge."""
    detections = read_detections(found((1, 1, [-20.5, 480, 2000, 90], 0.5)), read_ground_truth(TRUTH))

    assert detections.boxes_xywh_px.tolist() == [[-20.5, 480, 2000, 90]]


def test_missing_area_and_iscrowd_can_be_filled_in_on_purpose_and_are_noted() -> None:
    """Off by default (they would be guesses); with the switch the evaluation says what it assumed."""
    truth = changed("annotations", 1, area=..., iscrowd=...)

    columns = read_ground_truth(truth, fill_missing=True)

    assert columns.areas_px.tolist() == [1600, 100]
    assert any("1 annotations without area: computed" in note for note in columns.notes)
    assert any("1 annotations without iscrowd" in note for note in columns.notes)


def test_a_class_without_ground_truth_is_noted_because_its_false_positives_are_free() -> None:
    """AP does not see false positives of an absent class; a reader has to be told."""
    truth = coco([(1, 1, [0, 0, 40, 40])], classes=("caries", "implant"))

    assert any("No ground truth for implant" in note for note in read_ground_truth(truth).notes)


def test_images_without_annotations_stay() -> None:
    """They are negatives; dropping them would overstate precision."""
    assert len(read_ground_truth(coco([], images=3)).image_ids) == 3


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([], "expected a COCO object"),
        ({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}, "images is empty"),
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, "categories is empty"),
        ({"images": [{"id": 1}], "categories": []}, "'annotations' is missing"),
        ({"images": [3], "annotations": [], "categories": []}, r"images\[0\].*not an object"),
    ],
)
def test_what_is_no_coco_file_is_refused(truth, message) -> None:
    """A results list given as ground truth, or a cut-off file, gets a sentence and not a traceback."""
    with pytest.raises(EvaluationError, match=message):
        read_ground_truth(truth)


def test_a_coco_file_given_as_detections_is_refused_with_the_remedy() -> None:
    """The most frequent mix-up."""
    with pytest.raises(EvaluationError, match="the `annotations` of a COCO file will do"):
        read_detections(TRUTH, read_ground_truth(TRUTH))  # pyright: ignore[reportArgumentType]


def test_the_digest_is_that_of_plain_sorted_json() -> None:
    """Anyone can recompute it in one line, also for lists that are hashed in pieces."""
    document = [{"b": 1.5, "a": n} for n in range(25_000)]
    plain = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    assert digest_of(document) == sha256(plain.encode()).hexdigest()
    assert digest_of({"é": [1]}) == sha256('{"é":[1]}'.encode()).hexdigest()
    assert digest_of([]) == sha256(b"[]").hexdigest()
