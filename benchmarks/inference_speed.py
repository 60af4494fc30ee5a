"""One-image inference is at least as fast as transformers' `pipeline("object-detection")`, measured in the same run.

Both start from the same image file on disk and end with scored boxes in image pixels; the model, the canvas and the
number of threads are the same. Ours reads one channel and letterboxes with OpenCV; the pipeline reads RGB with Pillow
and resizes with its own processor (and, not counted here, scales boxes by the unpadded image, which is wrong for every
letterboxed one). The two take turns, and medians are compared.

    python benchmarks/inference_speed.py [--recipe smoke] [--width 1662 --height 1077] [--repeats 30]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from dentsight_pipeline.data.ontology import CONDITIONS
from dentsight_pipeline.training import export, letterbox, recipe
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.detector import load_detector
from dentsight_pipeline.training.heads import phantom_xrays


def main() -> None:
    """Measure and print the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="smoke")
    parser.add_argument("--architecture", help="another D-FINE size than the recipe's, with random weights")
    parser.add_argument("--width", type=int, default=1662)
    parser.add_argument("--height", type=int, default=1077)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    chosen = recipe.named(arguments.recipe).override({"weights": None, "freeze_batch_norm": "none"})
    if arguments.architecture:
        chosen = chosen.override({"architecture": arguments.architecture})
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = export.save_pretrained_folder(
            models.build(chosen, CONDITIONS), chosen, CONDITIONS, Path(folder) / "model"
        )
        xray = cv2.resize(phantom_xrays(1, 0)[0], (arguments.width, arguments.height))
        path = str(Path(folder) / "xray.jpg")
        cv2.imwrite(path, xray)
        ours, theirs = _ours(model, path, arguments.device), _pipeline(model, path, arguments.device)
        times: dict[str, list[float]] = {"dentsight": [], "pipeline": []}
        for repeat in range(arguments.repeats + 3):  # the first three warm up
            for name, predict in (("dentsight", ours), ("pipeline", theirs)):
                began = time.perf_counter()
                predict()
                if repeat >= 3:
                    times[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(
            f"{chosen.architecture} at {chosen.image_width}×{chosen.image_height} from a {arguments.width}×"
            f"{arguments.height} JPEG, {arguments.threads} thread(s), {arguments.device}, {arguments.repeats} repeats"
        )
        for name, median in medians.items():
            spread = np.quantile(times[name], [0.1, 0.9]) * 1000
            print(f"  {name:10s} {median * 1000:8.1f} ms median (10–90 %: {spread[0]:.1f}–{spread[1]:.1f})")
        print(f"  speed over pipeline: {medians['pipeline'] / medians['dentsight']:.2f} × (claim: at least 1)")


def _ours(model: Path, image: str, device: str) -> Callable[[], object]:
    detector = load_detector(model, device)
    return lambda: detector.detect([letterbox.read_grayscale(image)])


def _pipeline(model: Path, image: str, device: str) -> Callable[[], object]:
    from transformers import AutoImageProcessor, pipeline

    processor = AutoImageProcessor.from_pretrained(model)
    detect = pipeline("object-detection", model=str(model), image_processor=processor, device=device)
    return lambda: detect(image, threshold=0.0)


if __name__ == "__main__":
    main()
