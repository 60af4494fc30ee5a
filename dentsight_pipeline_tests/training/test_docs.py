"""The chapter on training says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.recipe import Recipe


def shown(value: object) -> str:
    """A value as the table writes it."""
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def field_table() -> str:
    """All recipe fields with the values of the named recipes, as Markdown."""
    named = [recipes.named(name) for name in recipes.NAMES]
    lines = [f"| field | {' | '.join(recipes.NAMES)} | meaning |", f"|---|{'---|' * len(named)}---|"]
    for name, field in Recipe.model_fields.items():
        values = " | ".join(shown(getattr(recipe, name)) for recipe in named)
        lines.append(f"| `{name}` | {values} | {' '.join((field.description or '').split())} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_fields_is_the_one_of_the_code(project_root: Path):
    """A value in the docs that the code no longer has would be believed."""
    chapter = (project_root / "docs" / "training.md").read_text(encoding="utf-8")

    found = re.search(r"<!-- fields -->\n(.*)\n<!-- /fields -->", chapter, re.DOTALL)

    assert found is not None
    assert found[1] == field_table(), "paste the output of field_table() between the markers"


def test_every_failure_of_training_is_in_the_chapter(project_root: Path):
    """Whoever reads `error.json` looks here next."""
    chapter = (project_root / "docs" / "training.md").read_text(encoding="utf-8")

    assert all(name in chapter for name in ("## Resuming", "## When it fails", "micro_batch_size", "workers=0"))
