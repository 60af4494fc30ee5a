"""Ingest + normalise against a plain loop of Pillow decode + transformers' image processor, in the same run.

Claims, each printed as a ratio or a difference:
1. ingest + normalise handle at least 6.5 times the images per second of the plain loop, on two quiet cores; the goal is
   8. Measured: 7.3 at 7.6 ms of CPU an image on one machine (5.3 and 3.7 beside other work), 8.9 at 5.2 ms on another;
2. ingesting the unchanged export again reads every byte once, writes nothing and works on no image;
3. a version with ten new images costs the hash check, the work of ten images, and a quarter of a second at 2,213 images
   for writing the tables anew; both together were 36 images' work;
4. boxes are columns (`--memory 2000 50000`, small images of 28 boxes in folders): 50,000 images fit into 700 MB. What
   grows most is the text of the largest annotation file, which is read as a whole.

The corpus is made of phantom X-rays at v8's usual size (1662 px wide), varied and encoded anew, so that no two share
a source. Run `python benchmarks/ingest_speed.py --images 2213` for v8's size; the default fits a laptop.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.store.objects import open_store

CORES = 2
T = TypeVar("T")


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300, help="images of v8's size")
    parser.add_argument("--baseline-images", type=int, default=60, help="images that the plain loop handles")
    parser.add_argument("--memory", type=int, nargs=2, metavar=("FEW", "MANY"), help="also compare peak memory")
    parser.add_argument("--ingest-only", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:CORES]))
    cv2.setNumThreads(CORES)
    if arguments.ingest_only:
        _measure_memory(arguments.ingest_only)
        return
    with tempfile.TemporaryDirectory(prefix="dentsight-benchmark-") as folder:
        _compare_speed(Path(folder), arguments.images, min(arguments.images, arguments.baseline_images))
        if arguments.memory:
            _compare_memory(Path(folder), *arguments.memory)


def _compare_speed(folder: Path, images: int, baseline_images: int) -> None:
    export = folder / "export"
    paths = make_export(export, images, width=1662, height=1077)
    size = sum(path.stat().st_size for path in paths)
    print(f"{images} images of 1662×1077 px, {size / images / 1e3:.0f} kB each")
    baseline = _plain_loop(paths[:baseline_images])
    print(f"plain loop, Pillow + transformers: {baseline:7.1f} images/s (measured on {baseline_images})")

    store = open_store(folder / "store")
    seconds, cpu, raw = _timed(lambda: ingest_export(export, store))
    normalised_seconds, normalised_cpu, _ = _timed(lambda: normalise_export(store, raw))
    rate = images / (seconds + normalised_seconds)
    print(f"ingest {seconds:.2f} s + normalise {normalised_seconds:.2f} s: {rate:7.1f} images/s")
    print(f"CPU: {cpu:.2f} s + {normalised_cpu:.2f} s, {1e3 * cpu / images:.1f} ms for each image ingested")
    print(f"ratio: {rate / baseline:.1f}  (claim: at least 6.5; the goal is 8)")

    files = _files(folder / "store")
    again, again_cpu, unchanged = _timed(lambda: ingest_export(export, store))
    written = len(_files(folder / "store") - files)
    print(f"unchanged export again: {again:.2f} s, CPU {again_cpu:.2f} s, {written} files written")
    print(f"same digest: {unchanged.digest == raw.digest}")

    make_export(export, 10, width=1662, height=1077, start=images)
    objects = {path for path in files if "/objects/" in path}
    more, more_cpu, _ = _timed(lambda: ingest_export(export, store))
    new = {path for path in _files(folder / "store") if "/objects/" in path} - objects
    extra = (more_cpu - again_cpu) / (cpu / images)
    print(f"with 10 new images: {more:.2f} s, CPU {more_cpu:.2f} s = hash check + {extra:.0f} images' work")
    print(f"{len(new)} new objects (10 images and the JSON files)")


def _plain_loop(paths: list[Path]) -> float:
    """Images per second of Pillow decode + transformers' D-FINE image processor, with torch on two threads."""
    import torch
    from PIL import Image
    from transformers import RTDetrImageProcessor

    torch.set_num_threads(CORES)
    processor = RTDetrImageProcessor()
    with Image.open(paths[0]) as warm_up:
        processor(images=warm_up.convert("RGB"), return_tensors="pt")
    start = time.perf_counter()
    for path in paths:
        with Image.open(path) as image:
            processor(images=image.convert("RGB"), return_tensors="pt")
    return len(paths) / (time.perf_counter() - start)


def make_export(folder: Path, images: int, width: int, height: int, start: int = 0) -> list[Path]:
    """Writes (or extends) an export of varied phantom X-rays, three quarters of them in train."""
    patterns = _patterns(folder.parent / "patterns", width, height)
    paths: list[Path] = []
    for split, share in (("train", 0.70), ("valid", 0.20), ("test", 0.10)):
        split_folder = folder / split
        split_folder.mkdir(parents=True, exist_ok=True)
        file = split_folder / "_annotations.coco.json"
        document = json.loads(file.read_text()) if file.exists() else _empty_document()
        count = round(images * share) if split != "test" else images - len(paths)
        for number in range(start + len(paths), start + len(paths) + count):
            name = f"{number}_png.rf.{number:032x}.jpg"
            cv2.imwrite(str(split_folder / name), _varied(patterns, number), [cv2.IMWRITE_JPEG_QUALITY, 92])
            image_id = len(document["images"])
            document["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
            for tooth in range(28):
                box = [width * 0.1 + tooth * width * 0.025, height * 0.4, width * 0.02, height * 0.1]
                annotation = {"id": len(document["annotations"]), "image_id": image_id, "category_id": 1 + tooth % 2}
                document["annotations"].append({**annotation, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
            paths.append(split_folder / name)
        file.write_text(json.dumps(document))
    return paths


def _empty_document() -> dict[str, Any]:
    names = ("OPG-data", "caries", "crown")
    categories = [{"id": i, "name": n, "supercategory": "OPG-data" if i else "none"} for i, n in enumerate(names)]
    return {"images": [], "annotations": [], "categories": categories}


def _patterns(folder: Path, width: int, height: int) -> list[np.ndarray]:
    from dentsight_pipeline.phantom.export import write_phantom_export

    if not folder.exists():
        write_phantom_export(folder, images=6, seed=0, width=width)
    pictures = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted(folder.glob("*/*.jpg"))]
    return [cv2.resize(picture, (width, height)) for picture in pictures if picture is not None]


def _varied(patterns: list[np.ndarray], number: int) -> np.ndarray:
    """Another picture for each number: a pattern moved, darkened in places, and with noise of its own."""
    rng = np.random.default_rng(number)
    picture = np.roll(patterns[number % len(patterns)], rng.integers(0, 400, 2), axis=(0, 1)).astype(np.float32)
    shade = cv2.resize(rng.uniform(0.3, 1.3, (9, 16)).astype(np.float32), picture.shape[::-1])
    noise = rng.integers(-3, 4, picture.shape, dtype=np.int8)
    return np.clip(picture * shade + noise, 0, 255).astype(np.uint8)


def _compare_memory(folder: Path, few: int, many: int) -> None:
    peaks = []
    for images in (few, many):
        export = folder / f"small-{images}"
        make_export(export, images, width=160, height=120)
        command = [sys.executable, __file__, "--ingest-only", str(export)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        shutil.rmtree(export)
    print(f"peak memory: {peaks[0]:.0f} MB for {few} images, {peaks[1]:.0f} MB for {many}")
    growth = (peaks[1] - peaks[0]) * 1e3 / (many - few)
    print(f"growth: {growth:.1f} kB for each further image of 28 boxes  (claim: under 700 MB for 50,000)")


def _measure_memory(export: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="dentsight-benchmark-") as folder:
        store = open_store(Path(folder) / "store")
        normalise_export(store, ingest_export(export, store))
    # Not ru_maxrss: a process starts with the peak of the one that started it, which here has loaded torch.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1e3)


def _timed(work: Callable[[], T]) -> tuple[float, float, T]:
    """Seconds, seconds of CPU of all threads, and what the work gave."""
    start, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - start, time.process_time() - cpu, result


def _files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
