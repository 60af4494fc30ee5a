"""A checkpoint made again in an empty store gives the same digests, and what did not is told.

The training itself is replaced by a function that is as deterministic; a slow test of the assets trains for real.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data.splits import read_split, split_files
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.evaluation import Figure
from dentsight_pipeline.documents.job import FitJob, Job, PredictJob
from dentsight_pipeline.documents.lineage import Reproduction
from dentsight_pipeline.errors import ConfigurationError, IntegrityError
from dentsight_pipeline.lineage.reproduce import compared, reproduce
from dentsight_pipeline.store.content import build, read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.lineage.chain_builder import (
    Chain,
    checkpoint_of,
    flip,
    predictions_of,
    recorded,
)

Train = Callable[[Store, Manifest, Mapping[str, Any]], Manifest]


def same_again(store: Store, subset: Manifest, recipe: Mapping[str, Any]) -> Manifest:
    """As deterministic as a training on the CPU."""
    return checkpoint_of(store, subset, recipe["seed"])


def other_weights(store: Store, subset: Manifest, recipe: Mapping[str, Any]) -> Manifest:
    """A training that came out differently: the same recipe, other weights."""
    made = checkpoint_of(store, subset, recipe["seed"])
    return build(store, made.kind, {**made.entries, "model/model.safetensors": b"other"}, made.inputs, made.facts)


class Jobs:
    """Runs jobs in this process and remembers them."""

    def __init__(self, train: Train = same_again, shift_px: float = 0.25) -> None:
        self.train, self.shift_px = train, shift_px
        self.jobs: list[tuple[str, Job]] = []

    def __call__(self, verb: str, job: Job) -> str:
        self.jobs.append((verb, job))
        assert isinstance(job, FitJob | PredictJob)
        store = open_store(job.store_uri)
        subset = store.get_manifest(job.subset)
        if isinstance(job, FitJob):
            return store.put_manifest(self.train(store, subset, job.recipe))
        checkpoint = store.get_manifest(job.checkpoint)
        return store.put_manifest(predictions_of(store, subset, checkpoint, self.shift_px))


def honest(chain: Chain) -> Chain:
    """The chain with the evaluation that its predictions really have, instead of one that passes every gate."""
    from dataclasses import replace

    from dentsight_pipeline.evaluation.product import evaluate_predictions

    store = chain.store
    chain.manifest_file("class_metrics").unlink()
    made = evaluate_predictions(
        store, chain.manifest("condition_subset"), chain.manifest("test_predictions"), resamples=8
    )
    return replace(chain, digests={**chain.digests, "class_metrics": recorded(store, "class_metrics", made)})


def reproduced(chain: Chain, tmp_path: Path, jobs: Jobs, asset: str = "trained_checkpoint") -> Reproduction:
    """The checkpoint behind an asset, made again in an empty store."""
    fresh = open_store(tmp_path / "fresh")
    return reproduce(chain.store, chain.digests[asset], fresh, tmp_path / "scratch", jobs)


@pytest.mark.parametrize("asset", ["trained_checkpoint", "released_model", "release_report"])
def test_everything_comes_out_as_recorded(chain: Chain, tmp_path: Path, asset: str) -> None:
    """From the bytes of the export to the metrics, by whatever a person calls the model."""
    chain = honest(chain)
    jobs = Jobs()

    found = reproduced(chain, tmp_path, jobs, asset)

    assert [(item.asset, item.same) for item in found.products] == [
        ("raw_export", True),
        ("normalized_splits", True),
        ("condition_subset", True),
        ("trained_checkpoint", True),
        ("test_predictions", True),
        ("class_metrics", True),
    ]
    assert found.reproduced
    assert found.compared_by == "digest"
    fit = next(job for verb, job in jobs.jobs if verb == "fit")
    assert plain(fit)["recipe"] == read_json(chain.store, chain.manifest("trained_checkpoint"), "recipe.json")
    assert fit.device == "cpu"


def test_other_weights_on_the_cpu_are_a_difference(chain: Chain, tmp_path: Path) -> None:
    """There is no such thing as almost the same bytes."""
    found = reproduced(honest(chain), tmp_path, Jobs(other_weights))

    assert not found.reproduced
    assert found.differences[0].startswith("trained_checkpoint came out as")


def test_a_subset_that_comes_out_otherwise_does_not_hide_the_training(chain: Chain, tmp_path: Path) -> None:
    """The recorded subset is copied in, so that the training is judged on what it really read."""
    store, before = chain.store, chain.manifest("condition_subset")
    coco = read_split(store, before, "valid").to_coco()
    edited = {
        **before.entries,
        **split_files([from_coco("valid", {**coco, "annotations": coco["annotations"][1:]})]),
    }
    subset = build(store, before.kind, edited, before.inputs, before.facts)
    recorded(store, "condition_subset", subset, config={})
    checkpoint = checkpoint_of(store, subset, 3)
    digest = recorded(store, "trained_checkpoint", checkpoint)

    found = reproduce(store, digest, open_store(tmp_path / "fresh"), tmp_path / "scratch", Jobs())

    assert {item.asset: item.same for item in found.products} == {
        "raw_export": True,
        "normalized_splits": True,
        "condition_subset": False,
        "trained_checkpoint": True,
    }


def store_bytes(chain: Chain, path: str) -> bytes:
    """One file of the chain's subset."""
    return chain.object_file("condition_subset", path).read_bytes()


def on_a_gpu(chain: Chain) -> str:
    """A checkpoint that was trained on a GPU, evaluated; its digest."""
    store, subset = chain.store, chain.manifest("condition_subset")
    checkpoint = checkpoint_of(store, subset, 4)
    hardware = {"device": "NVIDIA H200", "gpus": 1, "threads": 8}
    digest = recorded(store, "trained_checkpoint", checkpoint, hardware=hardware)
    predictions = predictions_of(store, subset, checkpoint, 0.5)
    recorded(store, "test_predictions", predictions)
    from dentsight_pipeline.evaluation.product import evaluate_predictions

    made = evaluate_predictions(store, subset, predictions, resamples=8)
    document = read_json(store, made, "evaluation.json")
    for row in document["populations"][document["gated_population"]]["per_class"]:
        for metric in ("ap", "ap50"):
            if row[metric] is not None:
                row |= {f"{metric}_low": row[metric] - 0.15, f"{metric}_high": row[metric] + 0.15}
    macro = document["populations"][document["gated_population"]]["macro"]
    macro |= {"ap_low": 0.0, "ap_high": 1.0, "ap50_low": 0.0, "ap50_high": 1.0}
    files = {**made.entries, "evaluation.json": json.dumps(document).encode()}
    wide = build(store, made.kind, files, made.inputs, made.facts)
    chain.store.blobs.remove([f"manifests/{made.digest[:2]}/{made.digest}.json"])
    recorded(store, "class_metrics", wide)
    return digest


@pytest.mark.parametrize(("shift_px", "expected"), [(0.4, True), (6.0, False)])
def test_on_a_gpu_metrics_must_lie_within_the_recorded_intervals(
    chain: Chain, tmp_path: Path, shift_px: float, expected: bool
) -> None:
    """Other weights are expected there; a worse model is not."""
    digest = on_a_gpu(chain)
    jobs = Jobs(other_weights, shift_px)

    found = reproduce(chain.store, digest, open_store(tmp_path / "fresh"), tmp_path / "scratch", jobs)

    assert found.compared_by == "metrics within recorded intervals"
    assert found.recorded_on == "NVIDIA H200"
    assert found.reproduced is expected
    assert all("outside of the recorded" in difference for difference in found.differences)
    assert jobs.jobs[0][1].device is None


def test_a_metric_without_an_interval_can_only_be_equal() -> None:
    """Nothing is called within what was never measured."""
    assert compared("caries ap", Figure(0.5, None, None), 0.5).within is True
    assert compared("caries ap", Figure(0.5, None, None), 0.51).within is None
    assert compared("caries ap", Figure(None, None, None), None).within is True
    assert compared("caries ap", Figure(0.5, 0.4, 0.6), 0.41).within is True
    assert compared("caries ap", Figure(0.5, 0.4, 0.6), 0.39).within is False


def test_nothing_is_made_from_damaged_bytes(chain: Chain, tmp_path: Path) -> None:
    """The export's bytes are verified as they are copied."""
    image = next(path for path in chain.manifest("raw_export").entries if path.startswith("images/"))
    flip(chain.object_file("raw_export", image))

    with pytest.raises(IntegrityError, match="was changed"):
        reproduced(chain, tmp_path, Jobs())


def test_a_dataset_alone_cannot_be_reproduced(intact_chain: Chain, tmp_path: Path) -> None:
    """The message says what to give."""
    with pytest.raises(ConfigurationError, match="was not made with a checkpoint"):
        reproduced(intact_chain, tmp_path, Jobs(), "condition_subset")


def test_a_drawn_corpus_is_drawn_again(tmp_path: Path) -> None:
    """A phantom is known by its numbers; reproducing it starts before the first byte."""
    from dentsight_pipeline.data.normalise import normalise_export
    from dentsight_pipeline.data.subset import select_conditions
    from dentsight_pipeline.intake.acquire import Acquisition, ingest

    store = open_store(tmp_path / "store")
    location = "phantom:6:1"
    raw = ingest(store, Acquisition(location, None, (), None, True), tmp_path / "drawn", lambda *_: None)
    recorded(store, "raw_export", store.get_manifest(raw), location=location)
    splits = normalise_export(store, store.get_manifest(raw))
    recorded(store, "normalized_splits", splits, config={"source": None, "drop": []})
    subset = select_conditions(store, splits)
    recorded(store, "condition_subset", subset)
    digest = recorded(store, "trained_checkpoint", checkpoint_of(store, subset, 5))

    found = reproduce(store, digest, open_store(tmp_path / "fresh"), tmp_path / "scratch", Jobs())

    assert (found.products[0].how, found.products[0].same) == ("drawn", True)
    assert found.reproduced
