"""The small documents beside the tables of `normalized-splits`: what labels became, how far annotators agree."""

from __future__ import annotations

from typing import Literal

import msgspec

from dentsight_pipeline.documents.codec import Document

SECOND_READINGS = "second_readings.json"
"""Where normalised splits name the pairs of images that two people labelled."""


class LabelRow(Document, frozen=True, kw_only=True, omit_defaults=True):
    """What one raw label name of an export became; a row of `labels.json`."""

    raw_name: str
    """As the export spells it."""
    classes: tuple[str, ...]
    """Canonical classes: two for a composite, none when it was dropped."""
    loose: bool
    """Whether the source is known to use the name too widely."""
    reason: str
    """Why it is dropped or loose; empty otherwise."""
    annotations: dict[str, int]
    """Split → how many annotations have the name; splits without any are left out."""
    export: str = ""
    """The export whose name it is, where the dataset has several; absent where it has one."""

    @property
    def total(self) -> int:
        """Annotations of this name in all splits."""
        return sum(self.annotations.values())


class SecondReading(Document, frozen=True, kw_only=True):
    """Two images of one source that two people labelled; a row of `second_readings.json`."""

    source: str
    """The source group."""
    first: int
    """Id of the image with the smaller digest; nothing else sets it apart."""
    second: int
    """Id of the other image."""
    transform: Literal["identity", "hflip", "vflip", "rot180"]
    """The flip that turns one picture into the other."""


class AgreementRow(Document, frozen=True):
    """How far two annotators of the same X-rays agree about one class; a row of `agreement.json`."""

    name: str = msgspec.field(name="class")
    """The class."""
    n_pairs: int
    """Pairs of images that say something about the class."""
    boxes_a: int
    """Boxes on the first images; the first has the smaller digest, nothing else sets it apart."""
    boxes_b: int
    """Boxes on the second images."""
    matched: int
    """Pairs of boxes with an IoU of at least 0.5, each box once, by optimal assignment."""
    f1: float | None
    """2 × matched / (boxes_a + boxes_b), for two annotators the positive specific agreement (Hripcsak & Rothschild,
    JAMIA 2005); None without boxes."""
    present_in_both: int
    """Pairs in which both images have the class."""
    present_in_a: int
    """Pairs in which the first alone has it."""
    present_in_b: int
    """Pairs in which the second alone has it."""
    absent_in_both: int
    """Pairs in which neither has it."""
    kappa: float | None
    """Cohen's kappa of the four counts (Educational and Psychological Measurement 1960); None where chance explains
    everything, or there is no pair."""
    pairs_left_out_as_copies: int
    """Pairs whose labels are the same box for box: augmented copies, no second reading. The same in every row."""
    pairs_left_out_as_unaligned: int
    """Pairs that share a name but no picture. The same in every row."""
