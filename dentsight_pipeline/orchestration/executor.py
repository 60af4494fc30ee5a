"""Runs a job's steps in this process, and waits for a pool's slot without burning a core.

Dagster's own in-process executor asks for a busy slot in a loop without sleep (1.13.27: the interval to the next look
is the least of 0 and something), says nothing of who holds it, and waits for ever where the holder was killed. This
module, `launcher.py` and `storage.py` alone use private parts of Dagster; `pyproject.toml` pins its minor version, and
tests run all three for real.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.errors import raise_execution_interrupts
from dagster._core.events import DagsterEvent
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.context.system import PlanExecutionContext, PlanOrchestrationContext
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.execute_in_process import core_execute_in_process, merge_run_tags
from dagster._core.execution.plan.execute_plan import inner_plan_execution_iterator
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor

from dentsight_pipeline.orchestration import recovery

LOOK_SECONDS = 3.0
"""Pause between two looks at a pool whose slots are held."""


class PatientClaims(InstanceConcurrencyContext):
    """Claims on slots that free those of dead runs at every look, name the living holders, and sleep between looks."""

    def __init__(self, instance: dg.DagsterInstance, run: dg.DagsterRun, tell: Callable[[str], None]) -> None:
        super().__init__(instance, run)
        self._tell = tell
        self._told: list[str] = []

    def claim(self, concurrency_key: str, step_key: str, step_priority: int = 0) -> bool:
        """Whether the step has its slot now; sleeps before it says no. Ctrl-C and a cancel end the sleep."""
        if super().claim(concurrency_key, step_key, step_priority):
            return True
        self._pending_timeouts[step_key] = 0.0  # the next look comes when this method has slept
        if not recovery.free_slots(self._instance):
            self._name(step_key, concurrency_key)
            with raise_execution_interrupts():
                time.sleep(LOOK_SECONDS)
        return False

    def _name(self, step: str, pool: str) -> None:
        held = recovery.holders(self._instance, pool)
        if held != self._told:
            self._told = held
            for holder in held:
                self._tell(f"{step} waits for pool {pool}: held by {holder}")


def _steps(job_context: PlanExecutionContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
    with PatientClaims(job_context.instance, job_context.dagster_run, job_context.log.info) as claims:
        yield from inner_plan_execution_iterator(job_context, execution_plan, claims)


class PatientExecutor(InProcessExecutor):
    """Dagster's in-process executor with patient claims."""

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Run every step of the plan, one after the other."""
        yield from ExecuteRunWithPlanIterable(
            execution_plan=execution_plan,
            iterator=_steps,
            execution_context_manager=PlanExecutionContextManager(
                job=plan_context.job,
                retry_mode=plan_context.retry_mode,
                execution_plan=execution_plan,
                run_config=plan_context.run_config,
                dagster_run=plan_context.dagster_run,
                instance=plan_context.instance,
                raise_on_error=plan_context.raise_on_error,
                output_capture=plan_context.output_capture,
                step_dependency_config=self.step_dependency_config,
            ),
        )


@dg.executor(name="patient_in_process")
def patient_executor(_: dg.InitExecutorContext) -> PatientExecutor:
    """A run's steps follow one another in its worker; what is heavy runs in processes of its own."""
    return PatientExecutor(retries=RetryMode.ENABLED)


def execute_here(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    partition: str,
    run_config: Mapping[str, Any],
    run_id: str,
    tags: Mapping[str, str],
    assets: Sequence[str] = (),
) -> dg.ExecuteInProcessResult:
    """Run a job in this process, by its own executor (`JobDefinition.execute_in_process` always takes Dagster's).

    With `assets`, these alone are made, and nothing is checked but what they check themselves.
    """
    if assets:
        chosen = {dg.AssetKey(asset) for asset in assets}
        own = {key for one in job.asset_layer.asset_graph.assets_defs if one.keys & chosen for key in one.check_keys}
        job = job.get_subset(asset_selection=chosen, asset_check_selection=own)
    return core_execute_in_process(
        run_config=run_config,
        job=InMemoryJob(job_def=job),
        instance=instance,
        output_capturing_enabled=False,
        raise_on_error=False,
        run_tags=merge_run_tags(job, partition, tags, None, instance, run_config),
        run_id=run_id,
    )
