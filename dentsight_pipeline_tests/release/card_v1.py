"""The reference model card's own table, as measurements that the gates can judge.

Belongs here: the figures of `argos-dentsight-stage2-conditions-v1` exactly as published, and nothing else. The card
gives points without intervals, from a model whose head had collapsed, so judging it yields its point verdicts,
INCONCLUSIVE for want of intervals, and FAIL for the head. It is a known answer for the gates and an anchor in reports.
"""

from __future__ import annotations

from typing import Any

AP: dict[str, float] = {
    "crown": 0.7437,
    "implant": 0.7405,
    "bridge": 0.6884,
    "RC-treated": 0.6797,
    "tooth-bud": 0.6159,
    "impacted": 0.5421,
    "root-stump": 0.4563,
    "restoration": 0.2117,
    "missing": 0.2033,
    "other-finding": 0.0934,
    "periapical-radiolucency": 0.0728,
    "caries": 0.0372,
    "calculus": 0.0143,
}
"""AP at IoU 0.50:0.95, the card's `mAP@0.5:0.95` column."""

AR100: dict[str, float] = {
    "crown": 0.8826,
    "implant": 0.8197,
    "bridge": 0.8894,
    "RC-treated": 0.8435,
    "tooth-bud": 0.8792,
    "impacted": 0.8970,
    "root-stump": 0.6972,
    "restoration": 0.4632,
    "missing": 0.4006,
    "other-finding": 0.5577,
    "periapical-radiolucency": 0.2477,
    "caries": 0.1996,
    "calculus": 0.1209,
}
"""The card's `mAR@100` column."""

MACRO_AP50 = 0.5298
"""Best validation figure over epochs (epoch 15), not a test figure."""

POINT_VERDICTS: dict[str, str] = {
    **dict.fromkeys(("crown", "implant", "bridge", "RC-treated", "tooth-bud", "impacted", "root-stump"), "strong"),
    **dict.fromkeys(("restoration", "missing"), "acceptable"),
    **dict.fromkeys(("other-finding", "periapical-radiolucency", "caries", "calculus"), "FAIL"),
    "macro": "pass",
}
"""The card's `pass?` column."""

HEALTH: dict[str, Any] = {
    "healthy": False,
    "layers": [],
    "ratio_last_to_first": None,
    "rules": [
        {
            "rule": "scores stay under the focal-loss prior",
            "tripped": True,
            "evidence": 'card: "Inference on real OPGs caps at ~0.034 sigmoid score (below the 0.071 prior)"',
        }
    ],
}
"""What the card says about its head, in the form of a `health.json`."""


EMPTY: dict[str, Any] = {"schema": "dentsight-evaluation/1", "classes": []}
"""An evaluation that measured nothing."""


def evaluation() -> dict[str, Any]:
    """The card's table in the form of an `evaluation.json`: values only, no intervals, no counts."""
    points = [("ap", name, value) for name, value in AP.items()]
    points += [("ar100", name, value) for name, value in AR100.items()]
    points.append(("ap50", "macro", MACRO_AP50))
    return {
        "schema": "dentsight-evaluation/1",
        "classes": sorted(AP),
        "gated_population": "all",
        "measurements": [
            {
                "metric": metric,
                "class": name,
                "population": "all",
                "value": value,
                "low": None,
                "high": None,
                "n": None,
                "unit_count": None,
                "note": "as published, without an interval",
            }
            for metric, name, value in points
        ],
    }
