"""The release report: one HTML file that a reviewer can read without opening anything else, and its facts as JSON.

Belongs here: which facts a report states and which figures it shows. The layout is in `templates/`, what stands on the
page in `sections.py` and `tables.py`, the figures in `plots.py`, the model card in `model_card.py`. Everything that
comes from data (labels, names, links) reaches the page through the template's escaping. The bytes depend on the inputs
alone: no time of running, no host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.documents.codec import read
from dentsight_pipeline.documents.evaluation import (
    ALL_CLASSES,
    CURVES_FILE,
    Curve,
    Curves,
    EvaluationDocument,
    for_people,
    read_evaluation,
)
from dentsight_pipeline.documents.facts import Cell, CheckpointFacts, PredictionsFacts
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.documents.readers import ReaderAgreement
from dentsight_pipeline.documents.release import ChainLink
from dentsight_pipeline.documents.report import Banner, Report, ReportedData, ShownImage
from dentsight_pipeline.documents.teeth import ReportedTeeth
from dentsight_pipeline.documents.verdict import ChampionComparison, Verdict
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.release.ceiling import floors_above
from dentsight_pipeline.release.report import plots
from dentsight_pipeline.release.report.drawing import Picture
from dentsight_pipeline.release.report.gallery import Example, worst_cases
from dentsight_pipeline.release.report.mistakes import ClassMistakes, mistakes_by_class
from dentsight_pipeline.release.report.model_card import model_card
from dentsight_pipeline.release.report.pictures import Images, Truth
from dentsight_pipeline.release.report.sections import page
from dentsight_pipeline.release.subgroups import worst_groups

if TYPE_CHECKING:
    import pandas as pd

LIMITS: tuple[str, ...] = (
    "This is not a medical device, and nothing in this report makes it one. It is for research; no clinical decision, "
    "billing or treatment may rest on it.",
    "The boxes name a condition, not a tooth: without the stage-1 teeth they do not say where in the mouth it is.",
    "Agreement with dentists (Tier 3) is known only where a reader study was made. Labels are one reading each unless "
    "the data section says otherwise; where dentists disagree, a figure cannot be better than they are.",
    "All figures hold for X-rays like those of this corpus: other machines, ages and populations were not tested.",
    "Intervals cover the choice of test images alone, not that of training images, seeds or annotators.",
)


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report is made from; what is None or empty is said to be unknown, or left out."""

    title: str
    """What was judged, e.g. `opg-reporting-v8 × v3`."""
    evaluation_folder: Path
    """Holds `evaluation.json` and, if made, `curves.json` and `matches.parquet`."""
    verdict: Verdict
    """From `gates.judge` on that evaluation."""
    policy: Policy
    """The policy it was judged by."""
    health: HeadHealth | None = None
    """Of the checkpoint."""
    data: ReportedData | None = None
    """Facts of the data."""
    checkpoint: CheckpointFacts | None = None
    """Facts of the checkpoint."""
    predictions: PredictionsFacts | None = None
    """Facts of the predictions."""
    chain: Sequence[ChainLink] = ()
    """From the newest product down to the raw export."""
    cost: Mapping[str, Cell] | None = None
    """Cost card of the training."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Name → address, e.g. the MLflow run; only http and https become links."""
    champion: ChampionComparison | None = None
    """The comparison given to `judge`."""
    readers: ReaderAgreement | None = None
    """The reader study given to `judge`."""
    teeth: ReportedTeeth | None = None
    """What was found tooth by tooth, where stage 1 ran."""
    truth: Truth | None = None
    """The ground truth evaluated, for the pictures."""
    images: Images | None = None
    """Gives an image's bytes by its id."""

    @cached_property
    def evaluation(self) -> EvaluationDocument:
        """What was measured."""
        return read_evaluation(self.evaluation_folder)

    @cached_property
    def curves(self) -> Mapping[str, Curve]:
        """Of the population that gates read, by class."""
        path = self.evaluation_folder / CURVES_FILE
        return read(path.read_bytes(), Curves, path).get(self.population, {}) if path.is_file() else {}

    @cached_property
    def matches(self) -> pd.DataFrame | None:
        """`matches.parquet`."""
        import pandas as pd

        path = self.evaluation_folder / "matches.parquet"
        return pd.read_parquet(path) if path.is_file() else None

    @property
    def population(self) -> str:
        """The images whose figures stand first."""
        return self.verdict.population or "all"

    @property
    def loose_classes(self) -> tuple[str, ...]:
        """Classes whose labels the source uses loosely."""
        return tuple(sorted(self.data.loose_classes)) if self.data else ()


@dataclass(frozen=True)
class ReportPaths:
    """The files of one report."""

    html: Path
    json: Path
    model_card: Path


def build_report(inputs: ReportInputs, out: Path) -> ReportPaths:
    """Writes `report.html`, `report.json` and `model_card.md`.

    Args:
        inputs: What to report.
        out: Folder; made if missing.

    Raises:
        EvaluationError: When the evaluation folder holds no readable `evaluation.json`, or the verdict or the policy
            belong to something else.
    """
    _check_they_belong_together(inputs)
    gallery, problems = _gallery(inputs)
    report = report_facts(inputs, gallery, problems)
    out.mkdir(parents=True, exist_ok=True)
    paths = ReportPaths(out / "report.html", out / "report.json", out / "model_card.md")
    paths.json.write_bytes(for_people(report))
    paths.html.write_text(page(report, _pictures(inputs), gallery, _mistakes(inputs)), "utf-8")
    paths.model_card.write_text(model_card(report), "utf-8")
    return paths


def _check_they_belong_together(inputs: ReportInputs) -> None:
    verdict, evaluation = inputs.verdict, inputs.evaluation
    if verdict.policy_digest != inputs.policy.digest:
        raise EvaluationError(
            f"The verdict was given under policy {verdict.policy_digest[:12]}, the report is asked to show "
            f"{inputs.policy.digest[:12]}. Judge again under the policy that is to be shown."
        )
    for name in ("ground_truth_sha256", "detections_sha256"):
        if getattr(verdict, name) != (getattr(evaluation, name) or None):
            raise EvaluationError(
                f"The verdict belongs to another evaluation ({name} differs). Judge this evaluation again."
            )


def report_facts(inputs: ReportInputs, gallery: Sequence[Example], problems: Sequence[str]) -> Report:
    """All facts of the report; the page shows these and adds figures."""
    return Report(
        title=inputs.title,
        verdict=inputs.verdict,
        policy=inputs.policy,
        corpus=inputs.data.corpus if inputs.data else None,
        loose_classes=inputs.loose_classes,
        banners=tuple(_banners(inputs)),
        evaluation=inputs.evaluation,
        data=inputs.data,
        checkpoint=inputs.checkpoint,
        predictions=inputs.predictions,
        health=inputs.health,
        champion=inputs.champion,
        readers=inputs.readers,
        teeth=inputs.teeth,
        worst_groups=worst_groups(inputs.policy, inputs.evaluation),
        chain=tuple(inputs.chain),
        cost=inputs.cost,
        links=inputs.links,
        gallery=tuple(ShownImage(image_id=example.image_id, **example.counts) for example in gallery),
        gallery_problems=tuple(problems),
        limits=LIMITS,
    )


# Banners -------------------------------------------------------------------------------------------------------------


def _banners(inputs: ReportInputs) -> Iterator[Banner]:
    """What must be read before any figure."""
    yield from _corpus_banners(inputs)
    verdict = inputs.verdict
    if verdict.head == "collapsed":
        yield Banner(
            kind="stop",
            title="Ranking-only.",
            text="The classification head has collapsed. AP shows how the boxes are ordered; no score, threshold or "
            "calibration figure of this model means anything.",
        )
    for override in verdict.overrides:
        title = f"Gate {override.gate} overridden by {override.name}."
        yield Banner(kind="warn", title=title, text=f"Reason: {override.reason} The measured verdict below stands.")
    if told := floors_above(inputs.policy, inputs.evaluation.label_ceilings):
        yield Banner(kind="warn", title="Floors above what the labels allow.", text=" ".join(told))
    if inputs.loose_classes:
        yield Banner(
            kind="warn",
            title="Loose labels.",
            text=f"In this source the labels of {', '.join(inputs.loose_classes)} are known to be loose: they mark "
            "more than the condition's strict meaning. Read the figures of these classes accordingly.",
        )


def _corpus_banners(inputs: ReportInputs) -> Iterator[Banner]:
    """What the images, or floors made for them, forbid."""
    if inputs.data is None:
        text = "Nothing says which images these are; read no figure as a clinical result."
        yield Banner(kind="warn", title="Unknown corpus.", text=text)
    elif inputs.data.corpus.kind == CorpusKind.PHANTOM:
        yield Banner(
            kind="stop",
            title="Phantom corpus: these are not clinical results.",
            text="The model was trained and tested on drawn images, not on X-rays of people. The figures show that the "
            "pipeline works and say nothing about patients.",
        )
    elif inputs.data.corpus.pictures:
        text = f"They look like {inputs.data.corpus.pictures}. This pipeline was made for panoramic X-rays alone."
        yield Banner(kind="warn", title="Not panoramic X-rays.", text=text)
    if inputs.verdict.never_for_xrays:
        yield Banner(
            kind="stop",
            title="Never for X-rays.",
            text=f"Judged under policy “{inputs.verdict.policy}”, whose floors are for drawn images. Whatever is "
            "released under it is marked never for X-rays.",
        )


# Pictures ------------------------------------------------------------------------------------------------------------


def _gallery(inputs: ReportInputs) -> tuple[list[Example], list[str]]:
    if inputs.images is None or inputs.truth is None or inputs.matches is None:
        return [], []
    points = inputs.evaluation.operating_points
    thresholds = {name: point.threshold_best_f1 for name, point in points.items()}
    return worst_cases(inputs.matches, inputs.truth, thresholds, inputs.images)


def _mistakes(inputs: ReportInputs) -> list[ClassMistakes]:
    """The mistakes on the images that the gates read, as the error figures count them."""
    if inputs.images is None or inputs.truth is None or inputs.matches is None:
        return []
    truth = inputs.truth.only_clean() if inputs.population == "clean" else inputs.truth
    return mistakes_by_class(inputs.matches, truth, inputs.evaluation.classes, inputs.images)


def _pictures(inputs: ReportInputs) -> dict[str, Picture | None]:
    """The figures by the place that the page has for each."""
    evaluation, part = inputs.evaluation, inputs.evaluation.populations.get(inputs.population)
    rows = part.per_class if part else ()
    overall = evaluation.calibration.classes.get(ALL_CLASSES) if evaluation.calibration else None
    after = overall.after_platt if overall else None
    return {
        "intervals": plots.class_intervals(rows, _floors(inputs.verdict)),
        "sizes": plots.ap_by_size(rows),
        "pr": plots.precision_recall_curves(inputs.curves, rows),
        "thresholds": plots.threshold_curves(inputs.curves, rows),
        "errors": plots.error_types(evaluation.errors, [row.class_name for row in rows]),
        "confusion": plots.confusion_matrix(evaluation.confusion),
        "scores": None if inputs.matches is None else plots.score_histograms(inputs.matches, rows),
        "reliability": plots.reliability_diagram(overall.bins if overall else (), after.bins if after else ()),
        "froc": plots.froc_curve(evaluation.froc),
        "wafroc": plots.wafroc_curves(evaluation.afroc),
        "layers": plots.layer_scores(inputs.health.layers if inputs.health else ()),
    }


def _floors(verdict: Verdict) -> dict[str, float]:
    """The floor of each class's AP, where it has a gate."""
    return {row.condition: row.floor for row in verdict.rows if row.metric == "ap" and row.floor is not None}
