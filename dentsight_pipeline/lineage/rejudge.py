"""The verdict of a stored report, given again by the gates on the stored evaluation, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.facts import ReportFacts
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.lineage.walk import Walk, name_of
from dentsight_pipeline.release import product
from dentsight_pipeline.release.policy import checked, load_policy, policy_names
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store

_WORDS_OF_THE_CODE = frozenset({"because", "sentence"})
"""Parts of a gate's row that are wording, not decision: another version of the package may word them otherwise."""


def misjudged(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """Where a report's verdict is not what the gates say about the stored evaluation, or the report tells another."""
    facts = manifest.facts_as(ReportFacts)
    stored, report = product.verdict_of(store, manifest), product.report_of(store, manifest)
    if report.verdict != stored:
        yield f"report.json of the {name_of(manifest)} tells another verdict than its verdict.json."
    if (facts.verdict, facts.releasable) != (stored.outcome, stored.releasable):
        yield f"The {name_of(manifest)} is marked {facts.verdict}, but its verdict.json says {stored.outcome}."
    if (report.champion.digest if report.champion else None) != facts.champion:
        yield f"report.json of the {name_of(manifest)} compares with another champion than its facts name."
    if report.policy.digest != stored.policy_digest or not can_block(report.policy):
        yield f"The policy in report.json of the {name_of(manifest)} is not the one that its verdict was given under."
        return
    if is_altered(report.policy):
        yield (
            f"The {name_of(manifest)} was judged under a policy that calls itself {report.policy.name} "
            f"v{report.policy.version} but differs from the packaged one."
        )
    yield from _otherwise(store, walked, manifest)


def can_block(policy: Policy) -> bool:
    """Whether a policy is one that is not refused for what it would let pass."""
    try:
        return checked(policy) == policy
    except ConfigurationError:
        return False


def is_altered(policy: Policy) -> bool:
    """Whether a policy carries name and version of a packaged one, and is not that one."""
    packaged = load_policy(policy.name) if policy.name in policy_names() else policy
    return packaged.version == policy.version and packaged.digest != policy.digest


def _otherwise(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """What the gates say otherwise when they are asked again."""
    evaluation, checkpoint = (walked.input_of(manifest, n) for n in (Asset.CLASS_METRICS, Asset.TRAINED_CHECKPOINT))
    if evaluation is None or checkpoint is None:
        return
    chain: dict[str, Manifest] = {Asset.CLASS_METRICS: evaluation, Asset.TRAINED_CHECKPOINT: checkpoint}
    report = product.report_of(store, manifest)
    if report.evaluation != product.evaluation_of(store, evaluation):
        yield f"The evaluation that report.json of the {name_of(manifest)} shows is not the stored one."
    if report.health != product.health_of(store, checkpoint):
        yield f"The health that report.json of the {name_of(manifest)} shows is not the stored one."
    overrides = manifest.facts_as(ReportFacts).overrides
    again = product.verdict_on(store, chain, report.policy, report.champion, overrides)
    for difference in _differences(plain(product.verdict_of(store, manifest)), plain(again)):
        yield f"The verdict of the {name_of(manifest)} was edited: {difference}."
        return


def _differences(stored: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Where a stored verdict differs in substance from the one given now, in words."""
    for key in ("outcome", "releasable"):
        if stored[key] != again[key]:
            yield f"it says {key} {stored[key]!r}, but the gates give {again[key]!r} on the stored evaluation"
    yield from _row_differences({row["id"]: row for row in stored["rows"]}, {row["id"]: row for row in again["rows"]})
    if not str(next(iter(stored["sentences"]), "")).startswith(stored["outcome"]):
        yield f"its first sentence does not say {stored['outcome']}"
    for key in ("classes", "head", "champion", "ground_truth_sha256", "detections_sha256", "overrides"):
        if stored[key] != again[key]:
            yield f"its {key} is not what the gates give on the stored evaluation"


def _row_differences(stored: Mapping[str, Mapping[str, Any]], again: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for gate in dict.fromkeys([*again, *stored]):
        if gate not in stored:
            yield f"gate {gate} is missing"
        elif gate not in again:
            yield f"gate {gate} is not in its policy"
        else:
            kept = stored[gate]
            for key in [key for key in again[gate] if key not in _WORDS_OF_THE_CODE]:
                if kept.get(key) != again[gate][key]:
                    yield (
                        f"gate {gate} says {key} {kept.get(key)!r}, but the stored evaluation gives "
                        f"{again[gate][key]!r}"
                    )
