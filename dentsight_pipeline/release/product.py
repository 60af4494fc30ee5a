"""From a stored evaluation to a stored report and, when the gates allow it, to a stored release."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.documents.codec import convert, plain, pretty, read
from dentsight_pipeline.documents.evaluation import EVALUATION_FILE, EvaluationDocument
from dentsight_pipeline.documents.facts import (
    CheckpointFacts,
    PolicyVersion,
    PredictionsFacts,
    ReportFacts,
    SplitsFacts,
    SubsetFacts,
    ToothFindingsFacts,
)
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.names import Asset, Kind, raw_exports
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.documents.readers import AGREEMENT_FILE, ReaderAgreement, reader_agreement_ref
from dentsight_pipeline.documents.release import ChainLink, chain_behind
from dentsight_pipeline.documents.report import REPORT, REPORT_FILES, VERDICT, Report, ReportedData
from dentsight_pipeline.documents.teeth import METRICS_FILE, ReportedTeeth, ToothMetrics, tooth_findings_ref
from dentsight_pipeline.documents.verdict import PLAN_ROW, ChampionComparison, Override, Verdict
from dentsight_pipeline.errors import ConfigurationError, RefConflictError, ReleaseError
from dentsight_pipeline.release import approval
from dentsight_pipeline.release import plan as plans
from dentsight_pipeline.release.gates import judge
from dentsight_pipeline.release.licences import licences_of
from dentsight_pipeline.store.content import build, materialise, read_bytes, read_document
from dentsight_pipeline.store.records import first_record

if TYPE_CHECKING:
    from dentsight_pipeline.release.report.build import ReportInputs
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

ASSETS_BELOW = (Asset.CLASS_METRICS, Asset.TEST_PREDICTIONS, Asset.TRAINED_CHECKPOINT, Asset.CONDITION_SUBSET)
_RELEASE_ATTEMPTS = 5


def chain_of(store: Store, evaluation: Manifest) -> dict[str, Manifest]:
    """The products behind an evaluation, by asset name, each by the digest that the one above it names."""
    predictions = store.get_manifest(evaluation.inputs[Asset.TEST_PREDICTIONS])
    checkpoint = store.get_manifest(predictions.inputs[Asset.TRAINED_CHECKPOINT])
    subset = store.get_manifest(evaluation.inputs[Asset.CONDITION_SUBSET])
    return dict(zip(map(str, ASSETS_BELOW), (evaluation, predictions, checkpoint, subset), strict=True))


def beside(store: Store, evaluation: Manifest, plan: str | None) -> dict[str, Manifest]:
    """What a report reads beside its chain, by asset: the newest reader study and findings by tooth of the model, and
    the plan; each may be absent."""
    newest = {Asset.READER_AGREEMENT: reader_agreement_ref, Asset.TOOTH_FINDINGS: tooth_findings_ref}
    named = {asset: (store.read_ref(ref(evaluation.digest)) or {}).get(asset) for asset, ref in newest.items()}
    named[Asset.PLAN] = plan
    return {asset: store.get_manifest(digest) for asset, digest in named.items() if digest}


def overrides_of(given: Mapping[str, str]) -> tuple[Override, ...]:
    """Overrides from `gate id → "Name: reason"`.

    Raises:
        ConfigurationError: A value without a name and a reason.
    """
    overrides = []
    for gate, text in sorted(given.items()):
        name, _, reason = (part.strip() for part in text.partition(":"))
        if not name or not reason:
            raise ConfigurationError(
                f'Override of {gate!r} is {text!r}. Write who decides and why, as "Name: reason"; both are printed '
                "on the report."
            )
        overrides.append(Override(gate=gate, name=name, reason=reason))
    return tuple(overrides)


def verdict_on(
    store: Store,
    chain: Mapping[str, Manifest],
    policy: Policy,
    champion: ChampionComparison | None,
    overrides: tuple[Override, ...] = (),
    readers: ReaderAgreement | None = None,
    planned: Manifest | None = None,
) -> Verdict:
    """What the gates say of a stored evaluation.

    Args:
        store: Where everything is.
        chain: From `chain_of`.
        policy: The gates.
        champion: From `champion.comparison_with`.
        overrides: From `overrides_of`.
        readers: The reader study of this model, if one was made.
        planned: The plan that it is held against, if one was named.
    """
    checkpoint = chain[Asset.TRAINED_CHECKPOINT]
    evaluation, health = evaluation_of(store, chain[Asset.CLASS_METRICS]), health_of(store, checkpoint)
    row = plans.row_of(store, planned, policy, checkpoint, evaluation) if planned else None
    return judge(evaluation, policy, health, champion, overrides, licences_of(store, checkpoint), readers, row)


def evaluation_of(store: Store, evaluation: Manifest) -> EvaluationDocument:
    """What a stored evaluation measured."""
    where = f"{EVALUATION_FILE} of {evaluation.digest[:12]}"
    return read(read_bytes(store, evaluation, EVALUATION_FILE), EvaluationDocument, where)


def health_of(store: Store, checkpoint: Manifest) -> HeadHealth:
    """The head's readings that a checkpoint holds."""
    return read(read_bytes(store, checkpoint, "health.json"), HeadHealth, f"health.json of {checkpoint.digest[:12]}")


def verdict_of(store: Store, report: Manifest) -> Verdict:
    """The verdict that a stored report was made from."""
    return read(read_bytes(store, report, VERDICT), Verdict, f"{VERDICT} of {report.digest[:12]}")


def report_of(store: Store, report: Manifest) -> Report:
    """The facts of a stored report."""
    return read(read_bytes(store, report, REPORT), Report, f"{REPORT} of {report.digest[:12]}")


def publish_report(
    store: Store,
    chain: Mapping[str, Manifest],
    policy: Policy,
    overrides: tuple[Override, ...],
    champion: ChampionComparison | None,
    *,
    title: str,
) -> Manifest:
    """Judge an evaluation and publish its report.

    Args:
        store: Where everything is.
        chain: From `chain_of`; with a product `reader_agreement` the study is judged and shown, with
            `tooth_findings` what they measured.
        policy: The gates.
        overrides: From `overrides_of`.
        champion: From `champion.comparison_with`.
        title: What was judged.

    Returns:
        The published manifest of kind `release-report`, with `REPORT_FILES`.
    """
    from dentsight_pipeline.release.report.build import build_report

    study = chain.get(Asset.READER_AGREEMENT)
    readers = stored_agreement(store, study) if study else None
    found = chain.get(Asset.TOOTH_FINDINGS)
    teeth = stored_teeth(store, found) if found else None
    verdict = verdict_on(store, chain, policy, champion, overrides, readers, chain.get(Asset.PLAN))
    facts = ReportFacts(
        title=title,
        verdict=verdict.outcome,
        releasable=verdict.releasable,
        policy=PolicyVersion(name=policy.name, version=policy.version, digest=policy.digest),
        never_for_xrays=verdict.never_for_xrays,
        overrides=overrides,
        champion=verdict.champion,
        corpus=chain[Asset.CONDITION_SUBSET].facts_as(SubsetFacts).corpus,
    )
    inputs = {name: product.digest for name, product in chain.items()}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report"
        given = _report_inputs(store, chain, policy, verdict, champion, title, Path(folder))
        build_report(replace(given, readers=readers, teeth=teeth), out)
        files: dict[str, Path | bytes] = {path.name: path for path in out.iterdir()}
        files[VERDICT] = pretty(verdict)
        manifest = build(store, Kind.RELEASE_REPORT, files, inputs, facts)
    store.put_manifest(manifest)
    return manifest


def _report_inputs(
    store: Store,
    chain: Mapping[str, Manifest],
    policy: Policy,
    verdict: Verdict,
    champion: ChampionComparison | None,
    title: str,
    folder: Path,
) -> ReportInputs:
    """Everything that the report is made from; the evaluation is laid out in `folder`."""
    from dentsight_pipeline.data.splits import read_split
    from dentsight_pipeline.release.report.build import ReportInputs
    from dentsight_pipeline.release.report.pictures import Truth

    evaluation, predictions, checkpoint, subset = (chain[name] for name in ASSETS_BELOW)
    read_beside = [product for name, product in chain.items() if name not in ASSETS_BELOW]
    splits = store.get_manifest(subset.inputs[Asset.NORMALIZED_SPLITS])
    data = plain(splits.facts_as(SplitsFacts)) | plain(subset.facts_as(SubsetFacts))
    training = first_record(store, checkpoint.digest)
    test = read_split(store, subset, "test")
    names = dict(zip(test.image_ids.tolist(), test.images["file_name"].to_pylist(), strict=True))
    return ReportInputs(
        title=title,
        evaluation_folder=materialise(store, evaluation, folder / "evaluation"),
        verdict=verdict,
        policy=policy,
        health=health_of(store, checkpoint),
        data=convert(data, ReportedData, "the facts of splits and subset"),
        checkpoint=checkpoint.facts_as(CheckpointFacts),
        predictions=predictions.facts_as(PredictionsFacts),
        chain=chain_links(store, (*read_beside, evaluation, predictions, checkpoint, subset)),
        cost=training.cost,
        links={"MLflow run": training.mlflow_url} if training.mlflow_url else {},
        champion=champion,
        truth=Truth.of_split(test),
        images=lambda image_id: store.get_bytes(subset.entry(names[image_id]).sha256),
    )


def chain_links(store: Store, above: Sequence[Manifest]) -> tuple[ChainLink, ...]:
    """The products that a report rests on, from the newest, by way of the subset that is the last given, down to the
    raw exports.
    """
    splits = store.get_manifest(above[-1].inputs[Asset.NORMALIZED_SPLITS])
    below = (*above, splits, *map(store.get_manifest, raw_exports(splits.inputs)))
    return tuple(ChainLink(kind=manifest.kind, digest=manifest.digest) for manifest in below)


def stored_agreement(store: Store, made: Manifest) -> ReaderAgreement:
    """What a stored reader study says."""
    return read_document(store, made, AGREEMENT_FILE, ReaderAgreement)


def stored_teeth(store: Store, made: Manifest) -> ReportedTeeth:
    """What stored findings by tooth measured."""
    measured = read_document(store, made, METRICS_FILE, ToothMetrics)
    healthy = made.facts_as(ToothFindingsFacts).heads_healthy
    return ReportedTeeth(heads_healthy=healthy, populations=measured.populations)


def show(store: Store, report: Manifest, folder: Path) -> Path:
    """Put a report where people find it; returns the path of its HTML."""
    materialise(store, report, folder)
    return folder / "report.html"


def refusal(report: Manifest, verdict: Verdict) -> str:
    """Why a report's model may not be released, in one sentence or two."""
    blocking = "; ".join(row.sentence.rstrip(".") for row in verdict.blocking[:3])
    broken = any(row.id == PLAN_ROW for row in verdict.blocking)
    other = "Train a better model, or record an override with a name and a reason"
    remedy = "A broken plan cannot be overridden" if broken else other
    more = f" (and {len(verdict.blocking) - 3} more)" if len(verdict.blocking) > 3 else ""
    return (
        f"The verdict on checkpoint {report.inputs[Asset.TRAINED_CHECKPOINT][:12]} is {verdict.outcome} under policy "
        f"{verdict.policy} v{verdict.policy_version}: {blocking}{more}. {remedy}."
    )


def publish_release(store: Store, report: Manifest, keys: Path) -> Manifest:
    """Sign and publish the model that a report allows.

    The model folder is taken by the digests that the report names, so what is released is what was judged.

    Args:
        store: Where everything is.
        report: A report whose verdict allows the release.
        keys: Folder of the signing key; a local EC key is made there when there is none.

    Returns:
        The published manifest of kind `release`.

    Raises:
        ReleaseError: The verdict does not allow it, or others keep releasing at the same moment.
    """
    from dentsight_pipeline.release import statement

    verdict = verdict_of(store, report)
    if not verdict.releasable:
        raise ReleaseError(refusal(report, verdict))
    if lacking := approval.lacking(store, report):
        raise ReleaseError(lacking)
    for _ in range(_RELEASE_ATTEMPTS):
        manifest = _signed_release(store, report, verdict, keys)
        store.put_manifest(manifest)
        try:
            statement.advance(store, manifest)
        except (ReleaseError, RefConflictError):
            continue  # another release took this place in the chain: follow it
        return manifest
    raise ReleaseError(
        f"Others released {_RELEASE_ATTEMPTS} times while this release was being signed. Release again when they are "
        "done."
    )


def _signed_release(store: Store, report: Manifest, verdict: Verdict, keys: Path) -> Manifest:
    """The release that follows the present head of the chain; not yet published."""
    from dentsight_pipeline.release import statement

    checkpoint = store.get_manifest(report.inputs[Asset.TRAINED_CHECKPOINT])
    with tempfile.TemporaryDirectory() as temporary:
        folder = materialise(store, checkpoint, Path(temporary) / "release", "model/")
        for name in REPORT_FILES:
            (folder / name).write_bytes(read_bytes(store, report, name))
        approved = approval.write_approvals(store, report, folder)
        facts = statement.write(
            store,
            folder,
            report=report,
            checkpoint=checkpoint,
            verdict=verdict,
            chain=chain_behind(report.digest, report.inputs),
            approved_by=approved,
        )
        statement.sign(folder, keys)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        return build(store, Kind.RELEASE, files, {Asset.RELEASE_REPORT: report.digest}, facts)
