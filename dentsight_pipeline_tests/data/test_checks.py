"""The checks of a dataset: each passes on sound data, finds its own fault, and shows a table that a person can read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data import checks, identifiers
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.ontology import CONDITIONS
from dentsight_pipeline.data.splits import read_split, split_files, split_names
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.facts import (
    AppliedMapping,
    Corpus,
    ExportSetFacts,
    Leakage,
    Privacy,
    Source,
    SplitCounts,
    SubsetFacts,
)
from dentsight_pipeline.documents.names import Asset, CorpusKind, Kind, raw_export_name
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.store.content import build, read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, jpeg, picture, whole_export


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Manifest:
    return normalise_export(store, ingest_export(whole_export(tmp_path_factory.mktemp("export")).write(), store))


def spoilt(store: Store, sound: Manifest, file: str, change: Callable[[Any], None]) -> Manifest:
    """The same dataset with one of its splits or JSON files changed."""
    is_split = file in split_names(sound)
    document = read_split(store, sound, file).to_coco() if is_split else read_json(store, sound, file)
    change(document)
    changed = split_files([from_coco(file, document)]) if is_split else {file: json.dumps(document).encode()}
    files: dict[str, Any] = {**sound.entries, **changed}
    return build(store, sound.kind, files, dict(sound.inputs), dict(sound.facts))


def subset_with(train: dict[str, int], test: dict[str, int] | None = None) -> Manifest:
    """A subset with these counts of annotations; the classes not named have none."""
    counts = {"train": train, "test": test or {}}
    facts = SubsetFacts(
        corpus=Corpus(kind=CorpusKind.PHANTOM, name="counts", licence=""),
        source=Source(),
        privacy=Privacy(names_replaced=0, stem_kinds={}, images_with_metadata=0, metadata_removed={}),
        mapping=AppliedMapping(source="canonical", chosen_by="option", evidence="", digest="", drop=()),
        leakage=Leakage(pairs={}),
        classes=CONDITIONS,
        loose_classes=(),
        dropped={},
        repairs={},
        splits={
            name: SplitCounts(
                images=1, clean_images=1, images_without_annotations=0, annotations=sum(of.values()), class_counts=of
            )
            for name, of in counts.items()
        },
        images_left_out=0,
    )
    return Manifest("condition-subset", {}, {}, facts)


def test_a_sound_dataset_passes_every_check_of_its_kind(store: Store, sound: Manifest) -> None:
    """A check that cries wolf is switched off by the people it was made for."""
    outcomes = {check.__name__: check(store, sound) for check in checks.CHECKS[sound.kind]}

    assert set(outcomes) == {
        "test_split_is_clean", "labels_are_known", "boxes_are_valid", "teeth_are_plausible", "corrections_fit",
    }  # fmt: skip
    assert all(outcome.passed for outcome in outcomes.values()), outcomes


def test_a_test_image_that_shares_its_source_is_counted_by_split(tmp_path: Path, store: Store) -> None:
    """The row of each split says how much of it is leaked, and how much from training itself."""
    builder = ExportBuilder(tmp_path)
    same = jpeg(picture(1))
    builder.image("train", {"caries": [[3, 3, 9, 9]]}, data=same)
    builder.image("valid", {"caries": [[3, 3, 9, 9]]})
    builder.image("test", {"caries": [[3, 3, 9, 9]]}, data=same)
    builder.image("test", {"caries": [[3, 3, 9, 9]]})

    outcome = checks.test_split_is_clean(store, normalise_export(store, ingest_export(builder.write(), store)))

    assert (outcome.passed, outcome.blocking) == (False, False)
    assert outcome.rows[-1] == {"split": "test", "images": 2, "shared_with_train": 1, "shared_with_any": 1, "clean": 1}
    assert "1 of 2 test images (1 with train)" in outcome.summary


def test_a_class_that_the_mapping_does_not_give_is_named_with_its_raw_name(store: Store, sound: Manifest) -> None:
    """A shifted category id makes every figure of two classes wrong, and nothing else notices."""

    def shift(document: Any) -> None:
        caries = next(a for a in document["annotations"] if a["raw_name"] == "caries")
        caries["category_id"] += 1

    outcome = checks.labels_are_known(store, spoilt(store, sound, "train", shift))

    assert (outcome.passed, outcome.blocking) == (False, True)
    assert list(outcome.rows) == [{"raw name": "caries", "class": "calculus", "annotations": 1}]


def test_the_table_of_labels_says_what_became_of_every_raw_name(store: Store, sound: Manifest) -> None:
    """Also when all is well, a person wants to see where each label went; the UI takes the columns of the first row."""
    outcome = checks.labels_are_known(store, sound)

    rows = {row["raw name"]: row for row in outcome.rows}
    assert {tuple(row) for row in outcome.rows} == {("raw name", "classes", "loose", "train", "valid", "test")}
    assert rows["RC-treated-and-root-stump"]["classes"] == "RC-treated, root-stump"
    assert rows["caries"] == {
        "raw name": "caries",
        "classes": "caries",
        "loose": False,
        "train": 1,
        "valid": 1,
        "test": 0,
    }
    assert rows["OPG-data"]["classes"] == "dropped"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"bbox": [60, 5, 10, 10]}, "reaches out of 64 × 48 px"),
        ({"bbox": [5, 5, 0, 10]}, "has no area"),
        ({"bbox": [5, 5, float("nan"), 10]}, "not finite"),
        ({"image_id": 999}, "image 999 is not in this split"),
        ({"id": 0}, "reads as 'unmatched'"),
        ({"id": 2}, "id is used before"),
    ],
)
def test_a_box_that_cannot_be_is_found_with_its_split_and_reason(
    store: Store, sound: Manifest, change: dict[str, Any], problem: str
) -> None:
    """Such a box teaches nonsense, or makes pycocotools score nonsense, without any error."""
    broken = spoilt(store, sound, "train", lambda document: document["annotations"][0].update(change))

    outcome = checks.boxes_are_valid(store, broken)

    assert (outcome.passed, outcome.blocking) == (False, True)
    assert len(outcome.rows) == 1
    assert problem in str(outcome.rows[0]["problem"])


def test_implausible_teeth_are_flagged_and_block_nothing(tmp_path: Path, store: Store) -> None:
    """A repeated tooth number is for a person to look at; only that person knows which is wrong."""
    builder = ExportBuilder(tmp_path)
    for split in ("train", "valid", "test"):
        builder.image(split, {"11": [[5, 5, 8, 10], [40, 30, 8, 10]]})

    outcome = checks.teeth_are_plausible(store, normalise_export(store, ingest_export(builder.write(), store)))

    assert (outcome.passed, outcome.blocking) == (False, False)
    assert [(row["split"], row["flags"]) for row in outcome.rows] == [
        (split, "repeated_tooth:11") for split in ("train", "valid", "test")
    ]
    assert all(str(row["image"]).startswith("images/") for row in outcome.rows)
    assert outcome.summary == "3 images with implausible teeth: repeated_tooth 3."


def test_an_identifier_in_a_file_blocks_and_is_not_repeated_in_the_table(store: Store, sound: Manifest) -> None:
    """The check's own outcome is kept and shown: it must not spread what it found."""
    uid = "1.2.840.113619.2.55.3.604688119.971"

    outcome = checks.no_identifiers_left(
        store, spoilt(store, sound, "labels.json", lambda rows: rows[0].update(reason=f"seen on {uid}"))
    )

    assert (outcome.passed, outcome.blocking) == (False, True)
    assert list(outcome.rows) == [{"where": "labels.json", "kind": "uid", "count": 1}]
    assert uid not in outcome.summary


def test_a_subset_s_images_are_those_of_the_export_that_was_checked(
    store: Store, sound: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was looked at once, there; reading ten thousand X-rays again for every subset would prove nothing more."""
    monkeypatch.setattr(identifiers, "metadata_left", lambda data: pytest.fail("an image was read again"))

    assert checks.no_identifiers_left(store, select_conditions(store, sound)).passed


def test_an_image_that_no_checked_export_has_is_looked_at(store: Store, sound: Manifest) -> None:
    """A subset may come from anybody's hands: what it adds to its raw export is proven by nothing."""
    subset = select_conditions(store, sound)
    added = {"images/other.jpg": jpeg(picture(9), comment=b"Anna")}
    foreign = build(store, subset.kind, {**subset.entries, **added}, subset.inputs, subset.facts)

    outcome = checks.no_identifiers_left(store, foreign)

    assert not outcome.passed
    assert list(outcome.rows) == [{"where": "images/other.jpg", "kind": "image metadata", "count": 1}]


def test_images_of_an_export_that_failed_prove_nothing(tmp_path: Path) -> None:
    """Its own check says why; a subset of it is searched in full."""
    store = open_store(tmp_path / "store")
    raw = ingest_export(whole_export(tmp_path / "export").write(), store)
    marked = {"images/other.jpg": jpeg(picture(9), comment=b"Anna")}
    spoilt_raw = build(store, raw.kind, {**raw.entries, **marked}, raw.inputs, raw.facts)
    store.put_manifest(spoilt_raw)
    splits = normalise_export(store, raw)
    inputs: dict[str, str] = {Asset.RAW_EXPORT: spoilt_raw.digest}
    foreign = build(store, splits.kind, {**splits.entries, **marked}, inputs, splits.facts)

    assert not checks.no_identifiers_left(store, foreign).passed


def test_exports_that_belong_together_pass_where_each_does(tmp_path: Path, store: Store, sound: Manifest) -> None:
    """Each is looked at once by itself; what is found says in which of them."""
    raw = store.get_manifest(sound.inputs[Asset.RAW_EXPORT])
    marked = {"images/other.jpg": jpeg(picture(9), comment=b"Anna")}
    other = build(store, raw.kind, {**raw.entries, **marked}, raw.inputs, raw.facts)
    store.put_manifest(other)

    def together(*exports: Manifest) -> Any:
        inputs = {raw_export_name(number): made.digest for number, made in enumerate(exports, start=1)}
        return checks.no_identifiers_left(store, build(store, Kind.EXPORT_SET, {}, inputs, ExportSetFacts(exports=2)))

    assert together(raw).passed
    outcome = together(raw, other)
    where = {"where": "images/other.jpg", "kind": "image metadata", "count": 1}
    assert (outcome.passed, outcome.blocking) == (False, True)
    assert list(outcome.rows) == [{"export": other.digest[:12], **where}]
    assert f"Export {other.digest[:12]}: 1 places hold an identifier." in outcome.summary


def test_new_vanished_and_shifted_classes_are_told_from_mere_growth() -> None:
    """Twice the annotations in every class is growth. Beside it: one class new, one gone, one tripled, one too rare."""
    before = subset_with({"caries": 100, "calculus": 200, "crown": 40, "bridge": 30, "missing": 2}, {"calculus": 100})
    now = subset_with({"caries": 200, "calculus": 600, "crown": 240, "implant": 25, "missing": 15})

    outcome = checks.class_counts_as_expected(now, before, "opg-v7")

    rows = {row["class"]: row for row in outcome.rows}
    assert not outcome.passed
    assert not outcome.blocking
    assert {name: row["change"] for name, row in rows.items() if row["change"]} == {
        "implant": "is new",
        "bridge": "has vanished",
        "crown": "shifted ×2.62",  # 240 of 1,080 against 40 of 472
    }
    assert rows["calculus"] == {"class": "calculus", "before": 300, "now": 600, "change": ""}
    assert outcome.summary.startswith("Against opg-v7: ")
    assert all(words in outcome.summary for words in ("implant is new", "bridge has vanished", "crown shifted ×2.62"))


def test_a_class_that_shrank_to_under_two_thirds_of_its_share_is_shifted() -> None:
    """Half the crowns with everything else as before: annotators changed, or a split lost its images."""
    before = subset_with({"caries": 400, "crown": 40})

    outcome = checks.class_counts_as_expected(subset_with({"caries": 400, "crown": 20}), before, "opg-v7")

    assert [row["class"] for row in outcome.rows if row["change"]] == ["crown"]
    assert checks.class_counts_as_expected(before, before, "opg-v7").passed


def test_a_first_version_passes_and_names_the_classes_that_it_lacks() -> None:
    """There is nothing to compare with, but a person should see at once that a class is absent."""
    outcome = checks.class_counts_as_expected(subset_with({name: 1 for name in CONDITIONS if name != "implant"}), None)

    assert outcome.passed
    assert outcome.summary.endswith("Absent: implant.")
    assert len(outcome.rows) == len(CONDITIONS)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("opg-v8", "opg-v7"),
        ("opg-v10", "opg-v8"),
        ("opg-v12", "opg-v10"),
        ("opg-v1", None),
        ("other-v2", None),
        ("demo", None),
    ],
)
def test_the_version_before_is_the_nearest_lower_one_of_the_same_name(key: str, expected: str | None) -> None:
    """Numbers, not text: v10 comes after v8, and another corpus is never compared with."""
    keys = ["opg-v1", "opg-v7", "opg-v8", "opg-v10", "other-v3", "demo"]

    assert checks.previous_key(key, keys) == expected


def test_a_dataset_that_fails_a_blocking_check_cannot_be_read_by_a_later_run(store: Store, sound: Manifest) -> None:
    """Dagster's blocking ends with the run; training launched tomorrow must be stopped by the bytes themselves."""
    checks.require(store, sound)
    broken = spoilt(store, sound, "test", lambda d: d["annotations"][0].update(bbox=[60, 5, 10, 10]))

    with pytest.raises(DataError, match=r"boxes_are_valid failed.*Mend the export"):
        checks.require(store, broken)


def test_an_outcome_is_computed_once_for_the_same_bytes(
    store: Store, sound: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of consumers ask for it; another digest asks anew."""
    first = checks.outcome_of(store, checks.boxes_are_valid, sound)
    monkeypatch.setattr(checks, "_splits", lambda store, manifest: pytest.fail("computed again"))

    assert checks.outcome_of(store, checks.boxes_are_valid, sound) == first
