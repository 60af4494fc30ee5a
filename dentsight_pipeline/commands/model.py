"""`dentsight evaluate`, `gate`, `heads` and `predict`: models and figures, without Dagster."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.console import fields, json_file, show, staged
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from dentsight_pipeline.documents.detections import XrayFindings
    from dentsight_pipeline.lineage.reference import Registry
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store


@dataclass(frozen=True)
class PredictRequest:
    """What `dentsight predict` was asked for."""

    images: list[Path]
    """Files, folders or DICOMDIRs."""
    checkpoint: str
    """The model of stage 2."""
    out: Path
    """Folder for what is written."""
    threshold: float
    """Least score that is shown."""
    teeth: str = ""
    """The model of stage 1, or findings by tooth, which also say which teeth count; empty: no teeth."""
    sr: bool = False
    """Whether an SR is written for each X-ray."""


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
    show(facts, as_json, lambda: "\n".join([*verdict.sentences, *text.next_steps(verdict)]))
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
    if rescue is None and (head is not None or ground_truth is not None):
        raise ConfigurationError("--head and --ground-truth are of a rescue. Add --rescue OUT, or leave them out.")
    from dentsight_pipeline.training import heads as audit_of_heads

    audited = audit_of_heads.audit_heads(checkpoint, audit_of_heads.read_images(images) if images else None)
    facts = plain(audited)
    if rescue is not None:
        chosen, truth = max(audited.rescue_heads) if head is None else head, ground_truth and json_file(ground_truth)
        facts["rescued"] = plain(audit_of_heads.rescue(checkpoint, chosen, rescue, ground_truth=truth, images=images))
    show(facts, as_json, lambda: text.heads(facts))


def predict(request: PredictRequest, as_json: bool) -> None:
    """Find conditions on images, as JSON, pictures and, where asked for, SRs."""
    from dentsight_pipeline.intake.dicom import xray_files
    from dentsight_pipeline.training.xrays import predict_images

    xrays, left_out = xray_files(request.images)
    if request.sr:
        _refuse_what_has_no_sr(xrays)
    with _models(request) as opened:
        found = predict_images(
            xrays,
            opened.folder,
            request.threshold,
            pictures=request.out,
            teeth_folder=opened.teeth,
            tooth_score=opened.tooth_score,
        )
    facts = {
        "checkpoint": request.checkpoint,
        "teeth": request.teeth or None,
        "tooth_score": opened.tooth_score if request.teeth else None,
        "tooth_score_from": opened.tooth_score_from if request.teeth else None,
        "threshold": request.threshold,
        "left_out": dict(left_out),
        "findings": plain(found),
        "reports": _write_reports(request, xrays, found, opened.name) if request.sr else [],
    }
    (request.out / "findings.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    show(facts, as_json, lambda: text.findings(facts, request.out))


def _refuse_what_has_no_sr(xrays: Sequence[Path]) -> None:
    from dentsight_pipeline.data.dicom import is_dicom_file

    for path in xrays:
        if path.is_file() and not is_dicom_file(path):
            raise ConfigurationError(f"{path} is no DICOM file, and an SR refers to one. Leave --sr or that file out.")


class _Models(NamedTuple):
    """The models of a prediction, as folders."""

    folder: Path
    """Stage 2's."""
    teeth: Path | None
    """Stage 1's."""
    tooth_score: float
    """From which on a tooth counts as found."""
    tooth_score_from: str
    """The split that it was chosen on, or `default`."""
    name: str
    """What they are called in an SR: by digest."""


@contextmanager
def _models(request: PredictRequest) -> Iterator[_Models]:
    """The models that were asked for."""
    from dentsight_pipeline.lineage.reference import checkpoint_folder
    from dentsight_pipeline.orchestration.resources import Workspace
    from dentsight_pipeline.orchestration.tracking.registry import registry_of

    workspace = Workspace()
    store, registry = workspace.store, registry_of(workspace)
    with ExitStack() as opened:
        refs = [ref for ref in (request.checkpoint, request.teeth) if ref]
        folders = [opened.enter_context(checkpoint_folder(store, ref, registry)) for ref in refs]
        named = [_named(store, ref, folder, registry) for ref, folder in zip(refs, folders, strict=True)]
        score = _tooth_score(store, request.teeth, registry)
        yield _Models(folders[0], folders[1] if request.teeth else None, *score, ", teeth by ".join(named))


def _tooth_score(store: Store, ref: str, registry: Registry | None) -> tuple[float, str]:
    """From which score on a tooth counts as found, and where that is from.

    Raises:
        ConfigurationError: Findings by tooth whose stage 1 hit no tooth.
    """
    from dentsight_pipeline.documents.names import Kind
    from dentsight_pipeline.documents.teeth import FINDINGS_FILE, ToothFindings
    from dentsight_pipeline.store.content import read_document
    from dentsight_pipeline.training.xrays import TOOTH_SCORE

    made = _product(store, ref, registry) if ref else None
    if made is None or made.kind != Kind.TOOTH_FINDINGS:
        return TOOTH_SCORE, "default"
    chosen = read_document(store, made, FINDINGS_FILE, ToothFindings).thresholds
    if chosen.teeth is None:
        raise ConfigurationError(
            f"Stage 1 of {ref} hit no tooth on {chosen.teeth_chosen_on}, so nothing says which of its scores to "
            "believe. Train it longer, or leave --teeth out."
        )
    return chosen.teeth, chosen.teeth_chosen_on


def _product(store: Store, ref: str, registry: Registry | None) -> Manifest | None:
    """What a reference means in the store; None for a folder that it does not know."""
    from dentsight_pipeline.lineage.reference import resolve

    try:
        return store.get_manifest(resolve(store, ref, registry).digest)
    except ConfigurationError:
        return None


def _named(store: Store, ref: str, folder: Path, registry: Registry | None) -> str:
    """A model by kind and digest of its product; one that the store does not know by its weights."""
    from dentsight_pipeline.store.local import hash_file

    made = _product(store, ref, registry)
    return f"weights {hash_file(folder / 'model.safetensors')[0]}" if made is None else f"{made.kind} {made.digest}"


def _write_reports(
    request: PredictRequest, xrays: Sequence[Path], found: Sequence[XrayFindings], model: str
) -> list[str]:
    from dentsight_pipeline.training.structured_report import write_report

    made = zip(xrays, found, strict=True)
    return [
        str(write_report(path.read_bytes(), one, model, request.threshold, request.out / f"{one.image}.sr.dcm"))
        for path, one in made
    ]
