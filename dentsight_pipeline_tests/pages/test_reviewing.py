"""The review: decisions, undo, and the corrections that follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents.review import ReviewQueue, Suspect, Verb
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.intake.datasets import RegisteredExport, corrections_for, register_dataset
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.pages.reviewing import Review, corrections_of, keep_queue, write_corrections
from dentsight_pipeline.pages.server import Refused
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder

BOX, BETTER = (10.0, 10.0, 20.0, 20.0), (20.0, 10.0, 20.0, 20.0)
WHO = "A. Bell"


def suspect(kind: str, number: int | None, **more) -> Suspect:
    """A suspect on one image."""
    told = {"image": "a" * 64, "class_name": "caries", "bbox": BOX, "score": 0.9, "why": "seen", "split": "train"}
    return Suspect(kind=kind, annotation=number, **told, **more)  # pyright: ignore[reportArgumentType]


QUEUE = ReviewQueue(
    splits="0" * 64,
    classes=("caries", "crown"),
    suspects=(
        suspect("missed", None),
        suspect("spurious", 1),
        suspect("class", 2, proposed_class="crown"),
        suspect("place", 3, proposed_bbox=BETTER),
        suspect("class", 4),
    ),
)


@pytest.fixture
def review(tmp_path: Path) -> Review:
    """The queue, open."""
    keep_queue(tmp_path, QUEUE)
    return Review(tmp_path, {})


def test_every_kind_of_suspect_becomes_its_correction(review: Review) -> None:
    """Accepted: added, taken away, renamed, moved; where nothing better is known, accepting changes nothing."""
    for position in range(5):
        review.decide(WHO, position, "accept")

    made = corrections_of(QUEUE, review.journal.entries).corrections

    changes = [(c.annotation, c.before_class, c.after_class, c.after_bbox) for c in made]
    assert changes == [
        (None, None, "caries", BOX), (1, "caries", None, None), (2, "caries", "crown", BOX),
        (3, "caries", "caries", BETTER),
    ]  # fmt: skip
    assert {c.who for c in made} == {WHO}


def test_rejected_and_skipped_suspects_change_nothing_and_an_edit_says_what_is_right(review: Review) -> None:
    """A person's box and name win over what was proposed."""
    review.decide(WHO, 0, "reject")
    review.decide(WHO, 1, "skip")
    review.decide(WHO, 2, "edit", "caries", BETTER)

    made = corrections_of(QUEUE, review.journal.entries).corrections

    assert [(c.annotation, c.after_class, c.after_bbox) for c in made] == [(2, "caries", BETTER)]
    assert review.view().recent == (1, 2)


def test_undo_survives_a_crash_and_goes_back_one_by_one(review: Review) -> None:
    """A slip of a key must cost nothing, also after the server was killed."""
    review.decide(WHO, 0, "accept")
    review.decide(WHO, 1, "accept")
    review.decide(WHO, 0, "undo")
    review.journal.close()

    again = Review(review.folder, {})

    assert again.view().position == 1
    again.decide(WHO, 0, "undo")
    assert again.view().position == 0
    with pytest.raises(Refused, match="nothing to take back"):
        again.decide(WHO, 0, "undo")


def test_what_is_not_in_turn_or_no_edit_is_refused(review: Review) -> None:
    """Two windows, and a box without width."""
    with pytest.raises(Refused, match="perhaps in another window"):
        review.decide(WHO, 3, "accept")
    with pytest.raises(Refused, match="An edit needs"):
        review.decide(WHO, 0, "edit", "carries", BOX)
    with pytest.raises(Refused, match="An edit needs"):
        review.decide(WHO, 0, "edit", "caries", (1.0, 1.0, 0.0, 5.0))


def test_decisions_are_never_about_another_queue(review: Review, tmp_path: Path) -> None:
    """They name places in it: with other suspects they would correct other labels."""
    other = ReviewQueue(splits="1" * 64, classes=QUEUE.classes, suspects=QUEUE.suspects)

    with pytest.raises(ConfigurationError, match="holds the review of another queue"):
        keep_queue(tmp_path, other)


def registered(store: Store, folder: Path, key: str, seed: int) -> Manifest:
    """The raw export that a key means; of the pictures after the one of this seed, in train, valid and test."""
    builder = ExportBuilder(folder / key, seed=seed)
    for split in ("train", "valid", "test"):
        builder.image(split, {"caries": [[4, 4, 10, 10]]})
    raw = ingest_export(builder.write(), store)
    register_dataset(store, key, raw.digest, [RegisteredExport(raw_export=raw.digest, location=f"{key}.zip")])
    return raw


@pytest.mark.parametrize("verb", ["accept", "reject"])
def test_corrections_are_not_applied_to_data_that_they_cannot_be_meant_for(verb: Verb, tmp_path: Path) -> None:
    """A wrong key took them without a word; a later version, which has some of the X-rays, may be meant."""
    store = open_store(tmp_path / "store")
    splits = normalise_export(store, registered(store, tmp_path, "opg-v8", 0))
    (image,) = read_splits(store, splits)["test"].images["sha256"].to_pylist()
    for key, seed in (("opg-v9", 2), ("bitewings-v1", 10)):
        registered(store, tmp_path, key, seed)
    about = replace(suspect("spurious", 1), image=image)
    keep_queue(tmp_path / "r", ReviewQueue(splits=splits.digest, classes=QUEUE.classes, suspects=(about,)))
    Review(tmp_path / "r", {}).decide(WHO, 0, verb)

    with pytest.raises(
        ConfigurationError,
        match=r"'bitewings-v1' means other data \(read from bitewings-v1\.zip\): none of the 1 X-rays .* 'opg-v8' was",
    ):
        write_corrections(store, tmp_path / "r", "bitewings-v1")

    assert not (tmp_path / "r/corrections.json").exists()
    assert corrections_for(store, "bitewings-v1") == {}
    for key in ("opg-v8", "opg-v9"):
        write_corrections(store, tmp_path / "r", key)
        assert corrections_for(store, key)
