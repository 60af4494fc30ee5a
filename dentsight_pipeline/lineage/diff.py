"""What differs between two checkpoints: data, recipe, code, and metrics, with paired intervals where possible."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.documents.annotations import Split
from dentsight_pipeline.documents.evaluation import EVALUATION_FILE, EvaluationDocument, Measurement
from dentsight_pipeline.documents.facts import Cell, SubsetFacts
from dentsight_pipeline.documents.lineage import (
    Code,
    CodeDifference,
    DataDifference,
    Difference,
    ExportChanges,
    ImageChanges,
    LabelChanges,
    MetricRow,
    MetricsDifference,
    Sides,
)
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.evaluation.compare import Comparison
from dentsight_pipeline.evaluation.product import compare_stored
from dentsight_pipeline.lineage.reference import checkpoint_of
from dentsight_pipeline.lineage.reproduce import METRICS, figures_of, made_with, subset_digest, value_in
from dentsight_pipeline.lineage.walk import name_of
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.content import read_document, read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.store.records import first_record

SAME_FINDING_IOU = 0.5
"""Two boxes that overlap at least this much mark the same finding, moved or called otherwise."""


@dataclass(frozen=True)
class Label:
    """One annotation, by what it says and not by its id."""

    name: str
    """Its class."""
    box_xywh_px: tuple[float, float, float, float]


@dataclass(frozen=True)
class Trained:
    """A checkpoint with the data that it was trained on."""

    checkpoint: Manifest
    subset: Manifest


def diff(store: Store, a: str, b: str, *, resamples: int = 1000, progress: Progress | None = None) -> Difference:
    """Compare two checkpoints by all that they were made from.

    Args:
        store: Where both are.
        a: Digest of the first, or of something made with it.
        b: Digest of the second.
        resamples: Bootstrap resamples behind paired intervals.
        progress: Called with stage, done, total.

    Raises:
        ConfigurationError: One of the two leads to no checkpoint, or they find different things.
        IntegrityError: A file that is compared is missing or was changed.
    """
    first, second = _trained(store, a), _trained(store, b)
    if first.subset.kind != second.subset.kind:
        raise ConfigurationError(
            f"The {name_of(first.checkpoint)} was trained on a {first.subset.kind}, the {name_of(second.checkpoint)} "
            f"on a {second.subset.kind}: they find different things. Compare two of the same stage."
        )
    digests = first.checkpoint.digest, second.checkpoint.digest
    records = [first_record(store, digest) for digest in digests]
    code_a, code_b = (record.code or Code() for record in records)
    return Difference(
        a=digests[0],
        b=digests[1],
        same=digests[0] == digests[1],
        data=_data(store, first.subset, second.subset),
        recipe=_fields(*(read_json(store, side.checkpoint, "recipe.json") for side in (first, second))),
        code=CodeDifference(a=code_a, b=code_b, same=code_a.same_as(code_b)),
        packages=_fields(*(record.packages or {} for record in records)),
        metrics=_metrics(store, first, second, resamples, progress),
    )


def _trained(store: Store, digest: str) -> Trained:
    checkpoint = checkpoint_of(store, digest)
    return Trained(checkpoint, store.get_manifest(subset_digest(checkpoint)))


def _fields(a: Mapping[str, Cell], b: Mapping[str, Cell]) -> dict[str, Sides]:
    """The fields that differ, with both values; None for one that is not there."""
    return {name: Sides(a=a.get(name), b=b.get(name)) for name in sorted({*a, *b}) if a.get(name) != b.get(name)}


# Data ----------------------------------------------------------------------------------------------------------------


def _data(store: Store, a: Manifest, b: Manifest) -> DataDifference:
    before, after = ({}, {}) if a.digest == b.digest else _images_of_both(store, a, b)
    images, labels = _image_changes(before, after), _label_changes(before, after)
    several = any(subset.facts_as(SubsetFacts).exports for subset in (a, b))
    return DataDifference(
        same=images == ImageChanges() and not labels,
        subsets=Sides(a=a.digest, b=b.digest),
        splits=Sides(a=_counts(a), b=_counts(b)),
        images=images,
        labels=labels,
        exports=_export_changes(before, after) if several else {},
        corrections=_corrections(a, b),
    )


def _corrections(a: Manifest, b: Manifest) -> Sides | None:
    """Of both, where labels of one were corrected; of the same subset there is nothing to tell."""
    of_a, of_b = (dict(subset.facts_as(SubsetFacts).corrections) for subset in (a, b))
    return Sides(a=of_a, b=of_b) if of_a != of_b else None


def _counts(subset: Manifest) -> dict[str, int]:
    return {split: counts.images for split, counts in subset.facts_as(SubsetFacts).splits.items()}


@dataclass(frozen=True)
class _Image:
    """An image where it is."""

    split: str
    export: str
    labels: list[Label]


_Images = Mapping[tuple[str, str], _Image]
"""sha256 of every image, and its export where both datasets have that: a picture of two exports is two images."""


def _images_of_both(store: Store, a: Manifest, b: Manifest) -> tuple[_Images, _Images]:
    before, after = read_splits(store, a), read_splits(store, b)
    exports = [{name for split in splits.values() for name in _exports(split)} for splits in (before, after)]
    shared = exports[0] & exports[1]
    return _images(before, shared), _images(after, shared)


def _images(splits: Mapping[str, Split], shared: Collection[str]) -> _Images:
    found: dict[tuple[str, str], _Image] = {}
    for name, split in splits.items():
        rows = zip(split.category_ids.tolist(), split.boxes_xywh_px.tolist(), strict=True)
        labels = [Label(split.classes[number - 1], tuple(box)) for number, box in rows]
        ends = zip(split.offsets[:-1], split.offsets[1:], strict=True)
        for digest, export, (start, end) in zip(split.images["sha256"].to_pylist(), _exports(split), ends, strict=True):
            found[digest, export if export in shared else ""] = _Image(name, export, labels[start:end])
    return found


def _exports(split: Split) -> list[str]:
    return split.images["export"].to_pylist()


def _export_changes(before: _Images, after: _Images) -> dict[str, ExportChanges]:
    """What each export brought, by its name."""
    exports = {image.export for images in (before, after) for image in images.values()}
    return {name: _of_export(before, after, name) for name in sorted(exports)}


def _of_export(before: _Images, after: _Images, name: str) -> ExportChanges:
    old, new = ({key: i for key, i in images.items() if i.export == name} for images in (before, after))
    return ExportChanges(
        a=len(old),
        b=len(new),
        added=len(new.keys() - before.keys()),
        removed=len(old.keys() - after.keys()),
        labels_a=sum(len(image.labels) for image in old.values()),
        labels_b=sum(len(image.labels) for image in new.values()),
    )


def _image_changes(before: _Images, after: _Images) -> ImageChanges:
    splits = [(before[image].split, after[image].split) for image in before.keys() & after.keys()]
    moved = Counter(f"{a} → {b}" for a, b in splits if a != b)
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    return ImageChanges(added=len(added), removed=len(removed), moved=dict(sorted(moved.items())))


def _label_changes(before: _Images, after: _Images) -> dict[str, LabelChanges]:
    """What became of the labels, by class."""
    both = before.keys() & after.keys()
    changes = [change for image in both for change in label_changes(before[image].labels, after[image].labels)]
    for change, images, gone in (("with_added_images", after, before), ("with_removed_images", before, after)):
        labels = [label for image in images.keys() - gone.keys() for label in images[image].labels]
        changes += [(label.name, change, None) for label in labels]
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    renamed: dict[str, Counter[str]] = defaultdict(Counter)
    for name, change, to in changes:
        counted[name][change] += 1
        if to is not None:
            renamed[name][to] += 1
    return {
        name: LabelChanges(**counted[name], renamed_to=dict(sorted(renamed[name].items()))) for name in sorted(counted)
    }


def label_changes(before: Sequence[Label], after: Sequence[Label]) -> Iterator[tuple[str, str, str | None]]:
    """Class, change, and the new class of a renamed one: for each label of one image that is not as it was.

    Equal labels are set aside first; of the rest, boxes of one class that overlap were moved, boxes of two classes that
    overlap were renamed, and what is left was added or removed.
    """
    kept = Counter(before) & Counter(after)
    old, new = list((Counter(before) - kept).elements()), list((Counter(after) - kept).elements())
    for same_class in (True, False):
        for label in list(old):
            match = _same_finding(label, [other for other in new if (other.name == label.name) == same_class])
            if match is not None:
                old.remove(label)
                new.remove(match)
                yield (label.name, "moved", None) if same_class else (label.name, "renamed", match.name)
    yield from ((label.name, "removed", None) for label in old)
    yield from ((label.name, "added", None) for label in new)


def _same_finding(label: Label, others: Sequence[Label]) -> Label | None:
    """The label that marks the same finding, or None."""
    overlaps = [_iou(label.box_xywh_px, other.box_xywh_px) for other in others]
    largest = max(overlaps, default=0.0)
    return others[overlaps.index(largest)] if largest >= SAME_FINDING_IOU else None


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes `(x, y, w, h)` in pixels."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 0 else 0.0


# Metrics -------------------------------------------------------------------------------------------------------------


def _metrics(store: Store, a: Trained, b: Trained, resamples: int, progress: Progress | None) -> MetricsDifference:
    made_a, made_b = made_with(store, a.checkpoint), made_with(store, b.checkpoint)
    lacking = [side.checkpoint for side, (_, evaluation) in ((a, made_a), (b, made_b)) if evaluation is None]
    if lacking:
        verb, names = "were" if len(lacking) > 1 else "was", " and the ".join(map(name_of, lacking))
        return MetricsDifference(paired=False, reason=f"The {names} {verb} not evaluated.", rows=())
    before, after = (
        read_document(store, evaluation, EVALUATION_FILE, EvaluationDocument)
        for _, evaluation in (made_a, made_b)
        if evaluation is not None
    )
    rows = _side_by_side(before, after)
    if before.ground_truth_sha256 != after.ground_truth_sha256:
        reason = "They were evaluated on different test images or labels, so differences are not only the models'."
        return MetricsDifference(paired=False, reason=reason, rows=rows)
    made = [predictions for predictions, _ in (made_b, made_a) if predictions]
    return _paired(rows, compare_stored(store, b.subset, *made, resamples=resamples, progress=progress))


def _side_by_side(a: EvaluationDocument, b: EvaluationDocument) -> tuple[MetricRow, ...]:
    """AP and AP50 of both, by class and for the macro mean, each on its own gated population."""
    first, second = figures_of(a, a.gated_population), figures_of(b, b.gated_population)
    cells = [(name, metric) for name in dict.fromkeys([*first, *second]) for metric in METRICS]
    values = [(value_in(first, *cell), value_in(second, *cell)) for cell in cells]
    rows = zip(cells, values, strict=True)
    return tuple(MetricRow(class_name=name, metric=metric, a=old, b=new) for (name, metric), (old, new) in rows)


def _paired(rows: Sequence[MetricRow], made: Comparison) -> MetricsDifference:
    """The rows with the difference B − A on the same images."""
    deltas = {(row.class_name, row.metric.removeprefix("paired_delta_")): row for row in made.measurements}
    with_deltas = tuple(_with_delta(row, deltas.get((row.class_name, row.metric))) for row in rows)
    return MetricsDifference(paired=True, reason=None, population=made.population, rows=with_deltas)


def _with_delta(row: MetricRow, delta: Measurement | None) -> MetricRow:
    if delta is None:
        return row
    return msgspec.structs.replace(row, delta=delta.value, low=delta.low, high=delta.high)
