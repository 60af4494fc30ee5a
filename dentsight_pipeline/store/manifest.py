"""The manifest: what a dataset, checkpoint or report *is*, byte for byte; its digest is its identity.

Nothing volatile belongs here (times, hosts, run ids, absolute paths): the same work must give the same digest.
Those go to `Store.append_record`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from dentsight_pipeline.documents.codec import convert
from dentsight_pipeline.documents.facts import FACTS, Facts
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.entries import HEAD, Entries, Entry, canonical_members
from dentsight_pipeline.store.names import check_digest, check_entry_paths, check_kind

if TYPE_CHECKING:
    pass

SCHEMA = "dentsight-manifest/1"
F = TypeVar("F", bound=Facts)


@dataclass(frozen=True)
class Manifest:
    """Kind, files, inputs and facts of one product.

    `entries` maps relative POSIX paths to files; `inputs` an asset's name to the digest of the manifest that was read;
    `facts` is JSON. All three are copied and come back in canonical order, so that a manifest equals itself after
    a round trip through the store (RFC 8785 writes 1.0 as 1: a whole number is an `int` here).

    Raises:
        DataError: A path that would leave its folder, a malformed digest, or facts that are not JSON.
    """

    kind: str
    entries: Mapping[str, Entry]
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind(self.kind)
        check_entry_paths(self.entries)
        for asset, digest in self.inputs.items():
            check_digest(digest, f"input {asset!r} of a {self.kind} manifest")
        facts = canonical.dumps(dict(self.facts), f"The facts of a {self.kind} manifest")
        object.__setattr__(self, "kind", str(self.kind))
        object.__setattr__(self, "facts", canonical.loads(facts))
        object.__setattr__(self, "inputs", {str(name): self.inputs[name] for name in sorted(self.inputs)})
        object.__setattr__(self, "_bytes", self._canonical(self.entries))
        object.__setattr__(self, "entries", Entries(self.to_bytes()))
        object.__setattr__(self, "_digest", sha256(self.to_bytes()).hexdigest())

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.digest == other.digest

    @property
    def digest(self) -> str:
        """The sha256 (hex) of `to_bytes()`: the product's identity."""
        return self.__dict__["_digest"]

    @property
    def size(self) -> int:
        """The sum of all entries in bytes."""
        return sum(entry.size for entry in self.entries.values())

    def to_bytes(self) -> bytes:
        """The manifest as RFC 8785 canonical JSON, as it was when it was made."""
        return self.__dict__["_bytes"]

    def _canonical(self, entries: Mapping[str, Entry]) -> bytes:
        what = f"A {self.kind} manifest"
        rest = {"facts": self.facts, "inputs": self.inputs, "kind": self.kind, "schema": SCHEMA}
        document = BytesIO()
        document.write(HEAD)
        for number, member in enumerate(canonical_members(entries, what)):  # one by one: there can be very many
            document.write(b"," * (number > 0) + member)
        document.write(b"}," + canonical.dumps(rest, what)[1:])
        return document.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read a manifest back.

        Raises:
            DataError: Not a manifest of this schema, or not in canonical form (so its digest would be ambiguous).
        """
        try:
            document = _document(data)
            if not isinstance(document, dict) or document.get("schema") != SCHEMA:
                found = document.get("schema") if isinstance(document, dict) else type(document).__name__
                raise DataError(f"Not a manifest of schema {SCHEMA!r}: found {found!r}. Use the release that wrote it.")
            entries = document["entries"]
            if not isinstance(entries, Entries):
                entries = {path: Entry(entry["sha256"], entry["size"]) for path, entry in entries.items()}
            manifest = cls(document["kind"], entries, document["inputs"], document["facts"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"Not a manifest: {error!r}. Restore it from a backup or make its product again."
            ) from error
        if manifest.to_bytes() != data:
            raise DataError("The manifest is not in canonical form (RFC 8785). Restore it from a backup.")
        return manifest

    def facts_as(self, kind: type[F]) -> F:
        """The facts as their type, e.g. `CheckpointFacts`; a base such as `DatasetFacts` takes each of its kinds.

        Raises:
            DataError: A product of another kind.
            DocumentError: Facts that do not fit; the message names product and field (`$.splits.train.images`).
        """
        own = FACTS.get(self.kind)
        if own is None or not issubclass(own, kind):
            wanted = " or ".join(name for name, facts in FACTS.items() if issubclass(facts, kind))
            raise DataError(f"{self.digest[:12]} is a {self.kind}, not a {wanted}. Give the digest of a {wanted}.")
        return convert(self.facts, own, f"The facts of {self.kind} {self.digest[:12]}")  # pyright: ignore[reportReturnType]

    def entry(self, path: str) -> Entry:
        """The entry of one path.

        Raises:
            DataError: The manifest has no such file; the message names those that it has.
        """
        if path not in self.entries:
            some = ", ".join(list(self.entries)[:8]) + (", …" if len(self.entries) > 8 else "")
            raise DataError(f"The {self.kind} {self.digest[:12]} has no file {path!r}; it has {some or 'none'}.")
        return self.entries[path]


def _document(data: bytes) -> Any:
    """What a manifest's bytes say; entries in canonical form stay text."""
    if data.startswith(HEAD):
        entries = Entries(data)
        if data[entries.end : entries.end + 2] == b"},":
            return {**canonical.loads(b"{" + data[entries.end + 2 :]), "entries": entries}
    return canonical.loads(data)
