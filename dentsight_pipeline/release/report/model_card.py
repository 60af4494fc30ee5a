"""The model card: the report's facts as Markdown with Hugging Face metadata.

Belongs here: which cells the card's tables have; its words are in `templates/model_card.md.j2`. Names from data are
escaped for Markdown and HTML; the metadata is written by `huggingface_hub` itself, so that it parses there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from huggingface_hub import EvalResult, ModelCardData

from dentsight_pipeline.documents.evaluation import ClassRow, Population
from dentsight_pipeline.documents.licences import strictest
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.report import Report
from dentsight_pipeline.documents.verdict import ClassReading, GateRow
from dentsight_pipeline.release.report import tables
from dentsight_pipeline.release.report.page import render_text
from dentsight_pipeline.release.wording import interval_text, number_text

OUR_LICENCE = "Apache-2.0"
"""Of what this package adds to data and weights; theirs bind a release where they are stricter."""
_METRICS = {"ap": "mAP@0.5:0.95", "ap50": "mAP@0.5"}


def model_card(report: Report) -> str:
    """The card as text."""
    readings = {reading.condition: reading for reading in report.verdict.classes}
    part = shown_population(report)
    return render_text(
        "model_card.md.j2",
        f=report,
        v=report.verdict,
        tables=tables,
        part=part,
        interval=interval_text,
        metadata=_metadata(report).rstrip(),
        class_rows=[_class_row(part, row, readings.get(row.class_name)) for row in part.per_class],
        gate_rows=[_gate_row(row) for row in report.verdict.rows],
        error_rows=[
            (name, *(getattr(counts, kind) for kind in tables.ERROR_WORDS))
            for name, counts in report.evaluation.errors.items()
        ],
    )


def shown_population(report: Report) -> Population:
    """The images whose figures stand first."""
    return report.evaluation.populations[report.verdict.population or "all"]


def _class_row(part: Population, row: ClassRow, reading: ClassReading | None) -> tuple[str | int, ...]:
    return (
        row.class_name,
        row.n_gt,
        part.images_looked_at(row.class_name) or "not looked for",
        interval_text(*row.figure("ap")),
        interval_text(*row.figure("ap50")),
        number_text(row.ar100),
        interval_text(*row.figure("recall_at_p95")),
        number_text(row.threshold_best_f1),
        number_text(row.precision_at_threshold),
        number_text(row.recall_at_threshold),
        (reading.outcome or reading.point) if reading else "–",
    )


def _gate_row(row: GateRow) -> tuple[str, ...]:
    overridden = f" (overridden by {row.override.name})" if row.override else ""
    measured = interval_text(row.value, row.low, row.high, row.floor)
    return row.title, row.severity, measured, f"{row.outcome}{overridden}", row.point


def _metadata(report: Report) -> str:
    """The YAML block, with one `model-index` entry for every measured class figure."""
    results = list(_results(report))
    never = report.verdict.never_for_xrays or (report.corpus is not None and report.corpus.kind == CorpusKind.PHANTOM)
    pictures = report.corpus.pictures if report.corpus else ""
    tags = ["d-fine", "dental", *["panoramic-x-ray"] * (not pictures), "research-only", "not-a-medical-device"]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", report.title).strip("-") or "dentsight-model"
    data = ModelCardData(
        language="en",
        license=_licence(report),
        library_name="transformers",
        pipeline_tag="object-detection",
        tags=[*tags, "phantom-corpus", "never-for-x-rays"] if never else tags,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _licence(report: Report) -> str:
    """The strictest of all that the model was made from, and of this package, as Hugging Face names it."""
    named = report.verdict.licences.values()
    return strictest([*named, OUR_LICENCE]).id if named else "unknown"


def _results(report: Report) -> Iterator[EvalResult]:
    """The measured figures of each class, then the means."""
    part, corpus = shown_population(report), report.corpus.name if report.corpus else "unknown corpus"
    rows = [("", f" ({row.class_name})", row) for row in part.per_class]
    for before, after, row in [*rows, ("macro ", "", part.macro)]:
        for metric, name in _METRICS.items():
            if (value := row.figure(metric).value) is not None:
                yield EvalResult(
                    task_type="object-detection",
                    dataset_type=re.sub(r"[^a-z0-9]+", "-", corpus.lower()).strip("-") or "unknown",
                    dataset_name=f"{corpus}, {report.verdict.population or 'all'} test images",
                    dataset_split="test",
                    metric_type="map",
                    metric_name=f"{before}{name}{after}",
                    metric_value=value,
                )
