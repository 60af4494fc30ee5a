"""The cost card: what a training took, in images a second, hours, memory and, where they are known, energy and money.

Times are sums over all attempts of the training, the lost ends of killed ones excepted.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "accelerate", "numpy", "opencv-python-headless", "safetensors", "hotcoco")
_MILLIJOULES_PER_KWH = 3.6e9


@dataclass
class Cost:
    """Running sums, in seconds unless named otherwise; plain numbers, so that a checkpoint can hold them."""

    wall_s: float = 0.0
    """From the start of the process, model building and caching included."""
    training_s: float = 0.0
    """Optimiser steps, waiting for data included."""
    data_wait_s: float = 0.0
    """Waiting for the loader."""
    validation_s: float = 0.0
    """Validation and head health."""
    checkpoint_s: float = 0.0
    """Writing checkpoints."""
    images: int = 0
    """Training images seen, by all processes together."""
    attempts: int = 0
    """Times that the training was started."""
    gpu_energy_kwh: float | None = None
    """Energy of the GPUs; None where one attempt could not read it."""

    @contextmanager
    def measure(self, field: str) -> Iterator[None]:
        """Adds the block's duration to one of the sums."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, field, getattr(self, field) + time.perf_counter() - start)

    @property
    def images_per_s(self) -> float | None:
        """Training images a second of training time; None before the first."""
        return self.images / self.training_s if self.training_s else None

    def card(self, price_per_hour: float | None, currency: str) -> dict[str, Any]:
        """The card: the sums, throughput, share of time waiting for data, peak memory, and the price where known."""
        share = self.data_wait_s / self.training_s if self.training_s else None
        price = None if price_per_hour is None else self.wall_s / 3600 * price_per_hour
        return {
            **asdict(self),
            "images_per_s": self.images_per_s,
            "data_wait_share": share,
            "peak_memory_mib": peak_memory_mib(),
            "peak_gpu_memory_mib": peak_gpu_memory_mib(),
            "price_per_hour": price_per_hour,
            "price": price,
            "currency": currency if price is not None else None,
            "summary": self._summary(price, currency),
        }

    def _summary(self, price: float | None, currency: str) -> str:
        minutes = self.wall_s / 60
        money = "" if price is None else f", {price:.2f} {currency}"
        rate = "" if self.images_per_s is None else f", {self.images_per_s:.1f} images/s"
        energy = "" if self.gpu_energy_kwh is None else f", {self.gpu_energy_kwh:.3f} kWh of GPU"
        return f"{hardware()['device']} (~{minutes:.1f} min wall-clock{money}{rate}{energy})"


def peak_memory_mib() -> float:
    """Largest resident set of this process so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def peak_gpu_memory_mib() -> float | None:
    """Most memory that torch has held on the GPU so far; None without one."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


def gpu_energy_kwh() -> float | None:
    """What this process's GPUs have used since their driver was loaded, whoever used them; None where nothing tells.

    NVML's counter in millijoules (Volta and newer), with the optional package `nvidia-ml-py`. GPUs are found by UUID,
    because NVML does not heed CUDA_VISIBLE_DEVICES.
    """
    if not torch.cuda.is_available():
        return None
    try:
        import pynvml  # pyright: ignore[reportMissingImports] - optional
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        uuids = [torch.cuda.get_device_properties(gpu).uuid for gpu in range(torch.cuda.device_count())]
        gpus = [pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids]
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) for gpu in gpus) / _MILLIJOULES_PER_KWH
    except pynvml.NVMLError:
        return None


def hardware() -> dict[str, Any]:
    """What trained: device, cores, threads."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "device": torch.cuda.get_device_name(0) if gpus else f"CPU, {torch.get_num_threads()} threads",
        "gpus": gpus,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers, and Python's."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}
