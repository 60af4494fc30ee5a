"""The contract between whoever starts a training process and the process: job files in, result or error files out.

A job says *where* (store, folders, this machine's means); *what* is trained is the recipe's to say. Fields of a job
change no weight.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from dentsight_pipeline.documents.codec import Document

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Meta(ge=1)]
Scalar = str | int | float | bool | None


class Job(Document, frozen=True, kw_only=True):
    """What every job says."""

    store_uri: str
    """The content-addressed store that is read and published to."""
    workdir: str
    """Folder of this process: resumable state, events, result. The same folder again resumes."""
    threads: Count | None = None
    """CPU threads of torch; None = all."""
    device: str | None = None
    """`cpu` or `cuda`; None = a GPU when there is one."""

    @property
    def folder(self) -> Path:
        """`workdir` as a path."""
        return Path(self.workdir)


class FitJob(Job, frozen=True, kw_only=True):
    """Train a recipe on a subset and publish a checkpoint manifest."""

    subset: Digest
    """Digest of the condition-subset (stage 2) or tooth-subset (stage 1) manifest."""
    recipe: dict[str, Scalar]
    """All fields of a `Recipe`."""
    allow_head_collapse: str | None = None
    """The reason why training may go on although a head-health rule tripped; goes into `health.json`. None = abort."""
    price_per_hour: Annotated[float, Meta(ge=0)] | None = None
    """What an hour of this machine costs, for the cost card; None = unknown."""
    currency: str = "USD"
    """Currency of price_per_hour."""
    workers: Annotated[int, Meta(ge=0)] | None = None
    """Loader processes; None = 0 on the CPU, 4 on a GPU."""
    checkpoint_interval_s: Annotated[float, Meta(ge=0)] = 60.0
    """Longest time between resumable checkpoints; there is one after each evaluation anyway."""
    cache_dir: str | None = None
    """Where letterboxed images are cached; None = `workdir/cache`. Several trainings may share one."""

    @property
    def cache(self) -> Path:
        """The folder of the image cache."""
        return Path(self.cache_dir) if self.cache_dir else self.folder / "cache"


class PredictJob(Job, frozen=True, kw_only=True):
    """Predict splits of a subset with a checkpoint and publish a predictions manifest."""

    checkpoint: Digest
    """Digest of the checkpoint manifest."""
    subset: Digest
    """Digest of the subset manifest."""
    splits: tuple[str, ...]
    """Splits to predict, e.g. ["valid", "test"]."""
    mirrored: tuple[str, ...] = ()
    """Splits to predict mirrored as well; boxes are mapped back to the unmirrored frame."""
    images_only: bool = False
    """Only the subset's images are wanted, so its classes need not be the checkpoint's: teeth are looked for on every
    image of the condition subset."""
    batch_size: Count = 8
    """Images of one forward pass."""


class CostCard(Document, frozen=True, omit_defaults=True):
    """What a job took; what is not known is not there. Times are sums over all attempts, killed ones' ends excepted."""

    wall_s: float
    """From the start of the process, model building and caching included."""
    peak_memory_mib: float
    """Largest resident set of the process."""
    peak_gpu_memory_mib: float | None = None
    """Most memory that torch held on the GPU."""
    training_s: float | None = None
    """Optimiser steps, waiting for data included."""
    data_wait_s: float | None = None
    """Waiting for the loader."""
    data_wait_share: float | None = None
    """Waiting for the loader over training."""
    validation_s: float | None = None
    """Validation and head health."""
    checkpoint_s: float | None = None
    """Writing checkpoints."""
    images: int | None = None
    """Images seen, by all processes together."""
    images_per_s: float | None = None
    """Images a second: of training time, or of this attempt at a prediction."""
    attempts: int | None = None
    """Times that the training was started."""
    gpu_energy_kwh: float | None = None
    """Energy of the GPUs; absent where one attempt could not read it."""
    price_per_hour: float | None = None
    """As the job said."""
    price: float | None = None
    """Wall-clock time at that price."""
    currency: str | None = None
    """Of the price."""
    summary: str | None = None
    """The card in one line."""


class Hardware(Document, frozen=True, kw_only=True):
    """What a job ran on."""

    device: str
    """The GPU's name, or the CPU with its threads."""
    gpus: int
    """GPUs that torch sees."""
    cpu_cores: int | None
    """Cores of the machine."""
    threads: int
    """CPU threads of torch."""
    machine: str
    """The processor's architecture."""


class RunRecord(Document, frozen=True, kw_only=True):
    """How a product came about, on that day and machine; kept beside the manifest, never inside."""

    cost: CostCard
    """What it took."""
    hardware: Hardware
    """What it ran on."""
    packages: dict[str, str]
    """Versions of the packages that decide the numbers."""
    finished: float
    """Seconds since 1970."""


class Result(Document, frozen=True, kw_only=True, omit_defaults=True):
    """`result.json`: what a job published."""

    digest: Digest
    """Of the manifest."""
    record: RunRecord
    """How it came about."""
    job: Digest | None = None
    """Digest of the order, where a worker elsewhere fulfilled one: of that, the log has one record."""


class Published(Document, frozen=True, kw_only=True):
    """`published.json`: that this working folder's training is done, for an attempt that starts again."""

    recipe: Digest
    """Of the recipe."""
    subset: Digest
    """Of the data."""
    digest: Digest
    """Of the manifest that it published."""
    record: RunRecord
    """How that came about."""


class Failure(Document, frozen=True, omit_defaults=True):
    """`error.json`: why a job ended without a result."""

    type: str
    """Name of the exception's class; a deliberate one is in `errors.py`."""
    message: str
    """Its words."""
    traceback: str | None = None
    """Of an error that nobody raised on purpose."""
