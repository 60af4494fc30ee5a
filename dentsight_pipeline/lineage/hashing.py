"""Every object of a chain hashed again, once each; what is missing or was changed, in sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from dentsight_pipeline.errors import IntegrityError
from dentsight_pipeline.lineage.walk import Walk, name_of
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.content import fault_of
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.store.threads import map_in_threads

Item = tuple["Manifest", str, "Entry"]


@dataclass(frozen=True)
class Hashed:
    """What came out.

    Attributes:
        faults: Digest of a product → what is wrong with its bytes.
        size: How many bytes were hashed.
    """

    faults: dict[str, list[str]]
    size: int


def hash_again(store: Store, walked: Walk, *, top_only: bool, workers: int, say: Progress) -> Hashed:
    """Hash the objects of a chain.

    Args:
        store: Where they are.
        walked: The chain.
        top_only: Only those of the product that was asked for.
        workers: Threads that hash.
        say: Called with the bytes that are done and all bytes.
    """
    wanted = [item for item in walked.objects() if not top_only or item[0].digest == walked.top]
    total, done = sum(entry.size for _, _, entry in wanted), 0
    faults: dict[str, list[str]] = defaultdict(list)
    found = map_in_threads(lambda item: fault_of(store, *item[1:]), wanted, workers)
    for (manifest, path, entry), error in zip(wanted, found, strict=True):
        if error is not None:
            faults[manifest.digest].append(_sentence(walked, manifest, path, error))
        done += entry.size
        say("bytes", done, total)
    for manifest, path in _two_sizes(walked):
        faults[manifest.digest].append(
            f"{path} of the {name_of(manifest)} has another size than the same bytes elsewhere in the chain."
        )
    return Hashed(faults, total)


def _two_sizes(walked: Walk) -> Iterator[tuple[Manifest, str]]:
    """Files whose bytes another manifest names with another size."""
    sizes: dict[str, int] = {}
    for manifest in walked.products.values():
        for path, entry in manifest.entries.items():
            if sizes.setdefault(entry.sha256, entry.size) != entry.size:
                yield manifest, path


def _sentence(walked: Walk, manifest: Manifest, path: str, error: IntegrityError) -> str:
    """What is wrong with one object, with every product that it is part of."""
    wanted = manifest.entries[path].sha256
    others = [
        f"the {name_of(other)}"
        for other in walked.products.values()
        if other is not manifest and any(entry.sha256 == wanted for entry in other.entries.values())
    ]
    what = f"{path} of the {name_of(manifest)}" + (f" (also part of {', '.join(others)})" if others else "")
    if error.found is None:
        return f"{what} is missing: no object {wanted} in the store."
    if error.found == wanted:
        return f"{what} has another size than its manifest says."
    return f"{what} was changed: its bytes hash to {error.found}, not to {wanted}."
