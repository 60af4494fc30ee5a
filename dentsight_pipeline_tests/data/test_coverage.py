"""What was looked for: declared or seen, by export and by image, and never assumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentsight_pipeline.data.coverage import classes_named
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.ontology import CLASSES, CONDITIONS, TEETH, mapping_for, names_of
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.data.subset import select_conditions, select_teeth
from dentsight_pipeline.documents.facts import SplitsFacts
from dentsight_pipeline.errors import AnnotationError, ConfigurationError, DataError
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder

TOOTH, BOX = [6, 5, 10, 12], [30, 5, 8, 9]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def _normalised(store: Store, builder: ExportBuilder, source: str | None = None) -> Manifest:
    raw = ingest_export(builder.write(), store, Request(source))
    return normalise_export(store, raw, source=source)


def _covered(store: Store, splits: Manifest, split: str = "train") -> list[tuple[str, ...]]:
    """What was looked for, image by image, in the words of a declaration."""
    return [
        names_of(name for name, there in zip(CLASSES, row, strict=True) if there)
        for row in read_split(store, splits, split).covered
    ]


def test_an_unknown_source_covers_what_it_has_boxes_of(tmp_path: Path, store: Store) -> None:
    """Nobody said that it looked for bridges; that it has none then says nothing. One box anywhere says it did."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"caries": [BOX]})
    builder.image("train", {})
    builder.image("test", {"crown": [BOX]})

    splits = _normalised(store, builder, "canonical")

    assert _covered(store, splits) == [("caries", "crown")] * 2
    coverage = splits.facts_as(SplitsFacts).mapping.coverage
    assert coverage is not None
    assert not coverage.declared
    assert coverage.classes == ("caries", "crown")


def test_a_source_that_declares_everything_says_nothing_more(tmp_path: Path, store: Store) -> None:
    """The facts, and so the digests, of a corpus whose annotators looked for all 45 classes stay what they were."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"caries": [BOX], "11": [TOOTH]})
    builder.image("train", {"caries": [BOX]})

    splits = _normalised(store, builder, "opg-reporting")

    assert _covered(store, splits) == [("teeth", *CONDITIONS), CONDITIONS]
    assert "coverage" not in splits.facts["mapping"]


def test_a_part_of_a_known_source_covers_what_it_is_a_part_of(tmp_path: Path, store: Store) -> None:
    """Teeth alone under the README of the whole set would make healthy mouths of all its images."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"11": [TOOTH]})
    builder.image("train", {})

    splits = _normalised(store, builder, "opg-reporting")

    assert _covered(store, splits) == [("teeth",)] * 2
    with pytest.raises(DataError, match=r"No training image .* any of the 13 conditions"):
        select_conditions(store, splits)


def test_a_box_that_nobody_looked_for_stops_ingestion(tmp_path: Path, store: Store) -> None:
    """Either the box or the declaration is wrong; the message names the box and both remedies."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"caries": [BOX]})
    builder.image("train", {"crown": [BOX, TOOTH]})

    told = r"annotation 1 of image 1 \(one of 2 'crown'\): it marks crown, which mapping 'dental-radiography' says"
    with pytest.raises(AnnotationError, match=rf"train/_annotations.coco.json, {told} .* Add 'crown' to `covers` .*"):
        _normalised(store, builder, "dental-radiography")


def test_images_without_any_condition_looked_for_are_no_negatives(tmp_path: Path, store: Store) -> None:
    """A set with teeth alone would otherwise be a set of healthy mouths; with them alone there is nothing to learn."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"11": [TOOTH]})
    builder.image("test", {"11": [TOOTH]})
    teeth_alone = _normalised(store, builder, "canonical")

    with pytest.raises(DataError, match=r"No training image .* any of the 13 conditions.*--write-mapping"):
        select_conditions(store, teeth_alone)
    assert len(read_split(store, select_teeth(store, teeth_alone), "train").images) == 1


def test_images_in_which_nobody_looked_for_teeth_are_no_toothless_mouths(tmp_path: Path, store: Store) -> None:
    """An image without any box looks like one whose annotator found nothing, unless its source says otherwise."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"caries": [BOX]})
    builder.image("train", {})

    splits = _normalised(store, builder, "dental-radiography")

    assert _covered(store, splits) == [("caries", "impacted", "restoration", "implant")] * 2
    assert splits.facts_as(SplitsFacts).splits["train"].images_without_annotations == 1
    with pytest.raises(DataError, match="No training image of this export has a tooth box"):
        select_teeth(store, splits)


def test_the_words_of_a_declaration_stand_for_classes(tmp_path: Path) -> None:
    """And back; a word that means nothing is refused with the nearest that does."""
    assert classes_named(["crown", "teeth", "caries"]) == (*TEETH, "caries", "crown")
    assert classes_named(["conditions"]) == CONDITIONS
    assert names_of(classes_named(["teeth", "bridge", "11"])) == ("teeth", "bridge")
    assert names_of(["caries", "12"]) == ("12", "caries")
    assert mapping_for("opg-reporting").covers == CLASSES
    with pytest.raises(ConfigurationError, match=r"covers: 'carries' is no class .* Did you mean 'caries'\?"):
        classes_named(["carries"])
