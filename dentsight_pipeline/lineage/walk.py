"""From one product down to the raw export it came from: every manifest, and every object that they name.

Belongs here: following what each manifest says it was made from. Whether bytes, contents and records hold is decided in
the modules that `verify.py` calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from dentsight_pipeline.documents.facts import Facts, ReleaseFacts
from dentsight_pipeline.documents.lineage import ChainItem
from dentsight_pipeline.documents.names import Kind
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store.manifest import Entry, Manifest
from dentsight_pipeline.store.names import is_digest, manifest_key, object_key
from dentsight_pipeline.store.objects import Store

F = TypeVar("F", bound=Facts)


@dataclass(frozen=True, slots=True)
class Naming:
    """Where a product is named: by which product, as which asset."""

    by: str
    asset: str


@dataclass(frozen=True)
class Walk:
    """All products of a chain, the one that was asked for first.

    Attributes:
        top: Digest of the product that was asked for.
        products: Digest → manifest, in the order in which they were reached.
        named: Digest → where it is named; empty for `top`. Also for products that could not be read.
        broken: Digest → why its manifest could not be read.
    """

    top: str
    products: Mapping[str, Manifest]
    named: Mapping[str, tuple[Naming, ...]]
    broken: Mapping[str, DataError]

    def find(self, kind: Kind) -> Manifest | None:
        """The first product of a kind, or None."""
        return next((manifest for manifest in self.products.values() if manifest.kind == kind), None)

    def facts(self, kind: type[F]) -> F | None:
        """The facts of the first product that has them, or None; those of another form are a finding of `fit`."""
        for manifest in self.products.values():
            with suppress(DataError):
                return manifest.facts_as(kind)
        return None

    def input_of(self, manifest: Manifest, *names: str) -> Manifest | None:
        """The first of a product's inputs with one of these names, when it could be read."""
        return next((self.products.get(manifest.inputs[name]) for name in names if name in manifest.inputs), None)

    def asset(self, digest: str) -> str:
        """As which asset a product is named by the others; its kind for the one that was asked for."""
        if namings := self.named.get(digest, ()):
            return namings[0].asset
        return self.products[digest].kind.replace("-", "_") if digest in self.products else "product"

    def objects(self) -> Collection[tuple[Manifest, str, Entry]]:
        """Every distinct object once, under the first product and path that name it."""
        found: dict[str, tuple[Manifest, str, Entry]] = {}
        for manifest in self.products.values():
            for path, entry in manifest.entries.items():
                found.setdefault(entry.sha256, (manifest, path, entry))
        return found.values()


def walk(store: Store, digest: str) -> Walk:
    """Follow a product's inputs, and theirs, to the raw export.

    A release names its report; the report names everything below, and so does the release's own fact `chain`, which
    is followed too, so that a product that only one of the two names is found.

    Args:
        store: Where the manifests are.
        digest: Digest of the product's manifest.

    Returns:
        What was reached. A manifest that is missing or was changed is in `broken`; nothing below it is known then.
    """
    products: dict[str, Manifest] = {}
    named: dict[str, tuple[Naming, ...]] = {digest: ()}
    broken: dict[str, DataError] = {}
    waiting = deque([digest])
    while waiting:
        current = waiting.popleft()
        try:
            products[current] = store.get_manifest(current)
        except DataError as error:
            broken[current] = error
            continue
        for asset, below in _names(products[current]):
            if below not in named:
                waiting.append(below)
            named[below] = tuple(dict.fromkeys([*named.get(below, ()), Naming(current, asset)]))
    return Walk(digest, products, named, broken)


def name_of(manifest: Manifest) -> str:
    """A product in a sentence: its kind and the start of its digest."""
    return f"{manifest.kind} {manifest.digest[:12]}"


def chain_items(store: Store, walked: Walk) -> Iterator[ChainItem]:
    """Every manifest and every distinct object of a walk, manifests first."""
    for digest, namings in walked.named.items():
        kind = walked.products[digest].kind if digest in walked.products else "manifest"
        place, of = address(store, manifest_key(digest)), namings[0].by if namings else None
        yield ChainItem(kind=kind, digest=digest, path=place, name=walked.asset(digest), of=of)
    for manifest, path, entry in walked.objects():
        place = address(store, object_key(entry.sha256))
        yield ChainItem(kind="object", digest=entry.sha256, path=place, name=path, of=manifest.digest)


def address(store: Store, key: str) -> str:
    """Where a key's bytes can be looked at: the path of a file, or an `s3://` address."""
    parts = urlsplit(store.uri)
    base = unquote(parts.path) if parts.scheme == "file" else store.uri
    return f"{base.rstrip('/')}/{key}"


def _names(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Asset and digest of everything that a manifest says it was made from."""
    yield from manifest.inputs.items()
    with suppress(DataError):  # no release, or facts of another form, which `fit` says
        chain = manifest.facts_as(ReleaseFacts).chain
        yield from ((asset, below) for asset, below in chain.items() if is_digest(below))
