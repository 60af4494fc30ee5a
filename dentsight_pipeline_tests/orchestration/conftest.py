"""Servers that the crash and concurrency campaigns share: starting them costs more than most of their tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dentsight_pipeline_tests.orchestration.assets.conftest import Home, new_home
from dentsight_pipeline_tests.orchestration.servers import Servers, running

DATASET = "tiny-v1"
"""The dataset in the home of the servers."""


@pytest.fixture(scope="session")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A prepared home."""
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def servers(server_home: Home) -> Iterator[Servers]:
    """Running servers, and a dataset to train on."""
    with running(server_home) as started:
        started.add_dataset(DATASET)
        made = started.launch(
            "data",
            {"dagster/partition": DATASET},
            {"ops": {"raw_export": {"config": {"export": ["phantom:24:3"]}}}},
        )
        assert started.wait(made)[-1]["status"] == "SUCCESS", started.log_end()
        yield started
