"""What a record says of code and machine is what was there, and silence where nothing is known."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from dentsight_pipeline.lineage import environment


def checkout(folder: Path) -> Path:
    """A git repository with one committed file."""
    (folder / "code.txt").write_text("x = 1\n")
    person = ["-c", "user.name=A. Person", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*person, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def test_the_commit_is_named_and_an_edit_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An auditor asks first whether the code was what the commit says."""
    folder = checkout(tmp_path)
    monkeypatch.setattr(environment, "_PACKAGE", folder)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True).stdout

    clean = environment.code_state()
    (folder / "code.txt").write_text("x = 2\n")
    edited = environment.code_state()

    assert (clean.commit, clean.dirty) == (head.strip(), False)
    assert (edited.commit, edited.dirty) == (head.strip(), True)
    assert clean.version == importlib.metadata.version("dentsight_pipeline")


def test_outside_of_a_checkout_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package has no commit; 'not edited' would be a lie."""
    monkeypatch.setattr(environment, "_PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    found = environment.code_state()

    assert (found.commit, found.dirty) == (None, None)


def test_without_git_nothing_is_claimed_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slim container has no git; work goes on."""
    monkeypatch.setattr(environment, "_PACKAGE", checkout(tmp_path))
    monkeypatch.setenv("PATH", "")

    assert environment.code_state().commit is None


def test_the_packages_that_decide_numbers_are_listed_with_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not installed is said not to be there."""
    environment.environment.cache_clear()
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))

    packages = environment.environment()["packages"]

    environment.environment.cache_clear()
    assert packages == {"numpy": importlib.metadata.version("numpy"), "no-such-package": None}


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        ({"license_expression": "MIT", "license": "BSD", "classifier": ["License :: OSI Approved :: Zlib"]}, "MIT"),
        ({"license": "BSD", "classifier": ["Topic :: X", "License :: OSI Approved :: MIT License"]}, "MIT License"),
        ({"license": " BSD 3-Clause\n", "classifier": ["Topic :: X"]}, "BSD 3-Clause"),
        ({"license": "x" * 59}, "x" * 59),
        ({"license": "x" * 60}, None),
        ({}, None),
    ],
)
def test_a_distributions_licence_is_its_expression_its_classifier_or_a_short_text(said, licence) -> None:
    """Some carry the whole text of it, which is no name."""
    assert environment._licence(said) == licence


def test_a_distribution_that_is_not_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a list of files has no digest; an empty digest would be that of nothing."""
    assert environment.installed("no-such-package") is None
    found = importlib.metadata.distribution("numpy")
    whole = type(found).read_text
    monkeypatch.setattr(type(found), "read_text", lambda self, name: None if name == "RECORD" else whole(self, name))

    bare = environment.installed("numpy")

    assert bare is not None
    assert (bare.version, bare.record_sha256) == (found.version, None)
