"""What must hold of a dataset before anybody trains on it, as outcomes with tables that a person can read.

Each check is a function of one manifest's bytes, so its outcome belongs to exactly that digest: it is computed once,
kept, and asked for again by every consumer (`require`). A check that passed for other bytes never counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.facts import Cell, CheckOutcomeFacts, DatasetFacts, SplitsFacts
from dentsight_pipeline.documents.names import SPLITS, Asset, Kind, raw_exports
from dentsight_pipeline.errors import DataError

if TYPE_CHECKING:
    from dentsight_pipeline.documents.annotations import Split
    from dentsight_pipeline.documents.dataset import LabelRow
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

CODE_VERSION = "3"
SHIFTED = 1.5
"""A class whose share of all annotations changed by more than this factor is strongly shifted."""
FEW = 20
"""Under so many annotations in both versions a shift says nothing."""
_SHOWN = 50

Check = Callable[["Store", "Manifest"], CheckOutcomeFacts]

BLOCKING = frozenset({"labels_are_known", "boxes_are_valid", "no_identifiers_left"})
"""Data that fails one of these would teach nonsense, or tell of a patient."""


def _outcome(
    check: Callable[..., CheckOutcomeFacts], passed: bool, summary: str, rows: Iterable[Mapping[str, Cell]]
) -> CheckOutcomeFacts:
    name = check.__name__
    return CheckOutcomeFacts(check=name, passed=passed, blocking=name in BLOCKING, summary=summary, rows=tuple(rows))


def test_split_is_clean(store: Store, manifest: Manifest) -> CheckOutcomeFacts:
    """No test or valid image shares its source with another split.

    Not blocking: published splits stay as they are, and gates decide on the clean part.
    """
    leakage = manifest.facts_as(DatasetFacts).leakage
    shared = {name: split for name in SPLITS if (split := getattr(leakage, name, None)) is not None}
    told = "; ".join(
        f"{split.shared_with_any} of {split.images} {name} images ({split.shared_with_train} with train)"
        for name, split in shared.items()
    )
    summary = f"Share their source with another split: {told}. Gates decide on the clean images only."
    rows = ({"split": name, **codec.plain(split)} for name, split in shared.items())
    return _outcome(test_split_is_clean, not any(split.shared_with_any for split in shared.values()), summary, rows)


def labels_are_known(store: Store, manifest: Manifest) -> CheckOutcomeFacts:
    """Every annotation's raw name is in the mapping, and the mapping gives the class that the annotation has."""
    from dentsight_pipeline.data.corrections import CORRECTED
    from dentsight_pipeline.data.validity import wrong_classes
    from dentsight_pipeline.documents.dataset import LabelRow
    from dentsight_pipeline.store.content import read_bytes

    labels = codec.read(read_bytes(store, manifest, "labels.json"), list[LabelRow], "labels.json")
    facts, wrong = manifest.facts_as(DatasetFacts), Counter[tuple[str, str]]()
    corrected = {CORRECTED: facts.classes} if Asset.LABEL_CORRECTIONS in manifest.inputs else {}
    for export in sorted({row.export for row in labels}):
        known = {row.raw_name: row.classes for row in labels if row.export == export}
        known |= corrected
        wrong += wrong_classes(_splits(store, manifest, export), known)
    if wrong:
        rows = [{"raw name": raw, "class": name, "annotations": n} for (raw, name), n in wrong.most_common(_SHOWN)]
        summary = f"{sum(wrong.values())} annotations have a class that the mapping does not give."
        return _outcome(labels_are_known, False, summary, rows)
    rows = _label_rows(labels, facts.splits)
    return _outcome(labels_are_known, True, f"All {len(labels)} raw names are mapped or dropped.", rows)


def _label_rows(labels: Sequence[LabelRow], splits: Container[str]) -> list[dict[str, Cell]]:
    """What became of every raw name, and how often it stands in each split."""
    names = [name for name in SPLITS if name in splits]
    return [
        {"raw name": row.raw_name, "classes": ", ".join(row.classes) or "dropped", "loose": row.loose}
        | {split: row.annotations.get(split, 0) for split in names}
        for row in labels
    ]


def boxes_are_valid(store: Store, manifest: Manifest) -> CheckOutcomeFacts:
    """Every box is finite, has an area and lies in its image; every id is unique and at least 1."""
    from dentsight_pipeline.data.validity import box_problems

    boxes, bad, first = box_problems(_splits(store, manifest), _SHOWN)
    return _outcome(boxes_are_valid, not bad, f"{boxes} boxes, {bad} problems.", map(msgspec.to_builtins, first))


def teeth_are_plausible(store: Store, manifest: Manifest) -> CheckOutcomeFacts:
    """Tooth numbers fit where they are: flagged for a person, never mended."""
    rows = [
        {"split": split.name, "image": name, "flags": ", ".join(flags)}
        for split in _splits(store, manifest)
        for name, flags in zip(*(split.images[c].to_pylist() for c in ("file_name", "flags")), strict=True)
        if flags
    ]
    told = ", ".join(f"{flag} {n}" for flag, n in manifest.facts_as(SplitsFacts).flags.items())
    summary = f"{len(rows)} images with implausible teeth: {told}." if rows else "No implausible teeth."
    return _outcome(teeth_are_plausible, not rows, summary, rows[:_SHOWN])


def corrections_fit(store: Store, manifest: Manifest) -> CheckOutcomeFacts:
    """What people corrected was put onto the labels, or was there already: else a person looks again."""
    from dentsight_pipeline.data.corrections import unfit

    told = manifest.facts_as(SplitsFacts).corrections
    rows = unfit(store, manifest) if told else []
    summary = ", ".join(f"{n} {outcome}" for outcome, n in told.items()) or "Nothing was corrected"
    return _outcome(corrections_fit, not rows, f"{summary}.", rows[:_SHOWN])


def no_identifiers_left(store: Store, manifest: Manifest) -> CheckOutcomeFacts:
    """No DICOM-like UID, date, file name or image metadata is left in any file of the dataset."""
    from dentsight_pipeline.data.identifiers import find_identifiers

    if manifest.kind == Kind.EXPORT_SET:
        return _together(no_identifiers_left, store, manifest)
    found = find_identifiers(store, manifest, proven=_proven_images(store, manifest))
    rows = map(msgspec.to_builtins, found[:_SHOWN])
    return _outcome(no_identifiers_left, not found, f"{len(found)} places hold an identifier.", rows)


def _together(check: Check, store: Store, exports: Manifest) -> CheckOutcomeFacts:
    """What a check finds in each raw export of a set."""
    raws = [store.get_manifest(digest) for digest in raw_exports(exports.inputs)]
    each = {raw.digest[:12]: outcome_of(store, check, raw) for raw in raws}
    rows = [{"export": digest, **row} for digest, outcome in each.items() for row in outcome.rows]
    summary = " ".join(f"Export {digest}: {outcome.summary}" for digest, outcome in each.items())
    return _outcome(check, all(outcome.passed for outcome in each.values()), summary, rows[:_SHOWN])


def _proven_images(store: Store, manifest: Manifest) -> frozenset[str]:
    """Digests of images of the raw exports below, where those passed this check: they need no second look."""
    splits = manifest.inputs.get(Asset.NORMALIZED_SPLITS)
    if splits is not None:
        return _proven_images(store, store.get_manifest(splits)) if store.has_manifest(splits) else frozenset()
    raws = [store.get_manifest(digest) for digest in raw_exports(manifest.inputs) if store.has_manifest(digest)]
    passed = [raw for raw in raws if outcome_of(store, no_identifiers_left, raw).passed]
    return frozenset(
        entry.sha256 for raw in passed for path, entry in raw.entries.items() if path.startswith("images/")
    )


def images_as_expected(
    store: Store, current: Manifest, previous: Manifest | None, previous_key: str = ""
) -> CheckOutcomeFacts:
    """No property of the new images, or of their labels, has drifted from the training data of the version before.

    Args:
        store: Where both are.
        current: A subset.
        previous: The subset of the version before, or None when this is the first.
        previous_key: Its dataset key, for the summary.
    """
    if previous is None:
        return _outcome(images_as_expected, True, "The first version of this dataset: nothing to compare with.", [])
    from dentsight_pipeline.data import drift

    found = drift.drift_between(drift.stored_sample(store, current), *drift.training_data_of(store, previous))
    rows = [codec.plain(shift) for shift in found.shifts]
    return _outcome(images_as_expected, not found.drifted, f"Against {previous_key}: {drift.summary_of(found)}", rows)


def class_counts_as_expected(current: Manifest, previous: Manifest | None, previous_key: str = "") -> CheckOutcomeFacts:
    """Classes of this version against the version before: new, vanished or strongly shifted ones.

    Args:
        current: A subset.
        previous: The subset of the version before, or None when this is the first.
        previous_key: Its dataset key, for the summary.
    """
    now = _totals(current)
    if previous is None:
        absent = ", ".join(name for name, n in now.items() if n == 0)
        summary = "The first version of this dataset: nothing to compare with." + (absent and f" Absent: {absent}.")
        return _outcome(class_counts_as_expected, True, summary, [{"class": name, "now": n} for name, n in now.items()])
    before = _totals(previous)
    scale = (sum(now.values()) or 1) / (sum(before.values()) or 1)
    rows = [
        {"class": name, "before": before.get(name, 0), "now": n, "change": _drift(before.get(name, 0), n, scale)}
        for name, n in now.items()
    ]
    drifted = [f"{row['class']} {row['change']}" for row in rows if row["change"]]
    summary = f"Against {previous_key}: {', '.join(drifted) or 'no class is new, vanished or strongly shifted'}."
    return _outcome(class_counts_as_expected, not drifted, summary, rows)


CHECKS: Mapping[str, tuple[Check, ...]] = {
    Kind.RAW_EXPORT: (no_identifiers_left,),
    Kind.EXPORT_SET: (no_identifiers_left,),
    Kind.NORMALIZED_SPLITS: (
        test_split_is_clean,
        labels_are_known,
        boxes_are_valid,
        teeth_are_plausible,
        corrections_fit,
    ),
    Kind.CONDITION_SUBSET: (boxes_are_valid, no_identifiers_left),
    Kind.TOOTH_SUBSET: (boxes_are_valid, no_identifiers_left),
}
"""Manifest kind → the checks of its bytes. `class_counts_as_expected` compares two and stands apart."""


def outcome_of(store: Store, check: Check, manifest: Manifest) -> CheckOutcomeFacts:
    """The outcome of a check for exactly these bytes, computed once and kept."""
    from dentsight_pipeline.store import memo
    from dentsight_pipeline.store.manifest import Manifest as ManifestClass

    key = memo.key(f"check/{check.__name__}", CODE_VERSION, {manifest.kind: manifest.digest}, {})
    read = {manifest.kind.replace("-", "_"): manifest.digest}
    kept = memo.once(store, key, lambda: ManifestClass(Kind.CHECK_OUTCOME, {}, read, check(store, manifest)))
    return kept.facts_as(CheckOutcomeFacts)


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
                f"First: {list(outcome.rows[:3])}. Mend the export and ingest it under a new key."
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


def _splits(store: Store, manifest: Manifest, export: str = "") -> Iterator[Split]:
    """All splits, or of them what came from one of several exports."""
    from dentsight_pipeline.data.splits import of_export, read_split, split_names

    splits = (read_split(store, manifest, name) for name in split_names(manifest))
    return (of_export(split, export) for split in splits) if export else splits


def _totals(manifest: Manifest) -> dict[str, int]:
    facts = manifest.facts_as(DatasetFacts)
    return {name: sum(split.class_counts.get(name, 0) for split in facts.splits.values()) for name in facts.classes}


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
