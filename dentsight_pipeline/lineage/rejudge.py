"""The verdict of a stored report, given again by the gates on the stored evaluation, and compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from dentsight_pipeline.documents.facts import ReportFacts
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.documents.report import Report
from dentsight_pipeline.documents.verdict import GateRow, Verdict
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.lineage.walk import Walk, name_of
from dentsight_pipeline.release import product
from dentsight_pipeline.release.policy import LICENCE, checked, load_policy, policy_names
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store

_OF_A_VERDICT = ("classes", "head", "champion", "ground_truth_sha256", "detections_sha256", "overrides")
_OF_A_ROW = tuple(field for field in GateRow.__struct_fields__ if field not in ("because", "sentence"))
"""What a gate decides. Its wording is left out: another version of the package may word it otherwise."""


def misjudged(store: Store, walked: Walk, manifest: Manifest) -> Iterator[str]:
    """Where a report's verdict is not what the gates say about the stored evaluation, or the report tells another."""
    facts = manifest.facts_as(ReportFacts)
    stored, report = product.verdict_of(store, manifest), product.report_of(store, manifest)
    if report.verdict != stored:
        yield f"report.json of the {name_of(manifest)} tells another verdict than its verdict.json."
    marked, said = _decision(facts.verdict, facts.releasable), _decision(stored.outcome, stored.releasable)
    if marked != said:
        yield f"The {name_of(manifest)} is marked {marked}, but its verdict.json says {said}."
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
    yield from _otherwise(store, walked, manifest, stored, report)


def _decision(outcome: str, releasable: bool) -> str:
    return f"{outcome}, {'releasable' if releasable else 'not releasable'}"


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


def _otherwise(store: Store, walked: Walk, manifest: Manifest, stored: Verdict, report: Report) -> Iterator[str]:
    """What the gates say otherwise when they are asked again; the first difference is enough."""
    evaluation, checkpoint = (walked.input_of(manifest, n) for n in (Asset.CLASS_METRICS, Asset.TRAINED_CHECKPOINT))
    if evaluation is None or checkpoint is None:
        return
    if report.evaluation != product.evaluation_of(store, evaluation):
        yield f"The evaluation that report.json of the {name_of(manifest)} shows is not the stored one."
    if report.health != product.health_of(store, checkpoint):
        yield f"The health that report.json of the {name_of(manifest)} shows is not the stored one."
    chain: dict[str, Manifest] = {Asset.CLASS_METRICS: evaluation, Asset.TRAINED_CHECKPOINT: checkpoint}
    overrides = manifest.facts_as(ReportFacts).overrides
    study = walked.input_of(manifest, Asset.READER_AGREEMENT)
    if report.readers != (product.stored_agreement(store, study) if study else None):
        yield f"The reader study that report.json of the {name_of(manifest)} shows is not the stored one."
    found = walked.input_of(manifest, Asset.TOOTH_FINDINGS)
    if report.teeth != (product.stored_teeth(store, found) if found else None):
        yield f"The findings by tooth that report.json of the {name_of(manifest)} shows are not the stored ones."
    plan = walked.input_of(manifest, Asset.PLAN)
    again = product.verdict_on(store, chain, report.policy, report.champion, overrides, report.readers, plan)
    for difference in islice(_differences(stored, again), 1):
        yield f"The verdict of the {name_of(manifest)} was edited: {difference}."


def _differences(stored: Verdict, again: Verdict) -> Iterator[str]:
    """Where a stored verdict differs in substance from the one given now, in words."""
    for key, said, given in _unequal(stored, again, ("outcome", "releasable")):
        yield f"it says {key} {said!r}, but the gates give {given!r} on the stored evaluation"
    yield from _row_differences({row.id: row for row in stored.rows}, {row.id: row for row in again.rows})
    if not next(iter(stored.sentences), "").startswith(stored.outcome):
        yield f"its first sentence does not say {stored.outcome}"
    if LICENCE in {row.metric for row in stored.rows} and stored.licences != again.licences:
        yield "its licences are not those of what it was made from"
    for key, _, _ in _unequal(stored, again, _OF_A_VERDICT):
        yield f"its {key} is not what the gates give on the stored evaluation"


def _row_differences(stored: Mapping[str, GateRow], again: Mapping[str, GateRow]) -> Iterator[str]:
    yield from (f"gate {gate} is missing" for gate in again if gate not in stored)
    for gate in [gate for gate in again if gate in stored]:
        for key, said, given in _unequal(stored[gate], again[gate], _OF_A_ROW):
            yield f"gate {gate} says {key} {said!r}, but the stored evaluation gives {given!r}"
    yield from (f"gate {gate} is not in its policy" for gate in stored if gate not in again)


def _unequal(stored: object, again: object, fields: Iterable[str]) -> Iterator[tuple[str, object, object]]:
    """The fields that two documents do not share, each with both values."""
    values = ((field, getattr(stored, field), getattr(again, field)) for field in fields)
    return (row for row in values if row[1] != row[2])
