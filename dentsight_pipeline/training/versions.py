"""Versions of the code and the packages that decide the numbers, told without loading any of them."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "accelerate", "numpy", "opencv-python-headless", "safetensors", "hotcoco")
CODE = "dentsight_pipeline"
_ROOT = Path(__file__).resolve().parents[1]


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers, and Python's."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """As above, with the digest of this package's very code: checkouts share a version for long."""
    hasher = hashlib.sha256()
    for path in sorted(_ROOT.rglob("*.py")):
        hasher.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return {CODE: hasher.hexdigest()[:12], **package_versions()}


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What differs, a phrase each. Python counts to its minor version; `+cpu` and `+cu130` of one version are alike."""
    return [
        f"{name} {found.get(name, 'is not installed')} where {version} is wanted"
        for name, version in wanted.items()
        if _part(name, version) != _part(name, found.get(name, ""))
    ]


def _part(name: str, version: str) -> str:
    if name == CODE:
        return version
    return version.rpartition(".")[0] if name == "python" else version.partition("+")[0]
