"""Other detectors in our arenas: same images, canvas and CPU seconds, random weights, scored by our evaluation.

    python benchmarks/peers.py data --out DIR [--export DIR]            # the arena's splits as a YOLO data set
    PEER/bin/python benchmarks/peers.py train --out DIR --model yolo11n.yaml --epochs 1     # prints its CPU seconds
    PEER/bin/python benchmarks/peers.py train --out DIR --model yolo11n.yaml --epochs N     # N from the line before
    PEER/bin/python benchmarks/peers.py train --out DIR --model libreyolo9t --epochs N      # LibreYOLO's YOLOv9-t
    python benchmarks/peers.py score --out DIR --ours CHECKPOINT…                           # table, paired differences

PEER is an environment of its own with `ultralytics` (AGPL: never a dependency of this project), torchvision, which it
does not start without, and `libreyolo` (MIT). `train` imports nothing of this project; set OMP_NUM_THREADS=1 for it.
`--side 256` shows a square X-ray as large as our canvas of 448×256 does, without its padding.

Defaults that are for long trainings are changed in the peer's favour. Both: warming up takes a sixth of the training
instead of three epochs. Ultralytics: each batch is a step (theirs add up 64 images: 14 steps an epoch here). LibreYOLO:
labels are padded to the number of the fullest training image, not to 300 (same loss, a third of a step saved); no
validation, which would choose nothing; doubles are suppressed from an overlap of 0.65 as in its validation, not 0.45.
Mosaic is off in both: by `rect` in Ultralytics, in LibreYOLO by its own rule that the last 15 epochs go without.
LibreYOLO trains on one canvas, sides in multiples of 32: 256×256 and 448×256 in our arenas. Its SGD at 0.01 is kept;
`--adamw 6e-4` gives it what Ultralytics chooses by itself for trainings as short as these.

What else writes `DIR/peers/NAME.json`, with COCO results on test and the store's `image_id` as `found`, is scored as
well (RF-DETR). Each is scored as it answers, and with doubles suppressed as ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests are not installed

BATCH = 4
LEAST_SCORE = 0.001  # of what is written down
MOST = 300  # detections of an image
STRIDE = 32  # LibreYOLO's canvas is a multiple of it
Answer = Callable[[Path], Any]  # a trained peer's result for an image file, boxes in its pixels
Peer = Callable[[], Answer]  # trains when called


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


def ultralytics(given: argparse.Namespace) -> Peer:
    """One of Ultralytics' models from random weights."""
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports] # in the peer's environment alone

    def fit() -> Answer:
        model = YOLO(given.model)
        model.train(
            data=str(given.out / "yolo" / "data.yaml"), epochs=given.epochs, imgsz=given.side, batch=BATCH, nbs=BATCH,
            rect=True, pretrained=False, device="cpu", workers=0, seed=given.seed, project=str(given.out / "peers"),
            plots=False, warmup_epochs=min(3.0, given.epochs / 6),
        )  # fmt: skip
        return lambda path: model.predict(
            path, imgsz=given.side, conf=LEAST_SCORE, max_det=MOST, device="cpu", verbose=False
        )[0]

    return fit


def libreyolo(given: argparse.Namespace) -> Peer:
    """LibreYOLO's YOLOv9 of the size that the name ends in, from random weights."""
    import torch
    from libreyolo import LibreYOLO9  # pyright: ignore[reportMissingImports] # in the peer's environment alone
    from libreyolo.data import load_data_config  # pyright: ignore[reportMissingImports]
    from PIL import Image

    data, shown = str(given.out / "yolo" / "data.yaml"), given.out / "yolo" / "train"
    classes = len(load_data_config(data)["names"])
    most_labels = max(len(file.read_text().splitlines()) for file in (shown / "labels").iterdir())
    width, height = Image.open(min((shown / "images").iterdir())).size
    canvas = [round(given.side * side / max(width, height) / STRIDE) * STRIDE for side in (height, width)]

    def fit() -> Answer:
        torch.manual_seed(given.seed)  # `train` seeds too, but the weights are drawn before
        model = LibreYOLO9(None, size=given.model[-1], nb_classes=classes, device="cpu")
        model.train(
            data=data, epochs=given.epochs, imgsz=canvas, batch=BATCH, device="cpu", workers=0, seed=given.seed,
            project=str(given.out / "peers"), val=False, warmup_epochs=min(3.0, given.epochs / 6),
            max_labels=most_labels, **({"optimizer": "adamw", "lr0": given.adamw} if given.adamw else {}),
        )  # fmt: skip
        return partial(model.predict, imgsz=canvas, conf=LEAST_SCORE, iou=0.65, max_det=MOST)

    return fit


def train(given: argparse.Namespace) -> None:
    """A peer from random weights; its detections on test, and the CPU seconds of its training."""
    fit = (libreyolo if given.model.startswith("libreyolo9") else ultralytics)(given)
    began = time.process_time()
    answer = fit()
    told = {"epochs": given.epochs, "side": given.side, "seed": given.seed, "cpu_s": time.process_time() - began}
    told |= {"adamw": given.adamw} if given.adamw else {}
    print(json.dumps({"model": given.model, **told}), flush=True)
    found: list[dict[str, Any]] = []
    for path in sorted((given.out / "yolo" / "test" / "images").iterdir()):
        boxes = answer(path).boxes
        for (x1, y1, x2, y2), score, label in zip(
            boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True
        ):
            record = {"image_id": int(path.stem), "category_id": int(label) + 1, "score": score}
            found.append({**record, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    name = f"{Path(given.model).stem}{'-adamw' if given.adamw else ''}-{given.side}-{given.epochs}-{given.seed}"
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
    parser.add_argument("--model", default="yolo11n.yaml", help="yolo11n.yaml, yolo26n.yaml or libreyolo9t")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--side", type=int, default=448, help="the longer side of an image, as the peer sees it")
    parser.add_argument("--adamw", type=float, help="libreyolo9t: rate of AdamW, instead of SGD at 0.01")
    parser.add_argument("--ours", nargs="+", help="checkpoints in DIR/store, trained by learning.py arena --out DIR")
    given = parser.parse_args()
    {"data": write_data, "train": train, "score": score}[given.step](given)


if __name__ == "__main__":
    main()
