"""The one form that detections have, from the detector to the evaluation: an Arrow table.

Boxes are `[x, y, width, height]` float64 in pixels of the stored image, unrounded; they may reach outside it. COCO
results lists are read where people bring them (`evaluation.validation.read_detections`).
"""

from __future__ import annotations

from typing import TypedDict

import msgspec
import pyarrow as pa

from dentsight_pipeline.documents.codec import Document

DETECTIONS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("category_id", pa.int16(), nullable=False),  # from 1, in the order of the classes
        pa.field("bbox", pa.list_(pa.float64(), 4), nullable=False),  # x, y, width, height in px
        pa.field("score", pa.float64(), nullable=False),
    ]
)
"""One row for each detection, in any order; rows of one image and equal score keep theirs."""


class CocoResult(TypedDict):
    """One detection in COCO's results form."""

    image_id: int
    """As in the split."""
    category_id: int
    """From 1."""
    bbox: list[float]
    """Left, top, width, height in pixels of the image; may reach outside."""
    score: float
    """In (0, 1)."""


class Finding(Document, frozen=True, kw_only=True, omit_defaults=True):
    """One finding that is shown."""

    name: str = msgspec.field(name="class")
    """What it is."""
    score: float
    """In (0, 1)."""
    bbox_xywh_px: tuple[float, float, float, float]
    """Left, top, width, height, clipped to the image, because a person will look at it."""
    teeth: tuple[str, ...] | None = None
    """FDI numbers of those it belongs to, several under a bridge; absent where stage 1 did not run or none has it."""
    inferred_tooth: str | None = None
    """FDI number that a missing tooth or an implant must have by its neighbours; absent where they do not decide."""

    @property
    def tooth_names(self) -> tuple[str, ...]:
        """Its teeth as they are shown: a number that only the neighbours tell stands in brackets."""
        return self.teeth or (() if self.inferred_tooth is None else (f"({self.inferred_tooth})",))


class XrayFindings(Document, frozen=True, kw_only=True):
    """What was found on one X-ray."""

    image: str
    """The path as it was given; of a DICOM file the sha256 of its bytes."""
    width: int
    """In px."""
    height: int
    """In px."""
    picture: str | None
    """The annotated PNG; None when none was asked for."""
    findings: tuple[Finding, ...]
    """Best first."""
