"""The release report: one HTML file that a reviewer can read without opening anything else, and its facts as JSON.

Belongs here: which facts a report states and how they are arranged. The layout is in `templates/`, the figures in
`release/report/plots.py`, the verdict's words in `verdict.py`, the model card in `model_card.py`. Everything that comes
from data (labels, names, links) reaches the page through the template's escaping. The bytes depend on the inputs alone:
no time of running, no host.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from markupsafe import Markup

from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.release.report import plots
from dentsight_pipeline.release.report.gallery import Example, worst_cases
from dentsight_pipeline.release.report.mistakes import ClassMistakes, mistakes_by_class
from dentsight_pipeline.release.report.model_card import model_card
from dentsight_pipeline.release.report.page import number, render
from dentsight_pipeline.release.report.tables import flat, health_rules, method_rows, tier2_tables
from dentsight_pipeline.release.verdict import (
    BLOCKING_OUTCOMES,
    GateRow,
    Verdict,
    bound_text,
    interval_text,
)

if TYPE_CHECKING:
    from dentsight_pipeline.release.gates import Policy

LIMITS: tuple[str, ...] = (
    "This is not a medical device, and nothing in this report makes it one. It is for research; no clinical decision, "
    "billing or treatment may rest on it.",
    "The boxes name a condition, not a tooth: without the stage-1 teeth they do not say where in the mouth it is.",
    "Agreement with dentists (Tier 3) is not part of these gates. Labels are one reading each unless the data section "
    "says otherwise; where dentists disagree, a figure cannot be better than they are.",
    "All figures hold for X-rays like those of this corpus: other machines, ages and populations were not tested.",
    "Intervals cover the choice of test images alone, not that of training images, seeds or annotators.",
)

_SECTIONS = (
    ("verdict", "Verdict"),
    ("gates", "Gates"),
    ("classes", "Classes"),
    ("data", "Trained and tested on"),
    ("head", "Head health"),
    ("curves", "Curves"),
    ("errors", "Errors"),
    ("trust", "Scores, sides, empty mouths"),
    ("mistakes", "Mistakes by class"),
    ("gallery", "Worst cases"),
    ("champion", "Champion"),
    ("why", "Why these gates"),
    ("cost", "Cost"),
    ("chain", "Chain of digests"),
    ("limits", "Limits"),
)

_TIERS = {
    "0": "Tier 0: can the figures be read at all?",
    "1": "Tier 1: average precision",
    "2": "Tier 2: scores, sides and empty mouths",
    "champion": "Champion regression",
}


@dataclass(frozen=True)
class ChainLink:
    """One product of the chain, newest first."""

    kind: str
    digest: str


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report is made from.

    Attributes:
        title: What was judged, e.g. `opg-reporting-v8 × v3`.
        evaluation_folder: Holds `evaluation.json` and, if made, `curves.json` and `matches.parquet`.
        verdict: From `gates.judge` on that evaluation.
        policy: The policy it was judged by.
        health: The checkpoint's `health.json`, or None.
        subset_facts: Facts of the dataset manifest (`corpus`, `splits`, `leakage`, `loose_classes`, …).
        checkpoint_facts: Facts of the checkpoint manifest.
        predictions_facts: Facts of the predictions manifest.
        chain: From the newest product down to the raw export.
        cost: Cost card of the training, or None.
        links: Name → URL, e.g. the MLflow run; only http and https become links.
        champion: The comparison given to `judge`, or None.
        ground_truth: The COCO ground truth evaluated, for the gallery; None leaves the gallery out.
        images: Gives an image's bytes by its id; None leaves the gallery out.
        commands: Ready-made commands to print, e.g. how to audit.
    """

    title: str
    evaluation_folder: Path
    verdict: Verdict
    policy: Policy
    health: Mapping[str, Any] | None = None
    subset_facts: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_facts: Mapping[str, Any] = field(default_factory=dict)
    predictions_facts: Mapping[str, Any] = field(default_factory=dict)
    chain: Sequence[ChainLink] = ()
    cost: Mapping[str, Any] | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    champion: Mapping[str, Any] | None = None
    ground_truth: Mapping[str, Any] | None = None
    images: Callable[[int], bytes] | None = None


@dataclass(frozen=True)
class ReportPaths:
    """The files of one report."""

    html: Path
    json: Path
    model_card: Path


def build_report(inputs: ReportInputs, out: Path) -> ReportPaths:
    """Writes `report.html`, `report.json` and `model_card.md`.

    Args:
        inputs: What to report.
        out: Folder; made if missing.

    Raises:
        EvaluationError: When the evaluation folder holds no readable `evaluation.json`, or the verdict or the policy
            belong to something else.
    """
    evaluation = read_evaluation(inputs.evaluation_folder)
    _check_they_belong_together(inputs, evaluation)
    gallery, problems = _gallery(inputs, evaluation)
    mistakes = _mistakes(inputs, evaluation)
    facts = report_facts(inputs, evaluation, gallery, problems)
    out.mkdir(parents=True, exist_ok=True)
    paths = ReportPaths(out / "report.html", out / "report.json", out / "model_card.md")
    paths.json.write_text(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    paths.html.write_text(_page(inputs, facts, evaluation, gallery, mistakes), "utf-8")
    paths.model_card.write_text(model_card(facts), "utf-8")
    return paths


def read_evaluation(folder: Path) -> dict[str, Any]:
    """`evaluation.json` of a folder, with numbers that JSON cannot hold turned into None.

    Raises:
        EvaluationError: When it is missing or no evaluation.
    """
    path = folder / "evaluation.json"
    try:
        evaluation = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{folder} holds no evaluation.json. Run `dentsight evaluate … --out {folder}`."
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read: {error}. Evaluate again.") from error
    if not isinstance(evaluation, dict) or not isinstance(evaluation.get("populations"), dict):
        raise EvaluationError(f"{path} is no evaluation: it has no populations. Evaluate again.")
    return _finite(evaluation)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _check_they_belong_together(inputs: ReportInputs, evaluation: Mapping[str, Any]) -> None:
    verdict = inputs.verdict
    if verdict.policy_digest != inputs.policy.digest:
        raise EvaluationError(
            f"The verdict was given under policy {verdict.policy_digest[:12]}, the report is asked to show "
            f"{inputs.policy.digest[:12]}. Judge again under the policy that is to be shown."
        )
    for name in ("ground_truth_sha256", "detections_sha256"):
        if getattr(verdict, name) != (evaluation.get(name) or None):
            raise EvaluationError(
                f"The verdict belongs to another evaluation ({name} differs). Judge this evaluation again."
            )


def report_facts(
    inputs: ReportInputs, evaluation: Mapping[str, Any], gallery: Sequence[Example], problems: Sequence[str]
) -> dict[str, Any]:
    """All facts of the report as plain JSON values; the page shows these and adds figures."""
    facts = {
        "schema": "dentsight-report/1",
        "title": inputs.title,
        "verdict": inputs.verdict.to_json(),
        "policy": json.loads(inputs.policy.model_dump_json(by_alias=True)),
        "corpus": dict(inputs.subset_facts.get("corpus") or {}),
        "loose_classes": _loose(inputs.subset_facts),
        "banners": _banners(inputs),
        "evaluation": evaluation,
        "data": dict(inputs.subset_facts),
        "checkpoint": dict(inputs.checkpoint_facts),
        "predictions": dict(inputs.predictions_facts),
        "health": dict(inputs.health) if inputs.health is not None else None,
        "champion": dict(inputs.champion) if inputs.champion is not None else None,
        "chain": [{"kind": link.kind, "digest": link.digest} for link in inputs.chain],
        "cost": dict(inputs.cost) if inputs.cost else None,
        "links": dict(inputs.links),
        "gallery": [{"image_id": example.image_id, **example.counts} for example in gallery],
        "gallery_problems": list(problems),
        "limits": list(LIMITS),
    }
    return _finite(facts)


def _banners(inputs: ReportInputs) -> list[dict[str, str]]:
    """What must be read before any figure."""
    banners = []
    corpus = inputs.subset_facts.get("corpus") or {}
    if corpus.get("kind") == "phantom":
        banners.append(
            {
                "kind": "stop",
                "title": "Phantom corpus: these are not clinical results.",
                "text": "The model was trained and tested on drawn images, not on X-rays of people. The figures show "
                "that the pipeline works and say nothing about patients.",
            }
        )
    elif not corpus:
        banners.append(
            {
                "kind": "warn",
                "title": "Unknown corpus.",
                "text": "Nothing says which images these are; read no figure as a clinical result.",
            }
        )
    if inputs.verdict.never_for_xrays:
        banners.append(
            {
                "kind": "stop",
                "title": "Never for X-rays.",
                "text": f"Judged under policy “{inputs.verdict.policy}”, whose floors are for drawn images. Whatever "
                "is released under it is marked never for X-rays.",
            }
        )
    if inputs.verdict.head == "collapsed":
        banners.append(
            {
                "kind": "stop",
                "title": "Ranking-only.",
                "text": "The classification head has collapsed. AP shows how the boxes are ordered; no score, "
                "threshold or calibration figure of this model means anything.",
            }
        )
    for override in inputs.verdict.overrides:
        banners.append(
            {
                "kind": "warn",
                "title": f"Gate {override.gate} overridden by {override.name}.",
                "text": f"Reason: {override.reason} The measured verdict below stands.",
            }
        )
    loose = _loose(inputs.subset_facts)
    if loose:
        banners.append(
            {
                "kind": "warn",
                "title": "Loose labels.",
                "text": f"In this source the labels of {', '.join(loose)} are known to be loose: they mark more than "
                "the condition's strict meaning. Read the figures of these classes accordingly.",
            }
        )
    return banners


def _loose(facts: Mapping[str, Any]) -> list[str]:
    """Names of classes whose labels are loose, from `loose_classes` (a list, or a mapping of class → count)."""
    return sorted(str(name) for name in facts.get("loose_classes") or ())


def _gallery(inputs: ReportInputs, evaluation: Mapping[str, Any]) -> tuple[list[Example], list[str]]:
    path = inputs.evaluation_folder / "matches.parquet"
    if inputs.images is None or inputs.ground_truth is None or not path.is_file():
        return [], []
    import pandas as pd

    points = evaluation.get("operating_points") or {}
    thresholds = {name: point.get("threshold_best_f1") for name, point in points.items()}
    return worst_cases(pd.read_parquet(path), inputs.ground_truth, thresholds, inputs.images)


def _mistakes(inputs: ReportInputs, evaluation: Mapping[str, Any]) -> list[ClassMistakes]:
    """The mistakes on the images that the gates read, as the error figures count them."""
    path = inputs.evaluation_folder / "matches.parquet"
    if inputs.images is None or inputs.ground_truth is None or not path.is_file():
        return []
    import pandas as pd

    images = inputs.ground_truth["images"]
    read = {image["id"] for image in images if inputs.verdict.population != "clean" or image.get("clean")}
    matches = pd.read_parquet(path)
    return mistakes_by_class(
        matches[matches["image_id"].isin(read)], inputs.ground_truth, evaluation["classes"], inputs.images
    )


# ── The page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _page(
    inputs: ReportInputs,
    facts: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    gallery: Sequence[Example],
    mistakes: Sequence[ClassMistakes],
) -> str:
    verdict = facts["verdict"]
    pictures = _pictures(inputs, evaluation)
    champion_rows = [row for row in verdict["rows"] if row["tier"] == "champion" and row["outcome"] != "NOT APPLICABLE"]
    cost_rows = flat(facts["cost"] or {})
    shown = {"gallery": bool(gallery or facts["gallery_problems"]), "mistakes": bool(mistakes), "cost": bool(cost_rows)}
    return render(
        "report.html.j2",
        f=facts,
        v=verdict,
        sections=[(name, title) for name, title in _SECTIONS if shown.get(name, True)],
        lead=_lead(inputs.verdict),
        follow=_follow(verdict["rows"]),
        tiles=_tiles(inputs, evaluation),
        tiers=_tiers(inputs.verdict),
        populations=_population_tables(inputs.verdict, evaluation),
        loose=facts["loose_classes"],
        pictures=pictures,
        data_rows=_data_rows(inputs),
        model_rows=_model_rows(inputs),
        splits=_split_rows(inputs.subset_facts),
        class_counts=_class_counts(inputs.subset_facts),
        health_rules=health_rules(inputs.health),
        health_override=(inputs.health or {}).get("override"),
        tier2_tables=tier2_tables(evaluation),
        gallery=gallery,
        mistakes=mistakes,
        champion_rows=champion_rows,
        champion_text=_champion_text(inputs),
        cost_rows=cost_rows,
        links=[{"name": name, "url": url, "safe": _is_web_link(url)} for name, url in facts["links"].items()],
        method_rows=method_rows(evaluation),
    )


def _lead(verdict: Verdict) -> list[str]:
    """The summary alone; the rows that did not pass follow as a list with badges."""
    rows = {row.sentence for row in verdict.rows} | {trigger.sentence for trigger in verdict.triggers}
    lead = [sentence for sentence in verdict.sentences if sentence not in rows]
    first = lead[0].removeprefix(f"{verdict.outcome}: ")
    return [first[:1].upper() + first[1:], *lead[1:]]


def _follow(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    missed = [row for row in rows if row["outcome"] in BLOCKING_OUTCOMES]
    order = {"FAIL": 0, "INCONCLUSIVE": 1, "NOT EVALUABLE": 2}
    return sorted(missed, key=lambda row: (row["severity"] != "hard", order[row["outcome"]]))


def _tiles(inputs: ReportInputs, evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    verdict = inputs.verdict
    part = evaluation["populations"].get(verdict.population or "all") or {}
    macro = part.get("macro") or {}

    def with_interval(key: str) -> dict[str, str]:
        text = interval_text(macro.get(key), macro.get(f"{key}_low"), macro.get(f"{key}_high"))
        number, _, interval = text.partition(" [")
        return {"value": number, "detail": f"[{interval} at 90 %" if interval else "no interval"}

    present = f"{macro.get('present', '–')} of {macro.get('of', '–')} classes present"
    hard = [row for row in verdict.rows if row.severity == "hard" and row.outcome != "NOT APPLICABLE"]
    ratio = (inputs.health or {}).get("ratio_last_to_first")
    return [
        {
            "label": "Hard gates passed",
            "value": f"{sum(r.outcome == 'PASS' for r in hard)} of {len(hard)}",
            "detail": f"{len(verdict.blocking)} block a release",
        },
        {"label": "Macro AP50", **with_interval("ap50")},
        {"label": "Macro AP", **with_interval("ap")},
        {
            "label": f"Test images ({verdict.population or 'unknown'})",
            "value": f"{part.get('images', '–')}",
            "detail": f"from {part.get('groups', '–')} sources; {present}",
        },
        {
            "label": "Classification head",
            "value": verdict.head,
            "detail": f"last / first layer {number(ratio)}" if ratio is not None else "no reading",
        },
    ]


_SCALES = {"paired_delta_ap": (-0.2, 0.2), "paired_delta_ap50": (-0.2, 0.2), "left_minus_right_recall": (-0.5, 0.5)}


def _tiers(verdict: Verdict) -> list[dict[str, Any]]:
    tiers: dict[str, list[dict[str, Any]]] = {}
    for row in verdict.rows:
        plain = row.model_dump() | {
            "bound_text": _bound_sign(row),
            "bar": _bar(row),
        }
        tiers.setdefault(row.tier, []).append(plain)
    return [
        {
            "title": _TIERS[tier],
            "rows": rows,
            "note": rows[0]["because"] if all(row["outcome"] == "NOT APPLICABLE" for row in rows) else "",
        }
        for tier, rows in tiers.items()
    ]


def _bound_sign(row: GateRow) -> str:
    if row.floor is None:
        return "–"
    sign = {">=": "≥ ", "<=": "≤ ", "within": "±", ">": "> "}[row.operator]
    return f"{sign}{number(row.floor)}"


def _bar(row: GateRow) -> dict[str, Any] | None:
    """Positions in percent of the small interval bar beside a gate."""
    if row.value is None or row.floor is None or row.outcome == "NOT EVALUABLE":
        return None
    least, most = _SCALES.get(row.metric, (0.0, 1.0))

    def place(value: float) -> float:
        return round(100 * (min(max(value, least), most) - least) / (most - least), 2)

    has_interval = row.low is not None and row.high is not None
    two = row.operator == "within"
    measured = interval_text(row.value, row.low, row.high, row.floor)
    return {
        "from": place(row.low if row.low is not None else row.value),
        "to": place(row.high if row.high is not None else row.value),
        "at": place(row.value),
        "floor": place(row.floor),
        "floor2": place(-row.floor if two else row.floor),
        "two": two,
        "has_interval": has_interval,
        "alt": f"{measured} against {bound_text(row.operator, row.floor)}",
    }


def _population_tables(verdict: Verdict, evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One table a population, the gated one first; every row carries the card's reading."""
    names = list(evaluation["populations"])
    names.sort(key=lambda name: (name != verdict.population, name))
    readings = {reading.condition: reading for reading in verdict.classes}
    titles = {"clean": "Clean images", "all": "All images"}
    explained = {
        "clean": "no source shared with any other split",
        "all": "leaked ones included, for comparison with published figures",
    }
    tables = []
    for name in names:
        part = evaluation["populations"][name]
        rows = []
        for row in part.get("per_class") or []:
            reading = readings.get(row["class"])
            gated = name == verdict.population and reading is not None
            rows.append(
                {"n_gt": None, **row}
                | {
                    "outcome": reading.outcome if gated and reading else None,
                    "severity": (reading.severity or "soft") if reading else "soft",
                    "point": reading.point if gated and reading else "",
                }
            )
        read_by = " (read by the gates)" if name == verdict.population else ""
        tables.append(
            {
                "title": f"{titles.get(name, name)}{read_by}",
                "caption": f"{part.get('images', '–')} images from {part.get('groups', '–')} sources; "
                f"{explained.get(name, '')}.",
                "gated": name == verdict.population,
                "rows": rows,
                "macro": part.get("macro"),
            }
        )
    return tables


def _data_rows(inputs: ReportInputs) -> list[tuple[str, str]]:
    facts = inputs.subset_facts
    corpus = facts.get("corpus") or {}
    rows = [
        ("Corpus", str(corpus.get("name", "unknown"))),
        (
            "Kind",
            {"phantom": "phantom (drawn images, not clinical data)"}.get(
                corpus.get("kind", ""), corpus.get("kind", "unknown")
            ),
        ),
        ("Licence", str(corpus.get("licence", "unknown"))),
    ]
    source = facts.get("source") or {}
    for key, words in (("workspace", "Roboflow workspace"), ("project", "Roboflow project"), ("version", "Version")):
        if isinstance(source, Mapping) and source.get(key):
            rows.append((words, str(source[key])))
    if _loose(facts):
        rows.append(("Loose labels", ", ".join(_loose(facts))))
    return rows


def _model_rows(inputs: ReportInputs) -> list[tuple[str, str]]:
    facts = inputs.checkpoint_facts
    size = facts.get("image_size")
    rows = [
        ("Recipe", facts.get("recipe")),
        ("Recipe digest", facts.get("recipe_digest")),
        ("Variant", _variant(facts)),
        ("Input size", f"{size[0]} × {size[1]} px" if isinstance(size, list | tuple) and len(size) == 2 else None),
        (
            "Parameters",
            f"{facts['parameters']:,}".replace(",", " ") if isinstance(facts.get("parameters"), int) else None,
        ),
        ("Best step", facts.get("best_step")),
    ]
    versions = facts.get("framework versions") or facts.get("framework_versions")
    if isinstance(versions, Mapping):
        rows.append(("Versions", ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))))
    return [(name, str(value)) for name, value in rows if value is not None] or [("Recipe", "unknown")]


def _variant(facts: Mapping[str, Any]) -> str | None:
    if not facts.get("variant"):
        return "no: the recipe as named" if "variant" in facts else None
    changed = facts.get("overrides")
    if isinstance(changed, Mapping):
        return "yes: " + ", ".join(f"{name} = {value}" for name, value in sorted(changed.items()))
    return "yes"


def _split_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    leakage = facts.get("leakage") or {}
    rows = []
    for split, part in (facts.get("splits") or {}).items():
        leaked = leakage.get(split) or {}
        rows.append(
            {
                "split": split,
                "images": part.get("images", "–"),
                "clean": part.get("clean_images", "–"),
                "annotations": part.get("annotations", "–"),
                "with_train": leaked.get("shared_with_train", "–"),
                "with_any": leaked.get("shared_with_any", "–"),
            }
        )
    return rows


def _class_counts(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    splits = {name: part.get("class_counts") or {} for name, part in (facts.get("splits") or {}).items()}
    if not any(splits.values()):
        return None
    classes = facts.get("classes") or sorted({name for counts in splits.values() for name in counts})
    rows = [{"name": name, "counts": [counts.get(name, 0) for counts in splits.values()]} for name in classes]
    return {"splits": list(splits), "rows": rows}


def _champion_text(inputs: ReportInputs) -> str:
    champion = inputs.champion or {}
    name = f" “{champion['name']}”" if champion.get("name") else ""
    digest = str(champion.get("digest") or "unknown")
    return (
        f"Compared with the champion{name} ({digest[:12]}…) on the same ground truth, by a bootstrap that draws the "
        "same images for both. Positive means that the challenger is better."
    )


def _is_web_link(url: Any) -> bool:
    """Only http and https become links; `javascript:` and the like stay text."""
    try:
        return isinstance(url, str) and urlsplit(url).scheme in ("http", "https")
    except ValueError:
        return False


def _pictures(inputs: ReportInputs, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    population = inputs.verdict.population or "all"
    part = evaluation["populations"].get(population) or {}
    rows = part.get("per_class") or []
    curves = _read_json(inputs.evaluation_folder / "curves.json").get(population) or {}
    confusion = evaluation.get("confusion") or {}
    overall = ((evaluation.get("calibration") or {}).get("classes") or {}).get("all") or {}
    matches = inputs.evaluation_folder / "matches.parquet"
    floors = {row.condition: row.floor for row in inputs.verdict.rows if row.metric == "ap" and row.floor is not None}
    drawn: dict[str, plots.Picture | None] = {
        "intervals": plots.class_intervals(rows, floors),
        "sizes": plots.ap_by_size(rows),
        "pr": plots.precision_recall_curves(curves, rows),
        "thresholds": plots.threshold_curves(curves, rows),
        "errors": plots.error_types(evaluation.get("errors") or {}, [row["class"] for row in rows]),
        "confusion": plots.confusion_matrix(confusion.get("labels") or [], confusion.get("matrix") or []),
        "scores": None,
        "reliability": plots.reliability_diagram(
            overall.get("bins") or [], (overall.get("after_platt") or {}).get("bins")
        ),
        "froc": plots.froc_curve(evaluation.get("froc") or {}),
        "layers": plots.layer_scores((inputs.health or {}).get("layers") or []),
    }
    if matches.is_file():
        import pandas as pd

        drawn["scores"] = plots.score_histograms(pd.read_parquet(matches), rows)
    return {
        key: picture
        and {"name": picture.name, "title": picture.title, "caption": picture.caption, "svg": Markup(picture.svg)}
        for key, picture in drawn.items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    return _finite(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
