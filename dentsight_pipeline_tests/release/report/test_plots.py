"""Figures are self-contained elements: safe with any class name, the same bytes each time, and silent without data."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from dentsight_pipeline.documents.evaluation import (
    Bounds,
    ClassRow,
    Confusion,
    Curve,
    ErrorCounts,
    Froc,
    FrocPoints,
    ReliabilityBin,
)
from dentsight_pipeline.documents.health import LayerScore
from dentsight_pipeline.release.report import plots

EVIL = "</svg><script>alert(1)</script>\"onload='x' $\\frac{1}{0}$"


def _row(name: str, **figures: float | None) -> ClassRow:
    return ClassRow(class_name=name, n_gt=9, n_images=5, n_detections=12, **figures)


def _rows(names: list[str]) -> list[ClassRow]:
    figures = {"ap": 0.4, "ap_low": 0.3, "ap50": 0.5, "best_f1": 0.6, "threshold_best_f1": 0.4}
    return [_row(name, **figures, ap_small=0.1, ap_large=0.3) for name in names]


def _curves(names: list[str]) -> dict[str, Curve]:
    ramp = tuple(i / 100 for i in range(101))
    return {name: Curve(**dict.fromkeys(Curve.__struct_fields__, ramp)) for name in names}


def _errors(names: list[str]) -> dict[str, ErrorCounts]:
    counts = ErrorCounts(class_confusion=0, localisation=1, duplicate=0, background=2, missed=3)
    return dict.fromkeys(names, counts)


def _bin(number: int, n: int) -> ReliabilityBin:
    return ReliabilityBin(low=number / 15, high=(number + 1) / 15, n=n, mean_score=number / 15, precision=0.5)


def _layer(number: int, score: float | None) -> LayerScore:
    return LayerScore(layer=number, mean_max_score=score, supervised_by_normal_queries=True, scores_at_inference=True)


def _all(names: list[str]) -> list[plots.Picture | None]:
    """Every figure of the module on made-up numbers."""
    hits = pd.DataFrame({"class": names, "score": 0.9, "kind": "tp"})
    matches = pd.concat([hits, hits.assign(score=0.2, kind="background")])
    bins = [_bin(i, i) for i in range(15)]
    pooled = FrocPoints(sensitivity=(0.2, 0.4), low=(0.1, None), high=(0.3, None), mean=Bounds())
    ones = ((1,) * (len(names) + 1),) * (len(names) + 1)
    return [
        plots.class_intervals(_rows(names), {names[0]: 0.3}),
        plots.precision_recall_curves(_curves(names), _rows(names)),
        plots.threshold_curves(_curves(names), _rows(names)),
        plots.score_histograms(matches, _rows(names)),
        plots.confusion_matrix(Confusion(labels=(*names, "background"), matrix=ones)),
        plots.error_types(_errors(names), names),
        plots.reliability_diagram(bins, bins),
        plots.ap_by_size(_rows(names)),
        plots.froc_curve(Froc(false_positives_per_image=(0.5, 1.0), classes={"all": pooled})),
        plots.layer_scores([_layer(0, 0.5), _layer(1, 0.5)]),
    ]


@pytest.mark.parametrize("names", [["caries", "crown"], [EVIL, "$x$"]])
def test_every_figure_is_one_well_formed_element_with_an_alternative_text(names):
    """A class name with a tag or a dollar sign must neither break the page nor the drawing (mathtext is off)."""
    for picture in _all(names):
        assert picture is not None
        root = ET.fromstring(picture.svg)  # our own output
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("role") == "img"
        assert root.get("aria-label") == picture.alt
        assert "<script" not in picture.svg
        if names[1] in picture.alt:
            assert names[1] in "".join(root.itertext())


def test_the_same_data_gives_the_same_bytes():
    """Figures are part of a report with a digest; matplotlib puts dates and random ids in by default."""
    first, second = _all(["caries", "crown"]), _all(["caries", "crown"])

    assert first == second
    assert not re.search(r"20\d\d-\d\d-\d\d", "".join(p.svg for p in first if p))


def test_colours_are_roles():
    """A fixed colour would vanish on a dark page or on paper."""
    for picture in _all(["caries"]):
        assert picture is not None
        assert re.findall(r"#[0-9a-fA-F]{6}\b", picture.svg) == []
        assert "var(--" in picture.svg


def test_ids_of_two_figures_never_meet():
    """Inline figures share one page; a clip path of the same id would cut another figure."""
    pictures = [p for p in _all(["caries"]) if p]

    ids = [set(re.findall(r' id="([^"]+)"', p.svg)) for p in pictures]
    assert sum(map(len, ids)) == len(set().union(*ids))
    for picture, own in zip(pictures, ids, strict=True):
        used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', picture.svg))
        assert {a or b for a, b in used} <= own


def test_without_data_there_is_no_figure():
    """An empty frame would look like a result."""
    empty = Curve(recall=(), precision=None, score=(), f1=(), precision_by_score=(), recall_by_score=())
    assert plots.class_intervals([_row("caries")], {"caries": 0.3}) is None
    assert plots.precision_recall_curves({}, _rows(["caries"])) is None
    assert plots.precision_recall_curves({"caries": empty}, _rows(["caries"])) is None
    assert plots.threshold_curves({"caries": empty}, _rows(["caries"])) is None
    assert plots.score_histograms(pd.DataFrame({"class": [], "score": [], "kind": []}), _rows(["caries"])) is None
    assert plots.confusion_matrix(None) is None
    assert plots.confusion_matrix(Confusion(labels=(), matrix=())) is None
    assert plots.confusion_matrix(Confusion(labels=("a", "background"), matrix=((1,),))) is None
    assert plots.error_types({}, ["caries"]) is None
    assert plots.reliability_diagram([_bin(0, 0)], []) is None
    assert plots.ap_by_size([_row("caries")]) is None
    assert plots.froc_curve(None) is None
    assert plots.layer_scores([_layer(0, None)]) is None


def test_the_weakest_class_comes_first_with_its_interval_and_floor():
    """Which class is wrong is the first question; a class without ground truth has no place in the order."""
    rows = [
        _row("crown", ap=0.6, ap_low=0.5, ap_high=0.7, ap50=0.9),
        _row("caries", ap=0.04, ap_low=0.03, ap_high=0.05, ap50=0.2),
        _row("bridge"),
    ]

    picture = plots.class_intervals(rows, {"caries": 0.3})

    assert picture is not None
    assert picture.alt.endswith(
        "caries: AP 0.04 from 0.03 to 0.05, floor 0.30, AP50 0.20; crown: AP 0.60 from 0.50 to 0.70, AP50 0.90."
    )
    labels = "".join(ET.fromstring(picture.svg).itertext())  # our own output
    assert labels.index("caries") < labels.index("crown")
    assert "bridge" not in labels
