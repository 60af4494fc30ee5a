"""What is made here in the forms that others read: a subset for `datasets`, COCO and Croissant; a model as ONNX, or a
released one with its card as Hugging Face takes it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from dentsight_pipeline.commands.console import show, staged
from dentsight_pipeline.data import checks
from dentsight_pipeline.documents.codec import pretty
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.documents.names import SUBSETS, Asset, Kind, raw_exports, with_article
from dentsight_pipeline.errors import ConfigurationError, DentsightError
from dentsight_pipeline.intake.datasets import RegisteredDataset, dataset_keys, recall_dataset
from dentsight_pipeline.lineage.reference import Registry, checkpoint_folder, resolve
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.orchestration.tracking.registry import registry_of
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import read_bytes
from dentsight_pipeline.store.files import refuse_full, write_whole
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store


def export(
    ref: str, hf: Path | None, coco: Path | None, croissant: Path | None, onnx: Path | None, as_json: bool
) -> None:
    """Write a subset or a model, and tell which files."""
    workspace = Workspace()
    store = workspace.store
    if not onnx and (coco or croissant or is_subset(store, ref, registry_of(workspace))):
        made, files = export_subset(store, ref, hf=hf, coco=coco, croissant=croissant, progress=staged())
        what = {"subset": made.digest, "kind": made.kind}
    elif coco or croissant:
        raise ConfigurationError("--onnx writes a model, --coco and --croissant a subset. Give one or the other.")
    else:
        what = {"model": ref}
        files = export_model(store, ref, onnx=onnx, hf=hf, registry=registry_of(workspace), progress=staged())
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
        ConfigurationError: The reference means no subset, nothing is to be written, or a place is taken; nothing is
            written then.
        DataError: A blocking check of the subset does not pass; nothing is written then.
    """
    if croissant and hf is None:
        raise ConfigurationError("--croissant describes the Parquet files of --hf: give --hf DIR as well.")
    if croissant and croissant.is_dir():
        raise ConfigurationError(f"{croissant} is a folder. Give --croissant a file to write.")
    if hf is None and coco is None:
        raise ConfigurationError("Nothing to write: give --hf DIR, --coco DIR or both.")
    subset = subset_of(store, ref)
    checks.require(store, subset)
    from dentsight_pipeline.data import exchange  # which imports `datasets`: not for a refusal, and not for a model

    for folder in filter(None, (hf, coco)):
        refuse_full(folder)
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


def export_model(
    store: Store,
    ref: str,
    *,
    onnx: Path | None = None,
    hf: Path | None = None,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write a model as ONNX, or a released one as Hugging Face takes it.

    Args:
        store: Where it is, unless it is a folder.
        ref: A checkpoint or release, or anything made with a checkpoint; or a model's folder.
        onnx: New folder for `model.onnx`, `onnx.json` with what its user has to know and how it was checked,
            `preprocessor_config.json` and `config.json`.
        hf: New folder for the model and its card; of a release alone.
        registry: MLflow; None when it is not at hand.
        progress: Called with stage, done, total.

    Returns:
        The files written.

    Raises:
        ConfigurationError: The reference means no model, or with `hf` no release; nothing is to be written, a folder is
            not empty, or a package is missing.
        TrainingError: onnxruntime answers otherwise than torch.
    """
    if onnx is None and hf is None:
        raise ConfigurationError("Nothing to write: give --onnx DIR or --hf DIR.")
    for folder in filter(None, (onnx, hf)):
        refuse_full(folder, "Give a new folder: nothing is overwritten.")
    with checkpoint_folder(store, ref, registry) as model:
        card = _card(store, ref, registry) if hf else b""
        written = _write_onnx(model, onnx, progress) if onnx else []
        return [*written, *(_write_with_card(model, hf, card) if hf else ())]


def _write_onnx(model: Path, folder: Path, progress: Progress | None) -> list[Path]:
    from dentsight_pipeline.training.export import describe_onnx, export_onnx

    onnx = export_onnx(model, folder / "model.onnx")
    try:
        write_whole(folder / "onnx.json", pretty(describe_onnx(model, onnx, progress)))
    except DentsightError:
        onnx.unlink()  # what answers otherwise is not left lying about
        raise
    beside = ("preprocessor_config.json", "config.json")
    return [onnx, folder / "onnx.json", *(Path(shutil.copyfile(model / name, folder / name)) for name in beside)]


def _card(store: Store, ref: str, registry: Registry | None) -> bytes:
    """The card of a release, with its `model-index`; only what was judged has figures to hand on."""
    manifest = store.get_manifest(resolve(store, ref, registry).digest)
    if manifest.kind != Kind.RELEASE:
        raise ConfigurationError(
            f"{ref} is {with_article(manifest.kind)}: only a release has a card with measured figures. Give a release, "
            "or write the model alone with --onnx DIR."
        )
    return read_bytes(store, manifest, "model_card.md")


def _write_with_card(model: Path, folder: Path, card: bytes) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    copied = [Path(shutil.copyfile(path, folder / path.name)) for path in sorted(model.iterdir())]
    write_whole(folder / "README.md", card)
    return [*copied, folder / "README.md"]


def is_subset(store: Store, ref: str, registry: Registry | None = None) -> bool:
    """Whether a reference means a subset, or a dataset key."""
    if recall_dataset(store, ref):
        return True
    return not Path(ref).is_dir() and named(store, ref, registry).kind in SUBSETS.values()


def subset_of(store: Store, ref: str) -> Manifest:
    """The subset that a digest or dataset key means.

    Raises:
        ConfigurationError: It means something else, or nothing.
    """
    found = named(store, ref)
    if found.kind not in SUBSETS.values():
        raise ConfigurationError(
            f"{ref} is {with_article(found.kind)}. Give the digest of a {' or '.join(SUBSETS.values())}."
        )
    return found


def named(store: Store, ref: str, registry: Registry | None = None) -> Manifest:
    """What a reference means; a dataset key means its newest condition subset.

    Raises:
        ConfigurationError: It means nothing; the message names the dataset keys that there are.
    """
    if registered := recall_dataset(store, ref):
        return _newest_of(store, registered, ref)
    try:
        return store.get_manifest(resolve(store, ref, registry).digest)
    except ConfigurationError as error:
        keys = ", ".join(dataset_keys(store)) or "none yet"
        raise ConfigurationError(f"{error} Dataset keys: {keys}.") from error


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
