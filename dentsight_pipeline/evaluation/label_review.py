"""From stored labels, and predictions that never saw them, to a stored queue of suspects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents.annotations import Split
from dentsight_pipeline.documents.codec import pretty
from dentsight_pipeline.documents.facts import LabelReviewFacts, SubsetFacts
from dentsight_pipeline.documents.names import Asset, Kind, numbered, with_article
from dentsight_pipeline.documents.review import QUEUE_FILE, ReviewQueue, Suspect
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.evaluation.product import stored_detections, stored_truth
from dentsight_pipeline.evaluation.suspects import (
    Labelled,
    Seen,
    contradictions,
    label_suspects,
    labelled_images,
    predicted_suspects,
    ranked,
)
from dentsight_pipeline.store.content import build, read_document

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

_OUT_OF_FOLD = ("valid", "test")
"""Passes over images that no training looks at; images that share a source with train are left out of them."""


def review_queue(store: Store, made: Manifest) -> ReviewQueue:
    """The suspects of a dataset.

    Args:
        store: Where everything is.
        made: A label review, whose queue was asked of folds. Normalised splits or a subset of them: what needs no
            model. Predictions, or what was made from them: what their checkpoint sees on images whose sources it never
            saw, as well.

    Raises:
        ConfigurationError: It leads to no labels.
    """
    if made.kind == Kind.LABEL_REVIEW:
        return read_document(store, made, QUEUE_FILE, ReviewQueue)
    predictions = _predictions_behind(store, made)
    asked = [predictions] if predictions else []
    return _queue(store, _splits_behind(store, predictions or made), asked, out_of_fold(store, asked))


def _queue(store: Store, splits: Manifest, predictions: Sequence[Manifest], seen: Mapping[str, Seen]) -> ReviewQueue:
    tables = read_splits(store, splits)
    images = list(labelled_images(tables.values()))
    found = [*label_suspects(images), *_contradicting_copies(images)]
    found += predicted_suspects(_with_conditions(images), seen)
    return ReviewQueue(
        splits=splits.digest,
        predictions=tuple(made.digest for made in predictions),
        classes=next(iter(tables.values())).classes if tables else (),
        suspects=ranked(found),
    )


def publish_review(store: Store, subset: Manifest, predictions: Sequence[Manifest]) -> Manifest:
    """Publish the suspects that labels and the predictions of folds give; the manifest is of kind `label-review`."""
    seen = out_of_fold(store, predictions)
    queue = _queue(store, _splits_behind(store, subset), predictions, seen)
    facts = LabelReviewFacts(
        corpus=subset.facts_as(SubsetFacts).corpus,
        images=len(seen),
        suspects=dict(sorted(Counter(suspect.kind for suspect in queue.suspects).items())),
    )
    asked = {numbered(Asset.TEST_PREDICTIONS, k): made.digest for k, made in enumerate(predictions, start=1)}
    inputs = {Asset.CONDITION_SUBSET: subset.digest, Asset.NORMALIZED_SPLITS: queue.splits, **asked}
    manifest = build(store, Kind.LABEL_REVIEW, {QUEUE_FILE: pretty(queue)}, inputs, facts)
    store.put_manifest(manifest)
    return manifest


def out_of_fold(store: Store, predictions: Iterable[Manifest]) -> dict[str, Seen]:
    """What checkpoints saw on images of sources that they never saw in training, by digest of the image."""
    seen: dict[str, Seen] = {}
    for made in predictions:
        subset = store.get_manifest(made.inputs[Asset.CONDITION_SUBSET])
        tables = read_splits(store, subset)
        trained_on = set(tables["train"].images["source_group"].to_pylist()) if "train" in tables else set()
        for name in [name for name in _OUT_OF_FOLD if name in tables and f"{name}.arrow" in made.entries]:
            seen |= dict(_seen(store, subset, made, tables[name], trained_on))
    return seen


def _seen(
    store: Store, subset: Manifest, predictions: Manifest, split: Split, trained_on: set[str]
) -> Iterator[tuple[str, Seen]]:
    truth = stored_truth(store, subset, split.name)
    found = stored_detections(store, predictions, split.name, truth)
    names = np.array(truth.class_names)[found.class_index]
    columns = (split.images[column].to_pylist() for column in ("sha256", "source_group"))
    by_image = np.argsort(found.image_index, kind="stable")
    ends = np.searchsorted(found.image_index[by_image], np.arange(len(split.images) + 1)).tolist()
    for image, source, (start, end) in zip(*columns, pairwise(ends), strict=True):
        own = by_image[start:end]
        if source not in trained_on:
            yield image, Seen(names[own].tolist(), found.boxes_xywh_px[own], found.scores[own])


def _contradicting_copies(images: Iterable[Labelled]) -> Iterator[Suspect]:
    """Where one file was labelled twice in one dataset, and otherwise."""
    first: dict[str, Labelled] = {}
    for image in images:
        before = first.setdefault(image.image, image)
        if before is not image:
            yield from contradictions(before, image)


def _with_conditions(images: Sequence[Labelled]) -> list[Labelled]:
    return [image for image in images if image.covered]


def _predictions_behind(store: Store, made: Manifest) -> Manifest | None:
    """The predictions that a product is, or was made from."""
    if made.kind == Kind.PREDICTIONS:
        return made
    digest = made.inputs.get(Asset.TEST_PREDICTIONS)
    return store.get_manifest(digest) if digest else None


def _splits_behind(store: Store, made: Manifest) -> Manifest:
    """The normalised splits that a product is, or was made from."""
    while made.kind != Kind.NORMALIZED_SPLITS:
        above: Mapping[str, str] = made.inputs
        known = (Asset.NORMALIZED_SPLITS, Asset.CONDITION_SUBSET, Asset.TOOTH_SUBSET, Asset.CLASS_METRICS)
        digest = next((above[name] for name in known if name in above), None)
        if digest is None:
            raise ConfigurationError(
                f"{made.digest[:12]} is {with_article(made.kind)}, which leads to no labels. Give a dataset key, a "
                "subset, or predictions."
            )
        made = store.get_manifest(digest)
    return made
