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
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from dentsight_pipeline.documents.facts import EvaluationFacts, ReleaseFacts
from dentsight_pipeline.documents.names import (
    MLFLOW_INPUT_TAG,
    MLFLOW_RELEASE_TAG,
    Asset,
    Kind,
    mlflow_chain_tag,
    mlflow_digest_tag,
    with_article,
)
from dentsight_pipeline.errors import ConfigurationError, DataError, StorageError
from dentsight_pipeline.lineage.walk import name_of
from dentsight_pipeline.release import champion, statement
from dentsight_pipeline.store import log as logs
from dentsight_pipeline.store.content import materialise
from dentsight_pipeline.store.local import hash_file
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.names import is_digest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.store.records import Content, logged

_HEX = re.compile(r"[0-9a-f]{8,63}")
_RUN = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"(?:models:/)?(?P<name>[^/@\s]+)(?:/(?P<version>\d+)|@(?P<alias>[\w.-]+))")
_ALIAS = re.compile(r"[A-Za-z][\w.-]*")
_MADE_TAGS = tuple(mlflow_digest_tag(kind) for kind in (Kind.CHECKPOINT, Kind.PREDICTIONS, Kind.EVALUATION))
_MODEL_FOLDER = "model/"
WEIGHTS = ".safetensors"
_MOST_FILES = 100_000


class Registry(Protocol):
    """What is asked of MLflow."""

    def run_tags(self, run_id: str) -> Mapping[str, str] | None:
        """The tags of a run, or None when there is no such run."""
        ...

    def version_tags(self, name: str | None, *, version: str = "", alias: str = "") -> Mapping[str, str] | None:
        """The tags of a model's version, by number or alias; None when there is none. No name: this project's own."""
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
    path = Path(ref).expanduser()
    if found := _by_digest(store, ref):
        return found
    if path.exists():
        return _by_bytes(store, path)
    if ref in ("champion", "release"):
        return _of_the_store(store, ref)
    if ref.startswith("runs:/") or _RUN.fullmatch(ref):
        return _by_run(store, ref.removeprefix("runs:/").split("/")[0], registry)
    if match := _MODEL.fullmatch(ref):
        return _by_version(store, registry, Version(match["name"], match["version"] or "", match["alias"] or ""))
    if _ALIAS.fullmatch(ref) and registry is not None and registry.version_tags(None, alias=ref) is not None:
        return _by_version(store, registry, Version(None, "", ref))
    raise ConfigurationError(_nothing(store, ref))


@contextmanager
def checkpoint_folder(store: Store, ref: str, registry: Registry | None = None) -> Iterator[Path]:
    """The model folder of a checkpoint, for reading; gone after the block when it was written out for it.

    Args:
        store: Where it is, unless it is a folder.
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
        yield _with_config(path)
        return
    manifest = store.get_manifest(resolve(store, ref, registry).digest)
    if not any(name.startswith(_MODEL_FOLDER) for name in manifest.entries):
        manifest = _made_with(store, manifest, f"The {name_of(manifest)} has no model.")
    with tempfile.TemporaryDirectory(prefix="dentsight-model-") as folder:
        yield materialise(store, manifest, Path(folder), _MODEL_FOLDER, link=True) / _MODEL_FOLDER


def _with_config(path: Path) -> Path:
    """The folder itself, or its `model/`: where a config.json is."""
    for folder in (path, path / _MODEL_FOLDER):
        if (folder / "config.json").is_file():
            return folder
    raise ConfigurationError(f"{path} is no checkpoint: neither it nor its model/ holds a config.json.")


def checkpoint_of(store: Store, digest: str) -> Manifest:
    """The checkpoint that a product is, or that it was made with.

    Raises:
        ConfigurationError: Neither.
    """
    manifest = store.get_manifest(digest)
    if manifest.kind == Kind.CHECKPOINT:
        return manifest
    return _made_with(store, manifest, f"The {name_of(manifest)} was not made with a checkpoint.")


def _made_with(store: Store, manifest: Manifest, refusal: str) -> Manifest:
    """The checkpoint that a product names as what it was made with."""
    named = _named_checkpoint(manifest)
    if named is None:
        raise ConfigurationError(f"{refusal} Give a checkpoint or a release.")
    return store.get_manifest(named)


def _named_checkpoint(manifest: Manifest) -> str | None:
    if manifest.kind == Kind.RELEASE:
        return manifest.facts_as(ReleaseFacts).chain.get(Asset.TRAINED_CHECKPOINT)
    if manifest.kind == Kind.EVALUATION:
        return manifest.facts_as(EvaluationFacts).checkpoint
    if manifest.kind in (Kind.TOOTH_FINDINGS, Kind.TOOTH_REPORT):
        return manifest.inputs.get(Asset.TOOTH_CHECKPOINT)
    return manifest.inputs.get(Asset.TRAINED_CHECKPOINT)


# The store's own names -----------------------------------------------------------------------------------------------


def _by_digest(store: Store, ref: str) -> Reference | None:
    """The product of a digest, or of the start of one; None where it is neither."""
    if is_digest(ref):
        if store.has_manifest(ref) or _was_known(store, ref):
            return Reference(ref, "digest")
        raise ConfigurationError(f"No product of {store.uri} has digest {ref}. Check the digest, and the store.")
    starts = _digests_from(store, ref) if _HEX.fullmatch(ref) else []
    if len(starts) > 1:
        raise ConfigurationError(f"{ref} is the start of {len(starts)} digests: {', '.join(starts)}. Give more digits.")
    return Reference(starts[0], "start of a digest") if starts else None


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
    if ref == "champion":
        digest = champion.current_digest(store)
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


class Match(NamedTuple):
    """A product whose files, or those of the model in it, may be those of a folder."""

    manifest: Manifest
    files: Mapping[str, str]
    """sha256 by path: of all its files, or of those below `model/`."""

    @classmethod
    def below(cls, manifest: Manifest, prefix: str) -> Match:
        """A product with the files below a prefix, or with all of them."""
        entries = {path: entry for path, entry in manifest.entries.items() if path.startswith(prefix)}
        return cls(manifest, {path.removeprefix(prefix): entry.sha256 for path, entry in entries.items()})

    def score(self, found: Mapping[str, str]) -> tuple[int, int, int, bool]:
        """Files in common first; of equals, the documents among them; then fewer others; then a checkpoint."""
        same = [path for path in self.files if found.get(path) == self.files[path]]
        documents = sum(not path.endswith(WEIGHTS) for path in same)
        return len(same), documents, -len(self.files), self.manifest.kind == Kind.CHECKPOINT


def _by_bytes(store: Store, path: Path) -> Reference:
    """The product whose files lie in a folder; of one file, the folder that it lies in."""
    folder, only = (path, None) if path.is_dir() else (path.parent, path.name)
    files = _hashed(folder)
    if only is not None and only not in files:
        raise ConfigurationError(f"{path} is no plain file. Give a report, or a folder that was written out.")
    match = best_match(readable(store), files, only)
    if match is None:
        what = f"the files in {folder}" if only is None else f"the file {path}"
        raise ConfigurationError(
            f"No product of {store.uri} has {what}. Give a checkpoint, release or report that was made "
            "with this store, or name another store with DENTSIGHT_STORE."
        )
    strange = set(files.values()) - set(match.files.values())
    owners = owners_of(readable(store), strange) if strange else {}
    return Reference(match.manifest.digest, f"the files in {folder}", tuple(differences(match, files, folder, owners)))


def readable(store: Store) -> Iterator[Manifest]:
    """Every product whose manifest is whole; a damaged one is found by the audit of what names it."""
    for digest in store.manifest_digests():
        with suppress(DataError):
            yield store.get_manifest(digest)


def best_match(manifests: Iterable[Manifest], files: Mapping[str, str], only: str | None = None) -> Match | None:
    """The product, or the model in it, that has most of these files, by path and sha256; `only` must be one of its."""
    matches = (Match.below(manifest, prefix) for manifest in manifests for prefix in ("", _MODEL_FOLDER))
    fitting = (match for match in matches if only is None or only in match.files)
    best = max(fitting, key=lambda match: match.score(files), default=None)
    return best if best is not None and best.score(files)[0] else None


def differences(match: Match, files: Mapping[str, str], folder: Path, owners: Mapping[str, str]) -> Iterator[str]:
    """Where the files of a folder are not those of the product that they match; `owners` names those they are of."""
    name = name_of(match.manifest)
    for path, wanted in match.files.items():
        found = files.get(path)
        if found is None:
            yield f"{path} of the {name} is missing in {folder}."
        elif found != wanted:
            whose = f" but that of {owners[found]}" if found in owners else ""
            yield (
                f"{path} in {folder} is not the one of the {name}{whose}: its bytes hash to {found}, not to {wanted}."
            )
    if match.manifest.kind == Kind.RELEASE:
        yield from (f"{path} in {folder} is not part of the {name}." for path in files if path not in match.files)


def owners_of(manifests: Iterable[Manifest], wanted: Container[str]) -> dict[str, str]:
    """Products, in words, that have these bytes as a file of their own or of their model."""
    return {
        entry.sha256: f"the {name_of(manifest)}"
        for manifest in manifests
        for path, entry in manifest.entries.items()
        if entry.sha256 in wanted and (path.startswith(_MODEL_FOLDER) or "/" not in path)
    }


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


# MLflow --------------------------------------------------------------------------------------------------------------


def _by_run(store: Store, run_id: str, registry: Registry | None) -> Reference:
    """The product that an MLflow run made, held against the product's own records."""
    tags = registry.run_tags(run_id) if registry else None
    if tags is None:
        raise ConfigurationError(f"MLflow knows no run {run_id}. Check MLFLOW_TRACKING_URI, and the run's id.")
    digest = next((tags[key] for key in _MADE_TAGS if key in tags), "")
    if not is_digest(digest):
        raise ConfigurationError(f"MLflow run {run_id} made nothing: it carries none of {', '.join(_MADE_TAGS)}.")
    return Reference(digest, f"MLflow run {run_id}", tuple(_forged_run(store, run_id, digest, tags)))


def _forged_run(store: Store, run_id: str, digest: str, tags: Mapping[str, str]) -> Iterator[str]:
    """Tags of a run that contradict records and inputs of what it made."""
    if not any(record.get("mlflow_run") == run_id for record in _records(store, digest)):
        yield (
            f"A tag was forged: MLflow run {run_id} says that it made {digest[:12]}, but no record of that product "
            "names the run."
        )
    inputs = store.get_manifest(digest).inputs if store.has_manifest(digest) else {}
    for asset, named in inputs.items():
        said = tags.get(f"{MLFLOW_INPUT_TAG}{asset}", named)
        if said != named:
            yield (
                f"A tag was forged: MLflow run {run_id} says that it read {asset} {said[:12]}, but what it made names "
                f"{named[:12]}."
            )


def _records(store: Store, digest: str) -> list[Content]:
    try:
        return [*store.records(digest)]
    except DataError:  # changed: the audit says so
        return logged(store, digest)


class Version(NamedTuple):
    """A registered model's version, by number or by alias."""

    name: str | None
    number: str = ""
    alias: str = ""

    def __str__(self) -> str:
        return f"{self.name or 'the registered model'}{f'/{self.number}' if self.number else f'@{self.alias}'}"


def _by_version(store: Store, registry: Registry | None, version: Version) -> Reference:
    """The release behind a registered model's version, held against the release itself."""
    name, number, alias = version
    tags = registry.version_tags(name, version=number, alias=alias) if registry else None
    if tags is None:
        raise ConfigurationError(f"MLflow knows no {version}. Give NAME/NUMBER or NAME@ALIAS of a registered model.")
    digest = tags.get(MLFLOW_RELEASE_TAG, "")
    if not is_digest(digest):
        raise ConfigurationError(f"{version} carries no {MLFLOW_RELEASE_TAG}: it was not registered by this pipeline.")
    findings = [*_forged_version(store, digest, tags, str(version))]
    if alias == "champion" and (now := champion.current_digest(store)) != digest:
        findings.append(
            f"MLflow's alias champion points at release {digest[:12]}, but the store's champion is "
            f"{(now or 'none')[:12]}."
        )
    return Reference(digest, str(version), tuple(findings))


def _forged_version(store: Store, digest: str, tags: Mapping[str, str], wanted: str) -> Iterator[str]:
    """Tags of a version that contradict the release that it stands for."""
    if not store.has_manifest(digest):
        return
    release = store.get_manifest(digest)
    if release.kind != Kind.RELEASE:
        found = with_article(release.kind)
        yield f"A tag was forged: {wanted} names {digest[:12]} as its release, but that is {found}."
        return
    for asset, below in release.facts_as(ReleaseFacts).chain.items():
        said = tags.get(mlflow_chain_tag(asset), below)
        if said != below:
            yield f"A tag was forged: {wanted} names {asset} {said[:12]}, but release {digest[:12]} names {below[:12]}."
