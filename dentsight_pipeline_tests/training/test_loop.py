"""The training loop: what is published, what stops it, and what does not change its result."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.events import HealthRead, Message, Metrics, Progress
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.history import History
from dentsight_pipeline.documents.job import CostCard, FitJob, Result
from dentsight_pipeline.errors import ConfigurationError, HeadCollapseError, StorageError, TrainingError
from dentsight_pipeline.store import content
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import checkpointing, cost, health, learner, loop, validation
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.dataset import Letterboxed, read_labelled
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline.training.reporting import Reporter, read_events
from dentsight_pipeline_tests.training.conftest import make_subset


def fit_job(store: Store, subset: Manifest, recipe: Recipe, workdir: Path, **more: Any) -> FitJob:
    """A job on one CPU thread."""
    return FitJob(
        store_uri=store.uri,
        subset=subset.digest,
        recipe=recipe.model_dump(),
        workdir=str(workdir),
        **{"threads": 1, "device": "cpu", **more},
    )


def run(job: FitJob) -> Manifest:
    """Runs a job in this process; the published checkpoint."""
    from dentsight_pipeline.store import objects

    with Reporter(job.folder) as reporter:
        return objects.open_store(job.store_uri).get_manifest(loop.run_fit(job, reporter))


def history(store: Store, checkpoint: Manifest) -> History:
    """`history.json` of a checkpoint."""
    return codec.read(content.read_bytes(store, checkpoint, "history.json"), History, "history.json")


def cost_card(workdir: Path) -> CostCard:
    """The cost card of a finished job."""
    return codec.read((workdir / "result.json").read_bytes(), Result, workdir / "result.json").record.cost


def messages(workdir: Path) -> str:
    """Everything that was said to a person."""
    return "\n".join(event.text for event in read_events(workdir) if isinstance(event, Message))


@pytest.fixture
def checkpoint(store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path) -> Manifest:
    """A finished training of eight steps in `tmp_path / "work"`."""
    return run(fit_job(store, subset, tiny_recipe, tmp_path / "work", price_per_hour=1.6))


def test_a_finished_training_publishes_everything_the_contract_names(
    store: Store, subset: Manifest, checkpoint: Manifest, tiny_recipe: Recipe, tmp_path: Path
):
    """Prediction, gates, audit and the report read these files and facts; each is needed somewhere."""
    facts, result = checkpoint.facts, json.loads((tmp_path / "work" / "result.json").read_text())

    assert set(checkpoint.entries) == {
        "model/model.safetensors", "model/config.json", "model/preprocessor_config.json",
        "recipe.json", "history.json", "health.json",
    }  # fmt: skip
    assert checkpoint.inputs == {"condition_subset": subset.digest}
    assert facts["recipe"] == "smoke"
    assert facts["recipe_digest"] == tiny_recipe.digest
    assert facts["variant"] is True
    assert facts["overrides"] == tiny_recipe.overrides
    assert facts["classes"] == ["caries", "crown", "implant"]
    assert facts["image_size"] == [96, 64]
    assert facts["best_step"] in {4, 8}
    assert facts["corpus"]["kind"] == "phantom"
    assert result["digest"] == checkpoint.digest
    assert result["record"]["cost"]["images"] == 16
    assert result["record"]["cost"]["price"] == pytest.approx(result["record"]["cost"]["wall_s"] / 3600 * 1.6)
    assert {"hardware", "packages", "finished"} <= result["record"].keys()


def test_nothing_volatile_is_part_of_the_checkpoint(store: Store, checkpoint: Manifest, tmp_path: Path):
    """The same training must give the same digest: no time, host or path in what is hashed."""
    texts = b"".join(content.read_bytes(store, checkpoint, name) for name in checkpoint.entries if "json" in name)

    assert str(tmp_path).encode() not in texts + checkpoint.to_bytes()
    assert b"images_per_s" not in texts
    assert b'"time"' not in texts


def test_the_same_training_again_gives_the_same_digest(
    store: Store, subset: Manifest, checkpoint: Manifest, tiny_recipe: Recipe, tmp_path: Path
):
    """Equality on the CPU is what reproduction, memo and resume are measured by."""
    again = run(fit_job(store, subset, tiny_recipe, tmp_path / "again"))

    assert again.digest == checkpoint.digest


def test_another_seed_gives_another_model(store: Store, subset: Manifest, checkpoint: Manifest, tiny_recipe, tmp_path):
    """Otherwise the equality above would prove nothing."""
    other = run(fit_job(store, subset, tiny_recipe.override({"seed": 7}), tmp_path / "other"))

    assert other.entries["model/model.safetensors"] != checkpoint.entries["model/model.safetensors"]


def test_the_places_of_the_encoder_are_learnt_from_where_the_recipe_says_so(
    store: Store, subset: Manifest, checkpoint: Manifest, tiny_recipe: Recipe, tmp_path: Path
):
    """Their loss comes on top of the same first step's."""
    run(fit_job(store, subset, tiny_recipe.override({"dense_weight": 1.0}), tmp_path / "dense"))

    first, plain = (
        next(e.values for e in read_events(tmp_path / name) if isinstance(e, Metrics) and "train/loss_vfl" in e.values)
        for name in ("dense", "work")
    )
    more = {name: value - plain[name] for name, value in first.items() if name.startswith("train/loss_")}
    assert min(more[f"train/loss_{name}"] for name in ("vfl", "bbox", "giou")) > 0
    assert first["train/loss"] - plain["train/loss"] == pytest.approx(sum(more.values()), rel=1e-4)


def test_the_published_model_is_the_average_of_the_best_evaluation(
    store: Store, checkpoint: Manifest, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path
):
    """Its mAP, measured again from the published files, is the one in the history."""
    model = models.load(content.materialise(store, checkpoint, tmp_path / "out", "model/") / "model")
    split = read_labelled(store, subset, "valid")
    images = np.load(next(p for p in (tmp_path / "work" / "cache").rglob("images.npy") if len(np.load(p)) == 5))

    found = validation.detect(model, Letterboxed(split, images), range(5), tiny_recipe, torch.device("cpu"))

    figures = {point.step: point.values["valid/map_50"] for point in history(store, checkpoint).validation}
    best = figures[checkpoint.facts["best_step"]]
    assert validation.score(split, found)["valid/map_50"] == pytest.approx(best, abs=1e-6)
    assert best == max(figures.values())


def test_progress_losses_and_health_are_reported_while_it_trains(checkpoint: Manifest, tmp_path: Path):
    """The Dagster log and MLflow's curves live on these events."""
    events = read_events(tmp_path / "work")

    assert {type(event) for event in events} == {Progress, Message, Metrics, HealthRead}
    losses = [e.values["train/loss"] for e in events if isinstance(e, Metrics) and "train/loss" in e.values]
    assert len(losses) == 8
    assert [e.step for e in events if isinstance(e, HealthRead)] == [4, 8]
    assert "backbone: " in messages(tmp_path / "work")
    last = [e for e in events if isinstance(e, Progress) and e.stage == "train"][-1]
    assert (last.step, last.steps) == (8, 8)
    assert None not in (last.epoch, last.loss, last.images_per_s, last.seconds_left)


def test_a_finished_training_is_not_done_again(checkpoint: Manifest, store: Store, subset, tiny_recipe, tmp_path):
    """A step that is retried after publishing must cost seconds, not the training."""
    (tmp_path / "work" / "result.json").unlink()

    again = run(fit_job(store, subset, tiny_recipe, tmp_path / "work"))

    assert again.digest == checkpoint.digest
    assert "nothing is trained again" in messages(tmp_path / "work")
    assert (tmp_path / "work" / "result.json").exists()


@pytest.mark.parametrize("memory_format", ["contiguous", "channels-last"])
def test_a_training_killed_with_signal_9_ends_with_the_losses_of_an_uninterrupted_one(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path, memory_format: str
):
    """The promise of resume, on a real process killed in the middle: the very same checkpoint, digest and all."""
    fields = {"max_steps": 14, "sampler": "class-balanced", "augment_crop": 0.2, "dense_weight": 1.0}
    recipe = tiny_recipe.override({**fields, "memory_format": memory_format})
    whole = run(fit_job(store, subset, recipe, tmp_path / "whole"))
    job = fit_job(store, subset, recipe, tmp_path / "killed", checkpoint_interval_s=0)
    job.folder.mkdir()
    (job.folder / "job.json").write_bytes(codec.write(job))
    command = [sys.executable, "-m", "dentsight_pipeline.training", "fit", str(job.folder / "job.json")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    saved = checkpointing.CheckpointFolder(job.folder / "checkpoints")
    deadline = time.monotonic() + 120
    while not any(step >= 6 for step in saved.steps()):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    killed_at = saved.steps()[0]
    assert killed_at < 14, "the training was over before the kill"

    resumed = run(job)

    assert f"Resuming at step {killed_at}" in messages(job.folder)
    assert history(store, resumed) == history(store, whole)
    assert resumed.digest == whole.digest


def test_a_damaged_last_checkpoint_costs_steps_but_not_the_result(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path
):
    """Going on from the checkpoint before ends in the same weights, and says what happened."""
    whole = run(fit_job(store, subset, tiny_recipe, tmp_path / "whole"))
    job = fit_job(store, subset, tiny_recipe, tmp_path / "work", checkpoint_interval_s=0)
    with pytest.raises(TrainingError, match="asked to stop"):
        _run_until(job, 6)
    folder = checkpointing.CheckpointFolder(job.folder / "checkpoints")
    file = job.folder / "checkpoints" / f"step-{folder.steps()[0]:08d}" / "average.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")

    resumed = run(job)

    assert "The checkpoint of step 6 is damaged" in messages(job.folder)
    assert "Resuming at step 5" in messages(job.folder)
    assert resumed.digest == whole.digest


def test_a_step_that_has_just_been_saved_is_not_saved_again_to_stop(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second checkpoint took the first one's place while a worker elsewhere was reading it."""
    saved: list[int] = []
    save = checkpointing.CheckpointFolder.save

    def counted(folder: checkpointing.CheckpointFolder, step: int, *arguments: Any) -> Path:
        saved.append(step)
        return save(folder, step, *arguments)

    monkeypatch.setattr(checkpointing.CheckpointFolder, "save", counted)
    with pytest.raises(TrainingError, match="asked to stop"):
        _run_until(fit_job(store, subset, tiny_recipe, tmp_path / "work", checkpoint_interval_s=0), 3)

    assert saved == [1, 2, 3]


def _run_until(job: FitJob, last: int) -> None:
    """Trains until a step, then asks the training to stop, as SIGTERM does."""

    class Stopping(Reporter):
        def metrics(self, step: int, values: Any) -> None:
            super().metrics(step, values)
            if step >= last:
                os.kill(os.getpid(), 15)

    with Stopping(job.folder) as reporter:
        loop.run_fit(job, reporter)


@pytest.mark.parametrize(("first", "total"), [([10.0, 10.5], 0.75), ([None, None], None)], ids=["known", "unknown"])
def test_energy_is_summed_over_attempts_and_unknown_when_one_is(
    store: Store,
    subset: Manifest,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: list[float | None],
    total: float | None,
):
    """The counter runs on between attempts, for whoever uses the GPU; half a sum would pass for the whole."""
    job = fit_job(store, subset, tiny_recipe, tmp_path / "work", checkpoint_interval_s=0)
    for start, later in (first, [100.0, 100.25]):
        readings = itertools.chain([start], itertools.repeat(later))
        monkeypatch.setattr(cost, "gpu_energy_kwh", functools.partial(next, readings))
        if start != 100.0:
            with pytest.raises(TrainingError, match="asked to stop"):
                _run_until(job, 6)
    run(job)

    assert cost_card(job.folder).gpu_energy_kwh == (None if total is None else pytest.approx(total))


def test_a_working_folder_of_another_training_is_refused(store: Store, subset, tiny_recipe: Recipe, tmp_path: Path):
    """Going on with another recipe's weights would be neither training."""
    with pytest.raises(TrainingError, match="did at step 3"):
        _run_until(fit_job(store, subset, tiny_recipe, tmp_path / "work"), 3)

    with pytest.raises(ConfigurationError, match="holds another training"):
        run(fit_job(store, subset, tiny_recipe.override({"seed": 5}), tmp_path / "work"))


def test_weights_that_cannot_be_loaded_are_refused_before_the_images_are_cached(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path
):
    """At full size the cache takes minutes, after which a refusal is an annoyance."""
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        run(fit_job(store, subset, tiny_recipe.override({"weights": str(tmp_path / "no")}), tmp_path / "work"))

    assert not (tmp_path / "work" / "cache").exists()


def test_a_loss_that_is_no_number_stops_before_the_weights_are_touched(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One NaN step makes every weight NaN; the message says where and what to lower."""
    forward = learner.Learner.forward
    weights: list[torch.Tensor] = []

    calls = itertools.count()

    def broken(learning: learner.Learner, batch: Any) -> Any:
        outputs = forward(learning, batch)
        if next(calls) == 5:
            outputs.loss = outputs.loss * math.nan
            weights.append(next(learning.raw_model.parameters()))
        return outputs

    monkeypatch.setattr(learner.Learner, "forward", broken)

    with pytest.raises(TrainingError, match=r"loss is nan at step 5 .*checkpoint is of step 4.*Lower learning_rate"):
        run(fit_job(store, subset, tiny_recipe, tmp_path / "work"))
    assert torch.isfinite(weights[0]).all()


def test_running_out_of_memory_names_the_next_smaller_micro_batch(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The remedy that keeps the recipe's effective batch."""

    def exhausted(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(learner.Learner, "forward", exhausted)

    with pytest.raises(TrainingError, match=r"Memory ran out on cpu with 2 images of 96×64.*Set micro_batch_size=1"):
        run(fit_job(store, subset, tiny_recipe, tmp_path / "work"))


def test_a_loader_process_that_dies_is_a_clear_error(store: Store, subset, tiny_recipe, tmp_path: Path, monkeypatch):
    """The kernel kills loaders when /dev/shm or memory runs out; torch's own message does not say what to do."""

    def die(*_: Any) -> Any:
        os.kill(os.getpid(), 9)

    monkeypatch.setattr("dentsight_pipeline.training.augment.apply", die)

    with pytest.raises(TrainingError, match=r"loader failed at step 0: .*set workers=0"):
        run(fit_job(store, subset, tiny_recipe, tmp_path / "work", workers=1))


def test_loader_processes_change_nothing(
    store: Store, subset, tiny_recipe: Recipe, checkpoint: Manifest, tmp_path: Path
):
    """Draws are decided by seed, epoch and position: who loads them must not matter."""
    assert run(fit_job(store, subset, tiny_recipe, tmp_path / "workers", workers=2)).digest == checkpoint.digest


def test_a_full_disk_at_a_checkpoint_fails_clearly(store: Store, subset, tiny_recipe, tmp_path: Path, monkeypatch):
    """The run is FAILED with a remedy, not killed by a traceback of a writer."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointing, "save_file", full)

    with pytest.raises(StorageError, match="the disk is full"):
        run(fit_job(store, subset, tiny_recipe, tmp_path / "work"))


def test_a_collapsed_head_aborts_training(store: Store, subset, tiny_recipe, tmp_path: Path, monkeypatch):
    """AP would go on looking plausible; the monitor's word ends the run at the evaluation."""

    def collapsed(self: health.HeadHealthMonitor, allow: str | None = None) -> None:
        if allow is None:
            raise HeadCollapseError(4, ["denoising matches"], {"share": 1.0})

    monkeypatch.setattr(health.HeadHealthMonitor, "raise_if_collapsed", collapsed)

    with pytest.raises(HeadCollapseError, match="collapsed at step 4"):
        run(fit_job(store, subset, tiny_recipe, tmp_path / "work"))
    allowed = run(fit_job(store, subset, tiny_recipe, tmp_path / "allowed", allow_head_collapse="a comparison"))
    assert allowed.facts["allow_head_collapse"] == "a comparison"


def test_head_health_does_not_depend_on_the_validation_images(store: Store, tiny_recipe: Recipe, tmp_path: Path):
    """A model that learned few images by heart scores low on unseen ones; its head is in order all the same."""

    def mislabel(split: str, coco: dict[str, Any]) -> None:
        for annotation in coco["annotations"] if split == "valid" else ():
            annotation["category_id"] = annotation["category_id"] % len(coco["categories"]) + 1

    plain, mislabelled = (make_subset(store, {"train": 12, "valid": 5}, change=change) for change in (None, mislabel))
    once = tiny_recipe.override({"evaluate_every_steps": tiny_recipe.max_steps})

    jobs = [fit_job(store, subset, once, tmp_path / subset.digest) for subset in (plain, mislabelled)]

    files = [content.read_bytes(store, run(job), "health.json") for job in jobs]
    readings = [codec.read(file, HeadHealth, "health.json").reading for file in files]
    assert readings[0] is not None
    assert readings[0].matched_class_accuracy is not None
    assert readings[0] == readings[1]


def test_training_ends_early_when_validation_does_not_improve(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two evaluations without a better mAP, and the best weights are the ones before."""
    values = iter([0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(validation, "score", lambda *_: {"valid/map_50": next(values)})
    patient = tiny_recipe.override({"evaluate_every_steps": 2, "early_stopping_evaluations": 2})

    stopped = run(fit_job(store, subset, patient, tmp_path / "work"))

    assert (stopped.facts["steps"], stopped.facts["best_step"]) == (6, 2)
    assert "no better valid/map_50 in 2 evaluations" in messages(tmp_path / "work")


@pytest.mark.parametrize("counts", [{"train": 6}, {"train": 6, "valid": 2}], ids=["no split", "no annotation"])
def test_without_annotated_validation_images_the_last_weights_are_published(
    store: Store, tiny_recipe: Recipe, tmp_path: Path, counts: dict[str, int]
):
    """Some exports have no valid folder, or none of its images is annotated; that is said, not guessed around."""

    def unannotated(split: str, coco: dict[str, Any]) -> None:
        if split == "valid":
            coco["annotations"] = []

    found = run(fit_job(store, make_subset(store, counts, change=unannotated), tiny_recipe, tmp_path / "work"))

    assert found.facts["best_step"] == 8
    assert found.facts["validation"] == {}
    assert "no validation image with an annotation" in messages(tmp_path / "work")


def test_training_goes_on_from_a_checkpoint_of_the_store(
    store: Store, subset: Manifest, checkpoint: Manifest, tiny_recipe: Recipe, tmp_path: Path
):
    """Pretraining is part of the chain of digests, not a path on somebody's disk."""
    recipe = tiny_recipe.override({"weights": f"checkpoint:{checkpoint.digest}", "max_steps": 1, "warmup_steps": 0})

    second = run(fit_job(store, subset, recipe, tmp_path / "second"))

    assert second.inputs["initial_checkpoint"] == checkpoint.digest
    assert second.facts["initial_weights_sha256"] != checkpoint.facts["initial_weights_sha256"]


@pytest.fixture
def still_recipe(store: Store, checkpoint: Manifest, tiny_recipe: Recipe) -> Recipe:
    """Steps without batch statistics and denoising noise: a batch's gradient no longer depends on how it is cut.

    Every place of the feature maps is a query: a model this young scores them alike to six digits, and which of them
    are chosen would be a matter of rounding, worth 3 % of the loss.
    """
    settings = {"weights": f"checkpoint:{checkpoint.digest}", "freeze_batch_norm": "all", "num_denoising": 0}
    places = (8 * 12) + (4 * 6) + (2 * 3)
    return tiny_recipe.override({**settings, "num_queries": places, "batch_size": 4, "max_steps": 4, "augment_flip": 0})


def test_accumulated_micro_batches_train_like_the_whole_batch(
    store: Store, subset: Manifest, still_recipe: Recipe, tmp_path: Path
):
    """transformers divides by the boxes of what it sees; unweighted, an image with one box would count as one with ten.

    Two steps, because the distillation averages over queries instead of boxes: a millionth of the loss at first, and
    later a thousandth.
    """
    recipe = still_recipe.override({"max_steps": 2})
    whole = run(fit_job(store, subset, recipe, tmp_path / "whole"))
    parts = run(fit_job(store, subset, recipe.override({"micro_batch_size": 1}), tmp_path / "parts"))

    one, other = (history(store, found).training for found in (whole, parts))
    for field in ("loss", "gradient_norm"):
        np.testing.assert_allclose([getattr(e, field) for e in other], [getattr(e, field) for e in one], rtol=1e-4)


def test_the_average_is_published_not_the_raw_weights(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The average is what was evaluated; publishing its noisier twin would be another model."""
    monkeypatch.setattr(checkpointing.CheckpointFolder, "remove", lambda _: None)
    found = run(fit_job(store, subset, tiny_recipe.override({"evaluate_every_steps": 8}), tmp_path / "work"))
    saved = checkpointing.CheckpointFolder(tmp_path / "work" / "checkpoints").read(8)
    folder = content.materialise(store, found, tmp_path / "out", "model/") / "model"

    published = models.load(folder).state_dict()

    average, raw = saved.tensors("average"), saved.tensors("model")
    assert all(torch.equal(published[name], value) for name, value in average.items())
    assert any((raw[name] != value).any() for name, value in average.items())


def test_evaluating_changes_nothing_about_the_training(store: Store, subset, tiny_recipe: Recipe, tmp_path: Path):
    """Without an average the training model itself is evaluated: it must be back in training mode afterwards."""
    recipe = tiny_recipe.override({"ema_decay": "none"})

    often = run(fit_job(store, subset, recipe.override({"evaluate_every_steps": 2}), tmp_path / "often"))
    once = run(fit_job(store, subset, recipe.override({"evaluate_every_steps": 8}), tmp_path / "once"))

    assert history(store, often).training == history(store, once).training
    assert len(history(store, often).validation) == 4


def test_bf16_trains(store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path):
    """The GPU recipes use it, v4 in channels-last; weights must come out in fp32."""
    recipe = tiny_recipe.override({"precision": "bf16", "memory_format": "channels-last", "max_steps": 2})
    found = run(fit_job(store, subset, recipe, tmp_path / "work"))

    assert all(math.isfinite(point.loss) for point in history(store, found).training)
    folder = content.materialise(store, found, tmp_path / "out", "model/") / "model"
    assert {p.dtype for p in models.load(folder).parameters()} == {torch.float32}


@pytest.mark.slow
def test_two_processes_train_like_one(store: Store, subset: Manifest, still_recipe: Recipe, tmp_path: Path):
    """torchrun with gloo on the CPU: every step's loss is the one of a single process, and so are the figures.

    Batch statistics and denoising noise are each process's own, so both are switched off here.
    """
    # images are validated one by one, so that a batch's make-up cannot change the last bits of a score
    recipe = still_recipe.override({"eval_batch_size": 1})
    single = run(fit_job(store, subset, recipe, tmp_path / "single"))
    job = fit_job(store, subset, recipe, tmp_path / "double")
    job.folder.mkdir()
    (job.folder / "job.json").write_bytes(codec.write(job))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "dentsight_pipeline.training", "fit", str(job.folder / "job.json")]

    subprocess.run(command, check=True, timeout=300, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})

    double = store.get_manifest(json.loads((job.folder / "result.json").read_text())["digest"])
    one, two = history(store, single), history(store, double)
    assert double.facts["processes"] == 2
    assert [e.step for e in two.training] == [e.step for e in one.training]
    losses = [[e.loss for e in found.training] for found in (two, one)]
    np.testing.assert_allclose(losses[0][:2], losses[1][:2], rtol=1e-4)
    np.testing.assert_allclose(*losses, rtol=0.02)  # distillation, divided by each process's own queries, has come in
    assert len(two.validation) == 1
    model = models.load(content.materialise(store, double, tmp_path / "out", "model/") / "model")
    split = read_labelled(store, subset, "valid")
    images = np.load(next(p for p in (job.folder / "cache").rglob("images.npy") if len(np.load(p)) == 5))
    found = validation.detect(model, Letterboxed(split, images), range(5), recipe, torch.device("cpu"))
    best = next(e for e in two.validation if e.step == double.facts["best_step"])
    assert validation.score(split, found)["valid/map_50"] == pytest.approx(best.values["valid/map_50"], abs=1e-9)


def test_a_class_that_no_training_image_covers_stays_silent(store: Store, tiny_recipe: Recipe, tmp_path: Path):
    """Untaught scores wandered above the taught ones on real X-rays: they won the queries, and head health tripped."""

    def without_crowns(_: str, coco: dict[str, Any]) -> None:
        for image in coco["images"]:
            image["covered"] = [1, 3]
        coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] != 2]

    subset = make_subset(store, {"train": 6, "valid": 3}, change=without_crowns)
    checkpoint = run(fit_job(store, subset, tiny_recipe, tmp_path / "work"))
    model = models.load(content.materialise(store, checkpoint, tmp_path / "out", prefix="model/") / "model")

    with torch.no_grad():
        scores = model(pixel_values=torch.rand(2, 3, 64, 96)).logits.sigmoid().amax((0, 1))

    assert scores[1] < 1e-6
    assert scores[[0, 2]].min() > 1e-3
    assert "No training image covers crown" in messages(tmp_path / "work")


def test_a_canvas_that_is_mostly_padding_is_said_with_one_that_is_not(
    store: Store, subset: Manifest, tiny_recipe: Recipe, tmp_path: Path
):
    """The training goes as it was asked to; the user decides about the canvas."""
    wide = tiny_recipe.override({"image_width": 320, "image_height": 64, "max_steps": 1})

    run(fit_job(store, subset, wide, tmp_path / "wide"))
    run(fit_job(store, subset, tiny_recipe.override({"max_steps": 1}), tmp_path / "work"))

    assert "50% of the canvas of 320×64 is padding in every image: image_width=160" in messages(tmp_path / "wide")
    assert "padding" not in messages(tmp_path / "work")
