"""Pictures with boxes: the right images, the boxes where they are, a colour for each class."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dentsight_pipeline.data.preview import draw_boxes, richest_images
from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline.documents.annotations import coco_categories
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.store.objects import open_store
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.data.export_builder import picture, png
from dentsight_pipeline_tests.training.conftest import make_subset


def _pixels(picture: bytes) -> NDArray[np.float64]:
    """[height, width, 3] of a JPEG."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(float)


def _coloured(picture: bytes) -> NDArray[np.bool_]:
    """[height, width] Which pixels of a JPEG are not gray."""
    image = _pixels(picture)
    return image.max(axis=2) - image.min(axis=2) > 60


def test_a_box_is_drawn_where_it_is_in_the_smaller_picture() -> None:
    """A dark X-ray of 1,440 px, drawn at 720: a box at 400 px stands at 200."""
    _, xray = cv2.imencode(".png", np.zeros((800, 1440), np.uint8))

    picture = _coloured(draw_boxes(xray.tobytes(), [("caries", [400, 200, 300, 240])]))

    assert picture.shape == (400, 720)
    rows, columns = np.flatnonzero(picture[:, 200:352].any(axis=1)), np.flatnonzero(picture[104:].any(axis=0))
    assert rows.max() == pytest.approx(220, abs=2)
    assert (columns.min(), columns.max()) == (pytest.approx(200, abs=2), pytest.approx(350, abs=2))
    assert not picture[110:210, 210:340].any(), "the finding itself stays to be seen"


def test_classes_have_colours_of_their_own() -> None:
    """Two findings side by side must be told apart without reading."""
    _, xray = cv2.imencode(".png", np.zeros((400, 720), np.uint8))

    def colour(name: str) -> NDArray[np.float64]:
        picture = draw_boxes(xray.tobytes(), [(name, [100, 100, 200, 200])], quality=100)
        return _pixels(picture)[_coloured(picture)].mean(axis=0)

    found = [colour(name) for name in ("caries", "calculus", "crown", "bridge")]

    assert min(float(np.abs(a - b).max()) for i, a in enumerate(found) for b in found[:i]) > 15


def test_the_images_with_the_most_boxes_are_shown(tmp_path: Path) -> None:
    """An empty image would show nobody whether boxes lie right."""

    def one_box_each_but_the_last(_: str, coco: dict) -> None:
        last, seen = coco["images"][-1]["id"], set()
        for box in list(coco["annotations"]):
            if box["image_id"] != last and box["image_id"] in seen:
                coco["annotations"].remove(box)
            seen.add(box["image_id"])

    store = open_store(tmp_path)
    split = read_split(store, make_subset(store, {"train": 4}, change=one_box_each_but_the_last), "train")
    richest = int(np.argmax(np.diff(split.offsets)))
    own = slice(split.offsets[richest], split.offsets[richest + 1])
    boxes = zip((split.classes[k - 1] for k in split.category_ids[own]), split.boxes_xywh_px[own].tolist(), strict=True)

    shown = richest_images(store, split, 2)

    assert len(shown) == 2
    assert shown[0] == draw_boxes(store.get_bytes(split.images["sha256"][richest].as_py()), boxes)


def test_each_picture_has_its_own_boxes(tmp_path: Path) -> None:
    """The first of equals first, and of every image all of its boxes and no other's."""
    store, boxes = (
        open_store(tmp_path),
        {1: [[5, 5, 9, 9]], 2: [[9, 9, 20, 9], [30, 9, 9, 30]], 3: [[1, 1, 9, 9], [40, 20, 9, 9]]},
    )
    digests = {number: store.put_bytes(png(picture(number))) for number in boxes}
    split = from_coco(
        "train",
        {
            "images": [{"id": n, "file_name": "", "sha256": digests[n], "width": 64, "height": 48} for n in boxes],
            "annotations": [
                {"id": 10 * n + k, "image_id": n, "category_id": k + 1, "bbox": box}
                for n, own in boxes.items()
                for k, box in enumerate(own)
            ],
            "categories": coco_categories(("caries", "crown")),
        },
    )

    expected = [draw_boxes(png(picture(n)), zip(("caries", "crown"), boxes[n], strict=False)) for n in (2, 3, 1)]
    assert richest_images(store, split, 9) == expected
    assert richest_images(store, split, 1) == expected[:1]


def test_bytes_that_are_no_image_are_refused() -> None:
    """With what to do."""
    with pytest.raises(DataError, match="Ingest the export again"):
        draw_boxes(b"no image", [])
