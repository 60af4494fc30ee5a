"""Where an export comes from: resolves a dataset key and a location, fetches what is remote, draws what is a phantom.

Reading and storing an export is the business of `ingest.py`; what a key means is kept by `datasets.py`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.data.brought_mapping import mapping_of_raw
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.facts import ExportSetFacts, RawExportFacts
from dentsight_pipeline.documents.mapping import OwnMapping
from dentsight_pipeline.documents.names import SPLITS, Kind, raw_export_name
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.intake.datasets import (
    DEMO_KEY,
    DEMO_LOCATION,
    PHANTOM,
    RegisteredDataset,
    RegisteredExport,
    phantom_of,
    recall_dataset,
)
from dentsight_pipeline.intake.limits import known_kinds
from dentsight_pipeline.intake.paths import is_text, whole_text
from dentsight_pipeline.phantom import CODE_VERSION
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.content import build

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

ROBOFLOW = "roboflow:"
S3 = "s3://"


@dataclass(frozen=True)
class Acquisition:
    """One export that is to be ingested."""

    location: str
    """A path, `s3://…`, `roboflow:workspace/project/version` or `phantom:IMAGES:SEED`."""
    source: str | None = None
    """The label mapping asked for, or None."""
    drop: tuple[str, ...] = ()
    """Labels asked to be dropped."""
    registered: str | None = None
    """Digest of what was read from there under the key before, or None."""
    asked: bool = True
    """Whether the location was given now, rather than remembered."""
    accept: tuple[str, ...] = ()
    """Kinds of repairs that may be beyond their limits."""
    alone: bool = True
    """Whether it is the dataset's only export, and so must have every split and every label to drop."""
    mapping: OwnMapping | None = None
    """A mapping of one's own, given now."""
    remembered: OwnMapping | None = None
    """The mapping that the key's export was read with, where nothing is said now."""
    told: str = ""
    """What is remembered of how the export is read, and how to undo it; empty where it is nothing."""

    @property
    def memo(self) -> Mapping[str, str] | None:
        """What decides the bytes without reading them: a drawn corpus is its numbers, a Roboflow version is immutable.

        None for what has to be read to be known: folders, zips and buckets. What was made by accepting something, or
        with a mapping of one's own, says so, and is not what is made without.
        """
        own = self.mapping or self.remembered
        read = {} if own is None else {"mapping": hashlib.sha256(codec.write(own)).hexdigest()}
        if self.location.startswith(f"{PHANTOM}:"):
            return {"location": self.location, "drawing": CODE_VERSION} | read
        if self.location.startswith(ROBOFLOW):
            return {"location": self.location} | ({"accept": ",".join(self.accept)} if self.accept else {}) | read
        return None

    def registered_as(self, raw_export: str) -> RegisteredExport:
        """What is remembered of it."""
        return RegisteredExport(raw_export=raw_export, location=self.location, source=self.source)


def plan(
    store: Store,
    key: str,
    exports: Sequence[str] = (),
    source: str = "",
    drop: tuple[str, ...] = (),
    accept: tuple[str, ...] = (),
    mappings: Sequence[str] = (),
) -> tuple[Acquisition, ...]:
    """Resolve what a key and a launch mean together.

    Args:
        store: Where keys are kept.
        key: The dataset key.
        exports: Locations given now; none means what the key already means, or the demo's corpus for its key.
        source: Label mapping given now.
        drop: Labels to drop given now. Without this, `source` and `mappings`, all three are as remembered.
        accept: Kinds of repairs to accept, given now; empty means the remembered ones.
        mappings: Of each export the file of a mapping of one's own, given now, or `auto`.

    Returns:
        One for each export.

    Raises:
        ConfigurationError: Nothing is known about the key and no location was given, a location is given twice, a kind
            is not known, or a mapping cannot be read.
    """
    known = recall_dataset(store, key)
    before = {export.location: export for export in known.exports} if known else {}
    locations = tuple(exports) or tuple(before) or ((DEMO_LOCATION,) if key == DEMO_KEY else ())
    _refuse_nothing_and_twice(key, locations)
    for location in locations:
        _refuse_no_text(location)
    if source and mappings:
        raise ConfigurationError("--source and --mapping both say what labels mean. Give one of them.")
    same = known if known is not None and set(locations) == set(before) else None
    own = Acquisition(
        "",
        source or None,
        drop,
        asked=bool(exports),
        accept=known_kinds(accept or (same.accept if same else ())),
        alone=len(locations) == 1,
    )
    read = _Remembered(store, key, before if same else {}, known, not (source or drop or mappings))
    own_mappings = _read(mappings, len(locations)) if mappings else [None] * len(locations)
    return tuple(read.of(own, place, mapping) for place, mapping in zip(locations, own_mappings, strict=True))


def _read(mappings: Sequence[str], exports: int) -> list[OwnMapping | None]:
    from dentsight_pipeline.intake.mapping_file import load_mapping, mappings_of

    return [load_mapping(file) for file in mappings_of(mappings, exports)]


@dataclass(frozen=True)
class _Remembered:
    """What a key remembers of the places that it is to be read from now."""

    store: Store
    key: str
    before: Mapping[str, RegisteredExport]
    """By place; empty where the places are others now."""
    known: RegisteredDataset | None
    counts: bool
    """Whether the way that they were read counts: nothing else is asked for."""

    def of(self, own: Acquisition, location: str, mapping: OwnMapping | None) -> Acquisition:
        """One export of a plan, with what is remembered of its place."""
        there, known = self.before.get(location), self.known
        digest = there.raw_export if there else known.raw_export if known and own.alone else None
        here = replace(own, location=location, registered=digest, mapping=mapping)
        if there is None or known is None:
            return here
        remembered = mapping_of_raw(self.store, there.raw_export)
        key = self.key if own.alone else f"{self.key} ({location})"
        told = _told(key, there.source, known.drop, remembered, self.counts)
        if not self.counts:
            again = (here.source, here.drop, here.mapping is None) == (there.source, known.drop, remembered is None)
            return here if again else replace(here, told=told)
        return replace(here, source=there.source, drop=known.drop, remembered=remembered, told=told)


def _told(key: str, source: str | None, drop: Sequence[str], own: OwnMapping | None, counts: bool) -> str:
    """What a key remembers of how its export is read, and how to undo it, or that it does not count now."""
    read = [f"mapping {own.source!r} (a file)"] if own else []
    read += [f"--source {source}"] if source else []
    read += [f"--drop {name!r}" for name in drop]
    if not read:
        return ""
    if not counts:
        return f"{key} was read with: {', '.join(read)}. Now only what is given counts."
    return (
        f"{key} remembers: {', '.join(read)}. To read the export without, give --mapping auto and a new --dataset, "
        "or --replace 'why'."
    )


def _refuse_no_text(location: str) -> None:
    if not is_text(location):
        raise ConfigurationError(
            f"--export {whole_text(location)!r}: its name holds bytes that are no UTF-8, which nothing can record. "
            "Rename the folder or file."
        )


def _refuse_nothing_and_twice(key: str, locations: Sequence[str]) -> None:
    if not locations:
        raise ConfigurationError(
            f"Nothing is known about dataset {key!r}. Say where its export is: --export DIR on the command line, or "
            "the field `export` of raw_export in Dagster's launch form."
        )
    for location in locations:
        if locations.count(location) > 1:
            raise ConfigurationError(f"--export {location} is given {locations.count(location)} times. Name it once.")


def together(store: Store, raws: Sequence[str]) -> Manifest:
    """What a dataset key means: its raw export, or the set of several, whatever their order.

    Args:
        store: Where the raw exports are, and the set goes.
        raws: Digests of raw exports.

    Raises:
        DataError: Two are the same, or none has one of the splits.
    """
    manifests = [store.get_manifest(digest) for digest in sorted(raws)]
    if len(manifests) == 1:
        return manifests[0]
    if len({*raws}) < len(raws):
        raise DataError("Two of the exports hold the same pictures and labels. Name each export once.")
    present = {split for raw in manifests for split in raw.facts_as(RawExportFacts).splits}
    for split in SPLITS:
        if split not in present:
            raise DataError(f"None of the {len(raws)} exports has the split {split!r}. Add one that has.")
    inputs = {raw_export_name(number): raw.digest for number, raw in enumerate(manifests, start=1)}
    made = build(store, Kind.EXPORT_SET, {}, inputs, ExportSetFacts(exports=len(inputs)))
    if not store.has_manifest(made.digest):
        store.put_manifest(made)
    return made


def ingest(store: Store, acquisition: Acquisition, scratch: Path, progress: Progress) -> str:
    """Read, draw or fetch the export, and publish its `raw-export` manifest.

    Args:
        store: Where it goes.
        acquisition: From `plan`.
        scratch: A folder for downloads and drawings; a cut download goes on there.
        progress: Called with stage, done, total.

    Returns:
        The manifest's digest. A remembered location that is gone gives what the key already means: its bytes are in
        the store.

    Raises:
        DataError: The export is refused; the message names file, record and remedy.
    """
    # Its packages are not needed to recall finished work.
    from dentsight_pipeline.intake.ingest import Request, ingest_export

    location = acquisition.location
    request = Request(
        label_source=acquisition.source,
        drop=acquisition.drop,
        require=SPLITS if acquisition.alone else (),
        accept=acquisition.accept,
        progress=progress,
        mapping=acquisition.mapping,
        remembered=acquisition.remembered,
        alone=acquisition.alone,
    )
    if location.startswith(f"{PHANTOM}:"):
        from dentsight_pipeline.phantom.export import write_phantom_export

        images, seed = phantom_of(location)
        drawn = scratch / "phantom"
        shutil.rmtree(drawn, ignore_errors=True)
        write_phantom_export(
            drawn, images, seed, progress=lambda done, total: progress("drawing phantoms", done, total)
        )
        try:
            return ingest_export(drawn, store, request).digest
        finally:
            shutil.rmtree(drawn, ignore_errors=True)
    gone = not location.startswith((ROBOFLOW, S3)) and not Path(location).exists()
    if acquisition.registered and not acquisition.asked and gone:
        return acquisition.registered
    refuse_missing(location)
    path, identity = fetch(location, scratch, progress)
    return ingest_export(path, store, replace(request, identity=identity)).digest


def refuse_missing(location: str) -> None:
    """Refuses a path with nothing there, and an address that is none; whether one leads to an export, fetching tells.

    Raises:
        ConfigurationError: The address of a remote export is malformed.
        DataError: There is nothing, or no phantom corpus has such numbers.
    """
    if location.startswith(f"{PHANTOM}:"):
        phantom_of(location)
    elif location.startswith(ROBOFLOW):
        from dentsight_pipeline.intake.roboflow import parse_location

        parse_location(location)
    elif location.startswith(S3):
        from dentsight_pipeline.intake.s3 import parse_address

        parse_address(location)
    elif not Path(location).exists():
        raise DataError(f"There is nothing at {location}. Give an export's folder or zip with --export.")


def fetch(location: str, scratch: Path, progress: Progress) -> tuple[Path, Mapping[str, str] | None]:
    """Bring an export to this machine.

    Args:
        location: A path, `s3://…` or `roboflow:workspace/project/version`.
        scratch: A folder for downloads; a cut download goes on there.
        progress: Called with stage, done, total.

    Returns:
        Its folder or zip, and what is known about its source (from Roboflow), or None.

    Raises:
        ConfigurationError: The address is malformed, or a key is missing or refused.
        DataError: Nothing is there, or what arrives is damaged.
    """
    if location.startswith(ROBOFLOW):
        from dentsight_pipeline.intake.roboflow import RoboflowClient, parse_location

        workspace, project, version = parse_location(location)
        fetched = RoboflowClient.from_environment().download(workspace, project, version, scratch, progress=progress)
        return fetched.path, fetched.identity
    if location.startswith(S3):
        from dentsight_pipeline.intake.s3 import fetch_s3_export

        return fetch_s3_export(location, scratch / "s3", progress), None
    return Path(location), None
