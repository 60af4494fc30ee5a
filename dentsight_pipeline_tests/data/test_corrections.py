"""Corrections on splits: applied, recognised in a later version, or listed as a conflict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data import checks
from dentsight_pipeline.data.corrections import CORRECTED, apply_stored, corrected, publish_corrections
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.documents.annotations import Split, coco_categories
from dentsight_pipeline.documents.facts import SplitsFacts
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.review import Correction, Corrections
from dentsight_pipeline.intake.datasets import corrections_for
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.data.export_builder import whole_export

CLASSES = ("caries", "crown")
HERE, NEAR, THERE = (10.0, 10.0, 40.0, 40.0), (10.0, 10.0, 40.4, 40.4), (100.0, 10.0, 40.0, 40.0)


def split(*labels: tuple[str, tuple[float, ...]]) -> Split:
    """One image with labels."""
    boxes = [
        {"id": k, "image_id": 1, "category_id": CLASSES.index(name) + 1, "bbox": list(box)}
        for k, (name, box) in enumerate(labels, start=1)
    ]
    image = {"id": 1, "file_name": "a.jpg", "sha256": "a", "width": 300, "height": 100}
    return from_coco("train", {"images": [image], "annotations": boxes, "categories": coco_categories(CLASSES)})


def change(before: tuple | None, after: tuple | None, image: str = "a") -> Correction:
    """From name and box to name and box."""
    (b, bb), (c, cb) = before or (None, None), after or (None, None)
    fields: dict[str, Any] = {"before_class": b, "before_bbox": bb, "after_class": c, "after_bbox": cb}
    return Correction(image=image, annotation=None, who="A. Bell", at=0.0, why="seen", **fields)


def labels(of: Split) -> list[tuple[str, tuple[float, ...]]]:
    """What a split's one image has."""
    return [(of.classes[row["category_id"] - 1], tuple(row["bbox"])) for row in of.annotations.to_pylist()]


@pytest.mark.parametrize(
    ("given", "correction", "outcome", "left"),
    [
        ([], change(None, ("caries", HERE)), "applied", [("caries", HERE)]),
        ([("caries", HERE)], change(("caries", HERE), None), "applied", []),
        ([("caries", HERE)], change(("caries", HERE), ("crown", HERE)), "applied", [("crown", HERE)]),
        ([("caries", HERE)], change(("caries", HERE), ("caries", THERE)), "applied", [("caries", THERE)]),
        ([("caries", NEAR)], change(None, ("caries", HERE)), "contained", [("caries", NEAR)]),
        ([], change(("caries", HERE), None), "contained", []),
        ([("crown", HERE), ("caries", HERE)], change(("caries", HERE), ("crown", HERE)), "applied", [("crown", HERE)]),
        ([("crown", HERE)], change(("caries", HERE), ("caries", THERE)), "conflict", [("crown", HERE)]),
        ([("crown", HERE)], change(None, ("caries", HERE), image="b"), "no such image", [("crown", HERE)]),
    ],
)  # fmt: skip
def test_a_correction_is_applied_recognised_or_listed(
    given: list, correction: Correction, outcome: str, left: list
) -> None:
    """Roboflow's next version may hold it already, or something third: nothing is done twice, nothing is guessed."""
    made = corrected({"train": split(*given)}, [correction])

    assert made.outcomes == (outcome,)
    assert labels(made.splits["train"]) == left


def test_applying_twice_changes_nothing_more() -> None:
    """A run that was repeated must not double a box."""
    once = corrected({"train": split()}, [change(None, ("caries", HERE))]).splits

    again = corrected(once, [change(None, ("caries", HERE))])

    assert again.outcomes == ("contained",)
    assert again.splits["train"].annotations.equals(once["train"].annotations)


def test_labels_that_people_made_are_told_from_those_of_the_export() -> None:
    """A moved box keeps what its source called it, a renamed one is a person's; ids go on over all splits, so that none
    is used twice, and each label stands in its own image."""
    pictures = [{"id": k, "file_name": f"{k}.jpg", "sha256": f"{k}", "width": 300, "height": 100} for k in (1, 2, 3)]
    pictures[1]["covered"] = [1]
    told = {"raw_name": "Cavity", "loose": True, "category_id": 1, "bbox": list(HERE), "segmentation": [[1.0, 2, 3, 4]]}
    first, other = (
        from_coco(
            name,
            {
                "images": images,
                "annotations": [{**told, "id": number, "image_id": images[-1]["id"]}],
                "categories": coco_categories(CLASSES),
            },
        )
        for name, images, number in (("train", pictures[:2], 7), ("test", pictures[2:], 40))
    )
    moved, renamed = (change(("caries", HERE), after, image="2") for after in (("caries", THERE), ("crown", HERE)))
    made_new = change(None, ("crown", (250.0, -20.0, 90.0, 60.0)), image="3")

    made = corrected({"train": first, "test": other}, [made_new, renamed, moved, change(None, None, image="1")])

    assert made.outcomes == ("applied", "not looked for", "applied", "contained")
    persons = {"raw_name": CORRECTED, "loose": False, "segmentation": [], "category_id": 2}
    assert made.splits["train"].annotations.to_pylist() == [
        {**told, "id": 41, "image_id": 2, "bbox": list(THERE), "area": 1600.0, "segmentation": []}
    ]
    assert made.splits["test"].annotations.to_pylist() == [
        {**told, "id": 40, "image_id": 3, "area": 1600.0},
        {**persons, "id": 42, "image_id": 3, "bbox": [250.0, 0.0, 50.0, 40.0], "area": 2000.0},
    ]


def test_a_box_that_nobody_could_see_is_a_conflict() -> None:
    """Drawn beside the picture, or given without a place: nothing is left to put onto it."""
    beside, nowhere = change(None, ("caries", (300.0, 10.0, 20.0, 20.0))), change(None, ("caries", None))

    assert corrected({"train": split()}, [beside, nowhere]).outcomes == ("conflict", "conflict")


def test_stored_corrections_change_the_splits_and_stand_in_the_chain(tmp_path: Path) -> None:
    """Raw bytes stay; the corrected splits name the corrections as an input, count outcomes, and are the same again."""
    store = open_store(str(tmp_path / "store"))
    raw = ingest_export(whole_export(tmp_path / "export").write(), store)
    splits = normalise_export(store, raw)
    train = read_split(store, splits, "train")
    first = train.annotations.to_pylist()[0]
    digest = train.images["sha256"][train.image_ids.tolist().index(first["image_id"])].as_py()
    gone = change((train.classes[first["category_id"] - 1], tuple(first["bbox"])), None, image=digest)
    lost = change(("caries", THERE), ("crown", THERE), image=digest)
    made = Corrections(splits=splits.digest, queue="0" * 64, corrections=(gone, lost))

    publish_corrections(store, made, "opg-v8")
    decided = corrections_for(store, "opg-v8")[Asset.LABEL_CORRECTIONS]
    after = apply_stored(store, splits, decided)

    assert after.facts_as(SplitsFacts).corrections == {"applied": 1, "conflict": 1}
    assert len(read_split(store, after, "train").annotations) == len(train.annotations) - 1
    assert after.inputs == {Asset.RAW_EXPORT: raw.digest, Asset.LABEL_CORRECTIONS: decided.digest}
    assert apply_stored(store, splits, decided).digest == after.digest
    assert corrections_for(store, "opg-v9") == {}

    later = change(None, ("caries", (40.0, 30.0, 9.0, 9.0)), image=digest)
    publish_corrections(store, Corrections(splits=after.digest, queue="1" * 64, corrections=(later,)), "opg-v8")
    twice = apply_stored(store, splits, corrections_for(store, "opg-v8")[Asset.LABEL_CORRECTIONS])
    assert twice.facts_as(SplitsFacts).corrections == {"applied": 2, "conflict": 1}


def test_corrected_labels_pass_the_checks_that_guard_training(tmp_path: Path) -> None:
    """Renamed and new labels have no raw name of the export, and a box may be drawn beyond the picture's edge."""
    store = open_store(str(tmp_path / "store"))
    splits = normalise_export(store, ingest_export(whole_export(tmp_path / "export").write(), store))
    train = read_split(store, splits, "train")
    first = train.annotations.to_pylist()[0]
    digest = train.images["sha256"][train.image_ids.tolist().index(first["image_id"])].as_py()
    name, box = train.classes[first["category_id"] - 1], tuple(first["bbox"])
    other = "crown" if name != "crown" else "caries"
    made = (
        change((name, box), (other, box), image=digest),
        change(None, ("caries", (50.0, 40.0, 500.0, 500.0)), image=digest),
        change(("caries", THERE), None, image="b"),
    )
    publish_corrections(store, Corrections(splits=splits.digest, queue="0" * 64, corrections=made), "opg-v8")

    after = apply_stored(store, splits, corrections_for(store, "opg-v8")[Asset.LABEL_CORRECTIONS])

    checks.require(store, after)
    assert checks.labels_are_known(store, after).passed
    assert checks.boxes_are_valid(store, after).passed
    fit = checks.corrections_fit(store, after)
    assert (fit.passed, fit.blocking, fit.summary) == (False, False, "2 applied, 1 no such image.")
    told = {"outcome": "no such image", "image": "b", "was": "caries", "becomes": "nothing"}
    assert list(fit.rows) == [{**told, "who": "A. Bell", "why": "seen"}]
    assert checks.corrections_fit(store, splits).passed
