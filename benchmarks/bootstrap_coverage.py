"""Do the intervals hold what they promise? Coverage by simulation, BCa beside percentile.

A world is drawn in which the true AP is known (from very many images); data sets of n images are drawn from it, and it
is counted how often the two-sided 90 % interval holds the truth, and how often its lower end lies above the truth: the
rate at which an interval gate would pass a model that is exactly at the floor.

Claims: for a class in at least 30 sources, the false-PASS rate of AP and AP50 at truth = floor is at most 10 % (within
the simulation's own error), and so is that of macro AP50; the point estimate alone passes more than half of such
models. With 20 to 30 sources it was .09 to .12. The interval of macro AP is informational: its rate is printed, not
promised (AP[.50:.95] of a finite sample is biased upwards, and no resampling shows all of that).
"""

from __future__ import annotations

import argparse

import numpy as np

from dentsight_pipeline.evaluation import bootstrap, metrics
from dentsight_pipeline.evaluation.bootstrap import Draws
from dentsight_pipeline.evaluation.engines import IOU_THRESHOLDS
from dentsight_pipeline.evaluation.matching import ClassMatches

ENOUGH_SOURCES = 30

# Per class: mean boxes an image, share found, IoU concentration, separation of scores, false positives an image.
CLASSES = {
    "frequent, weak": (2.5, 0.7, 6.0, 1.0, 6.0),
    "frequent, strong": (2.0, 0.95, 14.0, 3.0, 3.0),
    "rare, weak": (0.25, 0.6, 6.0, 1.2, 1.0),
    "rare, strong": (0.25, 0.95, 12.0, 3.0, 0.5),
}


def draw_class(images: int, shape: tuple[float, ...], rng: np.random.Generator) -> ClassMatches:
    """Matches of one class on `images` images, as the matcher would return them."""
    per_image, found, concentration, separation, noise = shape
    difficulty = rng.normal(0, 0.7, images)  # boxes of one image share their luck
    gt_counts = rng.poisson(per_image * rng.gamma(2, 0.5, images))
    owner = np.repeat(np.arange(images), gt_counts)
    hit = rng.random(len(owner)) < 1 / (1 + np.exp(-(np.log(found / (1 - found)) + difficulty[owner])))
    owner = owner[hit]
    iou = 0.5 + 0.5 * rng.beta(concentration / 2, 3.0, len(owner))
    false = np.repeat(np.arange(images), rng.poisson(noise, images))
    where = np.concatenate([owner, false])
    scores = np.concatenate([rng.normal(separation + difficulty[owner] / 2, 1.0), rng.normal(0, 1.0, len(false))])
    overlap = np.concatenate([iou, np.zeros(len(false))])
    order = np.argsort(-scores, kind="stable")
    true = overlap[order][None, :] >= IOU_THRESHOLDS[:, None]
    nothing = np.full(len(order), -1)
    return ClassMatches(
        "", where[order], nothing, scores[order], true, np.zeros_like(true), nothing, overlap, gt_counts
    )


def percentile(sample: Draws) -> tuple[float, float]:
    """The interval that is not used: plain quantiles of the resamples."""
    low, high = np.nanquantile(sample.resampled, [bootstrap.ALPHA / 2, 1 - bootstrap.ALPHA / 2])
    return float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--images", type=int, nargs="+", default=[40, 100, 221])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)

    def figures(weights: np.ndarray, table: metrics.CurveTable) -> np.ndarray:
        precision, _ = table.average_precision(weights)
        return np.stack([precision.mean(axis=0), precision[0]])

    def once(matches: ClassMatches) -> np.ndarray:
        return figures(np.ones((len(matches.gt_counts), 1)), metrics.CurveTable.from_matches(matches))[:, 0]

    truth = {
        name: np.mean([once(draw_class(20_000, shape, rng)) for _ in range(3)], 0) for name, shape in CLASSES.items()
    }
    truth["macro"] = np.mean(list(truth.values()), axis=0)
    print(f"{arguments.trials} trials, {arguments.resamples} resamples; nominal: coverage 0.90, false PASS 0.05")
    head = f"{'images':>6} {'class':<17} {'metric':<5} {'truth':>6} {'BCa':>5} {'pct.':>5}"
    print(f"{head} {'false PASS':>10} {'by point':>8} {'width':>6} {'too few':>7}")
    worst = 0.0
    for n in arguments.images:
        tally: dict[tuple[str, int], list[tuple[bool, bool, bool, float, bool]]] = {}
        absent: dict[tuple[str, int], int] = {}
        for _ in range(arguments.trials):
            weights = bootstrap.draw(np.arange(n), arguments.resamples, int(rng.integers(2**31)))
            drawn: dict[str, Draws] = {}
            units: dict[str, int] = {}
            for name, shape in CLASSES.items():
                matches = draw_class(n, shape, rng)
                table = metrics.CurveTable.from_matches(matches)
                drawn[name] = bootstrap.draws(lambda w, table=table: figures(w, table), weights)
                units[name] = bootstrap.units_with(matches.gt_counts, weights)
            parts = ("point", "resampled", "jackknife")
            drawn["macro"] = Draws(
                *(metrics.macro(np.stack([getattr(drawn[name], part) for name in CLASSES])) for part in parts)
            )
            units["macro"] = n
            for name, sample in drawn.items():
                for row in (0, 1):
                    measured = bootstrap.interval(sample, units[name], at=(row,))
                    if units[name] < ENOUGH_SOURCES or measured.low is None or measured.high is None:
                        absent[name, row] = absent.get((name, row), 0) + 1
                        continue
                    low, high = percentile(sample.map(lambda v, row=row: v[row]))
                    true = truth[name][row]
                    tally.setdefault((name, row), []).append(
                        (measured.low <= true <= measured.high, low <= true <= high, measured.low > true,
                         measured.high - measured.low, (measured.value or 0) >= true)
                    )  # fmt: skip
        for (name, row), found in sorted(tally.items()):
            covered, plain, passed, width, point = np.mean(found, axis=0)
            if (name, row) != ("macro", 0) and len(found) >= arguments.trials / 4:
                worst = max(worst, float(passed))
            print(
                f"{n:>6} {name:<17} {('AP', 'AP50')[row]:<5} {truth[name][row]:6.3f} {covered:5.2f} {plain:5.2f} "
                f"{passed:10.3f} {point:8.2f} {width:6.3f} {absent.get((name, row), 0) / arguments.trials:7.2f}"
            )
    print(f"largest false-PASS rate with {ENOUGH_SOURCES} sources or more, macro AP aside: {worst:.3f} (≤ 0.10)")
    return 0 if worst - 2 * (0.1 * 0.9 / arguments.trials) ** 0.5 <= 0.10 else 1


if __name__ == "__main__":
    raise SystemExit(main())
