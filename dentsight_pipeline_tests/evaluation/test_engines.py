"""The two engines reproduce published figures, agree with each other, and behave as COCO's rules say."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.evaluation import engines, matching, metrics
from dentsight_pipeline.evaluation.engines import (
    AREA_RANGES_PX,
    coco_statistics,
    common_cells,
    max_abs_difference,
    score,
    score_populations,
    with_cells_of,
)
from dentsight_pipeline.evaluation.validation import read_detections, read_ground_truth
from dentsight_pipeline_tests.evaluation.conftest import coco, found, random_set

PUBLISHED = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
ENGINES = ("pycocotools", "hotcoco")
seeds = st.integers(min_value=0, max_value=10_000)
few = settings(max_examples=20, deadline=None)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_published_twelve_metrics_come_out(published, engine) -> None:
    """Real detections with answers published by COCO: an engine that misses one figure is not COCO's metric."""
    result = coco_statistics(*published, engine=engine)

    assert result.summary().round(3).tolist() == PUBLISHED


def test_both_engines_are_identical_on_the_published_set(published) -> None:
    """The fast engine stands in for the engine of record during training; it may not differ by more than rounding."""
    assert max_abs_difference(*(coco_statistics(*published, engine=e) for e in ENGINES)) <= 1e-12


@pytest.mark.parametrize("engine", ENGINES)
def test_hit_miss_hit_on_two_boxes_is_834983(engine) -> None:
    """By hand: precision 1 up to recall ½, then ⅔; (51 + 50·⅔)/101."""
    truth = coco([(1, 1, [0, 0, 40, 40]), (1, 1, [100, 0, 40, 40])])
    results = found((1, 1, [0, 0, 40, 40], 0.9), (1, 1, [300, 0, 40, 40], 0.8), (1, 1, [100, 0, 40, 40], 0.7))

    result = coco_statistics(truth, results, engine)

    assert result.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)
    assert result.ap == pytest.approx(0.834983, abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_figures_by_size_and_by_number_of_detections_are_those_computed_by_hand(engine) -> None:
    """A small box is hit, a medium one missed, of a large one two thirds are hit: good up to an IoU of .65.

    Recall is 2/3 at four of ten IoUs (67 of 101 recall thresholds) and 1/3 at six (34); with one detection it is 1/3.
    """
    truth = coco([(1, 1, [0, 0, 20, 20]), (1, 1, [200, 0, 40, 40]), (1, 1, [400, 0, 100, 100])], classes=("a", "b"))
    results = found(
        (1, 1, [0, 0, 20, 20], 0.9),
        (1, 1, [420, 0, 100, 100], 0.8),
        (1, 1, [700, 0, 40, 40], 0.7),
        (1, 2, [0, 0, 9, 9], 1),
    )

    result = coco_statistics(truth, results, engine)

    ap, recall = (4 * 67 + 6 * 34) / 1010, (4 * 2 + 6) / 30
    assert result.per_class["a"] == pytest.approx(
        {"ap": ap, "ap50": 67 / 101, "ap75": 34 / 101, "ar100": recall, "ap_small": 1, "ap_medium": 0, "ap_large": 0.4}
    )
    assert result.summary() == pytest.approx([ap, 67 / 101, 34 / 101, 1, 0, 0.4, 1 / 3, recall, recall, 1, 0, 0.4])
    assert (result.present, result.ap, result.ap50) == (("a",), pytest.approx(ap), pytest.approx(67 / 101))
    assert set(result.per_class["b"].values()) == {None}


@pytest.mark.parametrize("engine", ENGINES)
def test_many_boxes_are_scored_in_pieces_and_give_the_same(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbouring classes up to a number of boxes, images up to a number: what bounds the memory changes nothing."""
    truth, results = random_set(4, images=13, classes=5, crowds=True)
    whole = coco_statistics(truth, results, engine)
    columns = read_ground_truth(truth)
    detections = read_detections(results, columns)
    boxes = np.bincount(columns.class_index, minlength=5) + np.bincount(detections.class_index, minlength=5)

    monkeypatch.setattr(engines, "_BOXES_AT_ONCE", int(boxes[0] + boxes[1]))
    monkeypatch.setattr(engines, "_IMAGES_AT_ONCE", 4)

    pieces = list(engines._pieces(columns, detections))
    assert pieces[0] == slice(0, 2)
    assert [k for piece in pieces for k in range(piece.start, piece.stop)] == list(range(5))
    assert all(boxes[p].sum() <= boxes[:2].sum() or p.stop - p.start == 1 for p in pieces)
    assert max_abs_difference(coco_statistics(truth, results, engine), whole) == 0


def test_without_sizes_an_engine_has_the_same_figures_of_all_boxes() -> None:
    """The engine of record leaves them out for speed, and takes the fast engine's."""
    columns = read_ground_truth(random_set(3)[0])
    detections = read_detections(random_set(3)[1], columns)
    everything = {"all": np.ones(len(columns.image_ids), bool)}

    (plain,) = score_populations(columns, detections, "pycocotools", everything, areas=("all",)).values()
    full = score(columns, detections, "hotcoco")

    assert list(plain.per_class["class 1"]) == ["ap", "ap50", "ap75", "ar100"]
    assert max_abs_difference(plain, common_cells(full, plain)) <= 1e-12
    assert max_abs_difference(with_cells_of(full, plain), full) <= 1e-12
    assert with_cells_of(full, plain).engine == "pycocotools"
    assert max_abs_difference(plain, full) == np.inf


@pytest.mark.parametrize("engine", ENGINES)
def test_a_class_without_ground_truth_is_absent_and_one_without_detections_is_zero(engine) -> None:
    """Averaging an absent class as 0 would punish, as 1 would flatter; leaving out a missed one would hide it."""
    truth = coco([(1, 1, [0, 0, 40, 40]), (1, 2, [0, 0, 40, 40])], classes=("caries", "crown", "implant"))
    results = found((1, 1, [0, 0, 40, 40], 0.9), (1, 3, [0, 0, 40, 40], 0.9))

    result = coco_statistics(truth, results, engine)

    assert result.per_class["crown"]["ap"] == 0
    assert result.per_class["implant"]["ap"] is None
    assert result.present == ("caries", "crown")
    assert result.ap50 == pytest.approx(0.5)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_detections_at_all_score_zero(engine) -> None:
    """`loadRes([])` raises in pycocotools, but a model that finds nothing is a result."""
    truth = coco([(1, 1, [0, 0, 40, 40])])

    assert coco_statistics(truth, [], engine).ap == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_printed(engine, capfd) -> None:
    """JSON alone goes to stdout; pycocotools prints six lines if it is let."""
    coco_statistics(*random_set(0), engine=engine)

    assert capfd.readouterr().out == ""


def test_an_unknown_engine_is_refused() -> None:
    """A misspelt engine must not fall back to another one in silence."""
    with pytest.raises(ConfigurationError, match=r"hotcocoa.*Choose pycocotools or hotcoco"):
        coco_statistics(*random_set(0), engine="hotcocoa")  # pyright: ignore[reportArgumentType]


def test_boxes_are_not_rounded() -> None:
    """Rounding to whole pixels shifts a class's AP by up to .0073; here it would turn a hit at IoU .95 into a miss."""
    truth = coco([(1, 1, [0.4, 0.4, 10.0, 10.0])])
    exact, rounded = found((1, 1, [0.4, 0.4, 10.0, 10.2], 0.9)), found((1, 1, [0, 0, 10, 10], 0.9))

    assert coco_statistics(truth, exact).ap == pytest.approx(1.0)
    assert (coco_statistics(truth, rounded).ap or 0) < 0.95


@few
@given(seed=seeds, crowds=st.booleans(), ties=st.booleans())
def test_engines_and_own_matching_agree_on_any_set(seed, crowds, ties) -> None:
    """Three independent implementations of one rule, in every area range: intervals rest on the third."""
    truth, results = random_set(seed, crowds=crowds, ties=ties)
    columns = read_ground_truth(truth)
    detections = read_detections(results, columns)

    record = score(columns, detections, "pycocotools")
    own = matching.match(columns, detections)

    assert max_abs_difference(record, score(columns, detections, "hotcoco")) <= 1e-12
    for k, by_area in enumerate(own):
        for a, area in enumerate(AREA_RANGES_PX):
            precision, recall = metrics.average_precision(by_area[area])
            assert np.nan_to_num(precision, nan=-1) == pytest.approx(record.precision[:, :, k, a, 2].mean(1), abs=1e-12)
            assert np.nan_to_num(recall, nan=-1) == pytest.approx(record.recall[:, k, a, 2], abs=1e-12)


@few
@given(seed=seeds, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_records_changes_nothing(seed, shuffle) -> None:
    """Files list images and detections in any order; scores without ties leave no choice to make."""
    truth, results = random_set(seed)
    before = coco_statistics(truth, results)
    shuffled, shuffled_results = copy.deepcopy(truth), list(results)
    for table in ("images", "annotations", "categories"):
        shuffle.shuffle(shuffled[table])
    shuffle.shuffle(shuffled_results)

    assert max_abs_difference(before, coco_statistics(shuffled, shuffled_results)) == 0


@few
@given(seed=seeds, shuffle=st.randoms(use_true_random=False))
def test_renaming_ids_changes_nothing(seed, shuffle) -> None:
    """Ids are names: annotation and image ids may be any numbers from 1."""
    truth, results = random_set(seed)
    before = coco_statistics(truth, results)
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    new = {
        record["id"]: n
        for record, n in zip(truth["images"], shuffle.sample(range(1, 9999), len(truth["images"])), strict=False)
    }
    for record in [*truth["annotations"], *results]:
        record["image_id"] = new[record["image_id"]]
    for record in truth["images"]:
        record["id"] = new[record["id"]]
    for record, n in zip(truth["annotations"], shuffle.sample(range(1, 9999), len(truth["annotations"])), strict=False):
        record["id"] = n

    assert max_abs_difference(before, coco_statistics(truth, results)) == 0


@few
@given(seed=seeds, shuffle=st.randoms(use_true_random=False))
def test_ties_are_broken_by_image_id_in_both_engines_whatever_the_order_of_the_file(seed, shuffle) -> None:
    """Ties between images are ordered by image id, so that the order of the list plays no part."""
    truth, results = random_set(seed, ties=True)
    by_image: dict[int, list] = {}
    for record in results:
        by_image.setdefault(record["image_id"], []).append(record)
    images = list(by_image)
    shuffle.shuffle(images)
    moved = [record for image in images for record in by_image[image]]

    for engine in ENGINES:
        assert max_abs_difference(coco_statistics(truth, results, engine), coco_statistics(truth, moved, engine)) == 0


@few
@given(seed=seeds, extra=st.integers(1, 5))
def test_empty_images_without_detections_change_nothing(seed, extra) -> None:
    """Negatives matter by their false positives alone."""
    truth, results = random_set(seed)
    more = {**truth, "images": [*truth["images"], *({"id": 1000 + n, "width": 9, "height": 9} for n in range(extra))]}

    assert max_abs_difference(coco_statistics(truth, results), coco_statistics(more, results)) == 0


def test_a_false_positive_on_an_empty_image_lowers_ap() -> None:
    """An image that lost all its annotations stays as a negative: dropping it would overstate precision."""
    truth = coco([(1, 1, [0, 0, 40, 40])], images=2)
    results = found((1, 1, [0, 0, 40, 40], 0.5), (2, 1, [0, 0, 40, 40], 0.9))

    assert coco_statistics(truth, results).ap50 == pytest.approx(0.5)


@few
@given(seed=seeds, factor=st.sampled_from([1e-3, 0.5, 3.0, 1e4]))
def test_scaling_all_scores_changes_nothing(seed, factor) -> None:
    """AP reads the order of scores alone, which is why it cannot see a collapsed head."""
    truth, results = random_set(seed)
    scaled = [{**record, "score": record["score"] * factor} for record in results]

    assert max_abs_difference(coco_statistics(truth, results), coco_statistics(truth, scaled)) == 0


def test_at_most_one_hundred_detections_of_an_image_and_class_count() -> None:
    """maxDets is per image and class: the true box is the 101st of its class, so it is lost."""
    truth = coco([(1, 1, [0, 0, 40, 40])], classes=("caries", "crown"))
    noise = [(1, 1, [200.0 + n, 200, 9, 9], 0.9 - n / 1000) for n in range(100)]
    other_class = [(1, 2, [0, 0, 40, 40], 0.95)] * 50

    within = coco_statistics(truth, found(*noise[:99], *other_class, (1, 1, [0, 0, 40, 40], 0.1)))
    beyond = coco_statistics(truth, found(*noise, *other_class, (1, 1, [0, 0, 40, 40], 0.1)))

    assert within.macro("ar100") == 1
    assert beyond.macro("ar100") == 0
