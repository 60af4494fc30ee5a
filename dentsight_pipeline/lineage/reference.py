"""What a person may call a product by, resolved to the digest of its manifest.

    3f9a…                        digest, or its start (8 digits or more, unique)
    FOLDER, FOLDER/report.html   a checkpoint, release or report that was written out: found by its bytes
    champion · release           the release in use · the newest release
    MLflow run id, runs:/ID      what the run made
    NAME@alias, NAME/3, models:/…, challenger    a registered model

What MLflow says is passed in (`Registry`) and never simply believed: where it contradicts the store, the reference
carries a finding.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dentsight_pipeline.documents.facts import EvaluationFacts, ReleaseFacts
from dentsight_pipeline.documents.names import (
    MLFLOW_INPUT_TAG,
    MLFLOW_RELEASE_TAG,
    Asset,
    Kind,
    mlflow_chain_tag,
    mlflow_digest_tag,
)
from dentsight_pipeline.errors import ConfigurationError, DataError, StorageError
from dentsight_pipeline.lineage.fit import name_of
from dentsight_pipeline.store import log as logs
from dentsight_pipeline.store.content import materialise
from dentsight_pipeline.store.local import hash_file
from dentsight_pipeline.store.names import is_digest

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

LEAST_DIGITS = 8
_HEX = re.compile(r"[0-9a-f]{8,63}")
_RUN = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"(?:models:/)?(?P<name>[^/@\s]+)(?:/(?P<version>\d+)|@(?P<alias>[\w.-]+))")
_ALIAS = re.compile(r"[A-Za-z][\w.-]*")
_MADE_TAGS = tuple(mlflow_digest_tag(kind) for kind in (Kind.CHECKPOINT, Kind.PREDICTIONS, Kind.EVALUATION))


class Registry(Protocol):
    """What is asked of MLflow."""

    def run_tags(self, run_id: str) -> Mapping[str, str] | None:
        """The tags of a run, or None when there is no such run."""
        ...

    def version_tags(self, name: str | None, *, version: str = "", alias: str = "") -> Mapping[str, str] | None:
        """The tags of a registered model's version, by number or alias; None when there is none.

        Args:
            name: The model; None stands for this project's own.
            version: Its number.
            alias: Its alias.
        """
        ...


class HasStore(Protocol):
    """Anything that knows the store, e.g. the workspace."""

    @property
    def store(self) -> Store:
        """The store in use."""
        ...


@dataclass(frozen=True)
class Reference:
    """What a reference means."""

    digest: str
    """Digest of the product's manifest."""
    how: str
    """How it was found, in words."""
    findings: tuple[str, ...] = ()
    """Where what was given contradicts the store, one sentence each."""


def resolve(store: Store, ref: str, registry: Registry | None = None) -> Reference:
    """The product that a reference means.

    Args:
        store: Where products are.
        ref: See the module's docstring.
        registry: MLflow; None when it is not at hand.

    Raises:
        ConfigurationError: It means nothing, or several things; the message says what there is.
    """
    if is_digest(ref):
        if store.has_manifest(ref) or _was_known(store, ref):
            return Reference(ref, "digest")
        raise ConfigurationError(f"No product of {store.uri} has digest {ref}. Check the digest, and the store.")
    if _HEX.fullmatch(ref):
        starts = _digests_from(store, ref)
        if len(starts) == 1:
            return Reference(starts[0], "start of a digest")
        if len(starts) > 1:
            raise ConfigurationError(
                f"{ref} is the start of {len(starts)} digests: {', '.join(starts)}. Give more digits."
            )
    path = Path(ref).expanduser()
    if path.exists():
        return _by_bytes(store, path)
    if ref in ("champion", "release"):
        return _of_the_store(store, ref)
    if ref.startswith("runs:/") or _RUN.fullmatch(ref):
        return _by_run(store, ref.removeprefix("runs:/").split("/")[0], registry)
    if match := _MODEL.fullmatch(ref):
        return _by_version(store, registry, match["name"], version=match["version"] or "", alias=match["alias"] or "")
    if _ALIAS.fullmatch(ref) and registry is not None and registry.version_tags(None, alias=ref) is not None:
        return _by_version(store, registry, None, alias=ref)
    raise ConfigurationError(_nothing(store, ref))


@contextmanager
def checkpoint_folder(workspace: HasStore, ref: str, registry: Registry | None = None) -> Iterator[Path]:
    """The model folder of a checkpoint, for reading; gone after the block when it was written out for it.

    Args:
        workspace: Has the store.
        ref: A checkpoint folder, which is used as it is; or any reference to a checkpoint, a release, or something
            made with a checkpoint.
        registry: MLflow; None when it is not at hand.

    Yields:
        The folder with `config.json` and `model.safetensors`, every byte verified unless it was a folder.

    Raises:
        ConfigurationError: The reference means nothing, or nothing that has a model.
        IntegrityError: A file of the model is missing or was changed.
    """
    path = Path(ref).expanduser()
    if path.is_dir():
        folder = next((place for place in (path, path / "model") if (place / "config.json").is_file()), None)
        if folder is None:
            raise ConfigurationError(f"{path} is no checkpoint: neither it nor its model/ holds a config.json.")
        yield folder
        return
    store = workspace.store
    manifest = store.get_manifest(resolve(store, ref, registry).digest)
    if not any(name.startswith("model/") for name in manifest.entries):
        below = _checkpoint_below(manifest)
        if below is None:
            raise ConfigurationError(f"The {name_of(manifest)} has no model. Give a checkpoint or a release.")
        manifest = store.get_manifest(below)
    with tempfile.TemporaryDirectory(prefix="dentsight-model-") as folder:
        yield materialise(store, manifest, Path(folder), "model/", link=True) / "model"


def checkpoint_of(store: Store, digest: str) -> Manifest:
    """The checkpoint that a product is, or that it was made with.

    Raises:
        ConfigurationError: Neither.
    """
    manifest = store.get_manifest(digest)
    if manifest.kind == Kind.CHECKPOINT:
        return manifest
    below = _checkpoint_below(manifest)
    if below is None:
        raise ConfigurationError(
            f"The {name_of(manifest)} was not made with a checkpoint. Give a checkpoint or a release."
        )
    return store.get_manifest(below)


def _checkpoint_below(manifest: Manifest) -> str | None:
    """Digest of the checkpoint that a product names, by whatever name its kind has for it."""
    if manifest.kind == Kind.RELEASE:
        return manifest.facts_as(ReleaseFacts).chain.get(Asset.TRAINED_CHECKPOINT)
    if manifest.kind == Kind.EVALUATION:
        return manifest.facts_as(EvaluationFacts).checkpoint
    return manifest.inputs.get(Asset.TRAINED_CHECKPOINT)


# The store's own names -----------------------------------------------------------------------------------------------


def _digests_from(store: Store, start: str) -> list[str]:
    keys = (key for key, _ in store.blobs.scan(f"manifests/{start[:2]}/"))
    names = (key.rpartition("/")[2].removesuffix(".json") for key in keys)
    return [name for name in names if is_digest(name) and name.startswith(start)]


def _was_known(store: Store, digest: str) -> bool:
    """Whether records or the log still tell of a product whose manifest is gone."""
    if next(iter(store.blobs.scan(f"records/{digest}/")), None) is not None:
        return True
    return bool(logs.read(store).of(digest))


def _of_the_store(store: Store, ref: str) -> Reference:
    from dentsight_pipeline.release import champion, statement

    if ref == "champion":
        changes = champion.history(store)
        digest = changes[-1].release if changes else None
        if digest is None:
            raise ConfigurationError("There is no champion yet. Promote a release first: `dentsight promote REF`.")
        return Reference(digest, "the champion")
    newest = statement.head(store)
    if newest is None:
        raise ConfigurationError("There is no release yet. A cell whose gates all pass makes one: `dentsight run`.")
    return Reference(newest.digest, "the newest release")


def _nothing(store: Store, ref: str) -> str:
    some = [digest[:12] for digest, _ in zip(store.manifest_digests(), range(4), strict=False)]
    there = f"the store has products such as {', '.join(some)}" if some else f"the store {store.uri} is empty"
    return (
        f"{ref!r} is no digest, folder, MLflow run, registered model or release that is known here; {there}. "
        "Give a digest (8 digits or more), a folder, `champion`, `release`, an MLflow run id or NAME@alias."
    )


# Folders and files ---------------------------------------------------------------------------------------------------


WEIGHTS = ".safetensors"


def _by_bytes(store: Store, path: Path) -> Reference:
    """The product whose files lie in a folder; of one file, the folder that it lies in."""
    folder = path if path.is_dir() else path.parent
    only = None if path.is_dir() else path.name
    files = _hashed(folder)
    if only is not None and only not in files:
        raise ConfigurationError(f"{path} is no plain file. Give a report, or a folder that was written out.")
    best: tuple[tuple[int, ...], Manifest, str] | None = None
    owners: dict[str, str] = {}
    for digest in store.manifest_digests():
        try:
            manifest = store.get_manifest(digest)
        except DataError:  # a damaged manifest is found by the audit of what names it
            continue
        for name, entry in manifest.entries.items():
            if name.startswith("model/") or "/" not in name:
                owners.setdefault(entry.sha256, f"the {name_of(manifest)}")
        for prefix in ("", "model/"):
            here = {
                name.removeprefix(prefix): entry for name, entry in manifest.entries.items() if name.startswith(prefix)
            }
            same = [name for name, found in files.items() if name in here and here[name].sha256 == found]
            if same and (only is None or only in here):
                documents = sum(not name.endswith(WEIGHTS) for name in same)  # of two, the one that the rest is from
                score = (len(same), documents, -len(here), int(manifest.kind == Kind.CHECKPOINT))
                if best is None or score > best[0]:
                    best = (score, manifest, prefix)
    if best is None:
        raise ConfigurationError(
            f"No product of {store.uri} has the files in {folder}. Give a checkpoint, release or report that was made "
            "with this store, or name another store with DENTSIGHT_STORE."
        )
    _, manifest, prefix = best
    findings = []
    for name, entry in manifest.entries.items():
        if not name.startswith(prefix):
            continue
        found = files.pop(name.removeprefix(prefix), None)
        if found is None:
            findings.append(f"{name.removeprefix(prefix)} of the {name_of(manifest)} is missing in {folder}.")
        elif found != entry.sha256:
            whose = f" but that of {owners[found]}" if found in owners else ""
            findings.append(
                f"{name.removeprefix(prefix)} in {folder} is not the one of the {name_of(manifest)}{whose}: its bytes "
                f"hash to {found}, not to {entry.sha256}."
            )
    if manifest.kind == Kind.RELEASE:
        findings += [f"{name} in {folder} is not part of the {name_of(manifest)}." for name in files]
    return Reference(manifest.digest, f"the files in {folder}", tuple(findings))


def _hashed(folder: Path) -> dict[str, str]:
    """sha256 of every plain file below a folder, by relative path; links are not followed.

    Raises:
        ConfigurationError: It holds far more files than any product that is written out.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        if len(found) == _MOST_FILES:
            raise ConfigurationError(f"{folder} holds more than {_MOST_FILES} files. Give the folder of one product.")
        try:
            found[path.relative_to(folder).as_posix()] = hash_file(path)[0]
        except OSError as error:
            raise StorageError(f"Cannot read {path}: {error.strerror}. Check its rights.") from error
    return found


_MOST_FILES = 100_000


# MLflow --------------------------------------------------------------------------------------------------------------


def _by_run(store: Store, run_id: str, registry: Registry | None) -> Reference:
    """The product that an MLflow run made, held against the product's own records."""
    tags = registry.run_tags(run_id) if registry else None
    if tags is None:
        raise ConfigurationError(f"MLflow knows no run {run_id}. Check MLFLOW_TRACKING_URI, and the run's id.")
    made = next((tags[key] for key in _MADE_TAGS if key in tags), None)
    if not is_digest(made):
        raise ConfigurationError(f"MLflow run {run_id} made nothing: it carries none of {', '.join(_MADE_TAGS)}.")
    digest, findings = str(made), []
    records = _records(store, digest)
    if not any(record.get("mlflow_run") == run_id for record in records):
        findings.append(
            f"A tag was forged: MLflow run {run_id} says that it made {digest[:12]}, but no record of that product "
            "names the run."
        )
    if store.has_manifest(digest):
        inputs = store.get_manifest(digest).inputs
        for key, value in tags.items():
            asset = key.removeprefix(MLFLOW_INPUT_TAG)
            if key.startswith(MLFLOW_INPUT_TAG) and asset in inputs and inputs[asset] != value:
                findings.append(
                    f"A tag was forged: MLflow run {run_id} says that it read {asset} {value[:12]}, but what it made "
                    f"names {inputs[asset][:12]}."
                )
    return Reference(digest, f"MLflow run {run_id}", tuple(findings))


def _by_version(
    store: Store, registry: Registry | None, name: str | None, *, version: str = "", alias: str = ""
) -> Reference:
    """The release behind a registered model's version, held against the release itself."""
    wanted = f"{name or 'the registered model'}{f'/{version}' if version else f'@{alias}'}"
    tags = registry.version_tags(name, version=version, alias=alias) if registry else None
    if tags is None:
        raise ConfigurationError(f"MLflow knows no {wanted}. Give NAME/NUMBER or NAME@ALIAS of a registered model.")
    digest = tags.get(MLFLOW_RELEASE_TAG)
    if not is_digest(digest):
        raise ConfigurationError(f"{wanted} carries no {MLFLOW_RELEASE_TAG}: it was not registered by this pipeline.")
    digest = str(digest)
    findings = [*_registered_chain(store, digest, tags, wanted)]
    if alias == "champion":
        from dentsight_pipeline.release import champion

        changes = champion.history(store)
        now = changes[-1].release if changes else None
        if now != digest:
            findings.append(
                f"MLflow's alias champion points at release {digest[:12]}, but the store's champion is "
                f"{(now or 'none')[:12]}."
            )
    return Reference(digest, wanted, tuple(findings))


def _registered_chain(store: Store, digest: str, tags: Mapping[str, str], wanted: str) -> Iterator[str]:
    if not store.has_manifest(digest):
        return
    release = store.get_manifest(digest)
    if release.kind != Kind.RELEASE:
        yield f"A tag was forged: {wanted} names {digest[:12]} as its release, but that is a {release.kind}."
        return
    for asset, below in release.facts_as(ReleaseFacts).chain.items():
        said = tags.get(mlflow_chain_tag(asset))
        if said is not None and said != below:
            yield f"A tag was forged: {wanted} names {asset} {said[:12]}, but release {digest[:12]} names {below[:12]}."


def _records(store: Store, digest: str) -> list[dict[str, Any]]:
    try:
        return store.records(digest)
    except DataError:  # changed: the audit says so
        return [dict(entry.record) for entry in logs.read(store).of(digest)]
