"""A plan before a training, and whether what was made afterwards fulfils it.

Shaped like FDA's predetermined change control plan: what will be trained on what, judged by which floors, is signed and
logged first. A release under the plan can then show that nothing was chosen after the figures were seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.documents.codec import pretty, read
from dentsight_pipeline.documents.facts import CheckpointFacts, PlanFacts, SubsetFacts
from dentsight_pipeline.documents.names import Asset, Kind, raw_exports
from dentsight_pipeline.documents.plan import PLAN, PLAN_ENVELOPE, Plan, PlannedSource
from dentsight_pipeline.documents.verdict import GateRow, RowOutcome
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.release.envelope import signed, unsealed
from dentsight_pipeline.release.policy import rule_problem
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import build, read_bytes
from dentsight_pipeline.store.records import records_of

if TYPE_CHECKING:
    from dentsight_pipeline.documents.evaluation import EvaluationDocument
    from dentsight_pipeline.documents.policy import Policy
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

ROW = "plan_fulfilled"
"""Id of the verdict's row about the plan. It is no gate of a policy, so nobody can override it."""
EVERYTHING = "everything"


def sources_of(store: Store, subset: Manifest) -> tuple[PlannedSource, ...]:
    """The exports of a subset, and how each is read."""
    exports = subset.facts_as(SubsetFacts).by_export.items()
    raws = raw_exports(store.get_manifest(subset.inputs[Asset.NORMALIZED_SPLITS]).inputs)
    return tuple(
        PlannedSource(
            name=name,
            raw_export=raw,
            mapping=mapping.digest,
            coverage=mapping.coverage.digest if mapping.coverage else EVERYTHING,
        )
        for raw, (name, (_, mapping)) in zip(raws, exports, strict=True)
    )


def sign_plan(store: Store, plan: Plan, policy: Policy, private_key: Path, started: float) -> tuple[Manifest, log.Head]:
    """Sign a plan and write it into the log.

    Args:
        store: Where it is kept.
        plan: What is planned.
        policy: Its gates.
        private_key: Of the key that it names.
        started: Now.

    Returns:
        The plan, and its entry of the log, which is worth noting elsewhere.

    Raises:
        ConfigurationError: Its policy lets a model fall behind by more than its margin, or its approvals ask for less
            than they seem to.
    """
    if wide := [gate.id for gate in policy.gates if gate.operator == ">" and -gate.floor > plan.margin]:
        raise ConfigurationError(
            f"The margin is {plan.margin:g}, but {', '.join(wide)} of policy {policy.name!r} let a model fall behind "
            "by more. Give a wider --margin, or a policy with a narrower one."
        )
    if plan.approvals and (problem := rule_problem(plan.approvals)):
        raise ConfigurationError(f"The approvals cannot be meant: {problem}. Name different people with --approver.")
    text = pretty(plan)
    files: dict[str, Path | bytes] = {PLAN: text, PLAN_ENVELOPE: signed(text, private_key)}
    manifest = build(store, Kind.PLAN, files, {}, PlanFacts(title=plan.title, by=plan.by, policy=plan.policy))
    store.put_manifest(manifest)
    record = {"asset": str(Asset.PLAN), "action": "plan", "by": plan.by, "started": started}
    return manifest, log.append(store, manifest.digest, record).head


def plan_in(store: Store, manifest: Manifest) -> Plan:
    """What a stored plan says."""
    return read(read_bytes(store, manifest, PLAN), Plan, f"{PLAN} of {manifest.digest[:12]}")


def row_of(
    store: Store, manifest: Manifest, policy: Policy, checkpoint: Manifest, evaluation: EvaluationDocument
) -> GateRow:
    """Whether a model was made and judged as planned, as a row of the verdict."""
    plan = plan_in(store, manifest)
    broken = list(_broken(store, manifest, plan, policy, checkpoint, evaluation))
    held = f"broken: {'; '.join(broken)}" if broken else "fulfilled"
    because = f"Plan {manifest.digest[:12]} by {plan.by} is {held}."
    outcome: RowOutcome = "FAIL" if broken else "PASS"
    return GateRow(
        id=ROW,
        tier="0",
        title="The plan is fulfilled",
        metric=ROW,
        condition="all",
        iou=None,
        operator="within",
        floor=None,
        severity="hard",
        outcome=outcome,
        point="FAIL" if broken else "pass",
        value=None,
        low=None,
        high=None,
        n=None,
        unit_count=None,
        because=because,
        source=f"Plan {manifest.digest}.",
        reason="What is judged must not be chosen after the figures were seen.",
        advice="",
        blocks=bool(broken),
        sentence=f"plan: {outcome}. {because}",
    )


def _broken(
    store: Store, manifest: Manifest, plan: Plan, policy: Policy, checkpoint: Manifest, evaluation: EvaluationDocument
) -> Iterator[str]:
    """The clauses that do not hold, one phrase each."""
    if unsealed(read_bytes(store, manifest, PLAN_ENVELOPE), plan.key.encode()) != read_bytes(store, manifest, PLAN):
        yield "signature: it is not signed with the key that it names"
    if policy.digest != plan.policy.digest:
        planned = f"{plan.policy.name} v{plan.policy.version} ({plan.policy.digest[:12]})"
        yield f"policy: {policy.name} v{policy.version} ({policy.digest[:12]}) is not the planned {planned}"
    trained = checkpoint.facts_as(CheckpointFacts)
    if trained.recipe_digest not in plan.recipes.values():
        yield f"recipe: {trained.recipe} ({trained.recipe_digest[:12]}) is none of {', '.join(plan.recipes)} as planned"
    yield from _other_data(plan, sources_of(store, store.get_manifest(checkpoint.inputs[Asset.CONDITION_SUBSET])))
    if lacking := [name for name in plan.subgroups if name not in subgroups_in(evaluation)]:
        yield f"subgroups: nothing was measured of {', '.join(lacking)}"
    yield from _too_late(store, manifest, checkpoint)


def _other_data(plan: Plan, found: tuple[PlannedSource, ...]) -> Iterator[str]:
    planned, used = ({source.raw_export: source for source in sources} for sources in (plan.sources, found))
    yield from (f"source: {used[raw].name} ({raw[:12]}) was not planned" for raw in used.keys() - planned.keys())
    yield from (f"source: {planned[raw].name} ({raw[:12]}) is missing" for raw in planned.keys() - used.keys())
    for raw in used.keys() & planned.keys():
        for clause in ("mapping", "coverage"):
            if getattr(used[raw], clause) != getattr(planned[raw], clause):
                yield f"{clause}: {used[raw].name} is read with another {clause} than planned"


def subgroups_in(evaluation: EvaluationDocument) -> frozenset[str]:
    """The names of what an evaluation shows apart: each subgroup, and `export` where the images are of several."""
    named = getattr(evaluation, "subgroups", None) or ()
    families = {str(getattr(item, "family", getattr(item, "name", item))) for item in named}
    return frozenset(families | ({"export"} if evaluation.by_export else set()))


def _too_late(store: Store, manifest: Manifest, checkpoint: Manifest) -> Iterator[str]:
    """The plan must lie in the log before the first attempt at the training began: by the log, and by the clock."""
    reading = log.read(store)
    entry = next(iter(reading.of(manifest.digest)), None)
    if entry is None:
        yield "order: the plan is not in the log"
        return
    signed_at = entry.record.get("started")
    for record in records_of(store, checkpoint.digest):
        if record.asset not in (Asset.TRAINED_CHECKPOINT, Asset.TOOTH_CHECKPOINT):
            continue
        head = log.head_of(record.began.log) if record.began and record.began.log else None
        if record.began is None or head is None or record.began.time is None:
            yield "order: nothing says when the training began; train again (another seed is another checkpoint)"
        elif (
            head.sequence < entry.sequence
            or not reading.holds(head)
            or not (isinstance(signed_at, int | float) and signed_at <= record.began.time)
        ):
            yield "order: it was signed after the training had begun; train again (another seed is another checkpoint)"
