"""Code, packages and machine behind a product: part of its record, never of its digest."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.lineage import Code, Installed
from dentsight_pipeline.store.canonical import JSON

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
    "accelerate",
    "safetensors",
    "pillow",
    "pyarrow",
    "opencv-python-headless",
    "scipy",
)
_PACKAGE = Path(__file__).resolve().parents[1]


@functools.lru_cache(maxsize=1)
def environment() -> dict[str, JSON]:
    """Code, packages and hardware behind a product, as fields of its record."""
    return {
        "code": plain(code_state()),
        "packages": {name: _version(name) for name in PACKAGES},
        "installed": {name: plain(found) for name in PACKAGES if (found := installed(name))},
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def code_state() -> Code:
    """The commit that the running code belongs to, and whether it was edited since; without both outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", str(_PACKAGE))
    dirty = None if commit is None else bool(changed)
    return Code(commit=commit, dirty=dirty, version=_version("dentsight_pipeline"))


def installed(package: str) -> Installed | None:
    """An installed distribution: its version, the digest of its list of files, its licence; None where it is not."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    files = found.read_text("RECORD")
    return Installed(
        version=found.version,
        record_sha256=sha256(files.encode()).hexdigest() if files else None,
        licence=_licence(found.metadata.json),
    )


def _licence(said: Mapping[str, str | list[str]]) -> str | None:
    """As the distribution says: an expression, a classifier, or a short text."""
    classifiers = [text.rpartition(" :: ")[2] for text in said.get("classifier", ()) if text.startswith("License ::")]
    short = str(said.get("license", "")).strip()
    named = said.get("license_expression") or next(iter(classifiers), short if len(short) < 60 else "")
    return str(named) or None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_PACKAGE, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
