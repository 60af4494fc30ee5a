"""`dentsight archive` and `dossier`: what an auditor takes away of a release."""

import sys
from pathlib import Path

from dentsight_pipeline.commands.audit import INTACT, NOT_INTACT
from dentsight_pipeline.commands.console import show, staged
from dentsight_pipeline.documents.commands import Archived
from dentsight_pipeline.documents.dossier import PAGE, Written
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.lineage import reference
from dentsight_pipeline.orchestration.lineage_events import KEYS_FOLDER, public_key
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.registry import registry_of
from dentsight_pipeline.release.keys import KeyPair


def archive(ref: str, out: Path, key: Path | None, as_json: bool) -> None:
    """Archive a release, and say what was written."""
    made = archive_reference(Workspace(), ref, out, key)
    how = "unpack it anywhere and run its" if out.suffix == ".tar" else "anywhere, run its"
    show(made, as_json, lambda: f"{made.path}: {made.files} files. To verify it, {how} verify.py.")


def dossier(ref: str, out: Path | None, key: Path | None, as_json: bool) -> None:
    """Write the evidence file of a release, and say how much of it is evidenced."""
    from dentsight_pipeline.lineage.dossier.build import write_dossier

    if out is None:
        raise ConfigurationError(f"Nothing says where to write. Give a new folder: `dentsight dossier {ref} OUT`.")
    workspace = Workspace()
    digest, public = resolve_release(workspace, ref), signing_key(workspace, key)
    pair = KeyPair.in_folder(workspace.folder / KEYS_FOLDER)
    private = pair.private if pair.private.is_file() and pair.public.read_bytes() == public.read_bytes() else None
    made = write_dossier(workspace.store, digest, out.absolute(), public, private, staged())
    told = Written(
        release=digest,
        path=str(out / PAGE),
        evidenced=made.evidenced,
        points=made.points,
        statements=tuple(point for section in made.sections for point in section.points),
        files=tuple(sorted(str(path) for path in out.iterdir())),
    )
    show(told, as_json, lambda: f"{told.path}: {told.evidenced} of {told.points} points of Annex IV are evidenced.")


def check_dossier(folder: Path, out: Path | None, key: Path | None, as_json: bool) -> int:
    """Check a dossier against the store; gives the exit status."""
    from dentsight_pipeline.lineage.dossier import build

    if out is not None:
        raise ConfigurationError(f"--check writes nothing, and {out} would stay empty. Leave out {out}, or --check.")
    build.read_dossier(folder)  # what is no dossier needs no key
    workspace = Workspace()
    found = build.check_dossier(workspace.store, folder, signing_key(workspace, key), staged())
    lines = ["Intact."] if found.intact else ["NOT INTACT:", *(f"- {line}" for line in found.findings)]
    show(found, as_json, lambda: "\n".join(lines))
    return INTACT if found.intact else NOT_INTACT


def archive_reference(workspace: Workspace, ref: str, out: Path, key: Path | None = None) -> Archived:
    """Archive what a reference means; its size is told on stderr before anything is written.

    Args:
        workspace: Has the store, MLflow and the keys.
        ref: A release, see `lineage/reference.py`.
        out: New folder, or new file ending in `.tar`.
        key: The public key that it was signed with; by default the workspace's own.

    Raises:
        ConfigurationError: The reference means no release, there is no key, or `out` exists.
        ReleaseError: The release is not intact.
        IntegrityError: An object of it is missing or was changed.
    """
    from dentsight_pipeline.lineage import archive as archives

    digest = resolve_release(workspace, ref)
    contents = archives.contents_of(workspace.store, digest, signing_key(workspace, key))
    images = contents.images
    told = f"{len(images)} images of {sum(entry.size for entry in images) / 1e6:.0f} MB among them"
    sys.stderr.write(f"Release {digest[:12]}: {contents.size / 1e6:.0f} MB, {told}.\n")
    files = archives.write_archive(contents, out.absolute(), staged())
    head = str(contents.log.head)
    return Archived(release=digest, path=str(out), files=files, bytes=contents.size, images=len(images), log_head=head)


def resolve_release(workspace: Workspace, ref: str) -> str:
    """The digest that a reference means.

    Raises:
        ConfigurationError: It means nothing, or what was given contradicts the store.
    """
    found = reference.resolve(workspace.store, ref, registry_of(workspace))
    if found.findings:
        raise ConfigurationError(f"{ref} is not what the store has: {found.findings[0]}")
    return found.digest


def signing_key(workspace: Workspace, given: Path | None) -> Path:
    """The public key that was given, or the workspace's own.

    Raises:
        ConfigurationError: There is none.
    """
    key = given or public_key(workspace)
    if key is None or not key.is_file():
        raise ConfigurationError(f"There is no public key {key or 'in this workspace'}. Give it with --key FILE.")
    return key
