"""A bucket for workers that share no folder with this machine, and a tiny training in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline_tests.orchestration.backends.tasks import Ordered, fit_task
from dentsight_pipeline_tests.store.conftest import aws_environment, s3_server
from dentsight_pipeline_tests.training.conftest import make_subset

__all__ = ["aws_environment", "s3_server"]


def tiny(steps: int, **fields: Any) -> Recipe:
    """A training of so many steps, some tenths of a second each."""
    size: dict[str, Any] = {
        "image_width": 96,
        "image_height": 64,
        "num_queries": 20,
        "num_denoising": 10,
        "batch_size": 2,
    }
    often = {"evaluate_every_steps": 4, "warmup_steps": 2, "max_steps": steps}
    return recipes.named("smoke").override({**size, **often, **fields})


@pytest.fixture
def in_bucket(aws_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Ordered]:
    """Makes trainings of so many steps whose data are in a bucket."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bucket = f"bucket-{os.urandom(4).hex()}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    store = open_store(f"s3://{bucket}/store")
    subset = make_subset(store, {"train": 6, "valid": 3})
    return lambda steps: fit_task(store, subset, tiny(steps), tmp_path)
