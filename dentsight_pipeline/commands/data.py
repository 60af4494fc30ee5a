"""`dentsight phantom` and `inspect`: exports, drawn or looked at."""

import tempfile
from pathlib import Path

from dentsight_pipeline.commands.console import absolute, progress, show, staged


def phantom(out: Path, images: int, seed: int, width: int, as_json: bool) -> None:
    """Draw an export and tell its size."""
    from dentsight_pipeline.phantom.export import write_phantom_export

    made = write_phantom_export(out, images, seed, width, progress=progress("drawing"))
    facts = {"out": str(out), "images": made.images, "annotations": made.annotations, "splits": made.splits}
    show(facts, as_json, lambda: f"{made.images} phantom images with {made.annotations} annotations in {out}")


def inspect(export: str, source: str | None, drop: list[str], accept: list[str], as_json: bool) -> None:
    """Tell what ingestion would do with an export; a remote one is not kept."""
    from dentsight_pipeline.intake.acquire import fetch
    from dentsight_pipeline.intake.inspect import inspect_export, summary_lines

    told = staged()
    with tempfile.TemporaryDirectory(prefix="dentsight-inspect-") as scratch:
        path, _ = fetch(absolute(export), Path(scratch), told)
        facts = inspect_export(path, source=source, drop=tuple(drop), accept=tuple(accept), progress=told)
    show(facts, as_json, lambda: "\n".join(summary_lines(facts)))
