"""The machine that trains, as torch, NVML and the operating system tell of it."""

from __future__ import annotations

import os
import platform
import resource
import sys

import torch

from dentsight_pipeline.documents.job import Hardware

_MILLIJOULES_PER_KWH = 3.6e9


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


def gpu_names() -> list[str]:
    """The GPUs that torch sees; none where it has no driver for them."""
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(gpu) for gpu in range(seen)]


def hardware() -> Hardware:
    """What a job runs on."""
    gpus, threads = gpu_names(), torch.get_num_threads()
    return Hardware(
        device=gpus[0] if gpus else f"CPU, {threads} threads",
        gpus=len(gpus),
        cpu_cores=os.cpu_count(),
        threads=threads,
        machine=platform.machine(),
    )
