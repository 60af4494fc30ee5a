"""The walk reaches everything that a product was made from, and says where it was stopped."""

from __future__ import annotations

from dentsight_pipeline.lineage.walk import walk
from dentsight_pipeline_tests.lineage.chain_builder import Chain


def test_a_release_leads_to_every_product_below_it(intact_chain: Chain) -> None:
    """By what the manifests themselves name, from the top."""
    walked = walk(intact_chain.store, intact_chain.digests["released_model"])

    assets = [asset for asset in intact_chain.digests if asset != "earlier_release"]
    assert set(walked.products) == {intact_chain.digests[asset] for asset in assets}
    assert next(iter(walked.products)) == intact_chain.digests["released_model"]
    assert walked.broken == {}


def test_a_checkpoint_leads_to_its_data_and_no_further_up(intact_chain: Chain) -> None:
    """What was made with a checkpoint is no part of what it was made from."""
    walked = walk(intact_chain.store, intact_chain.digests["trained_checkpoint"])

    kinds = [manifest.kind for manifest in walked.products.values()]
    assert kinds == ["checkpoint", "condition-subset", "normalized-splits", "raw-export"]


def test_an_object_that_several_products_name_is_met_once(intact_chain: Chain) -> None:
    """An image is part of three datasets; hashing it three times would be waste."""
    walked = walk(intact_chain.store, intact_chain.digests["condition_subset"])

    digests = [entry.sha256 for _, _, entry in walked.objects()]
    assert len(digests) == len(set(digests))
    images = [entry for path, entry in walked.products[walked.top].entries.items() if path.startswith("images/")]
    assert {entry.sha256 for entry in images} <= set(digests)


def test_a_missing_manifest_stops_the_walk_there_and_nowhere_else(chain: Chain) -> None:
    """Everything beside the gap is still audited."""
    chain.manifest_file("normalized_splits").unlink()

    walked = walk(chain.store, chain.digests["released_model"])

    assert list(walked.broken) == [chain.digests["normalized_splits"]]
    assert chain.digests["condition_subset"] in walked.products
    assert chain.digests["raw_export"] not in walked.named


def test_a_release_reaches_its_products_also_when_its_report_is_gone(chain: Chain) -> None:
    """The release names all of them itself, so that a lost report does not hide what else was changed."""
    chain.manifest_file("release_report").unlink()

    walked = walk(chain.store, chain.digests["released_model"])

    assert list(walked.broken) == [chain.digests["release_report"]]
    assert chain.digests["trained_checkpoint"] in walked.products
    assert chain.digests["raw_export"] in walked.products
