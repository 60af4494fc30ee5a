"""Fixtures that every room's tests share. Room-specific ones live in the room's own conftest.py."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The root of the checkout."""
    return PROJECT_ROOT


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with reference material and a real export; tests that need it are skipped where it is absent."""
    folder = PROJECT_ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs ../shared with the reference material and the real export")
    return folder


@pytest.fixture(scope="session")
def real_export(shared_folder: Path) -> Path:
    """A real Roboflow export of panoramic X-rays (CC BY 4.0), read in place."""
    return shared_folder / "data" / "dental_radiography_roboflow_coco"
