"""The two partition axes: which data, and which recipe. The grid in the UI is the experiment matrix."""

import re

import dagster as dg

from dentsight_pipeline.errors import ConfigurationError

RECIPES = ("smoke", "v1", "v2", "v3", "v4")
"""The named recipes of `training/recipe.py`, repeated here so that the code location need not load pydantic models of
the training room; a test keeps the two lists equal."""

datasets = dg.DynamicPartitionsDefinition(name="dataset")
recipes = dg.StaticPartitionsDefinition(list(RECIPES))
cells = dg.MultiPartitionsDefinition({"dataset": datasets, "recipe": recipes})

_KEY = re.compile(r"[a-z0-9][a-z0-9-]*")


def checked_dataset_key(key: str) -> str:
    """The key itself, when it can be a partition key.

    Raises:
        ConfigurationError: It has characters that break partition keys later (Dagster accepts them at first).
    """
    if not _KEY.fullmatch(key):
        nearest = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-") or "my-dataset-v1"
        raise ConfigurationError(
            f"{key!r} cannot be a dataset key: only lower-case letters, digits and '-' are possible, and it starts "
            f"with a letter or digit. Try {nearest!r}."
        )
    return key


def cell_key(dataset: str, recipe: str) -> dg.MultiPartitionKey:
    """The partition key of one cell of the experiment matrix."""
    return dg.MultiPartitionKey({"dataset": dataset, "recipe": recipe})
