"""Claim: grouping by source grows with the number of images, not of pairs, and 100,000 take minutes in one process.

Draws fingerprints of made-up patients that are as alike as measured on real panoramic X-rays (half of the variance of
the low frequencies is common anatomy), gives a fifth of them a second, flipped and re-encoded copy, and times
`pixel_pairs` against the plain comparison of every pair under the four transforms (one blocked matrix product) in the
same run. The plain one is measured on the smaller sizes only; its cost grows with the square.

    python benchmarks/leakage_scale.py [--images 100000] [--baseline-up-to 16000]
"""

from __future__ import annotations

import argparse
import base64
import time

import numpy as np

from dentsight_pipeline.data import leakage

COPY_SIMILARITY = 0.985  # between a copy saved 25 grey levels brighter and its original, worst case of 159 measured


def make_fingerprints(count: int, seed: int) -> tuple[list[leakage.Fingerprint], set[tuple[int, int]]]:
    """Fingerprints of `count` images in random order, and the true pairs among them."""
    generator = np.random.default_rng(seed)
    size = 575
    copies = count // 6
    anatomy = generator.standard_normal(size)
    patients = np.sqrt(0.15) * anatomy + np.sqrt(0.85) * generator.standard_normal((count - copies, size))
    parity = leakage._parities()
    signs = leakage._SIGNS[generator.integers(0, 4, copies)][:, parity]
    noise = generator.standard_normal((copies, size))
    twins = signs * (COPY_SIMILARITY * patients[:copies] + np.sqrt(1 - COPY_SIMILARITY**2) * noise)
    everything = np.concatenate([patients, twins])
    order = generator.permutation(count)
    place = np.argsort(order)
    codes = np.clip(np.rint(everything[order] * 24), -127, 127).astype(np.int8)
    truth = {(int(a), int(b)) for a, b in np.sort(np.stack([place[:copies], place[count - copies :]], 1), axis=1)}
    return [leakage.Fingerprint(base64.b64encode(row.tobytes()).decode()) for row in codes], truth


def all_pairs(fingerprints: list[leakage.Fingerprint], block: int = 2000) -> set[tuple[int, int]]:
    """The baseline: every pair under the four transforms."""
    vectors = leakage._unit_vectors(np.stack([item.coefficients() for item in fingerprints]))
    found: set[tuple[int, int]] = set()
    for start in range(0, len(vectors), block):
        rows = vectors[start : start + block]
        partial = [rows[:, part] @ vectors[start:, part].T for part in leakage._class_slices()]
        best = np.max([sum(s * p for s, p in zip(signs, partial, strict=True)) for signs in leakage._SIGNS], axis=0)
        low, high = np.nonzero(np.triu(best >= leakage.SAME_SOURCE_SIMILARITY, 1))
        found |= {(int(a) + start, int(b) + start) for a, b in zip(low, high, strict=True)}
    return found


def main() -> None:
    """Print time, recall and ratio for growing corpora."""
    parser = argparse.ArgumentParser(description="Time the grouping by source against comparing every pair.")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--baseline-up-to", type=int, default=16_000)
    arguments = parser.parse_args()
    sizes = [n for n in (4_000, 16_000, 64_000) if n < arguments.images] + [arguments.images]
    previous: tuple[int, float] | None = None
    for count in sizes:
        fingerprints, truth = make_fingerprints(count, seed=count)
        started = time.perf_counter()
        pairs = {(int(a), int(b)) for a, b in leakage.pixel_pairs(fingerprints)}
        seconds = time.perf_counter() - started
        line = f"{count:>7,} images: {seconds:7.1f} s, recall {len(pairs & truth) / len(truth):.4f}, "
        line += f"false pairs {len(pairs - truth)}"
        if previous:
            line += f", growth exponent {np.log(seconds / previous[1]) / np.log(count / previous[0]):.2f}"
        if count <= arguments.baseline_up_to:
            started = time.perf_counter()
            exact = all_pairs(fingerprints)
            baseline = time.perf_counter() - started
            line += f" | all pairs: {baseline:.1f} s, ratio {baseline / seconds:.1f}, missed {len(exact - pairs)}"
        print(line, flush=True)
        previous = (count, seconds)


if __name__ == "__main__":
    main()
