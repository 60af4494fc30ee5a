"""The report's tables as plain rows, in words and numbers: the page and the model card show the same.

Belongs here: what a row says. How a row looks is the business of `templates/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dentsight_pipeline.data.ontology import covered_classes, names_of
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.evaluation import (
    ALL_CLASSES,
    MACRO,
    Bounds,
    Calibration,
    CalibrationError,
    Consistency,
    EmptyMouth,
    EvaluationDocument,
    SampleSizes,
)
from dentsight_pipeline.documents.facts import AppliedMapping, Cell, CheckpointFacts, DatasetFacts
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.licences import strictest
from dentsight_pipeline.documents.names import CorpusKind
from dentsight_pipeline.documents.report import Report, ReportedData
from dentsight_pipeline.release.wording import interval_text

Row = tuple[str, str]

ERROR_WORDS = {
    "class_confusion": "wrong class",
    "localisation": "badly placed",
    "duplicate": "found twice",
    "background": "nothing there",
    "missed": "missed",
}
"""How a class goes wrong, as `ErrorCounts` counts it."""
_SIZED = {
    "recall_at_p95": "Recall at precision .95",
    "ece": "Detection ECE",
    "left_right_agreement": "Same findings on the mirrored X-ray",
    "left_minus_right_recall": "Recall left minus right",
}
_RULE_STATES = {False: ("✓ good", "PASS"), True: ("✗ tripped", "FAIL"), None: ("? not judged", "INCONCLUSIVE")}
_COPIES = ("exact_duplicate", "near_duplicate")
_KINDS = {CorpusKind.PHANTOM: "phantom (drawn images, not clinical data)"}


class Table(NamedTuple):
    """A titled table of two columns."""

    title: str
    rows: list[Row]
    wide: bool = False


class RuleRow(NamedTuple):
    """One rule on the head."""

    name: str
    state: str
    tone: str
    evidence: str


class SplitRow(NamedTuple):
    """One split, and how many of its images share a source with others."""

    split: str
    images: int
    clean: int
    annotations: int
    with_train: int | str
    with_any: int | str


def health_rules(health: HeadHealth | None) -> list[RuleRow]:
    """What each rule said."""
    return [RuleRow(rule.rule, *_RULE_STATES[rule.tripped], rule.evidence) for rule in (health.rules if health else ())]


# Tier 2 --------------------------------------------------------------------------------------------------------------


def tier2_tables(evaluation: EvaluationDocument) -> list[Table]:
    """Calibration, sides, empty mouths and sample sizes, as far as they were looked at."""
    half_width = evaluation.sample_sizes.half_width if evaluation.sample_sizes else 0.05
    tables = (
        Table("Calibration", list(_calibration_rows(evaluation.calibration))),
        Table("Left and right", list(_side_rows(evaluation.consistency))),
        Table("Empty mouths", list(_empty_rows(evaluation.empty_mouth))),
        Table(f"X-rays for an interval of ±{half_width:.2f}", list(_size_rows(evaluation.sample_sizes)), wide=True),
    )
    return [table for table in tables if table.rows]


def _calibration_rows(calibration: Calibration | None) -> Iterator[Row]:
    overall = calibration.classes.get(ALL_CLASSES) if calibration else None
    if calibration and overall:
        yield "Detection ECE as scored", _ece(overall)
        yield "Detection ECE after Platt scaling", _ece(overall.after_platt)
        yield "Detections counted", str(overall.n)
        if calibration.counted:
            yield "Counted are", calibration.counted
    elif calibration:
        yield "Not measured", calibration.reason or ""


def _side_rows(consistency: Consistency | None) -> Iterator[Row]:
    if consistency:
        sides = consistency.left_minus_right_recall.get(ALL_CLASSES)
        yield "Same findings on the mirrored X-ray", _bounded((consistency.left_right_agreement or {}).get(ALL_CLASSES))
        yield "Recall on the patient's left minus right", _bounded(sides)
        if sides:
            yield "Findings in the truth, left and right", f"{sides.n_left} and {sides.n_right}"


def _empty_rows(empty: EmptyMouth | None) -> Iterator[Row]:
    if empty:
        needed = empty.images_needed_for_below_5_percent
        yield "X-rays without any finding", str(empty.images)
        if empty.images_not_fully_covered:
            yield "X-rays not looked at for every class", f"{empty.images_not_fully_covered}: not counted as empty"
        yield "Share of them with a false positive", _bounded(empty.rate)
        yield "False positives on each of them", _bounded(empty.per_image)
        yield "Empty X-rays needed to show < 5 %", f"{needed} without any"


def _size_rows(sizes: SampleSizes | None) -> Iterator[Row]:
    """About how many test images each figure would take, as far as its interval lets one tell."""
    for metric, words in _SIZED.items():
        needed = sizes.images.get(metric, {}) if sizes else {}
        by_class = {name: count for name, count in needed.items() if name != MACRO}
        if ALL_CLASSES in by_class:
            count = by_class[ALL_CLASSES]
            yield words, "unknown" if count is None else f"about {count}"
        elif by_class:
            known = [f"{name} {count}" for name, count in by_class.items() if count is not None]
            yield words, ", ".join([*known, *(f"{name} unknown" for name, count in by_class.items() if count is None)])


def _bounded(part: Bounds | None) -> str:
    return _interval(part.value, part.low, part.high) if part else "not measured"


def _ece(part: CalibrationError | None) -> str:
    return _interval(part.ece, part.low, part.high) if part else "not measured"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return interval_text(value, low, high).replace("-", "−")


# Data, model, method -------------------------------------------------------------------------------------------------


def data_rows(data: ReportedData | None) -> list[Row]:
    """Corpus, source and label mapping."""
    if data is None:
        return [("Corpus", "unknown"), ("Kind", "unknown"), ("Licence", "unknown")]
    told = {
        "Corpus": data.corpus.name,
        "Kind": _KINDS.get(data.corpus.kind, str(data.corpus.kind)),
        "Licence": data.corpus.licence,
        "Roboflow workspace": data.source.workspace,
        "Roboflow project": data.source.project,
        "Version": data.source.version,
        **dict(reading_rows(data)),
    }
    return [(name, value) for name, value in told.items() if value]


def reading_rows(data: DatasetFacts) -> list[Row]:
    """How the export was read: what its labels became, what was left out, mended and not looked for."""
    mended, exports = Counter(data.repairs), data.by_export
    copies = {name: mended.pop(name) for name in _COPIES if name in mended}
    told = {
        **{f"Label mapping{_of(name, exports)}": _mapping(mapping) for name, (_, mapping) in exports.items()},
        "Dropped labels": counted({name: count for name, count in data.dropped.items() if count}),
        "Dropped on request": ", ".join(data.mapping.drop),
        "Loose labels": ", ".join(sorted(data.loose_classes)),
        "Repairs": counted(mended),
        "Corrections of labels": counted(data.corrections),
        "Duplicate boxes left out": counted(copies),
        **{
            f"Not looked for{_of(name, exports)}": ", ".join(_uncovered(data.classes, mapping))
            for name, (_, mapping) in exports.items()
        },
    }
    return [(name, value) for name, value in told.items() if value]


def _of(name: str, exports: Collection[str]) -> str:
    """Which export a row is about, where there are several."""
    return f" of {name}" if len(exports) > 1 else ""


def _mapping(mapping: AppliedMapping) -> str:
    return f"{mapping.source} ({mapping.chosen_by}: {mapping.evidence})"


def _uncovered(classes: Iterable[str], mapping: AppliedMapping) -> tuple[str, ...]:
    looked_for = covered_classes(mapping)
    return names_of(name for name in classes if name not in looked_for)


def counted(counts: Mapping[str, int]) -> str:
    """Counts in words, in alphabetical order."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def licence_rows(report: Report) -> list[Row]:
    """Of everything that the model was made from, and which one binds it."""
    licences = report.verdict.licences
    bound = [("The strictest", strictest(licences.values()).name)] if licences else []
    return [*licences.items(), *bound]


def model_rows(checkpoint: CheckpointFacts | None) -> list[Row]:
    """Recipe, size and versions."""
    if checkpoint is None:
        return [("Recipe", "unknown")]
    width, height = checkpoint.image_size
    start = checkpoint.packaged_weights
    return [
        *([("Start", f"{start}: weights of this package, trained on drawn X-rays")] if start else []),
        ("Recipe", checkpoint.recipe),
        ("Recipe digest", checkpoint.recipe_digest),
        ("Variant", _variant(checkpoint)),
        ("Input size", f"{width} × {height} px"),
        ("Doubles", _doubles(checkpoint.nms_iou)),
        ("Parameters", f"{checkpoint.parameters:,}".replace(",", " ")),
        ("Best step", _plain(checkpoint.best_step)),
        ("Versions", ", ".join(f"{name} {value}" for name, value in sorted(checkpoint.versions.items()))),
    ]


def _doubles(nms_iou: float | None) -> str:
    if nms_iou is None:
        return "not suppressed: every finding counts"
    return f"of findings of one class that overlap by more than {nms_iou:g} (IoU) only the surest counts"


def _variant(checkpoint: CheckpointFacts) -> str:
    changed = ", ".join(f"{name} = {value}" for name, value in sorted(checkpoint.overrides.items()))
    return f"yes: {changed}" if checkpoint.variant else "no: the recipe as named"


def split_rows(data: ReportedData | None) -> list[SplitRow]:
    """One row a split; a dash where nothing is known to be shared."""
    rows = []
    for split, counts in (data.splits if data else {}).items():
        leaked = getattr(data.leakage, split, None) if data else None
        shared = (leaked.shared_with_train, leaked.shared_with_any) if leaked else ("–", "–")
        rows.append(SplitRow(split, counts.images, counts.clean_images, counts.annotations, *shared))
    return rows


def method_rows(evaluation: EvaluationDocument) -> list[Row]:
    """Engines, bootstrap and notes."""
    rows = flat(plain(evaluation.engines) or {}, "Engines: ") + flat(plain(evaluation.bootstrap) or {}, "Bootstrap: ")
    return [*rows, *(("Note", note) for note in evaluation.notes)] or [("Method", "not stated")]


def columns(records: Iterable[object], *names: str) -> list[tuple[object, ...]]:
    """Some fields of each record, as rows."""
    return [tuple(getattr(record, name) for name in names) for record in records]


def flat(values: Mapping[str, Cell | Sequence[Cell]], prefix: str = "") -> list[Row]:
    """Named values as rows, in their own order."""
    return [(f"{prefix}{name.replace('_', ' ')}", _plain(value)) for name, value in values.items()]


def _plain(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return (
        ", ".join(map(_plain, value)) or "–"
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )
