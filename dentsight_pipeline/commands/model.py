"""`dentsight evaluate`, `gate`, `heads` and `predict`: models and figures, without Dagster."""

import json
from pathlib import Path
from typing import Any

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.console import fields, json_file, show, staged
from dentsight_pipeline.documents.codec import plain


def evaluate(out: Path, as_json: bool, **given: Any) -> None:
    """Evaluate COCO files into a folder; what is given is what `evaluate_files` takes."""
    from dentsight_pipeline.evaluation.evaluate import evaluate_files

    facts = evaluate_files(out=out, progress=staged(), **given)
    show(facts, as_json, lambda: text.evaluation(facts, out))


def agreement(readings: Path, model: str, margin: float, resamples: int, seed: int, as_json: bool) -> None:
    """Compare a model's readings with those of dentists."""
    from dentsight_pipeline.evaluation.agreement import agreement_of_readings

    found = agreement_of_readings(readings, model=model, margin=margin, resamples=resamples, seed=seed)
    facts = {"model": model, "conditions": plain(found)}
    show(facts, as_json, lambda: text.agreement(facts, margin))


def gate(
    evaluation: Path, policy: str, health: Path | None, override: list[str], licence: list[str], as_json: bool
) -> int:
    """Judge a written evaluation; gives the exit status."""
    from dentsight_pipeline.documents.codec import convert
    from dentsight_pipeline.documents.evaluation import read_evaluation
    from dentsight_pipeline.documents.health import HeadHealth
    from dentsight_pipeline.release.gates import judge
    from dentsight_pipeline.release.policy import load_policy
    from dentsight_pipeline.release.product import overrides_of

    heads = convert(json_file(health), HeadHealth, health) if health else None
    overrides = overrides_of(fields(override, "--override"))
    licences = {f"source {number}": name for number, name in enumerate(licence, start=1)}
    verdict = judge(read_evaluation(evaluation), load_policy(policy), heads, overrides=overrides, licences=licences)
    told = plain(verdict)
    facts = {"verdict": verdict.outcome, "gates": [{**row, "verdict": row["outcome"]} for row in told["rows"]], **told}
    show(facts, as_json, lambda: "\n".join(verdict.sentences))
    return verdict.exit_code


def heads(
    checkpoint: Path,
    images: Path | None,
    rescue: Path | None,
    head: int | None,
    ground_truth: Path | None,
    as_json: bool,
) -> None:
    """Audit a checkpoint's class heads, and write one that scores with an earlier head where that is asked for."""
    from dentsight_pipeline.training import heads as audit_of_heads

    audited = audit_of_heads.audit_heads(checkpoint, audit_of_heads.read_images(images) if images else None)
    facts = plain(audited)
    if rescue is not None:
        chosen, truth = max(audited.rescue_heads) if head is None else head, ground_truth and json_file(ground_truth)
        facts["rescued"] = plain(audit_of_heads.rescue(checkpoint, chosen, rescue, ground_truth=truth, images=images))
    show(facts, as_json, lambda: text.heads(facts))


def predict(images: list[Path], checkpoint: str, out: Path, threshold: float, as_json: bool) -> None:
    """Find conditions on images, as JSON and pictures in `out`."""
    from dentsight_pipeline.intake.dicom import xray_files
    from dentsight_pipeline.lineage.reference import checkpoint_folder
    from dentsight_pipeline.orchestration.resources import Workspace
    from dentsight_pipeline.orchestration.tracking.registry import registry_of
    from dentsight_pipeline.training.xrays import predict_images

    xrays, left_out = xray_files(images)
    out.mkdir(parents=True, exist_ok=True)
    workspace = Workspace()
    with checkpoint_folder(workspace.store, checkpoint, registry_of(workspace)) as folder:
        found = predict_images(xrays, folder, threshold, pictures=out)
    facts = {"checkpoint": checkpoint, "threshold": threshold, "left_out": dict(left_out), "findings": plain(found)}
    (out / "findings.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    show(facts, as_json, lambda: text.findings(facts, out))
