"""Other detectors in our arenas: same images, canvas and CPU seconds, random weights, scored by our evaluation.

    python benchmarks/peers.py data --out DIR [--export DIR]            # the arena's splits as a YOLO data set
    PEER/bin/python benchmarks/peers.py train --out DIR --model yolo11n.yaml --epochs 1     # prints its CPU seconds
    PEER/bin/python benchmarks/peers.py train --out DIR --model yolo11n.yaml --epochs N     # N from the line before
    python benchmarks/peers.py score --out DIR --ours CHECKPOINT…                           # table, paired differences

PEER is an environment of its own with `ultralytics` (AGPL: never a dependency of this project) and torchvision, which
it does not start without. `train` imports nothing of this project. Two of their defaults are for long trainings and are
changed in their favour: warming up takes a sixth of the training instead of three epochs, and each batch is a step
(theirs add up 64 images: 14 steps an epoch here). `--side 256` shows a square X-ray as large as our canvas of 448×256
does, without its padding. What else writes `DIR/peers/NAME.json`, with COCO results on test and the store's `image_id`
as `found`, is scored as well (RF-DETR, LibreYOLO). Each is scored as it answers, and with doubles suppressed as ours.
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

BATCH = 4


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
        data=str(given.out / "yolo" / "data.yaml"), epochs=given.epochs, imgsz=given.side, batch=BATCH, nbs=BATCH,
        rect=True, pretrained=False, device="cpu", workers=0, seed=given.seed, project=str(given.out / "peers"),
        plots=False, warmup_epochs=min(3.0, given.epochs / 6),
    )  # fmt: skip
    told = {"epochs": given.epochs, "side": given.side, "seed": given.seed, "cpu_s": time.process_time() - began}
    print(json.dumps({"model": given.model, **told}), flush=True)
    found: list[dict[str, Any]] = []
    for path in sorted((given.out / "yolo" / "test" / "images").iterdir()):
        boxes = model.predict(path, imgsz=given.side, conf=0.001, max_det=300, device="cpu", verbose=False)[0].boxes
        for (x1, y1, x2, y2), score, label in zip(
            boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True
        ):
            record = {"image_id": int(path.stem), "category_id": int(label) + 1, "score": score}
            found.append({**record, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    name = f"{Path(given.model).stem}-{given.side}-{given.epochs}-{given.seed}"
    (given.out / "peers" / f"{name}.json").write_text(json.dumps({**told, "found": found}))


def score(given: argparse.Namespace) -> None:
    """Each of ours and every peer's figures on test, and ours minus theirs on the same resamples."""
    from benchmarks import arena
    from dentsight_pipeline.data.splits import read_split
    from dentsight_pipeline.evaluation.columns import ground_truth_of
    from dentsight_pipeline.evaluation.validation import read_detections
    from dentsight_pipeline.store.objects import open_store

    store = open_store(given.out / "store")
    subset = store.get_manifest((given.out / "subset").read_text())
    truth = ground_truth_of(read_split(store, subset, "test"))
    ours = {one: arena.found_by(given.out, store, subset, one, truth) for one in given.ours}
    for checkpoint, found in ours.items():
        print(json.dumps({"ours": checkpoint, **arena.scores(truth, found)}), flush=True)
    for file in sorted((given.out / "peers").glob("*.json")):
        told = json.loads(file.read_text())
        theirs = read_detections(told.pop("found"), truth, source=file.name)
        for doubles, own in (("as it is", theirs), ("suppressed", arena.without_doubles(theirs))):
            minus = {one[:12]: arena.difference(truth, found, own)["macro"] for one, found in ours.items()}
            figures = {**told, "doubles": doubles, **arena.scores(truth, own), "ours_minus_theirs": minus}
            print(json.dumps({"model": file.stem, **figures}), flush=True)


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
    parser.add_argument("--side", type=int, default=448, help="the longer side of an image, as the peer sees it")
    parser.add_argument("--ours", nargs="+", help="checkpoints in DIR/store, trained by learning.py arena --out DIR")
    given = parser.parse_args()
    {"data": write_data, "train": train, "score": score}[given.step](given)


if __name__ == "__main__":
    main()
