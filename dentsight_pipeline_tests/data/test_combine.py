"""Several exports as one dataset: sources across exports, each image with the coverage of its own, facts of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dentsight_pipeline.data import checks, stems
from dentsight_pipeline.data.combine import normalise_exports
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.reading import Reading, config_of, readings_in
from dentsight_pipeline.data.splits import of_export, read_splits
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.annotations import Split
from dentsight_pipeline.documents.facts import DatasetFacts, SplitsFacts
from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, jpeg, picture

UID = "1-2-826-0-1-3680043-777777777_png"
TOOTH, CARIES = {"11": [[5.0, 5.0, 10.0, 12.5]]}, {"caries": [[6.0, 6.0, 4.0, 4.25]]}
NO_READING = [Reading(), Reading()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return open_store(folder / "store")


def _exports(tmp_path: Path) -> tuple[ExportBuilder, ExportBuilder]:
    """Teeth, and conditions on some of the same pictures: the same bytes, a flip, the same UID, the same number."""
    teeth, conditions = ExportBuilder(tmp_path / "teeth"), ExportBuilder(tmp_path / "conditions", seed=100)
    teeth.image("train", TOOTH, data=jpeg(picture(1)))
    teeth.image("train", TOOTH, stem=UID, data=jpeg(picture(2)))
    teeth.image("train", TOOTH, stem="18_png", data=jpeg(picture(3)))
    teeth.image("valid", TOOTH, data=jpeg(picture(4)))
    teeth.image("test", TOOTH, data=jpeg(picture(5)))
    conditions.image("train", CARIES, data=jpeg(np.fliplr(picture(5)).copy()))
    conditions.image("train", CARIES, data=jpeg(picture(11)))
    conditions.image("valid", CARIES, stem=UID, data=jpeg(picture(12)))
    conditions.image("test", CARIES, data=jpeg(picture(1)))
    conditions.image("test", CARIES, stem="18_png", data=jpeg(picture(13)))
    for builder, name in ((teeth, "Teeth"), (conditions, "Conditions")):
        builder.write()
        (builder.root / "README.dataset.txt").write_text(f"# {name}\n\nLicense: {name} licence\n")
    return teeth, conditions


@pytest.fixture(scope="module")
def raws(folder: Path, store: Store) -> list[Manifest]:
    return [ingest_export(builder.root, store, Request(alone=False)) for builder in _exports(folder)]


@pytest.fixture(scope="module")
def made(store: Store, raws: list[Manifest]) -> Manifest:
    return normalise_exports(store, raws, NO_READING)


def _columns(split: Split, *names: str) -> list[tuple[object, ...]]:
    return list(zip(*(split.images[name].to_pylist() for name in names), strict=True))


def test_bytes_flips_and_uids_join_sources_across_exports_and_a_number_does_not(store: Store, made: Manifest) -> None:
    """Two public sets share most of their pictures: a test image that the other set trains on is no clean one."""
    clean = {name: _columns(split, "export", "clean") for name, split in read_splits(store, made).items()}

    assert clean == {
        "train": [
            ("Teeth", False),  # its bytes are a test image of the other
            ("Teeth", False),  # its UID is a valid image of the other
            ("Teeth", True),  # its number says nothing
            ("Conditions", False),  # flipped, it is a test image of the other
            ("Conditions", True),
        ],
        "valid": [("Teeth", True), ("Conditions", False)],
        "test": [("Teeth", False), ("Conditions", False), ("Conditions", True)],
    }
    leakage = made.facts_as(SplitsFacts).leakage
    assert leakage.pairs == {"test-train": 2, "train-valid": 1}
    assert leakage.test is not None and (leakage.test.shared_with_train, leakage.test.clean) == (2, 1)
    assert made.facts_as(SplitsFacts).sources == 7


def test_each_image_keeps_boxes_and_coverage_of_its_own_export(
    store: Store, raws: list[Manifest], made: Manifest
) -> None:
    """A picture of both sets is two images: joined, one set's silence about caries would deny the other's boxes."""
    whole = read_splits(store, made)

    for raw in raws:
        alone = normalise_export(store, raw)
        export = alone.facts_as(SplitsFacts).corpus.name
        for name, split in read_splits(store, alone).items():
            own = of_export(whole[name], export)
            assert own.images["sha256"].to_pylist() == split.images["sha256"].to_pylist()
            np.testing.assert_array_equal(own.covered, split.covered)
            np.testing.assert_array_equal(own.boxes_xywh_px, split.boxes_xywh_px)
            np.testing.assert_array_equal(own.category_ids, split.category_ids)
            np.testing.assert_array_equal(np.diff(own.offsets), np.diff(split.offsets))
    shared = {image for image, count in zip(*np.unique(_digests(whole), return_counts=True), strict=True) if count > 1}
    assert len(shared) == 1


def _digests(splits: dict[str, Split]) -> list[str]:
    return [digest for split in splits.values() for digest in split.images["sha256"].to_pylist()]


def test_ids_are_dense_over_splits_and_exports(store: Store, made: Manifest) -> None:
    """Two exports both start at 0; pycocotools reads a match with id 0 as none, and equal ids as one."""
    splits = read_splits(store, made).values()

    assert [number for split in splits for number in split.image_ids.tolist()] == list(range(1, 11))
    assert [number for split in splits for number in split.annotations["id"].to_pylist()] == list(range(1, 11))
    assert checks.boxes_are_valid(store, made).passed


def test_the_dataset_names_each_export_and_says_what_it_brought(raws: list[Manifest], made: Manifest) -> None:
    """Report, diff and audit need to know which export an image is of, and how much the exports share."""
    facts = made.facts_as(SplitsFacts)

    assert made.inputs == {"raw_export_1": raws[0].digest, "raw_export_2": raws[1].digest}
    assert (facts.corpus.name, facts.corpus.licence) == ("Teeth + Conditions", "Conditions licence + Teeth licence")
    assert [(part.name, part.raw_export, part.images, part.annotations) for part in facts.exports] == [
        ("Teeth", raws[0].digest, {"train": 3, "valid": 1, "test": 1}, 5),
        ("Conditions", raws[1].digest, {"train": 2, "valid": 1, "test": 2}, 5),
    ]
    assert [(part.same_bytes, part.same_source) for part in facts.exports] == [(1, 3), (1, 3)]


def test_one_export_is_what_it_was_alone(store: Store, raws: list[Manifest]) -> None:
    """Its digest must not depend on the road that it was made by."""
    one = normalise_exports(store, raws[:1], [Reading()])

    assert one.digest == normalise_export(store, raws[0]).digest
    assert one.inputs == {"raw_export": raws[0].digest}
    assert "exports" not in one.facts


def test_exports_of_one_name_are_told_apart(tmp_path: Path, store: Store, raws: list[Manifest]) -> None:
    """Two exports without a README are both unnamed; figures by export would be of both at once."""
    another = ExportBuilder(tmp_path / "another", seed=200)
    for split in ("train", "valid", "test"):
        another.image(split, TOOTH)
    another.write()
    (another.root / "README.dataset.txt").write_text("# Teeth\n")
    raw = ingest_export(another.root, store)

    facts = normalise_exports(store, [raws[0], raw], NO_READING).facts_as(SplitsFacts)

    assert [part.name for part in facts.exports] == [f"Teeth ({raw.digest[:8]})" for raw in (raws[0], raw)]
    assert facts.corpus.name == "Teeth"


def test_labels_are_known_by_export_and_no_identifier_is_left(store: Store, made: Manifest) -> None:
    """The same raw name may mean another class in another export; the subset tells of its exports too."""
    subset = select_conditions(store, made)

    assert checks.labels_are_known(store, made).passed
    assert checks.no_identifiers_left(store, subset).passed
    assert [part.name for part in subset.facts_as(DatasetFacts).exports] == ["Teeth", "Conditions"]


def test_a_label_to_drop_may_be_of_one_export_and_must_be_of_some(store: Store, raws: list[Manifest]) -> None:
    """`--drop` is said once for all exports; a name that is nowhere is a slip of the pen."""
    with pytest.raises(ConfigurationError, match=r"--drop 'molar': no export has such a label"):
        normalise_exports(store, raws, [Reading(drop=("molar",))] * 2)

    facts = normalise_exports(store, raws, [Reading(drop=("caries",))] * 2).facts_as(SplitsFacts)

    assert (facts.dropped["caries"], facts.mapping.drop) == (5, ("caries",))


def test_an_export_whose_stems_are_not_known_is_not_combined(tmp_path: Path) -> None:
    """What cannot be compared must not count as different: patients would be in train and test unseen."""
    store = open_store(tmp_path / "store")
    raws = [ingest_export(builder.root, store, Request(alone=False)) for builder in _exports(tmp_path)]
    store.blobs.remove([f"refs/{stems.STEMS}/{raws[1].digest}.json"])
    ref = store.read_ref(f"{stems.STEMS}/{raws[1].digest}")
    assert ref is None

    with pytest.raises(DataError, match=rf"file names of export {raws[1].digest[:12]}.*Read it again"):
        normalise_exports(store, raws, NO_READING)


def test_another_store_gives_the_same_dataset(
    tmp_path: Path, store: Store, raws: list[Manifest], made: Manifest
) -> None:
    """A reproduction carries the raw exports with what is kept of their stems; the key decides nothing."""
    other, copied = open_store(tmp_path / "copied"), open_store(tmp_path / "again")
    for raw in raws:
        for entry in raw.entries.values():
            other.put_bytes(store.get_bytes(entry.sha256))
        other.put_manifest(raw)
        stems.carry_stems(store, other, raw.digest)

    assert normalise_exports(other, raws, NO_READING).digest == made.digest
    again = [ingest_export(builder.root, copied, Request(alone=False)) for builder in _exports(tmp_path)]
    assert normalise_exports(copied, again, NO_READING).digest == made.digest


def test_stems_are_kept_as_keyed_hashes(tmp_path: Path, folder: Path, store: Store, raws: list[Manifest]) -> None:
    """A name of a patient's file must not be found in the store, and not by hashing a guess either."""
    kept = stems.recall_stems(store, raws[0].digest)
    elsewhere = open_store(tmp_path / "elsewhere")
    ingest_export(folder / "teeth", elsewhere)

    assert len(kept) == 4  # `18_png` proves nothing
    assert not kept.keys() & stems.recall_stems(elsewhere, raws[0].digest).keys()
    assert all("826" not in name or len(name) == 32 for name in kept)


def test_a_chain_of_common_stems_is_one_group() -> None:
    """A and C share no name, but both share one with B."""
    assert stems.one_group([{"x": "b"}, {"x": "d", "y": "c"}, {"y": "a"}, {"z": "e"}]) == {"d": "b", "c": "a"}
    assert stems.one_group([{"x": "b"}, {"x": "c", "y": "c"}, {"y": "a"}]) == {"c": "a", "b": "a"}


def test_readings_come_back_from_their_record() -> None:
    """A reproduction reads each export as it was read; records of one export have no list."""
    one, two = [Reading("canonical", ("x",))], [Reading("canonical", ("x",)), Reading(None)]

    assert readings_in(config_of(one), 1) == one
    assert readings_in(config_of(two), 2) == two
    assert readings_in({}, 1) == [Reading()]
