"""From a stranger's export to a raw export: nothing that names a patient, nothing lost, nothing done twice."""

from __future__ import annotations

import io
import json
import random
import re
import tracemalloc
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from PIL import Image

from dentsight_pipeline.data import image_bytes, json_blocks
from dentsight_pipeline.data.identifiers import find_identifiers
from dentsight_pipeline.data.stored_images import FINGERPRINTS, fingerprints_of
from dentsight_pipeline.documents.codec import plain
from dentsight_pipeline.documents.names import PHANTOM_MARKER
from dentsight_pipeline.errors import AnnotationError, ConfigurationError, DataError, UnknownLabelError
from dentsight_pipeline.intake import coco, images, records
from dentsight_pipeline.intake.files import FolderFiles
from dentsight_pipeline.intake.identity import corpus, source_identity
from dentsight_pipeline.intake.ingest import Request, ingest_export
from dentsight_pipeline.intake.open import open_export
from dentsight_pipeline.intake.originals import verify_originals
from dentsight_pipeline.intake.read import read_export
from dentsight_pipeline.store.content import read_json
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline_tests.data.export_builder import NAMES, ExportBuilder, exif, jpeg, picture, whole_export
from dentsight_pipeline_tests.intake.test_yolo import yolo_export


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def _raw(store: Store, manifest: Manifest) -> dict[str, Any]:
    return {split["name"]: split for split in read_json(store, manifest, "annotations.json")["splits"]}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_raw_export_holds_every_image_label_and_box(tmp_path: Path, store: Store) -> None:
    """Ingestion decides nothing: what it drops could never be questioned later."""
    builder = whole_export(tmp_path / "export")

    manifest = ingest_export(builder.write(), store)

    raw = _raw(store, manifest)
    assert manifest.kind == "raw-export"
    assert {name: (len(s["images"]), len(s["annotations"])) for name, s in raw.items()} == {
        "train": (3, 5),
        "valid": (1, 2),
        "test": (1, 2),
    }
    assert raw["train"]["annotations"][0] == {
        "id": 0,
        "image_id": 0,
        "label": "11",
        "bbox": [5.0, 5.0, 10.0, 12.5],
        "polygons": [],
    }
    assert all(image["file_name"] in manifest.entries for split in raw.values() for image in split["images"])


def test_no_original_stem_is_anywhere_in_the_store(tmp_path: Path, store: Store) -> None:
    """The promise of the whole pipeline; every byte of the store is searched, not only where names are expected."""
    builder = whole_export(tmp_path / "export")
    builder.image("train", data=jpeg(picture(90), exif=exif(1), comment=b"smith_anna"), stem="smith_anna_png")
    builder.splits["train"]["images"][0]["extra"] = {"name": "smith_anna.png"}
    builder.splits["train"]["images"][0]["date_captured"] = "20230115_103000"

    manifest = ingest_export(builder.write(), store)

    secrets = [*(stem.encode() for stem in builder.stems()), b"smith_anna", b"PATIENT", b"20230115", b".rf."]
    for name, data in _files(tmp_path / "store").items():
        for secret in secrets:
            assert secret not in data, (name, secret)
            assert secret.decode() not in name
    assert find_identifiers(store, manifest, stems=builder.stems()) == []
    assert manifest.facts["privacy"]["metadata_removed"] == {"APP1 Exif": 1, "COM": 1}


def test_the_identifier_search_finds_what_is_planted(tmp_path: Path, store: Store) -> None:
    """A check that finds nothing must be able to find something."""
    from dentsight_pipeline.store.content import build

    uid = "1.2.840.113619.2.55.3.604688"
    spoilt = build(
        store,
        "raw-export",
        {"a.json": json.dumps({"note": f"see {uid}"}).encode(), "images/x.jpg": jpeg(picture(1), comment=b"x")},
        {},
        {"name": "smith_anna"},
    )

    found = {(f.where, f.kind) for f in find_identifiers(store, spoilt, stems=["smith_anna"])}

    assert found == {("a.json", "uid"), ("images/x.jpg", "image metadata"), ("facts", "original stem")}


def test_stems_are_kept_only_as_groups_of_image_digests(tmp_path: Path, store: Store) -> None:
    """A keyed or salted hash of a UID can be searched for; the digest of an image tells nothing about its name."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", stem="1-2-840-113619-2-55-3-604688_png")
    builder.image("train", stem="1-2-840-113619-2-55-3-604688_png")
    builder.image("test", stem="18_png")

    raw = _raw(store, ingest_export(builder.write(), store))

    first, second = raw["train"]["images"]
    assert first["stem_group"] == second["stem_group"] == min(first["sha256"], second["sha256"])
    assert (first["stem_kind"], raw["test"]["images"][0]["stem_kind"]) == ("uid", "numeric")


def test_ingesting_an_unchanged_export_again_writes_nothing(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is read once, to hash it; no image is worked on, no byte is written."""
    root = whole_export(tmp_path / "export").write()
    first = ingest_export(root, store)
    before = _files(tmp_path / "store")
    reads: list[str] = []
    original_read = FolderFiles.read
    monkeypatch.setattr(FolderFiles, "read", lambda self, path: (reads.append(path), original_read(self, path))[1])
    monkeypatch.setattr(FolderFiles, "blocks", lambda self, path: pytest.fail("a file was read in another way"))
    monkeypatch.setattr(images, "clean", lambda data: pytest.fail("an image was worked on again"))
    monkeypatch.setattr(store.blobs, "write", lambda *_: pytest.fail("something was written"))

    again = ingest_export(root, store)

    assert again.digest == first.digest
    assert _files(tmp_path / "store") == before
    assert len(reads) == len(set(reads)) == 8


def test_a_version_with_new_images_works_on_those_alone(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roboflow versions grow by a few images; names may change in every export, bytes do not."""
    builder = whole_export(tmp_path / "export")
    ingest_export(builder.write(), store)
    objects = set(store.object_digests())
    builder.image("train", {"crown": [[1, 1, 9, 9]]})
    worked: list[int] = []
    monkeypatch.setattr(images, "clean", lambda data: (worked.append(1), image_bytes.clean(data))[1])

    manifest = ingest_export(builder.write(), store)

    new = set(store.object_digests()) - objects
    assert len(worked) == 1
    assert sum(entry.sha256 in new for path, entry in manifest.entries.items() if path.startswith("images/")) == 1


@pytest.mark.parametrize("left", [None, 100])
def test_a_collected_or_cut_object_is_made_again(tmp_path: Path, store: Store, left: int | None) -> None:
    """What is remembered about an original is only used while its stored bytes are there, in their number."""
    root = whole_export(tmp_path / "export").write()
    manifest = ingest_export(root, store)
    image = next(entry for path, entry in manifest.entries.items() if path.startswith("images/"))
    stored = store.local_path(image.sha256)
    stored.chmod(0o600)
    if left is None:
        stored.unlink()
    else:
        stored.write_bytes(stored.read_bytes()[:left])

    again = ingest_export(root, store)

    assert again.digest == manifest.digest
    assert store.verify(image.sha256) == image.size


def test_fingerprints_are_no_part_of_the_identity_and_are_made_again_when_lost(tmp_path: Path, store: Store) -> None:
    """Another decoder may round them differently; that must not make another dataset."""
    manifest = ingest_export(whole_export(tmp_path / "export").write(), store)
    made = fingerprints_of(store, manifest)
    documents = [store.get_bytes(entry.sha256) for entry in manifest.entries.values()]
    assert not any(code.encode() in document for code in made.values() for document in documents)
    ref = f"{FINGERPRINTS}/{manifest.digest}"
    store.write_ref(ref, {"version": "another", "codes": "0" * 64})

    assert fingerprints_of(store, manifest) == made
    assert store.read_ref(ref) != {"version": "another", "codes": "0" * 64}


def test_the_digest_depends_on_content_and_not_on_names_or_place(tmp_path: Path, store: Store) -> None:
    """The same export from a zip and from another folder is the same dataset."""
    builder = whole_export(tmp_path / "export")
    archive = builder.zipped(tmp_path / "other name.zip", "top/")

    from_folder, from_zip = ingest_export(builder.write(), store), ingest_export(archive, store)

    assert from_folder.digest == from_zip.digest


def test_the_source_option_does_not_change_the_raw_export(tmp_path: Path, store: Store) -> None:
    """Labels are mapped in normalisation; a raw export says only which mapping the export itself calls for."""
    root = whole_export(tmp_path / "export").write()

    assert ingest_export(root, store).digest == ingest_export(root, store, Request(label_source="canonical")).digest


GROWTH_BYTES_PER_BOX = 600
"""At the peak: the text of its record, read and joined, and a view of it. As Python objects it takes 1,500 bytes."""


def test_boxes_are_columns_not_python_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corpora of fifty thousand images are read on small machines.

    The boxes stand in no order, so that a reader that only manages Roboflow's order is found too.
    """
    for module in (coco, records, json_blocks):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 100)  # a limit, which looks like growth until it is reached
    data = jpeg(picture(0))
    peaks = {}
    for images_of_60 in (30, 150):
        builder = ExportBuilder(tmp_path / str(images_of_60))
        for _ in range(images_of_60):
            row = {
                name: [[column * 6.0, 6.0 * y, 5.0, 5.0] for column in range(10)] for y, name in enumerate(NAMES[1:])
            }
            builder.image("train", row, data=data)
        random.Random(0).shuffle(builder.splits["train"]["annotations"])
        root, store = builder.write(), open_store(tmp_path / f"store-{images_of_60}")
        tracemalloc.start()
        manifest = ingest_export(root, store)
        stays, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        peaks[images_of_60] = peak - stays  # Python's own table of names may double meanwhile, by 7 MB
        assert manifest.facts["splits"]["train"]["annotations"] == images_of_60 * 60

    assert (peaks[150] - peaks[30]) / (120 * 60) < GROWTH_BYTES_PER_BOX


# What the export says about itself -----------------------------------------------------------------------------------


def test_the_real_export_is_identified(real_export: Path) -> None:
    """Workspace, project, version and licence go on every report."""
    with open_export(real_export) as files:
        export, _ = read_export(files)

    identity = source_identity(export)

    assert plain(corpus(export, identity)) == {
        "kind": "roboflow",
        "name": "Рентгеновские снимки v2",
        "licence": "CC BY 4.0",
    }
    assert identity.workspace == "dental-uispo"
    assert identity.exported_at == "June 1, 2024 at 2:33 PM GMT"


def test_only_its_own_line_makes_an_export_the_phantom_corpus(tmp_path: Path, store: Store) -> None:
    """A real corpus must never pass as synthetic, nor the other way round."""
    builder = whole_export(tmp_path / "export")
    (builder.root / "README.dataset.txt").write_text(f"# not quite: {PHANTOM_MARKER}\n")
    assert ingest_export(builder.write(), store).facts["corpus"]["kind"] == "roboflow"
    (builder.root / "README.dataset.txt").write_text(f"# OPG\n\n{PHANTOM_MARKER}\n")

    assert ingest_export(builder.write(), store).facts["corpus"]["kind"] == "phantom"


def test_identity_known_from_elsewhere_wins(tmp_path: Path, store: Store) -> None:
    """Roboflow's API knows the version better than a README that somebody edited."""
    root = whole_export(tmp_path / "export").write()

    facts = ingest_export(root, store, Request(identity={"workspace": "clinic", "project": "opg", "version": 8})).facts

    assert facts["source"] == {"licence": "CC BY 4.0", "project": "opg", "version": "8", "workspace": "clinic"}
    assert facts["corpus"]["name"] == "opg v8"


def test_half_a_character_in_what_is_only_shown_stops_nothing(tmp_path: Path, store: Store) -> None:
    """JSON can hold one, no file can: it used to be a traceback after everything was read."""
    builder = whole_export(tmp_path / "export")
    builder.splits["train"]["licenses"][0]["name"] = "CC \ud83d"
    builder.splits["train"]["info"] = {"url": "https://universe.roboflow.com/a/b\ud83d", "\ud83d": "\ud83d"}

    assert ingest_export(builder.write(), store).facts["source"]["licence"].startswith("CC ?")


# Repairs and refusals ------------------------------------------------------------------------------------------------


def test_a_listed_image_without_its_file_is_dropped_and_listed(tmp_path: Path, store: Store) -> None:
    """24 of these were seen in real exports: no picture can be made up for them."""
    builder = whole_export(tmp_path / "export")
    builder.file_of("train", 1).unlink()

    manifest = ingest_export(builder.write(), store)

    assert manifest.facts["repairs"] == {"image_without_file": 1}
    assert manifest.facts["splits"]["train"]["images"] == 2
    assert read_json(store, manifest, "repairs.json") == [
        {
            "kind": "image_without_file",
            "split": "train",
            "export_image_id": 1,
            "detail": "listed, but its file is missing; 3 annotations dropped",
        }
    ]


def test_images_that_were_converted_or_mended_are_listed(tmp_path: Path, store: Store) -> None:
    """The same on the second run, which only remembers them."""
    builder = whole_export(tmp_path / "export")
    bmp = io.BytesIO()
    Image.fromarray(picture(70)).save(bmp, "BMP")
    builder.image("train", {"11": [[1, 1, 9, 9]]}, data=bmp.getvalue())
    builder.image("train", {"11": [[1, 1, 9, 9]]}, data=jpeg(picture(71))[:-2])

    manifest = ingest_export(builder.write(), store)

    assert manifest.facts["repairs"] == {"converted_image": 1, "jpeg_end_added": 1}
    assert ingest_export(builder.root, store).digest == manifest.digest
    (report,) = verify_originals(store, [manifest], [builder.root])
    assert report.intact


def test_a_file_whose_name_differs_in_capital_letters_is_found_and_noted(tmp_path: Path, store: Store) -> None:
    """What was written on Windows and unpacked on Linux lost a third of its images in silence."""
    builder = whole_export(tmp_path / "export")
    file = builder.file_of("train", 0)
    file.rename(file.with_name(file.name.upper()))

    manifest = ingest_export(builder.write(), store)

    assert manifest.facts["splits"]["train"] == {"images": 3, "annotations": 5, "unlisted_files": 0}
    assert manifest.facts["repairs"] == {"file_name_case": 1}


def test_an_accent_that_a_mac_writes_in_two_characters_is_found_and_noted(tmp_path: Path, store: Store) -> None:
    """The annotations name `é` (NFC), the unpacked file has `e` and an accent (NFD)."""
    builder = whole_export(tmp_path / "export")
    listed = builder.splits["train"]["images"][0]
    file = builder.file_of("train", 0)
    listed["file_name"] = f"Ren\u00e9e-{listed['file_name']}"
    file.rename(file.with_name(unicodedata.normalize("NFD", listed["file_name"])))

    manifest = ingest_export(builder.write(), store)

    assert manifest.facts["splits"]["train"] == {"images": 3, "annotations": 5, "unlisted_files": 0}
    assert manifest.facts["repairs"] == {"file_name_case": 1}
    (repair,) = read_json(store, manifest, "repairs.json")
    assert repair["detail"] == "the file's name has other accents"


def test_a_name_that_several_files_have_in_other_letters_is_not_guessed(tmp_path: Path, store: Store) -> None:
    """Which of them is meant, nobody knows."""
    builder = whole_export(tmp_path / "export")
    file = builder.file_of("train", 0)
    file.with_name(file.name.upper()).write_bytes(file.read_bytes())
    file.rename(file.with_name(file.name.title()))

    assert ingest_export(builder.write(), store).facts["repairs"] == {"image_without_file": 1}


@pytest.mark.parametrize("share", [0.5, 0.02])
def test_a_jpeg_cut_in_half_is_refused_by_name_and_a_rerun_after_the_repair_works(
    tmp_path: Path, store: Store, share: float
) -> None:
    """A decoder would fill the rest with grey, and a finding there would be lost."""
    builder = whole_export(tmp_path / "export")
    file = builder.file_of("valid", 0)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    builder.write()

    with pytest.raises(DataError, match=rf"valid/{file.name}: it is cut off.*Restore the file or export again"):
        ingest_export(builder.root, store)

    assert list(store.manifest_digests()) == []
    file.write_bytes(whole)
    assert ingest_export(builder.root, store).facts["repairs"] == {}


def test_an_unknown_label_stops_before_the_first_image_is_stored(tmp_path: Path, store: Store) -> None:
    """Nothing is guessed, and nothing is begun."""
    builder = ExportBuilder(tmp_path / "export", names=("root", "carries"))
    builder.image("train", {"carries": [[1, 1, 5, 5]]})

    with pytest.raises(
        UnknownLabelError,
        match=r"train/_annotations\.coco\.json, category 1 \(1 annotations\): Label 'carries' .* Did you mean 'caries'",
    ):
        ingest_export(builder.write(), store)

    assert list(store.object_digests()) == []
    assert ingest_export(builder.root, store, Request(drop=["carries"])).facts["splits"]["train"]["annotations"] == 1


def test_a_drop_that_does_not_occur_is_refused(tmp_path: Path, store: Store) -> None:
    """A mistyped --drop would leave the label in."""
    with pytest.raises(
        ConfigurationError, match=r"--drop 'cares': the export has no such label. It has 'OPG-data', '11'"
    ):
        ingest_export(whole_export(tmp_path / "export").write(), store, Request(drop=["cares"]))


def test_a_split_that_is_required_is_missed_by_name(tmp_path: Path, store: Store) -> None:
    """A model that cannot be tested should not be trained for hours first."""
    builder = whole_export(tmp_path / "export")
    builder.write()
    for file in (builder.root / "test").iterdir():
        file.unlink()
    (builder.root / "test").rmdir()

    with pytest.raises(DataError, match=r"the split 'test' is missing; found train, valid\. Export the version again"):
        ingest_export(builder.root, store, Request(require=("train", "valid", "test")))

    assert list(ingest_export(builder.root, store).facts["splits"]) == ["train", "valid"]


@pytest.mark.parametrize("box", [[70, 5, 10, 10], [5, 50, 10, 10], [-12, 5, 10, 10], [5, -11, 60, 10]])
def test_a_box_wholly_outside_its_image_is_refused(tmp_path: Path, store: Store, box: list[float]) -> None:
    """Clipping it would leave nothing: the box belongs to another image or another scale."""
    builder = whole_export(tmp_path / "export")
    builder.annotation("valid", 0, "caries", box)

    words = f"annotation 2 of image 0 .*{re.escape(str(box))} lies wholly outside the 64×48"
    with pytest.raises(AnnotationError, match=words):
        ingest_export(builder.write(), store)


def test_boxes_given_by_their_corners_are_refused_as_such(tmp_path: Path, store: Store) -> None:
    """Clipped they were accepted: 42 of 64 boxes, none of them where it was drawn."""
    corners = [[x, y, x + 20, y + 15] for x in (2, 20, 40) for y in (2, 15, 30)]
    builder = whole_export(tmp_path / "coco")
    builder.image("train", {"caries": corners})
    lines = [f"0 {x1 / 64} {y1 / 48} {x2 / 64} {y2 / 48}" for x1, y1, x2, y2 in corners]
    yolo = yolo_export(tmp_path / "yolo", {"train/a": lines})

    for root, words in ((builder.write(), r"json, 5 of 14 boxes"), (yolo, r"train/labels, 8 of 9 boxes")):
        with pytest.raises(AnnotationError, match=rf"{words}: they reach past .* as two corners \(x1, y1, x2, y2\)"):
            ingest_export(root, store)


def test_boxes_of_another_scale_are_refused_as_such(tmp_path: Path, store: Store) -> None:
    """Drawn on an image of twice the size, say."""
    builder = whole_export(tmp_path / "export")
    builder.image("valid", {"caries": [[x, y, 30, 30] for x in (10, 50) for y in (10, 40, 44)]})

    with pytest.raises(AnnotationError, match="5 of 8 boxes: they reach past their images; they are in other units"):
        ingest_export(builder.write(), store)


@pytest.mark.parametrize(("lost", "stops"), [(4, False), (5, True)])
def test_an_export_most_of_whose_files_are_missing_is_refused(
    tmp_path: Path, store: Store, lost: int, stops: bool
) -> None:
    """A few lost files are listed one by one; a third of the images is no dataset any more."""
    builder = whole_export(tmp_path / "export")
    for _ in range(10):
        builder.image("valid")
    for number in range(lost):
        builder.file_of("valid", number).unlink()
    builder.write()

    if not stops:
        assert ingest_export(builder.root, store).facts["repairs"] == {"image_without_file": lost}
        return
    with pytest.raises(AnnotationError, match=r"5 of 11 listed images: their files are missing"):
        ingest_export(builder.root, store)


def test_a_box_that_touches_its_image_stays(tmp_path: Path, store: Store) -> None:
    """Up to a pixel outside may be rounding: normalisation decides, and counts it."""
    builder = whole_export(tmp_path / "export")
    for box in ([64.5, 5, 10, 10], [-10.5, 5, 10, 10], [5, -9, 60, 10]):
        builder.annotation("valid", 0, "caries", box)

    assert ingest_export(builder.write(), store).facts["splits"]["valid"]["annotations"] == 5


@pytest.mark.parametrize(
    ("listed", "orientation"),
    [((128, 96), 1), ((64, 50), 1), ((60, 48), 1), ((48, 64), 1), ((60, 48), 6), ((60, 60), 3)],
)
def test_an_image_of_another_size_than_listed_is_refused(
    tmp_path: Path, store: Store, listed: tuple[int, int], orientation: int
) -> None:
    """Its boxes would lie in the wrong place by a constant factor, and nothing else would show it."""
    builder = whole_export(tmp_path / "export")
    builder.image("valid", data=jpeg(picture(7), exif=exif(orientation)), size=listed)
    shown = "48×64" if orientation == 6 else "64×48"

    words = f"listed as {listed[0]}×{listed[1]} px, but the file has {shown}.*export the version again"
    with pytest.raises(AnnotationError, match=words):
        ingest_export(builder.write(), store)


def test_boxes_of_a_turned_image_without_a_listed_size_are_taken_as_displayed(tmp_path: Path, store: Store) -> None:
    """As annotation tools show it."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"caries": [[4, 8, 10, 20]]}, data=jpeg(picture(3), exif=exif(6)), size=(0, 0))

    manifest = ingest_export(builder.write(), store)

    assert _raw(store, manifest)["train"]["annotations"][0]["bbox"] == [4, 8, 10, 20]
    assert manifest.facts["repairs"] == {"exif_rotation": 1, "listed_size_missing": 1}


@pytest.mark.parametrize(
    ("listed", "box", "expected"),
    [((48, 64), [4, 8, 10, 20], [4, 8, 10, 20]), ((64, 48), [8, 4, 20, 10], [34, 8, 10, 20])],
)
def test_an_exif_rotation_turns_pixels_and_only_the_boxes_that_need_it(
    tmp_path: Path, store: Store, listed: tuple[int, int], box: list[float], expected: list[float]
) -> None:
    """The listed size tells in which frame the boxes were drawn."""
    builder = ExportBuilder(tmp_path / "export")
    data = jpeg(picture(3), exif=exif(6))
    builder.image("train", {"caries": [box]}, data=data, size=listed)

    manifest = ingest_export(builder.write(), store)

    train = _raw(store, manifest)["train"]
    image = train["images"][0]
    assert (image["width"], image["height"], train["annotations"][0]["bbox"]) == (48, 64, expected)
    assert manifest.facts["repairs"] == {"exif_rotation": 1}
    gray = image_bytes.decode_gray(store.get_bytes(image["sha256"]), (48, 64))
    upright = image_bytes.decode_gray(image_bytes.clean(data).data, (48, 64))
    assert gray is not None and upright is not None and np.array_equal(gray, upright)


def test_two_listed_images_with_equal_bytes_stay_two_records(tmp_path: Path, store: Store) -> None:
    """The same picture annotated twice is a sample of how well annotators agree."""
    builder = ExportBuilder(tmp_path / "export")
    builder.image("train", {"caries": [[1, 1, 5, 5]]}, data=jpeg(picture(1)))
    builder.image("train", {"crown": [[1, 1, 5, 5]]}, data=jpeg(picture(1)))

    manifest = ingest_export(builder.write(), store)

    assert len(_raw(store, manifest)["train"]["images"]) == 2
    assert sum(path.startswith("images/") for path in manifest.entries) == 1


def test_yolo_labels_become_the_same_pixels(tmp_path: Path, store: Store) -> None:
    """One dataset exported in two layouts has one content."""
    root = yolo_export(
        tmp_path / "yolo",
        {"train/1-2-840-113619-2-55-3-604688_png.rf.0a": ["0 0.5 0.5 0.25 0.5", "1 0 0 0.5 0 0.5 0.5"]},
    )

    manifest = ingest_export(root, store)

    annotations = _raw(store, manifest)["train"]["annotations"]
    assert [(a["label"], a["bbox"], a["polygons"]) for a in annotations] == [
        ("caries", [24, 12, 16, 24], []),
        ("crown", [0, 0, 32, 24], [[0, 0, 32, 0, 32, 24]]),
    ]
    assert manifest.facts["source"]["workspace"] == "clinic"
    assert manifest.facts["repairs"] == {"box_from_polygon": 1}
    assert find_identifiers(store, manifest, stems=["604688"]) == []


def test_progress_reaches_the_end(tmp_path: Path, store: Store) -> None:
    """Whoever waits for 2,213 images wants to see them pass."""
    seen: list[tuple[str, int, int]] = []

    ingest_export(whole_export(tmp_path / "export").write(), store, Request(progress=lambda *args: seen.append(args)))

    assert seen[-1] == ("images", 5, 5)


# S3 ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="exports")
    yield client
    server.stop()


def test_an_export_on_s3_is_the_same_as_the_folder(tmp_path: Path, store: Store, bucket: Any) -> None:
    """From a prefix, and from a zip on S3."""
    builder = whole_export(tmp_path / "export")
    bucket.upload_file(str(builder.zipped(tmp_path / "v8.zip")), "exports", "zips/v8.zip")
    for path in builder.root.rglob("*"):
        if path.is_file():
            bucket.upload_file(str(path), "exports", f"v8/{path.relative_to(builder.root).as_posix()}")

    digests = {
        ingest_export(place, store).digest for place in (builder.root, "s3://exports/v8", "s3://exports/zips/v8.zip")
    }

    assert len(digests) == 1
    with pytest.raises(DataError, match="There is nothing at s3://exports/v9"):
        ingest_export("s3://exports/v9", store)
    with pytest.raises(DataError, match=r"S3 refused .*Check the bucket's name"):
        ingest_export("s3://nowhere/v8", store)
