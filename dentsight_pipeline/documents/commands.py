"""What commands tell, with `--json` as it is: a contract that scripts depend on."""

from __future__ import annotations

import msgspec

from dentsight_pipeline.documents.codec import Document


class CellMade(Document, frozen=True):
    """What `dentsight run` tells of a finished cell."""

    dataset: str
    """Its dataset key."""
    recipe: str
    """Its recipe."""
    dataset_digest: str
    """The condition subset."""
    checkpoint_digest: str
    """The trained checkpoint."""
    verdict: str
    """PASS, FAIL or INCONCLUSIVE."""
    report: str
    """Path of the report."""
    report_digest: str
    """The report as a product."""
    released: str | None
    """The release, or None when the verdict allows none."""
    cached: list[str]
    """Assets that were reused."""
    tooth_findings_digest: str | msgspec.UnsetType = msgspec.UNSET
    """The findings by tooth, where they were asked for."""
    reader_agreement_digest: str | msgspec.UnsetType = msgspec.UNSET
    """What dentists say against the model, where a study was given."""
    label_review_digest: str | msgspec.UnsetType = msgspec.UNSET
    """The labels that are likely wrong, where they were asked for."""


class OnnxExport(Document, frozen=True, kw_only=True):
    """What stands beside a model that was written as ONNX: all that its user needs, and how it was checked."""

    classes: tuple[str, ...]
    """In the order of `logits`."""
    canvas: tuple[int, int]
    """Width and height of `pixel_values`, in px."""
    keeps_aspect: bool
    """Whether the image is fitted in with its aspect kept, top left, the rest 0; else it is stretched."""
    pixel_mean: tuple[float, float, float]
    """Subtracted from gray values in [0, 1]."""
    pixel_std: tuple[float, float, float]
    """Divides after the mean."""
    pixels: str = "gray values in [0, 1], in three equal channels, less pixel_mean, divided by pixel_std"
    """What `pixel_values` are."""
    boxes: str = "centre x, centre y, width, height, as shares of the canvas"
    """What `pred_boxes` are."""
    scores: str = "sigmoid of logits, each class by itself"
    """What becomes of `logits`."""
    nms_iou: float | None
    """Of findings of one class that overlap by more than this only the surest counts; null: all do. The file itself
    suppresses none."""
    opset: int
    """Of ONNX."""
    onnxruntime: str
    """The version that it was checked with."""
    torch: str
    """The version that it was written by, and checked against."""
    parity_images: int
    """Drawn X-rays on which both answered."""
    parity_logits: float
    """Largest difference of a logit."""
    parity_boxes: float
    """Largest difference of a box, as a share of the canvas."""


class StepPlanned(Document, frozen=True, kw_only=True):
    """What `dentsight run --dry-run` tells of one asset."""

    asset: str
    """Its name."""
    reused: bool
    """Whether nothing would be done."""
    where: str
    """The backend of a training or prediction; `here` for everything else."""
    seconds: float | None = None
    """About how long, as the newest earlier one of the same recipe took; None is unknown."""
    price: float | None = None
    """At the backend's price, or as that one cost; None is unknown."""
    currency: str | None = None
    """Of the price."""
    measured_on: str | None = None
    """What that one ran on."""


class CellPlanned(Document, frozen=True, kw_only=True):
    """What `dentsight run --dry-run` tells."""

    dataset: str
    """Its dataset key."""
    recipe: str
    """Its recipe."""
    backend: str
    """Where trainings run."""
    steps: list[StepPlanned]
    """Every asset in order."""
    reused: list[str]
    """Assets that would be reused, provided that the export's bytes are what they were."""


class ChampionTold(Document, frozen=True):
    """A promotion or rollback."""

    champion: str | None
    """Digest of the release that is champion now."""
    before: str | None
    """Digest of the one before."""
    by: str
    """Who decided."""
    reason: str
    """Why."""
    registry_version: str | None
    """Of the champion, in MLflow's registry."""
    registry_problem: str | None
    """Why MLflow is told later; None when it knows."""


class Finding(Document, frozen=True):
    """What one check found."""

    check: str
    """Its name."""
    ok: bool
    """Whether nothing has to be done."""
    found: str
    """In words."""
    remedy: str
    """What to do; empty when it is ok."""


class Initialised(Document, frozen=True):
    """A prepared folder."""

    home: str
    """The folder."""
    written: list[str]
    """Instance files that were missing."""
    store: str
    """Where bytes go."""
    mlflow: str
    """Where figures go."""


class Archived(Document, frozen=True, kw_only=True):
    """What `dentsight archive` wrote."""

    release: str
    """Digest of the release; worth noting elsewhere."""
    path: str
    """The folder or tar."""
    files: int
    """How many are in it."""
    bytes: int
    """Of all objects."""
    images: int
    """X-rays among them."""
    log_head: str
    """Newest entry of the log, `sequence:sha256`; worth noting elsewhere."""
