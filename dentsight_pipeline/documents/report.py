"""The facts of a release report: `report.json`, of which `report.html` and `model_card.md` are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dentsight_pipeline.documents.codec import Document
from dentsight_pipeline.documents.evaluation import EvaluationDocument
from dentsight_pipeline.documents.facts import Cell, CheckpointFacts, Corpus, PredictionsFacts, SplitsFacts
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.documents.readers import ReaderAgreement
from dentsight_pipeline.documents.release import ChainLink
from dentsight_pipeline.documents.subgroups import WorstGroup
from dentsight_pipeline.documents.teeth import ReportedTeeth
from dentsight_pipeline.documents.verdict import ChampionComparison, Verdict

REPORT, VERDICT = "report.json", "verdict.json"
REPORT_FILES = ("report.html", REPORT, "model_card.md", VERDICT)
"""What a stored report holds and a release repeats."""


class Banner(Document, frozen=True, kw_only=True):
    """What must be read before any figure."""

    kind: Literal["stop", "warn"]
    """How loud."""
    title: str
    """In a few words."""
    text: str
    """In a sentence or two."""


class ReportedData(SplitsFacts, frozen=True, kw_only=True):
    """Facts of the normalised splits, with those of the subset where both say something."""

    images_left_out: int
    """Images of the splits that are no part of the subset."""


class ShownImage(Document, frozen=True, kw_only=True):
    """An image among the worst cases, by number: a file name could identify a person."""

    image_id: int
    """In the ground truth."""
    right: int
    """Boxes shown that are right."""
    wrong: int
    """Boxes shown that are not."""
    missed: int
    """Findings not shown."""


class Report(Document, frozen=True, kw_only=True, rename={"schema_": "schema"}):
    """`report.json`: all that the page and the model card say, figures aside."""

    schema_: Literal["dentsight-report/1"] = "dentsight-report/1"
    """Name and version of this form."""
    title: str
    """What was judged, e.g. `opg-reporting-v8 × v3`."""
    verdict: Verdict
    """What the gates decided."""
    policy: Policy
    """The gates."""
    corpus: Corpus | None
    """What it was trained and measured on; None when nothing says so."""
    loose_classes: tuple[str, ...]
    """Classes that the source marks loosely, in alphabetical order."""
    banners: tuple[Banner, ...]
    """What must be read before any figure."""
    evaluation: EvaluationDocument
    """What was measured."""
    data: ReportedData | None
    """Facts of the data."""
    checkpoint: CheckpointFacts | None
    """Facts of the model."""
    predictions: PredictionsFacts | None
    """Facts of the detections."""
    health: HeadHealth | None
    """The head's readings; None when it was not measured."""
    champion: ChampionComparison | None
    """The comparison with the model in use; None when there is none."""
    readers: ReaderAgreement | None = None
    """The reader study of this model; None when none was made."""
    teeth: ReportedTeeth | None = None
    """What was found tooth by tooth; None where stage 1 did not run."""
    worst_groups: tuple[WorstGroup, ...] = ()
    """The kind of X-ray that each gated class does worst on; empty where they were not told apart."""
    chain: tuple[ChainLink, ...]
    """From the newest product down to the raw export."""
    cost: Mapping[str, Cell] | None
    """Cost card of the training, as its record has it."""
    links: Mapping[str, str]
    """Name → address, e.g. of the MLflow run."""
    gallery: tuple[ShownImage, ...]
    """The worst cases, worst first."""
    gallery_problems: tuple[str, ...]
    """A sentence for each image that could not be shown."""
    limits: tuple[str, ...]
    """What the report does not show."""
