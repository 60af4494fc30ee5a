"""The documentation names what exists: a command, asset, gate or error that nobody described is found here."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import dagster as dg
import pytest

from dentsight_pipeline import errors
from dentsight_pipeline.cli import app
from dentsight_pipeline.definitions import defs
from dentsight_pipeline.release.policy import load_policy, policy_names
from dentsight_pipeline_tests import reference


def commands() -> list[str]:
    """Every command of the command line, with its group."""
    plain = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    grouped = [
        f"{group.typer_instance.info.name} {command.name or command.callback.__name__}"
        for group in app.registered_groups
        if group.typer_instance
        for command in group.typer_instance.registered_commands
        if command.callback
    ]
    return plain + grouped


SLURM = {f"SLURM_{name}" for name in ("PROCID", "NTASKS", "JOB_ID", "JOB_NODELIST", "RESTART_COUNT")}
SET_BY_OTHERS = {"RANK", "WORLD_SIZE", "DAGSTER_PIPES_CONTEXT", *SLURM}
"""By torchrun, Dagster Pipes and Slurm for the processes that they start; no setting of a person."""


def text_of(folder: Path) -> str:
    """README and all chapters."""
    return "\n".join(
        path.read_text("utf-8") for path in [folder / "README.md", *sorted((folder / "docs").glob("*.md"))]
    )


@pytest.mark.parametrize("command", commands())
def test_the_readme_names_every_command(project_root: Path, command: str) -> None:
    """A command that the README does not name does not exist for a new user."""
    assert f"dentsight {command}" in (project_root / "README.md").read_text("utf-8")


def test_the_chapters_name_every_asset_and_check(project_root: Path) -> None:
    """An auditor looks up what an asset promises."""
    graph = defs.resolve_asset_graph()
    gates = {gate.id for name in policy_names() for gate in load_policy(name).gates}
    names = {key.to_user_string() for key in graph.get_all_asset_keys()}
    checks = {key.name for key in graph.asset_check_keys} - gates
    text = text_of(project_root)

    assert sorted(name for name in names | checks if name not in text) == []


def test_the_chapters_name_every_job_schedule_and_sensor(project_root: Path) -> None:
    """What runs by itself must be known before it is turned on."""
    repository = defs.get_repository_def()
    names = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    names |= {item.name for item in (*repository.schedule_defs, *repository.sensor_defs)}
    text = text_of(project_root)

    assert sorted(name for name in names if name not in text) == []


def test_the_operations_chapter_names_every_setting(project_root: Path) -> None:
    """A variable that only the code knows is set by nobody, or found by accident."""
    sources = "\n".join(path.read_text("utf-8") for path in (project_root / "dentsight_pipeline").rglob("*.py"))
    names = set(re.findall(r"\"((?:DENTSIGHT|ROBOFLOW)_[A-Z_]+[A-Z])\"", sources))
    names |= set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", sources)) - SET_BY_OTHERS
    chapter = (project_root / "docs" / "operations.md").read_text("utf-8")

    assert len(names) > 15
    assert sorted(name for name in names if f"`{name}`" not in chapter) == []


def test_the_chapters_name_every_error(project_root: Path) -> None:
    """A user who meets an error searches for its name."""
    names = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.DentsightError) and kind.__module__ == errors.__name__
    }
    text = text_of(project_root)

    assert sorted(name for name in names if name not in text) == []


def test_the_reference_names_what_the_code_has_and_nothing_else(project_root: Path) -> None:
    """Every module, error, command and option; the words beside them may be a little older than the code's."""
    kept = (project_root / "docs" / "reference.md").read_text("utf-8")

    assert named_in(kept) == named_in(reference.page()), "run `python -m dentsight_pipeline_tests.reference`"


def named_in(page: str) -> list[str]:
    """Headings, and the first column of every table."""
    return re.findall(r"^(?:### |\| `)([^`\n]+)", page, re.MULTILINE)


def test_every_room_has_its_place_in_the_architecture(project_root: Path) -> None:
    """In the table, in the picture, and in the list that the reference goes by."""
    rooms = {path.parent.name for path in (project_root / "dentsight_pipeline").glob("*/__init__.py")}
    chapter = (project_root / "docs" / "architecture.md").read_text("utf-8")
    picture = (project_root / "docs" / "images" / "rooms.svg").read_text("utf-8")

    assert rooms == set(reference.ROOMS) - {"."}
    assert sorted(room for room in rooms if f"`{room}/`" not in chapter or f"{room}/" not in picture) == []


def test_a_module_that_is_spoken_of_exists(project_root: Path) -> None:
    """Rooms are rebuilt now and then; a reader who is sent to a file that is gone stops trusting the rest."""
    folders = [project_root / name for name in ("dentsight_pipeline", "dentsight_pipeline_tests", "benchmarks")]
    told = [path for folder in folders for kind in ("py", "json", "j2") for path in folder.rglob(f"*.{kind}")]
    modules = {path.relative_to(project_root).as_posix() for path in told if path.suffix == ".py"}
    chapters = [path for path in (project_root / "docs").rglob("*.md") if path.name not in ("log.md", "reference.md")]
    examples = ("csv_boxes.py", "data/box_sizes.py")  # of the how-tos, which make them
    gone = [
        f"{path.relative_to(project_root)}: {name}"
        for path in (*told, *chapters, project_root / "README.md", project_root / "CONTRIBUTING.md")
        for name in re.findall(r"(?<![\w.*])((?:[\w-]+/)*[\w-]+\.py)\b", path.read_text("utf-8"))
        if name not in examples and not any(module == name or module.endswith(f"/{name}") for module in modules)
    ]

    assert gone == []


def test_links_between_documents_lead_somewhere(project_root: Path) -> None:
    """A dead link in the README is the first thing a new user meets."""
    dead = []
    for path in [project_root / "README.md", project_root / "CONTRIBUTING.md", *(project_root / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                dead.append(f"{path.name}: {target}")

    assert dead == []


def test_every_asset_has_a_group(project_root: Path) -> None:
    """An asset without a group falls into `default`, where nobody looks."""
    graph = defs.resolve_asset_graph()

    assert [key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).group_name == "default"] == []
    assert isinstance(defs, dg.Definitions)
