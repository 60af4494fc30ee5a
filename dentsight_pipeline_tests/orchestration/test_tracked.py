"""What a job away is ordered with."""

from __future__ import annotations

import pytest

from dentsight_pipeline.orchestration.backends.slurm import Slurm
from dentsight_pipeline.orchestration.tracked import PRICE_VARIABLE, price_per_hour


def test_the_price_that_a_person_sets_stands_over_the_schedulers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training's cost card and a dry run reckon with the same price."""
    monkeypatch.delenv(PRICE_VARIABLE, raising=False)
    assert (price_per_hour(None), price_per_hour(Slurm(price_per_hour=1.5))) == (None, 1.5)

    monkeypatch.setenv(PRICE_VARIABLE, "2.5")
    assert (price_per_hour(None), price_per_hour(Slurm(price_per_hour=1.5))) == (2.5, 2.5)
