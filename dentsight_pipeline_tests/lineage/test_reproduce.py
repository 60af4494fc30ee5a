"""A checkpoint made again in an empty store gives the same digests, and what did not is told.

The training itself is replaced by a function that is as deterministic; a slow test of the assets trains for real.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data.splits import read_split, split_files
from dentsight_pipeline.data.stems import recall_stems
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.evaluation import Figure
from dentsight_pipeline.documents.job import FitJob, Job, PredictJob
from dentsight_pipeline.documents.lineage import Code, MetricCompared, Record, Remade, Reproduction
from dentsight_pipeline.errors import ConfigurationError, IntegrityError
from dentsight_pipeline.lineage.reproduce import _differences, _means, _notes, compared, reproduce
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


@pytest.mark.parametrize(("made", "within"), [(0.4, True), (0.6, True), (0.399, False), (0.601, False), (None, None)])
def test_the_ends_of_a_recorded_interval_are_part_of_it(made: float | None, within: bool | None) -> None:
    """A metric that is gone is neither within nor outside."""
    found = compared("caries ap", Figure(0.5, 0.4, 0.6), made)

    assert found == MetricCompared(name="caries ap", recorded=0.5, low=0.4, high=0.6, made=made, within=within)
    assert compared("caries ap", Figure(0.5, 0.4, None), made).within is None
    assert compared("caries ap", Figure(0.5, None, 0.6), made).within is None


def _remade(how: str, *, same: bool) -> Remade:
    return Remade(asset=how, recorded="a" * 64, made="b" * 64, how=how, same=same)


def test_what_came_out_otherwise_is_told_as_the_device_allows() -> None:
    """Exactly on the CPU; on a GPU what was trained may differ as long as its metrics lie within what was recorded."""
    products = [_remade("drawn", same=False), _remade("trained", same=False), _remade("made", same=True)]
    metrics = [compared("caries ap", Figure(0.5, 0.4, 0.6), value) for value in (0.5, 0.3, None)]
    drawn, trained = (f"{how} came out as bbbbbbbbbbbb, not as aaaaaaaaaaaa." for how in ("drawn", "trained"))

    assert [*_differences(products, metrics, exact=True)] == [drawn, trained]
    assert [*_differences(products, metrics, exact=False)] == [
        drawn,
        "caries ap came out as 0.3, outside of the recorded 0.5 [0.4, 0.6].",
    ]
    assert [*_differences(products[1:], [], exact=False)] == [
        "There is no recorded evaluation to hold the new weights against."
    ]
    assert [*_differences(products[2:], [], exact=False)] == [*_differences(products[:1], [], exact=True)][1:] == []


def test_another_installation_is_noted_and_the_same_is_not() -> None:
    """Code, edits and packages; one that is not installed here, or was not then, says nothing."""
    numpy = importlib.metadata.version("numpy")
    packages = {"numpy": "1.0", "pytest": importlib.metadata.version("pytest"), "no-such-package": "3", "pandas": None}
    record = Record(code=Code(commit="one", dirty=True), packages=packages)
    version = f"numpy was 1.0 then and is {numpy} now."

    assert [*_notes(record, Code(commit="two", dirty=True))] == [
        "The code had been edited since its commit when the checkpoint was trained; those edits are not recorded.",
        "The code was commit one then and is two now.",
        "The code has been edited since its commit.",
        version,
    ]
    assert [*_notes(Record(code=Code(commit="one", dirty=False), packages=packages), Code(commit="one"))] == [version]
    assert [*_notes(Record(), None)] == []


def test_threads_are_those_of_the_record_on_the_cpu_and_free_on_a_gpu() -> None:
    """Another number of threads adds floats in another order."""
    assert _means(Record(hardware={"device": "CPU", "threads": 3})) == {"device": "cpu", "threads": 3}
    assert _means(Record(hardware={"device": "NVIDIA H200", "gpus": 1, "threads": 3})) == {}
    assert _means(Record()) == {"device": "cpu", "threads": None}


def test_the_jobs_ask_for_what_was_made_then(chain: Chain, tmp_path: Path) -> None:
    """Splits, mirrored ones apart; a collapse that was allowed; recipe, subset and folder."""
    store, subset = chain.store, chain.manifest("condition_subset")
    checkpoint = checkpoint_of(store, subset, 3)
    config = {"allow_head_collapse": "to see it"}
    digest = recorded(store, "trained_checkpoint", checkpoint, config=config, hardware={"device": "CPU", "threads": 2})
    made = predictions_of(store, subset, checkpoint, 0.25)
    mirrored = {**made.entries, "test.mirrored.arrow": made.entries["test.arrow"]}
    recorded(store, "test_predictions", build(store, made.kind, mirrored, made.inputs, made.facts))
    jobs = Jobs()

    found = reproduce(store, digest, open_store(tmp_path / "fresh"), tmp_path / "scratch", jobs)

    (fit_verb, fit), (predict_verb, predict) = jobs.jobs
    assert isinstance(fit, FitJob)
    assert isinstance(predict, PredictJob)
    assert (fit_verb, predict_verb) == ("fit", "predict")
    assert (fit.subset, fit.allow_head_collapse, fit.threads) == (subset.digest, "to see it", 2)
    assert (predict.splits, predict.mirrored) == (("test", "valid"), ("test",))
    assert (predict.subset, predict.checkpoint) == (subset.digest, digest)
    assert (fit.workdir, predict.workdir) == (str(tmp_path / "scratch/fit"), str(tmp_path / "scratch/predict"))
    assert [(item.asset, item.how, item.same) for item in found.products] == [
        ("raw_export", "copied", True),
        ("normalized_splits", "made", True),
        ("condition_subset", "made", True),
        ("trained_checkpoint", "trained", True),
        ("test_predictions", "predicted", False),
    ]
    assert found.metrics == ()
    raw = chain.digests["raw_export"]
    assert recall_stems(open_store(tmp_path / "fresh"), raw) == recall_stems(store, raw) != {}


def test_a_training_that_started_from_a_stored_checkpoint_finds_it_again(chain: Chain, tmp_path: Path) -> None:
    """The empty store has it, file by file, before the job begins."""
    store, start = chain.store, chain.manifest("trained_checkpoint")
    plain_one = checkpoint_of(store, chain.manifest("condition_subset"), 3)
    inputs = {**plain_one.inputs, "initial_checkpoint": start.digest}
    further = build(store, "checkpoint", dict(plain_one.entries), inputs, plain_one.facts)
    digest = recorded(store, "trained_checkpoint", further)
    seen: list[bool] = []

    def train(fresh: Store, subset: Manifest, recipe: Mapping[str, Any]) -> Manifest:
        seen.append(fresh.has_manifest(start.digest) and all(fresh.has(e.sha256) for e in start.entries.values()))
        made = checkpoint_of(fresh, subset, 3)
        return build(fresh, made.kind, dict(made.entries), inputs, made.facts)

    found = reproduce(store, digest, open_store(tmp_path / "fresh"), tmp_path / "scratch", Jobs(train))

    assert (seen, found.reproduced) == ([True], True)


@pytest.mark.parametrize("asset", ["condition_subset", "normalized_splits"])
def test_a_product_that_does_not_say_what_it_was_made_from_cannot_be_made_again(
    chain: Chain, tmp_path: Path, asset: str
) -> None:
    """A checkpoint that names no data, or whose data name no splits."""
    store = chain.store
    inputs = {} if asset == "condition_subset" else {"condition_subset": chain.digests["condition_subset"]}
    checkpoint = chain.manifest("trained_checkpoint")
    if inputs:
        subset = chain.manifest("condition_subset")
        orphan = build(store, subset.kind, dict(subset.entries), {}, subset.facts)
        inputs = {"condition_subset": store.put_manifest(orphan)}
    made = build(store, "checkpoint", dict(checkpoint.entries), inputs, checkpoint.facts)
    digest = recorded(store, "trained_checkpoint", made)

    which = "condition_subset or tooth_subset" if asset == "condition_subset" else asset
    with pytest.raises(ConfigurationError, match=f"does not say which {which} it was made from, so it cannot be made"):
        reproduce(store, digest, open_store(tmp_path / "fresh"), tmp_path / "scratch", Jobs())


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
