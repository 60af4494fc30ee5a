"""How a product came about, read from the records beside it or from the log; what they hold: `documents/lineage.py`."""

from __future__ import annotations

from collections.abc import Mapping

from dentsight_pipeline.documents.lineage import Record, record_of
from dentsight_pipeline.store import log
from dentsight_pipeline.store.canonical import JSON
from dentsight_pipeline.store.objects import Store

Content = Mapping[str, JSON]
"""A record as it was written."""


def records_of(store: Store, product: str) -> list[Record]:
    """All records of a product, the oldest first; where none lies beside it, those that the log has.

    Raises:
        IntegrityError: A record was changed.
        DocumentError: A record is not of this form.
    """
    contents = store.records(product) or logged(store, product)
    return [record_of(content, product) for content in contents]


def first_record(store: Store, product: str) -> Record:
    """The record of the work that made a product, or an empty one; raises as `records_of`."""
    return next(iter(records_of(store, product)), Record())


def logged(store: Store, product: str) -> list[Content]:
    """What the log has of a product, the oldest first."""
    return [entry.record for entry in log.read(store).of(product)]
