"""Code, packages and machine behind a product: part of its record, never of its digest."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


PACKAGES = (
    "dagster",
    "torch",
    "transformers",
    "datasets",
    "pycocotools",
    "hotcoco",
    "pandas",
    "mlflow",
    "boto3",
    "numpy",
)


@functools.lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Code, packages and hardware behind a product; part of its record, never of its digest."""
    return {
        "code": code_state(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def code_state() -> dict[str, Any]:
    """The commit that the running code belongs to, and whether it was edited since; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]  # the whole package

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", str(here))
    return {
        "commit": commit,
        "dirty": None if commit is None else bool(changed),
        "version": _version("dentsight_pipeline"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
