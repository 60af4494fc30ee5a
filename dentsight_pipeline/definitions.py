"""The code location: wiring only. Importing it loads no torch, mlflow, pandas, matplotlib or numpy."""

import dagster as dg

from dentsight_pipeline.orchestration import automation, checks
from dentsight_pipeline.orchestration.assets import champion, data, evaluation, release, teeth, training
from dentsight_pipeline.orchestration.backends.choice import ChosenBackend
from dentsight_pipeline.orchestration.executor import patient_executor
from dentsight_pipeline.orchestration.notify import Notifier
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.terminal import terminal_logger
from dentsight_pipeline.orchestration.tracking.mlflow import Tracking

workspace = Workspace()

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([data, training, evaluation, release, champion, teeth]),
    asset_checks=checks.asset_checks,
    executor=patient_executor,
    jobs=automation.jobs,
    schedules=automation.schedules,
    sensors=automation.sensors,
    loggers={"terminal": terminal_logger, "console": dg.colored_console_logger},
    resources={
        "workspace": workspace,
        "tracking": Tracking(workspace=workspace),
        "backend": ChosenBackend(),
        "notifier": Notifier(workspace=workspace),
    },
)
