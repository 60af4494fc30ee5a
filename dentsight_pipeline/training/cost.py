"""The cost card: what a training took, in images a second, hours, memory and, where known, energy and money."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from dentsight_pipeline.documents.job import CostCard, FitJob, RunRecord
from dentsight_pipeline.training.machine import (
    gpu_energy_kwh,
    hardware,
    peak_gpu_memory_mib,
    peak_memory_mib,
)
from dentsight_pipeline.training.versions import package_versions


@dataclass
class Cost:
    """Running sums over all attempts, named as on the `CostCard`; plain numbers, so that a checkpoint can hold them."""

    wall_s: float = 0.0
    training_s: float = 0.0
    data_wait_s: float = 0.0
    validation_s: float = 0.0
    checkpoint_s: float = 0.0
    images: int = 0
    attempts: int = 0
    gpu_energy_kwh: float | None = None

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

    def card(self, price_per_hour: float | None, currency: str) -> CostCard:
        """The sums, throughput, share of time waiting for data, peak memory, and the price where known."""
        price = None if price_per_hour is None else self.wall_s / 3600 * price_per_hour
        return CostCard(
            **asdict(self),
            images_per_s=self.images_per_s,
            data_wait_share=self.data_wait_s / self.training_s if self.training_s else None,
            peak_memory_mib=peak_memory_mib(),
            peak_gpu_memory_mib=peak_gpu_memory_mib(),
            price_per_hour=price_per_hour,
            price=price,
            currency=currency if price is not None else None,
            summary=self._summary(price, currency),
        )

    def _summary(self, price: float | None, currency: str) -> str:
        money = "" if price is None else f", {price:.2f} {currency}"
        rate = "" if self.images_per_s is None else f", {self.images_per_s:.1f} images/s"
        energy = "" if self.gpu_energy_kwh is None else f", {self.gpu_energy_kwh:.3f} kWh of GPU"
        return f"{hardware().device} (~{self.wall_s / 60:.1f} min wall-clock{money}{rate}{energy})"


class Meters:
    """Cost while it arises: the sums of all attempts, and the clock and energy counter of this one."""

    def __init__(self) -> None:
        self.cost = Cost(attempts=1)
        self._started, self._energy_at_start = time.perf_counter(), gpu_energy_kwh()

    def go_on_from(self, earlier: Cost) -> None:
        """Adds this attempt to what earlier ones took."""
        self.cost = replace(earlier, attempts=earlier.attempts + 1)
        self._started -= earlier.wall_s
        energy, start = earlier.gpu_energy_kwh, self._energy_at_start
        self._energy_at_start = None if energy is None or start is None else start - energy

    def read(self) -> Cost:
        """The sums, time and energy brought up to now."""
        energy, start = gpu_energy_kwh(), self._energy_at_start
        self.cost.wall_s = time.perf_counter() - self._started
        self.cost.gpu_energy_kwh = None if energy is None or start is None else energy - start
        return self.cost

    def card(self, job: FitJob) -> CostCard:
        """The card as of now, at the job's price."""
        return self.read().card(job.price_per_hour, job.currency)


def record(card: CostCard) -> RunRecord:
    """The record of a job that ends now, on this machine."""
    return RunRecord(cost=card, hardware=hardware(), packages=package_versions(), finished=time.time())
