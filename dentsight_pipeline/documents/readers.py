"""What dentists' readings say of a model: `reader_agreement.json`."""

from __future__ import annotations

from msgspec import field

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.evaluation import Bounds, Measurement

AGREEMENT_FILE, READINGS_TABLE = "reader_agreement.json", "readings.parquet"
MODEL_READER = "model"
"""The reader that is the model."""


def reader_agreement_ref(evaluation: str) -> str:
    """Where the store keeps the newest reader study of the model behind the evaluation of a digest."""
    return f"reader-agreement/{evaluation[:32]}"


class ConditionAgreement(Document, frozen=True, kw_only=True):
    """One condition, or `all`."""

    condition: str
    """Of the items."""
    delta: Bounds
    """Mean κ(model, dentist) − mean κ(dentist, dentist)."""
    note: str
    """What limits the interval, in words."""
    model_kappa: float | None
    """Mean κ of the model with each dentist; None where one is undefined, like the next three."""
    dentist_kappa: float | None
    """Mean κ over pairs of dentists."""
    model_ac1: float | None
    """Gwet's AC1 in the same two ways."""
    dentist_ac1: float | None
    """Over pairs of dentists."""
    dentist_alpha: float | None
    """Krippendorff's α of the dentists."""
    alpha_with_model: float | None
    """The same with the model as one more reader."""
    items: int
    """Tooth × condition that at least two readers rated."""
    images: int
    """They lie on so many images."""


class ArmEffect(Document, frozen=True, kw_only=True):
    """What the model's findings change in the readers, paired by case and reader; against the labels of the dataset."""

    condition: str
    """A condition, or `all`."""
    sensitivity_unaided: Bounds
    """Mean over readers."""
    sensitivity_aided: Bounds
    """Mean over readers."""
    sensitivity_change: Bounds
    """Aided − unaided."""
    specificity_unaided: Bounds
    """Mean over readers."""
    specificity_aided: Bounds
    """Mean over readers."""
    specificity_change: Bounds
    """Aided − unaided."""
    positives: int
    """Items that the labels say are there."""
    negatives: int
    """Items that they say are not."""


class ReaderAgreement(Document, frozen=True, kw_only=True):
    """A reader study, evaluated."""

    study: str = field(default="")
    """Digest of the study."""
    title: str
    """Of the study."""
    readers: tuple[str, ...]
    """The dentists."""
    images: int
    """Images that at least one of them finished."""
    unfinished: int
    """Readings of images that are still to be done; what is there is counted."""
    conditions: tuple[ConditionAgreement, ...]
    """Each condition, and `all`."""
    arms: tuple[ArmEffect, ...]
    """With the model against without; empty in a study of one arm."""
    measurements: tuple[Measurement, ...]
    """What gates see."""
