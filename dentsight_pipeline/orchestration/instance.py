"""The project's Dagster instance, wherever a command or a server opens it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import yaml

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.resources import find_home


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """The project's Dagster instance: `DAGSTER_HOME` when it is set, else the `dagster.yaml` of the project's home.

    Relative folders in that file are seen from the home, as `dagster dev` started there sees them.

    Raises:
        ConfigurationError: There is no such file, or none that Dagster can read.
    """
    if os.environ.get("DAGSTER_HOME"):
        with dg.DagsterInstance.get() as instance:
            yield instance
        return
    from dagster._core.instance.ref import InstanceRef  # the only way to a config file outside DAGSTER_HOME

    home = find_home()
    if not (home / "dagster.yaml").is_file():
        raise ConfigurationError(
            f"There is no dagster.yaml in {home} or above. Prepare a folder with `dentsight workspace init {home}`."
        )
    os.chdir(home)
    state = home / "workspace" / "dagster"
    state.mkdir(parents=True, exist_ok=True)
    try:
        ref = InstanceRef.from_dir(str(state), config_dir=str(home))
    except (yaml.YAMLError, dg.DagsterInvalidConfigError) as error:
        problem = " ".join(str(error).split()).rstrip(".")
        raise ConfigurationError(
            f"{home / 'dagster.yaml'} cannot be read: {problem}. Compare it with the one that `dentsight workspace "
            "init` writes into an empty folder."
        ) from error
    with dg.DagsterInstance.from_ref(ref) as instance:
        yield instance
