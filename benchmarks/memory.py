"""Claim: memory is flat through every step: with 50,000 small images of 28 boxes each none peaks over 700 MB.

Writes a COCO export of drawn pictures and runs each step in a process of its own, on what the steps before stored; its
peak is what the kernel says of that process (`ru_maxrss`, interpreter and libraries included). `growth` is what one
more image costs between two sizes, given both.

    python benchmarks/memory.py [--images 50000] [--also 5000] [--folder DIR]   # some minutes
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

LIMIT_MB = 700
BOXES = 28
RESAMPLES = 20
SHARES = {"train": 0.7, "valid": 0.2, "test": 0.1}
LABELS = ("11", "24", "36", "47", "caries", "crown", "restoration", "impacted")


def main() -> None:
    """Runs every step for each size and prints a line a step."""
    parser = argparse.ArgumentParser(description="Peak memory of each step.")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--also", type=int, help="A smaller size: shows what one more image costs.")
    parser.add_argument("--folder", type=Path, help="Where to work; default: a temporary folder.")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        _run_here(given.step[0], Path(given.step[1]))
        return
    with tempfile.TemporaryDirectory(prefix="dentsight-memory-", dir=given.folder) as folder:
        sizes = sorted(filter(None, (given.also, given.images)))
        peaks = {size: measured(Path(folder) / str(size), size) for size in sizes}
    print(f"{'step':<22}{'s':>7}{'MB':>7}" + ("  bytes an image" if len(sizes) > 1 else ""))
    for step, (seconds, peak) in peaks[given.images].items():
        growth = ""
        if len(sizes) > 1:
            growth = f"{(peak - peaks[sizes[0]][step][1]) * 2**20 / (sizes[1] - sizes[0]):16.0f}"
        print(f"{step:<22}{seconds:7.1f}{peak:7.0f}{growth}")
    worst = max(peak for _, peak in peaks[given.images].values())
    verdict = "kept" if worst <= LIMIT_MB else "NOT KEPT"
    print(f"{given.images} images: at most {worst:.0f} MB, limit {LIMIT_MB}: {verdict}")


def measured(folder: Path, images: int) -> dict[str, tuple[float, float]]:
    """Seconds and peak (MB) of each step, in a process of its own."""
    folder.mkdir()
    (folder / "images").write_text(str(images))
    peaks = {}
    for step in STEPS:
        started = time.perf_counter()
        command = [sys.executable, __file__, "--step", step, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks[step] = (time.perf_counter() - started, float(done.stdout.split()[-1]) / 1024)
        print(f"{images} {step}: {peaks[step][1]:.0f} MB", file=sys.stderr)
    del peaks["draw"]
    return peaks


def _run_here(step: str, folder: Path) -> None:
    from dentsight_pipeline.store.objects import open_store

    STEPS[step](open_store(folder / "store"), folder)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


# Steps ---------------------------------------------------------------------------------------------------------------


def draw(store: Store, folder: Path) -> None:
    """Write the export: every picture another one, boxes in no order."""
    import cv2
    import numpy as np

    count, generator, draws = int((folder / "images").read_text()), np.random.default_rng(0), random.Random(0)
    categories = [{"id": k, "name": name, "supercategory": "x"} for k, name in enumerate(("OPG-data", *LABELS))]
    for split, share in SHARES.items():
        (folder / "export" / split).mkdir(parents=True)
        images = range(int(count * share))
        for number in images:
            coarse = generator.integers(0, 255, (6, 8), dtype=np.uint8)
            encoded = cv2.imencode(".jpg", cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC))[1]
            (folder / "export" / split / f"{split}{number}.jpg").write_bytes(encoded.tobytes())
        boxes = [(image, box) for image in images for box in range(BOXES)]
        draws.shuffle(boxes)
        with (folder / "export" / split / "_annotations.coco.json").open("w") as file:
            listed = [{"id": n, "file_name": f"{split}{n}.jpg", "width": 64, "height": 48} for n in images]
            file.write(f'{{"categories": {json.dumps(categories)}, "images": {json.dumps(listed)}, "annotations": [')
            for place, (image, box) in enumerate(boxes):
                record = {"id": place, "image_id": image, "category_id": 1 + box % len(LABELS)}
                record |= {"bbox": [8 * (box % 7) + 0.25, 10 * (box // 7) + 0.5, 6.125, 7], "segmentation": []}
                file.write("," * (place > 0) + json.dumps(record))
            file.write("]}")


def ingest(store: Store, folder: Path) -> None:
    """From the folder to a raw export."""
    from dentsight_pipeline.intake.ingest import ingest_export

    _keep(folder, "raw_export", ingest_export(folder / "export", store))


def normalise(store: Store, folder: Path) -> None:
    """Leakage groups included."""
    from dentsight_pipeline.data.normalise import normalise_export

    _keep(folder, "normalized_splits", normalise_export(store, _kept(store, folder, "raw_export")))


def leakage(store: Store, folder: Path) -> None:
    """The grouping by source alone."""
    from dentsight_pipeline.data.leakage import group_by_source
    from dentsight_pipeline.data.raw_export import read_raw

    group_by_source(read_raw(store, _kept(store, folder, "raw_export")).sources())


def condition_subset(store: Store, folder: Path) -> None:
    """The 13 conditions."""
    from dentsight_pipeline.data.subset import select_conditions

    _keep(folder, "condition_subset", select_conditions(store, _kept(store, folder, "normalized_splits")))


def tooth_subset(store: Store, folder: Path) -> None:
    """The 32 teeth."""
    from dentsight_pipeline.data.subset import select_teeth

    select_teeth(store, _kept(store, folder, "normalized_splits"))


def checks_of(name: str) -> Callable[[Store, Path], None]:
    """All checks of one product, in one process."""

    def run(store: Store, folder: Path) -> None:
        from dentsight_pipeline.data import checks

        manifest = _kept(store, folder, name)
        outcomes = [checks.outcome_of(store, check, manifest) for check in checks.CHECKS[manifest.kind]]
        assert all(outcome.passed for outcome in outcomes if outcome.blocking), outcomes

    return run


def read_training_split(store: Store, folder: Path) -> None:
    """What a training holds of its annotations."""
    from dentsight_pipeline.training.dataset import read_labelled

    read_labelled(store, _kept(store, folder, "condition_subset"), "train")


def evaluate(store: Store, folder: Path) -> None:
    """Both engines, Tier 2, kinds of X-rays, two exports and the files, on columns: 28 boxes, 15 detections an image.

    Few resamples, for the time they take: intervals come in pieces, and one resample more costs a byte an image and
    population (1,000 in place of 20 with 50,000 images: 98 MB, which this figure does not hold).
    """
    import numpy as np

    from dentsight_pipeline.evaluation import evaluate as evaluation
    from dentsight_pipeline.evaluation.columns import Detections, GroundTruth
    from dentsight_pipeline.evaluation.folder import write_evaluation
    from dentsight_pipeline.evaluation.subgroups import Traits

    count, classes, rng = int((folder / "images").read_text()), 13, np.random.default_rng(0)
    n = count * BOXES
    image, label = np.repeat(np.arange(count), BOXES), rng.integers(0, classes, n)
    boxes = np.column_stack([rng.uniform(0, [1500, 900], (n, 2)), rng.lognormal(4, 0.6, (n, 2))])
    truth = GroundTruth(
        image_ids=np.arange(1, count + 1),
        image_sizes_px=np.tile([[1662.0, 1077.0], [2440.0, 1280.0]], (count // 2, 1)),
        groups=np.arange(count),
        clean=rng.random(count) < 0.8,
        covered=np.ones((count, classes), bool),
        partial=np.zeros(count, bool),
        category_ids=np.arange(1, classes + 1),
        class_names=tuple(f"condition {k}" for k in range(1, classes + 1)),
        annotation_ids=np.arange(1, n + 1),
        image_index=image,
        class_index=label,
        boxes_xywh_px=boxes,
        areas_px=boxes[:, 2] * boxes[:, 3],
        crowd=np.zeros(n, bool),
    )
    of = np.sort(rng.choice(n, 15 * count, replace=False))
    moved = boxes[of] + rng.normal(0, 0.1, (len(of), 4)) * np.tile(boxes[of, 2:], 2)
    moved[:, 2:] = np.abs(moved[:, 2:]) + 1
    named = np.where(rng.random(len(of)) < 0.85, label[of], rng.integers(0, classes, len(of)))
    found = Detections(image[of], named, moved, rng.beta(2, 3, len(of)))
    del boxes, moved, named, of, image, label
    traits = Traits(rng.random(count), rng.random(count), rng.integers(-1, 33, count), rng.integers(-1, 2, count))
    asked = evaluation.Inputs(truth, found, mirrored=found, resamples=RESAMPLES, exports=("a", "b") * (count // 2))
    made = evaluation.evaluate(replace(asked, traits=traits))
    assert made.document.engines is not None and made.document.engines.agree
    write_evaluation(made, folder / "evaluation")


STEPS: dict[str, Callable[[Store, Path], None]] = {
    "draw": draw,
    "ingest": ingest,
    "check raw export": checks_of("raw_export"),
    "leakage": leakage,
    "normalise": normalise,
    "check splits": checks_of("normalized_splits"),
    "condition subset": condition_subset,
    "tooth subset": tooth_subset,
    "check subset": checks_of("condition_subset"),
    "read training split": read_training_split,
    "evaluate": evaluate,
}
"""In their order; `draw` is not measured."""


def _keep(folder: Path, name: str, manifest: Manifest) -> None:
    (folder / name).write_text(manifest.digest)


def _kept(store: Store, folder: Path, name: str) -> Manifest:
    return store.get_manifest((folder / name).read_text())


if __name__ == "__main__":
    main()
