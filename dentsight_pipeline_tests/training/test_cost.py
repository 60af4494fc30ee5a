"""The cost card."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from dentsight_pipeline.training import machine
from dentsight_pipeline.training.cost import Cost
from dentsight_pipeline.training.versions import package_versions


def test_throughput_price_and_waiting_share_are_what_the_sums_say():
    """Computed by hand: half an hour at 1.60 an hour is 0.80; 1800 images in 900 s of training are 2 a second."""
    sums = Cost(wall_s=1800, training_s=900, data_wait_s=45, images=1800, attempts=2)

    card = sums.card(1.6, "USD")

    assert card.images_per_s == pytest.approx(2.0)
    assert card.data_wait_share == pytest.approx(0.05)
    assert card.price == pytest.approx(0.8)
    assert "(~30.0 min wall-clock, 0.80 USD, 2.0 images/s)" in (card.summary or "")


def test_an_unknown_price_or_energy_stays_unknown():
    """Nothing is invented: no price, no money on the card; no counter, no energy."""
    card = Cost(wall_s=60).card(None, "USD")

    assert card.price is None
    assert card.currency is None
    assert card.gpu_energy_kwh is None
    assert "kWh" not in (card.summary or "")
    assert card.images_per_s is None


def test_a_measured_block_adds_its_duration_even_when_it_fails():
    """Time spent is spent."""
    sums = Cost()

    with pytest.raises(ValueError, match="x"), sums.measure("validation_s"):
        raise ValueError("x")

    assert sums.validation_s > 0


def test_memory_hardware_and_versions_are_measured():
    """They go into the record of every checkpoint."""
    assert machine.peak_memory_mib() > 50
    assert machine.hardware().threads >= 1
    assert {"python", "torch", "transformers"} <= package_versions().keys()


class FakeNvml:
    """NVML's energy counters of two GPUs, as `pynvml` offers them."""

    class NVMLError(Exception):
        """What every call may raise."""

    def __init__(self, millijoules: dict[str, float]) -> None:
        self.millijoules = millijoules

    def nvmlInit(self) -> None:
        """Nothing to do."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        """The UUID itself, when there is such a GPU."""
        if uuid not in self.millijoules:
            raise self.NVMLError(uuid)
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> float:
        """Millijoules since the driver was loaded."""
        return self.millijoules[handle]


def visible_gpus(monkeypatch: pytest.MonkeyPatch, *uuids: str) -> None:
    """torch sees these GPUs alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(uuid=uuids[gpu]))


def test_energy_is_that_of_the_gpus_that_torch_sees(monkeypatch: pytest.MonkeyPatch):
    """A neighbour's GPU is not ours, even where NVML lists it first. 7.2e9 mJ are 2 kWh."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml({"GPU-theirs": 9e9, "GPU-ours": 7.2e9}))
    visible_gpus(monkeypatch, "ours")

    assert machine.gpu_energy_kwh() == pytest.approx(2.0)


def test_energy_that_cannot_be_read_stays_unknown(monkeypatch: pytest.MonkeyPatch):
    """No GPU, no package, or a GPU without a counter: nothing is invented, and nothing fails."""
    assert machine.gpu_energy_kwh() is None or torch.cuda.is_available()

    visible_gpus(monkeypatch, "ours")
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as when it is not installed
    assert machine.gpu_energy_kwh() is None
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml({}))
    assert machine.gpu_energy_kwh() is None


def test_known_energy_is_on_the_card():
    """In the summary for people, and as a number for MLflow."""
    card = Cost(wall_s=60, gpu_energy_kwh=0.4125).card(None, "USD")

    assert card.gpu_energy_kwh == 0.4125
    assert "0.412 kWh of GPU" in (card.summary or "")
