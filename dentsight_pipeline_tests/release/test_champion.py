"""Who is champion, and a challenger held against the champion: the better model wins whichever role it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data.ontology import CONDITIONS
from dentsight_pipeline.data.splits import read_split, split_files
from dentsight_pipeline.documents.annotations import table_of, write_table
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.documents.verdict import ChampionComparison, Verdict
from dentsight_pipeline.errors import DocumentError, ReleaseError
from dentsight_pipeline.release import champion
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import build
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.documents.facts_for_tests import predictions_facts, release_facts, subset_facts
from dentsight_pipeline_tests.release.conftest import judged

IMAGES = range(1, 41)
GOOD = [image for image in IMAGES if image % 10]
"""Where the good model finds everything: on nine images of ten."""
POOR = [image for image in IMAGES if image % 2]
"""Where the poor one does: on every other one."""
WHY = ("A. Reviewer", "A better model.")


@dataclass(frozen=True)
class Models:
    """Two models on the same 40 drawn images, each with one box of every condition."""

    store: Store
    subset: Manifest
    good: Manifest
    poor: Manifest

    def released(self, predictions: Manifest) -> Manifest:
        """A release of the model that made these predictions."""
        return _stored(self.store, Kind.RELEASE, {}, {}, release_facts(chain={"test_predictions": predictions.digest}))

    def compared(self, challenger: Manifest) -> ChampionComparison | None:
        """The challenger against whoever is champion."""
        chain = {"condition_subset": self.subset, "test_predictions": challenger}
        return champion.comparison_with(self.store, chain, resamples=60)


def _stored(store: Store, kind: Kind, files: dict[str, bytes], inputs: dict[str, str], facts: Any) -> Manifest:
    made = build(store, kind, dict(files), inputs, facts)
    store.put_manifest(made)
    return made


def _test_split(first_source: int = 0) -> dict[str, bytes]:
    """The files of a test split; other sources make it other ground truth."""
    boxes = [
        {
            "id": len(CONDITIONS) * image + k,
            "image_id": image,
            "category_id": k,
            "bbox": [40.0 * k, 9.0 * image, 30.0, 30.0],
        }
        for image in IMAGES
        for k in range(1, len(CONDITIONS) + 1)
    ]
    images = [
        {"id": image, "file_name": f"images/{image + first_source:064x}.png", "width": 640, "height": 640}
        for image in IMAGES
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(CONDITIONS, start=1)]
    return split_files([from_coco("test", {"images": images, "annotations": boxes, "categories": categories})])


def _predictions(store: Store, subset: Manifest, found_on: Iterable[int]) -> Manifest:
    """Detections of all boxes of some images, exactly where they are."""
    truth = read_split(store, subset, "test").to_coco()["annotations"]
    kept = set(found_on)
    found = [{key: row[key] for key in ("image_id", "category_id", "bbox")} for row in truth if row["image_id"] in kept]
    table = table_of([{**row, "score": 0.9} for row in found], DETECTIONS)
    inputs = {"condition_subset": subset.digest}
    return _stored(store, Kind.PREDICTIONS, {"test.arrow": write_table(table)}, inputs, predictions_facts(CONDITIONS))


@pytest.fixture
def models(tmp_path: Path) -> Models:
    """Two models with a known winner."""
    store = open_store(tmp_path / "store")
    subset = _stored(store, Kind.CONDITION_SUBSET, _test_split(), {}, subset_facts(CONDITIONS))
    return Models(store, subset, _predictions(store, subset, GOOD), _predictions(store, subset, POOR))


def _outcomes(
    evaluation: dict[str, Any], policy: Any, healthy: dict[str, Any], compared: ChampionComparison | None
) -> tuple[Verdict, set[str]]:
    """The verdict on an otherwise perfect challenger, and what its champion rows say."""
    assert compared is not None
    evaluation["ground_truth_sha256"] = compared.ground_truth_sha256 or "a" * 64
    verdict = judged(evaluation, policy, healthy, compared)
    return verdict, {row.outcome for row in verdict.rows if row.tier == "champion"}


# The comparison ------------------------------------------------------------------------------------------------------


def test_a_better_challenger_passes_every_regression_gate(models, policy, evaluation, healthy):
    """Differences are challenger minus champion: above 0 where the challenger finds more."""
    champion.promote(models.store, models.released(models.poor), *WHY)

    compared = models.compared(models.good)
    verdict, outcomes = _outcomes(evaluation, policy, healthy, compared)

    assert compared is not None
    assert {row.class_name for row in compared.measurements} == {*CONDITIONS, "macro"}
    assert all(row.value == pytest.approx(0.4, abs=0.02) for row in compared.measurements)
    assert all(row.low is not None and row.low > 0.2 for row in compared.measurements)
    assert outcomes == {"PASS"}
    assert (verdict.outcome, verdict.releasable) == ("PASS", True)


def test_a_worse_challenger_fails_every_regression_gate_and_is_not_released(models, policy, evaluation, healthy):
    """The same two models in each other's role: with the two swapped, a regression would be sold as progress."""
    champion.promote(models.store, models.released(models.good), *WHY)

    compared = models.compared(models.poor)
    verdict, outcomes = _outcomes(evaluation, policy, healthy, compared)

    assert compared is not None
    assert all(row.value == pytest.approx(-0.4, abs=0.02) for row in compared.measurements)
    assert outcomes == {"FAIL"}
    assert (verdict.outcome, verdict.releasable) == ("FAIL", False)
    assert {row.tier for row in verdict.blocking} == {"champion"}


def test_a_challenger_that_is_the_champion_differs_by_nothing(models, policy, evaluation, healthy):
    """An interval of a difference that is always 0 lies above the margin."""
    release = models.released(models.good)
    champion.promote(models.store, release, *WHY)

    compared = models.compared(models.good)
    _, outcomes = _outcomes(evaluation, policy, healthy, compared)

    assert compared is not None
    assert compared.digest == release.digest
    assert {(row.value, row.low, row.high) for row in compared.measurements} == {(0.0, 0.0, 0.0)}
    assert outcomes == {"PASS"}


def test_without_a_champion_there_is_nothing_to_compare_with(models):
    """The first release regresses from nothing."""
    assert models.compared(models.good) is None
    assert champion.state(models.store, models.subset) == {"champion": None, "predictions": None}


def test_a_champion_that_never_saw_these_images_decides_nothing(models, policy, evaluation, healthy):
    """Its figures on other images say nothing; the report must wait for `champion_metrics`, not wave through."""
    release = models.released(models.poor)
    champion.promote(models.store, release, *WHY)
    newer = _stored(models.store, Kind.CONDITION_SUBSET, _test_split(99), {}, subset_facts(CONDITIONS))
    predictions = _predictions(models.store, newer, GOOD)

    compared = champion.comparison_with(
        models.store, {"condition_subset": newer, "test_predictions": predictions}, resamples=20
    )
    verdict, outcomes = _outcomes(evaluation, policy, healthy, compared)

    assert compared == ChampionComparison(digest=release.digest, ground_truth_sha256=None, measurements=())
    assert champion.state(models.store, newer) == {"champion": release.digest, "predictions": None}
    assert outcomes == {"INCONCLUSIVE"}
    assert not verdict.releasable


def test_what_the_champion_predicted_on_newer_images_is_compared_with(models):
    """`champion_metrics` leaves them; without the memory each night's work would be lost."""
    release = models.released(models.poor)
    champion.promote(models.store, release, *WHY)
    newer = _stored(models.store, Kind.CONDITION_SUBSET, _test_split(99), {}, subset_facts(CONDITIONS))
    challengers, champions = (_predictions(models.store, newer, images) for images in (GOOD, POOR))
    champion.remember_predictions(models.store, release, newer, champions)

    compared = champion.comparison_with(
        models.store, {"condition_subset": newer, "test_predictions": challengers}, resamples=20
    )

    assert compared is not None
    assert all(row.value == pytest.approx(0.4, abs=0.02) for row in compared.measurements)
    assert champion.state(models.store, newer) == {"champion": release.digest, "predictions": champions.digest}
    assert champion.champion_predictions(models.store, release, models.subset) == models.poor
    other = models.released(models.good)
    assert champion.champion_predictions(models.store, other, newer) is None  # another champion's are not its own


# The title -----------------------------------------------------------------------------------------------------------


def test_the_title_goes_back_through_every_champion_before(models):
    """Rolled back twice, the title is where it was before two promotions; a third time there is no champion."""
    first, second = (models.released(predictions) for predictions in (models.poor, models.good))
    for release in (first, second, first):
        champion.promote(models.store, release, *WHY)

    champions = [champion.rollback(models.store, *WHY).release for _ in range(3)]

    assert champions == [second.digest, first.digest, None]
    assert champion.current(models.store) is None
    with pytest.raises(ReleaseError, match="no champion to roll back from"):
        champion.rollback(models.store, *WHY)


def test_a_promotion_after_a_rollback_is_rolled_back_to_the_same_place(models):
    """What was rolled back is no champion before: the title must not return to it."""
    first, second, third = (models.released(_predictions(models.store, models.subset, [n])) for n in (1, 2, 3))
    champion.promote(models.store, first, *WHY)
    champion.promote(models.store, second, *WHY)
    champion.rollback(models.store, *WHY)
    champion.promote(models.store, third, *WHY)

    assert champion.rollback(models.store, *WHY).release == first.digest
    assert champion.current(models.store) == first


def test_only_a_release_that_is_not_champion_already_is_promoted(models):
    """A checkpoint was judged by nobody, and a second promotion of the same would fill the history with noise."""
    release = models.released(models.good)
    champion.promote(models.store, release, *WHY)

    with pytest.raises(ReleaseError, match="is a predictions, not a release"):
        champion.promote(models.store, models.good, *WHY)
    with pytest.raises(ReleaseError, match="is the champion already"):
        champion.promote(models.store, release, *WHY)


@pytest.mark.parametrize("why", [("", "better"), (" ", "better"), ("A. Reviewer", ""), ("A. Reviewer", "\n")])
def test_a_promotion_without_name_or_reason_is_refused(models, why):
    """A title that nobody gave for no reason cannot be questioned."""
    with pytest.raises(ReleaseError, match="needs a name and a reason"):
        champion.promote(models.store, models.released(models.good), *why)
    assert champion.history(models.store) == ()


def test_the_log_tells_the_same_history_and_catches_up_after_a_crash(models):
    """The reference could be set back, the log cannot be cut unseen; a process killed between the two leaves a gap."""
    first, second = (models.released(predictions) for predictions in (models.poor, models.good))
    champion.promote(models.store, first, *WHY)
    killed = {"release": second.digest, "by": WHY[0], "reason": WHY[1], "action": "promote"}
    changes = [*models.store.read_ref(champion.CHAMPION_REF)["changes"], killed]
    models.store.write_ref(champion.CHAMPION_REF, {"changes": changes})

    champion.rollback(models.store, *WHY)
    champion.rollback(models.store, *WHY)

    history = champion.history(models.store)
    assert [(change.action, change.release) for change in history] == [
        ("promote", first.digest),
        ("promote", second.digest),
        ("rollback", first.digest),
        ("rollback", None),
    ]
    reading = log.read(models.store)
    assert champion.logged_history(reading) == history
    assert [entry.product for entry in reading.entries][-1] == first.digest  # the one that lost the title


def test_a_history_of_another_form_is_refused_with_its_place(models):
    """A reference written by hand must not be read as half a history."""
    models.store.write_ref(champion.CHAMPION_REF, {"changes": [{"release": None, "by": "x", "action": "crown"}]})

    with pytest.raises(DocumentError, match=r"reference release/champion is no ChampionHistory .*changes\[0\]"):
        champion.history(models.store)
