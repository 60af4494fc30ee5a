"""What a materialisation shows in the Dagster UI: tables, sample images, links. Reads manifests, decides nothing."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.documents.facts import (
    CheckpointFacts,
    DatasetFacts,
    RawExportFacts,
    ReleaseFacts,
    ToothFindingsFacts,
)
from dentsight_pipeline.documents.lineage import Record
from dentsight_pipeline.lineage.walk import walk
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.store.content import read_json
from dentsight_pipeline.store.records import first_record

if TYPE_CHECKING:
    from dentsight_pipeline.documents.facts import CheckOutcomeFacts
    from dentsight_pipeline.documents.lineage import AuditResult
    from dentsight_pipeline.documents.verdict import Verdict
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

Value = Any


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> dg.TableMetadataValue:
    """A table for the UI; None becomes a dash, floats keep four decimals."""
    names = list(columns or (rows[0].keys() if rows else ["(empty)"]))
    return dg.MetadataValue.table(
        records=[dg.TableRecord({name: _cell(row.get(name)) for name in names}) for row in rows],
        schema=dg.TableSchema(columns=[dg.TableColumn(name, type="string") for name in names]),
    )


def of_raw_export(manifest: "Manifest", location: str) -> dict[str, Value]:
    """Where an export came from, and how big it is."""
    corpus = manifest.facts_as(RawExportFacts).corpus
    return {
        "location": location,
        "corpus": f"{corpus.name} ({corpus.kind})",
        "licence": corpus.licence,
        "files": len(manifest.entries),
        "bytes": manifest.size,
        "manifest": _json_of(manifest),
    }


def of_splits(workspace: Workspace, manifest: "Manifest") -> dict[str, Value]:
    """Class counts by split, leakage, repairs and sample images with their boxes."""
    facts = manifest.facts_as(DatasetFacts)
    splits = facts.splits
    counts = [
        {"class": name, **{split: held.class_counts.get(name, 0) for split, held in splits.items()}}
        for name in facts.classes
    ]
    overview = [
        {
            "split": split,
            "images": held.images,
            "clean images": held.clean_images,
            "annotations": held.annotations,
        }
        for split, held in splits.items()
    ]
    return {
        "images": sum(held.images for held in splits.values()),
        "annotations": sum(held.annotations for held in splits.values()),
        "splits": table(overview),
        "class_counts": table(counts),
        "samples": dg.MetadataValue.md(_samples(workspace.store, manifest)),
        "manifest": _json_of(manifest),
    }


def of_checkpoint(workspace: Workspace, manifest: "Manifest", reports: Path | None = None) -> dict[str, Value]:
    """Recipe, size and health, and the way to data, MLflow run, report and audit.

    Args:
        workspace: Where the store is.
        manifest: The checkpoint.
        reports: Folder that the cell's report is written to.
    """
    walked = walk(workspace.store, manifest.digest)
    data = [{"product": walked.asset(digest), "digest": digest} for digest in walked.named if digest != manifest.digest]
    report = {"report": dg.MetadataValue.path(str(reports / "report.html"))} if reports else {}
    facts = manifest.facts_as(CheckpointFacts)
    record = first_record(workspace.store, manifest.digest)
    recipe = read_json(workspace.store, manifest, "recipe.json")
    health = read_json(workspace.store, manifest, "health.json")
    return {
        "recipe": facts.recipe,
        "recipe_digest": facts.recipe_digest,
        "recipe_fields": table([{"field": key, "value": str(value)} for key, value in recipe.items()]),
        "variant": dg.MetadataValue.bool(facts.variant),
        "parameters": facts.parameters,
        "best_step": facts.best_step,
        "head": {True: "healthy", False: "COLLAPSED: ranking-only", None: "not judged"}[facts.healthy],
        "head_layers": table([_flat(layer) for layer in health.get("layers", [])]),
        "cost": table([{"what": key, "value": value} for key, value in (record.cost or {}).items()]),
        "data": table(data),
        "audit": dg.MetadataValue.md(f"See the check `lineage_is_intact`, or `dentsight audit {manifest.digest}`."),
        **report,
        **_mlflow(record),
    }


def of_predictions(manifest: "Manifest") -> dict[str, Value]:
    """How many detections there are in each split."""
    return {"files": table([{"file": path, "bytes": entry.size} for path, entry in manifest.entries.items()])}


PER_CLASS = ("class", "n_gt", "ap", "ap_low", "ap_high", "ap50", "ar100", "recall_at_p95", "best_f1")


def of_evaluation(workspace: Workspace, manifest: "Manifest") -> dict[str, Value]:
    """The per-class table on the gated population, and the macro figures."""
    evaluation = read_json(workspace.store, manifest, "evaluation.json")
    gated = evaluation["populations"][evaluation["gated_population"]]
    macro = gated["macro"]
    numbers = {f"macro_{key}": float(macro[key]) for key in ("ap", "ap50") if macro.get(key) is not None}
    return {
        "population": f"{evaluation['gated_population']}: {gated['images']} images",
        "per_class": table(gated["per_class"], PER_CLASS),
        "present_classes": f"{macro['present']} of {macro['of']}",
        "engines": table([_flat(evaluation["engines"])]),
        **numbers,
        **_mlflow(first_record(workspace.store, manifest.digest)),
    }


PER_TOOTH_CLASS = ("class", "n_gt", "n_found", "precision", "recall", "f1", "f1_low", "f1_high", "f1_with_true_teeth")


def of_tooth_findings(workspace: Workspace, manifest: "Manifest") -> dict[str, Value]:
    """Counts, figures by tooth and by condition where teeth are annotated, and the image with most findings."""
    store, facts = workspace.store, manifest.facts_as(ToothFindingsFacts)
    counts = ("images", "images_with_annotated_teeth", "teeth", "findings", "unassigned_findings")
    shown: dict[str, Value] = {
        **{name: getattr(facts, name) for name in counts},
        "tooth_threshold": "none: no tooth was hit" if facts.tooth_threshold is None else facts.tooth_threshold,
        "heads": table([{"checkpoint": name, "healthy": ok} for name, ok in facts.heads_healthy.items()]),
        "sample": dg.MetadataValue.md(_tooth_sample(store, manifest)),
    }
    populations = read_json(store, manifest, "metrics.json")["populations"] or {}
    for name, measured in populations.items():
        if measured is None:
            continue
        teeth = measured["teeth"]
        shown |= {
            f"teeth_{name}": table([{**_flat(teeth), **teeth["misnamed"]}]),
            f"per_tooth_{name}": table(teeth["per_tooth"]),
            f"per_class_{name}": table(measured["per_class"], PER_TOOTH_CLASS),
        }
    return shown


def of_report(verdict: "Verdict", path: Path) -> dict[str, Value]:
    """The verdict in words, each gate, and where the report is."""
    rows = [
        {key: getattr(row, key) for key in ("id", "outcome", "severity", "value", "low", "high", "floor")}
        for row in verdict.rows
    ]
    return {
        "verdict": verdict.outcome,
        "in_words": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in verdict.sentences)),
        "gates": table(rows),
        "path": dg.MetadataValue.path(str(path)),
        "report": dg.MetadataValue.url(path.as_uri()),
    }


def of_release(manifest: "Manifest") -> dict[str, Value]:
    """What was released, and for what it may never be used."""
    facts = manifest.facts_as(ReleaseFacts)
    return {
        "verdict": facts.verdict,
        "never_for_xrays": dg.MetadataValue.bool(facts.never_for_xrays),
        "chain": table([{"product": name, "digest": digest} for name, digest in facts.chain.items()]),
        "files": table([{"file": path, "bytes": entry.size} for path, entry in manifest.entries.items()]),
    }


def check_result(outcome: "CheckOutcomeFacts") -> dg.AssetCheckResult:
    """A data check's outcome, with its table."""
    return dg.AssetCheckResult(
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR if outcome.blocking else dg.AssetCheckSeverity.WARN,
        description=outcome.summary,
        metadata={"table": table(outcome.rows)} if outcome.rows else {},
    )


def health_result(store: "Store", checkpoint: "Manifest") -> dg.AssetCheckResult:
    """The head's health as a check: red when it collapsed."""
    health = read_json(store, checkpoint, "health.json")
    healthy = health.get("healthy")
    ratio = health.get("ratio_last_to_first")
    state = {
        True: "The head is healthy",
        False: "The head collapsed: AP is ranking-only, nothing may be released",
    }.get(healthy, "The head's health was not judged (training was too short for it), so nothing may be released")
    return dg.AssetCheckResult(
        passed=healthy is True,
        severity=dg.AssetCheckSeverity.ERROR,
        description=state + ("." if ratio is None else f"; last/first layer score ratio {ratio:.3f}."),
        metadata={"rules": table([_flat(rule) for rule in health.get("rules", [])])},
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
    results = []
    for name in specs:
        check = rows.get(name)
        if check is None:
            text = f"Policy {verdict.policy} has no such gate."
            results.append(dg.AssetCheckResult(check_name=name, passed=True, description=text))
            continue
        severity = dg.AssetCheckSeverity.ERROR if check.severity == "hard" else dg.AssetCheckSeverity.WARN
        results.append(
            dg.AssetCheckResult(check_name=name, passed=check.passed, severity=severity, description=check.description)
        )
    return results


def flat_metrics(store: "Store", manifest: "Manifest") -> dict[str, float]:
    """Every number of the per-class tables as MLflow metrics: `clean/caries/ap50`."""
    evaluation = read_json(store, manifest, "evaluation.json")
    numbers: dict[str, float] = {}
    for population, content in evaluation["populations"].items():
        rows = [*content["per_class"], {"class": "macro", **content["macro"]}]
        for row in rows:
            for key, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    numbers[f"{population}/{row['class']}/{key}"] = float(value)
    return numbers


def _mlflow(record: Record) -> dict[str, Value]:
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


def _samples(store: "Store", manifest: "Manifest", count: int = 2) -> str:
    from dentsight_pipeline.data.preview import richest_images
    from dentsight_pipeline.data.splits import read_split, split_names

    names = split_names(manifest)
    if not names:
        return "no split"
    pictures = map(base64.b64encode, richest_images(store, read_split(store, manifest, names[-1]), count))
    return "\n\n".join(f"![{names[-1]} image with boxes](data:image/jpeg;base64,{p.decode()})" for p in pictures)


def _tooth_sample(store: "Store", manifest: "Manifest") -> str:
    from dentsight_pipeline.data.preview import draw_boxes

    images = read_json(store, manifest, "findings.json")["images"]
    richest = max(images, key=lambda image: (len(image["findings"]), len(image["teeth"])))
    boxes = [(tooth["fdi"], tooth["bbox_xywh_px"]) for tooth in richest["teeth"]]
    boxes += [(f"{finding['class']} {_place(finding)}", finding["bbox_xywh_px"]) for finding in richest["findings"]]
    subset = store.get_manifest(manifest.inputs["condition_subset"])
    picture = draw_boxes(store.get_bytes(subset.entries[richest["file_name"]].sha256), boxes)
    return f"![test image with teeth and findings](data:image/jpeg;base64,{base64.b64encode(picture).decode()})"


def _place(finding: Mapping[str, Any]) -> str:
    """Its teeth; of an absent tooth the number that its neighbours leave, said to be inferred."""
    if finding["teeth"]:
        return "+".join(finding["teeth"])
    return "(no tooth)" if finding["inferred_tooth"] is None else f"({finding['inferred_tooth']} inferred)"


def _audit_text(audited: "AuditResult") -> str:
    """Result, findings and notes of an audit, and the command that hashes everything."""
    lines = ["**INTACT**" if audited.intact else "**NOT INTACT**", *(f"- {finding}" for finding in audited.findings)]
    return "\n".join([*lines, *(f"- {note}" for note in audited.notes), "", f"`dentsight audit {audited.digest}`"])


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if not isinstance(value, dict | list)}


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
