"""How often does a gate pass a model that does not deserve it? The interval gate beside the card's point gate.

Worlds with a known true AP are drawn (`bootstrap_coverage.py`); data sets of n images are measured with the pipeline's
own intervals and judged by `gates.judge` itself, under the card's policy with its caries floor moved to the true AP (a
model exactly at its floor), above it (a model that is truly under its floor) or below it (a good model).

Claim: a model exactly at its floor passes the interval gate in at most 10 % of the data sets, and one that is truly
.03 under it hardly ever, where the point gate passes about half and a good part of them. The price is printed, too:
how often a model .03 above its floor is INCONCLUSIVE.
"""

from __future__ import annotations

import argparse
import json
from importlib import resources

import numpy as np
from bootstrap_coverage import CLASSES, draw_class

from dentsight_pipeline.documents.evaluation import EvaluationDocument, Measurement
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.evaluation import bootstrap, metrics
from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.release.gates import judge
from dentsight_pipeline.release.policy import parse_policy

GATE = "tier1_caries_ap"
DISTANCES = (0.0, 0.03, -0.03)


def policy_with_floor(floor: float) -> Policy:
    """The card's policy with another floor for caries."""
    text = (resources.files("dentsight_pipeline.release") / "policies" / "card.json").read_text("utf-8")
    plain = json.loads(text)
    next(gate for gate in plain["gates"] if gate["id"] == GATE)["floor"] = floor
    return parse_policy(json.dumps(plain))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=250)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 221])
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=list(CLASSES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)

    def ap(weights: np.ndarray, table: metrics.CurveTable) -> np.ndarray:
        return table.average_precision(weights)[0].mean(axis=0)[None]

    def once(matches: ClassMatches) -> float:
        weights = np.ones((len(matches.gt_counts), 1))
        return float(ap(weights, metrics.CurveTable.from_matches(matches))[0, 0])

    print(f"{arguments.trials} data sets a line, {arguments.resamples} resamples")
    head = f"{'images':>6} {'class':<17} {'true AP':>7} {'floor':>6}"
    print(f"{head} {'PASS':>6} {'FAIL':>6} {'INCONCL.':>8} {'point gate':>10}")
    worst = worst_under = 0.0
    for name in arguments.classes:
        shape = CLASSES[name]
        truth = float(np.mean([once(draw_class(40_000, shape, rng)) for _ in range(5)]))
        at_floor: list[bool] = []
        policies = {distance: policy_with_floor(truth + distance) for distance in DISTANCES}
        for images in arguments.images:
            seen: dict[float, list[tuple[str, str]]] = {distance: [] for distance in DISTANCES}
            for _ in range(arguments.trials):
                matches = draw_class(images, shape, rng)
                weights = bootstrap.draw(np.arange(images), arguments.resamples, int(rng.integers(2**31)))
                table = metrics.CurveTable.from_matches(matches)
                units = bootstrap.units_with(matches.gt_counts, weights)
                measured = bootstrap.interval(
                    bootstrap.draws(lambda w, table=table: ap(w, table), weights), units, at=(0,)
                )
                row = Measurement(
                    metric="ap",
                    class_name="caries",
                    population="clean",
                    value=measured.value,
                    low=measured.low,
                    high=measured.high,
                    n=matches.n_gt,
                    unit_count=units,
                )
                evaluation = EvaluationDocument(
                    schema="dentsight-evaluation/1",
                    classes=("caries",),
                    gated_population="clean",
                    measurements=(row,),
                )
                for distance, policy in policies.items():
                    judged = next(r for r in judge(evaluation, policy).rows if r.id == GATE)
                    seen[distance].append((judged.outcome, judged.point))
            for distance, outcomes in seen.items():
                rate = {word: sum(o == word for o, _ in outcomes) / len(outcomes) for word, _ in outcomes}
                by_point = sum(point == "pass" for _, point in outcomes) / len(outcomes)
                passed = rate.get("PASS", 0.0)
                if distance == 0:
                    at_floor += [outcome == "PASS" for outcome, _ in outcomes]
                worst_under = max(worst_under, passed if distance > 0 else 0.0)
                print(
                    f"{images:>6} {name:<17} {truth:7.3f} {truth + distance:6.3f} {passed:6.3f} "
                    f"{rate.get('FAIL', 0):6.3f} {rate.get('INCONCLUSIVE', 0):8.3f} {by_point:10.3f}"
                )
        worst = max(worst, sum(at_floor) / len(at_floor))
    print(
        f"largest false-PASS rate of a class, all sizes together: {worst:.3f} (≤ 0.10) at truth = floor, "
        f"{worst_under:.3f} at most on any line when the truth is .03 under it"
    )
    return 0 if worst <= 0.10 else 1


if __name__ == "__main__":
    raise SystemExit(main())
