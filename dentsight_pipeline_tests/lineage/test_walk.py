"""The walk reaches everything that a product was made from, and says where it was stopped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from dentsight_pipeline.lineage.walk import address, chain_items, walk
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


def test_a_product_is_called_as_those_above_it_call_it(intact_chain: Chain) -> None:
    """The one that was asked for by its kind; one that nobody named and nobody can read is a product."""
    digests = intact_chain.digests
    walked = walk(intact_chain.store, digests["class_metrics"])

    assert walked.asset(digests["class_metrics"]) == "evaluation"
    assert walked.asset(digests["test_predictions"]) == "test_predictions"
    assert walked.asset("f" * 64) == "product"
    assert [naming.asset for naming in walked.named[digests["condition_subset"]]] == ["condition_subset"] * 3
    assert walked.named[digests["class_metrics"]] == ()


def test_a_chain_is_listed_with_places_and_with_what_names_each_part(intact_chain: Chain) -> None:
    """Manifests first, then each object under the first product that has it; what is missing is a manifest all the
    same."""
    store, digest = intact_chain.store, intact_chain.digests["condition_subset"]
    splits = intact_chain.digests["normalized_splits"]

    items = list(chain_items(store, walk(store, digest)))

    assert [(item.kind, item.name, item.of) for item in items[:3]] == [
        ("condition-subset", "condition_subset", None),
        ("normalized-splits", "normalized_splits", digest),
        ("raw-export", "raw_export", splits),
    ]
    assert items[0].path == str(intact_chain.manifest_file("condition_subset"))
    first = next(iter(intact_chain.manifest("condition_subset").entries))
    assert (items[3].kind, items[3].name, items[3].of) == ("object", first, digest)
    assert items[3].path == str(intact_chain.object_file("condition_subset", first))


def test_a_missing_manifest_is_listed_as_one(chain: Chain) -> None:
    """Somebody may find it again, and needs to know where it belongs."""
    chain.manifest_file("raw_export").unlink()

    walked = walk(chain.store, chain.digests["condition_subset"])
    items = {item.digest: item for item in chain_items(chain.store, walked)}

    lost = items[chain.digests["raw_export"]]
    assert (lost.kind, lost.name, lost.of) == ("manifest", "raw_export", chain.digests["normalized_splits"])


def test_an_address_is_a_path_or_that_of_a_bucket() -> None:
    """A space in a folder's name is written out; one slash before the key, whatever the store is called."""

    def at(uri: str) -> str:
        return address(cast(Any, SimpleNamespace(uri=uri)), "objects/ab")

    assert at("file:///home/a%20b/store/") == "/home/a b/store/objects/ab"
    assert at("s3://bucket/store") == "s3://bucket/store/objects/ab"
