"""The code location: wiring only. Importing it loads no torch, transformers, mlflow, datasets or matplotlib."""

import dagster as dg

from dentsight_pipeline import automation
from dentsight_pipeline.assets import data, evaluation, release, training
from dentsight_pipeline.resources import Tracking, Workspace
from dentsight_pipeline.runtime.backends import LocalBackend

workspace = Workspace()

defs = dg.Definitions(
    assets=dg.load_assets_from_modules([data, training, evaluation, release]),
    asset_checks=dg.load_asset_checks_from_modules([data, training, evaluation, release]),
    jobs=automation.jobs,
    resources={
        "workspace": workspace,
        "tracking": Tracking(workspace=workspace),
        "backend": LocalBackend(),
    },
)
