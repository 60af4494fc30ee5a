"""Dataset keys: which raw export a key means, or which several, and where they came from.

A key is immutable: once it means some bytes, other bytes under the same key are refused. Replacing is possible, says
why, and leaves the earlier meaning in the key's history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.data.reading import Reading
from dentsight_pipeline.documents.codec import Document, convert, plain
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.review import corrections_ref
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store.names import is_ref

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

PHANTOM = "phantom"
"""The location that stands for a phantom corpus, drawn on demand: `phantom:IMAGES:SEED`."""

DEMO_KEY = "phantom-v1"
DEMO_LOCATION = f"{PHANTOM}:400:7"
"""What the demo's key means: enough images to learn from within minutes on two cores."""


class Replaced(Document, frozen=True):
    """What a dataset key meant before."""

    raw_export: str
    """Digest of its raw-export manifest."""
    location: str
    """Where it was read from."""
    replaced_because: str
    """Why the key was taken over."""


class RegisteredExport(Document, frozen=True, kw_only=True):
    """One export of a dataset."""

    raw_export: str
    """Digest of its raw-export manifest."""
    location: str
    """Where it was read from: a path, `s3://…`, `roboflow:workspace/project/version` or `phantom:…`."""
    source: str | None = None
    """The label mapping that was asked for; None lets the export's fingerprint choose."""


class RegisteredDataset(Document, frozen=True, kw_only=True):
    """What a dataset key means."""

    raw_export: str
    """Digest of its raw-export manifest; with several exports, of their export set."""
    exports: tuple[RegisteredExport, ...]
    """Its exports, in the order in which they were named."""
    drop: tuple[str, ...] = ()
    """Labels that were asked to be dropped."""
    accept: tuple[str, ...] = ()
    """Kinds of repairs that may be beyond their limits."""
    history: tuple[Replaced, ...] = ()
    """Earlier meanings."""

    @property
    def location(self) -> str:
        """Where its exports were read from, in words."""
        return words(export.location for export in self.exports)

    @property
    def asked(self) -> str:
        """What was asked for of how its exports are read, mappings of their own aside."""
        return _reading(self.exports, self.drop).replace("--mapping auto", "").strip() or "nothing on request"

    def reading(self, raw_export: str) -> Reading:
        """How one of its exports is read."""
        own = next((export for export in self.exports if export.raw_export == raw_export), None)
        return Reading(own.source if own else None, self.drop)


def words(locations: Iterable[str]) -> str:
    """Places in words."""
    return " + ".join(locations)


def recall_dataset(store: Store, key: str) -> RegisteredDataset | None:
    """What the key means, or None when it was never registered; what can be no key, such as a path, never was."""
    value = store.read_ref(_ref(key)) if is_ref(_ref(key)) else None
    return None if value is None else convert(_up_to_date(value), RegisteredDataset, f"Dataset key {key!r}")


def dataset_keys(store: Store) -> list[str]:
    """Every key that was registered, sorted."""
    return [name.removeprefix(_ref("")) for name in store.refs(_ref(""))]


def _up_to_date(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A key's meaning as it is written now: once a dataset had one export, and its fields were the dataset's."""
    if "exports" in value:
        return value
    export = {name: value[name] for name in ("raw_export", "location", "source") if name in value}
    rest = {name: given for name, given in value.items() if name not in ("location", "source")}
    return {**rest, "exports": [export]}


def register_dataset(
    store: Store,
    key: str,
    raw_export: str,
    exports: Sequence[RegisteredExport],
    *,
    drop: tuple[str, ...] = (),
    replace: str = "",
    accept: tuple[str, ...] = (),
) -> RegisteredDataset:
    """Let a key mean an export, or several.

    Args:
        store: Where keys are kept.
        key: The dataset key.
        raw_export: Digest of the raw-export manifest, or of the export set.
        exports: Each export.
        drop: Labels asked to be dropped.
        replace: Why other bytes may take the key over; empty refuses them.
        accept: Kinds of repairs asked to be accepted beyond their limits.

    Raises:
        DataError: The key means other bytes, or the same bytes read otherwise, and no reason to replace them was given.
    """
    before = store.read_ref(_ref(key))
    known = recall_dataset(store, key)
    history, location = known.history if known else (), words(export.location for export in exports)
    asked = _reading(exports, drop)
    if known and known.raw_export == raw_export and _reading(known.exports, known.drop) != asked:
        history += _read_otherwise(key, known, asked, replace)
    if known and known.raw_export != raw_export:
        if not replace:
            raise DataError(
                f"Dataset key {key!r} already means the export {known.raw_export[:12]} (read from {known.location}); "
                f"{location} holds other bytes, or is read with another mapping ({raw_export[:12]}). Give it a key of "
                "its own with --dataset, or take this one over with --replace 'why'; the replacement is recorded."
            )
        history += (Replaced(raw_export=known.raw_export, location=known.location, replaced_because=replace),)
    entry = RegisteredDataset(raw_export=raw_export, exports=tuple(exports), drop=drop, accept=accept, history=history)
    if known != entry:
        store.write_ref(_ref(key), plain(entry), expected=before)
    return entry


def _read_otherwise(key: str, known: RegisteredDataset, asked: str, replace: str) -> tuple[Replaced]:
    """What the key meant, when it may now be read otherwise."""
    reading = _reading(known.exports, known.drop)
    if not replace:
        raise DataError(
            f"Dataset key {key!r} is read with {reading}; now {asked} was asked for. Give that a key of its own with "
            "--dataset, or take this one over with --replace 'why'; the replacement is recorded."
        )
    before = f"{known.location}, read with {reading}"
    return (Replaced(raw_export=known.raw_export, location=before, replaced_because=replace),)


def _reading(exports: Sequence[RegisteredExport], drop: Sequence[str]) -> str:
    """How exports are read, as the command line says it; their order is none of it."""
    sources = sorted({export.source or "" for export in exports})
    read = ["--source " + source if source else "--mapping auto" for source in sources]
    return " ".join([*read, *(f"--drop {name!r}" for name in drop)])


def phantom_of(location: str) -> tuple[int, int]:
    """Images and seed of a `phantom:IMAGES:SEED` location.

    Raises:
        DataError: Not of that form.
    """
    try:
        name, images, seed = location.split(":")
        if name == PHANTOM and int(images) > 0:
            return int(images), int(seed)
    except ValueError:
        pass
    raise DataError(f"{location!r} names no phantom corpus. Write it as phantom:IMAGES:SEED, e.g. {DEMO_LOCATION}.")


def _ref(key: str) -> str:
    return f"dataset/{key}"


def corrections_for(store: Store, dataset: str) -> dict[str, Manifest]:
    """What people decided about the labels of a dataset key, by the name of that input; empty when they did not."""
    noted = store.read_ref(corrections_ref(dataset))
    return {Asset.LABEL_CORRECTIONS: store.get_manifest(noted["corrections"])} if noted else {}
