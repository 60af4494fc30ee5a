"""Turns a raw export into `normalized-splits`: 45 known classes, valid boxes, dense ids, sources and clean flags.

Every repair is counted and listed one by one; whatever would need a guess is refused. Reading exports belongs in
`ingest.py`, narrowing to conditions or teeth in `subset.py`, the tables of label names in `ontology.py`.
"""

from __future__ import annotations

from collections import ChainMap, Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import TYPE_CHECKING, Any

import numpy as np

from dentsight_pipeline.data import agreement, fdi, leakage
from dentsight_pipeline.data.coco import (
    SPLITS,
    CocoAnnotation,
    CocoImage,
    clip_xywh,
)
from dentsight_pipeline.data.ontology import CLASSES, TEETH, LabelMapping, SourceChoice, categories, mapping_for
from dentsight_pipeline.data.raw_export import OUTSIDE_PX, iter_sources, raw_annotations, read_raw_annotations
from dentsight_pipeline.data.records import Records
from dentsight_pipeline.data.splits import from_coco, split_files
from dentsight_pipeline.data.stored_images import fingerprints_of, stored_documents
from dentsight_pipeline.documents.annotations import REPAIRS, table_of, write_table
from dentsight_pipeline.errors import AnnotationError, ConfigurationError
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.manifest import Entry

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

KIND = "normalized-splits"
NEAR_DUPLICATE_IOU = 0.9
"""Two boxes of one class on one image that overlap at least this much mark one finding twice."""
ZERO_PX = 1e-6
"""Width or height up to which a box has no area."""
TINY_PX = 2.0
"""Width or height below which a box is counted as tiny; it stays."""


@dataclass(slots=True)
class NormalisedDocument:
    """The normalised splits, before or after they were stored.

    Attributes:
        splits: Split → COCO content, categories 1–45; `images` and `annotations` are `Records`, the latter to be
            found by their image's id.
        repairs: Everything that was mended, in ingestion and here, one by one.
        labels: What each raw name became: `raw_name`, `classes`, `loose`, `reason`, and annotations by split.
        agreement: Rows of the annotator-agreement table of same-source pairs.
        facts: The facts of the manifest.
    """

    splits: dict[str, dict[str, Any]]
    repairs: Records[dict[str, Any]]
    labels: list[dict[str, Any]]
    agreement: list[dict[str, Any]]
    facts: dict[str, Any]


def normalise_export(
    store: Store,
    raw: Manifest,
    *,
    source: str | None = None,
    drop: Collection[str] = (),
    progress: Progress | None = None,
) -> Manifest:
    """Maps, repairs and re-keys a raw export, and publishes the result.

    Args:
        store: Where the raw export is, and the result goes.
        raw: A manifest of kind `raw-export`.
        source: The label mapping; None takes the one that READMEs and category names call for.
        drop: Raw label names to leave out.
        progress: Called with each stage.

    Returns:
        The published manifest of kind `normalized-splits`.

    Raises:
        UnknownLabelError: A label that the mapping does not know.
        AnnotationError: A box that lies wholly outside its image.
        ConfigurationError: No such mapping, or a name to drop that does not occur.
    """
    from dentsight_pipeline.store.content import read_json
    from dentsight_pipeline.store.manifest import Manifest

    document = normalise_document(
        read_raw_annotations(store, raw),
        fingerprints_of(store, raw, progress),
        read_json(store, raw, "repairs.json"),
        raw.facts,
        source=source,
        drop=drop,
        progress=progress,
    )
    entries = stored_documents(store, {"labels.json": document.labels, "agreement.json": document.agreement})
    tables = split_files(from_coco(name, split) for name, split in document.splits.items())
    tables["repairs.arrow"] = write_table(table_of(document.repairs, REPAIRS))
    for path, data in tables.items():
        entries[path] = Entry(store.put_bytes(data), len(data))
    for image in chain.from_iterable(split["images"] for split in document.splits.values()):
        entries[image["file_name"]] = raw.entries[image["file_name"]]
    manifest = Manifest(KIND, entries, {"raw_export": raw.digest}, document.facts)
    if not store.has_manifest(manifest.digest):
        store.put_manifest(manifest)
    return manifest


def normalise_document(
    raw: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    repairs: Iterable[Mapping[str, Any]],
    facts: Mapping[str, Any],
    *,
    source: str | None = None,
    drop: Collection[str] = (),
    progress: Progress | None = None,
) -> NormalisedDocument:
    """The normalisation itself, on content instead of stored files.

    Args:
        raw: The content of `annotations.json`, its images and annotations as lists or as `Records`.
        fingerprints: Stored sha256 → fingerprint.
        repairs: What ingestion mended.
        facts: The raw export's facts.
        source: As for `normalise_export`.
        drop: As for `normalise_export`.
        progress: As for `normalise_export`.
    """
    report = progress or (lambda stage, done, total: None)
    choice = _choice(facts, source)
    mapper = _Mapper(choice.mapping, drop, raw)
    report("sources", 0, 1)
    groups = leakage.group_by_source(iter_sources(raw, fingerprints))
    several = groups.sizes > 1
    split_of = [split["name"] for split in raw["splits"] for _ in range(len(split["images"]))]
    clean = leakage.clean_flags(split_of, groups.numbers)
    report("sources", 1, 1)

    keys = _Keys()
    sources = zip(groups, map(bool, clean), strict=True)
    all_repairs: Records[dict[str, Any]] = Records(dict(repair) for repair in repairs)
    splits: dict[str, dict[str, Any]] = {}
    for number, split in enumerate(raw["splits"]):
        report("normalise", number, len(raw["splits"]))
        normaliser = _SplitNormaliser(split, mapper, keys, all_repairs)
        splits[split["name"]] = normaliser.run(sources)
    report("normalise", len(raw["splits"]), len(raw["splits"]))

    together = list(compress(chain.from_iterable(split["images"] for split in splits.values()), several))
    by_image = ChainMap(*(split["annotations"].by_key() for split in splits.values()))
    rows = agreement.agreement_table(together, by_image, CLASSES, fingerprints)
    labels = mapper.table()
    result_facts = {
        "corpus": facts["corpus"],
        "source": facts["source"],
        "privacy": facts["privacy"],
        "classes": list(CLASSES),
        "mapping": {
            "source": choice.source,
            "chosen_by": choice.chosen_by,
            "evidence": choice.evidence,
            "digest": choice.mapping.digest,
            "drop": sorted(drop),
        },
        "loose_classes": [CLASSES[category - 1] for category in sorted(keys.loose)],
        "dropped": {row["raw_name"]: sum(row["annotations"].values()) for row in labels if not row["classes"]},
        "composites": sum(sum(row["annotations"].values()) for row in labels if len(row["classes"]) > 1),
        "repairs": dict(sorted(Counter(repair["kind"] for repair in all_repairs).items())),
        "boxes_under_2_px": keys.tiny,
        "splits": split_facts(splits),
        "leakage": leakage.leakage_table(split_of, groups.numbers),
        "sources": len(np.unique(groups.numbers)),
        "partial_annotation": {
            name: sum(image["partial_annotation"] for image in split["images"]) for name, split in splits.items()
        },
        "flags": dict(sorted(_flags(splits).items())),
    }
    return NormalisedDocument(splits, all_repairs, labels, rows, result_facts)


def _flags(splits: Mapping[str, Mapping[str, Any]]) -> Counter[str]:
    """How many images have each kind of flag."""
    return Counter(flag.split(":")[0] for split in splits.values() for i in split["images"] for flag in i["flags"])


def split_facts(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each split holds: images, clean images, annotations, and annotations of each class, zeros included."""
    facts: dict[str, dict[str, Any]] = {}
    for name, split in splits.items():
        names = {category["id"]: category["name"] for category in split["categories"]}
        counts = dict.fromkeys(names.values(), 0)
        annotated: set[int] = set()
        for annotation in split["annotations"]:
            counts[names[annotation["category_id"]]] += 1
            annotated.add(annotation["image_id"])
        images = clean = empty = 0
        for image in split["images"]:
            images += 1
            clean += image["clean"]
            empty += image["id"] not in annotated
        facts[name] = {
            "images": images,
            "clean_images": clean,
            "images_without_annotations": empty,
            "annotations": len(split["annotations"]),
            "class_counts": counts,
        }
    return facts


def _choice(facts: Mapping[str, Any], source: str | None) -> SourceChoice:
    if source is not None:
        return SourceChoice(mapping_for(source).source, "option", f"--source {source}")
    suggested = facts["label_source"]
    return SourceChoice(suggested["source"], suggested["chosen_by"], suggested["evidence"])


class _Keys:
    """New ids, dense from 1 over all splits, and what is counted beside them."""

    def __init__(self) -> None:
        self.image = self.annotation = self.tiny = 0
        self.loose: set[int] = set()

    def next_image(self) -> int:
        self.image += 1
        return self.image

    def next_annotation(self) -> int:
        self.annotation += 1
        return self.annotation


class _Mapper:
    """Applies one mapping, and counts what each raw name became."""

    def __init__(self, mapping: LabelMapping, drop: Collection[str], raw: Mapping[str, Any]) -> None:
        named = {c["name"] for split in raw["splits"] for c in split["categories"]}
        for name in drop:
            if name not in named:
                raise ConfigurationError(f"--drop {name!r}: no such label here. There are {sorted(named)}.")
        self.category_ids = {name: number for number, name in enumerate(CLASSES, start=1)}
        self.classes: dict[str, tuple[str, ...]] = {}
        self.loose: dict[str, bool] = {}
        self.reasons: dict[str, str] = {}
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.placeholders = {
            c["name"]: split["name"] for split in raw["splits"] for c in split["categories"] if c["placeholder"]
        }
        for split in raw["splits"]:
            for category in split["categories"]:
                if not category["placeholder"]:
                    self._learn(category["name"], mapping, drop, f"{split['file']}, category {category['id']}")

    def _learn(self, name: str, mapping: LabelMapping, drop: Collection[str], where: str) -> None:
        if name in self.classes:
            return
        if name in drop:
            self.classes[name], self.loose[name], self.reasons[name] = (), False, "--drop"
            return
        rule = mapping.resolve(name, where)
        self.classes[name], self.loose[name], self.reasons[name] = rule.classes, rule.loose, rule.reason

    def table(self) -> list[dict[str, Any]]:
        """One row for each raw name, in alphabetical order."""
        rows = [
            {
                "raw_name": name,
                "classes": list(classes),
                "loose": self.loose[name],
                "reason": self.reasons[name],
                "annotations": {split: n for split in SPLITS if (n := self.counts[name][split])},
            }
            for name, classes in self.classes.items()
        ]
        rows += [
            {"raw_name": n, "classes": [], "loose": False, "reason": "Roboflow's root placeholder", "annotations": {}}
            for n in self.placeholders
            if n not in self.classes
        ]
        return sorted(rows, key=lambda row: row["raw_name"])


class _SplitNormaliser:
    """Maps, repairs and re-keys one split."""

    def __init__(self, raw: Mapping[str, Any], mapper: _Mapper, keys: _Keys, repairs: Records[dict[str, Any]]) -> None:
        self.raw, self.mapper, self.keys, self.repairs = raw, mapper, keys, repairs

    def run(self, sources: Iterator[tuple[str, bool]]) -> dict[str, Any]:
        raw = self.raw["annotations"]
        raw_by_image = raw if isinstance(raw, Records) else raw_annotations(raw)
        images: Records[CocoImage] = Records()
        all_annotations: Records[CocoAnnotation] = Records(key=lambda annotation: annotation["image_id"])
        for raw_image in self.raw["images"]:
            group, clean = next(sources)
            image_id = self.keys.next_image()
            annotations = self._annotations(raw_image, image_id, raw_by_image.of(raw_image["id"]))
            teeth = [a for a in annotations if a["category_id"] <= len(TEETH)]
            image: CocoImage = {
                "id": image_id,
                "file_name": raw_image["file_name"],
                "width": raw_image["width"],
                "height": raw_image["height"],
                "sha256": raw_image["sha256"],
                "source_group": group,
                "clean": clean,
                "partial_annotation": bool(annotations) and not teeth,
                "flags": [],
            }
            named_boxes = [(CLASSES[tooth["category_id"] - 1], tooth["bbox"]) for tooth in teeth]
            image["flags"] = fdi.tooth_flags(image["width"], image["height"], named_boxes) if teeth else []
            images.append(image)
            for annotation in annotations:
                all_annotations.append(annotation)
        return {"images": images, "annotations": all_annotations, "categories": categories()}

    def _repair(self, kind: str, image: Mapping[str, Any], annotation: Mapping[str, Any], detail: str) -> None:
        self.repairs.append(
            {
                "kind": kind,
                "split": self.raw["name"],
                "export_image_id": image["id"],
                "export_annotation_id": annotation["id"],
                "image": image["sha256"],
                "detail": detail,
            }
        )

    def _annotations(
        self, image: Mapping[str, Any], image_id: int, raw: Sequence[Mapping[str, Any]]
    ) -> list[CocoAnnotation]:
        kept: list[CocoAnnotation] = []
        by_class: dict[int, list[CocoAnnotation]] = defaultdict(list)
        for annotation in raw:
            label = annotation["label"]
            self.mapper.counts[label][self.raw["name"]] += 1
            classes = self.mapper.classes[label]
            if not classes:
                continue
            box = self._box(image, annotation)
            if box is None:
                continue
            polygons = self._polygons(image, annotation)
            for name in classes:
                category = self.mapper.category_ids[name]
                twin = _twin(box, by_class[category])
                if twin is not None:
                    exact = tuple(twin["bbox"]) == box
                    kind = "exact_duplicate" if exact else "near_duplicate"
                    self._repair(kind, image, annotation, f"a second {name} box in the same place was left out")
                    continue
                record: CocoAnnotation = {
                    "id": self.keys.next_annotation(),
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": list(box),
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": polygons,
                    "raw_name": label,
                    "loose": self.mapper.loose[label],
                }
                self.keys.tiny += min(box[2], box[3]) < TINY_PX
                if record["loose"]:
                    self.keys.loose.add(category)
                by_class[category].append(record)
                kept.append(record)
        return kept

    def _box(self, image: Mapping[str, Any], annotation: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
        x, y, w, h = (float(value) for value in annotation["bbox"])
        width, height = image["width"], image["height"]
        if w <= ZERO_PX or h <= ZERO_PX:
            self._repair("zero_area_box", image, annotation, f"{w:g}×{h:g} px, left out")
            return None
        over = max(-x, -y, x + w - width, y + h - height)
        if over <= 0:
            return x, y, w, h
        box = clip_xywh((x, y, w, h), width, height)
        if box[2] > ZERO_PX and box[3] > ZERO_PX:
            self._repair("clipped_box", image, annotation, f"reached {over:.3g} px past the edge")
            return box
        if x >= width + OUTSIDE_PX or y >= height + OUTSIDE_PX or x + w <= -OUTSIDE_PX or y + h <= -OUTSIDE_PX:
            raise AnnotationError(
                self.raw["file"],
                f"annotation {annotation['id']} of image {image['id']}",
                f"its box [{x:g}, {y:g}, {w:g}, {h:g}] lies wholly outside the {width}×{height} image",
                "Correct it in the annotation tool and export again.",
            )
        self._repair("zero_area_box", image, annotation, "nothing of it is inside the image, left out")
        return None

    def _polygons(self, image: Mapping[str, Any], annotation: Mapping[str, Any]) -> list[list[float]]:
        """Polygons with their points moved into the image; those without area are left out."""
        kept: list[list[float]] = []
        limits = (float(image["width"]), float(image["height"]))
        for polygon in annotation["polygons"]:
            inside = [min(max(float(value), 0.0), limits[i % 2]) for i, value in enumerate(polygon)]
            if _area(inside) <= ZERO_PX:
                self._repair("polygon_dropped", image, annotation, "a polygon without area; the box stays")
                continue
            if inside != polygon:
                self._repair("clipped_polygon", image, annotation, "points past the edge were moved onto it")
            kept.append(inside)
        return kept


def _twin(box: tuple[float, float, float, float], others: Sequence[CocoAnnotation]) -> CocoAnnotation | None:
    """A box of the same class that marks the same finding, or None."""
    x, y, w, h = box
    for other in others:
        ox, oy, ow, oh = other["bbox"]
        across = min(x + w, ox + ow) - max(x, ox)
        if across <= 0.5 * w:
            continue
        down = min(y + h, oy + oh) - max(y, oy)
        if down > 0 and across * down >= NEAR_DUPLICATE_IOU * (w * h + ow * oh - across * down):
            return other
    return None


def _area(polygon: Sequence[float]) -> float:
    """The area of a polygon in square pixels, by the shoelace formula."""
    xs, ys = polygon[::2], polygon[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2
