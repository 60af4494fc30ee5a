"""From raw labels to 45 classes: what is mapped, mended, listed and refused."""

from __future__ import annotations

import hashlib
import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from dentsight_pipeline.data import normalise, normalised_split
from dentsight_pipeline.data.coverage import LookedFor
from dentsight_pipeline.data.identifiers import find_identifiers
from dentsight_pipeline.data.normalise import normalise_document, normalise_export
from dentsight_pipeline.data.ontology import CLASSES, CONDITIONS
from dentsight_pipeline.data.raw_export import RawExport
from dentsight_pipeline.data.splits import read_split, read_stored
from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.annotations import REPAIRS
from dentsight_pipeline.errors import AnnotationError, ConfigurationError, UnknownLabelError
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import ExportBuilder, jpeg, picture, whole_export
from dentsight_pipeline_tests.data.messy_export import messy_export, raw_export_of

V8_AFTER_MAPPING = {  # train / valid, as measured on the published corpus
    "caries": (3824, 1118),
    "missing": (3721, 1137),
    "calculus": (2356, 652),
    "RC-treated": (1826, 622),
    "impacted": (1446, 435),
    "restoration": (1277, 406),
    "crown": (1213, 405),
    "periapical-radiolucency": (1191, 331),
    "root-stump": (892, 263),
    "bridge": (423, 128),
    "implant": (225, 76),
    "tooth-bud": (191, 24),
    "other-finding": (110, 34),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def _normalised(store: Store, root: Path, **options: Any) -> Manifest:
    return normalise_export(store, ingest_export(root, store, Request(drop=options.get("drop", ()))), **options)


def _split(store: Store, manifest: Manifest, name: str = "train") -> dict[str, Any]:
    return read_split(store, manifest, name).to_coco()


def _repairs(store: Store, manifest: Manifest) -> list[dict[str, Any]]:
    return read_stored(store, manifest, "repairs.arrow", REPAIRS).to_pylist()


def test_class_counts_of_a_v8_shaped_corpus_are_the_published_ones(shared_folder: Path) -> None:
    """The mapping as a whole against numbers that somebody else counted."""
    reference = json.loads((shared_folder / "reference" / "opg_reporting_v8_categories.json").read_text())

    facts = normalise_document(_v8_shaped(reference)).facts

    for position, split in enumerate(("train", "valid")):
        counts = facts.splits[split].class_counts
        assert {name: counts[name] for name in CONDITIONS} == {n: c[position] for n, c in V8_AFTER_MAPPING.items()}
        assert facts.splits[split].images == reference["images"][split]
    assert facts.composites == 40
    assert facts.repairs == {}


def _v8_shaped(reference: dict[str, Any]) -> RawExport:
    """A raw export's content with v8's categories, images and annotation counts; boxes never overlap."""
    splits = []
    for position, split in enumerate(("train", "valid")):
        count = reference["images"][split]
        images = [
            {
                "id": i,
                "file_name": f"images/{position}{i:063x}.jpg",
                "sha256": f"{position}{i:063x}",
                "original_sha256": f"{position}{i:063x}",
                "width": 1662,
                "height": 1077,
                "stem_group": f"{position}{i:063x}",
                "stem_kind": "uid",
            }
            for i in range(count)
        ]
        labels = [name for name, by_split in reference["condition_counts"].items() for _ in range(by_split[split])]
        annotations = [
            {
                "id": i,
                "image_id": i % count,
                "label": label,
                "bbox": [10 * (i // count), 5, 8, 8],
                "polygons": [],
            }
            for i, label in enumerate(labels)
        ]
        categories = [{**c, "placeholder": c["id"] == 0} for c in reference["categories"]]
        splits.append(
            {"name": split, "file": split, "categories": categories, "images": images, "annotations": annotations}
        )
    blank = {image["sha256"]: "" for split in splits for image in split["images"]}
    return raw_export_of({"splits": splits}, blank)


@pytest.mark.parametrize(
    ("source", "seed", "digest"),
    [
        ("opg-reporting", 0, "ec0a405f61a11b0c"),
        ("dental-radiography", 0, "fcf4ca063b089b34"),
        ("opg-reporting", 1, "2aedaf1c1d7952dd"),
        ("dental-radiography", 1, "5045be80fa0f25f2"),
        ("opg-reporting", 2, "54c6d466a7a83701"),
        ("dental-radiography", 2, "8905a97dab14f8f4"),
    ],
)
def test_columns_give_what_was_computed_box_by_box(
    source: str, seed: int, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digests are those of a plain loop over boxes, which came first: ids, order, boxes and words, bit for bit."""
    monkeypatch.setattr(normalised_split, "_IMAGES_AT_ONCE", 7 + 100 * seed)
    monkeypatch.setattr(normalise, "looked_for", lambda *_: LookedFor(source))  # for everything: the loop knew no less
    made = normalise_document(raw_export_of(*messy_export(seed)), source=source, drop=["12"])

    coco = {name: split.to_coco() for name, split in made.splits.items()}
    for image in chain.from_iterable(split["images"] for split in coco.values()):
        del image["covered"], image["export"]  # the loop did not know them
    content = {
        "splits": coco,
        "repairs": made.repairs.to_pylist(),
        **{name: codec.plain(getattr(made, name)) for name in ("labels", "agreement", "facts")},
    }
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest().startswith(digest)


def test_the_real_export_has_its_known_leakage_sources_and_loose_labels(real_export: Path, store: Store) -> None:
    """24 of 30 test and 131 of 154 valid images share a source with train; 655 sources; one near-duplicate box.

    And looseness belongs to a source, not to a name: under the strict mapping the same names are not loose.
    """
    raw = ingest_export(real_export, store)

    facts = normalise_export(store, raw).facts
    strict = normalise_export(store, raw, source="canonical")

    shown = ("images", "shared_with_train", "shared_with_any", "clean")
    assert [facts["leakage"]["test"][key] for key in shown] == [30, 24, 28, 2]
    assert [facts["leakage"]["valid"][key] for key in shown] == [154, 131, 135, 19]
    assert facts["sources"] == 655
    assert facts["repairs"] == {"near_duplicate": 1}
    assert facts["loose_classes"] == ["restoration", "implant"]
    assert facts["boxes_under_2_px"] == 3
    assert strict.facts["loose_classes"] == []
    assert not any(a["loose"] for a in _split(store, strict)["annotations"])


def test_ids_are_dense_from_one_over_all_splits(tmp_path: Path, store: Store) -> None:
    """Exports restart at 0 in every split, and pycocotools reads annotation id 0 as unmatched."""
    manifest = _normalised(store, whole_export(tmp_path / "export").write())

    splits = [_split(store, manifest, name) for name in ("train", "valid", "test")]
    assert [image["id"] for split in splits for image in split["images"]] == [1, 2, 3, 4, 5]
    assert [a["id"] for split in splits for a in split["annotations"]] == list(range(1, 11))
    assert splits[0]["categories"][0] == {"id": 1, "name": "11", "supercategory": "tooth"}
    assert [c["name"] for c in splits[2]["categories"]] == list(CLASSES)


def test_a_composite_becomes_two_annotations_with_one_box(tmp_path: Path, store: Store) -> None:
    """A root-filled stump is both, and counts for both."""
    manifest = _normalised(store, whole_export(tmp_path / "export").write())

    twins = [a for a in _split(store, manifest)["annotations"] if a["raw_name"] == "RC-treated-and-root-stump"]
    assert [CLASSES[a["category_id"] - 1] for a in twins] == ["RC-treated", "root-stump"]
    assert twins[0]["bbox"] == twins[1]["bbox"] == [30.0, 20.0, 9.0, 9.0]
    assert manifest.facts["composites"] == 1


def test_an_image_without_annotations_stays_as_a_negative(tmp_path: Path, store: Store) -> None:
    """258 true negatives were measured; dropping them would overstate precision."""
    manifest = _normalised(store, whole_export(tmp_path / "export").write())

    assert len(_split(store, manifest)["images"]) == 3
    assert manifest.facts["splits"]["train"]["images_without_annotations"] == 1


def test_conditions_without_teeth_are_flagged_as_partial_annotation(tmp_path: Path, store: Store) -> None:
    """Such an image says nothing about teeth; an empty image says that there is nothing."""
    builder = whole_export(tmp_path / "export")
    builder.image("train", {"caries": [[1, 1, 5, 5]]})

    manifest = _normalised(store, builder.write())

    assert [image["partial_annotation"] for image in _split(store, manifest)["images"]] == [False, False, False, True]
    assert manifest.facts["partial_annotation"] == {"train": 1, "valid": 0, "test": 0}


def test_every_repair_is_counted_and_listed(tmp_path: Path, store: Store) -> None:
    """One by one, with the ids by which its owner finds the record."""
    builder = ExportBuilder(tmp_path / "export")
    image = builder.image("train", {"11": [[5, 5, 20, 30]]})
    builder.annotation("train", image, "caries", [60, 40, 4.4, 5])
    builder.annotation("train", image, "caries", [10, 10, 0, 5])
    builder.annotation("train", image, "caries", [60, 40, 4.4, 5])
    builder.annotation("train", image, "caries", [60, 40, 3.9, 5])
    builder.annotation(
        "train", image, "crown", [60, 40, 4, 5], segmentation=[[60, 40, 66, 40, 64, 45], [1, 1, 2, 2, 3, 3]]
    )

    manifest = _normalised(store, builder.write())

    annotations = _split(store, manifest)["annotations"]
    assert [(a["raw_name"], a["bbox"]) for a in annotations] == [
        ("11", [5.0, 5.0, 20.0, 30.0]),
        ("caries", [60.0, 40.0, 4.0, 5.0]),
        ("crown", [60.0, 40.0, 4.0, 5.0]),
    ]
    assert annotations[2]["segmentation"] == [[60.0, 40.0, 64.0, 40.0, 64.0, 45.0]]
    assert [(r["kind"], r["export_annotation_id"]) for r in _repairs(store, manifest)] == [
        ("clipped_box", 1),
        ("zero_area_box", 2),
        ("clipped_box", 3),
        ("exact_duplicate", 3),
        ("near_duplicate", 4),
        ("clipped_polygon", 5),
        ("polygon_dropped", 5),
    ]
    assert manifest.facts["repairs"] == {
        "clipped_box": 2,
        "clipped_polygon": 1,
        "exact_duplicate": 1,
        "near_duplicate": 1,
        "polygon_dropped": 1,
        "zero_area_box": 1,
    }


def test_boxes_of_two_classes_in_one_place_both_stay(tmp_path: Path, store: Store) -> None:
    """A crown on a root-filled tooth is two findings, not a duplicate."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"crown": [[5, 5, 20, 30]], "RC-treated": [[5, 5, 20, 30]]})

    manifest = _normalised(store, builder.write())

    assert len(_split(store, manifest)["annotations"]) == 2
    assert manifest.facts["repairs"] == {}


def test_boxes_in_one_place_of_two_images_both_stay(tmp_path: Path, store: Store) -> None:
    """The last class of one image and the first of the next, or the same: each is a finding of its own image."""
    builder = ExportBuilder(tmp_path / "export", ("OPG-data", "11", "cyst"))
    for name in ("cyst", "11", "11"):
        builder.image("train", {name: [[5, 5, 20, 20]]})

    coco = _split(store, _normalised(store, builder.write()))

    assert [(a["image_id"], a["category_id"]) for a in coco["annotations"]] == [(1, 45), (2, 1), (3, 1)]


def test_boxes_of_one_class_that_overlap_by_half_both_stay(tmp_path: Path, store: Store) -> None:
    """Caries on neighbouring surfaces overlaps; merging it would lose a finding."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"caries": [[5, 5, 20, 30], [10, 5, 20, 30]]})

    assert len(_split(store, _normalised(store, builder.write()))["annotations"]) == 2


def test_a_box_wholly_outside_is_refused_also_here(store: Store) -> None:
    """A raw export may come from another writer."""
    with pytest.raises(AnnotationError, match=r"annotation 4 of image 0: its box .* lies wholly outside the 640×480"):
        normalise_document(_one_box([700.0, 5.0, 8.0, 8.0]))


def _one_box(box: list[float], label: str = "caries") -> RawExport:
    image = {"id": 0, "file_name": "images/a.jpg", "sha256": "a" * 64, "width": 640, "height": 480}
    image |= {"original_sha256": "a" * 64, "stem_group": "a" * 64, "stem_kind": "other"}
    annotation = {"id": 4, "image_id": 0, "label": label, "bbox": box, "polygons": []}
    categories = [{"id": 1, "name": label, "placeholder": False}]
    split = {"name": "train", "file": "f", "categories": categories, "images": [image], "annotations": [annotation]}
    return raw_export_of({"splits": [split]}, {"a" * 64: ""})


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ([-0.4, 5.0, 8.0, 8.0], [0.0, 5.0, 7.6, 8.0]),
        ([-100.0, -100.0, 900.0, 900.0], [0.0, 0.0, 640.0, 480.0]),
        ([632.0, 472.0, 8.0, 8.0], [632.0, 472.0, 8.0, 8.0]),
        ([640.0, 5.0, 0.4, 8.0], None),
    ],
)
def test_clipping_keeps_what_is_inside(box: list[float], kept: list[float] | None) -> None:
    """4.5 % of boxes reach less than half a pixel past the edge; a box that fits must not change at all."""
    document = normalise_document(_one_box(box))

    boxes = document.splits["train"].boxes_xywh_px.tolist()
    assert boxes == ([pytest.approx(kept)] if kept else [])
    assert document.facts.repairs == ({} if kept == box else {"clipped_box": 1} if kept else {"zero_area_box": 1})


def test_dropped_labels_are_counted_and_their_images_stay(tmp_path: Path, store: Store) -> None:
    """What is left out must be visible: 'Healthy Teeth' by the mapping, 'crown' by the user."""
    builder = ExportBuilder(tmp_path / "export", names=("root", "Healthy Teeth", "crown", "caries"))
    builder.image("train", {"Healthy Teeth": [[1, 1, 5, 5], [9, 9, 5, 5]], "crown": [[20, 1, 5, 5]]})

    manifest = _normalised(store, builder.write(), drop=["crown"])

    assert manifest.facts["dropped"] == {"Healthy Teeth": 2, "crown": 1, "root": 0}
    assert manifest.facts["mapping"]["drop"] == ["crown"]
    assert len(_split(store, manifest)["images"]) == 1
    assert _split(store, manifest)["annotations"] == []


def test_an_unknown_label_is_refused_also_here(store: Store) -> None:
    """A raw export outlives the mapping that it was checked with."""
    raw = _one_box([1.0, 1.0, 5.0, 5.0], "carries")

    with pytest.raises(UnknownLabelError, match="f, category 1: Label 'carries'"):
        normalise_document(raw)
    with pytest.raises(ConfigurationError, match="--drop 'x': no such label here"):
        normalise_document(raw, drop=["x"])


def test_images_that_share_a_source_across_splits_are_not_clean(tmp_path: Path, store: Store) -> None:
    """Equal UID stems prove it by name, flipped pixels by sight; a shared counter proves nothing."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", stem="1-2-840-113619-2-55-3-604688_png")
    builder.image("test", stem="1-2-840-113619-2-55-3-604688_png")
    builder.image("train", data=jpeg(picture(50, 256, 192)), size=(256, 192), stem="a_png")
    builder.image("test", data=jpeg(picture(50, 256, 192)[:, ::-1]), size=(256, 192), stem="b_png")
    builder.image("train", stem="18_png")
    builder.image("test", stem="18_png")

    manifest = _normalised(store, builder.write())

    train, test = _split(store, manifest)["images"], _split(store, manifest, "test")["images"]
    assert [image["clean"] for image in test] == [False, False, True]
    assert [a["source_group"] == b["source_group"] for a, b in zip(train, test, strict=True)] == [True, True, False]
    assert train[0]["source_group"] == min(train[0]["sha256"], test[0]["sha256"])
    assert manifest.facts["leakage"]["test"]["shared_with_train"] == 2


def test_the_digest_is_stable_and_depends_on_the_mapping(tmp_path: Path, store: Store) -> None:
    """Unchanged work must be recognised; another mapping is another dataset."""
    raw = ingest_export(whole_export(tmp_path / "export").write(), store)

    first = normalise_export(store, raw)

    assert normalise_export(store, raw).digest == first.digest
    assert normalise_export(store, raw, source="canonical").digest != first.digest
    assert first.inputs == {"raw_export": raw.digest}


def test_no_original_stem_is_in_the_normalised_splits(tmp_path: Path, store: Store) -> None:
    """Names are gone before this step; nothing may bring them back."""
    builder = whole_export(tmp_path / "export")

    manifest = _normalised(store, builder.write())

    assert find_identifiers(store, manifest, stems=builder.stems()) == []


def test_a_phantom_export_goes_through_with_its_known_answers(tmp_path: Path, store: Store) -> None:
    """The corpus of the demo has v8's shape and defects, and knows what was drawn."""
    drawn = write_phantom_export(tmp_path / "phantom", images=24, seed=5, width=320)
    stems = [p.name.split(".rf.")[0] for p in (tmp_path / "phantom").glob("*/*.jpg")]

    raw = ingest_export(tmp_path / "phantom", store, Request(require=("train", "valid", "test")))
    facts = (manifest := normalise_export(store, raw)).facts

    duplicates = sum(facts["repairs"].get(kind, 0) for kind in ("exact_duplicate", "near_duplicate"))
    assert facts["corpus"]["kind"] == "phantom"
    assert facts["mapping"]["source"] == "opg-reporting"
    assert sum(s["images"] for s in facts["splits"].values()) == drawn.images == 24
    assert sum(s["annotations"] for s in facts["splits"].values()) == (
        drawn.annotations + facts["composites"] - duplicates - facts["repairs"].get("zero_area_box", 0)
    )
    assert facts["sources"] == drawn.sources
    assert find_identifiers(store, raw, stems=[s for s in stems if len(s) > 9]) == []
    assert find_identifiers(store, manifest, stems=[s for s in stems if len(s) > 9]) == []
