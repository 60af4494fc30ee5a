"""Narrows normalised splits to what one stage is to find: the 13 conditions, or the 32 teeth.

Add a subset here when a model is to find other classes. Repairs and mappings belong in `normalise.py`; the Parquet and
Croissant files that go with a subset are written by `exchange.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.data.coco import CocoAnnotation, CocoImage, CocoSplit
from dentsight_pipeline.data.normalise import split_facts
from dentsight_pipeline.data.ontology import CLASSES, CONDITIONS, TEETH, categories
from dentsight_pipeline.data.records import to_json
from dentsight_pipeline.data.splits import from_coco, read_splits, split_files
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.progress import Progress

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

CONDITION_KIND = "condition-subset"
TOOTH_KIND = "tooth-subset"

_CARRIED = ("corpus", "source", "privacy", "mapping", "repairs", "leakage", "loose_classes", "dropped")


def select_conditions(store: Store, normalized: Manifest, *, progress: Progress | None = None) -> Manifest:
    """The splits narrowed to the 13 conditions that stage 2 is to find, category ids 1–13.

    Every image stays, also one that loses all its annotations: it is a true negative for the conditions kept, and
    dropping it would overstate precision.

    Args:
        store: Where the splits are, and the subset goes.
        normalized: A manifest of kind `normalized-splits`.
        progress: Called with each stage.

    Returns:
        The published manifest of kind `condition-subset`.
    """
    return _publish(store, normalized, CONDITION_KIND, CONDITIONS, lambda image: True, progress)


def select_teeth(store: Store, normalized: Manifest, *, progress: Progress | None = None) -> Manifest:
    """The splits narrowed to the 32 teeth that stage 1 is to find, category ids 1–32.

    Images with conditions but no tooth boxes are left out: nobody marked their teeth, so they are no negatives.

    Args:
        store: Where the splits are, and the subset goes.
        normalized: A manifest of kind `normalized-splits`.
        progress: Called with each stage.

    Returns:
        The published manifest of kind `tooth-subset`.

    Raises:
        DataError: No training image has a tooth box, so there is nothing to learn teeth from.
    """
    counts = normalized.facts["splits"].get("train", {}).get("class_counts", {})
    if not any(counts.get(tooth) for tooth in TEETH):
        raise DataError(
            "No training image of this export has a tooth box (FDI 11 … 48), so no tooth detector can learn from it. "
            "Run without --with-teeth, or use an export whose teeth are annotated."
        )
    return _publish(store, normalized, TOOTH_KIND, TEETH, lambda image: not image["partial_annotation"], progress)


def narrowed(split: Mapping[str, Any], classes: Sequence[str], keep: Callable[[CocoImage], bool]) -> CocoSplit:
    """One split with only these classes, in their order, as category ids from 1.

    Args:
        split: With categories 1–45.
        classes: The classes to keep.
        keep: Which images stay; their ids and those of their annotations do not change.
    """
    new_id = {CLASSES.index(name) + 1: number for number, name in enumerate(classes, start=1)}
    images = [image for image in split["images"] if keep(image)]
    kept = {image["id"] for image in images}
    annotations: list[CocoAnnotation] = [
        {**annotation, "category_id": new_id[annotation["category_id"]]}
        for annotation in split["annotations"]
        if annotation["category_id"] in new_id and annotation["image_id"] in kept
    ]
    return {"images": images, "annotations": annotations, "categories": categories(classes)}


def _publish(
    store: Store,
    normalized: Manifest,
    kind: str,
    classes: Sequence[str],
    keep: Callable[[CocoImage], bool],
    progress: Progress | None,
) -> Manifest:
    from dentsight_pipeline.data import exchange
    from dentsight_pipeline.store.content import build

    report = progress or (lambda stage, done, total: None)
    whole = read_splits(store, normalized)
    splits = {name: narrowed(split.to_coco(), classes, keep) for name, split in whole.items()}
    listed = {image["file_name"] for split in splits.values() for image in split["images"]}
    files: dict[str, Any] = {path: normalized.entries[path] for path in sorted(listed)}
    files |= split_files(from_coco(name, split) for name, split in splits.items())
    facts = {key: normalized.facts[key] for key in _CARRIED} | {
        "classes": list(classes),
        "splits": split_facts(splits),
        "images_left_out": sum(len(split.images) - len(splits[name]["images"]) for name, split in whole.items()),
    }
    facts["loose_classes"] = [name for name in facts["loose_classes"] if name in classes]

    def image_bytes(image: Mapping[str, Any]) -> bytes:
        return store.get_bytes(image["sha256"])

    with tempfile.TemporaryDirectory(prefix="dentsight-subset-") as folder:
        tables: dict[str, tuple[str, str, int]] = {}
        for number, (name, split) in enumerate(splits.items()):
            report("parquet", number, len(splits))
            file, path = Path(folder) / f"{name}.parquet", f"parquet/{name}.parquet"
            exchange.write_parquet(split, image_bytes, file)
            files[path] = store.put_file_entry(file)
            tables[name] = (path, files[path].sha256, len(split["images"]))
            file.unlink()
    files["croissant.json"] = to_json(_croissant(kind, facts, tables))
    manifest = build(store, kind, files, {"normalized_splits": normalized.digest}, facts)
    if not store.has_manifest(manifest.digest):
        store.put_manifest(manifest)
    report("parquet", len(splits), len(splits))
    return manifest


def _croissant(kind: str, facts: Mapping[str, Any], tables: Mapping[str, tuple[str, str, int]]) -> dict[str, Any]:
    """Croissant metadata that names the corpus, and says that phantoms are phantoms."""
    from dentsight_pipeline.data import exchange

    corpus, loose = facts["corpus"], facts["loose_classes"]
    description = (
        f"Panoramic dental X-rays with boxes of {len(facts['classes'])} classes, from {corpus['name']}. "
        f"Labels of the source {facts['mapping']['source']!r}, mapping {facts['mapping']['digest']}. "
        + (f"Loosely marked at the source: {', '.join(loose)}. " if loose else "")
        + "Images whose field `clean` is false share their source with another split. Not for clinical decisions."
    )
    return exchange.croissant(
        f"dentsight-{kind}", corpus["licence"], description, tables, facts["classes"], url=facts["source"].get("url")
    )
