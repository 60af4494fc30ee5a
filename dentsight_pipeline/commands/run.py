"""One cell of the experiment matrix from end to end, in this process: what `dentsight run` does.

The same two jobs run that the Dagster UI, the schedules and the sensors launch; here they are chained, and a person at
a terminal sees what they do.
"""

import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline.intake.datasets import DEMO_KEY, recall_dataset
from dentsight_pipeline.orchestration.failure import cause_of, is_deliberate, is_interruption, words_of
from dentsight_pipeline.orchestration.instance import open_instance
from dentsight_pipeline.orchestration.partitions import RECIPES, cell_key, checked_dataset_key
from dentsight_pipeline.orchestration.resources import Workspace


@dataclass(frozen=True)
class CellRequest:
    """What to run. Empty strings mean "as usual"."""

    export: str = ""
    source: str = ""
    dataset: str = ""
    recipe: str = "smoke"
    overrides: dict[str, str] = field(default_factory=dict)
    policy: str = "card"
    drop: tuple[str, ...] = ()
    replace: str = ""
    allow_head_collapse: str = ""
    gate_overrides: dict[str, str] = field(default_factory=dict)
    with_teeth: bool = False


def run_cell(request: CellRequest) -> dict[str, Any]:
    """Materialise every asset of one cell.

    Args:
        request: The cell and its settings.

    Returns:
        `dataset`, `recipe`, `dataset_digest`, `checkpoint_digest`, `verdict`, `report` (path), `released` (digest or
        None) and `cached` (assets that were reused); with teeth also `tooth_findings_digest`.

    Raises:
        DentsightError: The first refusal, in the words of the room that refused.
    """
    dataset, export = _dataset_of(request)
    if request.recipe not in RECIPES:
        raise ConfigurationError(
            f"{request.recipe!r} is no recipe; there are {', '.join(RECIPES)}. Choose with --recipe."
        )
    from dentsight_pipeline.training import recipe as recipes

    recipes.named(request.recipe).override(request.overrides)  # refuses nonsense before anything starts
    policy = _policy_of(request)
    from dentsight_pipeline.definitions import defs

    with open_instance() as instance, _partition_of(instance, dataset):
        data_config = {
            "export": export,
            "source": request.source,
            "drop": list(request.drop),
            "replace": request.replace,
        }
        sys.stderr.write(f"Cell {dataset} × {request.recipe}\n")
        training = {"overrides": request.overrides, "allow_head_collapse": request.allow_head_collapse}
        report_config = {"policy": policy, "overrides": request.gate_overrides}
        cell = cell_key(dataset, request.recipe)
        steps: list[tuple[str, str, dict[str, dict[str, Any]]]] = [
            ("data", dataset, {"raw_export": data_config}),
            ("teeth_data", dataset, {}),
            ("experiment", cell, {"trained_checkpoint": training, "release_report": report_config}),
            ("teeth", cell, {"tooth_checkpoint": training}),
        ]
        chosen = [step for step in steps if request.with_teeth or step[0] not in JOBS_OF_TEETH]
        assets = [asset for job, _, _ in chosen for asset in ASSETS_OF_JOBS[job]]
        made: dict[str, dict[str, Any]] = {}
        for job, partition, configs in chosen:
            made |= _execute(defs.resolve_job_def(job), instance, partition, configs, assets)
    report = Workspace().store.get_manifest(made["release_report"]["digest"])
    return {
        "dataset": dataset,
        "recipe": request.recipe,
        "dataset_digest": made["condition_subset"]["digest"],
        "checkpoint_digest": made["trained_checkpoint"]["digest"],
        "verdict": report.facts["verdict"],
        "report": made["release_report"]["path"],
        "report_digest": report.digest,
        "released": made.get("released_model", {}).get("digest"),
        "cached": [name for name, facts in made.items() if facts["reused"]],
        **({"tooth_findings_digest": made["tooth_findings"]["digest"]} if request.with_teeth else {}),
    }


@contextmanager
def _partition_of(instance: dg.DagsterInstance, dataset: str) -> Iterator[None]:
    """The dataset's partition while a cell runs; a new one is taken back when its export was refused."""
    is_new = not instance.has_dynamic_partition("dataset", dataset)
    instance.add_dynamic_partitions("dataset", [dataset])
    try:
        yield
    except BaseException:
        if is_new and recall_dataset(Workspace().store, dataset) is None:
            instance.delete_dynamic_partition("dataset", dataset)
        raise


def _policy_of(request: CellRequest) -> str:
    """The policy as the jobs find it: a name, or an absolute path. What they would refuse is refused before a training.

    Raises:
        ConfigurationError: There is no such policy, it could decide nothing, or an override names none of its gates.
    """
    from dentsight_pipeline.release import gates
    from dentsight_pipeline.release.product import overrides_of

    policy = gates.load_policy(request.policy)
    gates.overrides_by_gate(overrides_of(request.gate_overrides), policy)
    return request.policy if request.policy in gates.policy_names() else str(Path(request.policy).absolute())


def _dataset_of(request: CellRequest) -> tuple[str, str]:
    """The dataset key and the export's location that a request means."""
    if not request.dataset and not request.export:
        return DEMO_KEY, ""  # what the key means already, else the demo's corpus
    if not request.dataset:
        raise ConfigurationError(
            f"{request.export} needs a dataset key of its own: add --dataset KEY, e.g. --dataset opg-reporting-v8."
        )
    return checked_dataset_key(request.dataset), request.export


def _execute(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    partition: str,
    configs: dict[str, dict[str, Any]],
    assets: list[str],
) -> dict[str, dict[str, Any]]:
    """Run one job in this process.

    Args:
        job: The job.
        instance: Where the run is recorded.
        partition: Its partition.
        configs: Configuration by asset.
        assets: All assets of the whole chain of jobs, in order, for the progress lines.

    Returns:
        Digest, reuse and paths by asset.
    """
    from dentsight_pipeline.orchestration.launcher import WORKER_TAG, identity_of

    run_id = str(uuid.uuid4())
    result = job.execute_in_process(
        instance=instance,
        partition_key=partition,
        run_config={
            "ops": {asset: {"config": config} for asset, config in configs.items()},
            "loggers": {"terminal": {"config": {"assets": assets}}},
        },
        raise_on_error=False,
        run_id=run_id,
        # Run monitoring of a daemon that looks on must see that this process is the run's worker, and a run that ends
        # with its terminal is taken up again by the same command, not by the daemon.
        tags={WORKER_TAG: json.dumps(identity_of(os.getpid(), run_id)), "dagster/max_retries": "0"},
    )
    if not result.success:
        raise _cause(result)
    made: dict[str, dict[str, Any]] = {}
    for event in result.get_asset_materialization_events():
        materialization = event.step_materialization_data.materialization
        values = {name: value.value for name, value in materialization.metadata.items()}
        made[materialization.asset_key.to_user_string()] = values
    return made


def _cause(result: dg.ExecuteInProcessResult) -> BaseException:
    """The deliberate error behind a failed run, or a summary of what broke; an interruption stays one."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.error_source is not None and data.user_failure_data is not None:
                return DentsightError(data.user_failure_data.description or "")
            if is_interruption(data.error):
                return KeyboardInterrupt()
            if data.error is not None:
                return _refusal_or_crash(event.step_key or "?", cause_of(data.error), result.run_id)
    return DentsightError(f"Run {result.run_id} failed before its first step; see its log in the Dagster UI.")


def _refusal_or_crash(step: str, info: Any, run_id: str) -> Exception:
    if is_deliberate(info):
        return DentsightError(words_of(info))
    return RuntimeError(
        f"{step} failed: {words_of(info)}\n{''.join(info.stack)}\nThe whole log is in Dagster run {run_id}."
    )


ASSETS_OF_JOBS = {
    "data": ("raw_export", "normalized_splits", "condition_subset"),
    "teeth_data": ("tooth_subset",),
    "experiment": ("trained_checkpoint", "test_predictions", "class_metrics", "release_report", "released_model"),
    "teeth": ("tooth_checkpoint", "tooth_findings"),
}
"""What each job makes, in order; an asset of the teeth is made early when that refuses an export early."""
JOBS_OF_TEETH = frozenset({"teeth_data", "teeth"})
