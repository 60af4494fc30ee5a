"""Training assets: checkpoints of both stages, and predictions. All need a GPU slot; the work is in `training/`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import dagster as dg

from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.orchestration import metadata, tracked
from dentsight_pipeline.orchestration.assets.data import condition_subset, tooth_subset
from dentsight_pipeline.orchestration.conditions import on_new_content
from dentsight_pipeline.orchestration.partitions import cells
from dentsight_pipeline.orchestration.product import Step, product


class RecipeConfig(dg.Config):
    """What a launch may change about a recipe. Every change is part of the checkpoint's identity."""

    overrides: dict[str, str] = {}
    """Recipe fields to override, e.g. {"learning_rate": "1e-4"}; makes a variant with a digest of its own."""
    allow_head_collapse: str = ""
    """A reason to go on training although the head has collapsed; recorded. Empty: training aborts."""


def _checkpoint(
    subset: dg.AssetsDefinition, fields: Mapping[str, str], *, reported: bool, **more: Any
) -> dg.AssetsDefinition:
    """A detector trained by the cell's recipe, with some fields that its stage asks for."""

    @product(cells, reads=[subset], settings=RecipeConfig, version="3", gpu=True, kinds=KINDS, **more)
    def checkpoint(step: Step[RecipeConfig]) -> dg.MaterializeResult:
        from dentsight_pipeline.data import checks
        from dentsight_pipeline.training import recipe as recipes

        recipe, data = recipes.named(step.recipe).override({**step.config.overrides, **fields}), step.read(subset)
        checks.require(step.store, data)
        reason = step.config.allow_head_collapse
        show = partial(metadata.of_checkpoint, reports=step.reports if reported else None)
        config = {**recipe.identity, "allow_head_collapse": reason}
        return step.once(lambda: tracked.fit(step, data, recipe, reason), show, config)

    return checkpoint


KINDS = {"pytorch", "huggingface"}

trained_checkpoint = _checkpoint(
    condition_subset,
    {},
    reported=True,
    name="trained_checkpoint",
    group_name="training",
    description="A D-FINE fine-tuned by the cell's recipe on the cell's data, with EMA weights and a record of head "
    "health.",
)

tooth_checkpoint = _checkpoint(
    tooth_subset,
    {"stage": "1"},
    reported=False,
    name="tooth_checkpoint",
    group_name="teeth",
    description="A D-FINE that finds and numbers the 32 teeth, trained by the cell's recipe.",
)


@product(
    cells,
    reads=[condition_subset, trained_checkpoint],
    gpu=True,
    group_name="training",
    kinds={"pytorch"},
    automation_condition=on_new_content(),
)
def test_predictions(step: Step[None]) -> dg.MaterializeResult:
    """Every detection of the checkpoint on valid and test, and on the mirrored test images, unrounded."""
    checkpoint = step.read(trained_checkpoint)
    subset = step.follow(checkpoint, Asset.CONDITION_SUBSET)
    return step.once(lambda: tracked.predict(step, subset, checkpoint), metadata.of_predictions)
