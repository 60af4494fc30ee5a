"""Every object of a chain is hashed once, and what is wrong with one is told with every product that has it."""

from __future__ import annotations

from dentsight_pipeline.lineage.hashing import hash_again
from dentsight_pipeline.lineage.walk import walk
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline_tests.lineage.chain_builder import Chain, flip


def _faults(chain: Chain, digest: str, *, top_only: bool = False) -> list[str]:
    hashed = hash_again(chain.store, walk(chain.store, digest), top_only=top_only, workers=1, say=lambda *_: None)
    return [line for lines in hashed.faults.values() for line in lines]


def test_all_bytes_are_counted_once_and_the_progress_ends_with_them(intact_chain: Chain) -> None:
    """Of the product alone when only its own are asked for."""
    walked = walk(intact_chain.store, intact_chain.digests["condition_subset"])
    own = {entry.sha256: entry.size for entry in walked.products[walked.top].entries.values()}
    every = {e.sha256: e.size for manifest in walked.products.values() for e in manifest.entries.values()}
    told: list[tuple[str, int, int]] = []

    whole = hash_again(
        intact_chain.store,
        walked,
        top_only=False,
        workers=2,
        say=lambda *now: told.append(now),
    )
    top = hash_again(intact_chain.store, walked, top_only=True, workers=2, say=lambda *_: None)

    assert (whole.faults, whole.size) == ({}, sum(every.values()))
    assert (len(told), told[-1]) == (len(every), ("bytes", whole.size, whole.size))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert (top.faults, top.size) == ({}, sum(own.values()))


def test_a_changed_object_is_told_with_every_product_that_has_it(chain: Chain) -> None:
    """An image is part of three; whoever mends one has mended all."""
    path, entry = next((p, e) for p, e in chain.manifest("condition_subset").entries.items() if p.startswith("images/"))
    flip(chain.object_file("condition_subset", path))
    subset, splits, raw = (chain.digests[n][:12] for n in ("condition_subset", "normalized_splits", "raw_export"))

    (changed,) = _faults(chain, chain.digests["condition_subset"])
    chain.object_file("condition_subset", path).unlink()
    (missing,) = _faults(chain, chain.digests["condition_subset"])

    what = (
        f"{path} of the condition-subset {subset} (also part of the normalized-splits {splits}, the raw-export {raw})"
    )
    assert changed.startswith(f"{what} was changed: its bytes hash to ")
    assert changed.endswith(f", not to {entry.sha256}.")
    assert missing == f"{what} is missing: no object {entry.sha256} in the store."


def test_a_size_that_is_not_that_of_the_bytes_is_told(chain: Chain) -> None:
    """Of the object itself, or of the same bytes in another product of the chain."""
    store, before = chain.store, chain.manifest("trained_checkpoint")
    wrong = {**before.entries, "recipe.json": Entry(before.entries["recipe.json"].sha256, 3)}
    alone = Manifest(before.kind, wrong, before.inputs, before.facts)
    image, entry = next((p, e) for p, e in chain.manifest("raw_export").entries.items() if p.startswith("images/"))
    more = {**before.entries, "picture.jpg": Entry(entry.sha256, entry.size)}
    above = Manifest(before.kind, more, before.inputs, before.facts)
    subset = chain.manifest("condition_subset")
    shorter = Manifest(subset.kind, {**subset.entries, image: Entry(entry.sha256, 1)}, subset.inputs, subset.facts)
    for made in (alone, shorter, above):
        store.blobs.write(f"manifests/{made.digest[:2]}/{made.digest}.json", made.to_bytes())

    assert _faults(chain, alone.digest, top_only=True) == [
        f"recipe.json of the checkpoint {alone.digest[:12]} has another size than its manifest says."
    ]
    two = _faults(chain, shorter.digest)
    assert f"{image} of the normalized-splits {chain.digests['normalized_splits'][:12]} has another size than" in str(
        two
    )
    assert _faults(chain, above.digest) == []
