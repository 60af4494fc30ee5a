"""Models of folds: each trained without the sources that it is then asked about, by the cell's own recipe.

A fold, its training and its predictions are remembered and recorded each on its own, so that a killed review goes on
where it was, and an audit follows every one of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.documents.names import Asset
from dentsight_pipeline.orchestration import tracked
from dentsight_pipeline.orchestration.product import Made, Step

if TYPE_CHECKING:
    from dentsight_pipeline.store.canonical import JSON
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.training.recipe import Recipe

HELD_OUT = ("test",)


def predictions_out_of_fold(
    step: Step[Any], subset: "Manifest", recipe: "Recipe", reason: str, number: int, of: int
) -> "Manifest":
    """What a model sees on the images of one fold, having been trained on the others.

    Args:
        step: The step that asks.
        subset: The condition subset.
        recipe: Of the training.
        reason: Why training may go on with a collapsed head, or empty.
        number: Which fold, from 1.
        of: How many folds there are.
    """
    from dentsight_pipeline.data.folds import publish_fold

    step.context.log.info(f"Fold {number} of {of}")
    read: dict[str, Manifest] = {Asset.CONDITION_SUBSET: subset}
    fold = _piece(step, read, lambda own: publish_fold(own.store, subset, number, of), {"fold": [number, of]})
    read = {Asset.CONDITION_SUBSET: fold}
    config: dict[str, JSON] = {**recipe.identity, "allow_head_collapse": reason}
    trained = _piece(step, read, lambda own: tracked.fit(own, fold, recipe, reason), config)
    asked = partial(tracked.predict, subset=fold, checkpoint=trained, splits=HELD_OUT)
    return _piece(step, {**read, Asset.TRAINED_CHECKPOINT: trained}, asked, {"splits": [*HELD_OUT]})


def _piece(
    step: Step[Any],
    inputs: "Mapping[str, Manifest]",
    make: "Callable[[Step[Any]], Made | Manifest]",
    config: "Mapping[str, JSON]",
) -> "Manifest":
    """A piece of a step's work with inputs of its own; it is no event of its own, so its record names no partition."""
    own = replace(step, inputs=dict(inputs))
    return step.store.get_manifest(own.work(partial(make, own), config, partition=None).digest)
