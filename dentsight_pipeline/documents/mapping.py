"""A label mapping of one's own: `--mapping FILE`, `dentsight.yaml` in an export, `mapping.json` in a raw export."""

from __future__ import annotations

from collections.abc import Mapping

from dentsight_pipeline.documents.codec import Document

DROP = "drop"
"""What stands in place of a class for a name that is left out."""


class OwnMapping(Document, frozen=True, omit_defaults=True):
    """How one export is to be read, where it differs from the strict table of names."""

    source: str
    """A name of its own, none of the packaged ones."""
    licence: str = ""
    """Under which the images and labels may be used; empty: as the export says."""
    covers: tuple[str, ...] | None = None
    """What its annotators looked for: `teeth`, `conditions`, classes; absent: what it has boxes of."""
    labels: Mapping[str, str | tuple[str, ...]] = {}
    """Raw name → class, several classes, or `drop`; names that are not here keep the strict table's meaning."""
    loose: Mapping[str, str] = {}
    """Raw name → why it stands for more than its class says."""
    reasons: Mapping[str, str] = {}
    """Raw name → why it is dropped; needed where the strict table knows it as a finding."""
    images: Mapping[str, tuple[str, ...]] = {}
    """Pattern of paths in the export → what was looked for in those images alone; in a raw export, where no name is
    kept, the sha256 of each stored image."""
