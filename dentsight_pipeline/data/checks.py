"""What must hold of a dataset before anybody trains on it, as outcomes with tables that a person can read.

Each check is a function of one manifest's bytes, so its outcome belongs to exactly that digest: it is computed once,
kept, and asked for again by every consumer (`require`). A check that passed for other bytes never counts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.data.coco import SPLITS
from dentsight_pipeline.errors import DataError

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

CODE_VERSION = "2"
EDGE_TOLERANCE_PX = 1e-6
SHIFTED = 1.5
"""A class whose share of all annotations changed by more than this factor is strongly shifted."""
FEW = 20
"""Under so many annotations in both versions a shift says nothing."""
_SHOWN = 50


@dataclass(frozen=True)
class Outcome:
    """What one check found."""

    check: str
    passed: bool
    blocking: bool
    """Whether training on data that fails it would be meaningless."""
    summary: str
    """One sentence."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """A table, with the same columns in every row; at most fifty rows of evidence."""


def test_split_is_clean(store: Store, manifest: Manifest) -> Outcome:
    """No test or valid image shares its source with another split.

    Not blocking: published splits stay as they are, and gates decide on the clean part.
    """
    leakage = manifest.facts["leakage"]
    rows = [{"split": split, **leakage[split]} for split in SPLITS if split in leakage]
    shared = sum(row["shared_with_any"] for row in rows)
    told = "; ".join(
        f"{row['shared_with_any']} of {row['images']} {row['split']} images ({row['shared_with_train']} with train)"
        for row in rows
    )
    summary = f"Share their source with another split: {told}. Gates decide on the clean images only."
    return Outcome("test_split_is_clean", shared == 0, False, summary, rows)


def labels_are_known(store: Store, manifest: Manifest) -> Outcome:
    """Every annotation's raw name is in the mapping, and the mapping gives the class that the annotation has."""
    from dentsight_pipeline.store.content import read_json

    labels = {row["raw_name"]: row for row in read_json(store, manifest, "labels.json")}
    wrong: Counter[tuple[str, str]] = Counter()
    for _, coco in _splits(store, manifest):
        names = {category["id"]: category["name"] for category in coco["categories"]}
        for annotation in coco["annotations"]:
            name = names.get(annotation["category_id"], f"category {annotation['category_id']}")
            if name not in labels.get(annotation["raw_name"], {"classes": ()})["classes"]:
                wrong[annotation["raw_name"], name] += 1
    if wrong:
        rows = [{"raw name": raw, "class": name, "annotations": n} for (raw, name), n in wrong.most_common(_SHOWN)]
        summary = f"{sum(wrong.values())} annotations have a class that the mapping does not give."
        return Outcome("labels_are_known", False, True, summary, rows)
    rows = []
    for name, row in labels.items():
        counts = {split: row["annotations"].get(split, 0) for split in _names(manifest)}
        classes = ", ".join(row["classes"]) or "dropped"
        rows.append({"raw name": name, "classes": classes, "loose": row["loose"], **counts})
    return Outcome("labels_are_known", True, True, f"All {len(labels)} raw names are mapped or dropped.", rows)


def boxes_are_valid(store: Store, manifest: Manifest) -> Outcome:
    """Every box is finite, has an area and lies in its image; every id is unique and at least 1."""
    problems: list[dict[str, Any]] = []
    boxes = 0
    seen: set[int] = set()
    for split, coco in _splits(store, manifest):
        sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
        for annotation in coco["annotations"]:
            boxes += 1
            twice = "id is used before" if annotation["id"] in seen else None
            seen.add(annotation["id"])
            problem = _box_problem(annotation, sizes) or twice
            if problem:
                problems.append({"split": split, "annotation": annotation["id"], "problem": problem})
    summary = f"{boxes} boxes, {len(problems)} problems."
    return Outcome("boxes_are_valid", not problems, True, summary, problems[:_SHOWN])


def teeth_are_plausible(store: Store, manifest: Manifest) -> Outcome:
    """Tooth numbers fit where they are: flagged for a person, never mended."""
    rows = [
        {"split": split, "image": image["file_name"], "flags": ", ".join(image["flags"])}
        for split, coco in _splits(store, manifest)
        for image in coco["images"]
        if image["flags"]
    ]
    told = ", ".join(f"{flag} {n}" for flag, n in manifest.facts["flags"].items())
    summary = f"{len(rows)} images with implausible teeth: {told}." if rows else "No implausible teeth."
    return Outcome("teeth_are_plausible", not rows, False, summary, rows[:_SHOWN])


def no_identifiers_left(store: Store, manifest: Manifest) -> Outcome:
    """No DICOM-like UID, date, file name or image metadata is left in any file of the dataset."""
    from dentsight_pipeline.data.privacy import find_identifiers

    found = find_identifiers(store, manifest)
    rows = [asdict(finding) for finding in found[:_SHOWN]]
    return Outcome("no_identifiers_left", not found, True, f"{len(found)} places hold an identifier.", rows)


def class_counts_as_expected(current: Manifest, previous: Manifest | None, previous_key: str = "") -> Outcome:
    """Classes of this version against the version before: new, vanished or strongly shifted ones.

    Args:
        current: A subset.
        previous: The subset of the version before, or None when this is the first.
        previous_key: Its dataset key, for the summary.
    """
    now = _totals(current)
    if previous is None:
        rows: list[dict[str, Any]] = [{"class": name, "now": n} for name, n in now.items()]
        absent = [name for name, n in now.items() if n == 0]
        summary = "The first version of this dataset: nothing to compare with." + (
            f" Absent: {', '.join(absent)}." if absent else ""
        )
        return Outcome("class_counts_as_expected", True, False, summary, rows)
    before = _totals(previous)
    scale = (sum(now.values()) or 1) / (sum(before.values()) or 1)
    rows = [
        {"class": name, "before": before.get(name, 0), "now": n, "change": _drift(before.get(name, 0), n, scale)}
        for name, n in now.items()
    ]
    drifted = [f"{row['class']} {row['change']}" for row in rows if row["change"]]
    summary = f"Against {previous_key}: {', '.join(drifted) or 'no class is new, vanished or strongly shifted'}."
    return Outcome("class_counts_as_expected", not drifted, False, summary, rows)


Check = Callable[["Store", "Manifest"], Outcome]

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "raw-export": (no_identifiers_left,),
    "normalized-splits": (test_split_is_clean, labels_are_known, boxes_are_valid, teeth_are_plausible),
    "condition-subset": (boxes_are_valid, no_identifiers_left),
    "tooth-subset": (boxes_are_valid, no_identifiers_left),
}
"""Manifest kind → the checks of its bytes. `class_counts_as_expected` compares two and stands apart."""

BLOCKING = frozenset({"labels_are_known", "boxes_are_valid", "no_identifiers_left"})


def outcome_of(store: Store, check: Check, manifest: Manifest) -> Outcome:
    """The outcome of a check for exactly these bytes, computed once and kept."""
    from dentsight_pipeline.store import memo
    from dentsight_pipeline.store.manifest import Manifest as ManifestClass

    key = memo.key(f"check/{check.__name__}", CODE_VERSION, {manifest.kind: manifest.digest}, {})
    known = memo.recall(store, key)
    if known is not None:
        return Outcome(**store.get_manifest(known).facts)
    outcome = check(store, manifest)
    kept = ManifestClass("check-outcome", {}, {manifest.kind.replace("-", "_"): manifest.digest}, asdict(outcome))
    memo.remember(store, key, store.put_manifest(kept))
    return outcome


def require(store: Store, manifest: Manifest) -> None:
    """Refuse to read a dataset whose blocking checks do not all pass for exactly these bytes.

    Dagster's own blocking stops downstream assets within one run only; a run launched later would read on.

    Raises:
        DataError: A blocking check failed; the message names the check, what it found and the first rows.
    """
    for check in CHECKS.get(manifest.kind, ()):
        if check.__name__ not in BLOCKING:
            continue
        outcome = outcome_of(store, check, manifest)
        if not outcome.passed:
            raise DataError(
                f"{manifest.kind} {manifest.digest[:12]} must not be used: {check.__name__} failed. {outcome.summary} "
                f"First: {outcome.rows[:3]}. Mend the export and ingest it under a new key."
            )


def previous_key(key: str, keys: list[str]) -> str | None:
    """The key of the version before: `opg-v7` for `opg-v8`, or the nearest lower version that exists."""
    mine = _stem_and_number(key)
    if mine is None:
        return None
    others = [(number[1], other) for other in keys if (number := _stem_and_number(other)) and number[0] == mine[0]]
    lower = [(number, other) for number, other in others if number < mine[1]]
    return max(lower)[1] if lower else None


def _stem_and_number(key: str) -> tuple[str, int] | None:
    match = re.fullmatch(r"(.*?)-?v?(\d+)", key)
    return (match.group(1), int(match.group(2))) if match else None


def _splits(store: Store, manifest: Manifest) -> list[tuple[str, dict[str, Any]]]:
    from dentsight_pipeline.data.splits import read_splits

    return [(name, split.to_coco()) for name, split in read_splits(store, manifest).items()]


def _names(manifest: Manifest) -> list[str]:
    """Its splits in published order; facts are kept in alphabetical order."""
    return [split for split in SPLITS if split in manifest.facts["splits"]]


def _box_problem(annotation: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]]) -> str | None:
    if annotation["image_id"] not in sizes:
        return f"image {annotation['image_id']} is not in this split"
    if annotation["id"] < 1:
        return "id is less than 1, which pycocotools reads as 'unmatched'"
    x, y, w, h = annotation["bbox"]
    width, height = sizes[annotation["image_id"]]
    if not all(map(math.isfinite, (x, y, w, h, annotation["area"]))):
        return "box or area is not finite"
    if w <= 0 or h <= 0:
        return f"box of {w} × {h} px has no area"
    if min(x, y) < -EDGE_TOLERANCE_PX or x + w > width + EDGE_TOLERANCE_PX or y + h > height + EDGE_TOLERANCE_PX:
        return f"box {annotation['bbox']} reaches out of {width} × {height} px"
    return None


def _totals(manifest: Manifest) -> dict[str, int]:
    splits = manifest.facts["splits"].values()
    return {name: sum(split["class_counts"].get(name, 0) for split in splits) for name in manifest.facts["classes"]}


def _drift(before: int, now: int, scale: float) -> str:
    if before == 0 and now == 0:
        return ""
    if before == 0:
        return "is new"
    if now == 0:
        return "has vanished"
    if max(before, now) < FEW:
        return ""
    ratio = now / (before * scale)
    return f"shifted ×{ratio:.2f}" if ratio > SHIFTED or ratio < 1 / SHIFTED else ""
