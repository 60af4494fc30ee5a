"""What `@product` does for every asset, and that assets leave it to do so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from dentsight_pipeline.documents.names import INPUT_METADATA, REUSED_TAG
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.orchestration.partitions import datasets
from dentsight_pipeline.orchestration.product import Made, Step, product
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.store.content import build

LONGEST_BODY = 10
KEY = "tiny-v1"


def bodies(folder: Path) -> Iterator[tuple[str, int]]:
    """Each function under `@product`, with the lines between its docstring and its end."""
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                "product(" in ast.unparse(item) for item in node.decorator_list
            ):
                first = node.body[1] if ast.get_docstring(node) else node.body[0]
                yield f"{path.name}: {node.name}", (node.end_lineno or 0) - first.lineno + 1


def test_an_assets_body_is_one_call_and_not_the_place_of_logic(project_root: Path) -> None:
    """Logic in an asset can be neither called from a notebook nor tested without Dagster."""
    found = dict(bodies(project_root / "dentsight_pipeline" / "orchestration" / "assets"))

    assert len(found) >= 10
    assert {name: lines for name, lines in found.items() if lines > LONGEST_BODY} == {}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance with one dataset."""
    with dg.instance_for_test() as opened:
        opened.add_dynamic_partitions("dataset", [KEY])
        yield opened


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(root=str(tmp_path))


def stored(workspace: Workspace, content: bytes, **inputs: str) -> str:
    """A little product with this content; returns its digest."""
    manifest = build(workspace.store, "little", {"file": content}, inputs, {})
    workspace.store.put_manifest(manifest)
    return manifest.digest


def little(workspace: Workspace, contents: list[bytes], calls: list[str]) -> list[dg.AssetsDefinition]:
    """Two assets; `first` makes the next of the contents each time, `second` copies what it reads."""

    @product(datasets, reads=[], kinds={"file"})
    def first(step: Step[None]) -> dg.MaterializeResult:
        """Makes."""
        calls.append("first")
        return step.once(lambda: Made(stored(workspace, contents.pop(0))), lambda store, made: {}, None)

    @product(datasets, reads=[first], kinds={"file"})
    def second(step: Step[None]) -> dg.MaterializeResult:
        """Copies."""
        read = step.read(first)

        def copy() -> Made:
            calls.append("second")
            return Made(stored(workspace, b"copy", first=read.digest), {"cost": {"wall_s": 1}})

        return step.once(copy, lambda store, made: {"bytes": made.size})

    return [first, second]


def run(instance: dg.DagsterInstance, workspace: Workspace, assets: list[dg.AssetsDefinition]) -> Any:
    """Materialise them all."""
    return dg.materialize(assets, partition_key=KEY, instance=instance, resources={"workspace": workspace})


def test_unchanged_work_is_recalled_and_what_was_read_is_recorded_each_time(
    instance: dg.DagsterInstance, workspace: Workspace
) -> None:
    """The memo is what makes a second run take seconds; the record is what an audit walks."""
    calls: list[str] = []
    assets = little(workspace, [b"1", b"1", b"2"], calls)
    results = [run(instance, workspace, assets).asset_materializations_for_node("second")[0] for _ in range(3)]
    first = stored(workspace, b"1")

    assert calls == ["first", "second", "first", "first", "second"]
    assert [result.metadata["reused"].value for result in results] == [False, True, False]
    assert [(result.tags or {})[REUSED_TAG] for result in results] == ["false", "true", "false"]
    assert results[0].metadata[f"{INPUT_METADATA}first"].value == first
    assert workspace.store.records(str(results[0].metadata["digest"].value))[0]["cost"] == {"wall_s": 1}


def test_when_two_runs_cross_each_reads_what_it_made_itself(instance: dg.DagsterInstance, workspace: Workspace) -> None:
    """The newest event is the other run's: with it, one cell's chain would be made of two experiments."""
    assets = little(workspace, [b"mine", b"theirs"], [])[:1]
    mine, theirs = run(instance, workspace, assets), run(instance, workspace, assets)

    def read_by(run_id: str) -> str:
        context: Any = SimpleNamespace(instance=instance, run=SimpleNamespace(run_id=run_id))
        return workspace.latest(context, "first", KEY).digest

    assert read_by(mine.run_id) == stored(workspace, b"mine")
    assert read_by(theirs.run_id) == stored(workspace, b"theirs")
    assert read_by("a third run") == stored(workspace, b"theirs")


def test_a_refusal_is_stored_without_identifiers(instance: dg.DagsterInstance, workspace: Workspace) -> None:
    """Dagster keeps the message for ever; the terminal and the run's log are read by others than the data's owner."""

    @product(datasets, reads=[], kinds={"file"})
    def refused(step: Step[None]) -> dg.MaterializeResult:
        """Refuses."""
        raise DataError("MUELLER_ANNA_19800101.jpg is cut off. Export it again.")

    done = dg.materialize(
        [refused], partition_key=KEY, instance=instance, resources={"workspace": workspace}, raise_on_error=False
    )
    told = "\n".join(str(entry.dagster_event) + entry.user_message for entry in instance.all_logs(done.run_id))

    assert "*.jpg is cut off. Export it again." in told
    assert "MUELLER" not in told
