"""The code location: wiring only. Importing it loads no torch, transformers, mlflow, datasets or matplotlib."""

import dagster as dg

from dentsight_pipeline import automation
from dentsight_pipeline.assets import checks, data, evaluation, release, training
from dentsight_pipeline.resources import Tracking, Workspace
from dentsight_pipeline.runtime.backends import LocalBackend
from dentsight_pipeline.runtime.cell import terminal_logger

workspace = Workspace()

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([data, training, evaluation, release]),
    asset_checks=checks.asset_checks,
    jobs=automation.jobs,
    loggers={"terminal": terminal_logger},
    resources={
        "workspace": workspace,
        "tracking": Tracking(workspace=workspace),
        "backend": LocalBackend(),
    },
)
