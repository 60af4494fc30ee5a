"""The loss of transformers before 5.18 collapses the class head, the installed one does not; the rescue helps a little.

Trains the same toy detector (0.29 M parameters, 96×64 pixels, 12 classes) on both losses from the same seed, prints
what the four signals of head health say at each evaluation, and then AP before and after each rescue of the collapsed
model. The planted loss lives with the tests, outside the package.

    python benchmarks/head_collapse.py [--steps 300] [--layers 4]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests are not installed

from dentsight_pipeline.documents.health import Precision, Reading
from dentsight_pipeline.training.export import write_model_folder
from dentsight_pipeline.training.heads import average_precision, rescue, rescue_heads
from dentsight_pipeline_tests.training.planted_collapse import (
    TOY_CLASSES,
    TOY_PROCESSOR,
    ToyRun,
    plant,
    tiny_detector,
    toy_images,
    train_toy,
)


def main() -> None:
    """Train both, print both, rescue the collapsed one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--layers", type=int, default=4, help="decoder layers; D-FINE-L has 6")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    healthy = _train("installed loss", arguments, planted=False)
    collapsed = _train("planted pre-5.18 loss", arguments, planted=True)
    for name, run in (("installed loss", healthy), ("planted pre-5.18 loss", collapsed)):
        report = run.monitor.report()
        tripped = [rule.rule for rule in report.rules if rule.tripped]
        print(f"{name}: healthy = {report.healthy}, R = {report.ratio_last_to_first:.3f}, tripped: {tripped}")
    with tempfile.TemporaryDirectory() as folder:
        _rescue(healthy, collapsed, Path(folder))


def _train(name: str, arguments: argparse.Namespace, *, planted: bool) -> ToyRun:
    print(f"{name}\n  step      R   matched median   class accuracy   denoising share   tripped")

    def show(reading: Reading) -> None:
        tripped = [index for index, rule in enumerate(reading.rules, start=1) if rule.tripped]
        print(
            f"  {reading.step:4d}  {reading.ratio_last_to_first:5.3f}  {reading.matched_median_score:15.3f}"
            f"  {reading.matched_class_accuracy:15.3f}  {reading.training.denoising_share:16.3f}   {tripped}"
        )

    model = tiny_detector(arguments.seed, decoder_layers=arguments.layers)
    if planted:
        plant(model)
    every = max(1, arguments.steps // 6)
    return train_toy(
        model,
        steps=arguments.steps,
        evaluations=range(every, arguments.steps + 1, every),
        allow="the benchmark shows the collapse to its end",
        after_evaluation=show,
    )


def _rescue(healthy: ToyRun, collapsed: ToyRun, folder: Path) -> None:
    images, truths = toy_images(np.random.default_rng(77), 192)
    coco: dict[str, Any] = {"images": [], "annotations": []}
    coco["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(TOY_CLASSES)]
    for index, (image, (boxes, labels)) in enumerate(zip(images, truths, strict=True), start=1):
        cv2.imwrite(str(folder / f"{index}.png"), image)
        height, width = image.shape
        coco["images"].append({"id": index, "file_name": f"{index}.png", "width": width, "height": height})
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            record = {"id": len(coco["annotations"]) + 1, "image_id": index, "category_id": label + 1, "iscrowd": 0}
            coco["annotations"].append({**record, "bbox": box, "area": box[2] * box[3]})
    for name, run in (("healthy", healthy), ("collapsed", collapsed)):
        run.model.config.id2label = dict(enumerate(TOY_CLASSES))
        write_model_folder(folder / name, run.model, TOY_PROCESSOR)
    before = _show("collapsed, as it is", average_precision(folder / "collapsed", coco, folder), None)
    for head in rescue_heads(collapsed.model.config):
        report = rescue(folder / "collapsed", head, folder / f"head-{head}")
        _show(f"rescued: {report.method}", average_precision(folder / f"head-{head}", coco, folder), before)
    _show("healthy training instead", average_precision(folder / "healthy", coco, folder), before)


def _show(name: str, measured: Precision, before: float | None) -> float:
    ap50 = measured.ap50 or 0.0
    ratio = "" if not before else f"   {ap50 / before:.2f} × AP50 of the collapsed one"
    print(f"{name:50s} AP50 {ap50:.4f}   mean maximum score {measured.max_score:.3f}{ratio}")
    return ap50


if __name__ == "__main__":
    main()
