"""A reader study, evaluated: arms by hand, and readers of known skill within their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dentsight_pipeline.documents.study import Study, StudyImage
from dentsight_pipeline.evaluation.readers import METRIC, StudyReadings, arm_effects, evaluate_readings
from dentsight_pipeline.pages.reading import FDI
from dentsight_pipeline.pages.readings import READINGS

TEETH = FDI[:8]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Readings; what a row does not say is filled in."""
    filled = {"arm": "unaided", "session": 0, "condition": "caries"}
    return pa.Table.from_pylist([{**filled, "source": row["image"], **row} for row in rows], schema=READINGS)


def said(reader: str, image: str, found: set[str], **more: Any) -> list[dict[str, Any]]:
    """One reader's rows of one image: caries on the teeth found."""
    return [{"reader": reader, "image": image, "tooth": t, "present": int(t in found), **more} for t in TEETH]


def test_what_the_model_changes_is_that_computed_by_hand() -> None:
    """Two of four lesions without the model, three with it; one false tooth of 12 in either arm."""
    truth = {"a": {("caries", "11"), ("caries", "12")}, "b": {("caries", "11"), ("caries", "12")}}
    rows = said("x", "a", {"11", "13"}) + said("x", "b", {"11"})
    rows += said("x", "a", {"11", "12", "13"}, arm="aided", session=1) + said("x", "b", {"11"}, arm="aided", session=1)

    effect = {row.condition: row for row in arm_effects(table(rows), truth, resamples=20, seed=0)}["caries"]

    assert (effect.positives, effect.negatives) == (4, 12)
    assert effect.sensitivity_unaided.value == pytest.approx(2 / 4)
    assert effect.sensitivity_aided.value == pytest.approx(3 / 4)
    assert effect.sensitivity_change.value == pytest.approx(1 / 4)
    assert effect.specificity_change.value == pytest.approx(0)
    assert effect.specificity_unaided.value == effect.specificity_aided.value == pytest.approx(11 / 12)


def test_arms_are_those_of_readers_with_both_on_images_with_a_truth() -> None:
    """The mean of two readers, by condition and over all; a third read without the model alone, and of a fourth image
    nobody knows what is there. A change for the worse is one."""
    truth = {"a": {("caries", "11"), ("crown", "12")}}
    rows = said("x", "a", {"11"}) + said("y", "a", {"11"}) + said("z", "a", set())
    rows += said("x", "a", {"11"}, arm="aided") + said("y", "a", set(), arm="aided")
    rows += said("x", "a", {"12"}, condition="crown") + said("x", "a", {"12"}, condition="crown", arm="aided")
    rows += said("x", "unknown", {"11"}) + said("x", "unknown", set(), arm="aided")

    effects = arm_effects(table(rows), truth, resamples=0, seed=0)

    assert [(own.condition, own.positives, own.negatives) for own in effects] == [
        ("caries", 1, 7),
        ("crown", 1, 7),
        ("all", 2, 14),
    ]
    assert [own.sensitivity_unaided.value for own in effects[:1]] == [1]
    assert [own.sensitivity_change.value for own in effects[:1]] == [-0.5]
    assert effects[2].sensitivity_aided.value == pytest.approx((1 + 0) / 2)


def test_perfect_readings_of_few_images_are_not_certain() -> None:
    """Six of six leave .05^(1/6) open, in either arm; that nothing changed between them is what was seen."""
    images = [f"{n}" for n in range(6)]
    rows = [row for arm in ("unaided", "aided") for image in images for row in said("x", image, {"11"}, arm=arm)]

    effect = arm_effects(table(rows), {image: {("caries", "11")} for image in images}, resamples=20, seed=0)[0]

    for own in (
        effect.sensitivity_unaided,
        effect.sensitivity_aided,
        effect.specificity_unaided,
        effect.specificity_aided,
    ):
        assert (own.value, own.low, own.high) == (1, pytest.approx(0.05 ** (1 / 6)), 1)
    for own in (effect.sensitivity_change, effect.specificity_change):
        assert (own.value, own.low, own.high) == (0, 0, 0)


def test_an_image_that_one_arm_lacks_counts_in_neither() -> None:
    """Paired by case and reader: an easy image that was read with the model alone would praise the model."""
    truth = {"a": {("caries", "11")}, "b": {("caries", "11")}}
    rows = said("x", "a", set()) + said("x", "a", set(), arm="aided") + said("x", "b", {"11"}, arm="aided")

    effect = arm_effects(table(rows), truth, resamples=20, seed=0)[0]

    assert effect.sensitivity_aided.value == 0


def test_one_arm_has_no_effect_to_tell() -> None:
    """An empty chapter rather than a change of zero."""
    assert arm_effects(table(said("x", "a", set())), {"a": set()}, resamples=20, seed=0) == ()


def test_readers_of_known_skill_come_out_within_their_intervals() -> None:
    """Three dentists and a model, all equally good: Δκ = 0; the model lifts sensitivity by .2."""
    rng = np.random.default_rng(5)
    images = [f"{n:064x}" for n in range(60)]
    truth = {image: {("caries", t) for t in TEETH if rng.random() < 0.3} for image in images}
    rows = []

    def looks(image: str, sensitivity: float) -> set[str]:
        return {t for t in TEETH if rng.random() < (sensitivity if ("caries", t) in truth[image] else 0.05)}

    for image in images:
        rows += said("model", image, looks(image, 0.7))
        for name in ("x", "y", "z"):
            rows += said(name, image, looks(image, 0.7)) + said(name, image, looks(image, 0.9), arm="aided", session=1)
    listed = tuple(StudyImage(sha256=image, file=f"images/{image}.jpg", source=image) for image in images)
    study = Study(title="Known", readers=("x", "y", "z"), conditions=("caries",), images=listed)

    result = evaluate_readings(StudyReadings(study, table(rows), 4), truth, population="clean", resamples=300)

    row = {own.condition: own for own in result.conditions}["caries"]
    assert row.delta.low is not None and row.delta.high is not None
    assert row.delta.low <= 0 <= row.delta.high
    change = result.arms[0].sensitivity_change
    assert change.low is not None and change.high is not None
    assert 0 < change.low <= 0.2 <= change.high
    assert {(own.metric, own.population) for own in result.measurements} == {(METRIC, "clean")}
    assert (result.images, result.readers, result.unfinished) == (60, ("x", "y", "z"), 4)
