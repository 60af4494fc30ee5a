"""`dentsight run --dry-run`: what a cell costs before it is spent. The graph itself is asked, nothing is written."""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from dentsight_pipeline.commands import run as cells
from dentsight_pipeline.commands import text
from dentsight_pipeline.commands.console import show
from dentsight_pipeline.documents.commands import CellPlanned, StepPlanned
from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.orchestration.backends.choice import LOCAL, backend_name, scheduler
from dentsight_pipeline.orchestration.executor import execute_here
from dentsight_pipeline.orchestration.partitions import datasets
from dentsight_pipeline.orchestration.product import DRY_RUN_TAG, NotMadeError
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracked import price_per_hour
from dentsight_pipeline.store import log
from dentsight_pipeline.store.log import LogEntry

AWAY = (
    Asset.TRAINED_CHECKPOINT,
    Asset.TEST_PREDICTIONS,
    Asset.TOOTH_CHECKPOINT,
    Asset.TOOTH_FINDINGS,
    Asset.LABEL_REVIEW,
)
"""What runs at the backend."""


def dry_run(request: cells.CellRequest, as_json: bool) -> None:
    """Tell what would be made and what reused."""
    planned = plan(request)
    show(planned, as_json, lambda: text.dry_run(planned))


def plan(request: cells.CellRequest) -> CellPlanned:
    """What a run of this cell would do.

    Raises:
        DentsightError: It would be refused.
    """
    dataset = cells.dataset_of(request)
    reused = _known(dataset, request, cells.configs_of(request))
    chain = [asset for job in cells.chain(request) for asset in job.makes]
    if _TRAINED.intersection(chain) - reused:
        _refuse_lost_weights(request)
    price = price_per_hour(scheduler())
    earlier = log.read(Workspace().store).entries
    steps = [_planned(asset, asset in reused, request.recipe, earlier, price) for asset in chain]
    return CellPlanned(
        dataset=dataset,
        recipe=request.recipe,
        backend=backend_name(),
        steps=steps,
        reused=[a for a in chain if a in reused],
    )


_TRAINED = {Asset.TRAINED_CHECKPOINT, Asset.TOOTH_CHECKPOINT}


def _refuse_lost_weights(request: cells.CellRequest) -> None:
    """Refuse a folder of starting weights that a training on this machine would refuse; no other is looked into."""
    from dentsight_pipeline.training import recipe as recipes

    recipe = recipes.named(request.recipe).override(request.overrides)
    if backend_name() == LOCAL and (recipe.weights or "").startswith(("/", "./", "../")):
        from dentsight_pipeline.training.model import check_weights

        check_weights(recipe)


def _known(dataset: str, request: cells.CellRequest, configs: Mapping[str, dict[str, Any]]) -> set[str]:
    """The assets that the graph finds made already; behind the first that is not, nothing can be known."""
    from dentsight_pipeline.definitions import defs

    known: set[str] = set()
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(datasets.name), [dataset])
        for job in cells.chain(request):
            config = {"ops": job.ops(configs), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
            partition = job.partition(dataset, request.recipe)
            run_id, definition = str(uuid.uuid4()), defs.resolve_job_def(job.name)
            result = execute_here(definition, instance, partition, config, run_id, {DRY_RUN_TAG: "true"}, job.makes)
            _raise_refusal(result)
            known |= {e.asset_key.to_user_string() for e in result.get_asset_materialization_events() if e.asset_key}
            if not result.success and not job.aside:
                break
    return known


def _raise_refusal(result: dg.ExecuteInProcessResult) -> None:
    """Raise what the run itself would be refused with; where work begins is no refusal."""
    if not result.success:
        cause = cells.cause(result)
        if NotMadeError.WORDS not in str(cause):
            raise cause


def _planned(asset: str, reused: bool, recipe: str, earlier: Iterable[LogEntry], per_hour: float | None) -> StepPlanned:
    """One step, by the newest record of the same asset and recipe that tells its cost."""
    where = backend_name() if asset in AWAY else "here"
    if reused:
        return StepPlanned(asset=asset, reused=True, where=where, seconds=0.0, price=0.0)
    like = [e.record for e in earlier if e.record.get("asset") == asset and _recipe(e.record) in (recipe, "")]
    record: Mapping[str, Any] = next((record for record in reversed(like)), {})
    cost = record.get("cost") or {}
    seconds = cost.get("wall_s") if cost else _duration(record)
    price = cost.get("price") if per_hour is None or seconds is None else seconds / 3600 * per_hour
    if asset not in AWAY:
        price = None
    return StepPlanned(
        asset=asset,
        reused=False,
        where=where,
        seconds=seconds,
        price=price,
        currency=None if price is None else cost.get("currency") or "USD",
        measured_on=(record.get("hardware") or {}).get("device"),
    )


def _recipe(record: Mapping[str, object]) -> str:
    """Of a record's cell; empty for a dataset's."""
    return str(record.get("partition", "")).partition("|")[2]


def _duration(record: Mapping[str, Any]) -> float | None:
    started, finished = record.get("started"), record.get("finished")
    return None if started is None or finished is None else finished - started
