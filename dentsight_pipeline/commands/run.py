"""One cell of the experiment matrix from end to end, in this process: what `dentsight run` does.

The same jobs run that the Dagster UI, the schedules and the sensors launch; here they are chained, and a person at a
terminal sees what they do.
"""

import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.console import show
from dentsight_pipeline.documents.commands import CellMade
from dentsight_pipeline.documents.names import Kind, with_article
from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline.intake.datasets import DEMO_KEY, words
from dentsight_pipeline.intake.limits import known_kinds
from dentsight_pipeline.orchestration import recovery
from dentsight_pipeline.orchestration.executor import execute_here
from dentsight_pipeline.orchestration.failure import cause_of, is_deliberate, is_interruption, words_of
from dentsight_pipeline.orchestration.instance import open_instance
from dentsight_pipeline.orchestration.partitions import RECIPES, cell_key, checked_dataset_key
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.workers import identity_of, tag_of

if TYPE_CHECKING:
    from dagster_shared.error import SerializableErrorInfo


@dataclass(frozen=True)
class CellRequest:
    """What to run. Empty strings mean "as usual"."""

    export: tuple[str, ...] = ()
    source: str = ""
    mapping: tuple[str, ...] = ()
    dataset: str = ""
    recipe: str = "smoke"
    overrides: dict[str, str] = field(default_factory=dict)
    policy: str = "card"
    drop: tuple[str, ...] = ()
    accept_repairs: tuple[str, ...] = ()
    replace: str = ""
    allow_head_collapse: str = ""
    gate_overrides: dict[str, str] = field(default_factory=dict)
    with_teeth: bool = False
    with_review: bool = False
    study: str = ""
    stage: str = ""
    plan: str = ""


_Facts = dict[str, Any]
"""Metadata of one materialisation, or configuration of one asset."""


@dataclass(frozen=True)
class _Job:
    """One job of a cell's chain."""

    name: str
    """In the code location."""
    makes: tuple[str, ...]
    """Its assets, in order."""
    by_recipe: bool
    """Whether it is partitioned by dataset × recipe, else by dataset."""
    option: str = ""
    """The field of the request without which it does not run."""
    unless: str = ""
    """The field of the request with which it does not run."""
    aside: bool = False
    """Whether what follows can be known without it."""

    def partition(self, dataset: str, recipe: str) -> str:
        """The key that it runs for."""
        return cell_key(dataset, recipe) if self.by_recipe else dataset

    def ops(self, configs: Mapping[str, _Facts]) -> _Facts:
        """The run configuration of its assets."""
        return {asset: {"config": configs[asset]} for asset in self.makes if asset in configs}


_MEASURED = ("trained_checkpoint", "test_predictions", "class_metrics")
_JUDGED = ("release_report", "released_model")
_CHAIN = (
    _Job("data", ("raw_export", "normalized_splits", "condition_subset"), by_recipe=False),
    _Job("teeth_data", ("tooth_subset",), by_recipe=False, option="with_teeth", aside=True),  # early: it may refuse
    _Job("experiment", (*_MEASURED, *_JUDGED), by_recipe=True, unless="with_teeth"),
    _Job("measure", _MEASURED, by_recipe=True, option="with_teeth"),
    _Job("teeth", ("tooth_checkpoint", "tooth_findings"), by_recipe=True, option="with_teeth"),
    _Job("judge", _JUDGED, by_recipe=True, option="with_teeth"),  # late: what is released shows findings by tooth
    _Job("readers", ("reader_agreement", "release_report"), by_recipe=True, option="study", aside=True),
    _Job("review", ("label_review",), by_recipe=True, option="with_review", aside=True),
)

_TEETH_ALONE = (
    _Job("teeth_alone_data", ("raw_export", "normalized_splits", "tooth_subset"), by_recipe=False),
    _Job("teeth_alone", ("tooth_checkpoint", "tooth_report"), by_recipe=True),
)
STAGES = {"": _CHAIN, "teeth": _TEETH_ALONE}
"""What `--stage` chooses; without it the conditions, and beside them what else is asked for."""


def run(request: CellRequest, as_json: bool) -> None:
    """Materialise a cell, and tell what was made."""
    made = run_cell(request)
    show(made, as_json, lambda: text.run(made))


def run_cell(request: CellRequest) -> CellMade:
    """Materialise every asset of one cell.

    What a killed run left behind in this home is taken back first.

    Raises:
        DentsightError: The first refusal, in the words of the room that refused.
    """
    dataset = dataset_of(request)
    configs = configs_of(request)
    workspace, me = Workspace(), identity_of(os.getpid(), "")
    with open_instance() as instance:
        _take_back(instance, workspace)
        with recovery.partition_of(instance, workspace, dataset, me):
            sys.stderr.write(f"Cell {dataset} × {request.recipe}\n")
            made = _run_jobs(instance, dataset, request, configs)
    return _told(request, dataset, made)


def _take_back(instance: dg.DagsterInstance, workspace: Workspace) -> None:
    for run_id in recovery.take_back(instance, workspace):
        sys.stderr.write(f"Run {run_id} was killed; what it finished is kept, and its slots are free again.\n")


def _run_jobs(
    instance: dg.DagsterInstance, dataset: str, request: CellRequest, configs: dict[str, _Facts]
) -> dict[str, _Facts]:
    """Run the chain; gives the metadata of each materialisation by asset, in order."""
    from dentsight_pipeline.definitions import defs

    chosen = chain(request)
    terminal = {"terminal": {"config": {"assets": [asset for job in chosen for asset in job.makes]}}}
    made: dict[str, _Facts] = {}
    for job in chosen:
        partition, config = job.partition(dataset, request.recipe), {"ops": job.ops(configs), "loggers": terminal}
        made |= _execute(defs.resolve_job_def(job.name), instance, partition, config)
    return made


def chain(request: CellRequest) -> list[_Job]:
    """The jobs of a cell, in order."""

    def asked(job: _Job) -> bool:
        return (not job.option or getattr(request, job.option)) and not (job.unless and getattr(request, job.unless))

    return [job for job in STAGES[request.stage] if asked(job)]


def _execute(
    job: dg.JobDefinition, instance: dg.DagsterInstance, partition: str, run_config: _Facts
) -> dict[str, _Facts]:
    """Run one job in this process; gives the metadata of each materialisation by asset."""
    run_id = str(uuid.uuid4())
    # Whoever looks on must see that this process is the run's worker, and a run that ends with its terminal is taken up
    # again by the same command, not by the daemon.
    tags = {**tag_of(os.getpid(), run_id), "dagster/max_retries": "0"}
    result = execute_here(job, instance, partition, run_config, run_id, tags)
    if not result.success:
        raise cause(result)
    return dict(map(_metadata, result.get_asset_materialization_events()))


def _metadata(event: dg.DagsterEvent) -> tuple[str, _Facts]:
    made = event.step_materialization_data.materialization
    return made.asset_key.to_user_string(), {name: value.value for name, value in made.metadata.items()}


def _told(request: CellRequest, dataset: str, made: dict[str, _Facts]) -> CellMade:
    if request.stage:
        return _teeth_told(request, dataset, made)
    report = made["release_report"]
    return CellMade(
        dataset=dataset,
        recipe=request.recipe,
        dataset_digest=made["condition_subset"]["digest"],
        checkpoint_digest=made["trained_checkpoint"]["digest"],
        verdict=report["verdict"],
        report=report["path"],
        report_digest=report["digest"],
        released=made.get("released_model", {}).get("digest"),
        cached=[name for name, facts in made.items() if facts["reused"]],
        **{f"{name}_digest": made[name]["digest"] for name in _ON_REQUEST if name in made},
    )


_ON_REQUEST = ("tooth_findings", "reader_agreement", "label_review")


def _teeth_told(request: CellRequest, dataset: str, made: dict[str, _Facts]) -> CellMade:
    """Of stage 1 alone; no gate judges it, so its verdict cannot be a pass."""
    return CellMade(
        dataset=dataset,
        recipe=request.recipe,
        dataset_digest=made["tooth_subset"]["digest"],
        checkpoint_digest=made["tooth_checkpoint"]["digest"],
        verdict="INCONCLUSIVE",
        report=made["tooth_report"]["path"],
        report_digest=made["tooth_report"]["digest"],
        released=None,
        cached=[name for name, facts in made.items() if facts["reused"]],
    )


def dataset_of(request: CellRequest) -> str:
    """The dataset key that a request means; the demo's without one and without an export."""
    if not request.dataset and not request.export:
        return DEMO_KEY
    if not request.dataset:
        verb = "need" if len(request.export) > 1 else "needs"
        raise ConfigurationError(
            f"{words(request.export)} {verb} a dataset key of its own: add --dataset KEY, e.g. --dataset "
            "opg-reporting-v8."
        )
    return checked_dataset_key(request.dataset)


def configs_of(request: CellRequest) -> dict[str, _Facts]:
    """Configuration by asset; nonsense is refused here, before anything starts.

    Raises:
        ConfigurationError: There is no such recipe, field, source or kind of repairs, no study that anybody has read,
            or an export's address is malformed.
        DataError: There is nothing at the place of an export.
    """
    _require_recipe(request)
    if request.stage not in STAGES:
        raise ConfigurationError(f"--stage {request.stage} is none; there is `teeth`. Leave it out for the conditions.")
    if request.stage and (request.with_teeth or request.with_review or request.study):
        raise ConfigurationError(
            "--stage teeth is stage 1 alone; --with-teeth, --with-review and --study need stage 2. Leave --stage out."
        )
    training = {"overrides": request.overrides, "allow_head_collapse": request.allow_head_collapse}
    return {
        "raw_export": {
            "export": list(_exports(request)),
            "source": _source(request),
            "mapping": list(_mappings(request)),
            "drop": list(request.drop),
            "accept_repairs": list(known_kinds(request.accept_repairs)),
            "replace": request.replace,
        },
        "trained_checkpoint": training,
        "tooth_checkpoint": training,
        "label_review": training,
        "reader_agreement": {"study": _study_of(request)},
        "release_report": {
            "policy": _policy_of(request),
            "overrides": request.gate_overrides,
            "plan": _plan_of(request),
        },
    }


def _exports(request: CellRequest) -> tuple[str, ...]:
    from dentsight_pipeline.intake.acquire import refuse_missing

    for location in request.export:
        refuse_missing(location)
    return request.export


def _source(request: CellRequest) -> str:
    if request.source:
        from dentsight_pipeline.data.ontology import mapping_for

        mapping_for(request.source)
    return request.source


def _study_of(request: CellRequest) -> str:
    """The folder of a reader study; what the end of the chain would refuse is refused before a training."""
    if request.study:
        from dentsight_pipeline.pages.readings import study_readings

        study_readings(Path(request.study))
    return request.study


def _plan_of(request: CellRequest) -> str:
    """The digest of the plan that was named; empty where none was."""
    if not request.plan:
        return ""
    from dentsight_pipeline.lineage.reference import resolve

    store = Workspace().store
    found = store.get_manifest(resolve(store, request.plan).digest)
    if found.kind != Kind.PLAN:
        raise ConfigurationError(
            f"--plan {request.plan} is {with_article(found.kind)}. Give what `dentsight plan` told."
        )
    return found.digest


def _require_recipe(request: CellRequest) -> None:
    from dentsight_pipeline.training import recipe as recipes

    if request.recipe not in RECIPES:
        raise ConfigurationError(
            f"{request.recipe!r} is no recipe; there are {', '.join(RECIPES)}. Choose with --recipe."
        )
    recipes.named(request.recipe).override(request.overrides)


def _mappings(request: CellRequest) -> tuple[str, ...]:
    """Of each export; what cannot be read is refused before anything starts."""
    if request.mapping:
        from dentsight_pipeline.intake.mapping_file import load_mapping, mappings_of

        mappings_of(request.mapping, len(request.export) or len(request.mapping))
        for file in request.mapping:
            load_mapping(file)
    return request.mapping


def _policy_of(request: CellRequest) -> str:
    """The policy as the jobs find it: a name, or an absolute path. What they would refuse is refused before a training.

    Raises:
        ConfigurationError: There is no such policy, it could decide nothing, or an override names none of its gates.
    """
    from dentsight_pipeline.release.gates import overrides_by_gate
    from dentsight_pipeline.release.policy import load_policy, policy_names
    from dentsight_pipeline.release.product import overrides_of

    policy = load_policy(request.policy)
    overrides_by_gate(overrides_of(request.gate_overrides), policy)
    return request.policy if request.policy in policy_names() else str(Path(request.policy).absolute())


def cause(result: dg.ExecuteInProcessResult) -> BaseException:
    """The deliberate error behind a failed run, or a summary of what broke; an interruption stays one."""
    causes = (_cause_of(event, result.run_id) for event in result.all_events if event.is_step_failure)
    return next(filter(None, causes), None) or _outside_its_steps(result)


def _outside_its_steps(result: dg.ExecuteInProcessResult) -> BaseException:
    errors = [event.job_failure_data.error for event in result.all_events if event.is_job_failure]
    if any(map(is_interruption, errors)):
        return KeyboardInterrupt()
    told = "".join(f" {cause_of(error).message.strip()}" for error in errors if error)
    return DentsightError(f"Run {result.run_id} failed outside its steps; see its log in the Dagster UI.{told}")


def _cause_of(event: dg.DagsterEvent, run_id: str) -> BaseException | None:
    data = event.step_failure_data
    if data.error_source is not None and data.user_failure_data is not None:
        return DentsightError(data.user_failure_data.description or "")
    if is_interruption(data.error):
        return KeyboardInterrupt()
    return None if data.error is None else _refusal_or_crash(event.step_key or "?", cause_of(data.error), run_id)


def _refusal_or_crash(step: str, info: "SerializableErrorInfo", run_id: str) -> Exception:
    if is_deliberate(info):
        return DentsightError(words_of(info))
    return RuntimeError(
        f"{step} failed: {words_of(info)}\n{''.join(info.stack)}\nThe whole log is in Dagster run {run_id}."
    )
