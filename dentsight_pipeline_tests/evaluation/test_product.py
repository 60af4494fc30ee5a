"""Stored predictions are evaluated on the data that they were made on, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.product import evaluate_predictions
from dentsight_pipeline.store.content import build
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.documents.facts_for_tests import predictions_facts
from dentsight_pipeline_tests.training.conftest import CLASSES, make_subset


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return open_store(tmp_path / "store")


def predictions_on(store: Store, subset: str, classes: tuple[str, ...] = CLASSES) -> Manifest:
    """Predictions without a file: a refusal does not need to read them."""
    return build(store, "predictions", {}, {"condition_subset": subset}, predictions_facts(classes))


def test_predictions_on_other_data_are_refused(store: Store) -> None:
    """Ids of images are the same small numbers in every subset: the figures would be of nothing."""
    subset = make_subset(store, {"train": 2, "test": 2})

    with pytest.raises(EvaluationError, match=f"were made on subset {'b' * 64}, not on {subset.digest}.*Predict again"):
        evaluate_predictions(store, subset, predictions_on(store, "b" * 64))


def test_predictions_of_other_classes_are_refused(store: Store) -> None:
    """Label 1 is another finding there."""
    subset = make_subset(store, {"train": 2, "test": 2})
    others = tuple(reversed(CLASSES))

    with pytest.raises(EvaluationError, match=f"are of the classes {', '.join(others)}, the subset"):
        evaluate_predictions(store, subset, predictions_on(store, subset.digest, others))


def test_data_without_test_images_are_refused(store: Store) -> None:
    """Figures of valid would be those that the weights were chosen by."""
    subset = make_subset(store, {"train": 2, "valid": 2})

    with pytest.raises(EvaluationError, match=r"has no test split, so there is nothing to evaluate on\. Export"):
        evaluate_predictions(store, subset, predictions_on(store, subset.digest))
