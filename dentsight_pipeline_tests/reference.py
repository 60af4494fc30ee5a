"""Writes docs/reference.md from the code: `python -m dentsight_pipeline_tests.reference`.

A module, error, command or option that is new or gone makes `test_docs.py` fail until this is run again.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from dentsight_pipeline import errors
from dentsight_pipeline.cli import app

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dentsight_pipeline"
PAGE = ROOT / "docs" / "reference.md"
ROOMS = (
    ".",
    "commands",
    "orchestration",
    "pages",
    "lineage",
    "release",
    "training",
    "evaluation",
    "intake",
    "data",
    "phantom",
    "store",
    "documents",
)
"""As `[tool.importlinter]` in pyproject.toml has them: a room imports those after it."""

HEAD = """# Reference: modules, errors, commands

Written from the code by `python -m dentsight_pipeline_tests.reference`; do not edit. How the rooms hang together is in
[architecture.md](architecture.md), settings (environment variables) are in [operations.md](operations.md#settings).
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *module_lines(), *error_lines(), *command_lines()]) + "\n"


def module_lines() -> Iterator[str]:
    """One table for each room."""
    yield "## Modules\n"
    for room in ROOMS:
        yield f"### {'The package itself' if room == '.' else f'{room}/'}\n"
        yield from ("| module | |", "|---|---|")
        for path in modules_of(room):
            yield f"| `{path.relative_to(PACKAGE).as_posix()}` | {cell(first_line(path))} |"
        yield ""


def modules_of(room: str) -> list[Path]:
    """The modules of a room, those of rooms inside it too; empty package files are no modules."""
    found = (PACKAGE / room).glob("*.py") if room == "." else (PACKAGE / room).rglob("*.py")
    return sorted(path for path in found if path.name != "__init__.py")


def first_line(path: Path) -> str:
    """What a module says of itself, in one sentence."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def error_lines() -> Iterator[str]:
    """Every error, as the tree that it is in."""
    yield from ("## Errors\n", "All are in `errors.py`; the command line prints the message alone and exits 2.\n")
    yield from ("| error | is a | |", "|---|---|---|")
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.DentsightError):
            text = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
            yield f"| `{name}` | `{kind.__mro__[1].__name__}` | {cell(text)} |"
    yield ""


def command_lines() -> Iterator[str]:
    """Every command with its arguments and options."""
    yield "## Commands\n"
    for name, command in commands(typer.main.get_command(app), "dentsight"):
        yield f"### {name}\n"
        yield f"{' '.join((command.help or '').split())}\n"
        shown = [parameter for parameter in command.params if parameter.name != "help"]
        if shown:
            yield from ("| | |", "|---|---|")
            yield from (f"| `{written(parameter)}` | {cell(told(parameter))} |" for parameter in shown)
            yield ""


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below another, with its whole name."""
    groups = getattr(command, "commands", None)
    if groups is None:
        yield name, command
        return
    for below in sorted(groups):
        yield from commands(groups[below], f"{name} {below}")


def written(parameter: Any) -> str:
    """A parameter as it is typed."""
    if parameter.param_type_name == "option":
        return ", ".join([*parameter.opts, *parameter.secondary_opts])
    return (parameter.name or "").upper()


def told(parameter: Any) -> str:
    """Its help and its default."""
    text = getattr(parameter, "help", None) or ""
    default = parameter.default
    plain = default is not None and not callable(default) and default not in (False, "", [], (), Path())
    return f"{text} Default: {default}." if plain and not parameter.required else text


def cell(text: str) -> str:
    """Text inside a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
