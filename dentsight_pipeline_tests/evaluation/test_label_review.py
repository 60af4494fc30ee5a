"""The stored queue of doubtful labels: from predictions that never saw an image's source, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents.facts import LabelReviewFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.documents.review import QUEUE_FILE, ReviewQueue
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.evaluation.label_review import out_of_fold, publish_review, review_queue
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.store.content import read_document
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder
from dentsight_pipeline_tests.lineage.chain_builder import Chain, build_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A whole chain of products of a small export."""
    return build_chain(tmp_path_factory.mktemp("chain"))


def test_the_queue_is_a_product_of_predictions_and_labels(chain: Chain) -> None:
    """Best first, the same digest again, and its facts count what is in it."""
    store, predictions = chain.store, chain.store.get_manifest(chain.digests["test_predictions"])
    subset = store.get_manifest(predictions.inputs[Asset.CONDITION_SUBSET])

    made = publish_review(store, subset, [predictions])

    queue = read_document(store, made, QUEUE_FILE, ReviewQueue)
    assert made.kind == Kind.LABEL_REVIEW
    assert set(made.inputs) == {"test_predictions_1", Asset.CONDITION_SUBSET, Asset.NORMALIZED_SPLITS}
    assert sum(made.facts_as(LabelReviewFacts).suspects.values()) == len(queue.suspects)
    assert [s.score for s in queue.suspects] == sorted((s.score for s in queue.suspects), reverse=True)
    assert publish_review(store, subset, [predictions]).digest == made.digest
    assert review_queue(store, made).digest == queue.digest


def test_a_model_is_not_asked_about_sources_that_it_was_trained_on(chain: Chain) -> None:
    """It would repeat their labels, and call every mistake right."""
    store, predictions = chain.store, chain.store.get_manifest(chain.digests["test_predictions"])
    splits = read_splits(store, store.get_manifest(predictions.inputs[Asset.CONDITION_SUBSET]))
    trained_on = set(splits["train"].images["source_group"].to_pylist())

    seen = out_of_fold(store, [predictions])

    sources = {
        digest: source
        for split in splits.values()
        for digest, source in zip(*(split.images[c].to_pylist() for c in ("sha256", "source_group")), strict=True)
    }
    assert seen
    assert not {sources[image] for image in seen} & trained_on


def test_a_queue_is_asked_of_any_product_that_leads_to_labels(chain: Chain) -> None:
    """Labels alone need no model; an evaluation leads to its predictions, and those to the labels."""
    made = {
        name: review_queue(chain.store, chain.store.get_manifest(chain.digests[name]))
        for name in ("normalized_splits", "condition_subset", "test_predictions", "class_metrics")
    }

    assert {queue.splits for queue in made.values()} == {chain.digests["normalized_splits"]}
    assert made["normalized_splits"].predictions == made["condition_subset"].predictions == ()
    assert made["test_predictions"].predictions == (chain.digests["test_predictions"],)
    assert made["test_predictions"].suspects == made["class_metrics"].suspects
    assert len(made["test_predictions"].suspects) > len(made["normalized_splits"].suspects)
    assert "caries" in made["normalized_splits"].classes and "11" in made["normalized_splits"].classes


def test_a_file_that_was_labelled_twice_is_held_against_itself(tmp_path: Path) -> None:
    """The second of two equal files, in another split, lacks what the first has."""
    export = ExportBuilder(tmp_path / "export")
    for split, boxes in (("train", {"caries": [[5, 5, 20, 20]]}), ("test", {"crown": [[30, 20, 20, 20]]})):
        export.image(split, boxes)
    root = export.write()
    first, second = (next((root / split).glob("*.jpg")) for split in ("train", "test"))
    second.write_bytes(first.read_bytes())
    store = open_store(tmp_path / "store")

    queue = review_queue(store, normalise_export(store, ingest_export(root, store)))

    told = [(own.kind, own.class_name, own.split, own.bbox) for own in queue.suspects]
    assert told == [
        ("missed", "caries", "test", (5.0, 5.0, 20.0, 20.0)),
        ("missed", "crown", "train", (30.0, 20.0, 20.0, 20.0)),
    ]


def test_what_leads_to_no_labels_is_refused(chain: Chain) -> None:
    """A raw export has no classes yet."""
    with pytest.raises(ConfigurationError, match="leads to no labels"):
        review_queue(chain.store, chain.store.get_manifest(chain.digests["raw_export"]))
