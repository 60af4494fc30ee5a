"""The training loop: from a recipe and a subset to a published checkpoint.

Everything with a decision of its own lives elsewhere (`recipe.py`, `sampling.py`, `optim.py`, `validation.py`,
`health.py`, `checkpointing.py`); the order of things is here. One optimiser step sees the same images whether one
process or several train, and whether or not the training was killed in between.

The loss of each micro-batch is weighted by its share of the step's boxes. transformers divides by the boxes of the
micro-batch it sees; the weights turn that into a division by all boxes of the step, so that accumulating or
distributing a batch gives its gradient (up to batch-norm statistics and the denoising noise).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, gather_object, set_seed
from torch import nn
from torch.utils.data import DataLoader

from dentsight_pipeline.data.splits import split_names
from dentsight_pipeline.documents.facts import CheckpointFacts, SubsetFacts
from dentsight_pipeline.documents.names import Asset, Kind
from dentsight_pipeline.errors import ConfigurationError, DentsightError, TrainingError
from dentsight_pipeline.store import content, objects
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import cache, checkpointing, export, optim, validation
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.cost import Cost, gpu_energy_kwh, hardware, package_versions
from dentsight_pipeline.training.dataset import Batch, Split, TrainingSamples, collate, read_split
from dentsight_pipeline.training.health import HeadHealthMonitor
from dentsight_pipeline.training.job import FitJob, write_json, write_result
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline.training.reporting import Reporter
from dentsight_pipeline.training.sampling import EpochSampler, MicroBatches

CURVE_POINTS = 400
"""About how many points the curves of the training loss have."""
LOSS_TERMS = ("vfl", "bbox", "giou", "fgl", "ddf")
"""Terms of D-FINE's loss, each summed over layers, denoising included."""
BEST_METRIC = "valid/map_50"
"""What the best checkpoint is chosen by."""


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
    recipe = recipes.parse(job.recipe)
    models.check_transformers()
    store = objects.open_store(job.store_uri)
    subset = store.get_manifest(job.subset)
    published = _already_published(job, recipe, store)
    if published is not None:
        reporter.message(f"This training is done and published as {published[:12]}; nothing is trained again.")
        return published
    weights = _weights(job, recipe, store)
    models.check_weights(recipe, weights)  # before minutes go into the image cache
    accelerator = _accelerator(job, recipe)
    with _clear_memory_errors(recipe, accelerator.device):
        training = Training(job, recipe, store, subset, accelerator, reporter, weights)
        with _stoppable(training):
            return training.run()


class Training:
    """One training on this process.

    Args:
        job: Where and with what means.
        recipe: What.
        store: Images, weights, and the place to publish to.
        subset: The data.
        accelerator: Devices and processes.
        reporter: Told about progress.
        weights: Folder that replaces the recipe's `weights`: a `checkpoint:` that was fetched from the store.
    """

    def __init__(
        self,
        job: FitJob,
        recipe: Recipe,
        store: Store,
        subset: Manifest,
        accelerator: Accelerator,
        reporter: Reporter,
        weights: Path | None = None,
    ) -> None:
        self._weights = weights
        self.job, self.recipe, self.store, self.subset = job, recipe, store, subset
        self.accelerator, self.reporter, self.device = accelerator, reporter, accelerator.device
        self.cost, self.step, self.stop_asked = Cost(), 0, False
        self.history: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
        self.best: dict[str, Any] = {"step": None, "value": None, "evaluations_since": 0}
        self._best_weights: dict[str, torch.Tensor] | None = None
        self._started, self._energy_at_start = time.perf_counter(), gpu_energy_kwh()
        self._read_data()
        self._build()
        self.checkpoints = checkpointing.CheckpointFolder(job.workdir / "checkpoints")
        self._last_checkpoint: tuple[float, Path | None, int | None] = (time.monotonic(), None, None)
        self._resume()

    # ---- preparing ---------------------------------------------------------------------------------------------------

    def _read_data(self) -> None:
        """Splits, their cached images, and the draws."""
        recipe = self.recipe
        self.train = read_split(self.store, self.subset, "train", recipe.stage)
        has_valid = "valid" in split_names(self.subset)
        valid = read_split(self.store, self.subset, "valid", recipe.stage) if has_valid else None
        chosen = None if valid is None else valid.spread(recipe.validation_images)
        self.valid = chosen if chosen is not None and any(map(len, chosen.labels)) else None
        self.sampler = EpochSampler(self.train.labels, len(self.train.classes), recipe)
        self.total_steps = self.sampler.total_steps
        if self.valid is None:
            self.reporter.message(
                "There is no validation image with an annotation: the last weights are published, not the best ones."
            )
        with self.accelerator.main_process_first():  # the others find the cache built
            self._train_images = self._cached(self.train, "cache train")
            self._valid_images = None if self.valid is None else self._cached(self.valid, "cache valid")

    def _cached(self, split: Split, stage: str) -> Any:
        return cache.open_or_build(
            self.job.cache_dir or self.job.workdir / "cache",
            self.store,
            split.images,
            self.recipe.image_size,
            progress=lambda done, images: self.reporter.progress(stage, done, images),
            threads=self.job.threads,
        )

    def _build(self) -> None:
        """Model, average, optimiser, loader arguments and monitor, as they are at step 0."""
        recipe, classes = self.recipe, self.train.classes
        set_seed(recipe.seed)
        model = models.build(recipe, classes, weights=self._weights)
        self.initial_weights_sha256 = _digest_of(model)
        model.to(self.device)
        self.raw_model: nn.Module = model
        self.average = None if recipe.ema_decay is None else optim.MovingAverage(model, recipe)
        self.optimizer = optim.build_optimizer(model, recipe)
        models.train_mode(model, recipe)
        self.monitor = HeadHealthMonitor(
            model, total_steps=self.total_steps, warmup_steps=recipe.warmup(self.total_steps), num_labels=len(classes)
        )
        self.model: nn.Module = self.accelerator.prepare(model)
        self.samples = TrainingSamples(self.train, self._train_images, recipe)
        set_seed(recipe.seed + 1 + self.accelerator.process_index)  # the denoising noise differs between processes
        self.reporter.message(
            f"{models.count_parameters(model):,} parameters; {optim.describe_groups(self.optimizer.param_groups)}; "
            f"{len(self.train.images)} training images, {self.sampler.steps_per_epoch} steps an epoch, "
            f"{self.total_steps} steps on {hardware()['device']}, {self.accelerator.num_processes} process(es)."
        )

    def _resume(self) -> None:
        """Goes on from the newest intact checkpoint of the same training, where there is one."""
        found = self.checkpoints.newest_intact(self.reporter.message)
        self.cost.attempts = 1
        if found is None:
            return
        state = found.state
        identity = _identity(self.recipe, self.subset)
        if state["identity"] != identity:
            raise ConfigurationError(
                f"The working folder {self.job.workdir} holds another training (recipe and subset {state['identity']}, "
                f"asked for are {identity}). Give each training a folder of its own, or remove this one."
            )
        checkpointing.load_model_tensors(self.raw_model, found.tensors("model"))
        if self.average is not None:
            checkpointing.load_model_tensors(self.average.model, found.tensors("average"))
        checkpointing.load_optimizer_tensors(self.optimizer, found.tensors("optimizer"))
        self._best_weights = found.tensors("best") if found.has("best") else None
        self.step, self.history, self.best = found.step, state["history"], state["best"]
        self.monitor.load_state_dict(state["health"])
        self.cost = Cost(**{**state["cost"], "attempts": state["cost"]["attempts"] + 1})
        self._started -= self.cost.wall_s
        energy, start = self.cost.gpu_energy_kwh, self._energy_at_start
        self._energy_at_start = None if energy is None or start is None else start - energy
        self._last_checkpoint = (time.monotonic(), found.place, self.best["step"])
        own = found.random_state(self.accelerator.process_index)
        if own is not None:
            checkpointing.set_random_state(own)
        if own is None or state["processes"] != self.accelerator.num_processes:
            self.reporter.message(
                f"{state['processes']} processes trained before, {self.accelerator.num_processes} do now: the same "
                "images follow, with other denoising noise."
            )
        self.reporter.message(f"Resuming at step {self.step} of {self.total_steps}.")

    # ---- training ----------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """All remaining steps, then the publication; returns the manifest's digest."""
        self._loop_started, self._first_step = time.perf_counter(), self.step
        batches = MicroBatches(
            self.sampler, self.recipe, self.step, self.accelerator.process_index, self.accelerator.num_processes
        )
        with self.monitor.watch(self.model):
            loader = iter(self._loader(batches))
            self.reporter.progress("train", self.step, self.total_steps)
            while self.step < self.total_steps and not self._stopped_early():
                self._train_step(loader, batches.per_step)
                if self._evaluation_due():
                    self._evaluate()
                    self._save()
                elif self._agree(self._checkpoint_due()):
                    self._save()
                if self.accelerator.num_processes == 1 and self.stop_asked:
                    self._save()
                    raise TrainingError(
                        f"Training was asked to stop and did at step {self.step} of {self.total_steps}; its state is "
                        "kept. Start the same training again to go on."
                    )
        return self._publish()

    def _loader(self, batches: MicroBatches) -> DataLoader[Any]:
        on_gpu = self.device.type == "cuda"
        workers = self.job.workers if self.job.workers is not None else (4 if on_gpu else 0)
        parallel: dict[str, Any] = (
            {"prefetch_factor": 4, "multiprocessing_context": "fork", "worker_init_fn": _one_thread} if workers else {}
        )
        return DataLoader(
            self.samples,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=on_gpu,
            generator=torch.Generator().manual_seed(self.recipe.seed),  # the loader would draw from the global one
            **parallel,
        )

    def _train_step(self, loader: Iterator[Batch], per_step: int) -> None:
        """One optimiser step; raises before the weights are touched when the loss is no number."""
        begun = time.perf_counter()
        waiting = [self._next(loader) for _ in range(per_step)]
        self.cost.data_wait_s += time.perf_counter() - begun
        factor = optim.rate_factor(self.recipe, self.step, self.total_steps)
        rates = optim.set_rates(self.optimizer, factor)
        boxes = self._sum(sum(sum(batch.counts) for batch in waiting))
        loss, terms = 0.0, {}
        for number, batch in enumerate(waiting, start=1):
            share = max(1, sum(batch.counts)) / max(1.0, boxes)
            with self._sync_only(last=number == len(waiting)):
                outputs = self._forward(batch.to(self.device))
                self.accelerator.backward(outputs.loss * (share * self.accelerator.num_processes))
            loss += float(outputs.loss.detach()) * share
            terms = _add_terms(terms, outputs.loss_dict, share) if self._on_curve() else {}
        loss = self._sum(loss)
        self._require_finite("loss", loss, rates)
        norm = self._clip()
        self._require_finite("gradient norm", norm, rates)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            self.average.update(self.raw_model, self.step)
        self.cost.images += self.recipe.batch_size
        self.cost.training_s += time.perf_counter() - begun
        self._record(loss, norm, rates, terms)

    def _forward(self, batch: Batch) -> Any:
        pixels = models.normalise_pixels(batch.images, self.recipe)
        with self.accelerator.autocast():
            return self.model(pixel_values=pixels, labels=batch.targets())

    def _next(self, loader: Iterator[Batch]) -> Batch:
        try:
            return next(loader)
        except (DentsightError, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise TrainingError(
                f"The data loader failed at step {self.step}: {str(error).strip().splitlines()[-1]} A loader process "
                "that was killed usually ran out of memory or of /dev/shm: set workers=0 in the job. The last "
                f"checkpoint is of step {self._last_saved()}; the same training resumes there."
            ) from error

    def _clip(self) -> float:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.recipe.max_grad_norm is None:
            gradients = [p.grad for p in parameters if p.grad is not None]
            return float(torch.nn.utils.get_total_norm(gradients))
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm))

    def _require_finite(self, what: str, value: float, rates: dict[str, float]) -> None:
        if math.isfinite(value):
            return
        last = self.history["training"][-1]["loss"] if self.history["training"] else None
        shown = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
        raise TrainingError(
            f"The {what} is {value} at step {self.step} (loss of the step before: {last}, rates: {shown}). The weights "
            f"were not touched; the last checkpoint is of step {self._last_saved()}. Lower learning_rate or "
            "max_grad_norm, or set precision=fp32."
        )

    @contextmanager
    def _sync_only(self, *, last: bool) -> Iterator[None]:
        """Gradients are exchanged between processes at the last micro-batch of a step only."""
        if last or self.accelerator.num_processes == 1:
            yield
        else:
            with self.accelerator.no_sync(self.model):
                yield

    # ---- evaluating --------------------------------------------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        every = self.recipe.evaluate_every_steps or self.sampler.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps

    def _evaluate(self) -> None:
        """mAP of the average on the validation split, head health, the best weights, and whether to go on."""
        self._collapse: DentsightError | None = None
        with self.cost.measure("validation_s"):
            evaluated = self.average.model if self.average is not None else self.raw_model.eval()
            values = self._validate(evaluated)
            if self.accelerator.is_main_process:
                self._assess(evaluated)
            models.train_mode(self.raw_model, self.recipe)
        self.history["validation"].append({"step": self.step, **values})
        self._keep_best(evaluated, values)
        self.reporter.metrics(self.step, values)
        collapsed = self._agree(self._collapse is not None)
        if self._collapse is not None:
            raise self._collapse
        if collapsed:
            raise TrainingError("The first process stopped: its head-health rules tripped. See its error.")

    def _validate(self, model: nn.Module) -> dict[str, float]:
        """Curve values, the same on every process; {} without a validation split."""
        if self.valid is None or self._valid_images is None:
            return {}
        index, processes = self.accelerator.process_index, self.accelerator.num_processes
        own = list(range(index, len(self.valid.images), processes))
        found = validation.detect(model, self.valid, self._valid_images, own, self.recipe, self.device)
        if processes > 1:
            found = gather_object(found)
            order = {image.id: i for i, image in enumerate(self.valid.images)}
            found.sort(key=lambda detection: order[detection["image_id"]])  # as one process finds them
        shared: list[Any] = [validation.score(self.valid, found) if self.accelerator.is_main_process else None]
        return broadcast_object_list(shared)[0] if processes > 1 else shared[0]

    def _assess(self, model: nn.Module) -> None:
        """A head-health reading; a collapse is kept until every process knows.

        It is taken on training images: a head that learned scores gives them there, while low scores on unseen images
        can also mean that the model learned by heart, which is for AP and recall on those images to tell.
        """
        batches = validation.health_batches(self.train, self._train_images, self.recipe, self.device)
        reading = self.monitor.assess(self.step, model, batches)
        self.reporter.health(self.step, reading)
        try:
            self.monitor.raise_if_collapsed(self.job.allow_head_collapse)
        except DentsightError as error:
            self._collapse = error

    def _keep_best(self, model: nn.Module, values: dict[str, float]) -> None:
        value = values.get(BEST_METRIC)
        improved = value is not None and (self.best["value"] is None or value > self.best["value"])
        if improved or value is None:
            self.best = {"step": self.step, "value": value, "evaluations_since": 0}
            tensors = checkpointing.model_tensors(model)
            self._best_weights = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        else:
            self.best["evaluations_since"] += 1

    def _stopped_early(self) -> bool:
        patience = self.recipe.early_stopping_evaluations
        stops = patience is not None and self.best["evaluations_since"] >= patience
        if stops:
            self.reporter.message(
                f"Stopped at step {self.step}: no better {BEST_METRIC} in {patience} evaluations "
                f"(best {self.best['value']:.4f} at step {self.best['step']})."
            )
        return stops

    # ---- telling and keeping -----------------------------------------------------------------------------------------

    def _on_curve(self) -> bool:
        return self.step % max(1, self.total_steps // CURVE_POINTS) == 0

    def _record(self, loss: float, norm: float, rates: dict[str, float], terms: dict[str, torch.Tensor]) -> None:
        self.history["training"].append({"step": self.step, "loss": loss})
        epoch = (self.step - 1) / self.sampler.steps_per_epoch
        if terms:
            values = {f"train/loss_{name}": float(value) for name, value in terms.items()}
            values |= {"train/loss": loss, "train/gradient_norm": norm, "train/epoch": epoch}
            values |= {f"train/rate_{name}": rate for name, rate in rates.items() if " " not in name}
            self.history["training"][-1] |= {"gradient_norm": norm, "rates": rates}
            self.reporter.metrics(self.step, values)
        elapsed = time.perf_counter() - self._loop_started
        left = elapsed / (self.step - self._first_step) * (self.total_steps - self.step)
        recent = [entry["loss"] for entry in self.history["training"][-20:]]
        self.reporter.progress(
            "train",
            self.step,
            self.total_steps,
            epoch=int(epoch) + 1,
            loss=sum(recent) / len(recent),
            images_per_s=self.cost.images_per_s,
            seconds_left=left,
        )

    def _checkpoint_due(self) -> bool:
        return time.monotonic() - self._last_checkpoint[0] >= self.job.checkpoint_interval_s

    def _save(self) -> None:
        """A resumable checkpoint, written by the first process."""
        random_states = [checkpointing.random_state()]
        if self.accelerator.num_processes > 1:
            random_states = gather_object(random_states)
        if self.accelerator.is_main_process:
            with self.cost.measure("checkpoint_s"):
                self._write_checkpoint(random_states)
        self.accelerator.wait_for_everyone()

    def _read_meters(self) -> None:
        """Brings time and energy of all attempts up to now."""
        self.cost.wall_s = time.perf_counter() - self._started
        energy, start = gpu_energy_kwh(), self._energy_at_start
        self.cost.gpu_energy_kwh = None if energy is None or start is None else energy - start

    def _write_checkpoint(self, random_states: list[dict[str, Any]]) -> None:
        self._read_meters()
        tensors = {
            "model": checkpointing.model_tensors(self.raw_model),
            "optimizer": checkpointing.optimizer_tensors(self.optimizer),
        }
        if self.average is not None:
            tensors["average"] = checkpointing.model_tensors(self.average.model)
        unchanged = {}
        _, last_place, last_best = self._last_checkpoint
        if self._best_weights is not None:
            if last_place is not None and last_best == self.best["step"]:
                unchanged["best"] = last_place / "best.safetensors"
            else:
                tensors["best"] = self._best_weights
        state = {
            "identity": _identity(self.recipe, self.subset),
            "processes": self.accelerator.num_processes,
            "history": self.history,
            "best": self.best,
            "health": self.monitor.state_dict(),
            "cost": vars(self.cost),
        }
        place = self.checkpoints.save(self.step, tensors, state, random_states, unchanged)
        self._last_checkpoint = (time.monotonic(), place, self.best["step"])

    def _last_saved(self) -> int:
        return next(iter(self.checkpoints.steps()), 0)

    def _publish(self) -> str:
        """Exports the best weights, puts the checkpoint manifest into the store, and writes the result."""
        shared: list[Any] = [self._publish_here() if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(shared)
        return shared[0]

    def _publish_here(self) -> str:
        final = self.average.model if self.average is not None else self.raw_model
        if self._best_weights is not None:
            checkpointing.load_model_tensors(final, self._best_weights)
        folder = export.save_pretrained_folder(final, self.recipe, self.train.classes, self.job.workdir / "model")
        health = self.monitor.report(self.best["step"])
        files: dict[str, Path | bytes] = {f"model/{path.name}": path for path in sorted(folder.iterdir())}
        files["recipe.json"] = _json(self.recipe.model_dump())
        files["history.json"] = _json(self.history)
        files["health.json"] = _json(health)
        product = content.build(self.store, Kind.CHECKPOINT, files, self._inputs(), self._facts(health))
        digest = self.store.put_manifest(product)
        self._read_meters()
        card = self.cost.card(self.job.price_per_hour, self.job.currency)
        record = {"cost": card, "hardware": hardware(), "packages": package_versions(), "finished": time.time()}
        write_json(
            self.job.workdir / "published.json",
            {**_identity(self.recipe, self.subset), "digest": digest, "record": record},
        )
        write_result(self.job.workdir, digest, record)
        self.checkpoints.remove()
        self.reporter.message(f"Published checkpoint {digest[:12]}: {card['summary']}")
        return digest

    def _inputs(self) -> dict[str, str]:
        inputs: dict[str, str] = {Kind(self.subset.kind).asset: self.subset.digest}
        if (self.recipe.weights or "").startswith(CHECKPOINT):
            inputs[Asset.INITIAL_CHECKPOINT] = (self.recipe.weights or "").removeprefix(CHECKPOINT)
        return inputs

    def _facts(self, health: dict[str, Any]) -> CheckpointFacts:
        chosen = next((v for v in self.history["validation"] if v["step"] == self.best["step"]), {})
        return CheckpointFacts(
            recipe=self.recipe.name,
            recipe_digest=self.recipe.digest,
            variant=bool(self.recipe.overrides.keys() - {"stage"}),  # the stage is the asset's, nobody's override
            overrides=self.recipe.overrides,
            stage=self.recipe.stage,
            corpus=self.subset.facts_as(SubsetFacts).corpus,
            classes=self.train.classes,
            image_size=self.recipe.image_size,
            parameters=models.count_parameters(self.raw_model),
            steps=self.step,
            total_steps=self.total_steps,
            best_step=self.best["step"],
            validation={name: value for name, value in chosen.items() if name != "step"},
            healthy=health["healthy"],
            allow_head_collapse=self.job.allow_head_collapse,
            initial_weights_sha256=self.initial_weights_sha256,
            processes=self.accelerator.num_processes,
            versions=package_versions(),
        )

    # ---- between processes -------------------------------------------------------------------------------------------

    def _sum(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.accelerator.num_processes == 1:
            return float(value)
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(total, reduction="sum"))  # pyright: ignore[reportArgumentType]

    def _agree(self, value: bool) -> bool:
        """Whether any process says so."""
        return self._sum(float(value)) > 0


CHECKPOINT = "checkpoint:"
"""Prefix of `Recipe.weights` that names a checkpoint manifest of the store."""


def _accelerator(job: FitJob, recipe: Recipe) -> Accelerator:
    """Devices, threads and processes for a job."""
    on_cpu = job.device == "cpu" or not torch.cuda.is_available()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if on_cpu:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(job.threads or max(1, available // processes))
    else:
        torch.backends.cudnn.benchmark = True
    if processes == 1:  # settings of an earlier training in this process must not stay
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return Accelerator(
        cpu=on_cpu,
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        # an image without boxes has no denoising queries, so their embedding is unused now and then
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def _weights(job: FitJob, recipe: Recipe, store: Store) -> Path | None:
    """The folder of a checkpoint that the recipe starts from; None when its `weights` can be used as they are."""
    if not (recipe.weights or "").startswith(CHECKPOINT):
        return None
    digest = (recipe.weights or "").removeprefix(CHECKPOINT)
    found = store.get_manifest(digest)
    if found.kind != Kind.CHECKPOINT:
        raise ConfigurationError(
            f"weights = {recipe.weights} names a {found.kind} manifest. Give the digest of a checkpoint."
        )
    return content.materialise(store, found, job.workdir / "initial", prefix="model/") / "model"


def _identity(recipe: Recipe, subset: Manifest) -> dict[str, str]:
    return {"recipe": recipe.digest, "subset": subset.digest}


def _already_published(job: FitJob, recipe: Recipe, store: Store) -> str | None:
    """The digest of this very training's product when an earlier attempt finished it; the result is written again."""
    path = job.workdir / "published.json"
    if not path.exists():
        return None
    done = json.loads(path.read_text(encoding="utf-8"))
    same = done["recipe"] == recipe.digest and done["subset"] == job.subset
    if not same or not store.has_manifest(done["digest"]):
        return None
    write_result(job.workdir, done["digest"], done["record"])
    return done["digest"]


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
    if threading.current_thread() is not threading.main_thread() or training.accelerator.num_processes > 1:
        yield
        return

    def ask(*_: object) -> None:
        training.stop_asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _add_terms(
    terms: dict[str, torch.Tensor], loss_dict: dict[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Adds a micro-batch's loss terms, each summed over layers, to those of the step."""
    for name in LOSS_TERMS:
        parts = [value.detach().sum() for key, value in loss_dict.items() if key.startswith(f"loss_{name}")]
        if parts:
            terms[name] = terms.get(name, torch.zeros(())) + torch.stack(parts).sum().cpu() * share
    return terms


def _digest_of(model: nn.Module) -> str:
    """sha256 (hex) over names and bytes of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(checkpointing.model_tensors(model).items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _one_thread(_: int) -> None:
    """A loader process leaves the cores to the others."""
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
