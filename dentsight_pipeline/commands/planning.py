"""`dentsight plan` and `approve`: what is said before a training, and who signs before a release."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dentsight_pipeline.commands.console import fields, show
from dentsight_pipeline.commands.export import subset_of
from dentsight_pipeline.documents.facts import PolicyVersion
from dentsight_pipeline.documents.names import Kind, with_article
from dentsight_pipeline.documents.plan import ApprovalTold, Plan, Planned
from dentsight_pipeline.documents.policy import ApprovalRule
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.lineage.reference import resolve
from dentsight_pipeline.orchestration.lineage_events import KEYS_FOLDER
from dentsight_pipeline.orchestration.partitions import RECIPES
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.release.keys import key_pair


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is asked to say."""

    data: list[str]
    recipes: list[str]
    by: str
    policy: str = "card"
    subgroups: list[str] | tuple[str, ...] = ()
    margin: float = 0.05
    approvers: list[str] | tuple[str, ...] = ()
    approvals: int | None = None
    title: str = ""
    overrides: list[str] | tuple[str, ...] = ()


def plan(request: PlanRequest, as_json: bool) -> None:
    """Sign a plan, and say its digest."""
    told = make_plan(Workspace(), request)
    next_step = f"Train under it: `dentsight run --plan {told.plan[:12]} …`."
    show(told, as_json, lambda: f"Plan {told.plan}\nEntry of the log {told.entry}; note both. {next_step}")


def make_plan(workspace: Workspace, request: PlanRequest) -> Planned:
    """Sign policy, recipes, data and the rest, and write them into the log.

    Raises:
        ConfigurationError: Something that it names is unknown, or cannot be meant.
    """
    from dentsight_pipeline.release import plan as plans
    from dentsight_pipeline.release.policy import load_policy

    if not request.by.strip():
        raise ConfigurationError("A plan needs somebody who plans: --by NAME.")
    policy, keys = load_policy(request.policy), key_pair(workspace.folder / KEYS_FOLDER)
    subsets = [subset_of(workspace.store, ref) for ref in request.data]
    sources = [plans.sources_of(workspace.store, subset) for subset in subsets]
    if problem := plans.subgroup_problem(request.subgroups, max(map(len, sources))):
        raise ConfigurationError(f"This plan could never be fulfilled: {problem}.")
    made = Plan(
        title=request.title or f"{', '.join(request.data)} × {', '.join(request.recipes)}",
        by=request.by,
        policy=PolicyVersion(name=policy.name, version=policy.version, digest=policy.digest),
        recipes=_recipes(request.recipes, fields(request.overrides, "--set")),
        sources=tuple(source for of_subset in sources for source in of_subset),
        subgroups=tuple(request.subgroups),
        margin=request.margin,
        approvals=_rule(request),
        key=keys.public.read_text("utf-8"),
    )
    manifest, entry = plans.sign_plan(workspace.store, made, policy, keys.private, time.time())
    return Planned(plan=manifest.digest, entry=str(entry), content=made)


def _recipes(names: list[str], overrides: Mapping[str, str]) -> dict[str, str]:
    from dentsight_pipeline.training import recipe as recipes

    if unknown := [name for name in names if name not in RECIPES]:
        raise ConfigurationError(f"{unknown[0]!r} is no recipe; there are {', '.join(RECIPES)}. Choose with --recipe.")
    return {name: recipes.named(name).override(overrides).digest for name in names}


def _rule(request: PlanRequest) -> ApprovalRule | None:
    if not request.approvers:
        if request.approvals is not None:
            raise ConfigurationError(
                f"--approvals {request.approvals} needs the people who may approve: add --approver NAME=KEY.pub for "
                "each, or leave it out."
            )
        return None
    people = {}
    for name, file in fields(request.approvers, "--approver").items():
        if not Path(file).is_file() or "PUBLIC KEY" not in Path(file).read_text("utf-8", errors="replace"):
            raise ConfigurationError(f"{file} is no public key of {name}. Give --approver {name}=KEY.pub, a PEM file.")
        people[name] = Path(file).read_text("utf-8")
    return ApprovalRule(needed=request.approvals or 2, people=people)


def approve(report: str, by: str, key: Path, as_json: bool) -> None:
    """Sign a report, and say who did so far."""
    told = approve_report(Workspace(), report, by, key)
    people = ", ".join(told.by)
    show(told, as_json, lambda: f"Approved by {people}; {told.needed} are needed. Then `dentsight run` again.")


def approve_report(workspace: Workspace, ref: str, by: str, key: Path) -> ApprovalTold:
    """Sign what a reference means.

    Raises:
        ConfigurationError: It means no report.
        ReleaseError: The name or key is not one of those that policy or plan name, or they approved already.
    """
    from dentsight_pipeline.release import approval

    found = resolve(workspace.store, ref)
    report = workspace.store.get_manifest(found.digest)
    if report.kind != Kind.RELEASE_REPORT or found.findings:
        problem = found.findings[0] if found.findings else f"it is {with_article(report.kind)}"
        raise ConfigurationError(f"{ref} is no release report: {problem}. Give its digest or its report.html.")
    people = approval.approve(workspace.store, report, by, key, time.time())
    needed = max(rule.needed for rule in approval.rules_of(workspace.store, report))
    return ApprovalTold(report=report.digest, by=people, needed=needed)
