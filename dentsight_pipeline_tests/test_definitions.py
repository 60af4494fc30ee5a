"""The code location as Dagster loads it, and the rules that keep it light and pure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from dentsight_pipeline.definitions import defs
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.partitions import RECIPES, checked_dataset_key

HEAVY = (
    "torch",
    "transformers",
    "mlflow",
    "datasets",
    "pycocotools",
    "matplotlib",
    "pandas",
    "cv2",
    "numpy",
    "dagster._daemon",
)
CELL_ASSETS = {
    "raw_export": "data",
    "normalized_splits": "data",
    "condition_subset": "data",
    "trained_checkpoint": "training",
    "test_predictions": "training",
    "class_metrics": "evaluation",
    "release_report": "release",
    "released_model": "release",
}


@pytest.fixture(scope="module")
def graph() -> dg.AssetGraph:
    """The asset graph of the code location."""
    return defs.resolve_asset_graph()


PLANTED = (
    "\n\ndef _looks_up() -> object:\n    from dentsight_pipeline.orchestration import resources\n    return resources\n"
)


@pytest.mark.parametrize("planted", [False, True])
def test_lint_sees_an_import_of_dagster_that_goes_through_another_room(
    project_root: Path, tmp_path: Path, planted: bool
) -> None:
    """A GPU worker, and a notebook, use the pure rooms without an orchestrator.

    A search for `import dagster` in each file does not see `data/` import `orchestration.resources` in a function.
    """
    package = tmp_path / "dentsight_pipeline"
    shutil.copytree(project_root / "dentsight_pipeline", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project_root / "pyproject.toml", tmp_path)
    if planted:
        with (package / "data" / "ontology.py").open("a", encoding="utf-8") as file:
            file.write(PLANTED)
    lint = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [lint, "--no-logo", "--no-cache"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == int(planted), done.stdout
    assert ("dentsight_pipeline.data.ontology -> dentsight_pipeline.orchestration" in done.stdout) == planted


def test_loading_the_code_location_loads_nothing_heavy() -> None:
    """Dagster loads it for every run, sensor tick and step: torch there would cost seconds each time."""
    program = f"import sys, dentsight_pipeline.definitions; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("asset", "group"), CELL_ASSETS.items())
def test_every_asset_says_what_it_is(graph: dg.AssetGraph, asset: str, group: str) -> None:
    """Group, kinds, owner, code version and one sentence: what a stranger in the UI goes by."""
    node = graph.get(dg.AssetKey(asset))

    assert node.group_name == group
    assert node.kinds
    assert node.owners == ["team:dentsight"]
    assert node.code_version
    assert node.description
    assert node.description.strip().count(".") >= 1


def test_the_graph_is_the_chain_from_export_to_release(graph: dg.AssetGraph) -> None:
    """Lineage in the UI is these edges."""
    parents = {name: {key.to_user_string() for key in graph.get(dg.AssetKey(name)).parent_keys} for name in CELL_ASSETS}

    assert parents["raw_export"] == set()
    assert parents["normalized_splits"] == {"raw_export"}
    assert parents["condition_subset"] == {"normalized_splits"}
    assert parents["trained_checkpoint"] == {"condition_subset"}
    assert "trained_checkpoint" in parents["test_predictions"]
    assert "test_predictions" in parents["class_metrics"]
    assert "class_metrics" in parents["release_report"]
    assert parents["released_model"] == {"release_report"}


@pytest.mark.parametrize("asset", ["trained_checkpoint", "test_predictions"])
def test_training_asks_for_a_gpu(asset: str) -> None:
    """The pool keeps two trainings apart on one machine; the tag asks Kubernetes for the device."""
    node = defs.resolve_assets_def(asset).node_def
    limits = node.tags["dagster-k8s/config"]

    assert node.pool == "gpu"  # type: ignore[attr-defined]
    assert "nvidia.com/gpu" in str(limits)


def test_data_is_partitioned_by_dataset_and_experiments_by_dataset_and_recipe(graph: dg.AssetGraph) -> None:
    """The grid in the UI is the experiment matrix."""
    data = graph.get(dg.AssetKey("condition_subset")).partitions_def
    cells = graph.get(dg.AssetKey("trained_checkpoint")).partitions_def

    assert isinstance(data, dg.DynamicPartitionsDefinition)
    assert isinstance(cells, dg.MultiPartitionsDefinition)
    assert {dimension.name for dimension in cells.partitions_defs} == {"dataset", "recipe"}


def test_the_recipe_axis_lists_the_recipes_that_exist() -> None:
    """orchestration/partitions.py repeats the list to keep the code location light; a drift would hide a recipe."""
    from dentsight_pipeline.training import recipe

    assert [recipe.named(name).name for name in RECIPES] == list(RECIPES)
    with pytest.raises(ConfigurationError, match="v1"):
        recipe.named("v9")


def test_every_gate_of_the_packaged_policies_is_an_asset_check(graph: dg.AssetGraph) -> None:
    """A gate without a check would be invisible in the UI; the plan has one beside them."""
    from dentsight_pipeline.documents.verdict import PLAN_ROW
    from dentsight_pipeline.release.policy import load_policy, policy_names

    gates = {gate.id for name in policy_names() for gate in load_policy(name).gates}
    checks = {key.name for key in graph.asset_check_keys if key.asset_key == dg.AssetKey("release_report")}

    assert checks == gates | {PLAN_ROW}


@pytest.mark.parametrize("key", ["Opg V8", "opg_v8", "-opg", "opg|v8", "", "ópg"])
def test_a_dataset_key_that_breaks_later_is_refused_now(key: str) -> None:
    """Dagster accepts `|` in a key and fails when two axes are joined with it."""
    with pytest.raises(ConfigurationError, match="cannot be a dataset key"):
        checked_dataset_key(key)


def test_the_files_that_workspace_init_writes_are_those_of_the_project(project_root: Path) -> None:
    """Two copies of the instance configuration must not drift."""
    packaged = project_root / "dentsight_pipeline" / "commands" / "instance_files"
    for name in ("dagster.yaml", "workspace.yaml"):
        assert (packaged / name).read_text("utf-8") == (project_root / name).read_text("utf-8")


def test_the_code_location_has_one_name_however_dagster_is_started(project_root: Path) -> None:
    """Plain `dagster dev` reads pyproject.toml, `dentsight ui` workspace.yaml.

    Under another name, schedules would be off again and sensors start anew.
    """
    import tomllib

    import yaml

    project = tomllib.loads((project_root / "pyproject.toml").read_text("utf-8"))["tool"]["dg"]["project"]
    (location,) = yaml.safe_load((project_root / "workspace.yaml").read_text("utf-8"))["load_from"]

    assert project["code_location_name"] == location["python_module"]["location_name"]
    assert project["code_location_target_module"] == location["python_module"]["module_name"]
