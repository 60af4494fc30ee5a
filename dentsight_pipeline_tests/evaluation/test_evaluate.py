"""The whole evaluation: its figures, its folder, and what it refuses."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.evaluation import read_evaluation
from dentsight_pipeline.errors import EvaluationError, ScoringRecordError
from dentsight_pipeline.evaluation import engines
from dentsight_pipeline.evaluation.evaluate import evaluate_files
from dentsight_pipeline.evaluation.figures import RANKED
from dentsight_pipeline.evaluation.folder import Evaluation, summary, write_evaluation
from dentsight_pipeline_tests.evaluation.conftest import coco, evaluated, found, random_set

FILES = ["curves.json", "evaluation.json", "matches.parquet", "per_class.csv", "per_class.json", "per_class.parquet"]


def with_clean(truth: dict, clean: int) -> dict:
    """The same ground truth with the first `clean` images flagged clean."""
    images = [{**image, "clean": n < clean} for n, image in enumerate(truth["images"])]
    return {**truth, "images": images}


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Sixty images with groups, two thirds of them clean, thresholds from another set, mirrored detections."""
    truth, results = random_set(1, images=60, groups=True)
    return evaluated(
        with_clean(truth, 40), results, thresholds_from=random_set(2, images=60), mirrored=results[:-5], resamples=200
    )


def measured(evaluation: Evaluation, metric: str, name: str, population: str) -> dict:
    """The one measurement of that name."""
    (row,) = [
        row
        for row in evaluation.measurements
        if (row.metric, row.class_name, row.population) == (metric, name, population)
    ]
    return plain(row)


def test_the_published_set_gives_the_published_macro_figures(published) -> None:
    """A foreign file with crowds, 80 classes of which 70 are present, and no `clean`: all figures as published."""
    result = evaluated(*published, resamples=20)

    assert round(result.macro_ap or 0, 3) == 0.505
    assert round(result.macro_ap50 or 0, 3) == 0.697
    assert plain(result.document)["gated_population"] == "all"
    assert plain(result.document)["engines"]["agree"] is True
    macro = plain(result.document)["populations"]["all"]["macro"]
    assert (macro["present"], macro["of"]) == (70, 80)


def test_the_figures_are_those_of_pycocotools_in_both_populations(evaluation) -> None:
    """The engine of record; the clean population is what pycocotools gives on the clean images alone."""
    truth, results = random_set(1, images=60, groups=True)
    clean_truth = {
        **truth,
        "images": truth["images"][:40],
        "annotations": [a for a in truth["annotations"] if a["image_id"] <= 40],
    }
    clean_results = [r for r in results if r["image_id"] <= 40]

    for population, inputs in (("all", (truth, results)), ("clean", (clean_truth, clean_results))):
        expected = engines.coco_statistics(*inputs, engine="pycocotools")
        part = plain(evaluation.document)["populations"][population]
        assert part["macro"]["ap"] == pytest.approx(expected.ap, abs=1e-12)
        for row in part["per_class"]:
            for metric in ("ap", "ap50", "ap75", "ar100", "ap_small", "ap_medium", "ap_large"):
                assert row[metric] == pytest.approx(expected.per_class[row["class"]][metric], abs=1e-12)


def test_gates_read_the_clean_images_where_the_file_says_which_they_are(evaluation) -> None:
    """Leaked images flatter; the gated population is never `all` when `clean` exists."""
    assert plain(evaluation.document)["gated_population"] == "clean"
    assert plain(evaluation.document)["populations"]["clean"]["images"] == 40
    assert plain(evaluation.document)["calibration"]["population"] == "clean"


def test_every_figure_has_an_interval_around_it(evaluation) -> None:
    """The row's bounds hold its value, for AP, its sizes, and what depends on a threshold."""
    for row in plain(evaluation.document)["populations"]["all"]["per_class"]:
        for metric in RANKED:
            if row[f"{metric}_low"] is None:
                continue
            assert row[f"{metric}_low"] - 1e-9 <= row[metric] <= row[f"{metric}_high"] + 1e-9
        assert row["ap_low"] is not None and row["ap_medium_low"] is not None and row["best_f1_low"] is not None


def test_every_measurement_that_gates_read_is_there_once(evaluation) -> None:
    """A gate without its measurement is inconclusive for ever; two of a kind contradict each other."""
    keys = [(row.metric, row.class_name, row.population) for row in evaluation.measurements]

    assert len(keys) == len(set(keys))
    for metric in ("ap", "ap50", "ap75", "ar100", "recall_at_p95", "best_f1"):
        for name in (*plain(evaluation.document)["classes"], "macro"):
            assert (metric, name, "clean") in keys and (metric, name, "all") in keys
    for metric in ("ece", "left_right_agreement", "left_minus_right_recall", "empty_mouth_fp_rate"):
        assert (metric, "all", "clean") in keys


def test_thresholds_come_from_valid_and_are_applied_to_test() -> None:
    """On valid the best threshold is .8; on test it would be .3. What counts on test is what .8 gives there."""
    truth = coco([(1, 1, [0, 0, 40, 40]), (1, 1, [100, 0, 40, 40])])
    valid = found((1, 1, [0, 0, 40, 40], 0.9), (1, 1, [100, 0, 40, 40], 0.8), (1, 1, [300, 0, 40, 40], 0.7))
    test = found((1, 1, [0, 0, 40, 40], 0.9), (1, 1, [100, 0, 40, 40], 0.3))

    result = evaluated(truth, test, thresholds_from=(truth, valid), resamples=0)

    row = plain(result.document)["populations"]["all"]["per_class"][0]
    assert plain(result.document)["thresholds_from"] == "valid"
    assert (row["threshold_best_f1"], row["threshold_p95"]) == (0.8, 0.8)
    assert (row["best_f1"], row["recall_at_p95"]) == (1.0, 1.0)
    assert (row["recall_at_threshold"], row["precision_at_threshold"]) == (0.5, 1.0)
    assert row["recall_at_threshold_p95"] == 0.5


def test_thresholds_chosen_on_the_evaluated_images_are_marked_so() -> None:
    """They flatter; the report has to say it, and Platt scaling is not fitted on them at all."""
    result = evaluated(*random_set(3), resamples=0)

    assert plain(result.document)["thresholds_from"] == "test"
    assert plain(result.document)["calibration"]["platt"] is None


def test_the_same_inputs_and_seed_give_the_same_bytes(evaluation, tmp_path: Path) -> None:
    """The folder becomes a manifest: nothing volatile may be in it."""
    truth, results = random_set(1, images=60, groups=True)
    again = evaluated(
        with_clean(truth, 40), results, thresholds_from=random_set(2, images=60), mirrored=results[:-5], resamples=200
    )

    write_evaluation(evaluation, tmp_path / "a")
    write_evaluation(again, tmp_path / "b")

    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_tables_hold_the_same_rows_in_every_format(evaluation, tmp_path: Path) -> None:
    """CSV for people, JSON for scripts, Parquet for notebooks: one truth."""
    import pyarrow.parquet as parquet

    write_evaluation(evaluation, tmp_path)
    rows = json.loads((tmp_path / "per_class.json").read_text())
    table = parquet.read_table(tmp_path / "per_class.parquet").to_pylist()
    with (tmp_path / "per_class.csv").open(encoding="utf-8") as file:
        text = list(csv.DictReader(file))

    assert len(rows) == len(table) == len(text) == 2 * 3
    for a, b, c in zip(rows, table, text, strict=True):
        assert (a["population"], a["class"], a["n_gt"]) == (b["population"], b["class"], b["n_gt"])
        assert a["ap"] == b["ap"] == float(c["ap"])
    assert read_evaluation(tmp_path) == evaluation.document


def test_the_parquet_of_matches_has_a_row_for_each_detection_and_each_missed_box(evaluation, tmp_path: Path) -> None:
    """The report's gallery and histograms are drawn from it."""
    import pyarrow.parquet as parquet

    write_evaluation(evaluation, tmp_path)
    rows = parquet.read_table(tmp_path / "matches.parquet").to_pylist()
    missed = [row for row in rows if row["kind"] == "missed"]

    assert all(row["score"] is None and row["matched_at_50"] is not None for row in missed)
    assert all(row["score"] >= plain(evaluation.document)["score_floor"] for row in rows if row["kind"] != "missed")
    assert {row["kind"] for row in rows} <= {"tp", "class", "localisation", "duplicate", "background", "missed"}
    assert all((row["matched_at_50"] is not None) == (row["kind"] in ("tp", "missed")) for row in rows)


def test_an_unreachable_threshold_is_null_in_json_and_infinite_in_csv(tmp_path: Path) -> None:
    """JSON has no infinity, and a null beside recall 0 cannot be read as a threshold of 0."""
    import pyarrow.parquet as parquet

    truth, results = coco([(1, 1, [0, 0, 40, 40])]), found((1, 1, [500, 0, 40, 40], 0.9))

    result = evaluated(truth, results, resamples=0)
    write_evaluation(result, tmp_path)

    row = plain(result.document)["populations"]["all"]["per_class"][0]
    assert (row["recall_at_p95"], row["threshold_p95"]) == (0.0, None)
    assert ",inf" in (tmp_path / "per_class.csv").read_text()
    assert parquet.read_table(tmp_path / "per_class.parquet").to_pylist()[0]["threshold_p95"] == math.inf


def test_a_model_that_finds_nothing_is_scored_zero_and_not_calibrated() -> None:
    """`loadRes([])` would raise. ECE of nothing is no 0: value null with n = 0, which a gate fails."""
    truth, _ = random_set(5, images=30)

    result = evaluated(truth, [], resamples=50)

    assert result.macro_ap == 0
    ece = measured(result, "ece", "all", "all")
    assert (ece["value"], ece["n"]) == (None, 0)
    assert plain(result.document)["empty_mouth"]["false_positives"] == 0


def test_a_model_that_finds_nothing_is_not_called_even_handed() -> None:
    """Recall 0 on the left minus recall 0 on the right is 0, and would pass a gate on the difference."""
    truth = coco([(1, 1, [0, 0, 40, 40]), (1, 1, [900, 0, 40, 40])])

    row = measured(evaluated(truth, [], resamples=0), "left_minus_right_recall", "all", "all")

    assert (row["value"], row["n"]) == (None, 2)
    assert "nothing is found on either side" in row["note"]


def test_no_clean_image_at_all_measures_nothing_and_does_not_crash() -> None:
    """Where every image leaked, gates get no figure to decide on."""
    truth, results = random_set(6)

    result = evaluated(with_clean(truth, 0), results, resamples=10)

    assert plain(result.document)["gated_population"] == "clean"
    assert plain(result.document)["populations"]["clean"]["macro"]["ap"] is None
    assert measured(result, "ap50", "macro", "clean")["value"] is None
    assert result.macro_ap is not None


def test_too_few_sources_leave_no_interval() -> None:
    """Two clean images decide nothing, however good the figures look."""
    truth, results = random_set(7, images=20)

    result = evaluated(with_clean(truth, 2), results, resamples=50)

    row = measured(result, "ap50", "macro", "clean")
    assert row["low"] is None and "source groups" in row["note"]


def test_engines_that_disagree_are_recorded_so_that_gates_fail_closed(monkeypatch) -> None:
    """A planted difference of 1e-9 in one engine must be seen."""
    honest = engines._run_hotcoco

    def crooked(*given):
        result = honest(*given)
        result.precision[0, 0, 0, 0, 2] += 1e-9
        return result

    monkeypatch.setattr(engines, "_run_hotcoco", crooked)
    result = evaluated(*random_set(8), resamples=0)

    assert plain(result.document)["engines"]["agree"] is False
    assert plain(result.document)["engines"]["max_abs_difference"] == pytest.approx(1e-9)


def test_a_matching_that_differs_from_the_engine_of_record_is_an_error(monkeypatch) -> None:
    """Intervals come from the room's own matching; if it counts otherwise, they are of something else."""
    honest = engines._run_pycocotools

    def crooked(*given):
        results = honest(*given)
        results["all"].precision[0, :, 0, 0, 2] += 1e-6
        return results

    monkeypatch.setattr(engines, "_run_pycocotools", crooked)
    with pytest.raises(EvaluationError, match="no interval of this run can be trusted"):
        evaluated(*random_set(8), resamples=0)


def test_classes_of_the_validation_split_must_be_the_same() -> None:
    """A threshold of another class list would be applied to the wrong class."""
    with pytest.raises(EvaluationError, match="Give the validation split of the same dataset"):
        evaluated(*random_set(0), thresholds_from=random_set(0, classes=2), resamples=0)


def test_errors_name_the_file_and_the_record(tmp_path: Path) -> None:
    """What the command line prints on exit 2."""
    truth, results = random_set(0)
    truth["annotations"][3]["id"] = 0
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))

    with pytest.raises(ScoringRecordError, match=r"gt.json, annotations\[3\] \(id 0\).*Number ids from 1"):
        evaluate_files(tmp_path / "gt.json", tmp_path / "dt.json", tmp_path / "out")


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("[1, 2", "is not JSON")])
def test_a_file_that_cannot_be_read_gets_one_sentence(tmp_path: Path, content, message) -> None:
    """Missing, or cut off while it was copied."""
    truth, _ = random_set(0)
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    if content is not None:
        (tmp_path / "dt.json").write_text(content)

    with pytest.raises(EvaluationError, match=message):
        evaluate_files(tmp_path / "gt.json", tmp_path / "dt.json", tmp_path / "out")


def test_the_summary_has_what_scripts_read(tmp_path: Path) -> None:
    """`per_class`, `macro_ap50` and `macro_ap` on top, over all images of the file."""
    truth, results = random_set(9)
    (tmp_path / "gt.json").write_text(json.dumps(with_clean(truth, 6)))
    (tmp_path / "dt.json").write_text(json.dumps(results))

    facts = evaluate_files(tmp_path / "gt.json", tmp_path / "dt.json", tmp_path / "out", resamples=10)

    expected = engines.coco_statistics(truth, results, "pycocotools")
    assert facts["macro_ap50"] == pytest.approx(expected.ap50, abs=1e-12)
    assert facts["macro_ap"] == pytest.approx(expected.ap, abs=1e-12)
    assert {"class", "ap", "ap50", "ar100", "n_gt"} <= facts["per_class"][0].keys()
    assert facts["clean"]["images"] == 6
    assert facts == summary(read_evaluation(tmp_path / "out"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    """`dentsight gate --evaluation` on a wrong folder."""
    (tmp_path / "evaluation.json").write_text('{"schema": "other"}')

    with pytest.raises(EvaluationError, match="is not a dentsight-evaluation/1 document"):
        read_evaluation(tmp_path)


def test_partially_annotated_images_are_no_tooth_negatives() -> None:
    """Their teeth are there, only not marked: each would count as a false positive."""
    truth = coco([(1, 1, [0, 0, 40, 40])], images=2, classes=("11", "21"))
    truth["images"][1]["partial_annotation"] = True
    results = found((1, 1, [0, 0, 40, 40], 0.5), (2, 1, [0, 0, 40, 40], 0.9))

    teeth = evaluated(truth, results, resamples=0)
    conditions = copy.deepcopy(truth)
    conditions["categories"] = [{"id": 1, "name": "caries"}, {"id": 2, "name": "crown"}]

    assert teeth.macro_ap50 == pytest.approx(1.0)
    assert "partially annotated" in " ".join(plain(teeth.document)["notes"])
    assert evaluated(conditions, results, resamples=0).macro_ap50 == pytest.approx(0.5)


def test_progress_is_told() -> None:
    """A long evaluation says where it is."""
    stages: list[str] = []

    evaluated(*random_set(0), resamples=10, progress=lambda stage, done, total: stages.append(stage))

    assert {"validate", "engines", "bootstrap", "tier 2", "done"} <= set(stages)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.sampled_from([0.01, 0.5]))
def test_scaling_scores_moves_thresholds_and_nothing_that_ranks(seed, factor) -> None:
    """AP and its interval read the order alone; thresholds move along; calibration must notice."""
    truth, results = random_set(seed, images=20)
    scaled = [{**record, "score": record["score"] * factor} for record in results]

    a, b = evaluated(truth, results, resamples=30), evaluated(truth, scaled, resamples=30)

    for one, other in zip(a.per_class, b.per_class, strict=True):
        for metric in (f"{name}{end}" for name in RANKED for end in ("", "_low", "_high")):
            assert one[metric] == pytest.approx(other[metric], abs=1e-12)
        assert other["threshold_best_f1"] == pytest.approx(one["threshold_best_f1"] * factor)


def test_false_positives_of_empty_mouths_are_counted_at_the_operating_threshold() -> None:
    """Two of three empty images have one at .5 or above; the one at .2 is never shown."""
    truth = coco([(1, 1, [0, 0, 40, 40])], images=4)
    results = found(
        (1, 1, [0, 0, 40, 40], 0.5),
        (1, 1, [300, 0, 40, 40], 0.45),
        (2, 1, [0, 0, 40, 40], 0.4),
        (3, 1, [0, 0, 40, 40], 0.6),
        (3, 1, [90, 0, 40, 40], 0.6),
        (4, 1, [0, 0, 40, 40], 0.2),
    )
    only_first = found((1, 1, [0, 0, 40, 40], 0.3))

    result = evaluated(truth, results, thresholds_from=(truth, only_first), resamples=0)

    empty = plain(result.document)["empty_mouth"]
    assert (empty["images"], empty["images_with_false_positive"], empty["false_positives"]) == (3, 2, 3)
    rate = measured(result, "empty_mouth_fp_rate", "all", "all")
    assert (rate["value"], rate["n"]) == (pytest.approx(2 / 3), 3)
    assert rate["low"] == pytest.approx(0.1354, abs=1e-3)
    assert empty["images_needed_for_below_5_percent"] == 59


def test_mirrored_detections_give_the_left_right_agreement() -> None:
    """Two boxes on the image, one of them again on its mirror image: 2·1/(2+1)."""
    truth = coco([(1, 1, [0, 0, 40, 40]), (1, 1, [900, 0, 40, 40])])
    results = found((1, 1, [0, 0, 40, 40], 0.9), (1, 1, [900, 0, 40, 40], 0.8))

    result = evaluated(truth, results, mirrored=results[:1], resamples=0)

    assert measured(result, "left_right_agreement", "all", "all")["value"] == pytest.approx(2 / 3)
    assert measured(result, "left_minus_right_recall", "all", "all")["value"] == 0
    assert plain(evaluated(truth, results, resamples=0).document)["consistency"]["left_right_agreement"] is None


@pytest.mark.parametrize(("swap", "agreement"), [(False, 0.0), (True, 1.0)])
def test_teeth_are_renamed_once_and_only_when_asked(swap, agreement) -> None:
    """Stored predictions are renamed already; renaming them again would make every model inconsistent."""
    truth = coco([(1, 1, [0, 0, 40, 40]), (1, 2, [900, 0, 40, 40])], classes=("11", "21"))
    results = found((1, 1, [0, 0, 40, 40], 0.9), (1, 2, [900, 0, 40, 40], 0.8))
    as_seen = found((1, 2, [0, 0, 40, 40], 0.9), (1, 1, [900, 0, 40, 40], 0.8))

    result = evaluated(truth, results, mirrored=as_seen, swap_mirrored_teeth=swap, resamples=0)

    assert measured(result, "left_right_agreement", "all", "all")["value"] == agreement


def test_froc_rises_with_the_false_positives_allowed(evaluation) -> None:
    """Seven points from ⅛ to 8, for each class and for all."""
    froc = plain(evaluation.document)["froc"]

    assert list(froc["false_positives_per_image"]) == [0.125, 0.25, 0.5, 1, 2, 4, 8]
    for entry in froc["classes"].values():
        assert np.all(np.diff(entry["sensitivity"]) >= 0)
    assert set(froc["classes"]) == {*plain(evaluation.document)["classes"], "all"}


def test_ap50_is_never_surer_of_a_bad_model_than_ap75_is() -> None:
    """One weak hit at .50 and none at .75: AP75 may be up to .35 of 7 sources, so AP50 cannot be 0 to .00."""
    truth = coco([(image, 1, [10, 10, 100, 100]) for image in range(1, 8)], images=7)
    strays = [(image, 1, [500 + 3 * n, 10, 50, 50], 0.9) for image in range(1, 8) for n in range(90)]
    results = found(*strays, (1, 1, [40, 10, 100, 100], 0.5))

    row = evaluated(truth, results, resamples=200).document.populations["all"].per_class[0]

    assert row.ap50 is not None and 0 < row.ap50 < 0.01
    assert (row.ap75, row.ap75_low) == (0.0, 0.0)
    assert row.ap50_high == row.ap75_high == pytest.approx(0.348, abs=1e-3)


def test_curves_are_those_at_an_iou_of_a_half() -> None:
    """A box that lies 52 % on its own is a hit there, and a miss from .55 on; what is drawn is what thresholds cut."""
    truth = coco([(1, 1, [0, 0, 100, 100])], classes=("caries", "crown"))

    curves = evaluated(truth, found((1, 1, [0, 0, 100, 52], 0.8), (1, 1, [500, 0, 9, 9], 0.3)), resamples=0).curves[
        "all"
    ]

    caries = curves["caries"]
    assert caries.precision == pytest.approx((1.0,) * 101)
    assert (caries.score, caries.f1, caries.recall_by_score) == ((0.8, 0.3), (1, pytest.approx(2 / 3)), (1, 1))
    assert caries.precision_by_score == (1, 0.5)
    assert (curves["crown"].precision, curves["crown"].score) == (None, ())
