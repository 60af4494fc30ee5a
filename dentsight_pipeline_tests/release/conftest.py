"""A made-up evaluation in the contract's form, whose every gate passes, for tests to spoil in one place each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from dentsight_pipeline.documents.codec import convert
from dentsight_pipeline.documents.evaluation import EvaluationDocument
from dentsight_pipeline.documents.health import HeadHealth
from dentsight_pipeline.documents.policy import Policy
from dentsight_pipeline.documents.verdict import ChampionComparison, Override, Verdict
from dentsight_pipeline.release.gates import judge
from dentsight_pipeline.release.policy import load_policy

LICENCES = {"data OPGs v8": "CC BY 4.0", "weights dfine-large-coco": "Apache-2.0"}
"""That allow whatever the packaged policies are for."""
CRITICAL = ("caries", "calculus", "periapical-radiolucency")


def measurement(
    metric: str, name: str, value: float | None, low: float | None, high: float | None, **more: Any
) -> dict[str, Any]:
    """One row of `measurements`, on the clean images, on plenty of data unless told otherwise."""
    row = {"metric": metric, "class": name, "population": "clean", "value": value, "low": low, "high": high}
    return row | {"n": 500, "unit_count": 175, "note": ""} | more


def judged(
    evaluation: dict[str, Any],
    policy: Policy,
    health: dict[str, Any] | None = None,
    champion: ChampionComparison | dict[str, Any] | None = None,
    overrides: Iterable[Override] = (),
    licences: Mapping[str, str] | None = LICENCES,
) -> Verdict:
    """The verdict on what JSON files say, each read as the product reads it."""
    return judge(
        convert(evaluation, EvaluationDocument, "evaluation.json"),
        policy,
        None if health is None else convert(health, HeadHealth, "health.json"),
        None if champion is None else convert(champion, ChampionComparison, "the comparison"),
        overrides,
        licences,
    )


def layer(number: int, score: float | None, *, last: bool = False) -> dict[str, Any]:
    """One decoder layer of a `health.json`."""
    read = {"layer": number, "mean_max_score": score, "supervised_by_normal_queries": True}
    return {**read, "scores_at_inference": last}


@pytest.fixture
def policy() -> Policy:
    """The card's policy."""
    return load_policy("card")


@pytest.fixture
def healthy() -> dict[str, Any]:
    """A head that was looked at and found good."""
    return {
        "healthy": True,
        "layers": [layer(0, 0.6), layer(1, 0.62, last=True)],
        "ratio_last_to_first": 1.03,
        "rules": [{"rule": "last over first layer", "tripped": False, "evidence": "1.03"}],
    }


@pytest.fixture
def evaluation(policy: Policy) -> dict[str, Any]:
    """An `evaluation.json` in which every gate of the card passes with room to spare."""
    rows = [measurement("ap", name, 0.55, 0.50, 0.60) for name in policy.classes]
    rows += [measurement("recall_at_p95", name, 0.70, 0.65, 0.75) for name in CRITICAL]
    rows += [
        measurement("ap50", "macro", 0.60, 0.55, 0.65),
        measurement("ece", "all", 0.05, 0.04, 0.06),
        measurement("left_right_agreement", "all", 0.90, 0.88, 0.92),
        measurement("left_minus_right_recall", "all", 0.01, -0.02, 0.04),
        measurement("empty_mouth_fp_rate", "all", 0.0, 0.0, 0.03, n=100, unit_count=100),
    ]
    return {
        "schema": "dentsight-evaluation/1",
        "classes": list(policy.classes),
        "ground_truth_sha256": "a" * 64,
        "detections_sha256": "b" * 64,
        "gated_population": "clean",
        "populations": {"all": {"macro": {"present": 13, "of": 13}}, "clean": {"macro": {"present": 13, "of": 13}}},
        "measurements": rows,
        "engines": {"pycocotools": "2.0.10", "hotcoco": "1.3.0", "max_abs_difference": 0.0, "agree": True},
        "thresholds_from": "valid",
    }


@pytest.fixture
def champion() -> dict[str, Any]:
    """A champion on the same ground truth that the challenger does not fall behind."""
    rows = [measurement("paired_delta_ap", name, 0.01, -0.005, 0.025) for name in CRITICAL]
    rows.append(measurement("paired_delta_ap50", "macro", 0.01, -0.005, 0.025))
    return {"digest": "c" * 64, "ground_truth_sha256": "a" * 64, "measurements": rows}
