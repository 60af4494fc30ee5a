"""Turns someone's export into a `raw-export`: the same pictures and labels, without anything that names a patient.

Images are stored under the digest of their bytes, their stems are kept only as groups, and of each original its sha256
and size stay, so that an audit can still prove where everything came from. What the labels mean and which boxes are
repaired is decided in `normalise.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.data.coco import Export, ExportAnnotation, ExportImage, ExportSplit
from dentsight_pipeline.data.image_bytes import ImageBytesError, clean, turn_point
from dentsight_pipeline.data.ontology import LabelMapping, choose_source
from dentsight_pipeline.data.privacy import stem_kind
from dentsight_pipeline.data.raw_export import KIND, OUTSIDE_PX, raw_annotations
from dentsight_pipeline.data.records import RecordMap, Records
from dentsight_pipeline.data.stored_images import (
    KnownOriginals,
    StoredImage,
    fingerprint,
    remember_fingerprints,
    stored_documents,
    stored_images,
)
from dentsight_pipeline.errors import AnnotationError, ConfigurationError, DataError, UnknownLabelError
from dentsight_pipeline.intake.files import ExportFiles, open_export
from dentsight_pipeline.intake.identity import corpus, source_identity
from dentsight_pipeline.intake.read import missing_split, read_export
from dentsight_pipeline.intake.records import Refusals
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.threads import map_in_threads

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

_AT_HAND = 64
"""Images that are kept at hand: the annotations of one mostly stand together."""


@dataclass(slots=True)
class RawDocument:
    """A raw export's content, before or after it was stored.

    Attributes:
        annotations: The content of `annotations.json`; images and annotations of its splits are `Records`.
        originals: Each distinct original file by its sha256.
        files: Other files that were read: name (none when it could hold a stem), sha256, size.
        repairs: What had to be mended, one by one.
        facts: The facts of the manifest.
    """

    annotations: dict[str, Any]
    originals: RecordMap[StoredImage]
    files: list[dict[str, Any]]
    repairs: Records[dict[str, Any]]
    facts: dict[str, Any]

    def fingerprints(self) -> RecordMap[str]:
        """Stored sha256 → fingerprint."""
        codes: RecordMap[str] = RecordMap()
        for image in self.originals.values():
            codes[image.sha256] = image.fingerprint
        return codes


def ingest_export(
    source: str | Path,
    store: Store,
    *,
    label_source: str | None = None,
    drop: Collection[str] = (),
    require: Sequence[str] = (),
    identity: Mapping[str, Any] | None = None,
    workers: int = 4,
    progress: Progress | None = None,
) -> Manifest:
    """Stores an export, pseudonymised, and publishes its manifest.

    Every record is checked, and every label looked up, before the first image is stored. An unchanged export is read
    once, to hash it, and nothing is written; a new version costs the work of its new images.

    Args:
        source: A folder, a zip, or an `s3://` address.
        store: Where it goes.
        label_source: The label mapping that normalisation will use; None chooses by READMEs and category names.
        drop: Label names that normalisation will drop.
        require: Splits that must be there.
        identity: Known facts about the source (workspace, project, version …), e.g. from Roboflow's API.
        workers: Threads.
        progress: Called as images are done.

    Returns:
        The published manifest of kind `raw-export`.

    Raises:
        DataError: Something is neither usable nor repairable; the message names file, record and remedy. No manifest
            is published then.
        ConfigurationError: No such label mapping.
    """
    known = KnownOriginals(store)
    with open_export(source) as files:
        raw = read_raw(
            files,
            store=store,
            known=known.find,
            label_source=label_source,
            drop=drop,
            require=require,
            identity=identity,
            workers=workers,
            progress=progress,
        )
    del files  # its list of names is long
    manifest = _build(store, raw)
    if not store.has_manifest(manifest.digest):
        store.put_manifest(manifest)
    remember_fingerprints(store, manifest.digest, raw.fingerprints())
    known.add(manifest.digest)
    return manifest


def read_raw(
    files: ExportFiles,
    *,
    store: Store | None = None,
    known: Callable[[str], StoredImage | None] = lambda _: None,
    label_source: str | None = None,
    drop: Collection[str] = (),
    require: Sequence[str] = (),
    identity: Mapping[str, Any] | None = None,
    refusals: Refusals | None = None,
    workers: int = 4,
    progress: Progress | None = None,
) -> RawDocument:
    """Reads a whole export, images included, and pseudonymises it; stores image bytes when `store` is given.

    Args:
        files: The export's files.
        store: Where image bytes go; None keeps nothing, as `inspect` does.
        known: What is known about an original by its sha256.
        label_source: As for `ingest_export`.
        drop: As for `ingest_export`.
        require: As for `ingest_export`.
        identity: As for `ingest_export`.
        refusals: Where refused records go; by default the first is raised.
        workers: Threads.
        progress: Called as images are done.

    Raises:
        DataError: The export cannot be read, or (unless collected) a record cannot be used.
    """
    refusals = refusals or Refusals()
    hashed = _HashedFiles(files)
    export, below = read_export(hashed, refusals)
    present = [split.name for split in export.splits]
    for name in require:
        if name not in present:
            refusals.add(missing_split(files.name, name, present))
    choice = choose_source(export.readmes.values(), export.category_names(), label_source)
    refuse_unknown_labels(export, choice.mapping, drop, refusals)

    other_files = hashed.seen()
    images = _store_images(below, export, store, known, refusals, workers, progress)
    group_of = _stem_groups(export, images)
    repairs: Records[dict[str, Any]] = Records()
    splits = [_raw_split(split, images, group_of, repairs, refusals) for split in export.splits]
    facts_identity = source_identity(export, identity)
    document = {"schema": "dentsight-raw-export/1", "layout": export.layout, "splits": splits}
    facts = {
        "corpus": corpus(export, facts_identity),
        "source": facts_identity,
        "layout": export.layout,
        "label_source": _fingerprinted_source(export),
        "splits": {
            split["name"]: {
                "images": len(split["images"]),
                "annotations": len(split["annotations"]),
                "unlisted_files": unread.unlisted_files,
            }
            for split, unread in zip(splits, export.splits, strict=True)
        },
        "repairs": dict(sorted(Counter(repair["kind"] for repair in repairs).items())),
        "privacy": _privacy_facts(export, images),
    }
    return RawDocument(document, images.originals, other_files, repairs, facts)


def refuse_unknown_labels(export: Export, mapping: LabelMapping, drop: Collection[str], refusals: Refusals) -> None:
    """Refuses every label name that the mapping does not know, and every `drop` that the export does not have.

    Raises:
        UnknownLabelError: The first unknown or ambiguous name, unless refusals are collected.
        ConfigurationError: A name to drop occurs in no category.
    """
    for name in drop:
        if name not in export.category_names():
            names = ", ".join(map(repr, export.category_names()[:70]))
            raise ConfigurationError(f"--drop {name!r}: the export has no such label. It has {names}.")
    counts: Counter[str] = Counter()
    for split in export.splits:
        counts.update(split.label_counts)
    seen: set[str] = set()
    for split in export.splits:
        for category in split.categories:
            if category.placeholder or category.name in drop or category.name in seen:
                continue
            seen.add(category.name)
            where = f"{split.file}, category {category.id} ({counts[category.name]} annotations)"
            try:
                mapping.resolve(category.name, where)
            except UnknownLabelError as error:
                refusals.add(error)


def _fingerprinted_source(export: Export) -> dict[str, str]:
    """The mapping that READMEs and names call for, whatever `--source` says: a raw export does not depend on it."""
    choice = choose_source(export.readmes.values(), export.category_names())
    return {"source": choice.source, "chosen_by": choice.chosen_by, "evidence": choice.evidence}


# Images --------------------------------------------------------------------------------------------------------------


class _HashedFiles(ExportFiles):
    """Files that remember the sha256 and size of what was read of them."""

    def __init__(self, files: ExportFiles) -> None:
        self.name, self._files = files.name, files
        self._seen: dict[str, tuple[str, int]] = {}

    def paths(self) -> Collection[str]:
        return self._files.paths()

    def blocks(self, path: str) -> Iterator[bytes]:
        if path.lower().endswith((".jpg", ".jpeg", ".png")):
            return self._files.blocks(path)
        return self._hashed(path)

    def _hashed(self, path: str) -> Iterator[bytes]:
        digest, size = sha256(), 0
        for block in self._files.blocks(path):
            digest.update(block)
            size += len(block)
            yield block
        self._seen[path] = (digest.hexdigest(), size)

    def seen(self) -> list[dict[str, Any]]:
        """The files read so far that are no images; a label file's name holds a stem, so it stays unnamed."""
        files = []
        for path, (digest, size) in self._seen.items():
            named = not path.lower().endswith(".txt") or "README" in path
            files.append({"name": "/".join(path.split("/")[-2:]) if named else None, "sha256": digest, "size": size})
        return sorted(files, key=lambda file: (file["name"] or "~", file["sha256"]))


class _StoredImages:
    """What became of an export's images, by their paths in it; images that were refused are absent."""

    def __init__(self) -> None:
        self.originals = stored_images()
        self._original_of: RecordMap[str] = RecordMap()

    def add(self, path: str, image: StoredImage) -> None:
        self.originals[image.original_sha256] = image
        self._original_of[path] = image.original_sha256

    def get(self, path: str) -> StoredImage | None:
        original = self._original_of.get(path)
        return None if original is None else self.originals[original]


def _store_images(
    files: ExportFiles,
    export: Export,
    store: Store | None,
    known: Callable[[str], StoredImage | None],
    refusals: Refusals,
    workers: int,
    progress: Progress | None,
) -> _StoredImages:
    def work(path: str) -> tuple[str, StoredImage | DataError]:
        try:
            return path, _store_image(files.read(path), store, known)
        except ImageBytesError as error:
            return path, DataError(f"{path}: {error}.")
        except DataError as error:
            return path, error

    total = sum(image.exists for split in export.splits for image in split.images)
    paths = (image.path for split in export.splits for image in split.images if image.exists)
    stored = _StoredImages()
    for done, (path, result) in enumerate(map_in_threads(work, paths, workers), start=1):
        if isinstance(result, StoredImage):
            stored.add(path, result)
        else:
            refusals.add(result)
        if progress and (done % 50 == 0 or done == total):
            progress("images", done, total)
    return stored


def _store_image(data: bytes, store: Store | None, known: Callable[[str], StoredImage | None]) -> StoredImage:
    original = sha256(data).hexdigest()
    found = known(original)
    if found is not None:
        stat = store.stat(found.sha256) if store else None
        if store is None or (stat is not None and stat.size == found.size):
            return found
    image = clean(data)
    code = fingerprint(image.data, (image.width, image.height))
    return StoredImage(
        original_sha256=original,
        original_size=len(data),
        sha256=store.put_bytes(image.data) if store else sha256(image.data).hexdigest(),
        size=len(image.data),
        extension=image.extension,
        width=image.width,
        height=image.height,
        orientation=image.orientation,
        coded_size=image.coded_size,
        removed=image.removed,
        fingerprint=code,
    )


def _stem_groups(export: Export, images: _StoredImages) -> Mapping[str, str]:
    """Stem → the smallest stored digest among the images that carry it."""
    groups: RecordMap[str] = RecordMap()
    for split in export.splits:
        for image in split.images:
            found = images.get(image.path)
            if found is not None:
                groups[image.stem] = min(groups.get(image.stem, found.sha256), found.sha256)
    return groups


def _privacy_facts(export: Export, images: _StoredImages) -> dict[str, Any]:
    removed: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    with_metadata = 0
    for image in (image for split in export.splits for image in split.images):
        kinds[stem_kind(image.stem)] += 1
        found = images.get(image.path)
        if found is not None:
            removed.update(found.removed.keys())
            with_metadata += bool(found.removed)
    return {
        "names_replaced": sum(kinds.values()),
        "stem_kinds": dict(sorted(kinds.items())),
        "images_with_metadata": with_metadata,
        "metadata_removed": dict(sorted(removed.items())),
    }


# Records -------------------------------------------------------------------------------------------------------------


def _raw_split(
    split: ExportSplit,
    stored: _StoredImages,
    group_of: Mapping[str, str],
    repairs: Records[dict[str, Any]],
    refusals: Refusals,
) -> dict[str, Any]:
    """One split of `annotations.json`, boxes in pixels of the stored image."""
    reader = _RawSplit(split, repairs, refusals)
    images: Records[dict[str, Any]] = Records()
    for image in split.images:
        found = stored.get(image.path)
        if found is not None:
            reader.compare(image, found)
            images.append(reader.image(image, found, group_of))
        elif not image.exists:  # else it was refused while it was read
            lost = len(split.annotations.of(image.id))
            problem = f"listed, but its file is missing; {lost} annotations dropped"
            reader.repair("image_without_file", image.id, problem)

    @lru_cache(_AT_HAND)
    def image_of(number: int) -> tuple[ExportImage, StoredImage | None]:
        (image,) = split.images.of(number)
        return image, stored.get(image.path)

    annotations: Records[dict[str, Any]] = raw_annotations()
    for annotation in split.annotations:
        image, found = image_of(annotation.image_id)
        if found is not None:
            record = reader.annotation(annotation, image, found)
            if record is not None:
                annotations.append(record)
    return {
        "name": split.name,
        "file": split.file,
        "categories": [{"id": c.id, "name": c.name, "placeholder": c.placeholder} for c in split.categories],
        "images": images,
        "annotations": annotations,
    }


@dataclass(slots=True)
class _RawSplit:
    split: ExportSplit
    repairs: Records[dict[str, Any]]
    refusals: Refusals
    turned: dict[int, tuple[tuple[int, int], int]] = field(default_factory=dict)

    def repair(self, kind: str, image: int, detail: str, annotation: int | None = None) -> None:
        record = {"kind": kind, "split": self.split.name, "export_image_id": image, "detail": detail}
        self.repairs.append(record if annotation is None else record | {"export_annotation_id": annotation})

    def compare(self, image: ExportImage, found: StoredImage) -> None:
        """Notes or refuses an image whose file does not have the size that is listed, or was turned."""
        listed, shown = (image.width, image.height), (found.width, found.height)
        if 0 in listed:
            if self.split.file.endswith(".json"):
                self.repair("listed_size_missing", image.id, f"taken from the file: {shown[0]}×{shown[1]} px")
        elif listed != shown and not (found.orientation != 1 and listed == found.coded_size):
            self.refusals.add(
                AnnotationError(
                    self.split.file,
                    f"image {image.id} ({image.path})",
                    f"listed as {listed[0]}×{listed[1]} px, but the file has {shown[0]}×{shown[1]}",
                    "Its boxes would be in the wrong place: export the version again.",
                )
            )
        if found.orientation != 1:
            frame = "as displayed"
            if 0 not in listed and listed != shown:
                self.turned[image.id] = (found.coded_size, found.orientation)
                frame = "before turning, and were turned too"
            self.repair("exif_rotation", image.id, f"orientation {found.orientation} applied; boxes were {frame}")

    def image(self, image: ExportImage, found: StoredImage, group_of: Mapping[str, str]) -> dict[str, Any]:
        return {
            "id": image.id,
            "file_name": found.path,
            "sha256": found.sha256,
            "original_sha256": found.original_sha256,
            "width": found.width,
            "height": found.height,
            "stem_group": group_of[image.stem],
            "stem_kind": stem_kind(image.stem),
        }

    def annotation(self, annotation: ExportAnnotation, image: ExportImage, found: StoredImage) -> dict[str, Any] | None:
        box, polygons = _in_pixels(annotation, found, self.turned.get(image.id))
        x, y, w, h = box
        if (
            x >= found.width + OUTSIDE_PX
            or y >= found.height + OUTSIDE_PX
            or x + w <= -OUTSIDE_PX
            or y + h <= -OUTSIDE_PX
        ):
            self.refusals.add(
                AnnotationError(
                    self.split.file,
                    f"annotation {annotation.id} of image {image.id} ({image.path})",
                    f"its box [{x:g}, {y:g}, {w:g}, {h:g}] lies wholly outside the {found.width}×{found.height} image",
                    "Correct it in the annotation tool and export again.",
                )
            )
            return None
        for note in annotation.notes:
            self.repair(note, image.id, _NOTES[note], annotation.id)
        return {
            "id": annotation.id,
            "image_id": annotation.image_id,
            "label": annotation.label,
            "bbox": list(box),
            "polygons": [list(polygon) for polygon in polygons],
        }


_NOTES = {
    "duplicate_annotation_id": "another annotation of the file has this id; ids are given anew",
    "missing_annotation_id": "it had no id; ids are given anew",
    "mask_dropped": "its mask is run-length coded; the box stays",
    "polygon_dropped": "a polygon with fewer than three points, an odd count or a number that is not finite",
    "box_from_polygon": "it had no box; the polygon's extent is taken",
}

_Box = tuple[float, float, float, float]


def _in_pixels(
    annotation: ExportAnnotation, image: StoredImage, turned: tuple[tuple[int, int], int] | None
) -> tuple[_Box, list[list[float]]]:
    """Box and polygons in pixels of the stored image."""
    sx, sy = (image.width, image.height) if annotation.relative else (1, 1)
    polygons = [
        [value * (sy if position % 2 else sx) for position, value in enumerate(polygon)]
        for polygon in annotation.polygons
    ]
    if annotation.bbox is None:
        box = _extent([value for polygon in polygons for value in polygon])
    else:
        x, y, w, h = annotation.bbox
        box = (x * sx, y * sy, w * sx, h * sy)
    if turned is None:
        return box, polygons
    size, orientation = turned
    x, y, w, h = box
    box = _extent([*turn_point(x, y, size, orientation), *turn_point(x + w, y + h, size, orientation)])
    return box, [_turned_polygon(polygon, size, orientation) for polygon in polygons]


def _turned_polygon(polygon: Sequence[float], size: tuple[int, int], orientation: int) -> list[float]:
    points = zip(polygon[::2], polygon[1::2], strict=True)
    return [value for x, y in points for value in turn_point(x, y, size, orientation)]


def _extent(values: Sequence[float]) -> _Box:
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


# The manifest --------------------------------------------------------------------------------------------------------


def _build(store: Store, raw: RawDocument) -> Manifest:
    from dentsight_pipeline.store.manifest import Entry, Manifest

    documents = {
        "annotations.json": raw.annotations,
        "repairs.json": raw.repairs,
        "originals.json": {"files": raw.files, "images": _original_records(raw.originals)},
    }
    entries = stored_documents(store, documents)
    for image in raw.originals.values():
        entries[image.path] = Entry(image.sha256, image.size)
    return Manifest(KIND, entries, {}, raw.facts)


def _original_records(originals: RecordMap[StoredImage]) -> Records[dict[str, Any]]:
    """The originals without their fingerprints, which depend on the decoder."""
    records: Records[dict[str, Any]] = Records()
    for image in originals.values():
        record = asdict(image)
        del record["fingerprint"]
        records.append(record)
    return records
