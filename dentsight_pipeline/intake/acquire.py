"""Where an export comes from: resolves a dataset key and a location, fetches what is remote, draws what is a phantom.

Reading and storing an export is the business of `ingest.py`; what a key means is kept by `datasets.py`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.data.raw_export import mapping_of_raw
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.mapping import OwnMapping
from dentsight_pipeline.documents.names import SPLITS
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.intake.datasets import (
    DEMO_KEY,
    DEMO_LOCATION,
    PHANTOM,
    RegisteredDataset,
    phantom_of,
    recall_dataset,
)
from dentsight_pipeline.intake.limits import known_kinds
from dentsight_pipeline.intake.mapping_file import load_mapping
from dentsight_pipeline.phantom import CODE_VERSION
from dentsight_pipeline.progress import Progress

if TYPE_CHECKING:
    from dentsight_pipeline.store.objects import Store

ROBOFLOW = "roboflow:"
S3 = "s3://"


@dataclass(frozen=True)
class Acquisition:
    """What is to be ingested under a dataset key."""

    location: str
    """A path, `s3://…`, `roboflow:workspace/project/version` or `phantom:IMAGES:SEED`."""
    source: str | None
    """The label mapping asked for, or None."""
    drop: tuple[str, ...]
    """Labels asked to be dropped."""
    registered: str | None
    """Digest that the key means already, or None."""
    asked: bool
    """Whether the location was given now, rather than remembered."""
    accept: tuple[str, ...] = ()
    """Kinds of repairs that may be beyond their limits."""
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


def plan(
    store: Store,
    key: str,
    export: str,
    source: str,
    drop: tuple[str, ...],
    accept: tuple[str, ...] = (),
    mapping: str = "",
) -> Acquisition:
    """Resolve what a key and a launch mean together.

    Args:
        store: Where keys are kept.
        key: The dataset key.
        export: The location given now; empty means what the key already means, or the demo's corpus for its key.
        source: Label mapping given now.
        drop: Labels to drop given now. Without this, `source` and `mapping`, all three are as remembered.
        accept: Kinds of repairs to accept, given now; empty means the remembered ones.
        mapping: File of a mapping of one's own, given now, or `auto`.

    Raises:
        ConfigurationError: Nothing is known about the key and no location was given, a kind is not known, or the
            mapping cannot be read.
    """
    known = recall_dataset(store, key)
    location = export or (known.location if known else "") or (DEMO_LOCATION if key == DEMO_KEY else "")
    if not location:
        raise ConfigurationError(
            f"Nothing is known about dataset {key!r}. Say where its export is: --export DIR on the command line, or "
            "the field `export` of raw_export in Dagster's launch form."
        )
    if source and mapping:
        raise ConfigurationError("--source and --mapping both say what labels mean. Give one of them.")
    same = known is not None and location == known.location
    before = known if same and not (source or drop or mapping) else None
    own = mapping_of_raw(store, before.raw_export) if before else None
    return Acquisition(
        location=location,
        source=source or (before.source if before else None),
        drop=drop or (before.drop if before else ()),
        registered=known.raw_export if known else None,
        asked=bool(export),
        accept=known_kinds(accept or (known.accept if known and same else ())),
        mapping=load_mapping(mapping),
        remembered=own,
        told=_told(key, before, own) if before else "",
    )


def _told(key: str, known: RegisteredDataset, own: OwnMapping | None) -> str:
    """What a key remembers of how its export is read, and how to undo it."""
    read = [f"mapping {own.source!r} (a file)"] if own else []
    read += [f"--source {known.source}"] if known.source else []
    read += [f"--drop {name!r}" for name in known.drop]
    if not read:
        return ""
    return (
        f"{key} remembers: {', '.join(read)}. To read the export without, give --mapping auto and a new --dataset, "
        "or --replace 'why'."
    )


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
    request = Request(label_source=acquisition.source, drop=acquisition.drop, require=SPLITS, progress=progress)
    request = replace(
        request, accept=acquisition.accept, mapping=acquisition.mapping, remembered=acquisition.remembered
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
    if not location.startswith((ROBOFLOW, S3)) and not Path(location).exists():
        if acquisition.registered and not acquisition.asked:
            return acquisition.registered
        raise DataError(f"There is nothing at {location}. Give an export's folder or zip with --export.")
    path, identity = fetch(location, scratch, progress)
    return ingest_export(path, store, replace(request, identity=identity)).digest


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
