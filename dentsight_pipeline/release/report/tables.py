"""The report's tables as plain rows, in words and numbers: the page and the model card show the same.

Belongs here: what a row says. How a row looks is the business of `templates/` and `model_card.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dentsight_pipeline.release.verdict import interval_text

_SIZED = {
    "recall_at_p95": "Recall at precision .95",
    "ece": "Detection ECE",
    "left_right_agreement": "Same findings on the mirrored X-ray",
    "left_minus_right_recall": "Recall left minus right",
}


def health_rules(health: Mapping[str, Any] | None) -> list[dict[str, str]]:
    states = {False: ("✓ good", "PASS"), True: ("✗ tripped", "FAIL"), None: ("? not judged", "INCONCLUSIVE")}
    rows = []
    for rule in (health or {}).get("rules") or []:
        state, tone = states.get(rule.get("tripped"), states[None])
        rows.append(
            {"name": str(rule.get("rule")), "state": state, "tone": tone, "evidence": str(rule.get("evidence", ""))}
        )
    return rows


def tier2_tables(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Calibration, sides and empty mouths in words and numbers."""
    sizes = evaluation.get("sample_sizes") or {}
    tables = [
        {"title": "Calibration", "rows": _calibration_rows(evaluation.get("calibration") or {})},
        {"title": "Left and right", "rows": _side_rows(evaluation.get("consistency") or {})},
        {"title": "Empty mouths", "rows": _empty_rows(evaluation.get("empty_mouth") or {})},
        {"title": _precise_title(sizes), "rows": _size_rows(sizes), "wide": True},
    ]
    return [table for table in tables if table["rows"]]


def _calibration_rows(calibration: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not calibration:
        return []
    overall = (calibration.get("classes") or {}).get("all")
    if not overall:
        return [("Not measured", str(calibration.get("reason", "")))]
    rows = [
        ("Detection ECE as scored", _bounded(overall, "ece")),
        ("Detection ECE after Platt scaling", _bounded(overall.get("after_platt"), "ece")),
        ("Detections counted", str(overall.get("n", "–"))),
    ]
    return [*rows, ("Counted are", str(calibration["counted"]))] if calibration.get("counted") else rows


def _side_rows(consistency: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not consistency:
        return []
    agreement = (consistency.get("left_right_agreement") or {}).get("all")
    sides = (consistency.get("left_minus_right_recall") or {}).get("all")
    rows = [
        ("Same findings on the mirrored X-ray", _bounded(agreement)),
        ("Recall on the patient's left minus right", _bounded(sides)),
    ]
    if sides and "n_left" in sides:
        rows.append(("Findings in the truth, left and right", f"{sides['n_left']} and {sides.get('n_right', '–')}"))
    return rows


def _empty_rows(empty: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not empty:
        return []
    return [
        ("X-rays without any finding", str(empty.get("images", "–"))),
        ("Share of them with a false positive", _bounded(empty.get("rate"))),
        ("False positives on each of them", _bounded(empty.get("per_image"))),
        ("Empty X-rays needed to show < 5 %", f"{empty.get('images_needed_for_below_5_percent', '–')} without any"),
    ]


def _bounded(part: Mapping[str, Any] | None, key: str = "value") -> str:
    if not part:
        return "not measured"
    return interval_text(part.get(key), part.get("low"), part.get("high")).replace("-", "−")


def method_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    engines, bootstrap = evaluation.get("engines") or {}, evaluation.get("bootstrap") or {}
    rows = [(f"Engines: {name}", value) for name, value in flat(engines)]
    rows += [(f"Bootstrap: {name}", value) for name, value in flat(bootstrap)]
    rows += [("Note", str(note)) for note in evaluation.get("notes") or []]
    return rows or [("Method", "not stated")]


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as rows, in its own order."""
    rows: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(inner, Mapping):
            rows += flat(inner, f"{name}: ")
        elif isinstance(inner, list | tuple):
            rows.append((name, ", ".join(_plain(item) for item in inner) or "–"))
        else:
            rows.append((name, _plain(inner)))
    return rows


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _precise_title(sizes: Mapping[str, Any]) -> str:
    return f"X-rays for an interval of ±{sizes.get('half_width', 0.05):.2f}"


def _size_rows(sizes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """About how many test images each figure would take, as far as its interval lets one tell."""
    needed = sizes.get("images") or {}
    rows = []
    for metric, words in _SIZED.items():
        by_class = {name: count for name, count in (needed.get(metric) or {}).items() if name != "macro"}
        shown = {"all": by_class["all"]} if "all" in by_class else by_class
        parts = [f"{'about' if name == 'all' else name} {count}" for name, count in shown.items() if count is not None]
        parts += [f"{name} unknown" for name, count in shown.items() if count is None]
        if parts:
            rows.append((words, ", ".join(parts).removeprefix("all ")))
    return rows
