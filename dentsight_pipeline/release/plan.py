"""A plan before a training, and whether what was made afterwards fulfils it.

Shaped like FDA's predetermined change control plan: what will be trained on what, judged by which floors, is signed and
logged first. A release under the plan can then show that nothing was chosen after the figures were seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dentsight_pipeline.documents.codec import pretty
from dentsight_pipeline.documents.evaluation import NOT_KNOWN, SUBGROUP_AXES
from dentsight_pipeline.documents.facts import CheckpointFacts, PlanFacts, SubsetFacts
from dentsight_pipeline.documents.lineage import Began, Record
from dentsight_pipeline.documents.names import Asset, Kind, raw_exports
from dentsight_pipeline.documents.plan import PLAN, PLAN_ENVELOPE, Plan, PlannedSource
from dentsight_pipeline.documents.verdict import PLAN_ROW, GateRow, RowOutcome
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.release.envelope import signed, unsealed
from dentsight_pipeline.release.policy import rule_problem
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import build, read_bytes, read_document
from dentsight_pipeline.store.records import records_of

if TYPE_CHECKING:
    from dentsight_pipeline.documents.evaluation import EvaluationDocument
    from dentsight_pipeline.documents.policy import Policy
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

EVERYTHING = "everything"
EXPORT = "export"
_NOTHING = ("iou", "floor", "value", "low", "high", "n", "unit_count")
_ALWAYS = {
    "id": PLAN_ROW,
    "tier": "0",
    "title": "The plan is fulfilled",
    "metric": PLAN_ROW,
    "condition": "all",
    "operator": "within",
    "severity": "hard",
    "reason": "What is judged must not be chosen after the figures were seen.",
    "advice": "",
    **dict.fromkeys(_NOTHING),
}


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
    if wide := {gate.id: -gate.floor for gate in policy.gates if gate.operator == ">" and -gate.floor > plan.margin}:
        raise ConfigurationError(
            f"The margin is {plan.margin:g}, but {', '.join(wide)} of policy {policy.name!r} let a model fall behind "
            f"by more. Give --margin {max(wide.values()):g}, or a policy with a narrower one."
        )
    if plan.approvals and (problem := rule_problem(plan.approvals)):
        raise ConfigurationError(f"The approvals cannot be meant: {problem}. Name different people with --approver.")
    text = pretty(plan)
    files: dict[str, Path | bytes] = {PLAN: text, PLAN_ENVELOPE: signed(text, private_key)}
    manifest = build(store, Kind.PLAN, files, {}, PlanFacts(title=plan.title, by=plan.by, policy=plan.policy))
    store.put_manifest(manifest)
    record = {"asset": str(Asset.PLAN), "action": "plan", "by": plan.by, "started": started}
    return manifest, log.append(store, manifest.digest, record).head


def subgroup_problem(names: Sequence[str], exports: int) -> str | None:
    """Why no evaluation can show figures of a subgroup, so that a plan with it would be broken by any training.

    Args:
        names: The subgroups of a plan.
        exports: How many the planned dataset with the most of them has.
    """
    if unknown := [name for name in names if name.partition(":")[0] not in SUBGROUP_AXES]:
        return f"there is no subgroup {unknown[0]!r}. Give --subgroup as one of {', '.join(SUBGROUP_AXES)}"
    if EXPORT in names and exports < 2:
        return "the planned data are of one export, so there are no figures by export. Leave --subgroup export out"
    return None


def plan_in(store: Store, manifest: Manifest) -> Plan:
    """What a stored plan says."""
    return read_document(store, manifest, PLAN, Plan)


def row_of(
    store: Store, manifest: Manifest, policy: Policy, checkpoint: Manifest, evaluation: EvaluationDocument
) -> GateRow:
    """Whether a model was made and judged as planned, as a row of the verdict."""
    plan, reading = plan_in(store, manifest), log.read(store)
    broken = [
        *_not_signed(store, manifest, plan),
        *_other_policy(plan, policy),
        *_other_recipe(plan, checkpoint.facts_as(CheckpointFacts)),
        *_other_data(plan, sources_of(store, store.get_manifest(checkpoint.inputs[Asset.CONDITION_SUBSET]))),
        *_not_shown(plan, evaluation),
        *_too_late(reading.of(manifest.digest), reading, records_of(store, checkpoint.digest)),
    ]
    held = f"broken: {'; '.join(broken)}" if broken else "fulfilled"
    return _row(manifest.digest, not broken, f"Plan {manifest.digest[:12]} by {plan.by} is {held}.")


def _row(digest: str, fulfilled: bool, because: str) -> GateRow:
    outcome: RowOutcome = "PASS" if fulfilled else "FAIL"
    return GateRow(
        **_ALWAYS,
        outcome=outcome,
        point="pass" if fulfilled else "FAIL",
        because=because,
        source=f"Plan {digest}.",
        blocks=not fulfilled,
        sentence=f"plan: {outcome}. {because}",
    )


def _not_signed(store: Store, manifest: Manifest, plan: Plan) -> Iterator[str]:
    text, envelope = (read_bytes(store, manifest, name) for name in (PLAN, PLAN_ENVELOPE))
    if unsealed(envelope, plan.key.encode()) != text:
        yield "signature: it is not signed with the key that it names"


def _other_policy(plan: Plan, policy: Policy) -> Iterator[str]:
    planned = f"{plan.policy.name} v{plan.policy.version} ({plan.policy.digest[:12]})"
    if policy.digest != plan.policy.digest:
        yield f"policy: {policy.name} v{policy.version} ({policy.digest[:12]}) is not the planned {planned}"


def _other_recipe(plan: Plan, trained: CheckpointFacts) -> Iterator[str]:
    if trained.recipe_digest not in plan.recipes.values():
        yield f"recipe: {trained.recipe} ({trained.recipe_digest[:12]}) is none of {', '.join(plan.recipes)} as planned"


def _not_shown(plan: Plan, evaluation: EvaluationDocument) -> Iterator[str]:
    if lacking := [name for name in plan.subgroups if name not in subgroups_in(evaluation)]:
        yield f"subgroups: nothing was measured of {', '.join(lacking)}"


def _other_data(plan: Plan, found: tuple[PlannedSource, ...]) -> Iterator[str]:
    planned, used = ({source.raw_export: source for source in sources} for sources in (plan.sources, found))
    yield from (f"source: {used[raw].name} ({raw[:12]}) was not planned" for raw in used.keys() - planned.keys())
    yield from (f"source: {planned[raw].name} ({raw[:12]}) is missing" for raw in planned.keys() - used.keys())
    for raw in used.keys() & planned.keys():
        for clause in ("mapping", "coverage"):
            if getattr(used[raw], clause) != getattr(planned[raw], clause):
                yield f"{clause}: {used[raw].name} is read with another {clause} than planned"


def subgroups_in(evaluation: EvaluationDocument) -> frozenset[str]:
    """The names that a plan may ask for: a respect (`brightness`), a group of it (`brightness: darkest`), `export`."""
    measured = [group for group in evaluation.subgroups if group.group != NOT_KNOWN]
    names = {name for group in measured for name in (group.axis, f"{group.axis}: {group.group}")}
    return frozenset(names | ({EXPORT} if evaluation.by_export else set()))


def _too_late(told: Sequence[log.LogEntry], reading: log.LogReading, records: Sequence[Record]) -> Iterator[str]:
    """The plan must lie in the log before the first attempt at the training began: by the log, and by the clock."""
    if not told:
        yield "order: the plan is not in the log"
        return
    for record in (record for record in records if record.asset == Asset.TRAINED_CHECKPOINT):
        if problem := _after_the_beginning(told[0], reading, record.began or Began()):
            yield f"order: {problem}; train again (another seed is another checkpoint)"


def _after_the_beginning(entry: log.LogEntry, reading: log.LogReading, began: Began) -> str | None:
    head, signed_at = log.head_of(began.log or ""), entry.record.get("started")
    if head is None or began.time is None or not isinstance(signed_at, int | float):
        return "nothing says when the training began"
    before = entry.sequence <= head.sequence and reading.holds(head) and signed_at <= began.time
    return None if before else "it was signed after the training had begun"
