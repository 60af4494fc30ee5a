"""What differs between two checkpoints is counted by what it says, not by ids that every export numbers anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.data.combine import normalise_exports
from dentsight_pipeline.data.corrections import apply_stored
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.reading import Reading
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.lineage import Code, Difference, MetricRow
from dentsight_pipeline.documents.review import Answered, Correction, ReviewQueue
from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.intake.datasets import RegisteredExport, corrections_for, register_dataset
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.lineage.diff import Label, diff, label_changes
from dentsight_pipeline.lineage.verify import audit
from dentsight_pipeline.pages.reviewing import Review, keep_queue, write_corrections
from dentsight_pipeline.store.content import build, read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, jpeg, picture
from dentsight_pipeline_tests.lineage.chain_builder import (
    Chain,
    checkpoint_of,
    evaluation_of,
    predictions_of,
    recorded,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return open_store(tmp_path / "store")


def subset_of(store: Store, builder: ExportBuilder) -> Manifest:
    """The condition subset of an export."""
    return select_conditions(store, normalise_export(store, ingest_export(builder.write(), store)))


def first_version(root: Path) -> ExportBuilder:
    """Two training images, one for validation, one for testing."""
    builder = ExportBuilder(root)
    builder.image("train", {"caries": [[5, 5, 10, 10], [30, 5, 10, 10]], "crown": [[45, 20, 10, 10]]}, stem="one")
    builder.image("train", {"caries": [[8, 8, 9, 9]]}, stem="two")
    builder.image("valid", {"crown": [[6, 6, 10, 10]]}, stem="three")
    builder.image("test", {"caries": [[7, 7, 10, 10]]}, stem="four")
    return builder


def test_labels_and_images_are_counted_by_class(store: Store, tmp_path: Path) -> None:
    """One box moved, one renamed, one removed, one added; one image gone, one new, one in another split."""
    before = first_version(tmp_path / "v8")
    after = ExportBuilder(tmp_path / "v9")
    changed = {"caries": [[6.0, 5, 10, 10], [45.0, 20, 10, 10], [20.0, 30, 8, 8]]}
    after.image("train", changed, stem="one")
    after.seed = 2
    after.image("test", {"crown": [[6, 6, 10, 10]]}, stem="three")
    after.image("test", {"caries": [[7, 7, 10, 10]]}, stem="four")
    after.image("valid", {"crown": [[1, 1, 5, 5], [9, 9, 8, 8]]}, stem="five")
    first, second = (checkpoint_of(store, subset_of(store, builder), 1) for builder in (before, after))
    for checkpoint in (first, second):
        recorded(store, "trained_checkpoint", checkpoint)

    found = diff(store, first.digest, second.digest).data

    assert found.same is False
    assert plain(found.images) == {"added": 1, "removed": 1, "moved": {"valid → test": 1}}
    nothing = dict.fromkeys(("added", "removed", "moved", "renamed", "with_added_images", "with_removed_images"), 0)
    assert plain(found.labels["caries"]) == {
        **nothing, "moved": 1, "removed": 1, "added": 1, "with_removed_images": 1, "renamed_to": {},
    }  # fmt: skip
    assert plain(found.labels["crown"]) == {
        **nothing, "renamed": 1, "with_added_images": 2, "renamed_to": {"caries": 1},
    }  # fmt: skip


def test_corrections_are_told_by_diff_and_audit(store: Store, tmp_path: Path) -> None:
    """A box that a person took away: who did it, what became of it, and a chain that is intact down to the export."""
    raw = ingest_export(first_version(tmp_path / "v8").write(), store)
    before = normalise_export(store, raw)
    train = read_split(store, before, "train")
    image, box = train.images["sha256"][1].as_py(), tuple(train.annotations["bbox"][train.offsets[1]].as_py())
    said = {"annotation": None, "after_class": None, "after_bbox": None, "who": "A. Bell", "at": 0.0, "why": "seen"}
    made = Correction(image=image, before_class="caries", before_bbox=box, **said)  # pyright: ignore[reportArgumentType]
    register_dataset(store, "opg-v8", raw.digest, [RegisteredExport(raw_export=raw.digest, location="v8")])
    queue = ReviewQueue(splits=before.digest, classes=train.classes, suspects=())
    keep_queue(tmp_path / "review", queue)
    answer = Answered(who="A. Bell", image=image, open=(), corrections=(made,), at=0.0)
    review = Review(tmp_path / "review", {})
    review.journal.append(answer)
    write_corrections(store, tmp_path / "review", "opg-v8")
    after = apply_stored(store, before, *corrections_for(store, "opg-v8").values())
    subsets = [select_conditions(store, splits) for splits in (before, after)]
    first, second = (checkpoint_of(store, subset, 1) for subset in subsets)
    products = [("raw_export", raw), ("normalized_splits", before), ("normalized_splits", after)]
    products += [("condition_subset", subset) for subset in subsets]
    for asset, product in [*products, ("trained_checkpoint", first), ("trained_checkpoint", second)]:
        recorded(store, asset, product)

    found = diff(store, first.digest, second.digest).data
    audited = audit(store, second.digest)

    assert plain(found.corrections) == {"a": {}, "b": {"applied": 1}}
    assert found.labels["caries"].removed == 1
    assert audited.findings == ()
    assert any("were corrected by A. Bell: 1 applied" in note for note in audited.notes)


def test_each_export_is_told_with_what_it_brought(store: Store, tmp_path: Path) -> None:
    """Whoever adds an export must see that it added images and took none of the other's away."""
    more = ExportBuilder(tmp_path / "more", seed=50)
    more.image("train", {"caries": [[5, 5, 10, 10]]}, stem="six")
    more.image("train", {"caries": [[8, 8, 9, 9]]}, stem="two", data=jpeg(picture(2)))  # the bytes of one of the first
    raws = []
    for name, builder in (("First", first_version(tmp_path / "v8")), ("More", more)):
        builder.write()
        (builder.root / "README.dataset.txt").write_text(f"# {name}\n")
        raws.append(ingest_export(builder.root, store, Request(alone=False)))
    alone, both = normalise_export(store, raws[0]), normalise_exports(store, raws, [Reading(), Reading()])
    first, second = (checkpoint_of(store, select_conditions(store, splits), 1) for splits in (alone, both))
    for checkpoint in (first, second):
        recorded(store, "trained_checkpoint", checkpoint)

    found = diff(store, first.digest, second.digest).data

    assert plain(found.images) == {"added": 2, "removed": 0, "moved": {}}
    assert plain(found.exports) == {
        "First": {"a": 4, "b": 4, "added": 0, "removed": 0, "labels_a": 6, "labels_b": 6},
        "More": {"a": 0, "b": 2, "added": 2, "removed": 0, "labels_a": 0, "labels_b": 2},
    }
    assert diff(store, first.digest, first.digest).data.exports == {}


def test_an_export_under_another_name_is_no_other_images(store: Store, tmp_path: Path) -> None:
    """Downloaded again into a folder of another name it would otherwise read as all images gone and as many new."""
    checkpoints = []
    for name in ("First", "Renamed"):
        builder = first_version(tmp_path / name)
        builder.write()
        (builder.root / "README.dataset.txt").write_text(f"# {name}\n")
        raw = ingest_export(builder.root, store, Request(alone=False))
        subset = select_conditions(store, normalise_exports(store, [raw], [Reading()]))
        checkpoints.append(checkpoint_of(store, subset, 1))
        recorded(store, "trained_checkpoint", checkpoints[-1], code=None)

    found = diff(store, *(checkpoint.digest for checkpoint in checkpoints))

    assert plain(found.data.images) == {"added": 0, "removed": 0, "moved": {}}
    assert (found.same, found.data.same, found.data.labels) == (False, True, {})
    assert found.code.a == found.code.b == Code()


def test_boxes_mark_the_same_finding_from_half_an_overlap_on() -> None:
    """Of several the one that overlaps most; what overlaps less was removed here and added there."""
    old = Label("caries", (0.0, 0.0, 12.0, 10.0))
    half, less, most = (Label("caries", (x, 0.0, 12.0, 10.0)) for x in (4.0, 4.1, 1.0))
    crown = Label("crown", (0.0, 0.0, 12.0, 10.0))

    def told(before: list[Label], after: list[Label]) -> list[tuple[str, str, str | None]]:
        return list(label_changes(before, after))

    assert told([old], [half]) == [("caries", "moved", None)]
    assert told([old], [less]) == [("caries", "removed", None), ("caries", "added", None)]
    assert told([old, half], [most, half]) == [("caries", "moved", None)]
    assert told([old], [crown]) == [("caries", "renamed", "crown")]
    assert told([old], [crown, most]) == [("caries", "moved", None), ("crown", "added", None)]
    assert told([old, old], [old]) == [("caries", "removed", None)]
    assert told([Label("caries", (0.0, 0.0, 0.0, 0.0))], []) == [("caries", "removed", None)]
    assert told([], [most]) == [("caries", "added", None)]


def test_recipe_code_and_packages_are_told_field_by_field(store: Store, tmp_path: Path) -> None:
    """Nothing that is equal, everything that is not."""
    subset = subset_of(store, first_version(tmp_path / "v8"))
    first, second = checkpoint_of(store, subset, 1), checkpoint_of(store, subset, 2, learning_rate="0.5")
    recorded(store, "trained_checkpoint", first, packages={"torch": "2.1", "numpy": "2.0"})
    dirty = {"commit": "c0ffee", "dirty": True}
    recorded(store, "trained_checkpoint", second, packages={"torch": "2.2", "numpy": "2.0"}, code=dirty)

    found = diff(store, first.digest, second.digest)

    assert plain(found.recipe) == {"learning_rate": {"a": 0.0005, "b": 0.5}, "seed": {"a": 1, "b": 2}}
    assert plain(found.packages) == {"torch": {"a": "2.1", "b": "2.2"}}
    assert found.code.same is False
    assert found.data.same is True
    assert (found.metrics.paired, found.metrics.rows) == (False, ())
    assert (
        found.metrics.reason
        == f"The checkpoint {first.digest[:12]} and the checkpoint {second.digest[:12]} were not evaluated."
    )


def evaluated(store: Store, subset: Manifest, seed: int, shift_px: float) -> Manifest:
    """A checkpoint with predictions and an evaluation."""
    checkpoint = checkpoint_of(store, subset, seed)
    predictions = predictions_of(store, subset, checkpoint, shift_px)
    for asset, made in (
        ("trained_checkpoint", checkpoint),
        ("test_predictions", predictions),
        ("class_metrics", evaluation_of(store, subset, predictions)),
    ):
        recorded(store, asset, made)
    return checkpoint


def rows_of(found: Difference) -> dict[tuple[str, str], MetricRow]:
    """Rows by class and metric."""
    return {(row.class_name, row.metric): row for row in found.metrics.rows}


def test_metrics_on_the_same_ground_truth_are_paired(intact_chain: Chain, tmp_path: Path) -> None:
    """The difference is B − A: the better one second gives a positive difference."""
    chain = intact_chain.copied(tmp_path / "chain")
    store, subset = chain.store, chain.manifest("condition_subset")
    worse, better = evaluated(store, subset, 21, 2.5), evaluated(store, subset, 22, 0.0)

    found = diff(store, worse.digest, better.digest, resamples=20)

    row = rows_of(found)["caries", "ap"]
    assert found.metrics.paired is True
    assert row.a is not None
    assert row.b is not None
    assert row.b > row.a
    assert row.delta == pytest.approx(row.b - row.a)


def test_metrics_on_other_ground_truth_are_shown_but_never_subtracted(store: Store, tmp_path: Path) -> None:
    """A difference between two test sets is not a difference between two models."""
    before, after = first_version(tmp_path / "v8"), first_version(tmp_path / "v9")
    after.annotation("test", 0, "crown", [40, 20, 10, 10])
    first, second = (evaluated(store, subset_of(store, builder), 1, 0.5) for builder in (before, after))

    found = diff(store, first.digest, second.digest)

    assert found.metrics.paired is False
    assert "different test images or labels" in str(found.metrics.reason)
    assert all(row.delta is None for row in found.metrics.rows)


def test_checkpoints_of_different_stages_are_not_compared(store: Store, tmp_path: Path) -> None:
    """Teeth and conditions have no metric in common."""
    subset = subset_of(store, first_version(tmp_path / "v8"))
    teeth = build(store, "tooth-subset", dict(subset.entries), subset.inputs, subset.facts)
    store.put_manifest(teeth)
    first = checkpoint_of(store, subset, 1)
    second = build(store, "checkpoint", dict(first.entries), {"tooth_subset": teeth.digest}, first.facts)
    for checkpoint in (first, second):
        store.put_manifest(checkpoint)

    with pytest.raises(ConfigurationError, match="they find different things"):
        diff(store, first.digest, second.digest)
    assert read_json(store, first, "recipe.json")["name"] == "smoke"
