"""The training loop: from a recipe and a subset to a published checkpoint.

Everything with a decision of its own lives elsewhere (`recipe.py`, `sampling.py`, `learner.py`, `validation.py`,
`health.py`, `checkpointing.py`, `publish.py`); the order of things is here. One optimiser step sees the same images
whether one process or several train, and whether or not the training was killed in between.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from dentsight_pipeline.data.splits import split_names
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.history import TrainingPoint
from dentsight_pipeline.documents.job import FitJob
from dentsight_pipeline.errors import ConfigurationError, DentsightError, TrainingError
from dentsight_pipeline.training import cache, checkpointing, letterbox, optim, processes, publish, validation
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.cost import Meters
from dentsight_pipeline.training.dataset import (
    Batch,
    LabelledImages,
    Letterboxed,
    TrainingSamples,
    collate,
    read_labelled,
)
from dentsight_pipeline.training.health import HeadHealthMonitor
from dentsight_pipeline.training.learner import Learner, NotFiniteError, StepFigures
from dentsight_pipeline.training.machine import hardware
from dentsight_pipeline.training.processes import Processes
from dentsight_pipeline.training.recipe import STRIDE, Recipe
from dentsight_pipeline.training.reporting import Reporter
from dentsight_pipeline.training.sampling import EpochSampler, MicroBatches
from dentsight_pipeline.training.setup import Setup
from dentsight_pipeline.training.state import BEST_METRIC, Record, TrainingState

CURVE_POINTS = 400
"""About how many points the curves of the training loss have."""
NOTABLE_PADDING = 0.1
"""Share of every canvas that no image uses, from which a narrower one is named."""


class Saved(NamedTuple):
    """The last checkpoint of this training's working folder."""

    at: float
    """When it was written or read, by the monotonic clock; the start, where there is none."""
    step: int | None = None
    """Of it."""
    place: Path | None = None
    """Its folder."""
    best_step: int | None = None
    """Step of the best weights in it."""


def run_fit(job: FitJob, reporter: Reporter) -> str:
    """Trains, or goes on training, and publishes the checkpoint; writes `result.json`.

    Args:
        job: What to train on which data, and where.
        reporter: Told about progress; the further processes of a distributed training pass a silent one.

    Returns:
        Digest of the checkpoint manifest.

    Raises:
        ConfigurationError: The recipe, the data or the working folder cannot be meant.
        HeadCollapseError: A head-health rule tripped and the job gives no reason to go on.
        TrainingError: The loss is no number, memory ran out, or the loader died.
        StorageError: A disk refused.
    """
    setup = Setup.of(job)
    published = publish.already_published(setup)
    if published is not None:
        reporter.message(f"This training is done and published as {published[:12]}; nothing is trained again.")
        return published
    setup = setup.with_weights()  # before minutes go into the image cache
    started = processes.start(job, setup.recipe)
    with _clear_memory_errors(setup.recipe, started.device):
        training = Training(setup, started, reporter)
        with _stoppable(training):
            return training.run()


class Training:
    """One training on this process, ready to go on from where its working folder stands.

    Args:
        setup: What and where.
        started: This process and the others.
        reporter: Told about progress.
    """

    def __init__(self, setup: Setup, started: Processes, reporter: Reporter) -> None:
        self.setup, self.job, self.recipe = setup, setup.job, setup.recipe
        self.processes, self.reporter, self.device = started, reporter, started.device
        self.meters, self.record, self.step, self.stop_asked = Meters(), Record(), 0, False
        self._read_data()
        images = self.train.labelled
        self.sampler = EpochSampler(images.labels_by_image, images.covered, self.recipe)
        self.total_steps = self.sampler.total_steps
        untaught = np.flatnonzero(~images.covered.any(axis=0)).tolist()
        self.learner = Learner(self.recipe, images.classes, started, setup.weights, untaught)
        self.monitor = HeadHealthMonitor(
            self.learner.raw_model,
            total_steps=self.total_steps,
            warmup_steps=self.recipe.warmup(self.total_steps),
            num_labels=len(self.train.labelled.classes),
        )
        self._say_what_is_trained(untaught)
        self.checkpoints = checkpointing.CheckpointFolder(self.job.folder / "checkpoints")
        self._saved = Saved(time.monotonic())
        self._resume()

    # ---- preparing ---------------------------------------------------------------------------------------------------

    def _read_data(self) -> None:
        """The splits and their cached images."""
        read = partial(read_labelled, self.setup.store, self.setup.subset, stage=self.recipe.stage)
        train = read("train")
        has_valid = "valid" in split_names(self.setup.subset)
        valid = read("valid").spread(self.recipe.validation_images) if has_valid else None
        if valid is None or not len(valid.labels):
            valid = None
            self.reporter.message(
                "There is no validation image with an annotation: the last weights are published, not the best ones."
            )
        with self.processes.accelerator.main_process_first():  # the others find the cache built
            self.train = self._letterboxed(train)
            self.valid = None if valid is None else self._letterboxed(valid)

    def _letterboxed(self, images: LabelledImages) -> Letterboxed:
        stage = f"cache {images.split.name}"
        cached = cache.open_or_build(
            self.job.cache,
            self.setup.store,
            images,
            self.recipe.image_size,
            progress=lambda done, of: self.reporter.progress(stage, done, of),
            threads=self.job.threads,
        )
        return Letterboxed(images, cached)

    def _say_what_is_trained(self, untaught: Sequence[int]) -> None:
        parameters = models.count_parameters(self.learner.raw_model)
        self.reporter.message(
            f"{parameters:,} parameters; {optim.describe_groups(self.learner.optimizer.param_groups)}; "
            f"{len(self.train.labelled)} training images, {self.sampler.steps_per_epoch} steps an epoch, "
            f"{self.total_steps} steps on {hardware().device}, {self.processes.count} process(es)."
        )
        self._say_what_is_padding()
        if untaught:
            names = ", ".join(self.train.labelled.classes[label] for label in untaught)
            self.reporter.message(f"No training image covers {names}: the model will not find them.")

    def _say_what_is_padding(self) -> None:
        canvas = self.recipe.image_size
        seen = [self.train] if self.valid is None else [self.train, self.valid]
        sizes = {(width, height) for images in seen for width, height in images.labelled.sizes_px.tolist()}
        width, height = letterbox.tightest(sizes, canvas, STRIDE)
        spared = 1 - width * height / (canvas[0] * canvas[1])
        if spared >= NOTABLE_PADDING:
            self.reporter.message(
                f"{spared:.0%} of the canvas of {canvas[0]}×{canvas[1]} is padding in every image: "
                f"image_width={width} with image_height={height} shows each as large in less time."
            )

    def _resume(self) -> None:
        """Goes on from the newest intact checkpoint of the same training, where there is one."""
        found = self.checkpoints.newest_intact(self.reporter.message)
        if found is None:
            return
        state = found.state_as(TrainingState)
        self._require_same_training(state)
        self.learner.load(found)
        self.record = Record.of(state, found.tensors("best") if found.has("best") else None)
        self.step = found.step
        self.monitor.load_state(state.health)
        self.meters.go_on_from(state.cost)
        self._saved = Saved(time.monotonic(), self.step, found.place, state.best.step)
        self._restore_random_state(found, state.processes)
        self.reporter.message(f"Resuming at step {self.step} of {self.total_steps}.")

    def _require_same_training(self, state: TrainingState) -> None:
        if state.identity != self.setup.identity:
            raise ConfigurationError(
                f"The working folder {self.job.folder} holds another training (recipe and subset "
                f"{codec.plain(state.identity)}, asked for are {codec.plain(self.setup.identity)}). Give each training "
                "a folder of its own, or remove this one."
            )

    def _restore_random_state(self, found: checkpointing.Checkpoint, before: int) -> None:
        own = found.random_state(self.processes.index)
        if own is not None:
            checkpointing.set_random_state(own)
        if own is None or before != self.processes.count:
            self.reporter.message(
                f"{before} processes trained before, {self.processes.count} do now: the same images follow, with other "
                "denoising noise."
            )

    # ---- training ----------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """All remaining steps, then the publication; returns the manifest's digest."""
        self._loop_started, self._first_step = time.perf_counter(), self.step
        batches = MicroBatches(self.sampler, self.recipe, self.step, self.processes.index, self.processes.count)
        with self.monitor.watch(self.learner.model):
            loader = iter(self._loader(batches))
            self.reporter.progress("train", self.step, self.total_steps)
            while self.step < self.total_steps and not self._stopped_early():
                self._train_step(loader, batches.per_step)
                self._evaluate_or_save()
                self._stop_if_asked()
        return self.processes.from_first(self._publish)

    def _loader(self, batches: MicroBatches) -> DataLoader[Any]:
        on_gpu = self.device.type == "cuda"
        workers = self.job.workers if self.job.workers is not None else (4 if on_gpu else 0)
        return DataLoader(
            TrainingSamples(self.train, self.recipe),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=on_gpu,
            generator=torch.Generator().manual_seed(self.recipe.seed),  # the loader would draw from the global one
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=_one_thread if workers else None,
        )

    def _train_step(self, loader: Iterator[Batch], per_step: int) -> None:
        """One optimiser step, counted and told."""
        with self.meters.cost.measure("training_s"):
            with self.meters.cost.measure("data_wait_s"):
                batches = [self._next(loader) for _ in range(per_step)]
            try:
                figures = self.learner.learn(batches, self.step, self.total_steps, with_terms=self._on_curve)
            except NotFiniteError as error:
                raise self._not_finite(error) from error
        self.step += 1
        self.meters.cost.images += self.recipe.batch_size
        self._tell(figures)

    def _next(self, loader: Iterator[Batch]) -> Batch:
        try:
            return next(loader)
        except (DentsightError, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise TrainingError(
                f"The data loader failed at step {self.step}: {str(error).strip().splitlines()[-1]} A loader process "
                "that was killed usually ran out of memory or of /dev/shm: set workers=0 in the job. The last "
                f"checkpoint is of step {self.checkpoints.last}; the same training resumes there."
            ) from error

    def _not_finite(self, error: NotFiniteError) -> TrainingError:
        last = self.record.training[-1].loss if self.record.training else None
        return TrainingError(
            f"The {error.what} is {error.value} at step {self.step} (loss of the step before: {last}, rates: "
            f"{error.rates}). The weights were not touched; the last checkpoint is of step {self.checkpoints.last}. "
            "Lower learning_rate or max_grad_norm, or set precision=fp32."
        )

    @property
    def _on_curve(self) -> bool:
        return self.step % max(1, self.total_steps // CURVE_POINTS) == 0

    def _tell(self, figures: StepFigures) -> None:
        """The step's loss to the history; terms, rates and progress to whoever listens."""
        epoch = (self.step - 1) / self.sampler.steps_per_epoch
        point = TrainingPoint(step=self.step, loss=figures.loss)
        if figures.terms:
            point = TrainingPoint(
                step=self.step, loss=figures.loss, gradient_norm=figures.gradient_norm, rates=figures.rates
            )
            values = {f"train/loss_{name}": value for name, value in figures.terms.items()}
            values |= {"train/loss": figures.loss, "train/gradient_norm": figures.gradient_norm, "train/epoch": epoch}
            values |= {f"train/rate_{name}": rate for name, rate in figures.rates.items() if " " not in name}
            self.reporter.metrics(self.step, values)
        self.record.training.append(point)
        elapsed = time.perf_counter() - self._loop_started
        self.reporter.progress(
            "train",
            self.step,
            self.total_steps,
            epoch=int(epoch) + 1,
            loss=self.record.recent_loss,
            images_per_s=self.meters.cost.images_per_s,
            seconds_left=elapsed / (self.step - self._first_step) * (self.total_steps - self.step),
        )

    def _evaluate_or_save(self) -> None:
        """Evaluates and saves when the recipe says so; saves when the last checkpoint is old."""
        every = self.recipe.evaluate_every_steps or self.sampler.steps_per_epoch
        if self.step % every == 0 or self.step == self.total_steps:
            self._evaluate()
            self._save()
        elif self.processes.any(time.monotonic() - self._saved.at >= self.job.checkpoint_interval_s):
            self._save()

    def _stop_if_asked(self) -> None:
        if self.processes.count == 1 and self.stop_asked:
            if self._saved.step != self.step:
                self._save()
            raise TrainingError(
                f"Training was asked to stop and did at step {self.step} of {self.total_steps}; its state is "
                "kept. Start the same training again to go on."
            )

    def _stopped_early(self) -> bool:
        patience, best = self.recipe.early_stopping_evaluations, self.record.best
        stops = patience is not None and best.evaluations_since >= patience
        if stops:
            self.reporter.message(
                f"Stopped at step {self.step}: no better {BEST_METRIC} in {patience} evaluations "
                f"(best {best.value:.4f} at step {best.step})."
            )
        return stops

    # ---- evaluating --------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """mAP of the average on the validation split, head health, the best weights, and whether to go on."""
        with self.meters.cost.measure("validation_s"):
            evaluated = self.learner.to_evaluate()
            values = self._validate(evaluated)
            collapse = self._assess(evaluated) if self.processes.is_first else None
            self.learner.train_mode()
        self.record.evaluated(self.step, values, evaluated)
        self.reporter.metrics(self.step, values)
        collapsed = self.processes.any(collapse is not None)
        if collapse is not None:
            raise collapse
        if collapsed:
            raise TrainingError("The first process stopped: its head-health rules tripped. See its error.")

    def _validate(self, model: nn.Module) -> dict[str, float]:
        """Curve values, the same on every process; {} without a validation split."""
        if self.valid is None:
            return {}
        images = self.valid.labelled
        own = range(self.processes.index, len(images), self.processes.count)
        found = self.processes.gather(validation.detect(model, self.valid, own, self.recipe, self.device))
        if self.processes.count > 1:
            order = {image: row for row, image in enumerate(images.split.image_ids.tolist())}
            found.sort(key=lambda of_image: order[of_image[0]])  # as one process finds them
        return self.processes.from_first(lambda: validation.score(images, found))

    def _assess(self, model: nn.Module) -> DentsightError | None:
        """A head-health reading; a collapse is returned, not raised, until every process knows.

        It is taken on training images: a head that learned scores gives them there, while low scores on unseen images
        can also mean that the model learned by heart, which is for AP and recall on those images to tell.
        """
        batches = validation.health_batches(self.train, self.recipe, self.device)
        self.reporter.health(self.step, self.monitor.assess(self.step, model, batches))
        try:
            self.monitor.raise_if_collapsed(self.job.allow_head_collapse)
        except DentsightError as error:
            return error
        return None

    # ---- keeping -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """A resumable checkpoint, written by the first process."""
        random_states = self.processes.gather([checkpointing.random_state()])
        if self.processes.is_first:
            with self.meters.cost.measure("checkpoint_s"):
                self._write_checkpoint(random_states)
        self.processes.accelerator.wait_for_everyone()

    def _write_checkpoint(self, random_states: list[checkpointing.RandomState]) -> None:
        tensors, unchanged = self.learner.tensors(), {}
        last = self._saved
        if last.place is not None and last.best_step is not None and last.best_step == self.record.best.step:
            unchanged["best"] = last.place / "best.safetensors"
        elif self.record.best_weights is not None:
            tensors["best"] = self.record.best_weights
        state = TrainingState(
            identity=self.setup.identity,
            processes=self.processes.count,
            history=self.record.history,
            best=self.record.best,
            health=self.monitor.state(),
            cost=self.meters.read(),
        )
        place = self.checkpoints.save(self.step, tensors, state, random_states, unchanged)
        self._saved = Saved(time.monotonic(), self.step, place, self.record.best.step)

    def _publish(self) -> str:
        finished = publish.Finished(
            setup=self.setup,
            learner=self.learner,
            record=self.record,
            health=self.monitor.report(self.record.best.step),
            meters=self.meters,
            classes=self.train.labelled.classes,
            steps=self.step,
            total_steps=self.total_steps,
        )
        digest = publish.publish(finished)
        self.checkpoints.remove()
        self.reporter.message(f"Published checkpoint {digest[:12]}: {self.meters.card(self.job).summary}")
        return digest


@contextmanager
def _clear_memory_errors(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Turns running out of memory into a sentence that says what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
        if not is_memory:
            raise
        now = recipe.micro_batch_size or recipe.batch_size
        smaller = next((d for d in range(now - 1, 0, -1) if recipe.batch_size % d == 0), None)
        remedy = (
            f"Set micro_batch_size={smaller} (same batch_size, gradients accumulated)"
            if smaller
            else "Choose a smaller image or architecture"
        )
        raise TrainingError(
            f"Memory ran out on {device} with {now} images of {recipe.image_width}×{recipe.image_height} pixels in one "
            f"forward pass. {remedy}, or take a machine with more memory. The last checkpoint is kept."
        ) from error


@contextmanager
def _stoppable(training: Training) -> Iterator[None]:
    """SIGTERM asks the training to write a checkpoint after the present step and to end."""
    if threading.current_thread() is not threading.main_thread() or training.processes.count > 1:
        yield
        return

    def ask(*_: object) -> None:
        training.stop_asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_thread(_: int) -> None:
    """A loader process leaves the cores to the others."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
