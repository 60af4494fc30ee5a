"""What ingestion would do with an export, without doing it: the content of `dentsight inspect --json`.

Add a line here when ingestion or normalisation learns to mend or refuse something. Nothing is written, and nothing is
decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa

from dentsight_pipeline.data.coverage import covered_classes, names_of
from dentsight_pipeline.data.json_blocks import json_blocks
from dentsight_pipeline.data.normalise import NormalisedDocument, normalise_document
from dentsight_pipeline.data.ontology import CONDITIONS, MAPPINGS, TEETH
from dentsight_pipeline.data.raw_export import RawExport
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.evaluation import Bounds, LabelCeiling
from dentsight_pipeline.documents.facts import Cell, SplitsFacts, SplitTotals
from dentsight_pipeline.documents.inspection import InspectedSplit, Inspection, Refusal
from dentsight_pipeline.documents.mapping import OwnMapping
from dentsight_pipeline.errors import AnnotationError, DataError, UnknownLabelError
from dentsight_pipeline.intake.ingest import Request, read_content
from dentsight_pipeline.intake.limits import UNLABELLED
from dentsight_pipeline.intake.open import open_export
from dentsight_pipeline.intake.records import Refusals
from dentsight_pipeline.progress import Progress

REQUIRED_SPLITS = ("train", "valid", "test")
"""Splits without which no model can be trained, selected and tested."""


def inspect_export(
    export: str | Path,
    *,
    source: str | None = None,
    mapping: OwnMapping | None = None,
    drop: Collection[str] = (),
    require: Sequence[str] = REQUIRED_SPLITS,
    accept: Collection[str] = (),
    workers: int = 4,
    progress: Progress | None = None,
    ceilings: Callable[[NormalisedDocument], tuple[LabelCeiling, ...]] = lambda document: (),
) -> Inspection:
    """Reads an export as ingestion and normalisation would, and says what they would do; writes nothing.

    Args:
        export: A folder, a zip or an `s3://` address.
        source: The label mapping (`--source`); None chooses by READMEs and category names.
        mapping: A mapping of one's own (`--mapping`); None takes the one at the export's root, if there is one.
        drop: Label names to leave out.
        require: Splits whose absence counts as a refusal.
        accept: Kinds of repairs that may be beyond their limits (`--accept-repairs`).
        workers: Threads.
        progress: Called as images are done.
        ceilings: Gives what the labels allow; figures are the evaluation's, which stands above this room.

    Returns:
        The report; when its `refusals` are not empty, ingestion would stop.

    Raises:
        DataError: It cannot be read at all.
        ConfigurationError: No such label mapping, or a name to drop that does not occur, or no such kind of repairs.
    """
    refusals = Refusals(collect=True)
    request = Request(source, drop, require, accept, None, workers, progress, mapping)
    with open_export(export) as files:
        content = read_content(files, request, refusals)
    unknown = sorted({error.label for error in refusals.errors if isinstance(error, UnknownLabelError)})
    # Boxes of classes that were not looked for are among the refusals already.
    result = normalise_document(
        content.raw, source=source, drop=[*drop, *unknown], progress=progress, refuse=lambda _: None
    )
    report = _report(content.raw, result, refusals, unknown)
    return msgspec.structs.replace(report, label_ceilings=ceilings(result), unlabelled_files=tuple(content.unlabelled))


def _report(raw: RawExport, result: NormalisedDocument, refusals: Refusals, unknown: Sequence[str]) -> Inspection:
    facts = result.facts
    rows = {name: _class_row(name, facts) for name in (*CONDITIONS, *TEETH)}
    kept = tuple(name for name in facts.mapping.drop if name not in unknown)
    return Inspection(
        corpus=facts.corpus,
        identity=facts.source,
        layout=raw.facts.layout,
        source=msgspec.structs.replace(facts.mapping, drop=kept),
        sources_known=tuple(MAPPINGS),
        mapping_digest=facts.mapping.digest,
        splits={name: _split(name, facts, raw.facts.splits[name].unlisted_files) for name in sorted(facts.splits)},
        classes={name: row for name, row in rows.items() if name in CONDITIONS or row["total"]},
        labels=tuple(row for row in result.labels if row.raw_name not in unknown),
        loose_classes=facts.loose_classes,
        coverage={facts.corpus.name: names_of(covered_classes(facts.mapping))},
        repairs=facts.repairs,
        accepted_repairs=raw.facts.accepted_repairs,
        repair_list=codec.read(b"".join(json_blocks(result.repairs)), tuple[Mapping[str, Cell], ...], "the repairs"),
        dropped={name: count for name, count in facts.dropped.items() if name not in unknown},
        leakage=facts.leakage,
        distinct_sources=facts.sources,
        agreement=tuple(result.agreement),
        label_ceilings=(),
        ceiling_warnings=(),
        flags=facts.flags,
        partial_annotation=facts.partial_annotation,
        unlabelled=_of_kind(result.repairs, UNLABELLED),
        privacy=facts.privacy,
        refusals=tuple(map(_refusal, refusals.errors)),
    )


def _split(name: str, facts: SplitsFacts, unlisted: int) -> InspectedSplit:
    totals = {field: getattr(facts.splits[name], field) for field in SplitTotals.__struct_fields__}
    return InspectedSplit(**totals, partial_annotation=facts.partial_annotation[name], unlisted_files=unlisted)


def _of_kind(repairs: pa.Table, kind: str) -> dict[str, int]:
    """Repairs of one kind by split."""
    rows = repairs.select(["kind", "split"]).to_pylist()
    return dict(Counter(row["split"] for row in rows if row["kind"] == kind))


def _class_row(name: str, facts: SplitsFacts) -> dict[str, int | bool]:
    """Annotations of a class by split and in total, and whether the source marks it loosely."""
    counts = {split: of.class_counts[name] for split, of in facts.splits.items()}
    return {**counts, "total": sum(counts.values()), "loose": name in facts.loose_classes}


def _refusal(error: DataError) -> Refusal:
    told = ("file", "record", "problem", "remedy") if isinstance(error, AnnotationError) else ()
    if isinstance(error, UnknownLabelError):
        told = ("label", "source", "suggestions")
    return Refusal(type(error).__name__, str(error), **{name: getattr(error, name) for name in told})


def summary_lines(report: Inspection) -> list[str]:
    """The same for people, one line each."""
    corpus, source, privacy = report.corpus, report.source, report.privacy
    lines = [
        f"Corpus: {corpus.name} ({corpus.kind}, licence {corpus.licence})",
        f"Labels: mapping {source.source!r} ({source.chosen_by}: {source.evidence})",
    ]
    for name, split in report.splits.items():
        leak = getattr(report.leakage, name, None)
        shared = f", {leak.shared_with_train} share a source with train" if leak else ""
        lines.append(f"{name}: {split.images} images, {split.annotations} annotations{shared}")
    conditions = [
        f"{name} {row['total']}{' (loose)' if name in report.loose_classes else ''}"
        for name, row in report.classes.items()
        if name in CONDITIONS
    ]
    lines.append(f"Conditions: {', '.join(conditions)}")
    lines += _coverage_lines(report)
    lines.append(f"Teeth: {sum(row['total'] for name, row in report.classes.items() if name in TEETH)}")
    for title, table in (("Repairs", report.repairs), ("Dropped labels", report.dropped)):
        lines.append(f"{title}: {_counted(table) or 'none'}")
    if report.accepted_repairs:
        lines.append(f"Accepted beyond their limits: {', '.join(report.accepted_repairs)}")
    if report.label_ceilings:
        ceilings = ", ".join(f"{row.class_name} {_bounds(row.ap)}" for row in report.label_ceilings)
        lines.append(f"Labels allow an AP of: {ceilings}")
    lines += [f"  Warning: {sentence}" for sentence in report.ceiling_warnings]
    lines.append(
        f"Privacy: {privacy.names_replaced} names replaced ({_counted(privacy.stem_kinds)}); "
        f"metadata removed from {privacy.images_with_metadata} images"
    )
    refused = report.refusals
    lines.append("Refusals: none; it can be ingested" if not refused else f"Refusals: {len(refused)}")
    lines += [f"  {refusal.message}" for refusal in refused[:50]]
    if len(refused) > 50:
        lines.append(f"  … and {len(refused) - 50} more (--json lists all)")
    return lines


def _bounds(of: Bounds) -> str:
    interval = "no interval" if of.low is None or of.high is None else f"{of.low:.2f} to {of.high:.2f}"
    return f"{of.value:.2f} ({interval})"


def _coverage_lines(report: Inspection) -> list[str]:
    """What was looked for, and what to do where that is not known."""
    looked_for = report.source.coverage
    if looked_for is None:
        return ["Looked for: teeth and all 13 conditions, in every image"]
    why = "declared" if looked_for.declared else "nothing is declared: it has boxes of these"
    lines = [f"Looked for ({why}): {', '.join(names_of(looked_for.classes)) or 'nothing'}"]
    if looked_for.images:
        lines.append(f"  {looked_for.images} images have a declaration of their own")
    if missing := [name for name in CONDITIONS if name not in looked_for.classes]:
        lines.append(f"Not looked for, so no image is healthy of them: {', '.join(missing)}")
    if not looked_for.declared:
        lines.append("  If they were looked for, say so: `covers` in the file that --write-mapping FILE writes")
    return lines


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
