"""Other detectors in our arenas: same images, canvas and CPU seconds, random weights, scored by our evaluation.

    python benchmarks/peers.py data --out DIR [--export DIR]            # the arena's splits as a YOLO data set
    PEER/bin/python benchmarks/peers.py train --out DIR --model yolo11n.yaml --epochs 1     # prints its CPU seconds
    PEER/bin/python benchmarks/peers.py train --out DIR --model yolo11n.yaml --epochs N     # N from the line before
    python benchmarks/peers.py score --out DIR [--export DIR] --ours CHECKPOINT             # table, paired differences

PEER is an environment of its own with `ultralytics` (AGPL: never a dependency of this project) and torchvision, which
it does not start without. `train` imports nothing of this project. Warming up takes three epochs of theirs: a sixth of
the training here, where it is short. What else writes `DIR/NAME.json`, COCO results on
test with `image_id` of the store, is scored as well (RF-DETR, LibreYOLO).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests are not installed

IMAGE_SIDE = 448
"""The longer side of the arena's canvas."""


def write_data(given: argparse.Namespace) -> None:
    """Images by split under their id, label files of YOLO, and `data.yaml`."""
    from benchmarks import arena
    from dentsight_pipeline.data.splits import read_split
    from dentsight_pipeline.store.objects import open_store

    store = open_store(given.out / "store")
    subset = arena.real(store, given.export, None) if given.export else arena.phantoms(store, given.images)
    (given.out / "subset").write_text(subset.digest)
    for name in ("train", "valid", "test"):
        split = read_split(store, subset, name)
        folder = given.out / "yolo" / name
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        drawn = np.random.default_rng(1).permutation(len(split.images))
        for row, image in enumerate(split.images.to_pylist()):
            # `rect` reads files in the order of their names: versions of one source must not be neighbours in training
            stem = f"{drawn[row]:06d}-{image['id']}" if name == "train" else image["id"]
            suffix = Path(image["file_name"]).suffix
            content = store.local_path(subset.entry(image["file_name"]).sha256).read_bytes()
            (folder / "images" / f"{stem}{suffix}").write_bytes(content)
            own = slice(split.offsets[row], split.offsets[row + 1])
            x, y, w, h = (split.boxes_xywh_px[own] / ([image["width"], image["height"]] * 2)).T
            lines = zip(split.category_ids[own] - 1, x + w / 2, y + h / 2, w, h, strict=True)
            text = "\n".join(" ".join(f"{value:.9g}" for value in line) for line in lines)
            (folder / "labels" / f"{stem}.txt").write_text(text)
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(split.classes))
    paths = f"path: {given.out.resolve() / 'yolo'}\ntrain: train/images\nval: valid/images\ntest: test/images\n"
    (given.out / "yolo" / "data.yaml").write_text(f"{paths}names:\n{names}\n")


def train(given: argparse.Namespace) -> None:
    """One of Ultralytics' models from random weights; its detections on test, and the CPU seconds of its training."""
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports] # in the peer's environment alone

    began = time.process_time()
    model = YOLO(given.model)
    model.train(
        data=str(given.out / "yolo" / "data.yaml"), epochs=given.epochs, imgsz=IMAGE_SIDE, batch=4, rect=True,
        pretrained=False, device="cpu", workers=0, seed=given.seed, project=str(given.out), plots=False,
        warmup_epochs=min(3.0, given.epochs / 6),
    )  # fmt: skip
    print(json.dumps({"model": given.model, "epochs": given.epochs, "cpu_s": time.process_time() - began}), flush=True)
    found: list[dict[str, Any]] = []
    for path in sorted((given.out / "yolo" / "test" / "images").iterdir()):
        boxes = model.predict(path, imgsz=IMAGE_SIDE, conf=0.001, max_det=300, device="cpu", verbose=False)[0].boxes
        for (x1, y1, x2, y2), score, label in zip(
            boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True
        ):
            record = {"image_id": int(path.stem), "category_id": int(label) + 1, "score": score}
            found.append({**record, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    (given.out / f"{Path(given.model).stem}.json").write_text(json.dumps(found))


def score(given: argparse.Namespace) -> None:
    """Ours and every peer's figures on test, and ours minus theirs on the same resamples."""
    from benchmarks import arena
    from dentsight_pipeline.data.splits import read_split
    from dentsight_pipeline.evaluation.columns import ground_truth_of
    from dentsight_pipeline.evaluation.validation import read_detections
    from dentsight_pipeline.store.objects import open_store

    store = open_store(given.out / "store")
    subset = store.get_manifest((given.out / "subset").read_text())
    truth = ground_truth_of(read_split(store, subset, "test"))
    ours = arena.found_by(given.out, store, subset, given.ours, truth)
    print(json.dumps({"model": "ours", **arena.scores(truth, ours)}))
    for file in sorted(given.out.glob("*.json")):
        theirs = read_detections(json.loads(file.read_text()), truth, source=file.name)
        difference = arena.difference(truth, ours, theirs)["macro"]
        print(json.dumps({"model": file.stem, **arena.scores(truth, theirs), "ours_minus_theirs": difference}))


def main() -> None:
    """Runs one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["data", "train", "score"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path, help="a Roboflow export: the real arena; without, the phantom one")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--model", default="yolo11n.yaml", help="yolo11n.yaml or yolo26n.yaml")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--ours", help="digest of our checkpoint in DIR/store, trained by learning.py arena --out DIR")
    given = parser.parse_args()
    {"data": write_data, "train": train, "score": score}[given.step](given)


if __name__ == "__main__":
    main()
