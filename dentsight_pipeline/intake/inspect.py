"""What ingestion would do with an export, without doing it: the content of `dentsight inspect --json`.

Add a line here when ingestion or normalisation learns to mend or refuse something. Nothing is written, and nothing is
decided here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dentsight_pipeline.data.json_blocks import json_blocks
from dentsight_pipeline.data.normalise import NormalisedDocument, normalise_document
from dentsight_pipeline.data.ontology import CONDITIONS, MAPPINGS, TEETH, mapping_for
from dentsight_pipeline.data.raw_export import RawExport
from dentsight_pipeline.documents import codec
from dentsight_pipeline.errors import AnnotationError, DataError, UnknownLabelError
from dentsight_pipeline.intake.ingest import Request, read_content
from dentsight_pipeline.intake.open import open_export
from dentsight_pipeline.intake.records import Refusals
from dentsight_pipeline.progress import Progress

REQUIRED_SPLITS = ("train", "valid", "test")
"""Splits without which no model can be trained, selected and tested."""


def inspect_export(
    export: str | Path,
    *,
    source: str | None = None,
    drop: Collection[str] = (),
    require: Sequence[str] = REQUIRED_SPLITS,
    accept: Collection[str] = (),
    workers: int = 4,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Reads an export as ingestion and normalisation would, and says what they would do; writes nothing.

    Args:
        export: A folder, a zip or an `s3://` address.
        source: The label mapping (`--source`); None chooses by READMEs and category names.
        drop: Label names to leave out.
        require: Splits whose absence counts as a refusal.
        accept: Kinds of repairs that may be beyond their limits (`--accept-repairs`).
        workers: Threads.
        progress: Called as images are done.

    Returns:
        JSON: `splits`, `classes`, `labels`, `repairs`, `accepted_repairs`, `repair_list`, `dropped`, `leakage`,
        `privacy`, `refusals`, `source`, `corpus`, `flags`, `partial_annotation`, `loose_classes`, `agreement`. When
        `refusals` is not empty, ingestion would stop, and the other figures are those of the records that can be used.

    Raises:
        DataError: It cannot be read at all.
        ConfigurationError: No such label mapping, or a name to drop that does not occur, or no such kind of repairs.
    """
    refusals = Refusals(collect=True)
    with open_export(export) as files:
        raw = read_content(files, Request(source, drop, require, accept, None, workers, progress), refusals).raw
    chosen = source or raw.facts.label_source.source
    unknown = sorted({error.label for error in refusals.errors if isinstance(error, UnknownLabelError)})
    result = normalise_document(raw, source=source, drop=[*drop, *unknown], progress=progress)
    return _report(raw, result, refusals, chosen, unknown)


def _report(
    raw: RawExport, result: NormalisedDocument, refusals: Refusals, chosen: str, unknown: Sequence[str]
) -> dict[str, Any]:
    facts, labels, agreement = map(_json, (result.facts, result.labels, result.agreement))
    return {
        "corpus": facts["corpus"],
        "identity": facts["source"],
        "layout": raw.facts.layout,
        "source": {**facts["mapping"], "drop": [name for name in facts["mapping"]["drop"] if name not in unknown]},
        "sources_known": list(MAPPINGS),
        "mapping_digest": mapping_for(chosen).digest,
        "splits": {
            name: {
                **{key: value for key, value in split.items() if key != "class_counts"},
                "partial_annotation": facts["partial_annotation"][name],
                "unlisted_files": raw.facts.splits[name].unlisted_files,
            }
            for name, split in facts["splits"].items()
        },
        "classes": _class_table(facts),
        "labels": [row for row in labels if row["raw_name"] not in unknown],
        "loose_classes": facts["loose_classes"],
        "repairs": facts["repairs"],
        "accepted_repairs": list(raw.facts.accepted_repairs),
        "repair_list": json.loads(b"".join(json_blocks(result.repairs))),
        "dropped": {name: count for name, count in facts["dropped"].items() if name not in unknown},
        "leakage": facts["leakage"],
        "distinct_sources": facts["sources"],
        "agreement": agreement,
        "flags": facts["flags"],
        "partial_annotation": facts["partial_annotation"],
        "privacy": facts["privacy"],
        "refusals": [_refusal(error) for error in refusals.errors],
    }


def _json(document: object) -> Any:
    """A document as JSON's own dictionaries and lists."""
    return json.loads(codec.write(document))


def _class_table(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Annotations of each class that occurs, or is a condition, by split."""
    table: dict[str, dict[str, Any]] = {}
    for name in (*CONDITIONS, *TEETH):
        counts = {split: facts["splits"][split]["class_counts"][name] for split in facts["splits"]}
        if name in CONDITIONS or any(counts.values()):
            table[name] = {**counts, "total": sum(counts.values()), "loose": name in facts["loose_classes"]}
    return table


def _refusal(error: DataError) -> dict[str, Any]:
    """A refusal as JSON: its kind and the line that names file, record and remedy."""
    record: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, AnnotationError):
        record |= {"file": error.file, "record": error.record, "problem": error.problem, "remedy": error.remedy}
    if isinstance(error, UnknownLabelError):
        record |= {"label": error.label, "source": error.source, "suggestions": error.suggestions}
    return record


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The same for people, one line each.

    Args:
        report: What `inspect_export` returned.
    """
    source = report["source"]
    lines = [
        f"Corpus: {report['corpus']['name']} ({report['corpus']['kind']}, licence {report['corpus']['licence']})",
        f"Labels: mapping {source['source']!r} ({source['chosen_by']}: {source['evidence']})",
    ]
    for name, split in report["splits"].items():
        leak = report["leakage"].get(name)
        shared = f", {leak['shared_with_train']} share a source with train" if leak else ""
        lines.append(f"{name}: {split['images']} images, {split['annotations']} annotations{shared}")
    counts = {name: row["total"] for name, row in report["classes"].items() if name in CONDITIONS}
    teeth = sum(row["total"] for name, row in report["classes"].items() if name in TEETH)
    loose = set(report["loose_classes"])
    lines.append("Conditions: " + ", ".join(f"{n} {c}{' (loose)' if n in loose else ''}" for n, c in counts.items()))
    lines.append(f"Teeth: {teeth}")
    for title, table in (("Repairs", report["repairs"]), ("Dropped labels", report["dropped"])):
        lines.append(f"{title}: " + (", ".join(f"{name} {count}" for name, count in table.items()) or "none"))
    if report["accepted_repairs"]:
        lines.append(f"Accepted beyond their limits: {', '.join(report['accepted_repairs'])}")
    kinds = Counter(report["privacy"]["stem_kinds"])
    lines.append(
        f"Privacy: {report['privacy']['names_replaced']} names replaced ("
        + ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        + f"); metadata removed from {report['privacy']['images_with_metadata']} images"
    )
    refused = report["refusals"]
    lines.append("Refusals: none; it can be ingested" if not refused else f"Refusals: {len(refused)}")
    lines += [f"  {refusal['message']}" for refusal in refused[:50]]
    if len(refused) > 50:
        lines.append(f"  … and {len(refused) - 50} more (--json lists all)")
    return lines
