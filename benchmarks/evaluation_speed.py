"""What the evaluation costs, as ratios to a plain pycocotools run in the same process.

Claims:
1. the full evaluation (both engines, both populations, 1,000 resamples, all of Tier 2, files written) of 221 images ×
   300 detections takes at most 1.5× one plain pycocotools run (by kinds of X-rays, which the pipeline's own data have
   and COCO files do not, it takes more: printed beside it, without a limit);
2. the evaluation during training (443 images × 300) is at least 20× faster than plain pycocotools;
3. with --large: the full evaluation of 5,000 images with 1.5 million detections stays under 4 GB.

Times are CPU seconds of the process, so that other work on the machine does not count; the best of `--repeat` runs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dentsight_pipeline.evaluation.engines import coco_statistics
from dentsight_pipeline.evaluation.evaluate import coco_inputs, evaluate
from dentsight_pipeline.evaluation.folder import write_evaluation
from dentsight_pipeline.evaluation.subgroups import Traits

# Training counts of the 13 conditions in the corpus: some classes have thirty times as many boxes as others.
FREQUENCIES = np.array([3824, 2356, 1826, 1446, 1213, 1277, 1191, 892, 423, 225, 191, 3721, 110], float)
TRUE_BOXES_PER_IMAGE = 19


def synthetic(images: int, per_image: int = 300, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and `per_image` detections an image: jittered copies of the truth, some misnamed, and noise."""
    rng = np.random.default_rng(seed)
    share = FREQUENCIES / FREQUENCIES.sum()
    truth: dict[str, Any] = {"images": [], "annotations": []}
    truth["categories"] = [{"id": k + 1, "name": f"condition {k + 1}"} for k in range(len(share))]
    detections: list[dict[str, Any]] = []
    for i in range(1, images + 1):
        group = f"source {i - (i % 12 == 0)}"
        clean = bool(rng.random() < 0.8)
        truth["images"].append({"id": i, "width": 1662, "height": 1077, "source_group": group, "clean": clean})
        n = int(rng.poisson(TRUE_BOXES_PER_IMAGE))
        classes = rng.choice(len(share), n, p=share)
        corner, size = rng.uniform([0, 0], [1500, 950], (n, 2)), rng.lognormal(np.log(50), 0.6, (n, 2))
        for k, xy, wh in zip(classes, corner, size, strict=True):
            box = [*xy.tolist(), *wh.tolist()]
            record = {"id": len(truth["annotations"]) + 1, "image_id": i, "category_id": int(k) + 1, "bbox": box}
            truth["annotations"].append({**record, "area": box[2] * box[3], "iscrowd": 0})
        copies = min(per_image, 3 * n)
        source = rng.integers(0, n, copies) if n else np.zeros(0, int)
        named = np.where(rng.random(copies) < 0.85, classes[source], rng.choice(len(share), copies, p=share))
        xy = corner[source] + rng.normal(0, 0.12, (copies, 2)) * size[source]
        wh = size[source] * np.exp(rng.normal(0, 0.15, (copies, 2)))
        noise = per_image - copies
        stray = rng.uniform([0, 0], [1500, 950], (noise, 2)), rng.lognormal(np.log(50), 0.6, (noise, 2))
        boxes = np.concatenate([np.column_stack([xy, wh]), np.column_stack(stray)])
        scores = np.concatenate([rng.beta(2, 3, copies), rng.beta(1, 8, noise)])
        named = np.concatenate([named, rng.choice(len(share), noise, p=share)])
        detections += [
            {"image_id": i, "category_id": k + 1, "bbox": box, "score": score}
            for k, box, score in zip(named.tolist(), boxes.tolist(), scores.tolist(), strict=True)
        ]
    return truth, detections


def plain_pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]]) -> None:
    """The run that everyone knows: index, loadRes, evaluate, accumulate, summarize."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference: Any = COCO()
        reference.dataset = {**truth, "info": {}, "annotations": [dict(a) for a in truth["annotations"]]}
        reference.createIndex()
        results = reference.loadRes([dict(d) for d in detections])
        evaluator = COCOeval(reference, results, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()


def best_cpu_seconds(work: Callable[[], Any], repeat: int) -> float:
    """The least CPU time of several runs."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def full(truth: dict[str, Any], detections: list[dict[str, Any]], resamples: int, known: bool = False) -> None:
    """Everything, files included; with `known` also by kinds of X-rays, as the pipeline's own data has them."""
    mirrored = [{**d, "score": d["score"] * 0.97} for d in detections]
    given = coco_inputs(truth, detections, mirrored=mirrored, resamples=resamples)
    if known:
        rng, images = np.random.default_rng(0), len(truth["images"])
        given = replace(given, traits=Traits(*rng.random((2, images)), *rng.integers(-1, (33, 2), (images, 2)).T))
    with tempfile.TemporaryDirectory() as folder:
        write_evaluation(evaluate(given), Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--large", action="store_true", help="also 5,000 images with 1.5 million detections (minutes)")
    arguments = parser.parse_args()
    met = True

    if arguments.large:  # first, because the peak of memory is that of the process so far
        truth, detections = synthetic(5000)
        start = time.process_time()
        full(truth, detections, arguments.resamples)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "linux" else 1024**3)
        seconds = time.process_time() - start
        met &= peak < 4
        print(f"5,000 images, {len(detections):,} detections: peak {peak:.2f} GB (< 4), {seconds:.0f} CPU s")
        del truth, detections

    small = synthetic(8, seed=1)
    full(*small, resamples=10)  # imports
    truth, detections = synthetic(221)
    baseline = best_cpu_seconds(lambda: plain_pycocotools(truth, detections), arguments.repeat)
    whole = best_cpu_seconds(lambda: full(truth, detections, arguments.resamples), arguments.repeat)
    met &= whole <= 1.5 * baseline
    print(
        f"221 images, {len(detections):,} detections: plain pycocotools {baseline:.2f} s, full evaluation with "
        f"{arguments.resamples} resamples {whole:.2f} s = {whole / baseline:.2f}× (≤ 1.5×)"
    )
    known = best_cpu_seconds(lambda: full(truth, detections, arguments.resamples, known=True), arguments.repeat)
    print(f"by kinds of X-rays as well: {known:.2f} s = {known / baseline:.2f}×")
    truth, detections = synthetic(443)
    baseline = best_cpu_seconds(lambda: plain_pycocotools(truth, detections), arguments.repeat)
    epoch = best_cpu_seconds(lambda: coco_statistics(truth, detections), max(3, arguments.repeat))
    met &= baseline >= 20 * epoch
    print(
        f"443 images, {len(detections):,} detections: plain pycocotools {baseline:.2f} s, during training "
        f"{epoch:.3f} s = {baseline / epoch:.1f}× faster (≥ 20×)"
    )
    print("all claims hold" if met else "a claim does NOT hold")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
