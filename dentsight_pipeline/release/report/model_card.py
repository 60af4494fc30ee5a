"""The model card: the report's facts as Markdown with Hugging Face metadata.

Belongs here: the wording of `README.md`-style cards and their `model-index`. Names from data are escaped for Markdown
and HTML; the metadata is written by `huggingface_hub` itself, so that it parses there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from dentsight_pipeline.release.report.plots import ERROR_WORDS
from dentsight_pipeline.release.report.tables import flat, health_rules, method_rows, tier2_tables
from dentsight_pipeline.release.verdict import interval_text, number_text

_METRICS = (("ap", "mAP@0.5:0.95"), ("ap50", "mAP@0.5"))


def model_card(facts: Mapping[str, Any]) -> str:
    """The card as text.

    Args:
        facts: From `report.report_facts`.
    """
    verdict, evaluation = facts["verdict"], facts["evaluation"]
    population = verdict["population"] or "all"
    part = evaluation["populations"].get(population) or {}
    lines = ["---", _metadata(facts, population, part).rstrip(), "---", "", f"# {_text(facts['title'])}", ""]
    lines += [f"> **{_text(banner['title'])}** {_text(banner['text'])}\n" for banner in facts["banners"]]
    lines += [
        f"**Verdict: {verdict['outcome']}** under policy `{_text(verdict['policy'])}` version "
        f"{verdict['policy_version']} ({_text(verdict['policy_title'])}).",
        "",
    ]
    lines += [f"- {_text(sentence)}" for sentence in verdict["sentences"]]
    lines += ["", "## Evaluation", "", _population_words(population, part), ""]
    lines += _table(
        (
            "class",
            "n",
            "AP [90 %]",
            "AP50 [90 %]",
            "AR@100",
            "recall at precision .95",
            "threshold",
            "precision",
            "recall",
            "reading",
        ),
        _class_rows(part, verdict),
    )
    lines += ["", f"Thresholds were chosen on: {_text(evaluation.get('thresholds_from') or 'not stated')}. "]
    lines[-1] += "Precision and recall are those at the threshold."
    lines += ["", "## Gates", ""]
    lines += _table(
        ("gate", "severity", "measured", "verdict", "by point"),
        (
            (
                row["title"],
                row["severity"],
                interval_text(row["value"], row["low"], row["high"], row["floor"]),
                row["outcome"] + (f" (overridden by {row['override']['name']})" if row["override"] else ""),
                row["point"],
            )
            for row in verdict["rows"]
        ),
    )
    lines += ["", *(f"{_text(note)}\n" for note in verdict["notes"])]
    lines += ["## Why these gates", ""]
    lines += _table(
        ("gate", "reason", "source of the bound"),
        ((row["id"], row["reason"], row["source"]) for row in verdict["rows"]),
    )
    lines += ["", "## Head health", ""]
    rules = [(rule["name"], rule["state"], rule["evidence"]) for rule in health_rules(facts["health"])]
    lines += _table(("rule", "state", "evidence"), rules) if rules else ["Not measured."]
    lines += ["", "## Errors", "", f"On the {population} test images, at each class's threshold.", ""]
    lines += _table(("class", *ERROR_WORDS.values()), _error_rows(evaluation.get("errors") or {}))
    if verdict["head"] == "collapsed":
        lines += ["", "**NOT EVALUABLE:** the classification head has collapsed, so the next sections mean nothing."]
    for table in tier2_tables(evaluation):
        lines += ["", f"## {table['title']}", "", *_table(("what", "measured"), table["rows"])]
    lines += ["", "## Training data", ""]
    corpus = facts["corpus"]
    lines += [
        f"Corpus: {_text(corpus.get('name', 'unknown'))} ({_text(corpus.get('kind', 'unknown kind'))}, "
        f"licence {_text(corpus.get('licence', 'unknown'))}).",
        "",
    ]
    leakage = facts["data"].get("leakage") or {}
    lines += _table(
        ("split", "images", "clean", "share a source with train", "annotations"),
        (
            (
                split,
                row.get("images", "–"),
                row.get("clean_images", "–"),
                (leakage.get(split) or {}).get("shared_with_train", "–"),
                row.get("annotations", "–"),
            )
            for split, row in (facts["data"].get("splits") or {}).items()
        ),
    )
    if facts["cost"]:
        lines += ["", "## Cost", "", *_table(("what", "measured"), flat(facts["cost"]))]
    lines += ["", "## Chain of digests", ""]
    lines += _table(("product", "sha256"), ((link["kind"], f"{link['digest']}") for link in facts["chain"]))
    lines += ["", "## How it was computed", "", *_table(("what", "how"), method_rows(evaluation))]
    lines += ["", "## Limits", "", *(f"- {_text(limit)}" for limit in facts["limits"]), ""]
    return "\n".join(lines)


def _metadata(facts: Mapping[str, Any], population: str, part: Mapping[str, Any]) -> str:
    """The YAML block, with one `model-index` entry for every measured class figure."""
    corpus = str(facts["corpus"].get("name") or "unknown corpus")
    dataset: dict[str, Any] = {
        "task_type": "object-detection",
        "dataset_type": re.sub(r"[^a-z0-9]+", "-", corpus.lower()).strip("-") or "unknown",
        "dataset_name": f"{corpus}, {population} test images",
        "dataset_split": "test",
    }
    results = [
        EvalResult(**dataset, metric_type="map", metric_name=f"{words} ({row['class']})", metric_value=row[key])
        for row in part.get("per_class") or []
        for key, words in _METRICS
        if row.get(key) is not None
    ]
    macro = part.get("macro") or {}
    results += [
        EvalResult(**dataset, metric_type="map", metric_name=f"macro {words}", metric_value=macro[key])
        for key, words in _METRICS
        if macro.get(key) is not None
    ]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(facts["title"])).strip("-") or "dentsight-model"
    data = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="object-detection",
        tags=[
            "d-fine",
            "dental",
            "panoramic-x-ray",
            "research-only",
            "not-a-medical-device",
            *(["phantom-corpus", "never-for-x-rays"] if _never_for_xrays(facts) else []),
        ],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _never_for_xrays(facts: Mapping[str, Any]) -> bool:
    return bool(facts["verdict"]["never_for_xrays"]) or facts["corpus"].get("kind") == "phantom"


def _population_words(population: str, part: Mapping[str, Any]) -> str:
    macro = part.get("macro") or {}
    return (
        f"{part.get('images', '–')} {population} test images from {part.get('groups', '–')} sources. Macro AP50 "
        f"{interval_text(macro.get('ap50'), macro.get('ap50_low'), macro.get('ap50_high'))}, macro AP "
        f"{interval_text(macro.get('ap'), macro.get('ap_low'), macro.get('ap_high'))}, over "
        f"{macro.get('present', '–')} of {macro.get('of', '–')} classes. Intervals are two-sided 90 % BCa."
    )


def _class_rows(part: Mapping[str, Any], verdict: Mapping[str, Any]) -> Iterable[tuple[Any, ...]]:
    readings = {reading["condition"]: reading for reading in verdict["classes"]}
    for row in part.get("per_class") or []:
        reading = readings.get(row["class"]) or {}
        yield (
            row["class"],
            row.get("n_gt", "–"),
            interval_text(row.get("ap"), row.get("ap_low"), row.get("ap_high")),
            interval_text(row.get("ap50"), row.get("ap50_low"), row.get("ap50_high")),
            number_text(row.get("ar100")),
            interval_text(row.get("recall_at_p95"), row.get("recall_at_p95_low"), row.get("recall_at_p95_high")),
            *(
                number_text(row.get(key))
                for key in ("threshold_best_f1", "precision_at_threshold", "recall_at_threshold")
            ),
            reading.get("outcome") or reading.get("point") or "–",
        )


def _error_rows(errors: Mapping[str, Mapping[str, int]]) -> Iterable[tuple[Any, ...]]:
    for name, counts in errors.items():
        yield (name, *(counts.get(kind, "–") for kind in ERROR_WORDS))


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows]


def _text(value: Any) -> str:
    """One line of Markdown that means itself: no HTML, no table bars, no emphasis, no links."""
    line = escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", line)
