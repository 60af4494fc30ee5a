"""Claim: the phantom corpus is drawn and written at 15 images/s or more, 1280 px wide, on one core.

The baseline of the same run is the cost that no drawing can avoid: encoding one picture's JPEG and writing it.

    python benchmarks/phantom_speed.py --images 60
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from dentsight_pipeline.phantom.export import V8_SPLITS, write_phantom_export

TARGET_IMAGES_PER_SECOND = 15.0


def _baseline_seconds(export: Path, folder: Path) -> float:
    """CPU seconds per image to encode and write the pictures of an export again."""
    paths = [path for split in V8_SPLITS for path in sorted((export / split).glob("*.jpg"))]
    pictures = [np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in paths]
    start = time.process_time()
    for path, picture in zip(paths, pictures, strict=True):
        (folder / path.name).write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return (time.process_time() - start) / len(paths)


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom_export(folder / "warm-up", 3, arguments.seed, arguments.width)
        wall, cpu = time.perf_counter(), time.process_time()
        write_phantom_export(folder / "export", arguments.images, arguments.seed, arguments.width)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        (folder / "again").mkdir()
        baseline = _baseline_seconds(folder / "export", folder / "again")
    per_second = arguments.images / cpu
    cpu_ms, wall_ms, baseline_ms = 1e3 * cpu / arguments.images, 1e3 * wall / arguments.images, 1e3 * baseline
    print(f"images                     {arguments.images} of {arguments.width} px width, one thread")
    print(f"per image                  {cpu_ms:.1f} ms CPU, {wall_ms:.1f} ms wall")
    print(f"images per second          {per_second:.1f} (CPU time of one core)")
    print(f"against JPEG writing alone {cpu_ms / baseline_ms:.2f}x ({baseline_ms:.1f} ms)")
    print(
        f"against the target         {per_second / TARGET_IMAGES_PER_SECOND:.2f}x of {TARGET_IMAGES_PER_SECOND:.0f}/s"
    )


if __name__ == "__main__":
    main()
