"""What differs between two checkpoints: data, recipe, code, and metrics, with paired intervals where possible."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dentsight_pipeline.data.splits import read_split, read_splits
from dentsight_pipeline.documents.facts import SubsetFacts
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.lineage.fit import name_of
from dentsight_pipeline.lineage.reference import checkpoint_of
from dentsight_pipeline.lineage.reproduce import first_record, made_with
from dentsight_pipeline.progress import Progress
from dentsight_pipeline.store.content import read_json

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

SAME_FINDING_IOU = 0.5
"""Two boxes that overlap at least this much mark the same finding, moved or called otherwise."""


@dataclass(frozen=True)
class Label:
    """One annotation, by what it says and not by its id."""

    name: str
    """Its class."""
    box_xywh_px: tuple[float, float, float, float]


@dataclass(frozen=True)
class Difference:
    """What differs between checkpoint A and checkpoint B.

    Attributes:
        a: Digest of A.
        b: Digest of B.
        data: `same`, `subsets`, `splits` (images of each), `images` (added, removed, moved to another split) and
            `labels` by class on the images that both have: added, removed, moved, renamed (to which classes).
        recipe: Field → value in A and in B, of the fields that differ.
        code: Commit and dirty flag of A and B, and `same`.
        packages: Package → version in A and in B, of those that differ.
        metrics: `paired` (whether on the same ground truth), `reason` when not, and `rows`.
    """

    a: str
    b: str
    data: Mapping[str, Any]
    recipe: Mapping[str, tuple[Any, Any]]
    code: Mapping[str, Any]
    packages: Mapping[str, tuple[Any, Any]]
    metrics: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "same": self.a == self.b,
            "data": dict(self.data),
            "recipe": {name: {"a": a, "b": b} for name, (a, b) in self.recipe.items()},
            "code": dict(self.code),
            "packages": {name: {"a": a, "b": b} for name, (a, b) in self.packages.items()},
            "metrics": dict(self.metrics),
        }


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
    first, second = checkpoint_of(store, a), checkpoint_of(store, b)
    subsets = _subset(store, first), _subset(store, second)
    if subsets[0].kind != subsets[1].kind:
        raise ConfigurationError(
            f"The {name_of(first)} was trained on a {subsets[0].kind}, the {name_of(second)} on a {subsets[1].kind}: "
            "they find different things. Compare two of the same stage."
        )
    records = first_record(store, first.digest), first_record(store, second.digest)
    codes = [record.get("code") or {} for record in records]
    return Difference(
        a=first.digest,
        b=second.digest,
        data=_data(store, *subsets),
        recipe=_fields(*(read_json(store, checkpoint, "recipe.json") for checkpoint in (first, second))),
        code={
            "a": codes[0],
            "b": codes[1],
            "same": bool(codes[0]) and codes[0] == codes[1] and not codes[0].get("dirty"),
        },
        packages=_fields(*(record.get("packages") or {} for record in records)),
        metrics=_metrics(store, (first, second), subsets, resamples, progress),
    )


def _subset(store: Store, checkpoint: Manifest) -> Manifest:
    digest = next((digest for asset, digest in checkpoint.inputs.items() if asset.endswith("_subset")), None)
    if digest is None:
        raise ConfigurationError(f"The {name_of(checkpoint)} does not say which data it was trained on.")
    return store.get_manifest(digest)


def _fields(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, with both values; None for one that is not there."""
    return {name: (a.get(name), b.get(name)) for name in sorted({*a, *b}) if a.get(name) != b.get(name)}


# Data ----------------------------------------------------------------------------------------------------------------


def _data(store: Store, a: Manifest, b: Manifest) -> dict[str, Any]:
    subsets = {"a": a.digest, "b": b.digest}
    counts = {
        name: {split: counts.images for split, counts in subset.facts_as(SubsetFacts).splits.items()}
        for name, subset in (("a", a), ("b", b))
    }
    if a.digest == b.digest:
        return {"same": True, "subsets": subsets, "splits": counts, "images": _no_images(), "labels": {}}
    before, after = _images(store, a), _images(store, b)
    both = before.keys() & after.keys()
    moved = Counter(f"{before[image][0]} → {after[image][0]}" for image in both if before[image][0] != after[image][0])
    images = {
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
        "moved": dict(sorted(moved.items())),
    }
    changes: dict[str, Counter[str]] = defaultdict(Counter)
    renamed: dict[str, Counter[str]] = defaultdict(Counter)
    for image in sorted(both):
        for name, change, to in _label_changes(before[image][1], after[image][1]):
            changes[name][change] += 1
            if to is not None:
                renamed[name][to] += 1
    for image in after.keys() - before.keys():
        for label in after[image][1]:
            changes[label.name]["with_added_images"] += 1
    for image in before.keys() - after.keys():
        for label in before[image][1]:
            changes[label.name]["with_removed_images"] += 1
    kinds = ("added", "removed", "moved", "renamed", "with_added_images", "with_removed_images")
    labels = {
        name: {**{kind: counted[kind] for kind in kinds}, "renamed_to": dict(sorted(renamed[name].items()))}
        for name, counted in sorted(changes.items())
    }
    same = not (images["added"] or images["removed"] or moved or labels)
    return {"same": same, "subsets": subsets, "splits": counts, "images": images, "labels": labels}


def _no_images() -> dict[str, Any]:
    return {"added": 0, "removed": 0, "moved": {}}


def _images(store: Store, subset: Manifest) -> dict[str, tuple[str, list[Label]]]:
    """sha256 of every image → its split and its labels."""
    found: dict[str, tuple[str, list[Label]]] = {}
    for split, columns in read_splits(store, subset).items():
        coco = columns.to_coco()
        names = {category["id"]: category["name"] for category in coco["categories"]}
        digests = {image["id"]: image["sha256"] for image in coco["images"]}
        found.update((digest, (split, [])) for digest in digests.values())
        for row in coco["annotations"]:
            x, y, w, h = (float(value) for value in row["bbox"])
            found[digests[row["image_id"]]][1].append(Label(names[row["category_id"]], (x, y, w, h)))
    return found


def _label_changes(before: Sequence[Label], after: Sequence[Label]) -> Iterator[tuple[str, str, str | None]]:
    """Class, change, and the new class of a renamed one: for each label of one image that is not as it was.

    Equal labels are set aside first; of the rest, boxes of one class that overlap were moved, boxes of two classes that
    overlap were renamed, and what is left was added or removed.
    """
    kept = Counter(before) & Counter(after)
    old, new = list((Counter(before) - kept).elements()), list((Counter(after) - kept).elements())
    for same_class in (True, False):
        for label in list(old):
            match = max(
                (other for other in new if (other.name == label.name) == same_class),
                key=lambda other: _iou(label.box_xywh_px, other.box_xywh_px),
                default=None,
            )
            if match is None or _iou(label.box_xywh_px, match.box_xywh_px) < SAME_FINDING_IOU:
                continue
            old.remove(label)
            new.remove(match)
            yield (label.name, "moved", None) if same_class else (label.name, "renamed", match.name)
    yield from ((label.name, "removed", None) for label in old)
    yield from ((label.name, "added", None) for label in new)


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes `(x, y, w, h)` in pixels."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 0 else 0.0


# Metrics -------------------------------------------------------------------------------------------------------------


def _metrics(
    store: Store,
    checkpoints: tuple[Manifest, Manifest],
    subsets: tuple[Manifest, Manifest],
    resamples: int,
    progress: Progress | None,
) -> dict[str, Any]:
    made = [made_with(store, checkpoint) for checkpoint in checkpoints]
    lacking = [
        name_of(checkpoint)
        for checkpoint, (predictions, evaluation) in zip(checkpoints, made, strict=True)
        if predictions is None or evaluation is None
    ]
    if lacking:
        verb = "were" if len(lacking) > 1 else "was"
        return {"paired": False, "reason": f"The {' and the '.join(lacking)} {verb} not evaluated.", "rows": []}
    predictions_a, predictions_b = (predictions for predictions, _ in made if predictions is not None)
    documents = [read_json(store, evaluation, "evaluation.json") for _, evaluation in made if evaluation is not None]
    rows = _side_by_side(*documents)
    if documents[0]["ground_truth_sha256"] != documents[1]["ground_truth_sha256"]:
        reason = "They were evaluated on different test images or labels, so differences are not only the models'."
        return {"paired": False, "reason": reason, "rows": rows}
    from dentsight_pipeline.evaluation.compare import compare

    made_b = compare(
        read_split(store, subsets[1], "test").to_coco(),
        read_json(store, predictions_b, "test.json"),
        read_json(store, predictions_a, "test.json"),
        resamples=resamples,
        progress=progress,
    )
    deltas = {(row["class"], row["metric"].removeprefix("paired_delta_")): row for row in made_b.measurements}
    for row in rows:
        delta = deltas.get((row["class"], row["metric"]), {})
        row |= {"delta": delta.get("value"), "low": delta.get("low"), "high": delta.get("high")}
    return {"paired": True, "reason": None, "population": made_b.population, "rows": rows}


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """AP and AP50 of both, by class and for the macro mean, each on its own gated population."""

    def read(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        population = document["populations"][document["gated_population"]]
        return {**{row["class"]: row for row in population["per_class"]}, "macro": population["macro"]}

    first, second = read(a), read(b)
    names = [*dict.fromkeys([*first, *second])]
    return [
        {
            "class": name,
            "metric": metric,
            "a": first.get(name, {}).get(metric),
            "b": second.get(name, {}).get(metric),
            "delta": None,
            "low": None,
            "high": None,
        }
        for name in names
        for metric in ("ap", "ap50")
    ]
