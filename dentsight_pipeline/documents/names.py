"""Names that several rooms share: kinds of products, splits, tags. Each is said here once. Imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a manifest is a product of."""

    RAW_EXPORT = "raw-export"
    NORMALIZED_SPLITS = "normalized-splits"
    CONDITION_SUBSET = "condition-subset"
    TOOTH_SUBSET = "tooth-subset"


SPLITS: tuple[str, ...] = ("train", "valid", "test")
"""The published splits, in the order in which ids are given."""
