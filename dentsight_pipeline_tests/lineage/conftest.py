"""One intact chain, made once; each test that damages it gets a copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline_tests.lineage.chain_builder import Chain, build_chain


@pytest.fixture(scope="session")
def intact_chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A chain from an export to two releases. Only for reading."""
    return build_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def chain(intact_chain: Chain, tmp_path: Path) -> Chain:
    """A copy of the chain, to be damaged."""
    return intact_chain.copied(tmp_path / "chain")
