"""What is made here in the forms that others read: a subset for `datasets`, COCO and Croissant, a model as ONNX."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from dentsight_pipeline.commands.console import show, staged
from dentsight_pipeline.data import checks
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.documents.names import SUBSETS, Asset, raw_exports
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.intake.datasets import RegisteredDataset, recall_dataset
from dentsight_pipeline.lineage.reference import Registry, checkpoint_folder, resolve
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.registry import registry_of
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store import log
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store


def export(
    ref: str, hf: Path | None, coco: Path | None, croissant: Path | None, onnx: Path | None, as_json: bool
) -> None:
    """Write a subset, or a model as ONNX, and tell which files."""
    workspace = Workspace()
    if onnx is None:
        made, files = export_subset(workspace.store, ref, hf=hf, coco=coco, croissant=croissant, progress=staged())
        what = {"subset": made.digest, "kind": made.kind}
    elif hf or coco or croissant:
        raise ConfigurationError("--onnx writes a model, the other options a subset. Give one or the other.")
    else:
        what, files = {"model": ref}, export_model(workspace.store, ref, onnx, registry_of(workspace))
    facts = {**what, "files": [str(path) for path in files]}
    show(facts, as_json, lambda: "\n".join(facts["files"]))


def export_subset(
    store: Store,
    ref: str,
    *,
    hf: Path | None = None,
    coco: Path | None = None,
    croissant: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Manifest, list[Path]]:
    """Write a subset for readers who know nothing of this project.

    Args:
        store: Where the subset is.
        ref: A subset's digest or its start, or a dataset key: then the condition subset made of what it means.
        hf: New folder that `datasets.load_dataset` takes.
        coco: New folder with COCO files and images.
        croissant: File that describes the Parquet files of `hf`.
        progress: Called with stage, done, total.

    Returns:
        The subset, and the files written, without the images of `coco`.

    Raises:
        ConfigurationError: The reference means no subset, nothing is to be written, or a folder is not empty.
        DataError: A blocking check of the subset does not pass; nothing is written then.
    """
    if croissant and hf is None:
        raise ConfigurationError("--croissant describes the Parquet files of --hf: give --hf DIR as well.")
    if hf is None and coco is None:
        raise ConfigurationError("Nothing to write: give --hf DIR, --coco DIR or both.")
    subset = subset_of(store, ref)
    checks.require(store, subset)
    from dentsight_pipeline.data import exchange  # which imports `datasets`: not for a refusal, and not for a model

    files = _write_huggingface(store, subset, hf, croissant, progress) if hf else []
    return subset, [*files, *(exchange.write_coco(store, subset, coco, progress) if coco else ())]


def _write_huggingface(
    store: Store, subset: Manifest, folder: Path, croissant: Path | None, progress: Progress | None
) -> list[Path]:
    from dentsight_pipeline.data import exchange
    from dentsight_pipeline.data.croissant import write_croissant

    parquet = exchange.write_huggingface(store, subset, folder, progress)
    if croissant:
        write_croissant(subset, parquet, croissant)
    return [*parquet.values(), folder / exchange.CARD, *([croissant] if croissant else [])]


def export_model(store: Store, ref: str, folder: Path, registry: Registry | None = None) -> list[Path]:
    """Write a model as ONNX, with what its user has to know: how images are prepared, and what the labels are.

    Args:
        store: Where it is, unless it is a folder.
        ref: A checkpoint or release, or anything made with a checkpoint; or a model's folder.
        folder: New folder for `model.onnx`, `preprocessor_config.json` and `config.json`.
        registry: MLflow; None when it is not at hand.

    Returns:
        The files written.

    Raises:
        ConfigurationError: The reference means no model, the folder is not empty, or the package onnx is missing.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not empty. Give a new folder: nothing is overwritten.")
    from dentsight_pipeline.training.export import export_onnx

    with checkpoint_folder(store, ref, registry) as model:
        onnx = export_onnx(model, folder / "model.onnx")
        beside = ("preprocessor_config.json", "config.json")
        return [onnx, *(Path(shutil.copyfile(model / name, folder / name)) for name in beside)]


def subset_of(store: Store, ref: str) -> Manifest:
    """The subset that a digest or dataset key means.

    Raises:
        ConfigurationError: It means something else, or nothing.
    """
    if registered := recall_dataset(store, ref):
        return _newest_of(store, registered, ref)
    found = store.get_manifest(resolve(store, ref).digest)
    if found.kind not in SUBSETS.values():
        raise ConfigurationError(f"{ref} is a {found.kind}. Give the digest of a {' or '.join(SUBSETS.values())}.")
    return found


def _newest_of(store: Store, dataset: RegisteredDataset, key: str) -> Manifest:
    for subset in _condition_subsets(store):
        if _is_made_of(store, subset, dataset):
            return subset
    raise ConfigurationError(f"Dataset {key!r} has no condition subset yet. Run `dentsight run --dataset {key}` first.")


def _condition_subsets(store: Store) -> Iterator[Manifest]:
    """Those that were ever made and are still there, the newest first."""
    for entry in reversed(log.read(store).entries):
        if entry.record.get("asset") == Asset.CONDITION_SUBSET and store.has_manifest(entry.product):
            yield store.get_manifest(entry.product)


def _is_made_of(store: Store, subset: Manifest, dataset: RegisteredDataset) -> bool:
    """Whether a subset comes from the exports that a key means, read as they were asked for under that key."""
    splits, facts = subset.inputs[Asset.NORMALIZED_SPLITS], subset.facts_as(SubsetFacts)
    if not store.has_manifest(splits):
        return False
    raws = raw_exports(store.get_manifest(splits).inputs)
    mappings = dict(zip(raws, [part.mapping for part in facts.exports] or [facts.mapping], strict=True))
    same = sorted(dataset.drop) == list(facts.mapping.drop) and {e.raw_export for e in dataset.exports} == {*raws}
    return same and all(e.source in (None, mappings[e.raw_export].source) for e in dataset.exports)
