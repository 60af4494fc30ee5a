"""The annotator-agreement table, with figures computed by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from dentsight_pipeline.data import leakage
from dentsight_pipeline.data.agreement import agreement_table, cohens_kappa, map_boxes, second_readings
from dentsight_pipeline.data.ontology import CLASSES, CONDITIONS
from dentsight_pipeline.documents.annotations import coco_categories
from dentsight_pipeline.documents.dataset import AgreementRow
from dentsight_pipeline_tests.data.coco import from_coco

Labels = Sequence[tuple[str, list[float]]]


class Corpus:
    """Images with labels, and their fingerprints."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.fingerprints: dict[str, str] = {}

    def add(
        self,
        group: str,
        labels: Labels,
        *,
        picture: int = 0,
        flip: int | None = None,
        size: tuple[int, int] = (200, 100),
        classes: Sequence[str] = CONDITIONS,
        covered: Sequence[str] | None = None,
    ) -> None:
        """Add an image of a source; `flip` is OpenCV's code (1 = hflip, 0 = vflip, -1 = both)."""
        number = len(self.images) + 1
        noise = np.random.default_rng(picture).standard_normal((16, 32)).astype(np.float32)
        gray = cv2.resize((noise * 40 + 128).clip(0, 255).astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
        gray = gray if flip is None else cv2.flip(gray, flip)
        digest = hashlib.sha256(f"{number:03}".encode()).hexdigest()
        self.fingerprints[digest] = leakage.fingerprint(gray.astype(np.uint8)).to_json()
        image = {"id": number, "file_name": f"images/{digest}.jpg", "sha256": digest, "source_group": group}
        looked_for = classes if covered is None else covered
        image["covered"] = sorted(list(classes).index(name) + 1 for name in looked_for)
        self.images.append({**image, "width": size[0], "height": size[1]})
        self.annotations += [
            {
                "id": len(self.annotations) + k,
                "image_id": number,
                "category_id": list(classes).index(name) + 1,
                "bbox": box,
            }
            for k, (name, box) in enumerate(labels, start=1)
        ]

    def table(self, classes: Sequence[str] = CONDITIONS) -> dict[str, AgreementRow]:
        """The table's rows by class."""
        coco = {"images": self.images, "annotations": self.annotations, "categories": coco_categories(classes)}
        splits = [from_coco("train", coco)]
        found = second_readings(splits, self.fingerprints)
        return {row.name: row for row in agreement_table(splits, classes, found)}


def test_counts_f1_and_kappa_are_those_computed_by_hand() -> None:
    """Three twice-read X-rays: both see caries; one of two boxes agrees; only one reader sees a crown."""
    corpus = Corpus()
    corpus.add("s1", [("caries", [10, 10, 20, 20]), ("caries", [100, 10, 20, 20])])
    corpus.add("s1", [("caries", [12, 10, 20, 20])])
    corpus.add("s2", [("caries", [50, 50, 10, 10])], picture=1)
    corpus.add("s2", [("crown", [50, 50, 10, 10])], picture=1)
    corpus.add("s3", [("impacted", [50, 50, 10, 10])], picture=2)
    corpus.add("s3", [("impacted", [50, 56, 10, 10])], picture=2)

    table = corpus.table()

    caries = table["caries"]
    assert (caries.n_pairs, caries.matched, caries.boxes_a + caries.boxes_b) == (3, 1, 4)
    assert caries.f1 == pytest.approx(2 * 1 / 4)
    assert (caries.present_in_both, caries.absent_in_both) == (1, 1)
    assert caries.present_in_a + caries.present_in_b == 1
    # observed 2/3; one reader 2 of 3, the other 1 of 3: expected 2/9 + 2/9 = 4/9; (2/3 - 4/9) / (5/9) = 0.4
    assert caries.kappa == pytest.approx(0.4)
    assert table["impacted"].f1 == 0.0  # IoU 0.25: present for both, in two places
    assert table["impacted"].kappa == pytest.approx(1.0)
    assert table["bridge"].f1 is None
    assert table["bridge"].kappa is None


@pytest.mark.parametrize(
    ("flip", "box"),
    [(None, [10, 20, 30, 15]), (1, [160, 20, 30, 15]), (0, [10, 65, 30, 15]), (-1, [160, 65, 30, 15])],
)
def test_boxes_are_compared_in_the_frame_of_the_picture(flip: int | None, box: list[float]) -> None:
    """The same finding on a flipped copy has other coordinates; without alignment all flips would disagree."""
    corpus = Corpus()
    corpus.add("s", [("caries", [10, 20, 30, 15]), ("crown", [90, 40, 20, 20])])
    corpus.add("s", [("caries", box)], flip=flip)

    assert corpus.table()["caries"].matched == 1


def test_a_resized_copy_is_compared_in_relative_places() -> None:
    """Roboflow resizes versions; 400 px of one are 200 px of the other."""
    corpus = Corpus()
    corpus.add("s", [("caries", [10, 20, 30, 15]), ("crown", [90, 40, 20, 20])])
    corpus.add("s", [("caries", [20, 60, 60, 45])], size=(400, 300))

    assert corpus.table()["caries"].matched == 1


@pytest.mark.parametrize("off_px", [0.0, 2.5])
def test_a_flipped_copy_with_its_own_labels_is_no_second_reading(off_px: float) -> None:
    """Roboflow's augmentation carries labels along; counted, it would show annotators who never disagree.

    Its floored coordinates put a flipped box up to 2.5 px off, which for a small box is far from an IoU of 1.
    """
    corpus = Corpus()
    corpus.add("s", [("caries", [10, 20, 30, 15])])
    corpus.add("s", [("caries", [160 - off_px, 20, 30, 15])], flip=1)

    row = corpus.table()["caries"]

    assert row.n_pairs == 0
    assert row.pairs_left_out_as_copies == 1


def test_a_pair_that_shares_a_name_but_no_picture_is_left_out_and_counted() -> None:
    """Its boxes cannot be brought into one frame."""
    corpus = Corpus()
    corpus.add("s", [("caries", [10, 20, 30, 15])])
    corpus.add("s", [("caries", [10, 20, 30, 15])], picture=5)

    row = corpus.table()["caries"]

    assert row.n_pairs == 0
    assert row.pairs_left_out_as_unaligned == 1


def test_an_image_without_any_label_was_not_read_a_second_time() -> None:
    """It may be unannotated: counting it as "nothing found" would halve every agreement."""
    corpus = Corpus()
    corpus.add("s", [("caries", [10, 20, 30, 15])])
    corpus.add("s", [])

    assert corpus.table()["caries"].n_pairs == 0


def test_a_partial_annotation_says_nothing_about_teeth() -> None:
    """Conditions without tooth boxes are no denial of 32 teeth."""
    corpus = Corpus()
    corpus.add("s", [("11", [10, 10, 10, 30]), ("caries", [10, 20, 8, 8])], classes=CLASSES)
    corpus.add("s", [("caries", [10, 20, 8, 12])], classes=CLASSES)

    table = corpus.table(CLASSES)

    assert table["11"].n_pairs == 0
    assert table["caries"].matched == 1


def test_boxes_are_assigned_so_that_the_most_agree() -> None:
    """Taking each box's first match would let one box block two."""
    corpus = Corpus()
    corpus.add("s", [("caries", [8, 0, 30, 10]), ("caries", [0, 0, 30, 10])])
    corpus.add("s", [("caries", [7, 0, 30, 10]), ("caries", [17, 0, 30, 10])])

    assert corpus.table()["caries"].matched == 2


def test_one_box_matches_one_box_only() -> None:
    """Two boxes of one reader around a single box of the other are one agreement and one finding more."""
    corpus = Corpus()
    corpus.add("s", [("caries", [0, 0, 30, 10]), ("caries", [4, 0, 30, 10])])
    corpus.add("s", [("caries", [2, 0, 30, 10])])

    row = corpus.table()["caries"]

    assert (row.matched, row.f1) == (1, pytest.approx(2 / 3))


def test_every_flip_undoes_itself() -> None:
    """The pair's transform is used in both directions."""
    boxes = np.array([[10.0, 20.0, 30.0, 15.0], [0.0, 0.0, 200.0, 100.0]])

    for transform in leakage.TRANSFORMS:
        there = map_boxes(boxes, (200, 100), (400, 300), transform)
        assert map_boxes(there, (400, 300), (200, 100), transform) == pytest.approx(boxes)


def test_kappa_agrees_with_its_textbook_example() -> None:
    """Two readers of 50 grant applications: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no give 0.4."""
    assert cohens_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert cohens_kappa(np.zeros((2, 2), dtype=np.int64)) is None
    assert cohens_kappa(np.array([[7, 0], [0, 0]])) is None


def test_a_pair_counts_for_the_classes_that_both_annotators_looked_for() -> None:
    """A set without crowns beside one with: the missing crown is no disagreement, the missing caries is one."""
    corpus = Corpus()
    corpus.add("s1", [("caries", [10, 10, 20, 20]), ("crown", [50, 50, 10, 10])])
    corpus.add("s1", [("caries", [16, 10, 20, 20])], covered=("caries", "impacted"))

    table = corpus.table()

    assert (table["crown"].n_pairs, table["caries"].n_pairs, table["impacted"].absent_in_both) == (0, 1, 1)


def test_the_same_boxes_of_what_both_looked_for_are_a_copy() -> None:
    """One set took the other's caries over and added crowns: two people did not draw these caries."""
    corpus = Corpus()
    corpus.add("s1", [("caries", [10, 10, 20, 20]), ("crown", [50, 50, 10, 10])])
    corpus.add("s1", [("caries", [11, 10, 20, 20])], covered=("caries",))

    caries = corpus.table()["caries"]

    assert (caries.n_pairs, caries.pairs_left_out_as_copies) == (0, 1)


def test_a_reading_that_found_nothing_of_what_both_looked_for_counts() -> None:
    """One looked for crowns alone and marked one; the other marked caries there and no crown: they disagree."""
    corpus = Corpus()
    corpus.add("s1", [("caries", [10, 10, 20, 20])])
    corpus.add("s1", [("crown", [50, 50, 10, 10])], covered=("crown",))

    table = corpus.table()

    assert (table["crown"].n_pairs, table["crown"].matched, table["crown"].f1) == (1, 0, 0)
    assert table["crown"].present_in_a + table["crown"].present_in_b == 1
    assert (table["caries"].n_pairs, table["caries"].pairs_left_out_as_copies) == (0, 0)


def test_two_that_looked_for_nothing_in_common_are_no_pair() -> None:
    """A set of caries and a set of crowns share 300 X-rays: they agree on nothing and disagree on nothing."""
    corpus = Corpus()
    corpus.add("s1", [("caries", [10, 10, 20, 20])], covered=("caries",))
    corpus.add("s1", [("crown", [50, 50, 10, 10])], covered=("crown",))

    row = corpus.table()["caries"]

    assert (row.n_pairs, row.pairs_left_out_as_copies, row.pairs_left_out_as_unaligned) == (0, 0, 0)
