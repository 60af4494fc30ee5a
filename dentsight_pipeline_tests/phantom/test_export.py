"""The phantom corpus is a Roboflow export like v8 in everything but the patients."""

from __future__ import annotations

import json
import re
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dentsight_pipeline.errors import ConfigurationError, StorageError
from dentsight_pipeline.phantom.export import (
    CATEGORY_NAMES,
    PHANTOM_MARKER,
    TRUTH_FILE,
    V8_DOUBLED,
    V8_SPLITS,
    PhantomSummary,
    plan_images,
    plan_splits,
    write_phantom_export,
)
from dentsight_pipeline.phantom.mouth import UNANNOTATED_SHARE, V8_CONDITION_COUNTS, rate

_IMAGES, _SEED, _WIDTH = 90, 11, 320


@dataclass(frozen=True)
class Phantom:
    """A written corpus, read back with nothing but json."""

    folder: Path
    summary: PhantomSummary
    splits: dict[str, dict[str, Any]]
    truth: dict[str, Any]

    def annotations(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Every annotation with its image."""
        for document in self.splits.values():
            images = {image["id"]: image for image in document["images"]}
            for annotation in document["annotations"]:
                yield annotation, images[annotation["image_id"]]


def _read(folder: Path, summary: PhantomSummary) -> Phantom:
    documents = {s: json.loads((folder / s / "_annotations.coco.json").read_text()) for s in V8_SPLITS}
    return Phantom(folder, summary, documents, json.loads((folder / TRUTH_FILE).read_text()))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Phantom:
    """A corpus large enough to show every structural trait, drawn once."""
    folder = tmp_path_factory.mktemp("phantom") / "export"
    return _read(folder, write_phantom_export(folder, _IMAGES, _SEED, _WIDTH))


def _write_with(out: Path, images: int, seed: int, width: int) -> PhantomSummary:
    return write_phantom_export(out, images, seed, width)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_categories_are_those_of_v8(shared_folder: Path) -> None:
    """Ids and odd spellings are what ingestion maps by name; a tidied spelling would test nothing real."""
    reference = json.loads((shared_folder / "reference" / "opg_reporting_v8_categories.json").read_text())

    assert [c["name"] for c in reference["categories"]] == list(CATEGORY_NAMES)
    assert {k: sum(v.values()) for k, v in reference["condition_counts"].items()} == V8_CONDITION_COUNTS


def test_a_corpus_of_v8s_size_has_v8s_splits_and_doubled_sources() -> None:
    """Leakage at v8's measured rates: 267 of 1946 sources occur twice, in these pairs of splits, for any seed."""
    for seed in (0, 5):
        plan = plan_images(2213, seed)
        splits_of: dict[int, list[str]] = {}
        for image in plan:
            splits_of.setdefault(image.source, []).append(image.split)
        order = list(V8_SPLITS)
        pairs = Counter(tuple(sorted(s, key=order.index)) for s in splits_of.values() if len(s) == 2)

        assert Counter(image.split for image in plan) == V8_SPLITS
        assert len(splits_of) == 1946
        assert pairs == V8_DOUBLED


@pytest.mark.parametrize("images", [3, 4, 7, 24, 120, 480])
def test_a_corpus_of_any_size_fills_all_three_splits(images: int) -> None:
    """A demo with an empty valid or test split could not be trained or evaluated."""
    plan = plan_images(images, seed=1)

    assert sum(plan_splits(images).values()) == images
    assert Counter(image.split for image in plan) == plan_splits(images)
    assert min(plan_splits(images).values()) >= 1


def test_ids_restart_at_zero_in_every_split(phantom: Phantom) -> None:
    """Roboflow's ids collide across splits, and annotation 0 exists: both are traps that ingestion must face."""
    for document in phantom.splits.values():
        assert [image["id"] for image in document["images"]] == list(range(len(document["images"])))
        assert [a["id"] for a in document["annotations"]] == list(range(len(document["annotations"])))
        assert [c["id"] for c in document["categories"]] == list(range(62))
        assert document["categories"][0] == {"id": 0, "name": "OPG-data", "supercategory": "none"}
        assert {c["supercategory"] for c in document["categories"][1:]} == {"OPG-data"}


def test_boxes_are_written_as_roboflow_writes_them(phantom: Phantom) -> None:
    """x and y are floored integers, w and h decimals, area is w·h, and polygons and [] are mixed in one file."""
    polygons: Counter[bool] = Counter()
    for annotation, image in phantom.annotations():
        x, y, w, h = annotation["bbox"]
        polygons[bool(annotation["segmentation"])] += 1

        assert isinstance(x, int) and isinstance(y, int) and x >= 0 and y >= 0
        assert w > 0 and h > 0
        assert annotation["area"] == pytest.approx(w * h, abs=1e-3)
        assert x + w < image["width"] + 0.5 and y + h < image["height"] + 0.5
        assert annotation["category_id"] in range(1, 62)
        for ring in annotation["segmentation"]:
            assert len(ring) >= 6 and len(ring) % 2 == 0
            assert max(ring[0::2]) <= image["width"] and max(ring[1::2]) <= image["height"]
    assert min(polygons[True], polygons[False]) > 0.1 * sum(polygons.values())


def test_every_listed_image_is_a_whole_jpeg_of_the_listed_size(phantom: Phantom) -> None:
    """The demo must ingest the corpus: none of the broken files of real exports are imitated."""
    for split, document in phantom.splits.items():
        files = {p.name for p in (phantom.folder / split).glob("*.jpg")}
        assert files == {image["file_name"] for image in document["images"]}
        for image in document["images"]:
            data = (phantom.folder / split / image["file_name"]).read_bytes()
            decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))

            assert data.endswith(b"\xff\xd9")
            assert decoded.shape == (image["height"], image["width"])


def test_file_names_carry_uid_like_numeric_and_dated_stems(phantom: Phantom) -> None:
    """Names are where v8's identifiers and its false same-source evidence sit; privacy and leakage read them."""
    stems = Counter()
    patients_of: dict[str, set[int]] = {}
    for entry in phantom.truth["files"]:
        match = re.fullmatch(r"(.+)_(png|jpg|jpeg)\.rf\.[0-9a-f]{32}\.jpg", entry["file_name"])
        assert match is not None
        stem = match[1]
        stems["numeric" if stem.isdigit() else "dated" if re.search(r"-20[12]\d{11}-", stem) else "uid"] += 1
        assert stem.isdigit() or re.fullmatch(r"2-999(-\d+){6,}", stem)
        patients_of.setdefault(stem, set()).add(entry["source"])

    assert min(stems["numeric"], stems["dated"], stems["uid"]) > 0
    assert any(len(patients) > 1 for stem, patients in patients_of.items() if stem.isdigit())
    assert all(len(patients) == 1 for stem, patients in patients_of.items() if not stem.isdigit())


def test_the_readme_says_that_the_corpus_is_synthetic(phantom: Phantom) -> None:
    """Ingestion recognises a phantom by this exact line, so that reports never present it as clinical."""
    text = (phantom.folder / "README.dataset.txt").read_text()

    assert PHANTOM_MARKER == "dentsight phantom corpus (synthetic, not clinical data)"
    assert PHANTOM_MARKER in text.splitlines()
    assert "not exported by Roboflow" in (phantom.folder / "README.roboflow.txt").read_text()


def test_the_two_images_of_a_source_show_the_same_pixels_with_different_labels(phantom: Phantom) -> None:
    """The doubled sources are a sample of annotator agreement, not mere duplicates; byte-equal files would be."""
    by_source: dict[int, list[dict[str, Any]]] = {}
    for entry in phantom.truth["files"]:
        by_source.setdefault(entry["source"], []).append(entry)
    pairs = [sorted(v, key=lambda e: e["copy"]) for v in by_source.values() if len(v) == 2]
    relabelled = invented = 0

    assert len(pairs) == phantom.summary.doubled_sources == round(_IMAGES * 267 / 2213)
    for first, second in pairs:
        paths = [phantom.folder / e["split"] / e["file_name"] for e in (first, second)]
        a, b = (np.asarray(cv2.imread(str(p), cv2.IMREAD_GRAYSCALE), float) for p in paths)
        relabelled += [x["true_name"] for x in first["labels"]] != [x["true_name"] for x in second["labels"]]
        invented += sum(x["true_name"] is None for x in second["labels"])
        assert first["file_name"].split(".rf.")[0] == second["file_name"].split(".rf.")[0]
        assert paths[0].read_bytes() != paths[1].read_bytes()
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98
    assert relabelled >= len(pairs) // 2
    assert invented > 0


def test_the_truth_names_the_tooth_and_the_true_name_of_every_labelled_condition(phantom: Phantom) -> None:
    """Whoever tests the join of findings and teeth, or the agreement, needs answers that nobody had to guess."""
    for entry in phantom.truth["files"]:
        document = phantom.splits[entry["split"]]
        image_id = next(i["id"] for i in document["images"] if i["file_name"] == entry["file_name"])
        written = {a["id"]: a for a in document["annotations"] if a["image_id"] == image_id}
        source = phantom.truth["sources"][str(entry["source"])]
        known = {(f["name"], f["fdi"]) for f in source["findings"]}
        for label in entry["labels"]:
            assert label["annotation_id"] in written
            assert label["true_name"] is None or (label["true_name"], label["fdi"]) in known
            if entry["annotator"] == "first":
                assert CATEGORY_NAMES[written[label["annotation_id"]]["category_id"]] == label["true_name"]


def test_images_without_annotations_are_healthy_and_partial_ones_have_conditions_without_teeth(
    phantom: Phantom,
) -> None:
    """Only a healthy mouth may stay empty: it is a true negative, which training and evaluation keep."""
    annotated = Counter(i["file_name"] for _, i in phantom.annotations())
    empty = [e for e in phantom.truth["files"] if not annotated[e["file_name"]]]

    healthy = [e for e in phantom.truth["files"] if phantom.truth["sources"][str(e["source"])]["healthy"]]

    assert len(empty) == phantom.summary.images_without_annotations > 0
    assert empty == healthy
    assert any(not e["teeth_annotated"] and e["labels"] for e in phantom.truth["files"])


def test_the_summary_counts_what_was_written(phantom: Phantom) -> None:
    """`dentsight phantom --json` prints the summary; scripts rely on it instead of counting again."""
    counts = Counter(CATEGORY_NAMES[a["category_id"]] for a, _ in phantom.annotations())

    assert phantom.summary.images == _IMAGES == sum(len(d["images"]) for d in phantom.splits.values())
    assert phantom.summary.annotations == sum(counts.values())
    assert dict(phantom.summary.class_counts) == {n: counts[n] for n in CATEGORY_NAMES if counts[n]}
    assert phantom.summary.splits["valid"]["annotations"] == len(phantom.splits["valid"]["annotations"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    """Everything downstream is named by digests of these bytes; a reused demo must find its own corpus again."""
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        write_phantom_export(tmp_path / name, 6, seed, 200)

    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert _bytes(tmp_path / "a") != _bytes(tmp_path / "c")


def test_a_patient_looks_the_same_however_many_are_drawn(tmp_path: Path) -> None:
    """Each patient has an own random stream, so a larger corpus extends a smaller one."""
    pictures: list[dict[int, bytes]] = []
    for images in (8, 20):
        folder = tmp_path / str(images)
        write_phantom_export(folder, images, 3, 200)
        files = json.loads((folder / TRUTH_FILE).read_text())["files"]
        pictures.append(
            {f["source"]: (folder / f["split"] / f["file_name"]).read_bytes() for f in files if not f["copy"]}
        )
    shared = set(pictures[0]) & set(pictures[1])

    assert len(shared) >= 7
    assert all(pictures[0][source] == pictures[1][source] for source in shared)


def test_progress_is_told_after_every_image(tmp_path: Path) -> None:
    """A person waits for minutes at v8's size."""
    seen: list[tuple[int, int]] = []

    write_phantom_export(tmp_path / "p", 5, 0, 200, lambda done, total: seen.append((done, total)))

    assert seen == [(i, 5) for i in range(1, 6)]


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Drawing over somebody's export would destroy it."""
    (tmp_path / "keep.txt").write_text("mine")

    with pytest.raises(ConfigurationError, match=r"is not empty; nothing was written\. Name a new folder"):
        write_phantom_export(tmp_path, 5, 0, 200)
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 2}, "2 images were asked for; a corpus needs at least 3"),
        ({"width": 10}, "A width of 10 px was asked for; it must lie between 160 and 4096"),
        ({"seed": -1}, "Seed -1 is negative"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    """One clear line instead of a traceback from deep inside OpenCV or numpy."""
    with pytest.raises(ConfigurationError, match=message):
        _write_with(tmp_path / "p", **{"images": 5, "seed": 0, "width": 200, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    """The user named a file by mistake; it stays."""
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ConfigurationError, match="is a file"):
        write_phantom_export(tmp_path / "file", 5, 0, 200)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """`mkdir out` before the command is no mistake."""
    (tmp_path / "out").mkdir()

    assert write_phantom_export(tmp_path / "out", 3, 0, 200).images == 3
    assert (tmp_path / "out" / TRUTH_FILE).is_file()


@contextmanager
def _file_size_limit(limit: int) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond a limit, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    """Half an export that looks like a whole one would be ingested."""
    with _file_size_limit(2_000), pytest.raises(StorageError, match="Nothing was left behind"):
        write_phantom_export(tmp_path / "out", 5, 0, 200)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C in the middle, then the same command again: it must just work."""

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt("stopped by the user")

    with pytest.raises(KeyboardInterrupt, match="stopped by the user"):
        write_phantom_export(tmp_path / "out", 5, 0, 200, interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_corpus_of_v8s_size_has_v8s_frequencies_and_defects(tmp_path: Path) -> None:
    """The traits that only numbers show: how often conditions, empty images, duplicates and edge boxes occur."""
    summary = write_phantom_export(tmp_path / "p", 2213, 1, 320)
    phantom = _read(tmp_path / "p", summary)
    boxes: list[tuple[Any, ...]] = []
    past_edge = tiny = 0
    for a, image in phantom.annotations():
        x, y, w, h = a["bbox"]
        boxes.append((image["file_name"], a["category_id"], x, y, w, h))
        past_edge += x + w > image["width"] or y + h > image["height"]
        tiny += min(w, h) < 2
    total = len(boxes)

    assert (summary.sources, summary.doubled_sources) == (1946, 267)
    assert summary.images_without_annotations == pytest.approx(2213 * UNANNOTATED_SHARE, rel=0.4)
    for name in V8_CONDITION_COUNTS:
        if rate(name) > 0.1:  # implants and buds come several to a mouth, so that their mean scatters more
            tolerance = 0.12 if rate(name) > 0.4 else 0.3
            assert summary.class_counts[name] / 2213 == pytest.approx(rate(name), rel=tolerance), name
    assert past_edge / total == pytest.approx(0.045, rel=0.2)
    assert 0.3 < (total - len(set(boxes))) / (total * 28 / 45_249) < 3
    assert tiny / total < 0.002
