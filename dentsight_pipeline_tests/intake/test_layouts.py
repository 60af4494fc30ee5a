"""The same export in every layout that public sets come in: read alike, or refused by what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.ontology import choose_source, mapping_for
from dentsight_pipeline.data.splits import read_splits
from dentsight_pipeline.errors import DataError, UnknownLabelError
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.intake.inspect import inspect_export
from dentsight_pipeline.intake.records import Export, Refusals
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.export_builder import jpeg, picture, read
from dentsight_pipeline_tests.intake.layouts import CONTENT, LAYOUTS, SIZE, dentex, label_studio, moved_below


def _content(export: Export) -> dict[str, dict[str, list[tuple[str, tuple[float, ...]]]]]:
    """What was read in the form of `CONTENT`."""
    found: dict[str, dict[str, list[tuple[str, tuple[float, ...]]]]] = {}
    for split in export.splits:
        stems = {image.id: image.stem for image in split.images if image.exists}
        scale = (*SIZE, *SIZE) if split.relative else (1, 1, 1, 1)
        of = {stem: [] for stem in stems.values()}
        for row in split.annotations.to_pylist():
            box = tuple(round(value * factor, 5) for value, factor in zip(row["bbox"], scale, strict=True))
            of[stems[row["image_id"]]].append((row["label"], box))
        found[split.name] = of
    return found


@pytest.mark.parametrize("top", ["", "export-v3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_records(tmp_path: Path, layout: str, top: str) -> None:
    """Whoever exports the same set from another tool must not get another dataset."""
    LAYOUTS[layout](tmp_path)
    if top:
        moved_below(tmp_path, top)

    export = read(tmp_path)

    empty = {"train": {"c": []}} if layout == "csv_roboflow" else {}  # nothing tells its negatives from unlabelled ones
    expected = {split: {s: b for s, b in of.items() if s not in empty.get(split, {})} for split, of in CONTENT.items()}
    assert _content(export) == expected
    assert [split.name for split in export.splits] == ["train", "valid", "test"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_goes_through_to_the_splits(tmp_path: Path, layout: str) -> None:
    """What is read is stored, without a name or stem, and normalised."""
    LAYOUTS[layout](tmp_path / "export")
    store = open_store(tmp_path / "store")

    raw = ingest_export(tmp_path / "export", store, Request(require=("train", "valid", "test")))
    facts = normalise_export(store, raw).facts

    assert facts["splits"]["train"]["class_counts"]["caries"] == 1
    assert facts["splits"]["test"]["class_counts"]["crown"] == 1
    assert inspect_export(tmp_path / "export").refusals == ()


def test_label_studio_without_splits_is_read_as_training_images(tmp_path: Path) -> None:
    """Its first class has id 0 and annotations: no placeholder. What is missing is told by `run` and `inspect`."""
    label_studio(tmp_path)

    export = read(tmp_path)

    assert {name: len(images) for name, images in _content(export).items()} == {"train": 3}
    assert sorted(export.splits[0].label_counts) == ["11", "caries", "crown"]
    told = [refusal.message for refusal in inspect_export(tmp_path).refusals]
    for name, words in zip(("valid", "test"), told, strict=True):
        assert f"split {name!r} is missing; found train" in words


# DENTEX --------------------------------------------------------------------------------------------------------------


def test_dentex_becomes_teeth_by_quadrant_and_number_and_conditions(tmp_path: Path) -> None:
    """Quadrant 1, place 8 is 18, whatever the ids; deep caries is caries, a periapical lesion a radiolucency."""
    dentex(tmp_path)

    report = inspect_export(tmp_path, require=("train",))

    assert report.refusals == ()
    assert (report.layout, report.source.source) == ("dentex", "dentex")
    assert {name: row["total"] for name, row in report.classes.items() if row["total"]} == {
        "caries": 2, "impacted": 1, "periapical-radiolucency": 1, "18": 1, "21": 1, "36": 1, "48": 1,
    }  # fmt: skip
    assert report.loose_classes == ("caries", "periapical-radiolucency")  # whose boxes are the whole teeth


def test_only_the_abnormal_teeth_of_dentex_were_looked_for(tmp_path: Path) -> None:
    """The other teeth of the same X-ray have no box and are there all the same: they must not become gaps."""
    dentex(tmp_path / "export")
    store = open_store(tmp_path / "store")

    splits = normalise_export(store, ingest_export(tmp_path / "export", store))
    train = read_splits(store, splits)["train"]

    covered = [
        [name for name, there in zip(train.classes, row, strict=True) if there] for row in train.covered.tolist()
    ]
    conditions = ["caries", "impacted", "periapical-radiolucency"]
    assert covered == [["18", "36", *conditions], ["21", "48", *conditions], conditions]
    assert splits.facts["corpus"]["licence"] == "CC BY-NC-SA 4.0"


def test_the_teeth_of_dentex_are_read_without_diseases(tmp_path: Path) -> None:
    """Its second level numbers every tooth, and says nothing about what is wrong with them."""
    dentex(tmp_path, "quadrant_enumeration")

    report = inspect_export(tmp_path, require=("train",))

    assert (report.refusals, report.source.source) == ((), "dentex-teeth")
    assert {name for name, row in report.classes.items() if row["total"]} == {"18", "21", "36", "48"}


def test_a_place_that_no_list_of_dentex_has_is_refused_by_record(tmp_path: Path) -> None:
    """The sum of two wrong numbers would be another tooth."""
    dentex(tmp_path)
    (file,) = tmp_path.glob("*.json")
    document = json.loads(file.read_text())
    document["annotations"][1]["category_id_2"] = 9
    file.write_text(json.dumps(document))

    with pytest.raises(DataError, match=r"annotation 2 of image 1: its category_id 'category_id_2 9' is not"):
        read(tmp_path)


def test_two_levels_of_dentex_at_once_are_refused_with_the_way_to_both(tmp_path: Path) -> None:
    """They annotate other images, and other things were looked for in them."""
    for level in ("quadrant_enumeration", "quadrant-enumeration-disease"):
        dentex(tmp_path / "training_data" / level, level)

    with pytest.raises(DataError, match=r"both annotate the train images\. Give the folder of one of them; --export"):
        read(tmp_path)


def test_a_linked_image_folder_is_named_though_its_annotations_are_there(tmp_path: Path) -> None:
    """It was `listed, but its file is missing` for every image of it."""
    LAYOUTS["cvat_coco"](tmp_path / "export")
    (tmp_path / "export" / "images" / "Train").rename(tmp_path / "away")
    (tmp_path / "export" / "images" / "Train").symlink_to(tmp_path / "away")

    with pytest.raises(DataError, match=r"images/Train is a symbolic link to a folder, which is not followed"):
        read(tmp_path / "export")


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tooth"), [("Canine (13)", "13"), ("First Molar (16)", "16"), ("third molar (48)", "48")]
)
def test_teeth_are_numbered_by_what_stands_in_brackets(name: str, tooth: str) -> None:
    """OralVis lists 41 before 31 and 11: an order would exchange sides and jaws."""
    choice = choose_source([], ["Central Incisor (41)", name])

    assert (choice.source, choice.mapping.resolve(name).classes) == ("oralvis", (tooth,))


@pytest.mark.parametrize("name", ["First Molar (13)", "Canine (53)", "3rd Molar", "Canine (99)"])
def test_a_tooth_whose_name_and_number_disagree_is_unknown(name: str) -> None:
    """Which of the two is right would be a guess, and `distomolar` is no suggestion."""
    with pytest.raises(UnknownLabelError) as caught:
        mapping_for("oralvis").resolve(name)
    assert caught.value.suggestions == []


# Unlabelled ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def half_labelled(tmp_path: Path) -> Path:
    """A YOLO export one of whose training images has no label file; another has an empty one."""
    LAYOUTS["yolo_ultralytics"](tmp_path / "export")
    (tmp_path / "export" / "labels" / "train" / "b.txt").unlink()
    return tmp_path / "export"


def test_an_image_without_a_label_file_is_no_negative(half_labelled: Path, tmp_path: Path) -> None:
    """Nobody may have looked at it. An empty label file says that somebody has."""
    store = open_store(tmp_path / "store")

    raw = ingest_export(half_labelled, store)
    report = inspect_export(half_labelled)

    assert raw.facts["splits"]["train"]["images"] == 2
    assert raw.facts["repairs"] == {"unlabelled_image": 1}
    assert (dict(report.unlabelled), report.unlabelled_files) == ({"train": 1}, ("images/train/b.jpg",))
    assert len([path for path in raw.entries if path.startswith("images/")]) == 4


def test_whoever_knows_better_takes_them_as_negatives_and_it_is_recorded(half_labelled: Path, tmp_path: Path) -> None:
    """Some tools write no file for an X-ray without findings."""
    store = open_store(tmp_path / "store")

    raw = ingest_export(half_labelled, store, Request(accept=["unlabelled_image"]))

    assert raw.facts["splits"]["train"]["images"] == 3
    assert raw.facts["accepted_repairs"] == ["unlabelled_image"]
    assert normalise_export(store, raw).facts["splits"]["train"]["images_without_annotations"] == 2


@pytest.mark.parametrize("layout", ["yolo_ultralytics", "yolo_roboflow", "voc_roboflow", "csv_roboflow"])
def test_an_unlabelled_split_is_named_as_such(tmp_path: Path, layout: str) -> None:
    """Its images would be 100 % healthy mouths."""
    LAYOUTS[layout](tmp_path)
    for path in [*tmp_path.rglob("e.txt"), *tmp_path.rglob("e.xml")]:
        path.unlink()
    for path in tmp_path.glob("test/*.csv"):
        path.write_text(path.read_text().splitlines()[0] + "\n")

    (refusal,) = inspect_export(tmp_path).refusals

    assert "1 of 1 images: they are unlabelled" in refusal.message
    assert "--unlabelled-are-negative" in refusal.message


@pytest.mark.parametrize(
    ("layout", "file", "folder"),
    [
        ("plain_coco", "annotations/instances_test2017.json", "test2017"),
        ("cvat_coco", "annotations/instances_Test.json", "images/Test"),
        ("csv_roboflow", "test/_annotations.csv", "test"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_images_of_a_split_that_nothing_annotates_are_named_as_such(
    tmp_path: Path, layout: str, file: str, folder: str, listed: bool
) -> None:
    """COCO and DENTEX hand out their test split so; "is missing, export again" sent people for what they had."""
    LAYOUTS[layout](tmp_path)
    if listed and file.endswith(".json"):
        document = json.loads((tmp_path / file).read_text())
        (tmp_path / file.replace("instances", "image_info")).write_text(
            json.dumps({key: value for key, value in document.items() if key != "annotations"})
        )
    (tmp_path / file).unlink()

    (refusal,) = inspect_export(tmp_path).refusals

    assert f"the split 'test' is missing; found train, valid. 1 images in {folder} are unlabelled" in refusal.message


# What is not read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train/_annotations.createml.json": "[]"}, "CreateML's JSON"),
        ({"train/x.tfrecord": ""}, "TFRecord"),
        ({"train/_classes.csv": "filename, caries\n"}, "labels of whole images"),
        ({"annotations.xml": "<?xml version='1.0'?><annotations><version>1.1</version>"}, "CVAT's own XML"),
        ({"a.json": '{"version": "5", "shapes": []}'}, "LabelMe's JSON"),
        ({"via.json": '{"_via_settings": {}, "_via_img_metadata": {}}'}, "VGG Image Annotator's JSON"),
        ({"project-1.json": '[{"id": 1, "data": {"image": "/x"}}]'}, "Label Studio's own JSON"),
        ({"meta.json": "{}", "ann/a.json": "{}"}, "Supervisely's JSON"),
        ({"data/train-00000.parquet": ""}, "Hugging Face"),
        ({"labels/a.txt": "0 .5 .5 .1 .1"}, "YOLO without the YAML file that names its classes"),
        ({"boxes.csv": "a,b\n"}, "a CSV that is not Roboflow's"),
        ({}, r"its 1 images are unlabelled: no file says what is in them"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, files: dict[str, str], words: str) -> None:
    """`train/_annotations.coco.json is missing` is no answer to an export in another format."""
    for name, text in {"images/a.jpg": "", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(picture(1)))

    with pytest.raises(DataError, match=words):
        read(tmp_path)


def test_folders_whose_names_tell_no_split_are_not_lumped_together(tmp_path: Path) -> None:
    """All of it as training images would train on the test images."""
    LAYOUTS["yolo_named_by_yaml"](tmp_path)
    (tmp_path / "data.yaml").write_text((tmp_path / "data.yaml").read_text().replace("fold_", "other_"))

    with pytest.raises(DataError, match=r"no folder is called train, valid or test; images lie in images/fold_a, "):
        read(tmp_path)


@pytest.mark.parametrize(
    "text", ['<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "<annotation>", "\x00<annotation "]
)
def test_xml_that_is_no_annotation_is_refused_by_file(tmp_path: Path, text: str) -> None:
    """Entities can be made to take for ever; a cut file must not be an image without findings."""
    LAYOUTS["voc_roboflow"](tmp_path)
    (tmp_path / "train" / "b.xml").write_text(text)
    refusals = Refusals(collect=True)

    export = read(tmp_path, refusals)

    assert [str(error)[:11] for error in refusals.errors] == ["train/b.xml"]
    assert [image.stem for image in export.splits[0].images] == ["a", "c"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.jpg,64,48,caries,9,9,5,5", "not in the order xmin, ymin, xmax, ymax"),
        ("a.jpg,64,48,caries,9,9,nan,12", "not four finite numbers"),
        ("a.jpg,64,48,caries,9,9", "not four numbers"),
        ("a.jpg,64,48,,9,9,12,12", "it has no class"),
        ("../a.jpg,64,48,caries,9,9,12,12", "leaves its folder"),
    ],
)
def test_a_row_of_the_csv_that_cannot_be_meant_is_refused_by_line(tmp_path: Path, row: str, words: str) -> None:
    """By table and line."""
    LAYOUTS["csv_roboflow"](tmp_path)
    with (tmp_path / "train" / "_annotations.csv").open("a") as file:
        file.write(f"{row}\n")

    with pytest.raises(DataError, match=rf"train/_annotations\.csv, line 5: .*{words}"):
        read(tmp_path)
