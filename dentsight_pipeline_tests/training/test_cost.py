"""The cost card."""

from __future__ import annotations

import pytest

from dentsight_pipeline.training import cost
from dentsight_pipeline.training.cost import Cost


def test_throughput_price_and_waiting_share_are_what_the_sums_say():
    """Computed by hand: half an hour at 1.60 an hour is 0.80; 1800 images in 900 s of training are 2 a second."""
    sums = Cost(wall_s=1800, training_s=900, data_wait_s=45, images=1800, attempts=2)

    card = sums.card(1.6, "USD")

    assert card["images_per_s"] == pytest.approx(2.0)
    assert card["data_wait_share"] == pytest.approx(0.05)
    assert card["price"] == pytest.approx(0.8)
    assert "(~30.0 min wall-clock, 0.80 USD, 2.0 images/s)" in card["summary"]


def test_an_unknown_price_stays_unknown():
    """Nothing is invented: no price, no money on the card."""
    card = Cost(wall_s=60).card(None, "USD")

    assert card["price"] is None
    assert card["currency"] is None
    assert card["images_per_s"] is None


def test_a_measured_block_adds_its_duration_even_when_it_fails():
    """Time spent is spent."""
    sums = Cost()

    with pytest.raises(ValueError, match="x"), sums.measure("validation_s"):
        raise ValueError("x")

    assert sums.validation_s > 0


def test_memory_hardware_and_versions_are_measured():
    """They go into the record of every checkpoint."""
    assert cost.peak_memory_mib() > 50
    assert cost.hardware()["threads"] >= 1
    assert {"python", "torch", "transformers"} <= cost.package_versions().keys()
