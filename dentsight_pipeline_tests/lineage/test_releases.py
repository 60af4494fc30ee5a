"""`publish_release` from end to end: signed, chained also when two release at once, and marked for what it is."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dentsight_pipeline.errors import ReleaseError
from dentsight_pipeline.lineage.verify import Evidence, audit
from dentsight_pipeline.release import product, statement
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import read_json
from dentsight_pipeline_tests.lineage.chain_builder import Chain, recorded


def test_a_release_verifies_with_nothing_but_its_folder_and_the_public_key(intact_chain: Chain, tmp_path: Path) -> None:
    """What a hospital downloads is checked without this store."""
    folder = intact_chain.materialised("released_model", tmp_path / "download")

    found = statement.verify_release(folder, intact_chain.public_key).predicate

    inputs = statement.digests_of(found.inputs)
    assert inputs["release_report"] == intact_chain.digests["release_report"]
    assert inputs["trained_checkpoint"] == intact_chain.digests["trained_checkpoint"]
    assert (found.sequence, found.previous) == (2, intact_chain.digests["earlier_release"])
    assert found.log is not None
    assert log.read(intact_chain.store).holds(log.Head(found.log.sequence, found.log.digest))


def test_releases_of_the_same_moment_follow_one_another(chain: Chain) -> None:
    """Two cells pass in the same night; neither release may be lost or stand beside the chain."""
    report = chain.manifest("release_report")

    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: product.publish_release(chain.store, report, chain.keys), range(3)))

    chained = [item.digest for item in statement.verify_chain(chain.store)]
    assert len(chained) == 5
    assert {manifest.digest for manifest in made} == set(chained[2:])


def test_a_release_made_from_phantoms_is_never_for_xrays(chain: Chain) -> None:
    """Whatever policy it passed: registry, manifest and statement must say the same."""
    corpus = {"kind": "phantom", "name": "drawn", "licence": "CC0"}
    report = chain.forged("release_report", {}, {"corpus": corpus}).manifest("release_report")

    release = product.publish_release(chain.store, report, chain.keys)

    assert release.facts["never_for_xrays"] is True
    assert statement.WARNING in release.entries
    assert statement.statement_of(chain.store, release).predicate.never_for_xrays is True


def test_a_report_that_does_not_allow_it_is_not_released(chain: Chain) -> None:
    """The verdict in the report decides, not the marks on its manifest."""
    store, before = chain.store, chain.manifest("release_report")
    verdict = {**read_json(store, before, "verdict.json"), "outcome": "FAIL", "releasable": False}
    report = chain.forged("release_report", {"verdict.json": json.dumps(verdict).encode()}).manifest("release_report")

    with pytest.raises(ReleaseError, match="is FAIL under policy card"):
        product.publish_release(store, report, chain.keys)


def test_a_signed_release_that_never_joined_the_chain_is_found(chain: Chain) -> None:
    """A process killed between signing and chaining leaves one; it must not pass for a release."""
    store, report = chain.store, chain.manifest("release_report")
    orphan = product._signed_release(store, report, product.verdict_of(store, report), chain.keys)
    digest = recorded(store, "other_step", orphan)

    findings = audit(store, digest, Evidence(public_key=chain.public_key)).findings

    assert findings == (f"The release {digest[:12]} is not in the chain of releases.",)
