"""The manifest: what a dataset, checkpoint or report *is*, byte for byte; its digest is its identity.

Nothing volatile belongs here (times, hosts, run ids, absolute paths): the same work must give the same digest.
Those go to `Store.append_record`.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, Literal, TypeVar

import msgspec

from dentsight_pipeline.documents.codec import convert, plain
from dentsight_pipeline.documents.facts import FACTS, Facts
from dentsight_pipeline.documents.names import with_article
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store import canonical
from dentsight_pipeline.store.names import check_digest, check_entry_paths, check_kind

SCHEMA = "dentsight-manifest/1"
F = TypeVar("F", bound=Facts)


class Entry(msgspec.Struct, frozen=True, order=True, gc=False):
    """One file of a manifest."""

    sha256: str
    """64 lower-case hex digits."""
    size: int
    """Bytes."""

    def __post_init__(self) -> None:
        check_digest(self.sha256, "an entry's sha256")
        if type(self.size) is not int or not 0 <= self.size < 2**53:
            raise DataError(f"An entry's size must be bytes in a number that canonical JSON holds, not {self.size!r}.")


class _Text(msgspec.Struct):
    """A manifest as its bytes say it; whatever else they say is found when they are compared."""

    schema: Literal["dentsight-manifest/1"]
    kind: str
    entries: dict[str, Entry]
    inputs: dict[str, str]
    facts: msgspec.Raw
    """Read by `canonical.loads`: huge numbers are doubles."""


class Manifest:
    """Kind, files, inputs and facts of one product.

    All is copied and comes back in canonical order, so that a manifest equals itself after a round trip through the
    store (RFC 8785 writes 1.0 as 1: a whole number is an `int` here).

    Attributes:
        kind: What it is a product of, one of `names.Kind`.
        entries: Relative POSIX paths to files.
        inputs: An asset's name to the digest of the manifest that was read.
        facts: Plain JSON; `facts_as` reads it.
        digest: The sha256 (hex) of `to_bytes()`: the product's identity.

    Raises:
        DataError: A path that would leave its folder, a malformed digest, or or facts that are not JSON
            or not of the kind.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, Entry],
        inputs: Mapping[str, str] | None = None,
        facts: Facts | Mapping[str, Any] | None = None,
    ) -> None:
        check_kind(kind)
        check_entry_paths(entries)
        for asset, digest in (inputs or {}).items():
            check_digest(digest, f"input {asset!r} of a {kind} manifest")
        what = f"The facts of a {kind} manifest"
        told = plain(convert(plain(facts), FACTS[kind], what)) if isinstance(facts, Facts) else dict(facts or {})
        self.kind: Final = str(kind)
        self.entries: Final[Mapping[str, Entry]] = dict(sorted(entries.items(), key=lambda item: _utf_16(item[0])))
        self.inputs: Final[Mapping[str, str]] = {str(asset): digest for asset, digest in sorted((inputs or {}).items())}
        self.facts: Final[Mapping[str, Any]] = canonical.loads(canonical.dumps(told, what))
        rest = {"facts": self.facts, "inputs": self.inputs, "kind": self.kind, "schema": SCHEMA}
        # Nothing in a legal path needs an escape but the quotation mark, so this is how RFC 8785 writes it.
        entries_text = msgspec.json.encode(self.entries)
        self._bytes: Final = b'{"entries":%b,%b' % (entries_text, canonical.dumps(rest, f"A {kind} manifest")[1:])
        self.digest: Final = sha256(self._bytes).hexdigest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self.digest == other.digest

    def __repr__(self) -> str:
        return f"Manifest({self.kind!r}, {self.digest!r})"

    @property
    def size(self) -> int:
        """The sum of all entries in bytes."""
        return sum(entry.size for entry in self.entries.values())

    def to_bytes(self) -> bytes:
        """The manifest as RFC 8785 canonical JSON, as it was when it was made."""
        return self._bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read a manifest back.

        Raises:
            DataError: Not a manifest of this schema, or not in canonical form (so its digest would be ambiguous).
        """
        try:
            text = msgspec.json.decode(data, type=_Text)
            manifest = cls(text.kind, text.entries, text.inputs, canonical.loads(bytes(text.facts)))
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"Not a manifest of schema {SCHEMA!r}: {error}. Use the release that wrote it, restore it from a "
                "backup or make its product again."
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
            wanted = with_article(" or ".join(name for name, facts in FACTS.items() if issubclass(facts, kind)))
            raise DataError(
                f"{self.digest[:12]} is {with_article(self.kind)}, not {wanted}. Give the digest of {wanted}."
            )
        return convert(self.facts, own, f"`facts` of {self.kind} {self.digest[:12]}")  # pyright: ignore[reportReturnType]

    def entry(self, path: str) -> Entry:
        """The entry of one path.

        Raises:
            DataError: The manifest has no such file; the message names those that it has.
        """
        if path not in self.entries:
            some = ", ".join(list(self.entries)[:8]) + (", …" if len(self.entries) > 8 else "")
            raise DataError(f"The {self.kind} {self.digest[:12]} has no file {path!r}; it has {some or 'none'}.")
        return self.entries[path]


def _utf_16(path: str) -> bytes:
    """What RFC 8785 sorts keys by."""
    return path.encode("utf-16be")
