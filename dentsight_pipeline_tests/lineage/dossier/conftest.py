"""A release as a dossier reads it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from dentsight_pipeline.lineage.dossier.case import Case
from dentsight_pipeline_tests.lineage.chain_builder import Chain


@pytest.fixture
def case(intact_chain: Chain) -> Case:
    """The second release of the chain, read anew for each test."""
    return Case(intact_chain.store, intact_chain.digests["released_model"])


def with_facts(case: Case, part: str, **changes: Any) -> Case:
    """The case with other facts than its bytes hold."""
    vars(case)[part] = structs.replace(getattr(case, part), **changes)
    return case
