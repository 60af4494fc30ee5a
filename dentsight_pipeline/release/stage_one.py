"""The report of stage 1 alone: teeth found, numbered and counted; no gates, and nothing is released from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dentsight_pipeline.documents.codec import finite
from dentsight_pipeline.documents.evaluation import for_people
from dentsight_pipeline.documents.facts import CheckpointFacts, SubsetFacts, ToothReportFacts
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.names import Asset, CorpusKind, Kind
from dentsight_pipeline.documents.report import REPORT
from dentsight_pipeline.documents.teeth import ToothReport
from dentsight_pipeline.evaluation.evaluate import Inputs, evaluate
from dentsight_pipeline.evaluation.product import EVALUATED, THRESHOLDS_FROM, stored_inputs
from dentsight_pipeline.evaluation.teeth.alone import measure_alone
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.release.product import chain_links
from dentsight_pipeline.store.content import build, read_document

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


def publish_tooth_report(
    store: Store,
    checkpoint: Manifest,
    predictions: Manifest,
    *,
    title: str,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Measure a tooth detector on its own data, and publish the report.

    Args:
        store: Where everything is.
        checkpoint: The tooth detector.
        predictions: Its detections on valid and test of the tooth subset that it was trained on.
        title: What is measured.
        resamples: Bootstrap resamples behind the intervals.
        seed: Bootstrap seed.
        progress: Called with stage, done, total.

    Returns:
        The published manifest of kind `tooth-report`: `report.html` and `report.json`.

    Raises:
        EvaluationError: There is no test split, or nothing that can be measured on it.
    """
    subset = store.get_manifest(checkpoint.inputs[Asset.TOOTH_SUBSET])
    given = stored_inputs(store, subset, predictions, resamples, seed)
    report = _report(store, (predictions, checkpoint, subset), given, title, progress)
    facts = ToothReportFacts(
        title=title,
        corpus=report.corpus,
        split=EVALUATED,
        images=len(given.truth.image_ids),
        resamples=resamples,
        seed=seed,
    )
    files = {REPORT: for_people(report), "report.html": _page(report).encode()}
    inputs: dict[str, str] = {
        Asset.TOOTH_SUBSET: subset.digest,
        Asset.TOOTH_CHECKPOINT: checkpoint.digest,
        Asset.TOOTH_PREDICTIONS: predictions.digest,
    }
    manifest = build(store, Kind.TOOTH_REPORT, files, inputs, facts)
    store.put_manifest(manifest)
    return manifest


def _report(
    store: Store, chain: tuple[Manifest, Manifest, Manifest], given: Inputs, title: str, progress: Progress | None
) -> ToothReport:
    _, checkpoint, subset = chain
    threshold, populations = measure_alone(
        given.truth, given.found, given.valid, resamples=given.resamples, seed=given.seed
    )
    data = subset.facts_as(SubsetFacts)
    return ToothReport(
        title=title,
        corpus=data.corpus,
        threshold=finite(threshold),
        thresholds_from=THRESHOLDS_FROM if given.valid else EVALUATED,
        populations=populations,
        evaluation=evaluate(given, progress).document,
        data=data,
        checkpoint=checkpoint.facts_as(CheckpointFacts),
        health=read_document(store, checkpoint, "health.json", HeadHealth),
        chain=chain_links(store, chain),
    )


def _page(report: ToothReport) -> str:
    from dentsight_pipeline.release.report.page import render

    shown = "clean" if report.populations["clean"] else "all"
    return render(
        "teeth.html.j2",
        f=report,
        shown=shown,
        drawn=report.corpus.kind == CorpusKind.PHANTOM,
        rows=report.evaluation.populations[shown].per_class,
    )
