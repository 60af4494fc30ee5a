"""What a materialisation shows in the Dagster UI: tables, sample images, links. Reads manifests, decides nothing."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.evaluation import EVALUATION_FILE, EvaluationDocument
from dentsight_pipeline.documents.facts import (
    CheckpointFacts,
    DatasetFacts,
    LabelReviewFacts,
    PreviewFacts,
    RawExportFacts,
    ReaderAgreementFacts,
    ReleaseFacts,
    ToothFindingsFacts,
)
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.lineage import Record
from dentsight_pipeline.documents.names import SPLITS, Asset, Kind, raw_exports
from dentsight_pipeline.documents.readers import AGREEMENT_FILE, ReaderAgreement
from dentsight_pipeline.documents.verdict import PLAN_ROW
from dentsight_pipeline.lineage.walk import walk
from dentsight_pipeline.store import memo
from dentsight_pipeline.store.content import build, read_bytes, read_document, read_json
from dentsight_pipeline.store.records import first_record

if TYPE_CHECKING:
    from dentsight_pipeline.documents.facts import CheckOutcomeFacts
    from dentsight_pipeline.documents.lineage import AuditResult
    from dentsight_pipeline.documents.verdict import GateRow, Verdict
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

Metadata = Mapping[str, Any]
"""What a product shows in the Dagster UI: numbers, texts and Dagster's own metadata values."""


def table(rows: Sequence[object], columns: Sequence[str] | None = None) -> dg.TableMetadataValue:
    """A table for the UI, of mappings or documents; None becomes a dash, floats keep four decimals.

    Without `columns` each row shows what it has but nested tables.
    """
    told = [plain(row) for row in rows]
    first = told[0] if told else {"(empty)": None}
    names = columns or [name for name, value in first.items() if not isinstance(value, dict | list)]
    return dg.MetadataValue.table(
        records=[dg.TableRecord({name: _cell(row.get(name)) for name in names}) for row in told],
        schema=dg.TableSchema(columns=[dg.TableColumn(name, type="string") for name in names]),
    )


def of_raw_exports(store: "Store", manifest: "Manifest", locations: Mapping[str, str]) -> Metadata:
    """Where an export, or each of several, came from (digest → place), and how big it is."""
    if manifest.kind == Kind.RAW_EXPORT:
        return _of_raw_export(manifest, locations[manifest.digest])
    each = [_of_raw_export(store.get_manifest(digest), locations[digest]) for digest in raw_exports(manifest.inputs)]
    return {"exports": table(each, ("location", "corpus", "licence", "labels", "files", "bytes"))}


def _of_raw_export(manifest: "Manifest", location: str) -> Metadata:
    facts = manifest.facts_as(RawExportFacts)
    corpus, accepted = facts.corpus, facts.accepted_repairs
    return {
        "location": location,
        "corpus": f"{corpus.name} ({corpus.kind})",
        "licence": corpus.licence,
        "labels": f"{facts.label_source.source} ({facts.label_source.evidence})",
        "files": len(manifest.entries),
        "bytes": manifest.size,
        "manifest": _json_of(manifest),
        **({"accepted repairs": ", ".join(accepted)} if accepted else {}),
    }


def of_splits(store: "Store", manifest: "Manifest") -> Metadata:
    """How labels were read, class counts by split, and sample images with their boxes."""
    from dentsight_pipeline.release.report.tables import reading_rows

    facts = manifest.facts_as(DatasetFacts)
    splits = facts.splits
    counts = [
        {"class": name, **{split: told.class_counts.get(name, 0) for split, told in splits.items()}}
        for name in facts.classes
    ]
    overview = [
        {"split": split, "images": told.images, "clean images": told.clean_images, "annotations": told.annotations}
        for split, told in splits.items()
    ]
    return {
        "images": sum(told.images for told in splits.values()),
        "annotations": sum(told.annotations for told in splits.values()),
        "splits": table(overview),
        "reading": _pairs("labels", dict(reading_rows(facts)), "as read"),
        "class_counts": table(counts),
        "samples": _samples(store, manifest),
        "manifest": _json_of(manifest),
    }


def of_checkpoint(store: "Store", manifest: "Manifest", reports: Path | None = None) -> Metadata:
    """Recipe, size and health, and the way to data, MLflow run, report and audit; `reports` is the cell's folder."""
    walked, record = walk(store, manifest.digest), first_record(store, manifest.digest)
    data = [{"product": walked.asset(digest), "digest": digest} for digest in walked.named if digest != manifest.digest]
    facts = manifest.facts_as(CheckpointFacts)
    recipe = read_json(store, manifest, "recipe.json")
    return {
        "recipe": facts.recipe,
        "recipe_digest": facts.recipe_digest,
        "recipe_fields": _pairs("field", recipe),
        "variant": dg.MetadataValue.bool(facts.variant),
        "parameters": facts.parameters,
        "best_step": facts.best_step,
        "head": {True: "healthy", False: "COLLAPSED: ranking-only", None: "not judged"}[facts.healthy],
        "head_layers": table(_health(store, manifest).layers),
        "cost": _pairs("what", record.cost or {}),
        "data": table(data),
        "audit": dg.MetadataValue.md(f"See the check `lineage_is_intact`, or `dentsight audit {manifest.digest}`."),
        **({"report": dg.MetadataValue.path(str(reports / "report.html"))} if reports else {}),
        **_mlflow(record),
    }


def of_predictions(_: "Store", manifest: "Manifest") -> Metadata:
    """How large the detections of each split are."""
    return {"files": _files(manifest)}


PER_CLASS = ("class", "n_gt", "ap", "ap_low", "ap_high", "ap50", "ar100", "recall_at_p95", "best_f1")


def of_evaluation(store: "Store", manifest: "Manifest") -> Metadata:
    """The per-class table on the gated population, and the macro figures."""
    evaluation = _evaluation(store, manifest)
    gated = evaluation.gated
    if gated is None:
        return {"population": "none", **_mlflow(first_record(store, manifest.digest))}
    macro = {"macro_ap": gated.macro.ap, "macro_ap50": gated.macro.ap50}
    looked_at = ", ".join(f"{name} {images}" for name, images in gated.looked_at.items())
    return {
        "population": f"{evaluation.gated_population}: {gated.images} images",
        "per_class": table(gated.per_class, PER_CLASS),
        "present_classes": f"{gated.macro.present} of {gated.macro.of}",
        **({"images_looked_at": looked_at} if looked_at else {}),
        "engines": table([evaluation.engines] if evaluation.engines else []),
        **{name: value for name, value in macro.items() if value is not None},
        **_mlflow(first_record(store, manifest.digest)),
    }


PER_TOOTH_CLASS = ("class", "n_gt", "n_found", "precision", "recall", "f1", "f1_low", "f1_high", "f1_with_true_teeth")


def of_label_review(store: "Store", manifest: "Manifest") -> Metadata:
    """How many labels are doubtful, by kind."""
    facts = manifest.facts_as(LabelReviewFacts)
    return {"images": facts.images, "suspects": _pairs("kind", facts.suspects, "suspects")}


def of_reader_agreement(store: "Store", manifest: "Manifest") -> Metadata:
    """Who read how much, and Δκ by condition."""
    facts, said = (
        manifest.facts_as(ReaderAgreementFacts),
        read_document(store, manifest, AGREEMENT_FILE, ReaderAgreement),
    )
    rows = {row.condition: "unknown" if row.delta.value is None else row.delta.value for row in said.conditions}
    counted = {"readers": facts.readers, "images": facts.images, "unfinished": facts.unfinished}
    return {"study": facts.study, **counted, "delta_kappa": _pairs("condition", rows, "delta_kappa")}


def of_tooth_findings(store: "Store", manifest: "Manifest") -> Metadata:
    """Counts, figures by tooth and by condition where teeth are annotated, and the image with most findings."""
    facts = manifest.facts_as(ToothFindingsFacts)
    populations = read_json(store, manifest, "metrics.json")["populations"] or {}
    return {
        "images": facts.images,
        "images_with_annotated_teeth": facts.images_with_annotated_teeth,
        "teeth": facts.teeth,
        "findings": facts.findings,
        "unassigned_findings": facts.unassigned_findings,
        "tooth_threshold": "none: no tooth was hit" if facts.tooth_threshold is None else facts.tooth_threshold,
        "heads": _pairs("checkpoint", facts.heads_healthy, "healthy"),
        "sample": _pictures(
            store, manifest, "test image with teeth and findings", lambda: [_tooth_sample(store, manifest)]
        ),
        **{key: value for name, found in populations.items() if found for key, value in _by_tooth(name, found).items()},
    }


def _by_tooth(population: str, measured: Mapping[str, Any]) -> Metadata:
    teeth = measured["teeth"]
    return {
        f"teeth_{population}": table([{**teeth, **teeth["misnamed"]}]),
        f"per_tooth_{population}": table(teeth["per_tooth"]),
        f"per_class_{population}": table(measured["per_class"], PER_TOOTH_CLASS),
    }


def of_tooth_report(store: "Store", manifest: "Manifest", path: Path) -> Metadata:
    """Figures by jaw and side, and where the report is."""
    populations = read_json(store, manifest, "report.json")["populations"]
    return {
        "path": dg.MetadataValue.path(str(path)),
        "report": dg.MetadataValue.url(path.as_uri()),
        **{f"by_group_{name}": table(found["ap"]) for name, found in populations.items() if found},
    }


PER_GATE = ("id", "outcome", "severity", "value", "low", "high", "floor")


def of_report(verdict: "Verdict", path: Path) -> Metadata:
    """The verdict in words, each gate, and where the report is."""
    return {
        "verdict": verdict.outcome,
        "in_words": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in verdict.sentences)),
        "gates": table(verdict.rows, PER_GATE),
        "path": dg.MetadataValue.path(str(path)),
        "report": dg.MetadataValue.url(path.as_uri()),
    }


def of_release(_: "Store", manifest: "Manifest") -> Metadata:
    """What was released, and for what it may never be used."""
    facts = manifest.facts_as(ReleaseFacts)
    return {
        "verdict": facts.verdict,
        "never_for_xrays": dg.MetadataValue.bool(facts.never_for_xrays),
        "chain": _pairs("product", facts.chain, "digest"),
        "files": _files(manifest),
    }


def check_result(outcome: "CheckOutcomeFacts") -> dg.AssetCheckResult:
    """A data check's outcome, with its table."""
    return dg.AssetCheckResult(
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR if outcome.blocking else dg.AssetCheckSeverity.WARN,
        description=outcome.summary,
        metadata={"table": table(outcome.rows)} if outcome.rows else {},
    )


_HEADS = {
    True: "The head is healthy",
    False: "The head collapsed: AP is ranking-only, nothing may be released",
    None: "The head's health was not judged (training was too short for it), so nothing may be released",
}


def health_result(store: "Store", checkpoint: "Manifest") -> dg.AssetCheckResult:
    """The head's health as a check: red when it collapsed."""
    health = _health(store, checkpoint)
    ratio = health.ratio_last_to_first
    return dg.AssetCheckResult(
        passed=health.healthy is True,
        severity=dg.AssetCheckSeverity.ERROR,
        description=_HEADS[health.healthy] + ("." if ratio is None else f"; last/first layer score ratio {ratio:.3f}."),
        metadata={"rules": table(health.rules)},
    )


def lineage_result(audited: "AuditResult") -> dg.AssetCheckResult:
    """An audit as a check: red when anything was changed, is missing or does not fit."""
    return dg.AssetCheckResult(
        passed=audited.intact,
        severity=dg.AssetCheckSeverity.ERROR,
        description="Intact down to the raw export." if audited.intact else audited.findings[0],
        metadata={
            "audit": dg.MetadataValue.md(_audit_text(audited)),
            "log_head": audited.log_head or "none",
            "release_head": audited.release_head or "none",
        },
    )


def gate_results(verdict: "Verdict", specs: Sequence[str]) -> list[dg.AssetCheckResult]:
    """Each gate as a check result: ERROR for hard gates, WARN for soft ones."""
    rows = {row.id: row for row in verdict.rows}
    return [_gate_result(name, rows.get(name), verdict.policy) for name in specs]


NO_PLAN = (
    "no plan was named, so nothing shows that policy, recipe and data were chosen before the figures were seen "
    "(`dentsight plan` before a training, then `dentsight run --plan`)."
)


def _gate_result(name: str, row: "GateRow | None", policy: str) -> dg.AssetCheckResult:
    if row is None and name == PLAN_ROW:
        warn = dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(check_name=name, passed=False, severity=warn, description=NO_PLAN)
    if row is None:
        return dg.AssetCheckResult(check_name=name, passed=True, description=f"Policy {policy} has no such gate.")
    severity = dg.AssetCheckSeverity.ERROR if row.severity == "hard" else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(check_name=name, passed=row.passed, severity=severity, description=row.description)


def flat_metrics(store: "Store", manifest: "Manifest") -> dict[str, float]:
    """Every number of the per-class tables as MLflow metrics: `clean/caries/ap50`."""
    populations = _evaluation(store, manifest).populations
    rows = {
        f"{name}/{title}": plain(row)
        for name, population in populations.items()
        for title, row in (*((row.class_name, row) for row in population.per_class), ("macro", population.macro))
    }
    return {
        f"{title}/{key}": float(value)
        for title, row in rows.items()
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _evaluation(store: "Store", manifest: "Manifest") -> EvaluationDocument:
    return read_document(store, manifest, EVALUATION_FILE, EvaluationDocument)


def _health(store: "Store", checkpoint: "Manifest") -> HeadHealth:
    return read_document(store, checkpoint, "health.json", HeadHealth)


def _pairs(name: str, values: Mapping[str, Any], value: str = "value") -> dg.TableMetadataValue:
    return table([{name: key, value: told} for key, told in values.items()])


def _files(manifest: "Manifest") -> dg.TableMetadataValue:
    return table([{"file": path, "bytes": entry.size} for path, entry in manifest.entries.items()])


def _mlflow(record: Record) -> Metadata:
    if record.mlflow_url is None:
        return {}
    return {"mlflow": dg.MetadataValue.url(record.mlflow_url), "mlflow_run": record.mlflow_run or ""}


def _json_of(manifest: "Manifest") -> dg.JsonMetadataValue:
    """The manifest's facts, without its long lists."""
    short = {
        key: value if not isinstance(value, list) or len(value) <= 20 else f"{len(value)} items"
        for key, value in manifest.facts.items()
    }
    return dg.MetadataValue.json({"kind": manifest.kind, "inputs": dict(manifest.inputs), "facts": short})


PREVIEW_VERSION = "1"
"""Goes up when the same product would be drawn otherwise."""


def _pictures(
    store: "Store", manifest: "Manifest", title: str, draw: Callable[[], Sequence[bytes]]
) -> dg.MarkdownMetadataValue:
    """Small pictures of a product, drawn once for exactly these bytes and kept: decoding X-rays is slow."""
    read = {manifest.kind.replace("-", "_"): manifest.digest}

    def drawn() -> "Manifest":
        files = {f"{number}.jpg": picture for number, picture in enumerate(draw())}
        return build(store, Kind.PREVIEW, files, read, PreviewFacts(title=title))

    kept = memo.once(store, memo.key("preview", PREVIEW_VERSION, read, {}), drawn)
    encoded = [base64.b64encode(read_bytes(store, kept, path)).decode() for path in kept.entries]
    return dg.MetadataValue.md("\n\n".join(f"![{title}](data:image/jpeg;base64,{picture})" for picture in encoded))


def _samples(store: "Store", manifest: "Manifest", count: int = 2) -> dg.MarkdownMetadataValue:
    splits = manifest.facts_as(DatasetFacts).splits
    last = next((name for name in reversed(SPLITS) if name in splits), None)
    if last is None:
        return dg.MetadataValue.md("no split")

    def draw() -> list[bytes]:
        from dentsight_pipeline.data.preview import richest_images
        from dentsight_pipeline.data.splits import read_split

        return richest_images(store, read_split(store, manifest, last), count)

    return _pictures(store, manifest, f"{last} image with boxes", draw)


def _tooth_sample(store: "Store", manifest: "Manifest") -> bytes:
    from dentsight_pipeline.data.preview import draw_boxes

    images = read_json(store, manifest, "findings.json")["images"]
    richest = max(images, key=lambda image: (len(image["findings"]), len(image["teeth"])))
    boxes = [(tooth["fdi"], tooth["bbox_xywh_px"]) for tooth in richest["teeth"]]
    boxes += [(f"{finding['class']} {_place(finding)}", finding["bbox_xywh_px"]) for finding in richest["findings"]]
    subset = store.get_manifest(manifest.inputs[Asset.CONDITION_SUBSET])
    return draw_boxes(store.get_bytes(subset.entries[richest["file_name"]].sha256), boxes)


def _place(finding: Mapping[str, Any]) -> str:
    """Its teeth; of an absent tooth the number that its neighbours leave, said to be inferred."""
    if finding["teeth"]:
        return "+".join(finding["teeth"])
    return "(no tooth)" if finding["inferred_tooth"] is None else f"({finding['inferred_tooth']} inferred)"


def _audit_text(audited: "AuditResult") -> str:
    """Result, findings and notes of an audit, and the command that hashes everything."""
    lines = ["**INTACT**" if audited.intact else "**NOT INTACT**", *(f"- {finding}" for finding in audited.findings)]
    return "\n".join([*lines, *(f"- {note}" for note in audited.notes), "", f"`dentsight audit {audited.digest}`"])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
