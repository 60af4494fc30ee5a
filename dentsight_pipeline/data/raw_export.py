"""What a stored raw export says: its splits' images and annotations, read back for normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.data import leakage
from dentsight_pipeline.data.json_stream import JsonStream
from dentsight_pipeline.data.records import Records
from dentsight_pipeline.data.stored_images import (
    open_json,
)

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


KIND = "raw-export"
OUTSIDE_PX = 1.0
"""Pixels outside the image beyond which a box cannot be meant for it."""


def raw_annotations(annotations: Iterable[dict[str, Any]] = ()) -> Records[dict[str, Any]]:
    """Annotations of a raw split, to be found by the id of their image."""
    return Records(annotations, key=lambda annotation: annotation["image_id"])


def read_raw_annotations(store: Store, raw: Manifest) -> dict[str, Any]:
    """The content of a raw export's `annotations.json`, images and annotations as `Records`."""
    stream = open_json(store, raw, "annotations.json")
    document: dict[str, Any] = {}
    for key in stream.members():
        document[key] = [_read_raw_split(stream) for _ in stream.elements()] if key == "splits" else stream.value()
    return document


def _read_raw_split(stream: JsonStream) -> dict[str, Any]:
    split: dict[str, Any] = {"images": Records(), "annotations": raw_annotations()}
    for key in stream.members():
        if key in ("images", "annotations"):
            for record, text in stream.items():
                split[key].append(record, text)
        else:
            split[key] = stream.value()
    return split


def iter_sources(raw: Mapping[str, Any], fingerprints: Mapping[str, str]) -> Iterable[leakage.SourceItem]:
    """The images of a raw export as the grouping by source sees them, in the order of splits and images.

    Args:
        raw: The content of `annotations.json`.
        fingerprints: Stored sha256 → fingerprint.
    """
    for split in raw["splits"]:
        for image in split["images"]:
            yield leakage.SourceItem(
                digest=image["sha256"],
                split=split["name"],
                stem_group=image["stem_group"],
                stem_kind=image["stem_kind"],
                fingerprint=leakage.Fingerprint.from_json(fingerprints[image["sha256"]]),
            )
