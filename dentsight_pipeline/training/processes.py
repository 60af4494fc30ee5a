"""What the processes of one training tell each other; with one process, all of it is trivial."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, gather_object
from torch import nn

from dentsight_pipeline.documents.job import FitJob
from dentsight_pipeline.training.recipe import Recipe

T = TypeVar("T")


class Processes:
    """The processes of one training, seen from this one.

    Args:
        accelerator: Devices and processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.count, self.index = accelerator.num_processes, accelerator.process_index
        self.is_first: bool = accelerator.is_main_process

    def sum(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.count == 1:
            return float(value)
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(total, reduction="sum"))  # pyright: ignore[reportArgumentType]

    def any(self, value: bool) -> bool:
        """Whether any process says so."""
        return self.sum(float(value)) > 0

    def gather(self, values: list[T]) -> list[T]:
        """The lists of all processes, one behind the other."""
        return gather_object(values) if self.count > 1 else values

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, on every process."""
        shared = [make() if self.is_first else None]
        if self.count > 1:
            broadcast_object_list(shared)
        return shared[0]  # pyright: ignore[reportReturnType]

    @contextmanager
    def exchange(self, model: nn.Module, *, now: bool) -> Iterator[None]:
        """Gradients are exchanged between processes at the last micro-batch of a step only."""
        if now or self.count == 1:
            yield
        else:
            with self.accelerator.no_sync(model):
                yield


def start(job: FitJob, recipe: Recipe) -> Processes:
    """Devices, threads and processes for a job."""
    on_cpu = job.device == "cpu" or not torch.cuda.is_available()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if on_cpu:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(job.threads or max(1, available // count))
    else:
        torch.backends.cudnn.benchmark = True
    if count == 1:  # settings of an earlier training in this process must not stay
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return Processes(
        Accelerator(
            cpu=on_cpu,
            mixed_precision="bf16" if recipe.precision == "bf16" else "no",
            # an image without boxes has no denoising queries, so their embedding is unused now and then
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    )
