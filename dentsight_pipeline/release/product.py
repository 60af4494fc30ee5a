"""From a stored evaluation to a stored report and, when the gates allow it, to a stored release."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.errors import ConfigurationError, RefConflictError, ReleaseError
from dentsight_pipeline.release.gates import Policy, judge
from dentsight_pipeline.release.verdict import Override, Verdict
from dentsight_pipeline.store.content import build, materialise, read_json

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

_RELEASE_ATTEMPTS = 5
ASSETS_BELOW = ("class_metrics", "test_predictions", "trained_checkpoint", "condition_subset")


def chain_of(store: Store, evaluation: Manifest) -> dict[str, Manifest]:
    """The products behind an evaluation, by asset name, each by the digest that the one above it names."""
    predictions = store.get_manifest(evaluation.inputs["test_predictions"])
    checkpoint = store.get_manifest(predictions.inputs["trained_checkpoint"])
    subset = store.get_manifest(evaluation.inputs["condition_subset"])
    return dict(zip(ASSETS_BELOW, (evaluation, predictions, checkpoint, subset), strict=True))


def overrides_of(given: Mapping[str, str]) -> tuple[Override, ...]:
    """Overrides from `gate id → "Name: reason"`.

    Raises:
        ConfigurationError: A value without a name and a reason.
    """
    overrides = []
    for gate, text in sorted(given.items()):
        name, _, reason = text.partition(":")
        if not name.strip() or not reason.strip():
            raise ConfigurationError(
                f'Override of {gate!r} is {text!r}. Write who decides and why, as "Name: reason"; both are printed '
                "on the report."
            )
        overrides.append(Override(gate=gate, name=name, reason=reason))
    return tuple(overrides)


def publish_report(
    store: Store,
    chain: Mapping[str, Manifest],
    policy: Policy,
    overrides: tuple[Override, ...],
    champion: Mapping[str, Any] | None,
    *,
    title: str,
) -> Manifest:
    """Judge an evaluation and publish its report.

    Args:
        store: Where everything is.
        chain: From `chain_of`.
        policy: The gates.
        overrides: From `overrides_of`.
        champion: From `champion.comparison_with`.
        title: What was judged.

    Returns:
        The published manifest of kind `release-report`, with `report.html`, `report.json`, `model_card.md` and
        `verdict.json`.
    """
    from dentsight_pipeline.release.report.build import ChainLink, ReportInputs, build_report

    evaluation, predictions, checkpoint, subset = (chain[name] for name in ASSETS_BELOW)
    splits = store.get_manifest(subset.inputs["normalized_splits"])
    health = read_json(store, checkpoint, "health.json")
    verdict = judge(read_json(store, evaluation, "evaluation.json"), policy, health, champion, overrides)
    ground_truth = read_split(store, subset, "test").to_coco()
    files = {image["id"]: image["file_name"] for image in ground_truth["images"]}
    below = [evaluation, predictions, checkpoint, subset, splits, store.get_manifest(splits.inputs["raw_export"])]
    training = first_record(store, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        evaluated = materialise(store, evaluation, Path(folder) / "evaluation")
        out = Path(folder) / "report"
        build_report(
            ReportInputs(
                title=title,
                evaluation_folder=evaluated,
                verdict=verdict,
                policy=policy,
                health=health,
                subset_facts={**splits.facts, **subset.facts},
                checkpoint_facts=checkpoint.facts,
                predictions_facts=predictions.facts,
                chain=[ChainLink(manifest.kind, manifest.digest) for manifest in below],
                cost=training.get("cost"),
                links={name: training[key] for name, key in (("MLflow run", "mlflow_url"),) if key in training},
                champion=champion,
                ground_truth=ground_truth,
                images=lambda image_id: store.get_bytes(subset.entry(files[image_id]).sha256),
            ),
            out,
        )
        files_out: dict[str, Any] = {path.name: path for path in out.iterdir()}
        files_out["verdict.json"] = _json(verdict.to_json())
        manifest = build(
            store,
            "release-report",
            files_out,
            {name: product.digest for name, product in chain.items()},
            {
                "verdict": verdict.outcome,
                "releasable": verdict.releasable,
                "policy": {"name": policy.name, "version": policy.version, "digest": policy.digest},
                "never_for_xrays": verdict.never_for_xrays,
                "overrides": [override.model_dump() for override in overrides],
                "champion": champion["digest"] if champion else None,
                "corpus": subset.facts["corpus"],
                "title": title,
            },
        )
    store.put_manifest(manifest)
    return manifest


def verdict_of(store: Store, report: Manifest) -> Verdict:
    """The verdict that a stored report was made from."""
    return Verdict.from_json(read_json(store, report, "verdict.json"))


def show(store: Store, report: Manifest, folder: Path) -> Path:
    """Put a report where people find it; returns the path of its HTML."""
    materialise(store, report, folder)
    return folder / "report.html"


def refusal(report: Manifest, verdict: Verdict) -> str:
    """Why a report's model may not be released, in one sentence or two."""
    blocking = "; ".join(row.sentence for row in verdict.blocking[:3])
    more = f" (and {len(verdict.blocking) - 3} more)" if len(verdict.blocking) > 3 else ""
    return (
        f"The verdict on checkpoint {report.inputs['trained_checkpoint'][:12]} is {verdict.outcome} under policy "
        f"{verdict.policy} v{verdict.policy_version}: {blocking}{more}. Train a better model, or record an override "
        "with a name and a reason."
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

    checkpoint = store.get_manifest(report.inputs["trained_checkpoint"])
    chain = {"release_report": report.digest, **report.inputs}
    with tempfile.TemporaryDirectory() as temporary:
        folder = materialise(store, checkpoint, Path(temporary) / "release", "model/")
        for name in ("report.html", "report.json", "model_card.md", "verdict.json"):
            (folder / name).write_bytes(store.get_bytes(report.entry(name).sha256))
        facts = statement.write(store, folder, report=report, checkpoint=checkpoint, verdict=verdict, chain=chain)
        statement.sign(folder, keys)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        return build(
            store,
            "release",
            files,
            {"release_report": report.digest},
            {**facts, "chain": chain, "verdict": verdict.outcome},
        )


def first_record(store: Store, manifest: Manifest) -> dict[str, Any]:
    """The record of the work that made a product, or an empty one."""
    records = store.records(manifest.digest)
    return min(records, key=lambda record: record.get("started", float("inf"))) if records else {}


def _json(content: Any) -> bytes:
    import json

    return (json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
